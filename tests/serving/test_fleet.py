"""Fleets on fake servers: all instances take a version or none does, whatever fails and whenever the push is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from serving import fleet_instances, fleet_state
from serving.client.errors import RequestError
from serving.errors import ServingError, StoreError
from serving.fleet import promote, put_labels, recover, rollback
from serving.fleet_config import CanaryRule, FleetConfig, Instance
from serving.fleet_instances import Canary, Instances, Server, connect, difference
from serving.fleet_push import Package, publish
from serving.fleet_state import changing_fleets, proved, read_goal, read_state
from serving.fleet_table import FleetError, FleetRefused
from serving.server.lifecycle import State, VersionStatus
from serving.server.status import Code
from serving.store import VersionStore
from tests.serving.fake_fleet import FakeServer
from tests.serving.test_store import KILLED, run_killed, saved_model, tflite_model

X = np.arange(3, dtype=np.float32)
CANARIES = [Canary("serving_default", {"x": X}, {"y": X * 2})]


class Bench:
    """A store, a TFLite store, and three fake servers on the store's own folder, or each with one of its own."""

    def __init__(self, folder: Path, *, shared: bool = True, labels: bool = False, deadline: float = 0.15) -> None:
        self.folder = folder
        self.models = VersionStore(folder / "store", "digits")
        self.tflite = VersionStore(folder / "store-tflite", "digits")
        memory = folder / "memory"
        memory.mkdir(parents=True)
        bases = [self.models.folder if shared else folder / f"disk-{name}" / "digits" for name in "abc"]
        self.servers = [FakeServer(f"{name}:8500", base, memory) for name, base in zip("abc", bases, strict=True)]
        self.fleet = FleetConfig(
            instances=tuple(
                Instance(name=server.address[0], address=server.address, base_path=str(server.base)) for server in self.servers
            ),
            deadline_seconds=deadline,
            canary=CanaryRule(),
            labels=labels,
        )

    def connect(self, instance: Instance) -> Server:
        return next(server for server in self.servers if server.address == instance.address)

    def push(self, content: str, *, fleet: bool = True) -> int:
        model, tflite = self.folder / f"model-{content}", self.folder / f"tflite-{content}"
        if not model.exists():
            saved_model(model, content)
            tflite_model(tflite, content)
        package = Package(self.models, self.tflite, model, tflite, {"run_id": f"run-{content}"})
        return publish(package, self.fleet if fleet else None, CANARIES, connect=self.connect).model.number

    def recover(self) -> None:
        with changing_fleets(self.models.root, "recover"):
            recover(self.models.root, "digits", self.connect)

    def loaded(self) -> list[list[int]]:
        return [server.loaded() for server in self.servers]

    def labels(self) -> list[dict[str, int]]:
        return [server.get()["labels"] for server in self.servers]

    def on_disk(self) -> list[Sequence[int]]:
        """Versions of each distinct folder, the TFLite store's last."""
        folders = [*sorted({self.models.folder, *(server.base for server in self.servers)}), self.tflite.folder]
        return [[version.number for version in VersionStore(path.parent, path.name).versions()] for path in folders]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # that all is on disk in time is tested in test_store.py
    monkeypatch.setattr(fleet_instances, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(fleet_instances, "GONE_SECONDS", 0.05)


@pytest.fixture(params=[True, False], ids=["shared", "separate"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, shared=request.param)


def test_a_push_reaches_every_instance_and_comes_once(bench: Bench) -> None:
    assert [bench.push("a"), bench.push("b"), bench.push("b")] == [1, 2, 2]
    assert bench.loaded() == [[2]] * 3
    assert all(versions == [1, 2] for versions in bench.on_disk())
    state = read_state(bench.models.root, "digits")
    assert state.serves == {"a": (2,), "b": (2,), "c": (2,)}
    assert read_goal(bench.models.root, "digits") is None


@pytest.mark.parametrize(
    ("content", "told"), [("broken", "c: INVALID_ARGUMENT: no graph"), ("wrong", "serving_default/y: 3 of 3 numbers")]
)
def test_a_bad_version_is_withdrawn_everywhere(bench: Bench, content: str, told: str) -> None:
    bench.push("a")
    with pytest.raises(FleetRefused) as caught:
        bench.push(content)
    assert caught.value.exit_code == 3
    assert told in str(caught.value)
    assert "version 2 of digits was not taken by 3 of 3 instances" in str(caught.value)
    assert max(map(len, str(caught.value).splitlines()[1:5])) <= 80
    assert bench.loaded() == [[1]] * 3
    assert all(versions == [1] for versions in bench.on_disk())
    for folder in {bench.models.folder, bench.tflite.folder, *(server.base for server in bench.servers)}:
        assert (folder / "withdrawn-2").is_dir()
    assert bench.push("b") == 3  # a number is never given out again
    assert bench.loaded() == [[3]] * 3


def test_an_instance_that_dies_during_the_push(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.push("a")
    predict = FakeServer.predict

    def dying(server: FakeServer, *args: object, **options: object) -> object:
        if server.address.startswith("b"):
            server.set(down=True)
        return predict(server, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeServer, "predict", dying)
    with pytest.raises(FleetRefused) as caught:
        bench.push("b")
    rows = {row.name: row for row in caught.value.rows}
    assert (rows["a"].canary, rows["b"].canary, rows["b"].serves) == ("ok", "failed", None)
    assert "b: serving_default: UNAVAILABLE: failed to connect" in str(caught.value)
    assert [server.loaded() for server in bench.servers if server.address[0] != "b"] == [[1], [1]]
    with pytest.raises(FleetRefused, match="not every instance is ready for a push; nothing was pushed"):
        bench.push("b")
    assert bench.models.next_version() == 3  # the second attempt did not even take a number
    bench.servers[1].set(down=False)
    monkeypatch.undo()
    assert bench.push("b") == 3


def test_the_first_push_of_all(bench: Bench) -> None:
    with pytest.raises(FleetRefused):
        bench.push("broken")
    assert bench.loaded() == [[], [], []]
    assert bench.push("a") == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shared=False)
    bench.push("a")
    bench.servers[2].base.joinpath(".lock").unlink()
    bench.servers[2].base.joinpath(".lock").mkdir()
    with pytest.raises(StoreError, match="disk-c"):
        bench.push("b")


def test_one_that_joins_later_gets_the_version_that_is_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shared=False)
    all_of_them = bench.fleet
    bench.fleet = all_of_them.model_copy(update={"instances": all_of_them.instances[:2]})
    assert bench.push("a") == 1
    bench.fleet = all_of_them
    assert bench.push("a") == 1
    assert bench.loaded() == [[1]] * 3


def test_numbers_grow_above_those_of_every_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shared=False)
    other = bench.servers[0].base
    VersionStore(other.parent, "digits").publish(saved_model(tmp_path / "old", "old"), version=7)
    assert bench.push("a") == 8


@pytest.mark.parametrize("kill_at", [1, 5, 12, 20, 30, 40, 50, 60, 75, 90, 105, 120, 140, 160])
@pytest.mark.parametrize("labels", [False, True])
def test_a_killed_push_is_brought_in_order(tmp_path: Path, kill_at: int, labels: bool) -> None:
    bench = Bench(tmp_path, shared=kill_at % 2 == 0, labels=labels)
    bench.push("a")
    before = bench.labels()
    saved_model(tmp_path / "model-b", "b")
    tflite_model(tmp_path / "tflite-b", "b")
    code = run_killed(lambda: bench.push("b"), kill_at)
    bench.recover()
    assert read_goal(bench.models.root, "digits") is None
    there = [version.number for version in bench.models.versions()]
    assert there in ([1], [1, 2])
    assert code == KILLED or there == [1, 2]
    assert all(server.loaded()[-1] == there[-1] for server in bench.servers)
    if labels:
        assert bench.labels() == (before if there == [1] else [{"stable": 1, "canary": 2}] * 3)
    assert bench.push("b") in (2, 3)
    assert bench.push("c") in (3, 4)


def test_an_unproved_version_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.push("a")
    seen = []

    def look(*_: object, **__: object) -> object:
        seen.append([[version.number for version in found] for found in (bench.models.versions(), proved(bench.models))])
        return {"y": X * 2}

    monkeypatch.setattr(FakeServer, "predict", look)
    bench.push("b")
    assert seen == [[[1, 2], [1]]] * 3
    assert [version.number for version in proved(bench.models)] == [1, 2]


def test_labels_move_by_promote_and_back_by_rollback(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shared=False, labels=True)
    bench.push("a")
    assert bench.labels() == [{"stable": 1, "canary": 1}] * 3
    bench.push("b")
    bench.push("c")
    assert bench.labels() == [{"stable": 1, "canary": 3}] * 3
    assert bench.loaded() == [[1, 3]] * 3
    with pytest.raises(FleetRefused):
        bench.push("wrong")
    assert bench.labels() == [{"stable": 1, "canary": 3}] * 3
    store = bench.models.root
    assert promote(store, "digits", connect=bench.connect)[0] == 3
    assert bench.labels() == [{"stable": 3, "canary": 3}] * 3
    assert promote(store, "digits", 2, connect=bench.connect)[0] == 2
    assert bench.labels() == [{"stable": 2, "canary": 3}] * 3
    bench.servers[0].set(versions=[], labels={})  # restarted: it has the newest version only, and no label
    assert rollback(store, "digits", connect=bench.connect)[0] == 2  # the stable one
    assert bench.labels() == [{"stable": 2, "canary": 2}] * 3
    assert bench.loaded() == [[2]] * 3
    with pytest.raises(StoreError, match="no version 3"):
        promote(store, "digits", 3, connect=bench.connect)


def test_promote_is_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, labels=True)
    bench.push("a")
    bench.push("b")
    reload = FakeServer.reload

    def refusing(server: FakeServer, config: object, *, timeout: float | None = None) -> None:
        if server.address[0] == "b" and config.model_config_list.config[0].version_labels.get("stable") == 2:  # type: ignore[attr-defined]
            server.set(down=True)
        reload(server, config, timeout=timeout)

    monkeypatch.setattr(FakeServer, "reload", refusing)
    with pytest.raises(FleetError, match="version 2 is not stable now; the labels are as before"):
        promote(bench.models.root, "digits", connect=bench.connect)
    assert bench.labels() == [{"stable": 1, "canary": 2}] * 3
    with pytest.raises(FleetError, match="not every instance is ready for a change; nothing was changed"):
        promote(bench.models.root, "digits", connect=bench.connect)


def test_rollback_withdraws_and_the_model_is_not_pushed_again(bench: Bench) -> None:
    for content in "abc":
        bench.push(content)
    bench.servers[1].set(down=True)
    number, rows = rollback(bench.models.root, "digits", 1, connect=bench.connect)
    assert (number, [row.serves for row in rows]) == (1, [(1,), None, (1,)])
    assert all(versions == [1] for versions in bench.on_disk())
    bench.servers[1].set(down=False)
    assert bench.loaded() == [[1]] * 3
    with pytest.raises(
        FleetRefused, match=r"this model was version 3 of digits, which was rolled back on .* remove .*withdrawn-3"
    ):
        bench.push("c")
    with pytest.raises(FleetRefused, match="was version 3"):
        bench.push("c", fleet=False)
    assert bench.push("d") == 4
    (bench.models.folder / "withdrawn-3").rename(bench.folder / "away")
    assert bench.push("c") == 5
    with pytest.raises(StoreError, match="no version 3"):
        rollback(bench.models.root, "digits", 3, connect=bench.connect)


@pytest.mark.parametrize("kill_at", [1, 3, 6, 9, 12, 18, 25])
def test_a_killed_rollback_is_finished(tmp_path: Path, kill_at: int) -> None:
    bench = Bench(tmp_path, shared=kill_at % 2 == 0)
    for content in "ab":
        bench.push(content)
    run_killed(lambda: rollback(bench.models.root, "digits", 1, connect=bench.connect), kill_at)
    begun = read_goal(bench.models.root, "digits") is not None
    bench.recover()
    versions = [1] if begun else [version.number for version in bench.models.versions()]
    assert all(found == versions for found in bench.on_disk())
    assert bench.loaded() == [versions[-1:]] * 3


def test_rollback_of_a_store_without_a_fleet(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for content in "ab":
        bench.push(content, fleet=False)
    with pytest.raises(StoreError, match="no version 5"):
        rollback(bench.models.root, "digits", 5)
    assert rollback(bench.models.root, "digits", tflite=bench.tflite.root)[0] == 1
    assert bench.on_disk()[0] == bench.on_disk()[-1] == [1]
    with pytest.raises(StoreError, match="no version to go back to"):
        rollback(bench.models.root, "digits")


def test_labels_of_a_store_without_a_fleet(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    from serving.fleet_reload import serving_config

    bench = Bench(tmp_path)
    for content in "ab":
        bench.push(content, fleet=False)
    file = serving_config(bench.models.root, "digits")
    assert not file.exists()
    assert promote(bench.models.root, "digits", 1) == (1, [])

    def labels() -> dict[str, int]:
        (config,) = text_format.Parse(file.read_text(), model_server_config_pb2.ModelServerConfig()).model_config_list.config
        assert (config.base_path, config.model_version_policy.WhichOneof("policy_choice")) == (str(bench.models.folder), "all")
        return dict(config.version_labels)

    assert labels() == {"stable": 1, "canary": 2}
    bench.push("c", fleet=False)
    assert labels() == {"stable": 1, "canary": 3}
    rollback(bench.models.root, "digits", tflite=bench.tflite.root)
    assert labels() == {"stable": 1, "canary": 1}


def test_a_reload_names_the_other_models_of_a_server(tmp_path: Path) -> None:
    bench = Bench(tmp_path, labels=True)
    first = bench.fleet.instances[0].model_copy(update={"other_models": {"trips": "/models/trips"}})
    bench.fleet = bench.fleet.model_copy(update={"instances": (first, *bench.fleet.instances[1:])})
    bench.push("a")
    assert [server.get()["models"] for server in bench.servers] == [["digits", "trips"], ["digits"], ["digits"]]


def test_recovery_waits_for_what_answers_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.push("a")
    status = FakeServer.status

    def stubborn(server: FakeServer, *args: str, **options: float | None) -> list[VersionStatus]:
        """Never lets go of version 2."""
        return [VersionStatus(2, State.AVAILABLE)] if 2 in server.get()["loaded"] else status(server, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeServer, "status", stubborn)
    with pytest.raises(FleetError, match="not every instance serves what it did before") as caught:
        bench.push("wrong")
    assert caught.value.exit_code == 1
    with pytest.raises(FleetError, match="what was left of an unfinished change"):
        bench.push("b")
    monkeypatch.undo()
    assert bench.push("b") == 3


def test_differences() -> None:
    assert difference(X, X + 1e-6, 1e-4) == ""
    assert "1 of 3 numbers differ by more than 0.0001: 2 expected, 3 came" in difference(
        X, np.array([0, 1, 3.0], np.float32), 1e-4
    )
    assert difference(X, None, 1e-4) == "not in the answer"
    assert difference(X, X[:2], 1e-4) == "expected shape [3], got [2]"
    assert difference(np.array([b"a", b"b"]), np.array([b"a", b"b"], dtype=object), 0) == ""
    assert difference(np.array([b"a", b"b"]), np.array([b"a", b"c"], dtype=object), 0) == "1 of 2 values differ"
    assert difference(np.array([1, 2]), np.array([1, 3]), 1) == "1 of 2 values differ"
    assert difference(np.array([np.nan]), np.array([np.nan]), 0) == ""


@pytest.mark.parametrize(
    ("instance", "told"),
    [
        ({"address": "http://a:8501"}, "expected an address of gRPC"),
        ({"address": "a"}, "expected host:port"),
        ({"address": "b:1", "rest": "b:2"}, "expected http://"),
        ({"address": "b:1", "name": "../a"}, "should match pattern"),
    ],
)
def test_bad_instances_are_refused(instance: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Instance(**{"name": "a", **instance})  # type: ignore[arg-type]


def test_bad_fleets_are_refused(tmp_path: Path) -> None:
    one = Instance(name="a", address="a:1")
    with pytest.raises(ValueError, match="expected each address once, got a:1 more than once"):
        FleetConfig(instances=(one, Instance(name="b", address="a:1")))
    located = FleetConfig(instances=(one,)).located(tmp_path, "digits", str)
    assert located.instances[0].base_path == str(tmp_path / "digits")
    other = FleetConfig(instances=(one.model_copy(update={"base_path": "/models/other"}),))
    with pytest.raises(Exception, match="has to end in the model's name"):
        other.located(tmp_path, "digits", str)


class Slow:
    """A server that had unloaded the version, and begins to load it only at its next look at the folder."""

    def __init__(self) -> None:
        self.asked = 0

    def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        self.asked += 1
        return [VersionStatus(2, State.END if self.asked < 3 else State.AVAILABLE)]

    def close(self) -> None:
        pass


def test_a_version_that_was_unloaded_once_may_come_back() -> None:
    slow = Slow()
    with Instances([Instance(name="a", address="a:1")], lambda _: cast("Server", slow)) as instances:
        (row,) = instances.prove("digits", 2, (), CanaryRule(), 20)
    assert (row.state, row.problem, slow.asked) == ("AVAILABLE", "", 3)


def test_all_steps_share_the_deadline(tmp_path: Path) -> None:
    """A server that takes nothing costs the deadline once, however many steps there are."""
    waited: list[float | None] = []

    class Deaf(Slow):
        def reload(self, config: object, *, timeout: float | None = None) -> None:
            waited.append(timeout)
            time.sleep(min(timeout or 0, 0.4))
            raise RequestError(Code.DEADLINE_EXCEEDED, "late", "a:1")

        def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
            return []

    fleet = FleetConfig(instances=(Instance(name="a", address="a:1"),), labels=True)
    state = fleet_state.State(fleet=fleet).labelled({"stable": 1, "canary": 2})
    with Instances(fleet.instances, lambda _: cast("Server", Deaf())) as instances:
        started = time.monotonic()
        problems = put_labels(tmp_path, "digits", state, instances, 0.5)
    assert time.monotonic() - started < 5
    assert problems == {"a": "DEADLINE_EXCEEDED: late"}
    assert sum(timeout or 0 for timeout in waited) <= 0.7


def test_certificates_of_an_instance(tmp_path: Path) -> None:
    assert Instance(name="a", address="grpcs://a:1").tls is None
    instance = Instance(name="a", address="grpcs://a:1", ca=str(tmp_path / "ca.pem"))
    assert instance.tls is not None and (instance.tls.ca, instance.tls.cert) == (tmp_path / "ca.pem", None)
    with pytest.raises(ServingError, match=r"certificates of instance a cannot be used: .*ca\.pem"):
        connect(instance)
