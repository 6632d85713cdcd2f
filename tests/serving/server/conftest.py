"""Small SavedModels and TFLite models, made once a session. Only slow tests may ask for them: TensorFlow makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class ModelFolders:
    """Where the models are.

    Attributes:
        tf2: serving_default x[?,4] → y[?,3] = x·W, label[?]; strings s[?] → joined[?], length[?]; scalar x[] → y[];
            slow n[] → y[], n rounds of some microseconds; mean x[?] → y[]; defaulted a[?], b[?] (default [10]) → sum[?].
        tf1: serving_default x[?,2] → y[?,1]; classify inputs (tf.Example with x) → classes[?,2], scores[?,2];
            regress inputs → outputs[?,1]; a table from an asset behind `classes`.
        tflite: serving_default x[?,4] → y[?,3], label[?]: the tf2 model's.
        tflite_strings: serving_default s[?], x[?,2] → s2[?], y[?,2].
        weights: W.
    """

    tf2: Path
    tf1: Path
    tflite: Path
    tflite_strings: Path
    weights: np.ndarray[Any, Any]


WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    _make_tf2(tf, folder / "tf2")
    _make_tf1(tf, folder / "tf1")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "tf2"), signature_keys=["serving_default"])
    (folder / "model.tflite").write_bytes(converter.convert())
    (folder / "strings.tflite").write_bytes(_tflite_strings(tf))
    return ModelFolders(folder / "tf2", folder / "tf1", folder / "model.tflite", folder / "strings.tflite", WEIGHTS)


def _make_tf2(tf: Any, folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    def spec(dtype: Any, shape: list[int | None], name: str) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    module = tf.Module()
    module.weights = tf.Variable(WEIGHTS)

    def default(x: Any) -> Any:
        y = tf.matmul(x, module.weights)
        return {"y": y, "label": tf.argmax(y, axis=1)}

    def strings(s: Any) -> Any:
        return {"joined": tf.strings.join([s, s], "-"), "length": tf.strings.length(s)}

    def slow(n: Any) -> Any:
        def body(i: Any, total: Any) -> Any:
            return i + 1, total + tf.reduce_sum(tf.random.normal([1000]))

        return {"y": tf.while_loop(lambda i, total: i < n, body, [0, 0.0])[1]}

    signatures = {
        "serving_default": tf.function(default, input_signature=[spec(tf.float32, [None, 4], "x")]),
        "strings": tf.function(strings, input_signature=[spec(tf.string, [None], "s")]),
        "scalar": tf.function(lambda x: {"y": x + 1}, input_signature=[spec(tf.float32, [], "x")]),
        "slow": tf.function(slow, input_signature=[spec(tf.int32, [], "n")]),
        "mean": tf.function(lambda x: {"y": tf.reduce_mean(x)}, input_signature=[spec(tf.float32, [None], "x")]),
        "defaulted": tf.function(
            lambda a, b: {"sum": a + b}, input_signature=[spec(tf.float32, [None], "a"), spec(tf.float32, [None], "b")]
        ),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)
    file = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    default_b = message.meta_graphs[0].signature_def["defaulted"].defaults["b"]
    default_b.CopyFrom(tf.make_tensor_proto(np.array([10.0], np.float32)))
    file.write_bytes(message.SerializeToString())


def _make_tf1(tf: Any, folder: Path) -> None:
    v1 = tf.compat.v1
    vocabulary = folder.parent / "vocabulary.txt"
    vocabulary.write_text("low\nhigh\n", encoding="utf-8")
    with tf.Graph().as_default(), v1.Session() as session:
        asset = tf.constant(str(vocabulary), name="vocabulary")
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
        initializer = tf.lookup.TextFileInitializer(
            asset, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        table = tf.lookup.StaticHashTable(initializer, "unknown")
        x = v1.placeholder(tf.float32, [None, 2], "x")
        weight = v1.get_variable("weight", initializer=np.array([[2.0], [3.0]], np.float32), use_resource=False)
        y = tf.matmul(x, weight, name="y")
        examples = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.parse_example(examples, {"x": v1.FixedLenFeature([2], tf.float32)})["x"]
        score = tf.matmul(parsed, weight)
        scores = tf.concat([-score, score], 1)
        rows = tf.zeros_like(tf.cast(scores, tf.int64)) + tf.constant([0, 1], tf.int64)
        v1.global_variables_initializer().run()
        info = v1.saved_model.utils.build_tensor_info

        def signature(inputs: Any, outputs: Any, method: str) -> Any:
            infos = ({name: info(tensor) for name, tensor in tensors.items()} for tensors in (inputs, outputs))
            return v1.saved_model.build_signature_def(*infos, f"tensorflow/serving/{method}")

        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                "classify": signature({"inputs": examples}, {"classes": table.lookup(rows), "scores": scores}, "classify"),
                "regress": signature({"inputs": examples}, {"outputs": score}, "regress"),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()


def _tflite_strings(tf: Any) -> bytes:
    module = tf.Module()
    module.call = tf.function(
        lambda s, x: {"s2": tf.identity(s), "y": x * 2},
        input_signature=[tf.TensorSpec([None], tf.string, name="s"), tf.TensorSpec([None, 2], tf.float32, name="x")],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    content: bytes = converter.convert()
    return content
