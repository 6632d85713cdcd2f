"""What every variant is calibrated and judged on: examples, and what the float model answers. Meant for `components.isolate`.

`prepare` runs once a model, in a process of its own, and leaves files in a folder:

    representative.npz               training examples drawn for calibration, one array an input
    eval-00000.npz, eval-00001.npz   the whole eval split in batches: inputs, labels, the float model's outputs, slices
    convertible/                     the signature with a fixed batch dimension, as a SavedModel for the converter

Of a model that was taken apart (`host_transform`), inputs are what the host's transform makes of the examples, while the float
model answers the raw ones: what is compared is all that a device will do.

Arrays travel as .npz without pickle, one file a batch, so that neither side ever holds a whole split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.errors import TflineError
from components.golden_examples import densified
from components.layout import HOST_DIR
from components.variants.graph_counts import GraphCounts, count_graphs
from components.variants.host_transform import CORE_DIR, parsing_spec, write_examples
from components.variants.signatures import export_batched, inputs_of, keywords_of, output_of, signature_of, takes_one
from serving.tflite_host import HostTransform
from serving.tflite_metadata import TensorInfo

Arrays = dict[str, npt.NDArray[Any]]

CONVERTIBLE = "convertible"

_GZIP = b"\x1f\x8b"
_RECORDS_AT_ONCE = 1024
_MOST_SLICES = 1000
_KINDS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}


class Prepared(BaseModel):
    """What `prepare` found.

    An eval file has `label` [n] float64, `expected` (the float model's output), `input_0`, `input_1`, … in the order of
    `inputs`, and `slice_rows` and `slice_ids` [k] int64: row `slice_rows[i]` belongs to slice `slices[slice_ids[i]]`.

    Attributes:
        inputs: Names of the signature's inputs.
        output: The output that is compared.
        slices: Names of the slices that occur, "feature:value", crossed ones joined by a comma.
        graphs: Freezing and folding, counted.
        raw_inputs: What the host's transform takes; none for a model whose transform is inside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...]
    output: str
    representative_examples: int
    eval_examples: int
    batches: int
    slices: tuple[str, ...]
    graphs: GraphCounts
    raw_inputs: tuple[TensorInfo, ...] = ()


def prepare(  # noqa: PLR0913  (arguments of another process: flat and JSON)
    *,
    saved_model_dir: str,
    signature: str,
    output: str | None,
    examples_dir: str,
    label: str,
    train_split: str,
    eval_split: str,
    slices: Sequence[Sequence[str]],
    batch: int | None,
    representative_examples: int,
    seed: int,
    batch_size: int,
    apart: bool,
    folder: str,
) -> dict[str, Any]:
    """Counts the signature, draws the calibration examples and runs the float model over the eval split.

    Args:
        saved_model_dir: The SavedModel.
        signature: Key of the signature that takes dense tensors, batch first; each input is a feature of the examples.
        output: The output that is compared; None when the signature has one.
        examples_dir: Holds `Split-<name>/` folders of TFRecords of tf.Example, gzip or plain.
        label: Feature with one number an example.
        train_split: Split for calibration; drawn over all of it, each example as likely as any other.
        eval_split: Split that is evaluated, all of it.
        slices: Features to cross, for each slicing.
        batch: Examples a call of the .tflite, for `convertible/`; None leaves the dimension open.
        representative_examples: How many are drawn; all of them when the split has fewer.
        seed: Of the draw.
        batch_size: Examples a call of the float model.
        apart: Whether `host_transform.take_apart` wrote its SavedModels into the folder.
        folder: Where the files go; exists.

    Returns:
        A `Prepared` as a dict.

    Raises:
        TflineError: For an unknown signature or output, an empty split, a missing feature, values that are not finite, a model
            that cannot be frozen.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(saved_model_dir)  # the signature's variables live as long as this object does
    function = signature_of(loaded, signature)
    converted = tf.saved_model.load(str(Path(folder, CORE_DIR))) if apart else loaded
    specs = inputs_of(signature_of(converted, signature), signature)
    host = HostTransform(Path(folder, HOST_DIR)) if apart else None
    chosen = output_of(function, signature, output)
    if host and set(host.specs) != set(keywords_of(function)):
        raise TflineError(
            f"signature {signature!r} takes {', '.join(sorted(keywords_of(function)))}; expected the raw features "
            f"{', '.join(host.specs)}, as the transform beside the file takes them; set `optimize.signature: dense`"
        )
    if label in (host.specs if host else specs):
        raise TflineError(
            f"the label {label!r} is an input of signature {signature!r}: a model that is told the answer cannot be judged"
        )
    graphs = count_graphs(signature_of(converted, signature), signature)
    fixed = {name: tf.io.FixedLenFeature(tensor.shape[1:], _parsed_as(tensor.dtype)) for name, tensor in specs.items()}
    spec = parsing_spec(host) if host else fixed

    drawn = _draw(_records(examples_dir, train_split), representative_examples, seed)
    calibration = _parse(drawn, spec, train_split)
    calibration = host(calibration) if host else calibration
    _save(Path(folder, "representative.npz"), _features(calibration, specs, train_split, calibration=True))

    slicer = _Slicer(slices)
    keywords = keywords_of(function)
    count = batches = 0
    for serialized in _batches(_records(examples_dir, eval_split), 1 if takes_one(specs) else batch_size):
        if not batches:
            spec[label] = tf.io.FixedLenFeature([], _label_type(serialized[0], label, eval_split))
        parsed = _parse(serialized, spec, eval_split)
        labels = parsed.pop(label)
        inputs = _features(host(parsed) if host else parsed, specs, eval_split, calibration=False)
        given = parsed if host else inputs
        answered = function(**{keywords[name]: tf.constant(value) for name, value in given.items()})
        answer = answered[chosen].numpy()
        _check_answer(answer, chosen, signature, eval_split)
        arrays = {f"input_{index}": inputs[name] for index, name in enumerate(specs)}
        arrays |= {"label": labels.astype(np.float64), "expected": answer, **slicer(serialized)}
        _save(Path(folder, f"eval-{batches:05d}.npz"), arrays)
        if host and not batches:
            write_examples(Path(folder, HOST_DIR), parsed, inputs, {name: value.numpy() for name, value in answered.items()})
        count, batches = count + len(serialized), batches + 1
    export_batched(converted, signature, batch, str(Path(folder, CONVERTIBLE)))
    return Prepared(
        inputs=tuple(specs),
        output=chosen,
        representative_examples=len(drawn),
        eval_examples=count,
        batches=batches,
        slices=tuple(slicer.names),
        graphs=graphs,
        raw_inputs=host.raw_inputs if host else (),
    ).model_dump()


def slice_name(values: Mapping[str, str]) -> str:
    """How a slice is called: its features in alphabetical order."""
    return ",".join(f"{feature}:{values[feature]}" for feature in sorted(values))


class _Slicer:
    """Says which slices examples belong to; `names` grows with those that occur."""

    def __init__(self, slices: Sequence[Sequence[str]]) -> None:
        self._slices = [sorted(features) for features in slices]
        self.names: dict[str, int] = {}

    def __call__(self, serialized: list[bytes]) -> Arrays:
        """`slice_rows` and `slice_ids` of a batch; an example with several values of a feature is in the slice of each."""
        import tensorflow as tf

        rows, ids = [], []
        for row, record in enumerate(serialized if self._slices else []):
            features = tf.train.Example.FromString(record).features.feature
            for crossed in self._slices:
                for values in product(*(_values(features, feature) for feature in crossed)):
                    name = slice_name(dict(zip(crossed, values, strict=True)))
                    rows.append(row)
                    ids.append(self.names.setdefault(name, len(self.names)))
        if len(self.names) > _MOST_SLICES:
            raise TflineError(
                f"slices: {[','.join(crossed) for crossed in self._slices]} have more than {_MOST_SLICES} values; "
                "slice by features with few"
            )
        return {"slice_rows": np.array(rows, np.int64), "slice_ids": np.array(ids, np.int64)}


def _values(features: Any, name: str) -> list[str]:
    """The different values of a feature of one example, as text; none where it has none."""
    if name not in features:
        return []
    kind = features[name].WhichOneof("kind")
    values = getattr(features[name], kind).value if kind else []
    if kind == "bytes_list":
        return sorted({value.decode("utf-8", errors="replace") for value in values})
    # A float's shortest form in the precision that tf.Example has.
    return sorted({str(np.float32(value)) if kind == "float_list" else str(value) for value in values})


def _check_answer(answer: npt.NDArray[Any], output: str, signature: str, split: str) -> None:
    if answer.dtype.kind != "f":
        raise TflineError(
            f"output {output!r} of signature {signature!r} is {answer.dtype}; probabilities or scores, floats, are expected"
        )
    if not np.isfinite(answer).all():
        raise TflineError(f"the float model gives values in {output!r} that are not finite on the {split} split")


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
        parsed = densified(tf.io.parse_example(serialized, dict(spec)))
        return {name: value.numpy() for name, value in parsed.items()}
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
            if kind is None and not isinstance(wanted, tf.io.FixedLenFeature):
                continue
            if kind is None:
                return f"an example of the {split} split has no feature {name!r}; it has {sorted(set(features) - {name})}"
            if kind != _KINDS[wanted.dtype.name]:
                return f"feature {name!r} of the {split} split is a {kind}; the signature needs a {_KINDS[wanted.dtype.name]}"
            if not isinstance(wanted, tf.io.FixedLenFeature):
                continue
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
