"""A fleet of three embedded servers in processes of their own: what test_fleet.py does with fakes, for real and in short.

Each serves "digits" from a folder of its own and "trips" from the store's folder, which all three share.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.client import Client
from serving.fleet import promote, recover, rollback
from serving.fleet_config import FleetConfig, Instance
from serving.fleet_instances import Canary, Instances
from serving.fleet_push import Package, publish
from serving.fleet_state import changing_fleets, read_goal
from serving.fleet_table import FleetRefused
from serving.fleet_versions import overview, prune
from serving.server_process import ServerProcess
from serving.server_program import embedded_program
from serving.store import VersionStore

pytestmark = pytest.mark.slow

X = np.arange(3, dtype=np.float32)


@dataclass
class Fleet:
    """The servers, and where their models come from."""

    folder: Path
    servers: list[ServerProcess]

    def config(self, model: str, *, labels: bool = False, deadline: float = 20) -> FleetConfig:
        names = "abc"
        return FleetConfig(
            instances=tuple(
                Instance(
                    name=name,
                    address=server.grpc_address,
                    rest=server.rest_address,
                    base_path=str(base_path(self.folder, name, model)),
                    other_models={"trips" if model == "digits" else "digits": str(base_path(self.folder, name, other(model)))},
                )
                for name, server in zip(names, self.servers, strict=True)
            ),
            deadline_seconds=deadline,
            labels=labels,
        )

    def push(self, model: str, source: str, factor: float, **options: Any) -> int:
        canary = Canary("serving_default", {"x": X}, {"y": X * factor})
        package = Package(VersionStore(self.folder / "store", model), None, self.folder / source, None, {})
        return publish(package, self.config(model, **options), [canary]).model.number

    def serving(self, model: str) -> Mapping[str, tuple[int, ...] | None]:
        return overview(self.folder / "store", model).serving


def other(model: str) -> str:
    return "trips" if model == "digits" else "digits"


def base_path(folder: Path, name: str, model: str) -> Path:
    return folder / f"disk-{name}" / "digits" if model == "digits" else folder / "store" / "trips"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    save_models(folder)
    for place in [*(base_path(folder, name, "digits") for name in "abc"), *(folder / "store" / m for m in ("digits", "trips"))]:
        VersionStore(place.parent, place.name).publish(folder / "times-1")
    with ExitStack() as stack:
        servers = []
        for name in "abc":
            config = folder / f"models-{name}.config"
            models = "".join(
                f'config {{ name: "{model}" base_path: "{base_path(folder, name, model)}" model_platform: "tensorflow" }} '
                for model in ("digits", "trips")
            )
            config.write_text(f"model_config_list {{ {models} }}")
            flags = [f"--model_config_file={config}", "--max_num_load_retries=0", "--rest_list_models"]
            server = ServerProcess(embedded_program(), flags, log=folder / f"server-{name}.log")
            servers.append(stack.enter_context(server))
        for server in servers:
            for model in ("digits", "trips"):
                server.wait_until_available(model, [1], timeout=90)
        yield Fleet(folder, servers)


def save_models(folder: Path) -> None:
    import tensorflow as tf

    for factor in range(1, 6):
        module = tf.Module()
        module.factor = tf.Variable(float(factor))
        signature = tf.function(
            lambda x, module=module: {"y": x * module.factor}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
        )
        tf.saved_model.save(module, str(folder / f"times-{factor}"), signatures={"serving_default": signature})
    (folder / "broken").mkdir()
    (folder / "broken" / "saved_model.pb").write_bytes(b"no graph")


def test_separate_storage(fleet: Fleet) -> None:
    assert fleet.push("digits", "times-2", 2) == 2
    assert fleet.serving("digits") == {"a": (2,), "b": (2,), "c": (2,)}
    with pytest.raises(FleetRefused, match=r"a: serving_default/y: 2 of 3 numbers differ"):
        fleet.push("digits", "times-3", 2)
    with pytest.raises(FleetRefused, match=r"not taken by 3 of 3 instances(.|\n)*END "):
        fleet.push("digits", "broken", 2)
    assert fleet.serving("digits") == {"a": (2,), "b": (2,), "c": (2,)}


def test_a_reload_that_would_take_a_model_away_is_refused(fleet: Fleet) -> None:
    store = fleet.folder / "elsewhere"
    VersionStore(store, "trips").publish(fleet.folder / "times-2")
    config = fleet.config("trips", labels=True)
    alone = tuple(each.model_copy(update={"other_models": {}}) for each in config.instances)
    package = Package(VersionStore(store, "trips"), None, fleet.folder / "times-3", None, {})
    with pytest.raises(FleetRefused, match=r"nothing was pushed(.|\n)*a: it also serves digits, which a reload would take away"):
        publish(package, config.model_copy(update={"instances": alone}))
    assert [version.number for version in VersionStore(store, "trips").versions()] == [1]


KILLED_PUSH = """
import os, signal, sys
from pathlib import Path
from serving.fleet_config import FleetConfig
from serving.fleet_instances import Instances
from serving.fleet_push import Package, publish
from serving.store import VersionStore

prove = Instances.prove
def prove_and_die(*arguments):
    prove(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
Instances.prove = prove_and_die
store, source, fleet = sys.argv[1:]
publish(Package(VersionStore(Path(store), "trips"), None, Path(source), None, {}), FleetConfig.model_validate_json(fleet))
"""


def test_shared_storage_with_labels_and_a_killed_push(fleet: Fleet) -> None:
    store = fleet.folder / "store"
    assert fleet.push("trips", "times-2", 2, labels=True) == 2
    assert fleet.serving("trips") == {"a": (1, 2), "b": (1, 2), "c": (1, 2)}
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED_PUSH,
            store,
            fleet.folder / "times-3",
            fleet.config("trips", labels=True).model_dump_json(),
        ],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -9
    assert fleet.serving("trips") == {"a": (1, 2, 3), "b": (1, 2, 3), "c": (1, 2, 3)}
    with changing_fleets(store, "recover"):
        recover(store, "trips")
    assert read_goal(store, "trips") is None
    assert fleet.serving("trips") == {"a": (1, 2), "b": (1, 2), "c": (1, 2)}
    assert answers(fleet, "stable") == [1, 1, 1]
    assert promote(store, "trips")[0] == 2
    assert (answers(fleet, "stable"), answers(fleet, "canary")) == ([2, 2, 2], [2, 2, 2])
    assert fleet.push("trips", "times-4", 4, labels=True) == 4
    assert (answers(fleet, "stable"), answers(fleet, "canary")) == ([2, 2, 2], [4, 4, 4])
    assert prune(store, "trips", 1) == [1]
    assert rollback(store, "trips")[0] == 2
    assert (answers(fleet, "stable"), answers(fleet, "canary")) == ([2, 2, 2], [2, 2, 2])
    assert fleet.serving("digits")["a"] is not None  # reloads left the other model alone
    assert fleet.serving("trips") == {"a": (2,), "b": (2,), "c": (2,)}


def test_one_is_killed_during_the_push(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fleet.serving("digits")["a"]
    prove = Instances.prove

    def kill_first(*arguments: Any) -> Any:
        fleet.servers[2].stop(grace=0)
        return prove(*arguments)

    monkeypatch.setattr(Instances, "prove", kill_first)
    with pytest.raises(FleetRefused) as caught:
        fleet.push("digits", "times-5", 5, deadline=4)
    rows = {row.name: row for row in caught.value.rows}
    assert (rows["c"].state, rows["c"].serves) == ("no answer", None)
    assert (rows["a"].canary, rows["a"].serves, rows["b"].serves) == ("ok", before, before)


def answers(fleet: Fleet, label: str) -> list[float]:
    found = []
    for server in fleet.servers:
        with Client(server.grpc_address) as client:
            found.append(float(client.predict("trips", {"x": np.ones(1, np.float32)}, label=label)["y"][0]))
    return found
