"""How REST calls reach a server: over HTTP/1.1, which is what TensorFlow Serving speaks, on connections that are kept alive.

urllib3 and aiohttp, not httpx for both: a small request costs 0.35 and 0.27 ms with these two, 1.0 and 3.1 ms with httpx 0.28.
"""

from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3

from serving.client.conversation import read_answer
from serving.client.errors import RequestError
from serving.client.grpc_transport import CONNECT_SECONDS
from serving.client.rest_calls import RestCall
from serving.client.rest_json import parse
from serving.client.tls import Tls
from serving.server.status import HTTP, Code

if TYPE_CHECKING:
    import aiohttp

_KEPT = 256
"""Connections to a server that are kept while not in use."""

_CHUNK = 1 << 20

# Several codes share a status; the first of each in gRPC's order is the one that such a status most often stands for. 502 is what
# a proxy says when the server behind it is not there.
_FROM_HTTP = {status: code for code, status in reversed(list(HTTP.items()))} | {502: Code.UNAVAILABLE}


def _connect(connection: Any, connect: Callable[[], None]) -> None:
    """Gives a server less time to take a connection than a request may take; urllib3 has no timeout of its own for sending."""
    whole, connection.timeout = connection.timeout, min(connection.timeout, CONNECT_SECONDS)
    try:
        connect()
    finally:
        connection.timeout = whole
    connection.sock.settimeout(whole)


class _Http(urllib3.connection.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _Https(urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class Connections:
    """Pools of HTTP connections by address, made when first asked for; may be used from many threads."""

    def __init__(self, tls: Tls | None, *, compress: bool = False) -> None:
        """Args: certificates, for https; whether requests are gzipped, and answers may be."""
        self._tls = {"ssl_context": tls.context()} if tls else {}
        self._headers = _headers(compress)
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._closed = False
        self._lock = threading.Lock()

    def send(self, call: RestCall, address: str, seconds: float) -> Any:
        """Makes a call and reads its answer.

        Raises:
            RequestError: The server refused, or there is none.
        """
        ends = time.monotonic() + seconds
        headers, body = _request(call, self._headers)
        try:
            response = self._pool(address).urlopen(
                "GET" if body is None else "POST",
                urlsplit(address).path + call.path,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=seconds, read=seconds),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            answer = _read(response, ends)
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise _failure(error, address, ends) from None
        return _judge(call, response.status, answer, address)

    def close(self) -> None:
        """Closes the connections that are not in use; those that are, close after it."""
        with self._lock:
            self._closed = True
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _pool(self, address: str) -> urllib3.HTTPConnectionPool:
        if found := self._pools.get(address):
            return found
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if address not in self._pools:
                pool = urllib3.connection_from_url(address, maxsize=_KEPT, **self._tls)
                pool.ConnectionCls = _Https if pool.scheme == "https" else _Http
                self._pools[address] = pool
            return self._pools[address]


def _read(response: urllib3.BaseHTTPResponse, ends: float) -> bytes:
    """The body; TimeoutError when it is not there in time, however steadily it trickles in."""
    try:
        parts = []
        while part := response.read1(_CHUNK, decode_content=True):
            parts.append(part)
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer was not complete in time")
            sock = getattr(response.connection, "sock", None)
            if sock is not None:
                sock.settimeout(left)
    except BaseException:
        response.close()
        raise
    response.release_conn()
    return b"".join(parts)


class AsyncConnections:
    """As `Connections`, inside one event loop."""

    def __init__(self, tls: Tls | None, *, compress: bool = False) -> None:
        """Args: as `Connections`."""
        self._tls: ssl.SSLContext | bool = tls.context() if tls else True
        self._headers = _headers(compress)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(self, call: RestCall, address: str, seconds: float) -> Any:
        """As `Connections.send`."""
        import aiohttp
        from yarl import URL

        if self._closed:
            raise RuntimeError("the client is closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        ends = time.monotonic() + seconds
        headers, body = _request(call, self._headers)
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                URL(address + call.path, encoded=True),
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds)),
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _failure(error, address, ends) from None
        return _judge(call, response.status, answer, address)

    async def close(self) -> None:
        """Closes the connections."""
        self._closed = True
        if self._session:
            await self._session.close()


def _headers(compress: bool) -> dict[str, str]:
    # Compressing costs more time than it saves on all but slow networks: nobody is to do it unasked.
    return {"User-Agent": "tfline", "Accept-Encoding": "gzip" if compress else "identity"}


def _request(call: RestCall, headers: dict[str, str]) -> tuple[dict[str, str], bytes | None]:
    if call.body is None:
        return headers, None
    headers = headers | {"Content-Type": "application/json"}
    if headers["Accept-Encoding"] == "identity":
        return headers, call.body
    return headers | {"Content-Encoding": "gzip"}, gzip.compress(call.body, compresslevel=1)


def _judge(call: RestCall, status: int, answer: bytes, address: str) -> Any:
    """The value of an answer; RequestError for one with an error."""
    if status == 200:
        return read_answer(call, answer, address)
    try:
        told = str(parse(answer)["error"])
    except (ValueError, KeyError, TypeError):
        told = f"HTTP {status} without a message of TensorFlow Serving's: is this the REST address of a model server?"
    raise RequestError(_FROM_HTTP.get(status, Code.UNKNOWN), told, address)


def _failure(error: Exception, address: str, ends: float) -> RequestError:
    """DEADLINE_EXCEEDED when the time is over, else UNAVAILABLE."""
    late = time.monotonic() >= ends - 0.01
    told = "no answer in time" if late else f"{type(error).__name__}: {error}"
    if "BadStatusLine" in told or "BadHttpMessage" in told:
        told = "no answer in HTTP/1.1: is this the REST address of a model server, and not its gRPC address?"
    return RequestError(Code.DEADLINE_EXCEEDED if late else Code.UNAVAILABLE, told, address)
