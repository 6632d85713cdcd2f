"""Pruning and clustering by TensorFlow Model Optimization, as steps from one plain Keras model to another.

Each step wraps the layers that its technique knows, is trained, and is taken off again; the next one starts from what it left.
Papers: pruning by magnitude with a polynomial schedule, Zhu and Gupta 2017 (arXiv:1710.01878); clustering, Han et al. 2016
(arXiv:1510.00149); quantization (tfmot_quantization.py), Jacob et al. 2018 (arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from components.errors import TflineError
from components.variants.config import Variant
from components.variants.weights import Asked

_UPDATES = 20
"""How often the polynomial schedule prunes a little more, if the training has as many steps."""


@dataclass(frozen=True)
class Step:
    """One technique on its way: the model to train, what is to be called while it is, and how to take the wrapping off.

    Attributes:
        wrapped: Names of the layers that it changes.
        left_out: "layer (class)" of those that it could be thought to change, and does not.
        strip: From the trained model to the plain one.
    """

    technique: str
    model: Any
    wrapped: frozenset[str]
    left_out: tuple[str, ...]
    callbacks: list[Any] = field(default_factory=list)
    strip: Callable[[Any], Any] = lambda model: model


def prune(model: Any, variant: Variant, steps: int) -> Step:
    """Wraps every layer that has a kernel to prune.

    Args:
        model: A plain functional model; its layers are used on.
        variant: With sparsity, schedule and pattern.
        steps: Training steps there will be.

    Raises:
        TflineError: No layer can be pruned.
    """
    import tensorflow_model_optimization as tfmot

    api = tfmot.sparsity.keras
    # What TFMOT takes: pruning_utils.weights_rearrange, PruneLowMagnitude.build.
    ranks = {"2:4": (2, 4), "block": (2,), "unstructured": range(10)}[variant.pattern]
    chosen = frozenset(
        layer.name for layer in model.layers if any(weight.shape.rank in ranks for weight in _pruned_weights(layer).values())
    )
    _refuse_none(chosen, "pruned", model, variant)
    options: dict[str, Any] = {"pruning_schedule": _schedule(variant, steps)}
    if variant.pattern == "2:4":
        options["sparsity_m_by_n"] = (2, 4)
    if variant.pattern == "block":
        options["block_size"] = variant.block
    return Step(
        "pruning",
        _wrapped(model, chosen, lambda layer: api.prune_low_magnitude(layer, **options)),
        chosen,
        _left_out(model, chosen),
        [api.UpdatePruningStep()],
        api.strip_pruning,
    )


def cluster(model: Any, variant: Variant, steps: int) -> Step:
    """Wraps every layer whose kernels have more weights than clusters; zeros of a pruning before it stay zero.

    Args:
        model: A plain functional model; its layers are used on, and changed.
        variant: With the number of clusters.
        steps: Not looked at: clustering has no schedule.

    Raises:
        TflineError: No layer can be clustered.
    """
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as experimental

    api = tfmot.clustering.keras
    chosen = frozenset(
        layer.name
        for layer in model.layers
        if (found := _clustered_weights(layer))
        and all(int(weight.shape.num_elements()) > variant.clusters for weight in found.values())
    )
    _refuse_none(chosen, "clustered", model, variant)
    options = {
        "number_of_clusters": variant.clusters,
        "cluster_centroids_init": api.CentroidInitialization.KMEANS_PLUS_PLUS,
        "preserve_sparsity": variant.kind == "pcqat",
    }
    return Step(
        "clustering",
        _wrapped(model, chosen, lambda layer: experimental.cluster_weights(layer, **options)),
        chosen,
        _left_out(model, chosen),
        [],
        api.strip_clustering,
    )


def asked_of(model: Any, variant: Variant, pruned: frozenset[str], clustered: frozenset[str]) -> list[Asked]:
    """What a plain model's kernels must be like in the .tflite.

    Args:
        model: The plain model, before or after the steps.
        variant: With the settings.
        pruned, clustered: Names of the layers that the steps changed.
    """
    found = []
    for layer in model.layers:
        zeros = _pruned_weights(layer) if layer.name in pruned else {}
        shared = _clustered_weights(layer) if layer.name in clustered else {}
        for name, weight in (zeros | shared).items():
            of_four = name in zeros and variant.pattern == "2:4"
            blocks = name in zeros and variant.pattern == "block"
            found.append(
                Asked(
                    layer=f"{layer.name}.{name}",
                    values=int(weight.shape.num_elements()),
                    sparsity=variant.sparsity if name in zeros and not of_four else 0.0,
                    two_of_four=of_four,
                    block=variant.block if blocks else None,
                    clusters=variant.clusters if name in shared else None,
                    scaled=_is_normalized(layer),
                )
            )
    return found


def names_of(layers: Iterable[Any]) -> tuple[str, ...]:
    """ "name (class)" of layers."""
    return tuple(f"{layer.name} ({type(layer).__name__})" for layer in layers)


def _schedule(variant: Variant, steps: int) -> Any:
    import tensorflow_model_optimization as tfmot

    api = tfmot.sparsity.keras
    if variant.pattern == "2:4" or variant.schedule == "constant":
        sparsity = 0.5 if variant.pattern == "2:4" else variant.sparsity
        return api.ConstantSparsity(sparsity, begin_step=0, frequency=max(1, steps // _UPDATES))
    # A schedule whose last update is no step of the training stays short of the sparsity that was asked for. The second half of
    # the training makes up for the pruning.
    every = max(1, steps // (2 * _UPDATES))
    updates = max(1, min(_UPDATES, (steps - 1) // every))
    return api.PolynomialDecay(0.0, variant.sparsity, begin_step=0, end_step=every * updates, frequency=every)


def _pruned_weights(layer: Any) -> dict[str, Any]:
    """The weights that TFMOT prunes of a layer, by attribute; of recurrent layers and attention none."""
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    return _weights(layer, prune_registry.PruneRegistry._LAYERS_WEIGHTS_MAP)


def _clustered_weights(layer: Any) -> dict[str, Any]:
    from tensorflow_model_optimization.python.core.clustering.keras import clustering_registry

    return _weights(layer, clustering_registry.ClusteringRegistry._LAYERS_WEIGHTS_MAP)


def _weights(layer: Any, known: Any) -> dict[str, Any]:
    names = known.get(type(layer), [])
    # Attention's names lead through layers of its own ("_query_dense.kernel"), which are not unwrapped again.
    return {name: getattr(layer, name) for name in names if "." not in name}


def _wrapped(model: Any, chosen: frozenset[str], wrap: Callable[[Any], Any]) -> Any:
    import tf_keras as keras

    return keras.models.clone_model(model, clone_function=lambda layer: wrap(layer) if layer.name in chosen else layer)


def _left_out(model: Any, chosen: frozenset[str]) -> tuple[str, ...]:
    """Those with kernels; biases and what normalizes are never pruned or clustered."""
    kernels = (layer for layer in model.layers if any(weight.shape.rank > 1 for weight in layer.trainable_weights))
    return names_of(layer for layer in kernels if layer.name not in chosen)


def _refuse_none(chosen: frozenset[str], what: str, model: Any, variant: Variant) -> None:
    if not chosen:
        told = ", ".join(_left_out(model, chosen)) or "there are none"
        raise TflineError(f"{variant.kind}: no layer can be {what}; those with weights: {told}")


def _is_normalized(layer: Any) -> bool:
    """Whether a batch normalization comes right after it, whose scales the converter folds into its weights."""
    return any("BatchNormalization" in type(node.layer).__name__ for node in layer.outbound_nodes)
