"""Makes sample data: readings of pumps that are healthy, worn or blocked. Invented.

For your own data, set `format` and `path` in pipeline.yaml, and delete `prepare` there
and this file. Or let `write` fetch your data: it is called while `path` does not exist.
To have the data made again, move that folder away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write(folder: Path, rows: int, seed: int = 0) -> None:
    """Writes pumps.csv, one pump a row.

    Args:
        folder: An empty folder, for every file that is to be read.
        rows: How many; from `arguments` in pipeline.yaml, as all but the folder is.
        seed: The same one gives the same rows.
    """
    draw = np.random.default_rng(seed)
    state = draw.choice(3, rows, p=[0.5, 0.25, 0.25])  # healthy, worn, blocked
    speed = draw.uniform(0.2, 1.0, rows)  # not told: each reading needs the others
    flow = np.where(state == 2, 36, 60) * speed + draw.normal(0, 2.5, rows)
    current = 2 + 8 * speed + draw.normal(0, 0.4, rows)
    vibration = np.where(state == 1, 6, 3) * speed + draw.normal(1, 0.4, rows)
    temperature = np.where(state == 0, 20, 26) + 20 * speed**2 + draw.normal(0, 4, rows)
    with (folder / "pumps.csv").open("w", encoding="utf-8") as file:
        file.write("flow,current,vibration,temperature,state\n")
        for row in zip(flow, current, vibration, temperature, state, strict=True):
            # Readings always have a point: a column of whole numbers is int64.
            file.write("{:.3f},{:.3f},{:.3f},{:.3f},{}\n".format(*row))
