"""Fine-tunes the trained model with a technique, and saves it for the TFLite converter. Meant for `components.isolate`.

the model and weights of the `train` stage
  ── for each step: wrap its layers, train some epochs under the same strategy, unwrap ──>
a SavedModel with the signature `dense`, the transform inside, as export writes it, but of a fixed batch
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.dense_signature import as_features, dense_spec
from components.errors import TflineError
from components.examples import batches, records, split_files
from components.model import UserModel, make_inputs
from components.strategy import make_strategy, replicas_of, scope
from components.variants.config import FineTune, Variant
from components.variants.host_transform import completed
from components.variants.tfmot_quantization import quantize
from components.variants.tfmot_techniques import Step, asked_of, cluster, prune

_STEPS: dict[str, tuple[Callable[[Any, Variant, int], Step], ...]] = {
    "qat": (quantize,),
    "pruned": (prune,),
    "clustered": (cluster,),
    "pqat": (prune, quantize),
    "cqat": (cluster, quantize),
    "pcqat": (prune, cluster, quantize),
}


def fine_tune(  # noqa: PLR0913  (arguments of another process: flat and JSON)
    *,
    variant: Mapping[str, Any],
    fine_tune: Mapping[str, Any],
    user_model: Mapping[str, Any],
    model_run: str,
    transformed_examples: str,
    transform_graph: str,
    signature: str,
    batch: int | None,
    takes: list[str] | None,
    target: str,
) -> dict[str, Any]:
    """Trains a variant from the float model's weights.

    Args:
        variant: A `Variant`.
        fine_tune: A `FineTune`.
        user_model: A `UserModel`.
        model_run: The train stage's output, with best.weights.h5.
        transformed_examples: Transformed Examples artifact.
        transform_graph: TransformGraph artifact.
        signature: Key of the signature to save.
        batch: Examples a call of it; None leaves the dimension open.
        takes: The transformed features that the signature takes; None where the transform is part of it.
        target: The SavedModel's folder to write.

    Returns:
        `asked`, what the kernels of the .tflite must be like (`weights.Asked`), and `fine_tuned`
        (`report.FineTuned`).

    Raises:
        TflineError: The technique does not know a layer, or any; the loss became NaN or infinite; the model is of a kind that
            TFMOT cannot take.

    Side effects:
        Seeds Python, NumPy and TensorFlow; with "mirrored" splits the CPU into logical devices.
    """
    import tensorflow_transform as tft
    import tf_keras as keras

    started = time.monotonic()
    chosen, tuning, user = (
        Variant.model_validate(variant),
        FineTune.model_validate(fine_tune),
        UserModel.model_validate(user_model),
    )
    own = {"epochs": chosen.epochs, "learning_rate": chosen.learning_rate}
    tuning = tuning.model_copy(update={name: value for name, value in own.items() if value is not None})
    strategy = make_strategy(tuning.strategy, tuning.replicas)
    keras.utils.set_random_seed(tuning.seed)
    output = tft.TFTransformOutput(transform_graph)
    data = _Data(
        split_files(Path(transformed_examples), tuning.train_split), output.transformed_feature_spec(), user.config.label
    )
    with scope(strategy):
        compiled = user.build(make_inputs(data.spec, data.label))
        _load(compiled, Path(model_run, "best.weights.h5"))
    rate = tuning.learning_rate or _rate_of(compiled.optimizer) * tuning.learning_rate_factor
    model, done, losses = _train(compiled, chosen, tuning, data, strategy, rate)
    if takes is None:
        _save(model, compiled.output_names, output, data.label, signature, batch, target)
    else:
        _save_core(model, compiled.output_names, data, takes, signature, batch, target)
    wrapped = {step.technique: step.wrapped for step in done}
    nothing: frozenset[str] = frozenset()
    asked = asked_of(_plain(compiled), chosen, wrapped.get("pruning", nothing), wrapped.get("clustering", nothing))
    return {
        "asked": [each.model_dump() for each in asked],
        "fine_tuned": {
            "seconds": time.monotonic() - started,
            "learning_rate": rate,
            "strategy": tuning.strategy,
            "replicas": replicas_of(strategy),
            "losses": losses,
            "left_out": {step.technique: step.left_out for step in done if step.left_out},
        },
    }


class _Data(NamedTuple):
    """What is trained on: files of transformed examples, how they are parsed, and which feature is the label."""

    files: list[str]
    spec: Mapping[str, Any]
    label: str


def _train(
    compiled: Any, variant: Variant, tuning: FineTune, data: _Data, strategy: Any, rate: float
) -> tuple[Any, list[Step], dict[str, list[float]]]:
    """Goes through the techniques' steps; gives the model as it is to be saved, the steps, and each one's losses by epoch."""
    import tf_keras as keras

    with scope(strategy):
        model = _plain(compiled)
    total = math.ceil(_count(data.files) / tuning.batch_size) * tuning.epochs
    done: list[Step] = []
    losses: dict[str, list[float]] = {}
    for make in _STEPS[variant.kind]:
        with scope(strategy):
            step = make(_fresh(model), variant, total)
            trained = _compile(step.model, compiled, rate, total)
        history = trained.fit(
            batches(
                data.files,
                data.spec,
                label=data.label,
                batch_size=tuning.batch_size,
                shuffle_buffer=tuning.shuffle_buffer,
                seed=tuning.seed,
            ),
            epochs=tuning.epochs,
            callbacks=[*step.callbacks, keras.callbacks.TerminateOnNaN()],
            verbose=0,
        )
        losses[step.technique] = [float(loss) for loss in history.history["loss"]]
        if not math.isfinite(losses[step.technique][-1]):
            raise TflineError(
                f"{variant.kind}: the loss became {losses[step.technique][-1]} during {step.technique} with a learning rate of "
                f"{rate:g}; try a lower optimize.fine_tune.learning_rate"
            )
        done.append(step)
        with scope(strategy):
            model = step.strip(step.model)
    return model, done, losses


def _count(files: list[str]) -> int:
    """How many examples there are; read in batches, since a step of the reduction for each would take longer than the reading."""
    import tensorflow as tf

    zero = tf.zeros([], tf.int64)
    return int(records(files).batch(1024).reduce(zero, lambda count, batch: count + tf.size(batch, tf.int64)).numpy())


def _load(model: Any, weights: Path) -> None:
    try:
        model.load_weights(str(weights))
    except (OSError, ValueError) as error:
        raise TflineError(f"the weights in {weights} do not fit the model that build_model makes: {error}") from error


def _plain(model: Any) -> Any:
    """The user's model without its class, inputs and outputs in lists: the form that TFMOT takes; layers are shared."""
    import tf_keras as keras

    if not getattr(model, "_is_graph_network", False) and not isinstance(model, keras.Sequential):
        raise TflineError(
            f"{type(model).__name__} is a subclassed model; fine-tuning for TFLite needs a functional one: build_model has to "
            "return keras.Model(inputs, outputs)"
        )
    outputs = list(model.outputs)
    return keras.Model(list(model.inputs), outputs[0] if len(outputs) == 1 else outputs)


def _fresh(model: Any) -> Any:
    """A copy with layers of its own: wrappers change layers, and a layer that is in two models has connections in both."""
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras

    with tfmot.quantization.keras.quantize_scope():
        copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _rate_of(optimizer: Any) -> float:
    import tensorflow as tf
    import tf_keras as keras

    rate = optimizer.learning_rate
    return float(rate(0) if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else tf.convert_to_tensor(rate))


def _compile(model: Any, compiled: Any, rate: float, steps: int) -> Any:
    """The model to fit: the outputs that the user's model has a loss for, with that loss and an optimizer as its own.

    The rate falls to zero with the cosine of the steps (Loshchilov and Hutter 2017, arXiv:1608.03983): weights that still move
    when the training ends are worse than those it began with, which had settled.
    """
    import tf_keras as keras

    losses = compiled.loss
    if isinstance(losses, Mapping):
        losses = [losses.get(name) for name in compiled.output_names]
    losses = list(losses) if isinstance(losses, list | tuple) else [losses]
    with_loss = [index for index, loss in enumerate(losses) if loss is not None]
    outputs = list(model.outputs)
    if len(with_loss) != 1 or (len(losses) == 1 and len(outputs) > 1):
        raise TflineError(
            f"fine-tuning takes a model with one loss; build_model compiles {len(with_loss)} for {len(outputs)} outputs"
        )
    trained = keras.Model(model.inputs, outputs[with_loss[0]])
    settings = compiled.optimizer.get_config() | {"learning_rate": keras.optimizers.schedules.CosineDecay(rate, steps)}
    trained.compile(optimizer=type(compiled.optimizer).from_config(settings), loss=losses[with_loss[0]])
    return trained


def _save(model: Any, names: list[str], transform: Any, label: str, signature: str, batch: int | None, target: str) -> None:
    """Writes a SavedModel that takes raw features as dense tensors [batch, …] and gives the outputs by their names."""
    import tensorflow as tf

    layer = transform.transform_features_layer()
    # AutoGraph would rewrite the source of TFT, whose conditions are all Python's own.
    transformed = tf.autograph.experimental.do_not_convert(layer)
    raw_spec = {name: feature for name, feature in transform.raw_feature_spec().items() if name != label}

    def answer(features: dict[str, Any]) -> dict[str, Any]:
        return _called(model, names, transformed(as_features(features, raw_spec)))

    module = tf.Module()
    module.model, module.transform = model, layer
    _write(module, answer, dense_spec(raw_spec), signature, batch, target)


def _save_core(
    model: Any, names: list[str], data: _Data, takes: list[str], signature: str, batch: int | None, target: str
) -> None:
    """As `_save`, of the model alone: it takes transformed features, those that it uses."""
    import tensorflow as tf

    module = tf.Module()
    module.model = model
    spec = {name: feature for name, feature in data.spec.items() if name != data.label}
    taken = dense_spec({name: spec[name] for name in takes})
    _write(module, lambda features: _called(model, names, completed(features, spec)), taken, signature, batch, target)


def _called(model: Any, names: list[str], ready: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs by name; wrapping and cloning gave the model lists for what the user's has by name."""
    inputs = [tensor.name for tensor in model.inputs]
    given = model([ready[name] for name in inputs] if len(inputs) > 1 else ready[inputs[0]], training=False)
    return dict(zip(names, given if isinstance(given, list | tuple) else [given], strict=True))


def _write(module: Any, answer: Any, specs: Mapping[str, Any], signature: str, batch: int | None, target: str) -> None:
    import tensorflow as tf

    shapes = {name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name) for name, spec in specs.items()}
    module.answer = tf.function(answer, input_signature=[shapes])
    tf.saved_model.save(module, target, signatures={signature: module.answer})
