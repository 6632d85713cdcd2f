"""The optimize stage: makes small forms of a model, measures each on the same data, and chooses the one that is shipped.

Inputs: `model`, an exported model with its SavedModel in `Format-Serving/`; `examples`, `Split-<name>/` folders of TFRecords of
raw tf.Examples, whose features the signature takes by name as dense tensors, batch first. For variants that are trained on:
`model_run`, `transformed_examples` and `transform_graph`, as export and train have them; the first and the last one also for a
model whose transform cannot be inside (`source`), the last one for the metadata, too. Outputs: `tflite`, holding
model.tflite, the chosen variant; `report`, holding report.json (a `report.Report`), report.html, the same as a page to
read, `variants/<name>.tflite` for each that could be made, and, of two or more, accuracy_by_size.png. Where the transform is not
inside, it lies beside each .tflite, as the folder `host_transform`.

Sizes are bytes, accuracies and drops fractions, differences in the output's own unit, latencies milliseconds.

The float model, fine-tuning, the converter and the TFLite interpreter run in processes of their own: a crash of one is the
reason of a row. Input that cannot be judged raises TflineError, and so does it when no variant can be made. When some can, but
none passes the gates, the best of them is written, reported, and refused.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.errors import TflineError
from components.layout import HOST_DIR, SERVING_DIR
from components.model import UserModel
from components.records import write_atomically
from components.summary import Outputs, Summary
from components.variants import judging
from components.variants.config import Config, Variant
from components.variants.conversion import NO_FORM
from components.variants.measurement import Measured
from components.variants.metadata import with_metadata
from components.variants.page import render
from components.variants.plot import draw, points
from components.variants.preparation import CONVERTIBLE
from components.variants.report import (
    FineTuned,
    FloatModel,
    Made,
    Report,
    Row,
    batch_norms,
    metrics_of,
    scales_and_shifts_left,
    tables_of,
)
from components.variants.source import Source, batch_of, isolated, prepare
from components.variants.weights import Asked, check_kernels, read_kernels
from serving.errors import ServingError
from serving.manifest import TFLITE_FILE, copy_tree, fsync_folder

INPUTS: Mapping[str, str] = {
    "model": "Model",
    "examples": "Examples",
    "model_run": "ModelRun",
    "transformed_examples": "Examples",
    "transform_graph": "TransformGraph",
}
OUTPUTS: Mapping[str, str] = {"tflite": "TFLiteModel", "report": "OptimizationReport"}
OPTIONAL = ("model_run", "transformed_examples", "transform_graph")
"""Left out where no variant is trained on."""
REPORT = "report"
# The runner keeps a copy of the stage's process, for `run_isolated`.
FORKS = True

FINE_TUNE = "components.variants.tfmot_training:fine_tune"
CONVERT = "components.variants.conversion:convert"
MEASURE = "components.variants.measurement:measure"

_VARIABLE_OPS = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"}

PAGE, PLOT = "report.html", "accuracy_by_size.png"

progress = logging.getLogger("tfline.progress")

__all__ = ["INPUTS", "OUTPUTS", "Config", "optimize", "run", "summarise"]


def optimize(
    inputs: Mapping[str, Path], tflite_file: Path, report_dir: Path, config: Config, user_model: UserModel | None = None
) -> Report:
    """Makes each variant of one signature, measures what it lost on the whole eval split, judges, and chooses.

    Args:
        inputs: Artifact folders by key, as `INPUTS` names them.
        tflite_file: The chosen .tflite; it appears by a rename, after it was measured, whether or not it keeps to the limits.
        report_dir: Where the variants go.
        config: See `Config`.
        user_model: For variants that are trained on.

    Returns:
        The report; `judging.refusal` says whether one passes.

    Raises:
        TflineError: When the model or the examples cannot be read, or no variant can be made.
    """
    with tempfile.TemporaryDirectory(prefix="tfline-optimize-") as folder:
        bench = _Bench(inputs, Path(folder), config, user_model, prepare(inputs, Path(folder), config, user_model))
        rows, files = [], {}
        for variant in config.chosen():
            row, content = bench.row(variant)
            rows.append(row)
            if content:
                files[row.name] = content
            progress.info("%s: %s", row.name, f"{row.made.bytes} bytes" if row.made else "not made")
        if not files:
            reasons = [row.reason if len(rows) == 1 else f"{row.name}: {row.reason}" for row in rows]
            raise TflineError(f"no variant of signature {config.signature!r} could be made: {'; '.join(reasons)}")
        report = _report(inputs["model"] / SERVING_DIR, bench.source, rows, config)
        for beside in (report_dir / "variants" / HOST_DIR, tflite_file.parent / HOST_DIR):
            # Before what needs it.
            if bench.source.apart:
                _publish_folder(Path(folder, HOST_DIR), beside)
            else:
                _remove_folder(beside)
    for name, content in files.items():
        _publish(report_dir / "variants" / f"{name}.tflite", content)
    _publish(tflite_file, files[report.chosen])
    return report


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, user_model: UserModel) -> None:
    """Optimizes the model of the artifact `model` into `tflite`, and writes report.json, the page and the plot into `report`."""
    folder = outputs["report"]
    report = optimize(inputs, outputs["tflite"] / TFLITE_FILE, folder, config, user_model)
    if len(points(report)) > 1:
        draw(report, folder / PLOT)
    write_atomically(folder / PAGE, render(report))
    write_atomically(folder / "report.json", report.model_dump_json(indent=1))


def summarise(outputs: Outputs) -> Summary:
    """Reads report.json of the artifact `report`."""
    folder = Path(outputs["report"][0]).resolve()
    report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    made, compared = report.best, report.best.measured.comparison
    ratio = "" if made.ratio_to_weights is None else f" ({made.ratio:.2f}×)"  # noqa: RUF001
    accuracies = f"{_fraction(compared.accuracy_float)} → {_fraction(compared.accuracy_tflite)}"
    size = f"{_size(made.bytes)}{ratio}, "
    several = len(report.rows) > 1
    return Summary(
        headline=f"{report.chosen} {size}{accuracies}" if several else f"{size}accuracy {accuracies}",
        metrics=metrics_of(made) | {"saved_model_bytes": float(report.float_model.saved_model_bytes)},
        params={
            "variant": report.chosen,
            "variants": ", ".join(row.name for row in report.rows),
            "select": report.select,
            "signature": report.signature,
            "features": report.features,
            **({"why_transformed": report.why_transformed} if report.why_transformed else {}),
            "representative_examples": str(report.representative_examples),
            "sha256": made.sha256,
        },
        tables=tables_of(report),
        files=tuple(str(path) for path in (folder / PAGE, folder / "report.json", folder / PLOT) if path.exists()),
        nested={row.name: metrics_of(row.made) for row in report.rows if row.made} if several else {},
        refusal=judging.refusal(report.rows),
    )


class _Bench:
    """Makes and measures the variants of one model."""

    def __init__(
        self, inputs: Mapping[str, Path], work: Path, config: Config, user_model: UserModel | None, source: Source
    ) -> None:
        self._inputs, self._work, self._config, self._user_model = inputs, work, config, user_model
        self.source = source

    def row(self, variant: Variant) -> tuple[Row, bytes]:
        """Makes, measures and judges one variant; without content when it could not be made, for which the row has the reason."""
        row = Row(
            name=variant.title,
            kind=variant.kind,
            settings=variant.model_dump(mode="json", exclude_defaults=True, exclude={"kind", "name"}),
        )
        try:
            made, content = self._make(variant)
        except (TflineError, ServingError) as error:
            return row.model_copy(update={"reason": str(error)}), b""
        return row.model_copy(update={"made": made, "broken": judging.judge(made, self._config.gates)}), content

    def _make(self, variant: Variant) -> tuple[Made, bytes]:
        source, tuned = self._work / CONVERTIBLE, None
        asked: tuple[Asked, ...] = ()
        if variant.trained:
            source, asked, tuned = self._fine_tune(variant)
        target = self._work / f"{variant.title}.tflite"
        seconds = self._convert(variant, source, target)
        content = target.read_bytes()
        check_kernels(content, asked)
        content = with_metadata(
            content,
            variant,
            self._config,
            output=self.source.prepared.output,
            saved_model=self._inputs["model"] / SERVING_DIR,
            transform_graph=self._inputs.get("transform_graph"),
            apart=self.source.apart,
        )
        # What is measured is what is shipped.
        target.write_bytes(content)
        measured = self._measure(variant, target)
        graphs = self.source.prepared.graphs
        return (
            Made(
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                gzip_bytes=len(gzip.compress(content, mtime=0)),
                ratio=0.0,  # `_report` knows what to
                ratio_to_weights=len(content) / graphs.float_weights_bytes if graphs.float_weights_bytes else None,
                conversion_seconds=seconds,
                scales_and_shifts_left=scales_and_shifts_left(graphs.frozen, measured.ops),
                measured=measured,
                kernels=read_kernels(content),
                fine_tuned=tuned,
            ),
            content,
        )

    def _fine_tune(self, variant: Variant) -> tuple[Path, tuple[Asked, ...], FineTuned]:
        """The SavedModel to convert, what its weights have to be like, and how it came about."""
        missing = [key for key in OPTIONAL if key not in self._inputs]
        if missing or self._user_model is None:
            raise TflineError(
                f"{variant.kind} is fine-tuned from the training's weights; this pipeline has no {', '.join(missing)}"
            )
        target, tuning = self._work / f"{variant.title}-trained", self._config.fine_tune
        arguments = {
            "variant": variant.model_dump(),
            "fine_tune": tuning.model_dump(),
            "user_model": self._user_model.model_dump(),
            **{key: str(self._inputs[key]) for key in OPTIONAL},
            "signature": self._config.signature,
            "batch": batch_of(self._config),
            "takes": list(self.source.prepared.inputs) if self.source.apart else None,
            "target": str(target),
        }
        found = isolated(FINE_TUNE, arguments, tuning.timeout_seconds, "fine-tuning failed")
        return target, tuple(Asked.model_validate(each) for each in found["asked"]), FineTuned.model_validate(found["fine_tuned"])

    def _convert(self, variant: Variant, source: Path, target: Path) -> float:
        """Writes the .tflite; gives the converter's seconds."""
        arguments = {
            "saved_model_dir": str(source),
            "signature": self._config.signature,
            "kind": variant.converted_as,
            "sparse_encoding": variant.sparse_encoding,
            "representative": str(self._work / "representative.npz"),
            "target": str(target),
        }
        what = f"the conversion of signature {self._config.signature!r} to {variant.converted_as} TFLite failed"
        try:
            return float(isolated(CONVERT, arguments, self._config.timeout_seconds, what)["seconds"])
        except TflineError as error:
            raise TflineError(f"{error}{self._hint()}" if NO_FORM in str(error) else str(error)) from error

    def _measure(self, variant: Variant, target: Path) -> Measured:
        arguments = {
            "tflite": str(target),
            "signature": self._config.signature,
            "output": self.source.prepared.output,
            "inputs": self.source.prepared.inputs,
            "slices": self.source.prepared.slices,
            "folder": str(self._work),
            "latency_calls": self._config.latency_calls,
        }
        found = isolated(MEASURE, arguments, self._config.timeout_seconds, "running the .tflite failed")
        measured = Measured.model_validate(found)
        if variables := sorted(set(measured.ops) & _VARIABLE_OPS):
            raise TflineError(f"the .tflite of signature {self._config.signature!r} is not frozen: it has {', '.join(variables)}")
        # OpsSet.TFLITE_BUILTINS_INT8 does not refuse an op without an int8 kernel: the converter leaves it in float.
        if variant.converted_as == "int8_io" and measured.float_ops:
            raise TflineError(
                f"the conversion of signature {self._config.signature!r} to int8 TFLite left ops in floating point: "
                f"{', '.join(measured.float_ops)}; TFLite has no int8 kernel for them here: replace them in the model, or take "
                f"the variant `int8`, with float edges, which may have them{self._hint()}"
            )
        return measured

    def _hint(self) -> str:
        """What else helps where it may be the transform that TFLite has no form for."""
        inside = "transform_graph" in self._inputs and self.source.apart is None
        return "; where the transform has them, set optimize.features: transformed" if inside else ""


def _report(saved_model: Path, source: Source, rows: Sequence[Row], config: Config) -> Report:
    prepared, apart = source
    sizes = {path.relative_to(saved_model): path.stat().st_size for path in saved_model.rglob("*") if path.is_file()}
    total, weights = sum(sizes.values()), prepared.graphs.float_weights_bytes
    made = [row for row in rows if row.made]
    plain = next((row.made.bytes for row in made if row.kind == "float32" and row.made), 0)
    reference = plain or weights or total
    compared = made[0].made.measured.comparison if made[0].made else None
    return Report(
        signature=config.signature,
        output=prepared.output,
        features="transformed" if apart else "raw",
        why_transformed=apart.reason if apart else "",
        float_model=FloatModel(
            saved_model_pb_bytes=sizes[Path("saved_model.pb")],
            variables_bytes=sum(size for path, size in sizes.items() if path.parts[0] == "variables"),
            saved_model_bytes=total,
            reference="float32" if plain else "weights" if weights else "SavedModel",
            reference_bytes=reference,
            graphs=prepared.graphs,
            batch_norms=batch_norms(prepared.graphs.frozen),
            accuracy=compared.accuracy_float if compared else None,
            eval_examples=prepared.eval_examples,
        ),
        rows=tuple(
            row.model_copy(update={"made": row.made.model_copy(update={"ratio": row.made.bytes / reference})})
            if row.made
            else row
            for row in rows
        ),
        chosen=judging.choose(rows, config.select),
        select=config.select,
        gates=config.gates,
        representative_examples=prepared.representative_examples,
        seed=config.seed,
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


def _publish_folder(source: Path, target: Path) -> None:
    """The same of a folder, over one that a run that was killed left there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_folder(target)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    copy_tree(source, staging)
    staging.replace(target)
    fsync_folder(target.parent)


def _remove_folder(target: Path) -> None:
    """Removes what a run that was killed left in this stage's own output."""
    for path in (*target.parent.glob(f".{target.name}.*"), target):
        if path.is_dir():
            shutil.rmtree(path)


def _fraction(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1000:.0f} kB" if count >= 10_000 else f"{count} bytes"
