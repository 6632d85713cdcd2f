"""A servable that computes several requests in one run: puts them together along axis 0, and takes the answers apart again.

As TensorFlow Serving's BatchingSession (batching/batching_session.cc): only calls that want all outputs of a signature are
batched, others run at once. One thing is better here: when a batch fails, its requests run one by one, so that an error goes to
the request that has it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.server.batch_scheduler import BatchQueue, BatchScheduler, Task
from serving.server.servable import Arrays, RunsTensors, Servable
from serving.server.status import Code, StatusError, invalid
from serving.server.text_protos import BatchingParameters

Outputs = dict[str, npt.NDArray[Any]]

_NOT_THE_INPUT = {Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE}
"""Errors that trying the requests alone would not tell apart."""


class BatchObserver(Protocol):
    """Is told of each batch, from many threads; must be quick and must not raise."""

    def batched(self, thread_pool: str, sizes: Sequence[int], processed: int, waited: Sequence[float]) -> None:
        """A batch is about to run.

        Args:
            thread_pool: BatchingParameters.thread_pool_name.
            sizes: Rows of each task.
            processed: Rows of the batch, padding included.
            waited: Seconds that each task was in the queue.
        """


class Batching:
    """Wraps a servable; `serving.server.servable.Servable` itself.

    Attributes:
        signatures: The servable's.
        all_signatures: The servable's.
    """

    def __init__(
        self,
        servable: Servable,
        parameters: BatchingParameters,
        scheduler: BatchScheduler,
        observer: BatchObserver | None = None,
    ) -> None:
        """Takes over the servable.

        Args:
            servable: What computes.
            parameters: Of this model; those of threads are the scheduler's affair.
            scheduler: Shared with other models; remains the caller's.
            observer: For metrics.
        """
        self.signatures = servable.signatures
        self.all_signatures = servable.all_signatures
        self._servable = servable
        self._parameters = parameters
        self._scheduler = scheduler
        self._observer = observer
        self._queues: dict[str, BatchQueue] = {}
        self._making = threading.Lock()
        self._running = 0
        self._closed = False
        self._idle = threading.Condition()
        if isinstance(servable, RunsTensors):
            self.run_tensors = servable.run_tensors
            """Across signatures: not batched, as in TensorFlow Serving."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None) -> Outputs:
        """See Servable.run.

        Raises:
            StatusError: As the servable's. INVALID_ARGUMENT: inputs without or with different batch dimension, or too many rows;
                UNAVAILABLE: the queue is full; RESOURCE_EXHAUSTED: the deadline passed while it was in the queue.
        """
        if set(outputs) != set(self.signatures[signature].outputs):
            return self._servable.run(signature, inputs, outputs, deadline)
        size = batch_size(inputs)
        queue = self._queue(signature)
        queue.check(size)
        if size == 0:  # no row that could be repeated as padding
            return self._servable.run(signature, inputs, outputs, deadline)
        pad = self._parameters.pad_variable_length_inputs
        kind = _kind(inputs, pad)
        sizes = queue.pieces(kind, size)
        if pad and len(sizes) > 1:
            # Parts padded to different shapes would have answers that do not go together again.
            kind = _kind(inputs, pad=False)
            sizes = queue.pieces(kind, size)
        parts = [inputs] if len(sizes) == 1 else _cut(inputs, sizes)
        tasks = [Task(part, kind, rows, deadline) for part, rows in zip(parts, sizes, strict=True)]
        queue.submit(tasks)
        results = [task.outputs() for task in tasks]
        if len(results) == 1:
            return results[0]
        return {alias: np.concatenate([result[alias] for result in results]) for alias in outputs}

    def close(self) -> None:
        """See Servable.close. A batch whose callers have all given up may still run; it is waited for."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._running == 0)
        self._servable.close()

    def _queue(self, signature: str) -> BatchQueue:
        queue = self._queues.get(signature)
        if queue is None:
            with self._making:
                queue = self._queues.setdefault(
                    signature,
                    BatchQueue(self._scheduler, self._parameters, lambda tasks: self._process(signature, tasks)),
                )
        return queue

    def _process(self, signature: str, tasks: Sequence[Task]) -> None:
        """Finishes or fails every task."""
        if self._parameters.pad_variable_length_inputs:
            tasks = _without_unpaddable(tasks)
        try:
            results = self._run_together(signature, tasks) if tasks else []
        except Exception as error:
            if len(tasks) > 1 and not (isinstance(error, StatusError) and error.code in _NOT_THE_INPUT):
                for task in tasks:
                    self._process(signature, [task])
            else:
                for task in tasks:
                    task.fail(error)
        else:
            for task, result in zip(tasks, results, strict=True):
                task.finish(result)

    def _run_together(self, signature: str, tasks: Sequence[Task]) -> list[Outputs]:
        sizes = [task.size for task in tasks]
        total = sum(sizes)
        allowed = self._parameters.allowed_batch_sizes
        padded = next((size for size in allowed if size >= total), total)
        if self._observer is not None:
            now = time.monotonic()
            waited = [now - task.queued_at for task in tasks]
            self._observer.batched(self._scheduler.name, sizes, padded, waited)
        deadlines = [task.deadline for task in tasks]
        latest = None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)
        merged = _merge([task.inputs for task in tasks], padded - total, self._parameters.pad_variable_length_inputs)
        with self._idle:
            if self._closed:
                raise StatusError(Code.UNAVAILABLE, "The model was unloaded while the request was waiting to be batched")
            self._running += 1
        try:
            outputs = self._servable.run(signature, merged, list(self.signatures[signature].outputs), latest)
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()
        for array in outputs.values():
            _check_output(array, padded)
        return _cut(outputs, sizes)


def batch_size(inputs: Arrays) -> int:
    """Rows: the size of axis 0, which all inputs have in common.

    Raises:
        StatusError: INVALID_ARGUMENT (batching_util.h, ComputeTensorBatchSize).
    """
    if not inputs:
        raise invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in inputs.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _kind(inputs: Arrays, pad: bool) -> tuple[Any, ...]:
    """What tasks must have in common: of each input the dtype and the shape of a row, or only the rank if it is padded."""
    return tuple((inputs[alias].dtype.num, inputs[alias].ndim if pad else inputs[alias].shape[1:]) for alias in sorted(inputs))


def _without_unpaddable(tasks: Sequence[Task]) -> list[Task]:
    """Fails the tasks with inputs that cannot be padded to the others' shape; returns the rest (batching_util.cc)."""
    widest = {alias: _widest([task.inputs[alias] for task in tasks]) for alias in tasks[0].inputs}
    rest = []
    for task in tasks:
        if any(array.ndim > 6 for array in task.inputs.values()):
            task.fail(invalid("Only tensors with rank from 1 to 6 can be padded."))
        elif any(array.size == 0 and array.shape[1:] != widest[alias] for alias, array in task.inputs.items()):
            task.fail(invalid("Got empty tensor in batch of non-empty tensors."))
        else:
            rest.append(task)
    return rest


def _widest(arrays: Sequence[npt.NDArray[Any]]) -> tuple[int, ...]:
    """The largest size in each dimension but the first."""
    return tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))


def _merge(all_inputs: Sequence[Arrays], padding: int, pad_shapes: bool) -> Outputs:
    """Concatenates each input; `padding` rows more, each the first row of the last task."""
    merged = {}
    for alias in all_inputs[0]:
        arrays = [inputs[alias] for inputs in all_inputs]
        if pad_shapes:
            widest = _widest(arrays)
            arrays = [array if array.shape[1:] == widest else _pad(array, widest) for array in arrays]
        if padding:
            arrays.append(np.repeat(arrays[-1][:1], padding, axis=0))
        merged[alias] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return merged


def _pad(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Makes each row of that shape; the array's first value fills what is new."""
    padded = np.full((len(array), *shape), array.reshape(-1)[0], array.dtype)
    padded[tuple(slice(size) for size in array.shape)] = array
    return padded


def _cut(arrays: Arrays, sizes: Sequence[int]) -> list[Outputs]:
    """Divides arrays along axis 0; what is left at the end is padding."""
    parts, start = [], 0
    for size in sizes:
        parts.append({alias: array[start : start + size] for alias, array in arrays.items()})
        start += size
    return parts


def _check_output(array: npt.NDArray[Any], size: int) -> None:
    if array.ndim == 0:
        raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
    if len(array) != size:
        raise StatusError(
            Code.FAILED_PRECONDITION,
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors",
        )
