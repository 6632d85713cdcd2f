from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.variants.weights import Asked, _Values, unpack


class Level:
    """A dimension of a sparse tensor as schema.fbs has it: dense of a size, or compressed with segments and indices."""

    def __init__(self, size: int = 0, segments: Any = None, indices: Any = None) -> None:
        self._size, self.segments, self.indices = size, segments, indices

    def Format(self) -> int:
        return int(self.segments is not None)

    def DenseSize(self) -> int:
        return self._size


class Sparsity:
    """`SparsityParameters` of schema.fbs."""

    def __init__(self, order: list[int], block_map: list[int], levels: list[Level]) -> None:
        self._order, self._map, self._levels = order, block_map, levels

    def TraversalOrder(self, index: int) -> int:
        return self._order[index]

    def TraversalOrderLength(self) -> int:
        return len(self._order)

    def BlockMap(self, index: int) -> int:
        return self._map[index]

    def BlockMapLength(self) -> int:
        return len(self._map)

    def DimMetadata(self, index: int) -> Level:
        return self._levels[index]

    def DimMetadataLength(self) -> int:
        return len(self._levels)


@pytest.fixture(autouse=True)
def plain_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"ArraySegments": "segments", "ArrayIndices": "indices"}
    monkeypatch.setattr(
        "components.variants.weights._vector", lambda level, name: np.array(getattr(level, names[name]), np.int64)
    )


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.3, 0.9]))
def test_a_compressed_matrix_is_unpacked(rows: int, columns: int, seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    dense = np.where(generator.uniform(size=(rows, columns)) < share, generator.integers(1, 9, (rows, columns)), 0)
    segments = np.concatenate([[0], np.cumsum((dense != 0).sum(axis=1))])
    indices = np.concatenate([np.flatnonzero(row) for row in dense])
    sparsity = Sparsity([0, 1], [], [Level(rows), Level(0, segments, indices)])
    assert (unpack(dense[dense != 0], (rows, columns), sparsity) == dense).all()


def test_blocks_are_put_where_they_belong() -> None:
    """The example of tensorflow/lite/kernels/internal/utils/sparsity_format_converter.h, in our own numbers."""
    dense = np.zeros((4, 4), np.int64)
    dense[:2, :2] = [[1, 2], [3, 4]]
    dense[2:, 2:] = [[5, 6], [7, 8]]
    # Two by two blocks: block rows are dense, block columns compressed, what is in a block is dense.
    levels = [Level(2), Level(0, [0, 1, 2], [0, 1]), Level(2), Level(2)]
    sparsity = Sparsity([0, 1, 2, 3], [0, 1], levels)
    assert (unpack(np.arange(1, 9), (4, 4), sparsity) == dense).all()


def values(array: Any, scales: int = 0, channel: int = 0) -> _Values:
    found = _Values.__new__(_Values)
    found._values, found._scales, found._channel = np.asarray(array), scales, channel
    return found


def asked(array: Any, **wanted: Any) -> Asked:
    return Asked(layer="x", values=np.asarray(array).size, **wanted)


def test_sparsity_may_be_one_weight_short() -> None:
    ten = np.array([[0] * 7 + [1] * 3])
    assert values(ten).misses(asked(ten, sparsity=0.8)) == ""
    assert "0.7000 of its weights are zero, at least 0.85 expected" in values(ten).misses(asked(ten, sparsity=0.85))


def test_two_of_four_is_counted_along_the_inputs() -> None:
    good = np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]])
    assert values(good).misses(asked(good, two_of_four=True)) == ""
    bad = np.array([[0, 1, 1, 1, 0]])
    assert values(bad).misses(asked(bad, two_of_four=True)) == "3 of four weights in a row are not zero, at most 2 expected"


def test_blocks_must_be_zero_as_a_whole() -> None:
    half = np.array([[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]])
    assert values(half).misses(asked(half, sparsity=0.5, block=(4, 1))) == ""
    spread = np.array([[0, 1] * 8] * 4)
    assert "0.0000 of its blocks of (4, 1) are zero as a whole" in values(spread).misses(
        asked(spread, sparsity=0.5, block=(4, 1))
    )


def test_clusters_are_counted_for_each_scale() -> None:
    scaled = np.array([[1, 2, 1, 2], [3, 4, 3, 4]])
    assert values(scaled).misses(asked(scaled, clusters=2)) == "it has 4 different values, at most 2 expected"
    assert values(scaled, scales=2).misses(asked(scaled, clusters=2)) == ""
    assert values(scaled).misses(asked(scaled, clusters=2, scaled=True)) == ""
    assert values(scaled.T, scales=2, channel=1).misses(asked(scaled, clusters=2)) == ""
