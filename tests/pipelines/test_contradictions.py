"""What a configuration and a module say that cannot both be meant: each is told before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UsageError
from pipelines.config import load_config
from pipelines.graph import UserCode, stages_of

BASE = """\
name: x
ingest: {format: csv, path: data, splits: {train: 3, eval: 1}}
validate_model:
  signatures:
    serving_default: {inputs: {x: {dtype: float32, shape: [null]}}, outputs: {y: {dtype: float32, shape: [null]}}}
evaluate: {metrics: {a: {kind: BinaryAccuracy}}, thresholds: [{metric: a, at_least: 0.5}]}
"""
BUILD = "def build_model(inputs, config):\n    pass\n"
RUN_FN = "def run_fn(fn_args):\n    pass\n"
PREPROCESS = "def preprocessing_fn(inputs):\n    return inputs\n"


def code(folder: Path, module: str, settings: str = "") -> tuple[UserCode, tuple[str, ...]]:
    (folder / "pipeline.yaml").write_text(BASE + settings, encoding="utf-8")
    (folder / "model.py").write_text(module, encoding="utf-8")
    config = load_config(folder, folder / "home")
    found = UserCode.of(folder, config)
    return found, stages_of(config, found)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (
            RUN_FN,
            "train: {epochs: 3}\n",
            r"^train: model\.py has a run_fn\(fn_args\), which trains and exports by itself; .*`run_fn:`",
        ),
        (RUN_FN, "export: {}\n", r"^export: model\.py has a run_fn"),
        (RUN_FN, "model: {hyperparameters: {a: 1}}\n", r"^model\.hyperparameters: model\.py has a run_fn"),
        (BUILD, "run_fn: {train_steps: 3}\n", r"^run_fn: model\.py has no run_fn\(fn_args\), so nothing reads this"),
        (BUILD, "golden: {examples: 3}\n", r"^golden: model\.py has no run_fn"),
        (BUILD, "model: {keras: 3}\n", r"^model\.keras: expected 2 with build_model, .* got 3"),
        (
            BUILD,
            "train: {validation_split: other}\n",
            r"^train\.validation_split is 'other', expected one of ingest\.splits: train, eval",
        ),
        (RUN_FN, "golden: {split: other}\n", r"^golden\.split is 'other', expected one of"),
        ("x = 1\n", "", r"expected a function build_model\(inputs, config\), or run_fn\(fn_args\) .*; found x"),
        ("", "", r"found nothing"),
    ],
)
def test_contradictions(tmp_path: Path, module: str, settings: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        code(tmp_path, module, settings)


def test_all_contradictions_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        code(tmp_path, RUN_FN, "train: {}\nexport: {}\nquantize: {eval_split: other}\n")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["train:", "export:", "quantize.eval_split"]


def test_stages_follow_from_module_and_settings(tmp_path: Path) -> None:
    found, stages = code(tmp_path, BUILD)
    assert (found.trains_itself, found.transforms) == (False, False)
    assert {"transform", "train", "export", "quantize"} <= set(stages)
    assert not {"trainer", "golden"} & set(stages)

    found, stages = code(tmp_path, RUN_FN + PREPROCESS, "quantize: null\n")
    assert (found.trains_itself, found.transforms) == (True, True)
    assert {"transform", "trainer", "golden"} <= set(stages)
    assert not {"train", "export", "quantize"} & set(stages)

    assert "transform" not in code(tmp_path, RUN_FN)[1]


def test_run_fn_may_come_by_import_or_assignment(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(RUN_FN, encoding="utf-8")
    assert code(tmp_path, "from other import run_fn\n")[0].trains_itself
    assert code(tmp_path, "import other\nrun_fn = other.run_fn\n")[0].trains_itself
    assert code(tmp_path, "try:\n    from other import run_fn\nexcept ImportError:\n    pass\n")[0].trains_itself
    assert not code(tmp_path, "from other import *\n")[0].trains_itself, "nobody can tell, so it is taken for build_model"


def test_a_module_with_both_is_one_written_for_tfx(tmp_path: Path) -> None:
    assert code(tmp_path, BUILD + RUN_FN)[0].trains_itself
