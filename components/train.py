"""Train: fits the user's model under a tf.distribute strategy.

Inputs: transformed examples and the transform graph. Output, a folder (`ModelRun`):

    best.weights.h5   weights of the best epoch by the monitored value (tf_keras format)
    history.csv       one row an epoch, over all resumes
    report.json       TrainReport
    tensorboard/      TensorBoard logs
    backup/, best-*   what a resume needs; only while training is under way

A training that was stopped, by a kill or by an exception, goes on from its last finished epoch when it is started again on the
same folder, and stops early where an unbroken one would have. The order of the examples after a resume is another one than in an
unbroken training: tf.data starts its shuffle anew.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from components.early_stopping import EarlyStopping
from components.examples import batches, split_files
from components.model import UserModel, make_inputs
from components.records import write_atomically
from components.strategy import StrategyName, make_strategy, replicas_of, scope
from components.summary import Summary

INPUTS: Mapping[str, str] = {"examples": "Examples", "transform_graph": "TransformGraph"}
OUTPUTS: Mapping[str, str] = {"model_run": "ModelRun"}

BEST_WEIGHTS, HISTORY, BACKUP, REPORT_FILE = "best.weights.h5", "history.csv", "backup", "report.json"

progress = logging.getLogger("tfline.progress")


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

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

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
        TflineError: The model is not compiled, a monitored value does not exist, or it or the loss became NaN or infinite.

    Side effects:
        Seeds Python, NumPy and TensorFlow; with "mirrored" splits the CPU into logical devices.
    """
    import tensorflow_transform as tft
    import tf_keras as keras

    from components.train_callbacks import Backup, Watch

    started = time.monotonic()
    finished = _take_up(run_dir, config, user_model)
    if finished:
        return finished
    strategy = make_strategy(config.strategy, config.replicas)
    keras.utils.set_random_seed(config.seed)
    spec = tft.TFTransformOutput(str(transform_graph)).transformed_feature_spec()
    label, size = user_model.config.label, config.batch_size
    with scope(strategy):
        model = user_model.build(make_inputs(spec, label))
    earlier = _rewind(run_dir)
    watched = _watched(config)
    training, validation = (split_files(examples, split) for split in (config.train_split, config.validation_split))
    if not _is_over(earlier, config):
        seen, stops = earlier.get(watched.monitor, ()), config.early_stopping is not None
        model.fit(
            batches(training, spec, label=label, batch_size=size, shuffle_buffer=config.shuffle_buffer, seed=config.seed),
            validation_data=batches(validation, spec, label=label, batch_size=size),
            epochs=config.epochs,
            callbacks=[
                Watch(run_dir, epochs=config.epochs, watched=watched, stops=stops, values=seen),
                keras.callbacks.CSVLogger(str(run_dir / HISTORY), append=True),
                keras.callbacks.TensorBoard(str(run_dir / "tensorboard"), write_graph=False),
                # Last, so that a backup stands for an epoch that every other callback has finished with.
                Backup(run_dir / BACKUP),
            ],
            verbose=0,
        )
    curves = read_history(run_dir / HISTORY)
    epochs = len(curves["loss"])
    report = TrainReport(
        epochs=epochs,
        best_epoch=watched.best(curves[watched.monitor]),
        resumed_at_epoch=len(earlier.get("loss", ())),
        stopped_early=epochs < config.epochs,
        parameters=int(model.count_params()),
        strategy=config.strategy,
        replicas=replicas_of(strategy),
        seconds=time.monotonic() - started,
        curves=curves,
    )
    _finish(run_dir, report)
    return report


def read_history(path: Path) -> dict[str, tuple[float, ...]]:
    """Reads history.csv: metric to one value an epoch; {} when there is no such file."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: tuple(float(row[name]) for row in rows) for name in (rows[0] if rows else ()) if name != "epoch"}


def _watched(config: Config) -> EarlyStopping:
    return config.early_stopping or EarlyStopping()


def _is_over(curves: Mapping[str, Sequence[float]], config: Config) -> bool:
    """Whether the epochs so far are all there will be: a training may have been killed between its last epoch and its report."""
    stopping, epochs = config.early_stopping, len(curves.get("loss", ()))
    return epochs >= config.epochs or bool(epochs and stopping and stopping.waited(curves[stopping.monitor]) >= stopping.patience)


def _take_up(run_dir: Path, config: Config, user_model: UserModel) -> TrainReport | None:
    """Looks at what an earlier training left: the report of a finished one is returned, that of another model is discarded."""
    identity = hashlib.sha256((config.model_dump_json() + user_model.model_dump_json()).encode()).hexdigest()
    marker, report = run_dir / "identity", run_dir / REPORT_FILE
    if marker.exists() and marker.read_text(encoding="utf-8") != identity:
        progress.info("the model or its settings changed since the checkpoint was made: training starts over")
        _clear(run_dir)
    write_atomically(marker, identity)
    return TrainReport.model_validate_json(report.read_text(encoding="utf-8")) if report.exists() else None


def _rewind(run_dir: Path) -> dict[str, tuple[float, ...]]:
    """Takes history.csv back to the epoch that the backup stands for; what a killed training did after it is done again."""
    from components.train_callbacks import epochs_in

    history, epochs = run_dir / HISTORY, epochs_in(run_dir / BACKUP)
    lines = history.read_text(encoding="utf-8").splitlines(keepends=True) if epochs and history.exists() else []
    if len(lines) > epochs:
        write_atomically(history, "".join(lines[: epochs + 1]))
    else:
        # No backup, or one without its history: there is nothing to go on from.
        shutil.rmtree(run_dir / BACKUP, ignore_errors=True)
        history.unlink(missing_ok=True)
    return read_history(history)


def _finish(run_dir: Path, report: TrainReport) -> None:
    """Writes the results in such an order that a kill at any point leaves a training that can be taken up."""
    from components.train_callbacks import best_weights

    best = best_weights(run_dir, report.best_epoch)
    draft = run_dir / "draft.weights.h5"
    shutil.copyfile(best, draft)
    draft.replace(run_dir / BEST_WEIGHTS)
    write_atomically(run_dir / REPORT_FILE, report.model_dump_json(indent=1))
    shutil.rmtree(run_dir / BACKUP, ignore_errors=True)
    for path in run_dir.glob(best_weights(run_dir, None).name):
        path.unlink()


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, user_model: UserModel) -> None:
    """The stage as the pipeline calls it."""
    train(inputs["examples"], inputs["transform_graph"], outputs["model_run"], config, user_model)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Epochs, curves and the best epoch's values, from report.json."""
    report = TrainReport.model_validate(json.loads(Path(outputs["model_run"][0], REPORT_FILE).read_text(encoding="utf-8")))
    best = {name: values[report.best_epoch] for name, values in report.curves.items()}
    key = "val_accuracy" if "val_accuracy" in best else "val_loss" if "val_loss" in best else "loss"
    return Summary(
        headline=f"{report.epochs} epochs, {key} {best[key]:.4f}",
        metrics={
            **{f"best_{name}": value for name, value in best.items()},
            "epochs": report.epochs,
            "best_epoch": report.best_epoch,
            "parameters": report.parameters,
            "fit_seconds": report.seconds,
            "resumed_at_epoch": report.resumed_at_epoch,
        },
        params={"strategy": report.strategy, "replicas": str(report.replicas), "stopped_early": str(report.stopped_early)},
        curves=report.curves,
    )
