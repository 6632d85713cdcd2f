"""One stage of a local run, in a process of its own: forked from the runner, which has TFX imported, so it starts at once.

    runner ── fork ──> child: launch the node (driver, cache, executor, publisher), read its final state, summarise its outputs
              <─pipe── ("progress", text)*  ("done", Outcome as JSON)?

A child that ends without "done" was killed or crashed. The child dies with its runner (Linux: PR_SET_PDEATHSIG). TFX leaves the
execution of a killed child as RUNNING, which is what `--resume` takes up.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import sys
import traceback
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.errors import GateRefused, TflineError
from components.isolate import copy_kept
from components.summary import Summary
from pipelines.graph import module_of

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# The output that must outlive an exception in the executor: a training's checkpoints, which `--resume` goes on from.
KEPT_AFTER_FAILURE = "model_run"


class Outcome(BaseModel):
    """How a node's launch ended: its state in MLMD, its artifacts, what it says of itself, the error if it failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["complete", "cached", "failed"]
    inputs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    summary: Summary = Field(default_factory=Summary)
    error: str = ""
    exit_code: int = 0


def run_node(node: Any, pipeline: Any, log: Path, parent: int, pipe: Connection) -> None:
    """The whole life of the child process; ends with os._exit, since the runner's atexit handlers are not this process's.

    Args:
        node: The PipelineNode proto.
        pipeline: The compiled pipeline with run id filled in.
        log: Where stdout and stderr go.
        parent: Process id of the runner.
        pipe: Where progress and the outcome are sent.
    """
    _settle_in(log, parent)
    channel = _PipeHandler(pipe)
    logger = logging.getLogger("tfline.progress")
    logger.addHandler(channel)
    logger.setLevel(logging.INFO)
    try:
        forks = getattr(importlib.import_module(module_of(node.node_info.id)), "FORKS", False)
        # The copy is made here because TFX's launcher starts threads.
        with copy_kept() if forks else nullcontext():
            outcome = _launch(node, pipeline)
    except BaseException as error:
        traceback.print_exc()
        # Whatever the kind of error, the run had started: of tfline's exit codes only a gate's fits beside 1.
        outcome = Outcome(state="failed", error=tell(error), exit_code=3 if isinstance(error, GateRefused) else 1)
    pipe.send(("done", outcome.model_dump_json()))
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def take_snapshot(pipeline: Any, log: Path, parent: int, pipe: Connection) -> None:
    """For a partial run: registers the earlier run's outputs as this run's; same life as `run_node`."""
    from tfx.orchestration import metadata
    from tfx.orchestration.portable import partial_run_utils

    _settle_in(log, parent)
    try:
        with metadata.Metadata(_connection(pipeline)) as handle:
            partial_run_utils.snapshot(handle, pipeline)
        pipe.send(("done", Outcome(state="complete").model_dump_json()))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("done", Outcome(state="failed", error=tell(error), exit_code=1).model_dump_json()))
    os._exit(0)


def tell(error: BaseException) -> str:
    """An exception as one message: tfline's own as they are, others with their type; Beam's wrapping left out."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TflineError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:600]}" if text else type(error).__name__


def _settle_in(log: Path, parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # Ctrl-C reaches the whole terminal group; the runner decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A group of its own, so that the runner can end what the stage started too.
    os.setpgid(0, 0)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.INFO)


class _PipeHandler(logging.Handler):
    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send(("progress", record.getMessage()))


def _connection(pipeline: Any) -> Any:
    from tfx.orchestration.local import runner_utils

    config = runner_utils.extract_local_deployment_config(pipeline).metadata_connection_config
    return getattr(config, config.WhichOneof("connection_config"))


def _launch(node: Any, pipeline: Any) -> Outcome:
    from tfx.orchestration import metadata
    from tfx.orchestration.local import runner_utils

    stage = node.node_info.id
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    launcher = _launcher_class()(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(_connection(pipeline)),
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, stage),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, stage),
    )
    info = launcher.launch()
    if info is None or info.execution_id is None:
        return Outcome(state="failed", error="TFX skipped the stage: a condition it depends on did not hold", exit_code=1)
    with metadata.Metadata(_connection(pipeline)) as handle:
        state, inputs, outputs = _read_execution(handle.store, info.execution_id)
    if state == "failed":
        error = "its inputs could not be resolved; the log names the one that is missing"
        return Outcome(state=state, inputs=inputs, outputs=outputs, error=error, exit_code=1)
    summary = importlib.import_module(module_of(stage)).summarise(outputs)
    return Outcome(state=state, inputs=inputs, outputs=outputs, summary=summary)


def _read_execution(store: Any, execution_id: int) -> tuple[Any, dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    from ml_metadata.proto import metadata_store_pb2

    execution = store.get_executions_by_id([execution_id])[0]
    kinds = metadata_store_pb2.Execution
    # A node whose inputs do not resolve is FAILED in MLMD while launch() returns normally.
    state = {kinds.COMPLETE: "complete", kinds.CACHED: "cached"}.get(execution.last_known_state, "failed")
    events = store.get_events_by_execution_ids([execution_id])
    artifacts = {found.id: found.uri for found in store.get_artifacts_by_id([event.artifact_id for event in events])}
    sides: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
    for event in events:
        is_input = event.type in (metadata_store_pb2.Event.INPUT, metadata_store_pb2.Event.DECLARED_INPUT)
        uris = sides[is_input].setdefault(event.path.steps[0].key, [])
        if artifacts[event.artifact_id] not in uris:
            uris.append(artifacts[event.artifact_id])
    inputs, outputs = ({key: tuple(uris) for key, uris in sides[side].items()} for side in (True, False))
    return state, inputs, outputs


def _launcher_class() -> Any:
    from tfx.orchestration.portable import launcher, outputs_utils

    class KeepingLauncher(launcher.Launcher):
        """TFX's launcher removes all outputs of an executor that raised; this one keeps a training's checkpoints."""

        def _run_executor(self, execution_info: Any) -> Any:
            outputs_utils.make_output_dirs(execution_info.output_dict)
            try:
                output = self._executor_operator.run_executor(execution_info)
                if output.execution_result.code != 0:
                    raise TflineError(output.execution_result.result_message)
                return output
            except Exception:
                others = {key: found for key, found in execution_info.output_dict.items() if key != KEPT_AFTER_FAILURE}
                outputs_utils.remove_output_dirs(others)
                raise

    return KeepingLauncher
