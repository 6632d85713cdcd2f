"""Real values in and out of a .tflite: quantizing, rows, latency, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.request_files import InputError
from serving.tflite_call import TFLiteModel
from serving.tflite_file import TFLiteFileError
from serving.tflite_graph import signature_of
from serving.tflite_latency import measure, random_values
from serving.tflite_metadata import TensorInfo
from serving.tflite_values import as_called, check_arrays, clipped, real_range, real_values, stored_values
from tests.serving.tflite_files import KERNEL, X_SCALE, X_ZERO, Y_SCALE, Y_ZERO, invoke, make_tflite, pack, unpack

FLOATS = TensorInfo(name="x", dtype="float32", shape=(1, 4))
INT8 = TensorInfo(name="x", dtype="int8", shape=(1, 4), scale=X_SCALE, zero_point=X_ZERO)


@given(st.floats(2.0**-20, 2.0**20), st.integers(-128, 127), st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_quantized_and_back_is_within_half_a_step_or_at_the_edge(scale: float, zero: int, values: list[float]) -> None:
    info = TensorInfo(name="x", dtype="int8", shape=(-1,), scale=scale, zero_point=zero)
    given_values = np.array(values, np.float32)
    back = real_values(info, stored_values(info, given_values))
    low, high = real_range(info) or (0.0, 0.0)
    wanted = np.clip(given_values.astype(np.float64), low, high)
    np.testing.assert_allclose(back, wanted, rtol=1e-6, atol=scale * 0.5000001)
    assert clipped(info, given_values) == int(((given_values < low - scale / 2) | (given_values > high + scale / 2)).sum())


def test_stored_values_are_rounded_to_the_nearest_and_clipped() -> None:
    values = np.array([0, 0.5, 0.74, 0.76, -1000, 1000], np.float32)
    stored = stored_values(INT8, values)
    assert stored.dtype == np.int8 and stored.tolist() == [-3, -2, -2, -1, -128, 127]
    assert clipped(INT8, values) == 2 and real_range(INT8) == (-62.5, 65.0)


def test_what_is_not_quantized_goes_through() -> None:
    values = np.array([1.5, 1e30], np.float32)
    assert stored_values(FLOATS, values).tolist() == values.tolist() and real_values(FLOATS, values) is values
    assert clipped(FLOATS, values) == 0 and real_range(FLOATS) is None


@pytest.mark.parametrize("batch", [1, 2, -1])
@pytest.mark.parametrize("int8", [False, True])
def test_answers_are_those_of_the_arithmetic(int8: bool, batch: int) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (300, 4)).astype(np.float32)
    (y,) = TFLiteModel(make_tflite(int8=int8, batch=batch))({"x": x}).values()
    # In int8, y has steps of 0.25 and reaches to 30: whole numbers of that size come out exactly.
    np.testing.assert_array_equal(y, x @ KERNEL.T)
    assert y.dtype == np.float32


def test_by_hand_with_the_interpreter_it_is_the_same() -> None:
    content = make_tflite(int8=True)
    x = np.array([[1, 2, -3, 0.5]], np.float32)
    stored = np.rint(x / X_SCALE + X_ZERO).astype(np.int8)
    wanted = (invoke(content, stored).astype(np.float32) - Y_ZERO) * Y_SCALE
    np.testing.assert_array_equal(TFLiteModel(content)({"x": x})["y"], wanted)


@pytest.mark.parametrize("signatures", [(), ("a", "b"), ("a-b",)])
def test_by_signature(signatures: tuple[str, ...]) -> None:
    model = TFLiteModel(make_tflite(signatures=signatures))
    x = np.ones((2, 4), np.float32)
    key = signatures[-1] if signatures else "serving_default"
    np.testing.assert_array_equal(model({"x": x}, key)["y"], x @ KERNEL.T)
    with pytest.raises(TFLiteFileError, match=r"expected a signature of the file \(.*\), got none"):
        model({"x": x}, "none")


def test_of_several_signatures_one_has_to_be_named() -> None:
    with pytest.raises(TFLiteFileError, match="it has several signatures: say which: a, b"):
        TFLiteModel(make_tflite(signatures=("a", "b")))({"x": np.ones((1, 4), np.float32)})


def test_rows_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(InputError, match="the file takes 2 rows at a time: expected a multiple of that, got 3"):
        TFLiteModel(make_tflite(batch=2))({"x": np.ones((3, 4), np.float32)})


def test_models_that_the_interpreter_refuses() -> None:
    model = unpack(make_tflite())
    model.operatorCodes[0] = schema.OperatorCodeT(builtinCode=32, deprecatedBuiltinCode=32, customCode=b"FlexAcos")
    with pytest.raises(TFLiteFileError, match=r"m: ai-edge-litert cannot load it: .*FlexAcos"):
        TFLiteModel(pack(model), "m")
    with pytest.raises(TFLiteFileError, match=r"m: ai-edge-litert cannot run it with a batch of 1: .*FlexAcos"):
        measure(pack(model), name="m", seconds=0)
    model = unpack(make_tflite())
    model.subgraphs[0].tensors[0].name = b"\xff"
    with pytest.raises(TFLiteFileError, match=r"m: ai-edge-litert cannot load it: .*utf-8"):
        TFLiteModel(pack(model), "m")


CALLED = as_called(signature_of(make_tflite(int8=True), "dense"), "m")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "f: expected the inputs x, got none"),
        ({"z": np.ones((1, 4))}, "f: expected the inputs x, got z"),
        ({"x": np.ones((1, 4)), "z": np.ones(1)}, "f: expected the inputs x, got x, z"),
        ({"x": np.ones((1, 5))}, "f: x: expected the shape [?, 4], got [1, 5]"),
        ({"x": np.ones(4)}, "f: x: expected the shape [?, 4], got [4]"),
        ({"x": np.array([["a"] * 4])}, "f: x: expected float32, got strings"),
        ({"x": np.zeros((1, 4), "datetime64[s]")}, "f: x: expected numbers, booleans or strings"),
    ],
)
def test_arrays_that_are_no_inputs(arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        check_arrays(arrays, CALLED, "f")
    assert said in str(error.value)


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "uint8", "int64", ">f4"])
def test_arrays_of_any_number_become_what_the_caller_gives(kind: str) -> None:
    found = check_arrays({"x": np.full((2, 4), 7, kind)}, CALLED, "f")["x"]
    assert found.dtype == np.float32 and (found == 7).all()


def test_floats_do_not_become_integers() -> None:
    model = unpack(make_tflite())
    for tensor in model.subgraphs[0].tensors[:2]:
        tensor.type = schema.TensorType.INT32
    called = as_called(signature_of(pack(model), "dense"), "m")
    assert check_arrays({"x": np.full((1, 4), 7, np.int64)}, called, "f")["x"].dtype == np.int32
    with pytest.raises(InputError, match="f: x: expected int32, got floats"):
        check_arrays({"x": np.full((1, 4), 0.5)}, called, "f")
    with pytest.raises(InputError, match="f: x: expected int32, got numbers from 1099511627776"):
        check_arrays({"x": np.full((1, 4), 2**40)}, called, "f")


def test_types_that_numpy_has_not_are_named() -> None:
    model = unpack(make_tflite())
    model.subgraphs[0].tensors[0].type = schema.TensorType.INT4
    with pytest.raises(TFLiteFileError, match="m: x is int4: NumPy has no such type"):
        as_called(signature_of(pack(model), "dense"), "m")
    with pytest.raises(TFLiteFileError, match="m: x is int4: NumPy has no such type"):
        measure(pack(model), name="m", seconds=0)


@pytest.mark.parametrize("signatures", [(), ("dense",)])
@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (2, 3)])
def test_latency(signatures: tuple[str, ...], threads: int, batch: int) -> None:
    found = measure(make_tflite(int8=True, batch=-1, signatures=signatures), threads=threads, batch=batch, calls=40, seconds=0)
    assert (found.threads, found.batch, found.calls) == (threads, batch, 40)
    assert 0 < found.smallest_ms <= found.p50_ms <= found.p95_ms <= found.p99_ms <= found.largest_ms
    assert found.smallest_ms <= found.mean_ms <= found.largest_ms
    assert found.rows_per_second == pytest.approx(1000 * batch / found.mean_ms)


def test_latency_lasts_as_long_as_asked_and_takes_given_rows() -> None:
    rows = {"x": np.ones((2, 4), np.float32)}
    found = measure(make_tflite(batch=-1), batch=5, calls=1, seconds=0.2, arrays=rows)
    assert found.calls > 100 and found.mean_ms * found.calls < 250


def test_random_values_are_of_the_whole_range() -> None:
    values = random_values(INT8, 1000, 0)
    assert values.dtype == np.int8 and values.shape == (1000, 4) and values.min() == -128 and values.max() == 127
    np.testing.assert_array_equal(values, random_values(INT8, 1000, 0))
    floats = random_values(FLOATS, 1000, 0)
    assert floats.dtype == np.float32 and 0 <= floats.min() < 0.01 and 0.99 < floats.max() < 1
    text = random_values(TensorInfo(name="s", dtype="string", shape=(-1, -1)), 2, 0)
    assert text.shape == (2, 1) and text.dtype == object
    assert set(random_values(TensorInfo(name="i", dtype="int32", shape=(1, 9)), 9, 0).ravel().tolist()) == {0, 1}
