"""What travels with a stage, what a digest stands for, and how several bundles get along in one process."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.code import MAX_BUNDLE_BYTES, bundle, load_bundle, stage_digest
from components.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **files: str) -> Path:
    """Writes modules, `a__b` for a/b.py; returns the folder."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def package(folder: Path, text: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(text, encoding="utf-8")


def names(packed: str) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))).namelist()


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_bundle_holds_what_is_imported_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, model="import layers\nfrom nets import conv\n", layers="import deep\n", deep="", unrelated="", data="")
    package(tmp_path / "nets")
    write(tmp_path, nets__conv="from . import blocks\nfrom .parts.dense import Dense\n", nets__blocks="", nets__unused="")
    package(tmp_path / "nets" / "parts", "from ..shared import x\n")
    write(tmp_path, nets__parts__dense="class Dense: ...\n", nets__shared="x = 1\n")
    assert names(bundle(tmp_path / "model.py")) == [
        "deep.py",
        "layers.py",
        "model.py",
        "nets/__init__.py",
        "nets/blocks.py",
        "nets/conv.py",
        "nets/parts/__init__.py",
        "nets/parts/dense.py",
        "nets/shared.py",
    ]


def test_imports_inside_functions_are_followed(tmp_path: Path) -> None:
    write(tmp_path, model="def build_model():\n    if True:\n        import layers\n", layers="")
    assert names(bundle(tmp_path / "model.py")) == ["layers.py", "model.py"]


def test_import_of_a_submodule_brings_its_packages(tmp_path: Path) -> None:
    package(tmp_path / "nets", "ready = True\n")
    write(tmp_path, model="import nets.conv\nready = nets.ready\n", nets__conv="")
    packed = bundle(tmp_path / "model.py")
    assert names(packed) == ["model.py", "nets/__init__.py", "nets/conv.py"]
    assert load_bundle(packed, "model").ready is True


def test_bundle_depends_on_the_sources_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "first", model="import layers\n", layers="x = 1\n")
    second = write(tmp_path / "second" / "elsewhere", layers="x = 1\n", model="import layers\n", unrelated="y = 2\n")
    os.utime(second / "model.py", (1, 1))
    (second / "layers.py").chmod(0o600)
    packed = bundle(first / "model.py")
    assert bundle(second / "model.py") == packed
    (second / "unrelated.py").write_text("y = 3\n", encoding="utf-8")
    assert bundle(second / "model.py") == packed
    (second / "layers.py").write_text("x = 2\n", encoding="utf-8")
    assert bundle(second / "model.py") != packed


def test_bundle_of_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, model="import layers\n", layers="")
    monkeypatch.chdir(tmp_path)
    assert bundle(Path("model.py")) == bundle(tmp_path / "model.py")


def test_shared_module_behind_a_link(tmp_path: Path) -> None:
    write(tmp_path, shared="x = 4\n")
    folder = write(tmp_path / "pipeline", model="import layers\nx = layers.x\n")
    (folder / "layers.py").symlink_to(tmp_path / "shared.py")
    packed = bundle(folder / "model.py")
    assert names(packed) == ["layers.py", "model.py"]
    assert load_bundle(packed, "model").x == 4


def test_missing_module(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        bundle(tmp_path / "model.py")
    wanted = "a Python module with build_model(inputs, config) or run_fn(fn_args)"
    expected = f"{tmp_path / 'model.py'}: expected {wanted}, found no such file"
    assert str(caught.value) == expected


@pytest.mark.parametrize("broken", ["model", "layers"])
def test_syntax_error_names_file_and_line(broken: str, tmp_path: Path) -> None:
    write(tmp_path, **{"model": "import layers\n", "layers": "", broken: "x = 1\n\ndef (:\n"})
    with pytest.raises(UsageError) as caught:
        bundle(tmp_path / "model.py")
    assert str(caught.value) == f"{tmp_path / broken}.py:3: invalid syntax"


@pytest.mark.parametrize("content", [b"x = 'caf\xe9'\n", b"x = 1\0\n"])
def test_file_that_is_no_text(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        bundle(tmp_path / "model.py")
    assert str(caught.value).startswith(f"{tmp_path / 'model.py'}:")


def test_size_limit(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(MAX_BUNDLE_BYTES).hex()
    write(tmp_path, model=f"weights = '{noise}'\n")
    with pytest.raises(UsageError) as caught:
        bundle(tmp_path / "model.py")
    told = str(caught.value)
    size = int(told.removeprefix(f"{tmp_path / 'model.py'}: its sources come to ").split()[0])
    assert size > MAX_BUNDLE_BYTES
    assert told == (
        f"{tmp_path / 'model.py'}: its sources come to {size} bytes packed, more than the {MAX_BUNDLE_BYTES} that travel "
        "with a stage; install the larger part as a package"
    )


@pytest.mark.parametrize("name", ["statistics", "components"])
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    write(tmp_path, **{"model": f"import {name}\n", name: ""})
    with pytest.raises(UsageError) as caught:
        bundle(tmp_path / "model.py")
    expected = f"{tmp_path / name}.py: has the name of a module that is there already, which it would hide; rename it"
    assert str(caught.value) == expected


def test_bundle_runs_without_the_folder_it_came_from(tmp_path: Path) -> None:
    package(tmp_path / "user" / "nets")
    write(tmp_path / "user", model="from nets.conv import f\nvalue = f(2)\n", nets__conv="def f(x):\n    return x + 1\n")
    packed = bundle(tmp_path / "user" / "model.py")
    shutil.rmtree(tmp_path / "user")
    module = load_bundle(packed, "model")
    assert module.value == 3
    assert load_bundle(packed, "model") is module


def test_two_bundles_with_the_same_names_in_one_process(tmp_path: Path) -> None:
    modules = {}
    for number in (1, 2):
        folder = tmp_path / str(number)
        write(folder, model="import layers, nets.conv\nvalue = (layers.x, nets.conv.x)\n", layers=f"x = {number}\n")
        write(folder, nets__conv=f"x = {10 * number}\n")
        modules[number] = load_bundle(bundle(folder / "model.py"), "model")
    assert (modules[1].value, modules[2].value) == ((1, 10), (2, 20))
    assert modules[1].layers.x == 1


def test_two_modules_of_one_bundle(tmp_path: Path) -> None:
    write(tmp_path, model="import features\nmine = features\n", features="calls = []\n")
    packed = bundle(tmp_path / "model.py")
    assert load_bundle(packed, "model").mine is sys.modules["features"]
    assert load_bundle(packed, "features").calls == []


def test_bundle_that_fails_fails_again(tmp_path: Path) -> None:
    write(tmp_path, model="x = 1\nraise RuntimeError('no luck')\n")
    packed = bundle(tmp_path / "model.py")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no luck"):
            load_bundle(packed, "model")


def test_unpacked_sources_go_with_the_process(tmp_path: Path) -> None:
    write(tmp_path, model="")
    program = (
        "import sys; from pathlib import Path; from components.code import bundle, load_bundle\n"
        "print(load_bundle(bundle(Path(sys.argv[1])), 'model').__file__)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    file = Path(done.stdout.strip())
    assert file.name == "model.py"
    assert not file.parent.exists()


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """A copy of our own rooms, whose files a test may change."""
    for room in ("components", "serving"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(rooms: Path, *stages: str) -> list[str]:
    """stage_digest of stages, as code that runs from that copy computes it."""
    program = "import sys; from components.code import stage_digest; print(*map(stage_digest, sys.argv[1:]))"
    command = [sys.executable, "-c", program, *(f"components.{stage}" for stage in stages)]
    done = subprocess.run(command, cwd=rooms, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_stage_digest_follows_what_the_stage_imports(rooms: Path) -> None:
    before = dict(zip(("train", "push"), digests(rooms, "train", "push"), strict=True))
    assert before["train"] == stage_digest("components.train"), "a copy of the same sources has the same digest"

    def changed(file: str) -> list[str]:
        path = rooms / file
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}\n# another line\n", encoding="utf-8")
        after = dict(zip(before, digests(rooms, *before), strict=True))
        path.write_text(text, encoding="utf-8")
        return [stage for stage in before if after[stage] != before[stage]]

    assert changed("components/train.py") == ["train"]
    assert changed("components/strategy.py") == ["train"]
    assert changed("components/train_callbacks.py") == ["train"], "imported inside a function"
    assert changed("serving/manifest.py") == ["push"], "imported by what push imports"
    assert changed("components/errors.py") == ["train", "push"]
    assert changed("components/evaluate.py") == []


def test_stage_digest_knows_the_versions_that_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_digest("components.train")
    versions = {"tensorflow": "1.0"}
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or known(name))
    stage_digest.cache_clear()
    try:
        assert stage_digest("components.train") != before
    finally:
        stage_digest.cache_clear()
