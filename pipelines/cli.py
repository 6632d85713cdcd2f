"""The `tfline` command. Parses and prints; what a command does is in a module of its own, imported when it is called."""

from __future__ import annotations

from functools import wraps
from pathlib import Path
from typing import Any

import click

from components.errors import TflineError
from serving.errors import ServingError


class _Group(click.Group):
    """Turns tfline's own errors into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (TflineError, ServingError) as error:
            click.echo(f"tfline: {error}", err=True)
            ctx.exit(error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one needs them, not that of the alphabet."""
        return list(self.commands)


_FOLDER = click.argument("folder", type=click.Path(path_type=Path))


def _home(command: Any) -> Any:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, resolve_path=True),
        default=Path(".tfline"),
        show_default=True,
        help="Where runs, artifacts, models and MLflow's records lie.",
    )(command)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="tfline")
def main() -> None:
    """A production line for TensorFlow models.

    A folder with pipeline.yaml and model.py goes in; a validated SavedModel, a quantized TFLite file and an MLflow record of
    every stage come out.
    """


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path) -> None:
    """Write a new pipeline that runs as it is.

    It becomes the folder PATH, whose last part is its name: my_pipeline becomes my-pipeline. Nothing is ever overwritten: the
    folder is a new or an empty one.
    """
    from pipelines.new_command import new_pipeline

    click.echo(new_pipeline(path))


@main.command()
@_FOLDER
@_home
@click.option("--resume", is_flag=True, help="Go on with the last unfinished run.")
@click.option("--from", "first", metavar="STAGE", help="Start here; take what comes before from an earlier run.")
@click.option("--to", "last", metavar="STAGE", help="Stop after this stage.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of pipeline.yaml; may be repeated.")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME", help="Overlay environments/NAME.yaml.")
def run(
    folder: Path, home: Path, resume: bool, first: str | None, last: str | None, overrides: tuple[str, ...], environment: str
) -> None:
    """Run the pipeline in FOLDER.

    Exit codes: 0 pushed or nothing to do, 2 bad usage or configuration, 3 a gate refused, 1 anything else.
    """
    from rich.console import Console

    from pipelines.run_command import Options, run_pipeline

    first, last = (stage and stage.replace("_", "-") for stage in (first, last))
    options = Options(environment, overrides, first, last, resume)
    raise SystemExit(run_pipeline(folder, home, options, Console()))


@main.command()
@_home
@click.option("--pipeline", help="Only runs of this pipeline.")
def runs(home: Path, pipeline: str | None) -> None:
    """List the runs, the newest first."""
    from rich.console import Console

    from pipelines.history import list_runs

    list_runs(home, pipeline, Console())


@main.command()
@click.argument("run_id", metavar="RUN")
@_home
def show(run_id: str, home: Path) -> None:
    """Show one run: its stages, results and errors. RUN may be the beginning of an id, or "last"."""
    from rich.console import Console

    from pipelines.history import show_run

    show_run(home, run_id, Console())


@main.command()
@_FOLDER
@_home
@click.option("--accept", is_flag=True, help="Write the inferred schema into FOLDER, where later runs use it.")
@click.option("--env", "environment", default="local", show_default=True, metavar="NAME", help="Overlay environments/NAME.yaml.")
def schema(folder: Path, home: Path, accept: bool, environment: str) -> None:
    """Review the schema that the last run inferred; accept it as the curated one."""
    from pipelines.schema_command import review_schema

    click.echo(review_schema(folder, home, accept=accept, environment=environment))


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--tags", default="serve", show_default=True, metavar="TAG,...", help="Tags of the graph to describe.")
def inspect(folder: Path, as_json: bool, tags: str) -> None:
    """Describe the SavedModel in DIR without loading TensorFlow.

    DIR is a SavedModel, a model's folder in a store (its newest version), or a TFX Model artifact. A broken one ends with
    what is broken, and exit code 1.
    """
    from pipelines.inspect_command import inspect_model

    inspect_model(folder, as_json=as_json, tags=[tag for tag in tags.split(",") if tag])


def _numbers(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise click.BadParameter(f"expected numbers above zero, such as 1,32,256, got {value!r}")
    return tuple(numbers)


@main.group(cls=_Group)
def tflite() -> None:
    """Models for devices: what a .tflite is, answers, and how fast."""


_TFLITE = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
_SIGNATURE = click.option("--signature", help="The way to call the model; by default the one that the rows fit.")


@tflite.command("inspect")
@_TFLITE
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def inspect_tflite(path: Path, as_json: bool) -> None:
    """Describe the .tflite FILE without TensorFlow and without running it.

    Signatures with scales and zero points, metadata (which features it wants), ops, tensors, zeros and distinct values of the
    weights. A broken file ends with what is broken, and exit code 1.
    """
    from pipelines.tflite_commands import inspect_tflite

    inspect_tflite(path, as_json=as_json)


@tflite.command("run")
@_TFLITE
@click.option(
    "--input",
    "given",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="JSON, JSON lines, CSV or .npz; - reads standard input.",
)
@_SIGNATURE
@click.option("--output", type=click.Choice(["json", "csv"]), default="json", show_default=True, help="Form of the answers.")
def run_tflite(path: Path, given: Path, signature: str | None, output: str) -> None:
    """Ask the .tflite FILE for its answers to the rows of a file, with ai-edge-litert.

    Rows are those of `tfline predict`, an .npz has an array an input. All values are real ones: what the file has as integers
    with a scale and a zero point is quantized and dequantized for you. Where the pipeline's transform lies beside the file,
    rows of raw features go through it first (`--signature raw` where they fit both): TensorFlow then runs the program in that
    folder, so take it only from those that you trust. Answers go to standard output.
    """
    from pipelines.tflite_commands import run_tflite

    run_tflite(path, None if str(given) == "-" else given, signature=signature, output=output)


@tflite.command("benchmark")
@_TFLITE
@click.option(
    "--input", "given", metavar="FILE", type=click.Path(path_type=Path), help="Rows to ask for; random ones without it."
)
@_SIGNATURE
@click.option("--threads", metavar="N,...", callback=_numbers, default="1", show_default=True, help="Threads of the interpreter.")
@click.option("--batch", metavar="N,...", callback=_numbers, default="1", show_default=True, help="Rows of a call.")
@click.option("--calls", type=click.IntRange(1), default=100, show_default=True, help="The least number of calls of each.")
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="The least time for each.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def benchmark_tflite(path: Path, given: Path | None, **plan: Any) -> None:
    """Measure how long the .tflite FILE takes to answer: p50, p95 and p99 of warm calls with ai-edge-litert."""
    from pipelines.tflite_commands import benchmark_tflite

    benchmark_tflite(path, given, **plan)


@main.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h"]},
    options_metavar="[MODEL [--home DIR]]",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[--FLAG=VALUE]...")
def serve(flags: tuple[str, ...]) -> None:
    """Serve models by gRPC and REST, as tensorflow_model_server does.

    MODEL is served from DIR/store (DIR is .tfline) on gRPC port 8500 and REST port 8501. Without it, the flags say
    everything: those of tensorflow_model_server, unchanged. `tfline serve --help` lists them. SIGTERM and Ctrl-C let
    requests finish.
    """
    from pipelines.serve_command import run_server

    raise SystemExit(run_server(flags))


def _asks_server(command: Any) -> Any:
    """Options that say whom to ask; the command gets a client made of them."""
    file = click.Path(path_type=Path, exists=True, dir_okay=False)

    address = "host:port (gRPC), http://host:port (REST), grpcs://, https:// or unix:PATH; may be repeated."

    @click.option(
        "--server", "servers", metavar="ADDRESS", multiple=True, default=["localhost:8500"], show_default=True, help=address
    )
    @click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds for each request.")
    @click.option("--ca", type=file, help="Certificates to trust, PEM; with grpcs:// and https://.")
    @click.option("--cert", type=file, help="Own certificate, PEM, for a server that wants one.")
    @click.option("--key", type=file, help="Its key, PEM.")
    @wraps(command)
    def with_client(
        servers: tuple[str, ...], timeout: float, ca: Path | None, cert: Path | None, key: Path | None, **options: Any
    ) -> None:
        from pipelines.model_commands import hinting, make_client

        with make_client(servers, timeout, ca, cert, key) as client, hinting(options["model"]):
            command(client, **options)

    return with_client


_VERSION = click.option("--version", type=click.IntRange(min=0), metavar="N", help="Ask this version, not the newest.")
_LABEL = click.option("--label", help="Ask the version with this label.")


@main.command()
@click.argument("model")
@click.option(
    "--input",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="JSON, JSON lines, CSV or TFRecord of tf.Examples; - reads standard input.",
)
@click.option("--signature", help="The way to call the model; by default the one that the rows fit.")
@_VERSION
@_LABEL
@click.option("--output", type=click.Choice(["json", "csv"]), default="json", show_default=True, help="Form of the answers.")
@click.option("--batch", type=click.IntRange(1), default=128, show_default=True, metavar="ROWS", help="Rows of a request.")
@_asks_server
def predict(client: Any, model: str, path: Path, **chosen: Any) -> None:
    """Ask the served MODEL for its answers to the rows of a file.

    JSON is a list of rows, {"instances": rows} or {"inputs": columns}, as the REST API has it, or a row on each line. CSV has
    a header with the names of the inputs; a cell with several values is a JSON list. Answers go to standard output.
    """
    from pipelines.predict_command import predict_file

    _one_of(chosen["version"], chosen["label"])
    predict_file(client, model, None if str(path) == "-" else path, **chosen)


@main.command()
@click.argument("model")
@_VERSION
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_asks_server
def status(client: Any, model: str, version: int | None, as_json: bool) -> None:
    """Show which versions of MODEL a server has, and in which state."""
    from pipelines.model_commands import print_status

    print_status(client, model, version, as_json=as_json)


@main.command()
@click.argument("model")
@_VERSION
@_LABEL
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_asks_server
def metadata(client: Any, model: str, version: int | None, label: str | None, as_json: bool) -> None:
    """Show the signatures of the served MODEL: inputs and outputs with their dtypes and shapes."""
    from pipelines.model_commands import print_metadata

    _one_of(version, label)
    print_metadata(client, model, version, label, as_json=as_json)


@main.command("compare-transports")
@click.argument("model")
@click.option("--grpc", metavar="ADDRESS", default="localhost:8500", show_default=True, help="The server's gRPC address.")
@click.option("--rest", metavar="URL", default="http://localhost:8501", show_default=True, help="The same server's REST address.")
@click.option("--input", "path", metavar="FILE", type=click.Path(path_type=Path), help="Rows to ask for; random ones without it.")
@click.option("--signature", help="The way to call the model.")
@click.option("--rows", metavar="N,...", callback=_numbers, default="1,32,256", show_default=True, help="Rows of a request.")
@click.option(
    "--clients", metavar="N,...", callback=_numbers, default="1,4,16", show_default=True, help="Clients at once, each a process."
)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="For each transport at each size and count.")
@click.option("--out", "folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False),
              default=Path("transport-comparison"), show_default=True, help="Where the plot and the numbers go.")  # fmt: skip
def compare_transports(path: Path | None, folder: Path, **plan: Any) -> None:
    """Measure gRPC against REST for the served MODEL, and say which to use when."""
    from rich.console import Console

    from pipelines.compare_command import compare_transports
    from serving.transport_comparison.comparison import Plan

    compare_transports(Plan(**plan), path, folder, Console(highlight=False, markup=False, emoji=False))


def _one_of(version: int | None, label: str | None) -> None:
    if version is not None and label is not None:
        raise click.UsageError("expected --version or --label, got both")


def _of_store(command: Any) -> Any:
    """MODEL and where its store is; the command gets a Place."""
    folder = click.Path(path_type=Path, resolve_path=True, file_okay=False)

    @click.argument("model")
    @_home
    @click.option("--store", type=folder, help="Root of the store; that of the home by default.")
    @wraps(command)
    def with_place(home: Path, store: Path | None, **options: Any) -> None:
        from pipelines.fleet_commands import place

        command(place(home, store), **options)

    return with_place


_NUMBER = click.argument("version", type=click.IntRange(1), required=False)
_OFFLINE = click.option("--offline", is_flag=True, help="Go by what servers served when they were last seen in order.")


@main.command()
@_of_store
@_OFFLINE
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def versions(where: Any, model: str, offline: bool, as_json: bool) -> None:
    """List the pushed versions of MODEL, the newest first.

    For each: its labels, the servers of the fleet that serve it and since when, when it was pushed, its digest, the run that
    made it, its MLflow run and metrics. The fleet is the one of the last push, remembered in the store; servers are asked, and
    those that do not answer are named.
    """
    from pipelines.fleet_commands import show_versions

    show_versions(where, model, offline=offline, as_json=as_json)


@main.command()
@_of_store
@_NUMBER
def promote(where: Any, model: str, version: int | None) -> None:
    """Give the label "stable" to the canary of MODEL, or to VERSION.

    On every server of the fleet, or on none. With a VERSION that is stable already, servers that were restarted get their
    labels again. Without a fleet the labels are for `tfline serve MODEL`.
    """
    from pipelines.fleet_commands import promote_version

    promote_version(where, model, version)


@main.command()
@_of_store
@_NUMBER
def rollback(where: Any, model: str, version: int | None) -> None:
    """Go back to an earlier VERSION of MODEL, or to the one before.

    All versions above it are renamed to withdrawn-NUMBER in the store and in the folders of the fleet, never deleted; such a
    model is not pushed again while that folder is there. With labels and no VERSION, it goes back to the stable one.
    """
    from pipelines.fleet_commands import rollback_version

    rollback_version(where, model, version)


@main.command()
@_of_store
@click.option("--keep", type=click.IntRange(1), required=True, metavar="N", help="How many of the newest stay.")
@_OFFLINE
def prune(where: Any, model: str, keep: int, offline: bool) -> None:
    """Remove old versions of MODEL, but none that a server serves or a label stands for.

    Refuses when a server of the fleet cannot be asked, unless --offline. What was withdrawn stays.
    """
    from pipelines.fleet_commands import prune_versions

    prune_versions(where, model, keep, offline=offline)


@main.group(cls=_Group)
def fleet() -> None:
    """Several servers of a model."""


@fleet.command()
@click.argument("model", required=False)
@_home
@click.option("--instances", type=click.IntRange(1, 16), default=3, show_default=True, metavar="N", help="How many servers.")
def up(model: str | None, home: Path, instances: int) -> None:
    """Start local servers of MODEL on free ports, to try a fleet out.

    They share the store's folder. Prints their addresses, how to ask them in turn, and what to write into pipeline.yaml to
    push to them. Ctrl-C ends all of them.
    """
    from pipelines.fleet_up import fleet_up

    fleet_up(home / "store", model, instances)


@main.command()
@_home
def track(home: Path) -> None:
    """Write to MLflow what it does not have yet of the runs."""
    from components.tracking import sync

    result = sync(home)
    if result.error:
        raise TflineError(f"{result.error} ({len(result.waiting)} runs still to be written)")
    click.echo(f"{len(result.runs)} runs and {result.stages} stages written to {result.uri}")


@main.command()
@_home
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0, the default, takes a free one.")
def ui(home: Path, port: int) -> None:
    """Open MLflow on the records of this home, on the loopback address. Ctrl-C ends it."""
    import os

    from components.tracking import ui_command

    command = ui_command(home, port)
    os.execvp(command[0], command)  # noqa: S606 - no shell: the server takes this process's place and its signals
