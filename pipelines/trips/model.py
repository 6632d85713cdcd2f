"""Will a taxi trip end with a big tip? Numbers, buckets and vocabularies into a small network.

The schema says which raw features may be missing: those arrive as sparse tensors, at training and at serving alike, and every
one of them has an answer here: the mean beside a flag for a number, a value of its own for a string.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras

SKEWED = ("distance_km", "duration_min", "fare")
PLAIN = ("passengers", "pickup_lat", "pickup_lon")
NULLABLE = ("distance_km", "duration_min", "passengers")
BUCKETIZED = ("pickup_lat", "pickup_lon", "pickup_hour", "weekday")
BUCKETS = 32
"""For each of BUCKETIZED, with about as many trips in each bucket; so many that only the quietest hours share one."""

COMPANIES, PAYMENTS = 50, 8
"""The greatest vocabularies; the least frequent values above are out of vocabulary."""

RARE = 10
"""A company of fewer trips in the training split is out of vocabulary, too: what the model learns of them holds for new ones."""

FARTHEST = 6.0
"""No z-score is taken for farther from the mean, so that one absurd number does not outweigh all the rest of a trip."""

MISSING = "(missing)"


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Makes of each trip two vectors of floats and three of ids; the same graph runs at training and inside the served model.

    As columns of one matrix, all numbers share one analyzer, and so do all buckets; Beam passes over the data once for all of
    them and the vocabularies.

    Args:
        inputs: Raw features: [batch, 1], or sparse where the schema allows a value to be missing.

    Returns:
        `numbers`, float32 [batch, 6], z-scores, 0 (the mean) where a value is missing; `missing`, float32 [batch, 3], 1 where it
        is; `buckets`, int64 [batch, 4]; `company` and `payment`, int64 [batch, 1], the place in the vocabulary, or the one after
        its last; `big_tip`, int64 [batch, 1].
    """
    numbers = {name: _number(inputs[name]) for name in (*SKEWED, *PLAIN, *BUCKETIZED)}
    # Nothing is shorter or cheaper than 0; tf.maximum would not say what becomes of NaN.
    logarithms = [tf.math.log1p(tf.where(numbers[name] < 0, 0.0, numbers[name])) for name in SKEWED]
    scores = tft.scale_to_z_score(tf.concat([*logarithms, *(numbers[name] for name in PLAIN)], axis=1), elementwise=True)
    return {
        "numbers": tf.clip_by_value(tf.where(tf.math.is_nan(scores), 0.0, scores), -FARTHEST, FARTHEST),
        "missing": tf.concat([tf.cast(tf.math.is_nan(numbers[name]), tf.float32) for name in NULLABLE], axis=1),
        "buckets": tft.bucketize(tf.concat([numbers[name] for name in BUCKETIZED], axis=1), BUCKETS, elementwise=True),
        "company": tft.compute_and_apply_vocabulary(
            _string(inputs["company"]), top_k=COMPANIES, frequency_threshold=RARE, num_oov_buckets=1, vocab_filename="company"
        ),
        "payment": tft.compute_and_apply_vocabulary(
            _string(inputs["payment"]), top_k=PAYMENTS, num_oov_buckets=1, vocab_filename="payment"
        ),
        "big_tip": inputs["big_tip"],
    }


def _number(feature: Any) -> Any:
    """A feature as float32 [batch, 1]; NaN, which tft's analyzers pass over, where there is no value."""
    return tf.cast(_dense(feature, float("nan")), tf.float32)


def _string(feature: Any) -> Any:
    """A feature as string [batch, 1]; the empty string, which `dense` cannot tell from no value, is none here either."""
    values = _dense(feature, "")
    return tf.where(tf.equal(values, ""), MISSING, values)


def _dense(feature: Any, missing: Any) -> Any:
    if not isinstance(feature, tf.SparseTensor):
        return feature
    if feature.dtype == tf.int64:
        feature = tf.cast(feature, tf.float32)
    # One column, also for a batch in which no trip has the value: its own width is 0 then. A trip with two values is an error.
    return tf.sparse.to_dense(tf.SparseTensor(feature.indices, feature.values, [feature.dense_shape[0], 1]), missing)


def build_model(inputs: dict[str, Any], config: Any) -> Any:
    """Embeddings of all ids beside the numbers, then dense layers.

    Args:
        inputs: Transformed features as Keras inputs, in the shapes that `preprocessing_fn` returns.
        config: The pipeline's `model` section; `hyperparameters` holds what this model reads from it.

    Returns:
        A compiled model with one output, `probability`, float32 [None, 1].
    """
    chosen = config.hyperparameters
    size = int(chosen.get("embedding", 4))
    # One table for all buckets: each column's ids behind those of the column before.
    shifted = inputs["buckets"] + tf.range(len(BUCKETIZED), dtype=tf.int64) * BUCKETS
    # From zero, so that an id that training never saw says nothing rather than something random.
    parts = [
        keras.layers.Embedding(len(BUCKETIZED) * BUCKETS, size, embeddings_initializer="zeros")(shifted),
        keras.layers.Embedding(COMPANIES + 1, size, embeddings_initializer="zeros")(inputs["company"]),
        keras.layers.Embedding(PAYMENTS + 1, size, embeddings_initializer="zeros")(inputs["payment"]),
    ]
    x = keras.layers.Concatenate()([*map(keras.layers.Flatten(), parts), inputs["numbers"], inputs["missing"]])
    for units in chosen.get("layers", [64, 32]):
        x = keras.layers.Dense(int(units), activation="relu")(x)
        x = keras.layers.Dropout(float(chosen.get("dropout", 0.3)))(x)
    probability = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    model = keras.Model(inputs, probability)
    model.compile(
        optimizer=keras.optimizers.Adam(float(chosen.get("learning_rate", 1e-3))),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model
