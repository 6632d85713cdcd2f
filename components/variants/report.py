"""What the optimize stage found: one row a variant, made or not, and the float model that all are judged against."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.summary import Table
from components.variants.config import Gates, Select
from components.variants.graph_counts import GraphCounts
from components.variants.measurement import Measured
from components.variants.weights import Kernels

_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_SCALES_AND_SHIFTS = ("Mul", "Add", "AddV2", "Sub", "RealDiv", "MUL", "ADD", "SUB", "DIV")


class FineTuned(BaseModel):
    """How a variant was trained on: each technique's epochs in their order, and the layers that a technique left as they are.

    Attributes:
        losses: Technique to the training loss of each epoch.
        left_out: Technique to "layer (class)" of those that it does not know, or was told to leave.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    seconds: float
    learning_rate: float
    strategy: str
    replicas: int
    losses: dict[str, tuple[float, ...]]
    left_out: dict[str, tuple[str, ...]]


class Made(BaseModel):
    """A variant that could be made.

    Attributes:
        ratio: Its bytes against `FloatModel.reference_bytes`.
        ratio_to_weights: Its bytes against the float variables that the signature reads; None for a model without.
        conversion_seconds: Of the converter alone.
        scales_and_shifts_left: MUL, ADD, SUB and DIV of the .tflite beyond those of the frozen graph, at most two a batch norm.
            TFLite has no batch norm op: one that was not folded into the weights before it becomes a MUL and an ADD; 0 says
            that all were folded.
        kernels: Zeros and clusters, as they are in the file.
        fine_tuned: None for a variant made after training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int
    gzip_bytes: int
    ratio: float
    ratio_to_weights: float | None
    conversion_seconds: float
    scales_and_shifts_left: int
    measured: Measured
    kernels: Kernels
    fine_tuned: FineTuned | None = None


class Broken(BaseModel):
    """A gate that a variant does not pass: "accuracy", "size", "latency" or "integer", and why, in a sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Literal["accuracy", "size", "latency", "integer"]
    reason: str


class Row(BaseModel):
    """One variant.

    Attributes:
        settings: What the configuration says of it beyond its kind.
        made: None for one that could not be.
        reason: Why it could not be made, "" otherwise.
        broken: The gates that it does not pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    settings: dict[str, Any] = {}
    made: Made | None = None
    reason: str = ""
    broken: tuple[Broken, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it can be shipped."""
        return self.made is not None and not self.broken


class FloatModel(BaseModel):
    """What the variants are compared with.

    Attributes:
        saved_model_bytes: All files of the SavedModel, of which saved_model_pb_bytes and variables_bytes.
        reference: What `ratio` is a ratio to: the "float32" variant when there is one, else the float "weights", or the
            "SavedModel" of a model without variables.
        graphs: Its signature as it is, frozen, and optimised.
        batch_norms: FusedBatchNorm ops of the frozen graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    saved_model_pb_bytes: int
    variables_bytes: int
    saved_model_bytes: int
    reference: Literal["float32", "weights", "SavedModel"]
    reference_bytes: int
    graphs: GraphCounts
    batch_norms: int
    accuracy: float | None
    eval_examples: int


class Report(BaseModel):
    """All of it.

    Attributes:
        chosen: The variant that `tflite` holds: the best that passes by the rule, or, when none passes, the best there is.
        output: The output that was compared.
        features: What the files take; see `Config.features`.
        why_transformed: Why the transform is not inside; "" when it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    signature: str
    output: str
    features: Literal["raw", "transformed"] = "raw"
    why_transformed: str = ""
    float_model: FloatModel
    rows: tuple[Row, ...]
    chosen: str
    select: Select
    gates: Gates
    representative_examples: int
    seed: int

    def row(self, name: str) -> Row:
        """The row of a name; KeyError when there is none."""
        return {row.name: row for row in self.rows}[name]

    @property
    def best(self) -> Made:
        """What the chosen row has."""
        made = self.row(self.chosen).made
        if made is None:
            raise KeyError(self.chosen)
        return made


def batch_norms(ops: dict[str, int]) -> int:
    """How many of some ops are batch normalizations."""
    return sum(ops.get(op, 0) for op in _BATCH_NORMS)


def scales_and_shifts_left(frozen: dict[str, int], tflite: dict[str, int]) -> int:
    """See `Made`."""
    before, after = (sum(ops.get(op, 0) for op in _SCALES_AND_SHIFTS) for ops in (frozen, tflite))
    return min(max(0, after - before), 2 * batch_norms(frozen))


def metrics_of(made: Made) -> dict[str, float]:
    """A variant's numbers by name."""
    compared, latency = made.measured.comparison, made.measured.latency
    found = {
        "tflite_bytes": made.bytes,
        "tflite_gzip_bytes": made.gzip_bytes,
        "ratio": made.ratio,
        "ratio_to_weights": made.ratio_to_weights,
        "conversion_seconds": made.conversion_seconds,
        "latency_p50_ms": latency.p50_ms,
        "latency_p95_ms": latency.p95_ms,
        "arena_bytes": made.measured.arena_bytes,
        "ops": sum(made.measured.ops.values()),
        "float_ops": len(made.measured.float_ops),
        "sparsity": made.kernels.sparsity,
        "fine_tune_seconds": made.fine_tuned.seconds if made.fine_tuned else None,
        **compared.model_dump(exclude={"labels", "slices"}),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def tables_of(report: Report) -> dict[str, Table]:
    """The variants side by side; of the chosen one its graphs, slices, labels and edges."""
    made = report.best
    measured, graphs = made.measured, report.float_model.graphs
    stages = (graphs.saved_model, graphs.frozen, graphs.optimised, measured.ops)
    edges = [
        (kind, *edge.model_dump().values())
        for kind, found in (("input", measured.inputs), ("output", measured.outputs))
        for edge in found
    ]
    return {
        "variants": _variants(report),
        "graphs": Table(
            columns=("op", "saved_model", "frozen", "optimised", "tflite"),
            rows=(
                ("(ops)", *(sum(ops.values()) for ops in stages)),
                ("(constants)", *(ops.get("Const", 0) for ops in stages[:-1]), measured.constants),
                ("(variables)", graphs.variables, 0, 0, 0),
                ("(variable reads)", graphs.reads, graphs.frozen_reads, graphs.optimised_reads, 0),
                *((op, *(ops.get(op, 0) for ops in stages)) for op in sorted({op for ops in stages for op in ops})),
            ),
        ),
        "labels": measured.comparison.labels,
        **({"slices": measured.comparison.slices} if measured.comparison.slices.rows else {}),
        "edges": Table(
            columns=("edge", "name", "shape", "dtype", "scale", "zero_point"),
            rows=tuple((kind, name, "x".join(map(str, shape)), *rest) for kind, name, shape, *rest in edges),
        ),
    }


VARIANT_COLUMNS = (
    "variant", "bytes", "gzip", "ratio", "accuracy", "drop", "agreement", "rms", "max", "p50_ms", "p95_ms", "arena", "ops",
    "sparsity", "clusters", "result",
)  # fmt: skip


def _variants(report: Report) -> Table:
    return Table(columns=VARIANT_COLUMNS, rows=tuple(_cells(row, report.chosen) for row in report.rows))


def _cells(row: Row, chosen: str) -> tuple[Any, ...]:
    if row.made is None:
        return (row.name, *[None] * (len(VARIANT_COLUMNS) - 2), f"not made: {row.reason}")
    made, compared, latency = row.made, row.made.measured.comparison, row.made.measured.latency
    refused = f"refused: {'; '.join(broken.reason for broken in row.broken)}"
    result = refused if row.broken else "chosen" if row.name == chosen else "passes"
    return (
        row.name,
        made.bytes,
        made.gzip_bytes,
        made.ratio,
        compared.accuracy_tflite,
        compared.accuracy_drop,
        compared.agreement,
        compared.rms_difference,
        compared.max_difference,
        latency.p50_ms,
        latency.p95_ms,
        made.measured.arena_bytes,
        sum(made.measured.ops.values()),
        made.kernels.sparsity,
        made.kernels.clusters,
        result,
    )
