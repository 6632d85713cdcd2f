from __future__ import annotations

from typing import Any

import pytest

from components.summary import Table
from components.variants import judging
from components.variants.config import Gates, MaxLatency, SliceGate
from components.variants.evaluation import Comparison
from components.variants.measurement import Latency, Measured
from components.variants.report import Broken, Made, Row
from components.variants.weights import Kernels


def made(
    *,
    size: int = 1000,
    gzip: int = 900,
    accuracy: float = 0.95,
    drop: float = 0.0,
    p50: float = 1.0,
    p95: float = 2.0,
    float_ops: tuple[str, ...] = (),
    slices: tuple[tuple[Any, ...], ...] = (),
) -> Made:
    table = Table(columns=("label", "examples", "float", "tflite"), rows=())
    compared = Comparison(
        eval_examples=100,
        accuracy_float=accuracy + drop,
        accuracy_tflite=accuracy,
        accuracy_drop=drop,
        agreement=1.0,
        rms_difference=0.0,
        max_difference=0.0,
        labels=table,
        slices=Table(columns=("slice", "examples", "float", "tflite"), rows=slices),
    )
    measured = Measured(
        comparison=compared,
        latency=Latency(p50_ms=p50, p95_ms=p95, calls=10),
        arena_bytes=1,
        ops={},
        float_ops=float_ops,
        constants=1,
        inputs=(),
        outputs=(),
    )
    return Made(
        sha256="",
        bytes=size,
        gzip_bytes=gzip,
        ratio=1.0,
        ratio_to_weights=None,
        conversion_seconds=1.0,
        scales_and_shifts_left=0,
        measured=measured,
        kernels=Kernels(sparsity=None, clusters=None, kernels=()),
    )


def row(name: str, *, broken: tuple[Broken, ...] = (), reason: str = "", **numbers: Any) -> Row:
    return Row(name=name, kind="int8", made=None if reason else made(**numbers), reason=reason, broken=broken)


def gates_broken(found: Made, **limits: Any) -> list[str]:
    return [broken.gate for broken in judging.judge(found, Gates(**limits))]


def test_the_accuracy_gate_stands_exactly_at_its_limit() -> None:
    assert gates_broken(made(drop=0.98 - 0.97), max_accuracy_drop=0.01) == [], "0.98 - 0.97 is 0.010000000000000009"
    assert gates_broken(made(drop=0.0101), max_accuracy_drop=0.01) == ["accuracy"]
    assert gates_broken(made(drop=0.0), max_accuracy_drop=-0.01) == ["accuracy"]
    assert gates_broken(made(drop=-0.02), max_accuracy_drop=-0.01) == []


def test_the_size_gate_stands_exactly_at_its_limit() -> None:
    assert gates_broken(made(size=1000), max_bytes=1000) == []
    assert gates_broken(made(size=1000), max_bytes=999) == ["size"]


def test_the_latency_gate_judges_each_percentile_that_has_a_limit() -> None:
    assert gates_broken(made(p50=1.0, p95=9.0), max_latency_ms=MaxLatency(p50=1.0)) == []
    assert gates_broken(made(p50=1.1, p95=1.2), max_latency_ms=MaxLatency(p50=1.0)) == ["latency"]
    broken = judging.judge(made(p50=3.0, p95=4.0), Gates(max_latency_ms=MaxLatency(p50=1.0, p95=2.0)))
    assert [each.reason for each in broken] == [
        "the p50 of 10 calls is 3 ms, at most 1 ms allowed",
        "the p95 of 10 calls is 4 ms, at most 2 ms allowed",
    ]


def test_the_integer_gate_names_what_computes_in_floating_point() -> None:
    assert gates_broken(made(float_ops=("SIN",))) == []
    assert gates_broken(made(), integer_only=True) == []
    inside, edge = (
        judging.judge(made(float_ops=ops), Gates(integer_only=True))[0] for ops in (("SIN",), ("DEQUANTIZE", "QUANTIZE"))
    )
    assert inside.reason.startswith("these ops compute in floating point: SIN;")
    assert "int8_io has integer ones" in edge.reason


def test_the_slice_gate_looks_at_its_slice_alone() -> None:
    found = made(drop=0.0, slices=(("state:1", 20, 0.95, 0.90), ("state:2", 80, 0.9, 0.9)))
    for value, limit, expected in (("1", 0.05, []), ("1", 0.04, ["accuracy"]), ("2", 0.0, [])):
        gate = SliceGate(slice={"state": value}, max_accuracy_drop=limit)
        assert gates_broken(found, slices=(gate,)) == expected
    broken = judging.judge(found, Gates(slices=(SliceGate(slice={"state": "1"}, max_accuracy_drop=0.04),)))
    assert "on the slice state:1 is 0.0500 below the float model's 0.9500 on its 20 examples" in broken[0].reason


ROWS = (
    row("a", size=1000, accuracy=0.97, p50=3.0),
    row("b", size=300, accuracy=0.95, p50=2.0),
    row("c", size=400, accuracy=0.94, p50=1.0),
    row("d", reason="the converter crashed"),
    row("e", size=10, accuracy=0.99, p50=0.1, broken=(Broken(gate="accuracy", reason="too bad"),)),
)


@pytest.mark.parametrize(("rule", "name"), [("smallest", "b"), ("fastest", "c"), ("most_accurate", "a")])
def test_the_rule_chooses_among_those_that_pass(rule: Any, name: str) -> None:
    assert judging.choose(ROWS, rule) == name
    assert judging.refusal(ROWS) is None


def test_equals_go_by_size_and_then_by_their_order() -> None:
    assert judging.choose((row("x", accuracy=0.9, size=20), row("y", accuracy=0.9, size=10)), "most_accurate") == "y"
    assert judging.choose((row("x"), row("y")), "fastest") == "x"


def test_when_none_passes_the_best_is_kept_and_every_reason_is_told() -> None:
    rows = (ROWS[4], ROWS[3], row("f", size=5, broken=(Broken(gate="size", reason="too big"),)))
    assert judging.choose(rows, "smallest") == "f"
    refusal = judging.refusal(rows)
    assert refusal is not None
    assert refusal.gate == "accuracy"
    assert refusal.reasons == ("e: too bad", "f: too big", "d: not made: the converter crashed")
    alone = judging.refusal((ROWS[4],))
    assert alone is not None
    assert alone.reasons == ("too bad",)
