"""What is written into each .tflite for its callers: names, quantization, labels, and what it was made from."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import TflineError
from components.layout import HOST_DIR
from components.variants.config import Config, Variant
from serving.store import tree_digest
from serving.tflite_graph import signature_of
from serving.tflite_metadata import TensorInfo, TFLiteMetadata, Transform, write_metadata


class Apart(BaseModel):
    """A transform that is not inside of the .tflite.

    Attributes:
        reason: Why not.
        raw_inputs: What it takes.
        digest: SHA-256 of its folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    raw_inputs: tuple[TensorInfo, ...]
    digest: str


def with_metadata(
    content: bytes,
    variant: Variant,
    config: Config,
    *,
    output: str,
    saved_model: Path,
    transform_graph: Path | None,
    apart: Apart | None = None,
) -> bytes:
    """Puts metadata into a .tflite; read again by `serving.tflite_metadata.read_metadata`.

    Args:
        content: The .tflite.
        variant: Which one it is.
        config: With the model's name, the signature and the labels.
        output: The output that the labels are of.
        saved_model: What all variants were made from, also those that were trained on.
        transform_graph: The TransformGraph artifact whose graph is inside; None for a model without.
        apart: For a model whose transform is not inside.

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
            features="transformed" if apart else "raw",
            transform=_transform(tree_digest(transform_graph), apart) if transform_graph else None,
        )
    except ValidationError as error:
        raise TflineError(f"optimize.labels: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    return write_metadata(content, metadata)


def _transform(digest: str, apart: Apart | None) -> Transform:
    # A transform has no name but what it consists of.
    short = digest[:12]
    if apart is None:
        return Transform(digest=digest, version=short)
    return Transform(
        digest=digest,
        version=short,
        host=HOST_DIR,
        raw_inputs=apart.raw_inputs,
        host_digest=apart.digest,
        reason=apart.reason,
    )
