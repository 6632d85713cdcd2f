"""`tfline tflite inspect`, `run` and `benchmark`: what they print at 80 columns, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import TflineError
from pipelines import tflite_commands
from pipelines.cli import main
from serving.tflite_answers import answer_file, features_wanted
from serving.tflite_metadata import TensorInfo, Transform, write_metadata
from tests.serving.tflite_files import DIGEST, make_metadata, make_tflite, pack, unpack

MODEL = make_tflite(int8=True)
X = np.array([[1, 0, 0, 2], [0, 4, 0, 0]], np.float32)
TRANSFORM = Transform(
    digest=DIGEST,
    version="3",
    host="host_transform.json",
    raw_inputs=(TensorInfo(name="fare", dtype="float32", shape=(-1, 1)),),
    reason="Bucketize has no TFLite builtin",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model.tflite"
    file.write_bytes(write_metadata(MODEL, make_metadata(MODEL, model_version="4")))
    return file


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter in this process, which takes a tenth of the time."""

    def in_this_process(path: Path, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = getattr(tflite_commands, function)(model=str(path), **arguments)
        return tflite_commands.told(made)

    monkeypatch.setattr(tflite_commands, "_isolated", in_this_process)


def run(*arguments: str | Path, given: str | bytes | None = None) -> Result:
    told = [str(argument) for argument in ("tflite", *arguments)]
    return CliRunner().invoke(main, told, input=given, env={"COLUMNS": "80"})


def test_inspect(model: Path) -> None:
    result = run("inspect", model)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert max(map(len, lines[1:])) <= 80
    assert "  dense" in lines and "    in   x  int8  [1, 4]  0.5 * (stored + 3)" in lines
    assert "    out  y  int8  [1, 3]  0.25 * (stored - 7)" in lines
    page = result.output
    assert "model       digits, version 4" in page and "features    takes raw features: there is no transform" in page
    assert "labels      of y: zero, öne, two" in page and f"SHA-256{DIGEST}" in "".join(page.split())
    assert "Ops  1 of 1 kinds" in page and "58.3 % zero" in page and "Buffers  4, 3 with data" in page
    kernel = next(line.split() for line in lines if "dense/MatMul" in line)
    assert kernel == ["dense/MatMul", "int8", "[3,", "4]", "12", "bytes", "58.3", "%", "5", "3"]


def test_inspect_json_and_a_folder(model: Path) -> None:
    found = json.loads(run("inspect", model.parent, "--json").output)
    assert found["metadata"]["variant"] == "int8" and found["ops"] == {"FULLY_CONNECTED": 1}
    assert found["weights"][0]["zeros"] == pytest.approx(7 / 12) and found["content_intact"] is True


def test_inspect_says_which_features_the_file_wants(model: Path) -> None:
    model.write_bytes(write_metadata(MODEL, make_metadata(MODEL, features="transformed", transform=TRANSFORM)))
    page = " ".join(run("inspect", model).output.split())
    assert (
        "takes transformed features: host_transform.json from beside the file comes first, which makes them of fare "
        "(not inside of the file: Bucketize has no TFLite builtin)"
    ) in page
    assert f"transform 3, SHA-256 {DIGEST[:16]}" in page and "raw input fare float32 [?, 1]" in page


def test_a_transform_inside_of_the_file() -> None:
    metadata = make_metadata(MODEL, transform=Transform(digest=DIGEST))
    assert features_wanted(metadata) == "takes raw features: the transform is inside of the file"
    assert features_wanted(None) == ""


def test_inspect_without_metadata_and_signatures(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(make_tflite(signatures=()))
    page = run("inspect", tmp_path / "m.tflite").output
    assert "Signatures  none in the file: called by the names of its tensors" in page
    assert "Metadata  none of tfline's" in page and "min_runtime_version (8 bytes)" in page
    assert "    in   x  float32  [1, 4]\n" in "".join(f"{line.rstrip()}\n" for line in page.splitlines())


def test_names_that_would_steer_the_terminal_are_shown(tmp_path: Path) -> None:
    content = unpack(MODEL)
    content.signatureDefs[0].signatureKey = b"\x1b[31mred"
    (tmp_path / "m.tflite").write_bytes(pack(content))
    page = run("inspect", tmp_path / "m.tflite").output
    assert "\x1b" not in page and r"\x1b[31mred" in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected a TFLite model, got an empty file"),
        (MODEL[:400], "was cut short or damaged"),
        (b"PK\x03\x04" + bytes(9), "got a zip archive"),
        (None, "No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", [["inspect"], ["run", "--input", "-"], ["benchmark"]])
@pytest.mark.usefixtures("here")
def test_broken_files(command: list[str], content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    if content is not None:
        file.write_bytes(content)
    result = run(*command, file, given="[[1, 2, 3, 4]]")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith(f"tfline: {file}: ") and said in result.stderr and "Traceback" not in result.output


@given(st.data())
@settings(max_examples=100, deadline=2000)
def test_no_damage_makes_inspect_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(write_metadata(MODEL, make_metadata(MODEL)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "flipped.tflite"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    result = run("inspect", file, *(["--json"] if data.draw(st.booleans()) else []))
    assert result.exit_code in (0, 1) and (result.exception is None or isinstance(result.exception, SystemExit))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "[[1, 0, 0, 2], [0, 4, 0, 0]]",
            {"predictions": [{"y": [5.0, -4.0, 0.0], "y_label": "zero"}, {"y": [0.0, 4.0, 0.0], "y_label": "öne"}]},
        ),
        ('{"instances": [{"x": [0, 0, 1, 0]}]}', {"predictions": [{"y": [0.0, 0.0, 3.0], "y_label": "two"}]}),
        ('{"inputs": {"x": [[0, 0, 1, 0]]}}', {"outputs": {"y": [[0.0, 0.0, 3.0]], "y_label": ["two"]}}),
    ],
)
def test_run_json(model: Path, text: str, answer: Any) -> None:
    result = run("run", model, "--input", "-", given=text)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == answer
    assert result.stderr == "signature dense\ntakes raw features: there is no transform\n"


@pytest.mark.usefixtures("here")
def test_run_npz_to_csv(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=X)
    result = run("run", model, "--input", tmp_path / "rows.npz", "--output", "csv")
    assert result.stdout == "y[0],y[1],y[2],y_label\n5.0,-4.0,0.0,zero\n0.0,4.0,0.0,öne\n"
    file = io.BytesIO()
    np.savez(file, x=X)
    assert run("run", model, "--input", "-", "--output", "csv", given=file.getvalue()).stdout == result.stdout


@pytest.mark.usefixtures("here")
def test_run_csv(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('x,note\n"[1, 0, 0, 2]",a\n')
    result = run("run", model, "--input", tmp_path / "rows.csv", "--output", "csv")
    assert result.stdout.splitlines()[1] == "5.0,-4.0,0.0,zero"
    assert result.stderr.startswith("not inputs of dense, left out: note\n")


@pytest.mark.usefixtures("here")
def test_run_says_what_was_clipped(model: Path) -> None:
    result = run("run", model, "--input", "-", given="[[1, 0, 0, 200]]")
    assert "x: 1 of 4 values are outside of what its int8 can hold, from -62.5 to 65: clipped\n" in result.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"z": [1, 2, 3, 4]}]', "standard input: row 1: expected the inputs x, got z"),
        ("[[1, 2, 3]]", "x: expected the shape [4], got [3]"),
        ('[["a", "b", "c", "d"]]', "expected float32, got strings"),
        ("[[1, 2, 3, NaN]]", "x: expected finite numbers for a quantized input, got NaN or infinity"),
        ("[[1, 2", "standard input:1: no JSON"),
        ("[]", "standard input: expected at least one row, got none"),
    ],
)
def test_run_refuses_rows_that_are_no_inputs(model: Path, text: str, said: str) -> None:
    result = run("run", model, "--input", "-", given=text)
    assert result.exit_code == 2 and result.stdout == "" and said in result.stderr, result.output
    assert result.stderr.endswith("takes raw features: there is no transform\n")


@pytest.mark.usefixtures("here")
def test_run_refuses_other_arrays_and_files(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", z=X)
    result = run("run", model, "--input", tmp_path / "rows.npz")
    assert result.exit_code == 2 and "expected the inputs x, got z" in result.stderr
    np.savez(tmp_path / "rows.npz", x=np.array([{}], object))
    result = run("run", model, "--input", tmp_path / "rows.npz")
    assert result.exit_code == 2 and "no .npz of plain arrays: Object arrays cannot be loaded" in result.stderr
    (tmp_path / "rows.npz").write_bytes(b"PK\x03\x04cut")
    assert "no .npz of plain arrays" in run("run", model, "--input", tmp_path / "rows.npz").stderr
    result = run("run", model, "--input", tmp_path / "none.json")
    assert result.exit_code == 2 and "none.json: No such file or directory" in result.stderr


@pytest.mark.usefixtures("here")
def test_run_says_how_the_rows_of_a_transform_are_made(model: Path) -> None:
    model.write_bytes(write_metadata(MODEL, make_metadata(MODEL, features="transformed", transform=TRANSFORM)))
    result = run("run", model, "--input", "-", given='[{"fares": 3.5}]')
    assert result.exit_code == 2
    assert "expected the inputs fare, got fares\ntakes transformed features: host_transform.json" in result.stderr
    result = run("run", model, "--input", "-", given='[{"fare": 3.5}]')
    assert result.exit_code == 1
    assert "rows of raw features go through the transform first: expected it in " in result.stderr
    assert "host_transform.json, got no such folder; copy it from where model.tflite came from" in result.stderr


@pytest.mark.usefixtures("here")
def test_run_by_signature(tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    file.write_bytes(make_tflite(signatures=("a", "b")))
    result = run("run", file, "--input", "-", given="[[1, 0, 0, 2]]")
    assert result.exit_code == 2 and "its rows fit several signatures: a, b; choose one with --signature" in result.stderr
    result = run("run", file, "--input", "-", "--signature", "b", given="[[1, 0, 0, 2]]")
    assert json.loads(result.stdout) == {"predictions": [[5.0, -4.0, 0.0]]} and result.stderr == "signature b\n"
    result = run("run", file, "--input", "-", "--signature", "c", given="[[1, 0, 0, 2]]")
    assert result.exit_code == 2 and "expected a signature of the model (a, b), got c" in result.stderr
    np.savez(tmp_path / "rows.npz", x=X)
    result = run("run", file, "--input", tmp_path / "rows.npz")
    assert result.exit_code == 2 and "fit several of the signatures" in result.stderr


def test_two_labels_of_one_probability(tmp_path: Path) -> None:
    content = make_tflite(kernel=np.array([[1, 0, 0, 0]], np.float32))
    model = unpack(content)
    model.subgraphs[0].tensors[1].shape = model.subgraphs[0].tensors[1].shapeSignature = np.array([1, 1], np.int32)
    content = pack(model)
    (tmp_path / "m.tflite").write_bytes(write_metadata(content, make_metadata(content, labels=("no", "yes"))))
    text = answer_file(
        tmp_path / "m.tflite", None, io.BytesIO(b"[[0.4, 0, 0, 0], [0.6, 0, 0, 0]]"), signature=None, output="csv"
    ).text
    assert [line.rpartition(",")[2] for line in text.splitlines()] == ["y_label", "no", "yes"]


@pytest.mark.usefixtures("here")
def test_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    file.write_bytes(make_tflite(int8=True, batch=-1))
    (tmp_path / "rows.json").write_text("[[1, 0, 0, 2]]")
    plan = ["--threads", "1,2", "--batch", "1,8", "--calls", "20", "--seconds", "0", "--input", str(tmp_path / "rows.json")]
    result = run("benchmark", file, *plan)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert max(map(len, lines[1:])) <= 80
    assert lines[1].startswith("signature dense, rows of the file, ai-edge-litert 2.")
    assert lines[3].split() == ["threads", "batch", "calls", "p50", "p95", "p99", "mean", "max", "rows/s"]
    assert [line.split()[:3] for line in lines[4:]] == [[threads, batch, "20"] for threads in "12" for batch in "18"]
    found = json.loads(run("benchmark", file, *plan, "--json").stdout)
    assert found["file_bytes"] == file.stat().st_size and len(found["latencies"]) == 4
    assert all(0 < each["p50_ms"] <= each["p95_ms"] <= each["p99_ms"] for each in found["latencies"])
    result = run("benchmark", file, "--signature", "c")
    assert result.exit_code == 1 and "expected a signature of the file (dense), got c" in result.stderr


def test_run_and_benchmark_in_a_process_of_their_own(model: Path) -> None:
    result = run("run", model, "--input", "-", given="[[1, 0, 0, 2]]")
    assert json.loads(result.stdout) == {"predictions": [{"y": [5.0, -4.0, 0.0], "y_label": "zero"}]}
    assert result.stderr == "signature dense\ntakes raw features: there is no transform\n", "nothing of the interpreter's own"
    result = run("run", model, "--input", "-", given="[[1, 0]]")
    assert result.exit_code == 2 and "expected the shape [4], got [2]" in result.stderr
    result = run("benchmark", model, "--calls", "5", "--seconds", "0", "--json")
    assert json.loads(result.stdout)["latencies"][0]["calls"] == 5


def crash(*, model: str) -> None:
    """Does what native code does with some files."""
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_crash_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_commands, "__name__", __name__)
    with pytest.raises(TflineError, match=r"ai-edge-litert did not survive it: .*killed by SIGSEGV"):
        tflite_commands._isolated(model, "crash", {})
