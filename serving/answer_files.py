"""A model's outputs as text: JSON in the forms of the REST API, or CSV."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from serving.client.values import Array
from serving.server.rest_numbers import compact_json

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATETIME


def columns_json(outputs: Mapping[str, Array]) -> bytes:
    """{"outputs": …}: the arrays as they are; of a single output without its name."""
    return orjson.dumps({"outputs": _unwrapped({name: _plain(array) for name, array in outputs.items()})}, option=_OPTIONS)


def rows_json(outputs: Mapping[str, Array]) -> bytes:
    """{"predictions": […]}: one item a row."""
    return b'{"predictions":[\n' + b",\n".join(rows(outputs)) + b"\n]}"


def rows(outputs: Mapping[str, Array]) -> Iterable[bytes]:
    """Each row as a line of JSON: an object of the outputs, or of a single one its value. NaN comes bare, as servers write it."""
    count = len(next(iter(outputs.values())))
    for index in range(count):
        yield orjson.dumps(_unwrapped({name: _plain(array[index]) for name, array in outputs.items()}), option=_OPTIONS)


def rows_csv(outputs: Mapping[str, Array]) -> str:
    """CSV with a header.

    A column for each number of a row: `scores[0]`, `scores[1]`, or `score` when there is one. What has more dimensions is JSON in
    a cell.
    """
    header, columns = [], []
    for name, array in outputs.items():
        width = array.shape[1] if array.ndim == 2 else 1
        header += [name] if width == 1 else [f"{name}[{index}]" for index in range(width)]
        columns += [_cells(array[:, index]) for index in range(width)] if array.ndim == 2 else [_cells(array)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _cells(array: Array) -> list[str]:
    if array.ndim > 1:
        return [orjson.dumps(_plain(each), option=_OPTIONS).decode() for each in array]
    if array.dtype.kind == "O":
        return [as_text(each) if isinstance(as_text(each), str) else base64.b64encode(each).decode() for each in array]
    # str of NumPy's own scalars is the shortest text that gives the value back; of Python's, that of a float64.
    return [str(each) for each in array]


def _unwrapped(named: dict[str, Any]) -> Any:
    return next(iter(named.values())) if len(named) == 1 else named


def _plain(value: Any) -> Any:
    """An array, or one value of it, as orjson takes it."""
    array = np.asarray(value) if not isinstance(value, bytes) else np.array(value, object)
    if array.dtype.kind == "O":
        return _texts(array.tolist())
    if array.dtype.kind == "f" and array.dtype.itemsize >= 4 and not np.isfinite(array).all():
        return orjson.Fragment(compact_json(array, strict=False))
    if array.dtype.kind not in "biuf":
        array = array.astype(np.float32)
    return np.ascontiguousarray(array) if array.shape else array[()]


def _texts(value: Any) -> Any:
    return [_texts(each) for each in value] if isinstance(value, list) else as_text(value)


def as_text(value: bytes) -> Any:
    """Text where it is UTF-8, else {"b64": …}."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
