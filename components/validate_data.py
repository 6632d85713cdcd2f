"""Validate data: every split's statistics against the schema; a blocking anomaly stops the run before training.

Inputs: statistics, schema. Output: `anomalies`, one `Split-<name>/SchemaDiff.pb` a split as TFX's ExampleValidator writes it, and
report.json. A blocking anomaly is a refusal of the gate "data", which names split, feature, rule and values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from components.layout import SCHEMA_FILE, load_statistics, split_dir
from components.records import write_atomically
from components.summary import Refusal, Summary, Table

INPUTS: Mapping[str, str] = {"statistics": "ExampleStatistics", "schema": "Schema"}
OUTPUTS: Mapping[str, str] = {"anomalies": "ExampleAnomalies"}
REPORT = "anomalies"

WHOLE_SPLIT = "(the whole split)"
"""Stands in the place of a feature for what no single one is to blame for."""


class Config(BaseModel):
    """What to let through.

    Attributes:
        block_on: The least severity (of tensorflow_metadata's AnomalyInfo) that stops a run; TFDV calls most findings errors.
        ignore: Features whose anomalies are reported but never block; "feature:rule", such as
            "company:enum_type_unexpected_string_values", for those of one rule, in tensorflow_metadata's name for it (the report
            has it in brackets, with blanks for the underscores).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_on: Literal["warning", "error", "never"] = "error"
    ignore: tuple[str, ...] = ()


class Anomaly(BaseModel):
    """One finding: which rule a feature breaks in a split, and by which values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    feature: str
    rule: str
    values: str
    severity: Literal["unknown", "warning", "error"]
    blocks: bool

    def sentence(self) -> str:
        """The finding in one line."""
        return f"feature '{self.feature}' in split '{self.split}': {self.rule}: {self.values}"


class Report(BaseModel):
    """All findings, in the order of splits and features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anomalies: tuple[Anomaly, ...]


def validate_data(statistics: Path, schema_dir: Path, anomalies_dir: Path, config: Config) -> Report:
    """Compares statistics with a schema.

    Args:
        statistics: ExampleStatistics artifact.
        schema_dir: Schema artifact.
        anomalies_dir: Where the anomalies and report.json are written.
        config: What blocks.
    """
    import tensorflow_data_validation as tfdv

    schema = tfdv.load_schema_text(str(schema_dir / SCHEMA_FILE))
    found: list[Anomaly] = []
    for split, stats in load_statistics(statistics).items():
        anomalies = tfdv.validate_statistics(stats, schema)
        folder = split_dir(anomalies_dir, split)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "SchemaDiff.pb").write_bytes(anomalies.SerializeToString())
        if not stats.datasets[0].num_examples:
            found.append(_no_examples(split, config))
        found.extend(_anomalies(anomalies, split, config))
    report = Report(anomalies=tuple(found))
    write_atomically(anomalies_dir / "report.json", report.model_dump_json(indent=1))
    return report


def _no_examples(split: str, config: Config) -> Anomaly:
    """What TFDV passes over: it finds nothing wrong with values that are not there."""
    rule, values = "Split empty (no examples)", "expected at least one example, found none"
    return Anomaly(
        split=split, feature=WHOLE_SPLIT, rule=rule, values=values, severity="error", blocks=config.block_on != "never"
    )


def _anomalies(anomalies: Any, split: str, config: Config) -> list[Anomaly]:
    severities = {1: "warning", 2: "error"}
    if anomalies.HasField("dataset_anomaly_info"):
        infos = {WHOLE_SPLIT: anomalies.dataset_anomaly_info, **anomalies.anomaly_info}
    else:
        infos = dict(anomalies.anomaly_info)
    found = []
    for feature, info in sorted(infos.items()):
        severity = severities.get(info.severity, "unknown")
        severe = config.block_on in {"warning": ("warning",), "error": ("warning", "error")}.get(severity, ())
        for reason in info.reason:
            name = info.Type.Name(reason.type).lower()
            kind = name.replace("_", " ")
            rule = f"{reason.short_description or kind} ({kind})"
            blocks = severe and feature not in config.ignore and f"{feature}:{name}" not in config.ignore
            values = {"values": reason.description.strip(), "severity": severity, "blocks": blocks}
            found.append(Anomaly(split=split, feature=feature, rule=rule, **values))
    return found


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> None:
    """The stage as the pipeline calls it."""
    validate_data(inputs["statistics"], inputs["schema"], outputs["anomalies"], config)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """The findings; a refusal when one blocks."""
    report = Report.model_validate(json.loads(Path(outputs["anomalies"][0], "report.json").read_text(encoding="utf-8")))
    blocking = tuple(anomaly.sentence() for anomaly in report.anomalies if anomaly.blocks)
    count = len(report.anomalies)
    fields = ("split", "feature", "rule", "values", "severity", "blocks")
    rows = tuple(tuple(getattr(anomaly, field) for field in fields) for anomaly in report.anomalies)
    return Summary(
        headline=f"{count} anomalies, {len(blocking)} blocking" if count else "no anomalies",
        metrics={"anomalies": count, "blocking_anomalies": len(blocking)},
        tables={"anomalies": Table(columns=fields, rows=rows)} if rows else {},
        refusal=Refusal(gate="data", reasons=blocking) if blocking else None,
    )
