"""Our input pipeline against TFX's own, and our training against a plain Keras loop on arrays in memory.

python -m benchmarks.input [RUNS]

The two sides of each comparison take turns in one process; a first turn of each is not counted.

- Reading: `components.examples.batches` against `DataAccessor.tf_dataset_factory`, which TFX's Trainer hands to a run_fn. Both
  read the same gzip TFRecord files of tf.Example, shuffled with a buffer of 10,000, and parse the same features: 64 floats in one
  feature, and the same numbers as 64 features of one float, which is what a CSV file with 64 columns becomes.
- Fitting: `components.train.train` with the net of pipelines/digits, with all that it does between epochs, against
  `model.fit` on NumPy arrays with the same net, data, batch size, number of epochs and validation.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from components.code import bundle
from components.model import ModelConfig, UserModel, make_inputs
from components.train import Config, train

Array = npt.NDArray[Any]

_READ_TARGET, _FIT_TARGET = 5.0, 1.05
_PIXELS = 64
_READ_FILES, _READ_BATCH = 2, 256
# By layout: examples in the files, and passes over them; a turn takes some seconds.
_READ_SIZES = {"one feature of 64 floats": (100_000, 6), "64 features of one float": (20_000, 3)}
_FIT_EXAMPLES, _FIT_VALIDATION, _FIT_BATCH, _FIT_EPOCHS = 20_000, 2_000, 32, 5
_LABEL = "label"


def main(runs: int = 5) -> int:
    """Measures and prints both tables; returns 1 when a ratio of medians misses its target."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with tempfile.TemporaryDirectory(prefix="tfline-input-") as temporary:
        speedup = _compare_reading(Path(temporary), runs)
        slowdown = _compare_fitting(Path(temporary), runs)
    return int(speedup < _READ_TARGET or slowdown > _FIT_TARGET)


def _compare_reading(folder: Path, runs: int) -> float:
    """Prints examples a second of both sides; returns how many times ours is faster on the layout that our pipelines have."""
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(runs + 1):
        for layout, (count, passes) in _READ_SIZES.items():
            spec, files = _spec(vector=layout.startswith("one")), folder / layout
            if not files.exists():
                _write(files, *_images(count, seed=0), files=_READ_FILES, vector=layout.startswith("one"))
            for side, reader in (("tfline", _ours), ("TFX", _theirs)):
                rate = _rate(partial(reader, files, spec), count, passes)
                if turn:
                    rates.setdefault((layout, side), []).append(rate)
    title = f"Reading, batches of {_READ_BATCH}, {runs} turns"
    table = Table("layout", "input pipeline", "examples/s", "from", "to", "tfline is faster", title=title)
    for (layout, side), found in rates.items():
        ours, median = statistics.median(rates[layout, "tfline"]), statistics.median(found)
        table.add_row(
            layout, side, *(f"{value:,.0f}" for value in (median, min(found), max(found))), f"{ours / median:.2f} times"
        )
    Console(width=110).print(table)
    first = next(iter(_READ_SIZES))
    return statistics.median(rates[first, "tfline"]) / statistics.median(rates[first, "TFX"])


def _rate(reader: Callable[[], Iterable[Any]], count: int, passes: int) -> float:
    """Examples a second over some whole passes; every batch is taken, nothing is done with it."""
    began, read = time.perf_counter(), 0
    for _ in range(passes):
        for _, label in reader():
            read += int(label.shape[0])
    seconds = time.perf_counter() - began
    if read != passes * count:
        raise SystemExit(f"expected {passes * count} examples, read {read}")
    return read / seconds


def _ours(folder: Path, spec: dict[str, Any]) -> Any:
    from components.examples import batches

    files = sorted(map(str, folder.iterdir()))
    return batches(files, spec, label=_LABEL, batch_size=_READ_BATCH, shuffle_buffer=10_000, seed=0)


def _theirs(folder: Path, spec: dict[str, Any]) -> Any:
    from tensorflow_transform.tf_metadata import schema_utils
    from tfx.components.util import tfxio_utils
    from tfx.types import standard_artifacts
    from tfx_bsl.public import tfxio

    factory = tfxio_utils.get_tf_dataset_factory_from_artifact([standard_artifacts.Examples()], ["benchmark"])
    options = tfxio.TensorFlowDatasetOptions(batch_size=_READ_BATCH, num_epochs=1, shuffle_seed=0, label_key=_LABEL)
    return factory([str(folder / "*")], options, schema_utils.schema_from_feature_spec(spec))


def _compare_fitting(folder: Path, runs: int) -> float:
    """Prints the seconds of both sides; returns ours divided by theirs."""
    import tensorflow_transform as tft
    import tf_keras as keras
    from tensorflow_transform.tf_metadata import metadata_io

    splits = {"train": _images(_FIT_EXAMPLES, seed=1), "validation": _images(_FIT_VALIDATION, seed=2)}
    for name, (images, labels) in splits.items():
        _write(folder / "examples" / f"Split-{name}", images, labels, files=1, vector=True)
    spec = _spec(vector=True)
    metadata_io.write_metadata(tft.DatasetMetadata.from_feature_spec(spec), str(folder / "graph" / "transformed_metadata"))
    user_model = UserModel(config=ModelConfig(label=_LABEL), code=bundle(Path("pipelines/digits/model.py")))
    config = Config(
        batch_size=_FIT_BATCH, epochs=_FIT_EPOCHS, validation_split="validation", early_stopping=None, strategy="none", seed=7
    )

    def ours(turn: int) -> None:
        run_dir = folder / f"run-{turn}"
        run_dir.mkdir()
        report = train(folder / "examples", folder / "graph", run_dir, config, user_model)
        if report.epochs != _FIT_EPOCHS:
            raise SystemExit(f"expected {_FIT_EPOCHS} epochs, trained {report.epochs}")

    def theirs(_: int) -> None:
        keras.utils.set_random_seed(config.seed)
        model = user_model.build(make_inputs(spec, _LABEL))
        images, labels = splits["train"]
        model.fit(
            {"image": images},
            labels,
            batch_size=_FIT_BATCH,
            epochs=_FIT_EPOCHS,
            validation_data=({"image": splits["validation"][0]}, splits["validation"][1]),
            validation_batch_size=_FIT_BATCH,
            verbose=0,
        )

    took: dict[str, list[float]] = {"components.train.train on TFRecord": [], "model.fit on NumPy arrays": []}
    for turn in range(runs + 1):
        for name, fit in zip(took, (ours, theirs), strict=True):
            keras.backend.clear_session()
            began = time.perf_counter()
            fit(turn)
            if turn:
                took[name].append(time.perf_counter() - began)
    mine, plain = (statistics.median(seconds) for seconds in took.values())
    title = f"Fitting {_FIT_EXAMPLES:,} examples, {_FIT_EPOCHS} epochs, batches of {_FIT_BATCH}, {runs} turns"
    table = Table("training", "median s", "from", "to", "ratio", title=title)
    for name, seconds in took.items():
        median = statistics.median(seconds)
        table.add_row(name, *(f"{value:.2f}" for value in (median, min(seconds), max(seconds))), f"{median / plain:.3f}")
    Console(width=110).print(table)
    return mine / plain


def _spec(*, vector: bool) -> dict[str, Any]:
    """The parsing spec of the files that `_write` makes."""
    import tensorflow as tf

    pixels = {"image": [_PIXELS]} if vector else {f"p{index:02d}": [1] for index in range(_PIXELS)}
    features = {name: tf.io.FixedLenFeature(shape, tf.float32) for name, shape in pixels.items()}
    return {**features, _LABEL: tf.io.FixedLenFeature([1], tf.int64)}


def _images(count: int, seed: int) -> tuple[Array, Array]:
    """Digits drawn with replacement, with a little noise, so that they compress as measured values do.

    Returns:
        float32 [count, 64], about 0 to 1; int64 [count, 1].
    """
    from sklearn.datasets import load_digits

    digits, generator = load_digits(), np.random.default_rng(seed)
    chosen = generator.integers(len(digits.target), size=count)
    noise = generator.normal(scale=0.02, size=(count, _PIXELS))
    return (digits.data[chosen] / 16 + noise).astype(np.float32), digits.target[chosen].astype(np.int64)[:, np.newaxis]


def _write(folder: Path, images: Array, labels: Array, *, files: int, vector: bool) -> None:
    """Writes gzip TFRecord files under the names that TFX gives them."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for number in range(files):
        name = folder / f"data_tfrecord-{number:05d}-of-{files:05d}.gz"
        with tf.io.TFRecordWriter(str(name), options) as writer:
            for image, label in zip(images[number::files], labels[number::files], strict=True):
                pixels = {"image": image} if vector else {f"p{index:02d}": image[index : index + 1] for index in range(_PIXELS)}
                features = {key: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for key, value in pixels.items()}
                features[_LABEL] = tf.train.Feature(int64_list=tf.train.Int64List(value=label))
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
