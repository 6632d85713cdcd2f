"""Canary requests for the servers of a fleet: golden examples, and the answers that the in-memory model gave to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from components.errors import TflineError
from components.layout import SERVING_DIR
from components.saved_model_answers import Exercise, Unanswered, read_golden
from components.saved_model_checks import SignatureFound, TensorFound
from serving.fleet_instances import Canary
from serving.saved_model import describe


def canaries(model: Path, golden: Path, examples: int) -> list[Canary]:
    """One request for every signature that the golden examples can feed.

    Args:
        model: Model artifact.
        golden: GoldenExamples artifact.
        examples: How many of them a request has, as far as there are so many; 0 gives no requests. A signature with a batch size
            built in gets one batch.

    Raises:
        TflineError: No signature can be fed, so nothing could be proved.
    """
    if not examples:
        return []
    found, read, left_out = [], read_golden(golden), []
    for name, signature in describe(model / SERVING_DIR).signatures.items():
        declared = SignatureFound(inputs=_tensors(signature.inputs), outputs=_tensors(signature.outputs))
        try:
            exercise = Exercise(name, declared, read, _unasked)
        except Unanswered as error:
            left_out.append(f"{name}: {error}")
            continue
        answers, rows = read.answers_of(name), slice(exercise.size or examples)
        expected = {key: answers[key][rows] for key in exercise.outputs if key in answers}
        if expected:
            found.append(Canary(name, {key: array[rows] for key, array in exercise.feeds.items()}, expected))
    if not found:
        raise TflineError(f"push.fleet.canary: the golden examples feed no signature of the model: {'; '.join(left_out)}")
    return found


def _tensors(declared: Any) -> dict[str, TensorFound]:
    return {key: TensorFound(dtype=tensor.dtype, shape=tensor.shape) for key, tensor in declared.items()}


def _unasked(_: Any) -> NoReturn:
    raise AssertionError("it is the fleet that asks")
