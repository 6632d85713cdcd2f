"""The adapter between TFX and the stages: what a stage is given, what is written for it, and what is in its cache key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError
from tfx import types
from tfx.dsl.components.base import base_driver, base_executor
from tfx.orchestration.portable import data_types
from tfx.types import artifact_utils, standard_artifacts

from components import champion, push, train
from components.code import stage_digest
from components.errors import GateRefused
from components.model import ModelConfig, UserModel
from components.summary import SUMMARY_FILE, Refusal, Summary
from components.tfx_stage import StageDriver, StageExecutor, make_component

USER_MODEL = UserModel(config=ModelConfig(label="kind"), code="packed")


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 1


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Makes `components.probe`, a stage module of some functions and attributes."""

    def make(**attributes: Any) -> ModuleType:
        module = ModuleType("components.probe")
        for name, value in {"Config": Config, **attributes}.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "components.probe", module)
        return module

    return make


def artifact(kind: type[Any], folder: Path, splits: list[str] | None = None) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    made = kind()
    made.uri = str(folder)
    if splits:
        made.split_names = artifact_utils.encode_split_names(splits)
    return made


def execute(folder: Path, *, run_id: str = "run-1", **properties: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the executor of `components.probe` as TFX does; its input and output artifacts."""
    inputs = {
        "examples": artifact(standard_artifacts.Examples, folder / "examples", ["train", "eval"]),
        "schema": artifact(standard_artifacts.Schema, folder / "schema"),
    }
    outputs = {
        "anomalies": artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies"),
        "model": artifact(standard_artifacts.Model, folder / "model"),
    }
    context = base_executor.BaseExecutor.Context(pipeline_run_id=run_id or None)
    asked = {"stage": "probe", "config": '{"size": 3}', "code_digest": "", **properties}
    given, made = ({key: [found] for key, found in side.items()} for side in (inputs, outputs))
    StageExecutor(context).Do(given, made, asked)
    return inputs, outputs


def test_a_stage_gets_its_folders_and_its_config(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []
    make_stage(run=lambda inputs, outputs, config: calls.append((inputs, outputs, config)))
    execute(tmp_path)
    assert calls == [
        (
            {"examples": tmp_path / "examples", "schema": tmp_path / "schema"},
            {"anomalies": tmp_path / "anomalies", "model": tmp_path / "model"},
            Config(size=3),
        )
    ]


def test_a_stage_gets_what_it_asks_for_and_no_more(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    calls: list[Mapping[str, Any]] = []

    def run_all(inputs: Any, outputs: Any, config: Any, user_model: Any, resolved: Any, run_id: Any) -> None:
        calls.append({"user_model": user_model, "resolved": resolved, "run_id": run_id})

    def run_one(inputs: Any, outputs: Any, config: Any, run_id: Any) -> None:
        calls.append({"run_id": run_id})

    given = {"user_model": USER_MODEL.model_dump_json(), "resolved": '{"version": 4}'}
    for run in (run_all, run_one):
        make_stage(run=run)
        execute(tmp_path, **given)
    assert calls == [{"user_model": USER_MODEL, "resolved": {"version": 4}, "run_id": "run-1"}, {"run_id": "run-1"}]


@pytest.mark.parametrize("given", [{}, {"resolved": ""}])
def test_without_a_driver_the_stage_resolves_for_itself(
    given: dict[str, str], make_stage: Callable[..., ModuleType], tmp_path: Path
) -> None:
    calls: list[Any] = []
    make_stage(
        run=lambda inputs, outputs, config, resolved: calls.append(resolved),
        resolve=lambda inputs, config: {"model": inputs["schema"].name, "size": config.size},
    )
    execute(tmp_path, **given)
    assert calls == [{"model": "schema", "size": 3}]


def test_config_is_checked_again(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(run=lambda inputs, outputs, config: None)
    with pytest.raises(ValidationError, match="colour"):
        execute(tmp_path, config='{"colour": 1}')


def test_integers_become_properties_of_the_outputs(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(run=lambda inputs, outputs, config: {"model": {"blessed": 1, "version": 7}})
    _, outputs = execute(tmp_path)
    assert outputs["model"].get_int_custom_property("blessed") == 1
    assert outputs["model"].get_int_custom_property("version") == 7
    assert not outputs["anomalies"].has_custom_property("blessed")


def test_outputs_of_splits_carry_their_names(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(run=lambda inputs, outputs, config: None)
    inputs, outputs = execute(tmp_path)
    assert outputs["anomalies"].split_names == inputs["examples"].split_names == '["train", "eval"]'


def gate(refusal: Refusal | None) -> dict[str, Any]:
    """A stage with a report, which it summarises from its folder."""

    def run(inputs: Any, outputs: Mapping[str, Path], config: Any) -> None:
        (outputs["anomalies"] / "report.json").write_text("the report")

    def summarise(outputs: Mapping[str, Any]) -> Summary:
        return Summary(headline=Path(outputs["anomalies"][0], "report.json").read_text(), refusal=refusal)

    return {"run": run, "summarise": summarise, "REPORT": "anomalies"}


def test_report_has_a_summary_beside_it(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(**gate(None))
    execute(tmp_path)
    text = (tmp_path / "anomalies" / SUMMARY_FILE).read_text(encoding="utf-8")
    assert Summary.model_validate_json(text) == Summary(headline="the report")
    assert not (tmp_path / "model" / SUMMARY_FILE).exists()


def test_stage_without_report_has_no_summary(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    made = gate(None)
    del made["REPORT"]
    make_stage(**made)
    execute(tmp_path)
    assert not list(tmp_path.rglob(SUMMARY_FILE))


def test_refusal_is_left_to_our_runner(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    refusal = Refusal(gate="data", reasons=("too few", "too many"))
    make_stage(**gate(refusal))
    execute(tmp_path)
    text = (tmp_path / "anomalies" / SUMMARY_FILE).read_text(encoding="utf-8")
    assert Summary.model_validate_json(text).refusal == refusal


def test_refusal_fails_the_task_where_no_runner_of_ours_looks(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(**gate(Refusal(gate="data", reasons=("too few", "too many"))))
    with pytest.raises(GateRefused) as caught:
        execute(tmp_path, run_id="")
    assert str(caught.value) == "data gate: too few; too many"
    assert (tmp_path / "anomalies" / SUMMARY_FILE).is_file()


def test_driver_puts_what_the_stage_resolves_into_the_properties(make_stage: Callable[..., ModuleType], tmp_path: Path) -> None:
    make_stage(resolve=lambda inputs, config: {"z": config.size, "a": inputs["model"].name})
    info = data_types.ExecutionInfo(
        input_dict={"model": [artifact(standard_artifacts.Model, tmp_path / "candidate")]},
        exec_properties={"stage": "probe", "config": '{"size": 2}'},
    )
    found = StageDriver(None).run(info)
    assert {key: value.string_value for key, value in found.exec_properties.items()} == {"resolved": '{"a": "candidate", "z": 2}'}


def channels(kinds: Mapping[str, str]) -> dict[str, Any]:
    from components.artifacts import artifact_type

    return {key: types.Channel(type=artifact_type(name)) for key, name in kinds.items()}


def test_component_of_a_stage() -> None:
    component = make_component("train", train.Config(epochs=3), channels(train.INPUTS), USER_MODEL)
    assert component.id == "train"
    properties = component.exec_properties
    assert set(properties) == {"stage", "config", "code_digest", "user_model"}
    assert properties["stage"] == "train"
    assert train.Config.model_validate_json(properties["config"]) == train.Config(epochs=3)
    assert properties["code_digest"] == stage_digest("components.train")
    assert UserModel.model_validate_json(properties["user_model"]) == USER_MODEL
    assert {key: found.type.TYPE_NAME for key, found in component.inputs.items()} == train.INPUTS
    assert {key: found.type.TYPE_NAME for key, found in component.outputs.items()} == train.OUTPUTS
    assert component.executor_spec.executor_class is StageExecutor
    assert not issubclass(component.driver_class, StageDriver)


@pytest.mark.parametrize(
    ("stage", "config", "kinds"),
    [
        ("champion", champion.Config(store="/s", model="m"), champion.INPUTS),
        ("push", push.Config(store="/s", tflite_store="/t", model="m"), push.INPUTS),
    ],
)
def test_component_of_a_stage_that_resolves(stage: str, config: BaseModel, kinds: Mapping[str, str]) -> None:
    component = make_component(stage, config, channels(kinds))
    assert component.exec_properties["resolved"] == ""
    assert "user_model" not in component.exec_properties
    assert component.driver_class is StageDriver
    assert issubclass(StageDriver, base_driver.BaseDriver)


def test_components_in_a_pipeline_keep_their_stages_apart() -> None:
    from tfx.dsl.compiler import compiler
    from tfx.orchestration import pipeline

    from components import schema, statistics, validate_data

    examples = types.Channel(type=standard_artifacts.Examples)
    first = statistics.component(examples)
    stats = first.outputs["statistics"]
    made = make_component("schema", schema.Config(), {"statistics": stats})
    judged = make_component("validate_data", validate_data.Config(), {"statistics": stats, "schema": made.outputs["schema"]})
    assert (made.id, judged.id) == ("schema", "validate-data")
    line = pipeline.Pipeline("two", "/root", components=[first, made, judged], metadata_connection_config=None)
    compiled = compiler.Compiler().compile(line)
    parameters = {
        node.pipeline_node.node_info.id: node.pipeline_node.parameters.parameters["stage"].field_value.string_value
        for node in compiled.nodes
        if node.pipeline_node.node_info.id != "statistics"
    }
    assert parameters == {"schema": "schema", "validate-data": "validate_data"}
    assert json.loads(made.exec_properties["config"])["split"] == "train"
