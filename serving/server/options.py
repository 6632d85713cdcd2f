"""What the server was told on its command line: one field a flag, with the flag's type, default and meaning.

Names, types and defaults are those of tensorflow_model_server (tensorflow_serving/model_servers/main.cc, server.h). Our own flags
stand at the end; all but `bind_address` and `drain_seconds` are off unless asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["int32", "int64", "float", "bool", "string"]


def schedulable_cpus() -> int:
    """How many processors this process may use; TensorFlow calls it NumSchedulableCPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _flag(kind: Kind, default: Any, meaning: str) -> Any:
    """A field that is a flag; what is computed (the number of processors) is computed when the options are made."""
    metadata = {"kind": kind, "help": meaning}
    return field(default_factory=default, metadata=metadata) if callable(default) else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Every flag that has an effect. A field's `metadata` has its `kind` and its `help`, from which the usage text is made."""

    port: int = _flag("int32", 8500, "TCP port for gRPC; 0 turns it off")
    grpc_socket_path: str = _flag("string", "", "Unix socket on which gRPC listens as well")
    rest_api_port: int = _flag("int32", 0, "TCP port for HTTP/REST, other than --port; 0 turns it off")
    rest_api_num_threads: int = _flag("int32", lambda: 4 * schedulable_cpus(), "Threads that answer HTTP/REST requests")
    rest_api_timeout_in_ms: int = _flag("int32", 30_000, "Longest run of an HTTP/REST request, in milliseconds")
    rest_api_enable_cors_support: bool = _flag("bool", False, "Send CORS headers with HTTP/REST answers")

    enable_batching: bool = _flag("bool", False, "Put requests together into batches")
    batching_parameters_file: str = _flag("string", "", "Text BatchingParameters, for --enable_batching")
    enable_per_model_batching_parameters: bool = _flag(
        "bool", False, "Read batching_params.pbtxt in a version's folder in place of the parameters for all models"
    )

    model_config_file: str = _flag("string", "", "Text ModelServerConfig; then --model_name and --model_base_path are ignored")
    model_config_file_poll_wait_seconds: int = _flag(
        "int32", 0, "Seconds between two readings of --model_config_file; 0 reads it once"
    )
    model_name: str = _flag("string", "default", "Name of the model")
    model_base_path: str = _flag("string", "", "Folder of the model's versions: an absolute path or a URI")
    allow_version_labels_for_unavailable_models: bool = _flag(
        "bool", False, "Let new labels point at versions that are not available yet"
    )

    num_load_threads: int = _flag("int32", 0, "Threads that load versions; 0 loads one after the other")
    num_unload_threads: int = _flag("int32", 0, "Threads that unload versions; 0 unloads one after the other")
    max_num_load_retries: int = _flag("int32", 5, "How often a load that failed is tried again")
    load_retry_interval_micros: int = _flag("int64", 60_000_000, "Microseconds between two tries; negative does not wait")
    file_system_poll_wait_seconds: int = _flag(
        "int32", 1, "Seconds between two looks for versions; 0 looks once, a negative number never"
    )

    tensorflow_session_parallelism: int = _flag("int64", 0, "Threads of a session, within and between operations; 0 is automatic")
    tensorflow_intra_op_parallelism: int = _flag("int64", 0, "Threads within an operation; 0 is automatic")
    tensorflow_inter_op_parallelism: int = _flag("int64", 0, "Operations at a time; 0 is automatic")
    tensorflow_session_config_file: str = _flag("string", "", "Text ConfigProto; the flags for parallelism go before it")
    saved_model_tags: str = _flag("string", "serve", "Tags of the MetaGraph to load, with commas between them")

    grpc_channel_arguments: str = _flag("string", "", "name=value arguments for the gRPC server, with commas between them")
    grpc_max_threads: int = _flag("int32", lambda: 4 * schedulable_cpus(), "Most threads that answer gRPC requests")
    ssl_config_file: str = _flag("string", "", "Text SSLConfig; gRPC then takes only TLS")

    enable_model_warmup: bool = _flag("bool", True, "Replay a version's recorded requests before it becomes available")
    num_request_iterations_for_warmup: int = _flag("int32", 0, "How often each recorded request is replayed; 0 is once")
    monitoring_config_file: str = _flag("string", "", "Text MonitoringConfig; turns Prometheus metrics on")

    prefer_tflite_model: bool = _flag("bool", False, "Load model.tflite where a version has it, instead of the SavedModel")
    num_tflite_pools: int = _flag("int32", schedulable_cpus, "Interpreter pools of a TFLite model")
    num_tflite_interpreters_per_pool: int = _flag("int32", 1, "Interpreters of a pool")

    enable_signature_method_name_check: bool = _flag(
        "bool", False, "Refuse Classify and Regress on signatures that were not exported for them"
    )
    enable_grpc_healthcheck_service: bool = _flag("bool", False, "Serve grpc.health.v1.Health")
    enable_serialization_as_tensor_content: bool = _flag("bool", False, "Answer gRPC Predict with tensor_content")
    enable_profiler: bool = _flag("bool", True, "Serve tensorflow.ProfilerService on the gRPC port")

    bind_address: str = _flag("string", "127.0.0.1", "Address on which the ports listen; 0.0.0.0 is every IPv4 one (tfline)")
    drain_seconds: float = _flag("float", 30.0, "Seconds that requests get to finish after SIGTERM; 0 is none (tfline)")
    tolerate_failed_models: bool = _flag("bool", False, "Start although a model cannot be loaded, and serve the others (tfline)")
    rest_health: bool = _flag("bool", False, "Serve /readyz and /livez on the REST port (tfline)")
    rest_list_models: bool = _flag("bool", False, "GET /v1/models lists the models, GET /v1/config the configuration (tfline)")
    rest_strict_json: bool = _flag("bool", False, "Answer with valid JSON where a number is not finite (tfline)")
    rest_ssl: bool = _flag("bool", False, "The REST port takes only TLS, with the keys of --ssl_config_file (tfline)")
    request_log_dir: str = _flag("string", "", "Folder for request logs: TFRecord of PredictionLog (tfline)")
    request_log_sampling_rate: float = _flag("float", 1.0, "Share of requests that are logged, 0 to 1 (tfline)")
    request_log_rotate_mb: int = _flag("int32", 64, "Size in MiB at which a request log is closed and the next begun (tfline)")
    keep_loaded_when_storage_vanishes: bool = _flag(
        "bool", False, "A base path that empties unloads nothing, as if it were missing (tfline)"
    )
    processes: int = _flag("int32", 1, "Server processes that share the ports by SO_REUSEPORT (tfline)")
