"""`tfline serve`: what reaches the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.errors import UsageError
from pipelines import serve_command
from pipelines.cli import main
from pipelines.serve_command import store_flags


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the server was given, instead of a server."""
    given: list[list[str]] = []

    def serve(argv: Sequence[str], *, program: str) -> int:
        given.append(list(argv))
        return 7

    monkeypatch.setattr(serve_command, "serve", serve)
    return given


@pytest.mark.parametrize(
    "flags",
    [
        ["--port=1", "--model_base_path=/m", "--enable_batching", "--unknown", "stray", "--home=x"],
        ["--help"],
        ["--version", "--", "--port"],
        [],
    ],
)
def test_flags_reach_the_server_as_they_are(served: list[list[str]], flags: list[str]) -> None:
    result = CliRunner().invoke(main, ["serve", *flags])
    assert result.exit_code == 7, result.output
    assert served == [[flag for flag in flags if flag != "--"]]


def test_a_models_name_is_enough(served: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "store/digits").mkdir(parents=True)
    for arguments in (["digits", "--home", str(tmp_path)], [f"--home={tmp_path}", "digits"]):
        assert CliRunner().invoke(main, ["serve", *arguments]).exit_code == 7
    expected = ["--port=8500", "--rest_api_port=8501", "--model_name=digits", f"--model_base_path={tmp_path}/store/digits"]
    assert served == [expected, expected]
    assert store_flags(["digits", "--home", str(tmp_path), "--port=1"]) == [*expected, "--port=1"]


@pytest.mark.parametrize("name", ["nope", "../store/digits", ".", "..", "digits/1", ""])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "store/digits/1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"has no model .* it has digits"):
        store_flags([name, "--home", str(tmp_path)])


def test_one_name_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one model's name"):
        store_flags(["a", "b"])
