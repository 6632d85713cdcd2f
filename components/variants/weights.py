"""What pruning and clustering left in a .tflite, read from the file's own weights and held against what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.errors import TflineError
from serving.tflite_file import TFLiteFile
from serving.tflite_graph import Tensor, read_subgraphs
from serving.tflite_weights import Weights, read_weights

_ROUNDING = 1e-9


class Asked(BaseModel):
    """What a technique was to make of one layer's kernel.

    Attributes:
        layer: Its name, for messages.
        values: How many weights it has; by this it is found in the .tflite, where names are others.
        sparsity: The least share of zeros; 0 for a kernel that is not pruned.
        two_of_four: Whether any four weights in a row, along the inputs, have two zeros or more.
        block: Height and width of the blocks that are zero as a whole, in [inputs, outputs]; None for none.
        clusters: The most different values; None for a kernel that is not clustered.
        scaled: Whether a batch normalization was folded into it, which gives each output a scale of its own: clusters are then
            counted for each output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    values: int
    sparsity: float = 0.0
    two_of_four: bool = False
    block: tuple[int, int] | None = None
    clusters: int | None = None
    scaled: bool = False


class Kernel(BaseModel):
    """One kernel of a .tflite.

    Attributes:
        sparsity: Share of zeros.
        clusters: Different values within a channel that has a scale of its own; None for more than 1024.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    clusters: int | None


class Kernels(BaseModel):
    """All weights of two dimensions or more.

    Attributes:
        sparsity: Share of zeros among all of them; None without any.
        clusters: Of the kernel with the most; None for more than 1024, or without any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float | None
    clusters: int | None
    kernels: tuple[Kernel, ...]


def read_kernels(content: bytes) -> Kernels:
    """Counts zeros and clusters in a .tflite's weights."""
    found = [weights for weights in _weights(content) if weights.kernel and weights.zeros is not None]
    total = sum(weights.values for weights in found)
    counts = [weights.clusters for weights in found]
    return Kernels(
        sparsity=sum((weights.zeros or 0.0) * weights.values for weights in found) / total if total else None,
        clusters=max((count for count in counts if count), default=None) if None not in counts else None,
        kernels=tuple(
            Kernel(
                tensor=weights.name,
                shape=weights.shape,
                dtype=weights.dtype,
                sparsity=weights.zeros or 0.0,
                clusters=weights.clusters,
            )
            for weights in found
        ),
    )


def check_kernels(content: bytes, asked: Sequence[Asked]) -> None:
    """Looks in a .tflite for a kernel of the size of each that was asked for, with the zeros and clusters that it was to have.

    Raises:
        TflineError: With every one that is missing, and what those of its size are like instead.
    """
    file = TFLiteFile(content)
    tensors = [
        (tensor, number, index)
        for number, graph in enumerate(read_subgraphs(file))
        for index, tensor in enumerate(graph.tensors)
        if len(tensor.sizes) > 1 and len(file.data(tensor.buffer))
    ]
    problems = []
    for size in sorted({wanted.values for wanted in asked}):
        alike = [found for found in tensors if math.prod(found[0].sizes) == size]
        values = [_Values(file, *found) for found in alike]
        for wanted in (wanted for wanted in asked if wanted.values == size):
            # Each tensor can stand for one layer only.
            match = next((found for found in values if not found.misses(wanted)), None)
            if match:
                values.remove(match)
            else:
                like = (
                    "; ".join(dict.fromkeys(found.misses(wanted) for found in values)) or f"no kernel of {size} weights is left"
                )
                problems.append(f"{wanted.layer}: {like}")
    if problems:
        raise TflineError(f"the .tflite's weights are not as they were trained to be: {'; '.join(problems)}")


class _Values:
    """A kernel's stored numbers, sparse ones unpacked, in TFLite's shape: outputs first, inputs last."""

    def __init__(self, file: TFLiteFile, tensor: Tensor, graph: int, index: int) -> None:
        stored = np.frombuffer(file.data(tensor.buffer), tensor.dtype)
        dense = unpack(stored, tensor.sizes, file.model.Subgraphs(graph).Tensors(index).Sparsity()) if tensor.sparse else stored
        self._values = dense.reshape(tensor.sizes)
        self._scales, self._channel = len(tensor.scales), tensor.channel

    def misses(self, asked: Asked) -> str:
        """What is not as asked, "" when all is."""
        zeros = float((self._values == 0).mean())
        # The number of weights that stay is rounded (pruning_impl.py), so that up to one block less is pruned.
        least = asked.sparsity - math.prod(asked.block or (1, 1)) / asked.values - _ROUNDING
        if zeros < least:
            return f"{zeros:.4f} of its weights are zero, at least {asked.sparsity:g} expected"
        if asked.two_of_four and (worst := self._most_of_four()) > 2:
            return f"{worst} of four weights in a row are not zero, at most 2 expected"
        if asked.block and (share := self._zero_blocks(asked.block)) < least:
            return f"{share:.4f} of its blocks of {asked.block} are zero as a whole, at least {asked.sparsity:g} expected"
        if asked.clusters and (count := self._clusters(asked.scaled)) > asked.clusters:
            return f"it has {count} different values, at most {asked.clusters} expected"
        return ""

    def _most_of_four(self) -> int:
        inputs = self._values.shape[-1]
        rows = np.pad(self._values.reshape(-1, inputs), ((0, 0), (0, -inputs % 4)))
        return int((rows.reshape(-1, 4) != 0).sum(axis=1).max())

    def _zero_blocks(self, block: tuple[int, int]) -> float:
        """The share of blocks that are zero; a block's height goes over inputs, which here are the second axis."""
        height, width = block
        matrix = self._values.reshape(self._values.shape[0], -1) == 0
        padded = np.pad(matrix, ((0, -matrix.shape[0] % width), (0, -matrix.shape[1] % height)), constant_values=True)
        blocks = padded.reshape(padded.shape[0] // width, width, -1, height).swapaxes(1, 2)
        return float(blocks.all(axis=(2, 3)).mean())

    def _clusters(self, scaled: bool) -> int:
        if self._scales < 2 and not scaled:
            return len(np.unique(self._values))
        # Outputs come first, but for depthwise convolutions, whose scales say where.
        axis = self._channel if self._scales > 1 else 0
        channels = np.moveaxis(self._values, axis, 0).reshape(self._values.shape[axis], -1)
        return max(len(np.unique(channel)) for channel in channels)


def unpack(stored: npt.NDArray[np.generic], shape: Sequence[int], sparsity: Any) -> npt.NDArray[np.generic]:
    """A sparse tensor's values in place, zeros elsewhere.

    Args:
        stored: What the file has of it.
        shape: Of the dense tensor.
        sparsity: `SparsityParameters` of schema.fbs, which describes the format: dimensions are walked in the traversal order,
            blocks' own dimensions last; a dense one has every index, a compressed one those that are listed.

    Returns:
        An array of the shape.
    """
    order = [sparsity.TraversalOrder(index) for index in range(sparsity.TraversalOrderLength())]
    of_block = [sparsity.BlockMap(index) for index in range(sparsity.BlockMapLength())]
    levels = [sparsity.DimMetadata(index) for index in range(sparsity.DimMetadataLength())]
    sizes = {len(shape) + number: level.DenseSize() for number, level in enumerate(levels[len(shape) :])}
    # Flat positions of what is stored, level by level; a parent's place is needed to find its children in a compressed level.
    parents: npt.NDArray[np.int64] = np.zeros(1, np.int64)
    indices: dict[int, npt.NDArray[np.int64]] = {}
    for axis, level in zip(order, levels, strict=True):
        if level.Format() == 0:
            size = level.DenseSize()
            repeats, own = np.full(len(parents), size), np.tile(np.arange(size), len(parents))
            places = np.repeat(parents * size, size) + own
        else:
            segments, listed = _vector(level, "ArraySegments"), _vector(level, "ArrayIndices")
            repeats = (segments[1:] - segments[:-1])[parents]
            places = np.concatenate([np.arange(segments[parent], segments[parent + 1]) for parent in parents])
            own = listed[places]
        indices = {known: np.repeat(values, repeats) for known, values in indices.items()} | {axis: own}
        parents = places
    dense = np.zeros(tuple(shape), stored.dtype)
    block_axes = dict(zip(of_block, range(len(shape), len(shape) + len(of_block)), strict=True))
    where = tuple(
        indices[axis] * sizes[block_axes[axis]] + indices[block_axes[axis]] if axis in block_axes else indices[axis]
        for axis in range(len(shape))
    )
    dense[where] = stored[: len(where[0])]
    return dense


def _vector(level: Any, name: str) -> npt.NDArray[np.int64]:
    """A level's segments or indices, whose width schema.fbs leaves open (Int32Vector, Uint16Vector, Uint8Vector)."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}
    vector = kinds[getattr(level, f"{name}Type")()]()
    table = getattr(level, name)()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)


def _weights(content: bytes) -> list[Weights]:
    file = TFLiteFile(content)
    return read_weights(file, read_subgraphs(file))
