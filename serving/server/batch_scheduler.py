"""Queues of requests that wait to be computed together, and the threads that do it.

As TensorFlow's SharedBatchScheduler (core/kernels/batching_util/shared_batch_scheduler.h): a fixed number of threads serves the
queues of all models in turn; a batch is due when it is full or its first task has waited long enough.

    put: open batch ──full──> closed ──┐
           └──────batch_timeout────────┴──> take ──> process, in a thread of the scheduler or of a caller

Two differences. A queue has an open batch for each kind of task (shapes that can be concatenated), where TensorFlow Serving fails
all requests of a batch with mixed shapes. And with no timeout, when a thread is free and nothing waits, a task is processed in
its caller's thread, within the number of threads all the same: handing it over would cost more than a small model's run.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy.typing as npt

from serving.server.servable import Arrays
from serving.server.status import Code, StatusError, invalid
from serving.server.text_protos import BatchingParameters

IN_QUEUE = "Run() timeout exceeded while waiting in batching queue"
_FULL = "The batch scheduling queue to which this task was submitted is full; "


class Task:
    """A request, or a part of one, that waits for its outputs.

    Attributes:
        inputs: What to compute.
        kind: Tasks of the same kind can be concatenated.
        size: Rows.
        deadline: time.monotonic() value, or None.
        queued_at: time.monotonic() when it was made.
        started: Whether a thread has taken it.
    """

    def __init__(self, inputs: Arrays, kind: Hashable, size: int, deadline: float | None) -> None:
        """See the attributes."""
        self.inputs = inputs
        self.kind = kind
        self.size = size
        self.deadline = deadline
        self.queued_at = time.monotonic()
        self.started = False
        self._outputs: dict[str, npt.NDArray[Any]] = {}
        self._error: Exception | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def finish(self, outputs: dict[str, npt.NDArray[Any]]) -> None:
        """Hands over the outputs."""
        self._outputs = outputs
        self._done.release()

    def fail(self, error: Exception) -> None:
        """Hands over an error."""
        self._error = error
        self._done.release()

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Waits until the deadline.

        Raises:
            StatusError: RESOURCE_EXHAUSTED: it was still in the queue then (batching_session.cc); DEADLINE_EXCEEDED: it was not.
            Exception: With which it failed.
        """
        timeout = -1 if self.deadline is None else max(0, self.deadline - time.monotonic())
        if not self._done.acquire(timeout=timeout):
            raise timed_out(self)
        if self._error is not None:
            raise self._error
        return self._outputs


def timed_out(task: Task) -> StatusError:
    """What a task's caller is told when its deadline has passed."""
    if task.started:
        return StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    return StatusError(Code.RESOURCE_EXHAUSTED, IN_QUEUE)


class _Batch:
    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.tasks: list[Task] = []
        self.size = 0
        self.closed = False
        self.opened_at = time.monotonic()

    def add(self, task: Task, most: int) -> None:
        self.tasks.append(task)
        self.size += task.size
        self.closed = self.size >= most


class BatchScheduler:
    """Threads that process batches from queues, one batch a queue in turn. For all models of a server."""

    def __init__(self, threads: int, name: str = "batch_threads") -> None:
        """Starts the threads.

        Args:
            threads: How many batches are processed at a time.
            name: Begins the threads' names.
        """
        self.changed = threading.Condition()
        """Guards the scheduler and all its queues."""
        self.name = name
        self._active: dict[BatchQueue, None] = {}
        self._free = threads
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{number}", daemon=True) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads when all queues are empty."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def activate(self, queue: BatchQueue) -> None:
        """Takes note that a queue has a batch; the caller holds `changed`."""
        self._active.setdefault(queue)
        self.changed.notify()

    def enter(self, queue: BatchQueue) -> bool:
        """Whether the caller may process a task of its own now; then it must call `leave`."""
        with self.changed:
            if self._free < 1 or self._closed or queue in self._active:
                return False
            self._free -= 1
            return True

    def leave(self) -> None:
        """The caller has processed what it `enter`ed for."""
        with self.changed:
            self._free += 1
            if self._active:
                self.changed.notify()

    def _work(self) -> None:
        while (found := self._take()) is not None:
            queue, tasks = found
            try:
                queue.process(tasks)
            finally:
                self.leave()

    def _take(self) -> tuple[BatchQueue, list[Task]] | None:
        """Waits for a batch that is due; None when there will be none any more."""
        with self.changed:
            while True:
                now, due = time.monotonic(), math.inf
                for queue in self._active if self._free > 0 else ():
                    when = queue.due()
                    if when <= now or self._closed:
                        self._free -= 1
                        # Out and in again: the other queues come first now.
                        del self._active[queue]
                        tasks = queue.take(when)
                        if queue.waiting:
                            self._active[queue] = None
                            self.changed.notify()
                        return queue, tasks
                    due = min(due, when)
                if self._closed and not self._active:
                    self.changed.notify_all()
                    return None
                self.changed.wait(None if due == math.inf else due - now)


class BatchQueue:
    """The tasks of one signature of one version."""

    def __init__(
        self, scheduler: BatchScheduler, parameters: BatchingParameters, process: Callable[[Sequence[Task]], None]
    ) -> None:
        """Args: `process` computes tasks of one kind and finishes or fails each of them; it does not raise."""
        self._scheduler = scheduler
        self._parameters = parameters
        self._process = process
        self._timeout = parameters.batch_timeout_micros / 1e6
        # Zero waiting batches could hold no task at all; SharedBatchScheduler::AddQueue makes it one, too.
        self._most_batches = max(1, parameters.max_enqueued_batches)
        self._most = parameters.max_execution_batch_size
        self.waiting: deque[_Batch] = deque()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queues the tasks, or processes the only one here and now; returns when they are on their way or done.

        Raises:
            StatusError: UNAVAILABLE: the queue is full; nothing was queued.
        """
        if len(tasks) == 1 and not self._timeout and self._scheduler.enter(self):
            try:
                self.process(tasks)
            finally:
                self._scheduler.leave()
            return
        with self._scheduler.changed:
            for task in tasks:
                self._put(task)

    def check(self, size: int) -> None:
        """Refuses a request that is too large.

        Raises:
            StatusError: INVALID_ARGUMENT.
        """
        if size > self._parameters.max_batch_size:
            most = self._parameters.max_batch_size
            raise invalid(f"Task size {size} is larger than maximum input batch size {most}")

    def pieces(self, kind: Hashable, size: int) -> list[int]:
        """The sizes of the tasks that a request becomes, the first of which fills the open batch.

        Raises:
            StatusError: UNAVAILABLE: they would not all fit into the queue.
        """
        if not self._parameters.enable_large_batch_splitting:
            return [size]
        with self._scheduler.changed:
            batch, count = self._open(kind), len(self.waiting)
            room = self._most - batch.size if batch else 0
            capacity = max(0, self._most_batches - count) * self._most + room
        if size > capacity:
            raise StatusError(
                Code.UNAVAILABLE,
                f"{_FULL}task size is {size} but scheduling capacity is only {capacity} (num_enqueued_batches={count}, "
                f"max_enqueued_batches={self._most_batches}, open_batch_size={batch.size if batch else 0}, "
                f"max_execution_batch_size={self._most})",
            )
        first = min(size, room or self._most)
        sizes = [first] + [self._most] * ((size - first) // self._most)
        rest = (size - first) % self._most
        return [*sizes, rest] if rest else sizes

    def _open(self, kind: Hashable) -> _Batch | None:
        """The batch to which a task of a kind may be added."""
        last = next((batch for batch in reversed(self.waiting) if batch.kind == kind), None)
        return None if last is None or last.closed else last

    def _put(self, task: Task) -> None:
        batch = self._open(task.kind)
        if batch is not None and batch.size + task.size <= self._most:
            batch.add(task, self._most)
            if batch.closed:
                self._scheduler.activate(self)
            return
        if len(self.waiting) >= self._most_batches and not self._parameters.enable_large_batch_splitting:
            raise StatusError(
                Code.UNAVAILABLE,
                f"{_FULL}currently {len(self.waiting)} batches enqueued and max_enqueued_batches is {self._most_batches}",
            )
        if batch is not None:
            batch.closed = True
        self.waiting.append(_Batch(task.kind))
        self.waiting[-1].add(task, self._most)
        self._scheduler.activate(self)

    def due(self) -> float:
        """When the next batch may be taken, as time.monotonic()."""
        return min(0.0 if batch.closed else batch.opened_at + self._timeout for batch in self.waiting)

    def take(self, when: float) -> list[Task]:
        """Removes the batch that was due then."""
        index = next(
            index
            for index, batch in enumerate(self.waiting)
            if (0.0 if batch.closed else batch.opened_at + self._timeout) == when
        )
        batch = self.waiting[index]
        del self.waiting[index]
        return batch.tasks

    def process(self, tasks: Sequence[Task]) -> None:
        """Processes tasks of one kind, without those whose time has run out meanwhile."""
        now, current = time.monotonic(), []
        for task in tasks:
            if task.deadline is not None and task.deadline <= now:
                task.fail(timed_out(task))
            else:
                task.started = True
                current.append(task)
        if current:
            self._process(current)
