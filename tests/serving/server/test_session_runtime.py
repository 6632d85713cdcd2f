"""SavedModels of both TensorFlows in a session: what comes out, what is refused in which words, deadlines, memory."""

from __future__ import annotations

import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.server.options import ServerOptions
from serving.server.runtime_options import RuntimeOptions, session_config
from serving.server.servable import RunsTensors, Servable
from serving.server.session_runtime import SessionServable, load_session
from serving.server.status import Code, StatusError
from tests.serving.server.conftest import ModelFolders

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def tf2(models: ModelFolders) -> Iterator[SessionServable]:
    servable = load_session(models.tf2)
    yield servable
    servable.close()


@pytest.fixture(scope="module")
def tf1(models: ModelFolders) -> Iterator[SessionServable]:
    servable = load_session(models.tf1, tags=["serve"])
    yield servable
    servable.close()


def refused(call: Any) -> StatusError:
    with pytest.raises(StatusError) as error:
        call()
    return error.value


def load_refused(folder: Path, **keywords: Any) -> StatusError:
    return refused(lambda: load_session(folder, **keywords))


@pytest.mark.slow
def test_tf2_signatures(tf2: SessionServable) -> None:
    as_servable: Servable = tf2
    assert isinstance(as_servable, RunsTensors)
    assert set(tf2.all_signatures) == {*tf2.signatures, "__saved_model_init_op"}
    signature = tf2.signatures["serving_default"]
    assert signature.method == "tensorflow/serving/predict" and signature.defaults == {}
    x, label = signature.inputs["x"], signature.outputs["label"]
    assert (x.alias, x.dtype, x.tf_dtype, x.shape, x.feed) == ("x", np.dtype("f4"), 1, (None, 4), "serving_default_x:0")
    assert (label.dtype, label.tf_dtype, label.shape) == (np.dtype("i8"), 9, (None,))
    assert tf2.signatures["strings"].inputs["s"].dtype == object
    assert tf2.signatures["scalar"].inputs["x"].shape == ()
    assert tf2.signatures["defaulted"].defaults["b"].tolist() == [10.0]
    assert signature.proto.inputs["x"].name == "serving_default_x:0"


@pytest.mark.slow
@pytest.mark.parametrize("deadline", [None, 30.0])
def test_tf2_answers(tf2: SessionServable, models: ModelFolders, deadline: float | None) -> None:
    until = None if deadline is None else time.monotonic() + deadline
    for _ in range(3):  # the first in TensorFlow's threads, later ones in this
        answer = tf2.run("serving_default", {"x": X}, ["y", "label"], until)
        assert list(answer) == ["y", "label"]
        np.testing.assert_allclose(answer["y"], X @ models.weights)
        assert answer["label"].tolist() == [2, 2] and answer["label"].dtype == np.int64
    assert list(tf2.run("serving_default", {"x": X}, ["label"], until)) == ["label"]
    scalar = tf2.run("scalar", {"x": np.array(2, np.float32)}, ["y"], until)["y"]
    assert isinstance(scalar, np.ndarray) and scalar.shape == () and scalar == 3
    words = np.array([b"a\0", "ä".encode()], object)
    answer = tf2.run("strings", {"s": words}, ["joined", "length"], until)
    assert answer["joined"].tolist() == [b"a\0-a\0", "ä-ä".encode()] and answer["joined"].dtype == object
    assert answer["length"].tolist() == [2, 2]
    assert tf2.run("strings", {"s": np.array([b"a", b"bc"])}, ["length"])["length"].tolist() == [1, 2]


@pytest.mark.slow
def test_arrays_need_not_be_theirs_to_write(tf2: SessionServable, models: ModelFolders) -> None:
    content = b"\0" * 3 + X.tobytes()
    unaligned = np.frombuffer(content, np.float32, offset=3).reshape(2, 4)
    turned = np.asfortranarray(X)
    empty = np.zeros((0, 4), np.float32)
    for array in (unaligned, turned, X[::-1], empty):
        before = array.copy()
        answer = tf2.run("serving_default", {"x": array}, ["y"])["y"]
        np.testing.assert_allclose(answer, before @ models.weights)
        np.testing.assert_array_equal(array, before)


@pytest.mark.slow
def test_tf1_with_variables_and_a_table_from_an_asset(tf1: SessionServable) -> None:
    from tensorflow.train import Example

    assert tf1.run("serving_default", {"x": np.array([[1, 2]], np.float32)}, ["y"])["y"].tolist() == [[8.0]]
    example = Example()
    example.features.feature["x"].float_list.value.extend([1, 2])
    inputs = {"inputs": np.array([example.SerializeToString()], object)}
    answer = tf1.run("classify", inputs, ["classes", "scores"])
    assert answer["classes"].tolist() == [[b"low", b"high"]] and answer["scores"].tolist() == [[-8.0, 8.0]]
    assert tf1.signatures["regress"].method == "tensorflow/serving/regress"
    assert tf1.run("regress", inputs, ["outputs"])["outputs"].tolist() == [[8.0]]
    feed = tf1.signatures["regress"].inputs["inputs"].feed
    names = [tf1.signatures["classify"].outputs["scores"].feed, tf1.signatures["regress"].outputs["outputs"].feed]
    both = tf1.run_tensors({feed: inputs["inputs"]}, names)
    assert [both[name].tolist() for name in names] == [[[-8.0, 8.0]], [[8.0]]]
    bad = refused(lambda: tf1.run("classify", {"inputs": np.array([b"\xff\xff"], object)}, ["scores"]))
    assert bad.code == Code.INVALID_ARGUMENT and bad.message.startswith("Could not parse example input, value: '\ufffd\ufffd'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("serving_default", {"x": np.array([[b"a"]], object)}, "Expects arg[0] to be float but string is provided"),
        ("serving_default", {"x": X.astype(np.int32)}, "Expects arg[0] to be float but int32 is provided"),
        ("serving_default", {"x": X.astype(np.float64)}, "Expects arg[0] to be float but double is provided"),
        ("strings", {"s": np.array([1.0], np.float16)}, "Expects arg[0] to be string but half is provided"),
        ("defaulted", {"a": np.zeros(1, np.float32), "b": np.zeros(1, bool)}, "Expects arg[1] to be float but bool is provided"),
        ("serving_default", {"x": X[:, :3]}, "Matrix size-incompatible: In[0]: [2,3], In[1]: [4,3]"),
        ("serving_default", {"x": X[0]}, "In[0] ndims must be >= 2"),
    ],
)
def test_wrong_inputs_are_the_callers_fault(tf2: SessionServable, signature: str, inputs: dict[str, Any], message: str) -> None:
    for _ in range(2):
        error = refused(lambda: tf2.run(signature, inputs, list(tf2.signatures[signature].outputs)))
        assert error.code == Code.INVALID_ARGUMENT and error.message.startswith(message), error.message


@pytest.mark.slow
def test_unknown_tensors_are_refused(tf2: SessionServable) -> None:
    for feeds, fetches in (({"nothing:0": X}, ["x:0"]), ({"serving_default_x:0": X}, ["nothing:0"]), ({}, ["no colon"])):
        assert refused(lambda feeds=feeds, fetches=fetches: tf2.run_tensors(feeds, fetches)).code == Code.INVALID_ARGUMENT


@pytest.mark.slow
def test_a_deadline_stops_a_run(tf2: SessionServable) -> None:
    rounds = np.array(3_000_000, np.int32)  # about two minutes
    start = time.monotonic()
    error = refused(lambda: tf2.run("slow", {"n": rounds}, ["y"], start + 0.3))
    assert error.code == Code.DEADLINE_EXCEEDED and time.monotonic() - start < 10
    for seconds in (0.0, 1.0):
        assert refused(lambda s=seconds: tf2.run("slow", {"n": rounds}, ["y"], start - s)).code == Code.DEADLINE_EXCEEDED
    assert np.isfinite(tf2.run("slow", {"n": np.array(3, np.int32)}, ["y"], time.monotonic() + 30)["y"])


@pytest.mark.slow
def test_runs_of_many_threads_are_kept_apart(tf2: SessionServable, models: ModelFolders) -> None:
    wrong: list[Any] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            x = rng.random((rng.integers(1, 9), 4), np.float32)
            answer = tf2.run("serving_default", {"x": x}, ["y"], time.monotonic() + 30)["y"]
            if not np.allclose(answer, x @ models.weights, atol=1e-4):
                wrong.append(x)

    threads = [threading.Thread(target=client, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_folders_that_are_no_models(models: ModelFolders, tmp_path: Path) -> None:
    missing = load_refused(tmp_path)
    assert missing.code == Code.NOT_FOUND
    assert missing.message.startswith(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path}.")
    tags = load_refused(models.tf2, tags=["gpu", "serve"])
    assert tags.code == Code.NOT_FOUND
    assert tags.message.startswith("Could not find meta graph def matching supplied tags: { gpu serve }")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tf1", "tf2"])
def test_damage_is_one_clear_error(models: ModelFolders, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(getattr(models, kind), tmp_path / "model"))
    pb, index = folder / "saved_model.pb", folder / "variables/variables.index"
    data = folder / "variables/variables.data-00000-of-00001"
    whole = {path: path.read_bytes() for path in (pb, index, data)}
    damages = [
        (pb, b""), (pb, b"\xff" * 100), (pb, whole[pb][: len(whole[pb]) // 2]), (index, b""), (index, whole[index][:-9]),
        (data, b""), (data, whole[data][:-3]), (index, None), (data, None),
    ]  # fmt: skip
    for path, content in damages:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        error = load_refused(folder)
        # UNKNOWN is what TensorFlow itself says of variables that are not there.
        assert error.code not in (Code.OK, Code.INTERNAL)
        assert str(folder) in error.message.partition("\n")[0] or "matching supplied tags" in error.message, error.message
        path.write_bytes(whole[path])
    load_session(folder).close()


@pytest.mark.slow
def test_memory_comes_back(models: ModelFolders, tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.table = tf.Variable(tf.random.normal([2000, 2500]))  # 20 MB
    module.call = tf.function(lambda x: {"y": x @ module.table}, input_signature=[tf.TensorSpec([None, 2000], name="x")])
    tf.saved_model.save(module, str(tmp_path / "large"), signatures={"serving_default": module.call})
    x = np.zeros((1, 2000), np.float32)
    after = []
    for _ in range(20):
        servable = load_session(tmp_path / "large")
        servable.run("serving_default", {"x": x}, ["y"], time.monotonic() + 30)
        servable.close()
        after.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20)
    # 20 models would be 400 MB.
    assert max(after[5:]) - after[4] < 20, after


def test_options_come_from_the_flags(tmp_path: Path) -> None:
    both = RuntimeOptions.of(
        ServerOptions(tensorflow_session_parallelism=3, num_tflite_pools=2, num_tflite_interpreters_per_pool=4)
    )
    assert (both.intra_op, both.inter_op, both.tflite_interpreters) == (3, 3, 8)
    one = RuntimeOptions.of(ServerOptions(tensorflow_session_parallelism=3, tensorflow_intra_op_parallelism=2))
    assert (one.intra_op, one.inter_op) == (2, 0)
    every = ServerOptions(tensorflow_session_parallelism=1, tensorflow_intra_op_parallelism=1, tensorflow_inter_op_parallelism=1)
    error = refused(lambda: RuntimeOptions.of(every))
    assert error.code == Code.INVALID_ARGUMENT and error.message.endswith("You cannot configure all.")
    file = tmp_path / "session.txt"
    file.write_text("inter_op_parallelism_threads: 5", encoding="utf-8")
    assert RuntimeOptions.of(ServerOptions(tensorflow_session_config_file=str(file))).session_config == file.read_text()
    absent = refused(lambda: RuntimeOptions.of(ServerOptions(tensorflow_session_config_file=str(tmp_path / "no"))))
    assert absent.code == Code.NOT_FOUND and str(tmp_path / "no") in absent.message


@pytest.mark.slow
def test_flags_go_before_the_session_configuration(models: ModelFolders) -> None:
    text = "inter_op_parallelism_threads: 5 intra_op_parallelism_threads: 7 log_device_placement: false"
    config = session_config(RuntimeOptions(intra_op=2, session_config=text))
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (2, 5)
    error = load_refused(models.tf2, options=RuntimeOptions(session_config="inter_op: 5"))
    assert error.code == Code.INVALID_ARGUMENT and '1:1 : Message type "tensorflow.ConfigProto"' in error.message
    servable = load_session(models.tf2, options=RuntimeOptions(intra_op=1, inter_op=1))
    assert servable.run("scalar", {"x": np.array(1, np.float32)}, ["y"])["y"] == 2
    servable.close()
