"""What the converter makes, with TensorFlow: descriptions agree with the interpreter, metadata change no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.tflite_call import TFLiteModel
from serving.tflite_describe import describe_bytes
from serving.tflite_metadata import write_metadata
from tests.serving.tflite_files import Array, make_metadata

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def converted() -> dict[str, tuple[bytes, Any]]:
    """By kind, a small convolutional net in TFLite, and the float function that it was."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    filters = tf.Variable(generator.normal(size=(3, 3, 1, 8)).astype(np.float32))
    weights = tf.Variable(generator.normal(size=(6 * 6 * 8, 3)).astype(np.float32) / 10)

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 1], tf.float32, name="image")])
    def net(image: Any) -> Any:
        features = tf.nn.relu(tf.nn.conv2d(image, filters, 1, "VALID"))
        return {"scores": tf.nn.softmax(tf.reshape(features, [1, -1]) @ weights)}

    module = tf.Module()
    module.filters, module.weights, module.net = filters, weights, net
    concrete = net.get_concrete_function()
    examples = generator.normal(size=(20, 1, 8, 8, 1)).astype(np.float32)

    def convert(kind: str) -> bytes:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            converter.representative_dataset = lambda: ([each] for each in examples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        content: bytes = converter.convert()
        return content

    def answer(image: Array) -> Array:
        return np.concatenate([net(tf.constant(each[np.newaxis]))["scores"].numpy() for each in image])

    return {kind: (convert(kind), answer) for kind in ("float32", "float16", "int8")}


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_a_description_is_what_the_interpreter_says(converted: dict[str, tuple[bytes, Any]], kind: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    content, _ = converted[kind]
    found = describe_bytes(content)
    interpreter = Interpreter(model_content=content)
    assert set(found.signatures) == set(interpreter.get_signature_list())
    ((key, signature),) = found.signatures.items()
    runner = interpreter.get_signature_runner(key)
    for infos, details in (
        (signature.inputs, runner.get_input_details()),
        (signature.outputs, runner.get_output_details()),
    ):
        assert {info.name for info in infos} == set(details)
        for info in infos:
            detail = details[info.name]
            assert (info.dtype, info.shape) == (np.dtype(detail["dtype"]).name, tuple(detail["shape_signature"]))
            assert (info.scale or 0.0, info.zero_point or 0) == detail["quantization"]
    assert sum(each.tensors for each in found.tensors.values()) == len(interpreter.get_tensor_details())
    assert found.ops["CONV_2D"] == 1 and found.buffers.unused_bytes == 0
    assert {each.dtype for each in found.weights if each.values == 3 * 3 * 8} == {kind}


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_the_answers_are_those_of_the_float_model_with_metadata_and_without(
    converted: dict[str, tuple[bytes, Any]], kind: str
) -> None:
    content, answer = converted[kind]
    (key,) = describe_bytes(content).signatures
    told = write_metadata(content, make_metadata(content, key, labels=("a", "b", "c"), labels_of="scores"))
    images = np.random.default_rng(1).normal(size=(50, 8, 8, 1)).astype(np.float32)
    plain, with_metadata = (TFLiteModel(each)({"image": images})["scores"] for each in (content, told))
    np.testing.assert_array_equal(plain, with_metadata)
    np.testing.assert_allclose(plain, answer(images), atol={"float32": 1e-5, "float16": 1e-2, "int8": 0.1}[kind])
