"""How small, how fast and how accurate each TFLite variant of a pipeline's model is, over several seeds, as Markdown.

python -m benchmarks.tflite [--seeds 3] [--pipeline textures] [--variants NAME ...] [--set KEY=VALUE ...]
                            [--work FOLDER] [--out FILE]

For each seed, 1 and up, `tfline run pipelines/NAME --to optimize` runs in a home of its own, as a whole process: the seed is that
of the weights, the shuffling and the representative dataset. All read the same data, so that their splits are the same; sizes,
accuracies and differences are those of each run's report.json. With `--work` the homes stay, and what is in them already is
taken from the cache: a benchmark that was stopped goes on. The variants are those that the pipeline lists, or those of them that
`--variants` names, or, where it lists no float32 to compare with, every kind. `--set` goes to `tfline run` as it is.

Intervals are Student's t over seeds, 95 %; of differences, over the differences within each seed. They tell how much another
seed changes; what another eval split would change they do not contain.

Latencies are measured again, here: the report's own lie minutes apart, in which a shared machine changes its speed. In each turn
every variant of a seed is timed, one after the other, in one process, one thread, a row a call, warm; its p50 and p95 are divided
by float32's of the same turn, and the table has the medians of these ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from components.records import Journal
from components.variants.config import QUANTIZED_IN_TRAINING, InTraining, PostTraining, Variant
from components.variants.report import Made, Report
from pipelines.config import load_config
from serving.tflite_latency import measure

_PIPELINES = Path(__file__).parents[1] / "pipelines"
_TURNS, _CALLS = 15, 40
_KINDS: tuple[PostTraining | InTraining, ...] = (*get_args(PostTraining), *get_args(InTraining))
_NO_VALUE = "—"

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
"""0.975 quantiles of Student's t for 1 to 19 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half the width of its 95 % interval, NaN with one seed."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if math.isnan(self.half) else f" ± {self.half:.4f}")


@dataclass(frozen=True)
class Seed:
    """One run of the pipeline.

    Attributes:
        latencies: Variant to its (p50, p95) in milliseconds, one a turn.
    """

    report: Report
    latencies: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def made(self, name: str) -> Made | None:
        """The variant of a name, None when this run could not make it."""
        return self.report.row(name).made


@dataclass(frozen=True)
class Aim:
    """What was to be reached, and what was measured."""

    what: str
    measured: str
    met: bool


def main(seeds: int, pipeline: str, names: Sequence[str], changes: Sequence[str], work: Path | None, out: Path | None) -> int:
    """Runs, measures, prints the tables; returns 1 when an aim is missed."""
    variants = _variants(pipeline, names)
    with tempfile.TemporaryDirectory(prefix="tfline-tflite-") as temporary:
        folder = (work or Path(temporary)).absolute()
        runs = [_run(pipeline, seed, variants, changes, folder) for seed in range(1, seeds + 1)]
    aims = _aims(runs)
    page = "\n\n".join((_sizes(runs), _speeds(runs), _table(("aim", "measured", "result"), map(_cells_of_aim, aims))))
    print(page)
    if out:
        out.write_text(page + "\n", encoding="utf-8")
    return int(not all(aim.met for aim in aims))


def _variants(pipeline: str, names: Sequence[str]) -> list[Variant]:
    """Those to ask for instead of the pipeline's own; none to leave it as it is."""
    section = load_config(_PIPELINES / pipeline, Path("home")).optimize
    own = {variant.title: variant for variant in section.chosen()} if section else {}
    every = {kind: Variant(kind=kind) for kind in _KINDS}
    if not names:
        return [] if "float32" in own else list(every.values())
    known = every | own
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"--variants: no {', '.join(unknown)}; expected some of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(("float32", *names))]


def _run(pipeline: str, seed: int, variants: Sequence[Variant], changes: Sequence[str], folder: Path) -> Seed:
    home = folder / f"seed-{seed}"
    settings = {"seed": str(seed), "ingest.path": str(folder / "data")}
    if variants:
        settings["optimize.variants"] = json.dumps([each.model_dump(mode="json", exclude_defaults=True) for each in variants])
    command = [str(Path(sys.executable).parent / "tfline"), "run", str(_PIPELINES / pipeline), "--home", str(home)]
    command += ["--to", "optimize"]
    for setting in (*(f"{key}={value}" for key, value in settings.items()), *changes):
        command += ["--set", setting]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    journal = Journal(home)
    reports = journal.stages(journal.runs()[0].run_id)["optimize"].outputs.get("report") if journal.runs() else None
    # A run whose variants a gate refuses ends with an error, and has a report all the same.
    if not reports or not Path(reports[0], "report.json").exists():
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    report = Report.model_validate_json(Path(reports[0], "report.json").read_text(encoding="utf-8"))
    if "float32" not in [row.name for row in report.rows if row.made]:
        raise SystemExit(f"{reports[0]}: expected a variant float32 to compare with, there is none")
    print(f"seed {seed}: {sum(row.made is not None for row in report.rows)} of {len(report.rows)} variants", file=sys.stderr)
    return Seed(report, _latencies(Path(reports[0], "variants"), report))


def _latencies(folder: Path, report: Report) -> dict[str, list[tuple[float, float]]]:
    files = {row.name: Path(folder, f"{row.name}.tflite").read_bytes() for row in report.rows if row.made}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    for _ in range(_TURNS):
        for name, content in files.items():
            timed = measure(content, signature=report.signature, calls=_CALLS, seconds=0)
            found[name].append((timed.p50_ms, timed.p95_ms))
    return found


def _sizes(runs: Sequence[Seed]) -> str:
    """Bytes, medians over the seeds; accuracies; differences from the float model's outputs: the largest, the mean RMS."""
    columns = (
        "variant", "bytes", "ratio", "gzip", "gzip ratio", "zeros", "clusters", "accuracy", "minus float", "minus int8",
        "largest difference", "RMS difference",
    )  # fmt: skip
    rows = []
    for name in _names(runs):
        made = [seed.made(name) for seed in runs]
        if None in made:
            rows.append([name, *[_NO_VALUE] * (len(columns) - 2), f"not made with {made.count(None)} of {len(runs)} seeds"])
            continue
        compared = [each.measured.comparison for each in made if each]
        clusters = _each(runs, name, lambda each: each.kernels.clusters or math.inf)
        against = _reference(runs, name)
        rows.append(
            [
                name,
                f"{statistics.median(_each(runs, name, _bytes)):,.0f}",
                f"{_ratio(runs, name, _bytes):.3f}",
                f"{statistics.median(_each(runs, name, _gzip)):,.0f}",
                f"{_ratio(runs, name, _gzip):.3f}",
                f"{statistics.fmean(_each(runs, name, lambda each: each.kernels.sparsity or 0.0)):.2f}",
                f"{max(clusters):.0f}" if math.isfinite(max(clusters)) else "many",
                str(_interval(_each(runs, name, _accuracy))),
                str(_interval([-each.accuracy_drop for each in compared])),
                str(_difference(runs, name, against)) if against else _NO_VALUE,
                f"{max(each.max_difference for each in compared):.3f}",
                f"{statistics.fmean(each.rms_difference for each in compared):.4f}",
            ]
        )
    first = runs[0].report.float_model
    accuracies = _interval([seed.report.float_model.accuracy or math.nan for seed in runs])
    title = f"Seeds: {len(runs)}; the float SavedModel's accuracy is {accuracies} on {first.eval_examples:,} examples"
    return f"{title}\n\n{_table(columns, rows)}"


def _speeds(runs: Sequence[Seed]) -> str:
    columns = ("variant", "p50 ratio", "from", "to", "p95 ratio", "p50 ms", "p95 ms", "arena bytes", "ops", "float ops")
    rows = []
    for name in _names(runs):
        if any(name not in seed.latencies for seed in runs):
            continue
        p50, p95 = (_latency_ratios(runs, name, which) for which in (0, 1))
        medians = [statistics.median(turn[which] for seed in runs for turn in seed.latencies[name]) for which in (0, 1)]
        by_seed = [statistics.median(_latency_ratios([seed], name, 0)) for seed in runs]
        measured = [made.measured for made in (seed.made(name) for seed in runs) if made]
        rows.append(
            [
                name,
                *(f"{value:.2f}" for value in (statistics.median(p50), min(by_seed), max(by_seed), statistics.median(p95))),
                *(f"{value:.3f}" for value in medians),
                f"{statistics.median(each.arena_bytes for each in measured):,.0f}",
                str(max(sum(each.ops.values()) for each in measured)),
                str(max(len(each.float_ops) for each in measured)),
            ]
        )
    title = f"Latency, {_TURNS} turns of {_CALLS} calls a seed; from and to: the seeds' own medians; float ops: kinds of them"
    return f"{title}\n\n{_table(columns, rows)}"


def _aims(runs: Sequence[Seed]) -> list[Aim]:
    """The aims whose variants were made with every seed."""
    aims = []
    for name in ("int8", "int8_io"):
        if _everywhere(runs, name):
            size, drop = _ratio(runs, name, _bytes), _difference(runs, name, "float32").mean
            latency = statistics.median(_latency_ratios(runs, name, 0))
            aims += [
                Aim(f"{name}: at most 0.27 of float32's bytes", f"{size:.3f}", size <= 0.27),
                Aim(f"{name}: at most 0.005 of accuracy lost, mean of the seeds", f"{-drop:+.4f}", -drop <= 0.005),
                Aim(f"{name}: at most 0.55 of float32's latency", f"{latency:.2f}", latency <= 0.55),
            ]
    if _everywhere(runs, "pcqat"):
        packed = _ratio(runs, "pcqat", _gzip)
        aims.append(Aim("pcqat: at most 0.07 of float32's gzip", f"{packed:.3f}", packed <= 0.07))
    if (against := _reference(runs, "qat")) and _everywhere(runs, "qat"):
        found = _difference(runs, "qat", against)
        # With one seed nothing is known of the noise.
        noise = 0.0 if math.isnan(found.half) else found.half
        aims.append(Aim(f"qat: not worse than {against} by more than noise", str(found), found.mean + noise >= 0))
    return aims


def _cells_of_aim(aim: Aim) -> Sequence[str]:
    return aim.what, aim.measured, "met" if aim.met else "missed"


def _names(runs: Sequence[Seed]) -> list[str]:
    return [row.name for row in runs[0].report.rows]


def _everywhere(runs: Sequence[Seed], name: str) -> bool:
    return name in _names(runs) and all(seed.made(name) for seed in runs)


def _reference(runs: Sequence[Seed], name: str) -> str | None:
    """The post-training variant that one quantized in training is compared with: that with the same edges; None for others."""
    row = next((row for row in runs[0].report.rows if row.name == name), None)
    if row is None or row.kind not in QUANTIZED_IN_TRAINING:
        return None
    wanted = "int8_io" if row.settings.get("edges") == "integer" else "int8"
    return wanted if _everywhere(runs, wanted) else None


def _each(runs: Sequence[Seed], name: str, value: Callable[[Made], float]) -> list[float]:
    return [value(made) for made in (seed.made(name) for seed in runs) if made]


def _ratio(runs: Sequence[Seed], name: str, value: Callable[[Made], float]) -> float:
    """The median over seeds of a variant's value by float32's of the same seed."""
    pairs = zip(_each(runs, name, value), _each(runs, "float32", value), strict=True)
    return statistics.median(mine / plain for mine, plain in pairs)


def _difference(runs: Sequence[Seed], name: str, against: str) -> Interval:
    """Of accuracies, within each seed."""
    pairs = zip(_each(runs, name, _accuracy), _each(runs, against, _accuracy), strict=True)
    return _interval([mine - other for mine, other in pairs])


def _latency_ratios(runs: Sequence[Seed], name: str, which: int) -> list[float]:
    """A variant's p50 (0) or p95 (1) by float32's of the same turn, for all turns."""
    return [
        mine[which] / plain[which]
        for seed in runs
        for mine, plain in zip(seed.latencies[name], seed.latencies["float32"], strict=True)
    ]


def _interval(values: Sequence[float]) -> Interval:
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan)
    return Interval(mean, _T_975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values)))


def _bytes(made: Made) -> float:
    return made.bytes


def _gzip(made: Made) -> float:
    return made.gzip_bytes


def _accuracy(made: Made) -> float:
    return made.measured.comparison.accuracy_tflite


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(text: str) -> int:
    if not 1 <= (count := int(text)) <= len(_T_975) + 1:
        raise argparse.ArgumentTypeError(f"expected 1 to {len(_T_975) + 1}, got {count}")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=_count, default=3)
    parser.add_argument("--pipeline", default="textures")
    parser.add_argument("--variants", nargs="+", default=[])
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    sys.exit(main(asked.seeds, asked.pipeline, asked.variants, asked.changes, asked.work, asked.out))
