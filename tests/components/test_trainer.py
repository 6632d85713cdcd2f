"""The trainer and golden stages: what a module's run_fn gets, and what becomes of one that does not keep to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import golden, trainer
from components.code import bundle
from components.errors import TflineError


def fn_args(folder: Path, text: str, keras: int = 2) -> Any:
    (folder / "model.py").write_text(text, encoding="utf-8")
    packed = {"code": bundle(folder / "model.py"), "module": "model.py", "keras": keras, "custom_config": {"units": 3}}
    return SimpleNamespace(custom_config=packed, serving_model_dir=str(folder / "saved"))


@pytest.mark.slow
def test_run_fn_gets_its_own_custom_config(tmp_path: Path) -> None:
    text = """
from pathlib import Path

def run_fn(fn_args):
    Path(fn_args.serving_model_dir).mkdir()
    Path(fn_args.serving_model_dir, "saved_model.pb").write_text(str(fn_args.custom_config))
"""
    trainer.run_fn(fn_args(tmp_path, text))
    assert (tmp_path / "saved" / "saved_model.pb").read_text() == "{'units': 3}"


@pytest.mark.slow
def test_run_fn_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(TflineError, match=r"model\.py: run_fn returned without a SavedModel in fn_args\.serving_model_dir"):
        trainer.run_fn(fn_args(tmp_path, "def run_fn(fn_args):\n    pass\n"))


@pytest.mark.slow
def test_other_keras_is_told(tmp_path: Path) -> None:
    with pytest.raises(TflineError, match=r"expected tf\.keras to be Keras 3, found Keras 2; set TF_USE_LEGACY_KERAS=0"):
        trainer.run_fn(fn_args(tmp_path, "def run_fn(fn_args):\n    raise AssertionError\n", keras=3))


@pytest.mark.slow
def test_curves_are_those_of_tensorboard(tmp_path: Path) -> None:
    import tensorflow as tf

    for name, offset in (("train", 0.0), ("validation", 1.0)):
        with tf.summary.create_file_writer(str(tmp_path / name)).as_default():
            for step in range(3):
                tf.summary.scalar("epoch_loss", offset + step, step=step)
                tf.summary.scalar("batch_loss", 9.0, step=step)
    assert trainer.read_curves(tmp_path) == {"loss": (0.0, 1.0, 2.0), "val_loss": (1.0, 2.0, 3.0)}
    assert trainer.read_curves(tmp_path / "nothing") == {}


def save(folder: Path, width: int) -> Path:
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, width], tf.float32, name="x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"sum": tf.reduce_sum(x, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="strange")])
    def other(strange: Any) -> dict[str, Any]:
        return {"sum": strange}

    tf.saved_model.save(module, str(folder / "Format-Serving"), signatures={"serving_default": serve, "other": other})
    return folder


@pytest.mark.slow
def test_golden_asks_the_signatures_that_it_can_feed(tmp_path: Path, raw: Path, schema_dir: Path) -> None:
    import numpy as np

    model, made = save(tmp_path / "model", 4), tmp_path / "golden"
    made.mkdir()
    assert golden.golden(model, raw, schema_dir, made, golden.Config(examples=5)) == ["serving_default"]
    with np.load(made / "inputs.npz") as inputs, np.load(made / "outputs.npz") as outputs:
        assert outputs.files == ["serving_default/sum"]
        np.testing.assert_allclose(outputs["serving_default/sum"], inputs["x"].sum(axis=1), rtol=1e-6)
        assert "label" not in inputs.files
    assert golden.summarise({"golden": (str(made),)}).headline == "5 examples answered by serving_default"


@pytest.mark.slow
def test_golden_tells_of_a_model_that_it_cannot_ask(tmp_path: Path, raw: Path, schema_dir: Path) -> None:
    import tensorflow as tf

    made = tmp_path / "golden"
    made.mkdir()
    module = tf.Module()
    function = tf.function(lambda strange: {"y": strange}, input_signature=[tf.TensorSpec([None], tf.float32, name="strange")])
    tf.saved_model.save(module, str(tmp_path / "model" / "Format-Serving"), signatures={"serving_default": function})
    with pytest.raises(TflineError, match=r"none of the signatures \['serving_default'\] can be fed: .*\(group, tags, x\)"):
        golden.golden(tmp_path / "model", raw, schema_dir, made, golden.Config())
    with pytest.raises(TflineError, match="does not load"):
        golden.golden(tmp_path / "nothing", raw, schema_dir, made, golden.Config())
