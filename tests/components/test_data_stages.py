"""Statistics, schema and the data gate, on statistics that TFDV computes from small tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components import schema, statistics, validate_data
from components.errors import TflineError, UsageError
from components.layout import SCHEMA_FILE, STATISTICS_FILE, load_schema, load_statistics, split_names
from tests.components.small_line import SPLITS, artifact, channel, run_executor

ROWS = 50

SCHEMA = """
feature {
  name: "age" type: INT int_domain { min: 0 max: 39 } presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } }
}
feature { name: "price" type: FLOAT presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
feature { name: "colour" type: BYTES domain: "colours" presence { min_fraction: 1 min_count: 1 } shape { dim { size: 1 } } }
string_domain { name: "colours" value: "red" value: "green" }
"""


def table(**changed: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "age": [row % 40 for row in range(ROWS)],
        "price": [row / ROWS for row in range(ROWS)],
        "colour": ["red", "green"] * (ROWS // 2),
        **changed,
    }
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


@pytest.fixture
def write_statistics(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ExampleStatistics artifact, one table a split."""
    import tensorflow_data_validation as tfdv

    def write(**splits: pd.DataFrame) -> Path:
        for split, found in splits.items():
            folder = tmp_path / "statistics" / f"Split-{split}"
            folder.mkdir(parents=True)
            (folder / STATISTICS_FILE).write_bytes(tfdv.generate_statistics_from_dataframe(found).SerializeToString())
        return tmp_path / "statistics"

    return write


@pytest.fixture
def judge(write_statistics: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[validate_data.Report, list[str]]]:
    """Judges a table by the schema, as the split `eval`; the report, and what refuses."""

    def run(checked: pd.DataFrame, **config: Any) -> tuple[validate_data.Report, list[str]]:
        folders = {"statistics": write_statistics(train=table(), eval=checked)}
        for key in ("schema", "anomalies"):
            folders[key] = tmp_path / key
            folders[key].mkdir()
        (folders["schema"] / SCHEMA_FILE).write_text(SCHEMA, encoding="utf-8")
        validate_data.run(folders, {"anomalies": folders["anomalies"]}, validate_data.Config.model_validate(config))
        text = (folders["anomalies"] / "report.json").read_text(encoding="utf-8")
        refusal = validate_data.summarise({"anomalies": [str(folders["anomalies"])]}).refusal
        assert refusal is None or refusal.gate == "data"
        return validate_data.Report.model_validate_json(text), list(refusal.reasons) if refusal else []

    return run


Judge = Callable[..., tuple[validate_data.Report, list[str]]]
EVAL = "in split 'eval'"


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        (
            {"age": [*range(39), 42, *range(10)]},
            [f"feature 'age' {EVAL}: Out-of-range values (int type big int): Unexpectedly large value: 42."],
        ),
        (
            {"age": [-3, *range(39), *range(10)]},
            [f"feature 'age' {EVAL}: Out-of-range values (int type small int): Unexpectedly small value: -3."],
        ),
        ({"price": None}, [f"feature 'price' {EVAL}: Column dropped (schema missing column): Column is completely missing"]),
        (
            {"age": [0.5] * ROWS},
            [f"feature 'age' {EVAL}: Unexpected data type (unexpected data type): Expected data of type: INT but got FLOAT"],
        ),
        (
            {"colour": ["red", "blue"] * (ROWS // 2)},
            [
                f"feature 'colour' {EVAL}: Unexpected string values (enum type unexpected string values): "
                "Examples contain values missing from the schema: blue (~50%)."
            ],
        ),
        (
            {"extra": [1] * ROWS},
            [f"feature 'extra' {EVAL}: New column (schema new column): New column (column in data but not in schema)"],
        ),
        (
            {"price": [None] * 5 + [0.5] * 45},
            [
                f"feature 'price' {EVAL}: Feature shape dropped (invalid feature shape): The feature has a shape, but it's not "
                "always present (if the feature is nested, then it should always be present at each nested level) or its value "
                "lengths vary.",
                f"feature 'price' {EVAL}: Column dropped (feature type low fraction present): The feature was present in fewer "
                "examples than expected: minimum fraction = 1.000000, actual = 0.900000",
            ],
        ),
    ],
    ids=("too large", "too small", "no column", "other type", "new string", "new column", "missing values"),
)
def test_blocking_anomaly_names_split_feature_rule_and_values(changed: dict[str, Any], reasons: list[str], judge: Judge) -> None:
    columns = {name: values if name != "price" or values is None else pd.Series(values) for name, values in changed.items()}
    report, refused = judge(table(**columns))
    assert refused == reasons
    assert [anomaly.sentence() for anomaly in report.anomalies] == reasons
    assert {anomaly.severity for anomaly in report.anomalies} == {"error"}


def test_data_as_the_schema_says(judge: Judge, tmp_path: Path) -> None:
    report, refused = judge(table())
    assert (report.anomalies, refused) == ((), [])
    summary = validate_data.summarise({"anomalies": [str(tmp_path / "anomalies")]})
    assert summary.headline == "no anomalies"
    assert summary.metrics == {"anomalies": 0, "blocking_anomalies": 0}
    assert split_names(tmp_path / "anomalies") == ["eval", "train"], "as TFX's ExampleValidator lays it out"
    assert (tmp_path / "anomalies" / "Split-eval" / "SchemaDiff.pb").stat().st_size > 0


def test_split_without_examples(judge: Judge) -> None:
    _, refused = judge(table().iloc[:0])
    assert refused[0] == (
        "feature '(the whole split)' in split 'eval': Split empty (no examples): expected at least one example, found none"
    )


def test_ignored_features_are_reported_and_do_not_block(judge: Judge, tmp_path: Path) -> None:
    report, refused = judge(table(age=[99] * ROWS, colour=["blue"] * ROWS), ignore=["age"])
    assert [(anomaly.feature, anomaly.blocks) for anomaly in report.anomalies] == [("age", False), ("colour", True)]
    assert len(refused) == 1
    assert refused[0].startswith("feature 'colour'")
    summary = validate_data.summarise({"anomalies": [str(tmp_path / "anomalies")]})
    assert summary.headline == "2 anomalies, 1 blocking"
    assert summary.metrics == {"anomalies": 2, "blocking_anomalies": 1}
    rows = summary.tables["anomalies"].rows
    assert [row[:2] + row[4:] for row in rows] == [("eval", "age", "error", False), ("eval", "colour", "error", True)]


def test_one_rule_of_a_feature_is_ignored_and_its_others_are_not(judge: Judge) -> None:
    rules = ["colour:enum_type_unexpected_string_values", "age:enum_type_unexpected_string_values"]
    report, refused = judge(table(age=[99] * ROWS, colour=["blue"] * ROWS), ignore=rules)
    assert [(anomaly.feature, anomaly.blocks) for anomaly in report.anomalies] == [("age", True), ("colour", False)]
    assert [sentence.split("'")[1] for sentence in refused] == ["age"]


@pytest.mark.parametrize(("block_on", "blocked"), [("warning", ["hint", "fault"]), ("error", ["fault"]), ("never", [])])
def test_least_severity_that_blocks(block_on: str, blocked: list[str], judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """TFDV calls almost everything an error, so its answer is made here: a warning, an error, and one without severity."""
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    answer = anomalies_pb2.Anomalies()
    for feature, severity in {"hint": "WARNING", "fault": "ERROR", "whisper": "UNKNOWN"}.items():
        info = answer.anomaly_info[feature]
        info.severity = anomalies_pb2.AnomalyInfo.Severity.Value(severity)
        info.reason.add(type=anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN, description="because")
    monkeypatch.setattr(tfdv, "validate_statistics", lambda *_: answer)
    report, refused = judge(table(), block_on=block_on)
    assert {anomaly.feature: anomaly.severity for anomaly in report.anomalies} == {
        "fault": "error",
        "hint": "warning",
        "whisper": "unknown",
    }
    assert {anomaly.feature for anomaly in report.anomalies if anomaly.blocks} == set(blocked)
    assert len(refused) == 2 * len(blocked), "one a split"


def test_nothing_blocks_when_never_may(judge: Judge) -> None:
    report, refused = judge(table().iloc[:0], block_on="never")
    assert report.anomalies
    assert refused == []


# Schema.


def make_schema(statistics_dir: Path, folder: Path, **config: Any) -> Any:
    folder.mkdir()
    schema.run({"statistics": statistics_dir}, {"schema": folder}, schema.Config.model_validate(config))
    return load_schema(folder)


def test_schema_is_inferred_when_none_is_curated(write_statistics: Callable[..., Path], tmp_path: Path) -> None:
    found = write_statistics(train=table(), eval=table(colour=["blue"] * ROWS))
    made = make_schema(found, tmp_path / "schema")
    assert {feature.name: feature.type for feature in made.feature} == {"age": 2, "price": 3, "colour": 1}
    assert [dim.size for feature in made.feature for dim in feature.shape.dim] == [1, 1, 1]
    assert sorted(made.string_domain[0].value) == ["green", "red"], "from the training split alone"
    summary = schema.summarise({"schema": [str(tmp_path / "schema")]})
    assert summary.headline == "inferred, 3 features, not reviewed yet"
    assert summary.params == {"origin": "inferred", "file": str(tmp_path / "schema" / SCHEMA_FILE)}


def test_inferred_without_shapes(write_statistics: Callable[..., Path], tmp_path: Path) -> None:
    made = make_schema(write_statistics(train=table()), tmp_path / "schema", infer_shapes=False)
    assert not any(feature.HasField("shape") for feature in made.feature)


def test_curated_schema_is_taken_as_it_is(write_statistics: Callable[..., Path], tmp_path: Path) -> None:
    made = make_schema(write_statistics(train=table(extra=[1] * ROWS)), tmp_path / "schema", curated=SCHEMA)
    assert made == schema.parse(SCHEMA, "here")
    summary = schema.summarise({"schema": [str(tmp_path / "schema")]})
    assert (summary.headline, summary.params["origin"]) == ("curated, 3 features", "curated")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'feature { name: "x"\n type: FLOATY }',
            "2:8 : ' type: FLOATY }': Enum type \"tensorflow.metadata.v0.FeatureType\" has no ",
        ),
        ('\nfeature {\n nam: "x" }', '3:2 : Message type "tensorflow.metadata.v0.Feature" has no field named "nam".'),
    ],
)
def test_broken_curated_schema_names_its_line(
    text: str, told: str, write_statistics: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        make_schema(write_statistics(train=table()), tmp_path / "schema", curated=text)
    assert str(caught.value).startswith(f"schema.pbtxt: expected a tensorflow_metadata Schema as text: {told}")
    assert not (tmp_path / "schema" / SCHEMA_FILE).exists()


def test_split_without_statistics(write_statistics: Callable[..., Path], tmp_path: Path) -> None:
    found = write_statistics(eval=table())
    with pytest.raises(TflineError) as caught:
        make_schema(found, tmp_path / "schema")
    assert str(caught.value) == f"schema: no statistics of split 'train' to infer a schema from in {found}"


# Statistics.


def test_summary_of_statistics(write_statistics: Callable[..., Path]) -> None:
    found = write_statistics(train=table(), eval=table(price=pd.Series([None] * 10 + [0.5] * 40)).iloc[:40])
    summary = statistics.summarise({"statistics": [str(found)]})
    assert summary.headline == "90 examples, 3 features (train 50, eval 40)"
    assert summary.metrics == {"train_examples": 50, "eval_examples": 40}
    features = summary.tables["features"]
    assert features.columns == ("split", "feature", "type", "present", "values")
    assert set(features.rows) == {
        ("train", "age", "INT", 1.0, 1.0),
        ("train", "price", "FLOAT", 1.0, 1.0),
        ("train", "colour", "STRING", 1.0, 1.0),
        ("eval", "age", "INT", 1.0, 1.0),
        ("eval", "price", "FLOAT", 0.75, 1.0),
        ("eval", "colour", "STRING", 1.0, 1.0),
    }


def test_headline_fits_the_live_view(write_statistics: Callable[..., Path]) -> None:
    names = ("training", "evaluation", "validation", "calibration")
    summary = statistics.summarise({"statistics": [str(write_statistics(**dict.fromkeys(names, table())))]})
    assert len(summary.headline) <= 50
    assert summary.metrics == dict.fromkeys((f"{name}_examples" for name in names), 50)


@pytest.mark.slow
def test_component_counts_what_is_in_the_examples(raw: Path, tmp_path: Path) -> None:
    component = statistics.component(channel("Examples"))
    made = run_executor(component, tmp_path, {"examples": artifact("Examples", raw, tuple(SPLITS))})["statistics"]
    assert component.id == "statistics"
    assert {split: found.datasets[0].num_examples for split, found in load_statistics(Path(made.uri)).items()} == SPLITS
    rows = {row[:2]: row[2:] for row in statistics.summarise({"statistics": [made.uri]}).tables["features"].rows}
    assert rows["train", "x"] == ("FLOAT", 1.0, 4.0)
    assert rows["train", "group"] == ("STRING", 1.0, 1.0)
    share, values = rows["train", "tags"][1:]
    assert 0.5 < share < 0.8, "a third of the examples has no tag"
    assert 1 < values < 2
