"""Which transport to use when: sentences that follow from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.transport_comparison.comparison import GRPC, REST, Comparison

EQUAL = 1.15
"""Ratios of rates below this are called no difference: repetitions on a machine with other work differ by as much."""


def advice(found: Comparison) -> list[str]:
    """Sentences: for each size of a request who is faster and by how much, the bytes, and what follows."""
    sizes = sorted({cell.rows for cell in found.cells})
    ratios = {rows: _ratio(found, rows) for rows in sizes}
    said = [_speed(found, rows, ratios[rows]) for rows in sizes]
    said += [_bytes(found, sizes)]
    failed = sum(cell.errors for cell in found.cells)
    if failed:
        first = next(cell for cell in found.cells if cell.errors)
        said.append(f"{failed} requests failed, the first by {first.transport}: {first.error}")
    return [*said, *_when(ratios)]


def _ratio(found: Comparison, rows: int) -> float:
    """gRPC's requests a second over REST's: the geometric mean over the numbers of clients."""
    counts = sorted({cell.clients for cell in found.cells if cell.rows == rows})
    logs = [math.log(_rate(found, GRPC, rows, n) / _rate(found, REST, rows, n)) for n in counts]
    return math.exp(sum(logs) / len(logs))


def _rate(found: Comparison, transport: str, rows: int, clients: int) -> float:
    # One request in the whole time is the least that can be told from none.
    return max(found.cell(transport, rows, clients).rate, 1 / found.seconds)


def _speed(found: Comparison, rows: int, ratio: float) -> str:
    fewest = min(cell.clients for cell in found.cells)
    most = max(found.cells, key=lambda cell: (cell.rows == rows, cell.rate))
    waits = ", ".join(f"{found.cell(each, rows, fewest).p50:.2f} ms by {each}" for each in (GRPC, REST))
    winner, times = (GRPC, ratio) if ratio >= 1 else (REST, 1 / ratio)
    verdict = "no difference in speed" if times < EQUAL else f"{winner} answers {times:.1f} times as many requests"
    clients = "one client" if fewest == 1 else f"{fewest} clients"
    return (
        f"{_rows(rows)} a request: {verdict}; p50 with {clients} {waits}; "
        f"at most {most.rate:,.0f} requests a second ({most.transport}, {most.clients} clients)."
    )


def _bytes(found: Comparison, sizes: Sequence[int]) -> str:
    parts = []
    for rows in (sizes[0], sizes[-1])[: len(sizes)]:
        grpc, rest = found.bytes[GRPC][rows].total, found.bytes[REST][rows].total
        parts.append(f"{_size(grpc)} by gRPC and {_size(rest)} by REST ({rest / grpc:.1f} times) at {_rows(rows).lower()}")
    return f"A request with its answer takes {'; '.join(parts)}."


def _when(ratios: dict[int, float]) -> list[str]:
    """What to use: for sizes where one is clearly faster, that one; where none is, what is easier to call."""
    grpc = [rows for rows, ratio in ratios.items() if ratio >= EQUAL]
    rest = [rows for rows, ratio in ratios.items() if ratio <= 1 / EQUAL]
    either = [rows for rows in ratios if rows not in grpc and rows not in rest]
    if len(grpc) == len(ratios):
        return ["Use gRPC wherever speed matters, at every size measured; REST for curl, browsers and whatever speaks only HTTP."]
    if len(rest) == len(ratios):
        return ["Use REST: it is faster at every size measured."]
    if len(either) == len(ratios):
        return ["Use whichever is easier to call: for this model they are equally fast at every size measured."]
    said = []
    for name, sizes in ((GRPC, grpc), (REST, rest)):
        if sizes:
            said.append(f"Use {name} for requests of {_list(sizes)}.")
    if either:
        said.append(f"For requests of {_list(either)} it makes no difference: use what is easier to call.")
    return said


def _list(sizes: Sequence[int]) -> str:
    numbers = " and ".join(filter(None, (", ".join(map(str, sizes[:-1])), str(sizes[-1]))))
    return "1 row" if numbers == "1" else f"{numbers} rows"


def _rows(rows: int) -> str:
    return "One row" if rows == 1 else f"{rows} rows"


def _size(size: float) -> str:
    return f"{size:.0f} bytes" if size < 1000 else f"{size / 1000:,.1f} kB"
