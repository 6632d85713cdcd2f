"""A transform beside the .tflite, or inside, with features that real tables have and tidy ones have not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import optimize
from components.errors import TflineError
from components.layout import HOST_DIR
from components.model import UserModel
from components.variants.config import Config, Gates, Variant
from serving.tflite_answers import answer_file
from serving.tflite_metadata import read_metadata
from tests.components.tiny_net import Array, make_line

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]

# Capitals, a hyphen, text that nobody uses, a feature that only the label gives, one of no fixed length that nobody uses.
MODEL = """
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras


def preprocessing_fn(inputs):
    return {
        "Age": tft.scale_to_z_score(inputs["Age"]),
        "cabin-id": tft.compute_and_apply_vocabulary(inputs["cabin-id"], num_oov_buckets=1),
        "bucket": tft.bucketize(inputs["Age"], 3),
        "Ticket": inputs["Ticket"],
        "notes": inputs["notes"],
        "weight": tf.cast(inputs["survived"], tf.float32) + 1.0,
        "survived": inputs["survived"],
    }


def build_model(inputs, config):
    parts = [inputs["Age"]]
    if not config.hyperparameters.get("numbers_only"):
        parts.append(keras.layers.Flatten()(keras.layers.Embedding(8, 4)(inputs["cabin-id"])))
    x = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    x = keras.layers.Dense(8, activation="relu")(x)
    # Whoever asks the served model has no label to compute the weight from.
    taken = {name: value for name, value in inputs.items() if name != "weight"}
    model = keras.Model(taken, keras.layers.Dense(1, activation="sigmoid", name="chance")(x))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    return model
"""

_ONE = "presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }"
SCHEMA = f"""
feature {{ name: "Age" type: FLOAT {_ONE} }}
feature {{ name: "cabin-id" type: BYTES {_ONE} }}
feature {{ name: "Ticket" type: BYTES {_ONE} }}
feature {{ name: "notes" type: BYTES presence {{ min_count: 1 }} }}
feature {{ name: "survived" type: INT {_ONE} }}
"""
# Without what TFLite has no form for.
PLAIN_SCHEMA = SCHEMA.replace('feature { name: "notes" type: BYTES presence { min_count: 1 } }', "")
PLAIN_MODEL = (
    MODEL.replace('        "notes": inputs["notes"],\n', "")
    .replace('        "cabin-id": tft.compute_and_apply_vocabulary(inputs["cabin-id"], num_oov_buckets=1),\n', "")
    .replace('hyperparameters.get("numbers_only")', 'hyperparameters.get("numbers_only", True)')
)

Line = tuple[Mapping[str, Path], Callable[..., UserModel]]
CONFIG = Config(label="survived", variants=("float32", "int8"), gates=Gates(max_accuracy_drop=0.1), latency_calls=5)


def columns() -> dict[str, Array]:
    generator = np.random.default_rng(5)
    age = generator.uniform(1, 80, 240).astype(np.float32)
    cabin = np.array(["A", "B", "C"])[generator.integers(0, 3, 240)]
    return {
        "Age": age,
        "cabin-id": cabin,
        "Ticket": np.array([f"PC {number}" for number in range(240)]),
        "notes": np.array(["none", "some"])[generator.integers(0, 2, 240)],
        "survived": ((age < 40) ^ (cabin == "B")).astype(np.int64),
    }


@pytest.fixture(scope="module")
def cabins(tmp_path_factory: pytest.TempPathFactory) -> Line:
    home = tmp_path_factory.mktemp("cabins")
    return make_line(home, MODEL, SCHEMA, columns(), label="survived", train_rows=160, epochs=12)


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> Line:
    home = tmp_path_factory.mktemp("ages")
    return make_line(home, PLAIN_MODEL, PLAIN_SCHEMA, columns(), label="survived", train_rows=160, epochs=6)


def answers(model: Path, rows: list[dict[str, Any]], signature: str | None = None) -> list[Any]:
    given = io.BytesIO(json.dumps(rows).encode())
    found = json.loads(answer_file(model, None, given, signature=signature, output="json").text)["predictions"]
    return [row["chance"] if isinstance(row, dict) else row for row in found]


def test_names_that_python_has_not_and_features_that_nobody_uses(cabins: Line, tmp_path: Path) -> None:
    import tensorflow as tf

    inputs, user_model = cabins
    variants = (*CONFIG.variants, Variant(kind="pruned", sparsity=0.3), Variant(kind="qat", layers="able"))
    config = CONFIG.model_copy(update={"variants": variants})
    report = optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, config, user_model())
    assert report.features == "transformed"
    assert [row.reason for row in report.rows] == [""] * 4
    about = read_metadata((tmp_path / "model.tflite").read_bytes())
    assert about is not None and about.transform is not None
    assert {info.name for info in about.inputs} == {"Age", "cabin-id"}, "what the model uses, and nothing else"
    assert {info.name for info in about.transform.raw_inputs} == {"Age", "Ticket", "cabin-id", "notes"}
    rows: list[dict[str, Any]] = [
        {"Age": 20.0, "cabin-id": "A", "Ticket": "x", "notes": None},
        {"Age": 70.0, "cabin-id": "B", "Ticket": "y", "notes": "some"},
        {"Age": None, "cabin-id": "Z", "Ticket": "z", "notes": []},
    ]
    made = answers(tmp_path / "variants" / "float32.tflite", rows)
    model = tf.saved_model.load(str(inputs["model"] / "Format-Serving"))
    wanted = model.signatures["serving_default"](examples=tf.constant([example(row).SerializeToString() for row in rows[:2]]))[
        "chance"
    ].numpy()
    np.testing.assert_allclose(made[:2], wanted, atol=1e-5)
    assert made[2] == [None] or np.isnan(made[2]), "NaN in, NaN out: nothing stands in for a number that is missing"
    plain = report.row("float32").made
    assert plain is not None
    assert plain.measured.comparison.accuracy_float > 0.8
    assert plain.measured.comparison.max_difference < 1e-5


def example(row: dict[str, Any]) -> Any:
    import tensorflow as tf

    built = tf.train.Example()
    for name, value in row.items():
        feature = built.features.feature[name]
        if isinstance(value, float):
            feature.float_list.value.append(value)
        elif isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
    return built


def test_text_and_buckets_that_nobody_uses_do_not_push_the_transform_outside(ages: Line, tmp_path: Path) -> None:
    inputs, user_model = ages
    report = optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, CONFIG, user_model())
    assert (report.features, report.why_transformed) == ("raw", "")
    assert [row.reason for row in report.rows] == [""] * 2
    assert not (tmp_path / HOST_DIR).exists()
    rows = [{"Age": 20.0, "cabin-id": "A", "Ticket": "x"}, {"Age": 70.0, "cabin-id": "A", "Ticket": "y"}]
    young, old = answers(tmp_path / "model.tflite", rows)
    assert young != old


def test_a_transform_left_by_a_run_that_was_killed_goes_when_it_is_inside_now(ages: Line, tmp_path: Path) -> None:
    inputs, user_model = ages
    (tmp_path / HOST_DIR).mkdir()
    config = CONFIG.model_copy(update={"variants": ("dynamic",)})
    optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, config, user_model())
    assert not (tmp_path / HOST_DIR).exists()


def test_a_signature_of_serialized_examples_is_named(cabins: Line, tmp_path: Path) -> None:
    inputs, user_model = cabins
    config = CONFIG.model_copy(update={"signature": "serving_default"})
    with pytest.raises(TflineError, match=r"signature 'serving_default' takes examples; expected the raw features Age, .*dense"):
        optimize.optimize(inputs, tmp_path / "model.tflite", tmp_path, config, user_model())
