"""A small convolutional network for 8x8 images of handwritten digits."""

from __future__ import annotations

from typing import Any

import tensorflow_transform as tft
import tf_keras as keras


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Scales pixels to 0..1; the same graph runs at training and inside the served model.

    Plain arithmetic rather than tft.scale_to_0_1, whose guard against a constant feature has no int8 kernel in TFLite.
    """
    darkest, brightest = tft.min(inputs["image"]), tft.max(inputs["image"])
    return {"image": (inputs["image"] - darkest) / (brightest - darkest), "label": inputs["label"]}


def build_model(inputs: dict[str, Any], config: Any) -> Any:
    """Conv-BN-ReLU, DepthwiseConv-BN-ReLU, Dense, softmax over the ten digits.

    Args:
        inputs: Transformed features as Keras inputs: `image`, float32 [None, 64].
        config: The pipeline's `model` section; `hyperparameters` holds what this model reads from it.

    Returns:
        A compiled model with one output, `probabilities`, float32 [None, 10].
    """
    filters = int(config.hyperparameters.get("filters", 32))
    x = keras.layers.Reshape((8, 8, 1))(inputs["image"])
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(2 * filters, 3, strides=2, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    x = keras.layers.Dropout(float(config.hyperparameters.get("dropout", 0.3)))(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="probabilities")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(float(config.hyperparameters.get("learning_rate", 2e-3))),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
