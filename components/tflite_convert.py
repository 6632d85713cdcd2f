"""The TensorFlow half of quantization: reads tf.Examples, runs the float model, converts. Meant for `components.isolate`.

The quantize stage calls the two functions here by name, each in a process of its own, and gets files and some JSON back:

    prepare   once a model: training examples drawn for calibration, and the float model's outputs over the whole eval split
    convert   once a variant: counts one signature of a SavedModel, as it is and frozen, and converts it

Arrays travel as .npz without pickle, one file a batch, so that neither side ever holds a whole split.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.errors import TflineError

Arrays = dict[str, npt.NDArray[Any]]

_GZIP = b"\x1f\x8b"
_RECORDS_AT_ONCE = 1024
_VARIABLE_READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableV2")
_KINDS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}


class Prepared(BaseModel):
    """What `prepare` found: files are in its folder, `representative.npz` and `eval-00000.npz`, `eval-00001.npz`, …

    An eval file has `label` [n] float64, `expected` (the float model's output) and `input_0`, `input_1`, … in the order of
    `inputs`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...]
    output: str
    representative_examples: int
    eval_examples: int
    batches: int


class Converted(BaseModel):
    """What `convert` made. Op counts go over the graph and its function library; bytes are those of the variables it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ops_before: dict[str, int]
    ops_frozen: dict[str, int]
    variable_reads_before: int
    variable_reads_frozen: int
    float_weights_bytes: int
    seconds: float


def prepare(  # noqa: PLR0913  (arguments of another process: flat and JSON)
    *,
    saved_model_dir: str,
    signature: str,
    output: str | None,
    examples_dir: str,
    label: str,
    train_split: str,
    eval_split: str,
    representative_examples: int,
    seed: int,
    batch_size: int,
    folder: str,
) -> dict[str, Any]:
    """Draws the calibration examples and runs the float model over the eval split.

    Args:
        saved_model_dir: The SavedModel.
        signature: Key of the signature that takes dense tensors, batch first; each input is a feature of the examples.
        output: The output that is compared; None when the signature has one.
        examples_dir: Holds `Split-<name>/` folders of TFRecords of tf.Example, gzip or plain.
        label: Feature with one number an example.
        train_split: Split for calibration; drawn over all of it, each example as likely as any other.
        eval_split: Split that is evaluated, all of it.
        representative_examples: How many are drawn; all of them when the split has fewer.
        seed: Of the draw.
        batch_size: Examples a call of the float model.
        folder: Where the .npz files go; exists.

    Returns:
        A `Prepared` as a dict.

    Raises:
        TflineError: For an unknown signature or output, an empty split, a missing feature, values that are not finite.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(saved_model_dir)  # the signature's variables live as long as this object does
    function = _signature(loaded, signature)
    specs = _inputs(function, signature)
    chosen = _output(function, signature, output)
    if label in specs:
        raise TflineError(
            f"the label {label!r} is an input of signature {signature!r}: a model that is told the answer cannot be judged"
        )
    spec = {name: tf.io.FixedLenFeature(tensor.shape[1:], _parsed_as(tensor.dtype)) for name, tensor in specs.items()}

    drawn = _draw(_records(examples_dir, train_split), representative_examples, seed)
    _save(Path(folder, "representative.npz"), _features(_parse(drawn, spec, train_split), specs, train_split, calibration=True))

    keywords = {tensor.name or keyword: keyword for keyword, tensor in function.structured_input_signature[1].items()}
    count = batches = 0
    for serialized in _batches(_records(examples_dir, eval_split), 1 if _takes_one(specs) else batch_size):
        if not batches:
            spec[label] = tf.io.FixedLenFeature([], _label_type(serialized[0], label, eval_split))
        parsed = _parse(serialized, spec, eval_split)
        labels = parsed.pop(label)
        inputs = _features(parsed, specs, eval_split, calibration=False)
        answer = function(**{keywords[name]: tf.constant(value) for name, value in inputs.items()})[chosen].numpy()
        if answer.dtype.kind != "f":
            raise TflineError(
                f"output {chosen!r} of signature {signature!r} is {answer.dtype}; probabilities or scores, floats, are expected"
            )
        if not np.isfinite(answer).all():
            raise TflineError(f"the float model gives values in {chosen!r} that are not finite on the {eval_split} split")
        arrays = {f"input_{index}": inputs[name] for index, name in enumerate(specs)}
        _save(Path(folder, f"eval-{batches:05d}.npz"), arrays | {"label": labels.astype(np.float64), "expected": answer})
        count, batches = count + len(serialized), batches + 1
    return Prepared(
        inputs=tuple(specs), output=chosen, representative_examples=len(drawn), eval_examples=count, batches=batches
    ).model_dump()


def convert(
    *,
    saved_model_dir: str,
    signature: str,
    edges: Literal["integer", "float"],
    batch: int | None,
    representative: str,
    target: str,
) -> dict[str, Any]:
    """Freezes a signature and converts it to TFLite with int8 weights and activations, calibrated on real examples.

    The frozen graph (`convert_variables_to_constants_v2`) is counted, not converted: the converter freezes by itself, and on a
    graph whose functions are inlined already it no longer sees an LSTM as one op, and crashes. It gets the signature exported
    anew with the batch dimension fixed, because a bare concrete function loses its output names.

    Args:
        saved_model_dir: The SavedModel.
        signature: Key of its dense signature.
        edges: "integer": int8 inputs and outputs; "float": float32 ones, quantized and dequantized inside.
        batch: Examples a call of the .tflite; None leaves the dimension open.
        representative: The .npz of `prepare`: one array an input, examples first.
        target: The .tflite to write.

    Returns:
        A `Converted` as a dict.

    Raises:
        TflineError: When an op has no TFLite form (named), when variables are still read after freezing, when conversion fails.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model_dir)
    function = _signature(loaded, signature)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    before, after = _count(function.graph.as_graph_def()), _count(frozen.graph.as_graph_def())
    if reads := sum(after[op] for op in _VARIABLE_READS):
        raise TflineError(f"signature {signature!r} still reads {reads} variables after freezing: they are changed at inference")
    with np.load(representative, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tfline-convert-") as folder:
        _export(loaded, signature, batch, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[signature])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _one_by_one(arrays)
        converter.inference_input_type = converter.inference_output_type = tf.int8 if edges == "integer" else tf.float32
        try:
            content = converter.convert()
        except ConverterError as error:
            raise TflineError(_converter_message(error)) from None
    Path(target).write_bytes(content)
    return Converted(
        ops_before=before,
        ops_frozen=after,
        variable_reads_before=sum(before[op] for op in _VARIABLE_READS),
        variable_reads_frozen=reads,
        float_weights_bytes=sum(int(variable.shape.num_elements()) * variable.dtype.size for variable in function.variables),
        seconds=time.monotonic() - started,
    ).model_dump()


def _signature(loaded: Any, signature: str) -> Any:
    present = sorted(loaded.signatures)
    if signature not in present:
        raise TflineError(
            f"the SavedModel has no signature {signature!r}; it has {present}: set `signature` to one that takes dense tensors, "
            "or leave TFLite out with `quantize: null`"
        )
    return loaded.signatures[signature]


def _inputs(function: Any, signature: str) -> dict[str, Any]:
    """Input name to TensorSpec, in the order of the function's placeholders; all with known shapes but for the batch."""
    # A name such as "a-b" is not a Python keyword: the key is then "a_b", and only the TensorSpec has the signature's own name.
    specs = {spec.name or key: spec for key, spec in function.structured_input_signature[1].items()}
    for name, spec in specs.items():
        shape = spec.shape
        if shape.rank is None or shape.rank < 1 or not shape[1:].is_fully_defined() or shape[0] not in (None, 1):
            raise TflineError(
                f"input {name!r} of signature {signature!r} has shape {shape}; expected an open batch dimension (or 1), "
                "then fixed ones"
            )
    return specs


def _takes_one(specs: Mapping[str, Any]) -> bool:
    return any(spec.shape[0] == 1 for spec in specs.values())


def _output(function: Any, signature: str, output: str | None) -> str:
    present = sorted(function.structured_outputs)
    if output is None and len(present) > 1:
        raise TflineError(
            f"signature {signature!r} has the outputs {present}: say in `output` which one is compared with the label"
        )
    if output is not None and output not in present:
        raise TflineError(f"signature {signature!r} has no output {output!r}; it has {present}")
    return output or present[0]


def _parsed_as(dtype: Any) -> Any:
    """The type a tf.Example can hold that a signature's type is read as."""
    import tensorflow as tf

    if dtype.is_floating:
        return tf.float32
    return tf.int64 if dtype.is_integer or dtype.is_bool else tf.string


def _records(examples_dir: str, split: str) -> Iterator[list[bytes]]:
    """The serialized examples of a split, a list of up to 1024 at a time, files by name."""
    import tensorflow as tf

    folder = Path(examples_dir, f"Split-{split}")
    files = sorted(path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        there = sorted(path.name.removeprefix("Split-") for path in Path(examples_dir).glob("Split-*"))
        raise TflineError(f"the {split} split has no files in {folder}; splits there: {there}")
    empty = True
    for file in files:
        with file.open("rb") as opened:
            compression = "GZIP" if opened.read(2) == _GZIP else ""
        try:
            for batch in tf.data.TFRecordDataset(str(file), compression).batch(_RECORDS_AT_ONCE).as_numpy_iterator():
                empty = False
                yield list(batch)
        except tf.errors.DataLossError as error:
            raise TflineError(f"{file} is not a whole TFRecord file: {error.message}") from None
    if empty:
        raise TflineError(f"the {split} split is empty: {len(files)} files in {folder} without one example")


def _draw(records: Iterator[list[bytes]], count: int, seed: int) -> list[bytes]:
    """A uniform sample without replacement in one pass (Vitter 1985, algorithm R)."""
    generator = np.random.default_rng(seed)
    pool: list[bytes] = []
    seen = 0
    for batch in records:
        for record, place in zip(batch, generator.integers(0, np.arange(seen, seen + len(batch)) + 1), strict=True):
            if len(pool) < count:
                pool.append(record)
            elif place < count:
                pool[place] = record
        seen += len(batch)
    return pool


def _batches(records: Iterator[list[bytes]], size: int) -> Iterator[list[bytes]]:
    """The same records in batches of `size`, the last one smaller."""
    waiting: list[bytes] = []
    for batch in records:
        waiting += batch
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting:
        yield waiting


def _label_type(serialized: bytes, label: str, split: str) -> Any:
    import tensorflow as tf

    kind = tf.train.Example.FromString(serialized).features.feature[label].WhichOneof("kind")
    if kind not in ("int64_list", "float_list"):
        raise TflineError(f"the label {label!r} of the {split} split is a {kind or 'missing feature'}; expected int64 or float")
    return tf.int64 if kind == "int64_list" else tf.float32


def _parse(serialized: list[bytes], spec: Mapping[str, Any], split: str) -> Arrays:
    import tensorflow as tf

    try:
        return {name: value.numpy() for name, value in tf.io.parse_example(serialized, dict(spec)).items()}
    except tf.errors.InvalidArgumentError as error:
        raise TflineError(_parse_message(serialized, spec, split) or f"the {split} split: {error.message}") from None


def _parse_message(serialized: list[bytes], spec: Mapping[str, Any], split: str) -> str:
    """Which feature of which example did not fit: TensorFlow's own message names one, but not what there was instead."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    for record in serialized:
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            return f"the {split} split has a record that is not a tf.Example"
        for name, wanted in spec.items():
            kind = features[name].WhichOneof("kind") if name in features else None
            if kind is None:
                return f"an example of the {split} split has no feature {name!r}; it has {sorted(set(features) - {name})}"
            if kind != _KINDS[wanted.dtype.name]:
                return f"feature {name!r} of the {split} split is a {kind}; the signature needs a {_KINDS[wanted.dtype.name]}"
            came, size = len(getattr(features[name], kind).value), int(np.prod(wanted.shape))
            if came != size:
                return f"feature {name!r} of the {split} split has {came} values; the signature needs {size}"
    return ""


def _features(parsed: Arrays, specs: Mapping[str, Any], split: str, *, calibration: bool) -> Arrays:
    """The parsed features in the signature's own types; TflineError when one has a NaN or an infinity."""
    for name in specs:
        if parsed[name].dtype.kind == "f" and (bad := int((~np.isfinite(parsed[name])).sum())):
            purpose = "calibration" if calibration else "evaluation"
            raise TflineError(
                f"feature {name!r} of the {split} split has {bad} values that are NaN or infinite: no {purpose} with these"
            )
    return {
        name: parsed[name] if parsed[name].dtype.kind == "O" else parsed[name].astype(spec.dtype.as_numpy_dtype)
        for name, spec in specs.items()
    }


def _save(path: Path, arrays: Arrays) -> None:
    # NumPy keeps Python's bytes as objects, which only pickle can write; "S" is their plain form.
    np.savez(path, **{name: value.astype("S") if value.dtype.kind == "O" else value for name, value in arrays.items()})


def _one_by_one(arrays: Arrays) -> Iterator[Arrays]:
    """Calibration takes one example a step: a converted RNN has a fixed batch, and ranges do not depend on it."""
    for index in range(len(next(iter(arrays.values())))):
        yield {name: value[index : index + 1] for name, value in arrays.items()}


def _export(loaded: Any, signature: str, batch: int | None, folder: str) -> None:
    """Saves a SavedModel with the same signature, names and all, and the given batch dimension."""
    import tensorflow as tf

    function = _signature(loaded, signature)
    specs = _inputs(function, signature)
    keywords = list(function.structured_input_signature[1])  # in the order of specs

    def call(*features: Any) -> Any:
        return function(**dict(zip(keywords, features, strict=True)))

    batch = 1 if _takes_one(specs) else batch
    shapes = [tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name) for name, spec in specs.items()]
    module = tf.Module()
    module.loaded = loaded  # its variables are saved with what is tracked
    module.call = tf.function(call, input_signature=shapes)
    tf.saved_model.save(module, folder, signatures={signature: module.call})


def _count(graph: Any) -> Counter[str]:
    """Ops of a GraphDef and of its function library."""
    ops = Counter(node.op for node in graph.node)
    for function in graph.library.function:
        ops.update(node.op for node in function.node_def)
    return ops


def _converter_message(error: Exception) -> str:
    """The converter prints pages; its users need the names of the ops that have no TFLite form."""
    ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(error))))
    if ops:
        return f"these ops have no TFLite form: {', '.join(ops)}; keep them out of the dense signature"
    # Before what is wrong with an op stands the whole chain of calls that lead to it.
    if found := re.search(r"'tf\.\w+' op .*", str(error)):
        return found.group()
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
