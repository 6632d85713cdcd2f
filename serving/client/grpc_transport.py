"""How gRPC calls reach a server: channels, kept open for the client's life; sync and async."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc

from serving.client.conversation import read_answer
from serving.client.errors import RequestError
from serving.client.grpc_calls import GrpcCall
from serving.client.tls import Tls
from serving.server.status import Code

CONNECT_SECONDS = 2.0
"""How long a connection may take before its server counts as one that is not there (gRPC's own: 20 s)."""

_OPTIONS = [
    # Python's default of 4 MB would refuse what servers may answer.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Two clients in one process must not share a connection, whose one stream of bytes they would then take in turns.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that was restarted, or has come up, is to be found within a second, not within gRPC's two minutes. The lower bound
    # is also how long a connection may take (grpc/doc/connection-backoff.md, MIN_CONNECT_TIMEOUT).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_SECONDS * 1000)),
    # One that has moved to another machine under the same name, too.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    # Model servers are not behind the proxy that the environment names for the web; REST does not look at it either.
    ("grpc.enable_http_proxy", 0),
]


class Channels:
    """Open gRPC channels by address, made when first asked for; `aio` ones for the async client."""

    def __init__(self, tls: Tls | None, *, compress: bool = False, asynchronous: bool = False) -> None:
        """Args: certificates, None for plain connections; whether requests are gzipped; whether the channels are grpc.aio's."""
        self._credentials = tls.grpc_credentials() if tls else None
        self._compression = grpc.Compression.Gzip if compress else None
        self._module: Any = grpc.aio if asynchronous else grpc
        self._open: dict[str, Any] = {}
        self._methods: dict[tuple[str, str], Any] = {}
        self._closed = False
        self._lock = threading.Lock()

    def method(self, address: str, method: str) -> Callable[..., Any]:
        """The callable of a method on a server, bytes in, bytes out; RuntimeError after `close`."""
        if found := self._methods.get((address, method)):
            return found  # type: ignore[no-any-return]
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if address not in self._open:
                self._open[address] = self._channel(address)
            made = self._methods[address, method] = self._open[address].unary_unary(method)
            return made  # type: ignore[no-any-return]

    def _channel(self, address: str) -> Any:
        if self._credentials:
            return self._module.secure_channel(address, self._credentials, options=_OPTIONS, compression=self._compression)
        return self._module.insecure_channel(address, options=_OPTIONS, compression=self._compression)

    def close(self) -> list[Any]:
        """Ends the use of the channels, and returns those that are open, to be closed."""
        with self._lock:
            self._closed = True
            self._methods.clear()
            opened, self._open = list(self._open.values()), {}
            return opened


def send(channels: Channels, call: GrpcCall, address: str, seconds: float) -> Any:
    """Makes a call and reads its answer.

    A call that may not be repeated waits for a connection, since gRPC's refusal would not tell whether it was sent.

    Raises:
        RequestError: The server refused, or there is none.
    """
    method = channels.method(address, call.method)
    try:
        answer = method(call.request, timeout=seconds, wait_for_ready=not call.repeatable)
    except grpc.RpcError as error:
        raise _refusal(error, address) from None
    return read_answer(call, answer, address)


async def send_async(channels: Channels, call: GrpcCall, address: str, seconds: float) -> Any:
    """As `send`."""
    method = channels.method(address, call.method)
    try:
        answer = await method(call.request, timeout=seconds, wait_for_ready=not call.repeatable)
    except grpc.RpcError as error:
        raise _refusal(error, address) from None
    return read_answer(call, answer, address)


def _refusal(error: Any, address: str) -> RequestError:
    return RequestError(Code(error.code().value[0]), str(error.details() or ""), address)
