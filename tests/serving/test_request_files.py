"""Files of requests: every form, every way in which one can be wrong, told with its line; and answers as text."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.answer_files import columns_json, rows_csv, rows_json
from serving.client.values import Signature, Tensor
from serving.request_arrays import arrays_of, left_out, pick_signature
from serving.request_files import InputError, Requests, read_requests
from serving.server.warmup import write_records

FLOAT, INT, TEXT = (np.dtype(kind) for kind in (np.float32, np.int64, object))
SIGNATURES = {
    "serving_default": Signature({"examples": Tensor(TEXT, (None,))}, {}, ""),
    "dense": Signature({"a": Tensor(FLOAT, (None,)), "b": Tensor(INT, (None, 1)), "s": Tensor(TEXT, (None,))}, {}, ""),
    "image": Signature({"image": Tensor(FLOAT, (None, 2))}, {}, ""),
}
ROW = {"a": 1.5, "b": 2, "s": "t"}


def read(text: str | bytes, name: str = "f.json") -> Requests:
    """As from standard input when there is no ending."""
    return read_requests(None, io.BytesIO(text.encode() if isinstance(text, str) else text))


def arrays(requests: Requests, name: str | None = None) -> dict[str, Any]:
    return arrays_of(requests, SIGNATURES[pick_signature(requests, SIGNATURES, name)], slice(None))


DENSE_ROWS = [
    json.dumps({"instances": [ROW, ROW]}),
    json.dumps([ROW, ROW]),
    f"{json.dumps(ROW)}\n\n{json.dumps(ROW)}\n",
    "s,b,a\nt,2,1.5\nt,2,1.5\n",
    "\ufeffa,b,s\r\n1.5,2,t\r\n1.5,2,t\r\n",
]


@pytest.mark.parametrize("text", DENSE_ROWS)
def test_rows(text: str) -> None:
    found = arrays(read(text))
    assert found["a"].tolist() == [1.5, 1.5] and found["a"].dtype == np.float32
    assert found["b"].tolist() == [[2], [2]] and found["b"].dtype == np.int64
    assert found["s"].tolist() == [b"t", b"t"]


def test_columns() -> None:
    requests = read('{"signature_name": "dense", "inputs": {"a": [1, 2], "b": [[3], [4]], "s": ["x", {"b64": "AA=="}]}}')
    found = arrays(requests)
    assert found["a"].tolist() == [1.0, 2.0] and found["s"].tolist() == [b"x", b"\0"]


@pytest.mark.parametrize(
    "text", ["[[1, 2], [3, 4]]", '{"inputs": [[1, 2], [3, 4]]}', 'image\n"[1, 2]"\n"[3, 4]"\n', "[1, 2]\n[3, 4]"]
)
def test_values_without_a_name_go_to_the_only_input_that_takes_them(text: str) -> None:
    assert arrays(read(text))["image"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("name", ["r.tfrecord", "r.tfrecord.gz", "r.dat", "-"])
def test_tfrecords(tmp_path: Path, name: str) -> None:
    file = io.BytesIO()
    write_records(file, [b"one", b"two\0"])
    data = gzip.compress(file.getvalue()) if name.endswith(".gz") else file.getvalue()
    (tmp_path / name).write_bytes(data)
    requests = read_requests(None if name == "-" else tmp_path / name, io.BytesIO(data))
    assert requests.form == "tfrecord" and arrays(requests)["examples"].tolist() == [b"one", b"two\0"]
    with pytest.raises(InputError, match="TFRecords go to one input of strings"):
        arrays(requests, "image")


def test_broken_tfrecords(tmp_path: Path) -> None:
    file = io.BytesIO()
    write_records(file, [b"one", b"two"])
    for data, told in (
        (file.getvalue()[:-1], "record 2: truncated record at 19"),
        (file.getvalue()[:-5] + b"O" + file.getvalue()[-4:], "record 2: corrupted record at 19"),
        (b"", "at least one row"),
        (gzip.compress(file.getvalue())[:-4], "ended before"),
        (gzip.compress(b"x" * 100)[:-6] + b"xxxxxx", "CRC check failed"),
        (gzip.compress(b"")[:10] + b"\xff\xff\xff", "Error -3"),
    ):
        (tmp_path / "r.tfrecord").write_bytes(data)
        with pytest.raises(InputError, match=told):
            read_requests(tmp_path / "r.tfrecord", io.BytesIO())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"instances": [1,\n2,\n}', r"standard input:3: no JSON: .* \(column 1\)"),
        ('{"a": 1}\n{"a": 1}}\n', r"standard input:2: no JSON: Extra data"),
        ('{"instances": []}', "at least one row, got none"),
        ("[]", "at least one row, got none"),
        ('{"instances": 3}', "expected a list as instances, got int"),
        ('{"instances": [1], "inputs": [1]}', "either instances or inputs"),
        ('{"inputs": [1], "signature_name": 1}', "the name of a signature"),
        ('[{"b64": "?"}]', "expected base64 as b64, got '?'"),
        ("a,b\n1,2\n1\n", "standard input:3: expected 2 cells, got 1"),
        ("a,a\n1,2\n", "standard input:1: expected a header with a name for each column"),
        ("", "expected a header"),
        ("a,b\n", "at least one row"),
        ('a\n"x\n', "unexpected end of data"),
        (b"a\n\xff", "bytes that are no UTF-8 at 2"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_file_of_requests(text: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as raised:
        read(text)
    assert raised.value.exit_code == 2


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.json: No such file or directory"):
        read_requests(tmp_path / "no.json", io.BytesIO())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b,s\n1,2,x\n1,two,y\n", "standard input:3: b: expected int64, got 'two'"),
        ("a,b,s\n1,,x\n", "standard input:2: b: expected int64, got ''"),
        ("a,c,s\n1,2,x\n", "standard input:2: expected the inputs a, b, s, got a, c, s"),
        ('{"a": 1, "b": 2, "s": "t"}\n{"a": 1, "b": 2.5, "s": "t"}', "standard input:2: b: expected int64, got floats"),
        ('{"a": 1, "b": 2, "s": "t"}\n{"a": "x", "b": 2, "s": "t"}', "standard input:2: a: expected float32, got strings"),
        ('[{"a": 1, "b": 2, "s": "t"}, {"a": [1], "b": 2, "s": "t"}]', r"row 2: a: expected the shape \[\], got \[1\]"),
        ('[{"a": 1, "b": 2, "s": "t", "q": 1}]', "expected the inputs a, b, s, got a, b, s, q"),
        ('{"inputs": {"a": [[1]], "b": [[1]], "s": ["t"]}}', r"a: expected the shape \[\?\], got \[1, 1\]"),
        ("[1, 2]", "row 1: expected an object with a, b, s, got a value without a name"),
    ],
)
def test_rows_that_are_no_inputs(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        arrays(read(text), "dense")


def test_cells_that_are_no_lists() -> None:
    with pytest.raises(InputError, match="standard input:3: image: no JSON list"):
        arrays(read('image\n"[1, 2]"\n"[1, 2"\n'), "image")


def test_which_signature() -> None:
    assert pick_signature(read('["a"]'), SIGNATURES, None) == "serving_default"
    with pytest.raises(InputError, match=r"fit none of the model's signatures:\n  serving_default \(examples\): .*row 1"):
        pick_signature(read('[{"q": 1}]'), SIGNATURES, None)
    with pytest.raises(InputError, match=r"expected a signature of the model .*, got nope"):
        pick_signature(read("[1]"), SIGNATURES, "nope")
    several = {"one": SIGNATURES["image"], "two": SIGNATURES["image"]}
    with pytest.raises(InputError, match="several signatures: one, two; choose one with --signature"):
        pick_signature(read("[[1, 2]]"), several, None)


def test_columns_of_a_table_that_are_no_inputs() -> None:
    requests = read("a,b,s,label\n1,2,x,9\n")
    assert left_out(requests, SIGNATURES["dense"]) == ["label"]
    assert arrays(requests)["b"].tolist() == [[2]]


def test_booleans_in_cells() -> None:
    signature = Signature({"flag": Tensor(np.dtype(np.bool_), (None,))}, {}, "")
    requests = read("flag\nTrue\n0\n")
    assert arrays_of(requests, signature, slice(None))["flag"].tolist() == [True, False]
    with pytest.raises(InputError, match=":2: flag: expected bool, got 'yes'"):
        arrays_of(read("flag\nyes\n"), signature, slice(None))


OUTPUTS = {
    "label": np.array([3, 4]),
    "name": np.array([b"a,b", b"\xff"], object),
    "scores": np.array([[0.1, np.nan], [1.0, 2.0]], np.float32),
}


def test_answers_as_rows() -> None:
    text = rows_json(OUTPUTS)
    first, second = json.loads(text)["predictions"]
    assert first["label"] == 3 and second["name"] == {"b64": "/w=="}
    assert b'"scores":[0.1,NaN]' in text
    assert json.loads(rows_json({"y": OUTPUTS["scores"]}))["predictions"][1] == [1.0, 2.0]


def test_answers_as_columns() -> None:
    assert json.loads(columns_json({"y": np.float32(1.5).reshape(())})) == {"outputs": 1.5}
    assert json.loads(columns_json(OUTPUTS))["outputs"]["label"] == [3, 4]


def test_answers_as_a_table() -> None:
    assert rows_csv(OUTPUTS) == 'label,name,scores[0],scores[1]\n3,"a,b",0.1,nan\n4,/w==,1.0,2.0\n'
    deep = {"y": np.zeros((1, 1, 2), np.float32), "z": np.array([[5]])}
    assert rows_csv(deep) == 'y,z\n"[[0.0,0.0]]",5\n'


LOOSE = Signature(
    {
        "f": Tensor(FLOAT, (None, None), float("nan")),
        "n": Tensor(INT, (None, None), -1),
        "t": Tensor(TEXT, (None, None), ""),
        "x": Tensor(FLOAT, (None, 2), float("nan")),
    },
    {},
    "",
)


@pytest.mark.parametrize(
    "requests",
    [
        read(
            '[{"f": null, "n": [1, 2], "t": "a", "x": [1, null]}, {"f": 2.5, "n": [], "t": ["b", "c"], "x": null},'
            ' {"f": [null, 1], "n": 3, "t": null, "x": [3, 4]}]'
        ),
        read('f,n,t,x\n,"[1, 2]",a,"[1, null]"\n2.5,,"[""b"", ""c""]",\n"[null, 1]",3,,"[3, 4]"\n'),
    ],
    ids=["json", "csv"],
)
def test_where_values_may_be_missing_padding_stands_for_them(requests: Requests) -> None:
    found = arrays_of(requests, LOOSE, slice(None))
    nan = float("nan")
    np.testing.assert_array_equal(found["f"], np.array([[nan, nan], [2.5, nan], [nan, 1]], np.float32))
    np.testing.assert_array_equal(found["n"], np.array([[1, 2], [-1, -1], [3, -1]]))
    assert found["t"].tolist() == [[b"a", b""], [b"b", b"c"], [b"", b""]]
    np.testing.assert_array_equal(found["x"], np.array([[1, nan], [nan, nan], [3, 4]], np.float32))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"f": 1, "n": 1.5, "t": "a", "x": [1, 2]}', "n: expected int64"),
        ('{"f": 1, "n": 1, "t": 2, "x": [1, 2]}', "t: expected strings"),
        ('{"f": 1, "n": 1, "t": "a", "x": [1]}', r"x: expected the shape \[2\], got \[1\]"),
    ],
)
def test_padding_hides_no_wrong_value(row: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        arrays_of(read(f"[{row}]"), LOOSE, slice(None))


def test_without_padding_nothing_may_be_missing() -> None:
    plain = Signature({"n": Tensor(INT, (None, None))}, {}, "")
    assert arrays_of(read('[{"n": 1}, {"n": [2]}]'), plain, slice(None))["n"].tolist() == [[1], [2]]
    for rows in ('[{"n": null}]', '[{"n": [1]}, {"n": [1, 2]}]'):
        with pytest.raises(InputError):
            arrays_of(read(rows), plain, slice(None))
