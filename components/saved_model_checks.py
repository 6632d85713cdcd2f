"""What can be told about a SavedModel without running it: signatures, assets, ops, stored variables.

Everything here reads files and protocol buffers, so that `components.validate_model` can refuse a model before any of it runs.
The functions yield problems, each a sentence for people; none means that all is well. TensorFlow is imported inside the
functions: the configuration classes are also read by processes that never load it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INIT_OP = "__saved_model_init_op"
"""The signature under which TensorFlow 2 keeps the op that initialises tables; no client ever calls it."""

DENIED: Mapping[str, tuple[str, ...]] = {
    "calls a Python function of the process that exported the model": ("PyFunc*", "EagerPyFunc"),
    "reads a file": (
        *("ReadFile", "MatchingFiles", "WholeFileReader*", "TextLineReader*", "FixedLengthRecordReader*", "TFRecordReader*"),
        *("LMDBReader", "RecordInput", "ImmutableConst", "Restore", "RestoreSlice", "RestoreV2", "DTensorRestoreV2"),
        *("GenerateVocabRemapping", "LoadAndRemapMatrix", "Skipgram", "FixedUnigramCandidateSampler", "TextLineDataset*"),
        *(
            "TFRecordDataset*",
            "FixedLengthRecordDataset*",
            "*CSVDataset*",
            "*LMDBDataset",
            "*SqlDataset",
            "*MatchingFilesDataset",
        ),
        *("LoadDataset", "CacheDataset*", "Snapshot*Dataset*", "ListSnapshotChunksDataset", "FileSystemSetConfiguration"),
    ),
    "writes a file": (
        *("WriteFile", "Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints", "SaveDataset*", "*DatasetToTFRecord", "DumpTensor"),
        *("SummaryWriter", "Create*Writer", "Write*Summary", "ImportEvent", "FlushSummaryWriter", "CloseSummaryWriter"),
        *("StatsAggregatorSetSummaryWriter", "CalibrationStatisticsSaver", "DebugIdentity*", "DebugNanCount"),
        *("DebugNumericSummary*",),
    ),
    "talks to another process or machine": (
        *("Rpc*", "DeleteRpcFutureResource", "DataServiceDataset*", "RegisterDataset*", "DistributedSave", "RemoteCall"),
        *("Send", "Recv", "_Send", "_Recv", "_HostSend", "_HostRecv", "Collective*", "Nccl*", "_Nccl*"),
    ),
    "calls back into the host": (
        *("XlaHostCompute", "_XlaHostComputeMlir", "XlaSendToHost", "XlaRecvFromHost", "_XlaSendFromHost*", "_XlaRecvAtHost*"),
        *("Infeed*", "Outfeed*"),
    ),
    "ends the process that serves it": ("Abort",),
}
"""Op name patterns (fnmatch) that no signature may reach, by the reason. A served model is a function of its request and of the
files in its folder: whatever else it reads makes its answers irreproducible, and whatever it writes, calls or kills is more than
a server grants to a file that somebody pushed. Drawn up from the 1910 ops registered in TensorFlow 2.21; ops of other libraries
are not in a plain runtime and fail to load. PrintV2 is refused only when it prints to a file."""

_RESTORING = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
_FILENAME_INPUT = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1}
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_OPTIMIZERS = frozenset(
    {"optimizer", "experimentalOptimizer"}
)  # SavedUserObject.identifier of tf_keras's legacy and new optimizers

DType = Literal[
    "bfloat16", "bool", "complex64", "complex128", "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "string",
]  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorConfig(_Frozen):
    """One tensor of a signature: TensorFlow's name of its dtype, and its shape, where None is a dimension of any size."""

    dtype: DType
    shape: tuple[Annotated[int, Field(ge=0)] | None, ...]


class SignatureConfig(_Frozen):
    """What a signature takes and answers, by the names that clients use."""

    inputs: dict[str, TensorConfig]
    outputs: dict[str, TensorConfig] = Field(min_length=1)


class TensorFound(_Frozen):
    """A tensor as the SavedModel declares it; shape None is an unknown rank."""

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype} {'of unknown rank' if self.shape is None else list(self.shape)}"

    def declared(self) -> str:
        """As pipeline.yaml would declare it."""
        shape = "unknown" if self.shape is None else ", ".join("null" if size is None else str(size) for size in self.shape)
        return f"{{dtype: {self.dtype}, shape: [{shape}]}}"


class SignatureFound(_Frozen):
    """A signature as the SavedModel declares it."""

    inputs: dict[str, TensorFound]
    outputs: dict[str, TensorFound]


def first_line(error: BaseException) -> str:
    """An exception in one line: TensorFlow puts a heading before what is wrong, and the stack of the whole graph behind it."""
    lines = (line.strip() for line in str(error).splitlines())
    told = next(
        (line for line in lines if line and not line.startswith(("Graph execution error", "Detected at node", "<stack"))), ""
    )
    return f"{type(error).__name__}: {told[:400]}"


class Unreadable(Exception):
    """The export, or a part of it, cannot be read; the message says which part and why."""


def read_meta_graph(folder: Path) -> Any:
    """The MetaGraphDef tagged "serve" of `<folder>/saved_model.pb`; Unreadable when there is none."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path, model = folder / "saved_model.pb", saved_model_pb2.SavedModel()
    try:
        content = path.read_bytes()
        model.ParseFromString(content)
    except OSError as error:
        raise Unreadable(f"saved_model.pb cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise Unreadable(f"saved_model.pb ({len(content)} bytes) was cut short or is no SavedModel: {error}") from error
    tags = [sorted(meta.meta_info_def.tags) for meta in model.meta_graphs]
    if ["serve"] not in tags:
        raise Unreadable(f"expected a graph tagged ['serve'], saved_model.pb has {tags}")
    return model.meta_graphs[tags.index(["serve"])]


def found_signatures(meta: Any) -> dict[str, SignatureFound]:
    """The signatures of a MetaGraphDef as clients see them, without the init op."""
    import tensorflow as tf

    def tensor(info: Any) -> TensorFound:
        dims = None if info.tensor_shape.unknown_rank else tuple(d.size if d.size >= 0 else None for d in info.tensor_shape.dim)
        return TensorFound(dtype=tf.as_dtype(info.dtype).name, shape=dims)

    return {
        name: SignatureFound(
            inputs={key: tensor(info) for key, info in sorted(signature.inputs.items())},
            outputs={key: tensor(info) for key, info in sorted(signature.outputs.items())},
        )
        for name, signature in sorted(meta.signature_def.items())
        if name != INIT_OP
    }


def signature_problems(name: str, declared: SignatureConfig | None, found: SignatureFound | None) -> Iterator[str]:
    """Every way in which one signature is not what the config declares; None is a signature that is not there."""
    if declared is None:
        yield f"{name}: the export has this signature, the config does not declare it"
    elif found is None:
        yield f"{name}: the config declares this signature, the export does not have it"
    else:
        for kind in ("inputs", "outputs"):
            wanted, present = getattr(declared, kind), getattr(found, kind)
            if wanted.keys() != present.keys():
                # In the form in which the config declares them, to be copied from here.
                received = ", ".join(f"{key}: {present[key].declared()}" for key in sorted(present)) or "none"
                yield f"{name}: expected {kind} {sorted(wanted)}, received {received}"
            for key in sorted(wanted.keys() & present.keys()):
                expected = TensorFound(dtype=wanted[key].dtype, shape=wanted[key].shape)
                if expected != present[key]:
                    yield f"{name}: expected {kind[:-1]} {key!r} as {expected}, received {present[key]}"


@dataclass
class Graph:
    """The nodes of a MetaGraphDef, and of its function library, as bodies: "" is the graph, any other name a function."""

    meta: Any
    bodies: dict[str, dict[str, Any]] = field(init=False)
    functions: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.functions = {function.signature.name: function for function in self.meta.graph_def.library.function}
        self.bodies = {name: {node.name: node for node in function.node_def} for name, function in self.functions.items()}
        self.bodies[""] = {node.name: node for node in self.meta.graph_def.node}

    def histogram(self) -> dict[str, int]:
        """How often each op occurs in the graph and the functions, the most frequent first."""
        counts = Counter(node.op for body in self.bodies.values() for node in body.values())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def roots(self) -> dict[str, list[str]]:
        """The nodes that a server runs, by the step it runs them in.

        The saver's save op is not among them, since no server calls it: that sets the SaveV2 and MergeV2Checkpoints of every
        SavedModel apart from the same ops in a signature. Its restore op is run once, at loading, and may restore.
        """
        init = (
            [tensor.name for tensor in self.meta.signature_def[INIT_OP].outputs.values()]
            if INIT_OP in self.meta.signature_def
            else []
        )
        for key in ("saved_model_main_op", "legacy_init_op"):  # what TensorFlow 1 and older servers look at
            init += self.meta.collection_def[key].node_list.value if key in self.meta.collection_def else []
        steps = {"the init op": init, "the restore op": [self.meta.saver_def.restore_op_name]}
        for name, signature in sorted(self.meta.signature_def.items()):
            if name != INIT_OP:
                steps[f"signature {name}"] = [part for info in signature.outputs.values() for part in _tensor_names(info)]
        return {step: [_node_name(name) for name in names if name] for step, names in steps.items()}

    def called(self, node: Any) -> Iterator[str]:
        """The functions that a node may call: named by its op, or by attributes (calls, branches, loop bodies, datasets)."""
        for attribute in node.attr.values():
            yield from (each.name for each in (attribute.func, *attribute.list.func) if each.name in self.functions)
        if node.op in self.functions:
            yield node.op

    def reached(self, roots: Iterable[str]) -> set[tuple[str, str]]:
        """(body, node) of all that running these nodes of the graph may run; of a called function, every node."""
        seen: set[tuple[str, str]] = set()
        stack = [("", name) for name in roots]
        while stack:
            body, name = place = stack.pop()
            node = self.bodies[body].get(name)
            if node is None or place in seen:  # an argument of the function is no node
                continue
            seen.add(place)
            stack += [(body, _node_name(source)) for source in node.input]
            stack += [(function, each) for function in self.called(node) for each in self.bodies[function]]
        return seen

    def sources(self, body: str, tensor: str, among: set[tuple[str, str]]) -> Iterator[Any]:
        """The nodes that the value of a tensor comes from, back through assignments, calls and arguments within `among`."""
        seen, stack = set[tuple[str, str]](), [(body, _node_name(tensor))]
        while stack:
            body, name = place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            node = self.bodies[body].get(name)
            if node is None:
                stack += self._passed_in(body, name, among)
                continue
            yield node
            for source in node.input:
                feeds = self.bodies[body].get(_node_name(source))
                if not source.startswith("^") or (feeds is not None and feeds.op.startswith("Assign")):
                    stack.append((body, _node_name(source)))
            stack += [(each, _node_name(value)) for each in self.called(node) for value in self.functions[each].ret.values()]

    def _passed_in(self, body: str, argument: str, among: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """What the callers of a function pass for one of its arguments; for ops other than plain calls, all that they pass."""
        names = [each.name for each in self.functions[body].signature.input_arg] if body else []
        if argument not in names:
            return
        for caller, name in among:
            node = self.bodies[caller][name]
            if body in self.called(node):
                data = [source for source in node.input if not source.startswith("^")]
                exact = node.op in _CALLS or node.op == body
                yield from ((caller, _node_name(each)) for each in (data[names.index(argument) :][:1] if exact else data))


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]


def _tensor_names(info: Any) -> list[str]:
    sparse = info.coo_sparse
    parts = [sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name]
    return [info.name, *parts, *(name for each in info.composite_tensor.components for name in _tensor_names(each))]


def asset_files(meta: Any) -> list[Any]:
    """The AssetFileDefs of a MetaGraphDef, where loaders look for them; TensorFlow 1 kept them in a collection."""
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

    kept = meta.collection_def["saved_model_assets"].any_list.value if "saved_model_assets" in meta.collection_def else []
    return list(meta.asset_file_def) or [AssetFileDef.FromString(each.value) for each in kept]


def asset_problems(folder: Path, graph: Graph) -> Iterator[str]:
    """Assets that are missing or lie outside the model's folder, and tables filled from files that are no assets of it."""
    root, declared = (folder / "assets").resolve(), asset_files(graph.meta)
    for asset in declared:
        path = (root / asset.filename).resolve()
        if not path.is_relative_to(root):
            yield f"asset {asset.filename!r} points outside the model's folder"
        elif not path.is_file():
            yield f"asset {asset.filename!r} is declared, assets/{asset.filename} does not exist"
    assets = {_node_name(asset.tensor_info.name) for asset in declared}
    for step, roots in graph.roots().items():
        reached = graph.reached(roots)
        for body, name in sorted(reached):
            node = graph.bodies[body][name]
            if node.op in _FILENAME_INPUT:
                for source in graph.sources(body, node.input[_FILENAME_INPUT[node.op]], reached):
                    if source.name not in assets and (filename := _outside_string(source)):
                        yield f"{step} fills a table from {filename}, which is no asset of the model and does not move with it"


def _outside_string(node: Any) -> str:
    """What a node brings into the graph, if that is a string: a constant, or what a request feeds; else ""."""
    from tensorflow.core.framework.types_pb2 import DT_STRING

    if node.attr["dtype"].type != DT_STRING:
        return ""
    if node.op == "Placeholder":
        return f"a file that the request names in {node.name!r}"
    values = node.attr["value"].tensor.string_val[:3]
    return (
        f"the fixed file name {', '.join(repr(value.decode(errors='replace')) for value in values)}" if node.op == "Const" else ""
    )


def op_problems(graph: Graph, allowed: Iterable[str]) -> Iterator[str]:
    """Each op of the deny-list that a server would run, once a step, with the place of one occurrence."""
    permitted = frozenset(allowed)
    for step, roots in graph.roots().items():
        exempt = permitted | _RESTORING if step == "the restore op" else permitted
        places = {(op, body, name) for body, name in graph.reached(roots) if (op := graph.bodies[body][name].op) not in exempt}
        told: set[str] = set()
        for op, body, name in sorted(places):
            reason = denied(graph.bodies[body][name])
            if reason and op not in told:
                told.add(op)
                yield f"{step} reaches {op}, which {reason} (node {name!r}{f' of function {body}' if body else ''})"


def denied(node: Any) -> str:
    """Why an op (NodeDef) may not be served, "" when it may."""
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file://"):
        return "writes a file"
    return _reason(node.op)


@cache
def _reason(op: str) -> str:
    return next((reason for reason, names in DENIED.items() if any(fnmatchcase(op, name) for name in names)), "")


def stored_variables(folder: Path, meta: Any) -> list[str]:
    """The keys of the variables under `<folder>/variables`; Unreadable when they cannot be listed, or are missing but needed."""
    import tensorflow as tf

    prefix = folder / "variables" / "variables"
    if not prefix.with_suffix(".index").exists():
        if not meta.saver_def.restore_op_name:
            return []
        # The loaders of TensorFlow and TF Serving only log this, and then serve variables that were never restored.
        raise Unreadable("variables/variables.index is missing, and the graph restores its variables from it")
    try:
        keys = tf.train.load_checkpoint(str(prefix)).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise Unreadable(f"variables/variables.index cannot be read: {first_line(error)}") from error
    return sorted(key for key in keys if key != "_CHECKPOINTABLE_OBJECT_GRAPH")


def optimizer_variables(objects: Any) -> list[str]:
    """Names of the variables in a SavedObjectGraph that only an optimizer holds: its slots, counters and rates."""
    nodes = objects.nodes
    optimizers = {index for index, node in enumerate(nodes) if node.user_object.identifier in _OPTIMIZERS or node.slot_variables}
    optimizers |= {edge.node_id for node in nodes for edge in node.children if edge.local_name in ("optimizer", "_optimizer")}

    def held(start: Iterable[int], barred: set[int]) -> set[int]:
        seen: set[int] = set()
        stack = list(start)
        while stack:
            index = stack.pop()
            if index not in seen and index not in barred:
                seen.add(index)
                stack += [edge.node_id for edge in nodes[index].children]
                stack += [slot.slot_variable_node_id for slot in nodes[index].slot_variables]
        return seen

    mine = held(optimizers, set()) - held([0] if nodes else [], optimizers)
    return [nodes[index].variable.name or f"object {index}" for index in sorted(mine) if nodes[index].HasField("variable")]
