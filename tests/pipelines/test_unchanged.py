"""When a run has nothing to do, and everything that has to make it look again; nothing here imports TensorFlow or TFX."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from components import ingest
from components.layout import SERVING_DIR
from components.records import Journal, Pushed, RunRecord, StageRecord
from pipelines import unchanged
from pipelines.config import PipelineConfig, load_config
from pipelines.graph import STAGES, UserCode, looking_outside, module_of, stages_of
from serving.store import VersionStore, tree_digest

MODEL = "def build_model(inputs, config):\n    ...\n\n\ndef preprocessing_fn(inputs):\n    ...\n"
YAML = """\
name: small
ingest: {format: csv, path: data}
model: {label: y}
train: {strategy: none}
validate_model:
  signatures:
    serving_default:
      inputs: {examples: {dtype: string, shape: [null]}}
      outputs: {probabilities: {dtype: float32, shape: [null, 2]}}
evaluate:
  metrics: {accuracy: {kind: SparseCategoricalAccuracy}}
  thresholds: [{metric: accuracy, at_least: 0.5}]
"""


@dataclass(frozen=True)
class Line:
    """A pipeline's folder and home, after one run that is only written down."""

    folder: Path
    home: Path

    @property
    def config(self) -> PipelineConfig:
        return load_config(self.folder, self.home)

    @property
    def journal(self) -> Journal:
        return Journal(self.home)

    @property
    def store(self) -> VersionStore:
        return VersionStore(self.home / "store", "small")

    def request(self) -> str:
        config = self.config
        return unchanged.request_digest(config, self.folder, UserCode.of(self.folder, config), ingest.input_files(config.ingest))

    def same(self) -> RunRecord | None:
        return unchanged.same_run(self.journal, self.config, self.request())


@pytest.fixture
def line(tmp_path: Path) -> Line:
    made = Line(tmp_path / "pipeline", tmp_path / "home")
    (made.folder / "data").mkdir(parents=True)
    (made.folder / "data" / "a.csv").write_text("x,y\n1,0\n", encoding="utf-8")
    (made.folder / "pipeline.yaml").write_text(YAML, encoding="utf-8")
    (made.folder / "model.py").write_text(MODEL, encoding="utf-8")
    model = made.home / "artifacts" / "model"
    (model / SERVING_DIR).mkdir(parents=True)
    (model / SERVING_DIR / "saved_model.pb").write_bytes(b"model")
    digest = tree_digest(model / SERVING_DIR)
    version = made.store.publish(model / SERVING_DIR, metadata={"champion_version": "0", "champion_digest": ""})
    pushed = Pushed(model="small", version=version.number, path=str(version.path), digest=digest, new=True)
    config = made.config
    stages = {
        name: StageRecord(stage=name, state="complete", inputs={"model": (str(model),)}, outputs={"made": (str(model),)}, log="x")
        for name in stages_of(config, UserCode.of(made.folder, config))
    }
    record = RunRecord(
        run_id="first",
        pipeline="small",
        folder=str(made.folder),
        state="complete",
        started=1.0,
        pid=1,
        host="",
        stages=tuple(stages),
        request=made.request(),
        outside=unchanged.outside_digest(config, stages),
        pushed=pushed,
    )
    made.journal.write_run(record)
    for stage in stages.values():
        made.journal.write_stage("first", stage)
    return made


def test_the_run_that_did_it_is_found(line: Line) -> None:
    found = line.same()
    assert found is not None
    assert found.run_id == "first"


def _touch(path: Path) -> None:
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def _stage(line: Line, **update: object) -> None:
    record = line.journal.stages("first")["train"]
    line.journal.write_stage("first", record.model_copy(update=update))


def _run(line: Line, **update: object) -> None:
    line.journal.write_run(line.journal.run("first").model_copy(update=update))


CHANGES: dict[str, Callable[[Line], object]] = {
    "configuration": lambda line: _append(line.folder / "pipeline.yaml", "seed: 5\n"),
    "code": lambda line: _append(line.folder / "model.py", "\n\nsize = 3\n"),
    "new file": lambda line: (line.folder / "data" / "b.csv").write_text("x,y\n1,0\n", encoding="utf-8"),
    "file written again": lambda line: _touch(line.folder / "data" / "a.csv"),
    "file of another size": lambda line: _append(line.folder / "data" / "a.csv", "2,1\n"),
    "artifact removed": lambda line: shutil.rmtree(line.home / "artifacts" / "model"),
    "version removed from the store": lambda line: shutil.rmtree(line.home / "store" / "small" / "1"),
    "stage that was skipped": lambda line: _stage(line, state="skipped"),
    "run that failed": lambda line: _run(line, state="failed"),
    "run without a result": lambda line: _run(line, pushed=None),
    "run of an older tfline": lambda line: _run(line, request="", outside=""),
    "store that could not be read": lambda line: _run(line, outside=""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_makes_it_look_again(line: Line, change: Callable[[Line], object]) -> None:
    change(line)
    assert line.same() is None


def test_a_curated_schema_counts_by_content(line: Line) -> None:
    before = line.request()
    schema = line.folder / line.config.schema_file
    schema.parent.mkdir(exist_ok=True)
    schema.write_text('feature { name: "x" type: FLOAT }\n', encoding="utf-8")
    first = line.request()
    schema.write_text('feature { name: "x" type: INT }\n', encoding="utf-8")
    assert len({before, first, line.request()}) == 3


def test_an_installed_package_counts(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = line.request()
    (tmp_path / "site" / "another-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert line.request() != before


def test_a_version_of_another_model_changes_who_the_champion_would_be(line: Line, tmp_path: Path) -> None:
    """What a candidate is measured against is decided when it is pushed, so a version after it changes nothing."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "saved_model.pb").write_bytes(b"another")
    line.store.publish(tmp_path / "other", metadata={})
    assert line.same() is not None
    stages = line.journal.stages("first")
    unknown = line.home / "artifacts" / "unknown"
    shutil.copytree(tmp_path / "other", unknown / SERVING_DIR)
    (unknown / SERVING_DIR / "saved_model.pb").write_bytes(b"never pushed")
    inputs = {"model": (str(unknown),)}
    candidate = {name: record.model_copy(update={"inputs": inputs}) for name, record in stages.items()}
    before = unchanged.outside_digest(line.config, candidate)
    (tmp_path / "other" / "saved_model.pb").write_bytes(b"third")
    line.store.publish(tmp_path / "other", metadata={})
    assert unchanged.outside_digest(line.config, candidate) != before


def test_what_cannot_be_looked_at_is_no_answer(line: Line) -> None:
    stages = line.journal.stages("first")
    assert unchanged.outside_digest(line.config, {**stages, "push": replace_inputs(stages["push"])}) == ""


def replace_inputs(record: StageRecord) -> StageRecord:
    return record.model_copy(update={"inputs": {}})


def test_every_stage_that_looks_outside_is_asked(line: Line) -> None:
    modules = {stage: importlib.import_module(module_of(stage)) for stage in STAGES}
    assert set(looking_outside(line.config)) == {stage for stage, module in modules.items() if hasattr(module, "resolve")}
    assert "infra-validate" not in looking_outside(line.config.model_copy(update={"infra_validate": None}))


def test_a_stage_of_a_run_with_nothing_to_do(line: Line) -> None:
    before = line.journal.stages("first")["train"]
    now = unchanged.cached(before)
    assert (now.state, now.log, now.outputs) == ("cached", "", before.outputs)
    assert now.started is not None
    assert json.loads(now.model_dump_json())["finished"] >= now.started
