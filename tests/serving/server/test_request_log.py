"""The request log: what it keeps, where, and that it never hurts a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server import request_log
from serving.server.request_log import RequestLog
from serving.server.status import StatusError
from serving.server.warmup import read_records


def log_of(name: str, size: int = 10) -> Any:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = name
    log.predict_log.request.inputs["x"].tensor_content = b"x" * size
    return log


def records(file: Path) -> list[Any]:
    with file.open("rb") as opened:
        return [prediction_log_pb2.PredictionLog.FromString(record) for record in read_records(opened)]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[RequestLog]:
    log = RequestLog(tmp_path / "logs", 1.0, 1000)
    log.start()
    yield log
    log.close()


def test_what_is_put_is_in_the_files_in_order(started: RequestLog, tmp_path: Path) -> None:
    for number in range(5):
        started.put("m", log_of(f"m{number}", 400))
    started.close()
    files = sorted((tmp_path / "logs" / "m").iterdir(), key=lambda file: int(file.stem.rpartition("-")[2]))
    assert [len(records(file)) for file in files] == [3, 2]
    assert all(file.suffix == ".tfrecord" for file in files)
    kept = [record for file in files for record in records(file)]
    assert [record.predict_log.request.model_spec.name for record in kept] == [f"m{number}" for number in range(5)]
    assert kept[0].log_metadata.sampling_config.sampling_rate == 1.0
    assert (started.written, started.dropped) == (5, 0)


def test_a_quiet_models_file_is_finished_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "ROTATE_SECONDS", 0.05)
    log = RequestLog(tmp_path / "logs", 1.0, 1 << 20)
    log.start()
    log.put("m", log_of("m"))
    end = time.monotonic() + 10
    while not list(tmp_path.rglob("*.tfrecord")) and time.monotonic() < end:
        time.sleep(0.01)
    (file,) = (tmp_path / "logs" / "m").iterdir()
    assert len(records(file)) == 1
    assert file.suffix == ".tfrecord"
    log.put("m", log_of("m"))
    log.close()
    assert len(list((tmp_path / "logs" / "m").glob("*.tfrecord"))) == 2


def test_an_unfinished_file_does_not_look_finished(started: RequestLog, tmp_path: Path) -> None:
    started.put("m", log_of("m"))
    end = time.monotonic() + 10
    while started.written < 1 and time.monotonic() < end:
        time.sleep(0.01)
    (file,) = (tmp_path / "logs" / "m").iterdir()
    assert file.suffix == ".part"
    assert len(records(file)) == 1  # and what is in it can be read all the same


def test_names_never_become_paths(started: RequestLog, tmp_path: Path) -> None:
    for name in ("../up", "..", ".", "a/b", ""):
        started.put(name, log_of(name))
    started.close()
    assert (started.written, started.dropped) == (5, 0)
    assert [each.name for each in tmp_path.iterdir()] == ["logs"]
    files = list((tmp_path / "logs").rglob("*.tfrecord"))
    assert sorted(len(file.relative_to(tmp_path).parts) for file in files) == [3] * 5


def test_logging_config_sets_rate_and_prefix(started: RequestLog, tmp_path: Path) -> None:
    config = model_server_config_pb2.ModelServerConfig()
    never = config.model_config_list.config.add(name="never")
    never.logging_config.sampling_config.sampling_rate = 0
    named = config.model_config_list.config.add(name="named")
    named.logging_config.sampling_config.sampling_rate = 1
    named.logging_config.log_collector_config.filename_prefix = "audit"
    config.model_config_list.config.add(name="plain")
    started.configure(config)
    assert not any(started.wants("never") for _ in range(100))
    assert started.wants("named")
    assert started.wants("plain")
    started.put("named", log_of("named"))
    started.close()
    assert [each.name for each in (tmp_path / "logs").iterdir()] == ["audit"]


def test_a_share_is_a_share(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, 0.25, 1000)
    kept = sum(log.wants("m") for _ in range(4000))
    assert 800 < kept < 1200
    assert not any(RequestLog(tmp_path, 0.0, 1000).wants("m") for _ in range(100))


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "QUEUE_BYTES", 2500)
    log = RequestLog(tmp_path, 1.0, 1000)
    for _ in range(5):
        log.put("m", log_of("m", 1000))  # nobody writes yet
    assert log.dropped == 3
    log.start()
    log.close()
    assert log.written == 2


def test_a_disk_that_fails_drops_and_counts(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file where the folder should be")
    log = RequestLog(tmp_path, 1.0, 1000)
    log.start()
    log.put("m", log_of("m"))
    log.put("n", log_of("n"))
    log.close()
    assert (log.written, log.dropped) == (1, 1)


def test_many_threads(started: RequestLog, tmp_path: Path) -> None:
    def put() -> None:
        for _ in range(50):
            started.put("m", log_of("m"))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started.close()
    assert sum(len(records(file)) for file in (tmp_path / "logs" / "m").iterdir()) == 400


@pytest.mark.parametrize(
    ("rate", "size", "message"), [(1.5, 1, "share"), (-0.1, 1, "share"), (1.0, 0, "rotate_mb must be positive")]
)
def test_refused(tmp_path: Path, rate: float, size: int, message: str) -> None:
    with pytest.raises(StatusError, match=message):
        RequestLog(tmp_path, rate, size)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StatusError, match="--request_log_dir: the folder"):
        RequestLog(tmp_path / "file" / "logs", 1.0, 1)
