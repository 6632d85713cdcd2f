"""A client process of benchmarks/serving.py: so many clients, each with a connection of its own, that ask and wait, ask and wait.

`python -m benchmarks.serving_load` reads names of job files from its standard input. For JOB.json it writes JOB.npz, with when
each request ended (time.time), its latency in seconds, how many failed and what the first answer was, and says `done`.

Requests are bytes made beforehand, answers are not parsed: what is measured is the server and the wire. The same client, HTTP
over a plain socket or gRPC, goes to every server.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], bytes]


class _Http:
    """One kept connection on which the same request is sent again and again."""

    def __init__(self, port: int, path: str, body: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def __call__(self) -> bytes:
        self._socket.sendall(self._request)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        head, body = answer[:end].lower(), [answer[end + 4 :]]
        if not head.startswith((b"http/1.1 200", b"http/1.0 200")):
            raise RuntimeError(answer[:300].decode(errors="replace"))
        if b"transfer-encoding: chunked" in head:
            while not body[-1].endswith(b"0\r\n\r\n"):
                body.append(self._receive())
        else:
            size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]) - len(body[0])
            while size > 0:
                body.append(self._receive())
                size -= len(body[-1])
        return b"".join(body)

    def _receive(self) -> bytes:
        found = self._socket.recv(2**18)
        if not found:
            raise ConnectionError("the server closed the connection")
        return found


def _grpc(port: int, method: str, payload: bytes) -> Call:
    import grpc

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    call: Any = grpc.insecure_channel(f"127.0.0.1:{port}", options=unlimited).unary_unary(method)
    return lambda: call(payload, timeout=120, wait_for_ready=True)


def _client(call: Call, job: dict[str, Any], ends: list[float], latencies: list[float], failures: list[str]) -> None:
    # Connections are made and the server is warm before the clock starts.
    while time.time() < job["begin"]:
        call()
    while len(ends) < job["requests"] and time.time() < job["end"]:
        start = time.perf_counter()
        try:
            call()
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:500])
            continue
        latencies.append(time.perf_counter() - start)
        ends.append(time.time())


def run(file: Path) -> None:
    """Runs one job."""
    job = json.loads(file.read_text(encoding="utf-8"))
    payload = Path(job["payload"]).read_bytes()
    make: Callable[[int, str, bytes], Call] = _grpc if job["transport"] == "grpc" else _Http
    calls = [make(job["port"], job["path"], payload) for _ in range(job["clients"])]
    answer = calls[0]()
    results: list[tuple[list[float], list[float], list[str]]] = [([], [], []) for _ in calls]
    threads = [threading.Thread(target=_client, args=(call, job, *each)) for call, each in zip(calls, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = [failure for _, _, found in results for failure in found]
    np.savez(
        file.with_suffix(".npz"),
        ends=np.concatenate([np.array(ends) for ends, _, _ in results]),
        latencies=np.concatenate([np.array(found) for _, found, _ in results]),
        failures=np.array(len(failures)),
        first_failure=np.frombuffer("".join(failures[:1]).encode(), np.uint8),
        answer=np.frombuffer(answer, np.uint8),
    )


if __name__ == "__main__":
    for line in sys.stdin:
        try:
            run(Path(line.strip()))
            print("done", flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " ")[:500], flush=True)
