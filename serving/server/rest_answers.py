"""The bodies of answers to Predict, Classify and Regress, and of errors, with the white space of TensorFlow Serving's.

It writes with RapidJSON's PrettyWriter (prettywriter.h): indented by four; in the row form each array stands on one line. Numbers
stay text that C code has made: the white space goes in by replacing separators, so nothing here loops over a model's values, but
for strings.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.server.rest_numbers import compact_json, number_texts
from serving.server.servable import Arrays
from serving.server.status import invalid

INDENT = b"    "

_WRITABLE = {"float32", "float64", "int32", "int16", "int8", "uint8", "object", "int64", "bool", "uint32", "uint64"}
_TF_NAMES = {"float16": "half"}


def error_json(message: str) -> bytes:
    """`{"error": message}`."""
    return b'{\n    "error": ' + _string(message.encode("utf-8", "replace"), strict=True) + b"\n}"


def predictions_json(outputs: Arrays, *, row: bool, strict: bool) -> bytes:
    """The body of a Predict answer.

    Args:
        outputs: What the model computed; strings are object arrays of bytes, and come as base64 if the name ends in `_bytes`.
        row: Whether the request had the row form: the answer is then `predictions`, else `outputs`.
        strict: Whether to answer valid JSON: quotation marks around numbers that are not finite, U+FFFD for what is not UTF-8.

    Raises:
        StatusError: INVALID_ARGUMENT for outputs without a common batch size (row form), or of a dtype that JSON has no form for.
    """
    if not outputs:
        raise invalid("Cannot convert empty tensor map to JSON")
    for array in outputs.values():
        if array.size and array.dtype.name not in _WRITABLE:
            name = _TF_NAMES.get(array.dtype.name, array.dtype.name)
            raise invalid(f"Failed to write JSON value for tensor type: {name}")
    if row:
        return _rows_json(outputs, strict)
    depth = 1 if len(outputs) == 1 else 2
    texts = [
        _spread(_texts_or_compact(name, array, depth + array.ndim, strict), array.shape, depth) for name, array in outputs.items()
    ]
    if len(texts) == 1:
        return b'{\n    "outputs": ' + texts[0] + b"\n}"
    members = [INDENT * 2 + _key(name) + text for name, text in zip(outputs, texts, strict=True)]
    return b'{\n    "outputs": {\n' + b",\n".join(members) + b"\n    }\n}"


def classifications_json(result: Any, strict: bool) -> bytes:
    """The body of a Classify answer, from a ClassificationResult: for each Example a list of [label, score]."""
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    scores = [each.score for classifications in result.classifications for each in classifications.classes]
    texts = iter(number_texts(np.array(scores, np.float32), strict))
    rows = [
        "[" + ", ".join(f"[{orjson.dumps(each.label).decode()}, {next(texts)}]" for each in classifications.classes) + "]"
        for classifications in result.classifications
    ]
    return b'{\n    "results": [' + ", ".join(rows).encode() + b"\n    ]\n}"


def regressions_json(result: Any, strict: bool) -> bytes:
    """The body of a Regress answer, from a RegressionResult: a number for each Example."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = np.array([each.value for each in result.regressions], np.float32)
    return b'{\n    "results": ' + compact_json(values, strict).replace(b",", b", ") + b"\n}"


def _rows_json(outputs: Arrays, strict: bool) -> bytes:
    batch = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, len(array)):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {batch}")
        batch = len(array)
    if not batch:
        return b'{\n    "predictions": []\n}'
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        text = _one_line(_texts_or_compact(name, array, 1 + array.ndim, strict), array.shape)
        return b'{\n    "predictions": ' + text[:-1] + b"\n    ]\n}"
    columns = [_items(_texts_or_compact(name, array, 2 + array.ndim, strict), array.shape) for name, array in outputs.items()]
    members = b",\n".join(INDENT * 3 + _key(name).replace(b"%", b"%%") + b"%b" for name in outputs)
    item = INDENT * 2 + b"{\n" + members + b"\n" + INDENT * 2 + b"}"
    items = b",\n".join([item % texts for texts in zip(*columns, strict=True)])
    return b'{\n    "predictions": [\n' + items + b"\n    ]\n}"


def _key(name: str) -> bytes:
    return _string(name.encode(), strict=True) + b": "


def _string(value: bytes, strict: bool) -> bytes:
    """A string; bytes that are not UTF-8 go out as they are, as RapidJSON lets them, or as U+FFFD."""
    try:
        return orjson.dumps(value.decode())
    except UnicodeDecodeError:
        if strict:
            return orjson.dumps(value.decode("utf-8", "replace"))
    # Latin-1 gives each byte a character of its own; orjson writes those past ASCII as two bytes, which go back into one.
    return orjson.dumps(value.decode("latin-1")).decode().encode("latin-1")


def _texts_or_compact(name: str, array: npt.NDArray[Any], depth: int, strict: bool) -> list[bytes] | bytes:
    """Strings' texts in C order; anything else, if there is anything, as compact JSON.

    Args:
        name: The output's.
        array: The output.
        depth: How many lists and objects are open where a value stands.
        strict: As in `predictions_json`.
    """
    if not array.size:
        return []
    if array.dtype != object:
        return compact_json(array, strict)
    values = array.ravel().tolist()
    if not name.endswith("_bytes"):
        return [_string(value, strict) for value in values]
    before, after = b"{\n" + INDENT * (depth + 1) + b'"b64": "', b'"\n' + INDENT * depth + b"}"
    return [before + b64encode(value) + after for value in values]


def _one_line(texts: list[bytes] | bytes, shape: tuple[int, ...]) -> bytes:
    """A tensor on one line."""
    if isinstance(texts, bytes):
        return texts.replace(b",", b", ")
    return _lists(texts, shape, [(b"[", b", ", b"]")] * len(shape))


def _items(texts: list[bytes] | bytes, shape: tuple[int, ...]) -> list[bytes]:
    """A tensor's items along the first dimension, each on one line."""
    if isinstance(texts, list):
        step = len(texts) // shape[0]
        return [_one_line(texts[index * step : (index + 1) * step], shape[1:]) for index in range(shape[0])]
    opening, closing = b"[" * (len(shape) - 1), b"]" * (len(shape) - 1)
    inner = texts[len(shape) : -len(shape)].replace(b",", b", ").split(closing + b", " + opening)
    return [opening + each + closing for each in inner]


def _spread(texts: list[bytes] | bytes, shape: tuple[int, ...], depth: int) -> bytes:
    """A tensor with each value on a line of its own; `depth` as where its first bracket stands."""
    rank = len(shape)
    lines = [b"\n" + INDENT * (depth + level) for level in range(rank + 1)]
    if isinstance(texts, list):
        return _lists(
            texts, shape, [(b"[" + lines[level + 1], b"," + lines[level + 1], lines[level] + b"]") for level in range(rank)]
        )
    if not rank:
        return texts
    inner = texts[rank:-rank]
    # What stands between two values, by how many lists end there: marked, most first, since one of the marks is in the next.
    for ends in range(rank - 1, 0, -1):
        inner = inner.replace(b"]" * ends + b"," + b"[" * ends, bytes([ends]))
    inner = inner.replace(b",", b"," + lines[rank])
    opened = [b"".join(b"[" + lines[level + 1] for level in range(start, rank)) for start in range(rank)]
    closed = [b"".join(lines[level] + b"]" for level in reversed(range(start, rank))) for start in range(rank)]
    for ends in range(1, rank):
        inner = inner.replace(bytes([ends]), closed[rank - ends] + b"," + lines[rank - ends] + opened[rank - ends])
    return opened[0] + inner + closed[0]


def _lists(texts: Sequence[bytes], shape: tuple[int, ...], marks: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
    """Texts in C order as nested lists, with each level's opening, separator and closing."""
    if not shape:
        return texts[0]
    if not shape[0]:
        return b"[]"
    opening, separator, closing = marks[0]
    if len(shape) == 1:
        return opening + separator.join(texts) + closing
    step = len(texts) // shape[0]
    rows = [_lists(texts[row * step : (row + 1) * step], shape[1:], marks[1:]) for row in range(shape[0])]
    return opening + separator.join(rows) + closing
