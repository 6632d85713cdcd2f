"""The README's commands do what it says, in the order in which it names them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from components.records import Journal
from tests.conftest import DIGITS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.startswith("tfline ")]


@pytest.mark.slow
def test_every_command_works(digits: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pipelines" / "digits"
    shutil.copytree(DIGITS, folder)
    typed = [command for command in commands() if command[1] not in ("ui", "inspect")]
    assert len(typed) == 10
    for command in typed:
        answer = digits(*[str(folder) if word == "pipelines/digits" else word for word in command[1:]])
        assert answer.code == 0, f"{shlex.join(command)}\n{answer.output}"
        if command[1:] == ["run", "pipelines/digits"]:
            assert "Nothing to do: digits version 1 is this model" in answer.output
    assert (folder / "schema.pbtxt").is_file()


@pytest.mark.slow
def test_inspect_shows_the_newest_version(digits: Any) -> None:
    assert ["tfline", "inspect", ".tfline/store/digits"] in commands()
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "inspect", str(digits.home / "store" / "digits")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    newest = digits.journal.runs("digits")[-1].pushed.path
    assert done.stdout.startswith(newest.rpartition("/")[0])
    assert "in   examples       string   [?]" in done.stdout
    assert "probabilities/kernel" in done.stdout


@pytest.mark.slow
def test_ui_serves_the_records(digits: Any) -> None:
    assert ["tfline", "ui"] in commands()
    server = subprocess.Popen(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "ui", "--home", str(digits.home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        page = ""
        end = time.monotonic() + 90
        for line in server.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                page = _fetch(f"{found[0]}/api/2.0/mlflow/experiments/get-by-name?experiment_name=digits")
                break
            assert time.monotonic() < end, "no address within 90 s"
        assert '"name": "digits"' in page
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def _fetch(url: str) -> str:
    for _ in range(60):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(1)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.slow
def test_where_things_lie(digits: Any) -> None:
    entries = ("store/digits/1/manifest.json", "store-tflite/digits/1/model.tflite", "metadata.db", "mlflow/mlflow.db", "locks")
    for entry in entries:
        assert (digits.home / entry).exists(), entry
    run = Journal(digits.home).run_dir(digits.journal.runs()[-1].run_id)
    assert (run / "run.json").is_file() and list((run / "stages").glob("*.json")) and list((run / "logs").glob("*.log"))


def test_the_stages_of_the_readme_are_the_graphs() -> None:
    from pipelines.graph import STAGES

    assert tuple(re.findall(r"^\| `([a-z-]+)` \| [^|]*→", README, flags=re.MULTILINE)) == STAGES


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"run", "test", "check"} <= named <= targets
