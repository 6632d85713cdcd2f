"""All cells of the comparison, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from serving.client import Client
from serving.client.addresses import parse_servers
from serving.client.values import Array, Signature, Spec
from serving.request_files import InputError, Requests
from serving.transport_comparison.inputs import choose, random_rows, rows_of
from serving.transport_comparison.load import ClientProcesses, Load, percentiles
from serving.transport_comparison.wire import Bytes, grpc_bytes, rest_bytes

GRPC, REST = "gRPC", "REST"


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        grpc, rest: The addresses of one server, as `Client` takes them; without TLS.
        signature: None: see `inputs.choose`.
        rows: Of a request.
        clients: At once.
        seconds: For each transport in each cell.
    """

    model: str
    grpc: str
    rest: str
    signature: str | None = None
    rows: Sequence[int] = (1, 32, 256)
    clients: Sequence[int] = (1, 4, 16)
    seconds: float = 2.0


@dataclass(frozen=True)
class Cell:
    """One transport at one number of rows and clients; milliseconds, requests a second."""

    transport: str
    rows: int
    clients: int
    p50: float
    p95: float
    p99: float
    rate: float
    errors: int
    error: str


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        cells: gRPC and REST by turns, by rows, then by clients.
        inputs: "random", or the name of the file.
        bytes: By transport, then by rows.
        cores: Of the machine with the clients.
    """

    model: str
    version: int
    signature: str
    inputs: str
    seconds: float
    cells: Sequence[Cell]
    bytes: Mapping[str, Mapping[int, Bytes]]
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    def cell(self, transport: str, rows: int, clients: int) -> Cell:
        """One of the cells."""
        return next(each for each in self.cells if (each.transport, each.rows, each.clients) == (transport, rows, clients))

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def compare(plan: Plan, requests: Requests | None, tell: Callable[[str], None]) -> Comparison:
    """Measures.

    The two transports take turns, gRPC, REST, REST, gRPC, each for half of its time, so that whatever else the machine does
    meets both alike.

    Args:
        plan: What.
        requests: Rows to ask for; None for random ones.
        tell: Is told what is measured next.

    Raises:
        InputError: The addresses, or the inputs, cannot be used.
        RequestError: A server refused.
    """
    _check(plan)
    with Client(plan.grpc) as client:
        version, signatures = client.metadata(plan.model)
    name = choose(requests, signatures, plan.signature)
    signature, spec = signatures[name], Spec(plan.model, version)
    inputs = {rows: rows_of(requests, signature, rows) if requests else random_rows(signature, rows) for rows in plan.rows}
    tell("bytes on the wire")
    counted = {
        GRPC: {rows: grpc_bytes(plan.grpc.removeprefix("grpc://"), spec, name, inputs[rows]) for rows in plan.rows},
        REST: {rows: rest_bytes(plan.rest, spec, name, inputs[rows], signature) for rows in plan.rows},
    }
    tell(f"starting {max(plan.clients)} client processes")
    cells: list[Cell] = []
    with ClientProcesses(max(plan.clients), {GRPC: plan.grpc, REST: plan.rest}, plan.model, name, version) as processes:
        for rows in plan.rows:
            for clients in plan.clients:
                tell(f"{_count(rows, 'row')}, {_count(clients, 'client')}")
                cells += _cells(processes, inputs[rows], rows, clients, plan.seconds)
    source = Path(requests.name).name if requests else "random"
    return Comparison(plan.model, version, name, source, plan.seconds, cells, counted)


def _cells(processes: ClientProcesses, inputs: Mapping[str, Array], rows: int, clients: int, seconds: float) -> list[Cell]:
    loads: dict[str, list[Load]] = {GRPC: [], REST: []}
    for transport in (GRPC, REST, REST, GRPC):
        loads[transport].append(processes.measure(transport, inputs, clients, seconds / 2))
    cells = []
    for transport, halves in loads.items():
        p50, p95, p99 = (1000 * each for each in percentiles([second for half in halves for second in half.seconds]))
        rate = sum(half.finished for half in halves) / sum(half.duration for half in halves)
        said = next((half.error for half in halves if half.error), "")
        cells.append(Cell(transport, rows, clients, p50, p95, p99, rate, sum(half.errors for half in halves), said))
    return cells


def _check(plan: Plan) -> None:
    try:
        grpc, rest = parse_servers(plan.grpc), parse_servers(plan.rest)
    except ValueError as error:
        raise InputError(str(error)) from None
    if grpc.scheme not in ("", "grpc"):
        raise InputError(f"--grpc: expected host:port without TLS, whose bytes can be counted, got {plan.grpc}")
    if rest.scheme != "http":
        raise InputError(f"--rest: expected http://host:port, got {plan.rest}")
    if min((*plan.rows, *plan.clients)) < 1 or plan.seconds <= 0:
        raise InputError("expected rows, clients and seconds above zero")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


__all__ = ["GRPC", "REST", "Cell", "Comparison", "Plan", "Signature", "compare"]
