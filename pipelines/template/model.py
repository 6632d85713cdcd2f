"""What is done to the data, and the network. Two functions are found by their names."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
import tf_keras as keras

NUMBERS = ("flow", "current", "vibration", "temperature")  # your columns
LABEL = "state"  # as `model.label` in pipeline.yaml says
CLASSES = 3


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Scales each column to mean 0 and variance 1 over the training data.

    It becomes a part of the served model, so that users send the data as it is. Do here
    what you like with tensorflow and tensorflow_transform: leave columns out, make new
    ones. Without this function all columns are passed on as they are.

    Args:
        inputs: The columns by name, [batch, 1]. One with gaps is a tf.SparseTensor x, and
            tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]))
            is the same with zeros in the gaps.

    Returns:
        The inputs of `build_model`, and the label.
    """
    outputs = {LABEL: inputs[LABEL]}
    for name in NUMBERS:
        column = tf.cast(inputs[name], tf.float32)
        # Not tft.scale_to_z_score: it uses ops that int8 TFLite does not have.
        outputs[name] = (column - tft.mean(column)) / tf.sqrt(tft.var(column))
    return outputs


def build_model(inputs: dict[str, Any], config: Any) -> Any:
    """A small dense network, for any number of classes.

    To predict a number, end it with Dense(1, name="value") and compile it with "mse". In
    pipeline.yaml, `value` is then the output in both signatures, MeanSquaredError the
    metric, with a threshold `at_most`, and `optimize` is null.

    Args:
        inputs: What `preprocessing_fn` returns, but the label, as Keras inputs by name.
        config: `model` in pipeline.yaml; put into `config.hyperparameters` what you like.

    Returns:
        A compiled tf_keras model. Its last layer's name is the output's in signatures.
    """
    wanted = config.hyperparameters
    x = keras.layers.Concatenate()([inputs[name] for name in NUMBERS])
    x = keras.layers.Dense(int(wanted["units"]), activation="relu")(x)
    x = keras.layers.Dropout(float(wanted["dropout"]))(x)
    x = keras.layers.Dense(int(wanted["units"]), activation="relu")(x)
    outputs = keras.layers.Dense(CLASSES, activation="softmax", name="probabilities")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(float(wanted["learning_rate"])),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
