"""A model without TensorFlow's runtime, for tests of what lies above it: `half_plus_two` and friends, computed by NumPy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server.lifecycle import Loaded, State, VersionStatus
from serving.server.predict_checks import CLASSIFY_METHOD, PREDICT_METHOD, REGRESS_METHOD
from serving.server.servable import Arrays, Signature, TensorSpec
from serving.server.status import StatusError, invalid, not_found

FLOAT, STRING, INT64 = types_pb2.DT_FLOAT, types_pb2.DT_STRING, types_pb2.DT_INT64
_DTYPES: Mapping[int, Any] = {FLOAT: np.dtype("float32"), STRING: np.dtype(object), INT64: np.dtype("int64")}


def spec(alias: str, tf_dtype: int = FLOAT, shape: tuple[int | None, ...] | None = (None,), feed: str = "") -> TensorSpec:
    return TensorSpec(alias, _DTYPES[tf_dtype], tf_dtype, shape, feed or f"{alias}:0")


def signature(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    method: str = PREDICT_METHOD,
    defaults: Arrays | None = None,
) -> Signature:
    proto = meta_graph_pb2.SignatureDef(method_name=method)
    for specs, infos in ((inputs, proto.inputs), (outputs, proto.outputs)):
        for each in specs:
            infos[each.alias].name = each.feed
            infos[each.alias].dtype = each.tf_dtype
    return Signature({i.alias: i for i in inputs}, {o.alias: o for o in outputs}, method, defaults or {}, proto)


SIGNATURES: Mapping[str, Signature] = {
    "serving_default": signature([spec("x")], [spec("y")]),
    "two": signature([spec("a"), spec("b", feed="B:0")], [spec("sum"), spec("product")]),
    "defaulted": signature([spec("a"), spec("b")], [spec("sum")], defaults={"b": np.array([10.0], "float32")}),
    "classify": signature(
        [spec("inputs", STRING, feed="examples:0")],
        [spec("classes", STRING, (None, 2)), spec("scores", FLOAT, (None, 2))],
        CLASSIFY_METHOD,
    ),
    "regress": signature([spec("inputs", STRING, feed="examples:0")], [spec("outputs", FLOAT, (None, 1))], REGRESS_METHOD),
    "odd": signature([spec("x")], [spec("y")], "somebody/else"),
}


class FakeServable:
    """Computes by NumPy: y = x/2 + 2; sum and product; two classes with the lengths of the Examples as scores; the lengths.

    Attributes:
        runs: What was asked, newest last: signature and outputs.
        gate: Closed (cleared), runs wait until it opens or their deadline is over.
    """

    def __init__(self) -> None:
        self.signatures: Mapping[str, Signature] = SIGNATURES
        self.all_signatures: Mapping[str, Any] = {
            **{key: each.proto for key, each in SIGNATURES.items()},
            "__saved_model_init_op": meta_graph_pb2.SignatureDef(),
        }
        self.runs: list[tuple[str, tuple[str, ...]]] = []
        self.deadlines: list[float | None] = []
        self.examples: list[bytes] = []
        self.fails: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        self.gate.wait(10)
        self.runs.append((signature, tuple(outputs)))
        self.deadlines.append(deadline)
        if self.fails:
            raise self.fails
        every = self._compute(inputs)
        return {alias: every[alias] for alias in outputs}

    def _compute(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        if "x" in inputs:
            return {"y": (inputs["x"] / 2 + 2).astype("float32")}
        if "a" in inputs:
            return {"sum": inputs["a"] + inputs["b"], "product": inputs["a"] * inputs["b"]}
        self.examples = inputs["inputs"].tolist()
        lengths = np.array([[len(example)] for example in self.examples], "float32")
        classes = np.empty((len(lengths), 2), object)
        classes[:, 0], classes[:, 1] = b"short", b"long"
        return {"classes": classes, "scores": np.concatenate([lengths, -lengths], 1), "outputs": lengths}

    def close(self) -> None:
        pass


class TensorServable(FakeServable):
    """One that can run across signatures."""

    def run_tensors(self, feeds: Arrays, fetches: Sequence[str], deadline: float | None = None) -> dict[str, npt.NDArray[Any]]:
        (given,) = feeds.values()
        self.runs.append((",".join(feeds), tuple(fetches)))
        every = self._compute({"inputs": given})
        return {fetch: every[fetch.removesuffix(":0")] for fetch in fetches}


class FakeModels:
    """One model, `half`, with versions 1 and 2 and the label `stable` on 1."""

    def __init__(self, servable: FakeServable | None = None) -> None:
        self.servable = servable or FakeServable()
        self.held = 0
        self.reloads: list[Any] = []
        self.timeouts: list[float | None] = []

    @contextmanager
    def acquire(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Loaded]:
        if label is not None:
            version = self.label_version(name, label)
        if name != "half" or version not in (None, 1, 2):
            raise not_found(
                f"Servable not found for request: {f'Latest({name})' if version is None else f'Specific({name}, {version})'}"
            )
        self.held += 1
        try:
            yield Loaded(name, version or 2, self.servable)
        finally:
            self.held -= 1

    def statuses(self, name: str, version: int | None = None) -> Sequence[VersionStatus]:
        if name != "half":
            raise not_found(f"Could not find any versions of model {name}")
        found = [VersionStatus(each, State.AVAILABLE) for each in (2, 1) if version in (None, each)]
        if not found:
            raise not_found(f"Could not find version {version} of model {name}")
        return found

    def label_version(self, name: str, label: str) -> int:
        if label != "stable":
            raise invalid(f"Unrecognized servable version label: {label}")
        return 1

    def reload(self, config: Any, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)
        if any(model.name == "bad" for model in config.model_config_list.config):
            raise StatusError(invalid("").code, "Expected model bad to have an absolute path or URI; got base_path()=x")
        self.reloads.append(config)

    def config(self) -> Any:
        return model_server_config_pb2.ModelServerConfig()

    def names(self) -> Sequence[str]:
        return ["half"]

    def ready(self) -> bool:
        return True
