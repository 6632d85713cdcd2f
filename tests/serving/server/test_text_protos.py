"""The configuration files that tensorflow-serving-api has no messages for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.options import schedulable_cpus
from serving.server.status import Code, StatusError
from serving.server.text_protos import (
    PROMETHEUS_PATH,
    BatchingParameters,
    MonitoringConfig,
    SSLConfig,
    batching_parameters,
    monitoring_config,
    read_text,
    ssl_config,
)

DEFAULTS = BatchingParameters(num_batch_threads=schedulable_cpus())


def refusal(parse: object, text: str) -> str:
    with pytest.raises(StatusError) as error:
        parse(text, "/etc/config.txt")  # type: ignore[operator]
    assert error.value.code == Code.INVALID_ARGUMENT
    return error.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DEFAULTS),
        ("# nothing\n", DEFAULTS),
        (
            "max_batch_size { value: 128 } batch_timeout_micros { value: 500 } max_enqueued_batches: { value: 7 }\n"
            "num_batch_threads { value: 3 } thread_pool_name { value: 'pool' } pad_variable_length_inputs: true",
            BatchingParameters(128, 500, 7, 3, "pool", (), True, False, 128),
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4 allowed_batch_sizes: 8",
            replace(DEFAULTS, max_batch_size=8, max_execution_batch_size=8, allowed_batch_sizes=(2, 4, 8)),
        ),
        (
            "max_batch_size { value: 64 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 8 } "
            "allowed_batch_sizes: [4, 8]",
            replace(
                DEFAULTS,
                max_batch_size=64,
                max_execution_batch_size=8,
                allowed_batch_sizes=(4, 8),
                enable_large_batch_splitting=True,
            ),
        ),
        (
            "max_batch_size { value: 64 } enable_large_batch_splitting { value: false } max_execution_batch_size { value: 8 }",
            replace(DEFAULTS, max_batch_size=64, max_execution_batch_size=64),
        ),
        ("max_enqueued_batches { value: 0 }", replace(DEFAULTS, max_enqueued_batches=0)),
    ],
)
def test_batching_parameters(text: str, expected: BatchingParameters) -> None:
    assert batching_parameters(text) == expected


def test_the_servers_own_name_for_the_threads() -> None:
    named = batching_parameters("", thread_pool_name="model_server_batch_threads")
    assert named.thread_pool_name == "model_server_batch_threads"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 5", "1:17 : "),
        ("max_batch_siz { value: 5 }", '"tensorflow.serving.BatchingParameters" has no field named "max_batch_siz".'),
        ("\n max_batch_size { value: 'x' }", "2:26 : "),
        ("max_batch_size { value: 1 } max_batch_size { value: 2 }", "1:44 : "),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be positive; was -1"),
        (
            "max_enqueued_batches { value: 0 } enable_large_batch_splitting { value: true }",
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            "allowed_batch_sizes: [4, 8]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [4, 4, 8]",
            "allowed_batch_sizes entries must be positive and monotonically increasing",
        ),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [0, 8]",
            "allowed_batch_sizes entries must be positive and monotonically increasing",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 9 }",
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size; were 8 and 9",
        ),
    ],
)
def test_bad_batching_parameters(text: str, message: str) -> None:
    assert message in refusal(batching_parameters, text)


def test_the_message_names_the_file() -> None:
    expected = "Invalid protobuf file: '/etc/config.txt' (tensorflow.serving.MonitoringConfig): 1:1 : "
    assert refusal(monitoring_config, "prometheus { }").startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", MonitoringConfig(False, PROMETHEUS_PATH)),
        ("prometheus_config { enable: true }", MonitoringConfig(True, PROMETHEUS_PATH)),
        ("prometheus_config: { enable: true, path: '/metrics' }", MonitoringConfig(True, "/metrics")),
    ],
)
def test_monitoring_config(text: str, expected: MonitoringConfig) -> None:
    assert monitoring_config(text) == expected


def test_a_path_for_metrics_is_a_path() -> None:
    assert 'must begin with "/"' in refusal(monitoring_config, "prometheus_config { enable: true path: 'metrics' }")


def test_ssl_config() -> None:
    text = 'server_key: "-----BEGIN-----\\nabc\\n" "-----END-----" server_cert: "c" custom_ca: "a" client_verify: true'
    assert ssl_config(text) == SSLConfig("-----BEGIN-----\nabc\n-----END-----", "c", "a", True)
    assert ssl_config("") == SSLConfig()


@pytest.mark.parametrize(
    "text", ['server_key: "SECRET\nSECRET"', "server_key: SECRET", 'server_key: "SECRET" SECRET: 1', "SECRET"]
)
def test_no_key_gets_into_a_message(text: str) -> None:
    message = refusal(ssl_config, text)
    assert "SECRET" not in message
    assert message.startswith("Invalid protobuf file: '/etc/config.txt' (tensorflow.serving.SSLConfig): 1:")


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (batching_parameters, monitoring_config, ssl_config):
        try:
            parse(text)
        except StatusError as error:
            assert error.code == Code.INVALID_ARGUMENT


def test_files_are_read_or_named(tmp_path: Path) -> None:
    file = tmp_path / "config.txt"
    with pytest.raises(StatusError, match=r"config.txt; No such file") as absent:
        read_text(file)
    assert absent.value.code == Code.NOT_FOUND
    file.write_bytes(b"\xff")
    with pytest.raises(StatusError, match=r"config.txt is not UTF-8 text"):
        read_text(file)
    file.write_text("ä", encoding="utf-8")
    assert read_text(str(file)) == "ä"
