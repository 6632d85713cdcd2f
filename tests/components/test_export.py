"""The exported SavedModel, asked as a client would ask it, against the golden answers of the model in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.errors import TflineError
from components.export import Config, export, summarise
from components.layout import SERVING_DIR
from components.model import UserModel
from components.train import Config as TrainConfig
from components.train import train

UserModels = Callable[..., UserModel]
Stage = Mapping[str, Path]

pytestmark = pytest.mark.slow


def arrays(file: Path) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def golden_records(folder: Path) -> list[bytes]:
    import tensorflow as tf

    return list(tf.data.TFRecordDataset(str(folder / "examples.tfrecord")).as_numpy_iterator())


def load(exported: Stage) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(str(exported["model"] / SERVING_DIR))


def answer(model: Any, signature: str, **inputs: Any) -> dict[str, Any]:
    import tensorflow as tf

    found = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in found.items()}


def test_both_signatures_answer_as_the_model_in_memory(exported: Stage) -> None:
    model, golden = load(exported), exported["golden"]
    expected = arrays(golden / "outputs.npz")
    assert {name: value.shape for name, value in expected.items()} == {"label_chances": (64, 3)}
    served = answer(model, "serving_default", examples=golden_records(golden))
    dense = answer(model, "dense", **arrays(golden / "inputs.npz"))
    for found in (served, dense):
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(found["label_chances"], expected["label_chances"], atol=1e-6)


def test_golden_answers_are_right(exported: Stage) -> None:
    """They come from a model that has learned: four fifths of the labels, which it was never given."""
    import tensorflow as tf

    records = golden_records(exported["golden"])
    labels = [tf.train.Example.FromString(record).features.feature["label"].int64_list.value[0] for record in records]
    guesses = arrays(exported["golden"] / "outputs.npz")["label_chances"].argmax(axis=1)
    assert np.mean(guesses == labels) > 0.7


def test_golden_examples_are_the_first_held_out_ones(exported: Stage, raw: Path) -> None:
    import tensorflow as tf

    files = sorted(str(path) for path in (raw / "Split-eval").iterdir())
    held_out = list(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
    assert golden_records(exported["golden"]) == held_out[:64]


def test_golden_inputs_hold_what_the_examples_hold(exported: Stage) -> None:
    import tensorflow as tf

    inputs = arrays(exported["golden"] / "inputs.npz")
    assert {name: value.dtype.kind for name, value in inputs.items()} == {"x": "f", "group": "S", "tags": "i"}
    nothing = np.iinfo(np.int64).min
    for index, record in enumerate(golden_records(exported["golden"])):
        features = tf.train.Example.FromString(record).features.feature
        tags = list(features["tags"].int64_list.value)
        assert inputs["tags"][index].tolist() == tags + [nothing] * (2 - len(tags))
        assert inputs["group"][index].tolist() == list(features["group"].bytes_list.value)
        np.testing.assert_array_equal(inputs["x"][index], np.float32(features["x"].float_list.value))


def test_dense_tells_a_zero_from_no_value(exported: Stage) -> None:
    model, nothing = load(exported), np.iinfo(np.int64).min
    shared = {"x": np.full((1, 4), 4, np.float32), "group": [[b"red"]]}
    tags = {
        "none": [[nothing, nothing]],
        "zero": [[0, nothing]],
        "zeros": [[0, 0]],
        "narrow zero": [[0]],
        "empty": np.zeros([1, 0]),
    }
    found = {
        name: answer(model, "dense", tags=np.asarray(value, np.int64), **shared)["label_chances"] for name, value in tags.items()
    }
    assert np.abs(found["none"] - found["zero"]).max() > 1e-4
    assert np.abs(found["zero"] - found["zeros"]).max() > 1e-4
    np.testing.assert_allclose(found["narrow zero"], found["zero"], atol=1e-6)
    np.testing.assert_allclose(found["empty"], found["none"], atol=1e-6)


def test_signatures_and_variables(exported: Stage) -> None:
    import tensorflow as tf

    folder = str(exported["model"] / SERVING_DIR)
    model = load(exported)
    assert set(model.signatures) == {"serving_default", "dense"}
    inputs = {name: signature.structured_input_signature[1] for name, signature in model.signatures.items()}
    described = {
        key: {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in found.items()} for key, found in inputs.items()
    }
    assert described == {
        "serving_default": {"examples": ("string", [None])},
        "dense": {"x": ("float32", [None, 4]), "group": ("string", [None, 1]), "tags": ("int64", [None, None])},
    }
    variables = {name: shape for name, shape in tf.train.list_variables(f"{folder}/variables/variables") if shape}
    # The groups' table and two layers that are trained, of which one output is not in the model, and no slot of Adam's.
    assert sorted(variables.values()) == [[3], [4, 4], [10, 16], [16], [16, 3]]
    assert not [name for name in variables if "optimizer" in name.lower() or "adam" in name.lower()]


def test_vocabulary_travels_inside(exported: Stage, transformed: Stage, tmp_path: Path) -> None:
    """Loaded from a copy, in a process of its own, while the transform's folder is not where it was."""
    from components.isolate import run_isolated

    copy = shutil.copytree(exported["model"] / SERVING_DIR, tmp_path / "copy")
    [vocabulary] = (path for path in (copy / "assets").iterdir())
    assert set(vocabulary.read_bytes().split()) == {b"red", b"green", b"blue"}
    hidden = transformed["transform_graph"].rename(tmp_path / "hidden")
    try:
        records = [record.hex() for record in golden_records(exported["golden"])]
        arguments = {"saved_model": str(copy), "records": records}
        found = run_isolated("tests.components.test_export:ask", arguments, timeout_seconds=120)
    finally:
        hidden.rename(transformed["transform_graph"])
    np.testing.assert_allclose(found, arrays(exported["golden"] / "outputs.npz")["label_chances"], atol=1e-6)


def ask(saved_model: str, records: list[str]) -> list[list[float]]:
    import tensorflow as tf

    model = tf.saved_model.load(saved_model)
    examples = tf.constant([bytes.fromhex(record) for record in records])
    found: list[list[float]] = model.signatures["serving_default"](examples=examples)["label_chances"].numpy().tolist()
    return found


@pytest.mark.parametrize("form", ["two", "dict"])
def test_model_with_two_outputs(form: str, tmp_path: Path, transformed: Stage, raw: Path, user_model: UserModels) -> None:
    graph, model = transformed["transform_graph"], user_model(form=form)
    made = {name: tmp_path / name for name in ("model", "golden")}
    for folder in made.values():
        folder.mkdir()
    config = TrainConfig(epochs=1, early_stopping=None)
    train(transformed["transformed_examples"], graph, tmp_path / "run", config, model)
    export(tmp_path / "run", graph, raw, made["model"], made["golden"], Config(golden_examples=5), model)
    expected = arrays(made["golden"] / "outputs.npz")
    assert {name: value.shape for name, value in expected.items()} == {"label_chances": (5, 3), "rest": (5, 1)}
    found = answer(load(made), "serving_default", examples=golden_records(made["golden"]))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_weights_of_another_model(tmp_path: Path, transformed: Stage, raw: Path, user_model: UserModels, model_run: Path) -> None:
    weights = model_run / "best.weights.h5"
    expected = f"the weights in {weights} do not fit the model that build_model makes: "
    with pytest.raises(TflineError) as caught:
        export(model_run, transformed["transform_graph"], raw, tmp_path, tmp_path, Config(), user_model(form="two"))
    assert str(caught.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_training_without_weights(tmp_path: Path, transformed: Stage, raw: Path, user_model: UserModels) -> None:
    with pytest.raises(TflineError) as caught:
        export(tmp_path, transformed["transform_graph"], raw, tmp_path, tmp_path, Config(), user_model())
    assert str(caught.value).startswith(f"the weights in {tmp_path / 'best.weights.h5'} do not fit")


def test_summary(exported: Stage) -> None:
    folder = exported["model"] / SERVING_DIR
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    summary = summarise({"model": [str(exported["model"])], "golden": [str(exported["golden"])]})
    assert summary.headline == f"SavedModel of {total / 1000:,.0f} kB"
    assert summary.metrics["bytes"] == total
    assert summary.metrics["graph_bytes"] == (folder / "saved_model.pb").stat().st_size
    assert 0 < summary.metrics["variables_bytes"] < total
    assert summary.params == {"path": str(folder)}
