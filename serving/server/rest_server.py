"""The HTTP server: uvicorn with uvloop and httptools, in a thread of its own."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn

from serving.server.rest_app import RestApp
from serving.server.status import Code, StatusError, invalid

if TYPE_CHECKING:
    from serving.server.text_protos import SSLConfig

KEEP_ALIVE_SECONDS = 600
"""How long an idle connection stays open; uvicorn's 5 seconds make clients that keep a pool run into closed ones."""

BACKLOG = 2048
_START_SECONDS = 30


class RestServer:
    """Answers HTTP on one port.

        made (the port is taken, nobody is answered) → start → answering → stop → ended

    Who makes it must stop it, and close the app, which may outlive it.
    """

    def __init__(
        self, app: RestApp, address: str, port: int, tls: ssl.SSLContext | None = None, *, reuse_port: bool = False
    ) -> None:
        """Takes the port, without opening it: nobody can connect while models load.

        Args:
            app: Answers.
            address: Of an interface: IPv4, IPv6 or a name of it.
            port: 0 for a free one.
            tls: From `server_context`; None for plain HTTP.
            reuse_port: Whether other processes may share the port (SO_REUSEPORT).

        Raises:
            StatusError: UNAVAILABLE when the port cannot be had.
        """
        self._address = address
        self._socket = _bound(address, port, reuse_port)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=BACKLOG,
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = Thread(target=self._server.run, args=([self._socket],), name="rest", daemon=True)

    @property
    def port(self) -> int:
        """The port that was taken."""
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        """Begins to answer; returns when it does.

        Raises:
            StatusError: UNAVAILABLE when someone else began to listen on the port first; INTERNAL when uvicorn does not start.
        """
        try:
            self._socket.listen(BACKLOG)
        except OSError as error:
            raise _unavailable(self._address, self.port, error) from None
        self._thread.start()
        end = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                raise StatusError(Code.INTERNAL, "the REST server did not start")
            time.sleep(0.005)

    def stop(self, seconds: float) -> None:
        """Takes no more connections, lets requests finish for so many seconds, then cuts what is left."""
        if self._thread.is_alive():
            self._server.config.timeout_graceful_shutdown = max(seconds, 0.01)  # type: ignore[assignment]
            self._server.should_exit = True
            self._thread.join(seconds + 5)
        self._socket.close()


def server_context(config: SSLConfig) -> ssl.SSLContext:
    """A TLS context from an SSLConfig, whose key and certificates are PEM text.

    Raises:
        StatusError: INVALID_ARGUMENT when a key or certificate is missing or cannot be read.
    """
    if not config.server_key or not config.server_cert:
        raise invalid("--ssl_config_file: SSLConfig needs server_key and server_cert, both as PEM text")
    if config.client_verify and not config.custom_ca:
        raise invalid("--ssl_config_file: client_verify needs custom_ca, the PEM certificates that clients' must be signed with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL reads keys from files only; the folder is this user's alone (mkdtemp) and gone a moment later.
    with tempfile.TemporaryDirectory(prefix="tfline-tls-") as folder:
        certificate, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        certificate.write_text(config.server_cert)
        key.touch(mode=0o600)
        key.write_text(config.server_key)
        try:
            context.load_cert_chain(certificate, key)
            if config.custom_ca:
                context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise invalid(f"--ssl_config_file: the keys in it cannot be used: {error}") from None
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bound(address: str, port: int, reuse_port: bool) -> socket.socket:
    """A listening socket."""
    try:
        family, _, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(where)
        except OSError:
            taken.close()
            raise
    except OSError as error:
        raise _unavailable(address, port, error) from None
    return taken


def _unavailable(address: str, port: int, error: OSError) -> StatusError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return StatusError(Code.UNAVAILABLE, f"REST cannot listen on {address}:{port}: {reason}")
