"""Keeps a sample of the requests and answers, as TFRecord files of PredictionLog; `tf_serving_warmup_requests` has the same form.

    FOLDER/PREFIX/PREFIX-20260701T120000-4242-1.tfrecord         finished, complete
    FOLDER/PREFIX/PREFIX-20260701T120500-4242-2.tfrecord.part    being written; renamed when it is large
                                                                 enough or an hour old, or the server ends

PREFIX is the model's name, or the filename_prefix of its logging_config in the ModelServerConfig; sampling_config there goes
before the rate of --request_log_sampling_rate. A request never waits for this and never fails because of it: what does not fit
into the queue, or cannot be written, is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving.server.status import invalid

QUEUE_BYTES = 64 << 20
"""How much may wait to be written."""

ROTATE_SECONDS = 3600.0
"""Age at which a file is finished: the log of a model that few ask shall be readable on the same day."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How one model's requests are kept: which share (0 to 1) and under which file name prefix."""

    rate: float
    prefix: str


class RequestLog:
    """Takes PredictionLogs from many threads and writes them in one of its own. `start` begins, `close` finishes the files.

    Attributes:
        written: PredictionLogs written since the start.
        dropped: PredictionLogs lost since the start.
    """

    def __init__(self, folder: Path, rate: float, rotate_bytes: int) -> None:
        """Makes the folder.

        Args:
            folder: Where the files go; on one file system.
            rate: Share of requests of models without a logging_config.
            rotate_bytes: Size at which a file is finished.

        Raises:
            StatusError: INVALID_ARGUMENT when the rate is not within 0 and 1, the size is not positive, or the folder cannot
                be made.
        """
        if not 0 <= rate <= 1:
            raise invalid(f"--request_log_sampling_rate is a share, 0 to 1; got {rate}")
        if rotate_bytes <= 0:
            raise invalid("--request_log_rotate_mb must be positive")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid(f"--request_log_dir: the folder {folder} cannot be made: {error.strerror}") from error
        self.written = 0
        self.dropped = 0
        self._rate = rate
        self._models: Mapping[str, Sampling] = {}
        self._queue: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._counts = threading.Lock()
        self._files = _Files(folder, rotate_bytes)
        self._thread = threading.Thread(target=self._write_all, name="request-log", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def configure(self, config: Any) -> None:
        """Takes the logging_configs of a ModelServerConfig, in place of those before."""
        self._models = samplings(config)

    def wants(self, model: str) -> bool:
        """Whether to keep this request; draws the sample."""
        sampling = self._models.get(model)
        rate = self._rate if sampling is None else sampling.rate
        return rate >= 1 or random.random() < rate  # noqa: S311 - a sample, not a secret

    def put(self, model: str, log: Any) -> None:
        """Takes a PredictionLog; returns at once and never raises."""
        try:
            sampling = self._models.get(model) or Sampling(self._rate, model)
            log.log_metadata.sampling_config.sampling_rate = sampling.rate
            data = log.SerializeToString()
        except Exception as error:
            self._drop(f"{type(error).__name__}: {error}")
            return
        with self._counts:
            fits = self._waiting + len(data) <= QUEUE_BYTES
            self._waiting += len(data) if fits else 0
        if fits:
            self._queue.put((sampling.prefix, data))
        else:
            self._drop("the queue is full")

    def close(self, seconds: float = 10.0) -> None:
        """Writes what waits and finishes the files; gives up after so many seconds, which leaves `.part` files."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(seconds)

    def _write_all(self) -> None:
        while True:
            try:
                entry = self._queue.get(timeout=self._files.seconds_to_rotate())
            except queue.Empty:
                self._rotate()
                continue
            if entry is None:
                break
            self._write(*entry)
        self._files.close()

    def _rotate(self) -> None:
        try:
            self._files.finish_old()
        except Exception as error:
            self._drop(f"{type(error).__name__}: {error}")

    def _write(self, prefix: str, data: bytes) -> None:
        with self._counts:
            self._waiting -= len(data)
        try:
            self._files.write(prefix, data)
            self.written += 1
        except Exception as error:
            self._drop(f"{type(error).__name__}: {error}")

    def _drop(self, why: str) -> None:
        with self._counts:
            self.dropped += 1
            count = self.dropped
        # Every power of two: the first one is seen at once, a full disk does not fill the log as well.
        if count & (count - 1) == 0:
            _log.warning("request log: %d dropped so far; the last because %s", count, why)


def samplings(config: Any) -> dict[str, Sampling]:
    """The models of a ModelServerConfig that have a logging_config."""
    return {
        model.name: Sampling(
            model.logging_config.sampling_config.sampling_rate,
            model.logging_config.log_collector_config.filename_prefix or model.name,
        )
        for model in config.model_config_list.config
        if model.HasField("logging_config")
    }


@dataclass
class _File:
    path: Path
    writer: Any
    due: float
    size: int = 0


class _Files:
    """The open files, one a prefix; used by one thread."""

    def __init__(self, folder: Path, rotate_bytes: int) -> None:
        import tensorflow as tf

        self._open_writer = tf.io.TFRecordWriter
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._open: dict[str, _File] = {}
        self._count = 0

    def write(self, prefix: str, data: bytes) -> None:
        file = self._open.get(prefix) or self._begin(prefix)
        try:
            file.writer.write(data)
            file.writer.flush()
        except Exception:
            self._open.pop(prefix)
            raise
        file.size += len(data) + 16  # length and two checksums (tensorflow/core/lib/io/record_writer.h)
        if file.size >= self._rotate_bytes:
            self._finish(prefix)
        self.finish_old()

    def seconds_to_rotate(self) -> float | None:
        """Until the oldest file is due; None when none is open."""
        due = [file.due for file in self._open.values()]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def finish_old(self) -> None:
        """Finishes the files that are due."""
        now = time.monotonic()
        for prefix in [prefix for prefix, file in self._open.items() if file.due <= now]:
            self._finish(prefix)

    def close(self) -> None:
        for prefix in list(self._open):
            self._finish(prefix)

    def _begin(self, prefix: str) -> _File:
        # A model's name is whatever the configuration says; quoted, and without a dot in front, it is one name in this folder.
        name = quote(prefix, safe="")
        name = f"%2E{name[1:]}" if name.startswith(".") else name or "%"
        self._count += 1
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / name / f"{name}-{when}-{os.getpid()}-{self._count}.tfrecord"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = self._open[prefix] = _File(path, self._open_writer(f"{path}.part"), time.monotonic() + ROTATE_SECONDS)
        return file

    def _finish(self, prefix: str) -> None:
        file = self._open.pop(prefix)
        file.writer.close()
        Path(f"{file.path}.part").rename(file.path)
