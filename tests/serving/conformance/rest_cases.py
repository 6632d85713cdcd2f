"""REST requests that are refused and their words, those that are answered and their answers, as tables."""

from __future__ import annotations

from typing import Any, NamedTuple


class Refused(NamedTuple):
    """`path` after /v1/models/; `…` in the message stands for any text."""

    about: str
    path: str
    body: str
    message: str
    status: int = 400


class Answered(NamedTuple):
    """`answer` as JSON."""

    about: str
    path: str
    body: str
    answer: Any


PREDICT, CLASSIFY, REGRESS = "half_plus_two:predict", "half_plus_two:classify", "half_plus_two:regress"
KINDS = "kinds:predict"


def kinds(signature: str, rest: str) -> str:
    """A body for a signature of `kinds`."""
    return f'{{"signature_name": "{signature}", {rest}}}'


def example(features: str, more: str = "") -> str:
    """A body of one example for regress_x_to_y."""
    return f'{{"signature_name": "regress_x_to_y", {more}"examples": [{features}]}}'


REFUSED = [
    Refused("no body", PREDICT, "", "JSON Parse error: The document is empty"),
    Refused("no JSON", PREDICT, "hello", "JSON Parse error: Invalid value. at offset: 0"),
    Refused("broken off", PREDICT, '{"instances": [1', "JSON Parse error: …"),
    Refused("bad UTF-8 escape", PREDICT, '{"instances": ["\\ud800"]}', "JSON Parse error: …"),
    Refused("list", PREDICT, "[1]", "JSON Value: … Is not object"),
    Refused("string", PREDICT, '"a"', 'JSON Value: "a" Is not object'),
    Refused(
        "signature a number",
        PREDICT,
        '{"signature_name": 1, "instances": [1]}',
        "JSON Value: … not formatted correctly. 'signature_name' key must be a string value.",
    ),
    Refused(
        "bad signature",
        PREDICT,
        '{"signature_name": "S", "instances": [1]}',
        'Serving signature name: "S" not found in signature def',
    ),
    Refused("no inputs", PREDICT, "{}", "Missing 'inputs' or 'instances' key"),
    Refused(
        "both",
        PREDICT,
        '{"inputs": [1], "instances": [1]}',
        "JSON Value: … Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
    ),
    Refused("instances a number", PREDICT, '{"instances": 1}', "JSON Value: … Expecting 'instances' to be an list/array"),
    Refused("instances an object", PREDICT, '{"instances": {"x": 1}}', "JSON Value: … Expecting 'instances' to be an list/array"),
    Refused("no instances", PREDICT, '{"instances": []}', "JSON Value: … No values in 'instances' array"),
    Refused("named input missing", KINDS, kinds("two", '"inputs": {"a": [1]}'), "Missing named input: b in 'inputs' object."),
    Refused(
        "plain inputs for two",
        KINDS,
        kinds("two", '"inputs": [1]'),
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
    ),
    Refused(
        "plain instances for two",
        KINDS,
        kinds("two", '"instances": [1]'),
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
    ),
    Refused(
        "string for float",
        PREDICT,
        '{"inputs": [["a"]]}',
        'JSON Value: "a" Type: String is not of expected type: float',
    ),
    Refused(
        "string for float in a row",
        PREDICT,
        '{"instances": ["a"]}',
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "a" Type: String is not of expected type: float',
    ),
    Refused(
        "string for float in an object",
        PREDICT,
        '{"instances": [{"x": ["a"]}]}',
        "Failed to process element: 0 key: x of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "a" Type: String is not of expected type: float',
    ),
    Refused("null", PREDICT, '{"inputs": [[null]]}', "JSON Value: null Type: Null is not of expected type: float"),
    Refused("bool for float", PREDICT, '{"inputs": [[true]]}', "JSON Value: true Type: True is not of expected type: float"),
    Refused(
        "b64 for float", PREDICT, '{"inputs": [[{"b64": "AAAA"}]]}', "JSON Value: … Type: Object is not of expected type: float"
    ),
    Refused(
        "decimal for int", KINDS, kinds("int32", '"inputs": [1.5]'), "JSON Value: 1.5 Type: Number is not of expected type: int32"
    ),
    Refused(
        "whole decimal for int",
        KINDS,
        kinds("int64", '"inputs": [1.0]'),
        "JSON Value: 1.0 Type: Number is not of expected type: int64",
    ),
    Refused(
        "too great for int32",
        KINDS,
        kinds("int32", '"inputs": [2147483648]'),
        "JSON Value: 2147483648 Type: Number is not of expected type: int32",
    ),
    Refused(
        "too great for int64",
        KINDS,
        kinds("int64", '"inputs": [9223372036854775808]'),
        "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64",
    ),
    Refused("number for bool", KINDS, kinds("bool", '"inputs": [1]'), "JSON Value: 1 Type: Number is not of expected type: bool"),
    Refused(
        "number for string",
        KINDS,
        kinds("strings", '"inputs": [1]'),
        "JSON Value: 1 Type: Number is not of expected type: string",
    ),
    Refused(
        "extra key in a row",
        PREDICT,
        '{"instances": [{"x": [1], "q": 1}]}',
        "Failed to process element: 0 key: q of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: q",
    ),
    Refused(
        "key missing in a row",
        KINDS,
        kinds("two", '"instances": [{"a": 1}]'),
        "Failed to process element: 0 of 'instances' list. JSON object: … keys must be equal to: a,b",
    ),
    Refused(
        "another size",
        KINDS,
        '{"instances": [[1, 2], [1, 2, 3]]}',
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3",
    ),
    Refused(
        "another shape",
        KINDS,
        '{"instances": [[1, 2], [[1], [2]]]}',
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [2,1]",
    ),
    Refused("ragged", KINDS, '{"inputs": [[1, 2], [1]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    Refused(
        "object after list",
        PREDICT,
        '{"instances": [[1], {"x": [1]}]}',
        "Expecting value/list but got object at item 1 of input list",
    ),
    Refused(
        "list after object", PREDICT, '{"instances": [{"x": [1]}, [1]]}', "Expecting object but got list at item 1 of input list"
    ),
    Refused("bad base64", KINDS, kinds("strings", '"inputs": [{"b64": "%"}]'), "Unable to base64 decode"),
    Refused(
        "scalar output in rows", KINDS, kinds("total", '"instances": [1, 2]'), "Tensor name: total has no shape information "
    ),
    Refused(
        "uneven outputs in rows",
        KINDS,
        kinds("uneven", '"instances": [1, 2, 3]'),
        "Tensor name: z has inconsistent batch size: 2 expecting: 3",
    ),
    Refused("sizes the model cannot add", KINDS, kinds("two", '"inputs": {"a": [1, 2], "b": [1, 2, 3]}'), "…ncompatible shapes…"),
    Refused("no examples", CLASSIFY, "{}", "JSON Value: … When method is classify, key 'examples' is expected and was not found"),
    Refused("examples an object", REGRESS, '{"examples": {}}', "JSON Value: … Expecting 'examples' value to be an list/array"),
    Refused("empty examples", REGRESS, '{"examples": []}', "JSON Value: … 'examples' value is an empty array"),
    Refused("example a string", REGRESS, '{"examples": ["a"]}', "Example must be JSON object but got JSON String"),
    Refused("context a string", REGRESS, '{"context": "a", "examples": [{}]}', "Example must be JSON object but got JSON String"),
    Refused("mixed feature", REGRESS, example('{"f": [1, 2.5]}'), "Unexpected element type in feature: f expecting type: int64"),
    Refused(
        "mixed feature of bytes",
        REGRESS,
        example('{"f": ["a", 1]}'),
        "Unexpected element type in feature: f expecting type: bytes",
    ),
    Refused(
        "uint64 feature",
        REGRESS,
        example('{"f": 18446744073709551615}'),
        "Feature: f has uint64_t element. Only int64_t is supported.",
    ),
    Refused("null feature", REGRESS, example('{"f": null}'), "Feature: f has element with unexpected JSON type: Null"),
    Refused("nested feature", REGRESS, example('{"f": [[1]]}'), "Feature: f has element with unexpected JSON type: Array"),
    Refused("bad signature", REGRESS, '{"signature_name": "S", "examples": [{}]}', "No signature was found with the name: S"),
    Refused("bad signature", CLASSIFY, '{"signature_name": "S", "examples": [{}]}', "No signature was found with the name: S"),
    Refused("unknown model", "nope:predict", '{"instances": [1]}', "Servable not found for request: Latest(nope)", 404),
    Refused("unknown model", "nope:regress", '{"examples": [{}]}', "Servable not found for request: Latest(nope)", 404),
    Refused(
        "unknown version",
        "half_plus_two/versions/99:predict",
        '{"instances": [1]}',
        "Servable not found for request: Specific(half_plus_two, 99)",
        404,
    ),
    Refused("unknown label", "every/labels/odd:predict", '{"instances": [1]}', "Unrecognized servable version label: odd"),
    Refused(
        "version beyond int64",
        "half_plus_two/versions/9223372036854775808:predict",
        '{"instances": [1]}',
        "Failed to convert version: 9223372036854775808 to numeric.",
    ),
    Refused("query", PREDICT + "?x=1", '{"instances": [1]}', "Malformed request: POST /v1/models/half_plus_two:predict?x=1"),
    Refused("unknown method", "half_plus_two:train", "{}", "Malformed request: POST /v1/models/half_plus_two:train"),
    Refused("no method", "half_plus_two", "{}", "Malformed request: POST /v1/models/half_plus_two"),
    Refused(
        "version no number",
        "half_plus_two/versions/x:predict",
        "{}",
        "Malformed request: POST /v1/models/half_plus_two/versions/x:predict",
    ),
    Refused("more after the method", PREDICT + "/", "{}", "Malformed request: POST /v1/models/half_plus_two:predict/"),
]

ANSWERED = [
    Answered("rows", PREDICT, '{"instances": [[1], [2]]}', {"predictions": [[2.5], [3.0]]}),
    Answered("rows of objects", PREDICT, '{"instances": [{"x": [1]}, {"x": [2]}]}', {"predictions": [[2.5], [3.0]]}),
    Answered("columns", PREDICT, '{"inputs": [[1], [2]]}', {"outputs": [[2.5], [3.0]]}),
    Answered("named columns", PREDICT, '{"inputs": {"x": [[1]], "ignored": "?"}}', {"outputs": [[2.5]]}),
    Answered("signature named", PREDICT, '{"signature_name": "serving_default", "instances": [[2]]}', {"predictions": [[3.0]]}),
    Answered("bytes after the object", PREDICT, '{"instances": [[2]]} and more', {"predictions": [[3.0]]}),
    Answered("unknown top-level key", PREDICT, '{"instances": [[2]], "id": 7}', {"predictions": [[3.0]]}),
    Answered("version", "half_plus_two/versions/123:predict", '{"instances": [[2]]}', {"predictions": [[3.0]]}),
    Answered("label stable", "every/labels/stable:predict", '{"instances": [2]}', {"predictions": [2.0]}),
    Answered("label canary", "every/labels/canary:predict", '{"instances": [2]}', {"predictions": [4.0]}),
    Answered(
        "two inputs and outputs in rows",
        KINDS,
        kinds("two", '"instances": [{"a": 2, "b": 5}, {"b": 7, "a": 3}]'),
        {"predictions": [{"sum": 7.0, "product": 10.0}, {"sum": 10.0, "product": 21.0}]},
    ),
    Answered(
        "two inputs and outputs in columns",
        KINDS,
        kinds("two", '"inputs": {"a": [2, 3], "b": [5, 7]}'),
        {"outputs": {"sum": [7.0, 10.0], "product": [10.0, 21.0]}},
    ),
    Answered("scalar output in columns", KINDS, kinds("total", '"inputs": [1, 2]'), {"outputs": 3.0}),
    Answered(
        "uneven outputs in columns",
        KINDS,
        kinds("uneven", '"inputs": [1, 2, 3]'),
        {"outputs": {"y": [2.0, 3.0, 4.0], "z": [1.0, 2.0]}},
    ),
    Answered(
        "int32", KINDS, kinds("int32", '"instances": [-2147483648, 2147483647]'), {"predictions": [-2147483648, 2147483647]}
    ),
    Answered("int64", KINDS, kinds("int64", '"instances": [9223372036854775807]'), {"predictions": [9223372036854775807]}),
    Answered("uint8", KINDS, kinds("uint8", '"instances": [0, 255]'), {"predictions": [0, 255]}),
    Answered("bool", KINDS, kinds("bool", '"instances": [true, false]'), {"predictions": [True, False]}),
    Answered("ints for doubles", KINDS, kinds("float64", '"instances": [1, -2]'), {"predictions": [1.0, -2.0]}),
    Answered(
        "strings and bytes",
        KINDS,
        kinds("strings", '"instances": ["a\\u00e9", {"b64": "YWJj"}]'),
        {"predictions": [{"upper": "A\u00e9", "same_bytes": {"b64": "YcOp"}}, {"upper": "ABC", "same_bytes": {"b64": "YWJj"}}]},
    ),
    Answered(
        "one b64 as rows of objects",
        KINDS,
        kinds("strings", '"instances": [{"text": {"b64": "YWJj"}}]'),
        {"predictions": [{"upper": "ABC", "same_bytes": {"b64": "YWJj"}}]},
    ),
    Answered("regress", REGRESS, example('{"x": 2.0}, {"x": [20.0]}, {}'), {"results": [3.0, 12.0, 2.0]}),
    Answered("regress with context", REGRESS, example('{}, {"x": 2.0}', '"context": {"x": 8.0}, '), {"results": [6.0, 3.0]}),
    Answered(
        "classify",
        CLASSIFY,
        '{"signature_name": "classify_labels", "examples": [{"x": 2.0}]}',
        {"results": [[["low", -3.0], ["high", 3.0]]]},
    ),
    Answered(
        "classify without classes",
        CLASSIFY,
        '{"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}, {"x": 4.0}]}',
        {"results": [[["", 3.0]], [["", 4.0]]]},
    ),
    Answered(
        "predict's signature as regress",
        "kinds:regress",
        '{"signature_name": "regress", "examples": [{"x": 2.5}]}',
        {"results": [2.5]},
    ),
    Answered(
        "features of bytes and ints",
        REGRESS,
        example('{"s": ["a", {"b64": "YQ=="}], "i": [1, true], "x": 2.0}'),
        {"results": [3.0]},
    ),
]
