"""A small convolutional net for handwritten digits, made once a session: raw examples, transform, training, export."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.errors import TflineError
from components.isolate import IsolatedError
from components.model import UserModel

Array = npt.NDArray[Any]

TRAIN = 1347

MODEL = """
import tensorflow as tf
import tf_keras as keras


def preprocessing_fn(inputs):
    return {"image": inputs["image"] / 16.0, "digit": inputs["digit"]}


def build_model(inputs, config):
    chosen = config.hyperparameters
    x = keras.layers.Reshape((8, 8, 1))(inputs["image"])
    if chosen.get("odd"):
        x = keras.layers.ELU(name="odd_one")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.8)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(10, activation="softmax", name="probabilities")(x)
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""

SCHEMA = """
feature { name: "image" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 64 } } }
feature { name: "digit" type: INT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
"""


class Tiny(NamedTuple):
    """The net's artifacts as the optimize stage takes them, and its data as arrays; `answer` is the net from raw pixels."""

    inputs: Mapping[str, Path]
    images: Array
    digits: Array
    user_model: Callable[..., UserModel]
    answer: Callable[[Array], Array]
    weights: list[Array]


def write_split(folder: Path, split: str, columns: Mapping[str, Array], compression: str = "GZIP") -> None:
    """Two files of tf.Examples; float columns become float lists, whole-number ones int64 lists, others bytes."""
    import tensorflow as tf

    target = folder / f"Split-{split}"
    target.mkdir(parents=True)
    count = len(next(iter(columns.values())))
    for part, rows in enumerate(np.array_split(np.arange(count), 2)):
        name = target / f"data_tfrecord-{part:05d}-of-00002.gz"
        with tf.io.TFRecordWriter(str(name), options=compression) as writer:
            for row in rows:
                features = {key: feature(np.ravel(column[row])) for key, column in columns.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def feature(values: Array) -> Any:
    """A tf.train.Feature of the list that fits the values' type."""
    import tensorflow as tf

    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    if values.dtype.kind in "iu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(value).encode() for value in values]))


def call_here(function: str, arguments: dict[str, Any], **_: Any) -> Any:
    """`isolate.run_isolated` without the process: the same trip through JSON, the same kind of error."""
    module, name = function.split(":")
    try:
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))))
    except Exception as error:
        raise IsolatedError(str(error) if isinstance(error, TflineError) else f"{type(error).__name__}: {error}") from error


def save(folder: Path, call: Callable[..., Any], specs: list[Any], **tracked: Any) -> Path:
    """Saves `call` as the signature "dense"; gives the SavedModel's folder."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"dense": module.call})
    return folder


def make(home: Path) -> Tiny:
    """The digits of scikit-learn, trained for four epochs."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    columns = {"image": images, "digit": labels, "parity": np.array(["even", "odd"])[labels % 2]}
    inputs, user_model = make_line(home, MODEL, SCHEMA, columns, label="digit", train_rows=TRAIN, epochs=4)
    return Tiny(inputs, images, labels, user_model, *_net(inputs["model_run"], user_model()))


def make_line(
    home: Path, model: str, schema: str, columns: Mapping[str, Array], *, label: str, train_rows: int, epochs: int
) -> tuple[Mapping[str, Path], Callable[..., UserModel]]:
    """Runs the real stages from transform to export on some rows: the artifacts that the optimize stage takes, and the model."""
    from components import export, train, transform
    from components.code import bundle
    from components.model import ModelConfig
    from tests.components.small_line import artifact, channel, run_executor

    raw = home / "examples"
    for split, rows in (("train", slice(0, train_rows)), ("eval", slice(train_rows, None))):
        write_split(raw, split, {name: column[rows] for name, column in columns.items()})
    (home / "schema").mkdir()
    (home / "schema" / "schema.pbtxt").write_text(schema, encoding="utf-8")
    (home / "model.py").write_text(model, encoding="utf-8")
    code = bundle(home / "model.py")

    def user_model(**chosen: Any) -> UserModel:
        return UserModel(config=ModelConfig(label=label, hyperparameters=chosen), code=code)

    component = transform.component(
        channel("Examples"), channel("Schema"), code=code, module="model.py", analyze_split="train", splits=["train", "eval"]
    )
    given = {"examples": artifact("Examples", raw, ("train", "eval")), "schema": artifact("Schema", home / "schema")}
    made = {key: Path(found.uri) for key, found in run_executor(component, home / "transformed", given).items()}
    graph, examples = made["transform_graph"], made["transformed_examples"]
    for name in ("model_run", "model", "golden"):
        (home / name).mkdir()
    train.train(examples, graph, home / "model_run", train.Config(epochs=epochs, early_stopping=None, seed=7), user_model())
    export.export(home / "model_run", graph, raw, home / "model", home / "golden", export.Config(), user_model())
    inputs = {
        "model": home / "model",
        "examples": raw,
        "model_run": home / "model_run",
        "transformed_examples": examples,
        "transform_graph": graph,
    }
    return inputs, user_model


def _net(model_run: Path, user_model: UserModel) -> tuple[Callable[[Array], Array], list[Array]]:
    """The trained Keras model, called without anything of the export, and its weights."""
    import tf_keras as keras

    net = user_model.build({"image": keras.Input((64,), name="image")})
    net.load_weights(str(model_run / "best.weights.h5"))

    def answer(images: Array) -> Array:
        return np.asarray(net.predict({"image": images / 16}, verbose=0), np.float64)

    return answer, net.get_weights()
