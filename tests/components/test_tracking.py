"""Journals written by hand, copied to MLflow, and read back through MLflow's own client."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components import tracking
from components.errors import UsageError
from components.records import Journal, Pushed, RunRecord, StageRecord
from components.summary import Refusal, Summary, Table
from components.tracking_limits import safe_names
from components.tracking_store import connected, scrub, tracking_uri, without_credentials
from components.tracking_sync import Ledger

T0 = 1_750_000_000.0
SECRET = "hunter2-no-one-may-see"


@pytest.fixture(autouse=True)
def no_tracking_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # MLflow takes three seconds to make its tables: made once and copied.
    home = tmp_path_factory.mktemp("template")
    with connected(home):
        pass
    return home / "mlflow" / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Path:
    # A space and an umlaut: the folder becomes part of URIs.
    home = tmp_path / "hôme of tfline"
    (home / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, home / "mlflow" / "mlflow.db")
    return home


def a_run(run_id: str = "run-1", **changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "run_id": run_id,
        "pipeline": "digits",
        "folder": "/pipelines/digits",
        "state": "complete",
        "started": T0,
        "finished": T0 + 60,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "stages": ("ingest",),
    }
    return RunRecord(**fields | changes)


def write(home: Path, run: RunRecord, *stages: StageRecord) -> None:
    Journal(home).write_run(run)
    for stage in stages:
        Journal(home).write_stage(run.run_id, stage)


def stage(name: str = "ingest", state: Any = "complete", **changes: Any) -> StageRecord:
    return StageRecord(**{"stage": name, "state": state, "started": T0 + 1, "finished": T0 + 5, **changes})


def client_of(home: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(home))


def runs_of(client: Any, pipeline: str = "digits") -> tuple[dict[str, Any], dict[str, Any]]:
    """Parents by run id and nested runs by stage; asserts that there is one of each."""
    experiment = client.get_experiment_by_name(pipeline)
    parents: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        tags = run.data.tags
        kind, key = (
            (nested, f"{tags['tfline.run_id']}/{tags['tfline.stage']}")
            if "tfline.stage" in tags
            else (parents, tags["tfline.run_id"])
        )
        assert key not in kind, f"{key} is there twice"
        kind[key] = run
    for run in nested.values():
        assert run.data.tags["mlflow.parentRunId"] == parents[run.data.tags["tfline.run_id"]].info.run_id
    return parents, nested


def artifact(client: Any, run: Any, path: str) -> str:
    return Path(client.download_artifacts(run.info.run_id, path)).read_text(encoding="utf-8")


def history(client: Any, run: Any, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def saved_model(folder: Path, text: str = "model") -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text(text)
    (folder / "variables" / "variables.index").write_text(text)
    return folder


def full_run(home: Path, folder: Path, run_id: str = "run-1") -> None:
    """A run with everything that a record can hold."""
    report = folder / "report.html"
    report.write_text("<html>")
    (folder / "more").mkdir()
    (folder / "more" / "report.html").write_text("<more>")
    train = Summary(
        headline="accuracy 0.98",
        metrics={"accuracy": 0.98, "loss": 0.5, "lost@epoch": math.nan},
        params={"optimizer": "adam", "note": "", "long": "x" * 7000},
        curves={"loss": (0.9, 0.6, 0.5), "val accuracy!": tuple(i / 1500 for i in range(1500))},
        files=(str(report), str(folder / "more" / "report.html"), str(folder / "not there.html")),
    )
    table = Table(columns=("slice", "accuracy"), rows=(("all", 0.98), ("digit 3", math.nan)))
    evaluate = Summary(metrics={"accuracy": 0.98}, tables={"by slice": table})
    config = {"train": {"epochs": 3, "sizes": [1, 2]}, "name": "digits", "text": "y" * 9000, "empty": {}}
    pushed = Pushed(
        model="digits",
        version=7,
        path=str(saved_model(folder / "7")),
        digest="abc",
        new=True,
        tflite_path=str(folder / "7.tflite"),
    )
    (folder / "7.tflite").write_text("tflite")
    stages = ("ingest", "train", "evaluate", "push", "later")
    write(
        home,
        a_run(run_id, config=config, options={"from": "train", "set": ["a=1"]}, stages=stages, pushed=pushed),
        stage(
            "ingest",
            "cached",
            data_digest="d" * 64,
            code_digest="c" * 64,
            spec_digest="s" * 64,
            outputs={"examples": ("file:///a", "b")},
        ),
        stage("train", summary=train, inputs={"examples": ("file:///a", "b")}),
        stage("evaluate", summary=evaluate),
        stage("push"),
        stage("later", "skipped", started=None, finished=None),
    )
    # A training that diverged: NaN as Python's JSON has it, whatever the journal of today makes of it.
    path = Journal(home).run_dir(run_id) / "stages" / "train.json"
    path.write_text(path.read_text().replace('"lost@epoch": null', '"lost@epoch": NaN'))


def check_full_run(client: Any) -> None:
    import pandas
    from mlflow.artifacts import download_artifacts

    parents, nested = runs_of(client)
    parent, train, ingest = parents["run-1"], nested["run-1/train"], nested["run-1/ingest"]
    assert set(nested) == {f"run-1/{name}" for name in ("ingest", "train", "evaluate", "push")}
    assert (parent.info.run_name, parent.info.status) == ("run-1", "FINISHED")
    assert (parent.info.start_time, parent.info.end_time) == (T0 * 1000, (T0 + 60) * 1000)
    params = parent.data.params
    assert (params["train.epochs"], params["train.sizes"], params["name"], params["empty"]) == ("3", "[1, 2]", "digits", "{}")
    assert (params["options.from"], params["options.set"]) == ("train", '["a=1"]')
    assert len(params["text"]) == 6000 and params["text"].endswith("(9000 characters; whole value: config.json)")
    assert json.loads(artifact(client, parent, "config.json"))["text"] == "y" * 9000
    assert parent.data.metrics == {"seconds": 60, "evaluate.accuracy": 0.98}
    tags = parent.data.tags
    assert json.loads(tags["tfline.stages"])["later"] == "skipped"
    assert (tags["tfline.state"], tags["tfline.folder"], tags["tfline.data_digest"]) == (
        "complete",
        "/pipelines/digits",
        "d" * 64,
    )

    assert (train.info.run_name, train.info.status) == ("train", "FINISHED")
    assert (train.info.start_time, train.info.end_time) == ((T0 + 1) * 1000, (T0 + 5) * 1000)
    assert train.data.params["optimizer"] == "adam" and len(train.data.params["long"]) == 6000
    assert json.loads(artifact(client, train, "params.json"))["long"] == "x" * 7000
    assert train.data.metrics["seconds"] == 4 and train.data.metrics["accuracy"] == 0.98
    assert math.isnan(train.data.metrics["lost_epoch"])
    assert history(client, train, "loss") == [(0, 0.9), (1, 0.6), (2, 0.5)]
    assert history(client, train, "val accuracy_") == [(i, i / 1500) for i in range(1500)]
    assert train.data.tags["tfline.headline"] == "accuracy 0.98"
    assert train.data.tags["tfline.files_gone"].endswith("not there.html")
    assert artifact(client, train, "files/report.html") == "<html>"
    assert artifact(client, train, "files/1/report.html") == "<more>"

    assert (ingest.data.tags["tfline.state"], ingest.info.status) == ("cached", "FINISHED")
    digests = [ingest.data.tags[f"tfline.{name}_digest"] for name in ("data", "code", "spec")]
    assert digests == ["d" * 64, "c" * 64, "s" * 64]
    assert ingest.data.tags["tfline.outputs.examples"] == "file:///a\nb"
    assert json.loads(artifact(client, train, "addresses.json")) == {"inputs": {"examples": ["file:///a", "b"]}, "outputs": {}}

    evaluate = nested["run-1/evaluate"]
    # As client.load_table reads it, which itself looks for runs in the global store instead of the client's (MLflow 3.17).
    rows = pandas.read_json(io.StringIO(artifact(client, evaluate, "tables/by_slice.json")), orient="split")
    assert rows["slice"].tolist() == ["all", "digit 3"] and rows["accuracy"][0] == 0.98 and rows["accuracy"].isna()[1]
    assert json.loads(evaluate.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/by_slice.json", "type": "table"}]

    version = client.get_model_version_by_alias("digits", "champion")
    assert version.run_id == nested["run-1/push"].info.run_id
    assert {key: version.tags[f"tfline.{key}"] for key in ("version", "digest", "run_id")} == {
        "version": "7",
        "digest": "abc",
        "run_id": "run-1",
    }
    assert version.tags["tfline.path"].endswith("/7")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
        model = Path(download_artifacts("models:/digits@champion"))
    assert (model / "saved_model.pb").read_text() == (model / "variables" / "variables.index").read_text() == "model"
    assert artifact(client, nested["run-1/push"], "tflite/7.tflite") == "tflite"


# Reading addresses


def test_importing_tracking_does_not_import_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from components import tracking; home = pathlib.Path(sys.argv[1]);"
        "print(tracking.tracking_uri(home), tracking.waiting(home), tracking.sync(home).error, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"sqlite:///{tmp_path}/mlflow/mlflow.db []  False\n"


def test_the_environment_names_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(tmp_path) == "http://mlflow:5000"


@pytest.mark.parametrize(
    ("uri", "clean"),
    [
        ("http://u:p@host:5000/path/", "http://host:5000/path"),
        ("https://u:p/w@x@host/", "https://host"),
        ("postgresql://u:p@db/mlflow?password=q#f", "postgresql://db/mlflow"),
        ("sqlite:////a/b@c/m.db", "sqlite:////a/b@c/m.db"),
        ("databricks", "databricks"),
    ],
)
def test_addresses_lose_their_credentials(uri: str, clean: str) -> None:
    assert without_credentials(uri) == clean


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#@%:*"), min_size=6))
def test_passwords_are_scrubbed(password: str) -> None:
    uri = f"http://user:{password}@host"
    assert scrub(f"GET {uri}/api: {password}!", uri) == "GET http://***@host/api: ***!"


@settings(deadline=None)  # the first example imports MLflow
@given(st.lists(st.text(max_size=400), unique=True, max_size=20))
def test_safe_names_are_valid_and_distinct(names: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param_name, _validate_tag_name

    safe = safe_names(names)
    assert list(safe) == names and len(set(safe.values())) == len(names)
    for name in safe.values():
        _validate_metric(name, 1.0, 0, 0)
        _validate_param_name(name)
        _validate_tag_name(name)


def test_ordinary_names_stay_as_they_are() -> None:
    names = ["val_accuracy", "slice/digit:3", "a b.c-d"]
    assert safe_names(names) == dict(zip(names, names, strict=True))


# What is written


def test_a_full_run_is_all_there(home: Path, tmp_path: Path) -> None:
    full_run(home, tmp_path)
    result = tracking.sync(home)
    assert (result.runs, result.stages, result.waiting, result.error, result.notes) == (("run-1",), 4, (), "", ())
    check_full_run(client_of(home))
    assert (home / "mlflow" / "artifacts").is_dir()
    assert list(Path.cwd().iterdir()) == []


def everything(client: Any) -> Any:
    parents, nested = runs_of(client)
    found = {}
    for key, run in (parents | nested).items():
        points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        found[key] = (dict(run.info), {name: len(history) for name, history in points.items()}, run.data.params, run.data.tags)
    versions = [(v.name, v.version, v.aliases, v.tags) for v in client.search_model_versions()]
    return found, versions


def test_writing_twice_writes_nothing_twice(home: Path, tmp_path: Path) -> None:
    full_run(home, tmp_path)
    tracking.sync(home)
    before = everything(client_of(home))
    again = tracking.sync(home)
    assert (again.runs, again.stages, again.error) == ((), 0, "")
    Journal(home).run_dir("run-1").joinpath("tracked.json").unlink()
    forgotten = tracking.sync(home)
    assert (forgotten.runs, forgotten.error) == (("run-1",), "")
    assert everything(client_of(home)) == before


@pytest.mark.slow
def test_a_crash_at_any_point_leaves_no_duplicates(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    full_run(home, tmp_path)
    names = ("create_experiment", "create_run", "log_batch", "log_dict", "log_artifact", "log_artifacts", "set_terminated")
    registry = ("create_registered_model", "create_model_version", "set_registered_model_alias")
    done: set[str] = set()

    def crashing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, *args: Any, **kwargs: Any) -> Any:
            answer = original(owner, *args, **kwargs)
            # Without folders: some are temporary, with another name each time.
            what = (
                f"{name} {[Path(str(arg)).name for arg in args]} {list(kwargs)} {owner.note if isinstance(owner, Ledger) else ''}"
            )
            if what not in done:
                done.add(what)
                # The call has done its work, and the process ends before it can note so.
                raise KeyboardInterrupt
            return answer

        return call

    for owner, methods in ((MlflowClient, names + registry), (Ledger, ("save",))):
        for name in methods:
            monkeypatch.setattr(owner, name, crashing(name, getattr(owner, name)))
    crashes = 0
    while True:
        try:
            result = tracking.sync(home)
            break
        except KeyboardInterrupt:
            crashes += 1
            assert crashes < 200
    assert crashes > 40 and result.error == ""
    check_full_run(client_of(home))
    assert len(client_of(home).search_model_versions()) == 1


def test_a_stage_keeps_its_nested_run_while_it_goes_on(home: Path) -> None:
    going_on = a_run(state="running", finished=None)
    write(home, going_on, stage(state="running", finished=None))
    tracking.sync(home)
    client = client_of(home)
    parents, nested = runs_of(client)
    before = nested["run-1/ingest"]
    assert (parents["run-1"].info.status, before.info.status, before.info.end_time) == ("RUNNING", "RUNNING", None)
    write(home, going_on, stage(summary=Summary(metrics={"rows": 5})))
    assert tracking.sync(home).stages == 1
    parents, nested = runs_of(client)
    after = nested["run-1/ingest"]
    assert (after.info.run_id, after.info.status, after.data.metrics["rows"]) == (before.info.run_id, "FINISHED", 5)
    assert parents["run-1"].info.status == "RUNNING"


def test_a_stage_that_ran_again_replaces_its_nested_run(home: Path) -> None:
    failed = stage(state="failed", error="no rows", summary=Summary(params={"seed": "1"}, curves={"loss": (1.0, 2.0)}))
    write(home, a_run(state="failed", error="ingest failed", options={"from": "a"}), failed)
    tracking.sync(home)
    client = client_of(home)
    parents, nested = runs_of(client)
    old = nested["run-1/ingest"]
    assert (old.info.status, old.data.tags["tfline.error"], artifact(client, old, "error.txt")) == (
        "FAILED",
        "no rows",
        "no rows",
    )
    again = stage(started=T0 + 100, finished=T0 + 110, summary=Summary(params={"seed": "2"}, curves={"loss": (0.5,)}))
    write(home, a_run(finished=T0 + 120, options={"from": "b"}), again)
    assert tracking.sync(home).error == ""
    parents, nested = runs_of(client)
    new = nested["run-1/ingest"]
    assert new.info.run_id != old.info.run_id and client.get_run(old.info.run_id).info.lifecycle_stage == "deleted"
    assert (new.data.params["seed"], history(client, new, "loss"), "tfline.error" in new.data.tags) == ("2", [(0, 0.5)], False)
    parent = parents["run-1"]
    assert (parent.info.status, parent.data.tags["tfline.error"], parent.data.metrics["seconds"]) == ("FINISHED", "", 120)
    assert (parent.data.params["options.from"], parent.data.tags["tfline.now.options.from"]) == ("a", "b")


def parts_of(client: Any) -> dict[str, Any]:
    """The runs under stages' runs, by "stage/part"; asserts that there is one of each, under its stage."""
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    stages = {run.info.run_id: run.data.tags["tfline.stage"] for run in runs if run.data.tags["tfline.kind"] == "stage"}
    found: dict[str, Any] = {}
    for run in runs:
        if run.data.tags["tfline.kind"] == "part":
            key = f"{stages[run.data.tags['mlflow.parentRunId']]}/{run.data.tags['tfline.part']}"
            assert key not in found, f"{key} is there twice"
            found[key] = run
    return found


def test_each_of_several_things_that_a_stage_made_has_a_run_under_its_own(home: Path) -> None:
    made = {"int8": {"accuracy": 0.9, "tflite_bytes": 100.0}, "pqat": {"accuracy": 0.8}}
    write(home, a_run(stages=("optimize",)), stage("optimize", summary=Summary(nested=made)))
    tracking.sync(home)
    client = client_of(home)
    parts = parts_of(client)
    assert {key: run.data.metrics for key, run in parts.items()} == {f"optimize/{name}": made[name] for name in made}
    assert {run.info.status for run in parts.values()} == {"FINISHED"}
    assert {run.info.run_name for run in parts.values()} == {"int8", "pqat"}
    # The stage ran again and made other things: those of before are gone.
    write(
        home, a_run(stages=("optimize",)), stage("optimize", finished=T0 + 9, summary=Summary(nested={"int8": {"accuracy": 0.7}}))
    )
    tracking.sync(home)
    assert {key: run.data.metrics for key, run in parts_of(client).items()} == {"optimize/int8": {"accuracy": 0.7}}


def test_refusals_and_errors_are_told(home: Path) -> None:
    refusal = Refusal(gate="accuracy", reasons=("0.91 is below 0.95", "slice 3: 0.80"))
    refused = a_run("refused", state="refused", refusals=(refusal,))
    write(home, refused, stage(state="refused", summary=Summary(refusal=refusal, metrics={"accuracy": 0.91})))
    write(home, a_run("failed", state="failed", error="e" * 9000), stage(state="failed", error="e" * 9000))
    tracking.sync(home)
    client = client_of(home)
    parents, nested = runs_of(client)
    text = "accuracy: 0.91 is below 0.95\naccuracy: slice 3: 0.80"
    assert parents["refused"].info.status == nested["refused/ingest"].info.status == "FAILED"
    assert parents["refused"].data.tags["tfline.refusal"] == nested["refused/ingest"].data.tags["tfline.refusal"] == text
    assert artifact(client, parents["refused"], "refusal.txt") == text
    assert nested["refused/ingest"].data.metrics["accuracy"] == 0.91
    assert parents["failed"].info.status == "FAILED"
    assert len(parents["failed"].data.tags["tfline.error"]) == 8000
    assert artifact(client, parents["failed"], "error.txt") == "e" * 9000


def test_a_run_whose_process_is_gone_counts_as_interrupted(home: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    write(home, a_run(state="running", finished=None, pid=process.pid), stage(state="running", finished=None))
    elsewhere = a_run("elsewhere", state="running", finished=None, pid=process.pid, host="another-host")
    write(home, elsewhere)
    tracking.sync(home)
    assert tracking.waiting(home) == []
    process.kill()
    process.wait()
    assert tracking.waiting(home) == ["run-1"]
    tracking.sync(home)
    parents, nested = runs_of(client_of(home))
    assert parents["run-1"].info.status == nested["run-1/ingest"].info.status == "KILLED"
    assert parents["run-1"].info.end_time == (T0 + 1) * 1000
    assert parents["elsewhere"].info.status == "RUNNING"


def test_a_broken_record_keeps_no_other_from_being_written(home: Path) -> None:
    write(home, a_run("good"), stage())
    write(home, a_run("broken"), stage())
    Journal(home).run_dir("broken").joinpath("run.json").write_text("{}")
    result = tracking.sync(home)
    assert (result.runs, result.waiting, result.reached) == (("good",), ("broken",), True)
    assert result.error.startswith("run broken: its records cannot be read: ")
    assert set(runs_of(client_of(home))[0]) == {"good"}


def test_a_run_deleted_in_mlflow_is_written_anew(home: Path) -> None:
    write(home, a_run(state="running", finished=None), stage())
    tracking.sync(home)
    client = client_of(home)
    for run in runs_of(client)[0].values():
        client.delete_run(run.info.run_id)
    write(home, a_run(), stage())
    assert tracking.sync(home).error == ""
    parents, nested = runs_of(client)
    assert (parents["run-1"].info.status, set(nested)) == ("FINISHED", {"run-1/ingest"})


def test_a_deleted_experiment_is_told(home: Path) -> None:
    write(home, a_run(), stage())
    tracking.sync(home)
    client = client_of(home)
    client.delete_experiment(client.get_experiment_by_name("digits").experiment_id)
    write(home, a_run("run-2"), stage())
    result = tracking.sync(home)
    assert result.waiting == ("run-2",) and "mlflow experiments restore -x 1" in result.error


# The registry


def push(home: Path, folder: Path, version: int, *, new: bool = True, started: float = T0) -> str:
    run_id = f"push-{version}-{new}"
    path = folder / str(version)
    pushed = Pushed(model="digits", version=version, path=str(path), digest=f"digest {version}", new=new)
    write(home, a_run(run_id, stages=("push",), pushed=pushed, started=started), stage("push"))
    return run_id


def champion(home: Path) -> str:
    return str(client_of(home).get_model_version_by_alias("digits", "champion").tags["tfline.version"])


def test_champion_moves_only_by_a_push_and_never_back(home: Path, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        saved_model(tmp_path / str(version))
    two, one, known, three = (
        push(home, tmp_path, 2),
        push(home, tmp_path, 1),
        push(home, tmp_path, 1, new=False),
        push(home, tmp_path, 3),
    )
    tracking.sync(home, run_ids=[two])
    assert champion(home) == "2"
    tracking.sync(home, run_ids=[one, known])
    assert champion(home) == "2"
    tracking.sync(home, run_ids=[three])
    assert champion(home) == "3"
    versions = client_of(home).search_model_versions("name='digits'")
    assert sorted(version.tags["tfline.version"] for version in versions) == ["1", "2", "3"]
    assert runs_of(client_of(home))[0][known].data.tags["tfline.pushed"] == "digits version 1, known"
    # Somebody goes back by hand: that stands until the next push.
    oldest = next(version for version in versions if version.tags["tfline.version"] == "1")
    client_of(home).set_registered_model_alias("digits", "champion", oldest.version)
    tracking.sync(home)
    assert champion(home) == "1"


def test_a_version_that_is_gone_from_the_store_is_not_registered(home: Path, tmp_path: Path) -> None:
    run_id = push(home, tmp_path, 1)
    result = tracking.sync(home)
    assert result.error == "" and result.notes == (
        f"run {run_id}: digits version 1 is gone from {tmp_path / '1'} and was not registered in MLflow",
    )
    assert "is gone" in runs_of(client_of(home))[0][run_id].data.tags["tfline.unregistered"]
    assert client_of(home).search_registered_models() == []
    assert tracking.sync(home).runs == ()


# Servers


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def process_group(command: list[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_a_server_that_was_down_gets_everything_later(
    home: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    # The server is an open one; the credentials are here to show that they go nowhere else.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@127.0.0.1:{port}")
    full_run(home, tmp_path)
    started = time.monotonic()
    result = tracking.sync(home)
    assert time.monotonic() - started < 8
    assert (result.reached, result.runs, result.waiting) == (False, (), ("run-1",))
    assert result.error == (
        f"the tracking server at http://127.0.0.1:{port} cannot be reached (Connection refused); start it, or check "
        "MLFLOW_TRACKING_URI"
    )
    started = time.monotonic()
    tracking.watch(home, "run-1")
    assert time.monotonic() - started < 3, "a run that has ended is not waited for"
    out = capfd.readouterr().out
    assert out.startswith("warning: tracking: the tracking server at") and out.count("\n") == 1

    server = tmp_path / "server"
    server.mkdir()
    shutil.copy(empty_database, server / "m.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{server}/m.db", "--artifacts-destination", str(server / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI")
    with (tmp_path / "log").open("w") as log, process_group(command, stdout=log, stderr=log, cwd=server, env=environment):
        wait_for(lambda: get(f"http://127.0.0.1:{port}/health") == "OK")
        result = tracking.sync(home)
        assert (result.runs, result.stages, result.error) == (("run-1",), 4, "")
        with monkeypatch.context() as patched:
            patched.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            check_full_run(client_of(home))
            before = everything(client_of(home))
            Journal(home).run_dir("run-1").joinpath("tracked.json").unlink()
            assert tracking.sync(home).error == ""
            assert everything(client_of(home)) == before
    assert tracking.sync(home).runs == (), "what is written needs no server"
    captured = capfd.readouterr()
    assert SECRET not in out + captured.out + captured.err
    assert captured.out == ""
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        assert SECRET.encode() not in file.read_bytes(), file


@contextlib.contextmanager
def web_service(status: int, body: str, delay: float = 0) -> Iterator[str]:
    """Answers every request alike; bodies may repeat the credentials, as some services do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            if "Content-Length" in self.headers:
                self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(delay)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Retry-After", "3600")
                self.end_headers()
                self.wfile.write(body.encode())

        do_GET = do_POST = do_PATCH = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, f"no {SECRET}"), "refused access (HTTP 401); set MLFLOW_TRACKING_USERNAME"),
        ((403, "<html>"), "refused access (HTTP 403)"),
        ((500, f"broken {SECRET}"), "answered HTTP 500"),
        ((503, ""), "answered HTTP 503"),
        ((404, "not found"), "answered HTTP 404"),
        ((400, f'{{"error_code": "X", "message": "bad {SECRET}"}}'), "bad ***"),
        ((200, f"<html>{SECRET}</html>"), "is no MLflow server"),
        ((200, "{}"), "is it an MLflow server?"),
        pytest.param((200, "{}", 30), "cannot be reached (timed out)", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_answers_nonsense(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: Any, message: str
) -> None:
    write(home, a_run(), stage())
    with web_service(*answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@{address}")
        started = time.monotonic()
        result = tracking.sync(home)
        assert time.monotonic() - started < 10
    assert message in result.error and result.waiting == ("run-1",)
    captured = capfd.readouterr()
    files = "".join(file.read_text() for file in home.rglob("*.json"))
    assert SECRET not in result.error + captured.out + captured.err + files + result.uri


def test_limits_and_credentials_of_this_process_stay_as_they_were(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "before")
    before = dict(os.environ)
    with connected(home):
        seen |= os.environ
    assert (seen["MLFLOW_HTTP_REQUEST_TIMEOUT"], seen["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("7", "1")
    assert seen["MLFLOW_DISABLE_TELEMETRY"] == seen["DO_NOT_TRACK"] == "true"
    assert dict(os.environ) == before


# Processes of their own


@pytest.mark.slow
def test_watch_follows_a_run_from_outside(home: Path) -> None:
    fake_run = subprocess.Popen(["sleep", "100"])
    write(home, a_run("earlier", started=T0 - 100), stage())
    going_on = a_run(state="running", finished=None, pid=fake_run.pid, stages=("ingest", "train"))
    write(home, going_on, stage(state="running", finished=None))
    client = client_of(home)

    def states() -> dict[str, str]:
        with contextlib.suppress(AttributeError):  # no experiment yet
            parents, nested = runs_of(client)
            return {key: run.info.status for key, run in (parents | nested).items()}
        return {}

    out = subprocess.PIPE
    with process_group(tracking.watch_command(home, "run-1"), stdout=out, stderr=out, text=True) as watching:
        done = {"earlier": "FINISHED", "earlier/ingest": "FINISHED"}
        wait_for(lambda: states() == done | {"run-1": "RUNNING", "run-1/ingest": "RUNNING"})
        write(home, going_on, stage(), stage("train", "running", finished=None))
        wait_for(lambda: states() == done | {"run-1": "RUNNING", "run-1/ingest": "FINISHED", "run-1/train": "RUNNING"})
        watching.send_signal(signal.SIGINT)  # Ctrl-C is the runner's to note
        fake_run.kill()
        fake_run.wait()
        assert watching.communicate(timeout=20) == ("", "")
        assert watching.returncode == 0
    assert states() == done | {"run-1": "KILLED", "run-1/ingest": "FINISHED", "run-1/train": "KILLED"}


@pytest.mark.slow
def test_watch_warns_once_while_the_server_is_down(home: Path) -> None:
    going_on = a_run(state="running", finished=None)
    write(home, going_on, stage())
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:{free_port()}",
        "MLFLOW_TRACKING_TOKEN": SECRET,
    }
    out = subprocess.PIPE
    command = tracking.watch_command(home, "run-1")
    with process_group(command, stdout=out, stderr=out, text=True, env=environment) as watching:
        assert watching.stdout
        first = watching.stdout.readline()
        time.sleep(4)  # two more tries
        assert watching.poll() is None
        write(home, a_run(), stage())
        rest, errors = watching.communicate(timeout=20)
    assert (watching.returncode, rest, errors) == (0, "", "")
    assert first.startswith("warning: tracking: the tracking server at http://127.0.0.1:") and SECRET not in first
    assert tracking.waiting(home) == ["run-1"]


def test_watch_of_an_unknown_run_is_bad_usage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        tracking.main(["watch", "--home", str(home), "--run", "nothing"])
    assert error.value.code == 2 and "there is no run 'nothing'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_homes_may_meet_at_the_first_creation_of_a_database(tmp_path: Path) -> None:
    # Any look-up of a host would be MLflow phoning home: a file needs none.
    code = (
        "import socket, sys, pathlib; from components import tracking\n"
        "socket.getaddrinfo = lambda host, *more, **options: print('asked for', host)\n"
        "result = tracking.sync(pathlib.Path(sys.argv[1])); print(result.runs, result.error)"
    )
    # Without the variables by which MLflow sees that this is a test, and with a git that would tell on it.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/new/shared.db"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch '{tmp_path}/git-was-called'\n")
    fake.chmod(0o755)
    environment["PATH"] = f"{fake.parent}:{environment['PATH']}"
    both = []
    for name in ("a", "b"):
        write(tmp_path / name, a_run(f"run-{name}"), stage())
        command = [sys.executable, "-P", "-c", code, str(tmp_path / name)]
        both.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    answers = [process.communicate(timeout=60) for process in both]
    assert answers == [("('run-a',) \n", ""), ("('run-b',) \n", "")]
    assert not (tmp_path / "git-was-called").exists()
    assert list(Path.cwd().iterdir()) == []
    environment_uri = environment["MLFLOW_TRACKING_URI"]
    from mlflow import MlflowClient

    assert set(runs_of(MlflowClient(tracking_uri=environment_uri))[0]) == {"run-a", "run-b"}


def test_the_page_of_a_server_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@mlflow:5000")
    with pytest.raises(UsageError, match=r"open http://mlflow:5000$"):
        tracking.ui_command(tmp_path)


@pytest.mark.slow
def test_the_page_shows_runs_models_and_artifacts(home: Path, tmp_path: Path) -> None:
    full_run(home, tmp_path)
    tracking.sync(home)
    push_run = runs_of(client_of(home))[1]["run-1/push"].info.run_id
    command = tracking.ui_command(home)
    port = command[command.index("--port") + 1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    with (tmp_path / "log").open("w") as log, process_group(command, stdout=log, stderr=log, env=environment):
        for name in ("127.0.0.1", "localhost"):
            url = f"http://{name}:{port}"
            wait_for(lambda url=url: "<title>MLflow" in get(url))  # type: ignore[misc]
            assert "digits" in get(f"{url}/ajax-api/2.0/mlflow/experiments/search?max_results=10")
        model = json.loads(get(f"{url}/ajax-api/2.0/mlflow/registered-models/get?name=digits"))
        assert model["registered_model"]["aliases"] == [{"alias": "champion", "version": "1"}]
        assert get(f"{url}/get-artifact?path=model/saved_model.pb&run_uuid={push_run}") == "model"
    assert list(Path.cwd().iterdir()) == []
