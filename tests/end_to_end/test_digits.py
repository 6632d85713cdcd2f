"""The shipped pipeline, run once, and what a second look at the same home has to find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.layout import SERVING_DIR
from pipelines.graph import STAGES as ALL_STAGES
from serving.store import VersionStore, tree_digest
from tests.conftest import DIGITS

STAGES = tuple(stage for stage in ALL_STAGES if stage not in ("trainer", "golden"))

pytestmark = pytest.mark.slow


def test_every_stage_completes_and_the_model_is_in_the_store(digits: Any) -> None:
    record = digits.journal.runs("digits")[-1]
    stages = digits.journal.stages(record.run_id)
    assert {name: stage.state for name, stage in stages.items()} == dict.fromkeys(STAGES, "complete")
    assert (record.state, record.pushed.version, record.pushed.new) == ("complete", 1, True)
    store = VersionStore(digits.home / "store", "digits")
    store.verify(1)
    assert tree_digest(Path(stages["export"].outputs["model"][0], SERVING_DIR)) == record.pushed.digest
    assert store.get(1).metadata["model_digest"] == record.pushed.digest
    assert stages["infra-validate"].summary.metrics["warmup_requests"] == 16
    assert (store.get(1).path / "assets.extra" / "tf_serving_warmup_requests").is_file()
    VersionStore(digits.home / "store-tflite", "digits").verify(1)
    assert Path(record.pushed.tflite_path).is_file()
    assert "Pushed digits version 1" in digits.first.output
    assert record.pushed.path in digits.first.output
    assert f"To serve it: tfline serve digits --home {digits.home}" in digits.first.output


def test_the_model_is_a_good_one(digits: Any) -> None:
    stages = digits.journal.stages(digits.journal.runs("digits")[-1].run_id)
    examples = stages["statistics"].summary.metrics
    assert sum(examples[f"{split}_examples"] for split in ("train", "validation", "eval")) == 1797
    assert stages["evaluate"].summary.metrics["accuracy"] > 0.95
    slices = {row[0] for row in stages["evaluate"].summary.tables["slices"].rows}
    assert slices == {"overall", *(f"label:{digit}" for digit in range(10))}
    assert stages["optimize"].summary.refusal is None


def test_nothing_changed_means_everything_cached_and_nothing_pushed(digits: Any) -> None:
    first = digits.last()[0]
    typed = digits("run", DIGITS)
    assert typed.code == 0, typed.output
    assert digits.states() == dict.fromkeys(STAGES, "cached")
    assert not digits.last()[0].pushed.new
    assert digits.last()[0].same_as == first.run_id
    assert "loading TensorFlow" not in typed.output
    assert "Nothing to do: digits version 1 is this model" in typed.output
    assert [version.number for version in VersionStore(digits.home / "store", "digits").versions()] == [1]


def test_what_only_looks_changed_is_in_the_cache_of_tfx(digits: Any) -> None:
    typed = digits("run", DIGITS, "--set", "runner.parallel=1")
    assert typed.code == 0, typed.output
    assert digits.states() == dict.fromkeys(STAGES, "cached")
    assert digits.last()[0].same_as == ""
    assert "Nothing to do: digits version 1 is this model" in typed.output


def test_a_changed_optimization_runs_only_what_depends_on_it(digits: Any) -> None:
    typed = digits("run", DIGITS, "--set", "optimize.representative_examples=150")
    assert typed.code == 0, typed.output
    states = digits.states()
    assert {name for name, state in states.items() if state == "complete"} == {"optimize", "push"}
    assert {states[name] for name in STAGES if name not in ("optimize", "push")} == {"cached"}


def test_a_threshold_out_of_reach_refuses_and_leaves_the_store_alone(digits: Any) -> None:
    before = sorted(path.name for path in (digits.home / "store" / "digits").iterdir())
    typed = digits("run", DIGITS, "--set", "evaluate.thresholds.0.at_least=0.9999")
    accuracy = digits.last()[1]["evaluate"].summary.metrics["accuracy"]
    assert typed.code == 3
    assert f"accuracy (overall) is {accuracy:.4f}, at least 0.9999 expected; short by {0.9999 - accuracy:.4f}" in typed.output
    assert "Nothing was pushed; what is served is untouched." in typed.output
    assert digits.states()["push"] == "pending"
    assert digits.last()[0].state == "refused"
    assert sorted(path.name for path in (digits.home / "store" / "digits").iterdir()) == before


def test_a_size_budget_refuses(digits: Any) -> None:
    typed = digits("run", DIGITS, "--set", "optimize.gates.max_bytes=1000")
    assert typed.code == 3
    assert "Refused by the size gate:" in typed.output
    assert digits.states()["push"] == "pending"


def test_a_server_that_is_too_slow_with_it_refuses(digits: Any) -> None:
    before = sorted(path.name for path in (digits.home / "store" / "digits").iterdir())
    typed = digits("run", DIGITS, "--set", "infra_validate={server: embedded, requests: 5, max_latency_ms: {p99: 0.000_1}}")
    assert typed.code == 3, typed.output
    assert "Refused by the infra gate:" in typed.output
    assert "by gRPC, dense: p99 of 5 requests of 1 example is " in typed.output and "at most 0.0001 ms allowed" in typed.output
    assert "server log: " in typed.output
    assert "Nothing was pushed; what is served is untouched." in typed.output
    assert digits.states()["push"] == "pending"
    assert sorted(path.name for path in (digits.home / "store" / "digits").iterdir()) == before


def test_a_declared_signature_that_the_export_lacks_refuses(digits: Any) -> None:
    typed = digits("run", DIGITS, "--set", "validate_model.signatures.dense.outputs.probabilities.shape=[null,11]")
    assert typed.code == 3
    assert "Refused by the validation gate:" in typed.output
    assert "[null, 11]" in typed.output or "[None, 11]" in typed.output
    assert digits.states()["evaluate"] == "pending"


def test_a_model_worse_than_the_champion_is_refused(digits: Any) -> None:
    typed = digits("run", DIGITS, "--set", "train.epochs=2", "--set", "evaluate.thresholds.0={metric: accuracy, worse_by: 0.001}")
    assert typed.code == 3, typed.output
    assert "worse than the champion's; allowed: 0.001" in typed.output
    states = digits.states()
    assert (states["transform"], states["train"], states["evaluate"], states["push"]) == (
        "cached",
        "complete",
        "refused",
        "pending",
    )


def test_partial_runs(digits: Any) -> None:
    typed = digits("run", DIGITS, "--to", "schema")
    assert typed.code == 0, typed.output
    assert "Stopped after schema, as asked" in typed.output
    assert digits.states()["train"] == "skipped"
    typed = digits("run", DIGITS, "--from", "evaluate", "--set", "evaluate.thresholds.0.at_least=0.94")
    assert typed.code == 0, typed.output
    states = digits.states()
    assert (states["train"], states["optimize"], states["evaluate"]) == ("skipped", "skipped", "complete")
    assert digits.last()[0].pushed.version == 1


def test_from_a_stage_never_uses_results_of_another_configuration(digits: Any) -> None:
    typed = digits("run", DIGITS, "--from", "evaluate", "--set", "train.epochs=29")
    assert typed.code == 2
    assert "--from evaluate: the stages it leaves out have no results that can be used" in typed.output
    assert "train" in typed.output


def test_runs_and_show_fit_80_columns(digits: Any) -> None:
    listed = digits("runs")
    shown = digits("show", digits.journal.runs("digits")[-1].run_id)
    for typed in (listed, shown):
        assert typed.code == 0
        table = [line for line in typed.output.splitlines() if "/" not in line]
        assert table and max(map(len, table)) <= 80
    assert digits.journal.runs("digits")[-1].run_id in listed.output
    assert "digits version 1" in shown.output
    assert "validate-model" in shown.output


def test_the_exports_signatures_hold_the_transform(digits: Any) -> None:
    import numpy as np
    import tensorflow as tf

    stages = digits.journal.stages(digits.journal.runs("digits")[-1].run_id)
    model = tf.saved_model.load(str(digits.home / "store" / "digits" / "1"))
    golden = Path(stages["export"].outputs["golden"][0])
    with np.load(golden / "inputs.npz") as inputs, np.load(golden / "outputs.npz") as outputs:
        assert inputs["image"].max() == 16.0  # raw pixels
        answer = model.signatures["dense"](image=tf.constant(inputs["image"]))
        np.testing.assert_allclose(answer["probabilities"], outputs["probabilities"], atol=1e-5)
    assert json.loads(Path(stages["train"].outputs["model_run"][0], "report.json").read_text())["epochs"] <= 30
