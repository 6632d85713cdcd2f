"""Throws mutated requests at a model server: it must live, and never answer that it failed itself.

    python -m tests.serving.fuzz --inputs 100000 [--seed 0]

Starts the server under test (see tests/serving/conformance/servers.py) on the conformance suite's models, and sends it REST
requests with mutated paths, headers and bodies and gRPC requests with mutated fields and bytes, about half of each. They come
from a seed, so that what fails can be had again: a failure prints the input's number, and `--first N --inputs 1` sends that one.

A REST answer of 500 or more, gRPC's INTERNAL or UNKNOWN, a broken connection, a server that ended and a traceback in its log
are failures; gRPC's own INTERNAL for bytes that are no message (the C++ server's) is none.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.serving.conformance.models import make
from tests.serving.conformance.servers import EMBEDDED, Server
from tests.serving.fuzz.inputs import inputs
from tests.serving.fuzz.target import Failure, Target


def main(arguments: Sequence[str]) -> int:
    """Sends inputs, prints what came back; 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tfline-fuzz-") as temporary:
        folder = Path(temporary)
        server = Server(
            {"model_config_file": make(folder) / "models.config", "allow_version_labels_for_unavailable_models": "true"}, folder
        )
        try:
            failures = _run(server, asked.seed, asked.first, asked.inputs)
        finally:
            server.stop()
        if EMBEDDED and "Traceback" in server.log():
            where = server.log().index("Traceback")
            print(f"The server's log has a traceback:\n{server.log()[max(0, where - 300) : where + 3000]}")
            failures += 1
    return 1 if failures else 0


def _run(server: Server, seed: int, first: int, count: int) -> int:
    target = Target(server.channel, server.rest_port)
    answers: Counter[str] = Counter()
    failures = 0
    start = time.monotonic()
    for number, one in enumerate(inputs(seed, first, count), first):
        try:
            answers[target.send(one)] += 1
        except Failure as failure:
            failures += 1
            print(f"input {number}: {failure}\n  {one!r:.1000}")
        if server.process.poll() is not None:
            print(
                f"The server ended at input {number}, code {server.process.returncode}:\n  {one!r:.1000}\n{server.log()[-3000:]}"
            )
            return failures + 1
        if failures >= 20:
            print("20 failures; leaving off")
            break
    target.close()
    print(f"{sum(answers.values()):,} inputs answered in {time.monotonic() - start:.0f} s, {failures} failures; seed {seed}")
    print(", ".join(f"{answer}: {times:,}" for answer, times in sorted(answers.items())))
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
