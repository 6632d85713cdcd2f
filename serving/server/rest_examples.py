"""Classify and Regress by JSON: a request's body → ClassificationRequest or RegressionRequest (json_tensor.cc).

A feature is a value or a list of values of one kind: integers, true and false make an int64 list, decimals a float list, strings
and {"b64": "…"} a bytes list. This module fills the protos that it is given and imports none.
"""

from __future__ import annotations

from typing import Any

from serving.server.rest_json import Document, encode
from serving.server.rest_json_describe import describe, type_name
from serving.server.rest_predict import signature_name
from serving.server.rest_tensors import checked_float, decode_base64, is_base64
from serving.server.status import invalid

_KINDS = {"int64_list": "int64", "float_list": "float", "bytes_list": "bytes"}


def fill_request(document: Document, request: Any) -> None:
    """Fills a request's signature name and input.

    Args:
        document: The body: `{"signature_name"?, "context"?, "examples": [{feature: value or list}]}`.
        request: A ClassificationRequest or RegressionRequest, whose model_spec may have the rest already.

    Raises:
        StatusError: INVALID_ARGUMENT.
    """
    body = document.value
    request.model_spec.signature_name = _text(signature_name(document))
    given = request.input.example_list
    if "context" in body:
        given = request.input.example_list_with_context
        given.context.SetInParent()
        _fill_example(body["context"], given.context)
    if "examples" not in body:
        raise invalid(f"JSON Value: {describe(body)} When method is classify, key 'examples' is expected and was not found")
    examples = body["examples"]
    if type(examples) is not list:
        raise invalid(f"JSON Value: {describe(body)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {describe(body)} 'examples' value is an empty array")
    for example in examples:
        _fill_example(example, given.examples.add())


def _text(name: str) -> str:
    """A name as proto strings may be: bytes that are not UTF-8, which no name in a model has, become U+FFFD."""
    return encode(name).decode("utf-8", "replace")


def _fill_example(value: Any, example: Any) -> None:
    if type(value) is not dict:
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    features = example.features.feature
    for name, content in value.items():
        values = content if type(content) is list else [content]
        kind, converted = _feature(name, values)
        feature = features[_text(name)]
        if kind:
            getattr(feature, kind).value.extend(converted)


def _feature(name: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Which list of a Feature the values make, "" for no value, and what goes in."""
    first_kind, converted = "", []
    for value in values:
        kind, one = _feature_value(name, value, first_kind)
        first_kind = first_kind or kind
        converted.append(one)
    return first_kind, converted


def _feature_value(name: str, value: Any, wanted: str) -> tuple[str, Any]:
    kind = _kind(name, value)
    if wanted and kind != wanted:
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {_KINDS[wanted]}")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if kind == "int64_list":
        return kind, int(value)
    if kind == "float_list":
        return kind, checked_float(value)
    return kind, decode_base64(value) if type(value) is dict else encode(value)


def _kind(name: str, value: Any) -> str:
    if type(value) in (int, bool):
        return "int64_list"
    if type(value) is float:
        return "float_list"
    if type(value) is str or is_base64(value):
        return "bytes_list"
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
