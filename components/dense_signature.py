"""The signature `dense`: each raw feature as a tensor, batch first, for callers that have no tf.Example.

A raw feature of no fixed length is padded at the end of its rows: NaN, the smallest int64, or the empty string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.golden_examples import padding


def dense_spec(raw_spec: Mapping[str, Any]) -> dict[str, Any]:
    """Each raw feature as a TensorSpec [None, *shape]; one of no fixed length as [None, None], padded."""
    import tensorflow as tf

    shapes = {name: getattr(feature, "shape", [None]) for name, feature in raw_spec.items()}
    return {name: tf.TensorSpec([None, *shapes[name]], feature.dtype, name=name) for name, feature in raw_spec.items()}


def as_features(dense: Mapping[str, Any], raw_spec: Mapping[str, Any]) -> dict[str, Any]:
    """Dense tensors in the form the transform was traced with: sparse where the schema has no fixed length."""
    import tensorflow as tf

    fixed = tf.io.FixedLenFeature
    return {name: value if isinstance(raw_spec[name], fixed) else _without_padding(value) for name, value in dense.items()}


def _without_padding(dense: Any) -> Any:
    """The SparseTensor that tf.io.parse_example gives for a dense [batch, values], padded at the end of its rows."""
    import tensorflow as tf

    padded = tf.math.is_nan(dense) if dense.dtype == tf.float32 else tf.equal(dense, padding(dense.dtype))
    width = tf.shape(dense, tf.int64)[1]
    lengths = tf.reduce_max(tf.where(padded, tf.zeros([], tf.int64), tf.range(width)[tf.newaxis] + 1), axis=1)
    places = tf.where(tf.sequence_mask(lengths, width))
    return tf.sparse.SparseTensor(places, tf.gather_nd(dense, places), tf.shape(dense, tf.int64))
