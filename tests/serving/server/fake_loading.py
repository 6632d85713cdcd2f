"""Servables that compute nothing, folders that hold one file, and a manager around both.

`weights` in a version's folder is what a load reads: without it, or with `bad` in it, the load fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.server.lifecycle import Models, State, VersionStatus
from serving.server.manager import Manager
from serving.server.options import ServerOptions
from serving.server.servable import Arrays, Signature
from serving.server.status import Code, StatusError, invalid

PATIENCE = 20.0
"""Seconds after which a wait is a failure."""


class FakeServable:
    """Knows only whether it was closed."""

    def __init__(self, close_gate: threading.Event) -> None:
        self.signatures: Mapping[str, Signature] = {}
        self.all_signatures: Mapping[str, Any] = {}
        self.closed = 0
        self._close_gate = close_gate

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        assert not self.closed
        return {name: np.zeros(1) for name in outputs}

    def close(self) -> None:
        self.closed += 1
        assert self._close_gate.wait(PATIENCE)


class Loader:
    """What the manager is given as `load`; loads and closes can be stopped half way, and it keeps what it loaded."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.close_gate = threading.Event()
        self.close_gate.set()
        self.lock = threading.Lock()
        self.running: set[tuple[str, int]] = set()
        self.attempts: list[tuple[str, int]] = []
        self.loaded: list[tuple[str, int, FakeServable]] = []
        self.wrong: list[str] = []

    def __call__(self, name: str, number: int, folder: Path) -> FakeServable:
        with self.lock:
            if (name, number) in self.running:
                self.wrong.append(f"two loads of {name} {number} at once")
            self.running.add((name, number))
            self.attempts.append((name, number))
        try:
            assert self.gate.wait(PATIENCE)
            weights = folder / "weights"
            if not weights.is_file():
                raise invalid(f"no model in {folder.name}")
            if weights.read_text() == "bad":
                raise OSError("Read less bytes than requested")
            servable = FakeServable(self.close_gate)
            with self.lock:
                self.loaded.append((name, number, servable))
            return servable
        finally:
            with self.lock:
                self.running.discard((name, number))


class History:
    """An observer that checks, at every change, what has to hold of all of them."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, int], list[State]] = {}
        self.events: list[tuple[str, int, State]] = []
        self.wrong: list[str] = []

    def __call__(self, name: str, status: VersionStatus) -> None:
        self.events.append((name, status.version, status.state))
        states = self.states.setdefault((name, status.version), [])
        before = states[-1] if states else State.END
        if (before is State.END) != (status.state is State.START) or (before is not State.END and status.state <= before):
            self.wrong.append(f"{name} {status.version} went from {before.name} to {status.state.name}")
        states.append(status.state)


def publish(base: Path, number: int, weights: str = "good") -> Path:
    """Lets a version appear, by a rename as the store does."""
    staging = base / f".staging-{number}"
    staging.mkdir(parents=True)
    (staging / "weights").write_text(weights)
    return staging.rename(base / str(number))


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def config_of(text: str) -> Any:
    return text_format.Parse(f"model_config_list {{ {text} }}", model_server_config_pb2.ModelServerConfig())


def written(folder: Path, *models: str) -> str:
    """The path of a configuration file with these models, which appears at once."""
    folder.mkdir(exist_ok=True)
    (folder / "config.new").write_text(f"model_config_list {{ {' '.join(models)} }}")
    return str((folder / "config.new").rename(folder / "config"))


def model(name: str, base: Path, more: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'


def states(models: Models, name: str) -> dict[int, State]:
    return {status.version: status.state for status in models.statuses(name)}


def serving(models: Models, name: str, version: int | None = None, label: str | None = None) -> int:
    with models.acquire(name, version, label) as loaded:
        return loaded.version


class Rig:
    """A manager with its loader and its history."""

    def __init__(self, options: ServerOptions) -> None:
        self.load = Loader()
        self.history = History()
        self.configs: list[Any] = []
        self.manager = Manager(options, self.load, observers=[self.history], config_observers=[self.configs.append])

    def start(self) -> Rig:
        self.manager.start()
        self.manager.wait_until_loaded(PATIENCE)
        return self


@contextmanager
def rig(base: Path | None = None, *, seconds: float = 0.01, retry_seconds: float = 0.0, **changes: Any) -> Iterator[Rig]:
    """A rig that is not started yet. The flag of polling is of whole seconds; the manager takes shorter times as well."""
    made = Rig(
        ServerOptions(
            model_name="m",
            model_base_path="" if base is None else str(base),
            file_system_poll_wait_seconds=cast(int, seconds),
            load_retry_interval_micros=int(retry_seconds * 1e6),
            **{"max_num_load_retries": 0, **changes},
        )
    )
    try:
        yield made
    finally:
        made.load.gate.set()
        assert made.manager.close(PATIENCE)
    assert made.load.wrong == []
    assert made.history.wrong == []
    assert [servable.closed for _, _, servable in made.load.loaded] == [1] * len(made.load.loaded)
    assert {history[-1] for history in made.history.states.values()} <= {State.END}


@contextmanager
def refused(code: Code, message: str) -> Iterator[None]:
    """Expects a StatusError with exactly this message."""
    with pytest.raises(StatusError) as caught:
        yield
    assert (caught.value.code, caught.value.message) == (code, message)
