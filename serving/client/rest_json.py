"""Arrays and features as JSON, in the forms that TensorFlow Serving reads and writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from serving.client.values import Array, Tensor, declared, feature
from serving.server.rest_numbers import compact_json


def parse(body: bytes) -> Any:
    """JSON as servers send it: with bare NaN and Infinity, which orjson refuses and Python's own parser takes.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def dump(body: Any) -> bytes:
    """Serializes an object with what `from_array` and `from_feature` give in it."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def from_array(array: Array) -> Any:
    """An array, as `natural` and `declared` give it, as `dump` takes it; ValueError for numbers that JSON has no form for."""
    if array.dtype.kind == "O":
        return _b64(array.tolist())
    if array.dtype.kind == "f" and array.dtype.itemsize >= 4:
        # orjson writes null for NaN.
        whole = bool(np.isfinite(array).all())
        return _plain(array) if whole else orjson.Fragment(compact_json(array, strict=False))
    if array.dtype.kind in "biu":
        return _plain(array)
    try:
        # float16, bfloat16 and the float8s have no digits of their own; as float32 they are exact. So are int4s as int8s.
        return from_array(array.astype(np.int8 if "int4" in array.dtype.name else np.float32, casting="safe"))
    except TypeError:
        raise ValueError(f"REST cannot carry {array.dtype}; use gRPC") from None


def _plain(array: Array) -> Any:
    return np.ascontiguousarray(array) if array.shape else array.item()


def _b64(value: Any) -> Any:
    if isinstance(value, list):
        return [_b64(each) for each in value]
    return {"b64": base64.b64encode(value).decode("ascii")}


def from_features(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example (feature by name, a value or a list) as `dump` takes it."""
    return {name: _from_feature(value) for name, value in example.items()}


def _from_feature(value: Any) -> Any:
    known = feature(value)
    if known.kind == "bytes_list":
        written: Any = _b64(list(known.values))
    elif known.kind == "float_list":
        written = [each if np.isfinite(each) else from_array(np.array(each)) for each in known.values]
    else:
        written = list(known.values)
    return written[0] if known.single else written


def to_array(value: Any, tensor: Tensor) -> Array:
    """The array of an answer.

    Args:
        value: Parsed JSON: a value or nested lists; strings as text or {"b64": …}; NaN and infinities perhaps as strings.
        tensor: What the model's metadata says of it.

    Raises:
        ValueError: It is of another kind than that.
    """
    array = _strings(value) if tensor.dtype.kind == "O" else np.asarray(value)
    if array.size == 0:
        return np.zeros(_empty_shape(array.shape, tensor.shape), tensor.dtype)
    if tensor.dtype.kind == "O":
        return array
    if (
        tensor.dtype == np.uint64
        and array.dtype.kind == "f"
        and all(isinstance(each, int) for each in np.array(value, object).flat)
    ):
        # Where only some are above the largest int64, NumPy takes floats for all of them.
        return np.array(value, np.uint64)
    if array.dtype.kind == "U" and tensor.dtype.kind not in "biu":
        # By way of float32, since NumPy reads no text as a float16 or bfloat16.
        return array.astype(np.promote_types(np.float32, tensor.dtype)).astype(tensor.dtype)
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "b") != (tensor.dtype.kind == "b"):
        raise ValueError(f"expected {tensor.dtype}, got {'something else' if array.dtype.kind == 'O' else array.dtype}")
    return array if array.dtype.kind == "b" else declared(array, tensor.dtype)


def _empty_shape(found: tuple[int, ...], known: tuple[int | None, ...] | None) -> tuple[int, ...]:
    """An empty list hides what is inside: the dimensions after it are those of the metadata."""
    return found + tuple(size or 0 for size in (known or ())[len(found) :])


def _strings(value: Any) -> Array:
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    flat = [value]
    for _ in shape:
        flat = [each for part in flat for each in part]
    array = np.empty(len(flat), dtype=object)
    array[:] = [base64.b64decode(each["b64"], validate=True) if isinstance(each, dict) else each.encode() for each in flat]
    return array.reshape(shape)
