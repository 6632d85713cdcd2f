"""The one place that chooses a tf.distribute strategy from its name in the configuration."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from components.errors import UsageError

StrategyName = Literal["none", "one_device", "mirrored"]


def make_strategy(name: StrategyName, replicas: int | None = None) -> Any:
    """Makes the strategy, or returns None for "none". Must run before any TensorFlow op.

    Args:
        name: "none" (plain Keras), "one_device" (the first GPU, else the CPU), or "mirrored" (all GPUs; without any, as many
            logical CPU devices as there are replicas, which proves the semantics but is not faster).
        replicas: For "mirrored"; None means every GPU, or two CPU devices.

    Raises:
        UsageError: More replicas than there are GPUs.

    Side effects:
        For "mirrored" without GPUs, splits the CPU into logical devices for the rest of the process.
    """
    if name == "none":
        return None
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    if gpus:
        if replicas is not None and replicas > len(gpus):
            raise UsageError(f"train.replicas: expected at most {len(gpus)}, the number of GPUs here, got {replicas}")
        return tf.distribute.MirroredStrategy([f"/gpu:{index}" for index in range(replicas or len(gpus))])
    count = replicas or 2
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(count)])


def scope(strategy: Any) -> AbstractContextManager[Any]:
    """The scope in which a model is built and compiled; nothing special for None."""
    return nullcontext() if strategy is None else strategy.scope()


def replicas_of(strategy: Any) -> int:
    """How many replicas train in step."""
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)
