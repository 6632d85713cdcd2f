"""A version's folder made by hard links: whole at once, the source untouched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.linked_version import link_version


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "assets.extra").mkdir(parents=True)
    for name in ("saved_model.pb", "assets.extra/old", "assets.extra/kept", "manifest.json"):
        (folder / name).write_text(f"the {name}")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("links", [True, False])
def test_files_of_both(source: Path, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError("another file system")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    before, new = files(source), tmp_path / "new"
    new.write_text("new")
    made = link_version(source, tmp_path / "1", {"assets.extra/old": new, "added/here": new})
    assert made == tmp_path / "1"
    kept = {name: before[name] for name in ("assets.extra/kept", "saved_model.pb")}
    assert files(made) == {"added/here": "new", "assets.extra/old": "new", **kept}
    assert files(source) == before
    assert (made / "saved_model.pb").samefile(source / "saved_model.pb") is links
    assert not list(tmp_path.glob(".*"))


def test_a_version_that_is_there(source: Path, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        link_version(source, tmp_path / "1")
    with pytest.raises(FileNotFoundError):
        link_version(tmp_path / "none", tmp_path / "2")
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "2").exists()
