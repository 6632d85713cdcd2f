"""The life of versions on a running server: swaps, broken versions, policies, labels, and what a new configuration may say."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.conformance.models import add_warmup, model_list
from tests.serving.conformance.servers import Connection, Refusal, Server, wait_until
from tests.serving.conformance.test_grpc_answers import array, request
from tests.serving.conformance.test_grpc_refusals import spec

pytestmark = pytest.mark.slow

X = np.array([2], np.float32)
SLOW_WARMUP = """model_spec { signature_name: "slow" } inputs {
  key: "seconds" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1.5 } }"""
BAD_WARMUP = 'model_spec { signature_name: "nothing" }'
names = (f"model{number}" for number in itertools.count())


class Model:
    """A model of the test's own: its base path and its name on the server."""

    def __init__(self, server: Server, shop: Path, base: Path) -> None:
        self.name, self.base = next(names), base
        self._server, self._shop = server, shop
        base.mkdir()

    def add(self, version: int, *, of: str = "versions/1", warmup: str = "", broken: bool = False, huge: bool = False) -> Path:
        """Adds a version: a copy that appears at once, by a rename."""
        ready, target = self.base / f"{version}.tmp", self.base / str(version)
        shutil.copytree(self._shop / of, ready)
        if warmup:
            add_warmup(ready, self.name, warmup)
        if broken:
            (ready / "saved_model.pb").write_bytes(b"\x0a\xffnonsense")
        if huge:  # more than a protobuf can have; on disk it is a hole
            with (ready / "saved_model.pb").open("r+b") as graph:
                graph.truncate(3 << 30)
        ready.rename(target)
        return target

    def remove(self, version: int) -> None:
        """Takes a version away at once."""
        gone = self.base / f"gone-{version}"
        (self.base / str(version)).rename(gone)
        shutil.rmtree(gone)

    def serve(self, more: str = "") -> None:
        """Makes it the server's only model; returns when a version of it is loaded."""
        self._server.reload(model_list({self.name: (self.base, more)}))

    def predict(self, **choice: object) -> tuple[int, list[float]]:
        """Version and y for x = 2."""
        answer = self._server.call("Predict", request(self.name, {"x": X}, "", **choice))
        return answer.model_spec.version.value, array(answer.outputs["y"]).tolist()

    def states(self) -> dict[int, str]:
        """The state of each version that the server knows."""
        return self._server.states(self.name)

    def wait(self, version: int, state: str = "AVAILABLE") -> None:
        """Waits until a version has come to a state."""
        wait_until(lambda: self.states().get(version) == state)


@pytest.fixture
def model(changing_server: Server, shop: Path, tmp_path: Path) -> Model:
    return Model(changing_server, shop, tmp_path / "base")


def test_a_new_version_takes_over_when_it_is_ready(model: Model) -> None:
    """The old one answers until then, and is unloaded after."""
    model.add(1)
    model.serve()
    model.add(2, of="kinds/1", warmup=SLOW_WARMUP)
    model.wait(2, "LOADING")
    assert model.states()[1] == "AVAILABLE"
    answered = 0
    while model.states().get(2) == "LOADING":
        try:
            assert model.predict(version="{ value: 1 }") == (1, [2.0])
        except Refusal:
            assert model.states()[2] == "AVAILABLE"
        answered += 1
    assert answered > 10
    model.wait(1, "END")
    assert model.states()[2] == "AVAILABLE"
    with pytest.raises(Refusal, match="Specific"):
        model.predict(version="{ value: 1 }")


def test_requests_in_flight_finish_on_their_version(model: Model, changing_server: Server) -> None:
    model.add(1, of="kinds/1")
    model.serve()
    slow = request(model.name, {"seconds": np.array([3], np.float32)}, "slow")
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(changing_server.call("Predict", slow)))
    caller.start()
    model.add(2)
    model.wait(2)
    assert model.predict() == (2, [2.0])
    assert caller.is_alive(), "the swap took longer than the request"
    assert model.states()[1] in ("AVAILABLE", "UNLOADING")
    caller.join()
    assert [each.model_spec.version.value for each in answers] == [1]
    model.wait(1, "END")


@pytest.mark.parametrize("kind", ["corrupt", "empty", "huge", "warm-up fails", "half written"])
def test_a_bad_version_leaves_the_old_one(model: Model, changing_server: Server, kind: str) -> None:
    model.add(1)
    model.serve()
    if kind == "empty":
        (model.base / "2").mkdir()
    elif kind == "half written":
        shutil.rmtree(model.add(3) / "variables")
        (model.base / "3").rename(model.base / "2")
    else:
        warmup = BAD_WARMUP if kind == "warm-up fails" else ""
        model.add(2, broken=kind == "corrupt", huge=kind == "huge", warmup=warmup)
    model.wait(2, "END")
    assert changing_server.errors(model.name)[2] != 0
    assert model.predict() == (1, [2.0])
    assert model.states()[1] == "AVAILABLE"
    status = changing_server.http.get(f"/v1/models/{model.name}/versions/2").json()["model_version_status"][0]
    assert status["state"] == "END"
    assert status["status"]["error_code"] != "OK"
    assert status["status"]["error_message"]
    model.add(4, of="versions/3")
    model.wait(4)
    assert model.predict() == (4, [4.0])


def test_an_emptied_base_path_unloads_everything(model: Model) -> None:
    model.add(1)
    model.serve()
    model.remove(1)
    model.wait(1, "END")
    with pytest.raises(Refusal, match="NOT_FOUND"):
        model.predict()


def test_a_missing_base_path_leaves_what_is_loaded(model: Model) -> None:
    model.add(1)
    model.serve()
    model.base.rename(model.base.with_name("away"))
    time.sleep(2.5)
    assert model.predict() == (1, [2.0])
    assert model.states() == {1: "AVAILABLE"}


def test_policies_follow_the_folder(model: Model) -> None:
    model.add(1)
    model.add(2, of="versions/2")
    model.serve("model_version_policy { latest { num_versions: 2 } }")
    model.wait(1)
    model.wait(2)
    model.add(3, of="versions/3")
    model.wait(3)
    model.wait(1, "END")
    assert model.states()[2] == "AVAILABLE"
    # Back to what served before: a policy that names it.
    model.serve("model_version_policy { specific { versions: 2 } }")
    model.wait(3, "END")
    assert model.predict() == (2, [3.0])
    model.serve("model_version_policy { all {} }")
    wait_until(lambda: set(model.states().values()) == {"AVAILABLE"} and len(model.states()) == 3)
    model.remove(3)
    model.wait(3, "END")
    assert model.predict() == (2, [3.0])


def test_names_that_are_no_versions_are_passed_over(model: Model, shop: Path) -> None:
    model.add(5)
    for name in ("notes", "6.tmp", "v7", "0x8", "99999999999999999999"):
        shutil.copytree(shop / "versions" / "1", model.base / name)
    (model.base / "007").symlink_to(shop / "versions" / "3")
    model.serve()
    model.wait(7)
    assert model.predict() == (7, [4.0])


def test_labels(model: Model, changing_server: Server) -> None:
    every = "model_version_policy { all {} }"
    model.add(1)
    model.add(2, of="versions/2")
    model.serve(every)
    model.wait(1)
    model.wait(2)
    label = 'version_labels {{ key: "{}" value: {} }}'.format
    model.serve(f"{every} {label('stable', 1)} {label('canary', 2)}")
    assert model.predict(version_label='"stable"') == (1, [2.0])
    assert model.predict(version_label='"canary"') == (2, [3.0])
    model.serve(f"{every} {label('stable', 2)}")
    assert model.predict(version_label='"stable"') == (2, [3.0])
    answer = changing_server.http.post(f"/v1/models/{model.name}/labels/stable:predict", json={"instances": [2]})
    assert answer.json() == {"predictions": [3.0]}
    with pytest.raises(Refusal, match="Unrecognized servable version label: canary"):
        model.predict(version_label='"canary"')
    with pytest.raises(Refusal) as caught:
        model.serve(f"{every} {label('stable', 9)}")
    assert caught.value.code == "FAILED_PRECONDITION"
    assert caught.value.message.startswith(
        f"Request to assign label to version 9 of model {model.name}, which is not currently available for inference"
    )
    assert model.predict(version_label='"stable"') == (2, [3.0])


def test_reload_replaces_the_whole_list_and_waits(model: Model, changing_server: Server, shop: Path) -> None:
    model.add(1, of="kinds/1", warmup=SLOW_WARMUP)
    changing_server.reload(model_list({"other": (shop / "versions", "")}))
    model.serve()
    assert model.states() == {1: "AVAILABLE"}
    wait_until(lambda: "AVAILABLE" not in changing_server.states("other").values())
    with pytest.raises(Refusal, match="NOT_FOUND"):
        changing_server.call("Predict", request("other", {"x": X}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            2 * 'config { name: "M" base_path: "/m" model_platform: "tensorflow" }',
            "Illegal to list model M multiple times in config list",
        ),
        (
            'config { name: "M" base_path: "m/relative" model_platform: "tensorflow" }',
            "Expected model M to have an absolute path or URI; got base_path()=m/relative",
        ),
    ],
)
def test_a_refused_configuration_changes_nothing(model: Model, config: str, message: str) -> None:
    model.add(1)
    model.serve()
    with pytest.raises(Refusal) as caught:
        model._server.reload(f"model_config_list {{ {config} }}")
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(message)
    assert model.predict() == (1, [2.0])


def test_warmup_comes_before_available(model: Model) -> None:
    """The first request of a version that was warmed up meets a model that has run."""
    model.add(1, of="kinds/1", warmup=SLOW_WARMUP)
    start = time.monotonic()
    model.serve()
    assert time.monotonic() - start > 1.5


def test_status_of_a_version(changing_server: Server, model: Model) -> None:
    model.add(7)
    model.serve()
    answer = changing_server.call("GetModelStatus", spec(model.name, version="{ value: 7 }"))
    assert [(each.version, each.state) for each in answer.model_version_status] == [(7, 30)]


def test_the_server_is_whole_after_all_this(changing_server: Server, model: Model) -> None:
    assert isinstance(changing_server, Connection)
    model.add(1)
    model.serve()
    assert changing_server.process.poll() is None
    assert "Traceback" not in changing_server.log()
