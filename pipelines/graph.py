"""The graph: which stages there are and what flows between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components import champion, push
from components.code import bundle, names_of, stage_digest
from components.errors import UsageError
from components.model import UserModel
from pipelines.config import PipelineConfig, curated_schema
from pipelines.contradictions import refuse_contradictions

STAGES = (
    "ingest",
    "statistics",
    "schema",
    "validate-data",
    "transform",
    "train",
    "export",
    "trainer",
    "golden",
    "validate-model",
    "champion",
    "evaluate",
    "optimize",
    "infra-validate",
    "push",
)
"""Every stage in the order of the graph; a stage's name is its TFX node id, its module `components.<name with underscores>`.
`stages_of` says which of them a pipeline has."""


@dataclass(frozen=True)
class UserCode:
    """The user's code as it travels: the model's module and the one with the preprocessing, each with what it imports.

    Attributes:
        model, preprocessing: The bundles.
        trains_itself: Whether the model's module was written for TFX: it has a `run_fn`.
        transforms: Whether there is a `preprocessing_fn`.
    """

    model: str
    preprocessing: str
    trains_itself: bool = False
    transforms: bool = True

    @classmethod
    def of(cls, folder: Path, config: PipelineConfig) -> UserCode:
        """Packs the code of a pipeline's folder.

        Raises:
            UsageError: A module is missing, does not parse, or has neither `build_model` nor `run_fn`; or the configuration says
                something that this module has no use for, or asks for a split that there is not.
        """
        module = folder / config.model.module
        preprocessing = folder / (config.model.preprocessing or config.model.module)
        packed = bundle(module), bundle(preprocessing)
        names = names_of(module)
        if not names & {"build_model", "run_fn", "*"}:
            raise UsageError(
                f"{module}: expected a function build_model(inputs, config), or run_fn(fn_args) of a module written for TFX; "
                f"found {', '.join(sorted(names)) or 'nothing'}"
            )
        refuse_contradictions(config, trains_itself="run_fn" in names)
        return cls(*packed, trains_itself="run_fn" in names, transforms=bool(names_of(preprocessing) & {"preprocessing_fn", "*"}))


def stages_of(config: PipelineConfig, code: UserCode) -> tuple[str, ...]:
    """The stages that a pipeline has, in the order of the graph.

    A module with `run_fn` trains and exports by itself, in TFX's Trainer; without `preprocessing_fn` it gets the raw examples.
    """
    left_out = {"train", "export"} if code.trains_itself else {"trainer", "golden"}
    if code.trains_itself and not code.transforms:
        left_out.add("transform")
    if config.optimize is None:
        left_out.add("optimize")
    if config.infra_validate is None:
        left_out.add("infra-validate")
    return tuple(stage for stage in STAGES if stage not in left_out)


def module_of(stage: str) -> str:
    """The dotted name of a stage's module."""
    return f"components.{stage.replace('-', '_')}"


def code_digests(code: UserCode) -> dict[str, str]:
    """SHA-256 (hex) of all the code that each stage depends on, ours and the user's."""
    digests = {stage: stage_digest(module_of(stage)) for stage in STAGES}
    for stage in ("transform", "train", "export", "trainer", "optimize"):
        own = code.preprocessing if stage == "transform" else code.model
        digests[stage] = hashlib.sha256((digests[stage] + own).encode()).hexdigest()
    return digests


def looking_outside(config: PipelineConfig) -> dict[str, BaseModel]:
    """The stages whose result depends on more than their inputs (their modules have a `resolve`), each with its configuration."""
    store, name = config.push.store, str(config.push.model)
    return {
        "champion": champion.Config(store=store, model=name),
        **({"infra-validate": config.infra_validate} if config.infra_validate else {}),
        "push": push.Config(store=store, tflite_store=config.push.tflite_store, model=name, fleet=config.push.fleet),
    }


def create_pipeline(config: PipelineConfig, folder: Path, home: Path, code: UserCode) -> Any:
    """Makes the TFX pipeline of a configuration.

    Args:
        config: The configuration, paths resolved.
        folder: The pipeline's folder; only its curated schema is read, and travels by content.
        home: Where MLMD's SQLite file and the artifacts go when it runs locally.
        code: The user's code.

    Returns:
        A tfx Pipeline, for the local runner or for KubeflowV2DagRunner.
    """
    from tfx.orchestration import metadata, pipeline

    from components import ingest, schema, statistics
    from components.tfx_stage import make_component

    outside = looking_outside(config)
    ingested = ingest.component(config.ingest)
    raw = ingested.outputs["examples"]
    counted = statistics.component(raw)
    described = make_component(
        "schema", schema.Config(curated=curated_schema(folder, config)), {"statistics": counted.outputs["statistics"]}
    )
    data = {"examples": raw, "schema": described.outputs["schema"], "statistics": counted.outputs["statistics"]}
    checked = make_component("validate_data", config.validate_data, {key: data[key] for key in ("statistics", "schema")})
    made, model, golden, trained = _trained(config, code, data, checked)
    # What a run_fn saved may hold its optimizer's state; only our own export is known not to need it.
    allow = config.validate_model.allow_optimizer
    rules = config.validate_model.model_copy(update={"allow_optimizer": code.trains_itself if allow is None else allow})
    validated = make_component("validate_model", rules, {"model": model, "golden": golden})
    best = make_component("champion", outside["champion"], {"model": model})
    judged = {"model": model, "champion": best.outputs["champion"]}
    evaluated = make_component("evaluate", config.evaluate, {**judged, "examples": raw, "schema": data["schema"]})
    gates = {"validation": validated.outputs["report"], "evaluation": evaluated.outputs["evaluation"]}
    after = [evaluated]
    if config.optimize is not None:
        user_model = UserModel(config=config.model, code=code.model)
        optimized = make_component("optimize", config.optimize, {"model": model, "examples": raw, **trained}, user_model)
        gates |= {"optimization": optimized.outputs["report"], "tflite": optimized.outputs["tflite"]}
        after.append(optimized)
    if config.infra_validate is not None:
        tried = make_component("infra_validate", config.infra_validate, {"model": model, "golden": golden})
        gates["infra"] = tried.outputs["blessing"]
        if config.infra_validate.max_latency_ms.judged:
            # A server is slower beside a stage that computes.
            for component in after:
                tried.add_upstream_node(component)
        after.append(tried)
    # What cannot be served is not worth measuring.
    for component in after:
        component.add_upstream_node(validated)
    pushed = make_component("push", outside["push"], {**judged, **gates, **({"golden": golden} if config.push.fleet else {})})
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(home / "artifacts" / config.name),
        components=[ingested, counted, described, checked, *made, validated, best, *after, pushed],
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(home / "metadata.db")),
        beam_pipeline_args=list(config.runner.beam_args),
        enable_cache=True,
    )


def _trained(
    config: PipelineConfig, code: UserCode, data: Mapping[str, Any], checked: Any
) -> tuple[list[Any], Any, Any, dict[str, Any]]:
    """The stages between the data gate and the gates of the model.

    Returns:
        The stages; the channels of the model and of its golden examples; those that `optimize` has beside them.
    """
    from components import golden, trainer, transform
    from components.tfx_stage import make_component

    module, made, examples, graph = config.model.module, [], data["examples"], {}
    if code.transforms or not code.trains_itself:
        transformed = transform.component(
            data["examples"],
            data["schema"],
            code=code.preprocessing,
            module=config.model.preprocessing or module,
            analyze_split=config.run_fn.train_split if code.trains_itself else config.train.train_split,
            splits=list(config.ingest.splits),
            custom_config=config.run_fn.custom_config,
        )
        made, examples = [transformed], transformed.outputs["transformed_examples"]
        graph = {"transform_graph": transformed.outputs["transform_graph"]}
    if code.trains_itself:
        inputs = {"examples": examples, "schema": data["schema"], "statistics": data["statistics"], **graph}
        trained = trainer.component(inputs, config.run_fn, code=code.model, module=module, keras=keras_of(config, code))
        model = trained.outputs["model"]
        rules = golden.Config(**{**config.golden.model_dump(), "label": config.model.label})
        answered = make_component("golden", rules, {"model": model, "examples": data["examples"], "schema": data["schema"]})
    else:
        user_model = UserModel(config=config.model, code=code.model)
        trained = make_component("train", config.train, {"examples": examples, **graph}, user_model)
        weights = {"model_run": trained.outputs["model_run"], **graph, "examples": data["examples"]}
        answered = make_component("export", config.export, weights, user_model)
        model = answered.outputs["model"]
    # The data gate has no output that these read, yet nothing may be computed from data that it refuses.
    (made[0] if made else trained).add_upstream_node(checked)
    tuned = {} if code.trains_itself else dict(graph)
    if config.optimize is not None and not code.trains_itself:
        # The model is put together again to be trained on, or to be without its transform.
        if config.optimize.trains or config.optimize.features != "raw":
            tuned["model_run"] = trained.outputs["model_run"]
        if config.optimize.trains:
            tuned["transformed_examples"] = examples
    return [*made, trained, answered], model, answered.outputs["golden"], tuned


def keras_of(config: PipelineConfig, code: UserCode) -> int:
    """Which Keras `tf.keras` has to be, 2 or 3: tf_keras for build_model; for run_fn what TensorFlow itself has, unless told."""
    return config.model.keras or (3 if code.trains_itself else 2)
