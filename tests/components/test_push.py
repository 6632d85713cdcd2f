"""Champion and push together, on a version store of small files: what a candidate is measured against, and what gets in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components import champion, push
from components.errors import GateRefused
from components.layout import SERVING_DIR, WARMUP_FILE
from components.records import Pushed
from components.summary import SUMMARY_FILE, Refusal, Summary
from serving.store import VersionStore, tree_digest
from serving.tflite_metadata import read_metadata, write_metadata


class Bench:
    """A store, and the stages around it as a run calls them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store, tflite = str(folder / "store"), str(folder / "store-tflite")
        self.champion_config = champion.Config(store=store, model="digits")
        self.push_config = push.Config(store=store, tflite_store=tflite, model="digits")
        self.store = VersionStore(folder / "store", "digits")

    def model(self, content: str) -> Path:
        """A Model artifact whose SavedModel is told apart by its content."""
        artifact = self.folder / "artifacts" / f"model-{content}"
        folder = artifact / SERVING_DIR
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        (folder / "saved_model.pb").write_text(f"graph of {content}", encoding="utf-8")
        (folder / "variables" / "variables.index").write_text(content, encoding="utf-8")
        return artifact

    def resolve(self, model: Path) -> dict[str, Any]:
        return champion.resolve({"model": model}, self.champion_config)

    def find_champion(self, model: Path) -> Path:
        """The champion stage's output for a candidate."""
        folder = self.folder / "artifacts" / f"champion-of-{model.name}"
        folder.mkdir(exist_ok=True)
        champion.run({"model": model}, {"champion": folder}, self.champion_config, self.resolve(model))
        return folder

    def push(
        self, content: str, *, refusals: Mapping[str, Refusal] | None = None, run_id: str = "run-1", warmup: bytes = b""
    ) -> Path:
        """A whole run's last stages; the PushedModel artifact."""
        model = self.model(content)
        inputs = {
            "model": model,
            "champion": self.find_champion(model),
            "tflite": self.folder / "artifacts" / f"tflite-{content}",
        }
        inputs["tflite"].mkdir(exist_ok=True)
        (inputs["tflite"] / "model.tflite").write_bytes(small_form(content))
        for gate in push.GATES:
            inputs[gate] = self.folder / "artifacts" / f"{gate}-{content}"
            inputs[gate].mkdir(exist_ok=True)
            summary = Summary(refusal=(refusals or {}).get(gate))
            (inputs[gate] / SUMMARY_FILE).write_text(summary.model_dump_json(), encoding="utf-8")
        if warmup:
            file = inputs["infra"] / WARMUP_FILE
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(warmup)
        folder = self.folder / "artifacts" / f"pushed-{content}-{run_id}"
        folder.mkdir()
        self.properties = push.run(inputs, {"pushed": folder}, self.push_config, run_id)
        return folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def small_form(content: str) -> bytes:
    """A .tflite with metadata, told apart by its content."""
    from tests.serving.tflite_files import make_metadata, make_tflite

    model = make_tflite()
    return write_metadata(model, make_metadata(model, variant=f"int8-{content}"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_no_champion_yet(bench: Bench) -> None:
    model = bench.model("a")
    assert bench.resolve(model) == {"version": 0, "digest": ""}
    folder = bench.find_champion(model)
    assert files(folder) == {"champion.json": b'{"version": 0, "digest": "", "model": "digits"}'}
    summary = champion.summarise({"champion": [str(folder)]})
    assert (summary.headline, summary.params) == ("none yet", {"version": "0", "digest": ""})


def test_the_last_pushed_model_is_the_champion_of_the_next(bench: Bench) -> None:
    for content in ("a", "b"):
        bench.push(content)
    digest = tree_digest(bench.model("b") / SERVING_DIR)
    candidate = bench.model("c")
    assert bench.resolve(candidate) == {"version": 2, "digest": digest}
    folder = bench.find_champion(candidate)
    assert files(folder / SERVING_DIR) == files(bench.model("b") / SERVING_DIR), "the model, without the store's manifest"
    assert json.loads((folder / "champion.json").read_text()) == {"version": 2, "digest": digest, "model": "digits"}
    summary = champion.summarise({"champion": [str(folder)]})
    assert (summary.headline, summary.params) == ("version 2", {"version": "2", "digest": digest})


@pytest.mark.parametrize("contents", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_run_that_changes_nothing_resolves_as_the_run_before(bench: Bench, contents: list[str]) -> None:
    for content in contents[:-1]:
        bench.push(content)
    model = bench.model(contents[-1])
    before = bench.resolve(model)
    version = push.resolve({"model": model}, bench.push_config)
    assert version == {"version": len(contents)}
    bench.push(contents[-1])
    assert bench.resolve(model) == before, "not its own champion, which would bust the cache and measure it against itself"
    assert push.resolve({"model": model}, bench.push_config) == version


def test_an_old_model_keeps_the_champion_of_its_time(bench: Bench) -> None:
    for content in ("a", "b", "c"):
        bench.push(content)
    assert bench.resolve(bench.model("b")) == {"version": 1, "digest": tree_digest(bench.model("a") / SERVING_DIR)}


def test_champion_that_is_gone(bench: Bench) -> None:
    """The run was resolved, then somebody pruned the store: there is nothing to compare with, and the artifact says so."""
    bench.push("a")
    candidate = bench.model("b")
    found = bench.resolve(candidate)
    bench.push("c")
    bench.store.prune(1)
    folder = bench.folder / "late"
    folder.mkdir()
    champion.run({"model": candidate}, {"champion": folder}, bench.champion_config, found)
    assert files(folder) == {"champion.json": b'{"version": 0, "digest": "", "model": "digits"}'}


def test_push(bench: Bench) -> None:
    bench.push("a", run_id="run-1")
    folder = bench.push("b", run_id="run-2")
    version = bench.store.get(2)
    expected = Pushed(
        model="digits",
        version=2,
        path=str(bench.folder / "store" / "digits" / "2"),
        digest=tree_digest(bench.model("b") / SERVING_DIR),
        new=True,
        tflite_path=str(bench.folder / "store-tflite" / "digits" / "2" / "model.tflite"),
    )
    assert push.read_result(folder) == expected
    assert Pushed.model_validate_json((folder / "pushed.json").read_text()) == expected
    assert bench.properties == {"pushed": {"pushed": 1}}
    made = small_form("b")
    metadata = read_metadata(made)
    assert metadata is not None
    stamped = write_metadata(made, metadata.model_copy(update={"model_version": "2"}))
    assert Path(expected.tflite_path).read_bytes() == stamped != made
    assert (version.path / "saved_model.pb").read_text() == "graph of b"
    assert version.manifest.metadata == {
        "run_id": "run-2",
        "champion_version": "1",
        "champion_digest": tree_digest(bench.model("a") / SERVING_DIR),
        "model_digest": expected.digest,
    }
    summary = push.summarise({"pushed": [str(folder)]})
    assert (summary.headline, summary.metrics) == ("digits version 2", {"version": 2})
    assert summary.params["path"] == expected.path


def test_the_same_model_is_pushed_once(bench: Bench) -> None:
    first = push.read_result(bench.push("a", run_id="run-1"))
    before = files(bench.folder / "store")
    second = push.read_result(bench.push("a", run_id="run-2"))
    assert second == first.model_copy(update={"new": False})
    assert bench.properties == {"pushed": {"pushed": 0}}
    assert files(bench.folder / "store") == before


def test_recorded_warm_up_requests_go_into_the_version(bench: Bench) -> None:
    bench.push("a", warmup=b"requests of a")
    version, model = bench.store.verify(1), bench.model("a")
    digest = tree_digest(model / SERVING_DIR)
    assert (version.path / "assets.extra" / "tf_serving_warmup_requests").read_bytes() == b"requests of a"
    assert (version.digest != digest, version.metadata["model_digest"]) == (True, digest)
    assert not (model / SERVING_DIR / "assets.extra").exists(), "the artifact is only read"
    assert push.resolve({"model": model}, bench.push_config) == {"version": 1}
    assert bench.resolve(model) == {"version": 0, "digest": ""}
    assert bench.resolve(bench.model("b")) == {"version": 1, "digest": digest}
    assert (bench.find_champion(bench.model("b")) / SERVING_DIR / "saved_model.pb").read_text() == "graph of a"


def test_other_warm_up_requests_make_no_other_version(bench: Bench) -> None:
    first = push.read_result(bench.push("a", warmup=b"some"))
    before = files(bench.folder)
    for run_id, warmup in (("run-2", b"others"), ("run-3", b"")):
        again = push.read_result(bench.push("a", run_id=run_id, warmup=warmup))
        assert (again, again.tflite_differs) == (first.model_copy(update={"new": False}), False)
    store = {name: text for name, text in files(bench.folder).items() if name.startswith("store")}
    assert store == {name: text for name, text in before.items() if name.startswith("store")}


def test_a_version_pushed_before_exports_were_named_is_found(bench: Bench) -> None:
    model = bench.model("a")
    bench.store.publish(model / SERVING_DIR, metadata={"champion_version": "0", "champion_digest": ""})
    assert push.resolve({"model": model}, bench.push_config) == {"version": 1}
    assert bench.resolve(bench.model("b")) == {"version": 1, "digest": tree_digest(model / SERVING_DIR)}
    pushed = push.read_result(bench.push("a", warmup=b"requests"))
    assert (pushed.version, pushed.new) == (1, False)


def test_a_model_that_was_taken_out_is_pushed_again(bench: Bench) -> None:
    for content in ("a", "b"):
        bench.push(content)
    bench.store.prune(1)
    assert push.resolve({"model": bench.model("a")}, bench.push_config) == {"version": 3}
    assert push.read_result(bench.push("a", run_id="run-2")).version == 3


@pytest.mark.parametrize("gate", push.GATES)
def test_a_refusal_of_any_gate_leaves_the_stores_alone(bench: Bench, gate: str) -> None:
    bench.push("a")
    before = files(bench.folder / "store"), files(bench.folder / "store-tflite")
    refusal = Refusal(gate="accuracy", reasons=("0.90 < 0.95", "0.1 < 0.2"))
    with pytest.raises(GateRefused) as caught:
        bench.push("b", refusals={gate: refusal})
    assert str(caught.value) == "accuracy: 0.90 < 0.95; 0.1 < 0.2"
    assert caught.value.exit_code == 3
    assert (files(bench.folder / "store"), files(bench.folder / "store-tflite")) == before
    assert not (bench.folder / "artifacts" / "pushed-b-run-1" / "pushed.json").exists()


def test_a_gate_that_said_nothing_stops_the_push(bench: Bench) -> None:
    bench.push("a")
    inputs = {key: bench.folder / "artifacts" / f"{key}-a" for key in (*push.GATES, "model", "tflite")}
    (inputs["optimization"] / SUMMARY_FILE).unlink()
    with pytest.raises(FileNotFoundError):
        push.push({**inputs, "champion": bench.folder}, bench.push_config, "run-2")
    assert [version.number for version in bench.store.versions()] == [1]
