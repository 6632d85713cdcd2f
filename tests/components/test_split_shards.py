"""Shards: which files share one, who gets which record, and how they are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from components import split_shards
from components.split_shards import group, name_shards, write_shard


def touch(folder: Path, **sizes: int) -> list[Path]:
    files = [folder / name for name in sizes]
    for path, size in zip(files, sizes.values(), strict=True):
        path.write_bytes(bytes(size))
    return files


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ({"a": 100}, ["a"]),
        ({"a": 10, "b": 10, "c": 10, "d": 10}, ["abc", "d"]),
        ({"a": 100, "b": 1, "c": 1}, ["a", "bc"]),
        ({"a": 1, "b": 100, "c": 0}, ["ab", "c"]),
        ({"a": 0}, ["a"]),
        ({}, []),
    ],
)
def test_files_of_a_shard(sizes: dict[str, int], groups: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_shards, "_SHARD_BYTES", 30)
    found = group(touch(tmp_path, **sizes))
    assert found == [[str(tmp_path / name) for name in names] for names in groups]


def test_records_keep_their_order_and_go_where_their_hash_says(tmp_path: Path) -> None:
    import tensorflow as tf

    splits = {"train": 3, "eval": 2}
    for split in splits:
        (tmp_path / f"Split-{split}").mkdir()
    records = [f"record {number}".encode() for number in range(50)]
    write_shard(records, 4, tmp_path, splits)
    write_shard(records[:1], 11, tmp_path, splits)
    write_shard([], 12, tmp_path, splits)
    train = [record for record in records if int(hashlib.sha256(record).hexdigest(), 16) % 5 < 3]
    rest = [record for record in records if record not in train]
    assert 20 < len(train) < 40
    counts = name_shards(tmp_path, splits)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    written = {name: list(tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator()) for name, file in files.items()}
    # The one record of the other shard is a file more for its own split, and none, not an empty one, for the other.
    one, other = ("train", "eval") if records[0] in train else ("eval", "train")
    whole = {"train": train, "eval": rest}
    assert written == {
        f"Split-{one}/data_tfrecord-00000-of-00002.gz": whole[one],
        f"Split-{one}/data_tfrecord-00001-of-00002.gz": records[:1],
        f"Split-{other}/data_tfrecord-00000-of-00001.gz": whole[other],
    }
    assert counts == {one: 2, other: 1}
