"""Trainer: a module's own `run_fn(fn_args)`, called by TFX's Trainer as it is, in the place of `train` and `export`.

Inputs: examples (transformed, when the module has a `preprocessing_fn`), transform graph, schema, statistics. Outputs: `model`,
the SavedModel that run_fn wrote to `fn_args.serving_model_dir`, and `model_run`, whatever it wrote to `fn_args.model_run_dir`. A
training that was killed is started again on the same `model_run` folder. What Keras's TensorBoard callback wrote there becomes
the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from components.code import load_bundle, stage_digest
from components.errors import TflineError
from components.layout import SERVING_DIR
from components.summary import Summary


class Config(BaseModel):
    """What run_fn finds in its FnArgs.

    Attributes:
        train_steps, eval_steps: `fn_args.train_steps` and `eval_steps`; None, as TFX has it for 0, leaves them to the module.
        train_split, eval_split: Whose files are `fn_args.train_files` and `eval_files`.
        custom_config: `fn_args.custom_config`, and that of a `preprocessing_fn(inputs, custom_config)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_steps: int | None = Field(default=None, ge=1)
    eval_steps: int | None = Field(default=None, ge=1)
    train_split: str = "train"
    eval_split: str = "eval"
    custom_config: dict[str, JsonValue] = Field(default_factory=dict)


def run_fn(fn_args: Any) -> None:
    """What TFX calls, by its dotted name: the user's function, from the code that came with the stage.

    Args:
        fn_args: tfx FnArgs; `custom_config` as `component` packs it, handed on as the user's own.

    Raises:
        TflineError: `tf.keras` is not the Keras that the configuration asks for, or run_fn wrote no SavedModel.
    """
    packed = fn_args.custom_config
    _check_keras(packed["keras"])
    fn_args.custom_config = packed["custom_config"]
    load_bundle(packed["code"], PurePosixPath(packed["module"]).stem).run_fn(fn_args)
    if not Path(fn_args.serving_model_dir, "saved_model.pb").is_file():
        raise TflineError(
            f"{packed['module']}: run_fn returned without a SavedModel in fn_args.serving_model_dir ({fn_args.serving_model_dir})"
        )


def _check_keras(asked: int) -> None:
    """TensorFlow decides when it is loaded which Keras `tf.keras` is; a module must not meet the other one unawares."""
    import tensorflow as tf

    # Only Keras 3 has version(); tf_keras behind tf.keras does not even say __version__.
    found = int(tf.keras.version().split(".")[0]) if hasattr(tf.keras, "version") else 2
    if found != asked:
        value = 1 if asked == 2 else 0
        raise TflineError(
            f"model.keras: expected tf.keras to be Keras {asked}, found Keras {found}; set TF_USE_LEGACY_KERAS={value}"
        )


def component(channels: Mapping[str, Any], config: Config, *, code: str, module: str, keras: int) -> Any:
    """The TFX component: the stock Trainer with a dotted run_fn, which no wheel has to be built for.

    Args:
        channels: `examples`, `schema`, `statistics`, and `transform_graph` when the module has a preprocessing_fn.
        config: What run_fn finds in its FnArgs.
        code: The module, bundled.
        module: Its file name.
        keras: 2 or 3: what `tf.keras` has to be.
    """
    from tfx.components import Trainer
    from tfx.proto import trainer_pb2

    return Trainer(
        **channels,
        run_fn="components.trainer.run_fn",
        train_args=trainer_pb2.TrainArgs(splits=[config.train_split], num_steps=config.train_steps or 0),
        eval_args=trainer_pb2.EvalArgs(splits=[config.eval_split], num_steps=config.eval_steps or 0),
        custom_config={
            "code": code,
            "module": module,
            "keras": keras,
            "custom_config": config.custom_config,
            # TFX's cache key knows a dotted function by its name alone.
            "code_digest": stage_digest("components.trainer"),
        },
    ).with_id("trainer")


def read_curves(model_run: Path) -> dict[str, tuple[float, ...]]:
    """Curves from the event files of Keras's TensorBoard callback, Keras 2 or 3.

    Args:
        model_run: A folder; event files lie anywhere below it, in `train` and `validation` folders.

    Returns:
        Metric, with "val_" before it for validation, to one value an epoch; {} when nothing was logged.
    """
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    curves: dict[str, tuple[float, ...]] = {}
    for folder in sorted({path.parent for path in model_run.rglob("events.out.tfevents.*")}):
        events = event_accumulator.EventAccumulator(str(folder), size_guidance={event_accumulator.TENSORS: 0})
        events.Reload()
        prefix = "val_" if folder.name == "validation" else ""
        for tag in events.Tags()["tensors"]:
            # A resumed training logs its epochs again in a file of its own: the later value is the one that counts.
            values = (
                {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
                if tag.startswith("epoch_")
                else {}
            )
            if values:
                curves[prefix + tag.removeprefix("epoch_")] = tuple(value for _, value in sorted(values.items()))
    return curves


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Size of the SavedModel, and the curves as far as run_fn logged any."""
    saved = Path(outputs["model"][0], SERVING_DIR)
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    curves = read_curves(Path(outputs["model_run"][0]))
    epochs = max(map(len, curves.values()), default=0)
    key = next((name for name in ("val_accuracy", "val_loss", "loss") if name in curves), "")
    told = f"{epochs} epochs, {key} {curves[key][-1]:.4f}, " if key else ""
    return Summary(
        headline=f"{told}SavedModel of {size / 1000:,.0f} kB",
        metrics={
            "bytes": float(size),
            "epochs": float(epochs),
            **{f"last_{name}": values[-1] for name, values in curves.items()},
        },
        params={"path": str(saved)},
        curves=curves,
    )
