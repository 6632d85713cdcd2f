"""What a SavedModel answers to golden examples, and how far that is from what the in-memory model answered."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from components import saved_model_checks as checks
from components.errors import TflineError
from components.saved_model_checks import SignatureConfig, SignatureFound, TensorConfig, TensorFound

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Ask = Callable[[dict[str, Array]], Mapping[str, Array]]
    """Asks a signature: arrays by input name to arrays by output name; raises Unanswered when it does not answer."""


class Tolerance(BaseModel):
    """How far a number may be from the in-memory model's: |received - expected| <= absolute + relative x |expected|.

    The defaults are 170 and 1700 roundings of a float32 (2^-24, about 6e-8): the same weights differ by a few tens of them when
    another batch size or a fused kernel adds in another order. Integers, booleans and strings have to be equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    absolute: float = Field(default=1e-5, ge=0, allow_inf_nan=False)
    relative: float = Field(default=1e-4, ge=0, allow_inf_nan=False)


UNRESTORED = (
    "A server restores variables by their names in the graph, which tf.saved_model.save does not write for a Keras 3 model; "
    "save it with model.export() or keras.export.ExportArchive"
)
"""Found with TensorFlow 2.21 and Keras 3: tf.saved_model.load restores such a model, TF Serving's way of loading does not."""


class Unanswered(Exception):
    """A signature could not be run, or did not answer; the message says why."""


@dataclass(frozen=True)
class Golden:
    """Held-out examples and the in-memory model's answers.

    Attributes:
        examples: Object array [n] of serialized tf.Example (bytes).
        inputs: Raw input name to an array [n, ...].
        outputs: Output name, or "<signature>/<output>", to an array [n, ...].
    """

    examples: Array
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def answers_of(self, signature: str) -> dict[str, Array]:
        """What a signature has to answer, by output name."""
        own = {name.partition("/")[2]: array for name, array in self.outputs.items() if name.startswith(f"{signature}/")}
        return self.outputs | own


def read_golden(folder: Path) -> Golden:
    """Reads examples.tfrecord, inputs.npz and outputs.npz; TflineError when they cannot be read or do not go together."""
    import numpy as np
    import tensorflow as tf

    path = folder / "examples.tfrecord"
    try:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise TflineError(f"{path} is no uncompressed file of TFRecords: {checks.first_line(error)}") from error
    examples = np.empty(len(records), dtype=object)
    examples[:] = records
    golden = Golden(examples, _read_arrays(folder / "inputs.npz"), _read_arrays(folder / "outputs.npz"))
    if not records or not golden.outputs:
        raise TflineError(f"{folder}: expected golden examples and outputs, received {len(records)} and {len(golden.outputs)}")
    for name, array in (*golden.inputs.items(), *golden.outputs.items()):
        if array.shape[:1] != examples.shape:
            raise TflineError(
                f"{folder}: expected {len(records)} rows, one an example, in {name!r}; its shape is {list(array.shape)}"
            )
    return golden


def _read_arrays(path: Path) -> dict[str, Array]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise TflineError(f"{path} is no .npz file of plain arrays: {checks.first_line(error)}") from error


class Exercise:
    """One signature with what is fed to it; Unanswered when the golden examples have nothing that fits.

    Inputs that are all in inputs.npz get those arrays; otherwise a single vector of strings gets the serialized examples.

    Attributes:
        feeds: What all golden examples together are, by input name.
        size: The batch size that is built into the signature; None when it takes any.
        outputs: Names.
    """

    def __init__(self, name: str, declared: SignatureConfig | SignatureFound, golden: Golden, ask: Ask) -> None:
        self.name, self.golden, self._ask = name, golden, ask
        inputs: Mapping[str, TensorConfig | TensorFound] = declared.inputs
        missing = sorted(inputs.keys() - golden.inputs.keys())
        if not missing:
            self.feeds = {key: golden.inputs[key] for key in inputs}
        elif [(each.dtype, len(each.shape or ())) for each in inputs.values()] == [("string", 1)]:
            self.feeds = dict.fromkeys(inputs, golden.examples)
        else:
            raise Unanswered(f"inputs.npz has no {missing}, only {sorted(golden.inputs)}")
        for key, tensor in inputs.items():
            if (kind := _dtype(self.feeds[key])) != tensor.dtype:
                raise Unanswered(f"it takes {key!r} as {tensor.dtype}, inputs.npz has {kind}")
            if tensor.dtype == "string":
                self.feeds[key] = _bytes(self.feeds[key])
        self.outputs = sorted(declared.outputs)
        self.batched = [key for key, tensor in declared.outputs.items() if tensor.shape and tensor.shape[0] is None]
        sizes = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs.values()}
        self.size = sizes.pop() if len(sizes) == 1 else 0
        if self.size == 0 or len(golden.examples) < (self.size or 1):
            raise Unanswered(
                f"{len(golden.examples)} golden examples make no batch for inputs of "
                f"{[list(t.shape or ()) for t in inputs.values()]}"
            )

    def compare(self, tolerance: Tolerance) -> tuple[list[str], dict[str, float]]:
        """Compares the answers with the golden ones: all at once and one alone, or in whole batches of a built-in size.

        Returns:
            Problems, and output name to the largest absolute difference.
        """
        count, outputs = len(self.golden.examples), self.golden.answers_of(self.name)
        known = [key for key in self.outputs if key in outputs]
        problems = [
            f"{self.name}: output {key!r} was not compared, outputs.npz has only {sorted(outputs)}"
            for key in self.outputs
            if key not in outputs
        ]
        step = self.size
        batches = [slice(at, at + step) for at in range(0, count - step + 1, step)] if step else [slice(count), slice(1)]
        largest: dict[str, float] = {}
        for rows in batches:
            try:
                received = self.answer(rows)
            except Unanswered as error:
                problems.append(f"{self.name}: no answer to a batch of {rows.stop - (rows.start or 0)}: {error}")
                continue
            for key in known:
                problem, difference = compare(outputs[key][rows], received[key], tolerance)
                problems += [f"{self.name}/{key}, batch of {rows.stop - (rows.start or 0)}: {problem}"] if problem else []
                largest[key] = max(difference, largest.get(key, 0.0))
        return problems, largest

    def try_empty(self) -> tuple[bool, str]:
        """Feeds a batch of no examples: whether that went well, and what came. An error is an answer, rows are not."""
        if self.size:
            return True, f"{self.name} takes batches of {self.size} only"
        try:
            received = self.answer(slice(0))
        except Unanswered as error:
            return True, f"{self.name} answers with an error: {error}"
        rows = {key: len(received[key]) for key in self.batched}
        return not any(rows.values()), f"{self.name} answers {max(rows.values(), default=0)} rows"

    def answer(self, rows: slice) -> Mapping[str, Array]:
        """What the signature answers to these golden examples, by output name; Unanswered when it fails."""
        return self._ask({key: array[rows] for key, array in self.feeds.items()})


def in_session(signature: Any, session: Any) -> Ask:
    """Asks a SignatureDef in the tf.compat.v1.Session that its graph was loaded into."""

    def ask(feeds: dict[str, Array]) -> dict[str, Array]:
        import tensorflow as tf

        fetches = {key: info.name for key, info in signature.outputs.items()}
        try:
            return dict(session.run(fetches, {signature.inputs[key].name: array for key, array in feeds.items()}))
        except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
            told = checks.first_line(error)
            if "Could not find variable" in told:
                told += ". " + UNRESTORED
            raise Unanswered(told) from error

    return ask


def compare(expected: Array, received: Array, tolerance: Tolerance) -> tuple[str, float]:
    """Compares two arrays of one output.

    Returns:
        What is wrong with `received`, "" for nothing; and the largest absolute difference where both are finite numbers.
    """
    import numpy as np

    if expected.shape != received.shape:
        return f"expected shape {list(expected.shape)}, received {list(received.shape)}", 0.0
    if _dtype(expected) == "string" or _dtype(received) == "string":
        wrong = _bytes(expected) != _bytes(received)
        return _worst(expected, received, wrong, wrong.astype(float), "differ"), 0.0
    inexact = not (np.issubdtype(expected.dtype, np.integer) or expected.dtype == bool)
    ours, theirs = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (expected, received))
    finite = np.isfinite(ours) & np.isfinite(theirs)
    distance = np.abs(np.subtract(ours, theirs, out=np.zeros(ours.shape, np.result_type(ours, theirs)), where=finite))
    largest = float(distance.max(initial=0.0))
    if (new := np.isfinite(ours) & ~np.isfinite(theirs)).any():
        return _worst(expected, received, new, new.astype(float), "are NaN or Inf"), largest
    if inexact:
        wrong = ~np.isclose(theirs, ours, rtol=tolerance.relative, atol=tolerance.absolute, equal_nan=True)
        limit = f"differ by more than {tolerance.absolute:g} + {tolerance.relative:g} x |expected|, the largest by {largest:.3g}"
    else:
        wrong, limit = expected != received, "differ, where they have to be equal"
    return _worst(expected, received, wrong, distance, limit), largest


def _worst(expected: Array, received: Array, wrong: Array, distance: Array, what: str) -> str:
    """Says how many values are wrong and shows the wrong one that is farthest off; "" when none is."""
    import numpy as np

    if not wrong.any():
        return ""
    at = np.unravel_index(int(np.argmax(np.where(wrong, distance, -1.0))), wrong.shape)
    place = [int(index) for index in at]
    return f"{int(wrong.sum())} of {wrong.size} values {what}; at {place} expected {expected[at]}, received {received[at]}"


def _dtype(array: Array) -> str:
    """TensorFlow's name of an array's dtype."""
    return "string" if array.dtype.kind in "SUO" else array.dtype.name


def _bytes(array: Array) -> Array:
    """An array of strings or bytes as the object array of bytes that TensorFlow feeds and fetches."""
    import numpy as np

    return np.char.encode(array, "utf-8").astype(object) if array.dtype.kind == "U" else array.astype(object)
