"""`tfline new`: a folder that is whole and true to the configuration's classes, or one message and nothing."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from components.errors import UsageError
from pipelines import new_command
from pipelines.cli import main
from pipelines.config import PipelineConfig, load_config
from pipelines.new_command import FILES, TEMPLATE, TEMPLATE_NAME, new_pipeline, pipeline_name
from pipelines.template.data import write

NAME = PipelineConfig.model_json_schema()["properties"]["name"]["pattern"].removeprefix("^").removesuffix("$")
PIPELINE = (TEMPLATE / "pipeline.yaml").read_text(encoding="utf-8")


def entries(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refusal(path: Path) -> str:
    """What the command says; it has to end with exit code 2."""
    result = CliRunner().invoke(main, ["new", str(path)])
    assert result.exit_code == 2, result.output
    return result.output.strip()


@given(st.text(max_size=70) | st.from_regex("[A-Za-z0-9_ -]{1,70}", fullmatch=True))
def test_a_name_is_one_that_the_configuration_takes_or_refused(folder_name: str) -> None:
    try:
        name = pipeline_name(folder_name)
    except UsageError:
        assert not re.fullmatch(NAME, folder_name)
    else:
        assert re.fullmatch(NAME, name)


@given(st.from_regex(NAME, fullmatch=True))
def test_a_good_name_stays_as_it_is(name: str) -> None:
    assert pipeline_name(name) == name


def test_a_name_is_converted() -> None:
    assert pipeline_name("My first_Pipe 2") == "my-first-pipe-2"


@pytest.mark.parametrize("bad", ["über", "a.b", "_a", "-a", "a" * 64])
def test_a_name_that_cannot_be_converted(tmp_path: Path, bad: str) -> None:
    assert refusal(tmp_path / bad) == (
        "tfline: the folder's name is the pipeline's: expected letters a to z, digits and '-', 63 at most, "
        f"a letter or digit first (capitals, '_' and blanks are converted), got '{bad}'"
    )
    assert not entries(tmp_path)


def test_what_is_written_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "My Pipe"
    said = new_pipeline(folder)
    assert entries(tmp_path) == {"My Pipe", *(f"My Pipe/{file}" for file in FILES)}
    assert said.startswith("Wrote the pipeline my-pipe:\n")
    for file, what in FILES.items():
        assert re.search(rf"^ +{re.escape(file)} +{re.escape(what)}$", said, flags=re.MULTILINE)
    assert ["tfline", "run", str(folder)] in [shlex.split(line) for line in said.splitlines() if line.startswith("  tfline")]
    assert max(len(line) for line in said.splitlines() if str(tmp_path) not in line) <= 80
    plain = tmp_path / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_every_file_of_the_template_is_written() -> None:
    assert {path.name for path in TEMPLATE.iterdir()} - {"__pycache__"} == set(FILES)


@pytest.mark.parametrize("name", ["mine", "123", "true", "null", "1e3", "2024-01-01"])
def test_the_pipeline_has_its_name_whatever_yaml_makes_of_it(tmp_path: Path, name: str) -> None:
    new_pipeline(tmp_path / name)
    config = load_config(tmp_path / name, tmp_path / "home")
    assert (config.name, config.push.model, config.ingest.path) == (name, name, str(tmp_path / "home" / "data" / name))
    assert TEMPLATE_NAME not in "".join(path.read_text(encoding="utf-8") for path in (tmp_path / name).iterdir())


def test_settings_that_wait_behind_a_hash_are_real(tmp_path: Path) -> None:
    text, count = re.subn(r"^( *)#(?=\S)", r"\1", PIPELINE, flags=re.MULTILINE)
    assert count >= 6
    (tmp_path / "pipeline.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path, tmp_path)
    assert config.optimize is not None
    assert (config.ingest.pattern, config.validate_data.ignore, config.optimize.gates.max_bytes) == (
        "*.csv",
        ("temperature",),
        50_000,
    )
    assert len(config.evaluate.thresholds) == 3


def test_the_alternatives_that_comments_tell_of_are_real() -> None:
    assert "# in place of `train`, `export` and `model.hyperparameters`." in PIPELINE
    assert "`optimize: null` in place" in PIPELINE
    given = yaml.safe_load(PIPELINE)
    for section in (given, given, given["model"]):
        section.pop("train", None), section.pop("export", None), section.pop("hyperparameters", None)
    told = re.search(r"^#   (run_fn: .*)$", PIPELINE, flags=re.MULTILINE)
    assert told
    config = PipelineConfig.model_validate({**given, **yaml.safe_load(told[1]), "optimize": None})
    assert (config.optimize, config.run_fn.train_steps) == (None, 1000)


def test_the_sample_data_are_what_the_configuration_describes(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write(folder, rows=300)
        files += [path.read_text(encoding="utf-8") for path in folder.glob("*.csv")]
    assert len(files) == 2 and files[0] == files[1]
    header, *rows = csv.reader(files[0].splitlines())
    config = load_config(TEMPLATE, tmp_path)
    dense = config.validate_model.signatures["dense"]
    assert header == [*dense.inputs, config.model.label]
    assert len(rows) == 300 and {row[-1] for row in rows} == {"0", "1", "2"}
    assert dense.outputs["probabilities"].shape == (None, 3)
    assert all(re.fullmatch(r"-?\d+\.\d{3}", value) for row in rows for value in row[:-1])


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    new_pipeline(folder)
    assert entries(folder) == set(FILES)


def test_a_missing_parent_is_made_and_a_missing_grandparent_is_not(tmp_path: Path) -> None:
    new_pipeline(tmp_path / "pipelines" / "mine")
    assert entries(tmp_path / "pipelines" / "mine") == set(FILES)
    before = entries(tmp_path)
    path = tmp_path / "far" / "away" / "mine"
    assert refusal(path) == f"tfline: {path}: expected a folder {tmp_path / 'far'} to make it in, found none; make that first"
    assert entries(tmp_path) == before


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "folder", tmp_path / "file", tmp_path / "link"
    folder.mkdir()
    for name in ("d", "b", "c", "a"):
        (folder / name).write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    expected = "expected a new or an empty folder, found"
    assert refusal(folder) == f"tfline: {folder}: {expected} a, b, c and more in it; nothing was changed"
    assert refusal(file) == f"tfline: {file}: {expected} a file there"
    assert refusal(link) == f"tfline: {link}: {expected} a link there"
    assert refusal(file / "mine") == f"tfline: {file}/mine: cannot be made: Not a directory"
    assert entries(tmp_path) == {"folder", *(f"folder/{name}" for name in "abcd"), "file", "link"}
    assert file.read_text() == "mine"


def test_what_appears_in_the_meantime_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text("mine")
    monkeypatch.setattr(new_command, "_refuse_existing", lambda *_: None)
    assert refusal(tmp_path / "mine") == f"tfline: {tmp_path}/mine: cannot be made: Directory not empty"
    assert entries(tmp_path) == {"mine", "mine/model.py"}
    assert (tmp_path / "mine" / "model.py").read_text() == "mine"


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my pipe").mkdir()
    monkeypatch.chdir(tmp_path / "my pipe")
    advice = "expected another folder than the one you are in; type: cd .. && tfline new 'my pipe'"
    assert refusal(Path()) == f"tfline: .: {advice}"
    assert not entries(tmp_path / "my pipe")
    monkeypatch.chdir(tmp_path)
    new_pipeline(Path("my pipe"))
    assert entries(Path("my pipe")) == set(FILES)


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tmp_path / "template"
    half.mkdir()
    (half / "pipeline.yaml").write_text(PIPELINE)
    monkeypatch.setattr(new_command, "TEMPLATE", half)
    path = tmp_path / "pipelines" / "mine"
    assert refusal(path) == f"tfline: {path}: cannot be made: No such file or directory"
    assert entries(tmp_path) == {"template", "template/pipeline.yaml"}


def test_help_begins_with_it() -> None:
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    first = shown.partition("Commands:\n")[2].splitlines()[0]
    assert first.split(maxsplit=1) == ["new", "Write a new pipeline that runs as it is."]
