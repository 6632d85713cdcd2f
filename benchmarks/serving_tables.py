"""The tables of benchmarks/serving.py, and the aims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """What clients saw: requests a second, latencies in milliseconds, requests that failed."""

    rate: float
    latencies: Any
    ends: Any
    failures: int
    failure: str

    def ms(self, percentile: float) -> float:
        """A percentile of the latencies."""
        return float(np.percentile(self.latencies, percentile))


Results = dict[tuple[str, int, int], Result]
"""By server, clients and rows."""


def _sizes(results: Results) -> list[tuple[int, int]]:
    return list(dict.fromkeys((count, rows) for _, count, rows in results))


def grpc_table(results: Results, in_process: dict[int, float]) -> Table:
    """Against the echo, and the signature's own time by rows."""
    table = Table(
        "rows", "clients", "echo /s", "tfline /s", "of echo", "echo p50 ms", "tfline p50 ms", "p99 ms", "signature in process, ms"
    )
    table.title = "gRPC"
    for count, rows in _sizes(results):
        ceiling, ours = results["gRPC echo", count, rows], results["tfline gRPC", count, rows]
        figures = f"{ceiling.rate:,.0f}", f"{ours.rate:,.0f}", f"{ours.rate / ceiling.rate:.2f}"
        latencies = f"{ceiling.ms(50):.2f}", f"{ours.ms(50):.2f}", f"{ours.ms(99):.2f}"
        table.add_row(str(rows), str(count), *figures, *latencies, f"{in_process[rows]:.2f}")
    return table


def rest_table(results: Results) -> Table:
    """Against the others."""
    names = [name for name in dict.fromkeys(name for name, _, _ in results) if "gRPC" not in name]
    table = Table("rows", "clients", *(f"{name} /s (p50 ms)" for name in names), "tfline / best other", title="REST")
    for count, rows in _sizes(results):
        found = [results[name, count, rows] for name in names]
        cells = [f"{each.rate:,.0f} ({each.ms(50):.1f})" for each in found]
        table.add_row(str(rows), str(count), *cells, _times(found[0].rate, max((each.rate for each in found[1:]), default=0)))
    return table


def _times(ours: float, best: float) -> str:
    return f"{ours / best:.1f}" if best else "-"


def several_table(one: Results, several: Results) -> Table:
    """Several processes against one."""
    table = Table("", "one process /s", "several /s", "ratio", title="Several processes on one port (--processes), 1 row")
    for (name, count, rows), result in several.items():
        alone = one[name.partition(" --")[0], count, rows]
        table.add_row(f"{name}, {count} clients", f"{alone.rate:,.0f}", f"{result.rate:,.0f}", f"{result.rate / alone.rate:.2f}")
    return table


def aims(results: Results) -> dict[str, bool]:
    """The aims that were set for one row, and whether they were met."""

    def of_echo(clients: int) -> float:
        return results["tfline gRPC", clients, 1].rate / results["gRPC echo", clients, 1].rate

    one = results["tfline gRPC", 1, 1].ms(50)
    aims = {
        f"gRPC at 16 clients at least 0.6 of the echo: {of_echo(16):.2f}": of_echo(16) >= 0.6,
        f"gRPC at one client at least 0.5 of the echo: {of_echo(1):.2f}": of_echo(1) >= 0.5,
        f"gRPC at one client p50 at most 1.5 ms: {one:.2f}": one <= 1.5,
    }
    for clients in (1, 16):
        rest = {name: each.rate for (name, count, rows), each in results.items() if (count, rows) == (clients, 1)}
        best = max((rate for name, rate in rest.items() if not name.startswith(("tfline", "gRPC"))), default=0.0)
        if best:
            aims[f"REST at {clients} clients at least 3 times the best other: {rest['tfline REST'] / best:.1f}"] = (
                rest["tfline REST"] >= 3 * best
            )
        else:
            aims[f"REST at {clients} clients at least 3 times the best other: no other server was there"] = False
    return aims
