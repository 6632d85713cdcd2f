"""Which code a stage runs: the user's module, carried with the pipeline, and digests of code for the cache key.

The user's module travels inside the stage's properties (a zip of the sources it reaches by import, base64), not as a path: what
runs on a cluster, or is resumed tomorrow, is the code that the run was started with, and a changed line changes the cache key.
"""

from __future__ import annotations

import ast
import atexit
import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from components.errors import UsageError

# Spec and metadata stores keep properties as text columns; far below their limits, far above any model's source.
MAX_BUNDLE_BYTES = 256 * 1024

_ROOT = Path(__file__).resolve().parents[1]
_TAKEN = {*sys.stdlib_module_names, "pipelines", "components", "serving"}
_NUMERIC_PACKAGES = ("tensorflow", "tf-keras", "tfx", "tensorflow-transform", "tensorflow-data-validation", "ai-edge-litert")


def bundle(module_file: Path) -> str:
    """Packs a module and the modules beside it that it imports, directly or not.

    Dynamic imports (`importlib.import_module(name)`) are not followed, and files that are no Python source stay behind.

    Args:
        module_file: The user's module; its folder is the root of its imports.

    Returns:
        Base64 of a zip; equal sources give equal text.

    Raises:
        UsageError: The file is missing, does not parse, a file has the name of a module of Python's or of tfline's, or the
            sources are larger than `MAX_BUNDLE_BYTES` when packed.
    """
    if not module_file.is_file():
        raise UsageError(
            f"{module_file}: expected a Python module with build_model(inputs, config) or run_fn(fn_args), found no such file"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        root = module_file.parent.absolute()
        for path in sorted(_closure(root / module_file.name, root)):
            name = path.relative_to(root).as_posix()
            if name.split("/")[0].removesuffix(".py") in _TAKEN:
                raise UsageError(f"{path}: has the name of a module that is there already, which it would hide; rename it")
            # A fixed date: the archive must depend on the sources alone.
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), path.read_bytes())
    packed = base64.b64encode(buffer.getvalue()).decode("ascii")
    if len(packed) > MAX_BUNDLE_BYTES:
        raise UsageError(
            f"{module_file}: its sources come to {len(packed)} bytes packed, more than the {MAX_BUNDLE_BYTES} that travel with a "
            "stage; install the larger part as a package"
        )
    return packed


def load_bundle(packed: str, module_name: str) -> ModuleType:
    """Unpacks a bundle into a private folder of this process and imports its module.

    Args:
        packed: What `bundle` returned.
        module_name: Name of the module without ".py".

    Side effects:
        The folder stays on sys.path until the process ends, and is removed then. A bundle is unpacked once a process. Modules
        that an earlier bundle brought under the names of this one's are forgotten, so imports inside functions should not be
        mixed with several bundles in one process.
    """
    folder = _unpack(packed)
    # A name of its own: two bundles in one process must not share `sys.modules["model"]`.
    name = f"{module_name}_{hashlib.sha256(packed.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, folder / f"{module_name}.py")
    if spec is None or spec.loader is None:
        raise UsageError(f"{module_name}.py is not a Python module")
    _forget_other_bundles(folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def names_of(module_file: Path) -> set[str]:
    """What a module defines, assigns or imports at its top level; "*" among it when it imports everything from somewhere.

    Read from the source: whoever asks must not have to load TensorFlow.
    """
    names: set[str] = set()
    waiting = list(_parse(module_file).body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                waiting += [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
    return names


_UNPACKED: list[str] = []


@cache
def _unpack(packed: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tfline-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as archive:
        archive.extractall(folder)
    _UNPACKED.append(str(folder))
    return folder


def _forget_other_bundles(folder: Path) -> None:
    """Makes `import layers` in this bundle find its own layers.py, not that of a bundle loaded before."""
    others = [other for other in _UNPACKED if other != str(folder)]
    own = {path.name.removesuffix(".py") for path in folder.iterdir()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in own:
            continue
        # A folder without __init__.py has no file, only a path.
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        if any(place.startswith(other) for place in places for other in others):
            del sys.modules[name]
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]


@cache
def stage_digest(module: str) -> str:
    """SHA-256 (hex) of one of our stages: its source, that of ours it imports, and the versions of the packages that compute.

    Args:
        module: Dotted name, such as "components.train".
    """
    digest = hashlib.sha256()
    start = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    for path in sorted(_closure(start, _ROOT)):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    for package in _NUMERIC_PACKAGES:
        digest.update(f"{package}=={importlib.metadata.version(package)}".encode())
    return digest.hexdigest()


def _closure(start: Path, root: Path) -> set[Path]:
    """A file, and every file under the root that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_files_imported_by_ours(path) if root == _ROOT else _files_imported(path, root))
    return found


@cache
def _files_imported_by_ours(path: Path) -> set[Path]:
    """`_files_imported` of a file of tfline's own, which every stage's digest asks for again; it is the same all along."""
    return _files_imported(path, _ROOT)


def _files_imported(path: Path, root: Path) -> set[Path]:
    found: set[Path] = set()
    for name in set(_imported(path, root)):
        parts = name.split(".")
        # `import a.b` runs a/__init__.py too.
        for depth in range(1, len(parts) + 1):
            target = root.joinpath(*parts[:depth])
            candidates = (target.with_name(f"{target.name}.py"), target / "__init__.py")
            found.update(candidate for candidate in candidates if candidate.is_file())
    return found


def _imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted names, seen from the root, of what a file imports; of `from a import b` both a and a.b, since b may be a module."""
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the file's own package, each further one the package above.
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.msg}") from None
    except ValueError as error:  # what Python 3.11.3 and older say to a null byte
        raise UsageError(f"{path}:1: {error}") from None
