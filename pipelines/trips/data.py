"""Writes synthetic taxi trips as CSV; the question of each is whether it ends with a big tip.

The label is drawn from a logistic function of what the row shows, so the best accuracy that any model can reach is known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Columns = dict[str, tuple[npt.NDArray[np.float64 | np.int64], Flags | None]]
"""A column's values, and where they are missing; None: nowhere."""

MISSING = {"distance_km": 0.01, "duration_min": 0.03, "passengers": 0.05, "company": 0.2, "payment": 0.01}
"""The share of rows in which a column is empty."""

PAYMENTS = ("card", "cash", "app", "voucher")
_FIRST = ("Amber", "Blue", "City", "Dispatch", "Evergreen", "Flash", "Golden", "Harbour")
_SECOND = ("Cab", "Cars", "Taxi Co.", "Ride & Go", "Müller")
COMPANIES = tuple(f"{first} {second}" for second in _SECOND for first in _FIRST)

_PAYMENT_SHARES = np.array([0.45, 0.3, 0.2, 0.05])
_PAYMENT_EFFECT = np.array([0.8, -2.6, 2.0, -0.9])
_COMPANY_SHARES = 1 / np.arange(1, len(COMPANIES) + 1) ** 1.1
_COMPANY_EFFECT = 1.2 * np.cos(2.4 * np.arange(len(COMPANIES)))
_HOUR_SHARES = 2 + np.cos((np.arange(24) - 18) * np.pi / 12)
# Latitude, longitude and spread in degrees: the centre, the airport, the south, the suburbs.
_PLACES = np.array([[41.885, -87.63, 0.012], [41.98, -87.9, 0.008], [41.79, -87.6, 0.025], [41.92, -87.72, 0.05]])
_PLACE_SHARES = np.array([0.5, 0.15, 0.15, 0.2])

_CHUNK = 1 << 17
"""Rows that are drawn at once, which bounds the memory of a process to some tens of megabytes."""


def write(folder: Path, rows: int = 20_000, files: int = 8, seed: int = 0, workers: int | None = None) -> int:
    """Writes `rows` trips to `trips-00000-of-00008.csv` and so on, each with a header; a missing value is an empty field.

    Columns: `pickup_hour` 0 to 23, `weekday` 0 to 6, `distance_km`, `duration_min`, `fare`, `passengers` 1 to 6, `pickup_lat` and
    `pickup_lon` in degrees, `company` (one of 40), `payment` (one of 4), and the label `big_tip`, 0 or 1, see `chance`.

    Args:
        folder: An existing folder.
        rows: How many in all.
        files: How many files to spread them over evenly.
        seed: Other seeds give other rows; the same seed, rows and files give the same bytes.
        workers: Processes that write at once, one for each core when None; they do not change what is written.

    Returns:
        The number of rows.

    Raises:
        ValueError: There would be a file without a row.
    """
    if not 1 <= files <= rows:
        raise ValueError(f"expected at least one file and one row for each, got {rows} rows for {files} files")
    counts = [rows * (number + 1) // files - rows * number // files for number in range(files)]
    names = [str(folder / f"trips-{number:05d}-of-{files:05d}.csv") for number in range(files)]
    processes = min(files, workers or len(os.sched_getaffinity(0)))
    if processes == 1:
        return sum(map(_write_file, names, counts, [seed] * files, range(files)))
    # Forked, since tfline imports this file under a name that a fresh interpreter could not find.
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        return sum(pool.map(_write_file, names, counts, [seed] * files, range(files)))


def bayes_accuracy(rows: int = 200_000, seed: int = 0) -> float:
    """The share of labels that the best possible model gets right: the mean chance of the likelier label, over a sample."""
    chances = np.concatenate([chance(columns) for columns in _draw(rows, seed, 0)])
    return float(np.maximum(chances, 1 - chances).mean())


def chance(columns: Columns) -> Floats:
    """The chance of a big tip, in the interval from 0 to 1, one a row.

    1 / (1 + exp(-z)), where z is the sum of

    - the payment's effect: app 2, card 0.8, voucher -0.9, cash -2.6;
    - 1.5 log(distance / 4 km), for cash a third of it and with the other sign;
    - the company's effect, 1.2 cos(2.4 n) for the n-th of `COMPANIES`, and with payment by app twice that;
    - 0.8 at night, from 22 to 5 o'clock, but 2.2 in the centre; -0.7 on weekdays from 7 to 10 o'clock;
    - 1.5 at the airport, but -0.5 with cash; -0.9 in the south;
    - the constant -0.7.

    What is missing adds nothing. So the label depends on nothing that the row does not show, and no model can know better.
    """
    hour, weekday, lat, lon = (columns[name][0] for name in ("pickup_hour", "weekday", "pickup_lat", "pickup_lon"))
    payment, company = columns["payment"][0].astype(np.int64), columns["company"][0].astype(np.int64)
    known_payment, known_company, known_distance = (_known(columns, name) for name in ("payment", "company", "distance_km"))
    cash, app = (known_payment & (payment == PAYMENTS.index(name)) for name in ("cash", "app"))
    night, rush = (hour >= 22) | (hour < 5), (weekday < 5) & (hour >= 7) & (hour < 10)
    centre = (abs(lat - 41.885) < 0.025) & (abs(lon + 87.63) < 0.025)
    airport, south = (lat > 41.95) & (lon < -87.85), lat < 41.84
    z = np.full(len(hour), -0.7)
    z += known_payment * _PAYMENT_EFFECT[payment]
    z += known_distance * 1.5 * np.log(columns["distance_km"][0] / 4) * np.where(cash, -1 / 3, 1)
    z += known_company * _COMPANY_EFFECT[company] * np.where(app, 2, 1)
    z += night * np.where(centre, 2.2, 0.8) - 0.7 * rush
    z += airport * np.where(cash, -0.5, 1.5) - 0.9 * south
    chances: Floats = 1 / (1 + np.exp(-z))
    return chances


def _known(columns: Columns, name: str) -> Flags:
    values, missing = columns[name]
    return np.ones(len(values), np.bool_) if missing is None else ~missing


def _draw(rows: int, seed: int, number: int) -> Iterator[Columns]:
    """The trips of file `number`, in chunks; `company` and `payment` are indices, and there is no label yet."""
    random = np.random.default_rng([seed, number])
    for begin in range(0, rows, _CHUNK):
        yield _draw_chunk(random, min(_CHUNK, rows - begin))


def _draw_chunk(random: np.random.Generator, rows: int) -> Columns:
    def one_of(shares: Floats) -> Integers:
        return random.choice(len(shares), rows, p=shares / shares.sum()).astype(np.int64)

    place = _PLACES[one_of(_PLACE_SHARES)]
    distance = np.round(np.clip(random.lognormal(np.log(4), 0.8, rows), 0.1, 150), 2)
    duration = np.round(3 + 2.2 * distance * random.lognormal(0, 0.25, rows), 1)
    values: dict[str, Any] = {
        "pickup_hour": one_of(_HOUR_SHARES),
        "weekday": random.integers(0, 7, rows),
        "distance_km": distance,
        "duration_min": duration,
        "fare": np.round(3.25 + 1.4 * distance + 0.3 * duration + random.exponential(0.5, rows), 2),
        "passengers": one_of(np.array([0.7, 0.14, 0.06, 0.05, 0.03, 0.02])) + 1,
        "pickup_lat": np.round(random.normal(place[:, 0], place[:, 2]), 5),
        "pickup_lon": np.round(random.normal(place[:, 1], place[:, 2]), 5),
        "company": one_of(_COMPANY_SHARES),
        "payment": one_of(_PAYMENT_SHARES),
    }
    return {name: (found, random.random(rows) < MISSING[name] if name in MISSING else None) for name, found in values.items()}


def _write_file(name: str, rows: int, seed: int, number: int) -> int:
    labels = np.random.default_rng([seed, number, 1])
    # Arrow would put quotes around every string and every column's name.
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    with Path(name).open("wb") as file:
        for place, columns in enumerate(_draw(rows, seed, number)):
            table = {key: pa.array(values, mask=missing) for key, (values, missing) in columns.items()}
            for key, words in {"company": COMPANIES, "payment": PAYMENTS}.items():
                table[key] = pa.array(words).take(table[key])
            chances = chance(columns)
            table["big_tip"] = pa.array((labels.random(len(chances)) < chances).astype(np.int64))
            if place == 0:
                file.write((",".join(table) + "\n").encode())
            pyarrow.csv.write_csv(pa.table(table), file, options)
    return rows
