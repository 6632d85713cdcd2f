"""Infra-validate: a model that passes in the embedded server, and each way in which one, or its server, does not."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components import infra_validate
from components.errors import TflineError
from components.infra_requests import LatencyBudget, Row, ask_all, warmup_requests
from components.infra_validate import Config, Report, run, summarise
from components.layout import SERVING_DIR, WARMUP_FILE
from components.saved_model_answers import Exercise, Golden, Tolerance, Unanswered
from components.saved_model_checks import SignatureFound, TensorFound
from serving.client.messages import message
from serving.server.warmup import read_records
from serving.server_program import ServerProgram, embedded_program
from tests.serving.test_server_process import AVAILABLE, FAKE, LOADING, statuses

# One signature and a function for a server ---------------------------------------------------------------------------

X = np.arange(12, dtype=np.float32).reshape(6, 2)
GOLDEN = Golden(np.array([b"e"] * 6, dtype=object), {"x": X}, {"y": X.sum(axis=1)})


def exercise(answer: Any, size: int | None = None) -> Exercise:
    inputs = {"x": TensorFound(dtype="float32", shape=(size, 2))}
    outputs = {"y": TensorFound(dtype="float32", shape=(size,))}
    return Exercise("sums", SignatureFound(inputs=inputs, outputs=outputs), GOLDEN, answer)


def ask(tried: Exercise, *, requests: int = 5, **budget: float) -> tuple[Row, list[str]]:
    return ask_all(tried, "REST", Tolerance(), requests, LatencyBudget(**budget))


def test_right_answers_are_measured() -> None:
    asked: list[int] = []

    def answer(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(len(feeds["x"]))
        return {"y": feeds["x"].sum(axis=1)}

    row, problems = ask(exercise(answer), p50=10_000, p99=10_000)
    assert (row.signature, row.protocol, row.examples, row.largest_difference, problems) == ("sums", "REST", 6, 0.0, [])
    assert row.p50_ms is not None and row.p99_ms is not None and 0 < row.p50_ms <= row.p99_ms
    assert asked == [6, 1, *[1] * 8], "all, one alone, three that are not measured, five that are"


def test_a_built_in_batch_size_is_kept() -> None:
    asked: list[int] = []

    def answer(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(len(feeds["x"]))
        return {"y": feeds["x"].sum(axis=1)}

    row, problems = ask(exercise(answer, size=2))
    assert (set(asked), problems, row.largest_difference) == ({2}, [], 0.0)
    requests = warmup_requests("m", [exercise(answer, size=2)], 8)
    assert [[dim.size for dim in request.inputs["x"].tensor_shape.dim] for request in requests] == [[2, 2]] * 3


def test_wrong_answers_say_what_was_sent_expected_and_received() -> None:
    _, problems = ask(exercise(lambda feeds: {"y": feeds["x"].sum(axis=1) + (len(feeds["x"]) == 1)}))
    assert problems == [
        "by REST, sent x float32: sums/y, batch of 1: 1 of 1 values differ by more than 1e-05 + 0.0001 x |expected|, the largest "
        "by 1; at [0] expected 1.0, received 2.0"
    ]


def test_a_signature_that_does_not_answer() -> None:
    def answer(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        raise Unanswered("INTERNAL: out of order")

    row, problems = ask(exercise(answer))
    assert problems == [
        f"by REST, sent x float32: sums: no answer to a batch of {count}: INTERNAL: out of order" for count in (6, 1)
    ]
    assert (row.p50_ms, row.p99_ms) == (None, None)


def test_over_the_latency_budget() -> None:
    row, problems = ask(exercise(lambda feeds: {"y": feeds["x"].sum(axis=1)}), p50=1e-6, p99=10_000)
    assert row.p50_ms is not None
    assert problems == [
        f"by REST, sums: p50 of 5 requests of 1 example is {row.p50_ms:.2f} ms, at most 1e-06 ms allowed; over by "
        f"{row.p50_ms - 1e-6:.2f} ms"
    ]


def test_warm_up_requests() -> None:
    requests = warmup_requests("m", [exercise(dict), exercise(dict)], 4)
    assert [(request.model_spec.name, request.model_spec.signature_name) for request in requests] == [("m", "sums")] * 8
    assert requests[1].inputs["x"].tensor_content == X[1:2].tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "nginx"},
        {"warmup_requests": -1},
        {"requests": 0},
        {"max_latency_ms": {"p95": 1}},
        {"max_latency_ms": {"p50": 0}},
        {"model": "../up"},
        {"image": "--privileged"},
    ],
)
def test_config_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)


def test_the_server_is_in_the_cache_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert infra_validate.resolve({}, Config()) == {"server": "embedded", "version": embedded_program().version()}
    binary = tmp_path / "tensorflow_model_server"
    binary.write_text("#!/bin/sh\necho version 2\n")
    binary.chmod(0o755)
    assert infra_validate.resolve({}, Config()) == {"server": "binary", "version": "version 2"}
    with pytest.raises(TflineError, match=r"infra_validate\.server: expected Docker to run tensorflow/serving"):
        infra_validate.resolve({}, Config(server="docker"))


def test_summary_of_a_refusal(tmp_path: Path) -> None:
    row = Row(signature="sums", protocol="gRPC", examples=6, largest_difference=1.0)
    report = Report(server="embedded", version="1", rows=(row,), problems=("too wrong", "too late"), log=("a", "b"))
    (tmp_path / "report.json").write_text(report.model_dump_json())
    summary = summarise({"blessing": [str(tmp_path)]})
    assert summary.headline == "embedded: 2 problems"
    assert summary.refusal is not None
    assert (summary.refusal.gate, summary.refusal.reasons) == (
        "infra",
        ("too wrong", "too late", "server log: a", "server log: b"),
    )
    assert summary.metrics == {"warmup_requests": 0.0, "largest_difference.sums.gRPC": 1.0}


# Real servers and models ---------------------------------------------------------------------------------------------


def blessing(folder: Path) -> tuple[Report, set[str]]:
    report = Report.model_validate_json((folder / "report.json").read_text())
    return report, {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_good_model(exported: Mapping[str, Path], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported["model"].rglob("*")}
    config = Config(server="embedded", requests=20, warmup_requests=3, model="small")
    assert run(exported, {"blessing": tmp_path}, config) == {"blessing": {"blessed": 1}}
    assert {path: path.stat().st_mtime_ns for path in exported["model"].rglob("*")} == before
    report, files = blessing(tmp_path)
    assert files == {"INFRA_BLESSED", "report.json", "server.log", WARMUP_FILE}
    assert (report.server, report.problems, report.left_out, report.warmup_requests) == ("embedded", (), {}, 6)
    assert "TensorFlow ModelServer" in report.version
    assert report.seconds_to_available and report.seconds_to_swap
    signatures = ("dense", "serving_default")
    assert [(row.protocol, row.signature) for row in report.rows] == [
        (protocol, signature) for protocol in ("gRPC", "REST") for signature in signatures
    ]
    assert all(row.examples == 64 and row.largest_difference < 1e-5 and row.p99_ms for row in report.rows)
    assert any("{name: small version: 2}: AVAILABLE" in line for line in (tmp_path / "server.log").read_text().splitlines())
    with (tmp_path / WARMUP_FILE).open("rb") as file:
        # PredictionLog has predict_log as field 6, and that the request as field 1; all here are short of 128 kB.
        names = [next(name for name in signatures if name.encode() in record) for record in read_records(file)]
    assert names == ["dense"] * 3 + ["serving_default"] * 3
    summary = summarise({"blessing": [str(tmp_path)]})
    assert summary.headline.startswith("embedded: 2 signatures, p99 ")
    assert summary.refusal is None
    assert len(summary.tables["requests"].rows) == 4


@pytest.mark.slow
def test_a_model_that_answers_otherwise_and_late(exported: Mapping[str, Path], tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    shutil.copytree(exported["golden"], golden)
    with np.load(golden / "outputs.npz") as outputs:
        name, *others = sorted(outputs.files)
        changed = {name: outputs[name].copy(), **{other: outputs[other] for other in others}}
    changed[name][5] += 0.25
    np.savez(golden / "outputs.npz", **changed)
    config = Config(server="embedded", requests=3, max_latency_ms=LatencyBudget(p99=1e-6))
    folder = tmp_path / "blessing"
    folder.mkdir()
    assert run({**exported, "golden": golden}, {"blessing": folder}, config) == {"blessing": {"blessed": 0}}
    report, files = blessing(folder)
    assert files == {"INFRA_NOT_BLESSED", "report.json", "server.log"}
    wrong = [problem for problem in report.problems if ", batch of 64: " in problem]
    assert {problem.split(", ")[0] for problem in wrong} == {"by gRPC", "by REST"}
    assert all(
        "sent " in problem and "at [5, " in problem and "expected " in problem and "received " in problem for problem in wrong
    )
    assert sum("p99 of 3 requests" in problem for problem in report.problems) == 4
    assert any("AVAILABLE" in line for line in report.log)
    refusal = summarise({"blessing": [str(folder)]}).refusal
    assert refusal is not None and refusal.gate == "infra" and len(refusal.reasons) == len(report.problems) + len(report.log)


def try_out(exported: Mapping[str, Path], folder: Path, program: ServerProgram | None = None, **config: Any) -> Report:
    given = Config(**{"server": "embedded", "requests": 3, **config})
    return infra_validate.infra_validate(exported["model"], exported["golden"], folder, given, program)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded(exported: Mapping[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(exported["model"], model)
    (model / SERVING_DIR / "saved_model.pb").write_bytes(b"not a graph")
    report = try_out({**exported, "model": model}, tmp_path)
    (problem,) = report.problems
    assert problem == "the server ended with exit code 255 before model was available"
    assert any("Failed to start server. Error: " in line for line in report.log)
    assert (report.seconds_to_available, report.rows) == (None, ())


@pytest.mark.slow
def test_warm_up_that_fails(exported: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = message("tensorflow.serving.PredictRequest")()
    request.model_spec.signature_name = "none"
    monkeypatch.setattr(infra_validate, "warmup_requests", lambda *_: [request])
    report = try_out(exported, tmp_path)
    (problem,) = report.problems
    assert problem.startswith("with 1 golden examples as warm-up requests: model cannot be served: version 2 ended with ")
    assert 'Serving signature key "none" not found' in problem
    assert report.seconds_to_available is not None and report.seconds_to_swap is None
    assert not (tmp_path / WARMUP_FILE).exists()


def fake(code: str, *arguments: str) -> ServerProgram:
    return ServerProgram("binary", (sys.executable, "-c", code, *arguments))


@pytest.mark.slow
def test_servers_that_do_not_serve(exported: Mapping[str, Path], tmp_path: Path) -> None:
    cases = {
        "the server ended with exit code 7 before model was available": fake(
            "print('no licence', flush=True); raise SystemExit(7)"
        ),
        "model was not available after 2 s: version 1 is LOADING": fake(FAKE, statuses((1, LOADING, 0, ""))),
        "by gRPC: asked for the signatures, received UNIMPLEMENTED: Method not found!": fake(
            FAKE, statuses((1, AVAILABLE, 0, ""))
        ),
    }
    for number, (problem, program) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        report = try_out(exported, folder, program, timeout_seconds=2)
        assert report.problems[0] == problem
        assert report.log == (("no licence",) if number == 0 else ("serving model",))
