"""The transform that lies beside a .tflite of transformed features: a SavedModel, for what TFLite has no ops for.

    rows of raw features ── transform (TensorFlow, on the host) ── transformed features ── model.tflite ── answers

A folder `host_transform` beside the .tflite, named in its metadata, holds the SavedModel with one signature, `transform`, and
examples.json, by which a port of it to another language can be tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from serving.client.values import Signature as Called
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
"""What rows of raw features are called where a signature is chosen; a model's own signature of that name goes before."""


class HostTransform:
    """The transform, loaded with TensorFlow.

    Attributes:
        specs: A TensorSpec for each raw feature, by name.
    """

    def __init__(self, folder: Path) -> None:
        """Loads it.

        Raises:
            TFLiteFileError: It is no SavedModel with the signature `transform`.
        """
        import tensorflow as tf

        try:
            # Its tables and variables live as long as this object does.
            self._loaded = tf.saved_model.load(str(folder))
            self._function = self._loaded.signatures[SIGNATURE]
        except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
            raise TFLiteFileError(f"{folder}: no transform that TensorFlow can load: {_line(error)}") from None
        self.specs: dict[str, Any] = dict(sorted(self._function.structured_input_signature[1].items()))

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Array]:
        """Raw features as arrays [rows, …], in the dtypes of `specs`, to transformed ones.

        Raises:
            InputError: The transform fails on them.
        """
        import tensorflow as tf

        try:
            given = {name: tf.constant(raw[name], spec.dtype) for name, spec in self.specs.items()}
            return {name: value.numpy() for name, value in self._function(**given).items()}
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

    Args:
        model: The file; its transform lies in the same folder.
        metadata: What it says about itself.
        signatures: Its own.
        path: As `tflite_inputs.read_inputs` takes it.
        stdin: Standard input.
        wanted: A signature, or `RAW`; None for what the rows fit.

    Raises:
        InputError: They are no inputs of the model, or the transform fails on them.
        TFLiteFileError: What lies beside the file is not its transform.
    """
    called = {key: as_called(each, str(model)) for key, each in signatures.items()}
    transform = metadata.transform if metadata else None
    beside = model.parent / transform.host if transform and transform.host else None
    if metadata is None or transform is None or beside is None or not beside.is_dir() or RAW in called:
        return read_inputs(path, stdin, called, wanted)
    given = read_inputs(path, stdin, {**called, RAW: _raw(transform, model)}, wanted)
    if given.signature != RAW:
        return given
    if transform.host_digest is not None and tree_digest(beside) != transform.host_digest:
        raise TFLiteFileError(
            f"{beside}: not the transform that {model} was made with: expected SHA-256 {transform.host_digest}, "
            f"got {tree_digest(beside)}; take both from the same version"
        )
    arrays = HostTransform(beside)(given.arrays)
    inputs = signatures[metadata.signature].inputs
    return Given(given.form, metadata.signature, {info.name: arrays[info.name] for info in inputs}, given.unused, beside.name)


def _raw(transform: Transform, model: Path) -> Called:
    return as_called(Signature(inputs=transform.raw_inputs, outputs=(), subgraph=0), str(model))


def _line(error: Exception) -> str:
    """TensorFlow's messages go on with a page of the graph."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
