"""The configuration of a pipeline: pipeline.yaml as one frozen value, composed of each stage's own config class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.errors import UsageError
from components.evaluate import Config as EvaluateConfig
from components.export import Config as ExportConfig
from components.infra_validate import Config as InfraValidateConfig
from components.ingest import Config as IngestConfig
from components.layout import SCHEMA_FILE
from components.model import ModelConfig
from components.optimize import Config as OptimizeConfig
from components.schema import parse
from components.train import Config as TrainConfig
from components.trainer import Config as TrainerConfig
from components.validate_data import Config as ValidateDataConfig
from components.validate_model import Config as ValidateModelConfig
from pipelines.settings import load_settings
from serving.errors import ServingError
from serving.fleet_config import FleetConfig


class PushSection(BaseModel):
    """Where versions go.

    Attributes:
        store, tflite_store: The two roots, `{home}` allowed.
        model: The model's name; the pipeline's when None.
        fleet: Servers that a version is pushed to, and withdrawn from if not all of them take it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = "{home}/store"
    tflite_store: str = "{home}/store-tflite"
    model: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    fleet: FleetConfig | None = None


class GoldenSection(BaseModel):
    """The examples that a SavedModel of run_fn has to answer again: their split, and how many at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str = "eval"
    examples: int = Field(default=64, ge=1, le=1000)


class RunnerSection(BaseModel):
    """How stages run. Attributes: how many at once, if independent; options for Beam."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parallel: int = Field(default=2, ge=1)
    # TFX's default would download another runner and stage the project for workers that do not exist here.
    beam_args: tuple[str, ...] = ("--runner=FnApiRunner", "--sdk_container_image=unused")


class PipelineConfig(BaseModel):
    """All of pipeline.yaml, paths resolved.

    Attributes:
        name: The pipeline's name, also on Kubeflow, hence its form.
        seed: For every stage that draws or shuffles, unless its section has a seed of its own.
        schema_file: The curated schema, in the pipeline's folder; inferred when there is no such file.
        train, export: For a module with `build_model`.
        run_fn, golden: For a module with `run_fn`.
        optimize: null leaves the TFLite file out, for models that TFLite cannot hold.
        infra_validate: null pushes models that no server has tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    seed: int = 0
    model: ModelConfig = ModelConfig()
    ingest: IngestConfig
    schema_file: str = SCHEMA_FILE
    validate_data: ValidateDataConfig = ValidateDataConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    run_fn: TrainerConfig = TrainerConfig()
    golden: GoldenSection = GoldenSection()
    validate_model: ValidateModelConfig
    evaluate: EvaluateConfig
    optimize: OptimizeConfig | None = OptimizeConfig()
    infra_validate: InfraValidateConfig | None = InfraValidateConfig()
    push: PushSection = PushSection()
    runner: RunnerSection = RunnerSection()


def load_config(folder: Path, home: Path, *, environment: str | None = None, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Reads a pipeline's configuration and resolves what depends on where it stands.

    Args:
        folder: The pipeline's folder.
        home: tfline's home, which `{home}` in the configuration stands for.
        environment: Name of an overlay under `environments/`.
        overrides: "a.b=value", applied last.

    Raises:
        UsageError: With every problem found, each with file and line.
    """
    config = load_settings(folder, PipelineConfig, environment=environment, overrides=overrides)

    def path(text: str) -> str:
        # Relative to the pipeline's folder, so that a pipeline means the same wherever the command is typed.
        return str((folder / text.replace("{home}", str(home))).resolve())

    name = config.push.model or config.name
    store, fleet = path(config.push.store), config.push.fleet
    push = {"store": store, "tflite_store": path(config.push.tflite_store), "model": name}
    sections: dict[str, dict[str, Any]] = {
        "ingest": {"path": path(config.ingest.path)},
        "push": {**push, "fleet": _located(fleet, Path(store), name, path)},
        "train": _unless_set(config.train, seed=config.seed),
        "evaluate": {**_unless_set(config.evaluate, label=config.model.label), "beam_args": config.runner.beam_args},
    }
    if config.optimize is not None:
        sections["optimize"] = _optimized(config, config.optimize)
    if config.infra_validate is not None:
        sections["infra_validate"] = _unless_set(config.infra_validate, model=name)
    resolved = {key: getattr(config, key).model_copy(update=value) for key, value in sections.items()}
    # Not model_copy: it would count what is filled in here as set by the user.
    return PipelineConfig.model_construct(_fields_set=config.model_fields_set, **{**dict(config), **resolved})


def _located(fleet: FleetConfig | None, store: Path, model: str, path: Callable[[str], str]) -> FleetConfig | None:
    try:
        return fleet.located(store, model, path) if fleet else None
    except ServingError as error:
        raise UsageError(str(error)) from error


def _optimized(config: PipelineConfig, section: OptimizeConfig) -> dict[str, Any]:
    """What the optimize stage takes over from others: fine-tuning goes on as training did."""
    train = {"strategy", "replicas", "batch_size", "shuffle_buffer", "train_split", "seed"}
    tuning = _unless_set(section.fine_tune, **{key: getattr(config.train, key) for key in train})
    if "seed" in tuning and "seed" not in config.train.model_fields_set:
        tuning["seed"] = config.seed
    name = config.push.model or config.name
    found = _unless_set(section, model=name, label=config.model.label, seed=config.seed, slices=config.evaluate.slices)
    return {**found, "fine_tune": section.fine_tune.model_copy(update=tuning)}


def _unless_set(section: BaseModel, **values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in section.model_fields_set}


def curated_schema(folder: Path, config: PipelineConfig) -> str:
    """The text of the curated schema, "" when there is none.

    Raises:
        UsageError: The configuration names a schema file that is not there, or it is no schema.
    """
    file = folder / config.schema_file
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        parse(text, str(file))
        if not text.strip():
            raise UsageError(f"{file}: expected a schema, got an empty file; remove it to have one inferred")
        return text
    if "schema_file" in config.model_fields_set:
        raise UsageError(
            f"schema_file: expected a schema at {file}; `tfline schema {folder} --accept` writes the inferred one there"
        )
    return ""
