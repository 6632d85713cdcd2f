"""The rows of a file through a .tflite, as text: what `tfline tflite run` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from serving.answer_files import columns_json, rows, rows_csv, rows_json
from serving.request_files import InputError
from serving.tflite_call import TFLiteModel
from serving.tflite_file import read_file
from serving.tflite_host import read_rows
from serving.tflite_inputs import Given
from serving.tflite_metadata import TensorInfo, TFLiteMetadata
from serving.tflite_values import Array, clipped, real_range


@dataclass(frozen=True)
class Answer:
    """The text for standard output, and what a person should know, a line each."""

    text: str
    notes: tuple[str, ...]


def answer_file(model: Path, path: Path | None, stdin: BinaryIO, *, signature: str | None, output: str) -> Answer:
    """Answers the rows of a file.

    Args:
        model: A .tflite.
        path: JSON, JSON lines, CSV or .npz with real values; None for standard input.
        stdin: Standard input.
        signature: None for the one that the rows fit; "raw" for raw features, where the transform lies beside the file.
        output: "json" or "csv".

    Returns:
        Real values; an output that the metadata has labels of is followed by `<its name>_label`, the name of the largest.

    Raises:
        InputError: The rows are no inputs of the model.
        TFLiteFileError: The model is damaged, or cannot be run.
    """
    loaded = TFLiteModel(read_file(model), str(model))
    wanted = features_wanted(loaded.metadata)
    try:
        given = read_rows(model, loaded.metadata, loaded.signatures, path, stdin, signature)
        chosen = loaded.signatures[given.signature]
        notes = [_check(info, given.arrays[info.name]) for info in chosen.inputs]
        outputs = _labelled(loaded(given.arrays, given.signature), loaded.metadata)
    except InputError as error:
        # Who has chosen knows.
        raise InputError(f"{error}\n{wanted}" if wanted and not signature else str(error)) from None
    if given.unused:
        notes.append(f"not inputs of {given.transform or given.signature}, left out: {', '.join(given.unused)}")
    notes.append(f"signature {given.signature}")
    if given.transform:
        wanted = f"raw features, through {given.transform} from beside the file (TensorFlow)"
    return Answer(_text(given, outputs, output), tuple(note for note in (*notes, wanted) if note))


def features_wanted(metadata: TFLiteMetadata | None) -> str:
    """Which features a model takes, for its user; empty when it does not say."""
    if metadata is None:
        return ""
    transform = metadata.transform
    if metadata.features == "raw" or transform is None:
        inside = "the transform is inside of the file" if transform else "there is no transform"
        return f"takes raw features: {inside}"
    names = ", ".join(info.name for info in transform.raw_inputs)
    taken = f", which makes them of {names}" if names else ""
    why = f" (not inside of the file: {transform.reason})" if transform.reason else ""
    return f"takes transformed features: {transform.host} from beside the file comes first{taken}{why}"


def label_of(metadata: TFLiteMetadata, values: Array) -> list[str]:
    """The label of each row of the output that the metadata has labels of: [rows, classes], or probabilities [rows] or [rows, 1].

    With two labels for one probability it is the second above 0.5, as the pipeline counts its accuracy.
    """
    if values.ndim > 1 and values.shape[-1] > 1:
        return [metadata.labels[index] for index in values.argmax(axis=1)]
    return [metadata.labels[int(value > 0.5)] for value in values.reshape(-1)]


def _labelled(outputs: Mapping[str, Array], metadata: TFLiteMetadata | None) -> dict[str, Array]:
    labelled = {}
    for name, array in outputs.items():
        labelled[name] = array
        if metadata is not None and name == metadata.labels_of and _has_labels(metadata, array):
            labels = np.empty(len(array), object)
            labels[:] = [label.encode() for label in label_of(metadata, array)]
            labelled[f"{name}_label"] = labels
    return labelled


def _has_labels(metadata: TFLiteMetadata, array: Array) -> bool:
    """Whether there is a label for every value of a row, which of an open dimension only a run can tell."""
    if array.ndim not in (1, 2):
        return False
    width, count = array.shape[1] if array.ndim == 2 else 1, len(metadata.labels)
    return (width, count) == (1, 2) or width == count > 1


def _check(info: TensorInfo, values: Array) -> str:
    """What to say of an input's values; InputError for what no integer stands for."""
    limits = real_range(info)
    if limits is None:
        return ""
    if not np.isfinite(values).all():
        raise InputError(f"{info.name}: expected finite numbers for a quantized input, got NaN or infinity")
    count = clipped(info, values)
    if not count:
        return ""
    said = f"from {limits[0]:.6g} to {limits[1]:.6g}"
    return f"{info.name}: {count} of {values.size} values are outside of what its {info.dtype} can hold, {said}: clipped"


def _text(given: Given, outputs: dict[str, Array], output: str) -> str:
    counts = {len(array) if array.ndim else None for array in outputs.values()}
    if output == "csv":
        if len(counts) != 1 or None in counts:
            raise InputError("the outputs are no table: they have different numbers of rows; take --output json")
        return rows_csv(outputs)
    if given.form == "columns" or len(counts) != 1 or None in counts:
        return columns_json(outputs).decode() + "\n"
    return (b"\n".join(rows(outputs)) if given.form == "lines" else rows_json(outputs)).decode() + "\n"
