"""The configuration files whose protocol buffers the package tensorflow-serving-api lacks, read from their text format.

The messages are built here, from a table, in a pool of their own. Names and types are those of TensorFlow Serving's
session_bundle_config.proto (BatchingParameters), config/monitoring_config.proto and config/ssl_config.proto; their numbers need
not be, since text holds names only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from serving.server.options import schedulable_cpus
from serving.server.status import invalid, not_found

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
"""Where metrics are when the configuration names no path (util/prometheus_exporter.h)."""

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"bool": _FIELD.TYPE_BOOL, "string": _FIELD.TYPE_STRING, "int64": _FIELD.TYPE_INT64}
_LABELS = {"repeated": _FIELD.LABEL_REPEATED, "": _FIELD.LABEL_OPTIONAL}
_MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
}


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are put together. Defaults are SharedBatchScheduler's (core/kernels/batching_util/shared_batch_scheduler.h).

    Attributes:
        max_batch_size: Most rows of a batch, and of a request.
        batch_timeout_micros: How long the first request of a batch waits for others.
        max_enqueued_batches: How many batches may wait, of one signature.
        num_batch_threads: How many batches are computed at a time, of all models.
        thread_pool_name: Begins the threads' names.
        allowed_batch_sizes: Sizes to which a batch is padded; empty for any.
        pad_variable_length_inputs: Whether requests of different shapes are padded to go together.
        enable_large_batch_splitting: Whether a request that does not fit is divided among batches.
        max_execution_batch_size: Then the most rows of a batch; max_batch_size remains the most of a request.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 1
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000

    def __post_init__(self) -> None:
        """Refuses what TensorFlow Serving refuses, in its words (bundle_factory_util.h, shared_batch_scheduler.h)."""
        sizes, largest = self.allowed_batch_sizes, self.max_execution_batch_size
        if self.num_batch_threads < 1:
            raise invalid(f"num_batch_threads must be positive; was {self.num_batch_threads}")
        if self.max_batch_size < 1:
            raise invalid(f"max_batch_size must be positive; was {self.max_batch_size}")
        if self.batch_timeout_micros < 0:
            raise invalid(f"batch_timeout_micros must be non-negative; was {self.batch_timeout_micros}")
        if self.max_enqueued_batches < (1 if self.enable_large_batch_splitting else 0):
            raise invalid(f"max_enqueued_batches must be positive; was {self.max_enqueued_batches}")
        if not 0 < largest <= self.max_batch_size:
            raise invalid(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                f"max_execution_batch_size; were {self.max_batch_size} and {largest}"
            )
        if any(later <= earlier for earlier, later in zip((0, *sizes), sizes, strict=False)):
            raise invalid("allowed_batch_sizes entries must be positive and monotonically increasing")
        if sizes and sizes[-1] != largest:
            name = "max_execution_batch_size" if self.enable_large_batch_splitting else "max_batch_size"
            raise invalid(f"Last entry in allowed_batch_sizes must match {name}; last entry was {sizes[-1]}; expected {largest}")


@dataclass(frozen=True)
class MonitoringConfig:
    """Where Prometheus finds metrics: nowhere unless `enable`."""

    enable: bool = False
    path: str = PROMETHEUS_PATH


@dataclass(frozen=True)
class SSLConfig:
    """Keys and certificates as PEM text; whether clients must present a certificate, and who must have signed it."""

    server_key: str = ""
    server_cert: str = ""
    custom_ca: str = ""
    client_verify: bool = False


@cache
def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="tfline/serving_config.proto", package="tensorflow.serving", syntax="proto3", dependency=[wrappers.name]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            label, _, of = kind.rpartition(" ")
            added = message.field.add(name=field, number=number, label=_LABELS[label])
            if of in _SCALARS:
                added.type = _SCALARS[of]
            else:
                added.type = _FIELD.TYPE_MESSAGE
                added.type_name = f".tensorflow.serving.{of}" if of in _MESSAGES else f".google.protobuf.{of}"
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}")) for name in _MESSAGES}


def _parse(name: str, text: str, file: str | Path, secret: bool = False) -> Any:
    try:
        return text_format.Parse(text, _classes()[name]())
    except (text_format.ParseError, UnicodeError) as error:
        # The reason quotes the text.
        reason = str(error).partition(" : ")[0] if secret else str(error)
        raise invalid(f"Invalid protobuf file: '{file}' (tensorflow.serving.{name}): {reason}") from None


def batching_parameters(text: str, file: str | Path = "", thread_pool_name: str = "batch_threads") -> BatchingParameters:
    """Reads BatchingParameters, such as `max_batch_size { value: 128 } allowed_batch_sizes: [32, 128]`; "" for the defaults.

    Args:
        text: Text format.
        file: Where it is from, for the message.
        thread_pool_name: When the text names none.

    Raises:
        StatusError: INVALID_ARGUMENT: it does not parse (line, column, reason), or a value is out of its range.
    """
    message = _parse("BatchingParameters", text, file)
    values: dict[str, Any] = {"num_batch_threads": schedulable_cpus(), "thread_pool_name": thread_pool_name}
    for field, kind in _MESSAGES["BatchingParameters"].items():
        if kind == "repeated int64":
            values[field] = tuple(message.allowed_batch_sizes)
        elif kind == "bool":
            values[field] = getattr(message, field)
        elif message.HasField(field):
            values[field] = getattr(message, field).value
    if not values.get("enable_large_batch_splitting") or "max_execution_batch_size" not in values:
        values["max_execution_batch_size"] = values.get("max_batch_size", BatchingParameters.max_batch_size)
    return BatchingParameters(**values)


def monitoring_config(text: str, file: str | Path = "") -> MonitoringConfig:
    """Reads MonitoringConfig, such as `prometheus_config { enable: true path: "/metrics" }`.

    Raises:
        StatusError: INVALID_ARGUMENT: it does not parse (line, column, reason), or the path does not begin with a slash.
    """
    message = _parse("MonitoringConfig", text, file).prometheus_config
    if message.path and not message.path.startswith("/"):
        raise invalid(f'MonitoringConfig: prometheus_config.path must begin with "/"; got "{message.path}"')
    return MonitoringConfig(message.enable, message.path or PROMETHEUS_PATH)


def ssl_config(text: str, file: str | Path = "") -> SSLConfig:
    """Reads SSLConfig; its keys and certificates are in the text itself.

    Raises:
        StatusError: INVALID_ARGUMENT: it does not parse. The message has line and column and none of the text: that has a key.
    """
    message = _parse("SSLConfig", text, file, secret=True)
    return SSLConfig(message.server_key, message.server_cert, message.custom_ca, message.client_verify)


def read_text(file: str | Path) -> str:
    """A configuration file's text.

    Raises:
        StatusError: NOT_FOUND: it cannot be read; INVALID_ARGUMENT: it is not UTF-8.
    """
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise not_found(f"{file}; {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"{file} is not UTF-8 text: {error}") from None
