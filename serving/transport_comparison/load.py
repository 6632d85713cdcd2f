"""Clients in processes of their own, each asking as fast as it is answered: a closed loop."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np

from serving.client import Client, RequestError
from serving.client.values import Array

WARM_UP = 5
"""Requests of each client before the clock starts."""

_LEAD = 0.05
_PATIENCE = 60.0


@dataclass(frozen=True)
class Task:
    """What a client process does next.

    Attributes:
        transport: "grpc" or "rest".
        inputs: Of each request.
        starts: time.monotonic() value, the same clock in all processes of a machine; None: only warm up.
        seconds: For how long.
    """

    transport: str
    inputs: Mapping[str, Array]
    starts: float | None
    seconds: float


@dataclass(frozen=True)
class Load:
    """What some clients measured together.

    Attributes:
        seconds: Of each request that began in time, from arrays to arrays.
        finished: Requests that were answered within the time.
        duration: The time, in seconds.
        errors: Requests that failed.
        error: What the first of them said.
    """

    seconds: Array
    finished: int
    duration: float
    errors: int
    error: str


class ClientProcesses:
    """Processes with an open client for each transport; a context manager, which ends them."""

    def __init__(self, count: int, addresses: Mapping[str, str], model: str, signature: str, version: int) -> None:
        """Starts them; half a second of processor time each."""
        # Forked processes must not use gRPC when their parent has.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, dict(addresses), model, signature, version), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> ClientProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()

    def measure(self, transport: str, inputs: Mapping[str, Array], clients: int, seconds: float) -> Load:
        """Lets some of the clients ask at once, for some seconds, after a warm-up.

        Raises:
            RequestError: A request of the warm-up failed.
        """
        self._all(clients, Task(transport, inputs, None, 0.0))
        found = self._all(clients, Task(transport, inputs, time.monotonic() + _LEAD, seconds))
        errors = [each.error for each in found if each.error]
        return Load(
            np.concatenate([each.seconds for each in found]),
            sum(each.finished for each in found),
            seconds,
            sum(each.errors for each in found),
            errors[0] if errors else "",
        )

    def _all(self, clients: int, task: Task) -> list[Load]:
        for pipe in self._pipes[:clients]:
            pipe.send(task)
        found: list[Any] = []
        for pipe in self._pipes[:clients]:
            if not pipe.poll(task.seconds + _PATIENCE):
                raise RuntimeError("a client process does not answer")
            found.append(pipe.recv())
        for each in found:
            if isinstance(each, tuple):
                raise RequestError(*each)
        return found


def _work(pipe: Connection, addresses: Mapping[str, str], model: str, signature: str, version: int) -> None:
    clients = {transport: Client(address, timeout=30) for transport, address in addresses.items()}
    try:
        while True:
            task: Task = pipe.recv()
            try:
                pipe.send(_ask(clients[task.transport], model, signature, version, task))
            except RequestError as error:
                pipe.send((error.code, error.message, error.endpoint))
    except (EOFError, OSError, KeyboardInterrupt):
        for client in clients.values():
            client.close()


def _ask(client: Client, model: str, signature: str, version: int, task: Task) -> Load:
    inputs = dict(task.inputs)
    if task.starts is None:
        for _ in range(WARM_UP):
            client.predict(model, inputs, signature=signature, version=version)
        return Load(np.empty(0), 0, 0.0, 0, "")
    time.sleep(max(0.0, task.starts - time.monotonic()))
    ends, seconds, finished, errors, said = task.starts + task.seconds, list[float](), 0, 0, ""
    while (began := time.monotonic()) < ends:
        try:
            client.predict(model, inputs, signature=signature, version=version)
        except RequestError as error:
            errors, said = errors + 1, said or str(error)
        else:
            ended = time.monotonic()
            seconds.append(ended - began)
            finished += ended <= ends
    return Load(np.array(seconds), finished, task.seconds, errors, said)


def percentiles(seconds: Sequence[float] | Array) -> tuple[float, float, float]:
    """p50, p95 and p99, in the unit of what is given; NaN of nothing."""
    if len(seconds) == 0:
        return (float("nan"),) * 3
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return float(p50), float(p95), float(p99)
