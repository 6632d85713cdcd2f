"""Twenty versions of a model of 20 MB, one after the other, under load: no request fails, and memory goes back."""

from __future__ import annotations

import os
import shutil
import statistics
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conformance.models import heavy, model_list
from tests.serving.conformance.servers import COMMAND, Connection, Server, wait_until
from tests.serving.conformance.test_grpc_answers import request

pytestmark = pytest.mark.slow

MEGABYTES = 20
SWAPS = 20
CLIENTS = 3


def test_twenty_swaps_under_load(changing_server: Server, tmp_path: Path) -> None:
    server = changing_server
    heavy(tmp_path / "model", MEGABYTES)
    _add(tmp_path, 1)
    server.reload(model_list({"heavy": (tmp_path / "base", "")}))
    clients = [_Client(server) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    resident = [_resident(server)]
    for version in range(2, SWAPS + 2):
        _add(tmp_path, version)
        shutil.rmtree(tmp_path / "base" / str(version - 1))
        wait_until(lambda: server.states("heavy").get(version) == "AVAILABLE")  # noqa: B023 - asked before it changes
        wait_until(lambda: server.states("heavy").get(version - 1) in ("END", None))  # noqa: B023
        resident.append(_resident(server))
    for client in clients:
        client.stop()
    assert [client.failure for client in clients] == [None] * CLIENTS
    assert sum(len(client.versions) for client in clients) > 2000
    for client in clients:
        assert client.versions == sorted(client.versions), "an older version answered after a newer one"
        assert len(set(client.versions)) > SWAPS // 2
    if not COMMAND:  # of `docker run` it would be the wrong process
        early, late = statistics.median(resident[4:8]), statistics.median(resident[-4:])
        assert late < early + 2 * MEGABYTES, [round(each) for each in resident]


class _Client(threading.Thread):
    """Asks one request after the other; keeps which version answered."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.versions: list[int] = []
        self.failure: Exception | None = None
        self._connection = Connection(f"localhost:{server.port}", "unused")
        self._ended = threading.Event()

    def run(self) -> None:
        asked = request("heavy", {"x": np.array([2, 4], np.float32)})
        try:
            while not self._ended.is_set():
                answer = self._connection.call("Predict", asked)
                assert list(answer.outputs["y"].float_val) == [3, 4]
                self.versions.append(answer.model_spec.version.value)
        except Exception as failure:
            self.failure = failure

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._connection.close()


def _add(folder: Path, version: int) -> None:
    """A version appears at once; its files are links to the one copy."""
    ready = folder / f"{version}.tmp"
    shutil.copytree(folder / "model", ready, copy_function=os.link)
    (folder / "base").mkdir(exist_ok=True)
    ready.rename(folder / "base" / str(version))


def _resident(server: Server) -> float:
    """MB of the server's memory that is its own and in RAM."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
