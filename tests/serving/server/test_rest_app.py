"""The REST API: paths, verbs, codes, bodies, headers and flags, through ASGI, without a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from serving.server.lifecycle import State, VersionStatus
from serving.server.metrics import DEFAULT_PATH
from serving.server.rest_bodies import MAX_UNCOMPRESSED, gunzip
from serving.server.status import Code, StatusError
from tests.serving.server.rest_requests import PREDICT, Answer, Rest, X


@pytest.fixture
def rest() -> Iterator[Rest]:
    made = Rest()
    yield made
    made.app.close()


def test_predict(rest: Rest) -> None:
    answer = rest("POST", PREDICT, X)
    assert answer == Answer(200, {"content-type": "application/json"}, b'{\n    "predictions": [2.5, 3.0\n    ]\n}')
    assert rest("POST", "/v1/models/half/versions/1:predict", {"inputs": [1.0]}).json == {"outputs": [2.5]}
    assert rest("POST", "/v1/models/half/labels/stable:predict", {"inputs": {"x": [1.0]}}).json == {"outputs": [2.5]}
    two = rest("POST", PREDICT, {"signature_name": "two", "instances": [{"a": 2, "b": 3}]})
    assert two.json == {"predictions": [{"sum": 5.0, "product": 6.0}]}
    assert rest.models.held == 0


def test_classify_and_regress(rest: Rest) -> None:
    classified = rest("POST", "/v1/models/half:classify", {"signature_name": "classify", "examples": [{"a": 1}, {}]})
    assert classified.status == 200 and [row[0][0] for row in classified.json["results"]] == ["short", "short"]
    assert classified.json["results"][1] == [["short", 0.0], ["long", -0.0]]
    regressed = rest("POST", "/v1/models/half/labels/stable:regress", {"signature_name": "regress", "examples": [{}, {"b": "x"}]})
    assert regressed.json["results"][0] == 0.0 and regressed.json["results"][1] > 0


def test_paths_match_in_full_whatever_the_case(rest: Rest) -> None:
    assert rest("POST", "/V1/Models/half/Versions/2:predict", X).status == 200
    for method, path in (
        ("POST", "/v1/models/half:predict?x=1"),
        ("POST", "/v1/models/half:PREDICT"),
        ("POST", "/v1/models/half:predict/"),
        ("POST", "/v1/models/half"),
        ("POST", "/v1/models"),
        ("POST", "/v1/foo"),
        ("POST", "/v1/models/half/version/1:predict"),
        ("POST", "/v1/models/half/versions/HELLO:regress"),
        ("POST", "/v1/models/half/versions/1/labels/stable:predict"),
        ("GET", "/v1/models/half:predict"),
        ("GET", "/v1/models/half/metadata?a"),
        ("GET", "/v1/config"),
        ("HEAD", "/v1/models/half"),
        ("PUT", PREDICT),
        ("DELETE", PREDICT),
        ("OPTIONS", PREDICT),
        ("PATCH", PREDICT),
    ):
        answer = rest(method, path, X)
        assert (answer.status, answer.json) == (400, {"error": f"Malformed request: {method} {path}"}), path
        assert answer.headers == {"content-type": "application/json"}


def test_versions_and_names_in_paths(rest: Rest) -> None:
    for number in ("9223372036854775808", "18446744073709551615", "9" * 5000):
        for answer in (
            rest("POST", f"/v1/models/half/versions/{number}:predict", X),
            rest("GET", f"/v1/models/half/versions/{number}"),
        ):
            assert (answer.status, answer.json["error"]) == (400, f"Failed to convert version: {number} to numeric.")
    assert rest("GET", "/v1/models").json == {"error": "Missing model name in request."}
    assert rest("GET", "/v1/models/half?a").json == {"error": "Could not find any versions of model half?a"}
    assert rest("POST", "/v1/models/h%61lf:predict", X).status == 200
    assert rest("POST", "/v1/models/%2e%2e%2fetc%00:predict", X).json == {
        "error": "Servable not found for request: Latest(../etc\0)"
    }
    assert rest("POST", b"/v1/models/\xff%ff:predict", X).status == 404
    assert rest("GET", "/elsewhere").status == 404 and rest("GET", "/livez").status == 404


def test_refusals_come_in_tensorflow_servings_order(rest: Rest) -> None:
    for path, body, status, message in (
        ("/v1/models/other:predict", "", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/other:predict", '{"signature_name": 1}', 400, "'signature_name' key must be a string value."),
        ("/v1/models/other:predict", "{}", 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/half/versions/99:predict", "{}", 404, "Servable not found for request: Specific(half, 99)"),
        ("/v1/models/half/labels/x:predict", "{}", 400, "Unrecognized servable version label: x"),
        (PREDICT, '{"signature_name": "S"}', 400, 'Serving signature name: "S" not found in signature def'),
        (PREDICT, "{}", 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/other:classify", '{"examples": 1}', 400, "Expecting 'examples' value to be an list/array"),
        ("/v1/models/other:regress", '{"examples": [{}]}', 404, "Servable not found for request: Latest(other)"),
        ("/v1/models/half:regress", '{"signature_name": "S", "examples": [{}]}', 400, "No signature was found with the name: S"),
    ):
        answer = rest("POST", path, body)
        assert answer.status == status and answer.json["error"].endswith(message)


def test_each_code_has_its_http_status(rest: Rest) -> None:
    for code, status in (
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.UNAVAILABLE, 503),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
    ):
        rest.models.servable.fails = StatusError(code, 'not "now"\n')
        answer = rest("POST", PREDICT, X)
        assert (answer.status, answer.json) == (status, {"error": 'not "now"\n'})
    rest.models.servable.fails = ZeroDivisionError("in the model")
    assert rest("POST", PREDICT, X).json == {"error": "ZeroDivisionError: in the model"}
    assert rest.models.held == 0


def test_a_run_that_takes_too_long_is_a_504() -> None:
    rest = Rest(rest_api_timeout_in_ms=100)
    rest.models.servable.gate.clear()
    start = time.monotonic()
    answer = rest("POST", PREDICT, X)
    assert answer.status == 504 and time.monotonic() - start < 5
    assert rest.models.servable.deadlines == [] and b'status="DEADLINE_EXCEEDED"} 1' in rest.metrics.page()
    rest.models.servable.gate.set()
    assert rest("POST", PREDICT, X).status == 200
    deadline = rest.models.servable.deadlines[-1]
    assert deadline is not None and 0 < deadline - start < 100
    rest.app.close()


def test_status(rest: Rest) -> None:
    answer = rest("GET", "/v1/models/half")
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert answer.json == {"model_version_status": [{"version": "2", **available}, {"version": "1", **available}]}
    assert answer.body.startswith(b'{\n "model_version_status": [\n  {\n   "version": "2",\n')
    assert rest("GET", "/v1/models/half/versions/1").json == {"model_version_status": [{"version": "1", **available}]}
    for path, message in (
        ("/v1/models/other", "Could not find any versions of model other"),
        ("/v1/models/half/versions/9", "Could not find version 9 of model half"),
    ):
        answer = rest("GET", path)
        assert (answer.status, answer.json) == (404, {"error": message})


def test_metadata(rest: Rest) -> None:
    answer = rest("GET", "/v1/models/half/versions/1/metadata").json
    assert answer["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    default = signatures["serving_default"]
    assert default["inputs"]["x"] == {"dtype": "DT_FLOAT", "name": "x:0"} and default["defaults"] == {}
    assert default["method_name"] == "tensorflow/serving/predict"
    assert signatures["__saved_model_init_op"]["inputs"] == {} and signatures["__saved_model_init_op"]["method_name"] == ""
    assert rest("GET", "/v1/models/other/metadata").status == 404
    assert rest("GET", "/v1/models/half/METADATA").json["model_version_status"]


def test_gzip_bodies(rest: Rest) -> None:
    body = gzip.compress(json.dumps(X).encode())
    assert rest("POST", PREDICT, body, content_encoding="gzip").json == {"predictions": [2.5, 3.0]}
    for broken in (body[:-1], body[:20], b"", b"x" * 50, body + b"x"):
        assert rest("POST", PREDICT, broken, content_encoding="gzip").json == {"error": "JSON Parse error: The document is empty"}


def test_a_gzip_bomb_takes_no_memory() -> None:
    bomb = gzip.compress(bytes(MAX_UNCOMPRESSED + 1))
    liar = bomb[:-4] + struct.pack("<I", 1000)
    tracemalloc.start()
    try:
        assert gunzip(bomb) == gunzip(liar) == b""
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_cors_headers_only_with_the_flag(rest: Rest) -> None:
    assert "access-control-allow-origin" not in rest("POST", PREDICT, X).headers
    cors = Rest(rest_api_enable_cors_support=True)
    expected = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET",
        "access-control-allow-headers": "Content-Type",
    }
    for answer in (cors("OPTIONS", PREDICT), cors("POST", PREDICT, X), cors("POST", PREDICT, "")):
        assert expected.items() <= answer.headers.items()
    assert cors("OPTIONS", PREDICT).status == 200
    cors.app.close()


def test_strict_json_only_with_the_flag(rest: Rest) -> None:
    body = '{"instances": [NaN, Infinity]}'
    assert b"[NaN, Infinity" in rest("POST", PREDICT, body).body
    strict = Rest(rest_strict_json=True)
    assert strict("POST", PREDICT, body).json == {"predictions": ["NaN", "Infinity"]}
    strict.app.close()


def test_metrics_page(rest: Rest) -> None:
    rest("POST", PREDICT, X)
    rest("POST", PREDICT, "{")
    answer = rest("GET", DEFAULT_PATH)
    assert answer.status == 200 and answer.headers["content-type"] == "text/plain"
    assert b':tensorflow:serving:request_count{model_name="half",status="OK"} 1' in answer.body
    assert b':tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"} 1' in answer.body
    assert b':tensorflow:serving:request_latency_count{model_name="half",API="predict",entrypoint="REST"} 1' in answer.body
    assert b':tensorflow:serving:runtime_latency_count{model_name="half",API="Predict",runtime="TF1"} 1' in answer.body
    assert rest("GET", DEFAULT_PATH + "?a=1").status == 404


def test_health_listing_and_configuration_with_their_flags() -> None:
    rest = Rest(rest_health=True, rest_list_models=True)
    assert (rest("GET", "/livez").status, rest("GET", "/readyz").status) == (200, 200)
    assert rest("GET", "/v1/models").json["models"][0]["name"] == "half"
    assert [each["version"] for each in rest("GET", "/v1/models").json["models"][0]["model_version_status"]] == ["2", "1"]
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(name="half", base_path="/m")
    rest.models.config = lambda: config  # type: ignore[method-assign]
    assert rest("GET", "/v1/config").json == {"model_config_list": {"config": [{"name": "half", "base_path": "/m"}]}}
    rest.app.close()


def test_readiness_names_what_is_not_ready() -> None:
    rest = Rest(rest_health=True)
    rest.models.names = lambda: ["half", "gone"]  # type: ignore[method-assign]
    rest.models.statuses = lambda name, version=None: [VersionStatus(3, State.END, Code.INTERNAL, "no such op")]  # type: ignore
    rest.models.ready = lambda: False  # type: ignore[method-assign]
    answer = rest("GET", "/readyz")
    failed = {"version": "3", "state": "END", "status": {"error_code": "INTERNAL", "error_message": "no such op"}}
    assert answer.status == 503 and answer.json["not_ready"] == {"half": [failed], "gone": [failed]}
    rest.app.close()


def test_health_answers_while_every_thread_computes() -> None:
    rest = Rest(rest_health=True)
    rest.models.servable.gate.clear()

    async def all_at_once() -> list[Answer]:
        waiting = [asyncio.ensure_future(rest.send("POST", PREDICT.encode(), json.dumps(X).encode(), {})) for _ in range(4)]
        await asyncio.sleep(0.05)
        health = [await rest.send("GET", path, b"", {}) for path in (b"/livez", b"/readyz", DEFAULT_PATH.encode())]
        assert not any(each.done() for each in waiting)
        rest.models.servable.gate.set()
        return health + await asyncio.gather(*waiting)

    assert [answer.status for answer in asyncio.run(all_at_once())] == [200] * 7
    rest.app.close()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Rest]:
    made = Rest(rest_list_models=True, rest_health=True)
    yield made
    made.app.close()


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(["POST", "GET", "PUT"]),
    st.sampled_from([PREDICT, "/v1/models/half:classify", "/v1/models/half:regress", "/v1/models/half/metadata"])
    | st.text(max_size=20, alphabet=st.characters(max_codepoint=255)).map(lambda text: "/v1/models/" + text),
    st.binary(max_size=30)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["instances", "inputs", "examples", "context", "signature_name", "x"]), inner, max_size=3
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", "gzip"]),
)
def test_whatever_comes_in_is_never_a_500(fuzzed: Rest, method: str, path: str, body: bytes, encoding: str) -> None:
    answer = fuzzed(method, path, gzip.compress(body) if encoding else body, content_encoding=encoding)
    assert answer.status in (200, 400, 404, 501)
    assert answer.status == 200 or isinstance(answer.json["error"], str)
