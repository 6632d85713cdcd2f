"""A row of a Parquet file as tf.Example.

TFX has a conversion of its own (tfx/components/example_gen/utils.py, dict_to_example). It takes every 0, 0.0, False and "" for a
missing value, and bytes for UTF-8, so it is not used here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ROWS = 4096
"""Rows in memory at once."""


def unfit_type(kind: Any) -> bool:
    """Whether a column's pyarrow.DataType has no place in tf.Example: integers, floats, strings, bytes, and lists of them."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_dictionary(kind):
        return unfit_type(kind.value_type) or types.is_nested(kind.value_type)
    return not (
        types.is_integer(kind)
        or types.is_boolean(kind)
        or types.is_floating(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_null(kind)
    )


def read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Reads a Parquet file: its rows, values by column, some thousand at a time."""
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS):
        yield batch.to_pylist()


def row_to_example(row: Mapping[str, Any]) -> Any:
    """Makes a tf.train.Example: a null becomes a feature without values, a list one with as many values, booleans 0 and 1.

    Raises:
        ValueError: There is a null inside a list, which tf.Example cannot say.
    """
    import tensorflow as tf

    features = {name: _feature(name, [] if value is None else value) for name, value in row.items()}
    return tf.train.Example(features=tf.train.Features(feature=features))


def _feature(name: str, value: Any) -> Any:
    import tensorflow as tf

    values = value if isinstance(value, list) else [value]
    if any(found is None for found in values):
        raise ValueError(f"column '{name}' has a list with a null in it: {values}")
    if not values:
        return tf.train.Feature()
    if isinstance(values[0], str | bytes):
        encoded = [found.encode() if isinstance(found, str) else found for found in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(found) for found in values]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(found) for found in values]))
