"""Reads tf.Example files: the one input pipeline for training, and small samples for the stages that compare models.

Records leave the reader in blocks, and are shuffled and parsed in blocks: each step of tf.data costs microseconds a record when
it handles them one by one, as TFX's own DataAccessor.tf_dataset_factory does, which is several times slower
(benchmarks/input.py measures it).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import TflineError
from components.layout import split_dir, split_names

# Large enough that the cost of a step does not show; two files' blocks alternate, so it is also how finely they are mixed.
_BLOCK = 512


def split_files(examples: Path, split: str) -> list[str]:
    """The files of a split of an Examples artifact, sorted.

    Raises:
        TflineError: The artifact has no such split, or the split has no file.
    """
    files = sorted(str(path) for path in split_dir(examples, split).glob("*") if path.is_file())
    if not files:
        present = ", ".join(split_names(examples)) or "none"
        raise TflineError(f"no examples of split '{split}' in {examples}; splits there: {present}")
    return files


def compression(file: str) -> str:
    """TFRecord compression of a file as tf.data names it: "GZIP" by its magic bytes (RFC 1952), else ""."""
    with Path(file).open("rb") as opened:
        return "GZIP" if opened.read(2) == b"\x1f\x8b" else ""


def records(files: list[str]) -> Any:
    """A tf.data.Dataset of the serialized examples of some files, in file order."""
    import tensorflow as tf

    return tf.data.TFRecordDataset(files, compression_type=compression(files[0]))


def batches(
    files: list[str],
    feature_spec: Mapping[str, Any],
    *,
    label: str,
    batch_size: int,
    shuffle_buffer: int = 0,
    seed: int | None = None,
) -> Any:
    """The dataset a model is trained or evaluated on.

    Args:
        files: TFRecord files of tf.Example, all with the same compression.
        feature_spec: tf.io parsing spec of every feature, label included.
        label: Key of the label.
        batch_size: Examples a batch, over all replicas; the last batch may be smaller.
        shuffle_buffer: So many serialized examples at a time are put into random order, anew each epoch; 0 keeps the order.
        seed: For the order.

    Returns:
        A tf.data.Dataset of (features by name without the label, label), batched and prefetched.
    """
    import tensorflow as tf

    kind = compression(files[0])
    dataset = tf.data.Dataset.from_tensor_slices(files)
    if shuffle_buffer:
        dataset = dataset.shuffle(len(files), seed=seed)
    # Two files at a time keep both the disk and a second core busy; deterministic, so that a seed means something.
    dataset = dataset.interleave(
        lambda name: tf.data.TFRecordDataset(name, compression_type=kind).batch(_BLOCK),
        cycle_length=2,
        num_parallel_calls=2,
        deterministic=True,
    )
    if shuffle_buffer:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        dataset = tf.data.Dataset.zip((dataset.rebatch(shuffle_buffer), seeds)).map(
            lambda records, key: tf.random.experimental.stateless_shuffle(records, seed=key)
        )

    def parse(serialized: Any) -> tuple[dict[str, Any], Any]:
        features = tf.io.parse_example(serialized, dict(feature_spec))
        return features, features.pop(label)

    return dataset.rebatch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
