"""`tfline versions`, `promote`, `rollback`, `prune` and `fleet up` as they are typed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from components.errors import UsageError
from components.records import Journal, RunRecord, StageRecord, write_atomically
from components.summary import Summary
from pipelines.cli import main
from pipelines.config import load_config
from pipelines.serve_command import store_flags
from serving.fleet_config import FleetConfig, Instance
from serving.fleet_state import State, write_state
from serving.store import VersionStore, publish_together
from tests.conftest import DIGITS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with three versions of digits, the second one by a run that the journal knows."""
    home = tmp_path / "home"
    for number in (1, 2, 3):
        model, tflite = tmp_path / f"model-{number}", tmp_path / f"tflite-{number}"
        for folder, file in ((model, "saved_model.pb"), (tflite, "model.tflite")):
            folder.mkdir()
            (folder / file).write_text(str(number))
        models, twins = (VersionStore(home / name, "digits") for name in ("store", "store-tflite"))
        publish_together(models, twins, model, tflite, {"run_id": f"digits-{number}"})
    journal = Journal(home)
    journal.write_run(RunRecord(run_id="digits-2", pipeline="digits", folder="", started=0, pid=1, host="", stages=("evaluate",)))
    journal.write_stage("digits-2", StageRecord(stage="evaluate", summary=Summary(metrics={"accuracy": 0.975, "loss": 0.1})))
    tracked = {"stores": {"sqlite:///x": {"run": "0f" * 16}}}
    write_atomically(journal.run_dir("digits-2") / "tracked.json", json.dumps(tracked))
    return home


def typed(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--home", str(home)])


def test_versions_without_any_server(home: Path) -> None:
    result = typed(home, "versions", "digits")
    assert result.exit_code == 0
    assert re.findall(r"^ +(\d+)\b", result.output, flags=re.MULTILINE) == ["3", "2", "1"]
    assert f"run digits-2  MLflow {'0f' * 16}" in result.output
    assert "accuracy 0.975, loss 0.1" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    found = json.loads(typed(home, "versions", "digits", "--json").output)
    assert found["versions"][1]["metrics"] == {"accuracy": 0.975, "loss": 0.1}
    assert found["versions"][1]["digest"] == VersionStore(home / "store", "digits").get(2).digest
    missing = typed(home, "versions", "trips")
    assert (missing.exit_code, "has no model 'trips'; it has digits" in missing.output) == (1, True)


def test_promote_and_rollback_without_a_fleet(home: Path) -> None:
    assert "digits version 2 is stable now" in typed(home, "promote", "digits", "2").output
    output = typed(home, "versions", "digits").output
    assert re.search(r"^ +3  canary  since .*\n(.*\n)*? +2  stable  since", output, flags=re.MULTILINE)
    flags = store_flags(["digits", "--home", str(home)])
    assert f"--model_config_file={(home / 'store' / 'digits').resolve() / '.models.config'}" in flags
    assert "digits is back at version 2" in typed(home, "rollback", "digits").output
    assert [version.number for version in VersionStore(home / "store-tflite", "digits").versions()] == [1, 2]
    assert "taken back" in typed(home, "versions", "digits").output
    again = typed(home, "rollback", "digits", "3")
    assert (again.exit_code, "no version 3" in again.output) == (1, True)


def test_a_moved_store_is_served_from_where_it_is(home: Path) -> None:
    typed(home, "promote", "digits")
    moved = home.rename(home.with_name("moved"))
    (flag,) = [flag for flag in store_flags(["digits", "--home", str(moved)]) if "model_config_file=" in flag]
    assert f'base_path: "{moved}/store/digits"' in Path(flag.partition("=")[2]).read_text()


def test_prune_asks_the_servers(home: Path) -> None:
    address = "127.0.0.1:9"  # the port "discard", on which nobody listens
    folder = home / "store" / "digits"
    fleet = FleetConfig(instances=(Instance(name="a", address=address, base_path=str(folder)),), deadline_seconds=1)
    write_state(home / "store", "digits", State(fleet=fleet, serves={"a": (1,)}, tflite=str(home / "store-tflite" / "digits")))
    refused = typed(home, "prune", "digits", "--keep", "1")
    assert (refused.exit_code, "a cannot be asked what it serves; nothing was removed" in refused.output) == (1, True)
    assert "no answer from a" in typed(home, "versions", "digits").output
    assert "served by a" in typed(home, "versions", "digits", "--offline").output
    assert "removed 2." in typed(home, "prune", "digits", "--keep", "1", "--offline").output
    for name in ("store", "store-tflite"):
        assert [version.number for version in VersionStore(home / name, "digits").versions()] == [1, 3]


def test_fleet_up_names_the_models_there_are(home: Path) -> None:
    result = typed(home, "fleet", "up", "../digits")
    assert result.exit_code != 0
    result = typed(home, "fleet", "up", "trips")
    assert (result.exit_code, "has no model 'trips'; it has digits" in result.output) == (2, True)


@pytest.mark.slow
def test_fleet_up_serves_and_leaves_no_process(tmp_path: Path) -> None:
    import tensorflow as tf

    from serving.client import Client

    module = tf.Module()
    signature = tf.function(lambda x: {"y": x * 2}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": signature})
    VersionStore(tmp_path / "store", "twice").publish(tmp_path / "model")
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "fleet", "up", "--instances", "2"]
    process = subprocess.Popen([*command, "--home", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        told = "".join(lines)
        addresses = re.findall(r"gRPC (127\.0\.0\.1:\d+)", told)
        assert len(set(addresses)) == 2
        assert "tfline predict twice --input rows.json \\\n" in told
        assert max(map(len, lines)) <= 81
        with Client(addresses) as client:
            assert [float(client.predict("twice", {"x": [4.0]})["y"][0]) for _ in range(4)] == [8.0] * 4
        children = [int(pid) for pid in children_of(process.pid)]
        assert len(children) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in children)


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_fleet_in_the_configuration(home: Path) -> None:
    def load(fleet: str) -> FleetConfig | None:
        return load_config(DIGITS, home, overrides=[f"push.fleet={fleet}"]).push.fleet

    fleet = load("{instances: [{name: a, address: 'a:1'}, {name: b, address: 'b:1', base_path: '{home}/disk/digits'}]}")
    assert fleet is not None
    assert [each.base_path for each in fleet.instances] == [f"{home}/store/digits", f"{home}/disk/digits"]
    with pytest.raises(UsageError, match="base_path of instance a has to end in the model's name"):
        load("{instances: [{name: a, address: 'a:1', base_path: /models/other}]}")
    with pytest.raises(UsageError, match="adress"):
        load("{instances: [{name: a, adress: 'a:1'}]}")
    with pytest.raises(UsageError, match="each name once"):
        load("{instances: [{name: a, address: 'a:1'}, {name: a, address: 'b:1'}]}")
