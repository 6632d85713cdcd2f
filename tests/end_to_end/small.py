"""A pipeline small enough to break in many ways: a straight line through three columns of CSV, trained in seconds."""

from __future__ import annotations

import random
from pathlib import Path

PIPELINE = """\
name: small
seed: 1
model: {preprocessing: preprocessing.py, hyperparameters: {}}
ingest: {format: csv, path: data, splits: {train: 3, eval: 1}}
train: {epochs: 40, batch_size: 32, early_stopping: null}
validate_model:
  signatures:
    serving_default:
      inputs: {examples: {dtype: string, shape: [null]}}
      outputs: {chance: {dtype: float32, shape: [null, 1]}}
    dense:
      inputs: {a: {dtype: float32, shape: [null, 1]}, b: {dtype: float32, shape: [null, 1]}}
      outputs: {chance: {dtype: float32, shape: [null, 1]}}
evaluate:
  metrics: {accuracy: {kind: BinaryAccuracy}}
  thresholds: [{metric: accuracy, at_least: 0.7}]
optimize: {gates: {max_accuracy_drop: 0.1}}
infra_validate: null
"""

PREPROCESSING = """\
import tensorflow as tf
import tensorflow_transform as tft


def preprocessing_fn(inputs):
    scaled = {name: (inputs[name] - tft.mean(inputs[name])) / tf.sqrt(tft.var(inputs[name])) for name in ("a", "b")}
    return {**scaled, "label": inputs["label"]}
"""

MODEL = """\
from pathlib import Path

import tf_keras as keras


class Stumbling(keras.Model):
    \"\"\"Raises in epoch `at` while a file exists.\"\"\"

    stone, at = "", 0

    def fit(self, *arguments, callbacks=(), **named):
        def begin(epoch, logs):
            if self.stone and Path(self.stone).exists() and epoch == self.at:
                raise RuntimeError("stumbled over the stone")

        # First, so that the epoch before is a finished one.
        return super().fit(*arguments, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=begin), *callbacks], **named)


def build_model(inputs, config):
    x = keras.layers.Concatenate()([inputs[name] for name in sorted(inputs)])
    x = keras.layers.Dense(8, activation="relu")(x)
    model = Stumbling(inputs, keras.layers.Dense(1, activation="sigmoid", name="chance")(x))
    model.stone, model.at = config.hyperparameters.get("stone", ""), int(config.hyperparameters.get("at", 0))
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["accuracy"])
    return model
"""


def write_rows(file: Path, rows: int, seed: int = 0, label: int | None = None) -> None:
    """Rows a,b,label, where the label says whether a + b > 0, most of the time."""
    draw = random.Random(seed)
    lines = ["a,b,label"]
    for _ in range(rows):
        a, b = draw.gauss(0, 1), draw.gauss(0, 3)
        lines.append(f"{a:.4f},{b:.4f},{label if label is not None else int(a + b + draw.gauss(0, 0.3) > 0)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_pipeline(folder: Path) -> Path:
    """Writes the pipeline's folder with 600 rows of data in it."""
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE, encoding="utf-8")
    (folder / "preprocessing.py").write_text(PREPROCESSING, encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    write_rows(folder / "data" / "rows.csv", 600)
    return folder
