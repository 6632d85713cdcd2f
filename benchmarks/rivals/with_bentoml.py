"""BentoML's service on the net. `bentoml serve with_bentoml:NetService`."""

from __future__ import annotations

import os

import bentoml  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from net import Net  # type: ignore[import-not-found, unused-ignore]


@bentoml.service(workers=1)
class NetService:
    """`{"x": [...]}` → a list."""

    def __init__(self) -> None:
        self._net = Net(os.environ["WEIGHTS"])

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg, unused-ignore]
        """One request."""
        return self._net(x)  # type: ignore[no-any-return, unused-ignore]
