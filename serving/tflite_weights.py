"""What the constants of a .tflite hold: zeros, distinct values, bytes; counted in the data, whatever made them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from serving.tflite_file import TFLiteFile
from serving.tflite_graph import Subgraph, Tensor

MOST_CLUSTERS = 1024
"""Above that many distinct values nobody speaks of clusters, and counting on would take long."""

_BITS = {"int4": 4, "uint4": 4, "int2": 2}
_BYTES = {"float8_e4m3fn": 1, "float8_e5m2": 1, "bfloat16": 2, "bool": 1}
_CHUNK = 1 << 16


class Weights(BaseModel):
    """A constant tensor.

    Attributes:
        dtype: As stored.
        values: How many it has, by its shape.
        bytes: That its data take in the file.
        zeros: Share of the values that stand for zero, 0 to 1; None for strings.
        distinct: How many different values are stored; None above MOST_CLUSTERS, and for strings.
        clusters: The same within one channel, of the channel with the most: a scale for each channel makes other integers of
            the same cluster. As `distinct` where there is one scale, or none.
        scales: Of the quantization: 0 for none, 1 for the whole tensor, else one for each channel.
        sparse: Whether only blocks with values other than zero are stored (`sparsity` of schema.fbs).
        kernel: Whether it has two dimensions or more: weights that are pruned and clustered, not biases and shapes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...]
    values: int
    bytes: int
    zeros: float | None
    distinct: int | None
    clusters: int | None
    scales: int
    sparse: bool
    kernel: bool


def read_weights(file: TFLiteFile, subgraphs: list[Subgraph]) -> list[Weights]:
    """Every constant of a file, the largest first; one that several tensors share is there once.

    Raises:
        TFLiteFileError: A tensor's data are not as long as its shape says.
    """
    found: dict[int, Weights] = {}
    for number, graph in enumerate(subgraphs):
        for index, tensor in enumerate(graph.tensors):
            data = file.data(tensor.buffer)
            if len(data) and tensor.buffer not in found:
                found[tensor.buffer] = _weights(file, tensor, data, f"tensor {index} of subgraph {number}")
    return sorted(found.values(), key=lambda each: (-each.bytes, each.name))


def _weights(file: TFLiteFile, tensor: Tensor, data: memoryview, part: str) -> Weights:
    values = math.prod(tensor.sizes)
    expected = _size(tensor.dtype, values)
    if expected is not None and not tensor.sparse and len(data) != expected:
        raise file.damaged(
            part, f"{tensor.name!r} is {tensor.dtype} {list(tensor.sizes)}, {expected} bytes, its data have {len(data)}"
        )
    stored = _stored(tensor.dtype, data, None if tensor.sparse else values)
    distinct = None if stored is None else _distinct(stored)
    return Weights(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.sizes,
        values=values,
        bytes=len(data),
        zeros=_zeros(tensor, stored, values),
        distinct=distinct,
        clusters=distinct if len(tensor.scales) < 2 or tensor.sparse or stored is None else _in_channels(tensor, stored),
        scales=len(tensor.scales),
        sparse=tensor.sparse,
        kernel=len(tensor.sizes) > 1,
    )


def _size(dtype: str, values: int) -> int | None:
    """Bytes of that many values; None for those of no fixed size."""
    if dtype in _BITS:
        return -(-values * _BITS[dtype] // 8)
    if dtype in _BYTES:
        return values * _BYTES[dtype]
    if dtype in ("string", "resource", "variant"):
        return None
    return values * np.dtype(dtype).itemsize


def _stored(dtype: str, data: memoryview, values: int | None) -> npt.NDArray[Any] | None:
    """What is stored, as numbers that are equal where the stored ones are; None for strings."""
    raw = np.frombuffer(data, np.uint8)
    if dtype in _BITS:
        bits = _BITS[dtype]
        parts = np.stack([(raw >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)], axis=-1).reshape(-1)
        signed = parts.astype(np.int8)
        if dtype.startswith("int"):
            signed = np.where(signed >= 1 << (bits - 1), signed - (1 << bits), signed).astype(np.int8)
        return np.asarray(signed[:values])
    if dtype in _BYTES:
        return raw if _BYTES[dtype] == 1 else np.asarray(raw[: len(raw) // 2 * 2].view(np.uint16))
    if _size(dtype, 1) is None:
        return None
    whole: npt.NDArray[Any] = raw[: len(raw) - len(raw) % np.dtype(dtype).itemsize].view(dtype)
    return whole


def _zeros(tensor: Tensor, stored: npt.NDArray[Any] | None, values: int) -> float | None:
    if stored is None or not values:
        return None
    if tensor.dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        bits = 8 * stored.dtype.itemsize
        others = int(np.count_nonzero(stored & ((1 << (bits - 1)) - 1)))  # without the sign: -0.0 is a zero
    else:
        points = set(tensor.zero_points)
        # Weights have zero points of 0 (the quantization specification), but activations' constants need not.
        others = int(np.count_nonzero(stored != points.pop() if len(points) == 1 else stored))
    return 1 - min(others, values) / values


def _in_channels(tensor: Tensor, stored: npt.NDArray[Any]) -> int | None:
    if stored.dtype.itemsize != 1 or tensor.sizes[tensor.channel : tensor.channel + 1] != (len(tensor.scales),):
        return None
    rows = np.moveaxis(stored.reshape(tensor.sizes), tensor.channel, 0).reshape(len(tensor.scales), -1)
    present = np.zeros((len(rows), 256), bool)
    present[np.arange(len(rows))[:, np.newaxis], rows.view(np.uint8)] = True
    return int(present.sum(axis=1).max(initial=0))


def _distinct(stored: npt.NDArray[Any]) -> int | None:
    if stored.dtype.kind in "iu" and stored.dtype.itemsize == 1:
        return int(np.count_nonzero(np.bincount(stored.view(np.uint8), minlength=256)))
    found = np.empty(0, stored.dtype)
    for start in range(0, stored.size, _CHUNK):
        found = np.union1d(found, stored[start : start + _CHUNK])
        if found.size > MOST_CLUSTERS:
            return None
    return int(found.size)
