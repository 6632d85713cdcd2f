"""A model server in a process of its own: started, waited for, ended.

    made ── start ──> starting ── wait_until_available ──> available
                         │                                     │
                         └──────────────── stop ───────────────┴──> stopped

Whoever starts a server must stop it: with `with`, or `stop` in a `finally`. Should they not live to do it (a crash, SIGKILL,
os._exit), Linux ends the server for them. A server that was stopped is not started again; make another.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from serving.errors import ServingError
from serving.server_program import ServerProgram

if TYPE_CHECKING:
    from serving.client import Client

LOOPBACK = "127.0.0.1"

_POLL_SECONDS = 0.05
_TAIL_BYTES = 64 * 1024

# Run by a bare interpreter that then becomes the server: a preexec_fn is unsafe in a process with threads.
_LAUNCH = """
import ctypes, os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG, linux/prctl.h
if os.getppid() != parent:
    raise SystemExit("whoever started this server is gone")
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    raise SystemExit(f"cannot run {sys.argv[3]}: {error.strerror}")
"""


class ServerFailed(ServingError):
    """A server did not start, ended by itself, or did not make a model available.

    Attributes:
        log: The last lines of its log, the oldest first.
    """

    def __init__(self, told: str, log: Sequence[str] = ()) -> None:
        """Args: what happened, in a sentence; the log's lines."""
        super().__init__(told)
        self.log = tuple(log)


class ServerProcess:
    """One server process, with gRPC and REST on ports of the loopback address; for one thread."""

    def __init__(
        self,
        program: ServerProgram,
        flags: Sequence[str],
        *,
        log: Path,
        mounts: Sequence[Path] = (),
        grpc_port: int = 0,
        rest_port: int = 0,
    ) -> None:
        """Describes a server; nothing is started.

        Args:
            program: Which server.
            flags: Its flags, but for `--port` and `--rest_api_port`.
            log: File that its output is appended to; made when missing.
            mounts: Absolute paths that the flags name, or that hold what they name; in Docker they are there under the same
                paths, read-only.
            grpc_port: 0 for a free one.
            rest_port: 0 for a free one.
        """
        self.program = program
        self.log = log
        self._flags = list(flags)
        self._mounts = list(mounts)
        self._wanted = (grpc_port, rest_port)
        self._held: list[socket.socket] = []
        self._ports = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._container = f"tfline-{os.getpid()}-{secrets.token_hex(4)}"
        self._ended: int | None = None

    @property
    def grpc_address(self) -> str:
        """Where gRPC is, "127.0.0.1:port"; known once it was started."""
        return f"{LOOPBACK}:{self._ports[0]}"

    @property
    def rest_address(self) -> str:
        """Where REST is, "http://127.0.0.1:port"; known once it was started."""
        return f"http://{LOOPBACK}:{self._ports[1]}"

    @property
    def pid(self) -> int | None:
        """Of the process that leads the server's group (with Docker, its command); None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process; the server has yet to load its models and open its ports.

        Raises:
            ServerFailed: A port that was asked for is taken.
            OSError: The log cannot be written.
        """
        if self._process is not None:
            raise RuntimeError("a server is started once")
        self._held = _hold_ports(self._wanted)
        first, second = (held.getsockname()[1] for held in self._held)
        self._ports = (first, second)
        if self.program.kind == "docker":
            self._let_go_of_ports()  # Docker forwards them by a process of another user, which could not share them
        # Docker passes SIGTERM on to its container, and cannot do so with SIGKILL.
        last_words = signal.SIGTERM if self.program.kind == "docker" else signal.SIGKILL
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(int(last_words)), *self.command()]
        with self.log.open("ab") as output:
            self._process = (
                _starter(os.getpid())
                .submit(
                    subprocess.Popen,
                    launch,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.program.environment(),
                    start_new_session=True,
                )
                .result()
            )

    def command(self) -> list[str]:
        """The server's command line; it has its ports once `start` was called."""
        grpc, rest = self._ports
        flags = [f"--port={grpc}", f"--rest_api_port={rest}", *self._flags]
        if self.program.kind != "docker":
            return [*self.program.command, *flags]
        # --init: as process 1 the server would pass over SIGTERM. The image's own entry point would set other ports.
        run = ["run", "--rm", "--init", f"--name={self._container}", "--entrypoint=tensorflow_model_server"]
        run += [f"--publish={LOOPBACK}:{port}:{port}" for port in self._ports]
        run += [f"--volume={path}:{path}:ro" for path in self._mounts]
        return [*self.program.command, *run, self.program.image, *flags]

    def wait_until_available(self, model: str, versions: Collection[int] = (), *, timeout: float) -> float:
        """Waits until versions of a model are AVAILABLE, by gRPC's GetModelStatus, and REST is open as well.

        Args:
            model: The model's name.
            versions: All of these; any one when empty.
            timeout: Seconds from now.

        Returns:
            Seconds that it took.

        Raises:
            ServerFailed: The process ended, a version ended with an error, or time ran out; with the log's last lines.
        """
        from serving.client import Client
        from serving.client.endpoints import Retry

        began = time.monotonic()
        told = "its ports are closed"
        with Client(self.grpc_address, timeout=min(2.0, timeout), retry=Retry(rounds=1)) as client:
            while True:
                if (code := self.exit_code()) is not None:
                    raise self._failed(f"the server ended with {_exit(code)} before {model} was available")
                # A refused connection makes gRPC wait before it tries the next one; asking the port itself does not.
                if all(map(_is_open, self._ports)):
                    available, told = _look(client, model, versions)
                    if available:
                        return time.monotonic() - began
                    if told.startswith("END"):
                        raise self._failed(f"{model} cannot be served: {told.removeprefix('END ')}")
                if time.monotonic() - began > timeout:
                    raise self._failed(f"{model} was not available after {timeout:g} s: {told}")
                time.sleep(_POLL_SECONDS)

    def exit_code(self) -> int | None:
        """None while the process runs, else its exit code, or minus the signal that ended it.

        The process is not reaped before `stop`, so that the number of its group cannot go to another one meanwhile.
        """
        if self._ended is None and self._process is not None:
            found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is not None:
                self._ended = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._ended

    def log_lines(self, count: int = 10) -> list[str]:
        """The last lines of its output that are not empty, the oldest first."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
            return [line for line in lines if line.strip()][-count:]
        return []

    def stop(self, grace: float = 10.0) -> None:
        """Asks the server to end; after `grace` seconds ends it and its whole process group. At any time, and more than once."""
        self._let_go_of_ports()
        if self._process is None or self._process.returncode is not None:
            return
        try:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + grace
            while self.exit_code() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        finally:
            if self.program.kind == "docker":
                # A container outlives a docker command that was killed.
                remove = [*self.program.command, "rm", "--force", self._container]
                with suppress(subprocess.TimeoutExpired, OSError):
                    subprocess.run(remove, capture_output=True, timeout=grace + 10, check=False)
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._ended = self._process.returncode

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        """To the server's group, whose leader is not reaped yet."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # the latter: macOS, of a group of the dead
                os.killpg(self._process.pid, number)

    def _failed(self, told: str) -> ServerFailed:
        return ServerFailed(told, self.log_lines())

    def _let_go_of_ports(self) -> None:
        while self._held:
            self._held.pop().close()


def _look(client: Client, model: str, versions: Collection[int]) -> tuple[bool, str]:
    """Whether the versions are available, and where they are if not; "END …" of one that will never be."""
    from serving.client import RequestError
    from serving.server.lifecycle import State
    from serving.server.status import Code

    try:
        statuses = client.status(model)
    except RequestError as error:
        return False, f"GetModelStatus: {error.code.name}: {error.message}"
    asked = [status for status in statuses if not versions or status.version in versions]
    ready = {status.version for status in asked if status.state is State.AVAILABLE}
    if ready and ready >= set(versions):
        return True, ""
    for status in asked:
        if status.state is State.END and status.code is not Code.OK and (versions or not ready):
            return False, f"END version {status.version} ended with {status.code.name}: {status.message}"
    return False, ", ".join(f"version {status.version} is {status.state.name}" for status in asked) or "no version is known"


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _hold_ports(wanted: Sequence[int]) -> list[socket.socket]:
    """Sockets bound to ports of the loopback address, which nobody listens on; 0 is any free port.

    They stay bound while the server runs: nobody else is given the ports before it opens them, some seconds from now. A server
    of the same user can listen beside such a socket, whether it binds with SO_REUSEADDR or SO_REUSEPORT (socket(7)).
    """
    held: list[socket.socket] = []
    try:
        for port in wanted:
            taken = socket.socket()
            held.append(taken)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((LOOPBACK, port))
            # Only now: before, it would have let this one in beside a server that has the port.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        for taken in held:
            taken.close()
        raise ServerFailed(f"port {port} of {LOOPBACK} cannot be had: {error.strerror}") from None
    return held


@cache
def _starter(process: int) -> ThreadPoolExecutor:
    """The thread of this process that starts servers, and lives as long as it does.

    Linux signals a child when the thread that started it ends, not the process (prctl(2), PR_SET_PDEATHSIG). A forked process
    does not have its parent's threads, so it gets one of its own.
    """
    return ThreadPoolExecutor(1, f"server-starter-{process}")


def _exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
