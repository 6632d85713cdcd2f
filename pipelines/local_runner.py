"""The local runner: TFX's portable launcher under a scheduler of our own.

TFX's LocalDagRunner runs one node after the other and returns normally although nodes failed because their inputs did not
resolve. This one runs independent stages side by side, each in a process of its own, looks at the final state of every
execution, stops at the first failure or refusal, and writes each step into the journal.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Protocol

from tfx.dsl.compiler import constants
from tfx.orchestration.local import runner_utils  # noqa: F401 - here, so that not every stage's process has to import it
from tfx.orchestration.portable import (
    launcher,  # noqa: F401 - as well
    partial_run_utils,
    runtime_parameter_utils,
    tfx_runner,
)

from components.beam_memory import remember
from components.records import Journal, StageRecord
from pipelines.node_process import Outcome, run_node, take_snapshot

REFRESH_SECONDS = 0.2


class View(Protocol):
    """Who watches a run: told of each stage's record as it changes, and called several times a second in between."""

    def stage(self, record: StageRecord, note: str = "") -> None:
        """A stage's record changed, or it reported progress (`note`)."""

    def tick(self) -> None:
        """Time passed."""


@dataclass
class Running:
    """A stage that is running: its process, the pipe it reports through, and what it said last."""

    process: ForkProcess
    pipe: Connection
    record: StageRecord
    outcome: Outcome | None = None


@dataclass
class Result:
    """What a run came to: every stage's record, and the exit code its failed stage asks for."""

    records: dict[str, StageRecord] = field(default_factory=dict)
    exit_code: int = 0


class LocalRunner(tfx_runner.IrBasedRunner):
    """Runs a compiled pipeline on this machine."""

    def __init__(
        self,
        *,
        run_id: str,
        journal: Journal,
        view: View,
        parallel: int,
        code_digests: Mapping[str, str],
        resume: bool = False,
    ) -> None:
        """Args: the run's id; where records go; who watches; stages at once; whether stages recorded as done are left alone."""
        self._run_id = run_id
        self._journal = journal
        self._view = view
        self._parallel = parallel
        self._code_digests = code_digests
        self._resume = resume
        self._data_digest = ""
        self._fork = multiprocessing.get_context("fork")

    def run_with_ir(self, pipeline: Any, run_options: Any = None, **kwargs: Any) -> Result:
        """Runs the nodes of a compiled pipeline in the order of their dependencies.

        Args:
            pipeline: tfx Pipeline proto; its run id parameter is filled in here.
            run_options: For a partial run: from and to nodes, and the run that the skipped ones are taken from.
            kwargs: TFX passes none.

        Returns:
            The stages' records; nothing is raised for a stage that failed or refused.

        Raises:
            KeyboardInterrupt: After every stage's process was ended.
        """
        remember()
        self._specs = {node.pipeline_node.node_info.id: _spec_digest(node.pipeline_node, pipeline) for node in pipeline.nodes}
        runtime_parameter_utils.substitute_runtime_parameter(pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: self._run_id})
        base: dict[str, StageRecord] = {}
        if run_options:
            partial = run_options.partial_run
            partial_run_utils.mark_pipeline(
                pipeline,
                from_nodes=partial.from_nodes or None,
                to_nodes=partial.to_nodes or None,
                snapshot_settings=partial.snapshot_settings,
            )
            if base_run := partial.snapshot_settings.base_pipeline_run_strategy.base_run_id:
                base = self._journal.stages(base_run)
        nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in pipeline.nodes}
        result = Result({name: self._first_record(name, node, base) for name, node in nodes.items()})
        for record in result.records.values():
            self._note(record)
        if any(node.execution_options.run.perform_snapshot for node in nodes.values()):
            self._snapshot(pipeline, result)
        running: dict[str, Running] = {}
        try:
            while result.exit_code == 0 or running:
                if result.exit_code == 0:
                    for name in self._ready(nodes, result.records, len(running)):
                        running[name] = self._start(name, nodes[name], pipeline)
                        result.records[name] = running[name].record
                if not running:
                    break
                self._listen(running, result)
        finally:
            self._end(running, result)
        return result

    def _first_record(self, name: str, node: Any, base: Mapping[str, StageRecord]) -> StageRecord:
        before = self._journal.stages(self._run_id).get(name)
        self._data_digest = self._data_digest or (before.data_digest if before else "")
        if self._resume and before and before.state in ("complete", "cached", "skipped"):
            return before
        if node.execution_options.HasField("skip"):
            found = base.get(name, StageRecord(stage=name))
            return found.model_copy(update={"state": "skipped", "started": None, "finished": None, "log": ""})
        return StageRecord(stage=name)

    def _note(self, record: StageRecord, note: str = "") -> None:
        if not note:
            self._journal.write_stage(self._run_id, record)
        self._view.stage(record, note)

    def _ready(self, nodes: Mapping[str, Any], records: Mapping[str, StageRecord], running: int) -> list[str]:
        done = {name for name, record in records.items() if record.state in ("complete", "cached", "skipped")}
        waiting = [name for name, record in records.items() if record.state == "pending"]
        ready = [name for name in waiting if all(above in done for above in nodes[name].upstream_nodes if above in nodes)]
        return ready[: max(0, self._parallel - running)]

    def _start(self, name: str, node: Any, pipeline: Any) -> Running:
        log = self._journal.log_path(self._run_id, name)
        process, pipe = self._spawn(run_node, node, pipeline, log)
        record = StageRecord(
            stage=name,
            state="running",
            started=time.time(),
            code_digest=self._code_digests.get(name, ""),
            spec_digest=self._specs[name],
            log=str(log),
        )
        self._note(record)
        return Running(process, pipe, record)

    def _spawn(self, function: Any, *arguments: Any) -> tuple[ForkProcess, Connection]:
        ours, theirs = self._fork.Pipe(duplex=False)
        process = self._fork.Process(target=function, args=(*arguments, os.getpid(), theirs), daemon=False)
        process.start()
        theirs.close()
        return process, ours

    def _snapshot(self, pipeline: Any, result: Result) -> None:
        log = self._journal.log_path(self._run_id, "snapshot")
        process, pipe = self._spawn(take_snapshot, pipeline, log)
        item = Running(process, pipe, StageRecord(stage="snapshot"))
        while process.is_alive() and not pipe.poll(REFRESH_SECONDS):
            self._view.tick()
        outcome = _receive(item, self._view)
        process.join()
        if outcome is None or outcome.state == "failed":
            result.exit_code = 1
            name = next(iter(result.records))
            told = outcome.error if outcome else "the process died"
            error = f"the earlier run's results could not be taken over: {told}"
            result.records[name] = StageRecord(stage=name, state="failed", error=error, log=str(log))
            self._note(result.records[name])

    def _listen(self, running: dict[str, Running], result: Result) -> None:
        wait([item.pipe for item in running.values()] + [item.process.sentinel for item in running.values()], REFRESH_SECONDS)
        self._view.tick()
        for name, item in list(running.items()):
            item.outcome = _receive(item, self._view) or item.outcome
            if item.process.is_alive():
                continue
            item.process.join()
            item.outcome = _receive(item, self._view) or item.outcome
            record = self._finish(item)
            del running[name]
            result.records[name] = record
            if record.state in ("failed", "refused"):
                code = item.outcome.exit_code if item.outcome and item.outcome.exit_code else 1
                result.exit_code = max(result.exit_code, 3 if record.state == "refused" else code)

    def _finish(self, item: Running) -> StageRecord:
        outcome = item.outcome or Outcome(state="failed", error=_death(item.process.exitcode), exit_code=1)
        state = "refused" if outcome.summary.refusal and outcome.state != "failed" else outcome.state
        record = item.record.model_copy(
            update={
                "state": state,
                "finished": time.time(),
                "inputs": outcome.inputs,
                "outputs": outcome.outputs,
                "summary": outcome.summary,
                "error": outcome.error,
                "data_digest": self._data_digest or outcome.summary.params.get("data_digest", ""),
            }
        )
        self._data_digest = record.data_digest
        self._note(record)
        return record

    def _end(self, running: Mapping[str, Running], result: Result) -> None:
        """Ends what is still running, which only happens when the runner itself is interrupted."""
        for name, item in running.items():
            try:
                os.killpg(item.process.pid or 0, signal.SIGKILL)
            except ProcessLookupError:
                item.process.kill()
            item.process.join()
            result.records[name] = item.record.model_copy(update={"state": "interrupted", "finished": time.time()})
            self._note(result.records[name])


def _receive(item: Running, view: View) -> Outcome | None:
    """Reads what a stage's process has sent; returns its outcome when that is among it."""
    try:
        while item.pipe.poll():
            kind, text = item.pipe.recv()
            if kind == "done":
                return Outcome.model_validate_json(text)
            view.stage(item.record, text)
    except EOFError:
        pass
    return None


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code} and no result"


def _spec_digest(node: Any, pipeline: Any) -> str:
    """What a stage is asked to do: parameters, executor and the nodes above it; not the run it is asked in."""
    digest = hashlib.sha256(node.parameters.SerializeToString(deterministic=True))
    digest.update("\0".join(node.upstream_nodes).encode())
    digest.update(pipeline.pipeline_info.SerializeToString(deterministic=True))
    return digest.hexdigest()


def spec_digests(pipeline: Any) -> dict[str, str]:
    """The spec digest of every node of a compiled pipeline, by stage."""
    return {node.pipeline_node.node_info.id: _spec_digest(node.pipeline_node, pipeline) for node in pipeline.nodes}
