"""Classify and Regress by JSON: objects → tf.Examples, results → JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.server.rest_answers import classifications_json, regressions_json
from serving.server.rest_examples import fill_request
from serving.server.rest_json import parse
from serving.server.status import Code, StatusError


def request(body: str | bytes) -> Any:
    filled = classification_pb2.ClassificationRequest()
    fill_request(parse(body.encode() if isinstance(body, str) else body), filled)
    return filled


def features(example: Any) -> dict[str, Any]:
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    return found


def test_features_take_their_type_from_the_json() -> None:
    filled = request(
        '{"signature_name": "s", "examples": '
        '[{"i": [1, -2, true], "f": [1.5, NaN], "b": ["é", {"b64": "/w=="}], "one": 7, "none": []}, {}]}'
    )
    assert filled.model_spec.signature_name == "s"
    assert filled.input.WhichOneof("kind") == "example_list" and len(filled.input.example_list.examples) == 2
    found = features(filled.input.example_list.examples[0])
    assert found["i"] == ("int64_list", [1, -2, 1]) and found["one"] == ("int64_list", [7])
    assert found["f"][0] == "float_list" and found["f"][1][0] == 1.5 and found["f"][1][1] != found["f"][1][1]
    assert found["b"] == ("bytes_list", ["é".encode(), b"\xff"])
    assert found["none"] == (None, [])


def test_context_makes_the_other_kind_of_input() -> None:
    filled = request('{"context": {}, "examples": [{"x": "a"}]}')
    assert filled.input.WhichOneof("kind") == "example_list_with_context"
    assert filled.input.example_list_with_context.HasField("context")
    filled = request('{"context": {"c": 1}, "examples": [{}, {}]}')
    assert features(filled.input.example_list_with_context.context) == {"c": ("int64_list", [1])}
    assert len(filled.input.example_list_with_context.examples) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": 1}', "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ('{"examples": ["a"]}', "Example must be JSON object but got JSON String"),
        ('{"context": 1, "examples": [{}]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"f": [1, 2.5]}]}', "Unexpected element type in feature: f expecting type: int64"),
        ('{"examples": [{"f": [1.5, 2]}]}', "Unexpected element type in feature: f expecting type: float"),
        ('{"examples": [{"f": ["a", 2]}]}', "Unexpected element type in feature: f expecting type: bytes"),
        ('{"examples": [{"f": [1.5, true]}]}', "Unexpected element type in feature: f expecting type: float"),
        ('{"examples": [{"f": 9223372036854775808}]}', "Feature: f has uint64_t element. Only int64_t is supported."),
        ('{"examples": [{"f": null}]}', "Feature: f has element with unexpected JSON type: Null"),
        ('{"examples": [{"f": [[1]]}]}', "Feature: f has element with unexpected JSON type: Array"),
        ('{"examples": [{"f": {"a": 1}}]}', "Feature: f has element with unexpected JSON type: Object"),
        ('{"examples": [{"f": {"b64": "?"}}]}', "Unable to base64 decode"),
        ('{"examples": [{"f": 1e300}]}', "Cannot convert JSON value: 1e+300 to float without loss of precision."),
        (
            '{"signature_name": null}',
            'JSON Value: {\n    "signature_name": null\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
    ],
)
def test_refusals(body: str, message: str) -> None:
    with pytest.raises(StatusError) as caught:
        request(body)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.builds(lambda t: {"b64": t}, st.text(max_size=4))
)
EXAMPLES = st.dictionaries(st.text(max_size=3), VALUES | st.lists(VALUES, max_size=3), max_size=3) | VALUES


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {}, optional={"context": EXAMPLES, "examples": st.lists(EXAMPLES, max_size=3) | VALUES, "signature_name": VALUES}
    )
)
def test_any_json_is_taken_or_refused(body: dict[str, Any]) -> None:
    for text in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        try:
            request(text).SerializeToString()
        except StatusError as error:
            assert error.http_status == 400


def test_bytes_that_are_not_utf8() -> None:
    (example,) = request(b'{"signature_name": "\xff", "examples": [{"\xff": "\xfe"}]}').input.example_list.examples
    assert features(example) == {"\ufffd": ("bytes_list", [b"\xfe"])}


def test_results() -> None:
    result = classification_pb2.ClassificationResult()
    for scores in ((0.5, 1 / 3), (float("nan"), 2.0)):
        classes = result.classifications.add().classes
        for label, score in zip(("a", 'b"'), scores, strict=True):
            classes.add(label=label, score=score)
    assert classifications_json(result, strict=False) == (
        b'{\n    "results": [[["a", 0.5], ["b\\"", 0.333333343]], [["a", NaN], ["b\\"", 2.0]]\n    ]\n}'
    )
    assert json.loads(classifications_json(result, strict=True))["results"][1] == [["a", "NaN"], ['b"', 2.0]]
    regression = regression_pb2.RegressionResult()
    regression.regressions.add(value=42)
    regression.regressions.add(value=1e-7)
    assert regressions_json(regression, strict=False) == b'{\n    "results": [42.0, 1e-07]\n}'


def test_results_without_anything() -> None:
    with pytest.raises(StatusError, match="Cannot convert empty ClassificationResults to JSON"):
        classifications_json(classification_pb2.ClassificationResult(), strict=False)
    with pytest.raises(StatusError, match="Cannot convert empty RegressionResults to JSON"):
        regressions_json(regression_pb2.RegressionResult(), strict=False)
