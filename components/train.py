"""Train: fits the user's model under a tf.distribute strategy.

Inputs: transformed examples and the transform graph. Output, a folder (`ModelRun`):

    best.weights.h5   weights of the best epoch by the monitored value (tf_keras format)
    history.csv       one row an epoch; a resumed training appends to it
    report.json       TrainReport
    tensorboard/      TensorBoard logs
    backup/           tf_keras BackupAndRestore, while training is under way

A training that was stopped, by a kill or by an exception, goes on from its last finished epoch when it is started again on the same
folder, and stops early where an unbroken one would have. The order of the examples after a resume is another one than in an
unbroken training: tf.data starts its shuffle anew.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.errors import TflineError
from components.examples import batches, split_files
from components.model import UserModel, make_inputs
from components.records import write_atomically
from components.strategy import StrategyName, make_strategy, replicas_of, scope
from components.summary import Summary

INPUTS: Mapping[str, str] = {"examples": "Examples", "transform_graph": "TransformGraph"}
OUTPUTS: Mapping[str, str] = {"model_run": "ModelRun"}

progress = logging.getLogger("tfline.progress")


class EarlyStopping(BaseModel):
    """When to stop before the last epoch: after `patience` epochs without the monitored value getting better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    monitor: str = "val_loss"
    mode: Literal["min", "max"] = "min"
    patience: int = Field(default=5, ge=1)
    min_delta: float = Field(default=0.0, ge=0.0)


class Config(BaseModel):
    """How to train.

    Attributes:
        strategy: Which tf.distribute strategy; `components.strategy` chooses.
        replicas: For "mirrored"; None takes every GPU, or two CPU devices.
        batch_size: Examples a step over all replicas.
        epochs: At most so many.
        seed: For weights, shuffling and dropout.
        shuffle_buffer: Examples to shuffle among.
        train_split, validation_split: Splits to fit on and to watch for early stopping.
        early_stopping: None trains all epochs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: StrategyName = "none"
    replicas: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    epochs: int = Field(default=20, ge=1)
    seed: int = 0
    shuffle_buffer: int = Field(default=10_000, ge=0)
    train_split: str = "train"
    validation_split: str = "eval"
    early_stopping: EarlyStopping | None = EarlyStopping()


class TrainReport(BaseModel):
    """What the training came to. `curves` has one value an epoch for each metric, resumed epochs included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int
    best_epoch: int
    resumed_at_epoch: int
    stopped_early: bool
    parameters: int
    strategy: str
    replicas: int
    seconds: float
    curves: dict[str, tuple[float, ...]]


def train(examples: Path, transform_graph: Path, run_dir: Path, config: Config, user_model: UserModel) -> TrainReport:
    """Builds the user's model, fits it, and keeps the weights of its best epoch.

    Args:
        examples: Transformed Examples artifact with the two splits of the config.
        transform_graph: TransformGraph artifact.
        run_dir: Where everything goes; what an earlier, unfinished training left there is taken up.
        config: How to train.
        user_model: What to train.

    Raises:
        TflineError: The model is not compiled, a monitored value does not exist, or the loss became NaN or infinite.

    Side effects:
        Seeds Python, NumPy and TensorFlow; with "mirrored" splits the CPU into logical devices.
    """
    import tensorflow_transform as tft
    import tf_keras as keras

    started = time.monotonic()
    strategy = make_strategy(config.strategy, config.replicas)
    keras.utils.set_random_seed(config.seed)
    spec = tft.TFTransformOutput(str(transform_graph)).transformed_feature_spec()
    label, size = user_model.config.label, config.batch_size
    with scope(strategy):
        model = user_model.build(make_inputs(spec, label))
    _discard_foreign_backup(run_dir, config, user_model)
    earlier = read_history(run_dir / "history.csv")
    training, validation = (split_files(examples, split) for split in (config.train_split, config.validation_split))
    shuffle = {"shuffle_buffer": config.shuffle_buffer, "seed": config.seed}
    model.fit(
        batches(training, spec, label=label, batch_size=size, **shuffle),
        validation_data=batches(validation, spec, label=label, batch_size=size),
        epochs=config.epochs,
        callbacks=_callbacks(run_dir, config, earlier),
        verbose=0,
    )
    curves = read_history(run_dir / "history.csv")
    epochs = len(curves["loss"])
    report = TrainReport(
        epochs=epochs,
        best_epoch=_best_epoch(curves, config),
        resumed_at_epoch=len(earlier.get("loss", ())),
        stopped_early=epochs < config.epochs,
        parameters=int(model.count_params()),
        strategy=config.strategy,
        replicas=replicas_of(strategy),
        seconds=time.monotonic() - started,
        curves=curves,
    )
    write_atomically(run_dir / "report.json", report.model_dump_json(indent=1))
    return report


def read_history(path: Path) -> dict[str, tuple[float, ...]]:
    """Reads history.csv: metric to one value an epoch. An epoch written twice, before and after a resume, counts once."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = {int(row["epoch"]): row for row in csv.DictReader(file) if row.get("loss")}
    names = [name for name in next(iter(rows.values()), {}) if name != "epoch"]
    return {name: tuple(float(rows[epoch][name]) for epoch in sorted(rows)) for name in names}


def _monitor(config: Config) -> EarlyStopping:
    return config.early_stopping or EarlyStopping()


def _best_epoch(curves: Mapping[str, Sequence[float]], config: Config) -> int:
    values = curves[_monitor(config).monitor]
    pick = min if _monitor(config).mode == "min" else max
    return values.index(pick(values))


def _discard_foreign_backup(run_dir: Path, config: Config, user_model: UserModel) -> None:
    """A backup fits only the model and settings it was made with; of others, training starts over and says so."""
    identity = hashlib.sha256((config.model_dump_json() + user_model.model_dump_json()).encode()).hexdigest()
    marker = run_dir / "identity"
    if marker.exists() and marker.read_text(encoding="utf-8") != identity:
        progress.info("the model or its settings changed since the checkpoint was made: training starts over")
        for path in run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, identity)


def _callbacks(run_dir: Path, config: Config, earlier: Mapping[str, Sequence[float]]) -> list[Any]:
    import tf_keras as keras

    watched = _monitor(config)
    seen = list(earlier.get(watched.monitor, ()))
    pick = min if watched.mode == "min" else max

    class Progress(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            logs = logs or {}
            if watched.monitor not in logs:
                known = ", ".join(sorted(logs))
                raise TflineError(f"train.early_stopping.monitor: expected one of {known}, got '{watched.monitor}'")
            if not math.isfinite(logs["loss"]):
                raise TflineError(f"the training loss became {logs['loss']} in epoch {epoch + 1}; try a lower learning rate")
            progress.info("epoch %d/%d  %s %.4f", epoch + 1, config.epochs, watched.monitor, logs[watched.monitor])

    class ResumedEarlyStopping(keras.callbacks.EarlyStopping):  # type: ignore[misc, unused-ignore]
        """Knows the epochs before a resume, so that patience counts as in an unbroken training."""

        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            super().on_train_begin(logs)
            for value in seen:
                self.wait += 1
                if self._is_improvement(value, self.best):
                    self.best, self.wait = value, 0

    callbacks = [
        Progress(),
        keras.callbacks.CSVLogger(str(run_dir / "history.csv"), append=True),
        keras.callbacks.ModelCheckpoint(
            str(run_dir / "best.weights.h5"),
            monitor=watched.monitor,
            mode=watched.mode,
            save_best_only=True,
            save_weights_only=True,
            initial_value_threshold=pick(seen) if seen else None,
        ),
        keras.callbacks.TensorBoard(str(run_dir / "tensorboard"), write_graph=False),
    ]
    if config.early_stopping is not None:
        stopping = ResumedEarlyStopping(watched.monitor, watched.min_delta, watched.patience, mode=watched.mode)
        callbacks.append(stopping)
    # Last, so that a checkpoint stands for an epoch that every other callback has finished with.
    return [*callbacks, keras.callbacks.BackupAndRestore(str(run_dir / "backup"))]


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, user_model: UserModel) -> None:
    """The stage as the pipeline calls it."""
    train(inputs["examples"], inputs["transform_graph"], outputs["model_run"], config, user_model)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Epochs, curves and the best epoch's values, from report.json."""
    report = TrainReport.model_validate(json.loads(Path(outputs["model_run"][0], "report.json").read_text(encoding="utf-8")))
    best = {name: values[report.best_epoch] for name, values in report.curves.items()}
    key = "val_accuracy" if "val_accuracy" in best else "val_loss" if "val_loss" in best else "loss"
    return Summary(
        headline=f"{report.epochs} epochs, {key} {best[key]:.4f}",
        metrics={
            **best,
            "epochs": report.epochs,
            "best_epoch": report.best_epoch,
            "parameters": report.parameters,
            "fit_seconds": report.seconds,
            "resumed_at_epoch": report.resumed_at_epoch,
        },
        params={"strategy": report.strategy, "replicas": str(report.replicas), "stopped_early": str(report.stopped_early)},
        curves=report.curves,
    )
