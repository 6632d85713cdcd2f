"""Statistics of a small split, made without Beam, have to be what Beam makes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.layout import load_statistics
from tests.components import small_line


def _rounded(statistics: Any) -> str:
    return re.sub(r"(mean|std_dev): ([-\d.e]+)", lambda found: f"{found[1]}: {float(found[2]):.12g}", str(statistics))


@pytest.mark.slow
def test_small_splits_have_the_same_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components import statistics, statistics_executor

    counts = {"train": (1500, 900), "eval": (90,)}  # more than one of Beam's batches, and more than one file
    for split, files in counts.items():
        for number, count in enumerate(files):
            records = [small_line.example(1000 * number + index) for index in range(count)]
            small_line.write_records(tmp_path / "examples" / f"Split-{split}" / f"data_tfrecord-{number:05d}-of-2.gz", records)
    component = statistics.component(small_line.channel("Examples"))
    given = {"examples": small_line.artifact("Examples", tmp_path / "examples", tuple(counts))}
    made = small_line.run_executor(component, tmp_path / "without", given)
    monkeypatch.setattr(statistics_executor, "SMALL", 0)
    small_line.run_executor(component, tmp_path / "with", given)
    without, with_beam = (load_statistics(tmp_path / name / "statistics") for name in ("without", "with"))
    for split in counts:
        # Beam adds up in another order.
        assert _rounded(without[split]) == _rounded(with_beam[split])
    assert {split: found.datasets[0].num_examples for split, found in without.items()} == {"train": 2400, "eval": 90}
    assert made["statistics"].split_names == given["examples"].split_names
