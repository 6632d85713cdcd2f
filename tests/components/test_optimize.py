from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from components import isolate, optimize
from components.errors import TflineError
from components.variants import evaluation, source
from components.variants.config import Config, Gates, SliceGate
from components.variants.page import render
from components.variants.report import Report
from serving.store import tree_digest
from serving.tflite_metadata import content_intact, read_metadata
from tests.components.tiny_net import TRAIN, Array, Tiny, call_here, save, write_split

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]

POST_TRAINING = ("float32", "float16", "dynamic", "int8", "int8_io", "int16x8")
GATES = Gates(max_accuracy_drop=0.05)
CONFIG = Config(label="digit", gates=GATES, latency_calls=20)


class Ran(NamedTuple):
    report: Report
    tflite: Path
    outputs: dict[str, list[str]]

    def file(self, name: str) -> Path:
        return Path(self.outputs["report"][0], "variants", f"{name}.tflite")


def run_stage(tiny: Tiny, home: Path, config: Config, **replaced: Path) -> Ran:
    outputs = {"tflite": home / "tflite", "report": home / "report"}
    for folder in outputs.values():
        folder.mkdir(parents=True)
    optimize.run({**tiny.inputs, **replaced}, outputs, config, tiny.user_model())
    report = Report.model_validate_json((home / "report" / "report.json").read_text(encoding="utf-8"))
    return Ran(report, home / "tflite" / "model.tflite", {key: [str(path)] for key, path in outputs.items()})


@pytest.fixture(scope="module")
def all_six(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    slices = {"slices": (("parity",), ("digit", "parity"))}
    return run_stage(tiny, tmp_path_factory.mktemp("six"), CONFIG.model_copy(update={"variants": POST_TRAINING, **slices}))


def independent_loop(tflite: Path, images: Array) -> Array:
    """A model's real outputs by a loop that shares nothing with the stage: tensors by position, one example a call."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(tflite))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = source["quantization"], target["quantization"]
    answers = []
    for image in images:
        stored = [[min(127, max(-128, round(float(pixel) / scale) + zero)) for pixel in image]] if scale else [image]
        interpreter.set_tensor(source["index"], np.array(stored, source["dtype"]))
        interpreter.invoke()
        given = interpreter.get_tensor(target["index"])[0]
        answers.append([out_scale * (int(value) - out_zero) if out_scale else float(value) for value in given])
    return np.array(answers)


@pytest.mark.parametrize("name", POST_TRAINING)
def test_what_is_measured_equals_an_independent_loop(tiny: Tiny, all_six: Ran, name: str) -> None:
    images, digits = tiny.images[TRAIN:], tiny.digits[TRAIN:]
    given, wanted = independent_loop(all_six.file(name), images), tiny.answer(images)
    made = all_six.report.row(name).made
    assert made is not None
    compared = made.measured.comparison
    right_float, right = wanted.argmax(axis=1) == digits, given.argmax(axis=1) == digits
    assert compared.eval_examples == 450
    assert compared.accuracy_float == pytest.approx(right_float.mean())
    assert compared.accuracy_float > 0.85, "a model that learnt nothing would prove nothing"
    assert compared.accuracy_tflite == pytest.approx(right.mean())
    assert compared.accuracy_drop == pytest.approx(right_float.mean() - right.mean())
    assert compared.agreement == pytest.approx((wanted.argmax(axis=1) == given.argmax(axis=1)).mean())
    assert compared.rms_difference == pytest.approx(np.sqrt(((wanted - given) ** 2).mean()), rel=1e-3, abs=1e-6)
    assert compared.max_difference == pytest.approx(np.abs(wanted - given).max(), rel=1e-3, abs=1e-5)
    assert compared.labels.columns == ("label", "examples", "float", "tflite")
    assert [row[0] for row in compared.labels.rows] == list(range(10))
    for label, count, share_float, share in compared.labels.rows:
        mine = digits == label
        assert count == mine.sum()
        assert (share_float, share) == pytest.approx((right_float[mine].mean(), right[mine].mean()))
    slices = {row[0]: row[1:] for row in compared.slices.rows}
    assert len(slices) == 12
    odd = digits % 2 == 1
    assert slices["parity:odd"] == pytest.approx((odd.sum(), right_float[odd].mean(), right[odd].mean()))
    seven = digits == 7
    assert slices["digit:7,parity:odd"] == pytest.approx((seven.sum(), right_float[seven].mean(), right[seven].mean()))


def test_each_way_of_converting_does_what_it_is_for(tiny: Tiny, all_six: Ran) -> None:
    rows = {row.name: row.made for row in all_six.report.rows}
    made = {name: each for name, each in rows.items() if each is not None}
    assert list(made) == list(POST_TRAINING)
    size = {name: each.bytes for name, each in made.items()}
    assert size["float16"] < 0.65 * size["float32"]
    assert max(size["dynamic"], size["int8"], size["int8_io"], size["int16x8"]) < 0.45 * size["float32"]
    edges = {name: {edge.dtype for edge in (*each.measured.inputs, *each.measured.outputs)} for name, each in made.items()}
    assert edges == {name: {"int8" if name == "int8_io" else "float32"} for name in POST_TRAINING}
    assert made["int8_io"].measured.float_ops == ()
    assert set(made["int8"].measured.float_ops) == {"QUANTIZE", "DEQUANTIZE"}
    assert "CONV_2D" in made["float32"].measured.float_ops
    differences = {name: each.measured.comparison.rms_difference for name, each in made.items()}
    assert differences["float32"] < 1e-6 < differences["float16"] < differences["int8_io"] < 0.1
    assert {each.measured.ops["CONV_2D"] for each in made.values()} == {1}
    # Activations: 8 of 8 by 8 and the input, 1 byte each, or 4, and what the kernels lay out of it.
    arena = {name: each.measured.arena_bytes for name, each in made.items()}
    assert 512 + 64 < arena["int8_io"] < 2000 < 4 * (512 + 64) < arena["float32"] < 8000
    for each in made.values():
        assert 0 < each.measured.latency.p50_ms <= each.measured.latency.p95_ms < 100
        assert each.measured.latency.calls == 20
        assert each.ratio == each.bytes / size["float32"]


def test_sizes_and_digests_are_those_of_the_files(tiny: Tiny, all_six: Ran) -> None:
    report, saved = all_six.report, tiny.inputs["model"] / "Format-Serving"
    for row in report.rows:
        content = all_six.file(row.name).read_bytes()
        assert row.made is not None
        assert row.made.sha256 == hashlib.sha256(content).hexdigest()
        assert row.made.bytes == len(content)
        assert len(gzip.decompress(gzip.compress(content))) == len(content) > row.made.gzip_bytes > 0
    weights = sum(weight.nbytes for weight in tiny.weights)
    float_model = report.float_model
    assert float_model.graphs.float_weights_bytes == weights
    assert report.best.ratio_to_weights == pytest.approx(report.best.bytes / weights)
    assert float_model.saved_model_pb_bytes == (saved / "saved_model.pb").stat().st_size
    assert float_model.saved_model_bytes == sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    assert [path.name for path in all_six.tflite.parent.iterdir()] == ["model.tflite"], "nothing is left beside the file"


def test_the_smallest_is_shipped_and_the_summary_tells_all(all_six: Ran) -> None:
    report = all_six.report
    smallest = min(report.rows, key=lambda row: row.made.bytes if row.made else 0)
    assert report.chosen == smallest.name
    assert all_six.tflite.read_bytes() == all_six.file(smallest.name).read_bytes()
    summary = optimize.summarise(all_six.outputs)
    assert summary.refusal is None
    assert summary.headline.startswith(f"{smallest.name} ")
    assert len(summary.headline) <= 50
    assert summary.metrics["tflite_bytes"] == report.best.bytes
    assert summary.metrics["accuracy_tflite"] == report.best.measured.comparison.accuracy_tflite
    assert set(summary.nested) == set(POST_TRAINING)
    assert summary.nested["float32"]["accuracy_drop"] == 0.0
    rows = {row[0]: dict(zip(summary.tables["variants"].columns, row, strict=True)) for row in summary.tables["variants"].rows}
    assert {row["result"] for row in rows.values()} == {"chosen", "passes"}
    assert rows[report.chosen]["result"] == "chosen"
    assert [Path(file).name for file in summary.files] == ["report.html", "report.json", "accuracy_by_size.png"]
    page, told, plot = map(Path, summary.files)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads(told.read_text(encoding="utf-8"))["chosen"] == report.chosen
    assert page.read_text(encoding="utf-8") == render(report)


def test_freezing_and_folding_are_counted(tiny: Tiny, all_six: Ran) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graphs, made = all_six.report.float_model.graphs, all_six.report.row("int8_io").made
    assert made is not None
    assert graphs.variables == graphs.reads == len(tiny.weights)
    assert (graphs.frozen_reads, graphs.optimised_reads) == (0, 0)
    assert "ReadVariableOp" not in graphs.frozen
    assert (graphs.frozen["Conv2D"], graphs.frozen["FusedBatchNormV3"], graphs.frozen["Relu"]) == (1, 1, 1)
    assert sum(graphs.optimised.values()) < sum(graphs.frozen.values()) < sum(graphs.saved_model.values())
    assert "FusedBatchNormV3" not in graphs.optimised, "Grappler merges it with what comes after"
    assert (all_six.report.float_model.batch_norms, made.scales_and_shifts_left) == (1, 0)
    plain = Interpreter(
        model_path=str(all_six.file("int8_io")), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    assert made.measured.ops == Counter(op["op_name"] for op in plain._get_ops_details())
    table = optimize.summarise(all_six.outputs).tables["graphs"]
    assert table.columns == ("op", "saved_model", "frozen", "optimised", "tflite")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["(variable reads)"] == (len(tiny.weights), 0, 0, 0)
    assert rows["CONV_2D"] == (0, 0, 0, 1)


def test_each_file_says_what_it_is(tiny: Tiny, all_six: Ran, tmp_path: Path) -> None:
    for row in all_six.report.rows:
        content = all_six.file(row.name).read_bytes()
        told = read_metadata(content)
        assert told is not None and row.made is not None
        assert content_intact(content)
        assert (told.model_name, told.variant, told.signature, told.features) == ("model", row.name, "dense", "raw")
        assert told.saved_model_digest == tree_digest(tiny.inputs["model"] / "Format-Serving")
        assert told.transform is not None
        assert told.transform.digest == tree_digest(tiny.inputs["transform_graph"])
        assert [edge.model_dump() for edge in told.inputs] == [edge.model_dump() for edge in row.made.measured.inputs]
    named = optimized(tiny.inputs, tmp_path, variants=("float32",), labels=tuple("0123456789"))
    told = read_metadata((tmp_path / "model.tflite").read_bytes())
    assert told is not None
    assert (told.labels, told.labels_of) == (tuple("0123456789"), named.output)
    with pytest.raises(TflineError, match=r"optimize.labels: 2 labels for output 'probabilities' with 10 values"):
        optimized(tiny.inputs, tmp_path, variants=("float32",), labels=("yes", "no"))


def test_one_variant_keeps_the_headline_of_accuracies_and_draws_nothing(tiny: Tiny, tmp_path: Path) -> None:
    ran = run_stage(tiny, tmp_path, CONFIG)
    summary = optimize.summarise(ran.outputs)
    compared = ran.report.best.measured.comparison
    assert ran.report.chosen == "int8_io"
    assert f"accuracy {compared.accuracy_float:.4f}".replace(" 0.", " .") in summary.headline
    assert summary.nested == {}
    assert [Path(file).name for file in summary.files] == ["report.html", "report.json"]
    assert "<svg" not in Path(summary.files[0]).read_text(encoding="utf-8"), "one point is no picture"
    assert ran.report.float_model.reference == "weights"
    assert ran.report.best.ratio == ran.report.best.ratio_to_weights


def test_an_open_batch_gives_the_same_accuracy(tiny: Tiny, all_six: Ran, tmp_path: Path) -> None:
    ran = run_stage(tiny, tmp_path, CONFIG.model_copy(update={"variants": ("int8",), "batch": "any", "batch_size": 100}))
    made, before = ran.report.best.measured, all_six.report.row("int8").made
    assert before is not None
    assert [edge.shape for edge in (*made.inputs, *made.outputs)] == [(-1, 64), (-1, 10)]
    assert made.comparison.eval_examples == 450
    assert made.comparison.accuracy_tflite == pytest.approx(before.measured.comparison.accuracy_tflite, abs=2 / 450)


def test_a_ruined_calibration_and_a_large_file_are_refused_but_kept(tiny: Tiny, tmp_path: Path) -> None:
    images, digits = tiny.images, tiny.digits
    write_split(tmp_path / "dim", "train", {"image": images[:300] / 100, "digit": digits[:300]})
    write_split(tmp_path / "dim", "eval", {"image": images[TRAIN:], "digit": digits[TRAIN:]}, compression="")
    gates = Gates(max_accuracy_drop=0.05, max_bytes=1000)
    ran = run_stage(tiny, tmp_path / "out", CONFIG.model_copy(update={"gates": gates}), examples=tmp_path / "dim")
    summary = optimize.summarise(ran.outputs)
    made = ran.report.best
    assert ran.tflite.exists(), "a refused model is still there to be looked at"
    assert summary.refusal is not None
    assert summary.refusal.gate == "accuracy"
    accuracy, size = summary.refusal.reasons
    assert made.measured.comparison.accuracy_drop > 0.05
    assert f"{made.measured.comparison.accuracy_drop:.4f} below" in accuracy
    assert f"{made.bytes} bytes, {made.bytes - 1000} more than the limit of 1000" in size


def converter(monkeypatch: pytest.MonkeyPatch, folder: Path, lines: str) -> None:
    """Puts another converter in the place of TFLite's for "int8_io", in a process of its own, as the stage does."""
    (folder / "other_converter.py").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))

    def run(function: str, arguments: dict[str, Any], **options: Any) -> Any:
        replaced = function == optimize.CONVERT and arguments["kind"] == "int8_io"
        called = isolate.run_isolated if replaced else call_here
        return called("other_converter:convert" if replaced else function, arguments, **options)

    monkeypatch.setattr(source, "run_isolated", run)


def test_a_crash_of_the_converter_is_the_reason_of_its_row_and_fails_a_run_of_nothing_else(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter(monkeypatch, tmp_path, "import os\ndef convert(**_): os.abort()\n")
    ran = run_stage(tiny, tmp_path / "two", CONFIG.model_copy(update={"variants": ("int8_io", "dynamic")}))
    crashed, well = ran.report.rows
    assert crashed.made is None
    assert "conversion of signature 'dense' to int8_io TFLite failed" in crashed.reason and "SIGABRT" in crashed.reason
    assert well.passed
    assert ran.report.chosen == "dynamic"
    table = optimize.summarise(ran.outputs).tables["variants"]
    assert str(table.rows[0][-1]).startswith("not made: the conversion")
    with pytest.raises(TflineError, match=r"no variant of signature 'dense' could be made: the conversion .*SIGABRT"):
        run_stage(tiny, tmp_path / "one", CONFIG)
    assert not list((tmp_path / "one" / "tflite").iterdir())


def test_a_conversion_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converter(monkeypatch, tmp_path, "import time\ndef convert(**_): time.sleep(600)\n")
    config = CONFIG.model_copy(update={"timeout_seconds": 1.0})
    bench = optimize._Bench({}, tmp_path, config, None, source.Source(None))  # type: ignore[arg-type]
    row, _ = bench.row(CONFIG.chosen()[0])
    assert "took longer than 1 s and was stopped" in row.reason


def test_gates_on_a_slice_and_on_integers_decide_who_is_shipped(tiny: Tiny, tmp_path: Path) -> None:
    gates = Gates(max_accuracy_drop=0.05, integer_only=True, slices=(SliceGate(slice={"parity": "odd"}, max_accuracy_drop=0.2),))
    ran = run_stage(tiny, tmp_path / "a", CONFIG.model_copy(update={"variants": ("float32", "int8", "int8_io"), "gates": gates}))
    broken = {row.name: [each.gate for each in row.broken] for row in ran.report.rows}
    assert broken == {"float32": ["integer"], "int8": ["integer"], "int8_io": []}
    assert ran.report.chosen == "int8_io"
    assert optimize.summarise(ran.outputs).refusal is None
    nobody = Gates(slices=(SliceGate(slice={"parity": "both"}, max_accuracy_drop=0.2),))
    with pytest.raises(TflineError, match=r"no example of the eval split is in the slice parity:both"):
        run_stage(tiny, tmp_path / "b", CONFIG.model_copy(update={"gates": nobody}))


def small_net(tiny: Tiny, folder: Path, call: Callable[[Any], Any], **tracked: Any) -> Mapping[str, Path]:
    """The stage's inputs with a model that is only `call`."""
    import tensorflow as tf

    save(folder / "Format-Serving", call, [tf.TensorSpec([None, 64], tf.float32, name="image")], **tracked)
    return {**tiny.inputs, "model": folder}


def optimized(inputs: Mapping[str, Path], folder: Path, **changes: Any) -> Report:
    config = CONFIG.model_copy(update={"gates": Gates(max_accuracy_drop=1.0), **changes})
    return optimize.optimize(inputs, folder / "model.tflite", folder, config)


def test_an_op_without_a_tflite_form_is_named(tiny: Tiny, tmp_path: Path) -> None:
    import tensorflow as tf

    inputs = small_net(tiny, tmp_path, lambda image: {"chances": tf.strings.to_number(tf.strings.as_string(image))})
    with pytest.raises(TflineError, match=r"conversion .* failed: these ops have no TFLite form: AsString, StringToNumber"):
        optimized(inputs, tmp_path)


def test_an_op_that_stays_in_floating_point_is_named_and_only_refused_where_none_may(tiny: Tiny, tmp_path: Path) -> None:
    import tensorflow as tf

    inputs = small_net(tiny, tmp_path, lambda image: {"chances": tf.nn.softmax(tf.sin(image / 16.0)[:, :10])})
    report = optimized(inputs, tmp_path, variants=("int8_io", "int8"))
    assert "left ops in floating point: SIN;" in report.row("int8_io").reason
    made = report.row("int8").made
    assert made is not None
    assert made.measured.float_ops == ("SIN",)
    assert report.float_model.reference == "SavedModel", "there are no weights"


def test_an_lstm_becomes_one_integer_op(tiny: Tiny, tmp_path: Path) -> None:
    """A frozen graph as the converter's input ends in a segmentation fault here, an open batch dimension in an error."""
    import tf_keras

    layers = [tf_keras.layers.Reshape((8, 8), input_shape=(64,)), tf_keras.layers.LSTM(8), tf_keras.layers.Dense(10, "softmax")]
    model = tf_keras.Sequential(layers)
    report = optimized(small_net(tiny, tmp_path, lambda image: {"chances": model(image, training=False)}, model=model), tmp_path)
    assert report.best.measured.ops["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    assert report.best.measured.float_ops == ()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, Path], dict[str, Array]]:
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
    save(home / "Format-Serving", call, specs, table=table)
    total = (table.numpy()[columns["zone"]] * columns["miles-x"]).sum(axis=1) - 3 * columns["bias"][:, 0]
    columns["tipped"] = (total > 0).astype(np.int64)
    write_split(home / "examples", "train", columns)
    write_split(home / "examples", "eval", columns)
    return {"model": home, "examples": home / "examples"}, columns


def test_several_inputs_and_a_single_probability(several: tuple[Mapping[str, Path], dict[str, Array]], tmp_path: Path) -> None:
    inputs, columns = several
    report = optimized(inputs, tmp_path, label="tipped", output="tip", batch_size=64, representative_examples=1000)
    measured = report.best.measured
    assert [(edge.name, edge.dtype) for edge in measured.inputs] == [("bias", "int8"), ("miles-x", "int8"), ("zone", "int64")]
    assert measured.comparison.accuracy_float == 1.0, "the label is the float model's own answer"
    assert measured.comparison.accuracy_tflite > 0.95
    assert measured.comparison.max_difference < 0.1
    assert report.representative_examples == 400, "the split has no more"
    assert [row[:2] for row in measured.comparison.labels.rows] == [
        (label, int((columns["tipped"] == label).sum())) for label in (0, 1)
    ]


def test_of_several_outputs_one_has_to_be_named(several: tuple[Mapping[str, Path], dict[str, Array]], tmp_path: Path) -> None:
    with pytest.raises(TflineError, match=r"has the outputs \['score', 'tip'\]: say in `output`"):
        optimized(several[0], tmp_path, label="tipped")


def test_an_example_without_a_feature_is_named_by_the_stage(tiny: Tiny, tmp_path: Path) -> None:
    write_split(tmp_path / "lacking", "train", {"digit": tiny.digits[:10], "pixels": tiny.images[:10]})
    with pytest.raises(TflineError, match=r"an example of the train split has no feature 'image'; it has \['digit', 'pixels'\]"):
        optimized({**tiny.inputs, "examples": tmp_path / "lacking"}, tmp_path)


def test_a_label_that_is_no_class_and_a_missing_signature_are_errors(tiny: Tiny, all_six: Ran, tmp_path: Path) -> None:
    content = all_six.file("int8_io").read_bytes()
    runner = evaluation.TFLiteRunner(content, "dense", ["image"])
    nobody = np.zeros(0, np.int64)
    arrays = {"label": np.array([3.0, 12.0]), "expected": np.full((2, 10), 0.1), "slice_rows": nobody, "slice_ids": nobody}
    np.savez(tmp_path / "eval.npz", input_0=tiny.images[:2], **arrays)
    with pytest.raises(TflineError, match=r"the label 12 is none of the 10 classes of output 'probabilities'"):
        evaluation.compare(runner, "probabilities", [tmp_path / "eval.npz"], ["image"])
    with pytest.raises(TflineError, match=r"no signature 'serving_default' .* finds \['dense'\]"):
        evaluation.TFLiteRunner(content, "serving_default", ["image"])
    with pytest.raises(TflineError, match=r"takes \['image'\], the SavedModel's signature 'dense' \['picture'\]"):
        evaluation.TFLiteRunner(content, "dense", ["picture"])
