"""TensorProto to NumPy and back, for every dtype that has values, as tensorflow/core/framework/tensor.cc does it.

So a proto with fewer values than its shape has elements repeats the last one, one with none is all zeros, and what is too much is
not looked at. Unlike there, a shape alone cannot make the server allocate at will: see `MAX_FILLED`.

Speed: floats go as blocks of bytes, never one by one. The protocol buffers' Python containers copy a number in 50 to 150 ns; the
packed field, cut out of the serialized message, costs a few microseconds for thousands of them. Integers are varints there, which
NumPy decodes no faster than the containers do.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pool, message_factory

from serving.server.status import invalid
from serving.server.tensor_dtypes import BY_NUMBER, Kind, check_dtype, dtype_name, numpy_dtype, tf_dtype
from serving.tensorflow_protos import tensorflow_protos

MAX_FILLED = 16 << 20
"""Bytes to which a proto's values may be repeated (a float image of 4 million values); 64 times the values themselves if that is
more. Everything that is larger must be sent as it is."""

_FILL_FACTOR = 64

__all__ = ["MAX_FILLED", "check_dtype", "dtype_name", "message_class", "numpy_dtype", "tf_dtype", "to_array", "to_proto"]


@cache
def message_class(name: str) -> Any:
    """A message of TensorFlow, such as "TensorProto": the class that its own modules have, without importing TensorFlow."""
    tensorflow_protos()
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"tensorflow.{name}"))


def to_array(proto: Any, alias: str = "") -> npt.NDArray[Any]:
    """Reads a TensorProto.

    Args:
        proto: The message.
        alias: What the request calls the tensor.

    Returns:
        An array of the proto's shape; object array of bytes for strings. It may be read-only, and share memory with nothing else.

    Raises:
        StatusError: INVALID_ARGUMENT `tensor parsing error: ALIAS`: the dtype has no values, a dimension is negative, there are
            more than NumPy's 32, content and shape do not fit, or the shape asks for more than `MAX_FILLED`.
    """
    try:
        return _to_array(proto)
    except (ValueError, KeyError, IndexError, OverflowError):
        raise invalid(f"tensor parsing error: {alias}") from None


def _to_array(proto: Any) -> npt.NDArray[Any]:
    kind = BY_NUMBER[proto.dtype]
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if shape and min(shape) < 0:
        raise ValueError(shape)
    size = prod(shape)
    if size == 0:
        return np.zeros(shape, kind.dtype)
    content = proto.tensor_content
    if content:
        return _from_content(content, kind, size).reshape(shape)
    values = _from_field(proto, kind, size)
    if len(values) != size:
        values = values[:size] if len(values) > size else _filled(values, kind, size)
    return values.reshape(shape)


def _filled(values: npt.NDArray[Any], kind: Kind, size: int) -> npt.NDArray[Any]:
    """Repeats the last value up to `size`; zeros when there is none."""
    if size * kind.dtype.itemsize > max(MAX_FILLED, _FILL_FACTOR * values.nbytes):
        raise ValueError(size)
    if len(values) == 0:
        return np.full(size, b"", object) if kind.name == "string" else np.zeros(size, kind.dtype)
    whole = np.empty(size, kind.dtype)
    whole[: len(values)] = values
    whole[len(values) :] = values[-1]
    return whole


def _from_content(content: bytes, kind: Kind, size: int) -> npt.NDArray[Any]:
    if kind.name == "string":
        return _decode_strings(content, size)
    if len(content) != size * kind.dtype.itemsize:
        raise ValueError(len(content))
    if kind.name == "bool":
        nonzero: npt.NDArray[Any] = np.frombuffer(content, np.uint8) != 0  # any other byte is no bool to NumPy
        return nonzero
    return np.frombuffer(content, kind.dtype)


def _from_field(proto: Any, kind: Kind, size: int) -> npt.NDArray[Any]:
    """The values of the typed field, flat; no more than needed."""
    values = getattr(proto, kind.field)
    if kind.name == "string":
        return _strings(values[:size])
    if kind.field == "float8_val":
        return np.frombuffer(values, kind.dtype)
    if kind.packed is not None:
        packed = np.frombuffer(_payload(proto, kind.field), kind.packed) if values else np.empty(0, kind.packed)
        return packed[: len(packed) // 2 * 2].view(kind.dtype) if kind.dtype.kind == "c" else packed
    numbers = np.array(values, np.uint64 if kind.name == "uint64" else np.int64)
    return numbers.astype(kind.via).view(kind.dtype) if kind.via else numbers.astype(kind.dtype)


def _strings(values: Any) -> npt.NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _payload(proto: Any, field: str) -> memoryview:
    """The bytes of a packed repeated field that has values (https://protobuf.dev/programming-guides/encoding/#packed)."""
    data = proto.SerializeToString()
    wanted, at = proto.DESCRIPTOR.fields_by_name[field].number << 3 | 2, 0
    while True:
        key, at = _varint(data, at)
        if key & 7 == 2:
            length, at = _varint(data, at)
            if key == wanted:
                return memoryview(data)[at : at + length]
            at += length
        elif key & 7 == 0:
            _, at = _varint(data, at)
        else:  # TensorProto has no such field of its own
            raise ValueError(key)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _decode_strings(content: bytes, size: int) -> npt.NDArray[Any]:
    """Strings in tensor_content: their lengths as varints, then their bytes (tensorflow/core/platform/tensor_coding.cc)."""
    if size > len(content):
        raise ValueError(size)
    lengths, at = [], 0
    for _ in range(size):
        length, at = _varint(content, at)
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise ValueError(at)
    strings = []
    for length in lengths:
        strings.append(content[at : at + length])
        at += length
    return _strings(strings)


def to_proto(array: npt.NDArray[Any], *, as_content: bool = False) -> Any:
    """Writes a TensorProto; its tensor_shape is there for scalars too.

    Args:
        array: Any shape. Strings: object array of bytes (or str, as UTF-8), or NumPy's own string dtypes.
        as_content: Values in tensor_content (Tensor::AsProtoTensorContent) and not in the dtype's own field.

    Raises:
        StatusError: INVALID_ARGUMENT: TensorFlow has no such dtype, or what should be a string is something else.
    """
    try:
        kind = BY_NUMBER[tf_dtype(array)]
    except KeyError:
        raise invalid(f"TensorFlow has no dtype for NumPy's {array.dtype}") from None
    proto = message_class("TensorProto")(dtype=kind.number)
    proto.tensor_shape.SetInParent()
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    if array.size == 0:
        return proto
    if kind.name == "string":
        _write_strings(proto, array, as_content)
    elif as_content:
        proto.tensor_content = array.astype(kind.dtype, copy=False).tobytes()
    else:
        _write_field(proto, np.ascontiguousarray(array, kind.dtype).reshape(-1), kind)
    return proto


def _write_strings(proto: Any, array: npt.NDArray[Any], as_content: bool) -> None:
    strings = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
    try:
        if as_content:
            proto.tensor_content = b"".join((*(_encode_varint(len(value)) for value in strings), *strings))
        else:
            proto.string_val.extend(strings)
    except TypeError:
        wrong = next(type(value).__name__ for value in strings if not isinstance(value, bytes))
        raise invalid(f"Expected strings (bytes) in the array. Received {wrong}.") from None


def _write_field(proto: Any, values: npt.NDArray[Any], kind: Kind) -> None:
    if kind.field == "float8_val":
        proto.float8_val = values.tobytes()
    elif kind.packed is not None:
        data = values.tobytes()
        key = proto.DESCRIPTOR.fields_by_name[kind.field].number << 3 | 2
        proto.MergeFromString(_encode_varint(key) + _encode_varint(len(data)) + data)
    else:
        numbers = values.view(kind.via) if kind.via else values
        getattr(proto, kind.field).extend(map(int, numbers.tolist()) if "int4" in kind.name else numbers.tolist())


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
