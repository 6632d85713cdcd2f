"""Transform: the user's `preprocessing_fn`, analysed over the training split and applied to all of them by TensorFlow Transform.

Inputs: raw examples, schema. Outputs: `transform_graph`, which the export carries into serving, and `transformed_examples`. A
module without `preprocessing_fn` has its features passed on as they are.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any

from components.code import load_bundle, stage_digest
from components.errors import TflineError
from components.summary import Summary


def preprocessing_fn(inputs: dict[str, Any], custom_config: Mapping[str, Any]) -> dict[str, Any]:
    """What TFX calls, by its dotted name: the user's function, from the code that came with the stage.

    Args:
        inputs: Raw features, tf.Tensor or tf.SparseTensor by name.
        custom_config: `code`, `module` and the user's own `custom_config`, as `component` packs them.

    Returns:
        Transformed features by name.

    Raises:
        TflineError: It raised; the message has the line in the user's file.
    """
    module = load_bundle(custom_config["code"], PurePosixPath(custom_config["module"]).stem)
    function = getattr(module, "preprocessing_fn", None)
    if function is None:
        return dict(inputs)
    # As TFX does it: only a function that asks for it gets it.
    arguments = (custom_config["custom_config"],) if "custom_config" in inspect.signature(function).parameters else ()
    try:
        made: dict[str, Any] = function(inputs, *arguments)
    except Exception as error:
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module.__file__]
        if not lines:
            raise
        told = next((line for line in str(error).splitlines() if line.strip()), "")
        raise TflineError(f"{custom_config['module']}:{lines[-1].lineno}: {type(error).__name__}: {told}") from error
    return made


def component(
    examples: Any,
    schema: Any,
    *,
    code: str,
    module: str,
    analyze_split: str,
    splits: Sequence[str],
    custom_config: Mapping[str, Any] | None = None,
) -> Any:
    """The TFX component: the stock Transform, without the two statistics runs and the cache, and with batches of examples.

    Those cost most of its time.

    Args:
        examples: Channel of raw examples.
        schema: Channel of the schema.
        code: The module with `preprocessing_fn`, bundled.
        module: Its file name.
        analyze_split: The split that full-pass analyzers see.
        splits: All splits, which are transformed.
        custom_config: For a `preprocessing_fn(inputs, custom_config)`.
    """
    from tfx.components import Transform
    from tfx.dsl.components.base import executor_spec
    from tfx.proto import transform_pb2

    from components.transform_executor import Executor

    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="components.transform.preprocessing_fn",
        custom_config={
            "code": code,
            "module": module,
            "custom_config": dict(custom_config or {}),
            "code_digest": stage_digest("components.transform"),
        },
        splits_config=transform_pb2.SplitsConfig(analyze=[analyze_split], transform=list(splits)),
        disable_statistics=True,
        disable_analyzer_cache=True,
    )
    transform.executor_spec = executor_spec.BeamExecutorSpec(Executor)
    return transform.with_id("transform")


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """The transformed features with dtype and shape."""
    import tensorflow as tf
    import tensorflow_transform as tft

    spec = tft.TFTransformOutput(str(Path(outputs["transform_graph"][0]))).transformed_feature_spec()
    described = {
        name: f"{feature.dtype.name} {list(feature.shape) if isinstance(feature, tf.io.FixedLenFeature) else 'sparse'}"
        for name, feature in sorted(spec.items())
    }
    told = f"{len(described)} features: {', '.join(described)}"
    return Summary(headline=shorten(told, 50, placeholder=" …"), params=described)
