"""The golden examples: held-out records and the answers that a model has to give to them, as validate-model compares them.

    examples.tfrecord  raw tf.Example records, uncompressed
    inputs.npz         the same examples as dense tensors, one array a raw feature, the first axis the examples
    outputs.npz        the answers, one array an output, or "<signature>/<output>" where signatures answer differently

A raw feature of no fixed length is padded at the end of its rows: NaN, the smallest int64, or the empty string.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import TflineError
from components.examples import records


def padding(dtype: Any) -> Any:
    """What stands for no value in a dense tensor. Not 0, which is a value; nothing else is left for strings but the empty one."""
    import tensorflow as tf

    return {tf.string: "", tf.float32: math.nan, tf.int64: tf.int64.min}[dtype]


def read_records(files: list[str], count: int, where: str) -> list[bytes]:
    """The first records of some files.

    Args:
        files: TFRecord files, as `components.examples.split_files` gives them.
        count: How many at most.
        where: The setting and split that they come from, for the error.

    Raises:
        TflineError: There is none.
    """
    serialized = list(records(files).take(count).as_numpy_iterator())
    if not serialized:
        raise TflineError(f"{where}: expected examples in this split, found none in {files[0]}")
    return serialized


def densified(features: Mapping[str, Any]) -> dict[str, Any]:
    """Parsed features as the signature `dense` takes them: sparse ones padded at the end of their rows."""
    import tensorflow as tf

    sparse = tf.SparseTensor
    return {
        name: tf.sparse.to_dense(value, padding(value.dtype)) if isinstance(value, sparse) else value
        for name, value in features.items()
    }


def write_golden(folder: Path, serialized: Sequence[bytes], features: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """Writes the three files.

    Args:
        folder: An existing folder.
        serialized: Records of tf.Example.
        features: The same, parsed: tf.Tensor or tf.SparseTensor by raw feature.
        answers: tf.Tensor by output, the first axis the examples.
    """
    import numpy as np
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / "examples.tfrecord")) as writer:
        for record in serialized:
            writer.write(record)
    dense = densified(features)
    np.savez(folder / "inputs.npz", **{name: _without_objects(value.numpy()) for name, value in dense.items()})
    np.savez(folder / "outputs.npz", **{name: _without_objects(value.numpy()) for name, value in answers.items()})


def _without_objects(array: Any) -> Any:
    """Strings as fixed-width bytes: an object array could only be stored with pickle."""
    return array.astype("S") if array.dtype == object else array
