"""validate_model: a small SavedModel that passes, and one broken in each way that has to be noticed.

The slow tests share one export, copy it and break the copy. Most run `examine`, the function of the fresh process, in this one;
those on crashes, hangs and errors across processes start it for real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components import saved_model_checks
from components.errors import TflineError
from components.saved_model_answers import Tolerance, compare
from components.validate_model import (
    CHECKS,
    Check,
    Config,
    Report,
    examine,
    run,
    summarise,
    validate_model,
)

COUNT = 12
SIGNATURES: dict[str, Any] = {
    "serving_default": {
        "inputs": {"examples": {"dtype": "string", "shape": [None]}},
        "outputs": {"p": {"dtype": "float32", "shape": [None, 2]}},
    },
    "raw": {
        "inputs": {"x": {"dtype": "float32", "shape": [None, 3]}, "word": {"dtype": "string", "shape": [None]}},
        "outputs": {"p": {"dtype": "float32", "shape": [None, 2]}},
    },
}


def config(**changed: Any) -> Config:
    return Config.model_validate({"signatures": SIGNATURES, **changed})


# A model to check, and ways to break it -----------------------------------------------------------------------------


def make_module(vocabulary: Path, change: Callable[[Any], Any] = lambda p: p, **attributes: Any) -> Any:
    """softmax(x w) plus the index of a word from a vocabulary file; `change` is applied to the answer."""
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2), name="w")
            file = tf.lookup.TextFileInitializer(
                str(vocabulary), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            )
            self.table = tf.lookup.StaticHashTable(file, -1)
            for name, value in attributes.items():
                setattr(self, name, value)

        @tf.function(
            input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x"), tf.TensorSpec([None], tf.string, name="word")]
        )
        def raw(self, x: Any, word: Any) -> Any:
            return {"p": change(tf.nn.softmax(x @ self.w) + tf.cast(self.table.lookup(word), tf.float32)[:, None])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def from_examples(self, examples: Any) -> Any:
            kinds = {"x": tf.io.FixedLenFeature([3], tf.float32), "word": tf.io.FixedLenFeature([], tf.string)}
            return self.raw(**tf.io.parse_example(examples, kinds))

    return Module()


def save(module: Any, model: Path) -> Path:
    import tensorflow as tf

    signatures = {"serving_default": module.from_examples, "raw": module.raw}
    tf.saved_model.save(module, str(model / "Format-Serving"), signatures=signatures)
    return model


def write_golden(folder: Path, answer: Callable[..., Any]) -> None:
    import tensorflow as tf

    folder.mkdir()
    x = np.random.default_rng(7).normal(size=(COUNT, 3)).astype(np.float32)
    word = np.array([b"a", b"bb", b"ccc", b"none"] * (COUNT // 4))
    with tf.io.TFRecordWriter(str(folder / "examples.tfrecord")) as writer:
        for row, text in zip(x, word, strict=True):
            features = {
                "x": tf.train.Feature(float_list=tf.train.FloatList(value=row)),
                "word": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    np.savez(folder / "inputs.npz", x=x, word=word)
    np.savez(folder / "outputs.npz", p=answer(x, word)["p"].numpy())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vocabulary.txt`, `good` (the model) and `golden`, made once."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "vocabulary.txt").write_text("a\nbb\nccc\n")
    module = make_module(folder / "vocabulary.txt")
    save(module, folder / "good")
    write_golden(folder / "golden", module.raw)
    return folder


@pytest.fixture
def model(workshop: Path, tmp_path: Path) -> Path:
    """A copy of the good model, to be broken."""
    return Path(shutil.copytree(workshop / "good", tmp_path / "model"))


def edit(model: Path, change: Callable[[Any], None]) -> None:
    """Changes the MetaGraphDef in a model's saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2

    path, proto = model / "Format-Serving" / "saved_model.pb", saved_model_pb2.SavedModel()
    proto.ParseFromString(path.read_bytes())
    change(proto.meta_graphs[0])
    path.write_bytes(proto.SerializeToString())


def check_here(model: Path, golden: Path, settings: Config | None = None) -> Report:
    """Runs the child's function in this process."""
    asked = (settings or config()).model_dump(mode="json")
    return Report.model_validate(examine(str(model / "Format-Serving"), str(golden), asked, str(model / "progress.json")))


def failed(report: Report) -> dict[str, str]:
    assert tuple(check.name for check in report.checks) == CHECKS
    return {check.name: check.detail for check in report.failed()}


# A good model --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_good_model_passes_in_a_fresh_process(workshop: Path, tmp_path: Path) -> None:
    inputs, outputs = {"model": workshop / "good", "golden": workshop / "golden"}, {"report": tmp_path}
    run(inputs, outputs, config(max_bytes=100_000))
    report = Report.model_validate_json((tmp_path / "report.json").read_text())
    assert failed(report) == {}
    serving = workshop / "good" / "Format-Serving"
    assert report.saved_model_bytes == (serving / "saved_model.pb").stat().st_size
    assert report.assets_bytes == len("a\nbb\nccc\n")
    assert report.variables_bytes > 6 * 4
    assert report.total_bytes == sum(file.stat().st_size for file in serving.rglob("*") if file.is_file())
    assert (report.variables, report.examples) == (1, COUNT)
    assert report.tensorflow_version.startswith("2.")
    assert str(report.signatures["raw"].inputs["x"]) == "float32 [None, 3]"
    assert report.ops["MatMul"] == 1
    assert report.largest_difference.keys() == {"raw", "serving_default"}
    assert all(0 <= by["p"] < 1e-6 for by in report.largest_difference.values())
    told = {check.name: check.detail for check in report.checks}
    assert told["empty_batch"] == "raw answers 0 rows; serving_default answers 0 rows"
    summary = summarise({"report": [str(tmp_path)]})
    assert summary.refusal is None
    assert summary.headline == f"9 checks passed, 2 signatures, {report.total_bytes / 1000:.0f} kB"


@pytest.mark.slow
def test_patterns_of_the_deny_list_name_real_ops() -> None:
    """A misspelt pattern would deny nothing."""
    from fnmatch import fnmatchcase

    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    registered = op_def_pb2.OpList()
    registered.ParseFromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
    names = {op.name for op in registered.op}
    patterns = {pattern for group in saved_model_checks.DENIED.values() for pattern in group}
    assert {pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)} == set()
    harmless = {
        "MatMul",
        "LookupTableFindV2",
        "ParseExampleV2",
        "InitializeTableFromTextFileV2",
        "BatchDatasetV2",
        "Print",
        "PrintV2",
    }
    assert {name for name in harmless if any(fnmatchcase(name, pattern) for pattern in patterns)} == set()


# Models broken in one way each, in the file ---------------------------------------------------------------------------


def rename_output(meta: Any) -> None:
    outputs = meta.signature_def["raw"].outputs
    outputs["q"].CopyFrom(outputs["p"])
    del outputs["p"]


def change_dtype(meta: Any) -> None:
    meta.signature_def["raw"].inputs["x"].dtype = 2  # DT_DOUBLE


def fix_batch(meta: Any) -> None:
    meta.signature_def["serving_default"].inputs["examples"].tensor_shape.dim[0].size = 1


def forget_rank(meta: Any) -> None:
    shape = meta.signature_def["raw"].outputs["p"].tensor_shape
    del shape.dim[:]
    shape.unknown_rank = True


def add_signature(meta: Any) -> None:
    meta.signature_def["extra"].CopyFrom(meta.signature_def["raw"])


def drop_signature(meta: Any) -> None:
    del meta.signature_def["raw"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_output, "raw: expected outputs ['p'], received q: {dtype: float32, shape: [null, 2]}"),
        (change_dtype, "raw: expected input 'x' as float32 [None, 3], received float64 [None, 3]"),
        (fix_batch, "serving_default: expected input 'examples' as string [None], received string [1]"),
        (forget_rank, "raw: expected output 'p' as float32 [None, 2], received float32 of unknown rank"),
        (drop_signature, "raw: the config declares this signature, the export does not have it"),
    ],
)
def test_signature_that_is_not_as_declared(model: Path, workshop: Path, change: Callable[[Any], None], message: str) -> None:
    edit(model, change)
    name = message.split(":", maxsplit=1)[0]
    expected = {"signatures": message, "numeric": f"{name}: not run, it is not what the config declares"}
    assert failed(check_here(model, workshop / "golden")) == expected


@pytest.mark.slow
def test_undeclared_signature(model: Path, workshop: Path) -> None:
    edit(model, add_signature)
    message = "extra: the export has this signature, the config does not declare it"
    assert failed(check_here(model, workshop / "golden")) == {"signatures": message}


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1000])
def test_saved_model_that_was_cut_short(model: Path, workshop: Path, size: int) -> None:
    path = model / "Format-Serving" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:size])
    found = failed(check_here(model, workshop / "golden"))
    assert list(found) == list(CHECKS[1:])
    expected = "saved_model.pb (1000 bytes) was cut short or is no SavedModel" if size else "expected a graph tagged ['serve']"
    assert found["parses"].startswith(expected)
    assert found["numeric"] == "not made: parses failed"


@pytest.mark.slow
def test_graph_for_other_tags_only(model: Path, workshop: Path) -> None:
    edit(model, lambda meta: meta.meta_info_def.tags.append("train"))
    found = failed(check_here(model, workshop / "golden"))
    assert found["parses"] == "expected a graph tagged ['serve'], saved_model.pb has [['serve', 'train']]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "check", "message"),
    [
        ("variables/variables.data-00000-of-00001", "loads", "variables.data-00000-of-00001"),
        (
            "variables/variables.index",
            "weights",
            "variables/variables.index is missing, and the graph restores its variables from it",
        ),
        ("assets/vocabulary.txt", "assets", "asset 'vocabulary.txt' is declared, assets/vocabulary.txt does not exist"),
        ("saved_model.pb", "parses", "saved_model.pb cannot be read: No such file or directory"),
    ],
)
def test_missing_file(model: Path, workshop: Path, file: str, check: str, message: str) -> None:
    (model / "Format-Serving" / file).unlink()
    found = failed(check_here(model, workshop / "golden"))
    assert message in found[check]
    assert "numeric" in found


@pytest.mark.slow
def test_damaged_index_of_variables(model: Path, workshop: Path) -> None:
    (model / "Format-Serving" / "variables" / "variables.index").write_bytes(
        b"not a table at all, but long enough to be read" * 3
    )
    found = failed(check_here(model, workshop / "golden"))
    assert found["weights"].startswith("variables/variables.index cannot be read: ")
    assert "loads" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../secret.txt", "link.txt"])
def test_asset_outside_the_model(model: Path, workshop: Path, name: str) -> None:
    (model / "secret.txt").write_text("a\n")
    (model / "Format-Serving" / "assets" / "link.txt").symlink_to(model / "secret.txt")
    edit(model, lambda meta: setattr(meta.asset_file_def[0], "filename", name))
    found = failed(check_here(model, workshop / "golden"))
    assert found["assets"] == f"asset {name!r} points outside the model's folder"
    assert found["loads"] == "not tried: assets failed, so nothing of it is run"


@pytest.mark.slow
def test_assets_in_the_collection_of_tensorflow_1(model: Path, workshop: Path) -> None:
    def move(meta: Any) -> None:
        meta.collection_def["saved_model_assets"].any_list.value.add().Pack(meta.asset_file_def[0])
        del meta.asset_file_def[:]

    edit(model, move)
    assert failed(check_here(model, workshop / "golden")) == {}
    (model / "Format-Serving" / "assets" / "vocabulary.txt").unlink()
    assert "asset 'vocabulary.txt' is declared" in failed(check_here(model, workshop / "golden"))["assets"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 5, COUNT + 1])
def test_batch_size_that_is_built_in_and_declared(model: Path, workshop: Path, size: int) -> None:
    edit(model, lambda meta: setattr(meta.signature_def["serving_default"].inputs["examples"].tensor_shape.dim[0], "size", size))
    changed = {**SIGNATURES["serving_default"], "inputs": {"examples": {"dtype": "string", "shape": [size]}}}
    report = check_here(model, workshop / "golden", config(signatures={**SIGNATURES, "serving_default": changed}))
    if size > COUNT:
        message = "serving_default: not run, 12 golden examples make no batch for inputs of [[13]]"
        assert failed(report) == {"numeric": message}
    else:
        assert failed(report) == {}
        assert report.largest_difference["serving_default"]["p"] < 1e-6
        assert f"serving_default takes batches of {size} only" in report.checks[-1].detail


@pytest.mark.slow
def test_over_budget_only(workshop: Path, tmp_path: Path) -> None:
    report = check_here(workshop / "good", workshop / "golden", config(max_bytes=1000))
    over = report.total_bytes - 1000
    assert failed(report) == {"size": f"{report.total_bytes} bytes, {over} over the budget of 1000 bytes"}
    (tmp_path / "report.json").write_text(report.model_dump_json())
    refusal = summarise({"report": [str(tmp_path)]}).refusal
    assert refusal is not None
    assert refusal.gate == "size"


# Models broken in one way each, in what they compute -----------------------------------------------------------------


@pytest.mark.slow
def test_changed_weights(workshop: Path, tmp_path: Path) -> None:
    module = make_module(workshop / "vocabulary.txt")
    module.w[0, 0].assign(-1.01)
    found = failed(check_here(save(module, tmp_path / "model"), workshop / "golden"))
    assert list(found) == ["numeric"]
    assert "raw/p, batch of 12: " in found["numeric"]
    assert "serving_default/p, batch of 12: " in found["numeric"]
    assert "values differ by more than 1e-05 + 0.0001 x |expected|, the largest by 0.00" in found["numeric"]


@pytest.mark.slow
def test_changed_vocabulary(model: Path, workshop: Path) -> None:
    (model / "Format-Serving" / "assets" / "vocabulary.txt").write_text("bb\na\nccc\n")
    found = failed(check_here(model, workshop / "golden"))
    assert list(found) == ["numeric"]
    assert "raw/p, batch of 12: 12 of 24 values differ" in found["numeric"]


@pytest.mark.slow
def test_nan_for_some_examples(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    module = make_module(
        workshop / "vocabulary.txt", lambda p: tf.math.log(tf.maximum(p, 0.0)) - tf.math.log(tf.maximum(p, 0.0)) + p
    )
    found = failed(check_here(save(module, tmp_path / "model"), workshop / "golden"))
    assert list(found) == ["numeric"]
    assert "values are NaN or Inf; at [" in found["numeric"]


@pytest.mark.slow
def test_batch_of_one_that_is_answered_differently(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    module = make_module(workshop / "vocabulary.txt", lambda p: tf.where(tf.shape(p)[0] > 1, p, p + 1.0))
    found = failed(check_here(save(module, tmp_path / "model"), workshop / "golden"))
    assert list(found) == ["numeric"]
    assert "raw/p, batch of 1: 2 of 2 values differ" in found["numeric"]
    assert "batch of 12" not in found["numeric"]


@pytest.mark.slow
def test_rows_out_of_an_empty_batch(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    module = make_module(workshop / "vocabulary.txt", lambda p: tf.cond(tf.shape(p)[0] > 0, lambda: p, lambda: tf.zeros([1, 2])))
    found = failed(check_here(save(module, tmp_path / "model"), workshop / "golden"))
    assert found == {"empty_batch": "raw answers 1 rows; serving_default answers 1 rows"}


@pytest.mark.slow
def test_error_on_an_empty_batch_is_reported(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    def refuse_nothing(p: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(p)[0], message="nothing to answer")]):
            return tf.identity(p)

    module = make_module(workshop / "vocabulary.txt", refuse_nothing)
    report = check_here(save(module, tmp_path / "model"), workshop / "golden")
    assert failed(report) == {}
    assert "raw answers with an error: InvalidArgumentError: assertion failed: [nothing to answer" in report.checks[-1].detail


@pytest.mark.slow
def test_denied_ops_are_found_and_not_run(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    victim = tmp_path / "written.txt"

    def misbehave(p: Any) -> Any:
        read = tf.strings.to_number(tf.cond(tf.size(p) > 10**6, lambda: tf.io.read_file("number.txt"), lambda: tf.constant("1")))
        with tf.control_dependencies([tf.io.write_file(str(victim), "x"), tf.print("x", output_stream=f"file://{victim}")]):
            return tf.ensure_shape(tf.py_function(lambda value: value, [p], tf.float32), [None, 2]) * read

    saved = save(make_module(workshop / "vocabulary.txt", misbehave), tmp_path / "model")
    found = failed(check_here(saved, workshop / "golden"))
    assert list(found) == ["ops", "loads", "numeric", "empty_batch"]
    for step in ("signature raw", "signature serving_default"):
        assert f"{step} reaches EagerPyFunc, which calls a Python function of the process that exported the model" in found["ops"]
        assert f"{step} reaches ReadFile, which reads a file (node 'cond/ReadFile' of function " in found["ops"]
        assert f"{step} reaches WriteFile, which writes a file" in found["ops"]
        assert f"{step} reaches PrintV2, which writes a file" in found["ops"]
    assert "SaveV2" not in found["ops"]
    assert "RestoreV2" not in found["ops"]
    assert found["loads"] == "not tried: ops failed, so nothing of it is run"
    assert not victim.exists()


@pytest.mark.slow
def test_restoring_is_for_the_restore_step_only(workshop: Path, model: Path) -> None:
    def call_restore_from_signature(meta: Any) -> None:
        wrapper = next(n for n in meta.graph_def.node if n.name == meta.signature_def["raw"].outputs["p"].name.split(":")[0])
        wrapper.input.append(f"^{meta.saver_def.restore_op_name}")

    edit(model, call_restore_from_signature)
    found = failed(check_here(model, workshop / "golden"))
    assert found["ops"].startswith("signature raw reaches RestoreV2, which reads a file")
    assert "restore op" not in found["ops"]


@pytest.mark.slow
def test_write_hidden_in_the_restore_step(workshop: Path, model: Path) -> None:
    def write_while_restoring(meta: Any) -> None:
        graph = meta.graph_def
        restore = next(n for n in graph.node if n.name == meta.saver_def.restore_op_name)
        graph.node.add(name="leak", op="WriteFile", input=["saver_filename", "saver_filename"])
        restore.input.append("^leak")

    edit(model, write_while_restoring)
    message = "the restore op reaches WriteFile, which writes a file (node 'leak')"
    assert failed(check_here(model, workshop / "golden"))["ops"] == message


@pytest.mark.slow
def test_table_filled_from_a_fixed_path(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    class Fixed(tf.lookup.TextFileInitializer):
        def initialize(self, table: Any) -> Any:
            path = str(workshop / "vocabulary.txt")
            return tf.raw_ops.InitializeTableFromTextFileV2(
                table_handle=table.resource_handle, filename=path, key_index=-2, value_index=-1
            )

    kinds = tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    table = tf.lookup.StaticHashTable(Fixed(str(workshop / "vocabulary.txt"), *kinds), -1)
    saved = save(make_module(workshop / "vocabulary.txt", lambda p: p, other=table), tmp_path / "model")
    found = failed(check_here(saved, workshop / "golden"))
    path = str(workshop / "vocabulary.txt")
    assert found["assets"] == (
        f"the init op fills a table from the fixed file name {path!r}, which is no asset of the model and does not move with it"
    )


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [False, True])
def test_optimizer_slots(workshop: Path, tmp_path: Path, legacy: bool) -> None:
    import tensorflow as tf
    import tf_keras

    optimizers = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
    module = make_module(workshop / "vocabulary.txt")
    module.trainer = optimizers.Adam(0.0)
    module.trainer.apply_gradients([(tf.zeros([3, 2]), module.w)])
    found = failed(check_here(save(module, tmp_path / "model"), workshop / "golden"))
    assert list(found) == ["weights"]
    expected = "7 of 8 variables belong to an optimizer" if legacy else "4 of 5 variables belong to an optimizer"
    assert found["weights"].startswith(expected)
    assert "export inference weights only" in found["weights"]


# What the golden examples cannot answer ------------------------------------------------------------------------------


@pytest.fixture
def golden(workshop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop / "golden", tmp_path / "golden"))


@pytest.mark.slow
def test_signature_that_cannot_be_exercised(workshop: Path, golden: Path) -> None:
    with np.load(golden / "inputs.npz") as arrays:
        np.savez(golden / "inputs.npz", x=arrays["x"].astype(np.float64))
        word = arrays["word"]
    assert failed(check_here(workshop / "good", golden)) == {"numeric": "raw: not run, inputs.npz has no ['word'], only ['x']"}
    np.savez(golden / "inputs.npz", x=np.zeros((COUNT, 3)), word=word)
    assert failed(check_here(workshop / "good", golden)) == {
        "numeric": "raw: not run, it takes 'x' as float32, inputs.npz has float64"
    }


@pytest.mark.slow
def test_output_without_a_reference(workshop: Path, golden: Path) -> None:
    np.savez(golden / "outputs.npz", other=np.zeros((COUNT, 2), np.float32))
    found = failed(check_here(workshop / "good", golden))
    assert "raw: output 'p' was not compared, outputs.npz has only ['other']" in found["numeric"]


@pytest.mark.slow
def test_golden_examples_that_do_not_go_together(workshop: Path, golden: Path) -> None:
    np.savez(golden / "outputs.npz", p=np.zeros((COUNT - 1, 2), np.float32))
    with pytest.raises(TflineError, match=r"expected 12 rows, one an example, in 'p'; its shape is \[11, 2\]"):
        check_here(workshop / "good", golden)
    np.savez(golden / "outputs.npz", p=np.array([None] * COUNT))
    with pytest.raises(TflineError, match=r"is no \.npz file of plain arrays: ValueError: Object arrays cannot be loaded"):
        check_here(workshop / "good", golden)
    (golden / "examples.tfrecord").write_bytes(b"nothing of the kind")
    with pytest.raises(TflineError, match="is no uncompressed file of TFRecords: DataLossError"):
        check_here(workshop / "good", golden)


# Across processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_model_that_kills_its_process(workshop: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    def abort(p: Any) -> Any:
        fatal = tf.cond(tf.size(p) >= 0, lambda: tf.group(tf.raw_ops.Abort(error_msg="on purpose")), tf.no_op)
        with tf.control_dependencies([fatal]):
            return tf.identity(p)

    saved = save(make_module(workshop / "vocabulary.txt", abort), tmp_path / "model")
    report = validate_model(saved, workshop / "golden", config(allowed_ops=["Abort"]))
    assert failed(report) == {
        "numeric": "components.validate_model:examine crashed: its process was killed by SIGABRT",
        "empty_batch": "not made: numeric failed",
    }
    assert report.signatures.keys() == SIGNATURES.keys()  # what was found before the crash is kept
    (tmp_path / "report.json").write_text(report.model_dump_json())
    refusal = summarise({"report": [str(tmp_path)]}).refusal
    assert refusal is not None
    assert refusal.gate == "validation"


@pytest.mark.slow
def test_broken_golden_examples_are_no_fault_of_the_model(workshop: Path, golden: Path) -> None:
    (golden / "inputs.npz").write_bytes(b"PK but no archive")
    with pytest.raises(TflineError, match=r"inputs.npz is no .npz file of plain arrays"):
        validate_model(workshop / "good", golden, config())


def make_folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model folder and golden examples with every file there and nothing in them."""
    model, golden = tmp_path / "model", tmp_path / "golden"
    (model / "Format-Serving").mkdir(parents=True)
    (model / "Format-Serving" / "saved_model.pb").write_bytes(b"12345")
    golden.mkdir()
    for name in ("examples.tfrecord", "inputs.npz", "outputs.npz"):
        (golden / name).touch()
    return model, golden


def test_time_limit_is_a_failed_check(tmp_path: Path) -> None:
    report = validate_model(*make_folders(tmp_path), config(timeout_seconds=0.2))
    found = failed(report)
    assert found["parses"] == "components.validate_model:examine took longer than 0.2 s and was stopped"
    assert found["loads"] == "not made: parses failed"
    assert "size" not in found
    assert report.total_bytes == 5


@pytest.mark.parametrize("name", ["examples.tfrecord", "inputs.npz", "outputs.npz"])
def test_missing_golden_file(tmp_path: Path, name: str) -> None:
    model, golden = make_folders(tmp_path)
    (golden / name).unlink()
    with pytest.raises(TflineError, match=f"{name} is missing"):
        validate_model(model, golden, config())


def test_missing_saved_model_folder(tmp_path: Path) -> None:
    model, golden = make_folders(tmp_path)
    (model / "Format-Serving").rename(model / "serving_model_dir")
    with pytest.raises(TflineError, match="holds no SavedModel: expected it in the folder Format-Serving"):
        validate_model(model, golden, config())


# Pure functions ------------------------------------------------------------------------------------------------------

TOLERANCE = Tolerance(absolute=0.01, relative=0.1)


@pytest.mark.parametrize(
    ("expected", "received", "problem"),
    [
        ([1.0, 10.0], [1.1, 11.0], ""),
        (
            [1.0, 10.0],
            [1.0, 11.02],
            "1 of 2 values differ by more than 0.01 + 0.1 x |expected|, the largest by 1.02; at [1] expected 10.0",
        ),
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], ""),
        ([1.0, 2.0], [np.nan, 2.0], "1 of 2 values are NaN or Inf; at [0] expected 1.0, received nan"),
        ([1.0, 2.0], [1.0, -np.inf], "1 of 2 values are NaN or Inf; at [1] expected 2.0, received -inf"),
        ([np.inf], [-np.inf], "1 of 1 values differ"),
        ([np.nan], [0.0], "1 of 1 values differ"),
        ([100, 2], [101, 2], "1 of 2 values differ, where they have to be equal; at [0] expected 100, received 101"),
        ([True, False], [True, True], "1 of 2 values differ, where they have to be equal; at [1]"),
        (["ä", "b"], ["ä".encode(), b"b"], ""),
        (["a", "b"], [b"a", b"c"], "1 of 2 values differ; at [1] expected b, received b'c'"),
        ([1 + 1j], [1 + 3j], "1 of 1 values differ"),
        ([[1.0, 2.0]], [1.0, 2.0], "expected shape [1, 2], received [2]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), ""),
    ],
)
def test_compare(expected: Any, received: Any, problem: str) -> None:
    found, _ = compare(np.array(expected), np.array(received), TOLERANCE)
    assert found.startswith(problem) if problem else found == ""


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), st.floats(-1.0, 1.0))
def test_compare_accepts_within_and_refuses_beyond(values: list[float], fraction: float) -> None:
    expected = np.array(values)
    allowed = TOLERANCE.absolute + TOLERANCE.relative * np.abs(expected)
    found, largest = compare(expected, expected + 0.99 * fraction * allowed, TOLERANCE)
    assert found == ""
    assert largest <= allowed.max()
    assert compare(expected, expected + 1.01 * allowed, TOLERANCE)[0].startswith(f"{len(values)} of {len(values)} values differ")


@pytest.mark.parametrize(
    "wrong",
    [
        {"signatures": {}},
        {"signatures": {"s": {"inputs": {"x": {"dtype": "flaot32", "shape": [None]}}, "outputs": {}}}},
        {"signatures": SIGNATURES, "tolerance": {"absolute": -1}},
        {"signatures": SIGNATURES, "maxbytes": 5},
        {"signatures": SIGNATURES, "timeout_seconds": 0},
    ],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


def test_config_survives_json() -> None:
    settings = config(max_bytes=5, allowed_ops=["ReadFile"])
    assert Config.model_validate(json.loads(settings.model_dump_json())) == settings


def test_summary_of_a_refusal_lists_each_failed_check(tmp_path: Path) -> None:
    checks = (
        Check(name="size", passed=False, detail="9 bytes, 4 over the budget of 5 bytes"),
        Check(name="parses", passed=True, detail="fine"),
        Check(name="ops", passed=False, detail="signature s reaches ReadFile, which reads a file"),
    )
    (tmp_path / "report.json").write_text(Report(checks=checks, total_bytes=471_234).model_dump_json())
    summary = summarise({"report": [str(tmp_path)]})
    assert summary.headline == "2 of 3 checks failed, 0 signatures, 471 kB"
    assert summary.refusal is not None
    assert summary.refusal.gate == "validation"
    assert summary.refusal.reasons == (
        "size: 9 bytes, 4 over the budget of 5 bytes",
        "ops: signature s reaches ReadFile, which reads a file",
    )
    assert summary.metrics["total_bytes"] == 471_234
    assert summary.metrics["checks_failed"] == 2
