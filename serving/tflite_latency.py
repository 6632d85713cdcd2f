"""How long a .tflite takes to answer, as ai-edge-litert runs it: the call alone, after warming up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.tflite_call import rows_at_once
from serving.tflite_file import TFLiteFile, TFLiteFileError
from serving.tflite_graph import Signature, pick, read_signatures, read_subgraphs
from serving.tflite_metadata import TensorInfo
from serving.tflite_values import Array, as_called, real_range, stored_values


class Latency(BaseModel):
    """Milliseconds of a call, over many: percentiles are values that occurred (nearest rank), none in between."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signature: str
    threads: int
    batch: int
    calls: int
    load_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    smallest_ms: float
    largest_ms: float
    rows_per_second: float


def measure(  # noqa: PLR0913  (what a benchmark is of)
    content: bytes,
    *,
    signature: str | None = None,
    threads: int = 1,
    batch: int = 1,
    warmup: int = 10,
    calls: int = 100,
    seconds: float = 1.0,
    arrays: Mapping[str, Array] | None = None,
    seed: int = 0,
    name: str = "the model",
) -> Latency:
    """Measures calls of one signature.

    Args:
        content: A .tflite.
        signature: None for the first.
        threads: Of the interpreter.
        batch: Rows a call; a file whose first dimension is fixed is resized for another number, which not every graph bears.
        warmup: Calls that are not counted.
        calls: The least number of calls that are counted.
        seconds: The least time for them.
        arrays: Real values by input, [rows, …], which are repeated or cut to fill the batch; None for random ones.
        seed: Of the random ones.
        name: What to call the file in messages.

    Returns:
        Milliseconds from setting the inputs to having run, without quantizing and without reading the outputs.

    Raises:
        TFLiteFileError: The file is damaged, or the interpreter cannot run it with such a batch.
    """
    from ai_edge_litert.interpreter import Interpreter

    file = TFLiteFile(content, name)
    signatures = read_signatures(file, read_subgraphs(file))
    key = signature or next(iter(signatures))
    chosen = pick(signatures, key, name)
    as_called(chosen, name)  # refuses types that cannot be fed
    stored = {
        info.name: stored_values(info, _filled(arrays[info.name], batch)) if arrays else random_values(info, batch, seed)
        for info in chosen.inputs
    }
    try:
        started = time.perf_counter()
        interpreter = Interpreter(model_content=content, num_threads=threads)
        call = _prepare(interpreter, key, chosen, stored)
        load = time.perf_counter() - started
        for _ in range(warmup):
            call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < calls or time.perf_counter() < end:
            before = time.perf_counter()
            call()
            times.append(time.perf_counter() - before)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        fixed = rows_at_once(chosen)
        hint = f" (the file is made for {fixed})" if fixed not in (None, batch) else ""
        raise TFLiteFileError(f"{name}: ai-edge-litert cannot run it with a batch of {batch}{hint}: {error}") from None
    return _latency(times, key, threads, batch, load)


def _prepare(interpreter: Any, key: str, signature: Signature, stored: Mapping[str, Array]) -> Callable[[], object]:
    """A call as a device's program does it: set the inputs, invoke. Other graphs than the first can only be run by signature."""
    if signature.subgraph != 0:
        return partial(interpreter.get_signature_runner(key), **stored)
    details = _details(interpreter, key, signature)
    for name, array in stored.items():
        if tuple(details[name]["shape"]) != array.shape:
            interpreter.resize_tensor_input(details[name]["index"], array.shape)
    interpreter.allocate_tensors()
    feeds = [(details[name]["index"], array) for name, array in stored.items()]

    def call() -> None:
        for index, array in feeds:
            interpreter.set_tensor(index, array)
        interpreter.invoke()

    return call


def _details(interpreter: Any, key: str, signature: Signature) -> dict[str, Any]:
    """Where the inputs are, by name. A runner must be gone before memory is allocated, so it lives in here only."""
    if signature.stored:
        return dict(interpreter.get_signature_runner(key).get_input_details())
    return {info.name: detail for info, detail in zip(signature.inputs, interpreter.get_input_details(), strict=True)}


def random_values(info: TensorInfo, batch: int, seed: int) -> Array:
    """Values of an input as the model stores them: uniform over what the type, or the quantization, can hold.

    Floats are uniform in [0, 1), strings all alike; open dimensions other than the first are 1.
    """
    shape = tuple(batch if axis == 0 else max(1, size) for axis, size in enumerate(info.shape))
    generator = np.random.default_rng(seed)
    if info.dtype == "string":
        return np.full(shape, b"text", object)
    dtype = np.dtype(info.dtype)
    if real_range(info) is not None:
        limits = np.iinfo(dtype)
        return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    # Integers that are no quantized reals are often indices: 0 and 1 are in most tables.
    return generator.integers(0, 2, shape).astype(dtype) if dtype.kind in "iu" else generator.random(shape).astype(dtype)


def _filled(array: Array, batch: int) -> Array:
    return array.take(np.arange(batch) % len(array), axis=0) if array.ndim else array


def _latency(times: list[float], key: str, threads: int, batch: int, load: float) -> Latency:
    ordered = sorted(times)

    def percentile(share: float) -> float:
        return 1000 * ordered[math.ceil(share * len(ordered)) - 1]

    mean = sum(times) / len(times)
    return Latency(
        signature=key,
        threads=threads,
        batch=batch,
        calls=len(times),
        load_ms=1000 * load,
        p50_ms=percentile(0.50),
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99),
        mean_ms=1000 * mean,
        smallest_ms=1000 * ordered[0],
        largest_ms=1000 * ordered[-1],
        rows_per_second=batch / mean,
    )
