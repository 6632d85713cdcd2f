"""A client's questions as gRPC messages, and the answers as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.client.messages import message
from serving.client.values import Array, Prediction, Signature, Spec, State, Tensor, VersionStatus, feature
from serving.server.status import Code
from serving.server.tensors import numpy_dtype, tf_dtype, to_array

PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"


@dataclass(frozen=True)
class GrpcCall:
    """A method, what is sent, and how the serialized answer is read.

    Attributes:
        repeatable: Whether it may be sent again when it is not known what became of it.
    """

    method: str
    request: bytes
    read: Callable[[bytes], Any]
    repeatable: bool = True


def predict(
    spec: Spec, name: str, inputs: Mapping[str, Array], outputs: Sequence[str], _signature: Signature | None = None
) -> GrpcCall:
    """PredictionService.Predict; the answer is a Prediction."""
    request = message("tensorflow.serving.PredictRequest")(output_filter=outputs)
    _fill(request.model_spec, spec, name)
    for key, array in inputs.items():
        _fill_tensor(request.inputs[key], array)
    return GrpcCall(f"{PREDICTION}Predict", request.SerializeToString(), _read_predict)


def _fill_tensor(tensor: Any, array: Array) -> None:
    tensor.dtype = tf_dtype(array)
    tensor.tensor_shape.SetInParent()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        # Whole blocks of memory, and the machine's own byte order, are what TensorFlow keeps in tensor_content.
        tensor.tensor_content = array.tobytes()


def _read_predict(answer: bytes) -> Prediction:
    response = message("tensorflow.serving.PredictResponse").FromString(answer)
    arrays = {name: to_array(response.outputs[name], name) for name in sorted(response.outputs)}
    return Prediction(arrays, response.model_spec.version.value)


def classify(spec: Spec, name: str, examples: Sequence[Mapping[str, Any]]) -> GrpcCall:
    """PredictionService.Classify; the answer is, for each example, a list of (label, score)."""
    request = message("tensorflow.serving.ClassificationRequest")()
    _fill_examples(request, spec, name, examples)

    def read(answer: bytes) -> list[list[tuple[str, float]]]:
        response = message("tensorflow.serving.ClassificationResponse").FromString(answer)
        return [[(each.label, each.score) for each in one.classes] for one in response.result.classifications]

    return GrpcCall(f"{PREDICTION}Classify", request.SerializeToString(), read)


def regress(spec: Spec, name: str, examples: Sequence[Mapping[str, Any]]) -> GrpcCall:
    """PredictionService.Regress; the answer is a number for each example."""
    request = message("tensorflow.serving.RegressionRequest")()
    _fill_examples(request, spec, name, examples)

    def read(answer: bytes) -> list[float]:
        response = message("tensorflow.serving.RegressionResponse").FromString(answer)
        return [each.value for each in response.result.regressions]

    return GrpcCall(f"{PREDICTION}Regress", request.SerializeToString(), read)


def status(spec: Spec) -> GrpcCall:
    """ModelService.GetModelStatus; the answer is a list of VersionStatus, the newest first."""
    request = message("tensorflow.serving.GetModelStatusRequest")()
    _fill(request.model_spec, spec, "")

    def read(answer: bytes) -> list[VersionStatus]:
        found = message("tensorflow.serving.GetModelStatusResponse").FromString(answer).model_version_status
        told = [
            VersionStatus(each.version, State(each.state), Code(each.status.error_code), each.status.error_message)
            for each in found
        ]
        return sorted(told, key=lambda each: -each.version)

    return GrpcCall(f"{MODEL}GetModelStatus", request.SerializeToString(), read)


def metadata(spec: Spec) -> GrpcCall:
    """PredictionService.GetModelMetadata; the answer is (version, signatures by name), the init op left out."""
    request = message("tensorflow.serving.GetModelMetadataRequest")(metadata_field=["signature_def"])
    _fill(request.model_spec, spec, "")

    def read(answer: bytes) -> tuple[int, dict[str, Signature]]:
        response = message("tensorflow.serving.GetModelMetadataResponse").FromString(answer)
        packed = response.metadata["signature_def"].value
        found = message("tensorflow.serving.SignatureDefMap").FromString(packed).signature_def
        signatures = {
            name: Signature(_tensors(found[name].inputs), _tensors(found[name].outputs), found[name].method_name)
            for name in sorted(found)
            if not name.startswith("__")
        }
        return response.model_spec.version.value, signatures

    return GrpcCall(f"{PREDICTION}GetModelMetadata", request.SerializeToString(), read)


def reload(config: Any) -> GrpcCall:
    """ModelService.HandleReloadConfigRequest; the answer is (code, message).

    Args:
        config: A ModelServerConfig, from `serving.client.messages` or from tensorflow-serving-api.
    """
    request = message("tensorflow.serving.ReloadConfigRequest")()
    # Fields that are not described here stay in as unknown ones, and go on to the server.
    request.config.ParseFromString(config.SerializeToString())

    def read(answer: bytes) -> tuple[Code, str]:
        told = message("tensorflow.serving.ReloadConfigResponse").FromString(answer).status
        return Code(told.error_code), str(told.error_message)

    return GrpcCall(f"{MODEL}HandleReloadConfigRequest", request.SerializeToString(), read, repeatable=False)


def _fill(model_spec: Any, spec: Spec, signature: str) -> None:
    model_spec.name, model_spec.signature_name = spec.model, signature
    if spec.version is not None:
        model_spec.version.value = spec.version
    if spec.label is not None:
        model_spec.version_label = spec.label


def _fill_examples(request: Any, spec: Spec, signature: str, examples: Sequence[Mapping[str, Any]]) -> None:
    _fill(request.model_spec, spec, signature)
    for each in examples:
        features = request.input.example_list.examples.add().features.feature
        for name, value in each.items():
            known = feature(value)
            getattr(features[name], known.kind).value.extend(known.values)


def _tensors(infos: Any) -> dict[str, Tensor]:
    described = {}
    for name in sorted(infos):
        known = infos[name].tensor_shape
        shape = None if known.unknown_rank else tuple(dim.size if dim.size >= 0 else None for dim in known.dim)
        try:
            described[name] = Tensor(numpy_dtype(infos[name].dtype), shape)
        except KeyError:
            continue
    return described
