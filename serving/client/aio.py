"""The async twin of the client: the same requests, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from serving.client.addresses import parse_servers
from serving.client.client import DEFAULT_SIGNATURE, tls_for
from serving.client.conversation import Ask, Conversation, Steps, Wait
from serving.client.endpoints import DEFAULT_RETRY, Retry
from serving.client.errors import RequestError
from serving.client.grpc_calls import GrpcCall
from serving.client.grpc_transport import Channels, send_async
from serving.client.tls import Tls
from serving.client.values import Prediction, Signature, Spec, VersionStatus

T = TypeVar("T")


class AsyncClient:
    """As `Client`, with coroutines; made and used inside one event loop. `async with` closes it."""

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        timeout: float = 10.0,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
        rest_seconds: float = 5.0,
        compress: bool = False,
    ) -> None:
        """Args, errors: as `Client` has them."""
        given = parse_servers(servers)
        tls = tls_for(given, tls)
        self._conversation = Conversation(
            given.addresses, rest=given.rest, timeout=timeout, retry=retry, rest_seconds=rest_seconds
        )
        self._http: Any = None
        self._channels: Any = None
        if given.rest:
            from serving.client.rest_transport import AsyncConnections

            self._http = AsyncConnections(tls, compress=compress)
        else:
            self._channels = Channels(tls, compress=compress, asynchronous=True)

    async def predict(
        self,
        model: str,
        inputs: Any,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Prediction:
        """As `Client.predict`."""
        return await self._run(self._conversation.predict(Spec(model, version, label), signature, inputs, outputs, timeout))

    async def classify(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float | None = None,
    ) -> list[list[tuple[str, float]]]:
        """As `Client.classify`."""
        return await self._run(self._conversation.classify(Spec(model, version, label), signature, examples, timeout))

    async def regress(
        self,
        model: str,
        examples: Sequence[Mapping[str, Any]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        timeout: float | None = None,
    ) -> list[float]:
        """As `Client.regress`."""
        return await self._run(self._conversation.regress(Spec(model, version, label), signature, examples, timeout))

    async def status(self, model: str, version: int | None = None, *, timeout: float | None = None) -> list[VersionStatus]:
        """As `Client.status`."""
        return await self._run(self._conversation.status(Spec(model, version), timeout))

    async def metadata(
        self, model: str, version: int | None = None, *, label: str | None = None, timeout: float | None = None
    ) -> tuple[int, dict[str, Signature]]:
        """As `Client.metadata`."""
        return await self._run(self._conversation.metadata(Spec(model, version, label), timeout))

    async def reload(self, config: Any, *, timeout: float | None = None) -> None:
        """As `Client.reload`."""
        await self._run(self._conversation.reload(config, timeout))

    async def close(self) -> None:
        """As `Client.close`."""
        if self._http:
            await self._http.close()
        else:
            for channel in self._channels.close():
                await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        """As `conversation.run`."""
        try:
            step = next(steps)
            while True:
                try:
                    result = await self._take(step)
                except RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()

    async def _take(self, step: Ask | Wait) -> Any:
        if isinstance(step, Wait):
            return await asyncio.sleep(step.seconds)
        if isinstance(step.call, GrpcCall):
            return await send_async(self._channels, step.call, step.address, step.seconds)
        return await self._http.send(step.call, step.address, step.seconds)
