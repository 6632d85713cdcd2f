"""The REST API as an ASGI application: what TensorFlow Serving's HTTP server answers, and the additions that flags turn on.

A request's whole work (decompression, JSON, model, JSON) is one job for one of --rest_api_num_threads threads; the event loop
only moves bytes, so that health, metrics and other requests go on while models compute.
"""

from __future__ import annotations

import logging
import time
from asyncio import Future, get_running_loop, to_thread
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from serving.server.metrics import Metrics
from serving.server.options import ServerOptions
from serving.server.rest_answers import error_json
from serving.server.rest_bodies import gunzip
from serving.server.rest_calls import infer
from serving.server.rest_looks import config_json, metadata_json, models_json, readiness, statuses_json
from serving.server.rest_routes import METHODS, Route, route
from serving.server.rest_workers import Workers
from serving.server.status import Code, StatusError

if TYPE_CHECKING:
    from serving.server.predictor import Predictor

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = b"application/json"
TEXT_TYPE = b"text/plain"

_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]

_log = logging.getLogger(__name__)


class RestApp:
    """An ASGI 3 application; give it to one event loop."""

    def __init__(
        self,
        predictor: Predictor,
        options: ServerOptions,
        metrics: Metrics | None = None,
        metrics_path: str | None = None,
    ) -> None:
        """Starts the threads.

        Args:
            predictor: Answers; its `requested` is told of every answered Predict, Classify and Regress.
            options: The server's flags.
            metrics: What the page at `metrics_path` shows.
            metrics_path: None for no page.
        """
        self._predictor = predictor
        self._options = options
        self._metrics = metrics
        self._metrics_path = metrics_path if metrics is not None else None
        self._workers = Workers(options.rest_api_num_threads, "rest")
        self._timeout = options.rest_api_timeout_in_ms / 1000 if options.rest_api_timeout_in_ms > 0 else None
        self._cors = _CORS if options.rest_api_enable_cors_support else []

    def close(self) -> None:
        """Ends the threads when they have answered what is queued."""
        self._workers.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; anything but HTTP is not for this application."""
        if scope["type"] != "http":
            raise ValueError(f"expected an http scope, got {scope['type']!r}")
        body = await _read(receive)
        if body is None:
            return
        status, kind, answer = await self._answer(scope, body)
        headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode()), *self._cors]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, scope: Scope, body: bytes) -> tuple[int, bytes, bytes]:
        """Status, content type and body."""
        method, path = scope["method"], _path(scope)
        try:
            if path[:4].lower() != "/v1/":
                return await self._other(path)
            if self._cors and method == "OPTIONS":
                return 200, JSON_TYPE, b""
            if method == "GET" and self._options.rest_list_models and path in ("/v1/models", "/v1/config"):
                look = models_json if path == "/v1/models" else config_json
                return 200, JSON_TYPE, await to_thread(look, self._predictor.models)
            asked = route(method, path)
            if asked.action in METHODS:
                return 200, JSON_TYPE, await self._infer(asked, scope, body)
            return 200, JSON_TYPE, await self._workers.submit(lambda: self._look(asked))
        except Exception as error:
            refusal = _refusal(error)
            return refusal.http_status, JSON_TYPE, error_json(refusal.message)

    async def _infer(self, asked: Route, scope: Scope, body: bytes) -> bytes:
        arrived = time.monotonic()
        deadline = None if self._timeout is None else arrived + self._timeout
        compressed = any(name == b"content-encoding" and b"gzip" in value for name, value in scope["headers"])

        def call() -> bytes:
            if deadline is not None and time.monotonic() >= deadline:
                raise _timed_out()
            return infer(self._predictor, asked, gunzip(body) if compressed else body, deadline, self._options.rest_strict_json)

        future = self._workers.submit(call)
        timer = get_running_loop().call_later(self._timeout, _expire, future) if self._timeout is not None else None
        code = Code.CANCELLED
        try:
            answer: bytes = await future
            code = Code.OK
            return answer
        except Exception as error:
            refusal = _refusal(error)
            code = refusal.code
            raise refusal from None
        finally:
            if timer is not None:
                timer.cancel()
            # REST's name of the API is the one in the path (http_server.cc).
            self._predictor.requested(asked.model, asked.action, "REST", code.name, time.monotonic() - arrived)

    def _look(self, asked: Route) -> bytes:
        if asked.action == "metadata":
            return metadata_json(self._predictor, asked)
        return statuses_json(self._predictor.models, asked)

    async def _other(self, path: str) -> tuple[int, bytes, bytes]:
        """What is not under /v1/."""
        if self._metrics_path is not None and path == self._metrics_path:
            assert self._metrics is not None
            return 200, TEXT_TYPE, await to_thread(self._metrics.page)
        if self._options.rest_health and path == "/livez":
            return 200, JSON_TYPE, b'{"alive": true}'
        if self._options.rest_health and path == "/readyz":
            ready, answer = await to_thread(readiness, self._predictor.models)
            return 200 if ready else 503, JSON_TYPE, answer
        return 404, JSON_TYPE, error_json(f"Not Found: {path}")


async def _read(receive: Receive) -> bytes | None:
    """A request's body; None when the client is gone."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        if not message.get("more_body", False):
            return b"".join([*chunks, chunk]) if chunks else chunk
        chunks.append(chunk)


def _path(scope: Scope) -> str:
    """Path and query as sent, a character a byte."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def _timed_out() -> StatusError:
    return StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def _expire(future: Future[Any]) -> None:
    if not future.done():
        future.set_exception(_timed_out())


def _refusal(error: Exception) -> StatusError:
    """Anything but a StatusError is a fault of the server or the model: INTERNAL, and a traceback in the log."""
    if isinstance(error, StatusError):
        return error
    _log.error("a REST request failed", exc_info=error)
    return StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")
