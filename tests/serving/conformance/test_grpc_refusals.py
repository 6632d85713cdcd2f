"""What gRPC refuses, with which code and words: the contract's table, a request of each in text format."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.serving.conformance.servers import Connection, Refusal, same

pytestmark = pytest.mark.slow


class Case(NamedTuple):
    """A request and its refusal; `…` in the message stands for any text."""

    about: str
    method: str
    request: str
    code: str
    message: str


def spec(name: str = "half_plus_two", **more: object) -> str:
    """A model_spec."""
    return f'model_spec {{ name: "{name}" {" ".join(f"{key}: {value}" for key, value in more.items())} }}'


def tensor(key: str, value: str = "dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1") -> str:
    """One input."""
    return f'inputs {{ key: "{key}" value {{ {value} }} }}'


X = tensor("x", "dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 1 } } float_val: 1")
TWO = spec("kinds", signature_name='"two"')
EXAMPLE = 'input { example_list { examples { features { feature { key: "x" value { float_list { value: 2 } } } } } } }'
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
INVALID = "INVALID_ARGUMENT"
ONE_MODEL = "Predict", "Classify", "Regress", "GetModelMetadata", "GetModelStatus"
LABELLED = ONE_MODEL[:-1]


def task(name: str, signature: str, method: str = REGRESS) -> str:
    """One task of a MultiInference."""
    return f'tasks {{ {spec(name, signature_name=chr(34) + signature + chr(34))} method_name: "{method}" }}'


def fields(method: str) -> str:
    """What a request needs beside the model_spec."""
    return (
        {"GetModelMetadata": 'metadata_field: "signature_def"', "Predict": X}.get(method, EXAMPLE)
        if method != "GetModelStatus"
        else ""
    )


CASES = [
    *(Case("no model_spec", each, fields(each), INVALID, "Missing ModelSpec") for each in ONE_MODEL),
    *(
        Case("empty name", each, "model_spec {} " + fields(each), INVALID, "ModelSpec has no name specified.")
        for each in LABELLED
    ),
    *(
        Case("unknown model", each, spec("nope") + fields(each), "NOT_FOUND", "Servable not found for request: Latest(nope)")
        for each in LABELLED
    ),
    *(
        Case(
            "unknown version",
            each,
            spec(version="{ value: 99 }") + fields(each),
            "NOT_FOUND",
            "Servable not found for request: Specific(half_plus_two, 99)",
        )
        for each in LABELLED
    ),
    *(
        Case(
            "unknown label",
            each,
            spec("every", version_label='"odd"') + fields(each),
            INVALID,
            "Unrecognized servable version label: odd",
        )
        for each in LABELLED
    ),
    Case(
        "path for a name",
        "Predict",
        spec("../half_plus_two") + X,
        "NOT_FOUND",
        "Servable not found for request: Latest(../half_plus_two)",
    ),
    Case(
        "bad signature", "Predict", spec(signature_name='"S"') + X, "FAILED_PRECONDITION", 'Serving signature key "S" not found.'
    ),
    Case("bad signature", "Classify", spec(signature_name='"S"') + EXAMPLE, INVALID, "No signature was found with the name: S"),
    Case("bad signature", "Regress", spec(signature_name='"S"') + EXAMPLE, INVALID, "No signature was found with the name: S"),
    Case(
        "bad signature",
        "MultiInference",
        task("half_plus_two", "S") + EXAMPLE,
        INVALID,
        "Requested signature not found in model graph: S",
    ),
    Case(
        "too many inputs",
        "Predict",
        spec() + tensor("a") + tensor("b"),
        INVALID,
        "input size does not match signature: 2!=1 len({a,b}) != len({x}). Sent extra: {a,b}. Missing but required: {x}.",
    ),
    Case(
        "too few inputs",
        "Predict",
        TWO + tensor("a"),
        INVALID,
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    Case(
        "no inputs",
        "Predict",
        spec(),
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    Case(
        "wrong input name",
        "Predict",
        spec() + tensor("q"),
        INVALID,
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {…}, or default input alias set: ",
    ),
    Case(
        "wrong dtype",
        "Predict",
        spec() + tensor("x", 'dtype: DT_STRING tensor_shape {} string_val: "a"'),
        INVALID,
        "Expects arg[0] to be float but string is provided",
    ),
    Case(
        "int for float",
        "Predict",
        spec() + tensor("x", "dtype: DT_INT32 tensor_shape {} int_val: 1"),
        INVALID,
        "Expects arg[0] to be float but int32 is provided",
    ),
    Case(
        "content too short",
        "Predict",
        spec() + tensor("x", r'dtype: DT_FLOAT tensor_shape { dim { size: 4 } } tensor_content: "\0\0\0\0"'),
        INVALID,
        "tensor parsing error: x",
    ),
    Case(
        "negative dimension",
        "Predict",
        spec() + tensor("x", "dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1"),
        INVALID,
        "tensor parsing error: x",
    ),
    Case(
        "no dtype",
        "Predict",
        spec() + tensor("x", "tensor_shape { dim { size: 1 } } float_val: 1"),
        INVALID,
        "tensor parsing error: x",
    ),
    Case(
        "a dimension beyond memory",
        "Predict",
        spec()
        + tensor("x", "dtype: DT_FLOAT tensor_shape { dim { size: 1099511627776 } dim { size: 1099511627776 } } float_val: 1"),
        INVALID,
        "tensor parsing error: x",
    ),
    Case(
        "output unknown",
        "Predict",
        spec() + X + ' output_filter: "q"',
        INVALID,
        "output tensor alias not found in signature: q Outputs expected to be in the set {y}.",
    ),
    Case(
        "output twice",
        "Predict",
        spec() + X + ' output_filter: "y" output_filter: "y"',
        INVALID,
        "duplicate output tensor alias: y",
    ),
    *(
        Case("no examples", method, spec(signature_name=f'"{signature}"') + inputs, INVALID, "Input is empty.")
        for method, signature in (("Classify", "classify_x_to_y"), ("Regress", "regress_x_to_y"))
        for inputs in ("", "input {}", "input { example_list {} }", "input { example_list_with_context { context {} } }")
    ),
    Case("no examples", "MultiInference", task("half_plus_two", "regress_x_to_y"), INVALID, "Input is empty."),
    Case("no field", "GetModelMetadata", spec(), INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
    Case("unknown field", "GetModelMetadata", spec() + ' metadata_field: "F"', INVALID, "Metadata field F is not supported"),
    Case("unknown model", "GetModelStatus", spec("nope"), "NOT_FOUND", "Could not find any versions of model nope"),
    Case(
        "unknown version",
        "GetModelStatus",
        spec(version="{ value: 9 }"),
        "NOT_FOUND",
        "Could not find version 9 of model half_plus_two",
    ),
    Case(
        "two models",
        "MultiInference",
        task("half_plus_two", "regress_x_to_y") + task("kinds", "regress") + EXAMPLE,
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    ),
    Case(
        "a signature twice",
        "MultiInference",
        2 * task("half_plus_two", "regress_x_to_y") + EXAMPLE,
        INVALID,
        "Duplicate evaluation of signature: regress_x_to_y",
    ),
    Case(
        "a method of neither kind",
        "MultiInference",
        task("half_plus_two", "regress_x_to_y", "tensorflow/serving/predict") + EXAMPLE,
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
    Case("no tasks", "MultiInference", EXAMPLE, INVALID, "…"),
    Case(
        "predict's signature",
        "Classify",
        spec(signature_name='"serving_default"') + EXAMPLE,
        INVALID,
        "…",
    ),
    Case(
        "an Example that lacks a feature",
        "Regress",
        spec("kinds", signature_name='"regress"') + "input { example_list { examples {} } }",
        INVALID,
        "…Feature: x…",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method}-{case.about}".replace(" ", "_"))
def test_refusal(plain: Connection, case: Case) -> None:
    with pytest.raises(Refusal) as caught:
        plain.call(case.method, case.request)
    assert caught.value.code == case.code, caught.value.message
    assert same(caught.value.message, case.message), caught.value.message


def test_long_message_is_cut(plain: Connection) -> None:
    with pytest.raises(Refusal) as caught:
        plain.call("Predict", spec("n" * 2000) + X)
    whole = f"Servable not found for request: Latest({'n' * 2000})"
    assert caught.value.message == whole[:1024] + "...TRUNCATED"


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x0a\x7fabc", b"\x08\x01\x12"])
def test_bytes_that_are_no_message(plain: Connection, payload: bytes) -> None:
    """gRPC's C++ says INTERNAL, before TensorFlow Serving sees anything; what matters is that the server lives."""
    call = plain.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(Exception, match="StatusCode"):
        call(payload, timeout=30)
    assert plain.states("half_plus_two") == {123: "AVAILABLE"}


def test_unknown_method(plain: Connection) -> None:
    call = plain.channel.unary_unary("/tensorflow.serving.PredictionService/Nothing")
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        call(b"", timeout=30)


def test_profiler_is_on_the_same_port(plain: Connection) -> None:
    """Ending a session that there is not is refused or not, but known; Monitor is not implemented in TensorFlow."""
    call = plain.channel.unary_unary("/tensorflow.ProfilerService/Terminate")
    try:
        call(b"", timeout=30)
    except Exception as error:
        assert "UNIMPLEMENTED" not in str(error)
