"""Arrays to JSON and back; paths; answers that are not what was asked for."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.client import rest_calls
from serving.client.rest_json import dump, from_array, from_features, parse, to_array
from serving.client.values import Signature, Spec, Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
DTYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


def tensor(array: Any) -> Tensor:
    return Tensor(array.dtype, array.shape)


def round_trip(array: Any) -> Any:
    return to_array(parse(dump({"x": from_array(array)}))["x"], tensor(array))


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_numbers(array: Any) -> None:
    """NaN, infinities, negative zero, subnormals; scalars, empty arrays."""
    back = round_trip(array)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    if array.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(back[~np.isnan(array)]), np.signbit(array[~np.isnan(array)]))


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=6), fill=st.nothing()))
def test_strings(array: Any) -> None:
    back = round_trip(array)
    assert back.dtype == object and back.shape == array.shape and back.tolist() == array.tolist()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.float8_e5m2])
def test_dtypes_of_ml(dtype: Any) -> None:
    array = np.array([[1, -2]], dtype)
    back = round_trip(array)
    assert back.dtype == array.dtype and back.tolist() == array.tolist()


def test_what_json_cannot_carry() -> None:
    with pytest.raises(ValueError, match="REST cannot carry complex64; use gRPC"):
        from_array(np.ones(1, np.complex64))


def test_arrays_that_do_not_lie_in_one_piece() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(round_trip(array[:, ::2].T), array[:, ::2].T)


def test_one_array_with_nan_beside_one_without() -> None:
    sent = dump({"a": from_array(np.array([np.nan, 1.5])), "b": from_array(np.array([1, 2]))})
    assert sent == b'{"a":[NaN,1.5],"b":[1,2]}'


def test_text_and_nan_as_servers_may_write_them() -> None:
    strings = to_array(["plain", {"b64": "AA=="}], Tensor(np.dtype(object), (2,)))
    assert strings.tolist() == [b"plain", b"\0"]
    numbers = to_array(["NaN", "-Infinity", 1], Tensor(np.dtype(np.float32), (3,)))
    np.testing.assert_array_equal(numbers, np.array([np.nan, -np.inf, 1], np.float32))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.5], "i4"),
        ([True], "i4"),
        ([1], "?"),
        ([None], "f4"),
        ([[1], [1, 2]], "f4"),
        (["a"], "f4"),
        ([300], "u1"),
        ([2.0**63, 1], "u8"),
        (["1"], "i4"),
        ({"a": 1}, "f4"),
    ],
)
def test_answers_of_another_kind(value: Any, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        to_array(value, Tensor(np.dtype(dtype), None))


def test_features() -> None:
    written = dump(from_features({"text": "a", "ints": [1, True], "mixed": [1, 2.5], "whole": 3.0, "not": [float("nan")]}))
    assert written == b'{"text":{"b64":"YQ=="},"ints":[1,1],"mixed":[1.0,2.5],"whole":3.0,"not":[NaN]}'


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (Spec("m"), "/v1/models/m"),
        (Spec("m", 3), "/v1/models/m/versions/3"),
        (Spec("m", label="stable"), "/v1/models/m/labels/stable"),
        (Spec("../a b/c?d#e"), "/v1/models/..%2Fa%20b%2Fc%3Fd%23e"),
    ],
)
def test_paths(spec: Spec, path: str) -> None:
    assert rest_calls.path_of(spec) == path


@pytest.mark.parametrize("spec", [Spec(".."), Spec("."), Spec("m", label="..")])
def test_steps_in_a_path(spec: Spec) -> None:
    with pytest.raises(ValueError, match="the name of a model"):
        rest_calls.path_of(spec)


FLOAT = Tensor(np.dtype(np.float32), (None,))


def ask(outputs: dict[str, Tensor], wanted: list[str]) -> rest_calls.RestCall:
    signature = Signature({"x": FLOAT}, outputs, "")
    return rest_calls.predict(Spec("m"), "dense", {"x": np.ones(2, np.float32)}, wanted, signature)


def test_one_output_and_several() -> None:
    one = ask({"y": FLOAT}, [])
    assert json.loads(one.body or b"") == {"signature_name": "dense", "inputs": {"x": [1.0, 1.0]}}
    assert one.read(b'{"outputs": [1.0, 2]}')["y"].tolist() == [1.0, 2.0]
    two = ask({"y": FLOAT, "z": FLOAT}, ["z"])
    answer = two.read(b'{"outputs": {"y": [1.0], "z": [2.0]}}')
    assert list(answer) == ["z"] and answer.version is None
    text = ask({"y": Tensor(np.dtype(object), ())}, [])
    assert text.read(b'{"outputs": {"b64": "YQ=="}}')["y"].item() == b"a"


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"{}", b'{"outputs": 3}', b'{"outputs": {"y": [1.0], "q": [1.0]}}'])
def test_answers_that_are_none(answer: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        ask({"y": FLOAT, "z": FLOAT}, []).read(answer)


def test_metadata() -> None:
    info = {"dtype": "DT_BFLOAT16", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "3"}]}, "name": "x:0"}
    unknown = {"dtype": "DT_FLOAT", "tensor_shape": {"unknown_rank": True}}
    signatures = {"dense": {"inputs": {"x": info}, "outputs": {"y": unknown, "r": {"dtype": "DT_RESOURCE"}}, "method_name": "m"}}
    answer = {"model_spec": {"version": "4"}, "metadata": {"signature_def": {"signature_def": signatures}}}
    version, found = rest_calls.metadata(Spec("m")).read(json.dumps(answer).encode())
    assert version == 4
    expected = Signature({"x": Tensor(np.dtype(ml_dtypes.bfloat16), (None, 3))}, {"y": Tensor(np.dtype(np.float32), None)}, "m")
    assert found == {"dense": expected}
