"""How each stage works: one module a stage, plain functions on folders."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """The artifact types, which Kubeflow's entrypoint looks for as `components.<type>`; others must not load TFX for them."""
    if name in ("GoldenExamples", "ValidationReport", "TFLiteModel", "OptimizationReport"):
        from components import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
