"""The taxi trips: seeded, the same for any number of processes, with the gaps and the label that they promise."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.trips import data

HEADER = "pickup_hour,weekday,distance_km,duration_min,fare,passengers,pickup_lat,pickup_lon,company,payment,big_tip"
ROWS = 40_000


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(folder: Path, **arguments: Any) -> dict[str, bytes]:
    folder.mkdir()
    rows = arguments.get("rows", 1000)
    assert data.write(folder, **{"rows": rows, "files": 3, **arguments}) == rows
    return contents(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("trips")
    data.write(folder, ROWS, files=2)
    found = []
    for path in sorted(folder.iterdir()):
        with path.open(encoding="utf-8", newline="") as file:
            found += list(csv.DictReader(file, strict=True))
    return found


def test_files_and_header(tmp_path: Path) -> None:
    files = written(tmp_path / "trips", rows=1000)
    assert sorted(files) == [f"trips-{number:05d}-of-00003.csv" for number in range(3)]
    lines = [content.decode().splitlines() for content in files.values()]
    assert {found[0] for found in lines} == {HEADER}
    assert sorted(len(found) - 1 for found in lines) == [333, 333, 334]
    assert len({line for found in lines for line in found[1:]}) == 1000, "no two files have the same rows"


def test_same_seed_same_bytes_for_any_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CHUNK", 100)
    first = written(tmp_path / "one", seed=5, workers=1)
    assert written(tmp_path / "two", seed=5, workers=2) == first
    assert written(tmp_path / "all", seed=5) == first
    other = written(tmp_path / "other", seed=6)
    assert not set(other.values()) & set(first.values())


@pytest.mark.parametrize(("rows", "files"), [(0, 1), (2, 3), (5, 0)])
def test_file_without_a_row(rows: int, files: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"one row for each, got {rows} rows for {files} files"):
        data.write(tmp_path, rows, files)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("column", HEADER.split(","))
def test_missing_share(column: str, rows: list[dict[str, str]]) -> None:
    expected = data.MISSING.get(column, 0)
    missing = sum(row[column] == "" for row in rows) / ROWS
    assert abs(missing - expected) <= 5 * math.sqrt(expected * (1 - expected) / ROWS)


def test_values(rows: list[dict[str, str]]) -> None:
    def all_of(column: str) -> set[str]:
        return {row[column] for row in rows} - {""}

    assert all_of("pickup_hour") == set(map(str, range(24)))
    assert all_of("weekday") == set(map(str, range(7)))
    assert all_of("passengers") == set(map(str, range(1, 7)))
    assert all_of("company") == set(data.COMPANIES)
    assert all_of("payment") == set(data.PAYMENTS)
    assert all_of("big_tip") == {"0", "1"}
    for column in ("distance_km", "duration_min", "fare"):
        assert min(map(float, all_of(column))) > 0
    assert all(41 < float(row["pickup_lat"]) < 43 and -89 < float(row["pickup_lon"]) < -87 for row in rows)


def test_best_accuracy_is_what_the_rule_behind_the_label_reaches(rows: list[dict[str, str]]) -> None:
    import numpy as np

    places = {"company": data.COMPANIES.index, "payment": data.PAYMENTS.index}
    columns: data.Columns = {}
    for name in HEADER.split(",")[:-1]:
        read = places.get(name, float)
        values = np.array([read(row[name]) if row[name] else 1 for row in rows], np.float64)
        columns[name] = (values, np.array([row[name] == "" for row in rows]))
    labels = np.array([row["big_tip"] == "1" for row in rows])
    chances = data.chance(columns)
    best = data.bayes_accuracy()
    assert abs(labels.mean() - chances.mean()) < 0.01
    assert abs(((chances > 0.5) == labels).mean() - best) < 0.01
    assert best > max(labels.mean(), 1 - labels.mean()) + 0.25


def test_label_rate(rows: list[dict[str, str]]) -> None:
    assert 0.4 < sum(row["big_tip"] == "1" for row in rows) / ROWS < 0.5
