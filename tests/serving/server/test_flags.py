"""The command line: what is taken, what is refused, what is said; and that the defaults are those of tensorflow_model_server."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.flags import check, known_flags, parse, start_failure, usage
from serving.server.options import ServerOptions, schedulable_cpus
from serving.server.status import Code, StatusError

OWN = {
    "bind_address",
    "drain_seconds",
    "tolerate_failed_models",
    "rest_health",
    "rest_list_models",
    "rest_strict_json",
    "rest_ssl",
    "request_log_dir",
    "request_log_sampling_rate",
    "request_log_rotate_mb",
    "keep_loaded_when_storage_vanishes",
    "processes",
}


def exits(*argv: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    return caught.value.code


def test_the_defaults_are_those_of_tensorflow_model_server() -> None:
    options = ServerOptions()
    theirs = {each.name: getattr(options, each.name) for each in fields(options) if each.name not in OWN}
    cpus = schedulable_cpus()
    assert theirs == {
        "port": 8500,
        "grpc_socket_path": "",
        "rest_api_port": 0,
        "rest_api_num_threads": 4 * cpus,
        "rest_api_timeout_in_ms": 30000,
        "rest_api_enable_cors_support": False,
        "enable_batching": False,
        "batching_parameters_file": "",
        "enable_per_model_batching_parameters": False,
        "allow_version_labels_for_unavailable_models": False,
        "model_config_file": "",
        "model_config_file_poll_wait_seconds": 0,
        "model_name": "default",
        "model_base_path": "",
        "num_load_threads": 0,
        "num_unload_threads": 0,
        "max_num_load_retries": 5,
        "load_retry_interval_micros": 60000000,
        "file_system_poll_wait_seconds": 1,
        "tensorflow_session_parallelism": 0,
        "tensorflow_intra_op_parallelism": 0,
        "tensorflow_inter_op_parallelism": 0,
        "tensorflow_session_config_file": "",
        "saved_model_tags": "serve",
        "grpc_channel_arguments": "",
        "grpc_max_threads": 4 * cpus,
        "ssl_config_file": "",
        "enable_model_warmup": True,
        "num_request_iterations_for_warmup": 0,
        "monitoring_config_file": "",
        "prefer_tflite_model": False,
        "num_tflite_pools": cpus,
        "num_tflite_interpreters_per_pool": 1,
        "enable_signature_method_name_check": False,
        "enable_grpc_healthcheck_service": False,
        "enable_serialization_as_tensor_content": False,
        "enable_profiler": True,
    }


def test_our_own_flags_leave_everything_off_but_loopback_and_draining() -> None:
    options = ServerOptions()
    assert {name: getattr(options, name) for name in OWN} == {
        "bind_address": "127.0.0.1",
        "drain_seconds": 30.0,
        "tolerate_failed_models": False,
        "rest_health": False,
        "rest_list_models": False,
        "rest_strict_json": False,
        "rest_ssl": False,
        "request_log_dir": "",
        "request_log_sampling_rate": 1.0,
        "request_log_rotate_mb": 64,
        "keep_loaded_when_storage_vanishes": False,
        "processes": 1,
    }


def test_each_kind_of_value_is_read() -> None:
    options = parse(
        [
            "--port=0",
            "--rest_api_port= +8501",
            "--model_name=a=b,c",
            "--model_base_path=",
            "--enable_batching",
            "--enable_profiler=false",
            "--rest_health=true",
            "--load_retry_interval_micros=-9223372036854775808",
            "--drain_seconds=.5",
            "--request_log_sampling_rate=1e-3",
        ]
    )
    assert (options.port, options.rest_api_port, options.model_name, options.model_base_path) == (0, 8501, "a=b,c", "")
    assert (options.enable_batching, options.enable_profiler, options.rest_health) == (True, False, True)
    assert (options.load_retry_interval_micros, options.drain_seconds, options.request_log_sampling_rate) == (-(2**63), 0.5, 1e-3)


def test_the_last_of_several_values_counts() -> None:
    assert parse(["--port=1", "--port=2", "--enable_batching", "--enable_batching=false"]) == ServerOptions(port=2)


@pytest.mark.parametrize(
    "argument",
    [
        "--port=",
        "--port=8500x",
        "--port=8500 ",
        "--port=0x10",
        "--port=1_000",
        "--port=٣",
        "--port=2147483648",
        "--load_retry_interval_micros=9223372036854775808",
        "--enable_batching=yes",
        "--enable_batching=",
        "--enable_batching=True",
        "--enable_batchingtrue",
        "--drain_seconds=1s",
        "--drain_seconds=nan",
        "--use_alts_credentials=maybe",
    ],
)
def test_a_bad_value_prints_the_usage_and_ends_with_255(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(argument) == 255
    said = capsys.readouterr()
    assert said.out == usage("tfline serve")
    assert re.fullmatch(r"Couldn't interpret value .* for flag [a-z_]+\.\n", said.err, re.DOTALL)


def test_help_prints_the_usage_and_ends_with_255(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits("--port=1", "--help") == 255
    said = capsys.readouterr()
    assert said.out == usage("tfline serve")
    assert said.err == ""


def test_version_prints_two_lines_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits("--version", "--unknown") == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"TensorFlow ModelServer: 2\.\d+\S*\nTensorFlow Library: 2\.\d+\S*\n", said)


@pytest.mark.parametrize(
    "argv", [["--bogus=1", "--port=7"], ["--port=7", "--", "--port=9"], ["-port=9", "--port=7"], ["x", "--port=7", "--help"]]
)
def test_an_unknown_argument_is_named_and_the_server_goes_on(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(argv) == ServerOptions(port=7)
    first = next(argument for argument in argv if argument != "--port=7")
    assert capsys.readouterr().out == f"unknown argument: {first}\n{usage('tfline serve')}"


def test_space_instead_of_an_equals_sign_is_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["--port", "7"]) == ServerOptions()
    assert capsys.readouterr().out.startswith("unknown argument: --port\n")


@pytest.mark.parametrize(
    "argument",
    [
        "--flush_filesystem_caches=false",
        "--per_process_gpu_memory_fraction=0.5",
        "--use_alts_credentials",
        "--platform_config_file=f",
        "--remove_unused_fields_from_bundle_metagraph",
        "--xla_cpu_compilation_enabled",
        "--xla_gpu_compilation_enabled",
        "--thread_pool_factory_config_file=f",
        "--mixed_precision=bfloat16",
        "--skip_initialize_tpu",
    ],
)
def test_flags_without_effect_are_taken_with_a_warning(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([argument]) == ServerOptions()
    said = capsys.readouterr()
    assert said.err == f"WARNING: {argument.split('=', maxsplit=1)[0]} has no effect in this server.\n"
    assert said.out == ""


def test_the_usage_has_a_line_for_every_flag() -> None:
    lines = usage("prog").splitlines()
    assert lines[:3] == ["usage: prog", "Flags:", "\t--port=8500                      \tint32\tTCP port for gRPC; 0 turns it off"]
    assert [line.split("=")[0] for line in lines[2:]] == [f"\t--{flag.name}" for flag in known_flags()]
    assert '\t--model_name="default"           \tstring\tName of the model' in lines
    assert all(flag.meaning for flag in known_flags())


def test_no_flag_can_be_taken_for_a_boolean_one_with_a_suffix() -> None:
    names = [flag.name for flag in known_flags()]
    booleans = [flag.name for flag in known_flags() if flag.kind == "bool"]
    assert not [(each, name) for each in booleans for name in names if name != each and name.startswith(each)]
    assert len(names) == len(set(names))


@given(st.integers(-(2**31), 2**31 - 1), st.floats(0, 1), st.text())
def test_what_is_written_is_read(port: int, rate: float, name: str) -> None:
    argv = [f"--port={port}", f"--request_log_sampling_rate={rate}", f"--model_name={name}"]
    assert parse(argv) == ServerOptions(port=port, request_log_sampling_rate=rate, model_name=name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"port": 0}, "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."),
        (
            {"batching_parameters_file": "f"},
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
        ),
        (
            {f"tensorflow_{each}_parallelism": 1 for each in ("session", "intra_op", "inter_op")},
            "Either configure server_options.tensorflow_session_parallelism or (server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all.",
        ),
        ({"port": 65536}, "--port expects 0 to 65535, got 65536."),
        ({"rest_api_port": -1}, "--rest_api_port expects 0 to 65535, got -1."),
        ({"rest_ssl": True}, "--rest_ssl needs the keys of --ssl_config_file, which is not set."),
        ({"request_log_sampling_rate": 1.5}, "--request_log_sampling_rate expects 0 to 1, got 1.5."),
        ({"processes": 0}, "--processes expects 1 or more, got 0."),
        ({"grpc_max_threads": 0}, "--grpc_max_threads expects 1 or more, got 0."),
        ({"drain_seconds": -1.0}, "--drain_seconds expects 0 or more, got -1.0."),
    ],
)
def test_flags_that_do_not_go_together_stop_the_start(change: dict[str, object], said: str) -> None:
    check(ServerOptions())
    check(ServerOptions(port=0, grpc_socket_path="s"))
    with pytest.raises(StatusError) as caught:
        check(replace(ServerOptions(), **change))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, said)
    assert start_failure(caught.value) == f"Failed to start server. Error: INVALID_ARGUMENT: {said}"


def test_the_environment_says_nothing_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAME", "digits")
    monkeypatch.setenv("MODEL_BASE_PATH", "/srv")
    assert parse([]) == ServerOptions()


def test_reading_flags_imports_no_tensorflow() -> None:
    code = "import sys; from serving.server.flags import parse; parse([]); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
