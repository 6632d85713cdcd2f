"""Examples in batches: all of them, in order, and the same results as TFX's own executors have, which really run beside ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components import example_batches
from components.layout import SCHEMA_FILE, load_statistics
from tests.components.small_line import SCHEMA, SPLITS, artifact, channel, driven, example, run_executor, write_records


def read(source: Any, folder: Path) -> list[Any]:
    """What a source brings, through Beam's local runner, which gets copies of everything: hence the files."""
    import apache_beam as beam
    import pyarrow as pa

    folder.mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | source | beam.combiners.ToList() | beam.Map(keep, str(folder))
    return [batch for file in sorted(folder.iterdir()) for batch in pa.ipc.open_stream(file.read_bytes())]


def keep(batches: list[Any], folder: str) -> None:
    import pyarrow as pa

    for number, batch in enumerate(batches):
        with pa.OSFile(f"{folder}/{number:03d}", "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)


def test_batches_have_every_example_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    records = [example(number) for number in range(50)]
    write_records(tmp_path / "b.gz", records[23:])
    write_records(tmp_path / "a", records[:23])
    monkeypatch.setattr(example_batches, "_READ", 4)
    monkeypatch.setattr(example_batches, "_RECORDS", 10)
    batches = read(example_batches.BatchedExamples([str(tmp_path / "*")]).BeamSource(), tmp_path / "all")
    # Twelve are read until there are ten.
    assert [batch.num_rows for batch in batches] == [12, 11, 12, 12, 3]
    decoded = ExamplesToRecordBatchDecoder().DecodeBatch(records).to_pydict()
    found = {name: list(itertools.chain(*(batch.to_pydict()[name] for batch in batches))) for name in decoded}
    assert found == decoded
    one = example_batches.BatchedExamples(str(tmp_path / "a"))
    assert [batch.num_rows for batch in read(one.BeamSource(9), tmp_path / "nine")] == [12, 11]
    assert [batch.num_rows for batch in read(one.BeamSource(1), tmp_path / "each")] == [1] * 23
    monkeypatch.setattr(example_batches, "_BYTES", 4 * min(map(len, records)))
    assert [batch.num_rows for batch in read(one.BeamSource(), tmp_path / "small")] == [4, 4, 4, 4, 4, 3]


def test_only_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    write_records(tmp_path / "a", [example(number) for number in range(5)])
    schema = text_format.Parse(SCHEMA, schema_pb2.Schema())
    source = example_batches.BatchedExamples(str(tmp_path / "a"), schema=schema, telemetry_descriptors=["test"])
    [whole] = read(source.BeamSource(), tmp_path / "whole")
    [part] = read(source.Project(["x", "tags"]).BeamSource(), tmp_path / "part")
    assert whole.schema.names == ["x", "group", "tags", "label"]
    assert part.schema.names == ["x", "tags"]
    assert part.to_pydict() == {name: whole.to_pydict()[name] for name in part.schema.names}


def test_batches_are_written_as_they_come(tmp_path: Path) -> None:
    import apache_beam as beam
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    records = [example(number) for number in range(20)]
    batches: list[Any] = [(decoder.DecodeBatch(records[first : first + 7]), {}) for first in range(0, 20, 7)]
    schema = text_format.Parse(SCHEMA, schema_pb2.Schema())
    with beam.Pipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(batches, reshuffle=False)
        _ = made | example_batches.write_batches(schema, str(tmp_path / "new" / "examples"))
    [file] = (tmp_path / "new").iterdir()
    assert file.name == "examples-00000-of-00001.gz"
    assert parsed(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()) == parsed(records)


def parsed(records: Iterable[bytes]) -> list[dict[str, list[Any]]]:
    """Values by feature; a feature without values may be written as one or left out."""
    import tensorflow as tf

    found = []
    for record in records:
        features = tf.train.Example.FromString(record).features.feature
        values = {name: list(getattr(kind, kind.WhichOneof("kind") or "bytes_list").value) for name, kind in features.items()}
        found.append({name: values[name] for name in sorted(values) if values[name]})
    return found


@pytest.mark.slow
def test_statistics_are_those_of_statistics_gen(raw: Path, tmp_path: Path) -> None:
    from tfx.components import StatisticsGen

    from components import statistics

    inputs = {"examples": artifact("Examples", raw, tuple(SPLITS))}
    made = [
        run_executor(component, tmp_path / name, inputs)["statistics"]
        for name, component in {
            "stock": StatisticsGen(examples=channel("Examples")),
            "ours": statistics.component(channel("Examples")),
        }.items()
    ]
    theirs, ours = (load_statistics(Path(found.uri)) for found in made)
    assert made[0].split_names == made[1].split_names
    assert set(theirs) == set(ours) == set(SPLITS)
    for split, number in SPLITS.items():
        assert ours[split].datasets[0].num_examples == number
        assert counted(ours[split]) == counted(theirs[split])


def counted(statistics: Any) -> dict[str, Any]:
    """All but quantiles and means, whose last digits depend on how examples were put together."""
    found = {}
    for feature in statistics.datasets[0].features:
        kind = getattr(feature, feature.WhichOneof("stats"))
        common = kind.common_stats
        numbers = [common.num_non_missing, common.min_num_values, common.max_num_values, common.tot_num_values]
        limits = [kind.min, kind.max, kind.num_zeros] if feature.HasField("num_stats") else [kind.unique]
        found[feature.path.step[0]] = (feature.type, numbers, limits)
    return found


@pytest.mark.slow
def test_transformed_examples_are_those_of_transform(
    raw: Path, schema_dir: Path, transformed: Mapping[str, Path], code: str, tmp_path: Path
) -> None:
    from tfx.components.transform import executor as stock
    from tfx.dsl.components.base import executor_spec

    from components import transform
    from components.examples import records, split_files

    component = transform.component(
        channel("Examples"), channel("Schema"), code=code, module="model.py", analyze_split="train", splits=list(SPLITS)
    )
    assert "code_digest" in driven(component)["custom_config"]
    component.executor_spec = executor_spec.BeamExecutorSpec(stock.Executor)
    assert (schema_dir / SCHEMA_FILE).is_file()
    inputs = {"examples": artifact("Examples", raw, tuple(SPLITS)), "schema": artifact("Schema", schema_dir)}
    theirs = Path(run_executor(component, tmp_path, inputs)["transformed_examples"].uri)
    for split, number in SPLITS.items():
        ours, expected = (
            parsed(records(split_files(folder, split)).as_numpy_iterator())
            for folder in (transformed["transformed_examples"], theirs)
        )
        assert len(ours) == number
        assert sorted(map(repr, ours)) == sorted(map(repr, expected))
    assert stock.TransformProcessor.__module__ == stock.__name__, "put back"
