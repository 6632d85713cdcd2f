"""How a SavedModel's graph and the keys of its checkpoint belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

_SLOT = "/.OPTIMIZER_SLOT/"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def saved_variables(objects: Any) -> Callable[[str], Any]:
    """Looks up the SavedVariable that a SavedObjectGraph has for a checkpoint key; None when it has none (TensorFlow 1, tables).

    A key is the path of attribute names from the root to the variable, with dots and slashes escaped
    (tensorflow/python/checkpoint/util.py); a slot variable's is that of its variable, of its optimizer, and the slot's name.
    """
    nodes = objects.nodes

    @cache
    def children(node: int) -> dict[str, int]:
        return {edge.local_name: edge.node_id for edge in nodes[node].children if 0 <= edge.node_id < len(nodes)}

    def walk(path: str) -> int | None:
        node: int | None = 0 if nodes else None
        for name in path.split("/"):
            node = None if node is None else children(node).get(_unescape(name))
        return node

    def find(key: str) -> Any:
        if not key.endswith(_VALUE):
            return None
        owner, _, slot = key.removesuffix(_VALUE).partition(_SLOT)
        node = walk(owner)
        if slot and node is not None:
            path, _, name = slot.rpartition("/")
            optimizer = walk(path)
            slots = nodes[optimizer].slot_variables if optimizer is not None else []
            matches = (each for each in slots if each.original_variable_node_id == node and each.slot_name == _unescape(name))
            node = next((each.slot_variable_node_id for each in matches), None)
        if node is None or not 0 <= node < len(nodes) or nodes[node].WhichOneof("kind") != "variable":
            return None
        return nodes[node].variable

    return find


def restored_keys(meta: Any) -> set[str]:
    """The keys that the restore op of a MetaGraphDef reads from the checkpoint."""
    functions = {function.signature.name: function.node_def for function in meta.graph_def.library.function}
    graph = {node.name: node for node in meta.graph_def.node}
    reached: dict[str, Any] = {}
    called: dict[str, Any] = {}
    stack = [meta.saver_def.restore_op_name]
    while stack:
        name = _node_name(stack.pop())
        if name in graph and name not in reached:
            reached[name] = graph[name]
            stack += graph[name].input
    calls = list(reached.values())
    while calls:
        for function in (attribute.func.name for attribute in calls.pop().attr.values()):
            if function in functions and function not in called:
                called[function] = functions[function]
                calls += functions[function]
    bodies: Iterable[Iterable[Any]] = [reached.values(), *called.values()]
    return {key for body in bodies for key in _read_by(body)}


def _read_by(body: Iterable[Any]) -> Iterator[str]:
    """The keys that the RestoreV2 ops of one graph or function name; its inputs are prefix, names and slices."""
    nodes = {node.name: node for node in body}
    for node in nodes.values():
        source = nodes.get(_node_name(node.input[1])) if node.op == "RestoreV2" and len(node.input) > 1 else None
        if source is not None and source.op == "Const":
            yield from (name.decode(errors="replace") for name in source.attr["value"].tensor.string_val)


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]


def _unescape(name: str) -> str:
    return re.sub(r"\.([.S])", lambda match: "/" if match[1] == "S" else ".", name)
