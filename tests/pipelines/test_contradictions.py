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
        (RUN_FN, "optimize: {features: transformed}\n", r"^optimize\.features: model\.py has a run_fn.*expected raw or auto"),
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
        code(tmp_path, RUN_FN, "train: {}\nexport: {}\noptimize: {eval_split: other}\n")
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["train:", "export:", "optimize.eval_split"]


def test_stages_follow_from_module_and_settings(tmp_path: Path) -> None:
    found, stages = code(tmp_path, BUILD)
    assert (found.trains_itself, found.transforms) == (False, False)
    assert {"transform", "train", "export", "optimize"} <= set(stages)
    assert not {"trainer", "golden"} & set(stages)

    found, stages = code(tmp_path, RUN_FN + PREPROCESS, "optimize: null\n")
    assert (found.trains_itself, found.transforms) == (True, True)
    assert {"transform", "trainer", "golden"} <= set(stages)
    assert not {"train", "export", "optimize"} & set(stages)

    assert "transform" not in code(tmp_path, RUN_FN)[1]


def test_run_fn_may_come_by_import_or_assignment(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(RUN_FN, encoding="utf-8")
    assert code(tmp_path, "from other import run_fn\n")[0].trains_itself
    assert code(tmp_path, "import other\nrun_fn = other.run_fn\n")[0].trains_itself
    assert code(tmp_path, "try:\n    from other import run_fn\nexcept ImportError:\n    pass\n")[0].trains_itself
    assert not code(tmp_path, "from other import *\n")[0].trains_itself, "nobody can tell, so it is taken for build_model"


def test_a_module_with_both_is_one_written_for_tfx(tmp_path: Path) -> None:
    assert code(tmp_path, BUILD + RUN_FN)[0].trains_itself


def test_a_run_fn_module_has_nothing_to_fine_tune(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optimize.variants: qat is fine-tuned from a model that build_model makes"):
        code(tmp_path, RUN_FN, "optimize: {variants: [int8, qat, {kind: qat, name: b}]}\n")
    assert "optimize" in code(tmp_path, RUN_FN, "optimize: {variants: [int8, float16]}\n")[1]
    with pytest.raises(UsageError, match=r"optimize.fine_tune.train_split is 'other', expected one of"):
        code(tmp_path, BUILD, "optimize: {variants: [qat], fine_tune: {train_split: other}}\n")


def test_optimize_takes_over_what_other_sections_say(tmp_path: Path) -> None:
    train = "train: {strategy: mirrored, replicas: 2, batch_size: 64, shuffle_buffer: 9}\n"
    settings = "seed: 5\nmodel: {label: truth}\n" + train + "optimize: {variants: [qat], fine_tune: {batch_size: 16}}\n"
    (tmp_path / "pipeline.yaml").write_text(
        BASE.replace("thresholds", "slices: [[zone]], thresholds") + settings, encoding="utf-8"
    )
    found = load_config(tmp_path, tmp_path / "home").optimize
    assert found is not None
    assert (found.model, found.label, found.seed, found.slices) == ("x", "truth", 5, (("zone",),))
    tuning = found.fine_tune
    assert (tuning.strategy, tuning.replicas, tuning.batch_size, tuning.shuffle_buffer, tuning.seed) == ("mirrored", 2, 16, 9, 5)
