"""One signature of a SavedModel as the TFLite converter needs it: dense tensors, batch first, the batch dimension fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.errors import TflineError


def signature_of(loaded: Any, signature: str) -> Any:
    """The concrete function of a loaded SavedModel's signature; TflineError when there is none."""
    present = sorted(loaded.signatures)
    if signature not in present:
        raise TflineError(
            f"the SavedModel has no signature {signature!r}; it has {present}: set `signature` to one that takes dense tensors, "
            "or leave TFLite out with `optimize: null`"
        )
    return loaded.signatures[signature]


def inputs_of(function: Any, signature: str) -> dict[str, Any]:
    """Input name to TensorSpec, in the order of the function's placeholders.

    Raises:
        TflineError: A shape is not known but for the batch.
    """
    specs = {_name_of(keyword, spec): spec for keyword, spec in function.structured_input_signature[1].items()}
    for name, spec in specs.items():
        shape = spec.shape
        if shape.rank is None or shape.rank < 1 or not shape[1:].is_fully_defined() or shape[0] not in (None, 1):
            raise TflineError(
                f"input {name!r} of signature {signature!r} has shape {shape}; expected an open batch dimension (or 1), "
                "then fixed ones; where preprocessing_fn makes them so, `optimize.features: auto` puts it beside the file"
            )
    return specs


def keywords_of(function: Any) -> dict[str, str]:
    """Input name to the Python keyword that the function takes it by."""
    return {_name_of(keyword, spec): keyword for keyword, spec in function.structured_input_signature[1].items()}


def _name_of(keyword: str, spec: Any) -> str:
    """The signature's own name of an input: of "Age" only the keyword has it as it is, of "a-b" (and "A-b") only the TensorSpec.

    So it is after loading with TensorFlow 2.21: keyword "Age" with spec "age", keyword "a_b" with spec "a-b".
    """
    return keyword if not spec.name or spec.name.lower() == keyword.lower() else str(spec.name)


def takes_one(specs: Mapping[str, Any]) -> bool:
    """Whether the signature itself takes one example a call, not any number."""
    return any(spec.shape[0] == 1 for spec in specs.values())


def output_of(function: Any, signature: str, output: str | None) -> str:
    """The output that is compared: the one that is named, or the only one there is.

    Raises:
        TflineError: There is no such output, or there are several and none is named.
    """
    present = sorted(function.structured_outputs)
    if output is None and len(present) > 1:
        raise TflineError(
            f"signature {signature!r} has the outputs {present}: say in `output` which one is compared with the label"
        )
    if output is not None and output not in present:
        raise TflineError(f"signature {signature!r} has no output {output!r}; it has {present}")
    return output or present[0]


def export_batched(loaded: Any, signature: str, batch: int | None, folder: str) -> None:
    """Saves a SavedModel with the same signature, names and all, and the given batch dimension.

    The converter takes this and not the concrete function, which would lose its output names.

    Args:
        loaded: A loaded SavedModel, or any tf.Module with `signatures`.
        signature: Key of its dense signature.
        batch: Examples a call; None leaves the dimension open.
        folder: Where it is written.
    """
    import tensorflow as tf

    function = signature_of(loaded, signature)
    specs = inputs_of(function, signature)
    keywords = keywords_of(function)

    def call(features: dict[str, Any]) -> Any:
        return function(**{keywords[name]: value for name, value in features.items()})

    batch = 1 if takes_one(specs) else batch
    shapes = {name: tf.TensorSpec([batch, *spec.shape[1:]], spec.dtype, name=name) for name, spec in specs.items()}
    module = tf.Module()
    module.loaded = loaded  # its variables are saved with what is tracked
    module.call = tf.function(call, input_signature=[shapes])
    tf.saved_model.save(module, folder, signatures={signature: module.call})
