"""The HTTP server: ports, TLS, and requests that are still running when it stops."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.server.rest_server import RestServer, server_context
from serving.server.status import StatusError
from serving.server.text_protos import SSLConfig
from tests.serving.server.rest_requests import PREDICT, Rest, X


@pytest.fixture
def rest() -> Iterator[Rest]:
    made = Rest()
    yield made
    made.app.close()


@pytest.fixture
def certificate(tmp_path: Path) -> SSLConfig:
    """A key and a certificate for localhost, signed by itself."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True, timeout=60)
    return SSLConfig(server_key=key.read_text(), server_cert=cert.read_text())


def fetch(url: str, body: bytes | None = None, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_over_a_socket(rest: Rest) -> None:
    server = RestServer(rest.app, "127.0.0.1", 0)
    late = RestServer(rest.app, "127.0.0.1", server.port)
    server.start()
    for take in (late.start, lambda: RestServer(rest.app, "127.0.0.1", server.port)):
        with pytest.raises(StatusError, match=f"REST cannot listen on 127.0.0.1:{server.port}: Address already in use"):
            take()
    late.stop(0)
    address = f"http://127.0.0.1:{server.port}"
    values = np.linspace(0, 1, 50_000, dtype=np.float32)
    status, body = fetch(address + PREDICT, json.dumps({"instances": values.tolist()}).encode())
    assert status == 200
    np.testing.assert_array_equal(np.array(json.loads(body)["predictions"], np.float32), values / 2 + 2)
    assert fetch(address + "/v1/models/half:predict?a", b"")[0] == 400
    assert json.loads(fetch(address + "/v1/models/half%2Fx")[1]) == {"error": "Could not find any versions of model half/x"}
    server.stop(1)
    with pytest.raises(urllib.error.URLError):
        fetch(address + PREDICT)


def test_stopping_lets_requests_finish(rest: Rest) -> None:
    server = RestServer(rest.app, "127.0.0.1", 0)
    server.start()
    rest.models.servable.gate.clear()
    answers: list[tuple[int, bytes]] = []
    address = f"http://127.0.0.1:{server.port}{PREDICT}"
    client = threading.Thread(target=lambda: answers.append(fetch(address, json.dumps(X).encode())))
    client.start()
    time.sleep(0.2)
    threading.Timer(0.4, rest.models.servable.gate.set).start()
    server.stop(20)
    client.join(20)
    assert [status for status, _ in answers] == [200]


def test_tls(rest: Rest, certificate: SSLConfig) -> None:
    server = RestServer(rest.app, "127.0.0.1", 0, server_context(certificate))
    server.start()
    trusted = ssl.create_default_context(cadata=certificate.server_cert)
    url = f"https://localhost:{server.port}{PREDICT}"
    assert fetch(url, json.dumps(X).encode(), trusted)[0] == 200
    with pytest.raises(urllib.error.URLError):
        fetch(url, b"", ssl.create_default_context())
    server.stop(1)


def test_keys_that_are_none(certificate: SSLConfig) -> None:
    for config, message in (
        (SSLConfig(), "needs server_key and server_cert"),
        (SSLConfig(server_key="x", server_cert="y"), "cannot be used"),
        (
            SSLConfig(server_key=certificate.server_key, server_cert=certificate.server_cert, client_verify=True),
            "needs custom_ca",
        ),
    ):
        with pytest.raises(StatusError, match=message):
            server_context(config)
