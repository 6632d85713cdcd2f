from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import TflineError
from components.variants import preparation
from components.variants.evaluation import Edge
from tests.components.tiny_net import TRAIN, Array, Tiny, write_split


def prepare(tiny: Tiny, examples: Path, folder: Path, **changes: Any) -> preparation.Prepared:
    """The subprocess's function, called here: its errors need no process of their own to be seen."""
    arguments: dict[str, Any] = {
        "signature": "dense",
        "output": None,
        "label": "digit",
        "train_split": "train",
        "eval_split": "eval",
        "slices": [],
        "batch": 1,
        "representative_examples": 50,
        "seed": 0,
        "batch_size": 64,
        "apart": False,
    } | changes
    folder.mkdir(exist_ok=True)
    saved = str(tiny.inputs["model"] / "Format-Serving")
    return preparation.Prepared.model_validate(
        preparation.prepare(saved_model_dir=saved, examples_dir=str(examples), folder=str(folder), **arguments)
    )


@pytest.mark.slow
def test_the_representative_examples_come_from_the_whole_training_split(tiny: Tiny, tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> set[int]:
        prepare(tiny, tiny.inputs["examples"], tmp_path / name, seed=seed)
        with np.load(tmp_path / name / "representative.npz", allow_pickle=False) as saved:
            rows = {image.tobytes() for image in saved["image"]}
        return {index for index, image in enumerate(tiny.images) if image.tobytes() in rows}

    first, again, other = drawn("a", 1), drawn("b", 1), drawn("c", 2)
    assert len(first) == 50
    assert max(first) < TRAIN, "never from the eval split"
    assert [sum(low <= index < low + 449 for index in first) >= 8 for low in (0, 449, 898)] == [True] * 3
    assert first == again
    assert first != other


def split_of(tiny: Tiny, folder: Path, split: str, image: Array | None = None, digit: Array | None = None) -> Path:
    """The examples with one split replaced by a small one."""
    folder.mkdir()
    for name in {"train", "eval"} - {split}:
        (folder / f"Split-{name}").symlink_to(tiny.inputs["examples"] / f"Split-{name}")
    columns = {"image": tiny.images[:20] if image is None else image, "digit": tiny.digits[:20] if digit is None else digit}
    write_split(folder, split, columns)
    return folder


def broken(tiny: Tiny, tmp_path: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """What the message has to say, the examples that are wrong, the settings that are."""
    nan = tiny.images[:20].copy()
    nan[3, 7] = np.nan
    nothing: Array = np.zeros((0, 64), np.float32)
    examples = tiny.inputs["examples"]
    yield (
        r"feature 'image' of the train split has 1 values that are NaN or infinite: no calibration",
        split_of(tiny, tmp_path / "1", "train", nan),
        {},
    )
    yield r"'image' of the eval split has 1 values that are NaN .* no evaluation", split_of(tiny, tmp_path / "2", "eval", nan), {}
    yield r"the eval split is empty: 2 files", split_of(tiny, tmp_path / "3", "eval", nothing, tiny.digits[:0]), {}
    yield r"the train split is empty: 2 files", split_of(tiny, tmp_path / "4", "train", nothing, tiny.digits[:0]), {}
    yield (
        r"feature 'image' of the eval split is a int64_list; the signature needs a float_list",
        split_of(tiny, tmp_path / "5", "eval", tiny.images[:20].astype(np.int64)),
        {},
    )
    yield (
        r"feature 'image' of the train split has 60 values; the signature needs 64",
        split_of(tiny, tmp_path / "6", "train", tiny.images[:20, :60]),
        {},
    )
    yield r"no signature 'deep'; it has \['dense', 'serving_default'\]", examples, {"signature": "deep"}
    yield r"no output 'logits'; it has \['probabilities'\]", examples, {"output": "logits"}
    yield r"the label 'number' of the eval split is a missing feature", examples, {"label": "number"}
    yield r"the label 'image' is an input", examples, {"label": "image"}
    yield r"the test split has no files .* splits there: \['eval', 'train'\]", examples, {"eval_split": "test"}
    yield r"slices: \['image'\] have more than 1000 values; slice by features with few", examples, {"slices": [["image"]] * 1}


@pytest.mark.slow
def test_what_cannot_be_judged_is_an_error_that_says_why(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_MOST_SLICES", 10)
    seen = 0
    for message, examples, changes in broken(tiny, tmp_path):
        with pytest.raises(TflineError, match=message.replace("1000", "10")):
            prepare(tiny, examples, tmp_path / "work", **changes)
        seen += 1
    assert seen == 12


@pytest.mark.slow
def test_an_example_is_in_the_slice_of_each_of_its_values_and_in_none_of_what_it_lacks() -> None:
    import tensorflow as tf

    def example(**features: Any) -> bytes:
        made = {
            key: tf.train.Feature(int64_list=tf.train.Int64List(value=value))
            if isinstance(value[0], int)
            else tf.train.Feature(float_list=tf.train.FloatList(value=value))
            if isinstance(value[0], float)
            else tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
            for key, value in features.items()
        }
        return bytes(tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString())

    slicer = preparation._Slicer([["zone"], ["tip", "zone"]])
    found = slicer([example(zone=[3, 4], tip=[0.1]), example(tip=[0.5]), example(zone=[3], tip=["é".encode()])])
    by_row: dict[int, set[str]] = {}
    names = {index: name for name, index in slicer.names.items()}
    for row, index in zip(found["slice_rows"], found["slice_ids"], strict=True):
        by_row.setdefault(int(row), set()).add(names[int(index)])
    assert by_row == {0: {"zone:3", "zone:4", "tip:0.1,zone:3", "tip:0.1,zone:4"}, 2: {"zone:3", "tip:é,zone:3"}}
    assert preparation.slice_name({"zone": "3", "tip": "0.1"}) == "tip:0.1,zone:3"


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    scale=st.floats(1e-4, 10),
    zero_point=st.integers(-128, 127),
)
def test_quantizing_is_within_half_a_step_inside_the_range_and_clips_outside(
    values: list[float], scale: float, zero_point: int
) -> None:
    edge = Edge(name="x", shape=(1,), dtype="int8", scale=scale, zero_point=zero_point)
    stored = edge.stored(np.array(values))
    assert stored.dtype == np.int8
    low, high = edge.real(np.array([-128, 127], np.int8))
    for value, back in zip(values, edge.real(stored), strict=True):
        assert abs(back - min(max(value, low), high)) <= scale / 2 * (1 + 1e-9)


@given(sizes=st.lists(st.integers(1, 40), max_size=6), count=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_the_draw_is_without_replacement_and_depends_on_the_seed_alone(sizes: list[int], count: int, seed: int) -> None:
    records = [str(index).encode() for index in range(sum(sizes))]
    edges = np.cumsum([0, *sizes])
    batches = [records[start:stop] for start, stop in pairwise(edges)]
    pool = preparation._draw(iter(batches), count, seed)
    assert len(pool) == len(set(pool)) == min(count, len(records))
    assert set(pool) <= set(records)
    assert pool == preparation._draw(iter(batches), count, seed)


def test_every_record_is_drawn_equally_often() -> None:
    records = [[bytes([index]) for index in range(start, start + 10)] for start in (0, 10, 20, 30)]
    tally = Counter(record for seed in range(2000) for record in preparation._draw(iter(records), 10, seed))
    # 2000 draws with chance 1/4: 500 expected, standard deviation 19.4; the bounds are at 4.6 of it.
    assert len(tally) == 40
    assert all(410 <= count <= 590 for count in tally.values())
