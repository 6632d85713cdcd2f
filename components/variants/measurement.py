"""Measures one .tflite: what it answers, how fast, in how much memory. Meant for `components.isolate`: interpreters crash.

No TensorFlow here: ai-edge-litert is the interpreter that devices run, and it imports in a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.variants import evaluation
from components.variants.evaluation import Array, Comparison, Edge
from serving import tflite_latency


class Latency(BaseModel):
    """Milliseconds of one call: one thread, one example, warm, from setting the inputs to having run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float
    p95_ms: float
    calls: int


class Measured(BaseModel):
    """What was measured of a .tflite.

    Attributes:
        comparison: Against the float model, on the whole eval split.
        arena_bytes: Memory for activations; see `arena_bytes`.
        ops: By the schema's names.
        float_ops: Those of them that compute in floating point; QUANTIZE and DEQUANTIZE only where no other does.
        constants: Tensors that are stored in the file, such as weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    comparison: Comparison
    latency: Latency
    arena_bytes: int
    ops: dict[str, int]
    float_ops: tuple[str, ...]
    constants: int
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]


def measure(
    *,
    tflite: str,
    signature: str,
    output: str,
    inputs: Sequence[str],
    slices: Sequence[str],
    folder: str,
    latency_calls: int,
) -> dict[str, Any]:
    """Measures a .tflite on the eval files of a folder.

    Args:
        tflite: The file.
        signature: Key of its signature.
        output: The output that is compared with the float model's.
        inputs: The signature's inputs, in the order of the eval files.
        slices: The slices' names, in the order of the eval files' ids.
        folder: What `preparation.prepare` wrote.
        latency_calls: Calls to measure.

    Returns:
        A `Measured` as a dict.

    Raises:
        TflineError: The file cannot be compared with the float model.
    """
    content = Path(tflite).read_bytes()
    batches = sorted(Path(folder).glob("eval-*.npz"))
    runner = evaluation.TFLiteRunner(content, signature, inputs)
    comparison = evaluation.compare(runner, output, batches, inputs, slices)
    with np.load(batches[0], allow_pickle=False) as saved:
        first = {name: saved[f"input_{index}"][:1] for index, name in enumerate(inputs)}
    timed = tflite_latency.measure(content, signature=signature, calls=latency_calls, seconds=0, arrays=first)
    return Measured(
        comparison=comparison,
        latency=Latency(p50_ms=timed.p50_ms, p95_ms=timed.p95_ms, calls=timed.calls),
        arena_bytes=arena_bytes(content, signature, first),
        ops=evaluation.list_ops(content),
        float_ops=tuple(evaluation.float_ops(content)),
        constants=len(_constant_tensors(content)),
        inputs=tuple(runner.inputs.values()),
        outputs=tuple(runner.outputs.values()),
    ).model_dump()


def arena_bytes(content: bytes, signature: str, example: dict[str, Array]) -> int:
    """How much memory the tensors of a .tflite that are not in the file take at once: its activations and kernels' scratch.

    The interpreter does not tell the size of its arena, but where in it each tensor lies: this is the size of the union of those
    places, after one call for one example. The kernels are TFLite's own: a delegate such as XNNPACK has memory of its own, which
    nothing tells of. Tensors of no fixed size count with what they have then, those of text not at all.

    Args:
        content: The .tflite.
        signature: Key of its signature.
        example: One example's real input values [1, …] by name: an op such as GATHER fails on what memory holds by chance.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain)
    runner = interpreter.get_signature_runner(signature)
    edges = {name: evaluation.make_edge(name, detail) for name, detail in runner.get_input_details().items()}
    runner(**{name: np.ascontiguousarray(edge.stored(example[name])) for name, edge in edges.items()})
    stored = _constant_tensors(content)
    places = []
    for detail in interpreter.get_tensor_details():
        # Asking for a view of text crashes the process (ai-edge-litert 2.1.6).
        if detail["index"] in stored or np.dtype(detail["dtype"]).kind in "SO":
            continue
        try:
            view = interpreter.tensor(detail["index"])()
        except ValueError:  # a tensor without memory, as an optional or an unused one is
            continue
        start = view.__array_interface__["data"][0]
        places.append((start, start + view.nbytes))
    return _union(places)


def _union(places: Sequence[tuple[int, int]]) -> int:
    """How many addresses lie in at least one of some half-open intervals."""
    ends = sorted({end for place in places for end in place})
    return sum(high - low for low, high in pairwise(ends) if any(start <= low and high <= end for start, end in places))


def _constant_tensors(content: bytes) -> set[int]:
    """The tensors of the main graph whose values are in the file."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return {
        index
        for index, tensor in enumerate(model.subgraphs[0].tensors)
        if model.buffers[tensor.buffer].data is not None and not tensor.isVariable
    }
