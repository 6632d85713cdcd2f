"""What a configuration and the model's module say that cannot both be meant, found before anything is started."""

from __future__ import annotations

from components.errors import UsageError
from components.variants.config import POST_TRAINING
from pipelines.config import PipelineConfig


def refuse_contradictions(config: PipelineConfig, *, trains_itself: bool) -> None:
    """Refuses settings that the pipeline would have to ignore, and splits that there are not.

    Args:
        config: The configuration.
        trains_itself: Whether the module has a `run_fn`.

    Raises:
        UsageError: With every contradiction found.
    """
    module, problems = config.model.module, []
    if trains_itself:
        useless = [key for key in ("train", "export") if key in config.model_fields_set]
        useless += [f"model.{key}" for key in ("hyperparameters",) if key in config.model.model_fields_set]
        kinds = dict.fromkeys(variant.kind for variant in config.optimize.chosen() if variant.trained) if config.optimize else {}
        if config.optimize and config.optimize.features == "transformed":
            problems.append(
                f"optimize.features: {module} has a run_fn(fn_args), whose SavedModel is not taken apart; expected raw or auto, "
                "which is raw there"
            )
        problems += [
            f"optimize.variants: {kind} is fine-tuned from a model that build_model makes; {module} has a run_fn(fn_args), which "
            f"trains by itself; expected {', '.join(POST_TRAINING)}"
            for kind in kinds
        ]
        problems += [
            f"{key}: {module} has a run_fn(fn_args), which trains and exports by itself; expected its settings in `run_fn:` "
            "(train_steps, eval_steps, custom_config)"
            for key in useless
        ]
    else:
        problems += [
            f"{key}: {module} has no run_fn(fn_args), so nothing reads this; expected `train:` and `export:` beside build_model"
            for key in ("run_fn", "golden")
            if key in config.model_fields_set
        ]
        if config.model.keras == 3:
            problems.append(
                f"model.keras: expected 2 with build_model, whose layers and strategies are tf_keras's, got 3; {module} can use "
                "Keras 3 in a run_fn(fn_args)"
            )
    problems += _missing_splits(config, trains_itself)
    if problems:
        raise UsageError("\n".join(problems))


def _missing_splits(config: PipelineConfig, trains_itself: bool) -> list[str]:
    asked = {"evaluate.split": config.evaluate.split}
    if trains_itself:
        asked["run_fn.train_split"], asked["run_fn.eval_split"] = config.run_fn.train_split, config.run_fn.eval_split
        asked["golden.split"] = config.golden.split
    else:
        asked["train.train_split"], asked["train.validation_split"] = config.train.train_split, config.train.validation_split
        asked["export.golden_split"] = config.export.golden_split
    if config.optimize is not None:
        asked["optimize.train_split"], asked["optimize.eval_split"] = config.optimize.train_split, config.optimize.eval_split
        if config.optimize.trains:
            asked["optimize.fine_tune.train_split"] = config.optimize.fine_tune.train_split
    there = ", ".join(config.ingest.splits)
    return [
        f"{key} is '{split}', expected one of ingest.splits: {there}"
        for key, split in asked.items()
        if split not in config.ingest.splits
    ]
