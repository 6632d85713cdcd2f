"""Converts a SavedModel to TFLite in one of the converter's ways. Meant for `components.isolate`: converters crash.

The settings are those that https://ai.google.dev/edge/litert/models/post_training_quantization names for each way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.errors import TflineError

NO_FORM = "these ops have no TFLite form"

Arrays = dict[str, npt.NDArray[Any]]


def convert(
    *, saved_model_dir: str, signature: str, kind: str, sparse_encoding: bool, representative: str, target: str
) -> dict[str, float]:
    """Converts one signature.

    Args:
        saved_model_dir: A SavedModel whose batch dimension is as the .tflite is to have it.
        signature: Key of its dense signature.
        kind: A `PostTraining` kind; a model with quantization-aware training's ops keeps the ranges it has learnt, and is
            calibrated where it has none (before its first layer, where the transform is).
        sparse_encoding: Whether zeros may be stored in TFLite's sparse format.
        representative: Of `preparation.prepare`: one array an input, examples first. Read by the kinds that calibrate.
        target: The .tflite to write.

    Returns:
        `seconds`, of the conversion.

    Raises:
        TflineError: When an op has no TFLite form (named), or conversion fails otherwise.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    started = time.monotonic()
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model_dir, signature_keys=[signature])
    _set_up(converter, kind, representative)
    if sparse_encoding:
        converter.optimizations = [*(converter.optimizations or []), tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    try:
        content = converter.convert()
    except ConverterError as error:
        said = message_of(error)
        raise TflineError(f"{said}; keep them out of the signature" if said.startswith(NO_FORM) else said) from None
    Path(target).write_bytes(content)
    return {"seconds": time.monotonic() - started}


def _set_up(converter: Any, kind: str, representative: str) -> None:
    import tensorflow as tf

    if kind == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in ("int8", "int8_io", "int16x8"):
        with np.load(representative, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        converter.representative_dataset = lambda: _one_by_one(arrays)
        ops = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [ops if kind == "int16x8" else tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        edge = tf.int8 if kind == "int8_io" else tf.float32
        converter.inference_input_type = converter.inference_output_type = edge


def _one_by_one(arrays: Arrays) -> Iterator[Arrays]:
    """Calibration takes one example a step: a converted RNN has a fixed batch, and ranges do not depend on it."""
    for index in range(len(next(iter(arrays.values())))):
        yield {name: value[index : index + 1] for name, value in arrays.items()}


def message_of(error: Exception) -> str:
    """What the converter says in a line: it prints pages; its users need the names of the ops that have no TFLite form."""
    ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(error))))
    if ops:
        return f"{NO_FORM}: {', '.join(ops)}"
    # Before what is wrong with an op stands the whole chain of calls that lead to it.
    if found := re.search(r"'tf\.\w+' op .*", str(error)):
        return found.group()
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
