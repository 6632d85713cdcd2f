"""How long `tfline inspect` takes against TensorFlow's own `saved_model_cli show --all`, as whole processes on one model.

python -m benchmarks.inspect [RUNS]

They take turns, so that whatever else the machine does falls on all alike; a first turn of each, which fills the page cache, is
not counted. Say `-m`: as a script this file would stand before the standard library's `inspect`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

_BIN = Path(sys.executable).parent
_TARGET = 0.03

_EXPORT = """
import sys
import tf_keras
inputs = tf_keras.Input((32, 32, 3), name="image")
hidden = inputs
for filters in (16, 32, 64, 128):
    hidden = tf_keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(hidden)
    hidden = tf_keras.layers.BatchNormalization()(hidden)
    hidden = tf_keras.layers.MaxPooling2D()(tf_keras.layers.ReLU()(hidden))
outputs = tf_keras.layers.Dense(10)(tf_keras.layers.Flatten()(hidden))
tf_keras.Model(inputs, outputs).export(sys.argv[1])
"""


def main(runs: int = 5) -> int:
    """Measures and prints the table; returns 1 when the ratio of the medians is above the target."""
    with tempfile.TemporaryDirectory(prefix="tfline-inspect-") as temporary:
        model = Path(temporary, "model")
        _run([sys.executable, "-c", _EXPORT, str(model)])
        commands = {
            "tfline inspect DIR": [str(_BIN / "tfline"), "inspect", str(model)],
            "tfline inspect DIR --json": [str(_BIN / "tfline"), "inspect", str(model), "--json"],
            "saved_model_cli show --dir DIR --all": [str(_BIN / "saved_model_cli"), "show", "--dir", str(model), "--all"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(runs + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                printed = _run(command)
                if turn:
                    took[name].append(time.perf_counter() - began)
                if "serving_default" not in printed:
                    raise SystemExit(f"`{name}` does not name the signature of the model:\n{printed}")
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    *ours, theirs = commands
    table = Table("command", "median s", "from", "to", "ratio", title=f"Whole process, {runs} runs of each, in turns")
    for name, seconds in took.items():
        ratio = f"{medians[name] / medians[theirs]:.3f}"
        table.add_row(name, f"{medians[name]:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", ratio)
    Console(width=100).print(table)
    return int(max(medians[name] for name in ours) / medians[theirs] > _TARGET)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
