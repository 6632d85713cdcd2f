"""The command that a run's end says to type, to serve what was pushed: it serves exactly that."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from components.records import Pushed
from pipelines.outcome import serve_command
from pipelines.serve_command import store_flags


def pushed(folder: Path) -> Pushed:
    (folder / "3").mkdir(parents=True)
    return Pushed(model=folder.name, version=3, path=str(folder / "3"), digest="d", new=True)


@pytest.mark.parametrize("home", ["home", "a home", ".tfline"])
def test_from_a_home(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = pushed(tmp_path / home / "store" / "digits")
    words = shlex.split(serve_command(done, tmp_path / home))
    assert words[:3] == ["tfline", "serve", "digits"]
    assert ("--home" in words) is (home != ".tfline")
    assert f"--model_base_path={Path(done.path).parent}" in store_flags(words[2:])


def test_from_a_store_elsewhere(tmp_path: Path) -> None:
    done = pushed(tmp_path / "elsewhere" / "digits")
    assert shlex.split(serve_command(done, tmp_path / "home")) == [
        *("tfline", "serve", "--port=8500", "--rest_api_port=8501", "--model_name=digits"),
        f"--model_base_path={tmp_path}/elsewhere/digits",
    ]
