"""The command line of tensorflow_model_server, read as TensorFlow reads it (tensorflow/core/util/command_line_flags.cc).

Only `--flag=value`, and for booleans `--flag`, `--flag=true`, `--flag=false`. What is not a flag is named and passed over; a
value of the wrong type ends the program, as `--help` does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any

from serving.server.options import Kind, ServerOptions
from serving.server.status import StatusError, invalid

_BOUNDS = {"int32": 2**31, "int64": 2**63}
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Flag:
    """One flag as the usage text shows it; `effect` is False for those that are taken and do nothing here."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    effect: bool = True


_NO_EFFECT = (
    Flag("flush_filesystem_caches", "bool", True, "Flush file system caches after loading", False),
    Flag("per_process_gpu_memory_fraction", "float", 0.0, "Share of the GPU's memory", False),
    Flag("use_alts_credentials", "bool", False, "Use Google ALTS credentials", False),
    Flag("platform_config_file", "string", "", "Text PlatformConfigMap", False),
    Flag("remove_unused_fields_from_bundle_metagraph", "bool", True, "Drop parts of the MetaGraph to save memory", False),
    Flag("xla_cpu_compilation_enabled", "bool", False, "Compile for XLA:CPU", False),
    Flag("xla_gpu_compilation_enabled", "bool", False, "Compile for XLA:CPU and XLA:GPU", False),
    Flag("thread_pool_factory_config_file", "string", "", "Text ThreadPoolConfig", False),
    Flag("mixed_precision", "string", "", "Mode of mixed precision", False),
    Flag("skip_initialize_tpu", "bool", False, "Do not initialise TPUs", False),
)


def known_flags() -> list[Flag]:
    """Every flag, in the order of the usage text: ours with an effect, `version`, then those without one."""
    defaults = ServerOptions()
    effective = [
        Flag(each.name, each.metadata["kind"], getattr(defaults, each.name), each.metadata["help"])
        for each in fields(ServerOptions)
    ]
    return [*effective, Flag("version", "bool", False, "Print the versions and end"), *_NO_EFFECT]


def parse(argv: Sequence[str], *, program: str = "tfline serve") -> ServerOptions:
    """Reads the command line.

    Side effects: prints the usage text and the versions on stdout, complaints on stderr, as tensorflow_model_server does.

    Args:
        argv: The arguments, without the program's name.
        program: The name that the usage text shows.

    Raises:
        SystemExit: 255 after a bad value or `--help`, 0 after `--version`.
    """
    flags = known_flags()
    values: dict[str, Any] = {}
    unknown: list[str] = []
    bad = False
    for position, argument in enumerate(argv):
        if argument == "--":
            unknown.extend(argv[position:])
            break
        flag, text = _find(argument, flags)
        if flag is None:
            unknown.append(argument)
            continue
        try:
            values[flag.name] = _value(flag.kind, text)
        except ValueError:
            print(f"Couldn't interpret value {text} for flag {flag.name}.", file=sys.stderr)
            bad = True
    if bad or unknown[:1] == ["--help"]:
        sys.stdout.write(usage(program, flags))
        raise SystemExit(255)
    if values.pop("version", False):
        sys.stdout.write(versions())
        raise SystemExit(0)
    if unknown:
        sys.stdout.write(f"unknown argument: {unknown[0]}\n{usage(program, flags)}")
    for flag in flags:
        if not flag.effect and flag.name in values:
            del values[flag.name]
            print(f"WARNING: --{flag.name} has no effect in this server.", file=sys.stderr)
    return ServerOptions(**values)


def check(options: ServerOptions) -> None:
    """Refuses flags that do not go together, as the real server does when it starts (model_servers/server.cc).

    Raises:
        StatusError: INVALID_ARGUMENT; the program prints `Failed to start server. Error: ` with it and ends with 255.
    """
    if options.port == 0 and not options.grpc_socket_path:
        raise invalid("At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.")
    if options.batching_parameters_file and not options.enable_batching:
        raise invalid("server_options.batching_parameters_file is set without setting server_options.enable_batching to true.")
    parallelism = (
        options.tensorflow_intra_op_parallelism,
        options.tensorflow_inter_op_parallelism,
        options.tensorflow_session_parallelism,
    )
    if min(parallelism) > 0:
        raise invalid(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) separately. "
            "You cannot configure all."
        )
    for problem in _own_problems(options):
        raise invalid(problem)


def _own_problems(options: ServerOptions) -> list[str]:
    """What is wrong with flags that the real server does not have, or does not check before it fails later."""
    ports = {"port": options.port, "rest_api_port": options.rest_api_port}
    found = [f"--{name} expects 0 to 65535, got {port}." for name, port in ports.items() if not 0 <= port <= 65535]
    if options.rest_ssl and not options.ssl_config_file:
        found.append("--rest_ssl needs the keys of --ssl_config_file, which is not set.")
    if not 0.0 <= options.request_log_sampling_rate <= 1.0:
        found.append(f"--request_log_sampling_rate expects 0 to 1, got {options.request_log_sampling_rate}.")
    for name in ("request_log_rotate_mb", "processes", "grpc_max_threads"):
        if getattr(options, name) < 1:
            found.append(f"--{name} expects 1 or more, got {getattr(options, name)}.")
    if options.drain_seconds < 0:
        found.append(f"--drain_seconds expects 0 or more, got {options.drain_seconds}.")
    return found


def usage(program: str, flags: Sequence[Flag] | None = None) -> str:
    """The usage text, in the layout of tensorflow::Flags::Usage."""
    lines = [f"usage: {program}\nFlags:\n"]
    for flag in known_flags() if flags is None else flags:
        shown = f"--{flag.name}={_shown(flag)}"
        lines.append(f"\t{shown:<33}\t{flag.kind}\t{flag.meaning}\n")
    return "".join(lines)


def versions() -> str:
    """The two lines of `--version`; read from the installed packages, so that nothing heavy is imported."""
    ours = f"{_installed('tensorflow-serving-api')}+tfline.{_installed('tfline')}"
    return f"TensorFlow ModelServer: {ours}\nTensorFlow Library: {_installed('tensorflow')}\n"


def start_failure(error: StatusError) -> str:
    """The line with which the program ends when it cannot start."""
    return f"Failed to start server. Error: {error.code.name}: {error.message}"


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _find(argument: str, flags: Sequence[Flag]) -> tuple[Flag | None, str]:
    """The flag that an argument speaks of, and what is said after its name and, but for booleans, its equals sign."""
    for flag in flags:
        prefix = f"--{flag.name}" if flag.kind == "bool" else f"--{flag.name}="
        if argument.startswith(prefix):
            return flag, argument[len(prefix) :]
    return None, ""


def _value(kind: Kind, text: str) -> Any:
    """The value that a text stands for; ValueError when it is none of this kind."""
    if kind == "string":
        return text
    if kind == "bool":
        return {"": True, "=true": True, "=false": False}.get(text) if text in ("", "=true", "=false") else _refuse(text)
    if kind == "float":
        return float(text) if _FLOAT.fullmatch(text) else _refuse(text)
    if not _INTEGER.fullmatch(text):
        _refuse(text)
    number = int(text)
    # scanf leaves open what an overflow gives; a port of 2**32 + 8500 is better refused than taken for 8500.
    return number if -_BOUNDS[kind] <= number < _BOUNDS[kind] else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _shown(flag: Flag) -> str:
    if flag.kind == "string":
        return f'"{flag.default}"'
    if flag.kind == "bool":
        return "true" if flag.default else "false"
    return f"{flag.default:f}" if flag.kind == "float" else str(flag.default)
