"""The servers that benchmarks/serving.py measures: how each is started, and what the same request looks like to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals.net import FEATURES
from serving.client.grpc_calls import GrpcCall, predict
from serving.client.values import Spec

RIVALS = Path(__file__).parent / "rivals"
ROOT = Path(__file__).parents[1]
START_SECONDS = 120

Payload = Callable[[np.ndarray[Any, Any]], bytes]


@dataclass(frozen=True)
class Target:
    """A way to ask one server.

    Attributes:
        name: In the tables.
        transport: grpc or http.
        port: On loopback.
        path: The HTTP path, or the gRPC method.
        payload: Of rows [n, 64] float32, the request's bytes.
        scores: Of an answer's bytes, the rows [n, 10]; None where there is nothing to compare.
    """

    name: str
    transport: str
    port: int
    path: str
    payload: Payload
    scores: Callable[[bytes], Any] | None = None


@dataclass
class Running:
    """A process and its log; `stop` ends it and those it started."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """Ends the process group: most of these servers have workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(
    command: Sequence[str | Path], folder: Path, ports: Sequence[int], environment: Mapping[str, str] | None = None
) -> Running:
    """Starts a server and waits until its ports take connections.

    Raises:
        RuntimeError: It ended, or did not open them in two minutes; with the end of its log.
    """
    log = folder / f"server-{ports[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(each) for each in command],
            stdout=output,
            stderr=output,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
    running = Running(process, log)
    end = time.monotonic() + START_SECONDS
    while not all(map(_open, ports)):
        if process.poll() is not None or time.monotonic() > end:
            running.stop()
            raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
    return running


def wait_until_answered(target: Target) -> None:
    """Waits until a server answers one row by REST: some open their port before their worker is ready.

    Raises:
        RuntimeError: It does not within two minutes.
    """
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}{target.path}", target.payload(rows(1)), {"Content-Type": "application/json"}
    )
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS):  # noqa: S310
                return
        except OSError as error:
            if time.monotonic() > end:
                raise RuntimeError(f"{target.name} does not answer: {error}") from None
        time.sleep(0.2)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def rows(count: int) -> np.ndarray[Any, Any]:
    """Input of so many rows, values of four decimals."""
    return np.random.default_rng(1).random((count, FEATURES)).round(4).astype(np.float32)


def save_model(folder: Path, weights: Path, version: int) -> None:
    """The net as a SavedModel, with the version's name; needs a process that may load TensorFlow."""
    import tensorflow as tf

    loaded = np.load(weights, allow_pickle=False)
    module = tf.Module()
    module.first, module.second = tf.Variable(loaded["first"]), tf.Variable(loaded["second"])
    call = tf.function(
        lambda x: {"y": tf.nn.relu(x @ module.first) @ module.second},
        input_signature=[tf.TensorSpec([None, FEATURES], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(folder / str(version)), signatures=call)


def embedded(folder: Path, *flags: str) -> tuple[Running, Target, Target]:
    """Our server on `folder`/model: the process, gRPC and REST."""
    port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving.server.main", f"--port={port}", f"--rest_api_port={rest_port}"]
    command += ["--model_name=net", f"--model_base_path={folder / 'model'}", *flags]
    running = start(command, folder, [port, rest_port])
    more = "".join(f" {flag}" for flag in flags)
    method = "/tensorflow.serving.PredictionService/Predict"
    return (
        running,
        Target(f"tfline gRPC{more}", "grpc", port, method, _predict_request, _predict_scores),
        Target(f"tfline REST{more}", "http", rest_port, "/v1/models/net:predict", _json("instances"), _key("predictions")),
    )


def echo(folder: Path) -> tuple[Running, Target]:
    """A Python gRPC server that answers each request with ready bytes, as many as Predict's answer has: the ceiling."""
    port = free_port()
    running = start([sys.executable, "-m", "benchmarks.serving_servers", str(port)], folder, [port])
    return running, Target("gRPC echo", "grpc", port, "/echo/Echo", _predict_request)


def serve_echo(port: int) -> None:
    """What the echo's process runs; as many threads as the embedded server has by default."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    answers = {len(_predict_request(rows(count))): bytes(44 * count + 60) for count in (1, 32, 256)}
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answers[len(request)])
    threads = 4 * len(os.sched_getaffinity(0))
    server = grpc.server(ThreadPoolExecutor(threads), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"Echo": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def rivals(venvs: Path) -> dict[str, Callable[[Path], tuple[Running, Target]]]:
    """The others by name; MLflow from our own environment, the rest from `venvs`/NAME where there is one."""
    found: dict[str, Callable[[Path], tuple[Running, Target]]] = {"mlflow": _mlflow}
    makers = {"mlserver": _mlserver, "kserve": _kserve, "bentoml": _bentoml, "litserve": _litserve}
    for name, maker in makers.items():
        if (venvs / name / "bin" / "python").exists():
            found[name] = lambda folder, maker=maker, bin_=venvs / name / "bin": maker(folder, bin_)  # type: ignore[misc]
    return found


def _environment(folder: Path, **more: str) -> dict[str, str]:
    return {"WEIGHTS": str(folder / "weights.npz"), "PYTHONPATH": str(RIVALS), **more}


def _mlflow(folder: Path) -> tuple[Running, Target]:
    port = free_port()
    environment = _environment(folder, PYTHONPATH=str(ROOT), MLFLOW_DISABLE_TELEMETRY="true")
    shutil.rmtree(folder / "mlflow", ignore_errors=True)
    command = [sys.executable, str(RIVALS / "with_mlflow.py"), str(folder / "mlflow")]
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, cwd=folder)
    mlflow = Path(sys.executable).parent / "mlflow"
    serve: list[str | Path] = [
        mlflow,
        "models",
        "serve",
        "-m",
        folder / "mlflow",
        "-p",
        str(port),
        "--env-manager",
        "local",
        "--workers",
        "1",
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    running = start(serve, folder, [port], {**environment, "PATH": path})
    return running, Target("MLflow", "http", port, "/invocations", _json("inputs"), _key("predictions"))


def _mlserver(folder: Path, binaries: Path) -> tuple[Running, Target]:
    port, own = free_port(), folder / "mlserver"
    own.mkdir(exist_ok=True)
    # No worker processes: with them every request would cross one more queue.
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
    }
    (own / "settings.json").write_text(json.dumps(settings))
    (own / "model-settings.json").write_text(json.dumps({"name": "net", "implementation": "with_mlserver.NetModel"}))
    running = start([binaries / "mlserver", "start", own], folder, [port], _environment(folder))

    def payload(x: np.ndarray[Any, Any]) -> bytes:
        tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": _numbers(x.ravel())}
        return json.dumps({"inputs": [tensor]}).encode()

    def scores(answer: bytes) -> Any:
        return np.reshape(json.loads(answer)["outputs"][0]["data"], (-1, 10))

    return running, Target("MLServer", "http", port, "/v2/models/net/infer", payload, scores)


def _kserve(folder: Path, binaries: Path) -> tuple[Running, Target]:
    port = free_port()
    running = start([binaries / "python", RIVALS / "with_kserve.py", f"--http_port={port}"], folder, [port], _environment(folder))
    return running, Target("KServe", "http", port, "/v1/models/net:predict", _json("instances"), _key("predictions"))


def _bentoml(folder: Path, binaries: Path) -> tuple[Running, Target]:
    port = free_port()
    command: list[str | Path] = [
        binaries / "bentoml",
        "serve",
        "with_bentoml:NetService",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    more = {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "true", "PATH": path}
    running = start([*command, "--working-dir", RIVALS], folder, [port], _environment(folder, **more))
    return running, Target("BentoML", "http", port, "/predict", _json("x"), json.loads)


def _litserve(folder: Path, binaries: Path) -> tuple[Running, Target]:
    port = free_port()
    running = start([binaries / "python", RIVALS / "with_litserve.py", str(port)], folder, [port], _environment(folder))
    return running, Target("LitServe", "http", port, "/predict", _json("instances"), _key("predictions"))


def _numbers(x: np.ndarray[Any, Any]) -> Any:
    """Lists with the four decimals that the values have, not the seventeen of a float32 as float64."""
    return np.round(x.astype(np.float64), 4).tolist()


def _json(key: str) -> Payload:
    return lambda x: json.dumps({key: _numbers(x)}).encode()


def _key(key: str) -> Callable[[bytes], Any]:
    return lambda answer: json.loads(answer)[key]


def _predict_request(x: np.ndarray[Any, Any]) -> bytes:
    return _call(x).request


def _predict_scores(answer: bytes) -> Any:
    return _call(rows(1)).read(answer)["y"]


def _call(x: np.ndarray[Any, Any]) -> GrpcCall:
    return predict(Spec("net"), "", {"x": x}, ())


if __name__ == "__main__":
    serve_echo(int(sys.argv[1]))
