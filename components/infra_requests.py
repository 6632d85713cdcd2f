"""What infra-validate asks a running model server: golden examples, with the answers compared and the time taken.

Needs no TensorFlow; the server may be any that speaks TensorFlow Serving's protocols.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from components.saved_model_answers import Exercise, Golden, Tolerance, Unanswered
from components.saved_model_checks import SignatureFound, TensorFound

if TYPE_CHECKING:
    import numpy as np

    from serving.client import Client
    from serving.client.values import Signature, Tensor

    Array = np.ndarray[Any, Any]

_UNMEASURED = 3
"""Requests before those that are measured: connections and caches are made by the first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LatencyBudget(_Frozen):
    """How long a request may take, in milliseconds; None: not judged, but measured all the same.

    Attributes:
        p50: Half of the requests of one example are answered in this time.
        p99: 99 of 100 are.
    """

    p50: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    p99: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def judged(self) -> bool:
        """Whether there is a limit."""
        return self.p50 is not None or self.p99 is not None


class Row(_Frozen):
    """How one signature did by one protocol.

    Attributes:
        protocol: "gRPC" or "REST".
        examples: Golden examples sent, all together and one alone (or in batches of a built-in size).
        largest_difference: From the golden answers, where both are finite numbers.
        p50_ms, p99_ms: Of requests of one example (of a batch of the built-in size), one after the other; None when there was no
            answer.
    """

    signature: str
    protocol: str
    examples: int
    largest_difference: float
    p50_ms: float | None = None
    p99_ms: float | None = None


def exercises_of(client: Client, model: str, golden: Golden) -> tuple[list[Exercise], dict[str, str]]:
    """The signatures that a server names and golden examples can feed.

    Returns:
        Those, to be asked by this client; and of the others why they cannot be fed, by name.

    Raises:
        serving.client.RequestError: The server does not tell its signatures.
    """
    exercises, left_out = [], {}
    for name, signature in client.metadata(model)[1].items():
        try:
            exercises.append(_exercise(client, model, name, signature, golden))
        except Unanswered as error:
            left_out[name] = str(error)
    return exercises, left_out


def _exercise(client: Client, model: str, name: str, signature: Signature, golden: Golden) -> Exercise:
    def ask(feeds: dict[str, Array]) -> Mapping[str, Array]:
        from serving.client import RequestError

        try:
            return client.predict(model, feeds, signature=name)
        except RequestError as error:
            raise Unanswered(f"{error.code.name}: {error.message}") from error
        except ValueError as error:
            raise Unanswered(str(error)) from error

    found = SignatureFound(inputs=_described(signature.inputs), outputs=_described(signature.outputs))
    return Exercise(name, found, golden, ask)


def _described(tensors: Mapping[str, Tensor]) -> dict[str, TensorFound]:
    """As TensorFlow names dtypes."""
    return {
        key: TensorFound(dtype="string" if tensor.dtype == object else tensor.dtype.name, shape=tensor.shape)
        for key, tensor in tensors.items()
    }


def ask_all(
    exercise: Exercise, protocol: str, tolerance: Tolerance, requests: int, budget: LatencyBudget
) -> tuple[Row, list[str]]:
    """Sends a signature its golden examples, compares the answers, and measures requests of one example.

    Args:
        exercise: The signature, with a client of the protocol.
        protocol: Its name, for people.
        tolerance: For the comparison.
        requests: How many are measured.
        budget: What they may take.

    Returns:
        What was found, and what is wrong with it: a sentence each, with what was sent, expected and received.
    """
    import numpy as np

    problems, differences = exercise.compare(tolerance)
    sent = ", ".join(f"{key} {array.dtype if array.dtype != object else 'string'}" for key, array in exercise.feeds.items())
    problems = [f"by {protocol}, sent {sent}: {problem}" for problem in problems]
    row = Row(
        signature=exercise.name,
        protocol=protocol,
        examples=len(exercise.golden.examples),
        largest_difference=max(differences.values(), default=0.0),
    )
    try:
        times = np.array(list(_times(exercise, requests)))
    except Unanswered as error:
        return row, problems or [f"by {protocol}, sent {sent}: {exercise.name}: no answer while it was measured: {error}"]
    row = row.model_copy(update={"p50_ms": float(np.percentile(times, 50)), "p99_ms": float(np.percentile(times, 99))})
    for name, limit, measured in (("p50", budget.p50, row.p50_ms), ("p99", budget.p99, row.p99_ms)):
        if limit is not None and measured is not None and measured > limit:
            problems.append(
                f"by {protocol}, {exercise.name}: {name} of {requests} requests of {exercise.size or 1} example is "
                f"{measured:.2f} ms, at most {limit:g} ms allowed; over by {measured - limit:.2f} ms"
            )
    return row, problems


def _times(exercise: Exercise, requests: int) -> Iterator[float]:
    """Milliseconds of single requests, one golden example after the other, from the beginning again after the last."""
    step = exercise.size or 1
    batches = len(exercise.golden.examples) // step
    for number in range(-_UNMEASURED, requests):
        at = number % batches * step
        began = time.perf_counter()
        exercise.answer(slice(at, at + step))
        if number >= 0:
            yield (time.perf_counter() - began) * 1000


def warmup_requests(model: str, exercises: Sequence[Exercise], count: int) -> list[Any]:
    """PredictRequests of the first golden examples, one example (or batch of the built-in size) each, for every signature.

    Args:
        model: The name in the requests.
        exercises: The signatures.
        count: Requests for each signature, as far as there are examples.
    """
    from serving.client import grpc_calls
    from serving.client.messages import message
    from serving.client.values import Spec

    made = []
    for exercise in exercises:
        step = exercise.size or 1
        for at in range(0, min(count, len(exercise.golden.examples) // step) * step, step):
            feeds = {key: array[at : at + step] for key, array in exercise.feeds.items()}
            call = grpc_calls.predict(Spec(model), exercise.name, feeds, ())
            made.append(message("tensorflow.serving.PredictRequest").FromString(call.request))
    return made
