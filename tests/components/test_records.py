"""The journal: what is written can be read, always whole, by anybody."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from components.errors import TflineError
from components.records import Journal, Pushed, RunRecord, StageRecord, write_atomically
from components.summary import Refusal, Summary, Table


def run_record(run_id: str, *, started: float = 1.0, pipeline: str = "digits", stages: tuple[str, ...] = ()) -> RunRecord:
    return RunRecord(run_id=run_id, pipeline=pipeline, folder="/p", started=started, pid=7, host="here", stages=stages)


def test_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    pushed = Pushed(model="digits", version=3, path="/store/digits/3", digest="ab", new=True)
    refusal = Refusal(gate="data", reasons=("ü: 1 > 0",))
    record = run_record("r1").model_copy(
        update={"state": "refused", "finished": 2.5, "config": {"a": [1, None]}, "pushed": pushed, "refusals": (refusal,)}
    )
    journal.write_run(record)
    assert journal.run("r1") == record
    assert (tmp_path / "runs" / "r1" / "run.json").is_file()


def test_stage_comes_back_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write_run(run_record("r1", stages=("train",)))
    summary = Summary(
        headline="3 epochs",
        metrics={"loss": float("inf"), "zero": 0.0},
        curves={"loss": (1.0, 0.5)},
        tables={"t": Table(columns=("a", "b"), rows=((1, "x"), (None, True)))},
    )
    record = StageRecord(stage="train", state="complete", outputs={"model_run": ("/a", "/b")}, summary=summary)
    journal.write_stage("r1", record)
    assert journal.stages("r1") == {"train": record}


def test_stages_come_in_the_order_of_the_graph_and_pending_before_they_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write_run(run_record("r1", stages=("ingest", "train", "push")))
    for stage in ("push", "ingest"):
        journal.write_stage("r1", StageRecord(stage=stage, state="complete"))
    assert [(name, record.state) for name, record in journal.stages("r1").items()] == [
        ("ingest", "complete"),
        ("train", "pending"),
        ("push", "complete"),
    ]


def test_runs_newest_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.runs() == []
    for run_id, started, pipeline in (("b", 2.0, "digits"), ("c", 1.0, "trips"), ("a", 3.0, "digits")):
        journal.write_run(run_record(run_id, started=started, pipeline=pipeline))
    (tmp_path / "runs" / "without-record").mkdir()
    assert [record.run_id for record in journal.runs()] == ["a", "b", "c"]
    assert [record.run_id for record in journal.runs("trips")] == ["c"]


def test_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path).run("nobody")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"run_id": "r1", "pipe', "Unterminated string starting at: line 1 column 18 (char 17)"),
        ('{"run_id": "r1"}', "5 validation errors for RunRecord"),
    ],
)
def test_record_that_cannot_be_read_is_named(text: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "runs" / "r1" / "run.json"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TflineError) as caught:
        Journal(tmp_path).runs()
    said = f"{file}: expected a RunRecord as this version of tfline writes it: {what}; move its run's folder away"
    assert str(caught.value) == said


@pytest.mark.parametrize("field", [{"state": "done"}, {"surprise": 1}])
def test_states_and_fields_are_fixed(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        StageRecord.model_validate({"stage": "train", **field})


def test_log_path_has_a_folder(tmp_path: Path) -> None:
    path = Journal(tmp_path).log_path("r1", "train")
    path.write_text("noise", encoding="utf-8")
    assert path == tmp_path / "runs" / "r1" / "logs" / "train.log"


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """One thread replaces a file as fast as it can, with contents of very different lengths; another reads all the while."""
    path, stop = tmp_path / "run.json", threading.Event()
    texts = [json.dumps({"fill": fill * 200_000, "end": True}) if fill else json.dumps({"end": True}) for fill in ("", "a", "b")]
    write_atomically(path, texts[0])

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_atomically(path, texts[number % 3])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen: list[str] = []
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (len(seen) < 1000 or len(set(seen)) < len(texts)):
            seen.append(path.read_text(encoding="utf-8"))
    finally:
        stop.set()
        writer.join()
    assert set(seen) == set(texts), "every content was met, and none but these"
    assert [found.name for found in tmp_path.iterdir()] == ["run.json"]


def test_others_may_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "new" / "file.json", "{}")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "file.json").stat().st_mode & 0o777 == 0o644


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udcff")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
