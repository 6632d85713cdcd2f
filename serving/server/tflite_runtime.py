"""TFLite models (`model.tflite` in a version's folder), computed by ai-edge-litert in a pool of interpreters.

Signatures come from the model: those of the converter; else SignatureDefs in the metadata `signature_defs_metadata`, which
TensorFlow Serving reads and the interpreter does not; else there is one, serving_default, with the tensors' names
(tensorflow_serving/servables/tensorflow/tflite_session.cc).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.server.runtime_options import RuntimeOptions
from serving.server.servable import Arrays, Signature, TensorSpec
from serving.server.session_runtime import PREDICT_METHOD, give_memory_back, read_signature
from serving.server.status import Code, StatusError, invalid, not_found
from serving.server.tensors import check_dtype, message_class, tf_dtype

METADATA = "signature_defs_metadata"
"""Name of the metadata buffer: a flexbuffer map of serialized SignatureDefs (tensorflow/lite/tools/signature)."""

DEFAULT_SIGNATURE = "serving_default"


def load_tflite(file: Path, *, options: RuntimeOptions | None = None) -> TFLiteServable:
    """Loads a model.

    Args:
        file: A flatbuffer.
        options: `tflite_interpreters` of them are made, which share the weights; each keeps its own activations.

    Raises:
        StatusError: NOT_FOUND: no such file; INVALID_ARGUMENT: no TFLite model, or its signatures name tensors that it has not;
            INTERNAL: it has operations that the interpreter has not.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise not_found(f"{file}; {error.strerror}") from None
    return TFLiteServable(content, file, (options or RuntimeOptions()).tflite_interpreters)


class TFLiteServable:
    """A TFLite model; `serving.server.servable.Servable`."""

    def __init__(self, content: bytes, file: Path, interpreters: int) -> None:
        """Args: the flatbuffer; where it is from, for messages; how many runs there are at a time. Errors as `load_tflite`."""
        self._content = content
        self._file = file
        first = self._interpreter()
        runners = first.get_signature_list()
        try:
            described = _signature_defs(first, content, runners)
        except UnicodeDecodeError as error:
            raise invalid(f"Cannot build Interpreter from buffer. {file}: {error}") from None
        self.all_signatures: Mapping[str, Any] = described
        self.signatures: Mapping[str, Signature] = {
            key: signature for key, proto in sorted(described.items()) if (signature := read_signature(proto)) is not None
        }
        self._runners = list(runners)
        self._idle: queue.LifoQueue[_Runs] = queue.LifoQueue()
        """The one that ran last comes first: its memory is warm, and allocated for a likely batch size."""
        self._idle.put(_Runs(first, self._runners))
        for _ in range(interpreters - 1):
            self._idle.put(_Runs(self._interpreter(), self._runners))

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """See Servable.run. The deadline holds for waiting for an interpreter; a run cannot be interrupted."""
        called = self.signatures[signature]
        for position, (alias, spec) in enumerate(called.inputs.items()):
            check_dtype(inputs[alias], spec.dtype, position)
            _check_shape(inputs[alias], spec)
        arrays = {alias: np.asarray(inputs[alias], called.inputs[alias].dtype, order="C") for alias in called.inputs}
        runs = self._take(deadline)
        try:
            results = runs.run(signature, called, arrays)
        except (RuntimeError, ValueError) as error:
            # An interpreter whose tensors could not be allocated is in no state to go on.
            runs = _Runs(self._interpreter(), self._runners)
            raise invalid(f"Failed to run interpreter. {error}") from None
        finally:
            self._idle.put(runs)
        return {alias: _as_array(results[alias], called.outputs[alias]) for alias in outputs}

    def _take(self, deadline: float | None) -> _Runs:
        try:
            return self._idle.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for a TFLite interpreter") from None

    def _interpreter(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            interpreter = Interpreter(model_content=self._content, num_threads=1)
        except ValueError as error:
            raise invalid(f"Cannot build FlatBufferModel from buffer. {self._file}: {error}") from None
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            raise StatusError(Code.INTERNAL, f"Cannot build Interpreter from buffer. {self._file}: {error}") from None
        return interpreter

    def close(self) -> None:
        """See Servable.close."""
        while not self._idle.empty():
            self._idle.get()
        self._content = b""
        give_memory_back()


class _Runs:
    """One interpreter and how its signatures are called."""

    def __init__(self, interpreter: Any, runners: Iterable[str]) -> None:
        self._interpreter = interpreter
        self._runners = {key: interpreter.get_signature_runner(key) for key in runners}
        self._indices = {} if self._runners else _tensors(interpreter)

    def run(self, signature: str, called: Signature, arrays: Arrays) -> Mapping[str, Any]:
        if self._runners:
            results: Mapping[str, Any] = self._runners[signature](**arrays)
            return results
        for alias, array in arrays.items():
            detail = self._indices[called.inputs[alias].feed]
            self._interpreter.resize_tensor_input(detail["index"], array.shape)
        self._interpreter.allocate_tensors()
        for alias, array in arrays.items():
            self._interpreter.set_tensor(self._indices[called.inputs[alias].feed]["index"], array)
        self._interpreter.invoke()
        return {alias: self._interpreter.get_tensor(self._indices[spec.feed]["index"]) for alias, spec in called.outputs.items()}


def _as_array(value: Any, spec: TensorSpec) -> npt.NDArray[Any]:
    return np.asarray(value, spec.dtype)


def _check_shape(array: npt.NDArray[Any], spec: TensorSpec) -> None:
    """Refuses what resizing would make a mess of: another rank, or another size in a fixed dimension other than the first."""
    shape = spec.shape or ()
    fits = array.ndim == len(shape) and all(
        axis == 0 or size is None or size == array.shape[axis] for axis, size in enumerate(shape)
    )
    if not fits:
        expected = ",".join("?" if axis == 0 or size is None else str(size) for axis, size in enumerate(shape))
        raise invalid(f"Expected shape [{expected}] for input {spec.alias}. Received {list(array.shape)}.")


def _tensors(interpreter: Any) -> dict[str, Any]:
    """Details of the inputs and outputs by name, and by the name that TensorFlow has before the colon."""
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    by_node = {detail["name"].partition(":")[0]: detail for detail in reversed(details)}
    return by_node | {detail["name"]: detail for detail in details}


def _signature_defs(interpreter: Any, content: bytes, runners: Iterable[str]) -> dict[str, Any]:
    if runners:
        described = {}
        for key in runners:
            runner = interpreter.get_signature_runner(key)
            described[key] = _signature_def(runner.get_input_details(), runner.get_output_details())
        return described
    stored = _stored_signature_defs(content)
    tensors = _tensors(interpreter)
    if not stored:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        named = ({detail["name"]: detail for detail in inputs}, {detail["name"]: detail for detail in outputs})
        return {DEFAULT_SIGNATURE: _signature_def(*named)}
    described = {}
    for key, proto in stored.items():
        try:
            inputs, outputs = (
                {alias: tensors.get(info.name) or tensors[info.name.partition(":")[0]] for alias, info in infos.items()}
                for infos in (proto.inputs, proto.outputs)
            )
        except KeyError as error:
            raise invalid(f"Cannot find signature def tensor {error} of signature {key} in the TFLite model") from None
        described[key] = _signature_def(inputs, outputs, proto.method_name)
    return described


def _signature_def(inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str = PREDICT_METHOD) -> Any:
    """A SignatureDef for tensors as the interpreter describes them."""
    proto = message_class("SignatureDef")(method_name=method)
    for details, infos in ((inputs, proto.inputs), (outputs, proto.outputs)):
        for alias, detail in details.items():
            infos[alias].name = detail["name"]
            infos[alias].dtype = tf_dtype(np.empty(0, detail["dtype"]))
            infos[alias].tensor_shape.SetInParent()
            for size in detail["shape_signature"]:
                infos[alias].tensor_shape.dim.add(size=int(size))
    return proto


def _stored_signature_defs(content: bytes) -> dict[str, Any]:
    """The SignatureDefs in the model's metadata; {} when it has none."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import flexbuffers
    from google.protobuf.message import DecodeError

    model = schema.Model.GetRootAs(content)
    for number in range(model.MetadataLength()):
        metadata = model.Metadata(number)
        if metadata.Name() == METADATA.encode():
            buffer = model.Buffers(metadata.Buffer()).DataAsNumpy()
            try:
                stored = flexbuffers.GetRoot(bytearray(buffer.tobytes())).AsMap
                message = message_class("SignatureDef")
                return {
                    key.AsKey: message.FromString(value.AsStringBytes)
                    for key, value in zip(stored.Keys, stored.Values, strict=True)
                }
            except (DecodeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise invalid(f"Invalid SignatureDefs found in TfLite model: {error}") from None
    return {}
