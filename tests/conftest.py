"""What the whole suite shares: a way to type `tfline` commands, and one full run of the shipped digits pipeline."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from components.records import Journal, RunRecord, StageRecord

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "pipelines" / "digits"

# TFX's Beam executors parse sys.argv as their own flags, where pytest's -v would be absl's verbosity.
sys.argv[1:] = []

# What a command finds to import, before TFX adds to it: a user's code that it has installed for a test is nothing to a command.
_PATH = list(sys.path)

# A command then starts with TFX imported, as a fork of a clean process: 12 s less for each of some thirty runs. It must never be
# the pytest process itself, whose TensorFlow may have started threads by then.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.end_to_end.preload"])


@dataclass(frozen=True)
class Typed:
    """A command that was run: its exit code and what it printed, both streams."""

    code: int
    output: str


class Command:
    """A `tfline` command in a process of its own."""

    def __init__(self, arguments: Sequence[str], output: Path, environment: dict[str, str]) -> None:
        self._output = output
        self.process: BaseProcess = _SERVER.Process(target=_main, args=(list(arguments), str(output), environment, _PATH))
        self.process.start()

    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""

    def wait(self, seconds: float = 300) -> Typed:
        """Waits for its end."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end after {seconds} s:\n{self._output.read_text()}")
        return Typed(int(self.process.exitcode or 0), self._output.read_text(encoding="utf-8"))


def _main(arguments: list[str], output: str, environment: dict[str, str], path: list[str]) -> None:
    sys.path[:] = path
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - descriptors, for the process's life
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # Whoever starts a test run in the background has SIGINT ignored, and so would every process below it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    os.environ["COLUMNS"] = "80"
    from pipelines.cli import main

    with contextlib.suppress(BrokenPipeError):
        main(arguments, prog_name="tfline")


class Tfline:
    """Types commands against one home folder."""

    def __init__(self, home: Path, outputs: Path) -> None:
        self.home = home
        self.journal = Journal(home)
        self._outputs = outputs
        self._count = 0

    def start(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> Command:
        """Starts a command; `--home` is added."""
        self._count += 1
        output = self._outputs / f"{self._count}.txt"
        return Command([*map(str, arguments), "--home", str(self.home)], output, environment or {})

    def __call__(self, *arguments: str | Path, environment: dict[str, str] | None = None) -> Typed:
        """Runs a command to its end."""
        return self.start(*arguments, environment=environment).wait()

    def last(self, pipeline: str | None = None) -> tuple[RunRecord, dict[str, StageRecord]]:
        """The newest run's records."""
        record = self.journal.runs(pipeline)[0]
        return record, self.journal.stages(record.run_id)

    def states(self, pipeline: str | None = None) -> dict[str, str]:
        """The newest run's stages and their states."""
        return {name: str(record.state) for name, record in self.last(pipeline)[1].items()}


@pytest.fixture
def tfline(tmp_path: Path) -> Tfline:
    """Commands against a home of the test's own."""
    return Tfline(tmp_path / "home", tmp_path)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The shipped digits pipeline after one full run, made once; tests add runs of their own to the same home."""
    folder = tmp_path_factory.mktemp("digits")
    commands = Tfline(folder / "home", folder)
    typed = commands("run", DIGITS)
    assert typed.code == 0, typed.output
    commands.first = typed  # type: ignore[attr-defined]
    yield commands
