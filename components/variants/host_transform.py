"""Where a model's transform goes: into the .tflite, or, when TFLite has no form for one of its ops, beside it for the host.

    raw features ── transform ── transformed features ── model ── answers
    inside:         [            one .tflite, "dense"           ]
    beside it:      [ SavedModel ]                      [.tflite]

Each function here is meant for `components.isolate`: they need TensorFlow, and the converter may crash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
from serving.tflite_host import EXAMPLES_FILE, SIGNATURE, HostTransform

CORE_DIR = "core"
"""The model without its transform, as a SavedModel; only for the converter."""

_EXAMPLES = 5

_CLOSE = 1e-4
"""How far TFLite's float32 transform may be off, relative to the value: its kernels sum and divide in another order."""


def why_not_inside(*, transform_graph: str, label: str, examples: str, split: str, batch: int | None) -> str:
    """Whether TFLite can hold a transform, found out by converting it and running it on an example.

    Args:
        transform_graph: TransformGraph artifact.
        label: Its feature is left out.
        examples: Raw Examples artifact.
        split: Where the example is from.
        batch: Examples a call; None leaves the dimension open.

    Returns:
        "" when it can; else why not, in words that go on after "not inside of the file: ".
    """
    import numpy as np
    import tensorflow as tf

    _, layer, raw_spec = _transform(transform_graph, label)
    loose = sorted(name for name, feature in raw_spec.items() if not isinstance(feature, tf.io.FixedLenFeature))
    without = [f"{', '.join(loose)} of no fixed length"] if loose else []
    module = _module(layer, raw_spec, batch)
    try:
        content = tf.lite.TFLiteConverter.from_concrete_functions([module.transform.get_concrete_function()], module).convert()
    except Exception as error:  # the converter raises what its passes happen to raise
        return "; ".join([*without, message_of(error)])
    if loose:
        return without[0]
    record = records(split_files(Path(examples), split)).take(1).as_numpy_iterator()
    raw = densified(tf.io.parse_example(list(record), raw_spec))
    wanted = module.transform(raw)
    try:
        given = _run(content, raw)
    except (RuntimeError, ValueError) as error:
        return message_of(error)
    wrong = [
        name
        for name, value in wanted.items()
        if not np.allclose(given[name].astype(np.float64), value.numpy(), rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
    ]
    return f"TFLite computes something else for {', '.join(sorted(wrong))}" if wrong else ""


def take_apart(
    *, user_model: Mapping[str, Any], model_run: str, transform_graph: str, label: str, signature: str, folder: str
) -> None:
    """Writes the transform and the model without it, each as a SavedModel.

    Args:
        user_model: A `UserModel`.
        model_run: The train stage's output, with best.weights.h5.
        transform_graph: TransformGraph artifact.
        label: Key of the label.
        signature: Key that the model's signature gets.
        folder: Where `HOST_DIR` and `CORE_DIR` are made.

    Raises:
        TflineError: A transformed feature has no fixed length, which no .tflite takes; the weights are another model's.
    """
    import tensorflow as tf

    user = UserModel.model_validate(user_model)
    output, layer, raw_spec = _transform(transform_graph, label)
    spec = output.transformed_feature_spec()
    loose = sorted(name for name, feature in spec.items() if not isinstance(feature, tf.io.FixedLenFeature))
    if loose:
        raise TflineError(f"preprocessing_fn gives features of no fixed length, which TFLite cannot take: {', '.join(loose)}")
    host = _module(layer, raw_spec, None)
    tf.saved_model.save(host, str(Path(folder, HOST_DIR)), signatures={SIGNATURE: host.transform})
    model = user.build(make_inputs(spec, label))
    weights = Path(model_run, "best.weights.h5")
    try:
        model.load_weights(str(weights))
    except (OSError, ValueError) as error:
        raise TflineError(f"the weights in {weights} do not fit the model that build_model makes: {error}") from error
    core = tf.Module()
    core.model = model
    shapes = dense_spec({name: feature for name, feature in spec.items() if name != label})
    core.answer = tf.function(lambda features: named_outputs(model, model(features, training=False)), input_signature=[shapes])
    tf.saved_model.save(core, str(Path(folder, CORE_DIR)), signatures={signature: core.answer})


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
    write_atomically(folder / EXAMPLES_FILE, json.dumps(rows, indent=1, ensure_ascii=False))


def _plain(values: Any) -> Any:
    """An array, or one value of it, as JSON has it: text for bytes, null for NaN."""
    import numpy as np

    if isinstance(values, np.ndarray) and values.ndim:
        return [_plain(value) for value in values]
    value = values.item() if isinstance(values, np.generic | np.ndarray) else values
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and math.isnan(value) else value


def _transform(transform_graph: str, label: str) -> tuple[Any, Any, dict[str, Any]]:
    """TFT's output, its layer, and the raw features' parsing spec without the label."""
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(transform_graph)
    raw_spec = {name: feature for name, feature in output.raw_feature_spec().items() if name != label}
    return output, output.transform_features_layer(), raw_spec


def _module(layer: Any, raw_spec: Mapping[str, Any], batch: int | None) -> Any:
    """A tf.Module whose `transform` takes dense raw features."""
    import tensorflow as tf

    # AutoGraph would rewrite the source of TFT, whose conditions are all Python's own.
    transformed = tf.autograph.experimental.do_not_convert(layer)
    module = tf.Module()
    # Tables and their files hang on the SavedModel under the layer; the layer itself would be traced for a call of its own.
    module.loaded = layer._saved_model_loader_tracked_dict
    shapes = {name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name) for name, spec in dense_spec(raw_spec).items()}
    module.transform = tf.function(lambda features: dict(transformed(as_features(features, raw_spec))), input_signature=[shapes])
    return module


def _run(content: bytes, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a .tflite of one signature gives for one example, by name of the transformed feature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    [signature] = interpreter.get_signature_list()
    return dict(interpreter.get_signature_runner(signature)(**{name: value.numpy() for name, value in raw.items()}))
