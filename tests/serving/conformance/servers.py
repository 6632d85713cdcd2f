"""Starts the server under test and talks to it with TensorFlow Serving's own protos, plain gRPC and httpx.

TFLINE_SERVER_CMD   the command, `tensorflow_model_server` or `docker run --rm --net=host -v /tmp:/tmp tensorflow/serving`;
                    ports and flags are appended, ports in place of {port} and {rest_port} if it has them. Without it: the
                    embedded server.
TFLINE_SERVER_ADDRESS   HOST:PORT,HOST:REST_PORT of a running server with the models of `models.make`; tests that need a
                    server of their own are then skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

COMMAND = os.environ.get("TFLINE_SERVER_CMD", "")
ADDRESS = os.environ.get("TFLINE_SERVER_ADDRESS", "")
EMBEDDED = not COMMAND and not ADDRESS
START_SECONDS = 120.0

_EMBEDDED_COMMAND = f"{shlex.quote(sys.executable)} -m serving.server.main"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Refusal(Exception):
    """What gRPC answered that was not OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Method(NamedTuple):
    """A gRPC method: its service and its two messages."""

    service: str
    request: Any
    response: Any


@cache
def methods() -> Mapping[str, Method]:
    """TensorFlow Serving's methods by name. Loads TensorFlow."""
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_management_pb2,
        predict_pb2,
        regression_pb2,
    )

    prediction, models = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
    return {
        "Predict": Method(prediction, predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "Classify": Method(prediction, classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
        "Regress": Method(prediction, regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "MultiInference": Method(prediction, inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
        "GetModelMetadata": Method(
            prediction, get_model_metadata_pb2.GetModelMetadataRequest, get_model_metadata_pb2.GetModelMetadataResponse
        ),
        "GetModelStatus": Method(models, get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
        "HandleReloadConfigRequest": Method(
            models, model_management_pb2.ReloadConfigRequest, model_management_pb2.ReloadConfigResponse
        ),
    }


class Connection:
    """A way to talk to one server; not thread-safe for `close` only."""

    def __init__(self, grpc_address: str, rest_address: str, certificate: bytes | None = None) -> None:
        credentials = grpc.ssl_channel_credentials(certificate) if certificate else None
        self.channel = (
            grpc.secure_channel(grpc_address, credentials, options=_UNLIMITED)
            if credentials
            else grpc.insecure_channel(grpc_address, options=_UNLIMITED)
        )
        self.http = httpx.Client(base_url=f"http://{rest_address}", timeout=60, trust_env=False)

    def call(self, method: str, request: Any, timeout: float = 60) -> Any:
        """Makes a call; a request may be text format.

        Raises:
            Refusal: The status is not OK.
        """
        service, kind, response = methods()[method]
        if isinstance(request, str):
            from google.protobuf import text_format

            request = text_format.Parse(request, kind())
        stub = self.channel.unary_unary(
            f"/{service}/{method}", request_serializer=kind.SerializeToString, response_deserializer=response.FromString
        )
        try:
            return stub(request, timeout=timeout)
        except grpc.RpcError as error:
            raise Refusal(error.code().name, error.details()) from None

    def states(self, model: str) -> dict[int, str]:
        """The state of each version of a model; empty when the server does not know it."""
        try:
            answer = self.call("GetModelStatus", f'model_spec {{ name: "{model}" }}')
        except Refusal:
            return {}
        return {each.version: type(each).State.Name(each.state) for each in answer.model_version_status}

    def errors(self, model: str) -> dict[int, int]:
        """The error code of each version of a model."""
        answer = self.call("GetModelStatus", f'model_spec {{ name: "{model}" }}')
        return {each.version: each.status.error_code for each in answer.model_version_status}

    def reload(self, models: str) -> None:
        """Makes this text of a ModelServerConfig the server's."""
        self.call("HandleReloadConfigRequest", f"config {{ {models} }}")

    def close(self) -> None:
        """Hangs up."""
        self.channel.close()
        self.http.close()


class Server(Connection):
    """A server process of the test's own; `stop` it."""

    def __init__(
        self, flags: Mapping[str, object], folder: Path, certificate: bytes | None = None, *, one_port: bool = False
    ) -> None:
        """Starts it and waits until it answers on both ports; `one_port` names the same for both, which leaves out REST."""
        self.port = free_port()
        self.rest_port = self.port if one_port else free_port()
        self.flags = flags
        self._log = folder / f"server-{self.port}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command(self.port, self.rest_port, flags), stdout=log, stderr=log)
        super().__init__(f"localhost:{self.port}", f"127.0.0.1:{self.rest_port}", certificate)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def log(self) -> str:
        """What it printed so far, on both streams."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """Ends the process, at once."""
        self.close()
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        ready = grpc.channel_ready_future(self.channel)
        end = time.monotonic() + START_SECONDS
        while not ready.done() or not self._rest_open():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server did not start (exit code {self.process.poll()}):\n{self.log()}")
            time.sleep(0.05)

    def _rest_open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.rest_port)) == 0


def command(port: int, rest_port: int, flags: Mapping[str, object]) -> list[str]:
    """The command line that starts a server on these ports (0: without)."""
    text = COMMAND or _EMBEDDED_COMMAND
    ports = {"port": port, "rest_api_port": rest_port}
    if "{port}" in text:
        text, ports = text.format(port=port, rest_port=rest_port), {}
    return [*shlex.split(text), *(f"--{name}={value}" for name, value in {**ports, **flags}.items())]


def run(flags: Mapping[str, object] | list[str], seconds: float = START_SECONDS) -> tuple[int, str]:
    """Runs a server that should end by itself; its exit code and what it printed."""
    line = command(free_port(), free_port(), {}) + flags if isinstance(flags, list) else command(free_port(), free_port(), flags)
    done = subprocess.run(line, capture_output=True, timeout=seconds, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Waits for something; a test fails when it does not come."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"not so after {seconds:g} s")
        time.sleep(0.05)


def same(message: str, expected: str) -> bool:
    """Whether a message is the expected one, in which `…` stands for any text."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), message, re.DOTALL) is not None
