"""The input pipeline against a plain loop over the records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.errors import TflineError
from components.examples import batches, compression, records, split_files
from tests.components.small_line import example, write_records

COUNTS = (70, 45, 20)


@pytest.fixture(params=["data.tfrecord", "data.tfrecord.gz"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Three files of 70, 45 and 20 examples, numbered through, plain or gzip."""
    first, made = 0, []
    for place, count in enumerate(COUNTS):
        file = tmp_path / "Split-train" / f"{place}-{request.param}"
        made.append(str(write_records(file, [example(number) for number in range(first, first + count)])))
        first += count
    return made


def spec() -> Mapping[str, Any]:
    import tensorflow as tf

    return {
        "x": tf.io.FixedLenFeature([4], tf.float32),
        "group": tf.io.FixedLenFeature([], tf.string),
        "tags": tf.io.VarLenFeature(tf.int64),
        "label": tf.io.FixedLenFeature([1], tf.int64),
    }


def parsed(number: int) -> tuple[Any, ...]:
    """Example `number` as plain values: x, group, tags, label."""
    import tensorflow as tf

    features = tf.train.Example.FromString(example(number)).features.feature
    return (
        tuple(features["x"].float_list.value),
        features["group"].bytes_list.value[0],
        tuple(features["tags"].int64_list.value),
        features["label"].int64_list.value[0],
    )


def rows(dataset: Any) -> list[tuple[Any, ...]]:
    """The examples of a dataset of batches as plain values, in its order."""
    found: list[tuple[Any, ...]] = []
    for features, label in dataset:
        assert set(features) == {"x", "group", "tags"}, "the label is no feature"
        tags: list[list[int]] = [[] for _ in label]
        for (place, _), value in zip(features["tags"].indices.numpy(), features["tags"].values.numpy(), strict=True):
            tags[place].append(int(value))
        columns = features["x"].numpy().tolist(), features["group"].numpy(), tags, label.numpy()[:, 0].tolist()
        found += [(tuple(x), group, tuple(tag), truth) for x, group, tag, truth in zip(*columns, strict=True)]
    return found


def test_values_are_those_of_a_plain_loop(files: list[str]) -> None:
    found = rows(batches(files, spec(), label="label", batch_size=32))
    assert sorted(found) == sorted(parsed(number) for number in range(sum(COUNTS)))
    assert found == rows(batches(files, spec(), label="label", batch_size=7)), "the order is fixed, whatever the batches"


def test_one_file_keeps_its_order(files: list[str]) -> None:
    found = rows(batches(files[:1], spec(), label="label", batch_size=32))
    assert found == [parsed(number) for number in range(70)]


def test_sizes_and_types_of_batches(files: list[str]) -> None:
    found = list(batches(files, spec(), label="label", batch_size=32))
    assert [len(label) for _, label in found] == [32, 32, 32, 32, 7]
    features, label = found[0]
    assert (features["x"].dtype.name, features["x"].shape.as_list()) == ("float32", [32, 4])
    assert (label.dtype.name, label.shape.as_list()) == ("int64", [32, 1])


def test_shuffle_is_a_permutation_that_the_seed_decides(files: list[str]) -> None:
    def order(seed: int, buffer: int = 1000) -> list[tuple[Any, ...]]:
        return rows(batches(files, spec(), label="label", batch_size=32, shuffle_buffer=buffer, seed=seed))

    plain = rows(batches(files, spec(), label="label", batch_size=32))
    first = order(seed=1)
    assert first != plain
    assert sorted(first) == sorted(plain)
    assert order(seed=1) == first
    assert order(seed=2) != first
    assert sorted(order(seed=1, buffer=5)) == sorted(plain), "a buffer that is smaller than the data loses nothing"


@pytest.mark.parametrize("count", [1, 3])
def test_every_epoch_has_an_order_of_its_own(count: int, files: list[str]) -> None:
    dataset = batches(files[:count], spec(), label="label", batch_size=32, shuffle_buffer=1000, seed=1)
    first, second = rows(dataset), rows(dataset)
    assert first != second
    assert sorted(first) == sorted(second)


def test_shuffling_mixes_the_files(files: list[str]) -> None:
    found = rows(batches(files, spec(), label="label", batch_size=32, shuffle_buffer=1000, seed=1))
    numbers = {parsed(number): number for number in range(sum(COUNTS))}
    assert len({0 if numbers[row] < 70 else 1 if numbers[row] < 115 else 2 for row in found[:32]}) == 3


def test_records_in_the_order_of_the_files(files: list[str]) -> None:
    assert list(records(files).as_numpy_iterator()) == [example(number) for number in range(sum(COUNTS))]


def test_compression_is_told_by_content(tmp_path: Path) -> None:
    plain, packed = write_records(tmp_path / "a", [example(0)]), write_records(tmp_path / "b.gz", [example(0)])
    renamed = packed.rename(tmp_path / "b")
    assert [compression(str(file)) for file in (plain, renamed)] == ["", "GZIP"]
    assert list(records([str(renamed)]).as_numpy_iterator()) == [example(0)]


def test_files_of_a_split(files: list[str]) -> None:
    artifact = Path(files[0]).parents[1]
    assert split_files(artifact, "train") == files
    (artifact / "Split-eval").mkdir()
    for split in ("eval", "test"):
        with pytest.raises(TflineError) as caught:
            split_files(artifact, split)
        assert str(caught.value) == f"no examples of split '{split}' in {artifact}; splits there: eval, train"


def test_artifact_without_splits(tmp_path: Path) -> None:
    with pytest.raises(TflineError) as caught:
        split_files(tmp_path, "train")
    assert str(caught.value) == f"no examples of split 'train' in {tmp_path}; splits there: none"
