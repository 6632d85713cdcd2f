"""Predict by JSON: what TensorFlow Serving takes, what it answers, and how it refuses."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.server.rest_answers import error_json, predictions_json
from serving.server.rest_json import parse
from serving.server.rest_predict import parse_inputs, signature_name
from serving.server.rest_tensors import exact_array, quick_array
from serving.server.servable import TensorSpec
from serving.server.status import Code, StatusError

DTYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "object": 7,
    "int64": 9,
    "bool": 10,
    "uint32": 22,
    "uint64": 23,
}


def spec(alias: str, dtype: str = "float32", tf_dtype: int | None = None) -> TensorSpec:
    return TensorSpec(alias, np.dtype(dtype), DTYPES[dtype] if tf_dtype is None else tf_dtype, None, f"{alias}:0")


X = {"x": spec("x")}
TEXT = {"s": spec("s", "object")}
AB = {"a": spec("a"), "b": spec("b", "object")}


def read(body: str | bytes, specs: Mapping[str, TensorSpec] = X) -> tuple[dict[str, npt.NDArray[Any]], bool]:
    document = parse(body.encode() if isinstance(body, str) else body)
    return parse_inputs(document, specs, signature_name(document))


def refusal(body: str | bytes, specs: Mapping[str, TensorSpec] = X) -> str:
    with pytest.raises(StatusError) as caught:
        read(body, specs)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


def test_row_form() -> None:
    inputs, row = read('{"instances": [[1, 2.5], [3, NaN], [-Inf, Infinity]]}')
    assert row and inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(inputs["x"], np.array([[1, 2.5], [3, math.nan], [-math.inf, math.inf]], "float32"))
    inputs, _ = read('{"instances": [{"b": "q", "a": [1]}, {"a": [2], "b": {"b64": "aGVsbG8="}}]}', AB)
    assert inputs["a"].tolist() == [[1], [2]] and inputs["b"].tolist() == [b"q", b"hello"]
    assert read('{"instances": [{"x": 7}]}')[0]["x"].tolist() == [7]


def test_columnar_form() -> None:
    inputs, row = read('{"inputs": {"a": [[1], [2]], "b": {"b64": "aGVsbG8"}, "unknown": {}}}', AB)
    assert not row and inputs["a"].shape == (2, 1)
    assert inputs["b"].shape == () and inputs["b"].item() == b"hello"
    assert read('{"inputs": 3}')[0]["x"].shape == ()
    assert read('{"inputs": {"b64": "AAE="}}', TEXT)[0]["s"].item() == b"\x00\x01"
    assert read('{"inputs": [[], []]}')[0]["x"].shape == (2, 0)


def test_what_rapidjson_takes_beyond_the_standard() -> None:
    assert read('\n{"instances": [1]} and more [')[0]["x"].tolist() == [1]
    assert read(b'\xef\xbb\xbf{"instances": [1]}')[0]["x"].tolist() == [1]
    assert read(b'{"instances": ["\xff\xfe", "a\\u0000b"]}', TEXT)[0]["s"].tolist() == [b"\xff\xfe", b"a\0b"]
    assert read(b'{"instances": ["Inf, -NaN", "\\"Inf"], "a": [Inf, -NaN]}', TEXT)[0]["s"].tolist() == [b"Inf, -NaN", b'"Inf']
    long_integer, _ = read('{"instances": [123456789012345678901234567890, NaN]}')
    assert long_integer["x"][0] == np.float32(123456789012345678901234567890)
    assert read(r'{"instances": ["\udc00"]}', TEXT)[0]["s"].tolist() == [b"\xed\xb0\x80"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "The document is empty"),
        (" ", "The document is empty. at offset: 1"),
        ("instances = [1, 2]", "Invalid value. at offset: 0"),
        ('{"instances": [1, 2', "Missing a comma or ] after an array element. at offset: 19"),
        ('{"instances": [1 2]}', "Missing a comma or ] after an array element. at offset: 17"),
        ('{"a": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 8"),
        ('{"a": [1,]}', "Invalid value. at offset: 9"),
        ('{"a": 1,}', "Missing a name for object member. at offset: 8"),
        ("{1: 2}", "Missing a name for object member. at offset: 1"),
        ('{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        ('{"a": truth}', "Invalid value. at offset: 9"),
        ('{"a": nan}', "Invalid value. at offset: 7"),
        ('{"a": Infinit}', "Invalid value. at offset: 13"),
        ('{"a": -x}', "Invalid value. at offset: 7"),
        ('{"a": 1.}', "Miss fraction part in number. at offset: 8"),
        ('{"a": 1e}', "Miss exponent in number. at offset: 8"),
        ('{"a": 1e400}', "Number too big to be stored in double. at offset: 6"),
        ('{"a": [NaN, 1e999]}', "Number too big to be stored in double. at offset: 12"),
        ('{"a": "b', "Missing a closing quotation mark in string. at offset: 8"),
        ('{"a": "\n"}', "Invalid escape character in string. at offset: 7"),
        (r'{"a": "\q"}', "Invalid escape character in string. at offset: 7"),
        (r'{"a": "\u12x4"}', "Incorrect hex digit after \\u escape in string. at offset: 7"),
        (r'{"a": "\ud800x"}', "The surrogate pair in string is invalid. at offset: 7"),
        (r'{"a": "\ud800\u0041"}', "The surrogate pair in string is invalid. at offset: 7"),
    ],
)
def test_json_errors_have_rapidjsons_words_and_offsets(body: str, message: str) -> None:
    assert refusal(body) == f"JSON Parse error: {message}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[1]", "JSON Value: [\n    1\n] Is not object"),
        ("1.5", "JSON Value: 1.5 Is not object"),
        ('"a\\"b"', 'JSON Value: "a\\"b" Is not object'),
        (
            '{"signature_name": 5}',
            "JSON Value: {\n    \"signature_name\": 5\n} not formatted correctly. 'signature_name' key must be a string value.",
        ),
        ("{}", "Missing 'inputs' or 'instances' key"),
        (
            '{"inputs": 1, "instances": [1e-7, 1e21, 0.1, null, {}]}',
            'JSON Value: {\n    "inputs": 1,\n    "instances": [\n        1e-7,\n        1e21,\n        0.1,\n        null,\n'
            "        {}\n    ]\n} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        ('{"instances": {}}', "JSON Value: {\n    \"instances\": {}\n} Expecting 'instances' to be an list/array"),
        ('{"instances": NaN}', "JSON Value: {\n    \"instances\":  Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ('{"inputs": "a"}', 'JSON Value: "a" Type: String is not of expected type: float'),
        ('{"inputs": [1, true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": {"x": {"b64": "YQ=="}}}', 'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float'),
        ('{"inputs": 16777216}', "Cannot convert JSON value: 16777216 to float without loss of precision."),
        ('{"inputs": 1e300}', "Cannot convert JSON value: 1e+300 to float without loss of precision."),
        ('{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        ('{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ('{"inputs": [[1], 2]}', "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ('{"inputs": {"y": 1}}', "Missing named input: x in 'inputs' object."),
        (
            '{"instances": [[1, 2], [3]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
        ),
        (
            '{"instances": [[1, 2], [[3, 4]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] but got: [1,2]",
        ),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1 of input list"),
        ('{"instances": [{"x": 2}, 1]}', "Expecting object but got list at item 1 of input list"),
    ],
)
def test_refusals_of_one_input(body: str, message: str) -> None:
    assert refusal(body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            '{"instances": [1]}',
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map",
        ),
        (
            '{"inputs": [1]}',
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map",
        ),
        (
            '{"instances": [{"a": 1}]}',
            "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b",
        ),
        (
            '{"instances": [{"a": 1, "b": "", "c": 3}]}',
            "Failed to process element: 0 key: c of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: c",
        ),
        (
            '{"instances": [{"a": 1, "b": ""}, {"a": 1, "b": 2}]}',
            "Failed to process element: 1 key: b of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON Value: 2 Type: Number is not of expected type: string",
        ),
        ('{"inputs": {"a": 1, "b": {"b64": "!"}}}', "Unable to base64 decode"),
        ('{"inputs": {"a": 1, "b": {"b64": 5}}}', 'JSON Value: {\n    "b64": 5\n} not formatted correctly for base64 data'),
    ],
)
def test_refusals_of_two_inputs(body: str, message: str) -> None:
    assert refusal(body, AB) == message


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int16", "int8", "uint32", "uint64"])
def test_integers_must_be_integers(dtype: str) -> None:
    specs = {"i": spec("i", dtype)}
    limits = np.iinfo(dtype)
    inputs, _ = read(f'{{"inputs": [{limits.min}, {limits.max}]}}', specs)
    assert inputs["i"].dtype == dtype and inputs["i"].tolist() == [limits.min, limits.max]
    for value, kind in (
        ("1.0", "Number"),
        ("1e2", "Number"),
        ("true", "True"),
        (str(limits.max + 1), "Number"),
        ('"1"', "String"),
    ):
        assert refusal(f'{{"inputs": [1, {value}]}}', specs).endswith(f" Type: {kind} is not of expected type: {dtype}")


def test_other_types() -> None:
    assert read('{"inputs": [true, false]}', {"b": spec("b", "bool")})[0]["b"].tolist() == [True, False]
    assert "is not of expected type: bool" in refusal('{"inputs": [true, 1]}', {"b": spec("b", "bool")})
    assert "JSON value: 9007199254740992 to double" in refusal('{"inputs": 9007199254740992}', {"d": spec("d", "float64")})
    with pytest.raises(StatusError) as caught:
        read('{"inputs": 1.5}', {"h": spec("h", "float16", 19)})
    assert caught.value.code == Code.UNIMPLEMENTED and caught.value.message == "Conversion of JSON Value: 1.5 to type: half"
    assert refusal('{"inputs": 1}', {}) == "Failed to get input map for signature: DEFAULT"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("aGk", b"hi"),
        ("aGk=", b"hi"),
        ("aGk.", b"hi"),
        (" aG\\nk= ", b"hi"),
        ("", b""),
        ("YQ==", b"a"),
        ("YR", b"a"),
        ("YWJj", b"abc"),
    ],
)
def test_base64_as_abseil_takes_it(text: str, value: bytes) -> None:
    assert read(f'{{"inputs": {{"b64": "{text}"}}}}', TEXT)[0]["s"].item() == value


@pytest.mark.parametrize("text", ["a", "aGk==", "aG=k", "a-_b", "YQ=", "=", "é"])
def test_base64_that_is_none(text: str) -> None:
    assert refusal(f'{{"inputs": {{"b64": "{text}"}}}}', TEXT) == "Unable to base64 decode"


def test_nesting_without_end() -> None:
    for body in ("[" * 100_000, '{"inputs":' + "[" * 900 + "]" * 900 + "}", '{"a":' * 100_000, "[" * 2000 + "]" * 2000):
        assert refusal(body)
    assert refusal('{"inputs":' + "[" * 33 + "1" + "]" * 33 + "}") == "tensor parsing error: x"
    assert refusal('{"instances":' + "[" * 33 + "1" + "]" * 33 + "}") == "tensor parsing error: x"


def test_error_text_has_an_end() -> None:
    assert len(refusal(json.dumps({"junk": "x" * 200_000, "instances": 3}))) < 70_000


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.builds(lambda b: {"b64": b}, st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "x", "b64"]), inner, max_size=3),
    max_leaves=12,
)
SPECS = st.sampled_from([X, TEXT, AB, {"i": spec("i", "int8")}, {"b": spec("b", "bool")}, {"h": spec("h", "float16", 19)}])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["inputs", "instances", "signature_name"]), JSON, max_size=2), SPECS)
def test_any_json_is_taken_or_refused(body: dict[str, Any], specs: Mapping[str, TensorSpec]) -> None:
    try:
        inputs, _ = read(json.dumps(body), specs)
    except StatusError as error:
        assert error.http_status in (400, 501)
        orjson.loads(error_json(error.message))
    else:
        assert inputs.keys() == specs.keys()
        assert all(inputs[alias].dtype == each.dtype for alias, each in specs.items())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text('{}[]":,.-+eE0123456789truefalsnINy\\u \n\x00é', max_size=40).map(str.encode), SPECS)
def test_any_bytes_are_taken_or_refused(body: bytes, specs: Mapping[str, TensorSpec]) -> None:
    for each in (body, b'{"inputs": ' + body + b"}", b'{"instances": [' + body):
        try:
            read(each, specs)
        except StatusError as error:
            assert error.http_status in (400, 501)


@settings(deadline=None)
@given(JSON, SPECS)
def test_the_quick_way_agrees_with_the_exact_one(value: Any, specs: Mapping[str, TensorSpec]) -> None:
    each = next(iter(specs.values()))
    quick = quick_array(value, each, has_bool=True)
    if quick is not None:
        exact = exact_array(value, each)
        assert quick.dtype == exact.dtype and quick.shape == exact.shape
        np.testing.assert_array_equal(quick, exact)


def elements(dtype: str) -> st.SearchStrategy[Any] | None:
    return st.binary(max_size=6) if dtype == "object" else None


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(DTYPES)).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=4, max_side=6), elements=elements(dtype))
    ),
    st.booleans(),
)
def test_arrays_survive_the_round_trip(array: npt.NDArray[Any], row: bool) -> None:
    # The nine digits of the largest float32 are more than it, and are refused, here as by TensorFlow Serving.
    assume(array.dtype != np.float32 or not (np.abs(array) == np.finfo(np.float32).max).any())
    text = predictions_json({"y_bytes": array}, row=row, strict=False)
    body = text.replace(b'"predictions"', b'"instances"', 1).replace(b'"outputs"', b'"inputs"', 1)
    back = read(body, {"x": spec("x", array.dtype.name)})[0]["x"]
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert predictions_json({"y_bytes": array.copy(order="F")}, row=row, strict=False) == text


def test_white_space_is_rapidjsons() -> None:
    matrix = np.array([[1, 2], [3, 4]], "float32")
    vector = np.array([5, 6], "int64")
    row = {"a": matrix, "b_bytes": np.array([b"x", b"y"], object), "c": vector}
    assert predictions_json({"a": matrix}, row=True, strict=False) == b'{\n    "predictions": [[1.0, 2.0], [3.0, 4.0]\n    ]\n}'
    assert predictions_json({"c": vector}, row=True, strict=False) == b'{\n    "predictions": [5, 6\n    ]\n}'
    indented = json.dumps([{"a": 1, "b_bytes": {"b64": "eA=="}, "c": 5}, {"a": 3, "b_bytes": {"b64": "eQ=="}, "c": 6}], indent=4)
    one_line = indented.replace("\n", "\n    ").replace('"a": 1', '"a": [1.0, 2.0]').replace('"a": 3', '"a": [3.0, 4.0]')
    assert predictions_json(row, row=True, strict=False).decode() == '{\n    "predictions": ' + one_line + "\n}"
    columns = json.dumps({"outputs": {"a": matrix.tolist(), "c": vector.tolist()}}, indent=4)
    assert predictions_json({"a": matrix, "c": vector}, row=False, strict=False).decode() == columns
    assert predictions_json({"c": vector}, row=False, strict=False).decode() == json.dumps({"outputs": [5, 6]}, indent=4)


@settings(deadline=None)
@given(arrays.arrays("int32", arrays.array_shapes(max_dims=4, min_side=0, max_side=4), elements=st.integers(-9, 9)))
def test_columns_are_laid_out_like_the_standard_librarys(array: npt.NDArray[np.int32]) -> None:
    text = predictions_json({"y": array, "%z": array.astype(str).astype("S").astype(object)}, row=False, strict=False).decode()
    assert text == json.dumps({"outputs": {"y": array.tolist(), "%z": array.astype(str).tolist()}}, indent=4)


def test_answers_that_cannot_be_written() -> None:
    scalar, two, three = np.array(1.0), np.zeros((2, 1)), np.zeros((3, 1))
    for outputs, message in (
        ({"y": scalar}, "Tensor name: y has no shape information "),
        ({"a": three, "y": two}, "Tensor name: y has inconsistent batch size: 2 expecting: 3"),
        ({"y": two.astype("float16")}, "Failed to write JSON value for tensor type: half"),
        ({"y": two.astype("complex64")}, "Failed to write JSON value for tensor type: complex64"),
        ({}, "Cannot convert empty tensor map to JSON"),
    ):
        with pytest.raises(StatusError) as caught:
            predictions_json(outputs, row=True, strict=False)
        assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)
    assert json.loads(predictions_json({"y": scalar}, row=False, strict=False)) == {"outputs": 1.0}
    assert json.loads(predictions_json({"y": np.zeros((0, 2))}, row=True, strict=False)) == {"predictions": []}


def test_strings_in_answers() -> None:
    strings = np.array([b'a"\n\x01', "é".encode(), b"\xff", b""], object)
    text = predictions_json({"s": strings}, row=True, strict=False)
    assert b'"\xff"' in text and json.loads(text.decode("latin-1"))["predictions"][0] == 'a"\n\x01'
    assert orjson.loads(predictions_json({"s": strings}, row=True, strict=True))["predictions"][2] == "\ufffd"
    encoded = orjson.loads(predictions_json({"s_bytes": strings}, row=True, strict=False))["predictions"]
    assert [base64.b64decode(each["b64"]) for each in encoded] == strings.tolist()
