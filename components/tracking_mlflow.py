"""What of a run goes into MLflow, and in which form.

    experiment       the pipeline
    run              one run of it: configuration and options as parameters, how it ended, the metrics that decide about a model
    nested run       one stage that did something: parameters, metrics, curves, tables, files, addresses, digests, state
    nested in that   one of several things that the stage made, such as a variant: its metrics
    model version    a version that the run pushed; the alias `champion` follows the highest version of the store

Stages that are pending or were skipped have no nested run: there is nothing to show of them, and MLflow has no status for it.
Their state stands in the tag `tfline.stages` of the run. Writing the same record again changes nothing. A stage that ran again
after it had ended gets a new nested run, and the old one is deleted (MLflow keeps it in its bin): parameters cannot be changed,
and the curves of two attempts would mix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import TflineError
from components.records import StageRecord
from components.summary import Refusal, Summary
from components.tracking_limits import (
    PARAM_CHARACTERS,
    file_name,
    flat,
    log,
    milliseconds,
    points,
    safe_params,
    split_orient,
)
from components.tracking_registry import register
from components.tracking_sync import Ledger, Snapshot, StageNote, digest

DECIDING_STAGES = ("evaluate", "optimize")
"""The stages whose metrics are repeated at the run itself, so that runs can be compared in MLflow's table."""

PUSH_STAGE = "push"
"""The stage whose nested run holds the pushed model."""

_STATUS = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "cached": "FINISHED",
    "refused": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_SETTLED = ("complete", "cached", "refused", "failed")


def copy_run(client: Any, snapshot: Snapshot, ledger: Ledger, location: str | None) -> tuple[int, str]:
    """Writes whatever of a run the store does not have yet.

    Args:
        client: An MlflowClient.
        snapshot: The run as it is now.
        ledger: Brought up to date, and saved, as the writing goes on.
        location: Where a new experiment keeps its artifacts (a URI), None for the store's own choice.

    Returns:
        How many stages were written, and a note for people ("" when there is none).

    Raises:
        TflineError: When the store gives no usable answer or the experiment is deleted. Whatever MLflow raises.
    """
    return _Copy(client, _experiment(client, snapshot.run.pipeline, location), snapshot, ledger).write()


@dataclass(frozen=True)
class _Copy:
    client: Any
    experiment: str
    snapshot: Snapshot
    ledger: Ledger

    def write(self) -> tuple[int, str]:
        run, note = self.snapshot.run, self.ledger.note
        parent = self._find_or_create(note.run, run.run_id, {"tfline.run_id": run.run_id, "tfline.kind": "run"}, run.started)
        if note.run != parent.info.run_id:
            self.client.log_dict(parent.info.run_id, run.config, "config.json")
            note.run, note.digest, note.stages = parent.info.run_id, "", {}
            self.ledger.save()
        self._describe(parent)
        written = 0
        for name, record in self.snapshot.stages.items():
            if record.state not in ("pending", "skipped"):
                written += self._copy_stage(record, note.stages.setdefault(name, StageNote()))
        remark = self._register()
        # The end comes last: a run that MLflow shows as finished is all there.
        self._set_status(parent, run.state, run.finished)
        note.digest = self.snapshot.digest
        self.ledger.save()
        return written, remark

    def _describe(self, parent: Any) -> None:
        """Parameters, tags, metrics and messages of the run itself."""
        run, run_id, have = self.snapshot.run, parent.info.run_id, parent.data.params
        options = {f"options.{key}": value for key, value in run.options.items()}
        params = safe_params(dict(flat({**run.config, **options})), "whole value: config.json")
        # A resumed run may have other options, and MLflow refuses to change a parameter: the first value stays, the new is a tag.
        changed = {f"tfline.now.{key}": value for key, value in params.items() if have.get(key, value) != value}
        refusal = _reasons(*run.refusals)
        tags = self._tags() | _messages({"tfline.refusal": refusal, "tfline.error": run.error}, parent.data.tags) | changed
        metrics = points({"seconds": run.finished - run.started}, {}, run.finished) if run.finished else []
        for name in DECIDING_STAGES:
            stage = self.snapshot.stages.get(name)
            if stage and stage.state in _SETTLED:
                prefixed = {f"{name}.{key}": value for key, value in stage.summary.metrics.items()}
                metrics += points(prefixed, {}, stage.finished or run.started)
        log(self.client, run_id, params={key: params[key] for key in params if key not in have}, tags=tags, metrics=metrics)
        for file, text in (("refusal.txt", refusal), ("error.txt", run.error)):
            if text:
                self.client.log_text(run_id, text, file)

    def _tags(self) -> dict[str, str]:
        run, stages = self.snapshot.run, self.snapshot.stages
        data = [stage.data_digest for stage in stages.values() if stage.data_digest]
        tags = {
            "mlflow.source.name": f"tfline {run.pipeline}",
            "mlflow.source.type": "LOCAL",
            "tfline.pipeline": run.pipeline,
            "tfline.folder": run.folder,
            "tfline.host": run.host,
            "tfline.state": run.state,
            "tfline.stages": json.dumps({name: stage.state for name, stage in stages.items()}),
        }
        if data:
            tags["tfline.data_digest"] = data[0]
        if run.pushed:
            tags["tfline.pushed"] = f"{run.pushed.model} version {run.pushed.version}, {'new' if run.pushed.new else 'known'}"
        return tags

    def _register(self) -> str:
        """Registers what the run pushed, once; gives a note when there is nothing left to register."""
        run, note = self.snapshot.run, self.ledger.note
        if not run.pushed or not run.pushed.new or note.pushed:
            return ""
        holder = note.stages[PUSH_STAGE].run if PUSH_STAGE in note.stages else note.run
        remark = register(self.client, run.run_id, run.pushed, holder)
        if remark:
            log(self.client, note.run, tags={"tfline.unregistered": remark})
        note.pushed = remark or f"{run.pushed.model} {run.pushed.version}"
        return remark

    def _copy_stage(self, record: StageRecord, note: StageNote) -> int:
        """Writes one stage, unless its MLflow run holds this very record already; gives the number of stages written."""
        wanted = digest(record)
        if note.digest == wanted:
            return 0
        run, parent = self.snapshot.run, self.ledger.note.run
        started = record.started or record.finished or run.started
        names = {"tfline.run_id": run.run_id, "tfline.kind": "stage", "tfline.stage": record.stage, "mlflow.parentRunId": parent}
        mine = self._find_or_create(note.run, record.stage, names, started)
        have = mine.data.tags
        if have.get("tfline.state") in _SETTLED and have.get("tfline.record") != wanted:
            for run_id in (mine.info.run_id, *self._nested_in(mine.info.run_id)):
                self.client.delete_run(run_id)
            mine = self._find_or_create("", record.stage, names, started)
        note.run, note.digest = mine.info.run_id, ""
        self.ledger.save()
        # The tags come first: from them a later attempt knows whose parameters and curves this MLflow run may hold in part.
        log(self.client, note.run, tags=names | {"tfline.record": wanted} | _stage_tags(record, mine.data.tags))
        if record.state in _SETTLED:
            _write_results(self.client, note.run, record, record.finished or self.snapshot.last_sign())
            self._copy_nested(record, note.run, started)
        self._set_status(mine, record.state, record.finished)
        note.digest = wanted
        self.ledger.save()
        return 1

    def _copy_nested(self, record: StageRecord, parent: str, started: float) -> None:
        """Writes what a stage made several of, each as a run under the stage's."""
        finished = record.finished or self.snapshot.last_sign()
        for name, metrics in record.summary.nested.items():
            names = {
                "tfline.run_id": self.snapshot.run.run_id,
                "tfline.kind": "part",
                "tfline.stage": record.stage,
                "tfline.part": name,
                "mlflow.parentRunId": parent,
            }
            mine = self._find_or_create("", name, names, started)
            log(self.client, mine.info.run_id, tags=names, metrics=points(metrics, {}, finished))
            self._set_status(mine, "complete", finished)

    def _nested_in(self, parent: str) -> list[str]:
        found = self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1000)
        return [run.info.run_id for run in found]

    def _find_or_create(self, noted: str, name: str, names: Mapping[str, str], started: float) -> Any:
        """The MLflow run that was noted; else one with the same tags (left by a crash); else a new one."""
        from mlflow.exceptions import MlflowException

        if noted:
            try:
                run = self.client.get_run(noted)
                if run.info.lifecycle_stage == "active":
                    return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        keys = [key for key in names if key.startswith("tfline.")]
        if any("'" in names[key] for key in keys):
            raise TflineError(f"a run or stage with a quotation mark in its name cannot be found again in MLflow: {name}")
        found = self.client.search_runs(
            [self.experiment], " and ".join(f"tags.`{key}` = '{names[key]}'" for key in keys), max_results=1
        )
        if found:
            return found[0]
        run = self.client.create_run(self.experiment, start_time=milliseconds(started), tags=dict(names), run_name=name)
        _checked(run.info.run_id)
        return run

    def _set_status(self, run: Any, state: str, finished: float | None) -> None:
        status = _STATUS[state]
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status, end_time=milliseconds(finished or self.snapshot.last_sign()))
        elif run.info.status != status:
            self.client.update_run(run.info.run_id, status=status)


def _stage_tags(record: StageRecord, have: Mapping[str, str]) -> dict[str, str]:
    ends = {"inputs": record.inputs, "outputs": record.outputs}
    refusal = _reasons(record.summary.refusal) if record.summary.refusal else ""
    return {
        "tfline.state": record.state,
        "tfline.code_digest": record.code_digest,
        "tfline.data_digest": record.data_digest,
        "tfline.spec_digest": record.spec_digest,
        "tfline.headline": record.summary.headline,
        **{f"tfline.{end}.{key}": "\n".join(uris) for end, addresses in ends.items() for key, uris in addresses.items()},
        **_messages({"tfline.error": record.error, "tfline.refusal": refusal}, have),
    }


def _write_results(client: Any, run_id: str, record: StageRecord, finished: float) -> None:
    """Whatever a stage has once it has ended; each part lands where it was when it is written again."""
    summary = record.summary
    seconds = {"seconds": finished - record.started} if record.started else {}
    metrics = points(seconds | summary.metrics, summary.curves, finished)
    log(client, run_id, params=safe_params(summary.params, "whole value: params.json"), metrics=metrics)
    client.log_dict(run_id, {"inputs": record.inputs, "outputs": record.outputs}, "addresses.json")
    if any(len(value) > PARAM_CHARACTERS for value in summary.params.values()):
        client.log_dict(run_id, summary.params, "params.json")
    if record.error:
        client.log_text(run_id, record.error, "error.txt")
    tables = {f"tables/{file_name(name)}.json": table for name, table in summary.tables.items()}
    for path, table in tables.items():
        # Not client.log_table: that appends to a table which is there, so that a second attempt would double its rows.
        client.log_dict(run_id, split_orient(table), path)
    if tables:
        # By this tag MLflow's page shows a JSON artifact as a table (mlflow.utils.mlflow_tags.MLFLOW_LOGGED_ARTIFACTS).
        shown = json.dumps([{"path": path, "type": "table"} for path in tables])
        log(client, run_id, tags={"mlflow.loggedArtifacts": shown})
    _write_files(client, run_id, summary)


def _write_files(client: Any, run_id: str, summary: Summary) -> None:
    gone = []
    for number, file in enumerate(map(Path, summary.files)):
        known = {Path(earlier).name for earlier in summary.files[:number]}
        folder = f"files/{number}" if file.name in known else "files"
        if file.is_dir():
            client.log_artifacts(run_id, str(file), f"{folder}/{file.name}")
        elif file.exists():
            client.log_artifact(run_id, str(file), folder)
        else:
            gone.append(str(file))
    if gone:
        log(client, run_id, tags={"tfline.files_gone": "\n".join(gone)})


def _experiment(client: Any, name: str, location: str | None) -> str:
    """The id of the experiment, made when it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return _checked(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            # Another home's tracking may have made it in the meantime.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        raise TflineError(
            f"the MLflow experiment {name!r} is deleted; restore it with `mlflow experiments restore -x {found.experiment_id}`"
        )
    return _checked(found.experiment_id)


def _checked(identifier: str) -> str:
    """An id that MLflow gave; some other web service that answers with JSON gives none."""
    if not identifier:
        raise TflineError("the tracking server's answer holds no id: is it an MLflow server? Check MLFLOW_TRACKING_URI")
    return identifier


def _messages(messages: Mapping[str, str], have: Mapping[str, str]) -> dict[str, str]:
    """The messages there are, and "" for those of an earlier attempt that no longer hold."""
    return {key: text for key, text in messages.items() if text or have.get(key)}


def _reasons(*refusals: Refusal) -> str:
    return "\n".join(f"{refusal.gate}: {reason}" for refusal in refusals for reason in refusal.reasons)
