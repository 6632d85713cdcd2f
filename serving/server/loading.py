"""What loading a version is: choose a runtime, put batching around it, warm it up. The manager calls it in its loading threads.

After tensorflow_serving/servables/tensorflow/saved_model_bundle_factory.cc, bundle_factory_util.cc and saved_model_warmup.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from serving.manifest import TFLITE_FILE
from serving.server.batch_scheduler import BatchScheduler
from serving.server.batching import Batching, BatchObserver
from serving.server.lifecycle import Loaded, Models
from serving.server.options import ServerOptions
from serving.server.runtime_options import RuntimeOptions
from serving.server.servable import Servable
from serving.server.text_protos import BatchingParameters, batching_parameters, read_text

PER_MODEL_BATCHING = "batching_params.pbtxt"

_THREADS = "model_server_batch_threads"


class Loader:
    """Loads and warms up versions (`aspired.Load`); holds what they share, the batching threads. From many threads at once."""

    def __init__(self, options: ServerOptions, observer: BatchObserver | None = None) -> None:
        """Reads the configuration files of runtimes and batching, and starts the batching threads.

        Raises:
            StatusError: One of the files cannot be read or does not parse, or flags contradict each other.
        """
        self._options = options
        self._runtime = RuntimeOptions.of(options)
        self._observer = observer
        self._batching: BatchingParameters | None = None
        if options.enable_batching:
            file = options.batching_parameters_file
            self._batching = batching_parameters(read_text(file) if file else "", file, _THREADS)
            self._scheduler = BatchScheduler(self._batching.num_batch_threads, self._batching.thread_pool_name)

    def __call__(self, name: str, version: int, folder: Path) -> Servable:
        """Loads a version; it is warm when this returns.

        Raises:
            StatusError: What keeps it from being served; what was loaded of it is closed.
        """
        servable = self._load(folder)
        try:
            servable = self._with_batching(servable, folder)
            if self._options.enable_model_warmup:
                self._warm_up(Loaded(name, version, servable), folder)
        except BaseException:
            servable.close()
            raise
        return servable

    def close(self) -> None:
        """Ends the batching threads, after the last version is closed."""
        if self._batching is not None:
            self._scheduler.close()

    def _load(self, folder: Path) -> Servable:
        from serving.server.session_runtime import load_session
        from serving.server.tflite_runtime import load_tflite

        if self._options.prefer_tflite_model and (folder / TFLITE_FILE).is_file():
            return load_tflite(folder / TFLITE_FILE, options=self._runtime)
        return load_session(folder, tags=self._options.saved_model_tags.split(","), options=self._runtime)

    def _with_batching(self, servable: Servable, folder: Path) -> Servable:
        """With --enable_per_model_batching_parameters a version that brings none is not batched."""
        parameters = self._batching
        if parameters is not None and self._options.enable_per_model_batching_parameters:
            file = folder / PER_MODEL_BATCHING
            parameters = batching_parameters(read_text(file), file, _THREADS) if file.is_file() else None
        return servable if parameters is None else Batching(servable, parameters, self._scheduler, self._observer)

    def _warm_up(self, loaded: Loaded, folder: Path) -> None:
        from serving.server.predictor import Predictor
        from serving.server.warmup import warm_up

        # Nothing else of the manager is asked for by the requests that a warm-up can have.
        predictor = Predictor(cast(Models, _Only(loaded)), self._options)

        def run(kind: str, request: Any) -> None:
            # The request goes to this version, whichever it was recorded for.
            for spec in [task.model_spec for task in request.tasks] if kind == "multi_inference" else [request.model_spec]:
                spec.name = loaded.name
                spec.ClearField("version_choice")
            getattr(predictor, kind)(request)

        warm_up(folder, run, iterations=self._options.num_request_iterations_for_warmup)


class _Only:
    """The models of a predictor that knows one version."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @contextmanager
    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Loaded]:
        yield self._loaded
