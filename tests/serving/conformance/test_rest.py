"""REST: every refusal with its status and words, every form of request and answer, number format, status, metadata, metrics."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.serving.conformance.conftest import Flagged
from tests.serving.conformance.models import model_list
from tests.serving.conformance.rest_cases import ANSWERED, KINDS, PREDICT, REFUSED, REGRESS, Answered, Refused, example, kinds
from tests.serving.conformance.servers import Connection, Server, same
from tests.serving.conformance.test_grpc_answers import array, request

pytestmark = pytest.mark.slow

BODY = '{"instances": [[2]]}'


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.path}-{case.about}".replace(" ", "_"))
def test_refused(plain: Connection, case: Refused) -> None:
    answer = plain.http.post(f"/v1/models/{case.path}", content=case.body)
    assert answer.status_code == case.status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert same(answer.json()["error"], case.message), answer.json()["error"]


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: f"{case.path}-{case.about}".replace(" ", "_"))
def test_answered(plain: Connection, case: Answered) -> None:
    answer = plain.http.post(f"/v1/models/{case.path}", content=case.body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == case.answer
    assert re.sub(r"\s", "", answer.text).startswith(f'{{"{next(iter(case.answer))}":'), answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("PUT", PREDICT, 400, "Malformed request: PUT /v1/models/half_plus_two:predict"),
        ("DELETE", "half_plus_two", 400, "Malformed request: DELETE /v1/models/half_plus_two"),
        ("PATCH", PREDICT, 400, "Malformed request: PATCH /v1/models/half_plus_two:predict"),
        ("OPTIONS", PREDICT, 400, "Malformed request: OPTIONS /v1/models/half_plus_two:predict"),
        ("GET", PREDICT, 400, "Malformed request: GET /v1/models/half_plus_two:predict"),
        ("GET", "half_plus_two?x=1", 404, "Could not find any versions of model half_plus_two?x=1"),
        ("GET", "half_plus_two/metadata?x=1", 400, "Malformed request: GET /v1/models/half_plus_two/metadata?x=1"),
        ("GET", "half_plus_two/labels", 400, "Malformed request: GET /v1/models/half_plus_two/labels"),
        ("GET", "", 400, "M…"),
        ("GET", "nope", 404, "Could not find any versions of model nope"),
        ("GET", "half_plus_two/versions/9", 404, "Could not find version 9 of model half_plus_two"),
        ("GET", "half_plus_two/versions/9223372036854775808", 400, "Failed to convert version: 9223372036854775808 to numeric."),
        ("GET", "nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("GET", "half_plus_two/versions/9/metadata", 404, "Servable not found for request: Specific(half_plus_two, 9)"),
        ("GET", "..%2f..%2fetc%2fpasswd", 404, "…"),
        ("GET", "%00", 404, "…"),
    ],
)
def test_other_verbs_and_looks(plain: Connection, method: str, path: str, status: int, message: str) -> None:
    answer = plain.http.request(method, f"/v1/models/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert same(answer.json()["error"], message), answer.json()["error"]


def test_models_without_a_name(plain: Connection) -> None:
    answer = plain.http.get("/v1/models")
    assert (answer.status_code, answer.json()) == (400, {"error": "Missing model name in request."})


def test_paths_are_case_insensitive(plain: Connection) -> None:
    assert plain.http.post("/V1/Models/half_plus_two/Versions/123:predict", content=BODY).json() == {"predictions": [[3.0]]}
    assert plain.http.post("/v1/models/HALF_plus_two:predict", content=BODY).status_code == 404


@pytest.mark.parametrize(
    ("signature", "numbers"),
    [
        (
            "float32",
            ["0.1", "1.0", "-0.0", "123456.0", "1234567.0", "1e+06", "3e-05", "0.333333343", "1.17549435e-38", "16777216.0"],
        ),
        ("float64", ["0.1", "1.0", "0.33333333333333331", "1e+300", "1.0000000000000002", "123456.0", "9007199254740991.0"]),
    ],
)
def test_number_format(plain: Connection, signature: str, numbers: list[str]) -> None:
    answer = plain.http.post(f"/v1/models/{KINDS}", content=kinds(signature, f'"instances": [{", ".join(numbers)}]'))
    assert answer.status_code == 200, answer.text
    assert re.findall(r"[-+.0-9e]+", answer.text.partition("[")[2]) == numbers


@pytest.mark.parametrize("signature", ["float32", "float64"])
def test_numbers_that_are_not_finite(plain: Connection, signature: str) -> None:
    inside = '"instances": [NaN, Inf, Infinity, -Inf, -Infinity, -NaN]'
    answer = plain.http.post(f"/v1/models/{KINDS}", content=kinds(signature, inside))
    assert answer.status_code == 200, answer.text
    assert re.findall(r"-?[NI]\w+", answer.text) == ["NaN", "Infinity", "Infinity", "-Infinity", "-Infinity", "NaN"]


def test_rest_and_grpc_agree(plain: Connection) -> None:
    values = np.random.default_rng(7).normal(size=200).astype(np.float32)
    body = json.dumps({"signature_name": "float32", "instances": values.tolist()})
    rest = np.array(plain.http.post(f"/v1/models/{KINDS}", content=body).json()["predictions"], np.float32)
    np.testing.assert_array_equal(rest, array(plain.call("Predict", request("kinds", {"v": values}, "float32")).outputs["w"]))


def test_gzip_body(plain: Connection) -> None:
    def post(content: bytes) -> Any:
        return plain.http.post(f"/v1/models/{PREDICT}", content=content, headers={"Content-Encoding": "gzip"})

    assert post(gzip.compress(BODY.encode())).json() == {"predictions": [[3.0]]}
    for broken in (b"not gzip", gzip.compress(BODY.encode())[:-12]):
        assert 400 <= post(broken).status_code < 500
    # 100 MB is the most that is unpacked.
    assert 400 <= post(gzip.compress(b" " * (101 * 2**20), 1)).status_code < 500


@pytest.mark.parametrize("path", ["half_plus_two", "half_plus_two/versions/123"])
def test_status(plain: Connection, path: str) -> None:
    one = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert plain.http.get(f"/v1/models/{path}").json() == {"model_version_status": [one]}


def test_status_is_newest_first(plain: Connection) -> None:
    statuses = plain.http.get("/v1/models/every").json()["model_version_status"]
    assert [each["version"] for each in statuses] == ["3", "2", "1"]


@pytest.mark.parametrize("path", ["kinds/metadata", "kinds/versions/1/metadata"])
def test_metadata(plain: Connection, path: str) -> None:
    found = plain.http.get(f"/v1/models/{path}").json()
    assert found["model_spec"] == {"name": "kinds", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert "__saved_model_init_op" in signatures
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    x = default["inputs"]["x"]
    assert x["dtype"] == "DT_FLOAT"
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False}
    assert x["tensor_shape"] == shape


def test_metrics(plain: Connection) -> None:
    plain.http.post(f"/v1/models/{REGRESS}", content=example('{"x": 2.0}'))
    plain.http.post(f"/v1/models/{PREDICT}", content="no JSON")
    plain.call("Predict", request("half_plus_two", {"x": np.array([[1]], np.float32)}))
    page = plain.http.get("/monitoring/prometheus/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain")
    assert re.search(
        r'^:tensorflow:serving:request_count\{model_name="half_plus_two",\s*status="OK"\} [1-9]', page.text, re.MULTILINE
    )
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="INVALID_ARGUMENT"}' in page.text
    for name in ("request_latency", "runtime_latency"):
        bounds = re.findall(
            rf'^:tensorflow:serving:{name}_bucket\{{model_name="half_plus_two".*?le="([^"]+)"', page.text, re.MULTILINE
        )
        expected = [10 * 1.8**n for n in range(len(dict.fromkeys(bounds)) - 1)]
        assert [float(each) for each in dict.fromkeys(bounds)][:-1] == pytest.approx(expected, rel=1e-4), name
        assert len(expected) in (32, 33)


def test_no_metrics_unless_asked_for(flagged: Flagged) -> None:
    assert flagged.server.http.get("/monitoring/prometheus/metrics").status_code == 404


def test_cors(flagged: Flagged, plain: Connection) -> None:
    expected = {"origin": "*", "methods": "POST, GET", "headers": "Content-Type"}
    for method, status in (("GET", 200), ("OPTIONS", 200), ("DELETE", 400)):
        answer = flagged.server.http.request(method, "/v1/models/half_plus_two")
        assert answer.status_code == status
        assert {key: answer.headers[f"access-control-allow-{key}"] for key in expected} == expected
    assert "access-control-allow-origin" not in plain.http.get("/v1/models/half_plus_two").headers


def test_rest_timeout(changing_server: Server, shop: Path) -> None:
    changing_server.reload(model_list({"slow": (shop / "kinds", "")}))
    answer = changing_server.http.post("/v1/models/slow:predict", content=kinds("slow", '"instances": [10]'))
    assert answer.status_code == 504, answer.text
    assert list(answer.json()) == ["error"]


@pytest.mark.usefixtures("own_server")
def test_unix_socket(plain: Server) -> None:
    with grpc.insecure_channel(f"unix:{plain.flags['grpc_socket_path']}") as channel:
        asked = request("half_plus_two", {"x": np.array([[1]], np.float32)})
        answer = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(asked.SerializeToString(), timeout=30)
    assert type(plain.call("Predict", asked)).FromString(answer).outputs["y"].float_val[:] == [2.5]
