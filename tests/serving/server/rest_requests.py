"""Requests to the REST application without a socket, on a model that NumPy computes; for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from serving.server.metrics import DEFAULT_PATH, Metrics
from serving.server.options import ServerOptions
from serving.server.predictor import Predictor
from serving.server.rest_app import RestApp
from tests.serving.server.fake_models import FakeModels

PREDICT = "/v1/models/half:predict"
X = {"instances": [1.0, 2.0]}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Rest:
    """Requests to an app, without a socket; with the real predictor on a model computed by NumPy."""

    def __init__(self, **flags: Any) -> None:
        self.models = FakeModels()
        self.metrics = Metrics()
        options = ServerOptions(rest_api_num_threads=2, **flags)
        self.app = RestApp(Predictor(self.models, options, [self.metrics]), options, self.metrics, DEFAULT_PATH)

    def __call__(self, method: str, path: str | bytes, body: bytes | str | Any = b"", **headers: str) -> Answer:
        raw = path.encode("latin-1") if isinstance(path, str) else path
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        return asyncio.run(self.send(method, raw, body.encode() if isinstance(body, str) else body, headers))

    async def send(self, method: str, raw: bytes, body: bytes, headers: dict[str, str]) -> Answer:
        target, _, query = raw.partition(b"?")
        scope: MutableMapping[str, Any] = {
            "type": "http",
            "method": method,
            "path": target.decode("latin-1"),
            "raw_path": target,
            "query_string": query,
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        half = len(body) // 2
        parts = iter([(body[:half], True), (body[half:], False)])
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            part, more = next(parts)
            return {"type": "http.request", "body": part, "more_body": more}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, content = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        assert int(found.pop("content-length")) == len(content["body"])
        return Answer(start["status"], found, content["body"])
