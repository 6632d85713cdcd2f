"""The quantize stage: a full-integer int8 TFLite file out of a SavedModel's dense signature, judged against the float model.

Inputs: `model`, an exported model with its SavedModel in `Format-Serving/`; `examples`, `Split-<name>/` folders of TFRecords of
raw tf.Examples, whose features the signature takes by name as dense tensors, batch first.
Outputs: `tflite`, holding model.tflite (weights and activations int8, the SavedModel's signature kept by key and names);
`report`, holding report.json, a `Report`. Sizes are bytes, accuracies and drops fractions, differences in the output's own unit.

The float model and the converter run in processes of their own (`components.tflite_convert`): a crash of the converter is an
error of this stage. Input that cannot be judged, an op that would stay in floating point and a failed conversion raise
TflineError and leave no file; a model that lost too much accuracy or is too large is written, reported, and refused.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components import tflite_evaluate
from components.errors import TflineError
from components.isolate import IsolatedError, run_isolated
from components.records import write_atomically
from components.summary import Outputs, Refusal, Summary, Table
from components.tflite_convert import Converted, Prepared
from components.tflite_evaluate import Comparison, Edge

INPUTS: Mapping[str, str] = {"model": "Model", "examples": "Examples"}
OUTPUTS: Mapping[str, str] = {"tflite": "TFLiteModel", "report": "QuantizationReport"}
REPORT = "report"
# The runner keeps a copy of the stage's process, for `run_isolated`.
FORKS = True

PREPARE = "components.tflite_convert:prepare"
CONVERT = "components.tflite_convert:convert"

_VARIABLE_OPS = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}
_BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_SCALES_AND_SHIFTS = ("Mul", "Add", "AddV2", "Sub", "RealDiv", "MUL", "ADD", "SUB", "DIV")


class Config(BaseModel):
    """How a model is quantized, and what it may cost.

    Attributes:
        signature: Key of the signature that takes dense tensors; one that parses tf.Examples converts to a file that fails.
        output: The signature's output that is compared with the label; None when it has one.
        label: Feature with the true class, one number an example, from 0.
        metric: "accuracy": argmax of an output with several values, above 0.5 for one with a single value.
        train_split: Where the representative dataset is drawn from.
        eval_split: What both models are evaluated on, all of it.
        representative_examples: Drawn evenly over the whole training split; fewer when the split has fewer.
        seed: Of that draw.
        edges: "integer": int8 inputs and outputs, for devices without floating point; "float": float32 ones, quantized inside.
        batch: "one": a call takes one example, what devices do, and the only form XNNPACK runs whole (an open batch leaves
            SHAPE, STRIDED_SLICE and PACK before a reshape, and LSTMs do not convert); "any": the dimension stays open.
        max_accuracy_drop: Largest loss of accuracy against the float model, as a fraction (0.01 is one point).
        max_bytes: Largest size of the .tflite; None for any.
        batch_size: Examples a call while evaluating; bounds the memory.
        timeout_seconds: For each of the two processes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    signature: str = Field(default="dense", min_length=1)
    output: str | None = None
    label: str = Field(default="label", min_length=1)
    metric: Literal["accuracy"] = "accuracy"
    train_split: str = Field(default="train", pattern=r"^[A-Za-z0-9_-]+$")
    eval_split: str = Field(default="eval", pattern=r"^[A-Za-z0-9_-]+$")
    representative_examples: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0)
    edges: Literal["integer", "float"] = "integer"
    batch: Literal["one", "any"] = "one"
    max_accuracy_drop: float = Field(default=0.01, allow_inf_nan=False)
    max_bytes: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=256, ge=1)
    timeout_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)


class Report(BaseModel):
    """What quantization did and cost.

    Attributes:
        output: The output that was compared.
        saved_model_bytes: All files of the SavedModel, of which saved_model_pb_bytes and variables_bytes.
        ratio_to_weights: .tflite against the float variables that the signature reads (`conversion.float_weights_bytes`); None
            for a model that was exported with constants in their place.
        ratio_to_saved_model: .tflite against the whole SavedModel.
        batch_norms_before, batch_norms_frozen: FusedBatchNorm ops of the concrete function and of the frozen graph.
        scales_and_shifts_left: MUL, ADD, SUB and DIV of the .tflite beyond those of the frozen graph, at most two a batch norm.
            TFLite has no batch norm op: one that was not folded into the weights before it becomes a MUL and an ADD; 0 says
            that all were folded.
        conversion: Ops before and after freezing, variable reads (0 when frozen), seconds.
        ops_after: The .tflite's ops by the schema's names; none of them reads a variable.
        comparison: Accuracy of both, agreement, differences, per label.
        max_accuracy_drop, max_bytes: The limits it is judged by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Literal["int8"] = "int8"
    signature: str
    output: str
    edges: Literal["integer", "float"]
    sha256: str
    tflite_bytes: int
    tflite_gzip_bytes: int
    saved_model_pb_bytes: int
    variables_bytes: int
    saved_model_bytes: int
    ratio_to_weights: float | None
    ratio_to_saved_model: float
    batch_norms_before: int
    batch_norms_frozen: int
    scales_and_shifts_left: int
    conversion: Converted
    ops_after: dict[str, int]
    comparison: Comparison
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    representative_examples: int
    seed: int
    max_accuracy_drop: float
    max_bytes: int | None


def quantize(saved_model_dir: Path, examples_dir: Path, output_file: Path, config: Config) -> Report:
    """Converts one signature to int8 TFLite and measures what it lost on the whole eval split.

    Args:
        saved_model_dir: The SavedModel.
        examples_dir: Holds the `Split-<name>/` folders.
        output_file: The .tflite; it appears by a rename, after it was evaluated, whether or not it keeps to the limits.
        config: See `Config`.

    Returns:
        The report; `refusal` says whether it keeps to the limits.

    Raises:
        TflineError: When the model or the examples cannot be read, when the conversion fails or crashes or leaves
            floating-point ops, when the file cannot be compared with the float model.
    """
    with tempfile.TemporaryDirectory(prefix="tfline-quantize-") as work:
        prepared = _prepare(saved_model_dir, examples_dir, work, config)
        converted, content = _convert(saved_model_dir, Path(work), config)
        runner = tflite_evaluate.TFLiteRunner(content, config.signature, prepared.inputs)
        batches = [Path(work, f"eval-{index:05d}.npz") for index in range(prepared.batches)]
        comparison = tflite_evaluate.compare(runner, prepared.output, batches, prepared.inputs)
    _publish(output_file, content)
    return _report(saved_model_dir, content, prepared, converted, runner, comparison, config)


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> None:
    """Quantizes the model of the artifact `model` into `tflite`, and writes report.json into `report`."""
    report = quantize(inputs["model"] / "Format-Serving", inputs["examples"], outputs["tflite"] / "model.tflite", config)
    write_atomically(outputs["report"] / "report.json", report.model_dump_json(indent=1))


def summarise(outputs: Outputs) -> Summary:
    """Reads report.json of the artifact `report`."""
    path = Path(outputs["report"][0], "report.json")
    report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    compared = report.comparison
    accuracies = f"{_fraction(compared.accuracy_float)} → {_fraction(compared.accuracy_tflite)}"
    ratio = "" if report.ratio_to_weights is None else f" ({report.ratio_to_weights:.2f}×)"  # noqa: RUF001
    measured = compared.model_dump(exclude={"labels"}) | report.model_dump(
        include={"tflite_bytes", "tflite_gzip_bytes", "saved_model_bytes", "ratio_to_weights", "ratio_to_saved_model"}
    )
    return Summary(
        headline=f"{_size(report.tflite_bytes)}{ratio}, accuracy {accuracies}",
        metrics={name: float(value) for name, value in measured.items() if value is not None}
        | {"conversion_seconds": report.conversion.seconds},
        params={
            "variant": report.variant,
            "edges": report.edges,
            "signature": report.signature,
            "representative_examples": str(report.representative_examples),
            "sha256": report.sha256,
        },
        tables=_tables(report),
        files=(str(path.resolve()),),
        refusal=refusal(report),
    )


def refusal(report: Report) -> Refusal | None:
    """What the gates "accuracy" and "size" have against a report; one refusal with all reasons, named after the first."""
    reasons = {}
    compared = report.comparison
    # Drops are differences of counts over n: a limit of 0.01 must let exactly one in a hundred pass.
    if compared.accuracy_drop > report.max_accuracy_drop + 1e-9:
        reasons["accuracy"] = (
            f"int8 accuracy {compared.accuracy_tflite:.4f} is {compared.accuracy_drop:.4f} below the float model's "
            f"{compared.accuracy_float:.4f} on {compared.eval_examples} examples; the limit is {report.max_accuracy_drop:g}"
        )
    if report.max_bytes is not None and report.tflite_bytes > report.max_bytes:
        over = report.tflite_bytes - report.max_bytes
        reasons["size"] = f"the .tflite has {report.tflite_bytes} bytes, {over} more than the limit of {report.max_bytes}"
    return Refusal(gate=next(iter(reasons)), reasons=tuple(reasons.values())) if reasons else None


def _prepare(saved_model_dir: Path, examples_dir: Path, work: str, config: Config) -> Prepared:
    arguments = config.model_dump(
        include={"signature", "output", "label", "train_split", "eval_split", "representative_examples", "seed", "batch_size"}
    ) | {"saved_model_dir": str(saved_model_dir), "examples_dir": str(examples_dir), "folder": work}
    try:
        return Prepared.model_validate(run_isolated(PREPARE, arguments, timeout_seconds=config.timeout_seconds, fork=True))
    except IsolatedError as error:
        raise TflineError(f"reading the examples and running the float model failed: {error}") from error


def _convert(saved_model_dir: Path, work: Path, config: Config) -> tuple[Converted, bytes]:
    target = work / "model.tflite"
    arguments: dict[str, Any] = {
        "saved_model_dir": str(saved_model_dir),
        "signature": config.signature,
        "edges": config.edges,
        "batch": 1 if config.batch == "one" else None,
        "representative": str(work / "representative.npz"),
        "target": str(target),
    }
    try:
        converted = Converted.model_validate(run_isolated(CONVERT, arguments, timeout_seconds=config.timeout_seconds, fork=True))
    except IsolatedError as error:
        raise TflineError(f"the conversion of signature {config.signature!r} to int8 TFLite failed: {error}") from error
    content = target.read_bytes()
    if variables := sorted(set(tflite_evaluate.list_ops(content)) & _VARIABLE_OPS):
        raise TflineError(f"the .tflite of signature {config.signature!r} is not frozen: it has {', '.join(variables)}")
    found = tflite_evaluate.float_ops(content)
    if config.edges == "float":
        # An integer input becomes a float one by a CAST at the edge; the rest of a float edge is quantizing and dequantizing.
        found = sorted(set(found) - {"QUANTIZE", "DEQUANTIZE", "CAST"})
    if found:
        raise TflineError(
            f"the conversion of signature {config.signature!r} to int8 TFLite left ops in floating point: "
            f"{', '.join(found)}; TFLite has no int8 kernel for them here: replace them in the model, or move them out of the "
            "dense signature" + ("; for an integer input that is cast, set `edges: float`" if found == ["CAST"] else "")
        )
    return converted, content


def _report(
    saved_model_dir: Path,
    content: bytes,
    prepared: Prepared,
    converted: Converted,
    runner: tflite_evaluate.TFLiteRunner,
    comparison: Comparison,
    config: Config,
) -> Report:
    sizes = {path.relative_to(saved_model_dir): path.stat().st_size for path in saved_model_dir.rglob("*") if path.is_file()}
    after = tflite_evaluate.list_ops(content)
    norms = sum(converted.ops_frozen.get(op, 0) for op in _BATCH_NORMS)
    arithmetic = [sum(ops.get(op, 0) for op in _SCALES_AND_SHIFTS) for ops in (converted.ops_frozen, after)]
    return Report(
        signature=config.signature,
        output=prepared.output,
        edges=config.edges,
        sha256=hashlib.sha256(content).hexdigest(),
        tflite_bytes=len(content),
        tflite_gzip_bytes=len(gzip.compress(content, mtime=0)),
        saved_model_pb_bytes=sizes[Path("saved_model.pb")],
        variables_bytes=sum(size for path, size in sizes.items() if path.parts[0] == "variables"),
        saved_model_bytes=sum(sizes.values()),
        ratio_to_weights=len(content) / converted.float_weights_bytes if converted.float_weights_bytes else None,
        ratio_to_saved_model=len(content) / sum(sizes.values()),
        batch_norms_before=sum(converted.ops_before.get(op, 0) for op in _BATCH_NORMS),
        batch_norms_frozen=norms,
        scales_and_shifts_left=min(max(0, arithmetic[1] - arithmetic[0]), 2 * norms),
        conversion=converted,
        ops_after=after,
        comparison=comparison,
        inputs=tuple(runner.inputs.values()),
        outputs=tuple(runner.outputs.values()),
        representative_examples=prepared.representative_examples,
        seed=config.seed,
        max_accuracy_drop=config.max_accuracy_drop,
        max_bytes=config.max_bytes,
    )


def _publish(target: Path, content: bytes) -> None:
    """Writes a file beside the target and renames it: a reader sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    with staging.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(target)


def _tables(report: Report) -> dict[str, Table]:
    compared, before, frozen, after = (
        report.comparison,
        report.conversion.ops_before,
        report.conversion.ops_frozen,
        report.ops_after,
    )
    figures = {
        "variant": report.variant,
        "bytes": report.tflite_bytes,
        "gzip": report.tflite_gzip_bytes,
        "ratio": report.ratio_to_weights,
        "accuracy": compared.accuracy_tflite,
        "drop": compared.accuracy_drop,
        "agreement": compared.agreement,
        "rms": compared.rms_difference,
        "max": compared.max_difference,
    }
    edges = [
        (kind, *edge.model_dump().values())
        for kind, found in (("input", report.inputs), ("output", report.outputs))
        for edge in found
    ]
    return {
        "tflite": Table(columns=tuple(figures), rows=(tuple(figures.values()),)),
        "ops": Table(
            columns=("op", "before", "frozen", "after"),
            rows=tuple((op, before.get(op, 0), frozen.get(op, 0), after.get(op, 0)) for op in sorted({*before, *frozen, *after})),
        ),
        "labels": compared.labels,
        "edges": Table(
            columns=("edge", "name", "shape", "dtype", "scale", "zero_point"),
            rows=tuple((kind, name, "x".join(map(str, shape)), *rest) for kind, name, shape, *rest in edges),
        ),
    }


def _fraction(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1000:.0f} kB" if count >= 10_000 else f"{count} bytes"
