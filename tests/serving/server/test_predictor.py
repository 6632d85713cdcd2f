"""What requests mean: codes and words of TensorFlow Serving, without a transport and without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server.options import ServerOptions
from serving.server.predict_checks import CLASSIFY_METHOD, REGRESS_METHOD
from serving.server.predictor import Predictor
from serving.server.status import Code, StatusError
from serving.server.tensors import to_array, to_proto
from tests.serving.server.fake_models import FakeModels, FakeServable, TensorServable, signature, spec


class Seen:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def requested(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        self.told.append(("requested", model, api, entrypoint, code))

    def ran(self, model: str, api: str, seconds: float) -> None:
        assert seconds >= 0
        self.told.append(("ran", model, api))

    def examples(self, model: str, count: int) -> None:
        self.told.append(("examples", model, count))


class Kept:
    """A request log that keeps everything."""

    def __init__(self) -> None:
        self.logs: list[Any] = []

    def wants(self, model: str) -> bool:
        return True

    def put(self, model: str, log: Any) -> None:
        self.logs.append(log)


def predictor(models: FakeModels | None = None, **options: Any) -> Predictor:
    return Predictor(models or FakeModels(), ServerOptions(**options))


def predict_request(signature_name: str = "", filter_: tuple[str, ...] = (), name: str = "half", **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest(output_filter=filter_)
    request.model_spec.name = name
    request.model_spec.signature_name = signature_name
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(np.asarray(value, None if isinstance(value, np.ndarray) else "float32")))
    return request


def refused(call: Any, *args: Any) -> tuple[Code, str]:
    with pytest.raises(StatusError) as caught:
        call(*args)
    return caught.value.code, caught.value.message


def test_predict_answers_with_name_version_and_signature() -> None:
    models = FakeModels()
    response = predictor(models).predict(predict_request(x=[1.0, 4.0]), 12.5)
    assert (response.model_spec.name, response.model_spec.version.value) == ("half", 2)
    assert response.model_spec.signature_name == "serving_default"
    assert list(response.outputs["y"].float_val) == [2.5, 4.0]
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [2]
    assert models.servable.deadlines == [12.5]
    assert models.held == 0


def test_predict_by_version_and_by_label() -> None:
    for field, value in (("version", 1), ("version_label", "stable")):
        request = predict_request(x=[1.0])
        if field == "version":
            request.model_spec.version.value = value
        else:
            request.model_spec.version_label = value
        assert predictor().predict(request).model_spec.version.value == 1


def test_predict_with_tensor_content() -> None:
    response = predictor(enable_serialization_as_tensor_content=True).predict(predict_request(x=[1.0]))
    assert not response.outputs["y"].float_val
    assert response.outputs["y"].tensor_content == np.array([2.5], "float32").tobytes()


def test_predict_computes_only_the_outputs_that_are_asked_for() -> None:
    models = FakeModels()
    response = predictor(models).predict(predict_request("two", ("product",), a=[2.0], b=[3.0]))
    assert list(response.outputs) == ["product"]
    assert models.servable.runs == [("two", ("product",))]
    everything = predictor(models).predict(predict_request("two", a=[2.0], b=[3.0]))
    assert set(everything.outputs) == {"sum", "product"}


def test_missing_inputs_take_the_signatures_default() -> None:
    response = predictor().predict(predict_request("defaulted", a=[1.0]))
    assert list(response.outputs["sum"].float_val) == [11.0]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict_pb2.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (predict_request(name=""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (predict_request(name="nope"), Code.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (predict_request("S", x=[1.0]), Code.FAILED_PRECONDITION, 'Serving signature key "S" not found.'),
        (
            predict_request(b=[1.0], a=[1.0]),
            Code.INVALID_ARGUMENT,
            "input size does not match signature: 2!=1 len({a,b}) != len({x}). Sent extra: {a,b}. Missing but required: {x}.",
        ),
        (
            predict_request("two", b=[1.0]),
            Code.INVALID_ARGUMENT,
            "input size does not match signature: 1!=2 len({b}) != len({a,b}). Sent extra: {}. Missing but required: {a}.",
        ),
        (
            predict_request(z=[1.0]),
            Code.INVALID_ARGUMENT,
            "Signature input alias: x(feed name: x:0) not found in request and no default value provided. Inputs expected to be "
            "in the request {z}, or default input alias set: ",
        ),
        (
            predict_request("defaulted", b=[1.0]),
            Code.INVALID_ARGUMENT,
            "Signature input alias: a(feed name: a:0) not found in request and no default value provided. Inputs expected to be "
            "in the request {b}, or default input alias set: b",
        ),
        (
            predict_request("defaulted", a=[1.0], q=[1.0]),
            Code.INVALID_ARGUMENT,
            "Inputs contains invalid name. Used request inputs: a, request input: a,q",
        ),
        (
            predict_request(x=np.array([b"a"], object)),
            Code.INVALID_ARGUMENT,
            "Expects arg[0] to be float but string is provided",
        ),
        # The arguments are numbered by the tensors' names: B:0 before a:0.
        (
            predict_request("two", a=np.array([1]), b=[1.0]),
            Code.INVALID_ARGUMENT,
            "Expects arg[1] to be float but int64 is provided",
        ),
        (
            predict_request("two", ("sum", "q"), a=[1.0], b=[1.0]),
            Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: q Outputs expected to be in the set {product,sum}.",
        ),
        (
            predict_request("two", ("sum", "sum"), a=[1.0], b=[1.0]),
            Code.INVALID_ARGUMENT,
            "duplicate output tensor alias: sum",
        ),
    ],
)
def test_predict_refuses(request_: Any, code: Code, message: str) -> None:
    models = FakeModels()
    assert refused(predictor(models).predict, request_) == (code, message)
    assert models.servable.runs == []
    assert models.held == 0


def test_predict_refuses_unknown_versions_labels_and_broken_tensors() -> None:
    request = predict_request(x=[1.0])
    request.model_spec.version.value = 99
    assert refused(predictor().predict, request) == (Code.NOT_FOUND, "Servable not found for request: Specific(half, 99)")
    request.model_spec.version_label = "L"
    assert refused(predictor().predict, request) == (Code.INVALID_ARGUMENT, "Unrecognized servable version label: L")
    request = predict_request(x=[1.0])
    request.inputs["x"].tensor_content = b"123"
    assert refused(predictor().predict, request) == (Code.INVALID_ARGUMENT, "tensor parsing error: x")


def test_the_order_of_checks_is_tensorflow_servings() -> None:
    # A wrong input and a wrong output: the input is complained of; a wrong output and a wrong dtype: the output.
    assert "input size" in refused(predictor().predict, predict_request("two", ("q",), a=[1.0]))[1]
    assert "output tensor alias" in refused(predictor().predict, predict_request("", ("q",), x=np.array([1])))[1]


def test_methods_are_checked_with_the_flag_only() -> None:
    request = predict_request("odd", x=[1.0])
    assert predictor().predict(request).model_spec.signature_name == "odd"
    assert refused(predictor(enable_signature_method_name_check=True).predict, request) == (
        Code.INTERNAL,
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, tensorflow/serving/classify, "
        "tensorflow/serving/regress}. Was: somebody/else",
    )


def test_run_on_arrays_and_held_versions() -> None:
    made = predictor()
    result = made.run("half", None, "stable", "", {"x": np.array([2.0], "float32")})
    assert (result.name, result.version, result.signature, result.outputs["y"].tolist()) == ("half", 1, "serving_default", [3.0])
    with made.signature("half", 2, key="two") as (loaded, found):
        assert list(found.inputs) == ["a", "b"]
        arrays = {alias: np.array([2.0], "float32") for alias in found.inputs}
        assert list(made.run_held(loaded, "two", arrays, ("product", "sum")).outputs) == ["product", "sum"]
    with pytest.raises(StatusError, match="not found"), made.signature("half", key="nope"):
        pass


def examples_request(message: Any, signature_name: str, *features: str) -> Any:
    request = message()
    request.model_spec.name = "half"
    request.model_spec.signature_name = signature_name
    for name in features:
        request.input.example_list.examples.add().features.feature[name].int64_list.value.append(1)
    return request


def test_classify() -> None:
    response = predictor().classify(examples_request(classification_pb2.ClassificationRequest, "classify", "a", "bb"))
    assert (response.model_spec.signature_name, response.model_spec.version.value) == ("classify", 2)
    first, second = response.result.classifications
    assert [each.label for each in first.classes] == ["short", "long"]
    assert first.classes[0].score == -first.classes[1].score > 0
    assert second.classes[0].score == first.classes[0].score + 1


def test_regress() -> None:
    response = predictor().regress(examples_request(regression_pb2.RegressionRequest, "regress", "a", "bb"))
    first, second = response.result.regressions
    assert second.value == first.value + 1


@pytest.mark.parametrize(
    ("name", "features", "code", "message"),
    [
        ("S", ("a",), Code.INVALID_ARGUMENT, "No signature was found with the name: S"),
        ("classify", (), Code.INVALID_ARGUMENT, "Input is empty."),
        ("two", ("a",), Code.INVALID_ARGUMENT, "Expected one input Tensor."),
        ("odd", ("a",), Code.INVALID_ARGUMENT, "No classification inputs found in SignatureDef: "),
        (
            "regress",
            ("a",),
            Code.INVALID_ARGUMENT,
            'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: ',
        ),
    ],
)
def test_classify_refuses(name: str, features: tuple[str, ...], code: Code, message: str) -> None:
    request = examples_request(classification_pb2.ClassificationRequest, name, *features)
    got = refused(predictor().classify, request)
    assert (got[0], got[1][: len(message)]) == (code, message)


def test_classify_and_regress_check_the_method_with_the_flag() -> None:
    strict = predictor(enable_signature_method_name_check=True)
    assert refused(strict.classify, examples_request(classification_pb2.ClassificationRequest, "regress", "a"))[1] == (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/regress"
    )
    assert refused(strict.regress, examples_request(regression_pb2.RegressionRequest, "classify", "a"))[1] == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify"
    )
    assert (
        "Expected one output"
        in refused(predictor().regress, examples_request(regression_pb2.RegressionRequest, "classify", "a"))[1]
    )


class Shapes(FakeServable):
    """Answers with the arrays that it is given, whatever they are."""

    def __init__(self, **arrays: Any) -> None:
        super().__init__()
        self.arrays = arrays

    def _compute(self, inputs: Any) -> Any:
        return self.arrays


@pytest.mark.parametrize(
    ("classes", "scores", "message"),
    [
        (np.array([b"a"], object), np.zeros((1, 2), "float32"), "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (np.zeros((1, 2)), np.zeros((1, 2), "float32"), "Expected classes Tensor of DT_STRING. Got: DT_DOUBLE"),
        (np.array([[b"a"]], object), np.zeros((1, 1), "int64"), "Expected scores Tensor of DT_FLOAT. Got: DT_INT64"),
        (np.array([[b"a"]], object), np.zeros((2, 1), "float32"), "Expected scores output batch size of 1. Got: 2"),
        (
            np.array([[b"a"]], object),
            np.zeros((1, 2), "float32"),
            "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
        ),
    ],
)
def test_classify_refuses_what_a_model_answers(classes: Any, scores: Any, message: str) -> None:
    made = predictor(FakeModels(Shapes(classes=classes, scores=scores)))
    request = examples_request(classification_pb2.ClassificationRequest, "classify", "a")
    assert refused(made.classify, request) == (Code.INVALID_ARGUMENT, message)


def test_regress_refuses_what_a_model_answers() -> None:
    request = examples_request(regression_pb2.RegressionRequest, "regress", "a")
    for array, message in (
        (
            np.zeros((1, 2), "float32"),
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
        ),
        (np.zeros(2, "float32"), "Input batch size did not match output batch size: 1 vs. 2"),
        (np.zeros(1), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ):
        assert refused(predictor(FakeModels(Shapes(outputs=array))).regress, request)[1] == message


def multi_request(*tasks: tuple[str, str], model: str = "half") -> Any:
    request = inference_pb2.MultiInferenceRequest()
    for name, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = model
        task.model_spec.signature_name = name
    request.input.example_list.examples.add().features.feature["a"].int64_list.value.append(1)
    return request


def test_multi_inference_is_one_run_where_the_runtime_can() -> None:
    request = multi_request(("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD))
    one, several = TensorServable(), FakeServable()
    responses = [predictor(FakeModels(servable)).multi_inference(request) for servable in (one, several)]
    assert one.runs == [("examples:0", ("classes:0", "outputs:0", "scores:0"))]
    assert several.runs == [("classify", ("classes", "scores")), ("regress", ("outputs",))]
    assert responses[0] == responses[1]
    classified, regressed = responses[0].results
    assert [result.model_spec.signature_name for result in (classified, regressed)] == ["classify", "regress"]
    assert (
        regressed.regression_result.regressions[0].value == classified.classification_result.classifications[0].classes[0].score
    )


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (inference_pb2.MultiInferenceRequest(), Code.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (
            multi_request(("S", CLASSIFY_METHOD)),
            Code.INVALID_ARGUMENT,
            "Requested signature not found in model graph: S",
        ),
        (
            multi_request(("regress", REGRESS_METHOD), ("regress", REGRESS_METHOD)),
            Code.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: regress",
        ),
        (
            multi_request(("regress", "tensorflow/serving/predict")),
            Code.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)
def test_multi_inference_refuses(request_: Any, code: Code, message: str) -> None:
    assert refused(predictor().multi_inference, request_) == (code, message)


def test_multi_inference_refuses_several_models_and_several_inputs() -> None:
    request = multi_request(("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD))
    request.tasks[1].model_spec.name = "other"
    assert refused(predictor().multi_inference, request)[1] == (
        "All ModelSpecs in a MultiInferenceRequest must access the same model name."
    )
    request.tasks[1].model_spec.name = ""
    assert refused(predictor().multi_inference, request)[1] == "Found ModelSpec with an empty model name."
    servable = FakeServable()
    apart = signature([spec("inputs", 7, feed="elsewhere:0")], [spec("outputs")], REGRESS_METHOD)
    servable.signatures = {**servable.signatures, "regress": apart}
    request.tasks[1].model_spec.name = "half"
    assert refused(predictor(FakeModels(servable)).multi_inference, request)[1] == (
        "Input tensor must be the same for all Signatures."
    )


def test_metadata() -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    assert refused(predictor().metadata, request) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")
    request.model_spec.name = "half"
    assert refused(predictor().metadata, request)[1] == "GetModelMetadataRequest must specify at least one metadata_field"
    request.metadata_field.append("F")
    assert refused(predictor().metadata, request)[1] == "Metadata field F is not supported"
    request.metadata_field[:] = ["signature_def"]
    response = predictor().metadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert "__saved_model_init_op" in signatures.signature_def
    assert signatures.signature_def["serving_default"].inputs["x"].name == "x:0"
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (2, "")


def test_status() -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    assert refused(predictor().status, request) == (Code.INVALID_ARGUMENT, "Missing ModelSpec")
    request.model_spec.name = "half"
    assert [each.version for each in predictor().status(request).model_version_status] == [2, 1]
    request.model_spec.version.value = 1
    (status,) = predictor().status(request).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, 30, 0)
    request.model_spec.version.value = 9
    assert refused(predictor().status, request) == (Code.NOT_FOUND, "Could not find version 9 of model half")


def test_reload() -> None:
    models = FakeModels()
    request = model_management_pb2.ReloadConfigRequest()
    assert refused(predictor(models).reload, request) == (
        Code.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported",
    )
    request.config.model_config_list.config.add(name="new", base_path="/m")
    assert predictor(models).reload(request).status.error_code == 0
    assert models.reloads[0].model_config_list.config[0].name == "new"


def test_observers_and_the_request_log_are_told() -> None:
    seen, kept = Seen(), Kept()
    made = Predictor(FakeModels(), ServerOptions(), [seen], kept)
    made.predict(predict_request(x=[1.0]))
    made.regress(examples_request(regression_pb2.RegressionRequest, "regress", "a"))
    made.run("half", 1, None, "", {"x": np.array([2.0], "float32")})
    made.requested("half", "Predict", "REST", "OK", 0.1)
    assert seen.told == [
        ("ran", "half", "Predict"),
        ("examples", "half", 1),
        ("ran", "half", "Regress"),
        ("ran", "half", "Predict"),
        ("requested", "half", "Predict", "REST", "OK"),
    ]
    assert [log.WhichOneof("log_type") for log in kept.logs] == ["predict_log", "regress_log", "predict_log"]
    last = kept.logs[-1]
    assert (last.log_metadata.model_spec.version.value, last.log_metadata.model_spec.signature_name) == (1, "serving_default")
    assert to_array(last.predict_log.request.inputs["x"]).tolist() == [2.0]
    assert to_array(last.predict_log.response.outputs["y"]).tolist() == [3.0]
