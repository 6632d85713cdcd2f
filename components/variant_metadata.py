"""What is written into each .tflite for its callers: names, quantization, labels, and what it was made from."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from components.errors import TflineError
from components.variant_config import Config, Variant
from serving.store import tree_digest
from serving.tflite_graph import signature_of
from serving.tflite_metadata import TFLiteMetadata, Transform, write_metadata


def with_metadata(
    content: bytes, variant: Variant, config: Config, *, output: str, saved_model: Path, transform_graph: Path | None
) -> bytes:
    """Puts metadata into a .tflite; read again by `serving.tflite_metadata.read_metadata`.

    Args:
        content: The .tflite.
        variant: Which one it is.
        config: With the model's name, the signature and the labels.
        output: The output that the labels are of.
        saved_model: What all variants were made from, also those that were trained on.
        transform_graph: The TransformGraph artifact whose graph is inside; None for a model without.

    Raises:
        TflineError: There are not as many labels as the output has values.
        serving.tflite_file.TFLiteFileError: The .tflite is damaged.
    """
    signature = signature_of(content, config.signature)
    try:
        metadata = TFLiteMetadata(
            model_name=config.model,
            saved_model_digest=tree_digest(saved_model),
            variant=variant.title,
            signature=config.signature,
            inputs=signature.inputs,
            outputs=signature.outputs,
            labels=config.labels,
            labels_of=output if config.labels else None,
            # The examples' features go in as they are: `tflite_prepare` feeds them, and the transform is part of the graph.
            features="raw",
            transform=Transform(digest=tree_digest(transform_graph)) if transform_graph else None,
        )
    except ValidationError as error:
        raise TflineError(f"optimize.labels: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    return write_metadata(content, metadata)
