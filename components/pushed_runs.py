"""What the journal knows of the run that pushed a version: read from files alone, without a tracking server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from components.records import Journal

_STAGES = ("evaluate", "optimize")
"""The stages that measure how good a model is."""


@dataclass(frozen=True)
class PushedRun:
    """A run.

    Attributes:
        run_id: Its id in the journal; "" for a version that no run pushed.
        mlflow: Its id in MLflow, by the address of the store; empty before it was written there.
        metrics: What evaluate and optimize measured.
    """

    run_id: str
    mlflow: dict[str, str]
    metrics: dict[str, float]


def pushed_run(home: Path, run_id: str) -> PushedRun:
    """Looks up a run; what is not there, or cannot be read any more, is left empty."""
    journal = Journal(home)
    if not run_id or journal.run_dir(run_id).parent.resolve() != journal.root.resolve():
        return PushedRun("", {}, {})
    try:
        stages = journal.stages(run_id)
    except (OSError, ValueError):
        return PushedRun(run_id, {}, {})
    metrics = {name: value for stage in _STAGES if stage in stages for name, value in stages[stage].summary.metrics.items()}
    return PushedRun(run_id, _mlflow_ids(journal.run_dir(run_id) / "tracked.json"), metrics)


def _mlflow_ids(path: Path) -> dict[str, str]:
    """From the ledger that components/tracking_sync.py keeps."""
    try:
        stores = json.loads(path.read_text(encoding="utf-8"))["stores"]
        return {address: note["run"] for address, note in stores.items() if note.get("run")}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
