"""A small fake of `serving.client.Client` and the server behind it, for tests of fleets: no process, no port, no TensorFlow.

It reads the real base path at each question, as a server's polling does, and keeps what was reloaded into it in a file, so that a
push that is killed in a forked process leaves the servers as they were at that moment. A version whose saved_model.pb says
"broken" never loads; one that says "wrong" answers 1 too much. As TensorFlow Serving does, it keeps an old version until a newer
one is available and gives labels only to available versions; while it is down, it refuses everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.client.errors import RequestError
from serving.fleet_instances import Server
from serving.server.lifecycle import State, VersionStatus
from serving.server.status import Code


class FakeServer:
    """One server of the model "digits"."""

    def __init__(self, address: str, base: Path, memory: Path) -> None:
        self.address, self.base = address, base
        self._memory = memory / f"{address.replace(':', '-')}.json"

    def get(self) -> dict[str, Any]:
        start: dict[str, Any] = {"down": False, "versions": [], "labels": {}, "loaded": [], "reloads": 0, "models": []}
        return {**start, **(json.loads(self._memory.read_text()) if self._memory.exists() else {})}

    def set(self, **values: Any) -> None:
        part = self._memory.with_suffix(".part")  # who is killed here must not leave half of it
        part.write_text(json.dumps({**self.get(), **values}))
        part.replace(self._memory)

    def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        memory = self._up()
        there = self._there()
        wanted = [number for number in memory["versions"] if number in there] if memory["versions"] else there[-1:]
        good = [number for number in wanted if "broken" not in self._content(number)]
        loaded = good or [number for number in memory["loaded"] if number in there or not there]
        if not there:
            loaded = []
        if loaded != memory["loaded"]:
            self.set(loaded=loaded)
        found = [VersionStatus(number, State.AVAILABLE) for number in loaded]
        found += [VersionStatus(each, State.END, Code.INVALID_ARGUMENT, "no graph") for each in wanted if each not in good]
        if not found:
            raise RequestError(Code.NOT_FOUND, f"Could not find any versions of model {model}", self.address)
        return found

    def predict(
        self, model: str, inputs: Any, *, version: int | None, signature: str, timeout: float | None
    ) -> Mapping[str, Any]:
        self._up()
        if version not in self.loaded():
            raise RequestError(Code.NOT_FOUND, f"Servable not found for request: Specific({model}, {version})", self.address)
        return {"y": np.asarray(inputs["x"]) * 2 + ("wrong" in self._content(version))}

    def reload(self, config: Any, *, timeout: float | None = None) -> None:
        memory, loaded = self._up(), self.loaded()
        (mine,) = [each for each in config.model_config_list.config if each.name == "digits"]
        assert mine.base_path == str(self.base)
        for label, number in mine.version_labels.items():
            if number not in loaded:
                raise RequestError(Code.FAILED_PRECONDITION, f"Request to assign label {label} to version {number}", self.address)
        self.set(
            versions=sorted(mine.model_version_policy.specific.versions),
            labels=dict(mine.version_labels),
            reloads=memory["reloads"] + 1,
            models=sorted(each.name for each in config.model_config_list.config),
        )

    def close(self) -> None:
        pass

    def loaded(self) -> list[int]:
        try:
            return [each.version for each in self.status("digits") if each.state is State.AVAILABLE]
        except RequestError:
            return []

    def _up(self) -> dict[str, Any]:
        memory = self.get()
        if memory["down"]:
            raise RequestError(Code.UNAVAILABLE, "failed to connect to all addresses", self.address)
        return memory

    def _there(self) -> list[int]:
        return sorted(int(path.name) for path in self.base.glob("*") if path.name.isdigit()) if self.base.is_dir() else []

    def _content(self, number: int | None) -> str:
        try:
            return (self.base / str(number) / "saved_model.pb").read_text()
        except FileNotFoundError:
            return ""


def as_server(server: FakeServer) -> Server:
    """mypy holds the fake against the interface here."""
    return server
