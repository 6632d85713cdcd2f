"""`tfline run`: from a folder and options to an exit code.

Everything that can be wrong with the folder, the options or the input is found before TensorFlow is imported and before anything
is written. Exit codes: 0 pushed or nothing to do, 2 bad usage or configuration, 3 a gate refused, 1 anything else.
"""

from __future__ import annotations

import gc
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from components import ingest, push
from components.errors import UsageError
from components.records import Journal, Pushed, RunRecord, StageRecord
from pipelines.config import PipelineConfig, curated_schema, load_config
from pipelines.graph import UserCode, code_digests, create_pipeline, keras_of, stages_of
from pipelines.outcome import tell
from pipelines.run_lock import run_lock
from pipelines.tracker import Tracker
from pipelines.unchanged import cached, outside_digest, request_digest, same_run
from pipelines.view import RunView

if TYPE_CHECKING:
    from pipelines.local_runner import Result


@dataclass(frozen=True)
class Options:
    """What was typed: the overlay, overrides, the stages to start from and stop after, and whether to resume."""

    environment: str = "local"
    overrides: tuple[str, ...] = ()
    first: str | None = None
    last: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """A run that can start: what, where, and under which id."""

    folder: Path
    home: Path
    config: PipelineConfig
    code: UserCode
    options: Options
    run_id: str
    request: str

    def earlier(self, journal: Journal) -> RunRecord | None:
        """The run that did all this already. Whoever names stages, or resumes, wants them looked at."""
        if self.options.resume or self.options.first or self.options.last:
            return None
        return same_run(journal, self.config, self.request)


def run_pipeline(folder: Path, home: Path, options: Options, console: Console) -> int:
    """Runs a pipeline on this machine and tells what came of it.

    Args:
        folder: The pipeline's folder.
        home: tfline's home; made when missing.
        options: What was typed.
        console: Where to tell.

    Returns:
        The exit code.

    Raises:
        TflineError: The run could not start; nothing was written but data that the pipeline's own generator made.
    """
    journal = Journal(home)
    options = _with_recorded_options(journal, folder, options)
    config = load_config(folder, home, environment=options.environment, overrides=options.overrides)
    code = UserCode.of(folder, config)
    curated_schema(folder, config)
    stages = stages_of(config, code)
    for stage in (options.first, options.last):
        if stage is not None and stage not in stages:
            raise UsageError(f"expected one of the stages {', '.join(stages)}, got '{stage}'")
    if options.first and options.last and stages.index(options.first) > stages.index(options.last):
        raise UsageError(f"--from {options.first} comes after --to {options.last}")
    run_id = _unfinished(journal, config.name).run_id if options.resume else _new_run_id(config.name)
    with run_lock(home, config.name, run_id):
        _settle_dead_runs(journal, config.name)
        if ingest.prepare(config.ingest, folder):
            console.print(f"data written to {config.ingest.path}", highlight=False, soft_wrap=True)
        request = request_digest(config, folder, code, ingest.input_files(config.ingest))
        return _run(Plan(folder, home, config, code, options, run_id, request), journal, console)


def _run(plan: Plan, journal: Journal, console: Console) -> int:
    started = journal.run(plan.run_id).started if plan.options.resume else time.time()
    record = RunRecord(
        run_id=plan.run_id,
        pipeline=plan.config.name,
        folder=str(plan.folder.resolve()),
        started=started,
        pid=os.getpid(),
        host=socket.gethostname(),
        config=plan.config.model_dump(mode="json"),
        options={
            "environment": plan.options.environment,
            "set": list(plan.options.overrides),
            "from": plan.options.first,
            "to": plan.options.last,
        },
        stages=stages_of(plan.config, plan.code),
        request=plan.request,
    )
    earlier = plan.earlier(journal)
    with (
        RunView(console, f"{plan.config.name}  run {plan.run_id}", record.stages) as view,
        Tracker(plan.home, plan.run_id) as tracker,
    ):
        if earlier:
            record = _repeat(record, earlier, journal, view)
            tracker.begin()
        else:
            record = _run_stages(record, plan, journal, view, tracker)
        view.phase("writing to MLflow")
        tracker.finish()
    for warning in tracker.warnings:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    return tell(record, journal.stages(plan.run_id), plan.folder, plan.home, console)


def _run_stages(record: RunRecord, plan: Plan, journal: Journal, view: RunView, tracker: Tracker) -> RunRecord:
    """Has TFX run what is not in its cache; returns the record of what came of it, which is written."""
    view.phase("loading TensorFlow and TFX")
    with _native_output_to(journal.log_path(plan.run_id, "loading")), _without_garbage_collection():
        runner, pipeline, run_options = _make_runner(plan, journal, view)
    journal.write_run(record)
    tracker.begin()
    view.phase("")
    try:
        result = runner.run(pipeline, run_options=run_options)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        told = "" if stopped else f"{type(error).__name__}: {error}"
        record = record.model_copy(
            update={"state": "interrupted" if stopped else "failed", "finished": time.time(), "error": told}
        )
        journal.write_run(record)
        if not stopped:
            tracker.finish()
            raise
        return record
    return _finish(record, result, journal, plan)


def _repeat(record: RunRecord, earlier: RunRecord, journal: Journal, view: RunView) -> RunRecord:
    """Writes down a run that has nothing to do."""
    journal.write_run(record)
    for stage in journal.stages(earlier.run_id).values():
        journal.write_stage(record.run_id, cached(stage))
        view.stage(cached(stage))
    done = {
        "state": "complete",
        "finished": time.time(),
        "pushed": earlier.pushed and earlier.pushed.model_copy(update={"new": False}),
        "outside": earlier.outside,
        "same_as": earlier.same_as or earlier.run_id,
    }
    record = record.model_copy(update=done)
    journal.write_run(record)
    return record


@contextmanager
def _native_output_to(log: Path) -> Iterator[None]:
    """Sends what native libraries write to standard error into a file: TensorFlow greets whoever loads it."""
    kept = os.dup(2)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Imports without the garbage collector, and hides from it what they made.

    The million objects of TensorFlow and TFX stay to the end. Looking through them takes two seconds while they are imported,
    two more when Python ends, and in every forked stage it would copy the memory they are in.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _make_runner(plan: Plan, journal: Journal, view: RunView) -> tuple[Any, Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Read by TensorFlow when it is loaded, once for the whole process and the stages forked from it.
    os.environ["TF_USE_LEGACY_KERAS"] = "1" if keras_of(plan.config, plan.code) == 2 else "0"
    from pipelines.local_runner import LocalRunner

    pipeline = create_pipeline(plan.config, plan.folder, plan.home, plan.code)
    if plan.options.resume:
        _refuse_changed_stages(journal.stages(plan.run_id), _specs(pipeline), plan)
    runner = LocalRunner(
        run_id=plan.run_id,
        journal=journal,
        view=view,
        parallel=plan.config.runner.parallel,
        code_digests=code_digests(plan.code),
        resume=plan.options.resume,
    )
    return runner, pipeline, _run_options(plan, journal, pipeline)


def _specs(pipeline: Any) -> dict[str, str]:
    from tfx.dsl.compiler import compiler

    from pipelines.local_runner import spec_digests

    return spec_digests(compiler.Compiler().compile(pipeline))


def _run_options(plan: Plan, journal: Journal, pipeline: Any) -> Any:
    first, last = plan.options.first, plan.options.last
    if first is None and last is None:
        return None
    from tfx.orchestration import pipeline as tfx_pipeline

    return tfx_pipeline.RunOptions(
        from_nodes=[first] if first else None,
        to_nodes=[last] if last else None,
        base_pipeline_run_id=_base_run(plan, journal, pipeline, first) if first else None,
    )


def _new_run_id(name: str) -> str:
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def _unfinished(journal: Journal, name: str) -> RunRecord:
    for record in journal.runs(name):
        if record.state in ("failed", "interrupted", "running"):
            return record
    raise UsageError(f"--resume: pipeline '{name}' has no unfinished run in {journal.home}; run it without --resume")


def _with_recorded_options(journal: Journal, folder: Path, options: Options) -> Options:
    """A resumed run goes on with the options it was started with, so that `--resume` is all there is to type."""
    if not options.resume:
        return options
    if options.first or options.last or options.overrides:
        raise UsageError("--resume goes on with the options of the run it resumes; leave out --from, --to and --set")
    name = load_config(folder, journal.home, environment=options.environment).name
    recorded = _unfinished(journal, name).options
    return Options(
        environment=recorded["environment"],
        overrides=tuple(recorded["set"]),
        first=recorded["from"],
        last=recorded["to"],
        resume=True,
    )


def _settle_dead_runs(journal: Journal, name: str) -> None:
    """Whoever holds the lock knows that a run recorded as running is not: its process ended without a word."""
    for record in journal.runs(name):
        if record.state == "running":
            journal.write_run(record.model_copy(update={"state": "interrupted", "finished": time.time()}))
            for stage in journal.stages(record.run_id).values():
                if stage.state == "running":
                    journal.write_stage(record.run_id, stage.model_copy(update={"state": "interrupted"}))


def _base_run(plan: Plan, journal: Journal, pipeline: Any, first: str) -> str:
    """The newest run that has results of every stage that `--from` leaves out, made as the configuration now says."""
    specs = _specs(pipeline)
    after = {first}
    for component in pipeline.components:  # in the order of the graph
        if any(above.id in after for above in component.upstream_nodes):
            after.add(component.id)
    needed = [stage for stage in stages_of(plan.config, plan.code) if stage not in after]
    changed: list[str] = []
    for record in journal.runs(plan.config.name):
        stages = journal.stages(record.run_id)
        # MLMD knows nothing of a run that had nothing to do.
        if (
            record.same_as
            or record.run_id == plan.run_id
            or any(stages[stage].state not in ("complete", "cached") if stage in stages else True for stage in needed)
        ):
            continue
        differ = [stage for stage in needed if stages[stage].spec_digest != specs[stage]]
        if not differ:
            return record.run_id
        changed = changed or differ
    why = f"their configuration or code changed since ({', '.join(changed)})" if changed else "no earlier run finished them"
    raise UsageError(f"--from {first}: the stages it leaves out have no results that can be used: {why}; run it without --from")


def _refuse_changed_stages(stages: dict[str, StageRecord], specs: dict[str, str], plan: Plan) -> None:
    done = {name: record.spec_digest for name, record in stages.items() if record.state in ("complete", "cached")}
    changed = [name for name, digest in done.items() if digest and digest != specs[name]]
    if changed:
        raise UsageError(
            f"--resume: the configuration or code of stages that run {plan.run_id} has finished changed since: "
            f"{', '.join(changed)}. Start a new run, which takes unchanged stages from the cache: "
            f"tfline run {shlex.quote(str(plan.folder))}"
        )


def _finish(record: RunRecord, result: Result, journal: Journal, plan: Plan) -> RunRecord:
    pushed: Pushed | None = None
    last = result.records["push"]
    if last.state in ("complete", "cached"):
        pushed = push.read_result(Path(last.outputs["pushed"][0]))
        # A push found in the cache is one that another run did.
        pushed = pushed.model_copy(update={"new": pushed.new and last.state == "complete"})
    failed = [stage for stage in result.records.values() if stage.state == "failed"]
    refusals = tuple(
        stage.summary.refusal for stage in result.records.values() if stage.summary.refusal and stage.state == "refused"
    )
    state = "failed" if failed else "refused" if refusals else "complete"
    update = {
        "state": state,
        "finished": time.time(),
        "pushed": pushed,
        "refusals": refusals,
        "error": "; ".join(f"{stage.stage}: {stage.error}" for stage in failed),
        "exit_code": result.exit_code,
        "outside": outside_digest(plan.config, result.records) if pushed else "",
    }
    done = record.model_copy(update=update)
    journal.write_run(done)
    return done
