"""The embedded model server against a bare gRPC echo, the model itself, and the servers one would otherwise pip-install.

python -m benchmarks.serving [--quick] [--venvs FOLDER] [--out FILE]

One run, one machine, the same dense net (64 → 128 → 10, float32) and the same rows for all. Clients are processes of their own,
one for each processor, with so many connections between them; each client asks, waits for the answer and asks again. They share
the processors with the server, here as in the echo, which is therefore the ceiling for gRPC from Python: it parses nothing and
answers bytes of the size that Predict's answer has.

The others are asked by REST, each in its own protocol, with one worker. They compute the net in NumPy and not in TensorFlow,
which spares them work: their environments would otherwise hold gigabytes. MLflow is our own environment's; MLServer, KServe,
BentoML and LitServe are looked for in FOLDER/mlserver, kserve, bentoml and litserve (`uv venv FOLDER/kserve`, `uv pip install
--python FOLDER/kserve kserve`), and left out, by name, where they are not. Each answer is compared with the net's own.

The last part swaps versions while 16 clients ask, 100,000 requests in all. `during` are the requests that ended between a
version's rename into place and the end of the one before, of which the server's wait for its next look at the folder is a part.

Exit code 1 when an aim is missed: the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import serving_servers as servers
from benchmarks import serving_tables as tables
from benchmarks.rivals.net import Net, write_weights
from benchmarks.serving_servers import Target
from benchmarks.serving_tables import Result, Results
from serving.client import Client

_WARM_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    seconds: float
    clients: tuple[int, ...]
    rows: tuple[int, ...]
    swap_requests: int


FULL = Plan(4, (1, 16, 64), (1, 32, 256), 100_000)
QUICK = Plan(1, (1, 16), (1, 32), 6_000)


class Clients:
    """The client processes; use it as a context manager."""

    def __init__(self, folder: Path, net: Net) -> None:
        self._folder, self._net = folder, net
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serving_load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=servers.ROOT,
            )
            for _ in range(len(os.sched_getaffinity(0)))
        ]

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.stdin
            process.stdin.close()
            process.wait()

    def run(self, target: Target, clients: int, rows: int, seconds: float, requests: int = 10**9) -> Result:
        """So many clients for so many seconds, or until each had its share of the requests.

        Raises:
            RuntimeError: A client could not work, or an answer is wrong.
        """
        x = servers.rows(rows)
        payload = self._folder / "payload"
        payload.write_bytes(target.payload(x))
        begin = time.time() + _WARM_SECONDS
        shares = np.array_split(np.arange(clients), min(clients, len(self._processes)))
        working = list(zip(self._processes, shares, strict=False))
        for number, (process, share) in enumerate(working):
            job = {"transport": target.transport, "port": target.port, "path": target.path, "payload": str(payload)}
            job |= {"clients": len(share), "begin": begin, "end": begin + seconds, "requests": -(-requests // clients)}
            file = self._folder / f"job-{number}.json"
            file.write_text(json.dumps(job), encoding="utf-8")
            assert process.stdin
            print(file, file=process.stdin, flush=True)

        for process, _ in working:
            assert process.stdout
            if (told := process.stdout.readline().strip()) != "done":
                raise RuntimeError(f"{target.name}: {told}")
        found = [np.load(self._folder / f"job-{number}.npz", allow_pickle=False) for number in range(len(working))]
        self._check(target, x, found[0]["answer"].tobytes())
        ends = np.concatenate([each["ends"] for each in found])
        latencies = np.concatenate([each["latencies"] for each in found]) * 1000
        failures = sum(int(each["failures"]) for each in found)
        failure = "".join(each["first_failure"].tobytes().decode() for each in found)
        if not len(ends):
            raise RuntimeError(f"{target.name}: no request was answered. {failure}")
        return Result(len(ends) / (ends.max() - begin), latencies, ends, failures, failure)

    def _check(self, target: Target, x: Any, answer: bytes) -> None:
        if target.scores and not np.allclose(np.asarray(target.scores(answer), np.float32), self._net(x), atol=1e-4):
            raise RuntimeError(f"{target.name} answers something else: {answer[:300]!r}")


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute or two, to see that it works")
    parser.add_argument("--venvs", type=Path, default=Path("bench-venvs"), help="where the others are installed")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    asked = parser.parse_args(arguments)
    plan = QUICK if asked.quick else FULL
    console = Console(width=130, record=True)
    with tempfile.TemporaryDirectory(prefix="tfline-serving-") as temporary:
        folder = Path(temporary)
        write_weights(folder / "weights.npz")
        in_process = _in_process(folder, plan)
        with Clients(folder, Net(folder / "weights.npz")) as clients:
            results = _grpc_and_rest(clients, folder, plan, console)
            results |= _others(clients, folder, plan, console, asked.venvs.absolute())
            several = _several_processes(clients, folder, plan)
            console.print(f"Load average: {', '.join(f'{each:.1f}' for each in os.getloadavg())}")
            console.print(
                tables.grpc_table(results, in_process), tables.rest_table(results), tables.several_table(results, several)
            )
            aims = tables.aims(results)
            aims |= _swap(clients, folder, plan, console)
    for aim, met in aims.items():
        console.print(f"[{'green' if met else 'red'}]{'met' if met else 'MISSED'}[/]  {aim}", highlight=False)
    if asked.out:
        asked.out.write_text(console.export_text(), encoding="utf-8")
    return 0 if all(aims.values()) else 1


def _measure(clients: Clients, targets: Sequence[Target], plan: Plan, console: Console) -> Results:
    """Targets take turns at each size, so that what else the machine does meets all of them."""
    results: Results = {}
    for rows, count in product(plan.rows, plan.clients):
        for target in targets:
            result = clients.run(target, count, rows, plan.seconds)
            if result.failures:
                raise RuntimeError(f"{target.name}: {result.failures} requests failed: {result.failure}")
            results[target.name, count, rows] = result
            console.print(f"{target.name}, {count} clients, {rows} rows: {result.rate:,.0f}/s", style="dim", highlight=False)
    return results


def _grpc_and_rest(clients: Clients, folder: Path, plan: Plan, console: Console) -> Results:
    server, grpc, rest = servers.embedded(folder)
    try:
        bare, ceiling = servers.echo(folder)
        try:
            return _measure(clients, [ceiling, grpc, rest], plan, console)
        finally:
            bare.stop()
    finally:
        server.stop()


def _others(clients: Clients, folder: Path, plan: Plan, console: Console, venvs: Path) -> Results:
    """Those that do not start or answer are named, with what they said."""
    results: Results = {}
    makers = servers.rivals(venvs)
    for name in ("mlserver", "kserve", "bentoml", "litserve"):
        if name not in makers:
            console.print(f"{name} is left out: there is no {venvs / name}", style="yellow")
    for name, make in makers.items():
        try:
            running, target = make(folder)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            console.print(f"{name} is left out: {error}", style="yellow", markup=False)
            continue
        try:
            servers.wait_until_answered(target)
            results |= _measure(clients, [target], plan, console)
        except RuntimeError as error:
            console.print(f"{name} is left out: {error}\n{running.log.read_text()[-1500:]}", style="yellow", markup=False)
        finally:
            running.stop()
    return results


def _several_processes(clients: Clients, folder: Path, plan: Plan) -> Results:
    """As many processes as processors, one row, the most clients."""
    processes, count = len(os.sched_getaffinity(0)), plan.clients[-1]
    server, grpc, rest = servers.embedded(folder, f"--processes={processes}")
    try:
        # The port is open as soon as the first of them has loaded.
        time.sleep(5)
        return {(target.name, count, 1): clients.run(target, count, 1, plan.seconds) for target in (grpc, rest)}
    finally:
        server.stop()


def _in_process(folder: Path, plan: Plan) -> dict[int, float]:
    """Milliseconds of the signature called as TensorFlow's users do, by rows; in a process of its own, as it loads TensorFlow."""
    code = "from benchmarks.serving import time_signature; import sys; time_signature(sys.argv[1], *map(int, sys.argv[2:]))"
    command = [sys.executable, "-c", code, str(folder), *map(str, plan.rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=servers.ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return {int(rows): took for rows, took in json.loads(done.stdout.splitlines()[-1]).items()}


def time_signature(folder: str, *sizes: int) -> None:
    """Saves the model, calls its signature a thousand times a size and prints the medians as JSON."""
    import tensorflow as tf

    servers.save_model(Path(folder) / "model", Path(folder) / "weights.npz", 1)
    signature = tf.saved_model.load(str(Path(folder) / "model" / "1")).signatures["serving_default"]
    medians = {}
    for size in sizes:
        x = servers.rows(size)
        took = []
        for _ in range(1000):
            start = time.perf_counter()
            signature(x=tf.constant(x))["y"].numpy()
            took.append(time.perf_counter() - start)
        medians[size] = float(np.median(took)) * 1000
    print(json.dumps(medians))


def _add_version(folder: Path, version: int) -> None:
    shutil.copytree(folder / "model" / "1", folder / f"{version}.tmp")
    (folder / f"{version}.tmp").rename(folder / "model" / str(version))


def _swap(clients: Clients, folder: Path, plan: Plan, console: Console) -> dict[str, bool]:
    """Swaps versions under load until all requests were made."""
    server, grpc, _ = servers.embedded(folder)
    windows: list[tuple[float, float]] = []
    version = 1
    try:
        with Client(f"127.0.0.1:{grpc.port}") as client, ThreadPoolExecutor(1) as thread:
            load = thread.submit(clients.run, grpc, 16, 1, 3600, plan.swap_requests)
            time.sleep(_WARM_SECONDS + 2)
            while not load.done():
                start = time.time()
                version += 1
                _add_version(folder, version)
                while {each.version: each.state.name for each in client.status("net")}.get(version - 1, "END") != "END":
                    time.sleep(0.05)
                windows.append((start, time.time()))
                time.sleep(3)
            result = load.result()
    finally:
        server.stop()
    during = np.any([(result.ends >= start) & (result.ends <= end) for start, end in windows], axis=0)
    before, meanwhile = result.latencies[~during], result.latencies[during]
    ratio = float(np.percentile(meanwhile, 99) / np.percentile(before, 99))
    table = Table("", "requests", "p50 ms", "p99 ms", "max ms", title=f"{len(windows)} swaps under load: 16 clients, gRPC, 1 row")
    for name, found in (("before", before), ("during", meanwhile)):
        table.add_row(name, f"{len(found):,}", *(f"{np.percentile(found, each):.2f}" for each in (50, 99, 100)))
    console.print(table, f"{result.failures} failed {result.failure}")
    total = len(result.latencies) + result.failures
    return {
        f"{total:,} requests across {len(windows)} swaps, none failed: {result.failures}": result.failures == 0,
        f"p99 during a swap at most twice that before: {ratio:.2f}": ratio <= 2,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
