"""Runs a .tflite with ai-edge-litert and compares it with what the float model gave: accuracy, agreement, differences.

No TensorFlow here: the interpreter is the one that devices run, and it imports in a tenth of a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from components.errors import TflineError
from components.summary import Table

Array = npt.NDArray[Any]

_FLOATS = ("FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16")
_EDGE_OPS = ("QUANTIZE", "DEQUANTIZE")


class Edge(BaseModel):
    """One input or output of a .tflite: real value = scale * (stored value - zero_point); scale None where nothing is quantized.

    Attributes:
        shape: With -1 for an open dimension.
        dtype: NumPy's name of the stored type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None

    def stored(self, values: Array) -> Array:
        """Real values as the model takes them: quantized with rounding to the nearest and clipping, or cast."""
        if self.scale is None or self.zero_point is None:
            return values.astype(self.dtype) if values.dtype.kind != "S" else values
        limits = np.iinfo(self.dtype)
        # In float64: a float32 quotient can fall on the wrong side of a half.
        steps = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max), dtype=self.dtype)

    def real(self, stored: Array) -> Array:
        """What the model gave, as real float64 values."""
        values = stored.astype(np.float64)
        if self.scale is None or self.zero_point is None:
            return values
        return np.asarray((values - self.zero_point) * self.scale)


class Comparison(BaseModel):
    """A .tflite against its float model on the same examples.

    Attributes:
        accuracy_drop: Float accuracy minus the .tflite's; negative when quantization helped.
        agreement: Share of the examples on which both give the same class.
        rms_difference, max_difference: Of the outputs, over all examples and classes, in the output's own unit.
        labels: One row a label that occurs: its examples and each model's share of right answers among them.
        slices: The same for each slice that occurs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eval_examples: int
    accuracy_float: float
    accuracy_tflite: float
    accuracy_drop: float
    agreement: float
    rms_difference: float
    max_difference: float
    labels: Table
    slices: Table


class TFLiteRunner:
    """One signature of a .tflite, called with real values by input name.

    Attributes:
        inputs, outputs: The edges by name.
    """

    def __init__(self, content: bytes, signature: str, inputs: Sequence[str]) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content)
        present = interpreter.get_signature_list()
        # The Python interpreter can miss signatures that the flatbuffer has; without them inputs could only be told by position.
        if signature not in present:
            raise TflineError(f"the .tflite has no signature {signature!r} that ai-edge-litert finds; it finds {sorted(present)}")
        self._runner = interpreter.get_signature_runner(signature)
        self.inputs = {name: make_edge(name, detail) for name, detail in sorted(self._runner.get_input_details().items())}
        self.outputs = {name: make_edge(name, detail) for name, detail in sorted(self._runner.get_output_details().items())}
        if sorted(inputs) != list(self.inputs):
            raise TflineError(f"the .tflite takes {list(self.inputs)}, the SavedModel's signature {signature!r} {sorted(inputs)}")
        self._batched = all(edge.shape[:1] == (-1,) for edge in self.inputs.values())

    def __call__(self, values: dict[str, Array], output: str) -> Array:
        """Runs a batch: real input values [n, …] by name; gives the real values of one output [n, …], float64.

        The batch goes in at once only where the file leaves that dimension open. Resizing a file with batch 1 makes XNNPACK
        fail on reshapes to constant shapes, so that one gets one example at a time.
        """
        stored = {name: np.ascontiguousarray(edge.stored(values[name])) for name, edge in self.inputs.items()}
        count = len(next(iter(stored.values())))
        step = count if self._batched else 1
        parts = [
            self._runner(**{name: array[start : start + step] for name, array in stored.items()})[output]
            for start in range(0, count, step)
        ]
        return self.outputs[output].real(np.concatenate(parts))


def list_ops(content: bytes) -> dict[str, int]:
    """How often each op occurs in a .tflite, over all its subgraphs, by the schema's names; a custom op by its own name."""
    return dict(Counter(name for name, _ in _operators(content)))


def float_ops(content: bytes) -> list[str]:
    """The ops of a .tflite that touch floating-point tensors, by name; QUANTIZE and DEQUANTIZE only when no other does.

    `OpsSet.TFLITE_BUILTINS_INT8` does not refuse an op without an int8 kernel: the converter puts it, in float, between a
    DEQUANTIZE and a QUANTIZE.
    """
    found = {name for name, types in _operators(content) if any(kind in _FLOATS for kind in types)}
    return sorted(found.difference(_EDGE_OPS) or found)


def compare(
    runner: TFLiteRunner, output: str, batches: Sequence[Path], inputs: Sequence[str], slices: Sequence[str] = ()
) -> Comparison:
    """Runs the .tflite over the eval files that `preparation.prepare` wrote and compares it with the float outputs in them.

    The class is the argmax of an output [n, classes], and `output > 0.5` for [n] or [n, 1], so there it has to be a probability.

    Args:
        runner: The .tflite.
        output: Which of its outputs.
        batches: The eval files.
        inputs: The inputs' names, in the order of the files.
        slices: The slices' names, in the order of the files' ids.

    Raises:
        TflineError: When the output has another rank, a label is no class of it, or it has values that are not finite.
    """
    by_label: Counter[tuple[int, bool, bool]] = Counter()
    by_slice: Counter[tuple[int, bool, bool]] = Counter()
    same = total = 0
    squares = largest = 0.0
    elements = 0
    for batch in _read(batches, inputs):
        expected = batch.expected
        given = runner(batch.inputs, output).reshape(expected.shape)
        if not np.isfinite(given).all():
            raise TflineError(f"the .tflite gives values in {output!r} that are not finite")
        classes = _check_labels(batch.labels, expected, output)
        wanted, came = _class_of(expected), _class_of(given)
        right, kept = wanted == classes, came == classes
        by_label.update(zip(classes.tolist(), right.tolist(), kept.tolist(), strict=True))
        rows = batch.slice_rows
        by_slice.update(zip(batch.slice_ids.tolist(), right[rows].tolist(), kept[rows].tolist(), strict=True))
        difference = np.abs(given - expected)
        same, total, elements = same + int((wanted == came).sum()), total + len(classes), elements + difference.size
        squares, largest = squares + float(np.square(difference).sum()), max(largest, float(difference.max()))
    right_float = sum(count for (_, right, _), count in by_label.items() if right)
    right_tflite = sum(count for (_, _, right), count in by_label.items() if right)
    return Comparison(
        eval_examples=total,
        accuracy_float=right_float / total,
        accuracy_tflite=right_tflite / total,
        accuracy_drop=(right_float - right_tflite) / total,
        agreement=same / total,
        rms_difference=float(np.sqrt(squares / elements)),
        max_difference=largest,
        labels=_table("label", by_label, {label: label for label in sorted({key[0] for key in by_label})}),
        slices=_table("slice", by_slice, dict(sorted(enumerate(slices), key=lambda item: item[1]))),
    )


def make_edge(name: str, detail: dict[str, Any]) -> Edge:
    """An edge from what a signature runner's `get_input_details` or `get_output_details` has under its name."""
    scale, zero_point = detail["quantization"]
    quantized = scale != 0.0 and np.dtype(detail["dtype"]).kind in "iu"
    return Edge(
        name=name,
        shape=tuple(int(size) for size in detail["shape_signature"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale) if quantized else None,
        zero_point=int(zero_point) if quantized else None,
    )


def _operators(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Each operator's name and the types of the tensors it touches (the schema is that of tensorflow/lite/schema/schema.fbs)."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            # Codes above 127 are in the newer field only, old files have the old one only: the schema says to take the larger.
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            touched = [*operator.inputs, *operator.outputs]
            yield (
                code.customCode.decode() if name == "CUSTOM" else name,
                [types[graph.tensors[index].type] for index in touched if index >= 0],
            )


class _Batch(NamedTuple):
    labels: Array
    expected: Array
    inputs: dict[str, Array]
    slice_rows: Array
    slice_ids: Array


def _read(batches: Sequence[Path], inputs: Sequence[str]) -> Iterator[_Batch]:
    for path in batches:
        with np.load(path, allow_pickle=False) as saved:
            values = {name: saved[f"input_{index}"] for index, name in enumerate(inputs)}
            expected = saved["expected"].astype(np.float64)
            yield _Batch(saved["label"], expected, values, saved["slice_rows"], saved["slice_ids"])


def _class_of(outputs: Array) -> Array:
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(axis=1))
    return (outputs.reshape(-1) > 0.5).astype(np.int64)


def _check_labels(labels: Array, expected: Array, output: str) -> Array:
    """The labels as class numbers [n] int64."""
    if expected.ndim not in (1, 2) or len(expected) != len(labels):
        raise TflineError(
            f"output {output!r} has shape {list(expected.shape)} for {len(labels)} examples; accuracy needs [n], [n, 1] or "
            "[n, classes]"
        )
    count = expected.shape[1] if expected.ndim == 2 and expected.shape[1] > 1 else 2
    wrong = ~np.isin(labels, np.arange(count))
    if wrong.any():
        raise TflineError(
            f"the label {labels[wrong][0]:g} is none of the {count} classes of output {output!r} (0 to {count - 1})"
        )
    return labels.astype(np.int64)


def _table(title: str, tally: Counter[tuple[int, bool, bool]], names: Mapping[int, Any]) -> Table:
    """One row a group of examples, in the order of the names: how many, and each model's share of right answers among them."""
    rows = []
    for group, name in names.items():
        mine = {(right_float, right_tflite): count for (of, right_float, right_tflite), count in tally.items() if of == group}
        count = sum(mine.values())
        right = [sum(amount for key, amount in mine.items() if key[index]) / count for index in (0, 1)]
        rows.append((name, count, *right))
    return Table(columns=(title, "examples", "float", "tflite"), rows=tuple(rows))
