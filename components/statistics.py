"""Statistics: TFDV's summary of every feature in every split.

Input: raw examples. Output: `statistics`, a FeatureStats proto a split, as TFX's StatisticsGen writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from components.code import stage_digest
from components.layout import load_statistics
from components.summary import Summary, Table


def component(examples: Any) -> Any:
    """The TFX component: StatisticsGen with an executor that reads in batches, on the channel of raw examples."""
    from components.statistics_executor import Statistics

    return Statistics(examples, stage_digest("components.statistics")).with_id("statistics")


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Examples a split; features with the share of examples that have them."""
    splits = load_statistics(Path(outputs["statistics"][0]))
    counts = {split: int(stats.datasets[0].num_examples) for split, stats in splits.items()}
    rows = []
    for split, stats in splits.items():
        for feature in stats.datasets[0].features:
            common = getattr(feature, feature.WhichOneof("stats")).common_stats
            name = feature.name or "/".join(feature.path.step)
            total = common.num_non_missing + common.num_missing
            present = float(common.num_non_missing) / total if total else 0.0
            rows.append((split, name, feature.Type.Name(feature.type), present, float(common.avg_num_values)))
    features = len({row[1] for row in rows})
    shares = ", ".join(f"{split} {count}" for split, count in sorted(counts.items(), key=lambda item: -item[1]))
    return Summary(
        headline=shorten(f"{sum(counts.values()):,} examples, {features} features ({shares})", 50, placeholder=" …"),
        metrics={f"{split}_examples": float(count) for split, count in counts.items()},
        tables={"features": Table(columns=("split", "feature", "type", "present", "values"), rows=tuple(rows))},
    )
