"""One JSON value → one array, for each dtype that TensorFlow Serving's JSON has.

The quick way flattens nested lists with itertools and lets `struct` convert and check the numbers, all at C speed. Where it does
not apply, or finds something wrong, the exact way walks the value as tensorflow_serving/util/json_tensor.cc does and raises its
messages. One rule is stricter: a number too large for int16, int8 or uint8 is refused; TensorFlow Serving wraps it around.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.server.rest_json import encode
from serving.server.rest_json_describe import describe, type_name
from serving.server.servable import TensorSpec
from serving.server.status import Code, StatusError, invalid

MAX_RANK = 32
"""NumPy's; TensorFlow's is 254. No operation of TensorFlow uses more than 8."""

_FORMATS = {1: "d", 2: "d", 3: "i", 4: "B", 5: "h", 6: "b", 9: "q", 22: "I", 23: "Q"}
_DTYPES = {1: "f8", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", 9: "i8", 22: "u4", 23: "u8"}
_FLOAT, _DOUBLE, _STRING, _BOOL = 1, 2, 7, 10
# The largest integers up to which every integer is a float32, or a float64, less one as TensorFlow Serving has it.
_WHOLE = {_FLOAT: 2**24 - 1, _DOUBLE: 2**53 - 1}
_LARGEST = {_FLOAT: float(np.finfo(np.float32).max), _DOUBLE: float(np.finfo(np.float64).max)}
_RANGES = {tf_dtype: np.iinfo(dtype) for tf_dtype, dtype in _DTYPES.items() if dtype != "f8"}
# tensorflow/core/framework/types.cc, DataTypeString.
_NAMES = dict(
    enumerate(
        (
            *("invalid", "float", "double", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool", "qint8"),
            *("quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128", "half", "resource", "variant"),
            *("uint32", "uint64", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz"),
            *("int4", "uint4", "int2", "uint2"),
        )
    )
)
_BASE64 = re.compile(rb"([A-Za-z0-9+/]*)([=.]*)")


def dtype_name(tf_dtype: int) -> str:
    """TensorFlow's name of a number in its enum DataType, as messages have it: float, half."""
    return _NAMES.get(tf_dtype, f"unknown dtype enum ({tf_dtype})")


def is_base64(value: Any) -> bool:
    """Whether a value is {"b64": "…"}."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def decode_base64(value: dict[str, Any]) -> bytes:
    """The bytes of {"b64": "…"}; as absl::Base64Unescape white space is skipped and padding may be missing, or of dots.

    Raises:
        StatusError: INVALID_ARGUMENT when the object has another form, or the text is no base64.
    """
    if not is_base64(value):
        raise invalid(f"JSON Value: {describe(value)} not formatted correctly for base64 data")
    text = b"".join(encode(value["b64"]).split())
    match = _BASE64.fullmatch(text)
    if match is not None:
        missing = -len(match[1]) % 4
        if missing != 3 and len(match[2]) in (0, missing):
            return binascii.a2b_base64(match[1] + b"=" * missing)
    raise invalid("Unable to base64 decode")


def to_array(value: Any, spec: TensorSpec, has_bool: bool) -> npt.NDArray[Any]:
    """A value as the array that an input takes; its shape is that of the nesting.

    Args:
        value: A scalar or nested lists.
        spec: The input.
        has_bool: Whether true or false may be in the value.

    Raises:
        StatusError: INVALID_ARGUMENT for a wrong type, ragged lists, or a number that the dtype cannot hold; UNIMPLEMENTED for a
            dtype that JSON has no form for.
    """
    quick = quick_array(value, spec, has_bool)
    return exact_array(value, spec) if quick is None else quick


def quick_array(value: Any, spec: TensorSpec, has_bool: bool) -> npt.NDArray[Any] | None:
    """As `to_array`, but None where the value needs a closer look."""
    if type(value) is not list:
        flat, shape = [value], []
    else:
        flat, shape = value, [len(value)]
        while flat and type(flat[0]) is list:
            size = len(flat[0])
            if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
                return None
            shape.append(size)
            flat = list(chain.from_iterable(flat))
    if len(shape) > MAX_RANK:
        return None
    array = _quick_values(flat, spec.tf_dtype, has_bool)
    return None if array is None else array.reshape(shape)


def _quick_values(flat: list[Any], tf_dtype: int, has_bool: bool) -> npt.NDArray[Any] | None:
    if tf_dtype in _FORMATS:
        if has_bool and not set(map(type, flat)) <= {int, float}:
            return None
        layout = struct.Struct(f"={len(flat)}{_FORMATS[tf_dtype]}")
        packed = bytearray(layout.size)
        try:
            layout.pack_into(packed, 0, *flat)
        except (struct.error, OverflowError):
            return None
        array: npt.NDArray[Any] = np.frombuffer(packed, _DTYPES[tf_dtype])
        return _quick_floats(array, flat, tf_dtype) if tf_dtype in _WHOLE else array
    types = set(map(type, flat))
    if tf_dtype == _STRING and types <= {str}:
        return _objects(list(map(encode, flat)))
    if tf_dtype == _BOOL and types <= {bool}:
        return np.array(flat, np.bool_)
    return None


def _quick_floats(array: npt.NDArray[np.float64], flat: list[Any], tf_dtype: int) -> npt.NDArray[Any] | None:
    # The comparison is false for NaN. Large numbers are right when none was an integer, infinities when there is no NaN.
    if array.size and not -_WHOLE[tf_dtype] <= array.min() <= array.max() <= _WHOLE[tf_dtype]:
        if set(map(type, flat)) != {float}:
            return None
        if tf_dtype == _FLOAT and not np.all((np.abs(array) <= _LARGEST[_FLOAT]) | ~np.isfinite(array)):
            return None
    return array.astype(np.float32) if tf_dtype == _FLOAT else array


def exact_array(value: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    """As `to_array`, by a look at each value."""
    shape: list[int] = []
    first = value
    while type(first) is list:
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    values: list[Any] = []
    if len(shape) > MAX_RANK:
        raise invalid(f"tensor parsing error: {spec.alias}")
    _fill(value, 0, shape, _converter(spec.tf_dtype), values)
    flat = _objects(values) if spec.tf_dtype == _STRING else np.array(values, spec.dtype)
    return flat.reshape(shape)


def _objects(values: list[bytes]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _fill(value: Any, level: int, shape: list[int], convert: Callable[[Any], Any], values: list[Any]) -> None:
    """FillTensorProto; the shape is that of each list's first element."""
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise invalid(
                f"JSON Value: {describe(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {rank}"
            )
        values.append(convert(value))
        return
    if level >= rank:
        raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise invalid(f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}")
    for each in value:
        _fill(each, level + 1, shape, convert, values)


def _converter(tf_dtype: int) -> Callable[[Any], Any]:
    """What makes a dtype's value of a JSON value that is no list, or raises StatusError."""

    def convert(value: Any) -> Any:
        kind = type(value)
        if kind is dict:
            if tf_dtype == _STRING:
                return decode_base64(value)
        elif tf_dtype in _WHOLE:
            if kind in (int, float):
                return checked_float(value, tf_dtype)
        elif tf_dtype in _RANGES:
            if kind is int and _RANGES[tf_dtype].min <= value <= _RANGES[tf_dtype].max:
                return value
        elif tf_dtype == _STRING:
            if kind is str:
                return encode(value)
        elif tf_dtype == _BOOL:
            if kind is bool:
                return value
        else:
            raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {describe(value)} to type: {dtype_name(tf_dtype)}")
        raise invalid(f"JSON Value: {describe(value)} Type: {type_name(value)} is not of expected type: {dtype_name(tf_dtype)}")

    return convert


def checked_float(value: float, tf_dtype: int = _FLOAT) -> float:
    """A number for a float32 or a float64.

    Raises:
        StatusError: INVALID_ARGUMENT `Cannot convert JSON value: … to float without loss of precision.`
    """
    fits = abs(value) <= _WHOLE[tf_dtype] if type(value) is int else not math.isfinite(value) or abs(value) <= _LARGEST[tf_dtype]
    if not fits:
        raise invalid(f"Cannot convert JSON value: {describe(value)} to {dtype_name(tf_dtype)} without loss of precision.")
    return value
