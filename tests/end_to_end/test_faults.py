"""What goes wrong in a run, and that nothing is lost by it: kills, exceptions, bad data, broken models, dead trackers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from components.records import Journal
from serving.store import VersionStore
from tests.conftest import Command, Tfline
from tests.end_to_end.small import write_pipeline, write_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The small pipeline, pushed once; tests add runs of their own to the same home."""
    folder = tmp_path_factory.mktemp("small")
    commands = Tfline(folder / "home", folder)
    commands.folder = write_pipeline(folder / "pipeline")  # type: ignore[attr-defined]
    typed = commands("run", commands.folder)  # type: ignore[attr-defined]
    assert typed.code == 0, typed.output
    return commands


def test_the_inferred_schema_is_offered_and_accepted(small: Any) -> None:
    shown = small("schema", small.folder)
    assert shown.code == 0
    assert 'name: "label"' in shown.output
    assert f"To accept it: tfline schema {small.folder} --accept" in shown.output
    assert not (small.folder / "schema.pbtxt").exists()


def test_kill_during_training_then_resume(small: Any) -> None:
    command = small.start("run", small.folder, "--set", "train.epochs=120")
    run_id = _wait_for(lambda: _progressed(small.journal, command, "epoch 5/120"))
    os.kill(command.process.pid, signal.SIGKILL)
    assert command.wait().code == -signal.SIGKILL
    assert "interrupted" in small("runs").output
    started = time.time()
    typed = small("run", small.folder, "--resume")
    assert typed.code == 0, typed.output
    record, stages = small.last()
    assert record.run_id == run_id
    trained = stages["train"]
    assert trained.summary.metrics["resumed_at_epoch"] >= 5
    assert len(trained.summary.curves["loss"]) == 120
    before = [
        stage for stage in ("ingest", "statistics", "schema", "validate-data", "transform") if stages[stage].finished > started
    ]
    assert before == [], "finished stages were redone"


def test_python_exception_in_training_then_resume(small: Any, tmp_path: Path) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    hyperparameters = f"model.hyperparameters={{stone: '{stone}', at: 7}}"
    typed = small("run", small.folder, "--set", hyperparameters)
    assert typed.code == 1
    assert "Stage train failed: RuntimeError: stumbled over the stone" in typed.output
    assert f"To go on from here: tfline run {small.folder} --resume --home {small.home}" in typed.output
    assert "Traceback" not in typed.output
    stone.unlink()
    typed = small("run", small.folder, "--resume")
    assert typed.code == 0, typed.output
    trained = small.last()[1]["train"]
    assert trained.summary.metrics["resumed_at_epoch"] == 7
    assert len(trained.summary.curves["loss"]) == 40


def test_kill_during_push_then_resume(small: Any) -> None:
    store = VersionStore(small.home / "store", "small")
    before = [version.number for version in store.versions()]
    with FileLock(small.home / "store" / "small" / ".lock"):
        command = small.start("run", small.folder, "--set", "seed=2")
        run_id = _wait_for(lambda: _running(small.journal, command, "push"))
        time.sleep(1)
        os.kill(command.process.pid, signal.SIGKILL)
        command.wait()
        assert [version.number for version in store.versions()] == before
    typed = small("run", small.folder, "--resume")
    assert typed.code == 0, typed.output
    record, _ = small.last()
    assert record.run_id == run_id
    assert [version.number for version in store.versions()] == [*before, record.pushed.version]
    store.verify(record.pushed.version)
    assert record.pushed.new


def test_a_run_on_a_terminal_ends_with_the_whole_table(small: Any) -> None:
    ours, theirs = pty.openpty()
    code = "from pipelines.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(small.folder), "--to", "schema", "--home", str(small.home)]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    assert process.returncode == 0, shown.decode()
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "").split("small  run ")[-1]
    assert [line.split()[:2] for line in last.splitlines()[1:5]] == [
        ["ingest", "cached"],
        ["statistics", "cached"],
        ["schema", "cached"],
        ["validate-data", "skipped"],
    ]
    assert "12/12 stages" in last
    assert "Stopped after schema, as asked" in last


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        return b""


def test_two_runs_at_once(small: Any) -> None:
    first = small.start("run", small.folder, "--set", "train.epochs=60", "--to", "train")
    run_id = _wait_for(lambda: _running(small.journal, first, "train"))
    second = small("run", small.folder)
    assert second.code == 1
    assert f"process {first.process.pid} on " in second.output
    assert f"(run {run_id}) holds its lock. Wait for it, or stop that process." in second.output
    assert first.wait().code == 0


def test_an_interrupt_ends_every_process_and_tells_how_to_go_on(small: Any) -> None:
    command = small.start("run", small.folder, "--set", "train.epochs=500", "--set", "seed=3")
    _wait_for(lambda: _progressed(small.journal, command, "epoch 3/500"))
    os.kill(command.process.pid, signal.SIGINT)
    typed = command.wait(150)
    assert typed.code == 1
    assert "To go on from here:" in typed.output
    assert small.last()[0].state == "interrupted"
    assert small.states()["train"] == "interrupted"


def test_blocking_anomaly_stops_before_training(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipeline")
    tfline = Tfline(tmp_path / "home", tmp_path)
    assert tfline("run", folder, "--to", "schema").code == 0
    accepted = tfline("schema", folder, "--accept")
    assert (accepted.code, (folder / "schema.pbtxt").exists()) == (0, True)
    write_rows(folder / "data" / "worse.csv", 40, seed=9, label=7)
    typed = tfline("run", folder)
    assert typed.code == 3, typed.output
    assert "Refused by the data gate:" in typed.output
    assert "feature 'label' in split 'train':" in typed.output
    assert "7" in typed.output.partition("Refused by the data gate:")[2]
    states = tfline.states()
    assert (states["validate-data"], states["transform"], states["train"]) == ("refused", "pending", "pending")
    assert not (tfline.home / "store" / "small").exists()


def test_a_python_function_in_the_model_is_refused(small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    write_pipeline(folder)
    model = (folder / "model.py").read_text()
    broken = model.replace(
        "x = keras.layers.Dense(8",
        "x = keras.layers.Lambda(lambda t: tf.ensure_shape(tf.numpy_function(lambda v: v, [t], tf.float32), [None, 2]))(x)\n"
        "    x = keras.layers.Dense(8",
    )
    assert broken != model
    (folder / "model.py").write_text("import tensorflow as tf\n" + broken)
    before = [version.number for version in VersionStore(small.home / "store", "small").versions()]
    typed = small("run", folder, "--set", "train.epochs=1", "--set", "evaluate.thresholds.0.at_least=0.0")
    assert typed.code == 3, typed.output
    assert "Refused by the validation gate:" in typed.output
    assert "PyFunc" in typed.output
    assert [version.number for version in VersionStore(small.home / "store", "small").versions()] == before


def test_a_dead_tracking_server_costs_one_warning(small: Any) -> None:
    typed = small("run", small.folder, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert typed.code == 0, typed.output
    assert [line.startswith("warning: ") for line in typed.output.splitlines()].count(True) == 1
    run_id = small.last()[0].run_id
    tracked = small("track")
    assert tracked.code == 0, tracked.output
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{small.home}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id], f"tags.`tfline.run_id` = '{run_id}'")
    assert found


def test_a_changed_model_runs_what_depends_on_it(small: Any, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipeline")
    os.utime(folder / "data" / "rows.csv", None)
    typed = small("run", small.folder)
    (small.folder / "model.py").write_text((small.folder / "model.py").read_text().replace("Dense(8", "Dense(9"))
    typed = small("run", small.folder)
    assert typed.code == 0, typed.output
    states = small.states()
    assert {name for name, state in states.items() if state == "cached"} == {
        "ingest",
        "statistics",
        "schema",
        "validate-data",
        "transform",
    }
    assert {states[name] for name in ("train", "export", "validate-model", "champion", "evaluate", "optimize", "push")} == {
        "complete"
    }


def test_broken_input_names_the_file(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipeline")
    tfline = Tfline(tmp_path / "home", tmp_path)
    (folder / "data" / "broken.csv").write_text("a,b,label\n1.0,2.0\n3.0,4.0,1,5\n")
    typed = tfline("run", folder)
    assert typed.code == 1
    assert f"{folder}/data/broken.csv is not a whole csv file: line 2 has 2 values, the header 3" in typed.output


def _wait_for(condition: Callable[[], str], seconds: float = 180) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


def _progressed(journal: Journal, command: Command, text: str) -> str:
    assert command.process.is_alive(), command.wait().output
    return journal.runs()[0].run_id if text in command.output() else ""


def _running(journal: Journal, command: Command, stage: str) -> str:
    assert command.process.is_alive(), command.wait().output
    runs = journal.runs()
    found = runs and runs[0].state == "running" and runs[0].pid == command.process.pid
    return runs[0].run_id if found and journal.stages(runs[0].run_id)[stage].state == "running" else ""
