"""Writes synthetic textures, 96x96 grey images of eight kinds that differ in their local structure only, as TFRecord.

Every image is turned by any angle, shifted by any phase, scaled, of either sign of contrast, of any gain, and noisy. So any pixel
is as likely bright as dark in each kind: the mean image of every kind is flat, and no weighted sum of pixels tells one kind from
another. What does is how neighbouring pixels go together, which is what convolutions see.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SIDE = 96
KINDS = ("blobs", "checks", "cross_hatch", "dashes", "grain", "rings", "stripes", "waves")
"""The labels, by their numbers."""

_LEVELS = 15
"""The brightest pixel; 0 is the darkest. Few levels compress well, and as many as the noise leaves to see."""

_WAVELENGTHS = (7.0, 11.0)
"""Of the pattern, in pixels, from and to."""

_NOISE = (0.7, 2.1)
"""Standard deviation of the noise of a pixel, from and to; that of the pattern is 1."""


def write(folder: Path, examples: int = 5000, files: int = 4, seed: int = 0) -> int:
    """Writes one tf.Example an image: `image`, 9,216 floats, whole numbers from 0 to 15, row by row; `label`, 0 to 7 (`KINDS`).

    Args:
        folder: An existing folder.
        examples: How many; each kind has the same number, up to one.
        files: How many files to spread them over.
        seed: Other seeds give other images; the same seed and numbers give the same images.

    Returns:
        The number of images.
    """
    import tensorflow as tf

    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for number in range(files):
        name = folder / f"textures-{number:05d}-of-{files:05d}.tfrecord.gz"
        with tf.io.TFRecordWriter(str(name), options) as writer:
            for index in range(number, examples, files):
                label = index % len(KINDS)
                pixels = draw(label, np.random.default_rng([seed, index]))
                features = {
                    "image": tf.train.Feature(float_list=tf.train.FloatList(value=pixels.ravel())),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return examples


def draw(label: int, random: np.random.Generator) -> Floats:
    """One image of a kind, [96, 96], row by row."""
    pattern = _PATTERNS[KINDS[label]](random)
    pattern = (pattern - pattern.mean()) / pattern.std()
    noise = random.uniform(*_NOISE)
    # Either sign: bright on dark is as likely as dark on bright.
    signal = random.choice((-1.0, 1.0)) * pattern + random.normal(0, noise, pattern.shape)
    bright = _LEVELS / 2 + random.normal(0, 0.5) + random.uniform(2.0, 4.0) * signal / np.hypot(1, noise)
    return np.asarray(np.clip(np.rint(bright), 0, _LEVELS))


def _turned(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Coordinates along and across a random direction, from a random origin, in cycles of a random wavelength times 2 pi."""
    angle, scale = random.uniform(0, np.pi), 2 * np.pi / random.uniform(*_WAVELENGTHS)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    phases = random.uniform(0, 2 * np.pi, 2)
    along = scale * (np.cos(angle) * columns + np.sin(angle) * rows) + phases[0]
    across = scale * (np.cos(angle) * rows - np.sin(angle) * columns) + phases[1]
    return along, across


def _ring(random: np.random.Generator, width: float) -> Floats:
    """Noise of one wavelength and no direction: white noise through a ring of frequencies of a relative width."""
    rows, columns = np.fft.fftfreq(SIDE)[:, np.newaxis], np.fft.rfftfreq(SIDE)
    centre = 1 / random.uniform(*_WAVELENGTHS)
    gain = np.exp(-((np.hypot(rows, columns) / centre - 1) ** 2) / (2 * width**2))
    return np.fft.irfft2(gain * np.fft.rfft2(random.normal(size=(SIDE, SIDE))), s=(SIDE, SIDE))


def _blobs(random: np.random.Generator) -> Floats:
    return _ring(random, 0.15)


def _checks(random: np.random.Generator) -> Floats:
    along, across = _turned(random)
    return np.asarray(np.sign(np.sin(along) * np.sin(across)))


def _cross_hatch(random: np.random.Generator) -> Floats:
    along, across = _turned(random)
    return np.asarray(np.maximum(np.cos(along), np.cos(across)))


def _dashes(random: np.random.Generator) -> Floats:
    along, across = _turned(random)
    return np.asarray(np.cos(along) * (0.5 + 0.5 * np.tanh(3 * np.sin(across / 2.5))))


def _grain(random: np.random.Generator) -> Floats:
    return _ring(random, 0.6)


def _rings(random: np.random.Generator) -> Floats:
    along, across = _turned(random)
    # The distance from the nearest point of a square lattice, three wavelengths wide.
    wide = 6 * np.pi
    return np.asarray(np.cos(np.hypot(along % wide - wide / 2, across % wide - wide / 2)))


def _stripes(random: np.random.Generator) -> Floats:
    along, _ = _turned(random)
    return np.asarray(np.cos(along))


def _waves(random: np.random.Generator) -> Floats:
    along, across = _turned(random)
    return np.asarray(np.cos(along + 1.2 * np.sin(across / 2.5)))


_PATTERNS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "blobs": _blobs,
    "checks": _checks,
    "cross_hatch": _cross_hatch,
    "dashes": _dashes,
    "grain": _grain,
    "rings": _rings,
    "stripes": _stripes,
    "waves": _waves,
}
