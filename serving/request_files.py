"""Files of requests: JSON as the REST API has it, JSON lines, CSV, TFRecord; read into the inputs of a signature.

A row is one example: a value for each input, or for the only one. Every message names the file and the line (or the record).
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from serving.errors import ServingError
from serving.server.warmup import read_records

_SUFFIXES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_GZIP = b"\x1f\x8b"


class InputError(ServingError):
    """A file of requests that cannot be read, or whose rows are no inputs of the model."""

    exit_code = 2


@dataclass(frozen=True)
class Requests:
    """What a file asks.

    Attributes:
        name: The file, for messages.
        form: "rows" (JSON's instances, or a list), "lines" (one JSON value a line), "columns" (JSON's inputs), "csv" or
            "tfrecord".
        rows: Of every form but "columns": dicts by input, or bare values; of CSV, dicts of text.
        places: Where each row is: "file.csv:7".
        columns: Of the form "columns": values by input, or one value.
        signature: The name that the file gives, if any.
    """

    name: str
    form: str
    rows: Sequence[Any] = ()
    places: Sequence[str] = ()
    columns: Any = None
    signature: str | None = None


def read_requests(path: Path | None, stdin: BinaryIO) -> Requests:
    """Reads a file of requests.

    Args:
        path: The file; None for standard input. Its ending says what it is, or else its first bytes do. It may be gzipped.
        stdin: Standard input.

    Raises:
        InputError: There is no such file, or it is none of the four.
    """
    name = str(path) if path else "standard input"
    # TFRecords are read from a file with a known size, and what is in a gzipped one shows only when it is unpacked.
    with tempfile.TemporaryFile() as file:
        try:
            if path is None:
                shutil.copyfileobj(stdin, file)
            else:
                with path.open("rb") as opened:
                    shutil.copyfileobj(opened, file)
            _unpack(file)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
        file.seek(0)
        form = _form(path, file.read(4096).lstrip())
        file.seek(0)
        if form == "tfrecord":
            return _tfrecord(name, file)
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}: expected JSON, CSV or TFRecord, got bytes that are no UTF-8 at {error.start}") from None
    return _csv(name, text) if form == "csv" else _json(name, text)


def _unpack(file: Any) -> None:
    """Replaces what is in a file, if it is gzipped, by what it is unpacked."""
    file.seek(0)
    if file.read(2) != _GZIP:
        return
    file.seek(0)
    with tempfile.TemporaryFile() as unpacked:
        with gzip.GzipFile(fileobj=file) as packed:
            shutil.copyfileobj(packed, unpacked)
        file.seek(0)
        file.truncate()
        unpacked.seek(0)
        shutil.copyfileobj(unpacked, file)


def _form(path: Path | None, head: bytes) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"] if path else []
    if suffixes and suffixes[-1].lower() in _SUFFIXES:
        return _SUFFIXES[suffixes[-1].lower()]
    if head[:1] in (b"{", b"["):
        return "json"
    # The length of a record, 8 bytes, has zeros in its upper half; no text has.
    return "tfrecord" if b"\0" in head[:8] else "csv"


def _tfrecord(name: str, file: Any) -> Requests:
    records: list[bytes] = []
    try:
        records.extend(read_records(file))
    except ValueError as error:
        raise InputError(f"{name}: record {len(records) + 1}: {error}") from None
    _some(name, records)
    return Requests(name, "tfrecord", records, [f"{name}: record {number}" for number in range(1, len(records) + 1)])


def _csv(name: str, text: str) -> Requests:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, places = [], []
    try:
        header = next(reader, [])
        if not header or len(set(header)) < len(header) or not all(header):
            raise InputError(f"{name}:1: expected a header with a name for each column, got {','.join(header) or 'none'}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{name}:{reader.line_num}: expected {len(header)} cells, got {len(cells)}")
            rows.append(dict(zip(header, cells, strict=True)))
            places.append(f"{name}:{reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{name}:{reader.line_num}: {error}") from None
    _some(name, rows)
    return Requests(name, "csv", rows, places)


def _json(name: str, text: str) -> Requests:
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(name, text)
        raise InputError(f"{name}:{error.lineno}: no JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise InputError(f"{name}: nested too deeply") from None
    if not isinstance(whole, dict) or not whole.keys() & {"instances", "inputs"}:
        rows = whole if isinstance(whole, list) else [whole]
        _some(name, rows)
        return Requests(name, "rows", _values(name, rows), _indices(name, rows))
    signature = whole.get("signature_name")
    if signature is not None and not isinstance(signature, str):
        raise InputError(f"{name}: expected the name of a signature as signature_name, got {signature!r}")
    if "inputs" in whole:
        if "instances" in whole:
            raise InputError(f"{name}: expected either instances or inputs, got both")
        return Requests(name, "columns", columns=_values(name, whole["inputs"]), signature=signature)
    rows = whole["instances"]
    if not isinstance(rows, list):
        raise InputError(f"{name}: expected a list as instances, got {type(rows).__name__}")
    _some(name, rows)
    return Requests(name, "rows", _values(name, rows), _indices(name, rows), signature=signature)


def _json_lines(name: str, text: str) -> Requests:
    rows, places = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(_values(f"{name}:{number}", json.loads(line)))
            except json.JSONDecodeError as error:
                raise InputError(f"{name}:{number}: no JSON: {error.msg} (column {error.colno})") from None
            places.append(f"{name}:{number}")
    return Requests(name, "lines", rows, places)


def _indices(name: str, rows: Sequence[Any]) -> list[str]:
    return [f"{name}: row {number}" for number in range(1, len(rows) + 1)]


def _some(name: str, rows: Sequence[Any]) -> None:
    if not rows:
        raise InputError(f"{name}: expected at least one row, got none")


def _values(place: str, value: Any) -> Any:
    """JSON with {"b64": …} as bytes."""
    if isinstance(value, list):
        return [_values(place, each) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"b64"}:
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise InputError(f"{place}: expected base64 as b64, got {value['b64']!r}") from None
    return {key: _values(place, each) for key, each in value.items()}


def slices(count: int, size: int) -> Iterator[slice]:
    """Consecutive parts of at most `size`."""
    return (slice(start, start + size) for start in range(0, count, size))


def names_of(requests: Requests) -> Mapping[str, Any] | None:
    """The first row, or the columns, when these have names."""
    first = requests.columns if requests.form == "columns" else requests.rows[0]
    return first if isinstance(first, dict) else None
