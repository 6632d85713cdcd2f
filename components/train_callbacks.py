"""What happens between the epochs of a training: it is watched, the best weights are kept, a backup is made to resume from."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from components.early_stopping import EarlyStopping
from components.errors import TflineError

progress = logging.getLogger("tfline.progress")


class Watch(keras.callbacks.Callback):
    """Tells progress, keeps the weights of the best epoch, and stops early. Comes before `Backup`.

    The weights are in `best-<epoch>.weights.h5`, epochs counted from 0. An older best goes only when the next epoch begins: by
    then the backup stands for the newer one. A resume, which starts from the backup, so always finds the weights of the best
    epoch before it.

    Args:
        folder: Where the weights are kept.
        epochs: How many there will be at most, for the progress.
        watched: What is monitored.
        stops: Whether to stop early.
        values: The monitored value in the epochs before a resume, which count for best and patience.
    """

    def __init__(self, folder: Path, *, epochs: int, watched: EarlyStopping, stops: bool, values: Sequence[float]) -> None:
        super().__init__()
        self._folder, self._epochs, self._watched, self._stops = folder, epochs, watched, stops
        self._values = list(values)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Removes the weights that are no longer the best."""
        kept = best_weights(self._folder, self._watched.best(self._values)) if self._values else None
        for path in self._folder.glob(best_weights(self._folder, None).name):
            if path != kept:
                path.unlink()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Judges the epoch; TflineError when its values cannot be judged."""
        monitor, logs = self._watched.monitor, logs or {}
        if monitor not in logs:
            known = ", ".join(sorted(logs))
            raise TflineError(f"train.early_stopping.monitor: expected one of {known}, got '{monitor}'")
        if not math.isfinite(logs["loss"]):
            raise TflineError(f"the training loss became {logs['loss']} in epoch {epoch + 1}; try a lower learning rate")
        if not math.isfinite(logs[monitor]):
            raise TflineError(f"{monitor} became {logs[monitor]} in epoch {epoch + 1}; no epoch can be told to be the best")
        self._values.append(float(logs[monitor]))
        if self._watched.best(self._values) == epoch:
            draft = self._folder / "draft.weights.h5"
            self.model.save_weights(str(draft))
            draft.replace(best_weights(self._folder, epoch))
        self.model.stop_training = self._stops and self._watched.waited(self._values) >= self._watched.patience
        progress.info("epoch %d/%d  %s %.4f", epoch + 1, self._epochs, monitor, logs[monitor])


class Backup(keras.callbacks.BackupAndRestore):
    """Keras's backup after every epoch; it stays when the training ends, since the report is still to be written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), delete_checkpoint=False)
        # Not on Keras's list, and nothing in the way of it: one device saves as none does.
        self._supported_strategies += (tf.distribute.OneDeviceStrategy,)


def best_weights(folder: Path, epoch: int | None) -> Path:
    """Where `Watch` keeps the weights of an epoch; with None, the glob of all such files."""
    return folder / f"best-{'*' if epoch is None else f'{epoch:05d}'}.weights.h5"


def epochs_in(backup: Path) -> int:
    """How many whole epochs a backup stands for; 0 when there is none."""
    checkpoint = tf.train.latest_checkpoint(str(backup / "chief"))
    # The names are those of tf_keras/src/distribute/worker_training_state.py.
    return 0 if checkpoint is None else int(tf.train.load_variable(checkpoint, "ckpt_saved_epoch/.ATTRIBUTES/VARIABLE_VALUE")) + 1
