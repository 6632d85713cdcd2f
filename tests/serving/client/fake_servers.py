"""Small real servers for tests of the client: gRPC and HTTP, in the test's process, without TensorFlow.

Both serve one model, "echo", version 7. Its signature `serving_default` gives back x as y, its `two` gives back a and b; what a
test wants otherwise it says by `refuse`, `delay` or `behave`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import grpc

from serving.client.messages import message
from serving.server.status import HTTP, Code

VERSION = 7
DTYPES = {"float": (1, "DT_FLOAT"), "double": (2, "DT_DOUBLE"), "int32": (3, "DT_INT32"), "string": (7, "DT_STRING")}


@dataclass
class Behaviour:
    """What a server does, and what it has seen.

    Attributes:
        refuse: A code for each of the next requests; when they are used up, it answers.
        always: A code for every request.
        delay: Seconds before each answer.
        dtype: Of x and y, as the metadata declares it.
        answer: The bytes of every answer, instead of the right ones.
        seen: The methods, or paths, of the requests so far.
    """

    refuse: list[Code] = field(default_factory=list)
    always: Code | None = None
    delay: float = 0.0
    dtype: str = "float"
    answer: bytes | None = None
    seen: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def code(self) -> Code:
        time.sleep(self.delay)
        return self.always or (self.refuse.pop(0) if self.refuse else Code.OK)

    @property
    def asked(self) -> Counter[str]:
        """Requests by the last part of the method or path."""
        return Counter(seen.replace("/", ":").rpartition(":")[2] for seen in self.seen)


class Server(Protocol):
    """What tests need of either server."""

    behaviour: Behaviour
    port: int

    @property
    def address(self) -> str: ...

    def stop(self) -> None: ...


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class GrpcServer:
    """PredictionService and ModelService."""

    def __init__(self, port: int = 0, *, address: str | None = None, credentials: Any = None) -> None:
        self.behaviour = Behaviour()
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((_Handler(self.behaviour),))
        target = address or f"127.0.0.1:{port}"
        self.port = self._server.add_secure_port(target, credentials) if credentials else self._server.add_insecure_port(target)
        self._address = address
        self._server.start()

    @property
    def address(self) -> str:
        return self._address or f"localhost:{self.port}"

    def stop(self) -> None:
        self._server.stop(0).wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(details.method, request, context))

    def _answer(self, method: str, request: bytes, context: Any) -> bytes:
        self._behaviour.seen.append(method)
        self._behaviour.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        code = self._behaviour.code()
        if code is not Code.OK:
            context.abort(next(each for each in grpc.StatusCode if each.value[0] == code), "as the test wants it")
        if self._behaviour.answer is not None:
            return self._behaviour.answer
        if method.endswith("/Predict"):
            inputs = message("tensorflow.serving.PredictRequest").FromString(request).inputs.values()
            if any(tensor.dtype != DTYPES[self._behaviour.dtype][0] for tensor in inputs):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Expects arg[0] to be something else")
        made: bytes = _GRPC[method.rpartition("/")[2]](request, self._behaviour).SerializeToString()
        return made


def _predict(request: bytes, _: Behaviour) -> Any:
    asked = message("tensorflow.serving.PredictRequest").FromString(request)
    response = message("tensorflow.serving.PredictResponse")()
    response.model_spec.CopyFrom(asked.model_spec)
    response.model_spec.version.value = VERSION
    for name, tensor in asked.inputs.items():
        response.outputs["y" if name == "x" else name].CopyFrom(tensor)
    return response


def _metadata(request: bytes, behaviour: Behaviour) -> Any:
    response = message("tensorflow.serving.GetModelMetadataResponse")()
    response.model_spec.version.value = VERSION
    signatures = message("tensorflow.serving.SignatureDefMap")()
    for signature, inputs, outputs in (("serving_default", "x", "y"), ("two", "ab", "ab"), ("__saved_model_init_op", "", "n")):
        described = signatures.signature_def[signature]
        described.method_name = "tensorflow/serving/predict"
        for infos, names in ((described.inputs, inputs), (described.outputs, outputs)):
            for name in names:
                infos[name].dtype = DTYPES[behaviour.dtype][0]
                infos[name].tensor_shape.dim.add(size=-1)
    response.metadata["signature_def"].Pack(signatures)
    return response


def _status(request: bytes, _: Behaviour) -> Any:
    response = message("tensorflow.serving.GetModelStatusResponse")()
    response.model_version_status.add(version=5, state=50).status.error_code = 14
    response.model_version_status.add(version=VERSION, state=30)
    return response


def _classify(request: bytes, _: Behaviour) -> Any:
    asked = message("tensorflow.serving.ClassificationRequest").FromString(request)
    response = message("tensorflow.serving.ClassificationResponse")()
    for example in asked.input.example_list.examples:
        one = response.result.classifications.add()
        for name in sorted(example.features.feature):
            one.classes.add(label=name, score=sum(example.features.feature[name].float_list.value))
    return response


def _regress(request: bytes, _: Behaviour) -> Any:
    asked = message("tensorflow.serving.RegressionRequest").FromString(request)
    response = message("tensorflow.serving.RegressionResponse")()
    for example in asked.input.example_list.examples:
        response.result.regressions.add(value=sum(example.features.feature["x"].float_list.value))
    return response


def _reload(request: bytes, _: Behaviour) -> Any:
    asked = message("tensorflow.serving.ReloadConfigRequest").FromString(request)
    response = message("tensorflow.serving.ReloadConfigResponse")()
    if not asked.config.model_config_list.config:
        response.status.error_code, response.status.error_message = 3, "no models"
    return response


_GRPC: dict[str, Callable[[bytes, Behaviour], Any]] = {
    "Predict": _predict,
    "GetModelMetadata": _metadata,
    "GetModelStatus": _status,
    "Classify": _classify,
    "Regress": _regress,
    "HandleReloadConfigRequest": _reload,
}


class RestServer:
    """The REST API."""

    def __init__(self, port: int = 0, *, context: ssl.SSLContext | None = None) -> None:
        self.behaviour = Behaviour()
        self.connections = 0
        self._open: list[socket.socket] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two writes; Nagle's algorithm would hold the second back for 40 ms.
            disable_nagle_algorithm = True

            def setup(self) -> None:
                outer.connections += 1
                outer._open.append(self.request)
                super().setup()

            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _answer(self, verb: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.behaviour.seen.append(self.path)
                outer.behaviour.headers.append({key.lower(): value for key, value in self.headers.items()})
                status, answer = _rest(verb, self.path, body, outer.behaviour)
                self.send_response(status)
                if self.headers.get("Accept-Encoding") == "gzip":
                    answer = gzip.compress(answer)
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that leave early are what some tests are about."""

        self._server = Listener(("127.0.0.1", port), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._secure = context is not None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"{'https' if self._secure else 'http'}://localhost:{self.port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:
            # A socket that its handler has closed already cannot be shut down.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _rest(verb: str, path: str, body: bytes, behaviour: Behaviour) -> tuple[int, bytes]:
    code = behaviour.code()
    if code is not Code.OK:
        return HTTP.get(code, 500), json.dumps({"error": "as the test wants it"}).encode()
    if behaviour.answer is not None:
        return 200, behaviour.answer
    asked = json.loads(body) if body else {}
    if behaviour.dtype == "int32" and any(isinstance(number, float) for number in asked.get("inputs", {}).get("x", ())):
        return 400, json.dumps({"error": "JSON Value: 1.0 Type: Number is not of expected type: int32"}).encode()
    return 200, json.dumps(_rest_answer(path, asked, behaviour)).encode()


def _rest_answer(path: str, asked: Any, behaviour: Behaviour) -> Any:
    if path.endswith(":predict"):
        inputs = asked["inputs"]
        return {"outputs": inputs["x"] if list(inputs) == ["x"] else inputs}
    if path.endswith(":classify"):
        return {"results": [[[name, _sum(row[name])] for name in sorted(row)] for row in asked["examples"]]}
    if path.endswith(":regress"):
        return {"results": [_sum(row["x"]) for row in asked["examples"]]}
    if path.endswith("/metadata"):
        return {
            "model_spec": {"name": "echo", "signature_name": "", "version": str(VERSION)},
            "metadata": {"signature_def": {"signature_def": dict(_rest_signatures(behaviour))}},
        }
    states = [(VERSION, "AVAILABLE", "OK"), (5, "END", "UNAVAILABLE")]
    listed = [{"version": str(v), "state": s, "status": {"error_code": c, "error_message": ""}} for v, s, c in states]
    return {"model_version_status": listed}


def _sum(value: Any) -> float:
    return float(sum(value) if isinstance(value, list) else value)


def _rest_signatures(behaviour: Behaviour) -> Iterator[tuple[str, Any]]:
    info = {
        "dtype": DTYPES[behaviour.dtype][1],
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "",
    }
    for signature, inputs, outputs in (("serving_default", "x", "y"), ("two", "ab", "ab"), ("__saved_model_init_op", "", "n")):
        described = {"inputs": dict.fromkeys(inputs, info), "outputs": dict.fromkeys(outputs, info)}
        yield signature, {**described, "method_name": "tensorflow/serving/predict", "defaults": {}}
