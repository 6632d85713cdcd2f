"""TensorFlow's dtypes: their numbers, names and NumPy dtypes, and the field of a TensorProto that has their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from serving.server.status import invalid


@dataclass(frozen=True)
class Kind:
    """How one dtype is kept in a TensorProto.

    Attributes:
        number: In the enum DataType (tensorflow/core/framework/types.proto).
        name: As TensorFlow's messages call it (DataTypeString).
        dtype: NumPy's.
        field: The typed field (tensorflow/core/framework/tensor.proto).
        packed: dtype of the field's values when they lie in the message as they do in memory; None: they are varints.
        via: The integer whose bits are those of `dtype`, where the field has the bits and not the value.
    """

    number: int
    name: str
    dtype: np.dtype[Any]
    field: str
    packed: np.dtype[Any] | None
    via: np.dtype[Any] | None


def _quantized(name: str, base: Any) -> np.dtype[Any]:
    """The dtype by which TensorFlow knows a quantized array from a plain one (tensorflow/python/framework/dtypes.py)."""
    return np.dtype([(name, base)])


def _kind(number: int, name: str, dtype: Any, field: str, packed: Any = None, via: Any = None) -> Kind:
    return Kind(number, name, np.dtype(dtype), field, packed and np.dtype(packed), via and np.dtype(via))


KINDS = (
    _kind(1, "float", "<f4", "float_val", "<f4"),
    _kind(2, "double", "<f8", "double_val", "<f8"),
    _kind(3, "int32", np.int32, "int_val"),
    _kind(4, "uint8", np.uint8, "int_val"),
    _kind(5, "int16", np.int16, "int_val"),
    _kind(6, "int8", np.int8, "int_val"),
    _kind(7, "string", object, "string_val"),
    _kind(8, "complex64", "<c8", "scomplex_val", "<f4"),
    _kind(9, "int64", np.int64, "int64_val"),
    _kind(10, "bool", np.bool_, "bool_val", np.bool_),
    _kind(11, "qint8", _quantized("qint8", np.int8), "int_val", via=np.int8),
    _kind(12, "quint8", _quantized("quint8", np.uint8), "int_val", via=np.uint8),
    _kind(13, "qint32", _quantized("qint32", np.int32), "int_val", via=np.int32),
    _kind(14, "bfloat16", ml_dtypes.bfloat16, "half_val", via=np.uint16),
    _kind(15, "qint16", _quantized("qint16", np.int16), "int_val", via=np.int16),
    _kind(16, "quint16", _quantized("quint16", np.uint16), "int_val", via=np.uint16),
    _kind(17, "uint16", np.uint16, "int_val"),
    _kind(18, "complex128", "<c16", "dcomplex_val", "<f8"),
    _kind(19, "half", np.float16, "half_val", via=np.uint16),
    _kind(22, "uint32", np.uint32, "uint32_val"),
    _kind(23, "uint64", np.uint64, "uint64_val"),
    _kind(24, "float8_e5m2", ml_dtypes.float8_e5m2, "float8_val", np.uint8),
    _kind(25, "float8_e4m3fn", ml_dtypes.float8_e4m3fn, "float8_val", np.uint8),
    _kind(26, "float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz, "float8_val", np.uint8),
    _kind(27, "float8_e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz, "float8_val", np.uint8),
    _kind(28, "float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz, "float8_val", np.uint8),
    _kind(29, "int4", ml_dtypes.int4, "int_val"),
    _kind(30, "uint4", ml_dtypes.uint4, "int_val"),
)
BY_NUMBER = {kind.number: kind for kind in KINDS}
_BY_DTYPE = {kind.dtype: kind for kind in KINDS}


def numpy_dtype(number: int) -> np.dtype[Any]:
    """NumPy's dtype for a number of the enum DataType; KeyError for one without values (resources, variants, references)."""
    return BY_NUMBER[number].dtype


def dtype_name(number: int) -> str:
    """What TensorFlow's messages call a dtype: float, half, string; `INVALID` and the like for what is not known here."""
    kind = BY_NUMBER.get(number)
    return kind.name if kind else {0: "INVALID", 20: "resource", 21: "variant"}.get(number, f"unknown dtype enum ({number})")


def tf_dtype(array: npt.NDArray[Any]) -> int:
    """The number in the enum DataType for an array; KeyError for one that TensorFlow has no dtype for."""
    return 7 if array.dtype.kind in "OSU" else _BY_DTYPE[array.dtype.newbyteorder("=")].number


def check_dtype(array: npt.NDArray[Any], expected: np.dtype[Any], position: int) -> None:
    """Refuses an array of another dtype; NumPy's own string dtypes are fine for strings.

    Args:
        array: An argument.
        expected: Its dtype.
        position: Which argument it is.

    Raises:
        StatusError: INVALID_ARGUMENT `Expects arg[0] to be float but string is provided` (core/framework/function.cc).
    """
    if array.dtype != expected and not (expected.kind == "O" and array.dtype.kind in "SU"):
        raise invalid(f"Expects arg[{position}] to be {_words(expected)} but {_words(array.dtype)} is provided")


def _words(dtype: np.dtype[Any]) -> str:
    try:
        return dtype_name(tf_dtype(np.empty(0, dtype)))
    except KeyError:
        return str(dtype)
