"""The journal of runs: what happened, as small JSON files under `<home>/runs/<run id>/`.

    run.json             the run: RunRecord
    stages/<stage>.json  one a stage: StageRecord
    logs/<stage>.log     what the stage printed

The runner writes it; `tfline runs`, `tfline show` and the tracking read it. It is the truth about a run: MLflow gets a copy, so
that a tracking server that is down loses nothing. Every file appears by an atomic rename.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from components.errors import TflineError
from components.summary import Refusal, Summary

StageState = Literal["pending", "running", "complete", "cached", "skipped", "refused", "failed", "interrupted"]
RunState = Literal["running", "complete", "refused", "failed", "interrupted"]


class StageRecord(BaseModel):
    """One stage of one run.

    Attributes:
        stage: The stage's name, which is also its TFX node id.
        started, finished: Seconds since the epoch, None before.
        inputs, outputs: Key to artifact URIs.
        code_digest: SHA-256 (hex) of the code the stage depends on, ours and the user's.
        data_digest: Fingerprint of the data the run was made from; "" before ingest.
        summary: What the stage says of itself; for a cached stage, read again from its cached outputs.
        error: For a failed stage, one message without traceback.
        log: Path of the log, "" when nothing ran.
        spec_digest: SHA-256 of all that the stage was asked to do (its node in the compiled pipeline).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    stage: str
    state: StageState = "pending"
    started: float | None = None
    finished: float | None = None
    inputs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    code_digest: str = ""
    data_digest: str = ""
    spec_digest: str = ""
    summary: Summary = Field(default_factory=Summary)
    error: str = ""
    log: str = ""


class Pushed(BaseModel):
    """The version that a run ended with.

    Attributes:
        digest: Of the SavedModel as it was exported (`model_digest` in the version's manifest), without what push added.
        new: False when the same model was in the store already.
        tflite_differs: The run made another TFLite file than the one that this version has; versions never change, so it stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    path: str
    digest: str
    new: bool
    tflite_path: str = ""
    tflite_differs: bool = False


class RunRecord(BaseModel):
    """One run of a pipeline.

    Attributes:
        folder: The pipeline's folder, absolute.
        config: The whole resolved configuration, as JSON types; it never holds secrets.
        stages: The stages' names in the order of the graph.
        request: SHA-256 of all that was asked for and of the input's state (pipelines/unchanged.py).
        outside: SHA-256 of what stages found outside the pipeline when the run had ended.
        same_as: The run whose results these are, when nothing had changed since; "" for a run that TFX made.
        refusals: What the gates said, when `state` is "refused".
        error: One message, when `state` is "failed".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    run_id: str
    pipeline: str
    folder: str
    state: RunState = "running"
    started: float
    finished: float | None = None
    pid: int
    host: str
    config: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[str, ...] = ()
    request: str = ""
    outside: str = ""
    same_as: str = ""
    pushed: Pushed | None = None
    refusals: tuple[Refusal, ...] = ()
    error: str = ""
    exit_code: int = 0


_Record = TypeVar("_Record", RunRecord, StageRecord)


class Journal:
    """The records of one home folder (`.tfline` by default)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "runs"

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run's records; it need not exist."""
        return self.root / run_id

    def log_path(self, run_id: str, stage: str) -> Path:
        """Where a stage's output goes; the folder is made."""
        path = self.run_dir(run_id) / "logs" / f"{stage}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_run(self, record: RunRecord) -> None:
        """Writes or replaces a run's record."""
        write_atomically(self.run_dir(record.run_id) / "run.json", record.model_dump_json(indent=1))

    def write_stage(self, run_id: str, record: StageRecord) -> None:
        """Writes or replaces a stage's record."""
        write_atomically(self.run_dir(run_id) / "stages" / f"{record.stage}.json", record.model_dump_json(indent=1))

    def run(self, run_id: str) -> RunRecord:
        """Reads a run's record; FileNotFoundError when there is none."""
        return _read(self.run_dir(run_id) / "run.json", RunRecord)

    def stages(self, run_id: str) -> dict[str, StageRecord]:
        """Reads the stages of a run, in the order of its graph; stages that have no record yet come as pending."""
        run = self.run(run_id)
        found: dict[str, StageRecord] = {}
        for stage in run.stages:
            path = self.run_dir(run_id) / "stages" / f"{stage}.json"
            found[stage] = _read(path, StageRecord) if path.exists() else StageRecord(stage=stage)
        return found

    def runs(self, pipeline: str | None = None) -> list[RunRecord]:
        """All runs, the newest first; of one pipeline when `pipeline` is given."""
        records = [_read(path, RunRecord) for path in self.root.glob("*/run.json")]
        chosen = [record for record in records if pipeline is None or record.pipeline == pipeline]
        return sorted(chosen, key=lambda record: record.started, reverse=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader sees the old content or the new, never a part. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: what it makes only its owner may read, and a server or another container may run as somebody else.
    staging = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with staging.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def _read(path: Path, kind: type[_Record]) -> _Record:
    try:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        what = str(error).splitlines()[0]
        raise TflineError(
            f"{path}: expected a {kind.__name__} as this version of tfline writes it: {what}; move its run's folder away"
        ) from error
