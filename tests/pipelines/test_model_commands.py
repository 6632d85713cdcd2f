"""`tfline predict`, `status`, `metadata` and `compare-transports` against small servers: output and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from tests.serving.client.fake_servers import Behaviour, GrpcServer, RestServer


@pytest.fixture(params=[GrpcServer, RestServer])
def server(request: pytest.FixtureRequest) -> Iterator[GrpcServer | RestServer]:
    started = request.param()
    yield started
    started.stop()


def run(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=given, env={"COLUMNS": "80"})


def test_status(server: GrpcServer | RestServer) -> None:
    result = run("status", "echo", "--server", server.address)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[1] == ["7", "AVAILABLE"] and lines[2][:3] == ["5", "END", "UNAVAILABLE:"]
    found = json.loads(run("status", "echo", "--server", server.address, "--json").output)
    assert found[0] == {"version": 7, "state": "AVAILABLE", "code": "OK", "message": ""}


def test_metadata(server: GrpcServer | RestServer) -> None:
    result = run("metadata", "echo", "--server", server.address)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("echo, version 7\n\nserving_default  tensorflow/serving/predict\n")
    assert "in   x  float32  [?]" in result.output and max(map(len, result.output.splitlines())) <= 80
    found = json.loads(run("metadata", "echo", "--server", server.address, "--json").output)
    assert found["version"] == 7
    assert found["signatures"]["two"]["outputs"] == {each: {"dtype": "float32", "shape": [None]} for each in "ab"}


def test_predict(server: GrpcServer | RestServer, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("a,label,b\n1,x,4\n2,y,5\n3,z,6\n")
    result = run("predict", "echo", "--server", server.address, "--input", table, "--batch", "2")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"predictions": [{"a": 1.0, "b": 4.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 6.0}]}
    assert result.stderr == f"{table}: not inputs of two, left out: label\nversion 7, signature two\n"
    # The metadata, and two requests.
    assert behaviour(server).asked.total() == (3 if isinstance(server, GrpcServer) else 4)


def behaviour(server: GrpcServer | RestServer) -> Behaviour:
    return server.behaviour


@pytest.mark.parametrize(
    ("given", "options", "printed"),
    [
        ("[1, 2.5]", [], '{"predictions":[\n1.0,\n2.5\n]}\n'),
        ("[1, 2.5]", ["--output", "csv"], "y\n1.0\n2.5\n"),
        ('{"inputs": [1, 2.5]}', [], '{"outputs":[1.0,2.5]}\n'),
        ('{"x": 1}\n{"x": 2.5}\n', ["--version", "7"], "1.0\n2.5\n"),
        ("x\n1\nnan\n", [], '{"predictions":[\n1.0,\nNaN\n]}\n'),
    ],
)
def test_forms_of_predict(server: GrpcServer | RestServer, given: str, options: list[str], printed: str) -> None:
    result = run("predict", "echo", "--server", server.address, "--input", "-", *options, given=given)
    assert result.exit_code == 0, result.output
    assert result.stdout == printed


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--input", "none.csv"], 2, "tfline: none.csv: No such file or directory"),
        (["--input", "-", "--signature", "s"], 2, "expected a signature of the model"),
        (["--input", "-", "--version", "1", "--label", "l"], 2, "expected --version or --label, got both"),
        (["--input", "-", "--server", "ftp://h"], 2, "tfline: --server: expected "),
        (["--input", "-", "--server", "localhost:1"], 1, "tfline: localhost:1: UNAVAILABLE: "),
        (["--input", "-", "--server", "localhost:1"], 1, "\nIs a server running there? `tfline serve echo` starts one;"),
        (["--input", "-", "--server", "http://localhost:1", "--ca", __file__], 2, "grpcs:// or https:// with certificates"),
        (["--input", "-", "--server", "localhost:1", "--ca", "none.pem"], 2, "none.pem"),
    ],
)
def test_refusals(options: list[str], code: int, told: str) -> None:
    server = GrpcServer()
    result = run("predict", "echo", "--server", server.address, *options, given="[1]")
    server.stop()
    if "--server" in options:
        result = run("predict", "echo", *options, given="[1]")
    assert result.exit_code == code and told in result.output and "Traceback" not in result.output


def test_a_bad_row_is_told_before_anything_is_asked(server: GrpcServer | RestServer) -> None:
    result = run("predict", "echo", "--server", server.address, "--input", "-", given="x\n1\ntwo\n")
    assert result.exit_code == 2 and result.output == "tfline: standard input:3: x: expected float32, got 'two'\n"
    assert behaviour(server).asked.total() == 1


def test_compare_transports(tmp_path: Path) -> None:
    grpc, rest = GrpcServer(), RestServer()
    options: list[str | Path] = ["--rows", "2", "--clients", "1", "--seconds", "0.1", "--out", tmp_path / "out"]
    result = run("compare-transports", "echo", "--grpc", grpc.address, "--rest", rest.address, *options)
    grpc.stop()
    rest.stop()
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines()[:-1])) <= 80
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [cell["transport"] for cell in written["cells"]] == ["gRPC", "REST"]
    assert written["advice"][-1].split(" ")[0] in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["comparison.json", "comparison.png"]


def test_numbers_of_compare_transports() -> None:
    result = run("compare-transports", "echo", "--rows", "1,x")
    assert result.exit_code == 2 and "expected numbers above zero, such as 1,32,256, got '1,x'" in result.output
