"""A convolutional network of about 0.8 million parameters for 96x96 textures."""

from __future__ import annotations

from typing import Any

import tensorflow_transform as tft
import tf_keras as keras


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Centres and scales the pixels; plain arithmetic, which has int8 kernels in TFLite."""
    image = inputs["image"]
    return {"image": (image - tft.mean(image)) / tft.var(image) ** 0.5, "label": inputs["label"]}


def build_model(inputs: dict[str, Any], config: Any) -> Any:
    """Conv-BN-ReLU six times, which is what TFLite folds and TFMOT knows, then the average over places, and softmax.

    Strides come early, so that most of the parameters are where there are few places to compute: 49 million multiplications.

    Args:
        inputs: Transformed features as Keras inputs: `image`, float32 [None, 9216].
        config: The pipeline's `model` section; `hyperparameters` holds what this model reads from it.

    Returns:
        A compiled model with one output, `probabilities`, float32 [None, 8].
    """
    x = keras.layers.Reshape((96, 96, 1))(inputs["image"])
    # A mean over 30 batches: over 10, a batch with many images of one kind shifts all that is normalized, and costs accuracy.
    momentum = 0.97
    for filters, size, strides in ((16, 5, 2), (32, 3, 2), (64, 3, 1), (128, 3, 2), (192, 3, 2), (256, 3, 1)):
        x = keras.layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=momentum)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(float(config.hyperparameters.get("dropout", 0.3)))(x)
    outputs = keras.layers.Dense(8, activation="softmax", name="probabilities")(x)
    model = keras.Model(inputs, outputs)
    # Halved every few epochs: with a constant rate the accuracy swings by points from epoch to epoch.
    rate = keras.optimizers.schedules.ExponentialDecay(
        float(config.hyperparameters.get("learning_rate", 2e-3)), int(config.hyperparameters.get("halved_every", 300)), 0.5
    )
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model
