"""A server's process, with small programs for servers: started, waited for, ended, whatever it or its starter does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.errors import ServingError
from serving.server_process import ServerFailed, ServerProcess
from serving.server_program import ServerProgram, embedded_program, find_program

# Answers GetModelStatus as its second argument says: a list of (version, state, code, message).
FAKE = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from serving.client.messages import message

flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[2:])

def answer(request, context):
    response = message("tensorflow.serving.GetModelStatusResponse")()
    for version, state, code, told in eval(sys.argv[1]):
        found = response.model_version_status.add(version=version, state=state)
        found.status.error_code, found.status.error_message = code, told
    return response.SerializeToString()

server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
handlers = {"GetModelStatus": grpc.unary_unary_rpc_method_handler(answer)}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", handlers)])
server.add_insecure_port("127.0.0.1:" + flags["port"])
server.start()
import socket
rest = socket.socket()
rest.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
rest.bind(("127.0.0.1", int(flags["rest_api_port"])))
rest.listen()
print("serving", flags["model_name"], flush=True)
time.sleep(600)
"""

START, LOADING, AVAILABLE, END = 10, 20, 30, 50

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program with Python code for a server; ended after the test."""
    started: list[ServerProcess] = []

    def begin(code: str, *arguments: str, grpc_port: int = 0, rest_port: int = 0) -> ServerProcess:
        program = ServerProgram("binary", (sys.executable, "-c", code, *arguments))
        log = tmp_path / "server.log"
        server = ServerProcess(program, ["--model_name=m"], log=log, grpc_port=grpc_port, rest_port=rest_port)
        started.append(server)
        server.start()
        return server

    yield begin
    for server in started:
        server.stop(0)


def statuses(*each: tuple[int, int, int, str]) -> str:
    return repr(list(each))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    ends = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < ends:
        time.sleep(0.02)
    return not alive(pid)


def test_a_life(start: Start) -> None:
    server = start(FAKE, statuses((2, START, 0, ""), (1, AVAILABLE, 0, "")))
    assert server.wait_until_available("m", timeout=30) > 0
    assert server.wait_until_available("m", [1], timeout=30) < 5
    with pytest.raises(ServerFailed, match=r"m was not available after 0\.2 s: version 2 is START"):
        server.wait_until_available("m", [2], timeout=0.2)
    assert server.rest_address.startswith("http://127.0.0.1:")
    assert server.log_lines() == ["serving m"]
    assert server.exit_code() is None
    pid = server.pid
    assert pid
    server.stop()
    assert (server.exit_code(), alive(pid)) == (-signal.SIGTERM, False)
    server.stop()
    with pytest.raises(RuntimeError):
        server.start()


def test_a_version_that_ended(start: Start) -> None:
    server = start(FAKE, statuses((2, END, 3, "bad warm-up"), (1, AVAILABLE, 0, "")))
    server.wait_until_available("m", timeout=30)
    with pytest.raises(ServerFailed, match="m cannot be served: version 2 ended with INVALID_ARGUMENT: bad warm-up") as caught:
        server.wait_until_available("m", [1, 2], timeout=30)
    assert caught.value.log == ("serving m",)


def test_a_server_that_ends(start: Start) -> None:
    server = start("import sys; print('\\n'.join(map(str, range(20)))); print(); sys.exit('no room')")
    with pytest.raises(ServerFailed, match="the server ended with exit code 1 before m was available") as caught:
        server.wait_until_available("m", timeout=30)
    assert caught.value.log == (*map(str, range(11, 20)), "no room")
    assert server.exit_code() == 1


def test_a_server_that_is_killed(start: Start) -> None:
    server = start("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(ServerFailed, match="ended with SIGSEGV"):
        server.wait_until_available("m", timeout=30)


def test_a_server_that_never_opens_its_ports(start: Start) -> None:
    server = start("import time; time.sleep(600)")
    with pytest.raises(ServerFailed, match=r"m was not available after 0\.5 s: its ports are closed"):
        server.wait_until_available("m", timeout=0.5)


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with ServerProcess(ServerProgram("binary", (str(tmp_path / "none"),)), [], log=tmp_path / "log") as server:
        with pytest.raises(ServerFailed) as caught:
            server.wait_until_available("m", timeout=30)
        assert caught.value.log == (f"cannot run {tmp_path}/none: No such file or directory",)


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def wait_for_line(server: ServerProcess) -> str:
    ends = time.monotonic() + 20
    while not server.log_lines():
        assert time.monotonic() < ends
        time.sleep(0.02)
    return server.log_lines()[-1]


def test_what_does_not_end_is_ended_with_all_it_started(start: Start) -> None:
    server = start(STUBBORN)
    child = int(wait_for_line(server))
    began = time.monotonic()
    server.stop(grace=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert server.exit_code() == -signal.SIGKILL
    assert gone(child)


def test_a_child_outlives_its_server_no_longer_than_stop(start: Start) -> None:
    """The leader is not reaped before the group is ended, so the group's number cannot have gone to anybody else."""
    server = start("import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)")
    child = int(wait_for_line(server))
    with pytest.raises(ServerFailed, match="exit code 0"):
        server.wait_until_available("m", timeout=20)
    assert alive(child)
    server.stop()
    assert gone(child)


STARTER = """
import os, sys, threading, time
from pathlib import Path
from serving.server_process import ServerProcess
from serving.server_program import ServerProgram

program = ServerProgram("binary", (sys.executable, "-c", "import time; time.sleep(600)"))
server = ServerProcess(program, [], log=Path(sys.argv[1]))
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
time.sleep(0.3)
assert server.exit_code() is None, "it must outlive the thread that asked for it"
print(server.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children of their parent's end")
def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        pid = int(starter.stdout.readline())
        assert alive(pid)
        starter.kill()
        starter.wait()
    assert gone(pid)


def test_a_port_that_is_taken(start: Start) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerFailed, match=rf"port {port} of 127\.0\.0\.1 cannot be had: Address already in use"):
            start("pass", rest_port=port)


def test_ports_are_kept_until_the_server_has_them(start: Start) -> None:
    servers = [start("import time; time.sleep(600)") for _ in range(20)]
    addresses = {address for server in servers for address in (server.grpc_address, server.rest_address)}
    assert len(addresses) == 40
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", int(servers[0].grpc_address.rpartition(":")[2])))


def test_chosen_ports(start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(FAKE, statuses((1, AVAILABLE, 0, "")), grpc_port=port)
    server.wait_until_available("m", timeout=30)
    assert server.grpc_address == f"127.0.0.1:{port}"


# Which program ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """A PATH with nothing on it but what the returned function puts there: programs of a name and the lines of a shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return put


def test_auto_takes_the_binary_then_docker_then_the_embedded_one(path: Callable[[str, str], Path]) -> None:
    assert find_program() == embedded_program()
    docker = path("docker", 'test "$1 $4" = "image tensorflow/serving" && echo sha256:1')
    assert find_program() == ServerProgram("docker", (str(docker),), "tensorflow/serving")
    assert find_program().version() == "tensorflow/serving sha256:1"
    assert find_program(image="other") == embedded_program(), "an image that is not there is not fetched"
    binary = path("tensorflow_model_server", "echo TensorFlow ModelServer: 2.19.1-rel; echo TensorFlow Library: 2.19.1")
    assert find_program() == ServerProgram("binary", (str(binary),))
    assert find_program().version() == "TensorFlow ModelServer: 2.19.1-rel"
    assert find_program("embedded") == embedded_program()


def test_a_server_that_is_not_there(path: Callable[[str, str], Path]) -> None:
    for choice, message in (("binary", "on PATH, found none"), ("docker", "there is no docker command on PATH")):
        with pytest.raises(ServingError, match=message):
            find_program(choice)  # type: ignore[arg-type]
    path("docker", "exit 1")
    with pytest.raises(ServingError, match=r"its daemon does not answer \(docker info\)"):
        find_program("docker")


def test_the_embedded_server_says_its_version() -> None:
    assert "TensorFlow ModelServer: " in embedded_program().version()


DOCKER = """
echo "$@" >> {record}
case "$1" in
run) while test "$1" != "$IMAGE"; do shift; done
     shift
     exec {python} -c "$FAKE_SERVER" "$FAKE_STATUSES" "$@";;
esac
"""


def test_docker(path: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the docker command that records what it was asked and runs a server itself."""
    record = tmp_path / "asked"
    monkeypatch.setenv("FAKE_SERVER", FAKE)
    monkeypatch.setenv("FAKE_STATUSES", statuses((1, AVAILABLE, 0, "")))
    docker = path("docker", DOCKER.format(record=record, python=sys.executable))
    program = ServerProgram("docker", (str(docker),), "tensorflow/serving:2.19.1")
    monkeypatch.setenv("IMAGE", program.image)
    base = tmp_path / "base"
    flags = ["--model_name=m", f"--model_base_path={base}"]
    with ServerProcess(program, flags, log=tmp_path / "log", mounts=[base]) as server:
        server.wait_until_available("m", timeout=30)
        grpc, rest = (address.rpartition(":")[2] for address in (server.grpc_address, server.rest_address))
    asked, removed = record.read_text().splitlines()
    name = asked.split("--name=")[1].split()[0]
    assert asked == (
        f"run --rm --init --name={name} --entrypoint=tensorflow_model_server --publish=127.0.0.1:{grpc}:{grpc} "
        f"--publish=127.0.0.1:{rest}:{rest} --volume={base}:{base}:ro tensorflow/serving:2.19.1 "
        f"--port={grpc} --rest_api_port={rest} --model_name=m --model_base_path={base}"
    )
    assert removed == f"rm --force {name}"


def test_what_the_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    monkeypatch.setenv("PYTHONPATH", "/other")
    told = embedded_program().environment()
    root, other = told["PYTHONPATH"].split(os.pathsep)
    assert (Path(root, "serving").is_dir(), other, "TF_CPP_MIN_LOG_LEVEL" in told) == (True, "/other", False)


def test_starting_from_many_threads(start: Start) -> None:
    servers: list[ServerProcess] = []
    threads = [threading.Thread(target=lambda: servers.append(start("import time; time.sleep(600)"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)
    assert [server.exit_code() for server in servers] == [None] * 5
