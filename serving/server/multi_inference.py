"""MultiInference: several Classify and Regress tasks on the same Examples, in one run of one model.

After tensorflow_serving/servables/tensorflow/multi_inference.cc. Only the server's process imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from serving.server.inference import INPUT, METHODS, Method
from serving.server.lifecycle import Loaded
from serving.server.predict_checks import DEFAULT_SIGNATURE, check_dtypes
from serving.server.servable import RunsTensors, Signature
from serving.server.status import Code, StatusError, invalid


@dataclass(frozen=True)
class Task:
    """One of a request's: a signature, by its key, called by a method that reads these of its outputs."""

    key: str
    method: Method
    signature: Signature
    outputs: list[str]


def checked_tasks(request: Any, loaded: Loaded, check_method: bool) -> list[Task]:
    """The tasks of a MultiInferenceRequest.

    Raises:
        StatusError: INVALID_ARGUMENT for tasks of several models, a signature asked twice or unknown, or signatures that do
            not read the same tensor; UNIMPLEMENTED for a method other than Classify and Regress.
    """
    tasks: list[Task] = []
    for task in request.tasks:
        key = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if any(key == other.key for other in tasks):
            raise invalid(f"Duplicate evaluation of signature: {key}")
        signature = loaded.servable.signatures.get(key)
        if signature is None:
            raise invalid(f"Requested signature not found in model graph: {key}")
        method = METHODS.get(task.method_name)
        if method is None:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        tasks.append(Task(key, method, signature, method.outputs(signature, check_method)))
        if _feed(tasks[0]) != _feed(tasks[-1]):
            raise invalid("Input tensor must be the same for all Signatures.")
    return tasks


def run_tasks(
    loaded: Loaded, tasks: Sequence[Task], examples: npt.NDArray[Any], deadline: float | None
) -> list[dict[str, npt.NDArray[Any]]]:
    """Each task's outputs by alias, from one run.

    A servable that cannot run across signatures (one that batches, TFLite) runs each task's signature instead.
    """
    servable = loaded.servable
    check_dtypes(tasks[0].signature, {INPUT: examples})
    if not isinstance(servable, RunsTensors):
        return [servable.run(task.key, {INPUT: examples}, task.outputs, deadline) for task in tasks]
    fetches = sorted({task.signature.outputs[alias].feed for task in tasks for alias in task.outputs})
    arrays = servable.run_tensors({_feed(tasks[0]): examples}, fetches, deadline)
    return [{alias: arrays[task.signature.outputs[alias].feed] for alias in task.outputs} for task in tasks]


def _feed(task: Task) -> str:
    return task.signature.inputs[INPUT].feed
