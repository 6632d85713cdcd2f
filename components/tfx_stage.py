"""The thin TFX component under every stage of ours: one adapter, so that stage modules are plain functions on folders.

A stage module declares `INPUTS` and `OUTPUTS` (key to artifact type), a `Config`, and `run(inputs, outputs, config, ...)`; it
never imports TFX. What `run` returns, if anything, are integer properties for its output artifacts, by output key.
`make_component` turns the declaration into a TFX component whose executor calls `run`. What a stage gets beside its folders is
all in its execution properties, so it is all in TFX's cache key, and a stage runs the same under the Kubeflow entrypoint:

    stage        name of the module under `components`
    config       its Config as JSON, validated again by that class
    code_digest  of the module and all of ours that it imports
    user_model   the user's model configuration and code, for a `run` that asks for `user_model`
    resolved     what the module's `resolve(inputs, config)` found, for one whose cache key depends on something outside

A stage may name in `OPTIONAL` inputs that not every pipeline has. A gate names in `REPORT` the output that carries its report;
its summary is written there, refusal included.

`resolve` runs in a driver, before the cache is looked up. Kubeflow has no such drivers: there `resolved` is empty when the
executor starts, and it resolves for itself.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tfx import types
from tfx.dsl.components.base import base_component, base_driver, base_executor, executor_spec
from tfx.orchestration import data_types_utils
from tfx.orchestration.portable import base_driver as portable_driver
from tfx.orchestration.portable import data_types
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import component_spec

from components.artifacts import artifact_type
from components.code import stage_digest
from components.errors import GateRefused
from components.model import UserModel
from components.records import write_atomically
from components.summary import SUMMARY_FILE


class StageExecutor(base_executor.BaseExecutor):
    """Calls a stage module's `run`."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: dict[str, Any]) -> None:
        """Runs the stage named by the execution property `stage`; see the module's description."""
        module = importlib.import_module(f"components.{exec_properties['stage']}")
        config = module.Config.model_validate_json(exec_properties["config"])
        inputs, outputs = _folders(input_dict), _folders(output_dict)
        run_id = (self._context.pipeline_run_id if self._context else None) or ""
        offered: dict[str, Callable[[], Any]] = {
            "user_model": lambda: UserModel.model_validate_json(exec_properties["user_model"]),
            "resolved": lambda: json.loads(exec_properties.get("resolved") or "null") or module.resolve(inputs, config),
            "run_id": lambda: run_id,
        }
        asked = inspect.signature(module.run).parameters
        found = module.run(inputs, outputs, config, **{name: make() for name, make in offered.items() if name in asked})
        _carry_split_names(input_dict, output_dict)
        if report := getattr(module, "REPORT", None):
            summary = module.summarise({key: [str(folder)] for key, folder in outputs.items()})
            write_atomically(outputs[report] / SUMMARY_FILE, summary.model_dump_json(indent=1))
            if summary.refusal and not run_id:
                # Our runner looks at the summary and stops; on Kubeflow nobody does, so there the task has to fail.
                raise GateRefused(f"{summary.refusal.gate} gate: {'; '.join(summary.refusal.reasons)}")
        for key, properties in (found or {}).items():
            for name, value in properties.items():
                output_dict[key][0].set_int_custom_property(name, value)


class StageDriver(base_driver.BaseDriver, portable_driver.BaseDriver):
    """Calls a stage module's `resolve` before the cache is looked up, and puts what it found into the cache key."""

    def __init__(self, metadata_handle: Any) -> None:
        base_driver.BaseDriver.__init__(self, metadata_handle)
        portable_driver.BaseDriver.__init__(self, metadata_handle)

    def run(self, execution_info: data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Sets the execution property `resolved`."""
        properties = execution_info.exec_properties
        module = importlib.import_module(f"components.{properties['stage']}")
        config = module.Config.model_validate_json(properties["config"])
        found = module.resolve(_folders(execution_info.input_dict), config)
        result = driver_output_pb2.DriverOutput()
        data_types_utils.set_metadata_value(result.exec_properties["resolved"], json.dumps(found, sort_keys=True))
        return result


def make_component(
    stage: str, config: BaseModel, channels: Mapping[str, Any], user_model: UserModel | None = None
) -> base_component.BaseComponent:
    """Makes the TFX component of a stage module.

    Args:
        stage: Name of the module under `components`; with hyphens for underscores it is the node's id.
        config: The stage's configuration.
        channels: An output channel of another component for each key of the module's `INPUTS`; those in `OPTIONAL` may be left
            out.
        user_model: For a stage that runs the user's code.
    """
    module = importlib.import_module(f"components.{stage}")
    resolves = hasattr(module, "resolve")
    properties = {
        "stage": stage,
        "config": config.model_dump_json(),
        "code_digest": stage_digest(f"components.{stage}"),
        **({"user_model": user_model.model_dump_json()} if user_model else {}),
        **({"resolved": ""} if resolves else {}),
    }
    spec_class = type(
        f"{stage}Spec",
        (types.ComponentSpec,),
        {
            "PARAMETERS": {name: component_spec.ExecutionParameter(type=str) for name in properties},
            "INPUTS": {
                key: component_spec.ChannelParameter(type=artifact_type(name))
                for key, name in module.INPUTS.items()
                if key in channels or key not in getattr(module, "OPTIONAL", ())
            },
            "OUTPUTS": {key: component_spec.ChannelParameter(type=artifact_type(name)) for key, name in module.OUTPUTS.items()},
        },
    )
    component_class = type(
        stage.title().replace("_", ""),
        (base_component.BaseComponent,),
        {
            "SPEC_CLASS": spec_class,
            "EXECUTOR_SPEC": executor_spec.ExecutorClassSpec(StageExecutor),
            "__module__": module.__name__,
            **({"DRIVER_CLASS": StageDriver} if resolves else {}),
        },
    )
    outputs = {key: types.Channel(type=artifact_type(name)) for key, name in module.OUTPUTS.items()}
    component = component_class(spec=spec_class(**properties, **channels, **outputs))
    return component.with_id(stage.replace("_", "-"))


def _folders(artifacts: Mapping[str, Any]) -> dict[str, Path]:
    return {key: Path(found[0].uri) for key, found in artifacts.items()}


def _carry_split_names(input_dict: Mapping[str, Any], output_dict: Mapping[str, Any]) -> None:
    """TFX's artifacts that consist of splits name them in a property; ours have the splits of what they were made from."""
    names = [
        found[0].split_names for found in input_dict.values() if found[0].PROPERTIES and "split_names" in found[0].PROPERTIES
    ]
    for made in output_dict.values():
        if names and made[0].PROPERTIES and "split_names" in made[0].PROPERTIES:
            made[0].split_names = names[0]
