"""What Prometheus reads: TensorFlow Serving's metrics, by their names, labels and buckets, and a few of our own.

Names, labels and buckets are those of tensorflow_serving/servables/tensorflow/util.cc and batching/batching_session.cc; the page
is laid out as util/prometheus_exporter.cc does. The client library for Prometheus is not used: it puts `_total` after every
counter's name, which these do not have, and finds a histogram's bucket by a loop in Python.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from threading import Lock

from serving.server.status import Code

DEFAULT_PATH = "/monitoring/prometheus/metrics"
"""Where MonitoringConfig puts the page if it names no path."""

MAX_CELLS = 10_000
"""Of a metric. Model names come from requests, and those of unknown models must not fill the memory."""

# monitoring::Buckets::Exponential(10, 1.8, 33), in microseconds, and (1, 2, 15) for counts; +Inf comes on top.
LATENCY_LIMITS = [10 * 1.8**power for power in range(33)]
COUNT_LIMITS = [float(2**power) for power in range(15)]
# Exponential(100, 1.2, 52), in microseconds, up to about a second.
QUEUE_LIMITS = [100 * 1.2**power for power in range(52)]

Labels = tuple[str, ...]
Reading = Callable[[], Iterable[tuple[Labels, float]]]
"""A gauge's values now, by its labels' values."""


class Counter:
    """A number for each combination of label values, that only grows."""

    def __init__(self, name: str, labels: Labels) -> None:
        """Args: the metric's name; its labels' names."""
        self._name, self._labels = name, labels
        self._cells: dict[Labels, int] = {}
        self._lock = Lock()

    def add(self, values: Labels, count: int = 1) -> None:
        """Adds to the number of these label values."""
        with self._lock:
            if values in self._cells or len(self._cells) < MAX_CELLS:
                self._cells[values] = self._cells.get(values, 0) + count

    def lines(self) -> Iterable[str]:
        """The lines of the page."""
        with self._lock:
            cells = sorted(self._cells.items())
        yield f"# TYPE {self._name} counter"
        for values, count in cells:
            yield f"{self._name}{{{_pairs(self._labels, values)}}} {count}"


class Histogram:
    """How often a quantity was how large, for each combination of label values."""

    def __init__(self, name: str, labels: Labels, limits: list[float]) -> None:
        """Args: the metric's name; its labels' names; the buckets' upper limits, ascending, without +Inf."""
        self._name, self._labels, self._limits = name, labels, limits
        self._cells: dict[Labels, list[float]] = {}
        self._lock = Lock()

    def add(self, values: Labels, quantity: float) -> None:
        """Counts a quantity; a bucket has what is below its limit, not what equals it (Add in tsl's histogram.cc)."""
        with self._lock:
            cell = self._cells.get(values)
            if cell is None:
                if len(self._cells) >= MAX_CELLS:
                    return
                # A count for each bucket and for +Inf, then the sum.
                cell = self._cells[values] = [0] * (len(self._limits) + 2)
            cell[bisect_right(self._limits, quantity)] += 1
            cell[-1] += quantity

    def lines(self) -> Iterable[str]:
        """The lines of the page."""
        with self._lock:
            cells = sorted((values, list(cell)) for values, cell in self._cells.items())
        yield f"# TYPE {self._name} histogram"
        limits = [*(f"{limit:g}" for limit in self._limits), "+Inf"]
        for values, cell in cells:
            pairs = _pairs(self._labels, values)
            counts = list(accumulate(cell[:-1]))
            for limit, count in zip(limits, counts, strict=True):
                yield f'{self._name}_bucket{{{pairs},le="{limit}"}} {count}'
            yield f"{self._name}_sum{{{pairs}}} {cell[-1]:.17g}"
            yield f"{self._name}_count{{{pairs}}} {counts[-1]}"


class Metrics:
    """All metrics of a server: an observer of the predictor (observers.Observer) and of batches. Times come in seconds."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        prefix = ":tensorflow:serving:"
        self._requests = Counter(f"{prefix}request_count", ("model_name", "status"))
        self._latency = Histogram(f"{prefix}request_latency", ("model_name", "API", "entrypoint"), LATENCY_LIMITS)
        self._runtime = Histogram(f"{prefix}runtime_latency", ("model_name", "API", "runtime"), LATENCY_LIMITS)
        self._examples = Histogram(f"{prefix}request_example_counts", ("model",), COUNT_LIMITS)
        self._example_total = Counter(f"{prefix}request_example_count_total", ("model",))
        pool = ("thread_pool_name",)
        self._queued = Histogram(f"{prefix}batching_session:queuing_latency", pool, QUEUE_LIMITS)
        self._batches = Counter(f"{prefix}batching_session:wrapped_run_count", ())
        self._batch_rows = Histogram(":tfline:serving:batch_rows", pool, COUNT_LIMITS)
        self._padding = Counter(":tfline:serving:batch_padding_rows", pool)
        self._gauges: dict[str, tuple[Labels, Reading]] = {}

    def requested(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
        """A request was answered; only what went well counts for latency, as in prediction_service_impl.cc."""
        self._requests.add((model, code))
        if code == Code.OK.name:
            self._latency.add((model, api, entrypoint), seconds * 1e6)

    def ran(self, model: str, api: str, seconds: float) -> None:
        """A model ran. Its runtime is "TF1", as TensorFlow Serving calls a session."""
        self._runtime.add((model, api, "TF1"), seconds * 1e6)

    def examples(self, model: str, count: int) -> None:
        """A request had so many Examples."""
        self._examples.add((model,), count)
        self._example_total.add((model,), count)

    def batched(self, thread_pool: str, sizes: Sequence[int], processed: int, waited: Sequence[float]) -> None:
        """A batch is about to run (batching.BatchObserver)."""
        self._batches.add(())
        for seconds in waited:
            self._queued.add((thread_pool,), seconds * 1e6)
        self._batch_rows.add((thread_pool,), sum(sizes))
        self._padding.add((thread_pool,), processed - sum(sizes))

    def watch(self, name: str, labels: Labels, read: Reading) -> None:
        """Shows a gauge, such as the loaded versions or the length of a batching queue.

        Args:
            name: With ":" for TensorFlow's "/".
            labels: The labels' names.
            read: Called for each page, in any thread; must be quick and not raise.
        """
        self._gauges[name] = (labels, read)

    def page(self) -> bytes:
        """The page, in Prometheus' text format."""
        lines = [line for each in self._all() for line in each.lines()]
        for name, (labels, read) in self._gauges.items():
            lines.append(f"# TYPE {name} gauge")
            lines += [f"{name}{{{_pairs(labels, values)}}} {value:.17g}" for values, value in read()]
        return ("\n".join(lines) + "\n").encode("utf-8", "replace")

    def _all(self) -> list[Counter | Histogram]:
        requests: list[Counter | Histogram] = [self._requests, self._latency, self._runtime, self._examples, self._example_total]
        return [*requests, self._queued, self._batches, self._batch_rows, self._padding]


def loaded_versions(versions: Callable[[], Mapping[str, Iterable[int]]]) -> Reading:
    """The gauge of the versions that are loaded, labelled `model_name` and `version`; always 1."""
    return lambda: [((name, str(version)), 1.0) for name, each in versions().items() for version in each]


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
