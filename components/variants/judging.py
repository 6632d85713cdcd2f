"""Which variants may be shipped, and which of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from components.errors import TflineError
from components.summary import Refusal
from components.variants.config import Gates, Select
from components.variants.preparation import slice_name
from components.variants.report import Broken, Made, Row

# Drops are differences of counts over n: a limit of 0.01 must let exactly one in a hundred pass.
ROUNDING = 1e-9

_RULES: dict[Select, Callable[[Made], tuple[float, ...]]] = {
    "smallest": lambda made: (made.bytes, made.gzip_bytes, -made.measured.comparison.accuracy_tflite),
    "fastest": lambda made: (made.measured.latency.p50_ms, made.bytes),
    "most_accurate": lambda made: (-made.measured.comparison.accuracy_tflite, made.bytes),
}
"""What is compared, the least first; what comes after the first number decides between equals."""


def judge(made: Made, gates: Gates) -> tuple[Broken, ...]:
    """The gates that a variant does not pass, each with what was measured and by how much it missed.

    Raises:
        TflineError: A gate is on a slice that no example is in.
    """
    return (*_accuracy(made, gates), *_size(made, gates), *_latency(made, gates), *_integer(made, gates))


def choose(rows: Sequence[Row], rule: Select) -> str:
    """The name of the best row by the rule among those that pass, or, when none does, among those that could be made.

    Equal ones in all that the rule looks at go by the order of the configuration.
    """
    made = [row for row in rows if row.made]
    passing = [row for row in made if row.passed] or made
    return min(passing, key=lambda row: _RULES[rule](row.made) if row.made else ()).name


def refusal(rows: Sequence[Row]) -> Refusal | None:
    """When no row passes: one refusal with all that was against each, named after the first gate."""
    if any(row.passed for row in rows):
        return None
    broken = [(row, found) for row in rows for found in row.broken]
    several = len(rows) > 1
    reasons = [f"{row.name}: {found.reason}" if several else found.reason for row, found in broken]
    reasons += [f"{row.name}: not made: {row.reason}" for row in rows if row.reason]
    return Refusal(gate=broken[0][1].gate, reasons=tuple(reasons))


def _accuracy(made: Made, gates: Gates) -> list[Broken]:
    compared, found = made.measured.comparison, []
    if compared.accuracy_drop > gates.max_accuracy_drop + ROUNDING:
        found.append(
            f"accuracy {compared.accuracy_tflite:.4f} is {compared.accuracy_drop:.4f} below the float model's "
            f"{compared.accuracy_float:.4f} on {compared.eval_examples} examples; the limit is {gates.max_accuracy_drop:g}"
        )
    measured = {row[0]: row[1:] for row in compared.slices.rows}
    for gate in gates.slices:
        name = slice_name(gate.slice)
        if name not in measured:
            raise TflineError(f"optimize.gates.slices: no example of the eval split is in the slice {name}")
        count, of_float, of_tflite = measured[name]
        if of_float - of_tflite > gate.max_accuracy_drop + ROUNDING:
            found.append(
                f"accuracy {of_tflite:.4f} on the slice {name} is {of_float - of_tflite:.4f} below the float model's "
                f"{of_float:.4f} on its {count} examples; the limit is {gate.max_accuracy_drop:g}"
            )
    return [Broken(gate="accuracy", reason=reason) for reason in found]


def _size(made: Made, gates: Gates) -> list[Broken]:
    if gates.max_bytes is None or made.bytes <= gates.max_bytes:
        return []
    over = made.bytes - gates.max_bytes
    return [Broken(gate="size", reason=f"the .tflite has {made.bytes} bytes, {over} more than the limit of {gates.max_bytes}")]


def _latency(made: Made, gates: Gates) -> list[Broken]:
    latency = made.measured.latency
    both = (("p50", latency.p50_ms, gates.max_latency_ms.p50), ("p95", latency.p95_ms, gates.max_latency_ms.p95))
    return [
        Broken(gate="latency", reason=f"the {which} of {latency.calls} calls is {took:.4g} ms, at most {limit:g} ms allowed")
        for which, took, limit in both
        if limit is not None and took > limit
    ]


def _integer(made: Made, gates: Gates) -> list[Broken]:
    if not gates.integer_only or not made.measured.float_ops:
        return []
    found = ", ".join(made.measured.float_ops)
    edges = set(made.measured.float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
    hint = (
        "its edges are float: int8_io has integer ones, and `edges: integer` those that are trained" if edges else "see the graph"
    )
    return [Broken(gate="integer", reason=f"these ops compute in floating point: {found}; {hint}")]
