"""Freezing and folding, counted: the ops of a signature as it was saved, frozen, and optimised by TensorFlow's own optimiser."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.errors import TflineError

_VARIABLE_READS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableV2")


class GraphCounts(BaseModel):
    """What one signature consists of, before the TFLite converter has it; ops go over the graph and its function library.

    Attributes:
        saved_model, frozen, optimised: Op to how often it occurs: in the SavedModel's signature; with its variables replaced by
            constants; and after Grappler, TensorFlow's graph optimiser.
        variables: Variables that the signature reads in the SavedModel.
        reads, frozen_reads, optimised_reads: Ops that read one; 0 when frozen.
        float_weights_bytes: Of those variables; 0 for a model that was exported with constants in their place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    saved_model: dict[str, int]
    frozen: dict[str, int]
    optimised: dict[str, int]
    variables: int
    reads: int
    frozen_reads: int
    optimised_reads: int
    float_weights_bytes: int


def count_graphs(function: Any, signature: str) -> GraphCounts:
    """Counts a concrete function.

    Args:
        function: The signature.
        signature: Its key, for the error.

    Raises:
        TflineError: Variables are still read after freezing.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # The frozen graph is counted, not converted: the converter freezes by itself, and on a graph whose functions are inlined
    # already it no longer sees an LSTM as one op, and crashes.
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    before, after = _count(function.graph.as_graph_def()), _count(graph)
    if reads := _reads(after):
        raise TflineError(f"signature {signature!r} still reads {reads} variables after freezing: they are changed at inference")
    best = _count(_optimise(graph, [tensor.op.name for tensor in frozen.outputs]))
    return GraphCounts(
        saved_model=before,
        frozen=after,
        optimised=best,
        variables=len(function.variables),
        reads=_reads(before),
        frozen_reads=reads,
        optimised_reads=_reads(best),
        float_weights_bytes=sum(int(variable.shape.num_elements()) * variable.dtype.size for variable in function.variables),
    )


def _optimise(graph: Any, outputs: list[str]) -> Any:
    """What Grappler makes of a GraphDef, with the optimisers that a TensorFlow session or function runs by default."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    meta = meta_graph_pb2.MetaGraphDef()
    meta.graph_def.CopyFrom(graph)
    # Grappler keeps what leads to the nodes of this collection (tensorflow/core/grappler/grappler_item_builder.cc).
    meta.collection_def["train_op"].node_list.value.extend(outputs)
    config = config_pb2.ConfigProto()
    # Grappler leaves graphs of fewer than four nodes alone unless told (rewriter_config.proto).
    config.graph_options.rewrite_options.min_graph_nodes = -1
    with tf.device("/cpu:0"):
        return tf_optimizer.OptimizeGraph(config, meta)


def _count(graph: Any) -> Counter[str]:
    ops = Counter(node.op for node in graph.node)
    for function in graph.library.function:
        ops.update(node.op for node in function.node_def)
    return ops


def _reads(ops: Counter[str]) -> int:
    return sum(ops[op] for op in _VARIABLE_READS)
