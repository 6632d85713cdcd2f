"""The graph as Kubeflow Pipelines gets it: it compiles, kfp loads it, and each task runs under TFX's own entrypoint.

No cluster runs here. What stands in for KFP's driver and launcher is `_rehearse`: it walks the spec's tasks, gives each an
ExecutorInput with the artifacts of the tasks before it, and runs the container's command line, each in a process and a working
folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.code import stage_digest
from components.push import read_result
from pipelines.config import PipelineConfig, load_config
from pipelines.graph import STAGES as ALL_STAGES
from pipelines.graph import module_of
from serving.store import VersionStore
from tests.conftest import _SERVER
from tests.end_to_end.small import write_pipeline
from tests.end_to_end.tfx_modules import write_pipeline as write_tfx_pipeline

STAGES = tuple(stage for stage in ALL_STAGES if stage not in ("trainer", "golden"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PipelineConfig]:
    folder = write_pipeline(tmp_path_factory.mktemp("kubeflow") / "pipeline")
    settings = folder / "pipeline.yaml"
    settings.write_text(settings.read_text().replace("infra_validate: null", "infra_validate: {server: embedded, requests: 10}"))
    home = folder.parent / "home"
    output = folder.parent / "spec.yaml"
    config = load_config(folder, home)
    process = _SERVER.Process(target=_compile, args=(folder, home, output))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return output, config


def _compile(folder: Path, home: Path, output: Path) -> None:
    from pipelines.kubeflow_runner import compile_pipeline

    compile_pipeline(load_config(folder, home), folder, home, output, image="registry.example/tfline:1")


def test_kfp_loads_the_spec(compiled: tuple[Path, PipelineConfig]) -> None:
    from kfp import components

    loaded = components.load_component_from_file(str(compiled[0]))
    spec = loaded.pipeline_spec
    assert set(spec.root.dag.tasks) == set(STAGES)
    assert spec.schema_version == "2.1.0"
    assert "validate-data" in spec.root.dag.tasks["transform"].dependent_tasks
    executors = spec.deployment_spec["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {"registry.example/tfline:1"}


def test_nothing_of_the_pipelines_folder_is_needed_but_its_data(compiled: tuple[Path, PipelineConfig]) -> None:
    text = compiled[0].read_text(encoding="utf-8")
    folder = str(compiled[0].parent / "pipeline")
    assert text.count(folder) == text.count(f"{folder}/data")


def test_the_code_of_every_stage_of_ours_is_in_the_spec_and_so_in_the_cache_key(compiled: tuple[Path, PipelineConfig]) -> None:
    text = compiled[0].read_text(encoding="utf-8")
    assert [stage for stage in STAGES if stage_digest(module_of(stage)) not in text] == []


def test_a_module_with_run_fn_compiles(tmp_path: Path) -> None:
    folder = write_tfx_pipeline(tmp_path / "pipeline", "keras-three")
    output = tmp_path / "spec.yaml"
    process = _SERVER.Process(target=_compile, args=(folder, tmp_path / "home", output))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    tasks = yaml.safe_load(output.read_text(encoding="utf-8"))["root"]["dag"]["tasks"]
    assert set(tasks) == set(ALL_STAGES) - {"train", "export", "optimize"}
    assert set(tasks["push"]["inputs"]["artifacts"]) == {"model", "champion", "validation", "evaluation", "infra"}
    assert stage_digest("components.trainer") in output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rehearsed(compiled: tuple[Path, PipelineConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    spec = yaml.safe_load(compiled[0].read_text(encoding="utf-8"))
    return dict(_rehearse(spec, tmp_path_factory.mktemp("rehearsal")))


def test_every_stage_runs_under_tfxs_entrypoint(
    compiled: tuple[Path, PipelineConfig], rehearsed: dict[str, dict[str, Any]]
) -> None:
    assert set(rehearsed) == set(STAGES)
    pushed = read_result(Path(rehearsed["push"]["pushed"]["uri"]))
    assert (pushed.model, pushed.version, pushed.new) == ("small", 1, True)
    VersionStore(Path(compiled[1].push.store), "small").verify(1)
    assert rehearsed["evaluate"]["blessing"]["metadata"]["blessed"] == 1
    assert rehearsed["infra-validate"]["blessing"]["metadata"]["blessed"] == 1
    assert (Path(pushed.path) / "assets.extra" / "tf_serving_warmup_requests").is_file()


def test_a_refusal_fails_its_task(
    compiled: tuple[Path, PipelineConfig], rehearsed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """On Kubeflow nobody looks at a stage's report between the stages, so there a gate has to fail."""
    text = compiled[0].read_text(encoding="utf-8")
    strict = text.replace('\\"max_bytes\\":null,\\"allowed_ops\\"', '\\"max_bytes\\":10,\\"allowed_ops\\"')
    strict = strict if strict != text else text.replace('"max_bytes":null,"allowed_ops"', '"max_bytes":10,"allowed_ops"')
    assert strict != text
    with pytest.raises(AssertionError, match=r"(?s)validate-model failed.*size gate"):
        spec = yaml.safe_load(strict)
        _run_task("validate-model", spec["root"]["dag"]["tasks"]["validate-model"], spec, tmp_path, rehearsed)


def _rehearse(spec: dict[str, Any], root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    tasks = spec["root"]["dag"]["tasks"]
    made: dict[str, dict[str, Any]] = {}
    while len(made) < len(tasks):
        ready = [name for name, task in tasks.items() if name not in made and set(task.get("dependentTasks", ())) <= set(made)]
        assert ready, f"a circle among {set(tasks) - set(made)}"
        for name in ready:
            made[name] = _run_task(name, tasks[name], spec, root, made)
            yield name, made[name]


def _run_task(
    name: str, task: dict[str, Any], spec: dict[str, Any], root: Path, made: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    component = spec["components"][task["componentRef"]["name"]]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    folder = root / name
    folder.mkdir()
    artifacts = {}
    for key, source in task.get("inputs", {}).get("artifacts", {}).items():
        producer = source["taskOutputArtifact"]
        artifacts[key] = {"artifacts": [made[producer["producerTask"]][producer["outputArtifactKey"]]]}
    constants = task.get("inputs", {}).get("parameters", {})
    outputs = {
        key: {"artifacts": [{"name": key, "uri": str(folder / key), "type": found["artifactType"]}]}
        for key, found in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    }
    for key in outputs:
        (folder / key).mkdir()
    asked = {
        "inputs": {
            "artifacts": artifacts,
            "parameterValues": {key: value["runtimeValue"]["constant"] for key, value in constants.items()},
        },
        "outputs": {"artifacts": outputs, "outputFile": str(folder / "executor_output.json")},
    }
    arguments = [argument.replace("{{$}}", json.dumps(asked)) for argument in container["args"]]
    process = _SERVER.Process(target=_entrypoint, args=(arguments, str(folder)))
    process.start()
    process.join(300)
    assert process.exitcode == 0, f"{name} failed:\n{(folder / 'log.txt').read_text()[-3000:]}"
    answer = json.loads((folder / "executor_output.json").read_text(encoding="utf-8"))
    return {
        key: {**outputs[key]["artifacts"][0], **answer.get("artifacts", {}).get(key, {"artifacts": [{}]})["artifacts"][0]}
        for key in outputs
    }


def _entrypoint(arguments: list[str], folder: str) -> None:
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    os.chdir(folder)
    with Path(folder, "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with contextlib.suppress(SystemExit):
            kubeflow_v2_run_executor.main(kubeflow_v2_run_executor._parse_flags(["entrypoint", *arguments]))
