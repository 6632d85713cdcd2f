"""What a mistyped command gets: one message and exit code 2, before TensorFlow is loaded or anything is written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from pipelines.config import load_config
from tests.conftest import DIGITS
from tests.end_to_end.small import PIPELINE, write_pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "small")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(folder: Path, *arguments: str) -> str:
    """Runs the pipeline, which has to refuse and to leave no home behind; returns what it said."""
    home = folder.parent / "home"
    result = run("run", folder, "--home", home, *arguments)
    assert result.exit_code == 2, result.output
    assert not home.exists()
    return result.output.strip()


def test_misspelt_key(folder: Path) -> None:
    (folder / "pipeline.yaml").write_text(PIPELINE.replace("epochs", "epocks"))
    assert refusal(folder) == f"tfline: {folder}/pipeline.yaml:5: train.epocks: unknown key. Did you mean 'epochs'?"


def test_wrong_type(folder: Path) -> None:
    said = refusal(folder, "--set", "train.batch_size=many")
    assert said == "tfline: --set train.batch_size=many: train.batch_size: expected an integer ≥ 1, got 'many' (str)."


def test_unknown_strategy(folder: Path) -> None:
    said = refusal(folder, "--set", "train.strategy=miror")
    assert "train.strategy: expected" in said and "'mirrored'" in said and "got 'miror'" in said


def test_threshold_on_a_metric_that_is_not_measured(folder: Path) -> None:
    said = refusal(folder, "--set", "evaluate.thresholds.0.metric=f1")
    assert "a threshold is on metric 'f1', expected one of accuracy" in said


def test_split_that_does_not_exist(folder: Path) -> None:
    said = refusal(folder, "--set", "train.validation_split=validation")
    assert "train.validation_split is 'validation', expected one of ingest.splits: train, eval" in said


def test_no_such_folder(tmp_path: Path) -> None:
    said = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said


def test_no_model(folder: Path) -> None:
    (folder / "model.py").unlink()
    assert refusal(folder) == (
        f"tfline: {folder}/model.py: expected a Python module with build_model(inputs, config) or "
        "run_fn(fn_args), found no such file"
    )


def test_model_that_does_not_parse(folder: Path) -> None:
    (folder / "model.py").write_text("def build_model(inputs, config)\n    return 1\n")
    assert refusal(folder) == f"tfline: {folder}/model.py:1: expected ':'"


def test_schema_file_that_is_missing(folder: Path) -> None:
    said = refusal(folder, "--set", "schema_file=mine.pbtxt")
    assert said == (
        f"tfline: schema_file: expected a schema at {folder}/mine.pbtxt; "
        f"`tfline schema {folder} --accept` writes the inferred one there"
    )


def test_schema_that_is_none(folder: Path) -> None:
    (folder / "schema.pbtxt").write_text('feature { name: "a" typ: FLOAT }')
    said = refusal(folder)
    assert said.startswith(f"tfline: {folder}/schema.pbtxt: expected a tensorflow_metadata Schema as text: 1:21 : ")
    assert 'no field named "typ"' in said


def test_empty_schema(folder: Path) -> None:
    (folder / "schema.pbtxt").write_text("\n")
    said = refusal(folder)
    assert said == f"tfline: {folder}/schema.pbtxt: expected a schema, got an empty file; remove it to have one inferred"


def test_unknown_stage(folder: Path) -> None:
    said = refusal(folder, "--from", "training")
    assert said.startswith("tfline: expected one of the stages ingest, statistics, schema, ")
    assert said.endswith("got 'training'")


def test_stages_in_the_wrong_order(folder: Path) -> None:
    assert refusal(folder, "--from", "train", "--to", "schema") == "tfline: --from train comes after --to schema"


def test_environment_that_does_not_exist(folder: Path) -> None:
    said = refusal(folder, "--env", "moon")
    assert "moon" in said and str(folder) in said


def test_the_cluster_overlay_of_digits() -> None:
    config = load_config(DIGITS, Path("/home"), environment="cluster")
    assert (config.ingest.path, config.push.store) == ("/mnt/tfline/data/digits", "/mnt/tfline/store")
    assert config.train == load_config(DIGITS, Path("/home")).train


def test_nothing_to_resume(folder: Path) -> None:
    home = folder.parent / "home"
    said = refusal(folder, "--resume")
    assert said == f"tfline: --resume: pipeline 'small' has no unfinished run in {home}; run it without --resume"


def test_resume_takes_no_other_options(folder: Path) -> None:
    said = refusal(folder, "--resume", "--set", "seed=3")
    assert said == "tfline: --resume goes on with the options of the run it resumes; leave out --from, --to and --set"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ingest.path=elsewhere", "ingest.path: expected a folder with csv files, found nothing at {folder}/elsewhere"),
        ("ingest.pattern=r*.tsv", "ingest.pattern: no file in {folder}/data matches r*.tsv"),
        ("ingest.path=model.py", "ingest.path: expected a folder with csv files, found a file at {folder}/model.py"),
    ],
)
def test_input_that_is_not_there(folder: Path, change: str, message: str) -> None:
    result = run("run", folder, "--home", folder.parent / "home", "--set", change)
    assert (result.exit_code, result.output.strip()) == (2, f"tfline: {message.format(folder=folder)}")


def test_unknown_run(tmp_path: Path) -> None:
    result = run("show", "digits-1999", "--home", tmp_path)
    assert result.exit_code == 2
    assert result.output.strip() == f"tfline: no run in {tmp_path} begins with 'digits-1999'; `tfline runs` lists them"


def test_no_runs_yet(tmp_path: Path) -> None:
    result = run("runs", "--home", tmp_path)
    assert (result.exit_code, result.output.strip()) == (
        0,
        f"No runs in {tmp_path}. Start one: tfline run FOLDER (tfline new FOLDER writes a pipeline)",
    )


def test_schema_before_any_run(folder: Path) -> None:
    home = folder.parent / "home"
    result = run("schema", folder, "--home", home)
    assert result.exit_code == 2
    said = f"no run of 'small' in {home} inferred a schema; infer one: tfline run {folder} --to schema"
    assert result.output.strip() == f"tfline: {said}"


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = "import sys; from pipelines.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    took = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took.append(time.monotonic() - started)
    # The best of three: other tests may be using both cores.
    assert min(took) < 0.5
    for heavy in ("tensorflow", "tfx", "mlflow", "apache_beam", "numpy"):
        assert f"'{heavy}'" not in done.stdout


def test_a_config_error_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.cli import main\n"
        f"try: main(['run', {str(DIGITS)!r}, '--set', 'train.epocks=1', '--home', '/nonexistent'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print([name for name in ('tensorflow', 'tfx', 'mlflow', 'apache_beam') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n[]\n"
