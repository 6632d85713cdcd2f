"""The variants that the optimize stage made, side by side, as `tfline run` and `tfline show` print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from components.records import StageRecord

STAGE = "optimize"


def print_variants(stages: Mapping[str, StageRecord], console: Console) -> None:
    """Prints the table, at most 80 columns wide, and under it why variants were refused or not made; nothing for a single one.

    Where the files take transformed features, it says so, and why, also for a single one.
    """
    _print_table(stages, console)
    reason = stages[STAGE].summary.params.get("why_transformed") if STAGE in stages else None
    if reason:
        console.print(
            f"  The transform lies beside the .tflite, as host_transform, not inside: {reason}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _print_table(stages: Mapping[str, StageRecord], console: Console) -> None:
    found = stages[STAGE].summary.tables.get("variants") if STAGE in stages else None
    if found is None or len(found.rows) < 2:
        return
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True, overflow="ellipsis", max_width=14)
    for name in ("bytes", "gzip", "ratio", "acc.", "rms", "p50 ms", "p95 ms", "arena"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, max_width=8)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table, soft_wrap=False, width=80)
    for line in _reasons(rows):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield str(row["variant"])
    if row["bytes"] is None:
        yield from [""] * 8
    else:
        yield from (_size(row["bytes"]), _size(row["gzip"]), f"{row['ratio']:.2f}")
        yield from (_fraction(row["accuracy"]), _fraction(row["rms"]))
        yield from (_milliseconds(row["p50_ms"]), _milliseconds(row["p95_ms"]), _size(row["arena"]))
    yield str(row["result"]).partition(":")[0]


def _reasons(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        kind, colon, reason = str(row["result"]).partition(": ")
        if colon:
            yield f"  {row['variant']} {kind}: {reason}"


def _fraction(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _size(count: int) -> str:
    number, unit = (count / 1e6, "MB") if count >= 999_500 else (count / 1e3, "kB")
    return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"
