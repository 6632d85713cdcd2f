"""What a stage says of itself once it is done: one form for the live view, the run's records and MLflow.

Every stage module has a function `summarise(outputs) -> Summary` that reads nothing but the stage's output artifacts, so that a
stage taken from the cache, and one that ran on a cluster, can be described exactly like one that has just run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Outputs = Mapping[str, Sequence[str]]
"""Output key of the stage (as in its component spec) to the URIs of the artifacts under it."""


SUMMARY_FILE = "summary.json"
"""A gate's summary, in the folder of its report, for whoever must not go on after a refusal."""


class Table(BaseModel):
    """A small table of results, rows in reading order; cells are str, int, float, bool or None."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


class Refusal(BaseModel):
    """Why a gate did not let a run go on. One line a reason, each naming what was measured and the limit it broke.

    Attributes:
        gate: Which gate: "data", "validation", "evaluation", "accuracy", "size", "latency", "integer" or
            "infra".
        reasons: At least one sentence, for people: what was expected, what came, by how much.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    reasons: tuple[str, ...] = Field(min_length=1)


class Summary(BaseModel):
    """A stage's results in a form that can be shown and tracked.

    Attributes:
        headline: One figure or fact for the live view, at most about 50 characters.
        metrics: Single numbers, by name; unit in the name where it has one (`bytes`, `seconds`, `accuracy`).
        params: What the stage was told or found out that is not a number to be plotted.
        curves: One list a metric, one value an epoch, from epoch 0.
        tables: Result tables, by name.
        nested: Metrics of each of several things that the stage made, by the thing's name.
        files: Absolute paths of report files worth keeping with the record of the run.
        refusal: Set when the stage is a gate and it refused; whatever depends on the stage must not run.
    """

    # A loss may well be NaN; JSON as pydantic writes it by default would read back as nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    headline: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    params: dict[str, str] = Field(default_factory=dict)
    curves: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    tables: dict[str, Table] = Field(default_factory=dict)
    nested: dict[str, dict[str, float]] = Field(default_factory=dict)
    files: tuple[str, ...] = ()
    refusal: Refusal | None = None
