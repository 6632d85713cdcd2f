"""What MLflow accepts: how long, how many, which characters; and the forms that are safe to write twice.

The limits are those of MLflow 3.17 (mlflow/utils/validation.py).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.summary import Table

PARAM_CHARACTERS = 6000
_TAG_CHARACTERS, _NAME_CHARACTERS = 8000, 250
_METRICS_A_REQUEST, _PARAMS_A_REQUEST = 1000, 100
# A request may have a megabyte; 100 parameters of full length would have more when they are not plain ASCII.
_BYTES_A_REQUEST = 500_000


def log(
    client: Any,
    run_id: str,
    *,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    metrics: Sequence[Any] = (),
) -> None:
    """Logs to an MLflow run in requests of a size that MLflow takes.

    Args:
        client: An MlflowClient.
        run_id: The MLflow run.
        params: As `safe_params` gives them.
        tags: Any names and texts; names are made safe and long texts cut.
        metrics: As `points` gives them.
    """
    from mlflow.entities import Param, RunTag

    for portion in _portions(params or {}):
        client.log_batch(run_id, params=[Param(key, value) for key, value in portion], synchronous=True)
    names = safe_names(tags or {})
    for portion in _portions({names[key]: _cut(value, _TAG_CHARACTERS, "cut here") for key, value in (tags or {}).items()}):
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in portion], synchronous=True)
    for start in range(0, len(metrics), _METRICS_A_REQUEST):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_A_REQUEST], synchronous=True)


def points(metrics: Mapping[str, float], curves: Mapping[str, Sequence[float]], at: float) -> list[Any]:
    """Metrics as single points and curves as one point an epoch (step = epoch), all at one time, in seconds since the epoch.

    The records hold no time for each epoch. The time is the same whenever a record is written, so that MLflow, which keeps a
    point once for key, step, time and value, takes a second writing for what it is. A metric that has the name of a curve is its
    last point, or, where it differs (the best epoch, say), gets the name `<name>.final`.
    """
    from mlflow.entities import Metric

    singles = {
        f"{key}.final" if key in curves else key: value for key, value in metrics.items() if not _ends(curves.get(key), value)
    }
    names = safe_names([*singles, *curves])
    time = milliseconds(at)
    found = [Metric(names[key], value, time, 0) for key, value in singles.items()]
    for key, values in curves.items():
        found += [Metric(names[key], value, time, epoch) for epoch, value in enumerate(values)]
    return found


def _ends(curve: Sequence[float] | None, value: float) -> bool:
    return curve is not None and len(curve) > 0 and (curve[-1] == value or (math.isnan(curve[-1]) and math.isnan(value)))


def _portions(items: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    portion: list[tuple[str, str]] = []
    size = 0
    for key, value in items.items():
        length = len(json.dumps([key, value]))
        if portion and (len(portion) == _PARAMS_A_REQUEST or size + length > _BYTES_A_REQUEST):
            yield portion
            portion, size = [], 0
        portion.append((key, value))
        size += length
    if portion:
        yield portion


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Gives each name one that MLflow takes: letters, digits, `_-. :/`, a normal relative path, 250 characters; no two alike."""
    safe: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        parts = [part for part in re.sub(r"[^/\w.\- :]", "_", name).split("/") if part not in ("", ".", "..")]
        # Room for a number; and the cut must not leave a path part that is empty or only dots.
        stem = candidate = re.sub(r"/\.{0,2}$", "", "/".join(parts)[: _NAME_CHARACTERS - 10]) or "_"
        number = 1
        while candidate in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate)
        safe[name] = candidate
    return safe


def file_name(name: str) -> str:
    """A name as part of an artifact's path."""
    return re.sub(r"[^A-Za-z0-9_\-]", "_", name)[:100] or "_"


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names; what is no text and no section is written as JSON."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, default=str)


def safe_params(values: Mapping[str, str], rest: str) -> dict[str, str]:
    """Parameters with safe names; long values are cut, and `rest` tells where the whole of them is."""
    names = safe_names(values)
    return {names[key]: _cut(value, PARAM_CHARACTERS, rest) for key, value in values.items()}


def _cut(text: str, limit: int, rest: str) -> str:
    note = f"… ({len(text)} characters; {rest})"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def split_orient(table: Table) -> dict[str, Any]:
    """A table in the form that MLflow's page and `mlflow.load_table` read (pandas' "split"); NaN and infinity are no JSON."""

    def cell(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {"columns": list(table.columns), "data": [[cell(value) for value in row] for row in table.rows]}


def milliseconds(seconds: float) -> int:
    """Seconds since the epoch as MLflow counts time."""
    return round(seconds * 1000)
