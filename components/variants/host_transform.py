"""Where a model's transform goes: into the .tflite, or, when TFLite has no form for one of its ops, beside it for the host.

    raw features ── transform ── transformed features ── model ── answers
    inside:         [            one .tflite, "dense"           ]
    beside it:      [ SavedModel ]                      [.tflite]

Each function here is meant for `components.isolate`: they need TensorFlow, and the converter may crash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.dense_signature import as_features, dense_spec
from components.errors import TflineError
from components.examples import records, split_files
from components.golden_examples import densified
from components.layout import HOST_DIR
from components.model import UserModel, make_inputs, named_outputs
from components.records import write_atomically
from components.variants.conversion import message_of
from serving.answer_files import as_text
from serving.tflite_host import EXAMPLES_FILE, SIGNATURE, HostTransform

CORE_DIR = "core"
"""The model without its transform, as a SavedModel; only for the converter."""

_EXAMPLES = 5

_CLOSE = 1e-4
"""How far TFLite's float32 transform may be off, relative to the value: its kernels sum and divide in another order."""


def why_not_inside(
    *, user_model: Mapping[str, Any], transform_graph: str, label: str, examples: str, split: str, batch: int | None
) -> str:
    """Whether TFLite can hold a transform, found out by converting it and running it on an example.

    Args:
        user_model: A `UserModel`: of features that it does not use, nobody has to know whether TFLite could make them.
        transform_graph: TransformGraph artifact.
        label: Its feature is left out.
        examples: Raw Examples artifact.
        split: Where the example is from.
        batch: Examples a call; None leaves the dimension open.

    Returns:
        "" when it can; else why not, in words that go on after "not inside of the file: ".
    """
    user, transform = UserModel.model_validate(user_model), _Transform(transform_graph, label)
    reason = _why_not(transform, None, examples, split, batch)
    if not reason:
        return ""
    # Building the model takes longer than most transforms' conversion.
    used = used_features(user.build(make_inputs(transform.output.transformed_feature_spec(), label)), transform.spec)
    return _why_not(transform, used, examples, split, batch) if set(used) < set(transform.spec) else reason


def take_apart(
    *, user_model: Mapping[str, Any], model_run: str, transform_graph: str, label: str, signature: str, folder: str
) -> None:
    """Writes the transform and the model without it, each as a SavedModel, both with only what the model uses.

    Args:
        user_model: A `UserModel`.
        model_run: The train stage's output, with best.weights.h5.
        transform_graph: TransformGraph artifact.
        label: Key of the label.
        signature: Key that the model's signature gets.
        folder: Where `HOST_DIR` and `CORE_DIR` are made.

    Raises:
        TflineError: The model uses a transformed feature of no fixed length, which no .tflite takes; the weights are another
            model's.
    """
    import tensorflow as tf

    user, transform = UserModel.model_validate(user_model), _Transform(transform_graph, label)
    model = user.build(make_inputs(transform.output.transformed_feature_spec(), label))
    weights = Path(model_run, "best.weights.h5")
    try:
        model.load_weights(str(weights))
    except (OSError, ValueError) as error:
        raise TflineError(f"the weights in {weights} do not fit the model that build_model makes: {error}") from error
    used = used_features(model, transform.spec)
    loose = [name for name in used if not isinstance(transform.spec[name], tf.io.FixedLenFeature)]
    if loose:
        raise TflineError(f"the model takes features of no fixed length, which TFLite cannot take: {', '.join(loose)}")
    host = transform.module(used, None)
    tf.saved_model.save(host, str(Path(folder, HOST_DIR)), signatures={SIGNATURE: host.transform})
    # A uuid, so that no two saves would be alike, and so no two .tflite of the same model: they hold this folder's digest.
    Path(folder, HOST_DIR, "fingerprint.pb").unlink(missing_ok=True)
    core = tf.Module()
    core.model = model
    core.answer = tf.function(
        lambda features: named_outputs(model, model(completed(features, transform.spec), training=False)),
        input_signature=[dense_spec({name: transform.spec[name] for name in used})],
    )
    tf.saved_model.save(core, str(Path(folder, CORE_DIR)), signatures={signature: core.answer})


def used_features(model: Any, spec: Mapping[str, Any]) -> list[str]:
    """Those of the transformed features that a Keras model's answers hang on, in the order of `spec`."""
    import tensorflow as tf

    sparse = tf.SparseTensorSpec
    shapes = {
        name: tf.TensorSpec([None, *feature.shape], feature.dtype)
        if isinstance(feature, tf.io.FixedLenFeature)
        else sparse([None, None], feature.dtype)
        for name, feature in spec.items()
    }
    used: list[str] = []

    def answer(features: dict[str, Any]) -> dict[str, Any]:
        answers = named_outputs(model, model(features, training=False))
        parts = {name: tf.nest.flatten(features[name], expand_composites=True) for name in spec}
        used.extend(name for name in spec if any(part.consumers() for part in parts[name]))
        return answers

    # Plain Python while it is traced, which happens once.
    tf.function(answer, autograph=False).get_concrete_function(shapes)
    return used


def completed(features: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Features with zeros (or nothing, where there is no fixed length) for those of `spec` that the model does not use."""
    import tensorflow as tf

    batch = tf.shape(next(iter(features.values())), tf.int64)[0]
    whole = {}
    for name, feature in spec.items():
        if name in features:
            whole[name] = features[name]
        elif isinstance(feature, tf.io.FixedLenFeature):
            whole[name] = tf.zeros([batch, *feature.shape], feature.dtype)
        else:
            nothing = tf.zeros([0], feature.dtype)
            whole[name] = tf.sparse.SparseTensor(tf.zeros([0, 2], tf.int64), nothing, tf.stack([batch, 0]))
    return whole


def parsing_spec(host: HostTransform) -> dict[str, Any]:
    """How tf.io.parse_example reads the raw features of a tf.Example."""
    import tensorflow as tf

    return {
        name: tf.io.FixedLenFeature(spec.shape[1:], spec.dtype)
        if spec.shape[1:].is_fully_defined()
        else tf.io.VarLenFeature(spec.dtype)
        for name, spec in host.specs.items()
    }


def write_examples(folder: Path, raw: Mapping[str, Any], transformed: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Writes the first examples beside the transform, so that a port of it to another language can be tested against it.

    Args:
        folder: The transform's.
        raw, transformed, outputs: Arrays, examples first: what goes in, what comes out, and what the float model answers.
    """
    rows = [
        {
            kind: {name: _plain(values[number]) for name, values in arrays.items()}
            for kind, arrays in (("raw", raw), ("transformed", transformed), ("outputs", outputs))
        }
        for number in range(min(_EXAMPLES, len(next(iter(outputs.values())))))
    ]
    write_atomically(folder / EXAMPLES_FILE, json.dumps(rows, indent=1, ensure_ascii=False, sort_keys=True))


def _plain(values: Any) -> Any:
    """An array, or one value of it, as JSON has it: null for NaN, text, and {"b64": …} for bytes that are none."""
    import numpy as np

    if isinstance(values, np.ndarray) and values.ndim:
        return [_plain(value) for value in values]
    value = values.item() if isinstance(values, np.generic | np.ndarray) else values
    if isinstance(value, bytes):
        return as_text(value)
    return None if isinstance(value, float) and math.isnan(value) else value


class _Transform:
    """TFT's output; the specs of raw features, for parsing, and of transformed ones, both without the label."""

    def __init__(self, transform_graph: str, label: str) -> None:
        import tensorflow_transform as tft

        self.output = tft.TFTransformOutput(transform_graph)
        self.layer = self.output.transform_features_layer()
        raw, transformed = self.output.raw_feature_spec(), self.output.transformed_feature_spec()
        self.raw_spec, self.spec = (
            {name: feature for name, feature in sorted(spec.items()) if name != label} for spec in (raw, transformed)
        )

    def module(self, names: Sequence[str] | None, batch: int | None) -> Any:
        """A tf.Module whose `transform` takes dense raw features and gives some transformed ones, or all that need no label."""
        import tensorflow as tf

        # AutoGraph would rewrite the source of TFT, whose conditions are all Python's own.
        layer = tf.autograph.experimental.do_not_convert(self.layer)
        module = tf.Module()
        # Tables and their files hang on the SavedModel under the layer; the layer itself would be traced for a call of its own.
        module.loaded = self.layer._saved_model_loader_tracked_dict

        def transform(features: dict[str, Any]) -> dict[str, Any]:
            made = dict(layer(as_features(features, self.raw_spec)))
            return {name: made[name] for name in names} if names is not None else made

        dense = dense_spec(self.raw_spec)
        shapes = {name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name) for name, spec in dense.items()}
        module.transform = tf.function(transform, input_signature=[shapes])
        return module


def _why_not(transform: _Transform, names: Sequence[str] | None, examples: str, split: str, batch: int | None) -> str:
    """`why_not_inside` for some of the transformed features, or for all."""
    import tensorflow as tf

    loose = [name for name, feature in transform.raw_spec.items() if not isinstance(feature, tf.io.FixedLenFeature)]
    without = [f"{', '.join(loose)} of no fixed length"] if loose else []
    module = transform.module(names, batch)
    traced = module.transform.get_concrete_function()
    try:
        content = tf.lite.TFLiteConverter.from_concrete_functions([traced], module).convert()
    except Exception as error:  # the converter raises what its passes happen to raise
        return "; ".join([*without, message_of(error)])
    if loose:
        return without[0]
    record = records(split_files(Path(examples), split)).take(1).as_numpy_iterator()
    try:
        raw = densified(tf.io.parse_example(list(record), transform.raw_spec))
    except tf.errors.InvalidArgumentError:
        return ""  # `preparation` reads the same example next, and says what is wrong with it
    wanted = {name: value.numpy() for name, value in module.transform(raw).items()}
    try:
        given = _run(content, raw)
    except (RuntimeError, ValueError) as error:
        return message_of(error)
    wrong = sorted(name for name, value in wanted.items() if not _alike(given[name], value))
    return f"TFLite computes something else for {', '.join(wrong)}" if wrong else ""


def _alike(given: Any, wanted: Any) -> bool:
    import numpy as np

    if wanted.dtype.kind in "SO":
        return bool(np.array_equal(given.astype("S"), wanted.astype("S")))
    return bool(np.allclose(given.astype(np.float64), wanted.astype(np.float64), rtol=_CLOSE, atol=_CLOSE, equal_nan=True))


def _run(content: bytes, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a .tflite of one signature gives for one example, by name of the transformed feature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    [signature] = interpreter.get_signature_list()
    return dict(interpreter.get_signature_runner(signature)(**{name: value.numpy() for name, value in raw.items()}))
