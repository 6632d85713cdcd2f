"""Which model server there is to run: the embedded one, the binary `tensorflow_model_server`, or that binary in Docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from serving.errors import ServingError

Kind = Literal["embedded", "binary", "docker"]
Choice = Literal["auto", "embedded", "binary", "docker"]

BINARY = "tensorflow_model_server"
IMAGE = "tensorflow/serving"

_ROOT = Path(__file__).resolve().parents[1]
_ASK_SECONDS = 20.0


@dataclass(frozen=True)
class ServerProgram:
    """A model server that can be started.

    Attributes:
        kind: Which of the three.
        command: What the server's flags follow. Of "docker": the docker command alone; `ServerProcess` adds `run` with the rest.
        image: Of "docker".
    """

    kind: Kind
    command: tuple[str, ...]
    image: str = ""

    def version(self) -> str:
        """What it says of its version, in one line; of "docker" also the image's id. "unknown" when it does not say."""
        if self.kind == "embedded":
            from serving.server.flags import versions

            return ", ".join(versions().splitlines())
        if self.kind == "docker":
            return f"{self.image} {_answer([*self.command, 'image', 'inspect', '--format={{.Id}}', self.image]) or 'unknown'}"
        return _answer([*self.command, "--version"]) or "unknown"

    def environment(self) -> dict[str, str]:
        """The variables that it gets: this process's, with tfline's own packages where Python looks for them.

        TF_CPP_MIN_LOG_LEVEL is left out: a server whose log is to be read must not be as quiet as a pipeline's stage.
        """
        variables = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
        if self.kind == "embedded":
            paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            variables["PYTHONPATH"] = os.pathsep.join(paths)
        return variables


def find_program(choice: Choice = "auto", *, image: str = IMAGE) -> ServerProgram:
    """The model server to run.

    Args:
        choice: "auto" is the binary when it is on PATH; else Docker, when its daemon answers and already has the image, since
            nothing is downloaded unasked; else the embedded one.
        image: For Docker, which fetches one that it does not have when "docker" was asked for by name.

    Raises:
        ServingError: The one that was asked for is not there.
    """
    if choice not in get_args(Choice):
        raise ServingError(f"expected a server of {', '.join(get_args(Choice))}, got {choice!r}")
    if choice in ("auto", "binary") and (binary := shutil.which(BINARY)):
        return ServerProgram("binary", (binary,))
    if choice == "binary":
        raise ServingError(
            f"expected {BINARY} on PATH, found none; install it, or choose another server (auto, embedded, docker)"
        )
    docker = shutil.which("docker") if choice in ("auto", "docker") else None
    if docker and _answer([docker, *(("image", "inspect", "--format={{.Id}}", image) if choice == "auto" else ("info",))]):
        return ServerProgram("docker", (docker,), image)
    if choice == "docker":
        why = "its daemon does not answer (docker info)" if docker else "there is no docker command on PATH"
        raise ServingError(f"expected Docker to run {image}: {why}; choose another server (auto, embedded, binary)")
    return embedded_program()


def embedded_program() -> ServerProgram:
    """The embedded server, in this interpreter."""
    from serving.server import main

    # Without -P the working folder would come first on sys.path, and a `serving` in it before ours.
    return ServerProgram("embedded", (sys.executable, "-P", "-m", main.__name__))


def _answer(command: Sequence[str]) -> str:
    """The first line that a command prints; "" when it fails or takes long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.splitlines()), "") if done.returncode == 0 else ""
