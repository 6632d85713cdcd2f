"""TensorFlow Serving's messages, as far as a client needs them, without TensorFlow and without tensorflow-serving-api.

That package's generated modules import `tensorflow`, gigabytes and seconds for a handful of messages. Here the messages are
described once more, by field names, numbers and types (tensorflow/serving, apis/*.proto; tensorflow/core, example and framework),
and made into classes by protobuf's own public interface: FileDescriptorProto, a DescriptorPool of their own, message_factory. So
they never meet TensorFlow's in one pool, and a process may have both. Enums are int32 here, which is the same on the wire; oneofs
are plain fields, of which a client sets one. A test holds every field against the real descriptors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_TENSORFLOW = """
TensorShapeProto.Dim: size int64 1, name string 2
TensorShapeProto: dim TensorShapeProto.Dim* 2, unknown_rank bool 3
TensorProto: dtype int32 1, tensor_shape TensorShapeProto 2, tensor_content bytes 4, float_val float* 5, double_val double* 6,
 int_val int32* 7, string_val bytes* 8, scomplex_val float* 9, int64_val int64* 10, bool_val bool* 11, dcomplex_val double* 12,
 half_val int32* 13, uint32_val uint32* 16, uint64_val uint64* 17, float8_val bytes 18
TensorInfo: name string 1, dtype int32 2, tensor_shape TensorShapeProto 3
SignatureDef: inputs map TensorInfo 1, outputs map TensorInfo 2, method_name string 3
BytesList: value bytes* 1
FloatList: value float* 1
Int64List: value int64* 1
Feature: bytes_list BytesList 1, float_list FloatList 2, int64_list Int64List 3
Features: feature map Feature 1
Example: features Features 1
"""

_SERVING = """
ModelSpec: name string 1, version .google.protobuf.Int64Value 2, signature_name string 3, version_label string 4
PredictRequest: model_spec ModelSpec 1, inputs map .tensorflow.TensorProto 2, output_filter string* 3
PredictResponse: outputs map .tensorflow.TensorProto 1, model_spec ModelSpec 2
ExampleList: examples .tensorflow.Example* 1
Input: example_list ExampleList 1
ClassificationRequest: model_spec ModelSpec 1, input Input 2
Class: label string 1, score float 2
Classifications: classes Class* 1
ClassificationResult: classifications Classifications* 1
ClassificationResponse: result ClassificationResult 1, model_spec ModelSpec 2
RegressionRequest: model_spec ModelSpec 1, input Input 2
Regression: value float 1
RegressionResult: regressions Regression* 1
RegressionResponse: result RegressionResult 1, model_spec ModelSpec 2
StatusProto: error_code int32 1, error_message string 2
GetModelStatusRequest: model_spec ModelSpec 1
ModelVersionStatus: version int64 1, state int32 2, status StatusProto 3
GetModelStatusResponse: model_version_status ModelVersionStatus* 1
GetModelMetadataRequest: model_spec ModelSpec 1, metadata_field string* 2
GetModelMetadataResponse: model_spec ModelSpec 1, metadata map .google.protobuf.Any 2
SignatureDefMap: signature_def map .tensorflow.SignatureDef 1
FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest: num_versions uint32 1
FileSystemStoragePathSourceConfig.ServableVersionPolicy.All:
FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific: versions int64* 1
FileSystemStoragePathSourceConfig.ServableVersionPolicy:
 latest FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest 100,
 all FileSystemStoragePathSourceConfig.ServableVersionPolicy.All 101,
 specific FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific 102
FileSystemStoragePathSourceConfig:
ModelConfig: name string 1, base_path string 2, model_platform string 4,
 model_version_policy FileSystemStoragePathSourceConfig.ServableVersionPolicy 7, version_labels map int64 8
ModelConfigList: config ModelConfig* 1
ModelServerConfig: model_config_list ModelConfigList 1
ReloadConfigRequest: config ModelServerConfig 1
ReloadConfigResponse: status StatusProto 1
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
    "float": _Field.TYPE_FLOAT,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}


@cache
def message(name: str) -> Any:
    """The class of a message by its full name, such as "tensorflow.serving.PredictRequest"; KeyError when it is not here."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def described() -> list[str]:
    """The full names of all messages that are described here."""
    texts = (("tensorflow", _TENSORFLOW), ("tensorflow.serving", _SERVING))
    return [f"{package}.{name}" for package, text in texts for name in _lines(text)]


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.Add(_file("tfline/tensorflow.proto", "tensorflow", _TENSORFLOW, []))
    dependencies = ["tfline/tensorflow.proto", any_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name]
    pool.Add(_file("tfline/serving.proto", "tensorflow.serving", _SERVING, dependencies))
    return pool


def _file(name: str, package: str, text: str, dependencies: list[str]) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=dependencies)
    lines = _lines(text)
    made: dict[str, Any] = {}
    # Outer messages first, whatever the order of the lines.
    for full in sorted(lines, key=lambda full: full.count(".")):
        outer, _, own = full.rpartition(".")
        made[full] = (made[outer].nested_type if outer else file.message_type).add(name=own)
    for full, fields in lines.items():
        for field in filter(None, (part.strip() for part in fields.split(","))):
            _add_field(made[full], f".{package}.{full}", package, field.split())
    return file


def _lines(text: str) -> dict[str, str]:
    """Fields by message."""
    lines = text.replace("\n ", " ").strip().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2] for line in lines}


def _add_field(to: Any, full: str, package: str, words: list[str]) -> None:
    """Adds `name type number`, `name type* number` for a repeated one, or `name map type number` with strings as keys."""
    name, *_, kind, number = words
    field = to.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if words[1] == "map":
        entry = to.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "", package, ["key", "string", "1"])
        _add_field(entry, "", package, ["value", kind, "2"])
        field.label, field.type, field.type_name = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE, f"{full}.{entry.name}"
        return
    if kind.endswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind.removesuffix("*")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, kind if kind.startswith(".") else f".{package}.{kind}"
