"""Checks an exported SavedModel before anything is allowed to serve it: the gate "validation" (and "size").

Takes the SavedModel in `<model>/Format-Serving` and the golden examples: held-out serialized examples, the same as arrays, and
what the in-memory model answered for them. Writes `<report>/report.json` (a `Report`). Nine checks:

    size         all files together are within the budget
    parses       saved_model.pb has a graph tagged "serve"
    signatures   exactly the declared ones, with the declared names, dtypes and shapes
    assets       every asset is inside the folder, and no table is filled from any other file
    ops          nothing that a server would run is on the deny-list (`saved_model_checks.DENIED`)
    weights      no optimizer state is stored, unless the config allows it
    loads        a fresh process restores and initialises it
    numeric      each signature answers the golden examples as the in-memory model did, all at once and one alone
    empty_batch  a batch of no examples does not end the process

The model runs in a process of its own, so that one that crashes or hangs is a failed check. A model that fails `assets` or `ops`
is not run at all. A refusal does not raise; a missing SavedModel folder and golden examples that cannot be read do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from components import saved_model_checks as checks
from components.errors import TflineError
from components.isolate import ProcessLost, run_isolated
from components.layout import SERVING_DIR
from components.records import write_atomically
from components.saved_model_answers import Exercise, Golden, Tolerance, Unanswered, in_session, read_golden
from components.saved_model_checks import SignatureConfig, SignatureFound, Unreadable
from components.summary import Outputs, Refusal, Summary, Table

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

INPUTS: Mapping[str, str] = {"model": "Model", "golden": "GoldenExamples"}
OUTPUTS: Mapping[str, str] = {"report": "ValidationReport"}

REPORT = "report"
# The runner keeps a copy of the stage's process, for `run_isolated`: it has TFX imported, which adds no op, and has met no model.
FORKS = True
"""The output whose report makes this stage a gate."""

CHECKS = ("size", "parses", "signatures", "assets", "ops", "weights", "loads", "numeric", "empty_batch")
"""All checks, in the order in which they are made."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Config(_Frozen):
    """What the export has to be.

    Attributes:
        signatures: All signatures by name. One that the export has and this does not is refused: it would be served untested.
        tolerance: For the comparison with the in-memory model.
        max_bytes: Budget for all files of the SavedModel together; None for no budget.
        allowed_ops: Exact names of ops to let pass although they are on the deny-list.
        allow_optimizer: Whether optimizer state may be stored with the weights, which a server loads for nothing. None: only
            where a module's own run_fn saved the model, as TFX's examples do with `model.save`.
        timeout_seconds: For start-up (about 5 s), loading and all answers together.
    """

    signatures: dict[str, SignatureConfig] = Field(min_length=1)
    tolerance: Tolerance = Tolerance()
    max_bytes: int | None = Field(default=None, gt=0)
    allowed_ops: tuple[str, ...] = ()
    allow_optimizer: bool | None = None
    timeout_seconds: float = Field(default=300, gt=0, allow_inf_nan=False)


class Check(_Frozen):
    """One thing that was checked; `detail` says what was expected and what came, or what was measured."""

    name: str
    passed: bool
    detail: str


class Report(_Frozen):
    """What was found out about one export.

    Attributes:
        checks: One of each name in CHECKS, in that order.
        tensorflow_version: That wrote the export.
        signatures: As found, without the init op.
        ops: How often each op occurs in the graph and its functions, the most frequent first.
        variables: How many are stored.
        saved_model_bytes, variables_bytes, assets_bytes, total_bytes: Sizes of saved_model.pb, of the two folders, of everything.
        examples: How many golden examples there were.
        largest_difference: Signature to output to the largest absolute difference from the in-memory model, where both are finite
            numbers.
    """

    checks: tuple[Check, ...] = ()
    tensorflow_version: str = ""
    signatures: dict[str, SignatureFound] = Field(default_factory=dict)
    ops: dict[str, int] = Field(default_factory=dict)
    variables: int = 0
    saved_model_bytes: int = 0
    variables_bytes: int = 0
    assets_bytes: int = 0
    total_bytes: int = 0
    examples: int = 0
    largest_difference: dict[str, dict[str, float]] = Field(default_factory=dict)

    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass; none for a good export."""
        return tuple(check for check in self.checks if not check.passed)


def validate_model(model_dir: Path, golden_dir: Path, config: Config) -> Report:
    """Makes all checks; whatever is wrong with the model is in the report.

    Args:
        model_dir: A TFX Model artifact's folder.
        golden_dir: Holds examples.tfrecord, inputs.npz and outputs.npz.
        config: What the export has to be.

    Raises:
        TflineError: When there is no SavedModel folder, or the golden examples are missing, unreadable or do not go together.
    """
    serving = model_dir / SERVING_DIR
    if not serving.is_dir():
        raise TflineError(
            f"{model_dir} holds no SavedModel: expected it in the folder {SERVING_DIR}, as TFX's Trainer exports it"
        )
    for name in ("examples.tfrecord", "inputs.npz", "outputs.npz"):
        if not (golden_dir / name).is_file():
            raise TflineError(f"{golden_dir / name} is missing; the stage that exports the model writes the golden examples")
    with tempfile.TemporaryDirectory(prefix="tfline-validate-") as folder:
        progress = Path(folder, "report.json")
        arguments = {
            "serving_dir": str(serving.absolute()),
            "golden_dir": str(golden_dir.absolute()),
            "config": config.model_dump(mode="json"),
            "progress": str(progress),
        }
        try:
            found = run_isolated(
                "components.validate_model:examine", arguments, timeout_seconds=config.timeout_seconds, fork=True
            )
            return Report.model_validate(found)
        except ProcessLost as error:
            found = json.loads(progress.read_text(encoding="utf-8")) if progress.exists() else _Progress(serving, config).report
            return _completed(Report.model_validate(found), str(error))


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> None:
    """Validates the artifact `model` with the artifact `golden` and writes report.json into the artifact `report`."""
    report = validate_model(inputs["model"], inputs["golden"], config)
    write_atomically(outputs["report"] / "report.json", report.model_dump_json(indent=1))


def summarise(outputs: Outputs) -> Summary:
    """Describes the stage from its report.json; a failed check is a refusal, of the gate "size" if only that failed."""
    path = Path(outputs["report"][0], "report.json")
    report = Report.model_validate_json(path.read_text(encoding="utf-8"))
    failed = report.failed()
    verdict = f"{len(failed)} of {len(report.checks)} checks failed" if failed else f"{len(report.checks)} checks passed"
    signatures = f"{len(report.signatures)} signature{'' if len(report.signatures) == 1 else 's'}"
    gate = "size" if {check.name for check in failed} == {"size"} else "validation"
    differences = {f"difference.{s}.{o}": value for s, by in report.largest_difference.items() for o, value in by.items()}
    sizes = {
        name: float(getattr(report, name)) for name in ("saved_model_bytes", "variables_bytes", "assets_bytes", "total_bytes")
    }
    rows = tuple((check.name, "passed" if check.passed else "failed", check.detail) for check in report.checks)
    ops = tuple(report.ops.items())
    return Summary(
        headline=f"{verdict}, {signatures}, {_size(report.total_bytes)}",
        metrics={**sizes, "variables": float(report.variables), "checks_failed": float(len(failed)), **differences},
        params={"tensorflow_version": report.tensorflow_version, "signatures": ", ".join(report.signatures)},
        tables={
            "checks": Table(columns=("check", "result", "detail"), rows=rows),
            "ops": Table(columns=("op", "count"), rows=ops),
        },
        files=(str(path.absolute()),),
        refusal=Refusal(gate=gate, reasons=tuple(f"{c.name}: {c.detail}" for c in failed)) if failed else None,
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _completed(report: Report, reason: str) -> Report:
    """The report with the first check that was not finished failed for `reason`, and those behind it as not made."""
    open_checks = [name for name in CHECKS if name not in {check.name for check in report.checks}]
    failed = [Check(name=name, passed=False, detail=reason) for name in open_checks[:1]]
    failed += [Check(name=name, passed=False, detail=f"not made: {open_checks[0]} failed") for name in open_checks[1:]]
    return report.model_copy(update={"checks": (*report.checks, *failed)})


def examine(serving_dir: str, golden_dir: str, config: dict[str, Any], progress: str) -> dict[str, Any]:
    """Makes the checks in this process, the fresh one; after each, the report so far replaces the file `progress`.

    Returns:
        A Report as JSON types.

    Raises:
        TflineError: When the golden examples cannot be read.
    """
    settings = Config.model_validate(config)
    golden = read_golden(Path(golden_dir))
    state = _Progress(Path(serving_dir), settings, Path(progress))
    state.learn(examples=len(golden.examples))
    try:
        meta = checks.read_meta_graph(state.serving)
    except Unreadable as error:
        return _completed(state.report, str(error)).model_dump(mode="json")
    _examine_at_rest(state, meta)
    unsafe = [check.name for check in state.report.failed() if check.name in ("assets", "ops")]
    if unsafe:
        return _completed(state.report, f"not tried: {' and '.join(unsafe)} failed, so nothing of it is run").model_dump(
            mode="json"
        )
    return _examine_running(state, meta, golden).model_dump(mode="json")


class _Progress:
    """The report while it grows; it is on disk after every step, so that a crash leaves what was found before it."""

    def __init__(self, serving: Path, config: Config, path: Path | None = None) -> None:
        self.serving, self.config, self.path = serving, config, path
        sizes = {file.relative_to(serving).parts: file.stat().st_size for file in serving.rglob("*") if file.is_file()}
        total, budget = sum(sizes.values()), config.max_bytes
        self.report = Report(
            total_bytes=total,
            saved_model_bytes=sizes.get(("saved_model.pb",), 0),
            variables_bytes=sum(size for parts, size in sizes.items() if parts[0] == "variables"),
            assets_bytes=sum(size for parts, size in sizes.items() if parts[0] == "assets"),
        )
        over = [f"{total} bytes, {total - budget} over the budget of {budget} bytes"] if budget and total > budget else []
        self.add("size", over, f"{total} bytes, {f'budget {budget} bytes' if budget else 'no budget set'}")

    def add(self, name: str, problems: Iterable[str], otherwise: str) -> None:
        """Adds a check: failed with these problems, or passed with `otherwise` when there are none."""
        found = tuple(problems)
        check = Check(name=name, passed=not found, detail="; ".join(found) or otherwise)
        self.learn(checks=(*self.report.checks, check))

    def learn(self, **found: Any) -> None:
        """Sets fields of the report."""
        self.report = self.report.model_copy(update=found)
        if self.path:
            write_atomically(self.path, self.report.model_dump_json())


def _examine_at_rest(state: _Progress, meta: Any) -> None:
    """The checks from `parses` to `weights`, which run nothing of the model."""
    config, serving, graph = state.config, state.serving, checks.Graph(meta)
    found, version = checks.found_signatures(meta), meta.meta_info_def.tensorflow_version
    state.learn(tensorflow_version=version, signatures=found, ops=graph.histogram())
    state.add("parses", (), f"written by TensorFlow {version}")
    names = sorted(config.signatures.keys() | found.keys())
    problems = [each for name in names for each in checks.signature_problems(name, config.signatures.get(name), found.get(name))]
    state.add("signatures", problems, f"{', '.join(names)} as declared")
    state.add(
        "assets", checks.asset_problems(serving, graph), f"{len(checks.asset_files(meta))} assets, all in the model's folder"
    )
    state.add("ops", checks.op_problems(graph, config.allowed_ops), f"{len(state.report.ops)} kinds of ops, none denied")
    try:
        stored, optimizer = checks.stored_variables(serving, meta), checks.optimizer_variables(meta.object_graph_def)
    except Unreadable as error:
        state.add("weights", [str(error)], "")
        return
    state.learn(variables=len(stored))
    examples = ", ".join(optimizer[:3]) + (", …" if len(optimizer) > 3 else "")
    advice = "export inference weights only, by model.export() or save(..., include_optimizer=False)"
    told = [f"{len(optimizer)} of {len(stored)} variables belong to an optimizer ({examples}): {advice}"] if optimizer else []
    allowed = bool(optimizer and config.allow_optimizer)
    otherwise = f"allowed: {told[0]}" if allowed else f"{len(stored)} variables, none of an optimizer"
    state.add("weights", () if allowed else told, otherwise)


def _examine_running(state: _Progress, meta: Any, golden: Golden) -> Report:
    """The checks `loads`, `numeric` and `empty_batch`, in one session, as TensorFlow Serving loads and runs a SavedModel."""
    import tensorflow as tf

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        try:
            tf.compat.v1.saved_model.load(session, ["serve"], str(state.serving))
        except Exception as error:  # a loader's error is the model's fault, whichever it is
            return _completed(state.report, checks.first_line(error))
        state.add("loads", (), "restored and initialised by a fresh process")
        exercises, problems = [], []
        for name, declared in sorted(state.config.signatures.items()):
            try:
                if list(checks.signature_problems(name, declared, state.report.signatures.get(name))):
                    raise Unanswered("it is not what the config declares")
                exercises.append(Exercise(name, declared, golden, in_session(meta.signature_def[name], session)))
            except Unanswered as error:
                problems.append(f"{name}: not run, {error}")
        for exercise in exercises:
            found, differences = exercise.compare(state.config.tolerance)
            problems += found
            state.learn(largest_difference={**state.report.largest_difference, exercise.name: differences})
        largest = max((value for by in state.report.largest_difference.values() for value in by.values()), default=0.0)
        state.add("numeric", problems, f"largest difference {largest:.3g} over {len(golden.examples)} examples")
        answers = [exercise.try_empty() for exercise in exercises]
        told = "; ".join(text for _, text in answers) or "no signature could be run"
        state.add("empty_batch", [text for good, text in answers if not good], told)
    return state.report
