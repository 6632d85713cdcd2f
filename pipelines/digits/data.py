"""Writes the handwritten digits that come with scikit-learn, 1,797 real 8x8 images of the UCI repository, as TFRecord."""

from __future__ import annotations

from pathlib import Path


def write(folder: Path, files: int = 2) -> int:
    """Writes one tf.Example an image: `image`, 64 floats from 0 to 16, row by row; `label`, one integer from 0 to 9.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998).

    Args:
        folder: An existing folder.
        files: How many files to spread the images over.

    Returns:
        The number of images.
    """
    import tensorflow as tf
    from sklearn.datasets import load_digits

    digits = load_digits()
    options = tf.io.TFRecordOptions(compression_type="GZIP")
    for number in range(files):
        name = folder / f"digits-{number:05d}-of-{files:05d}.tfrecord.gz"
        with tf.io.TFRecordWriter(str(name), options) as writer:
            for image, label in zip(digits.data[number::files], digits.target[number::files], strict=True):
                features = {
                    "image": tf.train.Feature(float_list=tf.train.FloatList(value=image)),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return len(digits.target)
