"""The user's model: what its configuration says, the code that builds it, and what Keras sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from components.code import load_bundle
from components.errors import TflineError


class ModelConfig(BaseModel):
    """The `model` section of pipeline.yaml; `build_model(inputs, config)` gets it as `config`.

    Attributes:
        module: The module with `build_model`, relative to the pipeline's folder.
        preprocessing: The module with `preprocessing_fn`; None means `module`. A module of its own is transformed again only
            when that file changes.
        label: Key of the label, before and after the transform.
        hyperparameters: Whatever `build_model` wants to read.
        keras: Which Keras `tf.keras` is for a module with `run_fn`: 2 (tf_keras) or 3; None is TensorFlow's own choice, 3.
            Modules that import tf_keras or keras by name do not care.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    module: str = "model.py"
    preprocessing: str | None = None
    label: str = "label"
    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict)
    keras: Literal[2, 3] | None = None


class UserModel(BaseModel):
    """A model's configuration together with its code, as it travels with a stage.

    Attributes:
        config: The `model` section.
        code: The module and what it imports, as `components.code.bundle` packs them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: ModelConfig
    code: str

    def build(self, inputs: dict[str, Any]) -> Any:
        """Calls the user's `build_model(inputs, config)`.

        Raises:
            TflineError: The module has no such function, or what it returns is not a compiled Keras model.
        """
        module = load_bundle(self.code, PurePosixPath(self.config.module).stem)
        if not hasattr(module, "build_model"):
            raise TflineError(f"{self.config.module}: expected a function build_model(inputs, config), found none")
        model = module.build_model(inputs, self.config)
        if not getattr(model, "optimizer", None):
            raise TflineError(
                f"{self.config.module}: build_model has to return a compiled Keras model (call model.compile(...)), "
                f"got {type(model).__name__} without an optimizer"
            )
        return model


def make_inputs(feature_spec: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Keras inputs for the transformed features, the label left out.

    Args:
        feature_spec: tf.io parsing spec of the transformed features; fixed-length features become dense inputs [None, *shape],
            others sparse inputs [None, None].
        label: Key of the label.

    Returns:
        A symbolic input by feature name.

    Raises:
        TflineError: No feature has the label's name.
    """
    import tensorflow as tf
    import tf_keras as keras

    if label not in feature_spec:
        raise TflineError(
            f"model.label: expected a transformed feature, got '{label}'; there are: {', '.join(sorted(feature_spec))}"
        )
    inputs = {}
    for name, feature in sorted(feature_spec.items()):
        if name == label:
            continue
        if isinstance(feature, tf.io.FixedLenFeature):
            inputs[name] = keras.Input(shape=tuple(feature.shape), dtype=feature.dtype, name=name)
        else:
            inputs[name] = keras.Input(shape=(None,), dtype=feature.dtype, name=name, sparse=True)
    return inputs


def named_outputs(model: Any, result: Any) -> dict[str, Any]:
    """A call's result as a dict by output name, whatever form the model returns."""
    if isinstance(result, dict):
        return dict(result)
    values = list(result) if isinstance(result, list | tuple) else [result]
    return dict(zip(model.output_names, values, strict=True))
