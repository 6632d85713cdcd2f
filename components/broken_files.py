"""Says which input file cannot be read to its end, and why: the readers of Beam that meet the damage do not name the file."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from components.examples import compression
from components.parquet_rows import unfit_type

FRAME = 16
"""Bytes that TFRecord adds to a record: its length and two checksums (tensorflow/core/lib/io/record_writer.h)."""


class _Unfit(Exception):
    """A file that is whole, but not what can be ingested."""


_ERRORS = (OSError, EOFError, ValueError, csv.Error, zlib.error, _Unfit)


def find_broken(files: Sequence[Path], kind: str) -> str:
    """Reads files to the end and describes the first that cannot be read; "" when all can.

    Args:
        files: What to read.
        kind: "tfrecord" (of tf.Example; gzip when the name ends in .gz), "csv" (UTF-8) or "parquet".
    """
    for path in files:
        try:
            _READERS[kind](path)
        except _ERRORS as error:
            return _describe(path, kind, error)
    return find_unnoticed(files, kind)


def find_unnoticed(files: Sequence[Path], kind: str) -> str:
    """Describes the first file that Beam would misread without an error; "" when there is none. Reads no records.

    It takes a gzip file that was cut short for one that ends there, and reads files with different columns as if they were alike.
    """
    columns: dict[Path, list[str]] = {}
    for path in files:
        try:
            if path.suffix == ".gz":
                gzip_size(path)
            elif kind in _COLUMNS:
                columns[path] = _COLUMNS[kind](path)
        except _ERRORS as error:
            return _describe(path, kind, error)
    for path, found in columns.items():
        if found != (expected := columns[next(iter(columns))]):
            return f"{path} has other columns than {next(iter(columns))}: {', '.join(found)}; expected {', '.join(expected)}"
    return ""


def _describe(path: Path, kind: str, error: Exception) -> str:
    what = str(error).splitlines()[0]
    return f"{path}: {what}" if isinstance(error, _Unfit) else f"{path} is not a whole {kind} file: {what}"


def gzip_size(path: Path) -> int:
    """The number of bytes within a gzip file, which is read to the end; OSError, EOFError or zlib.error when it is damaged."""
    size = 0
    with gzip.open(path) as file:
        while block := file.read(1 << 20):
            size += len(block)
    return size


def _csv_columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file, strict=True), [])
    if header and header[0].startswith("\ufeff"):
        raise _Unfit("it starts with a byte order mark, which would become part of the first column's name")
    return header


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(path)
    for field in schema:
        if unfit_type(field.type):
            raise _Unfit(
                f"column '{field.name}' has type {field.type}; expected integers, floats, strings, bytes, or lists of them"
            )
    return [f"{field.name} ({field.type})" for field in schema]


def _read_csv(path: Path) -> None:
    width = len(_csv_columns(path))
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, strict=True)
        for row in rows:
            if row and len(row) != width:
                raise ValueError(f"line {rows.line_num} has {len(row)} values, the header {width}")


def _read_parquet(path: Path) -> None:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        for name, values in batch.to_pydict().items():
            for value in values:
                if isinstance(value, list) and None in value:
                    raise _Unfit(f"column '{name}' has a list with a null in it: {value}")


def _read_tfrecord(path: Path) -> None:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    compressed = path.suffix == ".gz"
    size = gzip_size(path) if compressed else path.stat().st_size
    if not compressed and compression(str(path)):
        raise _Unfit("it is compressed, so its name has to end in .gz")
    count = whole = 0
    try:
        for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP" if compressed else ""):
            tf.train.Example.FromString(record.numpy())
            count, whole = count + 1, whole + len(record.numpy()) + FRAME
    except tf.errors.DataLossError as error:
        # TensorFlow's message without the names of the ops that met the damage.
        message = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", error.message, flags=re.DOTALL)
        raise ValueError(f"after {count} records: {message}") from None
    except DecodeError as error:
        raise ValueError(f"record {count} is no tf.Example: {error}") from None
    if whole != size:
        # TensorFlow takes fewer bytes than a record's head has for the end of the file.
        raise ValueError(f"after {count} records: {size - whole} bytes are left over")


_READERS = {"tfrecord": _read_tfrecord, "csv": _read_csv, "parquet": _read_parquet}
_COLUMNS = {"csv": _csv_columns, "parquet": _parquet_columns}
