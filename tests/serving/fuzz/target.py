"""Sends an input to a server and says whether what came back is a failure of the server."""

from __future__ import annotations

import socket

import grpc

from tests.serving.conformance.servers import methods
from tests.serving.fuzz.inputs import GrpcInput, RestInput

SECONDS = 30


class Failure(Exception):
    """The server failed at an input."""


class Target:
    """Sends inputs to a server over one HTTP connection, opened again where the server closes it, and one channel."""

    def __init__(self, channel: grpc.Channel, rest_port: int) -> None:
        self._channel, self._rest_port = channel, rest_port
        self._socket: socket.socket | None = None

    def send(self, one: RestInput | GrpcInput) -> str:
        """What the server answered: an HTTP status or the name of a gRPC status.

        Raises:
            Failure: It should not have answered this.
        """
        return self._send_rest(one.raw) if isinstance(one, RestInput) else self._send_grpc(one)

    def close(self) -> None:
        """Hangs up."""
        if self._socket is not None:
            self._socket.close()

    def _send_grpc(self, one: GrpcInput) -> str:
        service = methods()[one.method].service
        try:
            self._channel.unary_unary(f"/{service}/{one.method}")(one.payload, timeout=SECONDS)
        except grpc.RpcError as error:
            code: str = error.code().name
            if code in ("UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED") or (code == "INTERNAL" and _parses(one)):
                raise Failure(f"{code}: {error.details()}") from None
            return code
        return "OK"

    def _send_rest(self, raw: bytes) -> str:
        fresh = self._socket is None
        try:
            status, closing = self._exchange(raw)
        except ConnectionError:
            if fresh:
                raise Failure("the connection broke off without an answer") from None
            # The server may have closed an idle connection just then.
            self._hang_up()
            return self._send_rest(raw)
        if closing:
            self._hang_up()
        if status >= 500:
            raise Failure(f"HTTP {status}")
        return str(status)

    def _exchange(self, raw: bytes) -> tuple[int, bool]:
        """Status, and whether the server closes the connection."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._rest_port), SECONDS)
        self._socket.sendall(raw)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), None)
        closing = b"connection: close" in lines or length is None
        while length is not None and len(body) < length and not raw.startswith(b"HEAD"):
            body += self._receive()
        return int(lines[0].split()[1]), closing

    def _receive(self) -> bytes:
        assert self._socket is not None
        try:
            found = self._socket.recv(2**16)
        except TimeoutError:
            raise Failure(f"no answer within {SECONDS} s") from None
        if not found:
            raise ConnectionError
        return found

    def _hang_up(self) -> None:
        self.close()
        self._socket = None


def _parses(one: GrpcInput) -> bool:
    from google.protobuf.message import DecodeError

    try:
        methods()[one.method].request.FromString(one.payload)
    except DecodeError:
        return False
    return True
