"""The whole server in this process: real SavedModels, real sockets, started and ended once for many questions."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

from serving.server.model_server import ModelServer
from serving.server.options import ServerOptions
from serving.server.predict_checks import CLASSIFY_METHOD, REGRESS_METHOD
from serving.server.status import Code, StatusError
from serving.server.tensors import to_array, to_proto
from serving.server.warmup import write_warmup
from tests.serving.server.conftest import ModelFolders
from tests.serving.server.test_grpc_server import free_port, status_of

pytestmark = pytest.mark.slow


@dataclass
class Running:
    """A server that answers, and how to ask it."""

    server: ModelServer
    stub: Any
    models: Any
    rest: str


@contextmanager
def running(**flags: Any) -> Iterator[Running]:
    port, rest = free_port(), free_port()
    server = ModelServer(ServerOptions(port=port, rest_api_port=rest, **flags))
    try:
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Running(
                server,
                prediction_service_pb2_grpc.PredictionServiceStub(channel),
                model_service_pb2_grpc.ModelServiceStub(channel),
                f"http://127.0.0.1:{rest}",
            )
    finally:
        server.drain(10)
        server.stop()
        assert server.unload(10)


def predict_request(model: str, signature: str = "", **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(to_proto(np.asarray(value)))
    return request


@pytest.fixture(scope="module")
def server(models: ModelFolders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models `two` (TF2, versions 1 and 2, warmed up) and `one` (TF1); monitoring and request log are on."""
    folder = tmp_path_factory.mktemp("server")
    for source, target in ((models.tf2, "two/1"), (models.tf2, "two/2"), (models.tf1, "one/7")):
        shutil.copytree(source, folder / target)
    write_warmup(folder / "two/2", [predict_request("whoever", x=np.ones((1, 4), "float32"))])
    (folder / "config").write_text(
        f"""model_config_list {{
          config {{ name: "two" base_path: "{folder}/two" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }}
            logging_config {{ sampling_config {{ sampling_rate: 1.0 }} }} }}
          config {{ name: "one" base_path: "{folder}/one" model_platform: "tensorflow" }} }}"""
    )
    (folder / "monitoring").write_text("prometheus_config { enable: true }")
    with running(
        model_config_file=str(folder / "config"),
        allow_version_labels_for_unavailable_models=True,
        monitoring_config_file=str(folder / "monitoring"),
        request_log_dir=str(folder / "log"),
        request_log_sampling_rate=0.0,
    ) as started:
        yield started
    (kept,) = (folder / "log").rglob("*.tfrecord")
    assert kept.parent.name == "two"
    assert kept.stat().st_size > 100


def test_the_newest_version_answers_and_the_label_another(server: Running, models: ModelFolders) -> None:
    x = np.random.default_rng(1).random((3, 4), "float32")
    request = predict_request("two", x=x)
    response = server.stub.Predict(request, timeout=20)
    assert response.model_spec.version.value == 2
    np.testing.assert_allclose(to_array(response.outputs["y"]), x @ models.weights, rtol=1e-5)
    request.model_spec.version_label = "stable"
    assert server.stub.Predict(request, timeout=20).model_spec.version.value == 1


def test_what_tensorflow_refuses_is_the_callers_error(server: Running) -> None:
    wrong = predict_request("two", x=np.ones((1, 5), "float32"))
    code, message = status_of(lambda: server.stub.Predict(wrong, timeout=20))
    assert (code, "Matrix size-incompatible" in message) == (grpc.StatusCode.INVALID_ARGUMENT, True), message
    late = predict_request("two", "slow", n=np.int32(10_000_000))
    assert status_of(lambda: server.stub.Predict(late, timeout=0.3))[0] == grpc.StatusCode.DEADLINE_EXCEEDED


def test_rest_and_grpc_agree(server: Running, models: ModelFolders) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    body = json.dumps({"instances": x.tolist()}).encode()
    with urllib.request.urlopen(f"{server.rest}/v1/models/two/versions/1:predict", body, timeout=20) as answer:
        rows = json.load(answer)["predictions"]
    np.testing.assert_allclose([row["y"] for row in rows], x @ models.weights)
    with urllib.request.urlopen(f"{server.rest}/monitoring/prometheus/metrics", timeout=20) as answer:
        page = answer.read().decode()
    assert ':tensorflow:serving:request_count{model_name="two",status="OK"}' in page
    assert ':tfline:serving:loaded_version{model_name="one",version="7"} 1' in page
    assert ":tfline:serving:request_log_dropped{} 0" in page


def with_example(request: Any, signature: str) -> Any:
    if signature:
        request.model_spec.name, request.model_spec.signature_name = "one", signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.extend([1.0, 2.0])
    return request


def test_classify_regress_and_both_in_one_run(server: Running) -> None:
    classified = server.stub.Classify(with_example(classification_pb2.ClassificationRequest(), "classify"), timeout=20)
    assert [(each.label, each.score) for each in classified.result.classifications[0].classes] == [("low", -8.0), ("high", 8.0)]
    regressed = server.stub.Regress(with_example(regression_pb2.RegressionRequest(), "regress"), timeout=20)
    assert regressed.result.regressions[0].value == 8.0
    request = with_example(inference_pb2.MultiInferenceRequest(), "")
    for signature, method in (("classify", CLASSIFY_METHOD), ("regress", REGRESS_METHOD)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "one", signature
    first, second = server.stub.MultiInference(request, timeout=20).results
    assert first.classification_result == classified.result
    assert second.regression_result == regressed.result
    assert first.model_spec.version.value == 7


def test_metadata_has_the_init_op(server: Running) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "two"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    server.stub.GetModelMetadata(request, timeout=20).metadata["signature_def"].Unpack(signatures)
    assert {"__saved_model_init_op", "serving_default", "strings"} <= signatures.signature_def.keys()


def test_tensorflows_own_client_can_profile_it(server: Running, tmp_path: Path) -> None:
    import tensorflow as tf

    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            server.stub.Predict(predict_request("two", x=np.ones((1, 4), "float32")), timeout=20)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        address = f"grpc://{server.server.grpc_address}"
        tf.profiler.experimental.client.trace(address, str(tmp_path), 300, num_tracing_attempts=1)
    finally:
        stop.set()
        worker.join()
    (trace,) = tmp_path.rglob("*.xplane.pb")
    assert trace.relative_to(tmp_path).parts[:2] == ("plugins", "profile")
    assert trace.stat().st_size > 1000
    with pytest.raises(Exception, match=r"unimplemented\."):
        tf.profiler.experimental.client.monitor(server.server.grpc_address, 100, 1)


def test_a_profiles_host_is_no_path(tmp_path: Path) -> None:
    from serving.server.profiler import Profiler, messages

    for session, host in (("../up", "h"), ("s", "a/b"), ("..", "h")):
        request = messages()["ProfileRequest"](repository_root=str(tmp_path), session_id=session, host_name=host)
        with pytest.raises(StatusError, match="plain names"):
            Profiler().profile(request.SerializeToString(), lambda: True)
    assert not list(tmp_path.iterdir())


def test_profiler_requests_that_are_none_and_ends_of_what_does_not_run() -> None:
    from serving.server.profiler import Profiler, messages

    profiler = Profiler()
    for method in (profiler.profile, profiler.terminate):
        with pytest.raises(StatusError) as caught:
            method(b"\xff\xff\xff", lambda: True)
        assert caught.value.code == Code.INVALID_ARGUMENT
    for session in ("a", "b"):
        assert profiler.terminate(messages()["TerminateRequest"](session_id=session).SerializeToString(), lambda: True) == b""
    assert profiler._terminated == set()


def test_a_reload_that_is_refused_changes_nothing(server: Running) -> None:
    request = ReloadConfigRequest()
    request.config.model_config_list.config.add(name="two", base_path="not/absolute", model_platform="tensorflow")
    code, message = status_of(lambda: server.models.HandleReloadConfigRequest(request, timeout=20))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, message
    assert message == "Expected model two to have an absolute path or URI; got base_path()=not/absolute"
    server.stub.Predict(predict_request("one", x=np.ones((1, 2), "float32")), timeout=20)


def test_a_warm_up_that_fails_fails_the_load_and_the_start(models: ModelFolders, tmp_path: Path) -> None:
    shutil.copytree(models.tf2, tmp_path / "m/1")
    write_warmup(tmp_path / "m/1", [predict_request("m", "nope")])
    flags: dict[str, Any] = {"model_name": "m", "model_base_path": str(tmp_path / "m"), "max_num_load_retries": 0}
    server = ModelServer(ServerOptions(port=free_port(), **flags))
    with pytest.raises(StatusError) as caught:
        server.start()
    assert caught.value.code == Code.UNKNOWN
    server.stop()
    assert server.unload(10)
    with running(enable_model_warmup=False, **flags) as started:
        started.stub.Predict(predict_request("m", x=np.ones((1, 4), "float32")), timeout=20)


def test_tflite_and_per_model_batching(models: ModelFolders, tmp_path: Path) -> None:
    shutil.copytree(models.tf2, tmp_path / "m/1")
    shutil.copy(models.tflite, tmp_path / "m/1/model.tflite")
    (tmp_path / "m/1/batching_params.pbtxt").write_text("max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]")
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    flags = {
        "model_name": "m",
        "model_base_path": str(tmp_path / "m"),
        "monitoring_config_file": str(tmp_path / "monitoring"),
    }
    with running(prefer_tflite_model=True, enable_batching=True, enable_per_model_batching_parameters=True, **flags) as started:
        x = np.ones((3, 4), "float32")
        answer = started.stub.Predict(predict_request("m", x=x), timeout=20)
        np.testing.assert_allclose(to_array(answer.outputs["y"]), x @ models.weights, rtol=1e-5)
        code, message = status_of(lambda: started.stub.Predict(predict_request("m", x=np.ones((5, 4), "float32")), timeout=20))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert message.startswith("Task size 5 is larger than maximum input batch size 4")
        # The flatbuffer has only the default signature, so this is not the SavedModel.
        assert "not found" in status_of(lambda: started.stub.Predict(predict_request("m", "scalar", x=1.0), timeout=20))[1]
        with urllib.request.urlopen(f"{started.rest}/monitoring/prometheus/metrics", timeout=20) as answer:
            page = answer.read().decode()
        assert ":tensorflow:serving:batching_session:wrapped_run_count{} 1" in page
        assert ':tfline:serving:batch_padding_rows{thread_pool_name="model_server_batch_threads"} 1' in page


def test_a_drain_during_loading_opens_no_port(tmp_path: Path) -> None:
    port = free_port()
    # A base path without versions is waited for.
    server = ModelServer(ServerOptions(port=port, rest_api_port=port, model_base_path=str(tmp_path)))
    failures: list[StatusError] = []

    def start() -> None:
        try:
            server.start()
        except StatusError as error:
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    time.sleep(0.2)
    assert server.drain(1)
    server.stop()
    assert server.unload(10)
    thread.join(10)
    assert [error.code for error in failures] == [Code.CANCELLED]
    assert server.grpc_address == ""


def test_rest_on_grpcs_port_is_skipped(models: ModelFolders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").symlink_to(models.tf2)
    port = free_port()
    server = ModelServer(ServerOptions(port=port, rest_api_port=port, model_base_path=str(tmp_path), enable_profiler=False))
    server.start()
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(predict_request("default", x=np.ones((1, 4), "float32")), timeout=20)
    assert "Skipped exporting HTTP/REST API." in caplog.text
    assert server.drain(5)
    server.stop()
    assert server.unload(10)
