"""SavedModels of TensorFlow 1 and 2, each in a session and a graph of its own.

All that is private in TensorFlow and used by the server is in this module: `SavedModelLoader`, `TF_SessionRun_wrapper`,
`TF_NewBufferFromString`, `TF_DeleteBuffer`, `Session._session`, `Tensor._as_tf_output`. Checked with TensorFlow 2.21. They are
used since `Session.run` refuses shape [1] for a [?, 1] placeholder and silently casts int32 to float. (`Session.make_callable`
goes through it; `Session._make_callable_from_options` does not, but fixes the timeout for all its calls.)

How a run is done depends on how long it is likely to take. Without a change of threads a small model answers in 30 µs, against
45 µs (and 100 µs in one of ten) through TensorFlow's thread pool; but only a run in the pool stops at its deadline and computes
operations side by side. So a call stays in its own thread when calls with as much input have been quick, see `QUICK`.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.saved_model_folder import LARGEST_PROTO
from serving.server.runtime_options import RuntimeOptions, session_config
from serving.server.servable import Arrays, Signature, TensorSpec
from serving.server.status import Code, StatusError, invalid, not_found
from serving.server.tensors import check_dtype, numpy_dtype, to_array

QUICK = 0.005
"""Seconds; a call that takes less is not worth the thread pool."""

PREDICT_METHOD = "tensorflow/serving/predict"


@cache
def _tensorflow() -> Any:
    """TensorFlow, imported when the first model is loaded.

    Its hundreds of thousands of objects stay for ever: taken out of the garbage collector's sight (gc.freeze), they no longer
    make each collection, such as the one after an unload, stop all requests for a quarter of a second.
    """
    import tensorflow as tf

    gc.collect()
    gc.freeze()
    return tf


def _buffer(message: Any) -> Any:
    from tensorflow.python.client import pywrap_tf_session

    return pywrap_tf_session.TF_NewBufferFromString(message.SerializeToString())


class _Plan:
    """One set of tensors to feed and one to fetch; made once, used from many threads."""

    def __init__(self, graph: Any, feeds: Sequence[str], fetches: Sequence[str]) -> None:
        try:
            tensors = [graph.get_tensor_by_name(name) for name in feeds]
            self.fetches = [graph.get_tensor_by_name(name)._as_tf_output() for name in fetches]
        except (KeyError, ValueError, TypeError) as error:
            raise invalid(str(error.args[0]) if error.args else str(error)) from None
        self.names = list(fetches)
        self._inputs = [
            (name, tensor._as_tf_output(), numpy_dtype(tensor.dtype.as_datatype_enum))
            for name, tensor in zip(feeds, tensors, strict=True)
        ]
        self.quick_bytes = -1
        """The most input with which a call was quick; a benign race of threads may lose an update."""

    def feed(self, arrays: Arrays) -> tuple[dict[Any, npt.NDArray[Any]], int]:
        """What TF_SessionRun takes, and how many bytes it is (of strings: of their pointers).

        Raises:
            StatusError: As `check_dtype`; arguments are in the order of their tensors' names.
        """
        fed, size = {}, 0
        for position, (name, output, dtype) in enumerate(self._inputs):
            array = arrays[name]
            check_dtype(array, dtype, position)
            fed[output] = array
            size += array.nbytes
        return fed, size

    def took(self, seconds: float, size: int) -> None:
        """Learns from a call."""
        if seconds < QUICK:
            self.quick_bytes = max(self.quick_bytes, size)
        elif size <= self.quick_bytes:
            self.quick_bytes = size - 1


class SessionServable:
    """A SavedModel in a session; `serving.server.servable.Servable`, and RunsTensors."""

    def __init__(self, session: Any, signatures: Mapping[str, Any]) -> None:
        """Takes over the session. `signatures`: the SavedModel's SignatureDefs."""
        from tensorflow.core.protobuf.config_pb2 import RunOptions
        from tensorflow.python.client import pywrap_tf_session

        self.all_signatures: Mapping[str, Any] = signatures
        self.signatures: Mapping[str, Signature] = {
            key: signature for key, proto in sorted(signatures.items()) if (signature := read_signature(proto)) is not None
        }
        self._session = session
        self._wrapper = pywrap_tf_session
        self._run_options = RunOptions
        self._own_thread = _buffer(RunOptions(inter_op_thread_pool=-1))
        self._error = _tensorflow().errors.OpError
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], _Plan] = {}
        self._lock = threading.Lock()

    def run(
        self, signature: str, inputs: Arrays, outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """See Servable.run; a wrong dtype is refused here as TensorFlow does it."""
        called = self.signatures[signature]
        feeds = {spec.feed: inputs[alias] for alias, spec in called.inputs.items()}
        names = [called.outputs[alias].feed for alias in outputs]
        fetched = self.run_tensors(feeds, names, deadline)
        return {alias: fetched[name] for alias, name in zip(outputs, names, strict=True)}

    def run_tensors(self, feeds: Arrays, fetches: Sequence[str], deadline: float | None = None) -> dict[str, npt.NDArray[Any]]:
        """See RunsTensors.run_tensors."""
        plan = self._plan(tuple(sorted(feeds)), tuple(sorted(set(fetches))))
        fed, size = plan.feed(feeds)
        start = time.monotonic()
        try:
            if size <= plan.quick_bytes and (deadline is None or start < deadline):
                values = self._wrapper.TF_SessionRun_wrapper(
                    self._session._session, self._own_thread, fed, plan.fetches, [], None
                )
            else:
                values = self._run_in_pool(fed, plan, None if deadline is None else deadline - start)
        except self._error as error:
            raise _status(error) from None
        except UnicodeDecodeError as error:
            # TensorFlow's message quotes an input that is no UTF-8, such as a broken tf.Example; its code is lost on the way.
            raise invalid(error.object.decode("utf-8", "replace")) from None
        plan.took(time.monotonic() - start, size)
        return {name: _as_array(value) for name, value in zip(plan.names, values, strict=True)}

    def _plan(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> _Plan:
        plan = self._plans.get((feeds, fetches))
        if plan is None:
            with self._lock:
                plan = self._plans.setdefault((feeds, fetches), _Plan(self._session.graph, feeds, fetches))
        return plan

    def _run_in_pool(self, fed: dict[Any, npt.NDArray[Any]], plan: _Plan, seconds: float | None) -> Any:
        """In TensorFlow's thread pool, no longer than `seconds`."""
        options = None
        if seconds is not None:
            if seconds <= 0:
                raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            options = _buffer(self._run_options(timeout_in_ms=max(1, int(seconds * 1000))))
        try:
            return self._wrapper.TF_SessionRun_wrapper(self._session._session, options, fed, plan.fetches, [], None)
        finally:
            if options is not None:
                self._wrapper.TF_DeleteBuffer(options)

    def close(self) -> None:
        """Gives the memory back to the operating system. Takes some hundredths of a second."""
        self._session.close()
        self._wrapper.TF_DeleteBuffer(self._own_thread)
        self._plans.clear()
        del self._session, self._own_thread
        give_memory_back()


def _as_array(value: Any) -> npt.NDArray[Any]:
    """A fetched value; scalars come as Python's bytes or NumPy's scalars."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _status(error: Any) -> StatusError:
    return StatusError(Code(error.error_code), error.message)


def give_memory_back() -> None:
    """Collects what is unreachable and returns free pages to the system: glibc keeps them otherwise (man malloc_trim)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl and macOS have none
        trim(0)


def read_signature(proto: Any) -> Signature | None:
    """A SignatureDef as the server sees it; None when it has tensors that a request cannot carry (an operation, sparse ones)."""
    try:
        return Signature(
            inputs={alias: _spec(alias, info) for alias, info in sorted(proto.inputs.items())},
            outputs={alias: _spec(alias, info) for alias, info in sorted(proto.outputs.items())},
            method=proto.method_name,
            defaults={alias: to_array(value, alias) for alias, value in proto.defaults.items()},
            proto=proto,
        )
    except KeyError:
        return None


def _spec(alias: str, info: Any) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise KeyError(alias)
    unknown = info.tensor_shape.unknown_rank
    shape = None if unknown else tuple(None if size.size < 0 else size.size for size in info.tensor_shape.dim)
    return TensorSpec(alias, numpy_dtype(info.dtype), info.dtype, shape, info.name)


def load_session(folder: Path, *, tags: Sequence[str] = ("serve",), options: RuntimeOptions | None = None) -> SessionServable:
    """Loads a SavedModel: its graph, its variables, its assets, and runs its initialization.

    Args:
        folder: Has saved_model.pb or saved_model.pbtxt.
        tags: Of the MetaGraph.
        options: Of the session; None for the defaults.

    Raises:
        StatusError: NOT_FOUND: there is no SavedModel, or none with these tags; DATA_LOSS: it cannot be parsed; else what
            TensorFlow says, INVALID_ARGUMENT where that has no code.
    """
    tf = _tensorflow()
    if not any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise not_found(
            f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}. "
            "Check that the directory exists and that you have the right permissions for accessing it."
        )
    if (size := _size(folder)) > LARGEST_PROTO:
        # Before it is read: Python would have all of it in memory, to say the same.
        raise StatusError(Code.DATA_LOSS, f"Can't parse {folder}: its graph has {size} bytes, more than a protobuf can have")
    session = tf.compat.v1.Session(graph=tf.Graph(), config=session_config(options or RuntimeOptions()))
    try:
        signatures = _load(session, folder, tags)
        return SessionServable(session, signatures)
    except BaseException as error:
        session.close()
        del session
        give_memory_back()
        raise _load_error(error, folder) from None


def _size(folder: Path) -> int:
    graph = folder / "saved_model.pb"
    return graph.stat().st_size if graph.is_file() else 0


def _load(session: Any, folder: Path, tags: Sequence[str]) -> dict[str, Any]:
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    # tf.compat.v1.saved_model.loader.load does the same after a warning that it is going to be removed.
    loader = SavedModelLoader(str(folder))
    try:
        loader.get_meta_graph_def_from_tags(tags)
    except RuntimeError:
        raise not_found(
            f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. "
            "To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        ) from None
    with session.graph.as_default():
        meta_graph = loader.load(session, list(tags))
    # A part of a message keeps the whole of it, which is the graph, so copies.
    return {key: type(proto).FromString(proto.SerializeToString()) for key, proto in meta_graph.signature_def.items()}


def _load_error(error: BaseException, folder: Path) -> BaseException:
    if isinstance(error, StatusError) or not isinstance(error, Exception):
        return error
    errors = _tensorflow().errors
    if isinstance(error, errors.OpError):
        # Session.run puts Python's view of the graph around what the executor says.
        said = _status(error.__context__ if isinstance(error.__context__, errors.OpError) else error)
        return said if str(folder) in said.message else StatusError(said.code, f"{folder}: {said.message}")
    if isinstance(error, OSError):
        return StatusError(Code.DATA_LOSS, f"Can't parse {folder}: {error}")
    return invalid(f"{folder}: {error}")
