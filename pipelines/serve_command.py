"""`tfline serve`: hands everything to the model server, or makes its flags of the name of a model in a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components.errors import UsageError
from serving.fleet_reload import serving_flags
from serving.server.main import serve

PROGRAM = """tfline serve MODEL [--home DIR] [--flag=value ...]
       tfline serve --flag=value ...
MODEL is served from DIR/store (DIR is .tfline) on gRPC port 8500 and REST port 8501. Without it, the flags say everything, as for
tensorflow_model_server; it listens on the loopback address unless --bind_address says otherwise."""


def run_server(arguments: Sequence[str]) -> int:
    """Runs the server until a signal.

    Args:
        arguments: Flags of tensorflow_model_server, which are passed on as they are; or first a model's name (or `--home DIR`
            and the name), for the model in DIR/store with gRPC on port 8500 and REST on 8501, and then flags.

    Returns:
        The exit code, see `serving.server.main.serve`.

    Raises:
        UsageError: Two names, or a model that is not in the store.
    """
    short = bool(arguments) and (not arguments[0].startswith("-") or arguments[0].partition("=")[0] == "--home")
    return serve(store_flags(arguments) if short else arguments, program=PROGRAM)


def store_flags(arguments: Sequence[str]) -> list[str]:
    """The server's flags for `MODEL [--home DIR] [--flag=value …]`; the caller's flags come last, so they win.

    A model that `tfline promote` gave labels is served with them, all of its versions.
    """
    home, names, flags = Path(".tfline"), [], []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--home" or argument.startswith("--home="):
            home = Path(argument.partition("=")[2] or next(rest, ".tfline"))
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            names.append(argument)
    if len(names) != 1:
        raise UsageError(f"tfline serve takes one model's name, or only --flag=value; got {' '.join(names) or 'none'}")
    store = (home / "store").resolve()
    (name,) = names
    known = sorted(each.name for each in store.iterdir() if each.is_dir()) if store.is_dir() else []
    if name not in known:
        raise UsageError(f"{store} has no model {name!r}; it has {', '.join(known) or 'none'}. --home says where the store is")
    return ["--port=8500", "--rest_api_port=8501", *serving_flags(store, name), *flags]
