"""What TFMA wrote about an evaluation, as plain values: metrics by slice and model, and in words what broke which limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_slices(evaluation: Path) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics that are single numbers.

    Args:
        evaluation: A ModelEvaluation artifact.

    Returns:
        Slice ("overall", or "feature:value", crossed ones joined by a comma) to "candidate" and "baseline" to metric to value.
    """
    import tensorflow_model_analysis as tfma

    slices: dict[str, dict[str, dict[str, float]]] = {}
    for found in tfma.load_metrics(str(evaluation)):
        entry = slices.setdefault(_slice_name(found.slice_key), {"candidate": {}, "baseline": {}})
        for item in found.metric_keys_and_values:
            if item.value.WhichOneof("type") == "double_value" and not item.key.is_diff:
                entry[item.key.model_name or "candidate"][item.key.name] = item.value.double_value.value
    return slices


def read_verdict(evaluation: Path) -> tuple[bool, list[str]]:
    """Whether the candidate kept every limit, and a sentence for each that it broke, the overall slice first."""
    import tensorflow_model_analysis as tfma

    result = tfma.load_validation_result(str(evaluation))
    return bool(result.validation_ok), list(_failures(result))


def _slice_name(slice_key: Any) -> str:
    parts = []
    for single in slice_key.single_slice_keys:
        value = getattr(single, single.WhichOneof("kind"))
        parts.append(f"{single.column}:{value.decode(errors='replace') if isinstance(value, bytes) else value}")
    return ", ".join(parts) or "overall"


def _failures(result: Any) -> Iterator[str]:
    by_slice = {_slice_name(validation.slice_key): validation for validation in result.metric_validations_per_slice}
    # TFMA's own order changes from run to run.
    for where in sorted(by_slice, key=lambda name: (name != "overall", name)):
        sentences = (_sentence(failure, where) for failure in by_slice[where].failures)
        yield from sorted(sentences)
    for missing in result.missing_slices:
        named = ", ".join(f"{feature}:{value}" for feature, value in missing.feature_values.items())
        yield f"slice {named or 'overall'} has a threshold but no example"
    if not result.validation_ok and not result.metric_validations_per_slice and not result.missing_slices:
        yield "TFMA did not validate the model and gave no reason"


def _sentence(failure: Any, where: str) -> str:
    limit, value, what = failure.metric_threshold, failure.metric_value.double_value.value, f"{failure.metric_key.name} ({where})"
    bounds = limit.value_threshold
    if failure.metric_key.is_diff:
        return f"{what} is {abs(value):.4g} worse than the champion's; allowed: {abs(limit.change_threshold.absolute.value):.4g}"
    if bounds.HasField("lower_bound") and value < bounds.lower_bound.value:
        least = bounds.lower_bound.value
        return f"{what} is {value:.4f}, at least {least:g} expected; short by {least - value:.4f}"
    if bounds.HasField("upper_bound") and value > bounds.upper_bound.value:
        most = bounds.upper_bound.value
        return f"{what} is {value:.4f}, at most {most:g} expected; over by {value - most:.4f}"
    return f"{what}: {failure.message or 'could not be judged'}"
