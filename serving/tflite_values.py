"""Real values in and out of a .tflite, whatever it stores: real value = scale * (stored value - zero_point).

That formula, and rounding to the nearest, are those of the TFLite 8-bit quantization specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.client.values import Signature as Callable
from serving.client.values import Tensor, declared, natural
from serving.request_files import InputError
from serving.tflite_file import TFLiteFileError
from serving.tflite_graph import Signature
from serving.tflite_metadata import TensorInfo

Array = npt.NDArray[Any]

_SIZES = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64), "complex": (64, 128)}
_NUMPY = {"bool", "string"} | {f"{kind}{size}" for kind, sizes in _SIZES.items() for size in sizes}
"""Types that NumPy has too. Asked for "int4", which is four bits in TFLite, it gives one of four bytes."""


def stored_values(info: TensorInfo, values: Array) -> Array:
    """Real values as the model takes them: quantized to the nearest and clipped to what the type holds; else cast.

    Args:
        info: The input.
        values: Any shape; finite where the input is quantized (NaN has no integer).

    Returns:
        The same shape, `info.dtype`.
    """
    if info.scale is None or info.zero_point is None:
        return values.astype(info.dtype) if info.dtype != "string" else values
    limits = np.iinfo(info.dtype)
    # In float64: a float32 quotient can fall on the wrong side of a half.
    steps = np.rint(values.astype(np.float64) / info.scale) + info.zero_point
    return np.asarray(np.clip(steps, limits.min, limits.max), info.dtype)


def real_values(info: TensorInfo, stored: Array) -> Array:
    """What the model gave as real values: float32 where the output is quantized, else as it is."""
    if info.scale is None or info.zero_point is None:
        return stored
    return np.asarray((stored.astype(np.float64) - info.zero_point) * info.scale, np.float32)


def real_range(info: TensorInfo) -> tuple[float, float] | None:
    """The smallest and the largest real value that a quantized input can hold; None where nothing is quantized."""
    if info.scale is None or info.zero_point is None:
        return None
    limits = np.iinfo(info.dtype)
    return (limits.min - info.zero_point) * info.scale, (limits.max - info.zero_point) * info.scale


def clipped(info: TensorInfo, values: Array) -> int:
    """How many values lie more than half a step outside of what a quantized input can hold."""
    limits = real_range(info)
    if limits is None or info.scale is None:
        return 0
    return int(np.count_nonzero((values < limits[0] - info.scale / 2) | (values > limits[1] + info.scale / 2)))


def as_called(signature: Signature, name: str) -> Callable:
    """A signature as its caller sees it: float32 for what is quantized, the first dimension open for any number of rows.

    Raises:
        TFLiteFileError: An input or output has a type that NumPy has not.
    """

    def tensor(info: TensorInfo) -> Tensor:
        shape = None if not info.shape else (None, *(None if size < 0 else size for size in info.shape[1:]))
        if info.dtype not in _NUMPY:
            raise TFLiteFileError(f"{name}: {info.name} is {info.dtype}: NumPy has no such type to call it with")
        kind = "float32" if info.scale is not None else "object" if info.dtype == "string" else info.dtype
        return Tensor(np.dtype(kind), shape or ())

    inputs = {info.name: tensor(info) for info in signature.inputs}
    return Callable(inputs, {info.name: tensor(info) for info in signature.outputs}, "")


def check_arrays(arrays: Mapping[str, Any], called: Callable, place: str) -> dict[str, Array]:
    """Arrays of a file, such as an .npz, as the inputs of a signature.

    Args:
        arrays: By name.
        called: The signature, as its caller sees it.
        place: The file, for messages.

    Returns:
        The signature's inputs, in its dtypes. Numbers become floats where those are wanted, never the other way round.

    Raises:
        InputError: A name is missing or unknown, a shape or a dtype does not fit.
    """
    if set(arrays) != set(called.inputs):
        got = ", ".join(sorted(arrays)) or "none"
        raise InputError(f"{place}: expected the inputs {', '.join(called.inputs)}, got {got}")
    return {name: _checked(arrays[name], wanted, f"{place}: {name}") for name, wanted in called.inputs.items()}


def _checked(value: Any, wanted: Tensor, place: str) -> Array:
    try:
        array = natural(value)[0]
        if (array.dtype.kind == "O") != (wanted.dtype.kind == "O"):
            raise ValueError(f"expected {_kind(wanted)}, got {'strings' if array.dtype.kind == 'O' else array.dtype}")
        if array.dtype != wanted.dtype:
            array = declared(array, wanted.dtype)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None
    shape = wanted.shape or ()
    if len(shape) != array.ndim or any(size not in (None, got) for size, got in zip(shape, array.shape, strict=True)):
        said = ", ".join("?" if size is None else str(size) for size in shape)
        raise InputError(f"{place}: expected the shape [{said}], got {list(array.shape)}")
    return array


def _kind(tensor: Tensor) -> str:
    return "strings" if tensor.dtype.kind == "O" else str(tensor.dtype)
