"""A short seeded slice of `python -m tests.serving.fuzz`; and that the fuzzer sees a failure when there is one."""

from __future__ import annotations

import itertools
import socket
import threading
from collections import Counter

import grpc
import pytest

from tests.serving.conformance.servers import EMBEDDED, Server
from tests.serving.fuzz.inputs import RestInput, inputs
from tests.serving.fuzz.target import Failure, Target


@pytest.mark.slow
@pytest.mark.usefixtures("own_server")
def test_mutated_requests(plain: Server) -> None:
    target = Target(plain.channel, plain.rest_port)
    answers = Counter(target.send(one) for one in inputs(seed=0, first=0, count=3000))
    target.close()
    assert plain.process.poll() is None
    assert answers["OK"] > 50
    assert answers["200"] > 50
    if EMBEDDED:
        assert "Traceback" not in plain.log()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b""], ids=["500", "broken off", "nothing"]
)
def test_a_failing_server_is_a_failure(answer: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        for _ in itertools.count():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(2**16)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener, grpc.insecure_channel("localhost:1") as channel:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        target = Target(channel, listener.getsockname()[1])
        with pytest.raises(Failure):
            target.send(RestInput(b"GET / HTTP/1.1\r\n\r\n"))
        target.close()
        listener.shutdown(socket.SHUT_RDWR)
