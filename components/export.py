"""Export: a SavedModel that answers raw data, with the transform inside, and the answers it has to give.

Inputs: the training's weights, the transform graph, raw examples. Outputs: `model` (`Format-Serving/`, as TFX lays it out) and
`golden`:

    examples.tfrecord  held-out raw tf.Example records, uncompressed
    inputs.npz         the same examples as the dense signature takes them, one array a raw feature
    outputs.npz        what the model in memory, transform and Keras model called one after the other, answered

Two signatures: `serving_default` takes serialized tf.Example (string [None]), `dense` takes each raw feature as a tensor. Both
contain the transform graph that training used, so serving cannot skew; both hold inference weights only, no optimizer slots.
A raw feature of no fixed length is padded in `dense` at the end of its rows: NaN, the smallest int64, or the empty string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from components.dense_signature import as_features, dense_spec
from components.errors import TflineError
from components.examples import split_files
from components.golden_examples import read_records, write_golden
from components.layout import SERVING_DIR
from components.model import UserModel, make_inputs, named_outputs
from components.summary import Summary

INPUTS: Mapping[str, str] = {"model_run": "ModelRun", "transform_graph": "TransformGraph", "examples": "Examples"}
OUTPUTS: Mapping[str, str] = {"model": "Model", "golden": "GoldenExamples"}


class Config(BaseModel):
    """What to export.

    Attributes:
        golden_split: Split that the golden examples come from; one that training never saw.
        golden_examples: How many of them, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    golden_split: str = "eval"
    golden_examples: int = Field(default=64, ge=1, le=1000)


def export(
    model_run: Path,
    transform_graph: Path,
    examples: Path,
    model_dir: Path,
    golden_dir: Path,
    config: Config,
    user_model: UserModel,
) -> None:
    """Rebuilds the trained model, writes it as a SavedModel and records its answers.

    Args:
        model_run: The train stage's output, with `best.weights.h5`.
        transform_graph: TransformGraph artifact.
        examples: Raw Examples artifact.
        model_dir: Where the SavedModel folder is made.
        golden_dir: An existing folder for the golden examples.
        config: What to export.
        user_model: Configuration and code of the model.

    Raises:
        TflineError: There is no weights file, or the code builds another model than the one that was trained.
    """
    import tensorflow_transform as tft

    output = tft.TFTransformOutput(str(transform_graph))
    label = user_model.config.label
    model = user_model.build(make_inputs(output.transformed_feature_spec(), label))
    weights = model_run / "best.weights.h5"
    try:
        model.load_weights(str(weights))
    except (OSError, ValueError) as error:
        raise TflineError(f"the weights in {weights} do not fit the model that build_model makes: {error}") from error
    raw_spec = {name: feature for name, feature in output.raw_feature_spec().items() if name != label}
    transform = output.transform_features_layer()
    _write_saved_model(model, transform, raw_spec, model_dir / SERVING_DIR)
    _write_golden(model, transform, raw_spec, split_files(examples, config.golden_split), golden_dir, config)


def _write_saved_model(model: Any, transform: Any, raw_spec: Mapping[str, Any], folder: Path) -> None:
    import tensorflow as tf
    import tf_keras as keras

    # AutoGraph would rewrite the source of TFT, whose conditions are all Python's own: half the time of an export.
    transformed = tf.autograph.experimental.do_not_convert(transform)

    def answer(features: Mapping[str, Any]) -> dict[str, Any]:
        return named_outputs(model, model(transformed(features), training=False))

    archive = keras.export.ExportArchive()
    archive.track(model)
    # The Keras model is tracked by its variables, the transform by the SavedModel under it, with tables and assets: the layer
    # itself would be traced once more for a signature that nobody calls.
    archive.transform = tf.Module()
    archive.transform.loaded = transform._saved_model_loader_tracked_dict
    archive.add_endpoint(
        "serving_default",
        lambda examples: answer(tf.io.parse_example(examples, dict(raw_spec))),
        [tf.TensorSpec([None], tf.string, name="examples")],
    )
    archive.add_endpoint("dense", lambda inputs: answer(as_features(inputs, raw_spec)), [dense_spec(raw_spec)])
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive.write_out(str(folder))


def _write_golden(
    model: Any, transform: Any, raw_spec: Mapping[str, Any], files: list[str], folder: Path, config: Config
) -> None:
    import tensorflow as tf

    serialized = read_records(files, config.golden_examples, f"export.golden_split: '{config.golden_split}'")
    features = tf.io.parse_example(tf.constant(serialized), dict(raw_spec))
    answers = named_outputs(model, model(transform(dict(features)), training=False))
    write_golden(folder, serialized, features, answers)


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config, user_model: UserModel) -> None:
    """The stage as the pipeline calls it."""
    paths = inputs["model_run"], inputs["transform_graph"], inputs["examples"], outputs["model"], outputs["golden"]
    export(*paths, config, user_model)


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Sizes of what was written."""
    folder = Path(outputs["model"][0], SERVING_DIR)
    graph = (folder / "saved_model.pb").stat().st_size
    variables = sum(path.stat().st_size for path in (folder / "variables").glob("*"))
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Summary(
        headline=f"SavedModel of {total / 1000:,.0f} kB",
        metrics={"graph_bytes": graph, "variables_bytes": variables, "bytes": total},
        params={"path": str(folder)},
    )
