"""The live table on a terminal of 80 columns, and plain lines elsewhere."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from pathlib import Path

import pytest
from rich.console import Console

from components.errors import TflineError
from components.records import Journal, RunRecord, StageRecord
from components.summary import Refusal, Summary
from pipelines.history import find_run, state_of
from pipelines.run_lock import run_lock
from pipelines.view import RunView

STAGES = ("ingest", "train", "push")


def record(stage: str, state: str, **more: object) -> StageRecord:
    return StageRecord.model_validate({"stage": stage, "state": state, "started": time.time() - 3, **more})


def test_plain_lines_say_each_change_once_and_what_comes_next() -> None:
    console = Console(file=io.StringIO(), width=80)
    with RunView(console, "a run", STAGES) as view:
        view.stage(record("ingest", "running"))
        view.stage(record("ingest", "complete", summary=Summary(headline="9 files")))
        view.stage(record("ingest", "complete", summary=Summary(headline="9 files")))
        view.stage(record("train", "running"), "epoch 1/2")
        refused = Summary(refusal=Refusal(gate="data", reasons=("too old",)))
        view.stage(record("push", "refused", summary=refused))
    assert isinstance(console.file, io.StringIO)
    lines = [line[9:].split() for line in console.file.getvalue().splitlines()[1:]]
    assert lines == [
        ["ingest", "running", "then", "train"],
        ["ingest", "complete", "9", "files"],
        ["train", "epoch", "1/2"],
        ["push", "refused", "too", "old"],
    ]


def test_the_table_fits_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with RunView(console, "a run", STAGES) as view:
        view.stage(record("ingest", "complete", summary=Summary(headline="a very long headline " * 9)))
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().replace("\r", "\n").splitlines()
    assert max(len(line.encode().replace(b"\x1b[2K", b"")) for line in last if "headline" in line) <= 90
    assert "1/3 stages" in console.file.getvalue()
    assert "next: train" in console.file.getvalue()


def test_the_lock_says_who_holds_it_and_is_free_again(tmp_path: Path) -> None:
    with run_lock(tmp_path, "digits", "run-1"):
        holder = json.loads((tmp_path / "locks" / "digits.json").read_text())
        assert (holder["pid"], holder["run_id"]) == (os.getpid(), "run-1")
        with (
            pytest.raises(TflineError, match=rf"process {os.getpid()} on .* \(run run-1\) holds its lock"),
            run_lock(tmp_path, "digits", "run-2"),
        ):
            pass
        with run_lock(tmp_path, "another", "run-3"):
            pass
    with run_lock(tmp_path, "digits", "run-4"):
        pass


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number, pid in enumerate((os.getpid(), 2**22 + 1)):
        host = socket.gethostname()
        journal.write_run(RunRecord(run_id=f"r{number}", pipeline="p", folder="f", started=number, pid=pid, host=host))
    assert [state_of(found) for found in journal.runs()] == ["interrupted", "running"]
    assert find_run(journal, "last").run_id == "r1"
    assert find_run(journal, "r0").run_id == "r0"
    with pytest.raises(TflineError, match=r"2 runs in .* begin with 'r'"):
        find_run(journal, "r")
