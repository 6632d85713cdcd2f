"""The gRPC side over real sockets, in front of a model that NumPy computes."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.server.grpc_server import GrpcServer, channel_arguments
from serving.server.options import ServerOptions
from serving.server.predictor import Predictor
from serving.server.status import StatusError
from serving.server.tensors import to_array, to_proto
from serving.server.text_protos import SSLConfig
from serving.server.tls import server_credentials
from tests.serving.server.fake_models import FakeModels

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def free_port() -> int:
    """A port that was free a moment ago: port 0 turns gRPC off, as in TensorFlow Serving, and does not mean any."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(
    models: FakeModels | None = None,
    credentials: grpc.ServerCredentials | None = None,
    observers: tuple[Any, ...] = (),
    **flags: Any,
) -> Iterator[GrpcServer]:
    options = ServerOptions(**{"port": free_port(), "enable_profiler": False, **flags})
    server = GrpcServer(Predictor(models or FakeModels(), options, observers), options, credentials)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture(scope="module")
def channel(models: FakeModels) -> Iterator[grpc.Channel]:
    with serving(models) as server, grpc.insecure_channel(server.address, options=UNLIMITED) as opened:
        yield opened


def request_of(array: Any, name: str = "half") -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(to_proto(np.asarray(array, "float32")))
    return request


def stub(channel: grpc.Channel) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def status_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_predict(channel: grpc.Channel) -> None:
    response = stub(channel).Predict(request_of([2.0]), timeout=10)
    assert to_array(response.outputs["y"]).tolist() == [3.0]


def test_every_method_of_both_services_answers(channel: grpc.Channel) -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    status = get_model_status_pb2.GetModelStatusRequest()
    regress = regression_pb2.RegressionRequest()
    for request in (metadata, status, regress):
        request.model_spec.name = "half"
    regress.model_spec.signature_name = "regress"
    regress.input.example_list.examples.add()
    reload = model_management_pb2.ReloadConfigRequest()
    reload.config.model_config_list.config.add(name="m", base_path="/m")
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    assert stub(channel).GetModelMetadata(metadata, timeout=10).model_spec.version.value == 2
    assert len(stub(channel).Regress(regress, timeout=10).result.regressions) == 1
    assert status_of(lambda: stub(channel).Classify(regress, timeout=10))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert status_of(lambda: stub(channel).MultiInference(regress, timeout=10))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert len(models.GetModelStatus(status, timeout=10).model_version_status) == 2
    assert models.HandleReloadConfigRequest(reload, timeout=10).status.error_code == 0


def test_errors_are_statuses(channel: grpc.Channel) -> None:
    assert status_of(lambda: stub(channel).Predict(request_of([1.0], "nope"), timeout=10)) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    )
    long = status_of(lambda: stub(channel).Predict(request_of([1.0], "n" * 3000), timeout=10))[1]
    assert (len(long), long[-15:]) == (1024 + len("...TRUNCATED"), "nnn...TRUNCATED")
    unknown = channel.unary_unary("/tensorflow.serving.PredictionService/Nope")
    assert status_of(lambda: unknown(b"", timeout=10))[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_model_that_breaks_is_an_internal_error(channel: grpc.Channel, models: FakeModels) -> None:
    models.servable.fails = ZeroDivisionError("oh")
    try:
        assert status_of(lambda: stub(channel).Predict(request_of([1.0]), timeout=10)) == (
            grpc.StatusCode.INTERNAL,
            "ZeroDivisionError: oh",
        )
    finally:
        models.servable.fails = None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]),
    st.one_of(st.binary(max_size=200), st.binary(max_size=20).map(lambda tail: request_of([1.0]).SerializeToString() + tail)),
)
def test_bytes_of_any_kind_are_answered(channel: grpc.Channel, method: str, raw: bytes) -> None:
    call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    try:
        call(raw, timeout=10)
    except grpc.RpcError as error:
        assert error.code() not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}, error


def test_messages_may_be_large(channel: grpc.Channel) -> None:
    response = stub(channel).Predict(request_of(np.ones(5_000_000)), timeout=60)  # 20 MB; gRPC's own limit is 4 MB
    assert to_array(response.outputs["y"]).shape == (5_000_000,)


def test_the_deadline_reaches_the_model(channel: grpc.Channel, models: FakeModels) -> None:
    before = time.monotonic()
    stub(channel).Predict(request_of([1.0]), timeout=20)
    deadline = models.servable.deadlines[-1]
    assert deadline is not None
    assert before + 19 < deadline < time.monotonic() + 21  # gRPC rounds up what it sends
    stub(channel).Predict(request_of([1.0]))
    assert models.servable.deadlines[-1] is None


def test_observers_are_told_of_every_outcome() -> None:
    told: list[tuple[str, ...]] = []

    class Seen:
        def requested(self, model: str, api: str, entrypoint: str, code: str, seconds: float) -> None:
            told.append((model, api, entrypoint, code))

        def ran(self, model: str, api: str, seconds: float) -> None:
            pass

        def examples(self, model: str, count: int) -> None:
            pass

    with serving(observers=(Seen(),)) as server, grpc.insecure_channel(server.address) as channel:
        stub(channel).Predict(request_of([1.0]), timeout=10)
        status_of(lambda: stub(channel).Predict(request_of([1.0], "nope"), timeout=10))
    assert told == [("half", "Predict", "GRPC", "OK"), ("nope", "Predict", "GRPC", "NOT_FOUND")]


def test_health_says_serving_until_it_drains_and_requests_inside_finish() -> None:
    models = FakeModels()
    with (
        serving(models, enable_grpc_healthcheck_service=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "PredictionService", "ModelService"):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert health.Check(asked, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        models.servable.gate.clear()
        inside = stub(channel).Predict.future(request_of([2.0]), timeout=20)
        while not models.held:
            time.sleep(0.005)
        finished: list[bool] = []
        draining = threading.Thread(target=lambda: finished.append(server.drain(20)))
        draining.start()
        refused = grpc.StatusCode.OK
        while refused == grpc.StatusCode.OK:  # until the drain has begun
            try:
                model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
                    get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "half"}), timeout=10
                )
            except grpc.RpcError as error:
                refused = error.code()
        assert refused == grpc.StatusCode.UNAVAILABLE
        asked = health_pb2.HealthCheckRequest(service="PredictionService")
        assert health.Check(asked, timeout=10).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not finished
        models.servable.gate.set()
        assert to_array(inside.result().outputs["y"]).tolist() == [3.0]
        draining.join(10)
        assert finished == [True]


def test_requests_that_wait_for_a_thread_are_answered_in_a_drain() -> None:
    models = FakeModels()
    with serving(models, grpc_max_threads=2) as server, grpc.insecure_channel(server.address) as channel:
        models.servable.gate.clear()
        calls = [stub(channel).Predict.future(request_of([float(index)]), timeout=20) for index in range(8)]
        while models.held < 2:
            time.sleep(0.005)
        time.sleep(0.1)  # for the others to arrive; they wait in the pool
        finished: list[bool] = []
        draining = threading.Thread(target=lambda: finished.append(server.drain(20)))
        draining.start()
        time.sleep(0.1)
        models.servable.gate.set()
        assert [to_array(call.result().outputs["y"]).item() for call in calls] == [index / 2 + 2 for index in range(8)]
        draining.join(10)
        assert finished == [True]
        late = stub(channel).Predict.future(request_of([1.0]), timeout=5).exception()
        assert late.code() == grpc.StatusCode.UNAVAILABLE


def test_a_reload_waits_no_longer_than_its_caller() -> None:
    models = FakeModels()
    with serving(models) as server, grpc.insecure_channel(server.address) as channel:
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.config.add(name="half", base_path="/m")
        reload(request, timeout=30)
        reload(request)
    limited, unlimited = models.timeouts
    assert limited is not None and 20 < limited < 31  # gRPC tells what remains by another clock
    assert unlimited is None


def test_a_drain_gives_up_after_its_time() -> None:
    models = FakeModels()
    with serving(models) as server, grpc.insecure_channel(server.address) as channel:
        models.servable.gate.clear()
        inside = stub(channel).Predict.future(request_of([2.0]), timeout=20)
        while not models.held:
            time.sleep(0.005)
        start = time.monotonic()
        assert not server.drain(0.1)
        assert time.monotonic() - start < 5
        server.stop()
        assert inside.exception(timeout=10) is not None
        models.servable.gate.set()


def test_without_the_flag_there_is_no_health_service(channel: grpc.Channel) -> None:
    call = health_pb2_grpc.HealthStub(channel).Check
    assert status_of(lambda: call(health_pb2.HealthCheckRequest(), timeout=10))[0] == grpc.StatusCode.UNIMPLEMENTED


def test_a_unix_socket_besides_the_port_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    cases: list[dict[str, Any]] = [{}, {"port": 0}]
    for flags in cases:
        with serving(grpc_socket_path=str(path), **flags) as server:
            with grpc.insecure_channel(f"unix:{path}") as channel:
                assert to_array(stub(channel).Predict(request_of([2.0]), timeout=10).outputs["y"]).tolist() == [3.0]
            assert bool(server.address) == ("port" not in flags)


def test_a_socket_left_behind_by_a_killed_server_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with serving(grpc_socket_path=str(path), port=0), grpc.insecure_channel(f"unix:{path}") as channel:
        assert stub(channel).Predict(request_of([2.0]), timeout=10).outputs


def test_a_port_that_is_taken_is_refused() -> None:
    with serving() as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(StatusError, match="Failed to BuildAndStart gRPC server"), serving(port=port):
            pass


def test_channel_arguments() -> None:
    arguments = dict(channel_arguments("grpc.max_concurrent_streams=7,nobody.knows=x,grpc.so_reuseport=1"))
    assert arguments["grpc.max_concurrent_streams"] == 7
    assert arguments["nobody.knows"] == "x"
    assert arguments["grpc.so_reuseport"] == 1
    with pytest.raises(StatusError, match="name=value"):
        channel_arguments("a")
    with (
        serving(grpc_channel_arguments="nobody.knows=x,other=1") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub(channel).Predict(request_of([2.0]), timeout=10)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed key and certificate for 127.0.0.1, PEM."""
    folder = tmp_path_factory.mktemp("keys")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key", "-out", folder / "cert"],
        check=True,
        capture_output=True,
    )
    return (folder / "key").read_text(), (folder / "cert").read_text()


def test_tls(keys: tuple[str, str]) -> None:
    key, certificate = keys
    trusting = grpc.ssl_channel_credentials(certificate.encode())
    with serving(credentials=server_credentials(SSLConfig(key, certificate))) as server:
        with grpc.secure_channel(server.address, trusting) as channel:
            stub(channel).Predict(request_of([2.0]), timeout=10)
        with grpc.insecure_channel(server.address) as channel:
            assert status_of(lambda: stub(channel).Predict(request_of([2.0]), timeout=10))[0] == grpc.StatusCode.UNAVAILABLE


def test_tls_that_asks_clients_for_a_certificate(keys: tuple[str, str]) -> None:
    key, certificate = keys
    anonymous = grpc.ssl_channel_credentials(certificate.encode())
    known = grpc.ssl_channel_credentials(certificate.encode(), key.encode(), certificate.encode())
    with serving(credentials=server_credentials(SSLConfig(key, certificate, certificate, True))) as server:
        with grpc.secure_channel(server.address, known) as channel:
            stub(channel).Predict(request_of([2.0]), timeout=10)
        with grpc.secure_channel(server.address, anonymous) as channel:
            assert status_of(lambda: stub(channel).Predict(request_of([2.0]), timeout=10))[0] == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SSLConfig(), "needs server_key and server_cert"),
        (SSLConfig("k", "c", "", True), "client_verify needs custom_ca"),
    ],
)
def test_tls_configurations_that_are_refused(config: SSLConfig, message: str) -> None:
    with pytest.raises(StatusError, match=message):
        server_credentials(config)
