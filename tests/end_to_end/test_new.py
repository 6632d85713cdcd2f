"""What a newcomer types: `tfline new`, then what it says to type next, then a look at the run."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from serving.store import VersionStore
from tests.conftest import Tfline

pytestmark = pytest.mark.slow


def test_a_new_pipeline_runs_to_a_pushed_model(tfline: Tfline, tmp_path: Path) -> None:
    made = CliRunner().invoke(main, ["new", str(tmp_path / "my_pipeline")])
    assert made.exit_code == 0, made.output
    (following,) = [shlex.split(line) for line in made.output.splitlines() if line.startswith("  tfline ")]
    assert following == ["tfline", "run", str(tmp_path / "my_pipeline")]

    ran = tfline(*following[1:])
    assert ran.code == 0, ran.output
    assert "Pushed my-pipeline version 1" in ran.output
    record, stages = tfline.last("my-pipeline")
    assert {name: stage.state for name, stage in stages.items()} == dict.fromkeys(record.stages, "complete")
    assert {"train", "export", "optimize", "push"} <= set(record.stages)
    for store in ("store", "store-tflite"):
        VersionStore(tfline.home / store, "my-pipeline").verify(1)
    # Learnable, above its own threshold with room, and not so easy that any model would do.
    assert 0.9 < stages["evaluate"].summary.metrics["accuracy"] < 0.99
    assert stages["evaluate"].summary.metrics["accuracy"] - stages["optimize"].summary.metrics["accuracy_tflite"] < 0.02
    assert sum(stages["statistics"].summary.metrics[f"{split}_examples"] for split in ("train", "validation", "eval")) == 3000

    shown = tfline("show", "last")
    assert shown.code == 0, shown.output
    assert record.run_id in shown.output and "my-pipeline version 1" in shown.output
    assert all(stage in shown.output for stage in record.stages)
    assert max(len(line) for line in shown.output.splitlines() if "/" not in line) <= 80
