"""The optimize stage's report as one HTML page: no network, no script, light and dark, for a reader who has never met TFLite.

`render` says what the page shows; its form is in `page_template`. Every number in a table is there rounded, for people,
and exact, in the `value` of its `<data>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from components.variants import judging
from components.variants.config import MEANINGS
from components.variants.page_style import STYLE
from components.variants.page_template import TEMPLATE
from components.variants.plot import COLOURS, draw_svg, points
from components.variants.preparation import slice_name
from components.variants.report import Made, Report, Row, tables_of

_RULES = {
    "smallest": "the smallest file",
    "fastest": "the fastest by its median call",
    "most_accurate": "the most accurate",
}


class Cell(NamedTuple):
    """One number of a table: as people read it, and as it is; `mark` is the class that colours it."""

    text: str
    value: Any = None
    mark: str = ""


def render(report: Report) -> str:
    """The page; names and reasons, which are the user's words, are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": _count,
        "fraction": _fraction,
        "short": _short,
        "time": _time,
        "size": _size,
        "percent": _percent,
    }
    refusal = judging.refusal(report.rows)
    made = points(report)
    page = environment.from_string(TEMPLATE).render(
        report=report,
        style=STYLE,
        colours=COLOURS,
        best=report.best,
        chosen=report.row(report.chosen),
        refusal=refusal,
        passing=[row.name for row in report.rows if row.passed],
        rule=_RULES[report.select],
        reference=_reference(report),
        gates=_gates(report),
        rows=[(row, *_result(row, report.chosen), _numbers(row)) for row in report.rows],
        made=made,
        meanings=MEANINGS,
        kinds=list(dict.fromkeys(row.kind for row in report.rows)),
        settings={row.name: _settings(row) for row in report.rows},
        # One point is no picture.
        plot=draw_svg(report) if len(made) > 1 else "",
        steps=_steps(report),
        graphs=tables_of(report)["graphs"],
        groups=[_groups(report, "slices"), _groups(report, "labels")],
        tuned=[(row, each.fine_tuned) for row, each in made if each.fine_tuned],
        kernels=[(row, each.kernels) for row, each in made if each.kernels.kernels],
    )
    return page + "\n"


def _result(row: Row, chosen: str) -> tuple[str, str]:
    """A variant's mark, and the words for it."""
    if row.made is None:
        return "unmade", "not made"
    if row.broken:
        return "refused", f"refused: {', '.join(dict.fromkeys(each.gate for each in row.broken))}"
    return ("chosen", "chosen") if row.name == chosen else ("passes", "passes")


def _numbers(row: Row) -> list[Cell]:
    """The cells of the great table, in the order of its heads."""
    if row.made is None:
        return []
    made, compared, latency = row.made, row.made.measured.comparison, row.made.measured.latency
    broken = {each.gate for each in row.broken}

    def cell(format_: Any, value: Any, gate: str = "") -> Cell:
        return Cell("—" if value is None else format_(value), value, "over" if gate in broken else "")

    return [
        cell(_count, made.bytes, "size"),
        cell(_count, made.gzip_bytes),
        cell(_ratio, made.ratio),
        cell(_ratio, made.ratio_to_weights),
        cell(_fraction, compared.accuracy_tflite, "accuracy"),
        cell(_fraction, compared.accuracy_drop),
        cell(_fraction, compared.agreement),
        cell(_short, compared.rms_difference),
        cell(_short, compared.max_difference),
        cell(_short, latency.p50_ms, "latency"),
        cell(_short, latency.p95_ms, "latency"),
        cell(_count, made.measured.arena_bytes),
        cell(_count, sum(made.measured.ops.values())),
        cell(_percent, made.kernels.sparsity),
        _clusters(made.kernels.clusters, bool(made.kernels.kernels)),
    ]


def _clusters(count: int | None, kernels: bool) -> Cell:
    return Cell(_count(count), count) if count is not None else Cell("> 1,024" if kernels else "—")


def _reference(report: Report) -> str:
    """What `ratio` is a ratio to, in words."""
    return {
        "float32": "the float32 variant",
        "weights": "the float model's weights",
        "SavedModel": "the float SavedModel",
    }[report.float_model.reference]


class _Gate(NamedTuple):
    what: str
    limit: str
    measured: str
    kept: bool
    refused: list[str]


def _gates(report: Report) -> list[_Gate]:
    """Each gate that is set: its limit, what the chosen one has, and whom it refused."""
    gates, found = report.gates, list[_Gate]()

    def add(
        what: str, number: Callable[[Made], float], limit: float | None, form: Callable[[float], str], least: str = ""
    ) -> None:
        if limit is not None:
            refused = [row.name for row, made in points(report) if number(made) > limit + judging.ROUNDING]
            kept = number(report.best) <= limit + judging.ROUNDING
            found.append(_Gate(what, least or f"at most {limit:,.10g}", form(number(report.best)), kept, refused))

    add("accuracy lost on all examples", attrgetter("measured.comparison.accuracy_drop"), gates.max_accuracy_drop, _fraction)
    for gate in gates.slices:
        name = slice_name(gate.slice)
        add(f"accuracy lost on the slice {name}", partial(_lost, name), gate.max_accuracy_drop, _fraction)
    add("bytes of the file", attrgetter("bytes"), gates.max_bytes, _count)
    add("milliseconds a call, p50", attrgetter("measured.latency.p50_ms"), gates.max_latency_ms.p50, _short)
    add("milliseconds a call, p95", attrgetter("measured.latency.p95_ms"), gates.max_latency_ms.p95, _short)
    add("kinds of ops that compute with floats", _float_ops, 0 if gates.integer_only else None, _count, "none")
    return found


def _float_ops(made: Made) -> int:
    return len(made.measured.float_ops)


def _lost(name: str, made: Made) -> float:
    shares = {row[0]: row[2:] for row in made.measured.comparison.slices.rows}
    of_float, of_tflite = shares[name]
    return float(of_float - of_tflite)


def _settings(row: Row) -> str:
    words = {
        key: " x ".join(map(str, value)) if isinstance(value, list | tuple) else value for key, value in row.settings.items()
    }
    named = [(key.replace("_", " "), value) for key, value in words.items()]
    return ", ".join(key if value is True else f"{key} {value}" for key, value in named)


class _Step(NamedTuple):
    title: str
    numbers: tuple[int, int, int, int]
    did: str


def _steps(report: Report) -> list[_Step]:
    """From the SavedModel to the chosen .tflite: ops, constants, variables, reads of them, and what each step did."""
    graphs, made, norms = report.float_model.graphs, report.best, report.float_model.batch_norms
    stages = (graphs.saved_model, graphs.frozen, graphs.optimised)
    ops = [sum(each.values()) for each in stages]
    constants = [each.get("Const", 0) for each in stages]
    tflite = sum(made.measured.ops.values())
    frozen = (
        f"{graphs.variables} variables became constants: {graphs.reads} reads of variables before, {graphs.frozen_reads} after."
    )
    # Grappler's own ops, such as _FusedBatchNormEx, are batch normalizations still.
    kept = sum(times for op, times in graphs.optimised.items() if "FusedBatchNorm" in op)
    optimised = f"TensorFlow's own optimiser computed beforehand and merged what it could: {ops[1]} ops to {ops[2]}"
    left, folded = made.scales_and_shifts_left, "."
    if norms:
        optimised += f", batch normalizations {norms} to {kept}"
        which = f"batch normalization{'s' if norms > 1 else ''}"
        folded = f"; the {norms} {which} " + (
            f"left {left} multiplications or additions." if left else "went into the weights, and left no op behind."
        )
    return [
        _Step(
            "SavedModel",
            (ops[0], constants[0], graphs.variables, graphs.reads),
            f"The model as it was exported: {_count(graphs.float_weights_bytes)} bytes of weights in variables.",
        ),
        _Step("Frozen graph", (ops[1], constants[1], 0, graphs.frozen_reads), frozen),
        _Step("Optimised graph", (ops[2], constants[2], 0, graphs.optimised_reads), f"{optimised}."),
        _Step(
            f"{report.chosen}.tflite",
            (tflite, made.measured.constants, 0, 0),
            f"The converter made {tflite} TFLite ops with {made.measured.constants} constants of it{folded}",
        ),
    ]


class _Groups(NamedTuple):
    title: str
    names: list[str]
    rows: list[tuple[Any, str, list[Cell]]]


def _groups(report: Report, which: str) -> _Groups:
    """Accuracy by slice or by label: what the float model has, and each variant, coloured by what it lost or gained."""
    made = points(report)
    tables = [{row[0]: row[1:] for row in getattr(each.measured.comparison, which).rows} for _, each in made]
    limits = {slice_name(gate.slice): gate.max_accuracy_drop for gate in report.gates.slices} if which == "slices" else {}
    rows = []
    found = dict.fromkeys(name for table in tables for name in table)
    for name in sorted(found, key=lambda each: each not in limits):
        count, of_float, _ = next(table[name] for table in tables if name in table)
        cells = [Cell(_count(count), count), Cell(_fraction(of_float), of_float)]
        shares = [table[name][2] if name in table else None for table in tables]
        cells += [
            Cell("—") if share is None else Cell(_fraction(share), share, _loss_mark(of_float - share, limits.get(name)))
            for share in shares
        ]
        rows.append((name, f"gate: at most {limits[name]:g} lost" if name in limits else "", cells))
    return _Groups("slice" if which == "slices" else "label", [row.name for row, _ in made], rows)


def _loss_mark(lost: float, limit: float | None) -> str:
    if limit is not None and lost > limit + judging.ROUNDING:
        return "over"
    levels: Sequence[tuple[float, str]] = ((0.1, "loss3"), (0.03, "loss2"), (judging.ROUNDING, "loss1"))
    return next((mark for least, mark in levels if lost > least), "gain" if lost < -judging.ROUNDING else "")


def _count(value: float) -> str:
    return f"{value:,}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _fraction(value: float) -> str:
    return f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _short(value: float) -> str:
    """Three digits, whatever the size; powers of ten only where there would be many zeros."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:.2e}" if abs(value) < 1e-4 else f"{value:.3g}"


def _time(milliseconds: float) -> str:
    return f"{1000 * milliseconds:.3g} \u00b5s" if milliseconds < 0.1 else f"{milliseconds:.3g} ms"


def _size(count: int) -> str:
    return (
        f"{count / 1e6:.2f} MB"
        if count >= 1_000_000
        else f"{count / 1000:.1f} kB"
        if count >= 10_000
        else f"{_count(count)} bytes"
    )
