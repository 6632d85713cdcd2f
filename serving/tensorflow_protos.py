"""TensorFlow's protocol buffers without TensorFlow, whose import takes seconds where these take a few hundredths of one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Any

_LOCK = Lock()


@dataclass(frozen=True)
class Protos:
    """The message classes, and the enum DataType, that reading a SavedModel takes."""

    SavedModel: Any
    AssetFileDef: Any
    FingerprintDef: Any
    BundleHeaderProto: Any
    BundleEntryProto: Any
    TypeSpecProto: Any
    DataType: Any


def tensorflow_protos() -> Protos:
    """The classes as the installed TensorFlow has them; they stay the same classes when TensorFlow is imported later.

    While they are loaded, some hundredths of a second in the first call, no other thread may begin to import TensorFlow: it would
    get the stand-in. Afterwards `sys.modules` is as it was.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    with _LOCK:
        return _load()


@cache
def _load() -> Protos:
    if "tensorflow" in sys.modules:
        return _import()
    spec = find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    # The generated modules import each other as tensorflow.core.…; a stand-in for the package, with the same folder and without
    # what its __init__ does, is all that they need. It must not stay: `import tensorflow` would then do nothing.
    stand_in = ModuleType("tensorflow")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = stand_in
    try:
        return _import()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
            del sys.modules[name]


def _import() -> Protos:
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.core.protobuf.struct_pb2 import TypeSpecProto
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

    return Protos(SavedModel, AssetFileDef, FingerprintDef, BundleHeaderProto, BundleEntryProto, TypeSpecProto, DataType)
