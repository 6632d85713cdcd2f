"""Modules written for TFX run unmodified, from data to a pushed version, in both Keras versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Tfline
from tests.end_to_end.tfx_modules import write_pipeline

WITH_TRANSFORM = (
    *("ingest", "statistics", "schema", "validate-data", "transform", "trainer", "golden"),
    *("validate-model", "champion", "evaluate", "infra-validate", "push"),
)
STACK = "import sys; from pipelines.cli import main; main()"


def answers(version: str, signature: str) -> Any:
    """What the pushed model says to two examples, the second without a payment, as a server would load it."""
    import tensorflow as tf

    examples = []
    for payment in (["card"], []):
        features = {
            "fare": tf.train.Feature(float_list=tf.train.FloatList(value=[3.0])),
            "miles": tf.train.Feature(float_list=tf.train.FloatList(value=[6.0])),
            "payment": tf.train.Feature(bytes_list=tf.train.BytesList(value=[word.encode() for word in payment])),
        }
        examples.append(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return tf.saved_model.load(version).signatures[signature](examples=tf.constant(examples))


@pytest.mark.slow
def test_keras_2_module(tfline: Tfline, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "two", "keras-two")
    typed = tfline("run", folder)
    assert typed.code == 0, typed.output
    record, stages = tfline.last()
    assert tuple(stages) == WITH_TRANSFORM
    assert record.pushed is not None and record.pushed.new and not record.pushed.tflite_path
    assert "TFLite" not in typed.output
    curves = stages["trainer"].summary.curves
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(curves)
    assert [len(values) for values in curves.values()] == [4] * len(curves)
    assert curves["loss"][-1] < curves["loss"][0]
    weights = {row[0]: row for row in stages["validate-model"].summary.tables["checks"].rows}["weights"]
    assert weights[1] == "passed" and str(weights[2]).startswith("allowed: "), (
        "model.save keeps the optimizer, and the report says so"
    )
    assert (answers(record.pushed.path, "serving_default")["output_0"].numpy() > 0.9).all()

    again = tfline("run", folder)
    assert again.code == 0 and "Nothing to do" in again.output, again.output
    assert set(tfline.states().values()) == {"cached"}

    contradicting = tfline("run", folder, "--set", "train.epochs=3")
    assert contradicting.code == 2
    assert "train: model.py has a run_fn(fn_args)" in contradicting.output


@pytest.mark.slow
def test_keras_3_module(tfline: Tfline, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "three", "keras-three")
    # A process of its own: TensorFlow decides when it is loaded which Keras it has, and the suite's commands have it loaded.
    command = [sys.executable, "-c", STACK, "run", str(folder), "--home", str(tfline.home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stdout + done.stderr
    record, stages = tfline.last()
    assert tuple(stages) == WITH_TRANSFORM
    assert stages["golden"].summary.params["signatures"] == "serving_default, transform_features"
    assert len(stages["trainer"].summary.curves["val_accuracy"]) == 4
    assert record.pushed is not None
    assert (answers(record.pushed.path, "serving_default")["chance"].numpy() > 0.9).all()
    assert answers(record.pushed.path, "transform_features")["payment_xf"].shape == (2, 5)


@pytest.mark.slow
def test_module_without_transform(tfline: Tfline, tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "raw", "raw")
    typed = tfline("run", folder, "--to", "golden")
    assert typed.code == 0, typed.output
    assert tuple(tfline.last()[1]) == tuple(stage for stage in WITH_TRANSFORM if stage != "transform")
    assert tfline.states()["golden"] == "complete"
