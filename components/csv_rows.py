"""CSV as serialized tf.Examples: the same as TFX's CsvExampleGen makes, at a fraction of the time.

That one sends every row through Beam as lists and messages of Python (tfx/components/example_gen/csv_example_gen/executor.py).
Here rows become columns, thousands at a time. What stays is Python's csv module as the reader, tfx_bsl's rules for the type of a
column, and the bytes of the record, which decide on its split.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from components.errors import TflineError

_CELLS = 1 << 17
"""About how many cells are in memory at once."""

# What int() and float() accept and Arrow reads as the same number; any other cell is shown to Python itself.
_PLAIN_INTEGER = r"^-?[0-9]{1,18}$"
_PLAIN_FLOAT = r"^-?[0-9]{1,18}(\.[0-9]{1,18})?$"


def read_columns(path: Path) -> Iterator[dict[str, Any]]:
    """Reads a CSV file with a header, UTF-8; blank lines are no rows.

    Yields:
        Columns by name, pyarrow.LargeStringArray, some thousand rows at a time; "" is a missing value. Of columns with the same
        name the last.

    Raises:
        TflineError: A row is longer or shorter than the header, or a quote is never closed.
        UnicodeDecodeError, csv.Error: The file is no UTF-8, or a value is longer than the csv module allows.
    """
    import pyarrow as pa

    with path.open(encoding="utf-8", newline="") as file:
        # The blank line after the end is read as one, unless it is within quotes.
        rows = csv.reader(_then_blank(file))
        names = next(rows, [])
        if names:
            # As TFX has it, which however knows no quotes in a header.
            names[0], names[-1] = names[0].lstrip(), names[-1].rstrip()
        last: list[str] = []
        while batch := list(islice(rows, max(1, _CELLS // max(1, len(names))))):
            last = batch[-1]
            batch = [row for row in batch if row]
            if any(len(row) != len(names) for row in batch):
                raise TflineError(f"{path}: up to line {rows.line_num}, not every row has {len(names)} values, as the header has")
            if batch:
                columns = zip(names, zip(*batch, strict=True), strict=True)
                yield {name: pa.array(cells, pa.large_string()) for name, cells in columns}
        if last:
            raise TflineError(f"{path}: a quote is never closed")


def _then_blank(lines: Iterator[str]) -> Iterator[str]:
    yield from lines
    yield "\n"


def infer_types(path: Path) -> dict[str, int]:
    """The type of each column, tfx_bsl.coders.csv_decoder.ColumnType: the least that all its values fit."""
    from tfx_bsl.coders.csv_decoder import ColumnType

    types: dict[str, int] = {}
    for columns in read_columns(path):
        for name, cells in columns.items():
            known = types.get(name, int(ColumnType.UNKNOWN))
            types[name] = known if known == ColumnType.STRING else max(known, _infer(cells))
    return types


def _infer(cells: Any) -> int:
    import pyarrow.compute as pc
    from tfx_bsl.coders.csv_decoder import ColumnType, ColumnTypeInferrer

    filled = cells.filter(pc.not_equal(cells, ""))
    odd = filled.filter(pc.invert(pc.match_substring_regex(filled, _PLAIN_INTEGER)))
    odder = odd.filter(pc.invert(pc.match_substring_regex(odd, _PLAIN_FLOAT)))
    kinds = [ColumnType.UNKNOWN]
    if len(filled) > len(odd):
        kinds.append(ColumnType.INT)
    if len(odd) > len(odder):
        kinds.append(ColumnType.FLOAT)
    inferrer = ColumnTypeInferrer(["cell"], skip_blank_lines=True)
    for cell in odder.unique():
        kinds += inferrer.add_input({}, [cell.as_py().encode()]).values()
        if kinds[-1] == ColumnType.STRING:
            break
    return int(max(kinds))


def encode(columns: Mapping[str, Any], types: Mapping[str, int]) -> list[bytes]:
    """Makes of each row what `tf.train.Example.SerializeToString(deterministic=True)` would.

    tfx_bsl's RecordBatchToExamplesEncoder puts the features of each record in an order of its own each time, so a hash of its
    bytes says nothing.

    Args:
        columns: As `read_columns` yields them.
        types: By column; a missing value becomes a list of that type without values.
    """
    import pyarrow.compute as pc

    # A message is its fields in a row: an Example its features, those the entries of a map. Protobuf 6 (upb) sorts these by the
    # bytes of their keys, but "ab" before "a".
    names = sorted(columns, key=lambda name: name.encode() + b"\xff")
    entries = [_entries(name, columns[name], types[name]) for name in names]
    features = pc.binary_join_element_wise(*entries, _bytes(b""))
    sizes = pc.binary_length(features).dictionary_encode()
    heads = _as_bytes([_head(size) for size in sizes.dictionary.to_pylist()]).take(sizes.indices)
    return list(pc.binary_join_element_wise(heads, features, _bytes(b"")).to_pylist())


def _head(size: int) -> bytes:
    """What stands before an Example's features when they are so many bytes; field 1, as is BytesList.value."""
    import tensorflow as tf

    whole: bytes = tf.train.BytesList(value=[bytes(size)]).SerializeToString()
    return whole[: len(whole) - size]


def _entries(name: str, cells: Any, kind: int) -> Any:
    """The entry for a column in each row's map of features, pyarrow.LargeBinaryArray."""
    from tfx_bsl.coders.csv_decoder import ColumnType

    if kind == ColumnType.FLOAT:
        return _float_entries(name, cells)
    distinct = cells.dictionary_encode()
    entries = []
    for cell in distinct.dictionary.to_pylist():
        if kind == ColumnType.INT:
            entries.append(_entry(name, int64_list={"value": [int(cell.encode())] if cell else []}))
        elif kind == ColumnType.STRING:
            entries.append(_entry(name, bytes_list={"value": [cell.encode()] if cell else []}))
        else:
            entries.append(_entry(name))
    return _as_bytes(entries).take(distinct.indices)


def _float_entries(name: str, cells: Any) -> Any:
    """Floats are seldom alike, but their entries differ in nothing but the last four bytes."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.equal(cells, "")
    filled = pc.if_else(missing, "0", cells)
    if pc.all(pc.match_substring_regex(filled, _PLAIN_FLOAT)).as_py():
        numbers = filled.cast(pa.float64()).to_numpy()
    else:
        numbers = np.array([float(cell.encode()) for cell in filled.to_pylist()])
    # By way of float64, as a message rounds what float() returns; too great a number becomes infinite in both.
    with np.errstate(over="ignore"):
        narrow = pa.py_buffer(numbers.astype("<f4").tobytes())
    values = pa.Array.from_buffers(pa.binary(4), len(cells), [None, narrow]).cast(pa.large_binary())
    head = _entry(name, float_list={"value": [0.0]})[:-4]
    present = pc.binary_join_element_wise(_bytes(head), values, _bytes(b""))
    return pc.if_else(missing, _bytes(_entry(name, float_list={})), present)


def _entry(name: str, **feature: Any) -> bytes:
    import tensorflow as tf

    return bytes(tf.train.Features(feature={name: tf.train.Feature(**feature)}).SerializeToString())


def _bytes(value: bytes) -> Any:
    import pyarrow as pa

    return pa.scalar(value, pa.large_binary())


def _as_bytes(values: list[bytes]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.large_binary())
