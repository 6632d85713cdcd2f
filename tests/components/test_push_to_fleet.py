"""The push stage before a fake server: a refusal is the gate "fleet", and a version that was not taken is nobody's champion."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import champion, push
from components.errors import GateRefused, TflineError
from components.layout import SERVING_DIR
from components.summary import SUMMARY_FILE, Summary
from serving import fleet_instances
from serving.fleet_config import FleetConfig, Instance
from serving.fleet_instances import Canary
from serving.fleet_push import bring_in_order, publish
from serving.fleet_state import Goal, State, write_goal
from serving.fleet_table import FleetError
from serving.store import VersionStore, tree_digest
from tests.serving.fake_fleet import FakeServer

X = np.arange(3, dtype=np.float32)


class Line:
    """The last stages of a pipeline before one fake server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = VersionStore(folder / "store", "digits")
        (folder / "memory").mkdir()
        self.server = FakeServer("a:8500", self.store.folder, folder / "memory")
        fleet = FleetConfig(
            instances=(Instance(name="a", address="a:8500", base_path=str(self.store.folder)),), deadline_seconds=0.1
        )
        self.config = push.Config(store=str(folder / "store"), tflite_store=str(folder / "tflite"), model="digits", fleet=fleet)

    def inputs(self, content: str) -> dict[str, Path]:
        model = self.folder / content / "model"
        (model / SERVING_DIR).mkdir(parents=True, exist_ok=True)
        (model / SERVING_DIR / "saved_model.pb").write_text(content)
        inputs = {"model": model, "golden": self.folder}
        for name in ("champion", "validation", "evaluation"):
            inputs[name] = self.folder / content / name
            inputs[name].mkdir(exist_ok=True)
            (inputs[name] / SUMMARY_FILE).write_text(Summary().model_dump_json())
        (inputs["champion"] / "champion.json").write_text(json.dumps({"version": 0, "digest": ""}))
        return inputs

    def push(self, content: str) -> int:
        return push.push(self.inputs(content), self.config, "run-1").version

    def champion_of(self, content: str) -> int:
        rules = champion.Config(store=self.config.store, model="digits")
        return int(champion.resolve(self.inputs(content), rules)["version"])


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    line = Line(tmp_path)
    monkeypatch.setattr(fleet_instances, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(push, "canaries", lambda *_: [Canary("serving_default", {"x": X}, {"y": X * 2})])
    monkeypatch.setattr(push, "publish", partial(publish, connect=lambda _: line.server))
    monkeypatch.setattr(push, "bring_in_order", partial(bring_in_order, connect=lambda _: line.server))
    return line


def test_a_version_that_servers_do_not_take_is_refused(line: Line) -> None:
    assert line.push("good") == 1
    with pytest.raises(GateRefused, match=r"fleet: version 2 of digits was not taken by 1 of 1 instances(.|\n)*END") as caught:
        line.push("broken")
    assert caught.value.exit_code == 3
    assert line.server.loaded() == [1]
    assert line.champion_of("next") == 1
    assert line.push("next") == 3


def test_what_a_killed_push_left_does_not_count_and_is_brought_in_order(line: Line) -> None:
    line.push("good")
    saved = line.inputs("unproved")["model"] / SERVING_DIR
    line.store.publish(saved)
    state = State(fleet=line.config.fleet)
    digest, places = tree_digest(saved), (str(line.store.folder),)
    write_goal(line.store.root, "digits", Goal(action="push", digest=digest, places=places, serves={"a": (1,)}, state=state))
    assert line.champion_of("next") == 1
    inputs = line.inputs("unproved")
    assert push.resolve(inputs, line.config) == {"version": 3}
    assert line.push("unproved") == 3
    assert (line.store.folder / "withdrawn-2").is_dir()


def test_a_server_that_does_not_come_back_is_a_failure(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*_: Any) -> None:
        raise FleetError("not every instance serves what it did before.")

    monkeypatch.setattr(push, "publish", stuck)
    with pytest.raises(TflineError, match="not every instance") as caught:
        line.push("good")
    assert caught.value.exit_code == 1
