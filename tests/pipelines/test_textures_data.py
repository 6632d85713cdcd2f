"""The textures: seeded, and of a kind that no linear model of their pixels can tell, but convolutions can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.textures import data

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
EXAMPLES, TRAINED_ON = 800, 600


@pytest.fixture(scope="module")
def images() -> tuple[Array, Labels]:
    labels = np.arange(EXAMPLES, dtype=np.int64) % len(data.KINDS)
    drawn = [data.draw(int(label), np.random.default_rng([0, index])) for index, label in enumerate(labels)]
    return np.stack(drawn), labels


def accuracy(features: Array, labels: Labels) -> float:
    """Of a multinomial logistic regression on standardised features, on examples that it was not fitted to."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(features[:TRAINED_ON], labels[:TRAINED_ON])
    return float(model.score(features[TRAINED_ON:], labels[TRAINED_ON:]))


def convolved(images: Array) -> Array:
    """What is bright after each of 64 random 12x12 filters, averaged over places: a layer of convolutions, not even trained."""
    import tensorflow as tf

    # Of 3x3 tiles: finer ones would see mostly noise.
    tiles = np.random.default_rng(0).normal(size=(4, 4, 1, 64))
    filters = np.repeat(np.repeat(tiles - tiles.mean(axis=(0, 1)), 3, axis=0), 3, axis=1)
    outputs = [
        np.abs(tf.nn.conv2d(batch[..., np.newaxis].astype(np.float32), filters.astype(np.float32), 3, "VALID").numpy())
        for batch in np.split(images, 10)
    ]
    found = np.concatenate(outputs)
    found /= found.mean(axis=(0, 1, 2))
    return np.concatenate([np.maximum(found - threshold, 0).mean(axis=(1, 2)) for threshold in (0, 1, 2)], axis=1)


def test_needs_convolutions(images: tuple[Array, Labels]) -> None:
    pixels, labels = images
    chance = 1 / len(data.KINDS)
    assert accuracy(pixels.reshape(EXAMPLES, -1), labels) < 1.6 * chance
    assert accuracy(convolved(pixels), labels) > 4 * chance


def test_values(images: tuple[Array, Labels]) -> None:
    pixels, _ = images
    assert pixels.shape[1:] == (96, 96)
    assert set(np.unique(pixels)) == set(range(16))


def test_every_seed_has_its_own_images(tmp_path: Path) -> None:
    import tensorflow as tf

    def written(name: str, **arguments: int) -> list[bytes]:
        folder = tmp_path / name
        folder.mkdir()
        assert data.write(folder, examples=10, **arguments) == 10
        files = [str(path) for path in sorted(folder.iterdir())]
        return sorted(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())

    first = written("one", files=2, seed=3)
    assert written("again", files=3, seed=3) == first
    assert not set(written("other", files=2, seed=4)) & set(first)
    labels = [tf.train.Example.FromString(record).features.feature["label"].int64_list.value[0] for record in first]
    assert sorted(labels) == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7]
