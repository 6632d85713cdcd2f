"""`tfline fleet up`: several local servers of a model, to try a fleet out."""

from __future__ import annotations

import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import click

from components.errors import UsageError
from serving.fleet_reload import serving_flags
from serving.server_process import ServerFailed, ServerProcess
from serving.server_program import embedded_program
from serving.version_folder import check_model_name

_START_SECONDS = 120.0


def fleet_up(store: Path, model: str | None, count: int, seconds: float = 0.0) -> None:
    """Starts embedded servers on the models of a store and waits for Ctrl-C or SIGTERM; none is left behind.

    Args:
        store: Root of the store, whose folders they share.
        model: Its name; None for the only one there is.
        count: How many servers.
        seconds: When to end by itself; 0 for never.

    Raises:
        UsageError: There is no such model, or several and none was named.
        ServerFailed: A server does not start, or ended by itself.
    """
    name = _model(store, model)
    stop = threading.Event()
    previous = {number: signal.signal(number, _stopper(stop)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with tempfile.TemporaryDirectory(prefix="tfline-fleet-") as logs, ExitStack() as stack:
            # Read once: a push with labels will set its own configuration.
            flags = [flag for flag in serving_flags(store, name) if "poll" not in flag] + ["--rest_list_models"]
            servers = [ServerProcess(embedded_program(), flags, log=Path(logs, f"{number}.log")) for number in range(count)]
            for server in servers:
                stack.enter_context(server)
            for server in servers:
                _wait(server, name, stop)
            if not stop.is_set():
                click.echo(_told(servers, name))
            waited = 0.0
            while not stop.wait(0.2) and (not seconds or waited < seconds):
                waited += 0.2
                for number, server in enumerate(servers, 1):
                    if (code := server.exit_code()) is not None:
                        click.echo(f"server-{number} ended (exit code {code}); the others go on", err=True)
                        servers.remove(server)
                if not servers:
                    raise ServerFailed("every server ended by itself")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(server: ServerProcess, model: str, stop: threading.Event) -> None:
    """In short steps: Ctrl-C also ends a start."""
    for _ in range(int(_START_SECONDS)):
        if stop.is_set():
            return
        try:
            server.wait_until_available(model, timeout=1.0)
        except ServerFailed as error:
            if server.exit_code() is not None or "cannot be served" in str(error):
                raise ServerFailed("\n".join([str(error), *error.log])) from None
        else:
            return
    raise ServerFailed("\n".join([f"{model} was not available after {_START_SECONDS:g} s", *server.log_lines()]))


def _stopper(stop: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_: int, __: FrameType | None) -> None:
        stop.set()

    return handle


def _told(servers: Sequence[ServerProcess], model: str) -> str:
    rows = [
        f"  server-{number}  gRPC {server.grpc_address}  REST {server.rest_address}" for number, server in enumerate(servers, 1)
    ]
    ask = [shlex.join(["tfline", "predict", model, "--input", "rows.json"]), *(f"--server {s.grpc_address}" for s in servers)]
    instances = [f'      - {{name: server-{n}, address: "{server.grpc_address}"}}' for n, server in enumerate(servers, 1)]
    return "\n".join(
        [
            f"{model} is served by {len(servers)} servers:",
            *rows,
            "To ask them in turn (rows.json has a list of rows):",
            "  " + " \\\n      ".join(ask),
            "To push to them, in pipeline.yaml:",
            "push:",
            "  fleet:",
            "    instances:",
            *instances,
            "Ctrl-C ends them.",
        ]
    )


def _model(store: Path, model: str | None) -> str:
    known = sorted(path.name for path in store.iterdir() if path.is_dir() and path.name[0] != ".") if store.is_dir() else []
    if model is None and len(known) == 1:
        return known[0]
    if model is None:
        raise UsageError(f"name one of the models of {store}: {', '.join(known) or 'it has none'}")
    if check_model_name(model) not in known:
        raise UsageError(f"{store} has no model {model!r}; it has {', '.join(known) or 'none'}. --home says where the store is")
    return model
