"""Evaluate: TFMA's metrics over slices, and a blessing against thresholds and against the champion.

Inputs: model, champion, raw examples, schema. Outputs: `evaluation`, as TFX's Evaluator writes it, with report.json beside, and
`blessing`, with the file BLESSED or NOT_BLESSED that TFX's Pusher knows. The work is the stock Evaluator executor's; this stage
gives it a baseline only when there is a champion, and says in words what refused a model. Thresholds apply to the overall slice
unless a slice is named: a bare TFMA threshold would apply to every slice. Without a champion, comparisons with it are left out
(TFX calls that rubber-stamped).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from components.errors import TflineError
from components.examples import records, split_files
from components.layout import SERVING_DIR, load_schema, split_names
from components.records import write_atomically
from components.saved_model_checks import first_line
from components.summary import Refusal, Summary, Table
from components.tfma_results import read_slices, read_verdict

INPUTS: Mapping[str, str] = {"model": "Model", "champion": "Model", "examples": "Examples", "schema": "Schema"}
OUTPUTS: Mapping[str, str] = {"evaluation": "ModelEvaluation", "blessing": "ModelBlessing"}
REPORT = "evaluation"


class Metric(BaseModel):
    """A TFMA metric.

    Attributes:
        kind: Class name in TFMA or Keras, such as SparseCategoricalAccuracy, AUC, MeanSquaredError.
        options: Its constructor's arguments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


class Threshold(BaseModel):
    """What a metric has to reach.

    Attributes:
        metric: Name of a configured metric.
        at_least, at_most: Bounds on its value.
        worse_by: How much worse than the champion's value it may be, in the metric's own unit; 0.0 forbids any loss.
        higher_is_better: Which direction counts as worse.
        slice: Feature to value; empty means the overall slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    worse_by: float | None = Field(default=None, ge=0)
    higher_is_better: bool = True
    slice: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> Threshold:
        if self.at_least is None and self.at_most is None and self.worse_by is None:
            raise ValueError("expected at least one of at_least, at_most, worse_by")
        return self


class Config(BaseModel):
    """What to measure and what to ask of it.

    Attributes:
        label: Feature of the raw examples with the truth.
        signature: The export's signature that takes serialized examples.
        output: Which of its outputs is judged; None when it has one.
        split: The split to measure on.
        metrics: Name to metric.
        slices: Each a list of features to cross; the overall slice is always measured.
        thresholds: At least one: a gate that asks for nothing would bless anything.
        beam_args: Options for Beam; filled in by the pipeline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = "label"
    signature: str = "serving_default"
    output: str | None = None
    split: str = "eval"
    metrics: dict[str, Metric]
    slices: tuple[tuple[str, ...], ...] = ()
    thresholds: tuple[Threshold, ...]
    beam_args: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _asks_for_something_it_measures(self) -> Config:
        # Not Field(min_length=1): pydantic would complain of that, too, when the only threshold has a mistake.
        if not self.thresholds:
            raise ValueError("thresholds: expected at least one, got none")
        for threshold in self.thresholds:
            if threshold.metric not in self.metrics:
                raise ValueError(f"a threshold is on metric '{threshold.metric}', expected one of {', '.join(self.metrics)}")
        return self


class SliceMetrics(BaseModel):
    """The metrics of one slice; `slice` is "overall" or "feature:value", crossed ones joined by a comma."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    slice: str
    candidate: dict[str, float]
    champion: dict[str, float]


class Report(BaseModel):
    """The evaluation in short: every slice's metrics, and what failed, one sentence each."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    blessed: bool
    champion: bool
    slices: tuple[SliceMetrics, ...]
    failures: tuple[str, ...]


def evaluate(inputs: Mapping[str, Path], evaluation: Path, blessing: Path, config: Config) -> Report:
    """Runs TFMA over a split and judges the model.

    Args:
        inputs: Artifact folders by key, as `INPUTS` names them.
        evaluation: Where TFMA's results and report.json go.
        blessing: Where BLESSED or NOT_BLESSED goes.
        config: What to measure.

    Raises:
        TflineError: The configuration names something that is not there, or TFMA measured nothing.
    """
    from tfx.components.evaluator import executor
    from tfx.types import artifact_utils, standard_artifacts
    from tfx.utils import proto_utils

    _check(inputs["model"], inputs["examples"], inputs["schema"], config)
    asked = eval_config(config)
    _check_metrics(asked)
    baseline = (inputs["champion"] / SERVING_DIR).is_dir()
    given: dict[str, list[Any]] = {}
    kinds = {"model": standard_artifacts.Model, "examples": standard_artifacts.Examples, "schema": standard_artifacts.Schema}
    for key, kind in kinds.items():
        given[key] = [kind()]
        given[key][0].uri = str(inputs[key])
    given["examples"][0].split_names = artifact_utils.encode_split_names(split_names(inputs["examples"]))
    if baseline:
        given["baseline_model"] = [standard_artifacts.Model()]
        given["baseline_model"][0].uri = str(inputs["champion"])
    made = {"evaluation": [standard_artifacts.ModelEvaluation()], "blessing": [standard_artifacts.ModelBlessing()]}
    made["evaluation"][0].uri, made["blessing"][0].uri = str(evaluation), str(blessing)
    properties = {"eval_config": proto_utils.proto_to_json(asked), "example_splits": json.dumps([config.split])}
    context = executor.Executor.Context(beam_pipeline_args=list(config.beam_args))
    try:
        executor.Executor(context).Do(given, made, properties)
    except Exception as error:
        if baseline and (reason := _why_unanswered(inputs["champion"], inputs["examples"], config)):
            raise TflineError(
                f"the champion, version {_version(inputs['champion'])}, cannot answer these examples ({reason}): it was made for "
                "other columns; give the pipeline another `name` or `push.model`, or move that version out of the store"
            ) from error
        raise
    report = _report(evaluation, baseline)
    write_atomically(evaluation / "report.json", report.model_dump_json(indent=1))
    return report


def _why_unanswered(champion: Path, examples: Path, config: Config) -> str:
    """What keeps a champion from answering the first examples of the split; "" when it answers. TFMA's error names no model."""
    import tensorflow as tf

    serialized = list(records(split_files(examples, config.split)).take(8).as_numpy_iterator())
    try:
        signature = tf.saved_model.load(str(champion / SERVING_DIR)).signatures[config.signature]
        signature(**dict.fromkeys(signature.structured_input_signature[1], tf.constant(serialized)))
    except Exception as error:  # whatever it is, it is why
        return first_line(error)
    return ""


def _version(champion: Path) -> int:
    return int(json.loads((champion / "champion.json").read_text(encoding="utf-8"))["version"])


def eval_config(config: Config) -> Any:
    """The tfma.EvalConfig that says the same as a Config."""
    from tensorflow_model_analysis.proto import config_pb2

    def model_spec(**named: Any) -> Any:
        spec = config_pb2.ModelSpec(signature_name=config.signature, label_key=config.label, **named)
        if config.output:
            spec.prediction_key = config.output
        return spec

    metrics = []
    for name, metric in config.metrics.items():
        made = config_pb2.MetricConfig(class_name=metric.kind, config=json.dumps({"name": name, **metric.options}))
        for threshold in config.thresholds:
            if threshold.metric == name:
                slicing = config_pb2.SlicingSpec(feature_values=threshold.slice)
                made.per_slice_thresholds.append(
                    config_pb2.PerSliceMetricThreshold(slicing_specs=[slicing], threshold=_threshold(config_pb2, threshold))
                )
        metrics.append(made)
    metrics.append(config_pb2.MetricConfig(class_name="ExampleCount", config=json.dumps({"name": "examples"})))
    named = [config_pb2.SlicingSpec(feature_values=threshold.slice) for threshold in config.thresholds if threshold.slice]
    crossed = [config_pb2.SlicingSpec(feature_keys=list(keys)) for keys in config.slices]
    return config_pb2.EvalConfig(
        model_specs=[model_spec(name="candidate"), model_spec(name="baseline", is_baseline=True)],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
        slicing_specs=[config_pb2.SlicingSpec(), *crossed, *named],
    )


def _threshold(config_pb2: Any, threshold: Threshold) -> Any:
    made = config_pb2.MetricThreshold()
    if threshold.at_least is not None:
        made.value_threshold.lower_bound.value = threshold.at_least
    if threshold.at_most is not None:
        made.value_threshold.upper_bound.value = threshold.at_most
    if threshold.worse_by is not None:
        up = threshold.higher_is_better
        made.change_threshold.direction = (
            config_pb2.MetricDirection.HIGHER_IS_BETTER if up else config_pb2.MetricDirection.LOWER_IS_BETTER
        )
        made.change_threshold.absolute.value = -threshold.worse_by if up else threshold.worse_by
    return made


def _check(model: Path, examples: Path, schema: Path, config: Config) -> None:
    """Refuses names that TFMA would pass over in silence, or answer with an error that does not say where they came from."""
    split_files(examples, config.split)
    known = {feature.name for feature in load_schema(schema).feature}
    sliced = {name for keys in config.slices for name in keys} | {name for limit in config.thresholds for name in limit.slice}
    for key, name in [("label", config.label), *(("slices", name) for name in sorted(sliced))]:
        if name not in known:
            raise TflineError(f"evaluate.{key}: expected a raw feature, got '{name}'; there are: {', '.join(sorted(known))}")
    outputs = _outputs(model / SERVING_DIR, config.signature)
    if config.output not in (outputs if len(outputs) > 1 else [None, *outputs]):
        received = f"got '{config.output}'" if config.output else "got none"
        raise TflineError(f"evaluate.output: expected one of the outputs {', '.join(outputs)} of {config.signature}, {received}")


def _outputs(saved_model: Path, signature: str) -> list[str]:
    from tensorflow.core.protobuf import saved_model_pb2

    file = saved_model / "saved_model.pb"
    signatures = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0].signature_def
    if signature not in signatures:
        known = ", ".join(sorted(name for name in signatures if not name.startswith("__")))
        raise TflineError(f"evaluate.signature: expected one of {known}, got '{signature}'")
    return sorted(signatures[signature].outputs)


def _check_metrics(made: Any) -> None:
    from tensorflow_model_analysis.metrics import metric_specs

    try:
        metric_specs.to_computations(list(made.metrics_specs), eval_config=made)
    except (TypeError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line]
        raise TflineError(f"evaluate.metrics: {lines[-1].removeprefix('Exception encountered: ')}") from error


def _report(evaluation: Path, baseline: bool) -> Report:
    slices = read_slices(evaluation)
    if not slices.get("overall", {}).get("candidate"):
        raise TflineError(f"evaluate: TFMA measured nothing; is the split empty? Results are in {evaluation}")
    blessed, failures = read_verdict(evaluation)
    found = [
        SliceMetrics(slice=name, candidate=entry["candidate"], champion=entry["baseline"])
        for name, entry in sorted(slices.items(), key=lambda item: (item[0] != "overall", item[0]))
    ]
    return Report(blessed=blessed, champion=baseline, slices=tuple(found), failures=tuple(failures))


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> dict[str, dict[str, int]]:
    """The stage as the pipeline calls it; the blessing's property is what TFX's own components look at."""
    report = evaluate(inputs, outputs["evaluation"], outputs["blessing"], config)
    return {"blessing": {"blessed": int(report.blessed)}}


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Metrics overall and by slice; a refusal when the model is not blessed."""
    report = Report.model_validate(json.loads(Path(outputs["evaluation"][0], "report.json").read_text(encoding="utf-8")))
    overall = report.slices[0]
    names = sorted(overall.candidate)
    first = next((name for name in names if name != "examples"), names[0])
    beside = f" (champion {overall.champion[first]:.4f})" if first in overall.champion else ""
    columns = ("slice", *names, *(f"champion {name}" for name in names if report.champion))
    rows = tuple(
        (
            entry.slice,
            *(entry.candidate.get(name) for name in names),
            *(entry.champion.get(name) for name in names if report.champion),
        )
        for entry in report.slices
    )
    return Summary(
        headline=f"{first} {overall.candidate[first]:.4f}{beside}",
        metrics={**overall.candidate, **{f"champion_{name}": value for name, value in overall.champion.items()}},
        params={"blessed": str(report.blessed), "compared_with_champion": str(report.champion)},
        tables={"slices": Table(columns=columns, rows=rows)},
        refusal=None if report.blessed else Refusal(gate="evaluation", reasons=report.failures),
    )
