"""The shipped trips pipeline, run once on few rows: missing and unknown values from the CSV file to both signatures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components import validate_data
from components.layout import STATISTICS_FILE, split_dir
from pipelines.config import load_config
from pipelines.trips import data
from serving.store import VersionStore
from serving.tflite_answers import answer_file
from serving.tflite_call import TFLiteModel
from serving.tflite_host import HostTransform
from serving.tflite_metadata import read_metadata
from tests.conftest import ROOT, Tfline

pytestmark = pytest.mark.slow

TRIPS = ROOT / "pipelines" / "trips"
FEW = (
    "--set",
    "ingest.prepare.arguments.rows=4000",
    "--set",
    "train.epochs=15",
    "--set",
    "train.batch_size=32",
    "--set",
    "optimize.variants=[float32, int8_io, {kind: qat, layers: able}]",
)

Trip = dict[str, Any]
TRIP: Trip = {
    "pickup_hour": 23,
    "weekday": 2,
    "distance_km": 6.5,
    "duration_min": 17.0,
    "fare": 17.5,
    "passengers": 1,
    "pickup_lat": 41.885,
    "pickup_lon": -87.63,
    "company": "Amber Cab",
    "payment": "app",
}
NOTHING: Trip = dict.fromkeys(data.MISSING)
CASES: dict[str, Trip] = {
    "whole": TRIP,
    **{f"no {name}": {**TRIP, name: None} for name in data.MISSING},
    "nothing": {**TRIP, **NOTHING},
    "empty company": {**TRIP, "company": ""},
    "new company": {**TRIP, "company": "Nova Cabs"},
    "another new company": {**TRIP, "company": "Zürich Taxi\n"},
    "new payment": {**TRIP, "payment": "crypto"},
    "another new payment": {**TRIP, "payment": "shells"},
    "both new": {**TRIP, "company": "Nova Cabs", "payment": "crypto"},
    "all new and missing": {**TRIP, **NOTHING, "company": "Nova Cabs", "payment": "crypto"},
    "cash": {**TRIP, "payment": "cash"},
    "out of range": {**TRIP, "pickup_hour": 99, "weekday": -1, "passengers": 1000, "distance_km": -4.0, "fare": -1.0},
    "no numbers": {**TRIP, "fare": math.nan, "pickup_lat": math.nan, "pickup_lon": math.inf, "distance_km": math.inf},
}


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> Tfline:
    folder = tmp_path_factory.mktemp("trips")
    commands = Tfline(folder / "home", folder)
    typed = commands("run", TRIPS, *FEW)
    assert typed.code == 0, typed.output
    return commands


@pytest.fixture(scope="module")
def signatures(trips: Tfline) -> Any:
    import tensorflow as tf

    model = tf.saved_model.load(VersionStore(trips.home / "store", "trips").get(1).path)
    # The signatures alone do not keep the model's tables alive.
    return lambda name, **inputs: model.signatures[name](**inputs)["probability"].numpy()


def serialized(trip: Trip, *, empty: bool = False) -> bytes:
    """A tf.Example; a value that is None is no feature or, with `empty`, a feature without a value, as CSV files give it."""
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in trip.items():
        kind = "bytes_list" if isinstance(TRIP[name], str) else "float_list" if isinstance(TRIP[name], float) else "int64_list"
        values = getattr(example.features.feature[name], kind).value if value is not None or empty else []
        if value is not None:
            values.append(value.encode() if isinstance(value, str) else value)
        elif empty:
            getattr(example.features.feature[name], kind).SetInParent()
    return bytes(example.SerializeToString())


def dense(trips: list[Trip]) -> dict[str, Any]:
    """Some trips as the dense signature takes them: a tensor [trips, 1] a feature, with its padding for what is missing."""
    import tensorflow as tf

    def column(name: str) -> Any:
        dtype, padding = {
            str: (tf.string, ""),
            float: (tf.float32, math.nan),
            int: (tf.int64, tf.int64.min),
        }[type(TRIP[name])]
        return tf.constant([[padding if trip[name] is None else trip[name]] for trip in trips], dtype)

    return {name: column(name) for name in TRIP}


def test_every_stage_completes_and_the_model_is_pushed(trips: Tfline) -> None:
    record, stages = trips.last()
    assert {stage.state for stage in stages.values()} == {"complete"}
    assert {"train", "validate-model", "evaluate", "optimize", "push"} <= set(stages)
    assert record.pushed is not None
    assert (record.pushed.version, record.pushed.new) == (1, True)
    VersionStore(trips.home / "store", "trips").verify(1)
    assert stages["evaluate"].summary.params["blessed"] == "True"
    assert stages["validate-data"].summary.headline == "no anomalies", "an empty field is none"


def test_the_transform_lies_beside_the_tflite_file_and_both_are_pushed(trips: Tfline) -> None:
    VersionStore(trips.home / "store-tflite", "trips").verify(1)
    version = trips.home / "store-tflite" / "trips" / "1"
    about = read_metadata((version / "model.tflite").read_bytes())
    assert about is not None and about.transform is not None
    assert (about.model_version, about.features, about.transform.host) == ("1", "transformed", "host_transform")
    assert {info.name for info in about.transform.raw_inputs} == set(TRIP)
    assert about.transform.reason is not None and "these ops have no TFLite form" in about.transform.reason
    rows = io.BytesIO(json.dumps([TRIP, {**TRIP, "company": "Nova Cabs", "payment": "cash"}]).encode())
    answer = answer_file(version / "model.tflite", None, rows, signature=None, output="json")
    app, cash = (row["probability_label"] for row in json.loads(answer.text)["predictions"])
    assert (app, cash) == ("yes", "no"), "payment by app speaks for a big tip, cash against it"


def test_every_variant_is_made_and_loses_little(trips: Tfline) -> None:
    rows = trips.last()[1]["optimize"].summary.tables["variants"].rows
    assert [row[0] for row in rows] == ["float32", "int8_io", "qat"]
    drop = {row[0]: row[5] for row in rows}
    assert drop["float32"] == 0
    assert abs(drop["int8_io"]) < 0.02 and abs(drop["qat"]) < 0.03


def test_host_and_tflite_file_together_answer_what_the_model_answers(trips: Tfline, signatures: Any) -> None:
    import numpy as np

    folder = Path(trips.last()[1]["optimize"].outputs["report"][0], "variants")
    cases = dense(list(CASES.values()))
    host = HostTransform(folder / "host_transform")
    ready = host({name: value.numpy() for name, value in cases.items()})
    answers = TFLiteModel((folder / "float32.tflite").read_bytes())(ready)["probability"]
    np.testing.assert_allclose(answers, signatures("dense", **cases), atol=1e-5)


def test_the_model_is_better_than_guessing_and_no_better_than_possible(trips: Tfline) -> None:
    labels = []
    for path in (trips.home / "data" / "trips").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            labels += [int(row["big_tip"]) for row in csv.DictReader(file)]
    tips = sum(labels) / len(labels)
    metrics = trips.last()[1]["evaluate"].summary.metrics
    best = data.bayes_accuracy()
    noise = math.sqrt(best * (1 - best) / metrics["examples"])
    assert len(labels) == 4000
    assert metrics["examples"] > 700
    assert max(tips, 1 - tips) + 0.15 < metrics["accuracy"] < best + 4 * noise


def test_every_kind_of_payment_is_a_slice(trips: Tfline) -> None:
    rows = trips.last()[1]["evaluate"].summary.tables["slices"].rows
    assert {row[0] for row in rows} == {"overall", *(f"payment:{kind}" for kind in data.PAYMENTS)}


def test_missing_and_unknown_values_have_the_same_answer_in_both_signatures(signatures: Any) -> None:
    import numpy as np
    import tensorflow as tf

    whole = signatures("serving_default", examples=tf.constant([serialized(trip) for trip in CASES.values()]))
    assert whole.shape == (len(CASES), 1)
    assert np.all((whole > 0) & (whole < 1)), dict(zip(CASES, whole[:, 0], strict=True))
    empty = signatures("serving_default", examples=tf.constant([serialized(trip, empty=True) for trip in CASES.values()]))
    np.testing.assert_allclose(empty, whole, atol=1e-6)
    np.testing.assert_allclose(signatures("dense", **dense(list(CASES.values()))), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["whole", "nothing", "both new"])
def test_a_trip_alone_has_the_answer_that_it_has_among_others(signatures: Any, name: str) -> None:
    """With `nothing`, every sparse feature of the batch is empty, and a dense one may as well have no column."""
    import numpy as np
    import tensorflow as tf

    among = signatures("dense", **dense(list(CASES.values())))[list(CASES).index(name)]
    inputs = dense([CASES[name]])
    if name == "nothing":
        inputs |= {feature: inputs[feature][:, :0] for feature in data.MISSING}
    np.testing.assert_allclose(signatures("dense", **inputs)[0], among, atol=1e-6)
    alone = signatures("serving_default", examples=tf.constant([serialized(CASES[name])]))
    np.testing.assert_allclose(alone[0], among, atol=1e-6)


def test_what_is_unknown_is_all_the_same_and_what_is_known_counts(signatures: Any) -> None:
    answers = dict(zip(CASES, signatures("dense", **dense(list(CASES.values())))[:, 0].tolist(), strict=True))
    assert answers["new company"] == pytest.approx(answers["another new company"], abs=1e-6)
    assert answers["new payment"] == pytest.approx(answers["another new payment"], abs=1e-6)
    assert answers["empty company"] == pytest.approx(answers["no company"], abs=1e-6)
    # By app and late in the centre is what a big tip looks like; with cash it hardly ever comes.
    assert answers["cash"] + 0.3 < answers["no payment"] < answers["whole"]
    for name in data.MISSING:
        assert abs(answers[f"no {name}"] - answers["whole"]) > 1e-5, f"{name} is not seen to be missing"


def test_a_trip_without_a_fare_is_refused_by_name(signatures: Any) -> None:
    import tensorflow as tf

    trip = {name: value for name, value in TRIP.items() if name != "fare"}
    with pytest.raises(tf.errors.InvalidArgumentError, match="fare"):
        signatures("serving_default", examples=tf.constant([serialized(trip)]))


@pytest.mark.parametrize(
    ("feature", "known", "new", "blocks"),
    [("company", "Blue Cab", "Nova Cabs", False), ("payment", "cash", "crypto", True)],
)
def test_a_new_company_is_reported_and_a_new_payment_stops(
    trips: Tfline, tmp_path: Path, feature: str, known: str, new: str, blocks: bool
) -> None:
    statistics = _renamed(trips, tmp_path / "statistics", {known: new})
    report = validate_data.validate_data(statistics, TRIPS, tmp_path / "anomalies", load_config(TRIPS, trips.home).validate_data)
    assert [(anomaly.feature, anomaly.severity, anomaly.blocks) for anomaly in report.anomalies] == [(feature, "error", blocks)]
    assert f"values missing from the schema: {new}" in report.anomalies[0].values


def _renamed(trips: Tfline, folder: Path, names: Mapping[str, str]) -> Path:
    """The run's statistics of its training split, with some strings replaced."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    made = Path(trips.last()[1]["statistics"].outputs["statistics"][0])
    found = statistics_pb2.DatasetFeatureStatisticsList.FromString((split_dir(made, "train") / STATISTICS_FILE).read_bytes())
    for feature in found.datasets[0].features:
        for bucket in feature.string_stats.rank_histogram.buckets if feature.HasField("string_stats") else ():
            bucket.label = names.get(bucket.label, bucket.label)
    split_dir(folder, "train").mkdir(parents=True)
    (split_dir(folder, "train") / STATISTICS_FILE).write_bytes(found.SerializeToString())
    return folder


def test_nothing_changed_means_everything_cached_and_nothing_pushed(trips: Tfline) -> None:
    typed = trips("run", TRIPS, *FEW)
    assert typed.code == 0, typed.output
    assert set(trips.states().values()) == {"cached"}
    assert "Nothing to do: trips version 1 is this model" in typed.output
    assert [version.number for version in VersionStore(trips.home / "store", "trips").versions()] == [1]
