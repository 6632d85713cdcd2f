"""The bookkeeping between the journal and MLflow: what of a run has been written, and to which store.

    runs/<run id>/tracked.json   per store: the MLflow run of the run and of each stage, and what was last written to it
    runs/.tracking.lock          held while one process writes to MLflow for this home

A digest stands for "written in full" and is noted after the writing. Whatever a crash leaves between the two is written again to
the same MLflow run, which is found by its tags.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, Field

from components.errors import TflineError
from components.records import Journal, RunRecord, StageRecord, write_atomically


class StageNote(BaseModel):
    """The MLflow run of a stage, and the digest of the record that it holds in full ("": of none yet)."""

    run: str = ""
    digest: str = ""


class Note(BaseModel):
    """What one store has of one run. `pushed` says how the registration ended, "" while there is none."""

    run: str = ""
    digest: str = ""
    stages: dict[str, StageNote] = Field(default_factory=dict)
    pushed: str = ""


class _Tracked(BaseModel):
    stores: dict[str, Note] = Field(default_factory=dict)


class Ledger:
    """A run's tracked.json, seen from one store; `note` is changed in place and written by `save`.

    Args:
        run_dir: The folder of the run's records.
        store: The store's address, without credentials.
    """

    def __init__(self, run_dir: Path, store: str) -> None:
        self._path = run_dir / "tracked.json"
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else "{}"
        self._tracked = _Tracked.model_validate_json(text)
        self.note = self._tracked.stores.setdefault(store, Note())

    def save(self) -> None:
        """Writes the file, by an atomic rename."""
        write_atomically(self._path, self._tracked.model_dump_json(indent=1))


@dataclass(frozen=True)
class Snapshot:
    """The records of a run as they are to be shown, and their digest."""

    run: RunRecord
    stages: dict[str, StageRecord]
    digest: str

    def last_sign(self) -> float:
        """The latest time in the records, in seconds since the epoch: the end of a run that could not note its own."""
        times = [self.run.started, self.run.finished, *(time for s in self.stages.values() for time in (s.started, s.finished))]
        return max(time for time in times if time is not None)


def snapshot(journal: Journal, run_id: str) -> Snapshot:
    """Reads a run; where its process is gone without a word, the run and its running stages count as interrupted."""
    run, stages = effective_run(journal, run_id), journal.stages(run_id)
    if run.state == "interrupted":
        gone = {name: stage for name, stage in stages.items() if stage.state == "running"}
        stages |= {name: stage.model_copy(update={"state": "interrupted"}) for name, stage in gone.items()}
    return Snapshot(run, stages, digest(run, *stages.values()))


def effective_run(journal: Journal, run_id: str) -> RunRecord:
    """A run's record; "interrupted" where it says "running" and the process is gone."""
    run = journal.run(run_id)
    return run.model_copy(update={"state": "interrupted"}) if run.state == "running" and not _alive(run) else run


def digest(*records: RunRecord | StageRecord) -> str:
    """SHA-256 over records. Defaults are left out: a field that a later version adds must not make old runs look new."""
    text = "\n".join(record.model_dump_json(exclude_defaults=True) for record in records)
    return hashlib.sha256(text.encode()).hexdigest()


def lock(journal: Journal) -> FileLock:
    """The lock to hold while writing; raises filelock.Timeout after 30 seconds."""
    journal.root.mkdir(parents=True, exist_ok=True)
    return FileLock(journal.root / ".tracking.lock", timeout=30)


def run_ids(journal: Journal) -> list[str]:
    """The ids of all runs, the oldest first. A record that cannot be read counts as the oldest, and fails when it is its turn."""
    starts: dict[str, float] = {}
    for path in journal.root.glob("*/run.json"):
        try:
            starts[path.parent.name] = journal.run(path.parent.name).started
        except (OSError, ValueError, TflineError):
            starts[path.parent.name] = 0.0
    return sorted(starts, key=lambda name: (starts[name], name))


def _alive(run: RunRecord) -> bool:
    """Whether the run's process exists. Of a process on another host nothing can be known: it counts as alive."""
    if run.host != socket.gethostname():
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
