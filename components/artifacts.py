"""The artifact types that tfline adds to TFX's own, and how a stage's declaration names both.

A type's TYPE_NAME is where Kubeflow's entrypoint imports its class from, and TFX allows one dot in it: `components` hands them
on.
"""

from __future__ import annotations

from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact


class GoldenExamples(Artifact):
    """Held-out examples with the in-memory model's answers: examples.tfrecord, inputs.npz, outputs.npz."""

    TYPE_NAME = "components.GoldenExamples"


class ValidationReport(Artifact):
    """What the checks of an exported SavedModel found: report.json."""

    TYPE_NAME = "components.ValidationReport"


class TFLiteModel(Artifact):
    """A converted model: model.tflite."""

    TYPE_NAME = "components.TFLiteModel"


class OptimizationReport(Artifact):
    """What each small form of a model is like: report.json, report.html, the forms, a plot."""

    TYPE_NAME = "components.OptimizationReport"


_OWN = {kind.__name__: kind for kind in (GoldenExamples, ValidationReport, TFLiteModel, OptimizationReport)}


def artifact_type(name: str) -> type[Artifact]:
    """The class of an artifact type, ours or TFX's, by its name; AttributeError when there is none."""
    return _OWN.get(name) or getattr(standard_artifacts, name)
