"""Requests put together: what is computed, in which batches, who gets which error, and what a full queue says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.server.batch_scheduler import IN_QUEUE, BatchScheduler
from serving.server.batching import Batching
from serving.server.servable import Arrays, RunsTensors, Servable, Signature, TensorSpec
from serving.server.session_runtime import load_session
from serving.server.status import Code, StatusError, invalid
from serving.server.text_protos import BatchingParameters, batching_parameters
from tests.serving.server.conftest import ModelFolders


def _spec(alias: str, dtype: Any, shape: tuple[int | None, ...]) -> TensorSpec:
    return TensorSpec(alias, np.dtype(dtype), 7 if dtype is object else 1, shape, f"{alias}:0")


def _signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Signature:
    return Signature({each.alias: each for each in inputs}, {each.alias: each for each in outputs}, "", {}, None)


class Doubler:
    """y = 2x, n = the rows' numbers within the run, s = w + b"!"; remembers what it was asked. Refuses negative numbers."""

    def __init__(self) -> None:
        x, y = _spec("x", np.float32, (None,)), _spec("y", np.float32, (None,))
        self.signatures: Mapping[str, Signature] = {
            "serving_default": _signature([_spec("x", np.float32, (None, None))], [_spec("y", np.float32, (None, None))]),
            "words": _signature([_spec("w", object, (None,))], [_spec("s", object, (None,)), _spec("n", np.int64, (None,))]),
            "two": _signature([x, _spec("z", np.float32, (None, 2))], [y]),
            "mean": _signature([x], [_spec("y", np.float32, ())]),
            "first": _signature([x], [_spec("y", np.float32, (1,))]),
        }
        self.all_signatures: Mapping[str, Any] = {"serving_default": None, "__saved_model_init_op": None}
        self.ran: list[tuple[str, dict[str, npt.NDArray[Any]], float | None]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.closed = False

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        self.ran.append((signature, dict(inputs), deadline))
        self.entered.release()
        assert self.gate.wait(20)
        if signature == "words":
            answer = {"s": np.array([word + b"!" for word in inputs["w"]], object), "n": np.arange(len(inputs["w"]))}
            return {alias: answer[alias] for alias in outputs}
        x = inputs["x"]
        if (x < 0).any():
            raise invalid("negative")
        if signature == "two":
            return {"y": x + inputs["z"].sum(axis=1)}
        if signature == "mean":
            return {"y": np.array(x.mean())}
        return {"y": 2 * x if signature == "serving_default" else x[:1]}

    def close(self) -> None:
        self.closed = True

    @property
    def sizes(self) -> list[int]:
        return [len(next(iter(inputs.values()))) for _, inputs, _ in self.ran]


@contextmanager
def batching(text: str = "", servable: Servable | None = None, **keywords: Any) -> Iterator[tuple[Batching, Doubler]]:
    parameters = batching_parameters(text)
    scheduler = BatchScheduler(parameters.num_batch_threads)
    servable = servable or Doubler()
    batched = Batching(servable, parameters, scheduler, **keywords)
    try:
        yield batched, servable  # type: ignore[misc]
    finally:
        if isinstance(servable, Doubler):
            servable.gate.set()
        scheduler.close()


class Call:
    """A request in a thread of its own."""

    def __init__(
        self, batched: Batching, inputs: Arrays, *, signature: str = "serving_default", seconds: float | None = 20
    ) -> None:
        self.answer: Any = None
        self.error: Exception | None = None
        self._call = (signature, inputs, list(batched.signatures[signature].outputs))
        self._batched, self._seconds = batched, seconds
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            deadline = None if self._seconds is None else time.monotonic() + self._seconds
            self.answer = self._batched.run(*self._call, deadline)
        except Exception as error:
            self.error = error

    def result(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error:
            raise self.error
        return self.answer


def rows(*values: float, width: int = 2) -> dict[str, npt.NDArray[Any]]:
    return {"x": np.repeat(np.array(values, np.float32)[:, None], width, axis=1)}


def refused(call: Callable[[], object]) -> StatusError:
    with pytest.raises(StatusError) as error:
        call()
    return error.value


def waiting(batched: Batching, count: int, signature: str = "serving_default") -> None:
    """Until so many tasks wait in a queue."""
    until = time.monotonic() + 20
    while sum(len(batch.tasks) for batch in batched._queue(signature).waiting) != count:
        assert time.monotonic() < until
        time.sleep(0.001)


def occupied(batched: Batching, model: Doubler) -> Call:
    """The one thread is busy until `gate` is set."""
    model.gate.clear()
    call = Call(batched, rows(1))
    assert model.entered.acquire(timeout=20)
    return call


ONE = "num_batch_threads { value: 1 } "


def test_it_is_a_servable_and_passes_things_on() -> None:
    with batching() as (batched, model):
        as_servable: Servable = batched
        assert as_servable.signatures is model.signatures and as_servable.all_signatures is model.all_signatures
        assert not isinstance(batched, RunsTensors)
        assert batched.run("words", {"w": np.array([b"a"], object)}, ["n"])["n"].tolist() == [0]
        batched.close()
        assert model.closed


def test_an_idle_server_answers_at_once() -> None:
    with batching() as (batched, model):
        assert batched.run("serving_default", rows(1, 2), ["y"])["y"].tolist() == [[2, 2], [4, 4]]
        assert model.sizes == [2]


def test_what_waits_is_put_together_and_taken_apart() -> None:
    with batching(ONE + "max_batch_size { value: 8 }") as (batched, model):
        first = occupied(batched, model)
        calls = []
        for number in range(1, 4):
            calls.append(Call(batched, rows(*[number] * number)))
            waiting(batched, number)
        model.gate.set()
        for number, call in enumerate(calls, start=1):
            assert call.result()["y"].tolist() == [[2 * number] * 2] * number
        assert first.result()["y"].tolist() == [[2, 2]]
        assert model.sizes == [1, 6]


def test_strings_and_several_inputs_are_put_together() -> None:
    with batching(ONE) as (batched, model):
        occupied(batched, model)
        words = [Call(batched, {"w": np.array([b"a" * n, b"b\0"], object)}, signature="words") for n in range(3)]
        waiting(batched, 3, "words")
        two = [
            Call(batched, {"x": np.full(n, n, np.float32), "z": np.full((n, 2), 10, np.float32)}, signature="two") for n in (1, 2)
        ]
        waiting(batched, 2, "two")
        model.gate.set()
        assert [call.result()["s"].tolist() for call in words] == [[b"a" * n + b"!", b"b\0!"] for n in range(3)]
        assert [call.result()["y"].tolist() for call in two] == [[21], [22, 22]]
        assert sorted(model.sizes) == [1, 3, 6]


def test_a_batch_is_closed_when_the_next_does_not_fit() -> None:
    with batching(ONE + "max_batch_size { value: 4 }") as (batched, model):
        occupied(batched, model)
        calls = []
        for count, size in enumerate((3, 2, 2, 4), start=1):
            calls.append(Call(batched, rows(*[size] * size)))
            waiting(batched, count)
        model.gate.set()
        assert [len(call.result()["y"]) for call in calls] == [3, 2, 2, 4]
        assert model.sizes == [1, 3, 4, 4]


def test_the_first_of_a_batch_waits_for_others_but_not_longer() -> None:
    with batching("batch_timeout_micros { value: 300000 } max_batch_size { value: 3 }") as (batched, model):
        start = time.monotonic()
        calls = [Call(batched, rows(1)), Call(batched, rows(2))]
        assert [call.result()["y"][0, 0] for call in calls] == [2, 4]
        assert 0.3 <= time.monotonic() - start < 5 and model.sizes == [2]
        start = time.monotonic()
        calls = [Call(batched, rows(n)) for n in range(3)]
        assert sorted(call.result()["y"][0, 0] for call in calls) == [0, 2, 4]
        assert time.monotonic() - start < 0.25 and model.sizes == [2, 3]  # full: nobody waits


def test_different_shapes_are_computed_apart() -> None:
    with batching(ONE) as (batched, model):
        occupied(batched, model)
        calls = [Call(batched, rows(1, width=width)) for width in (2, 3, 2, 3)]
        waiting(batched, 4)
        model.gate.set()
        assert [call.result()["y"].shape for call in calls] == [(1, 2), (1, 3), (1, 2), (1, 3)]
        assert sorted(model.sizes) == [1, 2, 2]


def test_different_shapes_are_padded_with_the_first_value_if_wanted() -> None:
    with batching(ONE + "pad_variable_length_inputs: true") as (batched, model):
        occupied(batched, model)
        inputs = [
            {"x": np.array([[1, 2, 3]], np.float32)},
            {"x": np.array([[4], [5]], np.float32)},
            {"x": np.zeros((1, 0), np.float32)},
        ]
        calls = [Call(batched, each) for each in inputs]
        waiting(batched, 3)
        model.gate.set()
        assert calls[0].result()["y"].tolist() == [[2, 4, 6]]
        assert calls[1].result()["y"].tolist() == [[8, 8, 8], [10, 8, 8]]
        error = refused(calls[2].result)
        assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "Got empty tensor in batch of non-empty tensors.")
        deep = Call(batched, {"x": np.zeros([1] * 7, np.float32)})
        assert refused(deep.result).message == "Only tensors with rank from 1 to 6 can be padded."


def test_batches_are_padded_to_an_allowed_size() -> None:
    with batching(ONE + "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4, 8]") as (batched, model):
        assert batched.run("serving_default", rows(5), ["y"])["y"].tolist() == [[10, 10]]
        assert model.ran[0][1]["x"].tolist() == [[5, 5], [5, 5]]
        occupied(batched, model)
        calls = []
        for count, values in enumerate(([1, 2], [3, 4, 5]), start=1):
            calls.append(Call(batched, rows(*values)))
            waiting(batched, count)
        model.gate.set()
        assert [call.result()["y"][:, 0].tolist() for call in calls] == [[2, 4], [6, 8, 10]]
        assert model.ran[-1][1]["x"][:, 0].tolist() == [1, 2, 3, 4, 5, 3, 3, 3]  # the last task's first row
        assert batched.run("serving_default", {"x": np.zeros((0, 2), np.float32)}, ["y"])["y"].shape == (0, 2)


def test_an_error_goes_to_the_request_that_has_it() -> None:
    with batching(ONE + "max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]") as (batched, model):
        occupied(batched, model)
        calls = [Call(batched, rows(number)) for number in (1, -1, 3)]
        waiting(batched, 3)
        model.gate.set()
        assert calls[0].result()["y"][0, 0] == 2 and calls[2].result()["y"][0, 0] == 6
        assert refused(calls[1].result).message == "negative"
        assert model.sizes == [4, 4, 4, 4, 4]


def test_a_deadline_of_the_model_is_everyones() -> None:
    class Late(Doubler):
        def run(self, *arguments: Any) -> dict[str, npt.NDArray[Any]]:
            super().run(*arguments)
            raise StatusError(Code.DEADLINE_EXCEEDED, "late")

    with batching(ONE, Late()) as (batched, model):
        first = occupied(batched, model)
        calls = [Call(batched, rows(1)), Call(batched, rows(2))]
        waiting(batched, 2)
        model.gate.set()
        assert [refused(call.result).message for call in (first, *calls)] == ["late"] * 3
        assert model.sizes == [1, 2]


def test_a_programming_error_stops_no_thread() -> None:
    class Broken(Doubler):
        def run(self, *arguments: Any) -> dict[str, npt.NDArray[Any]]:
            if self.signatures:
                super().run(*arguments)
            raise ZeroDivisionError("broken")

    with batching(ONE, Broken()) as (batched, model):
        first = occupied(batched, model)
        calls = [Call(batched, rows(1)), Call(batched, rows(2))]
        waiting(batched, 2)
        model.gate.set()
        for call in (first, *calls, Call(batched, rows(3))):
            with pytest.raises(ZeroDivisionError):
                call.result()


def test_deadlines() -> None:
    with batching(ONE) as (batched, model):
        running = occupied(batched, model)
        queued = Call(batched, rows(2), seconds=0.2)
        patient = Call(batched, rows(3), seconds=None)
        start = time.monotonic()
        error = refused(queued.result)
        assert (error.code, error.message) == (Code.RESOURCE_EXHAUSTED, IN_QUEUE) and time.monotonic() - start < 5
        model.gate.set()
        assert running.result()["y"][0, 0] == 2 and patient.result()["y"][0, 0] == 6
        assert [inputs["x"][:, 0].tolist() for _, inputs, _ in model.ran] == [[1], [3]]  # what nobody waits for is not computed
        assert [deadline is None for *_, deadline in model.ran] == [False, True]
        model.gate.clear()
        occupied(batched, model)
        waits = Call(batched, rows(4), seconds=1)
        longest = Call(batched, rows(5), seconds=15)
        waiting(batched, 2)
        model.gate.set()
        assert waits.result()["y"][0, 0] == 8 and longest.result()["y"][0, 0] == 10
        assert model.ran[-1][2] is not None and model.ran[-1][2] > time.monotonic() + 5  # the latest of the batch


def test_a_running_batch_is_not_waited_for_beyond_the_deadline() -> None:
    with batching(ONE + "batch_timeout_micros { value: 1 }") as (batched, model):
        model.gate.clear()
        start = time.monotonic()
        call = Call(batched, rows(1), seconds=0.3)
        assert refused(call.result).code == Code.DEADLINE_EXCEEDED and time.monotonic() - start < 5


def test_closing_waits_for_a_batch_whose_callers_gave_up() -> None:
    with batching(ONE + "batch_timeout_micros { value: 1 }") as (batched, model):
        model.gate.clear()
        assert refused(Call(batched, rows(1), seconds=0.2).result).code == Code.DEADLINE_EXCEEDED
        closing = threading.Thread(target=batched.close)
        closing.start()
        time.sleep(0.1)
        assert not model.closed
        model.gate.set()
        closing.join(10)
        assert model.closed
        assert refused(Call(batched, rows(1)).result).code == Code.UNAVAILABLE


def test_a_full_queue_says_so() -> None:
    with batching(ONE + "max_batch_size { value: 2 } max_enqueued_batches { value: 2 }") as (batched, model):
        occupied(batched, model)
        calls = []
        for count in (1, 2):
            calls.append(Call(batched, rows(1, 2)))
            waiting(batched, count)
        error = refused(Call(batched, rows(1)).result)
        assert error.code == Code.UNAVAILABLE and error.message == (
            "The batch scheduling queue to which this task was submitted is full; "
            "currently 2 batches enqueued and max_enqueued_batches is 2"
        )
        model.gate.set()
        assert all(len(call.result()["y"]) == 2 for call in calls)
        assert batched.run("serving_default", rows(1), ["y"])["y"].shape == (1, 2)


@pytest.mark.parametrize(
    "text", ["max_batch_size { value: 32 }", "max_batch_size { value: 32 } enable_large_batch_splitting { value: true }"]
)
def test_a_request_that_is_too_large(text: str) -> None:
    with batching(text) as (batched, _):
        error = refused(lambda: batched.run("serving_default", rows(*range(50)), ["y"]))
        assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "Task size 50 is larger than maximum input batch size 32")
        assert len(batched.run("serving_default", rows(*range(32)), ["y"])["y"]) == 32
        with pytest.raises(StatusError, match="larger than maximum"):
            batched.run("mean", {"x": np.zeros(33, np.float32)}, ["y"])


@pytest.mark.parametrize(
    ("signature", "inputs", "code", "message"),
    [
        ("serving_default", {}, 3, "Batching Run() must have at least one input tensor"),
        ("mean", {"x": np.float32(1)}, 3, "Batching Run() input tensors must have at least one dimension"),
        (
            "two",
            {"x": np.zeros(2, np.float32), "z": np.zeros((3, 2), np.float32)},
            3,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ("mean", {"x": np.zeros(2, np.float32)}, 9, "Batched output tensor has 0 dimensions"),
        (
            "first",
            {"x": np.zeros(2, np.float32)},
            9,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors",
        ),
    ],
)
def test_what_cannot_be_batched(signature: str, inputs: Any, code: int, message: str) -> None:
    with batching() as (batched, _):
        error = refused(lambda: batched.run(signature, inputs, ["y"]))
        assert (error.code, error.message) == (code, message)


SPLIT = ONE + "max_batch_size { value: 20 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 } "


def test_large_requests_are_divided() -> None:
    with batching(SPLIT) as (batched, model):
        assert batched.run("serving_default", rows(*range(10)), ["y"])["y"][:, 0].tolist() == list(range(0, 20, 2))
        assert model.sizes == [4, 4, 2]
        model.ran.clear()
        occupied(batched, model)
        small = Call(batched, rows(100))
        waiting(batched, 1)
        large = Call(batched, rows(*range(9)))
        waiting(batched, 4)
        model.gate.set()
        assert small.result()["y"].tolist() == [[200, 200]]
        assert large.result()["y"][:, 0].tolist() == list(range(0, 18, 2))
        assert model.sizes == [1, 4, 4, 2]  # the first part fills the open batch
        error = refused(lambda: batched.run("serving_default", rows(1, 2, 3, 4, 5, -1), ["y"]))
        assert error.message == "negative"


def test_a_request_that_cannot_be_divided_among_the_room() -> None:
    with batching(SPLIT + "max_enqueued_batches { value: 2 }") as (batched, model):
        occupied(batched, model)
        small = Call(batched, rows(1))
        waiting(batched, 1)
        error = refused(Call(batched, rows(*range(8))).result)
        assert error.code == Code.UNAVAILABLE and error.message == (
            "The batch scheduling queue to which this task was submitted is full; "
            "task size is 8 but scheduling capacity is only 7 "
            "(num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=1, max_execution_batch_size=4)"
        )
        large = Call(batched, rows(*range(7)))
        waiting(batched, 3)
        model.gate.set()
        assert len(large.result()["y"]) == 7 and len(small.result()["y"]) == 1


def test_models_take_turns() -> None:
    parameters = BatchingParameters(max_batch_size=1, max_execution_batch_size=1, max_enqueued_batches=100)
    scheduler = BatchScheduler(1, "pool")
    model = Doubler()
    busy, other = Batching(model, parameters, scheduler), Batching(model, parameters, scheduler)
    occupied(busy, model)
    calls = []
    for count in range(1, 6):
        calls.append(Call(busy, rows(1)))
        waiting(busy, count)
    calls.append(Call(other, rows(7)))
    waiting(other, 1)
    model.gate.set()
    for call in calls:
        call.result()
    scheduler.close()
    order = [inputs["x"][0, 0] for _, inputs, _ in model.ran]
    assert order.index(7) <= 2, order
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pool_")]


def test_no_more_runs_at_a_time_than_threads() -> None:
    class Counting(Doubler):
        now, most = 0, 0
        lock = threading.Lock()

        def run(self, *arguments: Any) -> dict[str, npt.NDArray[Any]]:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.002)
            with self.lock:
                self.now -= 1
            return super().run(*arguments)

    model = Counting()
    with batching("num_batch_threads { value: 2 } max_batch_size { value: 4 } max_enqueued_batches { value: 100 }", model) as (
        batched,
        _,
    ):
        for call in [Call(batched, rows(number)) for number in range(60)]:
            call.result()
    assert model.most == 2 and sum(model.sizes) == 60


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=25),
    most=st.integers(1, 8),
    threads=st.integers(1, 3),
    micros=st.sampled_from([0, 500]),
    pad=st.booleans(),
)
def test_everyone_gets_their_own_answer(sizes: list[int], most: int, threads: int, micros: int, pad: bool) -> None:
    text = (
        f"max_batch_size {{ value: 8 }} enable_large_batch_splitting {{ value: true }} max_enqueued_batches {{ value: 1000 }} "
        f"max_execution_batch_size {{ value: {most} }} num_batch_threads {{ value: {threads} }} "
        f"batch_timeout_micros {{ value: {micros} }} pad_variable_length_inputs: {str(pad).lower()}"
    )
    with batching(text) as (batched, model):
        calls = [Call(batched, rows(*range(i, i + size), width=1 + i % 2)) for i, size in enumerate(sizes)]
        for i, (size, call) in enumerate(zip(sizes, calls, strict=True)):
            assert call.result()["y"][:, 0].tolist() == [2 * value for value in range(i, i + size)]
        assert sum(model.sizes) == sum(sizes) and max(model.sizes) <= most


def test_batches_can_be_watched() -> None:
    seen: list[tuple[str, list[int], int, list[float]]] = []

    class Observer:
        def batched(self, thread_pool: str, sizes: Sequence[int], processed: int, waited: Sequence[float]) -> None:
            seen.append((thread_pool, list(sizes), processed, list(waited)))

    with batching(ONE + "max_batch_size { value: 8 } allowed_batch_sizes: [4, 8]", observer=Observer()) as (batched, model):
        occupied(batched, model)
        calls = []
        for count, size in enumerate((2, 3), start=1):
            calls.append(Call(batched, rows(*range(size))))
            waiting(batched, count)
        model.gate.set()
        for call in calls:
            call.result()
    assert [entry[:3] for entry in seen] == [("batch_threads", [1], 4), ("batch_threads", [2, 3], 8)]
    assert all(0 <= seconds < 20 for entry in seen for seconds in entry[3])


@pytest.mark.slow
def test_a_real_model(models: ModelFolders) -> None:
    session = load_session(models.tf2)
    with batching("max_batch_size { value: 16 } allowed_batch_sizes: [4, 8, 16]", session) as (batched, _):
        assert isinstance(batched, RunsTensors)
        inputs = [np.random.default_rng(seed).random((1 + seed % 5, 4), np.float32) for seed in range(40)]
        calls = [Call(batched, {"x": x}) for x in inputs]
        words = Call(batched, {"s": np.array([b"a", b"bc"], object)}, signature="strings")
        bad = Call(batched, {"x": np.zeros((2, 3), np.float32)})
        for x, call in zip(inputs, calls, strict=True):
            answer = call.result()
            np.testing.assert_allclose(answer["y"], x @ models.weights, rtol=1e-4)
            assert answer["label"].shape == (len(x),)
        assert words.result()["joined"].tolist() == [b"a-a", b"bc-bc"]
        assert refused(bad.result).message.startswith("Matrix size-incompatible")
        batched.close()
