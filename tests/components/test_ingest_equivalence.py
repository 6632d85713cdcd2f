"""Ingested CSV against TFX's own CsvExampleGen, both really run: the same examples in the same splits."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from components import ingest
from components.ingest import Config
from tests.components.small_line import run_executor

SPLITS = {"train": 7, "validation": 1, "eval": 2}
ROWS = 400


def write(folder: Path) -> Path:
    """Three files of every kind of column; which kind a column is, only all rows together say."""
    draw = random.Random(3)

    def maybe(value: Any, missing: float = 0.2) -> Any:
        return "" if draw.random() < missing else value

    rows = [
        {
            "count": maybe(draw.randrange(-5000, 5000)),
            "large": maybe(draw.randrange(-(2**63), 2**63)),
            "share": maybe(round(draw.uniform(-90, 90), 5)),
            "narrow": draw.uniform(-1, 1) * 10 ** draw.randrange(-50, 50),
            "late float": 2.5 if number == 390 else number,
            "late text": "x" if number == 395 else maybe(number / 4),
            "too large": 2**64 if number == 200 else 7,
            "odd": maybe(draw.choice(["1_000", " 12 ", "+3", "1e-3", "nan", "-inf", "007", ".5"])),
            "name": maybe(draw.choice(["plain", "with, comma", 'with "quotes"', "two\nlines", "Grüße", "  ", "'", "1"])),
            "empty": "",
        }
        for number in range(ROWS)
    ]
    folder.mkdir()
    for number in range(3):
        with (folder / f"rows-{number}.csv").open("w", encoding="utf-8", newline="") as file:
            # CsvExampleGen knows no quotes in a header, but takes the spaces at its ends away.
            file.write(f" {','.join(rows[0])} \n\n")
            quoting: Any = csv.QUOTE_ALL if number == 1 else csv.QUOTE_MINIMAL
            csv.DictWriter(file, rows[0], lineterminator="\n", quoting=quoting).writerows(rows[number::3])
    return folder


def examples_of(artifact: Any) -> dict[str, list[bytes]]:
    import tensorflow as tf

    assert set(json.loads(artifact.split_names)) == set(SPLITS)
    return {
        split: sorted(
            tf.train.Example.FromString(record).SerializeToString(deterministic=True)
            for file in (Path(artifact.uri) / f"Split-{split}").iterdir()
            for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()
        )
        for split in SPLITS
    }


@pytest.mark.slow
def test_examples_and_splits_are_those_of_csv_example_gen(tmp_path: Path) -> None:
    from tfx.components import CsvExampleGen
    from tfx.proto import example_gen_pb2

    data = write(tmp_path / "data")
    split = example_gen_pb2.SplitConfig.Split
    splits = example_gen_pb2.SplitConfig(splits=[split(name=name, hash_buckets=share) for name, share in SPLITS.items()])
    stock = CsvExampleGen(input_base=str(data), output_config=example_gen_pb2.Output(split_config=splits))
    theirs = run_executor(stock, tmp_path / "stock")["examples"]
    ours = run_executor(ingest.component(Config(format="csv", path=str(data), splits=SPLITS)), tmp_path / "ours")["examples"]
    expected, found = examples_of(theirs), examples_of(ours)
    assert {name: len(records) for name, records in found.items()} == {name: len(records) for name, records in expected.items()}
    assert sum(map(len, found.values())) == ROWS
    assert found == expected
    properties = ("payload_format", "file_format")
    assert [ours.get_string_custom_property(name) for name in properties] == [
        theirs.get_string_custom_property(name) for name in properties
    ]


@pytest.mark.slow
def test_the_same_data_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components import split_shards

    monkeypatch.setattr(split_shards, "_SHARD_BYTES", 1)
    settings = Config(format="csv", path=str(write(tmp_path / "data")), splits=SPLITS)
    folders = [Path(run_executor(ingest.component(settings), tmp_path / name)["examples"].uri) for name in ("one", "two")]
    first, second = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert first == second
    shards = [f"data_tfrecord-{number:05d}-of-00003.gz" for number in range(3)]
    assert set(first) == {"data-digest.txt", *(f"Split-{split}/{shard}" for split in SPLITS for shard in shards)}
