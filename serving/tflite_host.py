"""The transform that lies beside a .tflite of transformed features: a SavedModel, for what TFLite has no ops for.

    rows of raw features ── transform (TensorFlow, on the host) ── transformed features ── model.tflite ── answers

A folder `host_transform` beside the .tflite, named in its metadata, holds the SavedModel, whose function `transform` (also a
signature) takes and gives a dict of tensors by feature, and examples.json, by which a port to another language can be tested.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from serving.client.values import Signature as Called
from serving.client.values import Tensor
from serving.manifest import tree_digest
from serving.request_files import InputError
from serving.tflite_file import TFLiteFileError
from serving.tflite_graph import Signature
from serving.tflite_inputs import Given, read_inputs
from serving.tflite_metadata import TensorInfo, TFLiteMetadata, Transform
from serving.tflite_values import Array, as_called

SIGNATURE = "transform"
"""Of the SavedModel: each raw feature, batch first, one of no fixed length padded at the end of its rows, to transformed ones."""

EXAMPLES_FILE = "examples.json"

RAW = "raw"
"""What rows of raw features are called where a signature is chosen."""

_PADDING: Mapping[str, float | int | str] = {"f": math.nan, "i": int(np.iinfo(np.int64).min), "O": ""}
"""By the kind of dtype, as the signature `dense` of the SavedModel has it."""


class HostTransform:
    """The transform, loaded with TensorFlow.

    Attributes:
        specs: A TensorSpec for each raw feature, by name.
    """

    def __init__(self, folder: Path) -> None:
        """Loads it.

        Raises:
            TFLiteFileError: It is no SavedModel with the function `transform`.
        """
        import tensorflow as tf

        try:
            # Its tables and variables live as long as this object does.
            self._loaded = tf.saved_model.load(str(folder))
            # Not the signature: that takes keywords, which lose what is no Python name ("a-b").
            self._function = self._loaded.transform
            (specs,), _ = self._function.concrete_functions[0].structured_input_signature
        except (OSError, ValueError, AttributeError, IndexError, RuntimeError, tf.errors.OpError) as error:
            raise TFLiteFileError(f"{folder}: no transform that TensorFlow can load: {_line(error)}") from None
        self.specs: dict[str, Any] = dict(sorted(specs.items()))

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Array]:
        """Raw features as arrays [rows, …], in the dtypes of `specs`, to transformed ones.

        Raises:
            InputError: The transform fails on them.
        """
        import tensorflow as tf

        try:
            given = {name: tf.constant(raw[name], spec.dtype) for name, spec in self.specs.items()}
            return {name: value.numpy() for name, value in self._function(given).items()}
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise InputError(f"the transform fails on these rows: {_line(error)}") from None

    @property
    def raw_inputs(self) -> tuple[TensorInfo, ...]:
        """What it takes, for the metadata."""
        return tuple(
            TensorInfo(name=name, dtype=spec.dtype.name, shape=tuple(-1 if size is None else size for size in spec.shape))
            for name, spec in self.specs.items()
        )


def read_rows(
    model: Path,
    metadata: TFLiteMetadata | None,
    signatures: Mapping[str, Signature],
    path: Path | None,
    stdin: BinaryIO,
    wanted: str | None,
) -> Given:
    """Reads rows for a .tflite, through the transform beside it where they are rows of raw features.

    In those a value may be missing: null, an empty cell of a CSV file, or, of no fixed length, a row shorter than others.

    Args:
        model: The file; its transform lies in the same folder.
        metadata: What it says about itself.
        signatures: Its own.
        path: As `tflite_inputs.read_inputs` takes it.
        stdin: Standard input.
        wanted: A signature, or `RAW`; None for what the rows fit.

    Raises:
        InputError: They are no inputs of the model, or the transform fails on them.
        TFLiteFileError: They are of raw features, and what lies beside the file is not its transform.
    """
    called = {key: as_called(each, str(model)) for key, each in signatures.items()}
    transform = metadata.transform if metadata else None
    if metadata is None or transform is None or transform.host is None or RAW in called:
        return read_inputs(path, stdin, called, wanted)
    given = read_inputs(path, stdin, {**called, RAW: _raw(transform, model)}, wanted)
    if given.signature != RAW:
        return given
    beside = model.parent / transform.host
    _check(beside, transform, model)
    arrays = HostTransform(beside)(given.arrays)
    inputs = signatures[metadata.signature].inputs
    return Given(given.form, metadata.signature, {info.name: arrays[info.name] for info in inputs}, given.unused, beside.name)


def _raw(transform: Transform, model: Path) -> Called:
    called = as_called(Signature(inputs=transform.raw_inputs, outputs=(), subgraph=0), str(model))
    return dataclasses.replace(called, inputs={name: _may_miss(tensor) for name, tensor in called.inputs.items()})


def _may_miss(tensor: Tensor) -> Tensor:
    """With the padding, where there may be values missing: in those of no fixed length, and NaN in any of floats."""
    loose = tensor.shape is not None and None in tensor.shape[1:]
    kind = tensor.dtype.kind
    return dataclasses.replace(tensor, padding=_PADDING.get(kind)) if loose or kind == "f" else tensor


def _check(beside: Path, transform: Transform, model: Path) -> None:
    if not beside.is_dir():
        raise TFLiteFileError(
            f"rows of raw features go through the transform first: expected it in {beside}, got no such folder; copy it "
            f"from where {model.name} came from"
        )
    found = tree_digest(beside)
    if found != transform.host_digest:
        raise TFLiteFileError(
            f"{beside}: not the transform that {model} was made with: expected SHA-256 "
            f"{transform.host_digest or 'in the metadata'}, got {found}; take both from the same version"
        )


def _line(error: Exception) -> str:
    """TensorFlow's messages go on with a page of the graph."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
