"""Which epoch of a training was the best, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EarlyStopping(BaseModel):
    """When to stop before the last epoch: after `patience` epochs without the monitored value getting better.

    Attributes:
        monitor: A name in the training's logs.
        mode: Whether smaller or larger values are better.
        patience: Epochs to wait.
        min_delta: A value that is better by no more than this does not count as better for the patience.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    patience: int = Field(default=5, ge=1)
    min_delta: float = Field(default=0.0, ge=0.0)

    def best(self, values: Sequence[float]) -> int:
        """Index of the best value, the first of equals; `values` has one finite number an epoch, at least one."""
        return values.index(min(values) if self.mode == "min" else max(values))

    def waited(self, values: Sequence[float]) -> int:
        """Epochs since the last improvement by more than `min_delta`; 0 when the last epoch was one, or there is none."""
        sign = 1 if self.mode == "max" else -1
        best, waited = float("-inf"), 0
        for value in values:
            waited += 1
            if sign * value - self.min_delta > best:
                best, waited = sign * value, 0
        return waited
