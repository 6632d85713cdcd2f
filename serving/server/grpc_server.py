"""The gRPC side: PredictionService, ModelService, health and the profiler on a TCP port and a Unix socket.

A thread pool answers, not grpc.aio: both cost about 0.4 ms of CPU a call in Python, and a thread may block in the model, which
lets go of the GIL. Requests are parsed here and not by gRPC, so that one that does not parse is an answer and not a traceback.

Only the server's process imports this module: it loads TensorFlow's protos.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server.grpc_threads import FewThreads
from serving.server.options import ServerOptions, schedulable_cpus
from serving.server.predictor import Predictor
from serving.server.status import Code, StatusError, invalid

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_FOREVER = 1e9
"""Seconds; gRPC gives a call without a deadline one of centuries."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_log = logging.getLogger(__name__)

Handle = Callable[[bytes, Any], bytes]
"""Of the serialized request and gRPC's context, the serialized response; raises StatusError."""


class GrpcServer:
    """Serves a predictor. `start` opens the ports, `drain` refuses new requests and waits for the others, `stop` closes.

    Attributes:
        address: What it listens on, as the log line of TensorFlow Serving prints it; "" when only on a socket.
    """

    def __init__(
        self,
        predictor: Predictor,
        options: ServerOptions,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Binds the port and the socket, but answers nothing yet.

        Args:
            predictor: What requests mean.
            options: Ports, threads, channel arguments, which services.
            credentials: For TLS; None for plain text.

        Raises:
            StatusError: INVALID_ARGUMENT when an address cannot be had or a channel argument has no `=`.
        """
        host = f"[{options.bind_address}]" if ":" in options.bind_address else options.bind_address
        self.address = f"{host}:{options.port}" if options.port else ""
        self._gate = _Gate()
        # A batch is made of requests that are inside at the same time.
        steady = options.grpc_max_threads if options.enable_batching else schedulable_cpus() + 1
        self._pool = FewThreads(steady, options.grpc_max_threads, "grpc")
        self._server = grpc.server(self._pool, options=channel_arguments(options.grpc_channel_arguments, options.processes > 1))
        handlers = {**_prediction_handlers(predictor), **_model_handlers(predictor)}
        if options.enable_profiler:
            handlers |= _profiler_handlers()
        self._server.add_generic_rpc_handlers((_Handlers(handlers, self._gate),))
        self._health = _health(self._server) if options.enable_grpc_healthcheck_service else None
        if options.port:
            self._bind(self.address, credentials)
        if options.grpc_socket_path:
            # What an earlier server left there would be in the way; gRPC removes its own when it stops in good order.
            _remove_stale_socket(Path(options.grpc_socket_path))
            self._bind(f"unix:{options.grpc_socket_path}", credentials)

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()

    def drain(self, seconds: float) -> bool:
        """Refuses new requests with UNAVAILABLE, turns health to NOT_SERVING, waits for those that arrived, and closes the ports.

        Returns:
            Whether all of them finished in time; those that did not are cut off.
        """
        end = time.monotonic() + seconds
        if self._health is not None:
            self._health.enter_graceful_shutdown()
        self._gate.close(seconds)
        # gRPC itself knows of those that wait for a thread, and of answers that are still being sent.
        self._server.stop(grace=max(0.0, end - time.monotonic())).wait()
        return self._gate.empty

    def stop(self) -> None:
        """Closes the ports; what still runs is cut off."""
        self._server.stop(grace=None).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise invalid(f"Failed to BuildAndStart gRPC server: {address} cannot be bound: {error}") from error


def channel_arguments(text: str, share_port: bool = False) -> list[tuple[str, int | str]]:
    """gRPC's options of --grpc_channel_arguments, `a=1,b=x`; numbers become ints. gRPC ignores those that it does not know.

    Args:
        text: The flag.
        share_port: Whether several processes listen on the port.

    Raises:
        StatusError: INVALID_ARGUMENT for an entry without `=`.
    """
    # Without so_reuseport=0 a second server on the same port would start, and take half of the requests.
    arguments: dict[str, int | str] = {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": int(share_port),
    }
    for entry in filter(None, text.split(",")):
        key, separator, value = entry.partition("=")
        if not separator:
            raise invalid(f"--grpc_channel_arguments takes name=value entries with commas between them; got {entry!r}")
        try:
            arguments[key] = int(value)
        except ValueError:
            arguments[key] = value
    return list(arguments.items())


class _Gate:
    """Counts the requests that a thread has taken; says whether new ones may come.

    A deque's append and pop are atomic, and a tenth of the price of a lock.

    Attributes:
        closed: Whether requests that arrive from now on are refused.
    """

    def __init__(self) -> None:
        self._inside: deque[None] = deque()
        self.closed = False

    @property
    def empty(self) -> bool:
        """Whether no thread is inside a request."""
        return not self._inside

    def guard(self, handle: Handle) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """A gRPC method of a handle: turns errors into statuses."""

        def method(raw: bytes, context: grpc.ServicerContext) -> bytes:
            self._inside.append(None)
            try:
                return handle(raw, context)
            except StatusError as error:
                failed = error
            except Exception as error:
                _log.exception("a request failed")
                failed = StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            finally:
                self._inside.pop()
            context.abort(_CODES[failed.code], failed.grpc_message)
            raise AssertionError("abort raises")

        return method

    def close(self, seconds: float) -> None:
        """Lets nothing in any more; waits until it is empty, or so many seconds."""
        self.closed = True
        end = time.monotonic() + seconds
        while self._inside and time.monotonic() < end:
            time.sleep(0.005)


class _Handlers(grpc.GenericRpcHandler):
    """gRPC's table of methods, on bytes. It is asked when a request arrives, which may then wait for a thread."""

    def __init__(self, handles: Mapping[str, Handle], gate: _Gate) -> None:
        made = {f"/{name}": gate.guard(handle) for name, handle in handles.items()}
        self._methods = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in made.items()}
        self._refusing = grpc.unary_unary_rpc_method_handler(_refuse)
        self._gate = gate

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._methods.get(handler_call_details.method)
        return self._refusing if method is not None and self._gate.closed else method


def _refuse(raw: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.UNAVAILABLE, "Server is shutting down")
    raise AssertionError("abort raises")


def _prediction_handlers(predictor: Predictor) -> dict[str, Handle]:
    def observed(api: str, message: Any, call: Callable[[Any, float | None], Any]) -> Handle:
        if not predictor.observed:
            return lambda raw, context: _bytes(call(_parse(message, raw), _deadline(context)))

        def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
            start = time.monotonic()
            request = _parse(message, raw)
            code = Code.INTERNAL
            try:
                response = call(request, _deadline(context))
                code = Code.OK
            except StatusError as error:
                code = error.code
                raise
            finally:
                predictor.requested(_model(request), api, "GRPC", code.name, time.monotonic() - start)
            return _bytes(response)

        return handle

    def metadata(raw: bytes, context: grpc.ServicerContext) -> bytes:
        return _bytes(predictor.metadata(_parse(get_model_metadata_pb2.GetModelMetadataRequest, raw)))

    return {
        f"{PREDICTION_SERVICE}/Predict": observed("Predict", predict_pb2.PredictRequest, predictor.predict),
        f"{PREDICTION_SERVICE}/Classify": observed("Classify", classification_pb2.ClassificationRequest, predictor.classify),
        f"{PREDICTION_SERVICE}/Regress": observed("Regress", regression_pb2.RegressionRequest, predictor.regress),
        f"{PREDICTION_SERVICE}/MultiInference": observed(
            "MultiInference", inference_pb2.MultiInferenceRequest, predictor.multi_inference
        ),
        f"{PREDICTION_SERVICE}/GetModelMetadata": metadata,
    }


def _model_handlers(predictor: Predictor) -> dict[str, Handle]:
    def status(raw: bytes, context: grpc.ServicerContext) -> bytes:
        return _bytes(predictor.status(_parse(get_model_status_pb2.GetModelStatusRequest, raw)))

    def reload(raw: bytes, context: grpc.ServicerContext) -> bytes:
        return _bytes(predictor.reload(_parse(model_management_pb2.ReloadConfigRequest, raw), _deadline(context)))

    return {f"{MODEL_SERVICE}/GetModelStatus": status, f"{MODEL_SERVICE}/HandleReloadConfigRequest": reload}


def _profiler_handlers() -> dict[str, Handle]:
    from serving.server.profiler import SERVICE, Profiler

    def handler(method: Callable[[bytes, Callable[[], bool]], bytes]) -> Handle:
        return lambda raw, context: method(raw, context.is_active)

    return {f"{SERVICE}/{name}": handler(method) for name, method in Profiler().methods().items()}


def _health(server: grpc.Server) -> Any:
    """grpc.health.v1.Health, with the names that TensorFlow Serving sets (model_servers/server.cc)."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    for name in ("", "ModelService", "PredictionService"):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _parse(message: Any, raw: bytes) -> Any:
    try:
        return message.FromString(raw)
    except DecodeError as error:
        raise invalid(f"The request is no {message.DESCRIPTOR.full_name}") from error


def _model(request: Any) -> str:
    """The model's name, for metrics; MultiInference names it in its tasks."""
    if hasattr(request, "tasks"):
        return str(request.tasks[0].model_spec.name) if request.tasks else ""
    return str(request.model_spec.name)


def _bytes(response: Any) -> bytes:
    serialized: bytes = response.SerializeToString()
    return serialized


def _deadline(context: grpc.ServicerContext) -> float | None:
    """A time.monotonic() value."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _FOREVER else time.monotonic() + remaining


def _remove_stale_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink()
