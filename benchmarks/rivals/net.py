"""The function that every server of benchmarks/serving.py answers: a dense net of 64 → 128 → 10, here in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FEATURES, HIDDEN, CLASSES = 64, 128, 10

Array = np.ndarray[Any, Any]


def write_weights(file: Path) -> None:
    """Weights from a fixed seed, float32."""
    chance = np.random.default_rng(0)
    first, second = chance.normal(size=(FEATURES, HIDDEN)) / 8, chance.normal(size=(HIDDEN, CLASSES)) / 11
    np.savez(file, first=first.astype(np.float32), second=second.astype(np.float32))


class Net:
    """relu(x·first)·second: x [rows, 64] float32 → [rows, 10] float32."""

    def __init__(self, file: str | Path) -> None:
        weights = np.load(file, allow_pickle=False)
        self._first, self._second = weights["first"], weights["second"]

    def __call__(self, x: Array) -> Array:
        """The scores."""
        found: Array = np.maximum(np.asarray(x, np.float32) @ self._first, 0) @ self._second
        return found
