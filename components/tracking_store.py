"""Where the MLflow records go, and how to reach that place without waiting long, leaking a secret or phoning home.

The default is a SQLite file and an artifact folder under `<home>/mlflow`; MLFLOW_TRACKING_URI names any other store. MLflow is
imported only once a client is really needed (it takes 3 seconds).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from filelock import FileLock

from components.errors import TflineError

# Left alone, MLflow tries a dead server for minutes (7 retries with backoff, 120 s a request) and obeys any Retry-After.
_FIRST_CONTACT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
# A server that has answered once may take longer to store a model than to say hello.
_AFTERWARDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
_UNLESS_SET = {
    **_FIRST_CONTACT,
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_REASONS = re.compile(
    r"Connection refused|timed out|Name or service not known|Temporary failure in name resolution|No route to host"
    r"|Network is unreachable|Connection reset by peer|Connection aborted|Remote end closed connection|CERTIFICATE_VERIFY_FAILED"
)


class StoreUnavailableError(TflineError):
    """The MLflow store cannot be used now; the message says where, why and what helps, and holds no secret."""


def tracking_uri(home: Path) -> str:
    """The store that records go to: MLFLOW_TRACKING_URI, or a SQLite file in the home folder. May hold credentials."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"sqlite:///{home.resolve() / 'mlflow' / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    """Whether the store is reached over HTTP, so that it decides itself where artifacts are kept."""
    return uri.lower().startswith(("http://", "https://", "databricks"))


def artifact_location(home: Path) -> str | None:
    """Where a new experiment keeps its artifacts: a folder in the home folder, None where a server decides."""
    return None if is_server(tracking_uri(home)) else (home.resolve() / "mlflow" / "artifacts").as_uri()


def without_credentials(uri: str) -> str:
    """The URI without user, password, query and fragment: what may be printed and written."""
    scheme, mark, rest = uri.partition("://")
    rest = rest[len(_userinfo(uri)) :].removeprefix("@") if _userinfo(uri) else rest
    return scheme + mark + re.split(r"[?#]", rest, maxsplit=1)[0].rstrip("/")


def scrub(text: str, uri: str) -> str:
    """The text without any secret that is known to this process or that stands in an address."""
    userinfo = _userinfo(uri)
    password = userinfo.partition(":")[2]
    secrets = {os.environ.get(name, "") for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")}
    secrets |= {userinfo, password, unquote(password), *(value for _, value in parse_qsl(uri.partition("?")[2]))}
    # The longest first, so that a secret that is part of another one leaves no remainder of it.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/\s@'\"]+@", "://***@", text)


def _userinfo(uri: str) -> str:
    """`user:password` as it stands in the URI, or ""; up to the last @, for passwords that someone forgot to quote."""
    scheme, _, rest = uri.partition("://")
    return "" if scheme.startswith(("sqlite", "file")) else rest.rpartition("@")[0]


def explain(error: BaseException, uri: str) -> str:
    """One line for people on why the store could not be used, without secrets; our own errors say it themselves."""
    if isinstance(error, TflineError):
        return scrub(str(error), uri)
    text, where = " ".join(str(error).split()), without_credentials(uri)
    code = re.search(r"failed with error code (\d{3})|too many (\d{3}) error", text)
    status = (code[1] or code[2]) if code else ""
    reason = _REASONS.search(text)
    if status in ("401", "403"):
        return (
            f"the tracking server at {where} refused access (HTTP {status}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if status:
        return f"the tracking server at {where} answered HTTP {status}; see its log, or check MLFLOW_TRACKING_URI"
    if "valid JSON format" in text:
        return f"what answers at {where} is no MLflow server (its answer is not JSON); check MLFLOW_TRACKING_URI"
    if is_server(uri) and reason:
        return f"the tracking server at {where} cannot be reached ({reason[0]}); start it, or check MLFLOW_TRACKING_URI"
    # The text is scrubbed before it is cut: half a secret would not be recognised.
    return f"MLflow at {where}: {scrub(text, uri)[:300] or type(error).__name__}"


def load(home: Path) -> None:
    """Imports MLflow, which takes two seconds, before `connected` has need of it."""
    with _environment(tracking_uri(home)):
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracking.client  # noqa: F401


@contextmanager
def connected(home: Path) -> Iterator[Any]:
    """Gives an MlflowClient of a store that has just answered.

    Raises:
        StoreUnavailableError: When it does not answer; a dead or silent server is given up after about 5 seconds.

    Side effects:
        Imports MLflow; creates the SQLite file when it is missing. The environment of this process is changed for as long as
        the client is used: MLflow reads its limits and credentials there with every request.
    """
    uri = tracking_uri(home)
    with _environment(uri) as bounds:
        try:
            address = without_credentials(uri) if is_server(uri) else uri
            with _first_use(uri):
                client = _client(address)
                client.search_experiments(max_results=1)
        except Exception as error:
            raise StoreUnavailableError(explain(error, uri)) from None
        os.environ.update(bounds)
        yield client


def _client(address: str) -> Any:
    from mlflow import MlflowClient

    if os.environ["MLFLOW_LOGGING_LEVEL"] == "CRITICAL":
        # Each retry would be a line on the user's terminal, and alembic tells the story of every table.
        for name in ("mlflow", "alembic", "sqlalchemy", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=address)


@contextmanager
def _environment(uri: str) -> Iterator[Mapping[str, str]]:
    """Sets what MLflow reads from the environment; gives the limits for use after the first contact. Undone at the end."""
    changes = {name: value for name, value in _UNLESS_SET.items() if name not in os.environ} | _ALWAYS
    bounds = {name: value for name, value in _AFTERWARDS.items() if name not in os.environ}
    user, _, password = _userinfo(uri).partition(":")
    if is_server(uri) and user:
        # From here on they travel in a header, not in an address that MLflow might print or store.
        changes |= {"MLFLOW_TRACKING_USERNAME": unquote(user), "MLFLOW_TRACKING_PASSWORD": unquote(password)}
    before = {name: os.environ[name] for name in changes if name in os.environ}
    os.environ.update(changes)
    try:
        yield bounds
    finally:
        for name in changes:
            os.environ.pop(name, None)
        os.environ.update(before)


def _first_use(uri: str) -> Any:
    """A lock for the time in which MLflow may create the tables of a SQLite file: two processes at once would break it."""
    if not (database := _sqlite_file(uri)):
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock", timeout=60)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.partition(":///")[2].partition("?")[0]) if uri.startswith("sqlite") else None


def ui_server(home: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of MLflow's own server over this store, on 127.0.0.1.

    The store's address goes by environment: a command line can be read by everybody on the machine.

    Raises:
        StoreUnavailableError: When the SQLite file is missing and cannot be made.

    Side effects:
        Creates the SQLite file when it is missing.
    """
    uri = tracking_uri(home)
    if (database := _sqlite_file(uri)) and not database.exists():
        with connected(home):
            pass
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    arguments += ["--default-artifact-root", artifact_location(home) or ""]
    # The job runner (evaluation of language models) would be four more processes that nothing here uses.
    environment = os.environ | _ALWAYS | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return [sys.executable, "-P", "-m", "mlflow", "server", *arguments], environment
