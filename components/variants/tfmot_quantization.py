"""Quantization-aware training by TensorFlow Model Optimization: which layers can, and the model with those that do."""

from __future__ import annotations

from typing import Any

from components.errors import TflineError
from components.variants.config import Variant
from components.variants.tfmot_techniques import Step, names_of

_REMEDY = (
    "`layers: able` leaves it in float; to quantize it nevertheless, wrap it in build_model by "
    "tfmot.quantization.keras.quantize_annotate_layer(layer, a QuantizeConfig of your own)"
)


def quantize(model: Any, variant: Variant, steps: int) -> Step:
    """Makes the layers compute as int8 ones will, with weights and activations rounded.

    Args:
        model: A plain functional model; its weights are copied.
        variant: With `layers`; its kind says which zeros and clusters have to stay.
        steps: Not looked at: there is no schedule.

    Raises:
        TflineError: A layer cannot, and `layers` is "all", or none can; with its name and what to do.
    """
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    api, combine = tfmot.quantization.keras, tfmot.experimental.combine
    unable = unable_to_quantize(model)
    if unable and variant.layers == "all":
        raise TflineError(f"{variant.kind}: quantization-aware training does not know {', '.join(names_of(unable))}: {_REMEDY}")
    left = {layer.name for layer in unable}
    chosen = frozenset(layer.name for layer in model.layers if layer.weights and layer.name not in left)
    if not chosen:
        raise TflineError(f"{variant.kind}: no layer with weights can be quantized in training: {', '.join(names_of(unable))}")

    def annotate(layer: Any) -> Any:
        kept = layer.name in left or isinstance(layer, (*_annotated(), keras.layers.InputLayer))
        return layer if kept else api.quantize_annotate_layer(layer)

    preserving = {
        "pqat": combine.Default8BitPrunePreserveQuantizeScheme,
        "cqat": combine.Default8BitClusterPreserveQuantizeScheme,
        "pcqat": lambda: combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
    }
    scheme = {"scheme": preserving[variant.kind]()} if variant.kind in preserving else {}
    try:
        with api.quantize_scope():
            quantized = api.quantize_apply(keras.models.clone_model(model, clone_function=annotate), **scheme)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise TflineError(f"{variant.kind}: the model cannot be quantized in training: {error}") from error
    return Step("quantization", quantized, chosen, names_of(unable))


def unable_to_quantize(model: Any) -> list[Any]:
    """The layers of a plain model that quantization-aware training has no form for.

    A batch normalization has one only where it can be folded: right after a convolution or a dense layer that nothing else reads
    and that has no activation of its own (default_8bit_transforms.py). One that the user annotated has.
    """
    import tf_keras as keras
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import default_8bit_quantize_registry

    registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    layers = keras.layers
    # Separable convolutions are taken apart into layers that are known; inputs are quantized by what reads them.
    known = (layers.InputLayer, layers.SeparableConv1D, layers.SeparableConv2D, *_annotated())

    def able(layer: Any) -> bool:
        if "BatchNormalization" in type(layer).__name__:
            return _folds(layer)
        return isinstance(layer, known) or bool(registry.supports(layer))

    return [layer for layer in model.layers if not able(layer)]


def _annotated() -> tuple[Any, ...]:
    """The wrapper that `quantize_annotate_layer` puts around a layer."""
    from tensorflow_model_optimization.python.core.quantization.keras import quantize_annotate

    return (quantize_annotate.QuantizeAnnotate,)


def _folds(norm: Any) -> bool:
    import tf_keras as keras

    layers = keras.layers
    kinds = layers.Conv2D, layers.DepthwiseConv2D, layers.Dense, layers.SeparableConv1D, layers.SeparableConv2D
    before = norm.inbound_nodes[0].inbound_layers
    # Conv2DTranspose is a Conv2D to Python, and has no transform.
    if not isinstance(before, kinds) or isinstance(before, layers.Conv2DTranspose) or len(before.outbound_nodes) != 1:
        return False
    return bool(before.activation is keras.activations.linear)
