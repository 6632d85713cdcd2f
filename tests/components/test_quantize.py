from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components import quantize, tflite_convert, tflite_evaluate
from components.errors import TflineError
from components.tflite_evaluate import Edge

Array = npt.NDArray[Any]

TRAIN = 1347
CONFIG = quantize.Config(label="digit", max_accuracy_drop=0.05)


class Made(NamedTuple):
    """A trained model, exported under `model/Format-Serving`, and its examples, as folders and as arrays."""

    model: Path
    examples: Path
    images: Array
    digits: Array
    keras: Any


def write_split(folder: Path, split: str, columns: Mapping[str, Array], compression: str = "GZIP") -> None:
    """Two files of tf.Examples; float columns become float lists, whole-number ones int64 lists."""
    import tensorflow as tf

    target = folder / f"Split-{split}"
    target.mkdir(parents=True)
    count = len(next(iter(columns.values())))
    for part, rows in enumerate(np.array_split(np.arange(count), 2)):
        name = target / f"data_tfrecord-{part:05d}-of-00002.gz"
        with tf.io.TFRecordWriter(str(name), options=compression) as writer:
            for row in rows:
                features = {}
                for key, column in columns.items():
                    values = np.ravel(column[row])
                    if column.dtype.kind == "f":
                        features[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
                    else:
                        features[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def export(folder: Path, call: Callable[..., Any], specs: list[Any], **tracked: Any) -> Path:
    """Saves `call` as the signature "dense"; gives the SavedModel's folder."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    module.call = tf.function(call, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"dense": module.call})
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tensorflow as tf
    import tf_keras
    from sklearn.datasets import load_digits

    home = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    images, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    tf_keras.utils.set_random_seed(7)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Reshape((8, 8, 1), input_shape=(64,)),
            tf_keras.layers.Conv2D(8, 3, padding="same", use_bias=False),
            tf_keras.layers.BatchNormalization(momentum=0.8),
            tf_keras.layers.ReLU(),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images[:TRAIN] / 16, labels[:TRAIN], epochs=4, batch_size=32, verbose=0)
    spec = tf.TensorSpec([None, 64], tf.float32, name="image")
    export(
        home / "model" / "Format-Serving",
        lambda image: {"probabilities": model(image / 16.0, training=False)},
        [spec],
        model=model,
    )
    write_split(home / "examples", "train", {"image": images[:TRAIN], "digit": labels[:TRAIN]})
    write_split(home / "examples", "eval", {"image": images[TRAIN:], "digit": labels[TRAIN:]})
    return Made(home / "model", home / "examples", images, labels, model)


class Ran(NamedTuple):
    report: quantize.Report
    tflite: Path
    outputs: dict[str, list[str]]


def run_stage(made: Made, home: Path, config: quantize.Config, examples: Path | None = None) -> Ran:
    outputs = {"tflite": home / "tflite", "report": home / "report"}
    quantize.run({"model": made.model, "examples": examples or made.examples}, outputs, config)
    report = quantize.Report.model_validate_json((home / "report" / "report.json").read_text(encoding="utf-8"))
    return Ran(report, home / "tflite" / "model.tflite", {key: [str(path)] for key, path in outputs.items()})


@pytest.fixture(scope="module")
def good(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_stage(made, tmp_path_factory.mktemp("good"), CONFIG)


def one_by_one(tflite: Path, images: Array) -> Array:
    """The int8 model's real outputs by a loop that shares nothing with the stage: tensors by position, one example a call."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(tflite))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    answers = []
    for image in images:
        (scale, zero), (out_scale, out_zero) = source["quantization"], target["quantization"]
        pixels = [[min(127, max(-128, round(float(pixel) / scale) + zero)) for pixel in image]]
        interpreter.set_tensor(source["index"], np.array(pixels, np.int8))
        interpreter.invoke()
        answers.append([out_scale * (int(value) - out_zero) for value in interpreter.get_tensor(target["index"])[0]])
    return np.array(answers)


@pytest.mark.slow
def test_accuracies_and_differences_equal_those_of_independent_loops(made: Made, good: Ran) -> None:
    images, digits = made.images[TRAIN:], made.digits[TRAIN:]
    given = one_by_one(good.tflite, images)
    wanted = made.keras.predict(images / 16, verbose=0).astype(np.float64)
    compared = good.report.comparison
    right_float, right_int8 = wanted.argmax(axis=1) == digits, given.argmax(axis=1) == digits
    assert compared.eval_examples == 450
    assert compared.accuracy_float == pytest.approx(right_float.mean())
    assert compared.accuracy_float > 0.85, "a model that learnt nothing would prove nothing"
    assert compared.accuracy_tflite == pytest.approx(right_int8.mean())
    assert compared.accuracy_drop == pytest.approx(right_float.mean() - right_int8.mean())
    assert compared.agreement == pytest.approx((wanted.argmax(axis=1) == given.argmax(axis=1)).mean())
    assert compared.rms_difference == pytest.approx(np.sqrt(((wanted - given) ** 2).mean()), rel=1e-4)
    assert compared.max_difference == pytest.approx(np.abs(wanted - given).max(), rel=1e-4)
    assert compared.labels.columns == ("label", "examples", "float", "tflite")
    assert [row[0] for row in compared.labels.rows] == list(range(10))
    for label, count, share_float, share_int8 in compared.labels.rows:
        mine = digits == label
        assert count == mine.sum()
        assert (share_float, share_int8) == pytest.approx((right_float[mine].mean(), right_int8[mine].mean()))


@pytest.mark.slow
def test_sizes_and_the_digest_are_those_of_the_files(made: Made, good: Ran) -> None:
    report, content, saved = good.report, good.tflite.read_bytes(), made.model / "Format-Serving"
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.tflite_bytes == len(content)
    assert 0 < report.tflite_gzip_bytes < len(content)
    assert report.saved_model_pb_bytes == (saved / "saved_model.pb").stat().st_size
    assert report.variables_bytes == sum(path.stat().st_size for path in (saved / "variables").iterdir())
    assert report.saved_model_bytes >= report.saved_model_pb_bytes + report.variables_bytes
    weights = sum(weight.nbytes for weight in made.keras.get_weights())
    assert report.conversion.float_weights_bytes == weights
    assert report.ratio_to_weights == pytest.approx(len(content) / weights)
    assert report.ratio_to_saved_model == pytest.approx(len(content) / report.saved_model_bytes)
    assert [path.name for path in good.tflite.parent.iterdir()] == ["model.tflite"], "nothing is left beside the file"


@pytest.mark.slow
def test_the_model_is_frozen_and_folded(made: Made, good: Ran) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    report = good.report
    assert report.conversion.ops_before["ReadVariableOp"] == len(made.keras.get_weights())
    assert report.conversion.variable_reads_before == len(made.keras.get_weights())
    assert report.conversion.variable_reads_frozen == 0
    assert "ReadVariableOp" not in report.conversion.ops_frozen
    assert (report.batch_norms_before, report.batch_norms_frozen, report.scales_and_shifts_left) == (1, 1, 0)
    plain = Interpreter(
        model_path=str(good.tflite), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    assert report.ops_after == Counter(op["op_name"] for op in plain._get_ops_details())
    assert report.ops_after["CONV_2D"] == report.ops_after["FULLY_CONNECTED"] == 1
    assert not {"QUANTIZE", "DEQUANTIZE", "RELU"} & set(report.ops_after)
    assert report.conversion.seconds > 0


@pytest.mark.slow
def test_the_file_keeps_the_signature_and_int8_edges(good: Ran) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(good.tflite))
    assert interpreter.get_signature_list() == {"dense": {"inputs": ["image"], "outputs": ["probabilities"]}}
    runner = interpreter.get_signature_runner("dense")
    for edge, detail in (
        (good.report.inputs[0], runner.get_input_details()["image"]),
        (good.report.outputs[0], runner.get_output_details()["probabilities"]),
    ):
        assert (edge.dtype, np.dtype(detail["dtype"]).name) == ("int8", "int8")
        assert (edge.scale, edge.zero_point) == pytest.approx(detail["quantization"])
        assert edge.shape == tuple(detail["shape_signature"])
    assert [edge.shape for edge in (*good.report.inputs, *good.report.outputs)] == [(1, 64), (1, 10)]


@pytest.mark.slow
def test_the_summary_tells_the_report(good: Ran) -> None:
    summary = quantize.summarise(good.outputs)
    assert good.report.ratio_to_weights is not None
    report, compared = good.report, good.report.comparison
    assert summary.refusal is None
    assert f"accuracy {compared.accuracy_float:.4f}".replace(" 0.", " .") in summary.headline
    assert f"({report.ratio_to_weights:.2f}×)" in summary.headline  # noqa: RUF001
    assert len(summary.headline) <= 50
    assert summary.metrics["tflite_bytes"] == report.tflite_bytes
    assert summary.metrics["accuracy_tflite"] == compared.accuracy_tflite
    assert summary.params["representative_examples"] == "200"
    ops = {row[0]: row[1:] for row in summary.tables["ops"].rows}
    assert ops["ReadVariableOp"] == (report.conversion.variable_reads_before, 0, 0)
    assert ops["CONV_2D"] == (0, 0, 1)
    row = dict(zip(summary.tables["tflite"].columns, summary.tables["tflite"].rows[0], strict=True))
    assert (row["variant"], row["bytes"], row["accuracy"]) == ("int8", report.tflite_bytes, compared.accuracy_tflite)
    assert json.loads(Path(summary.files[0]).read_text(encoding="utf-8"))["sha256"] == report.sha256


@pytest.mark.slow
def test_float_edges_and_an_open_batch_give_the_same_accuracy(made: Made, good: Ran, tmp_path: Path) -> None:
    ran = run_stage(made, tmp_path, CONFIG.model_copy(update={"edges": "float", "batch": "any", "batch_size": 100}))
    assert [edge.dtype for edge in (*ran.report.inputs, *ran.report.outputs)] == ["float32", "float32"]
    assert [edge.shape for edge in (*ran.report.inputs, *ran.report.outputs)] == [(-1, 64), (-1, 10)]
    assert ran.report.inputs[0].scale is None
    assert ran.report.ops_after["QUANTIZE"] == ran.report.ops_after["DEQUANTIZE"] == 1
    compared = ran.report.comparison
    assert compared.eval_examples == 450
    assert compared.accuracy_float == good.report.comparison.accuracy_float
    assert compared.accuracy_tflite == pytest.approx(good.report.comparison.accuracy_tflite, abs=2 / 450)


@pytest.mark.slow
def test_a_ruined_calibration_and_a_large_file_are_refused(made: Made, tmp_path: Path) -> None:
    images, digits = made.images, made.digits
    write_split(tmp_path / "dim", "train", {"image": images[:300] / 100, "digit": digits[:300]})
    write_split(tmp_path / "dim", "eval", {"image": images[TRAIN:], "digit": digits[TRAIN:]}, compression="")
    config = CONFIG.model_copy(update={"max_bytes": 1000})
    ran = run_stage(made, tmp_path, config, tmp_path / "dim")
    summary = quantize.summarise(ran.outputs)
    assert ran.tflite.exists(), "a refused model is still there to be looked at"
    assert ran.report.comparison.accuracy_drop > 0.05
    assert summary.refusal is not None
    assert summary.refusal.gate == "accuracy"
    accuracy, size = summary.refusal.reasons
    assert f"{ran.report.comparison.accuracy_drop:.4f} below" in accuracy
    assert "the limit is 0.05" in accuracy
    assert f"{ran.report.tflite_bytes} bytes, {ran.report.tflite_bytes - 1000} more than the limit of 1000" in size


@pytest.mark.slow
def test_the_gates_stand_exactly_at_their_limits(good: Ran) -> None:
    def judged(drop: float, **limits: Any) -> Any:
        compared = good.report.comparison.model_copy(update={"accuracy_drop": drop})
        return quantize.refusal(good.report.model_copy(update={"comparison": compared, "max_bytes": None, **limits}))

    assert judged(0.98 - 0.97, max_accuracy_drop=0.01) is None, "0.98 - 0.97 is 0.010000000000000009"
    assert judged(0.0101, max_accuracy_drop=0.01).gate == "accuracy"
    assert judged(0.0, max_accuracy_drop=-0.01).gate == "accuracy"
    assert judged(-0.02, max_accuracy_drop=-0.01) is None
    size = good.report.tflite_bytes
    assert judged(0.0, max_accuracy_drop=0.01, max_bytes=size) is None
    assert judged(0.0, max_accuracy_drop=0.01, max_bytes=size - 1).gate == "size"


@pytest.mark.slow
def test_a_crash_of_the_converter_is_an_error_of_the_conversion(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing_converter.py").write_text("import os\ndef convert(**_): os.abort()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(quantize, "CONVERT", "crashing_converter:convert")
    with pytest.raises(TflineError, match=r"conversion of signature 'dense' to int8 TFLite failed: .*SIGABRT"):
        quantize.quantize(made.model / "Format-Serving", made.examples, tmp_path / "out" / "model.tflite", CONFIG)
    assert not (tmp_path / "out").exists()


def convert_alone(made: Made, folder: Path, call: Callable[[Any], Any], **tracked: Any) -> bytes:
    """The stage's conversion of a model that is only `call`, without the evaluation before it."""
    import tensorflow as tf

    saved = export(folder / "model", call, [tf.TensorSpec([None, 64], tf.float32, name="image")], **tracked)
    np.savez(folder / "representative.npz", image=made.images[:20])
    return quantize._convert(saved, folder, CONFIG)[1]


@pytest.mark.slow
def test_an_op_without_a_tflite_form_is_named(made: Made, tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(TflineError, match=r"conversion .* failed: these ops have no TFLite form: AsString, StringToNumber"):
        convert_alone(made, tmp_path, lambda image: {"probabilities": tf.strings.to_number(tf.strings.as_string(image))})


@pytest.mark.slow
def test_an_op_that_stays_in_floating_point_is_named(made: Made, tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(TflineError, match=r"left ops in floating point: SIN;"):
        convert_alone(made, tmp_path, lambda image: {"probabilities": tf.nn.softmax(tf.sin(image / 16.0)[:, :10])})


@pytest.mark.slow
def test_an_lstm_becomes_one_integer_op(made: Made, tmp_path: Path) -> None:
    """A frozen graph as the converter's input ends in a segmentation fault here, an open batch dimension in an error."""
    import tf_keras

    layers = [tf_keras.layers.Reshape((8, 8), input_shape=(64,)), tf_keras.layers.LSTM(8), tf_keras.layers.Dense(10, "softmax")]
    model = tf_keras.Sequential(layers)
    content = convert_alone(made, tmp_path, lambda image: {"probabilities": model(image, training=False)}, model=model)
    assert tflite_evaluate.list_ops(content)["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert tflite_evaluate.float_ops(content) == []


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Array]]:
    """A model of three inputs, one whole numbers, one with a name that is no Python word; a probability and a second output."""
    import tensorflow as tf

    home = tmp_path_factory.mktemp("several")
    generator = np.random.default_rng(3)
    columns: dict[str, Array] = {
        "zone": generator.integers(0, 5, 400),
        "miles-x": generator.uniform(0, 1, (400, 2)).astype(np.float32),
        "bias": generator.uniform(-1, 1, (400, 1)).astype(np.float32),
    }
    table = tf.Variable(generator.normal(size=(5, 2)).astype(np.float32))

    def call(zone: Any, miles: Any, bias: Any) -> Any:
        total = tf.reduce_sum(tf.gather(table, zone) * miles, axis=1, keepdims=True) - 3.0 * bias
        return {"tip": tf.sigmoid(total), "score": total}

    specs = [
        tf.TensorSpec([None], tf.int64, name="zone"),
        tf.TensorSpec([None, 2], tf.float32, name="miles-x"),
        tf.TensorSpec([None, 1], tf.float32, name="bias"),
    ]
    export(home / "model", call, specs, table=table)
    total = (table.numpy()[columns["zone"]] * columns["miles-x"]).sum(axis=1) - 3 * columns["bias"][:, 0]
    columns["tipped"] = (total > 0).astype(np.int64)
    write_split(home / "examples", "train", columns)
    write_split(home / "examples", "eval", columns)
    return home / "model", home / "examples", columns


@pytest.mark.slow
def test_several_inputs_and_a_single_probability(several: tuple[Path, Path, dict[str, Array]], tmp_path: Path) -> None:
    model, examples, columns = several
    config = quantize.Config(label="tipped", output="tip", max_accuracy_drop=0.05, batch_size=64, representative_examples=1000)
    report = quantize.quantize(model, examples, tmp_path / "model.tflite", config)
    assert [(edge.name, edge.dtype) for edge in report.inputs] == [("bias", "int8"), ("miles-x", "int8"), ("zone", "int64")]
    assert report.comparison.accuracy_float == 1.0, "the label is the float model's own answer"
    assert report.comparison.accuracy_tflite > 0.95
    assert report.comparison.max_difference < 0.1
    assert report.representative_examples == 400, "the split has no more"
    assert [row[:2] for row in report.comparison.labels.rows] == [
        (label, int((columns["tipped"] == label).sum())) for label in (0, 1)
    ]


@pytest.mark.slow
def test_an_example_without_a_feature_is_named_by_the_stage(made: Made, tmp_path: Path) -> None:
    write_split(tmp_path / "lacking", "train", {"digit": made.digits[:10], "pixels": made.images[:10]})
    with pytest.raises(TflineError, match=r"an example of the train split has no feature 'image'; it has \['digit', 'pixels'\]"):
        quantize.quantize(made.model / "Format-Serving", tmp_path / "lacking", tmp_path / "model.tflite", CONFIG)


def prepare(model: Path, examples: Path, folder: Path, **changes: Any) -> tflite_convert.Prepared:
    """The subprocess's function, called here: its errors need no process of their own to be seen."""
    arguments: dict[str, Any] = {
        "signature": "dense",
        "output": None,
        "label": "digit",
        "train_split": "train",
        "eval_split": "eval",
        "representative_examples": 50,
        "seed": 0,
        "batch_size": 64,
    } | changes
    folder.mkdir(exist_ok=True)
    return tflite_convert.Prepared.model_validate(
        tflite_convert.prepare(saved_model_dir=str(model), examples_dir=str(examples), folder=str(folder), **arguments)
    )


@pytest.mark.slow
def test_the_representative_examples_come_from_the_whole_training_split(made: Made, tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> set[int]:
        prepare(made.model / "Format-Serving", made.examples, tmp_path / name, seed=seed)
        with np.load(tmp_path / name / "representative.npz", allow_pickle=False) as saved:
            rows = {image.tobytes() for image in saved["image"]}
        return {index for index, image in enumerate(made.images) if image.tobytes() in rows}

    first, again, other = drawn("a", 1), drawn("b", 1), drawn("c", 2)
    assert len(first) == 50
    assert max(first) < TRAIN, "never from the eval split"
    assert [sum(low <= index < low + 449 for index in first) >= 8 for low in (0, 449, 898)] == [True] * 3
    assert first == again
    assert first != other


def split_of(made: Made, folder: Path, split: str, image: Array | None = None, digit: Array | None = None) -> Path:
    """The examples with one split replaced by a small one."""
    folder.mkdir()
    for name in {"train", "eval"} - {split}:
        (folder / f"Split-{name}").symlink_to(made.examples / f"Split-{name}")
    columns = {"image": made.images[:20] if image is None else image, "digit": made.digits[:20] if digit is None else digit}
    write_split(folder, split, columns)
    return folder


def broken(made: Made, tmp_path: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """What the message has to say, the examples that are wrong, the settings that are."""
    nan = made.images[:20].copy()
    nan[3, 7] = np.nan
    nothing: Array = np.zeros((0, 64), np.float32)
    yield (
        r"feature 'image' of the train split has 1 values that are NaN or infinite: no calibration",
        split_of(made, tmp_path / "1", "train", nan),
        {},
    )
    yield r"'image' of the eval split has 1 values that are NaN .* no evaluation", split_of(made, tmp_path / "2", "eval", nan), {}
    yield r"the eval split is empty: 2 files", split_of(made, tmp_path / "3", "eval", nothing, made.digits[:0]), {}
    yield (
        r"feature 'image' of the eval split is a int64_list; the signature needs a float_list",
        split_of(made, tmp_path / "4", "eval", made.images[:20].astype(np.int64)),
        {},
    )
    yield (
        r"feature 'image' of the eval split has 60 values; the signature needs 64",
        split_of(made, tmp_path / "5", "eval", made.images[:20, :60]),
        {},
    )
    yield (
        r"no signature 'deep'; it has \['dense'\]",
        made.examples,
        {"signature": "deep"},
    )
    yield r"no output 'logits'; it has \['probabilities'\]", made.examples, {"output": "logits"}
    yield r"the label 'number' of the eval split is a missing feature", made.examples, {"label": "number"}
    yield r"the label 'image' is an input", made.examples, {"label": "image"}
    yield r"the test split has no files .* splits there: \['eval', 'train'\]", made.examples, {"eval_split": "test"}


@pytest.mark.slow
def test_what_cannot_be_judged_is_an_error_that_says_why(made: Made, tmp_path: Path) -> None:
    seen = 0
    for message, examples, changes in broken(made, tmp_path):
        with pytest.raises(TflineError, match=message):
            prepare(made.model / "Format-Serving", examples, tmp_path / "work", **changes)
        seen += 1
    assert seen == 10


@pytest.mark.slow
def test_of_several_outputs_one_has_to_be_named(several: tuple[Path, Path, dict[str, Array]], tmp_path: Path) -> None:
    with pytest.raises(TflineError, match=r"has the outputs \['score', 'tip'\]: say in `output`"):
        prepare(several[0], several[1], tmp_path / "work", label="tipped")


@pytest.mark.slow
def test_a_label_that_is_no_class_and_a_missing_signature_are_errors(made: Made, good: Ran, tmp_path: Path) -> None:
    content = good.tflite.read_bytes()
    runner = tflite_evaluate.TFLiteRunner(content, "dense", ["image"])
    np.savez(tmp_path / "eval.npz", input_0=made.images[:2], label=np.array([3.0, 12.0]), expected=np.full((2, 10), 0.1))
    with pytest.raises(TflineError, match=r"the label 12 is none of the 10 classes of output 'probabilities'"):
        tflite_evaluate.compare(runner, "probabilities", [tmp_path / "eval.npz"], ["image"])
    with pytest.raises(TflineError, match=r"no signature 'serving_default' .* finds \['dense'\]"):
        tflite_evaluate.TFLiteRunner(content, "serving_default", ["image"])
    with pytest.raises(TflineError, match=r"takes \['image'\], the SavedModel's signature 'dense' \['picture'\]"):
        tflite_evaluate.TFLiteRunner(content, "dense", ["picture"])


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    scale=st.floats(1e-4, 10),
    zero_point=st.integers(-128, 127),
)
def test_quantizing_is_within_half_a_step_inside_the_range_and_clips_outside(
    values: list[float], scale: float, zero_point: int
) -> None:
    edge = Edge(name="x", shape=(1,), dtype="int8", scale=scale, zero_point=zero_point)
    stored = edge.stored(np.array(values))
    assert stored.dtype == np.int8
    low, high = edge.real(np.array([-128, 127], np.int8))
    for value, back in zip(values, edge.real(stored), strict=True):
        assert abs(back - min(max(value, low), high)) <= scale / 2 * (1 + 1e-9)


@given(sizes=st.lists(st.integers(1, 40), max_size=6), count=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_the_draw_is_without_replacement_and_depends_on_the_seed_alone(sizes: list[int], count: int, seed: int) -> None:
    records = [str(index).encode() for index in range(sum(sizes))]
    edges = np.cumsum([0, *sizes])
    batches = [records[start:stop] for start, stop in pairwise(edges)]
    pool = tflite_convert._draw(iter(batches), count, seed)
    assert len(pool) == len(set(pool)) == min(count, len(records))
    assert set(pool) <= set(records)
    assert pool == tflite_convert._draw(iter(batches), count, seed)


def test_every_record_is_drawn_equally_often() -> None:
    records = [[bytes([index]) for index in range(start, start + 10)] for start in (0, 10, 20, 30)]
    tally = Counter(record for seed in range(2000) for record in tflite_convert._draw(iter(records), 10, seed))
    # 2000 draws with chance 1/4: 500 expected, standard deviation 19.4; the bounds are at 4.6 of it.
    assert len(tally) == 40
    assert all(410 <= count <= 590 for count in tally.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("lable", "digit"), ("train_split", "../train"), ("max_accuracy_drop", float("nan")), ("representative_examples", 0)],
)
def test_a_wrong_setting_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        quantize.Config.model_validate({"label": "digit", field: value})
