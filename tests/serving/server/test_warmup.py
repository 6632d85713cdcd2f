"""Requests recorded in a version: written, read back, run in order; and what fails a load."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.status import Code, StatusError, invalid
from serving.server.tensors import to_array, to_proto
from serving.server.warmup import MAX_RECORDS, REQUESTS, read_records, warm_up, write_records, write_warmup


def refused(call: Any) -> StatusError:
    with pytest.raises(StatusError) as error:
        call()
    return error.value


def predict_requests(count: int) -> list[Any]:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    requests = []
    for number in range(count):
        request = PredictRequest()
        request.model_spec.name = f"m{number}"
        request.inputs["x"].CopyFrom(to_proto(np.full((number + 1, 50), number, np.float32)))
        requests.append(request)
    return requests


def record(folder: Path, *logs: Any) -> Path:
    path = folder / REQUESTS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_records(file, [log if isinstance(log, bytes) else log.SerializeToString() for log in logs])
    return path


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("records") / "file"
    with path.open("wb") as file:
        write_records(file, records)
    with path.open("rb") as file:
        assert list(read_records(file)) == records


@given(st.binary(max_size=100), st.integers(0, 300), st.integers(1, 255))
def test_damaged_records_are_told(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, flip: int) -> None:
    buffer = io.BytesIO()
    write_records(buffer, [data, data])
    content = bytearray(buffer.getvalue())
    at %= len(content)
    path = tmp_path_factory.mktemp("records") / "file"
    for broken in (bytes(content[:at]) + bytes([content[at] ^ flip]) + bytes(content[at + 1 :]), bytes(content[:at])):
        path.write_bytes(broken)
        with path.open("rb") as file:
            if len(broken) in (0, len(content) // 2):
                assert list(read_records(file)) == [data] * (2 * len(broken) // len(content))
            else:
                with pytest.raises(ValueError, match=r"^(corrupted|truncated) record at \d+$"):
                    list(read_records(file))


def test_a_lying_length_reads_nothing(tmp_path: Path) -> None:
    from serving.server.warmup import _masked

    path, length = tmp_path / "file", struct.pack("<Q", 2**60)
    path.write_bytes(length + struct.pack("<I", _masked(length)) + b"abc")
    with path.open("rb") as file, pytest.raises(ValueError, match=r"^truncated record at 0$"):
        list(read_records(file))


def test_only_requests_are_written(tmp_path: Path) -> None:
    for wrong in (object(), to_proto(np.zeros(1))):
        assert "Expected a request" in refused(lambda wrong=wrong: write_warmup(tmp_path, [wrong])).message
    assert refused(lambda: write_warmup(tmp_path, [])).message == "Expected 1 to 1000 warmup requests. Received 0."
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_written_is_run_in_order(tmp_path: Path) -> None:
    import tensorflow as tf

    requests = predict_requests(5)
    path = write_warmup(tmp_path, requests)
    assert path == tmp_path / "assets.extra/tf_serving_warmup_requests"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    ran: list[tuple[str, Any]] = []
    assert warm_up(tmp_path, lambda kind, request: ran.append((kind, request))) == 5
    assert ran == [("predict", request) for request in requests]
    assert to_array(ran[1][1].inputs["x"]).shape == (2, 50)
    ran.clear()
    assert warm_up(tmp_path, lambda kind, request: ran.append((kind, request)), iterations=3) == 5
    assert [request.model_spec.name for _, request in ran] == [f"m{number}" for number in range(5) for _ in range(3)]
    assert len(list(tf.data.TFRecordDataset(str(path)))) == 5  # TensorFlow reads them as well
    assert warm_up(tmp_path / "empty", lambda kind, request: ran.append((kind, request))) == 0
    assert write_warmup(tmp_path, requests[:1]) == path
    assert warm_up(tmp_path, lambda kind, request: None) == 1


@pytest.mark.slow
def test_every_kind_of_log(tmp_path: Path) -> None:
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    (predict,) = predict_requests(1)
    classify, regress, multi = ClassificationRequest(), RegressionRequest(), MultiInferenceRequest()
    classify.model_spec.name, regress.model_spec.name = "c", "r"
    multi.tasks.add().model_spec.name = "t"
    ran: list[tuple[str, Any]] = []
    write_warmup(tmp_path, [predict, classify, regress, multi])
    warm_up(tmp_path, lambda kind, request: ran.append((kind, request)))
    assert ran == [("predict", predict), ("classify", classify), ("regress", regress), ("multi_inference", multi)]
    ran.clear()
    log = PredictionLog()
    record(tmp_path, log)  # none of them: nothing runs, nothing fails
    assert warm_up(tmp_path, lambda kind, request: ran.append((kind, request))) == 1 and not ran
    for field, number in (("session_run_log", 5), ("predict_streamed_log", 7)):
        log = PredictionLog()
        getattr(log, field).SetInParent()
        record(tmp_path, log)
        error = refused(lambda: warm_up(tmp_path, lambda kind, request: None))
        assert (error.code, error.message) == (Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")


@pytest.mark.slow
def test_what_fails_a_load(tmp_path: Path) -> None:
    def fail(kind: str, request: Any) -> None:
        raise invalid(f"no {kind} of {request.model_spec.name}")

    path = write_warmup(tmp_path, predict_requests(2))
    assert refused(lambda: warm_up(tmp_path, fail)).message == "no predict of m0"
    path.write_bytes(path.read_bytes()[:-1])
    ran: list[str] = []
    error = refused(lambda: warm_up(tmp_path, lambda kind, request: ran.append(kind)))
    assert error.code == Code.DATA_LOSS and ran == ["predict"]
    assert error.message.startswith("truncated record at ")
    assert error.message.endswith(f" in {path}. Please verify your warmup data is in TFRecord format.")
    record(tmp_path, b"\xff\xff no log")
    error = refused(lambda: warm_up(tmp_path, lambda kind, request: None))
    assert error.code == Code.INVALID_ARGUMENT and error.message.startswith("Failed to parse warmup record: ")
    one = write_warmup(tmp_path, predict_requests(1)).read_bytes()
    path.write_bytes(one * MAX_RECORDS)
    assert warm_up(tmp_path, lambda kind, request: None) == MAX_RECORDS
    path.write_bytes(one * (MAX_RECORDS + 1))
    error = refused(lambda: warm_up(tmp_path, lambda kind, request: None))
    assert error.message == f"Number of warmup records exceeds the maximum (1000) at {path}"
    assert refused(lambda: write_warmup(tmp_path, predict_requests(1) * 1001)).code == Code.INVALID_ARGUMENT
