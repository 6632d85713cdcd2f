"""Tiny .tflite files, made with the schema's binding in a millisecond: y = x · W, in float32 or in int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from serving.tflite_graph import signature_of
from serving.tflite_metadata import TFLiteMetadata

Array = np.ndarray[Any, Any]

KERNEL = np.array([[1, 0, 0, 2], [0, 1, 0, -2], [0, 0, 3, 0]], np.float32)
"""[3 outputs, 4 inputs], whole numbers: y is exact."""

X_SCALE, X_ZERO, Y_SCALE, Y_ZERO = 0.5, -3, 0.25, 7

DIGEST = "0123456789abcdef" * 4


def make_tflite(
    *,
    int8: bool = False,
    batch: int = 1,
    signatures: Sequence[str] = ("dense",),
    kernel: Array = KERNEL,
    extra: Sequence[tuple[int, Sequence[int], bytes]] = (),
) -> bytes:
    """A model with x[batch, 4] → y[batch, 3].

    Args:
        int8: Whether x, the kernel (a scale for each output, 1) and y are int8; else all is float32.
        batch: -1 leaves it open.
        signatures: Keys; all of them are x → y.
        kernel: W.
        extra: More constants: type, shape, data.
    """
    kind = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    buffers = [schema.BufferT(), schema.BufferT(data=_bytes(kernel.astype(np.int8 if int8 else np.float32)))]
    tensors = [
        _tensor(b"x", kind, (batch, 4), 0, [X_SCALE] * int8, [X_ZERO] * int8),
        _tensor(b"y", kind, (batch, 3), 0, [Y_SCALE] * int8, [Y_ZERO] * int8),
        _tensor(b"model/dense/MatMul", kind, kernel.shape, 1, [1.0] * 3 * int8, [0] * 3 * int8),
    ]
    for number, (of, shape, data) in enumerate(extra):
        tensors.append(_tensor(f"extra{number}".encode(), of, shape, len(buffers)))
        buffers.append(schema.BufferT(data=np.frombuffer(data, np.uint8)))
    multiply = schema.OperatorT(
        opcodeIndex=0,
        inputs=[0, 2, -1],
        outputs=[1],
        builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
        builtinOptions=schema.FullyConnectedOptionsT(),
    )
    code = schema.OperatorCodeT(
        builtinCode=schema.BuiltinOperator.FULLY_CONNECTED, deprecatedBuiltinCode=9, version=4 if int8 else 1
    )
    graph = schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[1], operators=[multiply], name=b"main")
    buffers.append(schema.BufferT(data=np.frombuffer(b"1.14.0\0\0", np.uint8)))
    model = schema.ModelT(
        version=3,
        description=b"made by hand",
        buffers=buffers,
        operatorCodes=[code],
        subgraphs=[graph],
        metadata=[schema.MetadataT(name=b"min_runtime_version", buffer=len(buffers) - 1)],
        signatureDefs=[_signature(key) for key in signatures] or None,
    )
    return pack(model)


def unpack(content: bytes) -> Any:
    """The whole model as objects."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: Any) -> bytes:
    """The bytes of a model of objects."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def make_metadata(content: bytes, signature: str = "dense", **changes: Any) -> TFLiteMetadata:
    """Metadata that fits a model."""
    found = signature_of(content, signature)
    fields: dict[str, Any] = {
        "model_name": "digits",
        "saved_model_digest": DIGEST,
        "variant": "int8",
        "signature": signature,
        "inputs": found.inputs,
        "outputs": found.outputs,
        "labels": ("zero", "öne", "two"),
        "labels_of": "y",
        "features": "raw",
    }
    return TFLiteMetadata(**(fields | changes))


def invoke(content: bytes, values: Array) -> Array:
    """What ai-edge-litert, called by position, gives for the stored values of the only input."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, values)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


def _tensor(
    name: bytes, of: int, shape: Sequence[int], buffer: int, scales: Sequence[float] = (), zeros: Sequence[int] = ()
) -> Any:
    quantization = schema.QuantizationParametersT(
        scale=np.array(scales, np.float32) if scales else None, zeroPoint=np.array(zeros, np.int64) if zeros else None
    )
    sizes = [max(1, size) if size < 0 else size for size in shape]
    return schema.TensorT(
        name=name, type=of, shape=sizes, shapeSignature=list(shape), buffer=buffer, quantization=quantization, hasRank=True
    )


def _signature(key: str) -> Any:
    maps = [[schema.TensorMapT(name=name, tensorIndex=index)] for index, name in enumerate((b"x", b"y"))]
    return schema.SignatureDefT(inputs=maps[0], outputs=maps[1], signatureKey=key.encode(), subgraphIndex=0)


def _bytes(array: Array) -> Array:
    return np.frombuffer(array.tobytes(), np.uint8)
