"""The process: exit codes, what it prints, signals."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.server.options import ServerOptions
from serving.server.processes import end_with_parent, supervise
from serving.server.status import StatusError
from tests.serving.server.conftest import ModelFolders


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.server.main", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_and_version_load_nothing_heavy() -> None:
    start = time.monotonic()
    assert run("--help").returncode == 255
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("TensorFlow ModelServer: ")
    assert time.monotonic() - start < 5  # TensorFlow alone takes four, twice


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--port=0", "--model_base_path=/m"), "INVALID_ARGUMENT: At least one of server_options.grpc_port or "),
        (
            ("--batching_parameters_file=b", "--model_base_path=/m"),
            "INVALID_ARGUMENT: server_options.batching_parameters_file is",
        ),
        (("--processes=2", "--grpc_socket_path=s", "--model_base_path=/m"), "INVALID_ARGUMENT: --grpc_socket_path cannot be"),
    ],
)
def test_a_start_that_fails_says_why_on_stdout(flags: tuple[str, ...], message: str) -> None:
    ended = run(*flags)
    assert ended.returncode == 255
    assert ended.stdout.startswith(f"Failed to start server. Error: {message}")
    assert "Traceback" not in ended.stderr


class Process:
    """A server in a process of its own, whose log is read."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.log = folder / "log"
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "serving.server.main", *flags]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_for(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + 120
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def started(folder: Path, *flags: str) -> Iterator[Process]:
    process = Process(folder, *flags)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            process.process.send_signal(signal.SIGTERM)
            process.process.wait(30)


def predict(channel: grpc.Channel, signature: str = "", **inputs: Any) -> Any:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    from tests.serving.server.test_model_server import predict_request

    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return stub.Predict.future(predict_request("m", signature, **inputs), timeout=60)


@pytest.mark.slow
def test_sigterm_lets_requests_finish_and_refuses_new_ones(models: ModelFolders, tmp_path: Path) -> None:
    from tests.serving.server.test_grpc_server import free_port

    (tmp_path / "m").mkdir()
    (tmp_path / "m/1").symlink_to(models.tf2)
    port, rest = free_port(), free_port()
    with started(
        tmp_path, f"--port={port}", f"--rest_api_port={rest}", "--model_name=m", f"--model_base_path={tmp_path}/m"
    ) as server:
        server.wait_for(f"Running gRPC ModelServer at 127.0.0.1:{port} ...")
        server.wait_for(f"Exporting HTTP/REST API at:127.0.0.1:{rest} ...")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            predict(channel, x=np.ones((1, 4), "float32")).result()
            inside = predict(channel, "slow", n=np.int32(150_000))
            time.sleep(0.3)
            assert not inside.done()
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("Shutting down")
            time.sleep(0.1)
            refused = predict(channel, x=np.ones((1, 4), "float32")).exception()
            assert refused.code() == grpc.StatusCode.UNAVAILABLE
            assert not inside.done(), "the request that was to be inside is over already"
            assert list(inside.result().outputs) == ["y"]
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_two_processes_share_the_port(models: ModelFolders, tmp_path: Path) -> None:
    from tests.serving.server.test_grpc_server import free_port

    (tmp_path / "m").mkdir()
    (tmp_path / "m/1").symlink_to(models.tf2)
    port = free_port()
    with started(tmp_path, f"--port={port}", "--model_name=m", f"--model_base_path={tmp_path}/m", "--processes=2") as server:
        server.wait_for("Running gRPC ModelServer", times=2)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            predict(channel, x=np.ones((1, 4), "float32")).result()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert server.log.read_text().count("Server stopped") == 2


def test_processes_end_when_one_ends(capfd: pytest.CaptureFixture[str]) -> None:
    # With --help the processes end at once, with 255, which is then the server's exit code.
    assert supervise(["--help"], ServerOptions(processes=2), queue.SimpleQueue()) == 255
    assert "usage: python -m serving.server.main" in capfd.readouterr().out


def test_a_process_hears_when_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    events: queue.SimpleQueue[str | StatusError] = queue.SimpleQueue()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        end_with_parent(events)
        with pytest.raises(queue.Empty):
            events.get(timeout=0.1)
        os.close(writing)
        assert events.get(timeout=10) == "signal"
