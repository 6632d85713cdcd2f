"""Infra-validate: the candidate in a real server process, asked by gRPC and REST before anybody else may: the gate "infra".

Inputs: model, golden examples. Output: `blessing`, TFX's InfraBlessing, as its InfraValidator writes it
(tfx/components/infra_validator/executor.py): an empty file INFRA_BLESSED or INFRA_NOT_BLESSED and the property `blessed`; and

    report.json                         a `Report`
    server.log                          what the server printed
    warmup/tf_serving_warmup_requests   golden examples as warm-up requests, for push to put into the version

The server is the binary `tensorflow_model_server`, that of Docker's image tensorflow/serving, or the embedded one. It loads the
SavedModel from a temporary folder, as version 1 and, with the warm-up requests in it, as version 2, which it takes over while
running. Whatever is wrong with the model or with the server that runs it is a refusal; a server that is not there is an error.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from components.errors import TflineError
from components.infra_requests import LatencyBudget, Row, ask_all, exercises_of, warmup_requests
from components.layout import SERVING_DIR, WARMUP_FILE
from components.records import write_atomically
from components.saved_model_answers import Exercise, Golden, Tolerance, read_golden
from components.summary import Refusal, Summary, Table
from serving.errors import ServingError
from serving.linked_version import link_version
from serving.server_process import ServerFailed, ServerProcess
from serving.server_program import IMAGE, Choice, ServerProgram, find_program

if TYPE_CHECKING:
    from serving.client import Client

INPUTS: Mapping[str, str] = {"model": "Model", "golden": "GoldenExamples"}
OUTPUTS: Mapping[str, str] = {"blessing": "InfraBlessing"}

REPORT = "blessing"
"""The output whose report makes this stage a gate."""

BLESSED, NOT_BLESSED = "INFRA_BLESSED", "INFRA_NOT_BLESSED"
_LOG_LINES = 10


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Config(_Frozen):
    """In which server the model has to prove itself, and how.

    Attributes:
        server: "auto" is the binary when it is on PATH, else Docker when it runs and has the image, else the embedded server.
        image: For Docker.
        tolerance: For the comparison with the golden answers.
        max_latency_ms: For requests of one example, of each signature, by gRPC and by REST. With a limit the stage waits until
            evaluate and optimize, which it otherwise runs beside, are done.
        requests: How many of them are measured, for each signature and protocol.
        timeout_seconds: For the server to start and load the model, and again to load it with its warm-up requests.
        warmup_requests: How many golden examples are recorded into the version, for each signature; 0 for none. A model that
            brings warm-up requests of its own keeps those.
        model: The name under which it is served here; that under which it is pushed unless it is set.
    """

    server: Choice = "auto"
    image: str = Field(default=IMAGE, pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:@-]*$")
    tolerance: Tolerance = Tolerance()
    max_latency_ms: LatencyBudget = LatencyBudget()
    requests: int = Field(default=100, ge=1, le=100_000)
    timeout_seconds: float = Field(default=120, gt=0, allow_inf_nan=False)
    warmup_requests: int = Field(default=8, ge=0, le=100)
    model: str = Field(default="model", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")


class Report(_Frozen):
    """What was found out.

    Attributes:
        server, version: Its kind and what it says of its version.
        seconds_to_available: From the start of the process until the model was AVAILABLE; None when it never was.
        seconds_to_swap: Until the version with warm-up requests was AVAILABLE in the running server; None without one.
        rows: One a signature and protocol.
        left_out: Signatures that the golden examples cannot feed, and why.
        warmup_requests: How many were recorded.
        problems: Why it is refused; none for a good model.
        log: The server's last lines.
    """

    server: str
    version: str
    seconds_to_available: float | None = None
    seconds_to_swap: float | None = None
    rows: tuple[Row, ...] = ()
    left_out: dict[str, str] = Field(default_factory=dict)
    warmup_requests: int = 0
    problems: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


def resolve(inputs: Mapping[str, Path], config: Config) -> dict[str, str]:
    """Which server it will be, before the cache is looked up: another one has to be asked anew.

    Raises:
        TflineError: The server that the configuration names is not there.
    """
    program = _program(config)
    return {"server": program.kind, "version": program.version()}


def _program(config: Config) -> ServerProgram:
    try:
        return find_program(config.server, image=config.image)
    except ServingError as error:
        raise TflineError(f"infra_validate.server: {error}") from error


def infra_validate(model: Path, golden: Path, folder: Path, config: Config, program: ServerProgram | None = None) -> Report:
    """Starts a server on a model, asks it, and ends it.

    Args:
        model: Model artifact; it is only read.
        golden: GoldenExamples artifact.
        folder: Where server.log and the warm-up requests go; exists.
        config: What is expected.
        program: The server; the one that the configuration names when None.

    Raises:
        TflineError: The server is not there, or the golden examples cannot be read.
    """
    program = program or _program(config)
    examples = read_golden(golden)
    with tempfile.TemporaryDirectory(prefix="tfline-infra-") as temporary:
        base = Path(temporary, config.model)
        base.mkdir()
        link_version(model / SERVING_DIR, base / "1")
        # A model that does not load is tried once; TensorFlow Serving would go on for five minutes.
        flags = [f"--model_name={config.model}", f"--model_base_path={base}", "--max_num_load_retries=0"]
        server = ServerProcess(program, flags, log=folder / "server.log", mounts=[base])
        check = _Check(server, base, config, examples)
        with server:
            try:
                check.run(folder)
            except ServerFailed as error:
                check.problems.append(str(error))
            log = server.log_lines(_LOG_LINES)
    return Report(server=program.kind, version=program.version(), problems=tuple(check.problems), log=tuple(log), **check.found)


class _Check:
    """One server under test: what was found (fields of a Report) and the problems, as they grow."""

    def __init__(self, server: ServerProcess, base: Path, config: Config, golden: Golden) -> None:
        self.server, self.base, self.config, self.golden = server, base, config, golden
        self.found: dict[str, Any] = {}
        self.problems: list[str] = []

    def run(self, folder: Path) -> None:
        """Everything, as far as it gets; ServerFailed when the server does not load the model."""
        from serving.client import Client, Retry

        config = self.config
        self.found["seconds_to_available"] = self.server.wait_until_available(config.model, [1], timeout=config.timeout_seconds)
        addresses = {"gRPC": self.server.grpc_address, "REST": self.server.rest_address}
        exercises: list[Exercise] = []
        for protocol, address in addresses.items():
            # What succeeds only when it is asked again is to be seen here.
            with Client(address, timeout=config.timeout_seconds, retry=Retry(rounds=1)) as client:
                exercises = self._ask(client, protocol)
        if (code := self.server.exit_code()) is not None:
            self.problems.append(f"the server ended with exit code {code} while it was asked")
        if not self.problems:
            self._warm_up(exercises, folder)

    def _ask(self, client: Client, protocol: str) -> list[Exercise]:
        from serving.client import RequestError

        config = self.config
        try:
            exercises, self.found["left_out"] = exercises_of(client, config.model, self.golden)
        except RequestError as error:
            self.problems.append(f"by {protocol}: asked for the signatures, received {error.code.name}: {error.message}")
            return []
        if not exercises:
            told = "; ".join(f"{name}: {why}" for name, why in self.found["left_out"].items()) or "it has none"
            self.problems.append(f"by {protocol}: no signature can be fed with the golden examples: {told}")
        for exercise in exercises:
            row, problems = ask_all(exercise, protocol, config.tolerance, config.requests, config.max_latency_ms)
            self.found["rows"] = (*self.found.get("rows", ()), row)
            self.problems += problems
        return exercises

    def _warm_up(self, exercises: Sequence[Exercise], folder: Path) -> None:
        """Puts warm-up requests beside the model and has the running server take over the two as version 2."""
        from serving.server.warmup import REQUESTS, write_warmup

        count = self.config.warmup_requests
        if not count or (self.base / "1" / REQUESTS).exists():
            return
        requests = warmup_requests(self.config.model, exercises, count)
        written = write_warmup(self.base.parent / "warmup", requests)
        link_version(self.base / "1", self.base / "2", {REQUESTS: written})
        try:
            seconds = self.server.wait_until_available(self.config.model, [2], timeout=self.config.timeout_seconds)
        except ServerFailed as error:
            self.problems.append(f"with {len(requests)} golden examples as warm-up requests: {error}")
            return
        self.found |= {"seconds_to_swap": seconds, "warmup_requests": len(requests)}
        target = folder / WARMUP_FILE
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(written, target)


def run(inputs: Mapping[str, Path], outputs: Mapping[str, Path], config: Config) -> dict[str, dict[str, int]]:
    """The stage as the pipeline calls it; the property is what TFX's own InfraValidator sets."""
    folder = outputs["blessing"]
    report = infra_validate(inputs["model"], inputs["golden"], folder, config)
    write_atomically(folder / "report.json", report.model_dump_json(indent=1))
    (folder / (NOT_BLESSED if report.problems else BLESSED)).touch()
    return {"blessing": {"blessed": int(not report.problems)}}


def summarise(outputs: Mapping[str, Sequence[str]]) -> Summary:
    """Describes the stage from its report.json; a problem is a refusal of the gate "infra"."""
    folder = Path(outputs["blessing"][0])
    report = Report.model_validate_json((folder / "report.json").read_text(encoding="utf-8"))
    signatures = len({row.signature for row in report.rows})
    slowest = max((row.p99_ms for row in report.rows if row.p99_ms is not None), default=0.0)
    passed = f"{signatures} signature{'' if signatures == 1 else 's'}, p99 {slowest:.1f} ms"
    count = len(report.problems)
    failed = f"{count} problem{'' if count == 1 else 's'}"
    metrics = {name: getattr(report, name) for name in ("seconds_to_available", "seconds_to_swap")}
    for row in report.rows:
        for name in ("largest_difference", "p50_ms", "p99_ms"):
            metrics[f"{name}.{row.signature}.{row.protocol}"] = getattr(row, name)
    reasons = (*report.problems, *(f"server log: {line}" for line in report.log))
    columns = tuple(Row.model_fields)
    return Summary(
        headline=f"{report.server}: {failed if count else passed}",
        metrics={"warmup_requests": float(report.warmup_requests), **{k: v for k, v in metrics.items() if v is not None}},
        params={"server": report.server, "server_version": report.version},
        tables={
            "requests": Table(columns=columns, rows=tuple(tuple(getattr(row, key) for key in columns) for row in report.rows))
        },
        files=tuple(str((folder / name).absolute()) for name in ("report.json", "server.log")),
        refusal=Refusal(gate="infra", reasons=reasons) if count else None,
    )
