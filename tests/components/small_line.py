"""What the stages' tests work on: data with every kind of feature, a model that learns it, and a way to run TFX's executors.

The label is a function of the features, so a model that learns gets it right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The file keeps the real module of every test that needs one; forms and faults are chosen by hyperparameters.
MODEL = '''
import os
from pathlib import Path

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras


def preprocessing_fn(inputs):
    tags = inputs["tags"]
    ones = tf.sparse.SparseTensor(tags.indices, tf.ones_like(tags.values), tags.dense_shape)
    count, total = (tf.reduce_sum(tf.sparse.to_dense(tensor), axis=1) for tensor in (ones, tags))
    return {
        "x": tft.scale_to_0_1(inputs["x"], elementwise=True),
        "group": tft.compute_and_apply_vocabulary(inputs["group"]),
        "tags": tf.cast(tf.stack([count, total], axis=1), tf.float32),
        "label": inputs["label"],
    }


class Stumbling(keras.Model):
    """Fails in the middle of an epoch, after it but before its backup, or after the last one, while a file exists."""

    fault = None

    def fit(self, *arguments, callbacks=(), **named):
        return super().fit(*arguments, callbacks=[*callbacks[:-1], Stone(self.fault), callbacks[-1]], **named)


class Stone(keras.callbacks.Callback):
    def __init__(self, fault):
        super().__init__()
        self.fault, self.epoch = fault, 0

    def fall(self, where):
        fault = self.fault
        if fault and (fault["where"], fault["epoch"]) == (where, self.epoch) and Path(fault["stone"]).exists():
            if fault.get("kill"):
                os.kill(os.getpid(), 9)
            raise RuntimeError("stumbled over the stone")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.fall("in epoch")

    def on_epoch_end(self, epoch, logs=None):
        self.fall("before backup")

    def on_train_end(self, logs=None):
        self.fall("at end")


def build_model(inputs, config):
    chosen = config.hyperparameters
    group = keras.layers.Flatten()(keras.layers.Embedding(4, 4)(inputs["group"]))
    parts = [inputs["x"], group, inputs["tags"]]
    x = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()(parts))
    label = keras.layers.Dense(3, activation="softmax", name="label_chances")(x)
    rest = keras.layers.Dense(1, name="rest")(x)
    forms = {"one": label, "two": [label, rest], "dict": {"label_chances": label, "rest": rest}}
    model = Stumbling(inputs, forms[chosen.get("form", "one")])
    model.fault = chosen.get("fault")
    if chosen.get("uncompiled"):
        return model
    rate = chosen.get("learning_rate", 0.02)
    loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    if chosen.get("form", "one") != "one":
        loss, metrics = {"label_chances": loss}, None
    model.compile(keras.optimizers.Adam(rate), loss=loss, metrics=metrics)
    return model
'''

SCHEMA = """
feature { name: "x" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 4 } } }
feature { name: "group" type: BYTES presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
feature { name: "tags" type: INT presence { min_count: 1 } }
feature { name: "label" type: INT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
"""

GROUPS = ("red", "green", "blue")
SPLITS = {"train": 256, "eval": 90}


def example(number: int) -> bytes:
    """Example `number`: x, four floats; group, a string; tags, up to two integers, 0 among them, or none; label, 0 to 2."""
    import tensorflow as tf

    draw = random.Random(number)
    x = [draw.uniform(0, 8) for _ in range(4)]
    tags = [draw.randrange(3) for _ in range(draw.randrange(3))]
    label = int(x[0] > 4) + int(x[1] > 4)
    features = {
        "x": tf.train.Feature(float_list=tf.train.FloatList(value=x)),
        "group": tf.train.Feature(bytes_list=tf.train.BytesList(value=[GROUPS[number % 3].encode()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    if tags:
        features["tags"] = tf.train.Feature(int64_list=tf.train.Int64List(value=tags))
    return bytes(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True))


def write_records(file: Path, records: list[bytes]) -> Path:
    """Writes a TFRecord file, gzip when its name ends in .gz; the folder is made."""
    import tensorflow as tf

    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file), "GZIP" if file.suffix == ".gz" else "") as writer:
        for record in records:
            writer.write(record)
    return file


def driven(component: Any) -> dict[str, Any]:
    """A TFX component's execution properties; an example gen's as its driver changes them."""
    from tfx.orchestration import data_types

    if "input_base" not in component.exec_properties:
        return dict(component.exec_properties)
    pipeline = data_types.PipelineInfo("", "")
    driver, info = component.driver_class(None), data_types.ComponentInfo("", "", pipeline)
    return dict(driver.resolve_exec_properties(dict(component.exec_properties), pipeline, info))


def run_executor(component: Any, outputs: Path, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Runs a TFX component's executor; returns its output artifacts by key, each in a folder of its name under `outputs`."""
    artifacts = {}
    for key, channel in component.outputs.items():
        artifacts[key] = channel.type()
        artifacts[key].uri = str(outputs / key)
    kind = component.executor_spec.executor_class
    executor = kind(kind.Context(beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(outputs / "tmp"), unique_id="1"))
    given, made = ({key: [found] for key, found in side.items()} for side in (inputs or {}, artifacts))
    executor.Do(given, made, driven(component))
    return artifacts


def artifact(kind: str, folder: Path, splits: tuple[str, ...] = ()) -> Any:
    """A TFX artifact of a type, at a folder."""
    from tfx.types import artifact_utils, standard_artifacts

    made = getattr(standard_artifacts, kind)()
    made.uri = str(folder)
    if splits:
        made.split_names = artifact_utils.encode_split_names(list(splits))
    return made


def channel(kind: str) -> Any:
    """An empty channel of a type, which is what a component wants to be made with."""
    from tfx import types
    from tfx.types import standard_artifacts

    return types.Channel(type=getattr(standard_artifacts, kind))
