"""Bytes on the wire: all that a connection carries, counted by a relay between the client and the server.

So HTTP headers count, and HTTP/2's framing, its settings, pings and window updates; TCP's and IP's own headers do not. The first
requests of a connection are left out: HTTP/2 sends most headers only once, and refers to them later.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from serving.client import grpc_calls, rest_calls
from serving.client.grpc_calls import GrpcCall
from serving.client.grpc_transport import Channels, send
from serving.client.rest_calls import RestCall
from serving.client.rest_transport import Connections
from serving.client.values import Array, Signature, Spec

REQUESTS = 20
_BEFORE = 5
_QUIET = 0.05


@dataclass(frozen=True)
class Bytes:
    """Of a request and its answer, on average.

    Attributes:
        sent, received: All that went over the connection, each way.
        request, answer: The payloads among it: the serialized message, or the body.
    """

    sent: float
    received: float
    request: int
    answer: int

    @property
    def total(self) -> float:
        """Both ways."""
        return self.sent + self.received


class Relay:
    """Passes bytes between its own port on the loopback address and a server, and counts them; a context manager."""

    def __init__(self, host: str, port: int) -> None:
        """Args: the server."""
        self._server = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.sent = self.received = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def settled(self) -> tuple[int, int]:
        """Bytes sent and received so far, once nothing has moved for a moment."""
        while True:
            before = self.sent, self.received
            time.sleep(_QUIET)
            if before == (self.sent, self.received):
                return before

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection(self._server)
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(client, server, self._count_sent), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, self._count_received), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, count: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 18):
                count(len(part))
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)

    def _count_sent(self, size: int) -> None:
        self.sent += size

    def _count_received(self, size: int) -> None:
        self.received += size


def grpc_bytes(address: str, spec: Spec, name: str, inputs: Mapping[str, Array]) -> Bytes:
    """Counts those of a Predict request by gRPC; `address` is host:port."""
    parts = urlsplit(f"//{address}")
    with Relay(str(parts.hostname), int(parts.port or 0)) as relay:
        channels = Channels(None)
        try:
            call = grpc_calls.predict(spec, name, inputs, ())
            return _count(relay, call, len(call.request), lambda asked: send(channels, asked, f"127.0.0.1:{relay.port}", 30.0))
        finally:
            for channel in channels.close():
                channel.close()


def rest_bytes(address: str, spec: Spec, name: str, inputs: Mapping[str, Array], signature: Signature) -> Bytes:
    """Counts those of a predict request by REST; `address` is http://host:port."""
    parts = urlsplit(address)
    with Relay(str(parts.hostname), parts.port or 80) as relay:
        connections = Connections(None)
        try:
            call = rest_calls.predict(spec, name, inputs, (), signature)
            through = f"http://127.0.0.1:{relay.port}{parts.path}"
            return _count(relay, call, len(call.body or b""), lambda asked: connections.send(asked, through, 30.0))
        finally:
            connections.close()


def _count(relay: Relay, call: GrpcCall | RestCall, request: int, ask: Callable[[Any], Any]) -> Bytes:
    answers: list[int] = []

    def read(answer: bytes) -> Any:
        answers.append(len(answer))
        return call.read(answer)

    spied = replace(call, read=read)
    _repeat(ask, spied, _BEFORE)
    sent, received = relay.settled()
    _repeat(ask, spied, REQUESTS)
    sent_after, received_after = relay.settled()
    return Bytes((sent_after - sent) / REQUESTS, (received_after - received) / REQUESTS, request, _mean(answers[_BEFORE:]))


def _repeat(ask: Callable[[Any], Any], call: Any, times: int) -> None:
    for _ in range(times):
        ask(call)


def _mean(sizes: Sequence[int]) -> int:
    return round(sum(sizes) / len(sizes))
