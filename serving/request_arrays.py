"""Rows of a file as arrays of a signature's inputs, and which signature they are for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.values import Array, Signature, Tensor, declared, natural
from serving.request_files import InputError, Requests

_TRUE, _FALSE = frozenset({"true", "1"}), frozenset({"false", "0"})


def pick_signature(requests: Requests, signatures: Mapping[str, Signature], wanted: str | None) -> str:
    """The name of the signature that a file's rows are for.

    Args:
        requests: The file.
        signatures: The model's.
        wanted: The caller's choice, which goes before the file's own.

    Returns:
        What was chosen; else `serving_default` when its inputs can be made of the first row, else the only one whose can.

    Raises:
        InputError: There is no such signature, or none, or several fit.
    """
    name = wanted or requests.signature
    if name is not None:
        if name not in signatures:
            raise InputError(f"expected a signature of the model ({', '.join(signatures)}), got {name}")
        return name
    refusals, fitting = {}, []
    for name, signature in signatures.items():
        try:
            arrays_of(requests, signature, slice(0, 1))
        except InputError as error:
            refusals[name] = error
        else:
            fitting.append(name)
    if "serving_default" in fitting:
        return "serving_default"
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"{requests.name}: its rows fit several signatures: {', '.join(fitting)}; choose one with --signature")
    told = "".join(f"\n  {name} ({', '.join(signatures[name].inputs)}): {error}" for name, error in refusals.items())
    raise InputError(f"{requests.name}: its rows fit none of the model's signatures:{told}")


def arrays_of(requests: Requests, signature: Signature, part: slice) -> dict[str, Array]:
    """Inputs of a signature, from some of a file's rows (all, of the form "columns").

    Returns:
        By input: an array of the declared dtype, with a row for each of the file's.

    Raises:
        InputError: They are not the signature's inputs; the message says in which line.
    """
    names = list(signature.inputs)
    if requests.form == "columns":
        return _columns(requests, signature)
    rows, places = requests.rows[part], requests.places[part]
    if requests.form == "tfrecord":
        if len(names) != 1 or signature.inputs[names[0]].dtype.kind != "O":
            raise InputError(f"{requests.name}: TFRecords go to one input of strings, but the inputs are {', '.join(names)}")
        records, shape = natural(list(rows))[0], signature.inputs[names[0]].shape
        return {names[0]: records.reshape(-1, 1) if shape is not None and len(shape) == 2 else records}
    by_row = [_by_name(row, names, place, strict=requests.form != "csv") for row, place in zip(rows, places, strict=True)]
    text = requests.form == "csv"
    return {name: _column([row[name] for row in by_row], signature.inputs[name], name, places, text) for name in names}


def left_out(requests: Requests, signature: Signature) -> list[str]:
    """The columns of a CSV file that are no inputs."""
    return [name for name in requests.rows[0] if name not in signature.inputs] if requests.form == "csv" else []


def _columns(requests: Requests, signature: Signature) -> dict[str, Array]:
    columns = _by_name(requests.columns, list(signature.inputs), requests.name, strict=True)
    return {name: _array(value, signature.inputs[name], f"{requests.name}: {name}") for name, value in columns.items()}


def _by_name(row: Any, names: Sequence[str], place: str, *, strict: bool) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        if len(names) != 1:
            raise InputError(f"{place}: expected an object with {', '.join(names)}, got a value without a name")
        return {names[0]: row}
    missing, more = [name for name in names if name not in row], [name for name in row if name not in names]
    if missing or (more and strict):
        got = ", ".join(map(str, row)) or "none"
        raise InputError(f"{place}: expected the inputs {', '.join(names)}, got {got}")
    return row


def _column(values: Sequence[Any], tensor: Tensor, name: str, places: Sequence[str], text: bool) -> Array:
    """One input, of all rows: at once when it can be, else row by row, to find the one that is wrong."""
    if text:
        cells = zip(values, places, strict=True)
        missing = tensor.padding is not None
        values = [None if missing and not cell.strip() else _cell(cell, tensor, f"{place}: {name}") for cell, place in cells]
    if tensor.padding is not None and tensor.shape is not None and len(tensor.shape) == 2:
        values = _padded(values, tensor.shape[1], tensor.padding)
    row = None if tensor.shape is None else tensor.shape[1:]
    one = Tensor(tensor.dtype, row)
    if row in ((1,), (None,)):  # a list of one value, or of any number of them, may be written as its one value
        values = [value if isinstance(value, list) else [value] for value in values]
    try:
        return _array(values, Tensor(tensor.dtype, None if row is None else (None, *row)), "")
    except InputError:
        for value, place in zip(values, places, strict=True):
            _array(value, one, f"{place}: {name}")
        raise InputError(f"{places[0]} and the rows after it: {name}: expected values of equal shapes") from None


def _padded(values: Sequence[Any], width: int | None, padding: Any) -> list[list[Any]]:
    """Rows of an input that may miss values: null, an empty cell; and, of no fixed length, rows shorter than the longest."""
    rows = [[padding] * (width or 0) if value is None else value if isinstance(value, list) else [value] for value in values]
    # At least one: a list without a value has no type.
    longest = max(1, *map(len, rows)) if width is None else 0
    return [[*(padding if each is None else each for each in row), *[padding] * (longest - len(row))] for row in rows]


def _array(value: Any, tensor: Tensor, place: str) -> Array:
    try:
        array, exact = natural(value)
        if not exact:
            array = declared(array, tensor.dtype)
        if array.dtype != tensor.dtype:
            raise ValueError(f"expected {_kind(tensor.dtype)}, got {_kind(array.dtype)}")
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None
    shape = tensor.shape
    if shape is not None and (
        len(shape) != array.ndim or any(size not in (None, got) for size, got in zip(shape, array.shape, strict=True))
    ):
        raise InputError(f"{place}: expected the shape {shape_text(shape)}, got {shape_text(array.shape)}")
    return array


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """A shape for people: [?, 3]."""
    return "unknown rank" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _cell(text: str, tensor: Tensor, place: str) -> Any:
    """A cell of a CSV file: a number, true or false, text; a JSON list where a row has more than one value."""
    if tensor.shape is not None and len(tensor.shape) > 1 and text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: no JSON list: {error}") from None
    if tensor.dtype.kind == "O":
        return text
    word = text.strip().lower()
    try:
        if tensor.dtype.kind == "b":
            if word not in _TRUE | _FALSE:
                raise ValueError(word)
            return word in _TRUE
        return int(word) if tensor.dtype.kind in "iu" else float(word)
    except ValueError:
        raise InputError(f"{place}: expected {_kind(tensor.dtype)}, got {text!r}") from None


def _kind(dtype: np.dtype[Any]) -> str:
    return "strings" if dtype.kind == "O" else str(dtype)
