"""Deals serialized records out to splits, and writes them: no record passes through Beam by itself.

TFX's own example gens send each through a shuffle (tfx/components/example_gen/write_split.py), which takes most of their time,
and which Beam's local runner keeps in memory as a whole.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

from components.layout import split_dir

_SHARD_BYTES = 8 << 20
"""Input of a shard, at least; less where a file ends. Training reads several shards at once."""


def group(files: Sequence[Path]) -> list[list[str]]:
    """Puts files together to shards, in their order; a file is never divided."""
    groups: list[list[str]] = []
    filled = _SHARD_BYTES
    for path in files:
        if filled >= _SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(str(path))
        filled += path.stat().st_size
    return groups


def write_shard(records: Iterable[bytes], number: int, examples: Path, splits: Mapping[str, int]) -> None:
    """Writes records to a gzip TFRecord file in the folder of each split that gets any, in their order.

    The split depends on the record alone, as in tfx/components/example_gen/base_example_gen_executor.py (_PartitionFn).

    Args:
        records: Serialized tf.Examples.
        number: Of the shard.
        examples: The Examples artifact; the splits' folders are there.
        splits: Name to share.
    """
    import tensorflow as tf

    names, bounds = list(splits), list(accumulate(splits.values()))
    writers: dict[int, Any] = {}
    with ExitStack() as stack:
        for record in records:
            place = bisect(bounds, int.from_bytes(hashlib.sha256(record).digest(), "big") % bounds[-1])
            if place not in writers:
                file = split_dir(examples, names[place]) / _part(f"{number:08d}")
                writers[place] = stack.enter_context(tf.io.TFRecordWriter(str(file), "GZIP"))
            writers[place].write(record)


def name_shards(examples: Path, splits: Iterable[str]) -> dict[str, int]:
    """Gives the files of each split the names that TFX gives them, in the order of their numbers.

    Returns:
        Files by split.
    """
    counts = {}
    for split in splits:
        parts = sorted(split_dir(examples, split).glob(_part("*")))
        for number, part in enumerate(parts):
            part.rename(part.with_name(f"data_tfrecord-{number:05d}-of-{len(parts):05d}.gz"))
        counts[split] = len(parts)
    return counts


def _part(number: str) -> str:
    return f".part-{number}.gz"
