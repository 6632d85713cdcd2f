"""Warm-up: requests that a version brings along and that run before it becomes available, so that no client waits for first runs.

They are in `<version>/assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog, as TensorFlow Serving has it
(servables/tensorflow/saved_model_warmup_util.cc, saved_model_warmup.cc).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

from serving.server.status import Code, StatusError, invalid

REQUESTS = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000

Run = Callable[[str, Any], object]
"""Runs a request of a kind: predict, classify, regress or multi_inference."""

_KINDS = ("predict", "classify", "regress", "multi_inference")
_LOG_FIELDS = {"ClassificationRequest": 2, "RegressionRequest": 3, "MultiInferenceRequest": 4, "PredictRequest": 6}
"""Field of PredictionLog for a request; the request is field 1 of the message there (apis/prediction_log.proto)."""


def warm_up(folder: Path, run: Run, *, iterations: int = 1) -> int:
    """Runs the requests that a version has, in their order; none is fine.

    Args:
        folder: The version.
        run: What answers a request; its StatusErrors go through.
        iterations: How often each request runs; less than 1 is 1.

    Returns:
        How many records there were.

    Raises:
        StatusError: What `run` raises. DATA_LOSS: the file is no TFRecord file. INVALID_ARGUMENT: a record is no PredictionLog,
            or there are more than 1000. UNIMPLEMENTED: a log of SessionRun or of a streamed Predict. UNAVAILABLE: it cannot be
            read.
    """
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    path = folder / REQUESTS
    if not path.is_file():
        return 0
    count = 0
    for record in _open_records(path):
        log = _parse(PredictionLog, record, path)
        for _ in range(max(1, iterations)):
            _run(log, run)
        count += 1
        if count > MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    return count


def _open_records(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from read_records(file)
    except OSError as error:
        raise StatusError(Code.UNAVAILABLE, f"{path}: {error.strerror}") from None
    except ValueError as error:
        message = f"{error} in {path}. Please verify your warmup data is in TFRecord format."
        raise StatusError(Code.DATA_LOSS, message) from None


def _parse(message: Any, record: bytes, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(record)
    except DecodeError:
        shown = record[:100].decode("utf-8", "backslashreplace")
        raise invalid(f"Failed to parse warmup record: {shown} from {path}") from None


def _run(log: Any, run: Run) -> None:
    which = log.WhichOneof("log_type")
    if which is None:  # TensorFlow Serving runs nothing for it and goes on
        return
    kind = which.removesuffix("_log")
    if kind not in _KINDS:
        number = log.DESCRIPTOR.fields_by_name[which].number
        raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    run(kind, getattr(log, which).request)


def write_warmup(folder: Path, requests: Iterable[Any]) -> Path:
    """Records requests into a version, in place of those it has; they appear by an atomic rename.

    Needs no TensorFlow. A version whose files are listed in a manifest must get them before the manifest is made.

    Args:
        folder: The version.
        requests: PredictRequest, ClassificationRequest, RegressionRequest or MultiInferenceRequest, at least one.

    Returns:
        The file.

    Raises:
        StatusError: INVALID_ARGUMENT: no request, more than 1000, or something else than a request.
        OSError: It cannot be written.
    """
    records = [_log(request) for request in requests]
    if not 0 < len(records) <= MAX_RECORDS:
        raise invalid(f"Expected 1 to {MAX_RECORDS} warmup requests. Received {len(records)}.")
    path = folder / REQUESTS
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            write_records(file, records)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _log(request: Any) -> bytes:
    """A serialized PredictionLog that has the request and no response."""
    number = _LOG_FIELDS.get(request.DESCRIPTOR.name) if hasattr(request, "DESCRIPTOR") else None
    if number is None:
        raise invalid(f"Expected a request ({', '.join(_LOG_FIELDS)}). Received {type(request).__name__}.")
    return _field(number, _field(1, request.SerializeToString()))


def _field(number: int, data: bytes) -> bytes:
    """A message as a field of another (https://protobuf.dev/programming-guides/encoding)."""
    key, length = bytes([number << 3 | 2]), len(data)
    while length > 127:
        key += bytes([length & 127 | 128])
        length >>= 7
    return key + bytes([length]) + data


def _masked(data: bytes) -> int:
    """A checksum as TFRecord files have it (tensorflow/core/lib/hash/crc32c.h, Mask)."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_records(file: BinaryIO, records: Iterable[bytes]) -> None:
    """Writes TFRecords: length, its checksum, data, its checksum (tensorflow/core/lib/io/record_writer.h)."""
    for record in records:
        length = struct.pack("<Q", len(record))
        file.write(length + struct.pack("<I", _masked(length)) + record + struct.pack("<I", _masked(record)))


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Reads TFRecords, uncompressed, from a file that can seek.

    Raises:
        ValueError: `corrupted record at 12` or `truncated record at 12`, the byte where it begins.
    """
    size = os.fstat(file.fileno()).st_size
    while head := file.read(12):
        start = file.tell() - len(head)
        if len(head) < 12:
            raise ValueError(f"truncated record at {start}")
        length, checksum = struct.unpack("<QI", head)
        if _masked(head[:8]) != checksum:
            raise ValueError(f"corrupted record at {start}")
        if length > size - file.tell() - 4:
            raise ValueError(f"truncated record at {start}")
        record, tail = file.read(length), file.read(4)
        if len(record) < length or len(tail) < 4:
            raise ValueError(f"truncated record at {start}")
        if _masked(record) != struct.unpack("<I", tail)[0]:
            raise ValueError(f"corrupted record at {start}")
        yield record
