"""SavedModels small enough to be made in seconds, and between them with everything that the contract speaks of.

`python -m tests.serving.conformance.models FOLDER` writes them and `models.config`, for a server that one starts oneself and
names in TFLINE_SERVER_ADDRESS. Importing this module loads nothing heavy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIGNATURES = "tensorflow/serving"


def make(folder: Path) -> Path:
    """Writes the models, each in a folder of versions, and `models.config`, which names all of them.

    half_plus_two/123: TF1. serving_default x[?,1] → y[?,1] = x/2 + 2; classify_x_to_y, classify_labels, regress_x_to_y and
    regress_x_to_y2 (x/2 + 3) on tf.Example with x; examples without x count as 0.
    kinds/1: TF2, a signature a kind of tensor, see `_kinds`. versions/1, 2, 3: TF2, x[?] → y[?] = x/2 + the version; beside
    them lie folders that are no versions. lite/1: `kinds`' serving_default as model.tflite beside versions' SavedModel.

    Returns:
        The folder.
    """
    import tensorflow as tf

    _half_plus_two(tf, folder / "half_plus_two" / "123")
    _kinds(tf, folder / "kinds" / "1")
    for version in (1, 2, 3):
        _plus(tf, folder / "versions" / str(version), version)
    (folder / "versions" / "notes").mkdir()
    (folder / "versions" / "4.tmp").mkdir()
    shutil.copytree(folder / "versions" / "1", folder / "lite" / "1")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "kinds" / "1"), signature_keys=["serving_default"])
    (folder / "lite" / "1" / "model.tflite").write_bytes(converter.convert())
    (folder / "models.config").write_text(config(folder), encoding="utf-8")
    return folder


def config(folder: Path) -> str:
    """The ModelServerConfig of the models in a folder: `versions` by each policy, `every` with labels."""
    entries = [
        ("half_plus_two", "half_plus_two", ""),
        ("kinds", "kinds", ""),
        ("newest", "versions", ""),
        ("two_newest", "versions", "model_version_policy { latest { num_versions: 2 } }"),
        ("picked", "versions", "model_version_policy { specific { versions: 1 versions: 3 } }"),
        (
            "every",
            "versions",
            'model_version_policy { all {} } version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 3 }',
        ),
    ]
    return model_list({name: (folder / base, more) for name, base, more in entries})


def model_list(models: Mapping[str, tuple[Path, str]]) -> str:
    """Text of a ModelServerConfig: of each model its base path and what else its entry says."""
    entries = (
        f'  config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}\n'
        for name, (base, more) in models.items()
    )
    return "model_config_list {\n" + "".join(entries) + "}\n"


def _half_plus_two(tf: Any, folder: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        half, two, three = (
            v1.get_variable(n, initializer=v, use_resource=False) for n, v in (("a", 0.5), ("b", 2.0), ("c", 3.0))
        )
        x = v1.placeholder(tf.float32, [None, 1], "x")
        y = tf.add(half * x, two, name="y")
        serialized = v1.placeholder(tf.string, [None], "tf_example")
        parsed = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32, default_value=[0.0])})["x"]
        score = half * parsed + two
        labels = tf.tile(tf.constant([["low", "high"]]), [tf.shape(parsed)[0], 1])
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.utils.build_tensor_info

        def signature(method: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
            infos = ({name: info(tensor) for name, tensor in each.items()} for each in (inputs, outputs))
            return v1.saved_model.build_signature_def(*infos, f"{SIGNATURES}/{method}")

        inputs = {"inputs": serialized}
        builder = v1.saved_model.Builder(str(folder))
        signatures = {
            "serving_default": signature("predict", {"x": x}, {"y": y}),
            "classify_x_to_y": signature("classify", inputs, {"scores": score}),
            "classify_labels": signature("classify", inputs, {"classes": labels, "scores": tf.concat([-score, score], 1)}),
            "regress_x_to_y": signature("regress", inputs, {"outputs": score}),
            "regress_x_to_y2": signature("regress", inputs, {"outputs": half * parsed + three}),
        }
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def _kinds(tf: Any, folder: Path) -> None:
    """serving_default x[?,2] → y[?,2] = 2x; one of each dtype, `v[?] → w[?]`; and what the functions below say."""
    module = tf.Module()
    module.factor = tf.Variable(2.0)

    def spec(name: str, dtype: Any = tf.float32, shape: tuple[int | None, ...] = (None,)) -> Any:
        return tf.TensorSpec(shape, dtype, name=name)

    def strings(text: Any) -> Any:
        return {"upper": tf.strings.upper(text), "same_bytes": tf.identity(text)}

    def uneven(x: Any) -> Any:
        return {"y": x + 1, "z": tf.constant([1.0, 2.0])}

    def slow(seconds: Any) -> Any:
        # The longest of the batch, by the clock: the same on every machine.
        end = tf.timestamp() + tf.cast(tf.reduce_max(seconds), tf.float64)
        now = tf.while_loop(lambda now: now < end, lambda now: tf.timestamp(), [tf.timestamp()])[0]
        return {"done": seconds + tf.cast(now * 0, tf.float32)}

    def examples(inputs: Any) -> Any:
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return {"scores": x, "outputs": x}

    def same(dtype: Any) -> Any:
        return tf.function(lambda v: {"w": tf.identity(v)}, input_signature=[spec("v", dtype)])

    pair = [spec("a"), spec("b")]
    functions: dict[str, Any] = {
        "serving_default": (lambda x: {"y": x * module.factor}, [spec("x", shape=(None, 2))]),
        "strings": (strings, [spec("text", tf.string)]),
        "two": (lambda a, b: {"sum": a + b, "product": a * b}, pair),
        "total": (lambda x: {"total": tf.reduce_sum(x)}, [spec("x")]),
        "uneven": (uneven, [spec("x")]),
        "slow": (slow, [spec("seconds")]),
        "classify": (lambda inputs: {"scores": examples(inputs)["scores"]}, [spec("inputs", tf.string)]),
        "regress": (lambda inputs: {"outputs": examples(inputs)["outputs"]}, [spec("inputs", tf.string)]),
        "defaulted": (lambda a, b: {"sum": a + b}, pair),
    }
    signatures = {name: tf.function(call, input_signature=specs) for name, (call, specs) in functions.items()}
    for dtype in (tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.bool):
        signatures[dtype.name] = same(dtype)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    _give_default(tf, folder / "saved_model.pb")


def _give_default(tf: Any, file: Path) -> None:
    """SignatureDef.defaults, which tf.saved_model.save does not write."""
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    message.meta_graphs[0].signature_def["defaulted"].defaults["b"].CopyFrom(tf.make_tensor_proto([10.0]))
    file.write_bytes(message.SerializeToString())


def _plus(tf: Any, folder: Path, added: float, filling: int = 0) -> None:
    module = tf.Module()
    module.half, module.added = tf.Variable(0.5), tf.Variable(float(added))
    module.filling = tf.Variable(tf.zeros([filling]))
    call = tf.function(
        lambda x: {"y": x * module.half + module.added + tf.reduce_sum(module.filling)},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(folder), signatures=call)


def heavy(folder: Path, megabytes: int) -> Path:
    """x[?] → y[?] = x/2 + 2 with so many megabytes of further weights, all of which it reads at every call."""
    import tensorflow as tf

    _plus(tf, folder, 2, megabytes * 2**20 // 4)
    return folder


def add_warmup(version: Path, model: str, requests: str) -> None:
    """Gives a version warm-up requests: the text of one PredictRequest."""
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    text_format.Parse(requests, log.predict_log.request)
    log.predict_log.request.model_spec.name = model
    folder = version / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
