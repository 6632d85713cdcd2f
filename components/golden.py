"""Golden: the answers that a model which trained itself (`run_fn`) has to give again when a server loads it.

Inputs: model, raw examples, schema. Output: `golden`, as `components.golden_examples` lays it out. The model in memory is gone by
now, so the answers are those of the SavedModel as this process loads it: what validate-model finds is a model that answers
otherwise in another process, alone or in a batch, not one that was saved wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.errors import TflineError
from components.examples import split_files
from components.golden_examples import padding, read_records, write_golden
from components.layout import SERVING_DIR, load_schema
from components.summary import Summary

INPUTS: Mapping[str, str] = {"model": "Model", "examples": "Examples", "schema": "Schema"}
OUTPUTS: Mapping[str, str] = {"golden": "GoldenExamples"}


class Config(BaseModel):
    """Which examples.

    Attributes:
        split: Split that the golden examples come from; one that training never saw.
        examples: How many of them, at most.
        label: Feature that no signature takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str = "eval"
    examples: int = Field(default=64, ge=1, le=1000)
    label: str = "label"


def golden(model: Path, examples: Path, schema: Path, folder: Path, config: Config) -> list[str]:
    """Asks every signature of a SavedModel that the examples can feed, and writes down what it answers.

    Args:
        model: Model artifact.
        examples: Raw Examples artifact.
        schema: Schema artifact, which says how the records are parsed.
        folder: Where the golden examples go; exists.
        config: Which examples.

    Returns:
        The signatures that were asked.

    Raises:
        TflineError: The model does not load, or a signature that can be fed fails.
    """
    import tensorflow as tf
    from tensorflow_transform.tf_metadata import schema_utils

    spec = schema_utils.schema_as_feature_spec(load_schema(schema)).feature_spec
    spec = {name: feature for name, feature in spec.items() if name != config.label}
    serialized = read_records(split_files(examples, config.split), config.examples, f"golden.split: '{config.split}'")
    features = tf.io.parse_example(tf.constant(serialized), spec)
    try:
        loaded = tf.saved_model.load(str(model / SERVING_DIR))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise TflineError(f"the SavedModel that run_fn wrote does not load: {error}") from error
    answers: dict[str, Any] = {}
    for name, signature in sorted(loaded.signatures.items()):
        feeds = _feeds(signature, serialized, features)
        if feeds is None:
            continue
        try:
            answered = signature(**feeds)
        except tf.errors.OpError as error:
            raise TflineError(
                f"signature {name!r} fails on {len(serialized)} examples of '{config.split}': {error.message}"
            ) from error
        answers |= {f"{name}/{key}": value for key, value in answered.items() if value.shape[:1] == [len(serialized)]}
    if not answers:
        raise TflineError(
            f"none of the signatures {sorted(loaded.signatures)} can be fed: expected one that takes serialized tf.Examples "
            f"(one string a row) or raw features by name ({', '.join(sorted(spec))})"
        )
    write_golden(folder, serialized, features, answers)
    return sorted({name.partition("/")[0] for name in answers})


def _feeds(signature: Any, serialized: Sequence[bytes], features: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a signature is called with: raw features where it takes those, the records where it takes one vector of strings."""
    import tensorflow as tf

    taken = signature.structured_input_signature[1]
    names = {key: spec.name or key for key, spec in taken.items()}
    if all(name in features for name in names.values()):
        found = {key: features[name] for key, name in names.items()}
        return {key: tf.sparse.to_dense(v, padding(v.dtype)) if isinstance(v, tf.SparseTensor) else v for key, v in found.items()}
    if [(spec.dtype, spec.shape.rank) for spec in taken.values()] == [(tf.string, 1)]:
        return dict.fromkeys(taken, tf.constant(serialized))
    return None


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> None:
    """The stage as the pipeline calls it."""
    golden(inputs["model"], inputs["examples"], inputs["schema"], outputs["golden"], config)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Which signatures answered how many examples."""
    import numpy as np

    with np.load(Path(outputs["golden"][0], "outputs.npz"), allow_pickle=False) as saved:
        rows = {name: len(saved[name]) for name in saved.files}
    signatures = sorted({name.partition("/")[0] for name in rows})
    return Summary(
        headline=f"{max(rows.values())} examples answered by {', '.join(signatures)}",
        metrics={"examples": float(max(rows.values()))},
        params={"signatures": ", ".join(signatures)},
    )
