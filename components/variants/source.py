"""What all variants of a model are made from and compared with, and whether its transform is inside of them.

The transform goes into the .tflite where TFLite can hold it, which is found out by converting it alone: what the ops of a graph
are does not tell, as the converter rewrites some of them. Where not, the model is taken apart, and its transform goes beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import TflineError
from components.isolate import IsolatedError, ProcessCrashed, run_isolated
from components.layout import HOST_DIR, SERVING_DIR
from components.model import UserModel
from components.variants.config import Config
from components.variants.metadata import Apart
from components.variants.preparation import Prepared
from serving.manifest import tree_digest

PREPARE = "components.variants.preparation:prepare"
WHY_NOT_INSIDE = "components.variants.host_transform:why_not_inside"
TAKE_APART = "components.variants.host_transform:take_apart"

_NEEDED = ("model_run", "transform_graph")
"""Inputs by which a model is put together again, without its transform."""


class Source(NamedTuple):
    """What the variants have in common; `apart` is None for a model whose transform is inside."""

    prepared: Prepared
    apart: Apart | None = None


def prepare(inputs: Mapping[str, Path], folder: Path, config: Config, user_model: UserModel | None) -> Source:
    """Decides where the transform goes, reads the examples, and runs the float model over the eval split.

    Args:
        inputs: The optimize stage's.
        folder: Where `preparation.prepare` writes, and, of a model taken apart, `host_transform.take_apart`.
        config: The stage's.
        user_model: To build the model again without its transform.

    Raises:
        TflineError: The model or the examples cannot be read, or the model cannot be taken apart.
    """
    reason = _reason(inputs, config, user_model)
    if reason and user_model is not None:
        arguments = {
            "user_model": user_model.model_dump(),
            **{key: str(inputs[key]) for key in _NEEDED},
            "label": config.label,
            "signature": config.signature,
            "folder": str(folder),
        }
        isolated(TAKE_APART, arguments, config.timeout_seconds, f"taking the model and its transform apart ({reason}) failed")
    prepared = _prepared(inputs, folder, config, apart=bool(reason))
    if not reason:
        return Source(prepared)
    return Source(prepared, Apart(reason=reason, raw_inputs=prepared.raw_inputs, digest=tree_digest(folder / HOST_DIR)))


def isolated(function: str, arguments: dict[str, Any], timeout_seconds: float, failed: str) -> Any:
    """Calls a function in a process of its own.

    Raises:
        TflineError: It failed; what it was for, and why.
    """
    try:
        return run_isolated(function, arguments, timeout_seconds=timeout_seconds, fork=True)
    except IsolatedError as error:
        raise TflineError(f"{failed}: {error}") from error


def batch_of(config: Config) -> int | None:
    """Examples a call of the .tflite; None leaves it open."""
    return 1 if config.batch == "one" else None


def _reason(inputs: Mapping[str, Path], config: Config, user_model: UserModel | None) -> str:
    """Why the transform is not inside of the .tflite; "" when it is."""
    missing = [key for key in _NEEDED if key not in inputs]
    if config.features == "raw" or (config.features == "auto" and (missing or user_model is None)):
        return ""
    if missing or user_model is None:
        raise TflineError(
            f"optimize.features is transformed, but there is no {' and no '.join(missing) or 'model code'} to take apart; "
            "expected raw or auto for a model that trains itself"
        )
    if config.features == "transformed":
        return "optimize.features is transformed"
    arguments = {
        "user_model": user_model.model_dump(),
        "transform_graph": str(inputs["transform_graph"]),
        "label": config.label,
        "examples": str(inputs["examples"]),
        "split": config.eval_split,
        "batch": batch_of(config),
    }
    try:
        return str(run_isolated(WHY_NOT_INSIDE, arguments, timeout_seconds=config.timeout_seconds, fork=True))
    except ProcessCrashed as error:
        # A crash of the converter is an answer; a time limit or a lack of memory is not: the next run may have another one.
        return f"converting it fails: {error}"
    except IsolatedError as error:
        raise TflineError(f"finding out whether TFLite can hold the transform failed: {error}") from error


def _prepared(inputs: Mapping[str, Path], folder: Path, config: Config, *, apart: bool) -> Prepared:
    asked = {
        "signature", "output", "label", "train_split", "eval_split", "representative_examples", "seed", "batch_size",
    }  # fmt: skip
    # Each slicing once, those that only a gate is on included.
    slices = dict.fromkeys(tuple(sorted(each)) for each in (*config.slices, *(tuple(gate.slice) for gate in config.gates.slices)))
    arguments: dict[str, Any] = config.model_dump(include=asked) | {
        "saved_model_dir": str(inputs["model"] / SERVING_DIR),
        "examples_dir": str(inputs["examples"]),
        "slices": list(slices),
        "batch": batch_of(config),
        "apart": apart,
        "folder": str(folder),
    }
    what = "reading the examples and running the float model failed"
    return Prepared.model_validate(isolated(PREPARE, arguments, config.timeout_seconds, what))
