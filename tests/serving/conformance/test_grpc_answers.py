"""What gRPC answers: Predict on every kind of tensor, Classify, Regress, MultiInference, metadata, status, health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.serving.conformance.servers import Connection, Refusal
from tests.serving.conformance.test_grpc_refusals import CLASSIFY, REGRESS, spec, task

pytestmark = pytest.mark.slow

TYPED = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int64": "int64_val",
    "uint8": "int_val",
    "bool": "bool_val",
    "object": "string_val",
}


def request(model: str, inputs: dict[str, Any], signature: str = "", **more: object) -> Any:
    """A PredictRequest with numpy inputs."""
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_serving.apis import predict_pb2

    found = text_format.Parse(spec(model, signature_name=f'"{signature}"', **more), predict_pb2.PredictRequest())
    for key, value in inputs.items():
        found.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return found


def array(proto: Any) -> np.ndarray[Any, Any]:
    """An output as numpy."""
    import tensorflow as tf

    found: np.ndarray[Any, Any] = tf.make_ndarray(proto)
    return found


def examples(*xs: Sequence[float], context: str = "") -> str:
    """Input with an Example for each list of x."""
    texts = [f"features {{ feature {{ key: 'x' value {{ float_list {{ value: {list(x)} }} }} }} }}" for x in xs]
    inside = " ".join(f"examples {{ {text} }}" for text in texts)
    if not context:
        return f"input {{ example_list {{ {inside} }} }}"
    return f"input {{ example_list_with_context {{ {inside} context {{ {context} }} }} }}"


def test_predict(plain: Connection) -> None:
    answer = plain.call("Predict", request("half_plus_two", {"x": np.array([[1], [2]], np.float32)}))
    assert answer.model_spec.name == "half_plus_two"
    assert answer.model_spec.version.value == 123
    assert answer.model_spec.signature_name == "serving_default"
    assert list(answer.outputs) == ["y"]
    assert list(answer.outputs["y"].float_val) == [2.5, 3.0]
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == [2, 1]
    assert not answer.outputs["y"].tensor_content


@pytest.mark.parametrize("content", [False, True], ids=["values", "content"])
@pytest.mark.parametrize(
    "values",
    [
        np.array([0.1, -0.0, np.inf, np.nan, 1e-45], np.float32),
        np.array([0.1, np.pi, -1e300]),
        np.array([-(2**31), 2**31 - 1], np.int32),
        np.array([-(2**63), 2**63 - 1], np.int64),
        np.array([0, 255], np.uint8),
        np.array([True, False]),
        np.array([], np.float32),
    ],
    ids=lambda values: f"{values.dtype}-{values.size}",
)
def test_dtypes_come_back(plain: Connection, values: np.ndarray[Any, Any], content: bool) -> None:
    asked = request("kinds", {"v": values}, values.dtype.name)
    proto = asked.inputs["v"]
    if content:
        proto.CopyFrom(type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape, tensor_content=values.tobytes()))
    else:
        proto.CopyFrom(type(proto)(dtype=proto.dtype, tensor_shape=proto.tensor_shape))
        getattr(proto, TYPED[values.dtype.name]).extend(values.tolist())
    answer = plain.call("Predict", asked).outputs["w"]
    assert len(getattr(answer, TYPED[values.dtype.name])) == values.size
    np.testing.assert_array_equal(array(answer), values)


def test_one_value_stands_for_all(plain: Connection) -> None:
    """TensorProto's rule: the last value is repeated up to the shape's size."""
    asked = request("kinds", {"v": np.array([7, 7, 7], np.int32)}, "int32")
    asked.inputs["v"].ClearField("tensor_content")
    asked.inputs["v"].int_val[:] = [7]
    assert array(plain.call("Predict", asked).outputs["w"]).tolist() == [7, 7, 7]


def test_strings(plain: Connection) -> None:
    values = np.array([b"abc", b"", b"\xff\x00"], object)
    answer = plain.call("Predict", request("kinds", {"text": values}, "strings"))
    assert list(answer.outputs["same_bytes"].string_val) == values.tolist()
    assert list(answer.outputs["upper"].string_val)[:2] == [b"ABC", b""]


def test_several_inputs_and_a_filter(plain: Connection) -> None:
    inputs = {"a": np.array([2, 3], np.float32), "b": np.array([5, 7], np.float32)}
    asked = request("kinds", inputs, "two")
    answer = plain.call("Predict", asked)
    assert {key: array(value).tolist() for key, value in answer.outputs.items()} == {"sum": [7, 10], "product": [10, 21]}
    asked.output_filter.append("sum")
    assert list(plain.call("Predict", asked).outputs) == ["sum"]


def test_scalar_output_has_a_shape(plain: Connection) -> None:
    answer = plain.call("Predict", request("kinds", {"x": np.array([1, 2], np.float32)}, "total")).outputs["total"]
    assert answer.HasField("tensor_shape")
    assert array(answer).shape == ()
    assert array(answer) == 3


def test_default_fills_a_missing_input(plain: Connection) -> None:
    answer = plain.call("Predict", request("kinds", {"a": np.array([1], np.float32)}, "defaulted"))
    assert array(answer.outputs["sum"]).tolist() == [11]
    both = {"a": np.array([1], np.float32), "b": np.array([1], np.float32)}
    assert array(plain.call("Predict", request("kinds", both, "defaulted")).outputs["sum"]).tolist() == [2]


def test_message_above_four_megabytes(plain: Connection) -> None:
    values = np.arange(2_000_000, dtype=np.float32)
    answer = plain.call("Predict", request("kinds", {"v": values}, "float32"))
    np.testing.assert_array_equal(array(answer.outputs["w"]), values)


@pytest.mark.parametrize(
    ("model", "choice", "version"),
    [
        ("newest", {}, 3),
        ("two_newest", {}, 3),
        ("two_newest", {"version": "{ value: 2 }"}, 2),
        ("picked", {"version": "{ value: 1 }"}, 1),
        ("every", {"version_label": '"stable"'}, 1),
        ("every", {"version_label": '"canary"'}, 3),
    ],
)
def test_choice_of_version(plain: Connection, model: str, choice: dict[str, object], version: int) -> None:
    answer = plain.call("Predict", request(model, {"x": np.array([2], np.float32)}, "", **choice))
    assert answer.model_spec.version.value == version
    assert array(answer.outputs["y"]).tolist() == [1 + version]


def test_classify(plain: Connection) -> None:
    one = spec(signature_name='"classify_x_to_y"')
    answer = plain.call("Classify", one + examples([2], [20]))
    assert [[each.score for each in row.classes] for row in answer.result.classifications] == [[3], [12]]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (123, "classify_x_to_y")
    answer = plain.call("Classify", spec(signature_name='"classify_labels"') + examples([2]))
    assert [(each.label, each.score) for each in answer.result.classifications[0].classes] == [("low", -3), ("high", 3)]


def test_regress(plain: Connection) -> None:
    answer = plain.call("Regress", spec(signature_name='"regress_x_to_y"') + examples([2], [20]))
    assert [each.value for each in answer.result.regressions] == [3, 12]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (123, "regress_x_to_y")


def test_context_is_merged_into_each_example(plain: Connection) -> None:
    context = "features { feature { key: 'x' value { float_list { value: 8 } } } }"
    asked = "input { example_list_with_context { examples {} examples {} context { " + context + " } } }"
    answer = plain.call("Regress", spec(signature_name='"regress_x_to_y"') + asked)
    assert [each.value for each in answer.result.regressions] == [6, 6]
    # The example's own feature wins.
    answer = plain.call("Regress", spec(signature_name='"regress_x_to_y"') + examples([2], context=context))
    assert [each.value for each in answer.result.regressions] == [3]


def test_predict_signatures_classify_and_regress(plain: Connection) -> None:
    """As long as the check of method names is off, TF2 models serve both."""
    answer = plain.call("Classify", spec("kinds", signature_name='"classify"') + examples([2]))
    assert answer.result.classifications[0].classes[0].score == 2
    answer = plain.call("Regress", spec("kinds", signature_name='"regress"') + examples([2], [3]))
    assert [each.value for each in answer.result.regressions] == [2, 3]


def test_multi_inference(plain: Connection) -> None:
    tasks = task("half_plus_two", "regress_x_to_y") + task("half_plus_two", "classify_x_to_y", CLASSIFY)
    tasks += task("half_plus_two", "regress_x_to_y2", REGRESS)
    results = plain.call("MultiInference", tasks + examples([2], [4])).results
    assert [each.WhichOneof("result") for each in results] == ["regression_result", "classification_result", "regression_result"]
    assert [each.value for each in results[0].regression_result.regressions] == [3, 4]
    assert [row.classes[0].score for row in results[1].classification_result.classifications] == [3, 4]
    assert [each.value for each in results[2].regression_result.regressions] == [4, 5]
    assert {each.model_spec.version.value for each in results} == {123}
    assert [each.model_spec.signature_name for each in results] == ["regress_x_to_y", "classify_x_to_y", "regress_x_to_y2"]


def test_metadata(plain: Connection) -> None:
    from tensorflow_serving.apis import get_model_metadata_pb2

    answer = plain.call("GetModelMetadata", spec() + ' metadata_field: "signature_def"')
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("half_plus_two", 123)
    assert answer.model_spec.signature_name == ""
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    expected = {"serving_default", "classify_x_to_y", "classify_labels", "regress_x_to_y", "regress_x_to_y2"}
    assert set(found.signature_def) == expected
    assert found.signature_def["serving_default"].inputs["x"].name == "x:0"
    answer = plain.call("GetModelMetadata", spec("kinds") + ' metadata_field: "signature_def"')
    assert answer.metadata["signature_def"].Unpack(found)
    assert "__saved_model_init_op" in found.signature_def


@pytest.mark.parametrize(
    ("model", "versions"),
    [("half_plus_two", [123]), ("newest", [3]), ("two_newest", [3, 2]), ("picked", [3, 1]), ("every", [3, 2, 1])],
)
def test_status_of_each_policy(plain: Connection, model: str, versions: list[int]) -> None:
    answer = plain.call("GetModelStatus", spec(model)).model_version_status
    assert [each.version for each in answer] == versions
    assert {each.state for each in answer} == {30}
    assert {(each.status.error_code, each.status.error_message) for each in answer} == {(0, "")}
    one = plain.call("GetModelStatus", spec(model, version=f"{{ value: {versions[0]} }}")).model_version_status
    assert [each.version for each in one] == versions[:1]


def test_the_deadline_ends_the_run(plain: Connection) -> None:
    slow = request("kinds", {"seconds": np.array([20], np.float32)}, "slow")
    with pytest.raises(Refusal) as caught:
        plain.call("Predict", slow, timeout=0.3)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert plain.call("Predict", request("kinds", {"v": np.array([1], np.int32)}, "int32"), timeout=5)


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_health(plain: Connection, service: str) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub = health_pb2_grpc.HealthStub(plain.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
