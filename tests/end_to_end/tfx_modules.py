"""Modules as people write them for TFX, with the FnArgs, tfxio and signatures of its examples, and pipelines that use them."""

from __future__ import annotations

import random
from pathlib import Path

# What both modules share: a straight line through two numbers, a word with a missing value now and then.
_COMMON = '''
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx import v1 as tfx
from tfx_bsl.public import tfxio

LABEL_KEY = "tip"


def preprocessing_fn(inputs):
    """tf.transform's callback function for preprocessing inputs."""
    outputs = {}
    for key in ("fare", "miles"):
        outputs[key + "_xf"] = tft.scale_to_z_score(inputs[key])
    index = tft.compute_and_apply_vocabulary(_fill_in_missing(inputs["payment"]), vocab_filename="payment", num_oov_buckets=1)
    outputs["payment_xf"] = tf.one_hot(index, 5)
    outputs[LABEL_KEY] = inputs[LABEL_KEY]
    return outputs


def _fill_in_missing(x):
    """Replace missing values in a SparseTensor with the empty string."""
    if not isinstance(x, tf.sparse.SparseTensor):
        return tf.squeeze(x, axis=1)
    return tf.squeeze(tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]), ""), axis=1)


def _input_fn(file_pattern, data_accessor, schema, batch_size=32):
    return data_accessor.tf_dataset_factory(
        file_pattern, tfxio.TensorFlowDatasetOptions(batch_size=batch_size, label_key=LABEL_KEY), schema
    ).repeat()
'''

# As TFX's examples were until 1.15: model.save with signatures, optimizer and all; the transform tracked as an attribute.
KERAS_2 = (
    _COMMON
    + """

def _get_serve_tf_examples_fn(model, tf_transform_output):
    model.tft_layer = tf_transform_output.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec(shape=[None], dtype=tf.string, name="examples")])
    def serve_tf_examples_fn(serialized_tf_examples):
        feature_spec = tf_transform_output.raw_feature_spec()
        feature_spec.pop(LABEL_KEY)
        parsed_features = tf.io.parse_example(serialized_tf_examples, feature_spec)
        return model(model.tft_layer(parsed_features))

    return serve_tf_examples_fn


def run_fn(fn_args: tfx.components.FnArgs):
    assert not hasattr(tf.keras, "version"), "Keras 3"
    tf_transform_output = tft.TFTransformOutput(fn_args.transform_output)
    schema = tf_transform_output.transformed_metadata.schema
    train_dataset = _input_fn(fn_args.train_files, fn_args.data_accessor, schema)
    eval_dataset = _input_fn(fn_args.eval_files, fn_args.data_accessor, schema)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        inputs = {
            "fare_xf": tf.keras.Input((1,), name="fare_xf"),
            "miles_xf": tf.keras.Input((1,), name="miles_xf"),
            "payment_xf": tf.keras.Input((5,), name="payment_xf"),
        }
        x = tf.keras.layers.concatenate(list(inputs.values()))
        for units in fn_args.custom_config["units"]:
            x = tf.keras.layers.Dense(units, activation="relu")(x)
        model = tf.keras.Model(inputs, tf.keras.layers.Dense(1, activation="sigmoid", name="chance")(x))
        model.compile(optimizer=tf.keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(
        train_dataset,
        steps_per_epoch=fn_args.train_steps // 4,
        epochs=4,
        validation_data=eval_dataset,
        validation_steps=fn_args.eval_steps,
        callbacks=[tf.keras.callbacks.TensorBoard(log_dir=fn_args.model_run_dir, update_freq="epoch")],
    )
    signatures = {"serving_default": _get_serve_tf_examples_fn(model, tf_transform_output)}
    model.save(fn_args.serving_model_dir, save_format="tf", signatures=signatures)
"""
)

# As they are written for TensorFlow 2.16 and later: Keras 3, an exported tf.Module with two signatures.
KERAS_3 = (
    _COMMON
    + """

def _make_keras_model(units):
    keras = tf.keras
    assert keras.version().startswith("3.")
    inputs = {
        "fare_xf": keras.Input((1,), name="fare_xf"),
        "miles_xf": keras.Input((1,), name="miles_xf"),
        "payment_xf": keras.Input((5,), name="payment_xf"),
    }
    x = keras.layers.concatenate(list(inputs.values()))
    for size in units:
        x = keras.layers.Dense(size, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["accuracy"])
    return model


def run_fn(fn_args: tfx.components.FnArgs):
    tf_transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    raw_schema = tfx.utils.parse_pbtxt_file(fn_args.schema_path, schema_pb2.Schema())
    assert LABEL_KEY in schema_utils.schema_as_feature_spec(raw_schema).feature_spec
    schema = tf_transform_output.transformed_metadata.schema
    model = _make_keras_model(fn_args.custom_config["units"])
    model.fit(
        _input_fn(fn_args.train_files, fn_args.data_accessor, schema),
        steps_per_epoch=fn_args.train_steps // 4,
        epochs=4,
        validation_data=_input_fn(fn_args.eval_files, fn_args.data_accessor, schema),
        validation_steps=fn_args.eval_steps,
        callbacks=[tf.keras.callbacks.TensorBoard(log_dir=fn_args.model_run_dir, update_freq="epoch")],
    )
    archive = tf.keras.export.ExportArchive()
    tft_layer = tf_transform_output.transform_features_layer()
    archive.track(model)
    archive.track(tft_layer)
    raw_spec = tf_transform_output.raw_feature_spec()
    raw_spec.pop(LABEL_KEY)

    def serve(examples):
        return {"chance": model(tft_layer(tf.io.parse_example(examples, raw_spec)))}

    def transform_features(examples):
        return tft_layer(tf.io.parse_example(examples, raw_spec))

    for name, function in (("serving_default", serve), ("transform_features", transform_features)):
        archive.add_endpoint(name, function, [tf.TensorSpec([None], tf.string, name="examples")])
    archive.write_out(fn_args.serving_model_dir)
"""
)

# Without preprocessing_fn: reads the raw examples by the schema, as TFX's penguin example without Transform does.
RAW = """
import tensorflow as tf
import tf_keras as keras
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils
from tfx import v1 as tfx
from tfx_bsl.public import tfxio

FEATURES = ("fare", "miles")


def run_fn(fn_args: tfx.components.FnArgs):
    assert fn_args.transform_output is None
    schema = tfx.utils.parse_pbtxt_file(fn_args.schema_path, schema_pb2.Schema())
    options = tfxio.TensorFlowDatasetOptions(batch_size=32, label_key="tip", num_epochs=1)
    dataset = fn_args.data_accessor.tf_dataset_factory(fn_args.train_files, options, schema)
    inputs = {name: keras.Input((1,), name=name) for name in FEATURES}
    x = keras.layers.concatenate(list(inputs.values()))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="chance")(x))
    model.compile("adam", "binary_crossentropy")
    model.fit(dataset.map(lambda features, label: ({name: features[name] for name in FEATURES}, label)), verbose=2)
    spec = {name: schema_utils.schema_as_feature_spec(schema).feature_spec[name] for name in FEATURES}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples):
        return {"chance": model(tf.io.parse_example(examples, spec))}

    model.save(fn_args.serving_model_dir, save_format="tf", signatures={"serving_default": serve})
"""

PIPELINE = """\
name: {name}
model: {{label: tip{keras}}}
ingest: {{format: csv, path: data, splits: {{train: 3, eval: 1}}}}
run_fn: {{train_steps: 80, eval_steps: 4, custom_config: {{units: [8]}}}}
validate_model:
  signatures:
    serving_default:
      inputs: {{examples: {{dtype: string, shape: [null]}}}}
      outputs: {{{output}: {{dtype: float32, shape: [null, 1]}}}}
{signatures}
evaluate:
  metrics: {{accuracy: {{kind: BinaryAccuracy}}}}
  slices: [[payment]]
  thresholds: [{{metric: accuracy, at_least: 0.7}}]
optimize: null
"""

TRANSFORM_FEATURES = """\
    transform_features:
      inputs: {examples: {dtype: string, shape: [null]}}
      outputs:
        fare_xf: {dtype: float32, shape: [null, 1]}
        miles_xf: {dtype: float32, shape: [null, 1]}
        payment_xf: {dtype: float32, shape: [null, 5]}
"""


def write_rows(file: Path, rows: int, seed: int = 0) -> None:
    """Rows fare,miles,payment,tip, where the tip depends on all three; payment is missing now and then."""
    draw = random.Random(seed)
    lines = ["fare,miles,payment,tip"]
    for _ in range(rows):
        fare, miles, payment = draw.gauss(0, 1), draw.gauss(0, 3), draw.choice(["cash", "card", "app", ""])
        tip = int(fare + miles + {"cash": -1.5, "card": 1.5}.get(payment, 0) + draw.gauss(0, 0.3) > 0)
        lines.append(f"{fare:.4f},{miles:.4f},{payment},{tip}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


_MODULES = {
    "keras-two": (KERAS_2, {"keras": ", keras: 2", "output": "output_0", "signatures": ""}),
    "keras-three": (KERAS_3, {"keras": "", "output": "chance", "signatures": TRANSFORM_FEATURES}),
    "raw": (RAW, {"keras": ", keras: 2", "output": "chance", "signatures": ""}),
}


def write_pipeline(folder: Path, name: str) -> Path:
    """Writes the folder of the pipeline "keras-two", "keras-three" or "raw", with 1,000 rows of data in it."""
    folder.mkdir(parents=True)
    module, chosen = _MODULES[name]
    (folder / "pipeline.yaml").write_text(PIPELINE.format(name=name, **chosen), encoding="utf-8")
    (folder / "model.py").write_text(module, encoding="utf-8")
    write_rows(folder / "data" / "rows.csv", 1000)
    return folder
