"""The graph: which stages there are and what flows between them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.code import bundle, stage_digest
from components.model import UserModel
from pipelines.config import PipelineConfig, curated_schema

STAGES = (
    "ingest",
    "statistics",
    "schema",
    "validate-data",
    "transform",
    "train",
    "export",
    "validate-model",
    "champion",
    "evaluate",
    "quantize",
    "push",
)
"""Every stage in the order of the graph; a stage's name is its TFX node id, its module `components.<name with underscores>`."""

USER_CODE = ("transform", "train", "export")
"""The stages that run the user's code."""


@dataclass(frozen=True)
class UserCode:
    """The user's code as it travels: the model's module and the one with the preprocessing, each with what it imports."""

    model: str
    preprocessing: str

    @classmethod
    def of(cls, folder: Path, config: PipelineConfig) -> UserCode:
        """Packs the code of a pipeline's folder; UsageError when a module is missing or does not parse."""
        module = config.model.module
        return cls(bundle(folder / module), bundle(folder / (config.model.preprocessing or module)))


def module_of(stage: str) -> str:
    """The dotted name of a stage's module."""
    return f"components.{stage.replace('-', '_')}"


def code_digests(code: UserCode) -> dict[str, str]:
    """SHA-256 (hex) of all the code that each stage depends on, ours and the user's."""
    digests = {stage: stage_digest(module_of(stage)) for stage in STAGES}
    for stage in USER_CODE:
        own = code.preprocessing if stage == "transform" else code.model
        digests[stage] = hashlib.sha256((digests[stage] + own).encode()).hexdigest()
    return digests


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

    from components import champion, ingest, push, schema, statistics, transform
    from components.tfx_stage import make_component

    user_model = UserModel(config=config.model, code=code.model)
    store, name = config.push.store, str(config.push.model)

    examples = ingest.component(config.ingest)
    raw = examples.outputs["examples"]
    stats = statistics.component(raw)
    statistics_ = stats.outputs["statistics"]
    schema_ = make_component("schema", schema.Config(curated=curated_schema(folder, config)), {"statistics": statistics_})
    schema_out = schema_.outputs["schema"]
    checked = make_component("validate_data", config.validate_data, {"statistics": statistics_, "schema": schema_out})
    transformed = transform.component(
        raw,
        schema_out,
        code=code.preprocessing,
        module=config.model.preprocessing or config.model.module,
        analyze_split=config.train.train_split,
        splits=list(config.ingest.splits),
    )
    # The data gate has no output that the transform reads, yet nothing may be computed from data that it refuses.
    transformed.add_upstream_node(checked)
    graph = transformed.outputs["transform_graph"]
    trained = make_component(
        "train", config.train, {"examples": transformed.outputs["transformed_examples"], "transform_graph": graph}, user_model
    )
    exported = make_component(
        "export",
        config.export,
        {"model_run": trained.outputs["model_run"], "transform_graph": graph, "examples": raw},
        user_model,
    )
    model = exported.outputs["model"]
    validated = make_component("validate_model", config.validate_model, {"model": model, "golden": exported.outputs["golden"]})
    best = make_component("champion", champion.Config(store=store, model=name), {"model": model})
    evaluated = make_component(
        "evaluate",
        config.evaluate,
        {"model": model, "champion": best.outputs["champion"], "examples": raw, "schema": schema_out},
    )
    quantized = make_component("quantize", config.quantize, {"model": model, "examples": raw})
    pushed = make_component(
        "push",
        push.Config(store=store, tflite_store=config.push.tflite_store, model=name),
        {
            "model": model,
            "tflite": quantized.outputs["tflite"],
            "champion": best.outputs["champion"],
            "validation": validated.outputs["report"],
            "evaluation": evaluated.outputs["evaluation"],
            "quantization": quantized.outputs["report"],
        },
    )
    # What cannot be served is not worth measuring.
    for component in (evaluated, quantized):
        component.add_upstream_node(validated)
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(home / "artifacts" / config.name),
        components=[
            *(examples, stats, schema_, checked, transformed, trained, exported, validated, best, evaluated, quantized, pushed)
        ],
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(home / "metadata.db")),
        beam_pipeline_args=list(config.runner.beam_args),
        enable_cache=True,
    )
