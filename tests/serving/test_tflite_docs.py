"""serving/tflite.md: its Python program runs, its table has every key, its commands are there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli import main
from serving.tflite_file import TFLiteFile
from serving.tflite_metadata import NAME, Transform, metadata_entries, write_metadata
from tests.conftest import ROOT
from tests.serving.tflite_files import DIGEST, make_metadata, make_tflite

TEXT = (ROOT / "serving" / "tflite.md").read_text(encoding="utf-8")


def block(language: str, which: int = 0) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    return str(found[which])


HOST, DEVICE = 0, 1
"""The programs in Python: for the transform beside the file, and for the file."""


@pytest.mark.parametrize("int8", [False, True])
def test_the_python_program_gives_the_label(int8: bool, tmp_path: Path) -> None:
    model = make_tflite(int8=int8)
    (tmp_path / "model.tflite").write_bytes(write_metadata(model, make_metadata(model)))
    (tmp_path / "row.json").write_text('{"x": [0, 4, 0, 0]}')
    (tmp_path / "program.py").write_text(block("python", DEVICE))
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "y [0.0, 4.0, 0.0]\nlabel öne\n", done.stderr


def test_the_python_program_wants_the_transform_applied(tmp_path: Path) -> None:
    model = make_tflite()
    metadata = make_metadata(model, features="transformed", transform=Transform(digest=DIGEST, host="transform.json"))
    (tmp_path / "model.tflite").write_bytes(write_metadata(model, metadata))
    (tmp_path / "program.py").write_text(block("python", DEVICE))
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "apply transform.json first"


def test_the_table_has_every_key_and_no_other() -> None:
    model = make_tflite()
    stored = dict(metadata_entries(TFLiteFile(write_metadata(model, make_metadata(model)))))[NAME]
    table = TEXT.partition("| key |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(json.loads(bytes(stored)))
    beside = TEXT.partition("| key of `transform` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", beside, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == ["digest", "version", "host", "raw_inputs", "host_digest", "reason"]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(Transform.model_fields)


@pytest.mark.parametrize("line", block("sh").splitlines())
def test_the_commands_are_there(line: str) -> None:
    _, *command = line.partition("#")[0].split()
    asked = CliRunner().invoke(main, [*command[:2], "--help"]).output
    assert all(word in asked for word in command if word.startswith("--")) and "Usage:" in asked


def test_the_other_programs_use_the_names_of_the_metadata() -> None:
    known = {"format", "features", "signature", "inputs", "name", "scale", "zero_point", "labels", "labels_of"}
    for language, pattern in (("cpp", r'(?:about|in)\["(\w+)"\]'), ("kotlin", r'get(?:Int|String|Double|JSONArray)\("(\w+)"\)')):
        used = set(re.findall(pattern, block(language)))
        assert used == known and NAME in block(language), language
