"""TFLite models: their signatures, wherever they are kept, batches of any size, several at a time, and what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.server.runtime_options import RuntimeOptions
from serving.server.servable import Servable
from serving.server.status import Code, StatusError
from serving.server.tensors import message_class
from serving.server.tflite_runtime import METADATA, TFLiteServable, load_tflite
from tests.serving.server.conftest import ModelFolders

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def model(models: ModelFolders) -> TFLiteServable:
    return load_tflite(models.tflite, options=RuntimeOptions(tflite_interpreters=2))


def refused(call: Any) -> StatusError:
    with pytest.raises(StatusError) as error:
        call()
    return error.value


def without_signatures(content: bytes, metadata: bytes | None = None) -> bytes:
    """The model as older converters made it; with what TensorFlow Serving reads in its metadata."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    model.signatureDefs = None
    if metadata is not None:
        model.buffers.append(schema.BufferT(data=np.frombuffer(metadata, np.uint8)))
        model.metadata = [*(model.metadata or []), schema.MetadataT(name=METADATA, buffer=len(model.buffers) - 1)]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def flexbuffer(**signatures: bytes) -> bytes:
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in signatures.items():
            builder.Key(key)
            builder.Blob(value) if key == "blob" else builder.String(value.decode("latin-1"))
    return bytes(builder.Finish())


@pytest.mark.slow
def test_signatures_of_the_converter(model: TFLiteServable) -> None:
    as_servable: Servable = model
    assert list(as_servable.signatures) == list(as_servable.all_signatures) == ["serving_default"]
    signature = model.signatures["serving_default"]
    assert signature.method == "tensorflow/serving/predict"
    x, label = signature.inputs["x"], signature.outputs["label"]
    assert (x.dtype, x.tf_dtype, x.shape) == (np.dtype("f4"), 1, (None, 4))
    assert (label.dtype, label.tf_dtype, label.shape) == (np.dtype("i8"), 9, (None,))
    assert signature.proto is model.all_signatures["serving_default"]


@pytest.mark.slow
def test_batches_of_any_size(model: TFLiteServable, models: ModelFolders) -> None:
    for rows in (1, 3, 1, 0, 64, 2):
        x = np.random.default_rng(rows).random((rows, 4), np.float32)
        answer = model.run("serving_default", {"x": x}, ["label", "y"])
        assert list(answer) == ["label", "y"]
        np.testing.assert_allclose(answer["y"], x @ models.weights, rtol=1e-5)
    answer = model.run("serving_default", {"x": np.asfortranarray(X)}, ["y"])
    np.testing.assert_allclose(answer["y"], X @ models.weights)
    read_only = np.frombuffer(b"\0" * 3 + X.tobytes(), np.float32, offset=3).reshape(2, 4)
    np.testing.assert_allclose(model.run("serving_default", {"x": read_only}, ["y"])["y"], X @ models.weights)


@pytest.mark.slow
def test_strings(models: ModelFolders) -> None:
    model = load_tflite(models.tflite_strings)
    words = np.array([b"a\0", b"", "ä".encode()], object)
    answer = model.run("serving_default", {"s": words, "x": np.ones((3, 2), np.float32)}, ["s2", "y"])
    assert answer["s2"].tolist() == words.tolist() and answer["s2"].dtype == object
    assert answer["y"].tolist() == [[2, 2]] * 3
    assert model.signatures["serving_default"].inputs["s"].tf_dtype == 7


@pytest.mark.slow
def test_a_model_without_signatures_has_its_tensors_names(models: ModelFolders, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(without_signatures(models.tflite.read_bytes()))
    model = load_tflite(file)
    signature = model.signatures["serving_default"]
    (name,) = signature.inputs
    assert name == "serving_default_x:0" and signature.inputs[name].shape == (None, 4)
    for rows in (1, 5, 2):
        x = np.random.default_rng(rows).random((rows, 4), np.float32)
        answer = model.run("serving_default", {name: x}, list(signature.outputs))
        kinds = {array.dtype.kind: array for array in answer.values()}
        np.testing.assert_allclose(kinds["f"], x @ models.weights, rtol=1e-5)
        assert kinds["i"].shape == (rows,)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_signatures_in_the_metadata(models: ModelFolders, tmp_path: Path, suffix: str) -> None:
    plain = tmp_path / "plain.tflite"
    plain.write_bytes(without_signatures(models.tflite.read_bytes()))
    outputs = load_tflite(plain).signatures["serving_default"].outputs
    proto = message_class("SignatureDef")(method_name="tensorflow/serving/regress")
    proto.inputs["in"].name = "serving_default_x" + suffix
    proto.outputs["out"].name = next(name for name, spec in outputs.items() if spec.tf_dtype == 1)
    file = tmp_path / "model.tflite"
    file.write_bytes(without_signatures(models.tflite.read_bytes(), flexbuffer(mine=proto.SerializeToString())))
    model = load_tflite(file)
    assert model.signatures["mine"].method == "tensorflow/serving/regress"
    answer = model.run("mine", {"in": X}, ["out"])
    np.testing.assert_allclose(answer["out"], X @ models.weights)
    proto.inputs["in"].name = "nothing:0"
    file.write_bytes(without_signatures(models.tflite.read_bytes(), flexbuffer(mine=proto.SerializeToString())))
    error = refused(lambda: load_tflite(file))
    assert error.code == Code.INVALID_ARGUMENT and "'nothing'" in error.message
    for broken in (b"", b"\0", b"garbage", flexbuffer(mine=b"\x7f\x7f")):
        file.write_bytes(without_signatures(models.tflite.read_bytes(), broken))
        error = refused(lambda: load_tflite(file))
        assert error.code == Code.INVALID_ARGUMENT and error.message.startswith("Invalid SignatureDefs found in TfLite model: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.int32), "Expects arg[0] to be float but int32 is provided"),
        (np.array([[b"a"]], object), "Expects arg[0] to be float but string is provided"),
        (X[:, :3], "Expected shape [?,4] for input x. Received [2, 3]."),
        (X[0], "Expected shape [?,4] for input x. Received [4]."),
    ],
)
def test_wrong_inputs_are_the_callers_fault(model: TFLiteServable, models: ModelFolders, x: Any, message: str) -> None:
    error = refused(lambda: model.run("serving_default", {"x": x}, ["y"]))
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, message)
    np.testing.assert_allclose(model.run("serving_default", {"x": X}, ["y"])["y"], X @ models.weights)


@pytest.mark.slow
def test_many_threads_share_few_interpreters(model: TFLiteServable, models: ModelFolders) -> None:
    wrong: list[Any] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            x = rng.random((rng.integers(1, 9), 4), np.float32)
            if not np.allclose(model.run("serving_default", {"x": x}, ["y"])["y"], x @ models.weights, atol=1e-4):
                wrong.append(x)

    threads = [threading.Thread(target=client, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_the_deadline_holds_for_waiting(models: ModelFolders) -> None:
    model = load_tflite(models.tflite)
    taken = model._take(None)
    start = time.monotonic()
    assert refused(lambda: model.run("serving_default", {"x": X}, ["y"], start + 0.1)).code == Code.DEADLINE_EXCEEDED
    assert 0.1 <= time.monotonic() - start < 5
    model._idle.put(taken)
    assert model.run("serving_default", {"x": X}, ["y"], time.monotonic() + 5)["y"].shape == (2, 3)
    model.close()


@pytest.mark.slow
def test_files_that_are_no_models(models: ModelFolders, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    assert refused(lambda: load_tflite(file)).code == Code.NOT_FOUND
    content = models.tflite.read_bytes()
    for broken in (b"", b"abc", b"\0" * 1000, content[: len(content) // 2], content[:200] + b"\xff" * 100 + content[300:]):
        file.write_bytes(broken)
        error = refused(lambda: load_tflite(file))
        assert error.code == Code.INVALID_ARGUMENT
        assert error.message.startswith(f"Cannot build FlatBufferModel from buffer. {file}: ")
