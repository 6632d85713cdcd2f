"""Schema: what the data has to look like: the curated schema of the pipeline's folder, or one inferred from the training data.

Input: statistics. Output: `schema`, schema.pbtxt. The curated text travels in the configuration, so a changed line is a changed
cache key and nothing is read from a folder that a cluster would not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.errors import TflineError, UsageError
from components.layout import SCHEMA_FILE, STATISTICS_FILE, split_dir
from components.records import write_atomically
from components.summary import Summary

INPUTS: Mapping[str, str] = {"statistics": "ExampleStatistics"}
OUTPUTS: Mapping[str, str] = {"schema": "Schema"}


# TFX wants one file in a Schema artifact, so the file itself says where it came from.
CURATED, INFERRED = "# curated", "# inferred by tfline, not reviewed"


class Config(BaseModel):
    """Where the schema comes from.

    Attributes:
        curated: A schema as text proto (tensorflow_metadata.proto.v0.Schema); "" infers one.
        infer_shapes: When inferring: a feature that always has the same number of values gets that fixed shape.
        split: When inferring: from which split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    curated: str = ""
    infer_shapes: bool = True
    split: str = "train"


def parse(text: str, origin: str) -> Any:
    """Parses a schema's text.

    Raises:
        UsageError: It is no schema; the message names `origin` and the line.
    """
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    try:
        return text_format.Parse(text, schema_pb2.Schema())
    except text_format.ParseError as error:
        raise UsageError(f"{origin}: expected a tensorflow_metadata Schema as text: {error}") from None


def make_schema(statistics: Path, schema_dir: Path, config: Config) -> None:
    """Writes the curated schema, or one inferred from the statistics of a split.

    Raises:
        TflineError: There are no statistics of the split.
    """
    import tensorflow_data_validation as tfdv
    from google.protobuf import text_format

    if config.curated:
        schema = parse(config.curated, SCHEMA_FILE)
    else:
        stats = split_dir(statistics, config.split) / STATISTICS_FILE
        if not stats.is_file():
            raise TflineError(f"schema: no statistics of split '{config.split}' to infer a schema from in {statistics}")
        schema = tfdv.infer_schema(tfdv.load_stats_binary(str(stats)), infer_feature_shape=config.infer_shapes)
    origin = CURATED if config.curated else INFERRED
    write_atomically(schema_dir / SCHEMA_FILE, f"{origin}\n{text_format.MessageToString(schema)}")


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> None:
    """The stage as the pipeline calls it."""
    make_schema(inputs["statistics"], outputs["schema"], config)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Where the schema came from and how many features it has."""
    file = Path(outputs["schema"][0], SCHEMA_FILE)
    text = file.read_text(encoding="utf-8")
    origin = "curated" if text.startswith(CURATED) else "inferred"
    features = sum(line.startswith("feature {") for line in text.splitlines())
    review = "" if origin == "curated" else ", not reviewed yet"
    return Summary(headline=f"{origin}, {features} features{review}", params={"origin": origin, "file": str(file)})
