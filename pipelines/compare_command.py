"""`tfline compare-transports`: gRPC and REST for one served model, as a table, in words, and as files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import TflineError
from serving.request_files import read_requests
from serving.transport_comparison.comparison import Comparison, Plan, compare
from serving.transport_comparison.plot import draw
from serving.transport_comparison.words import advice

if TYPE_CHECKING:
    from rich.console import Console


def compare_transports(plan: Plan, path: Path | None, folder: Path, console: Console) -> None:
    """Measures, prints, and writes comparison.json and comparison.png.

    Args:
        plan: What to measure.
        path: Rows to ask for, see `serving.request_files.read_requests`; None for random inputs.
        folder: Where the files go; made when it is not there.
        console: Where to print.

    Raises:
        InputError, RequestError: See `serving.transport_comparison.comparison.compare`.
        TflineError: The folder cannot be written.
    """
    requests = read_requests(path, sys.stdin.buffer) if path else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TflineError(f"{folder}: {error.strerror}") from None
    with console.status("") as status:
        found = compare(plan, requests, lambda told: status.update(f"Measuring: {told}"))
    _print(found, console)
    _write(found, folder)
    console.print()
    console.print(f"{folder / 'comparison.png'}, {folder / 'comparison.json'}", soft_wrap=True)


def _print(found: Comparison, console: Console) -> None:
    console.print(
        f"{found.model}, version {found.version}, signature {found.signature}; inputs: {found.inputs}; {found.cores} cores"
    )
    console.print(
        "Milliseconds from arrays to arrays, in client processes of their own, each asking again as soon as it is answered."
    )
    console.print()
    rows = [
        (str(c.rows), str(c.clients), c.transport, f"{c.p50:.2f}", f"{c.p95:.2f}", f"{c.p99:.2f}", f"{c.rate:,.0f}")
        + ((str(c.errors),) if any(each.errors for each in found.cells) else ())
        for c in found.cells
    ]
    _print_table(console, ("rows", "clients", "by", "p50", "p95", "p99", "requests/s", "errors")[: len(rows[0])], rows)
    console.print()
    console.print(
        "Bytes of a request and its answer: all that its connection carries, headers and framing included, TCP's and IP's own "
        "headers not; counted by a relay."
    )
    console.print()
    counted = [
        (str(size), transport, f"{b.sent:,.0f}", f"{b.received:,.0f}", f"{b.request:,}", f"{b.answer:,}")
        for size in sorted({cell.rows for cell in found.cells})
        for transport, b in ((transport, found.bytes[transport][size]) for transport in found.bytes)
    ]
    _print_table(console, ("rows", "by", "sent", "received", "payload sent", "payload received"), counted)
    for sentence in advice(found):
        console.print()
        console.print(sentence)


def _print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, justify="left" if name == "by" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _write(found: Comparison, folder: Path) -> None:
    """Both files, each by an atomic rename."""
    picture, numbers = folder / f".comparison-{os.getpid()}.png", folder / f".comparison-{os.getpid()}.json"
    draw(found, picture)
    told = {**found.as_json(), "advice": advice(found)}
    numbers.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    picture.replace(folder / "comparison.png")
    numbers.replace(folder / "comparison.json")
