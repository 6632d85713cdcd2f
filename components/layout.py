"""Where TFX's artifacts keep their files, as TFX 1.21 lays them out (tfx/utils/path_utils.py, tfx/types/artifact_utils.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SERVING_DIR = "Format-Serving"
"""The SavedModel's folder in a Model artifact."""

SCHEMA_FILE = "schema.pbtxt"
"""The file in a Schema artifact."""

WARMUP_FILE = "warmup/tf_serving_warmup_requests"
"""The warm-up requests in an InfraBlessing artifact of ours; missing when there are none."""

HOST_DIR = "host_transform"
"""The transform that the host applies, in a TFLiteModel artifact of ours; missing where it is inside of the model."""

STATISTICS_FILE = "FeatureStats.pb"
"""The file in each split of an ExampleStatistics artifact."""


def split_names(artifact: Path) -> list[str]:
    """The splits of an artifact, sorted."""
    return sorted(path.name.removeprefix("Split-") for path in artifact.glob("Split-*"))


def split_dir(artifact: Path, split: str) -> Path:
    """The folder of a split; it need not exist."""
    return artifact / f"Split-{split}"


def load_statistics(artifact: Path) -> dict[str, Any]:
    """Reads an ExampleStatistics artifact: split name to DatasetFeatureStatisticsList proto."""
    import tensorflow_data_validation as tfdv

    return {split: tfdv.load_stats_binary(str(split_dir(artifact, split) / STATISTICS_FILE)) for split in split_names(artifact)}


def load_schema(artifact: Path) -> Any:
    """Reads a Schema artifact: a tensorflow_metadata Schema proto."""
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    return text_format.Parse((artifact / SCHEMA_FILE).read_text(encoding="utf-8"), schema_pb2.Schema())
