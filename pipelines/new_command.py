"""`tfline new`: a folder with a pipeline that runs, to put one's own data and model into."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from pathlib import Path

from components.errors import UsageError

TEMPLATE = Path(__file__).with_name("template")
TEMPLATE_NAME = "my-pipeline"
"""What the template's files call the pipeline; it is replaced wherever it stands in them."""

FILES = {
    "pipeline.yaml": "where the data is, how to train, what a good model is",
    "model.py": "your preprocessing and your network",
    "data.py": "makes sample data, until you have your own",
}
"""What is written, in the order in which to read it."""


def pipeline_name(folder_name: str) -> str:
    """The pipeline's name for a folder's: in lower case, `-` in the place of `_` and blanks.

    Raises:
        UsageError: That is still no name that `PipelineConfig.name` takes.
    """
    name = re.sub("[_ ]", "-", folder_name).lower()
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", name):
        raise UsageError(
            f"the folder's name is the pipeline's: expected letters a to z, digits and '-', 63 at most, a letter or digit first "
            f"(capitals, '_' and blanks are converted), got '{folder_name}'"
        )
    return name


def new_pipeline(path: Path) -> str:
    """Writes a pipeline's folder from the template.

    Args:
        path: The folder to make; one that exists has to be empty. A missing parent is made, a missing grandparent is not: that
            is rather a mistyped path.

    Returns:
        Text to show: what was written, and what to type next.

    Raises:
        UsageError: The name is none for a pipeline, something is there already, or the folder cannot be made; nothing was
            written.

    Side effects:
        The folder, with its parent if that was missing, appears whole by one rename.
    """
    target = path if path.name not in ("", "..") else path.resolve()
    name = pipeline_name(target.name)
    try:
        _refuse_existing(target, path)
        _write(target, name, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be made: {error.strerror}") from error
    return _told(path, name)


def _refuse_existing(target: Path, path: Path) -> None:
    if not os.path.lexists(target):
        return
    expected = f"{path}: expected a new or an empty folder, found"
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"{expected} a {'link' if target.is_symlink() else 'file'} there")
    if there := sorted(entry.name for entry in target.iterdir()):
        raise UsageError(f"{expected} {', '.join(there[:3])}{' and more' if len(there) > 3 else ''} in it; nothing was changed")
    if target.samefile(Path.cwd()):
        # Whoever stands in a folder that is replaced stands in one that is gone.
        again = f"cd .. && tfline new {shlex.quote(target.resolve().name)}"
        raise UsageError(f"{path}: expected another folder than the one you are in; type: {again}")


def _write(target: Path, name: str, path: Path) -> None:
    top = target if target.parent.is_dir() else target.parent
    if not top.parent.is_dir():
        raise UsageError(f"{path}: expected a folder {top.parent} to make it in, found none; make that first")
    with tempfile.TemporaryDirectory(dir=top.parent, prefix=f".{top.name}.") as staging:
        made = Path(staging) / target.relative_to(top.parent)
        made.mkdir(parents=True)
        for file in FILES:
            text = (TEMPLATE / file).read_text(encoding="utf-8")
            (made / file).write_text(text.replace(TEMPLATE_NAME, name), encoding="utf-8")
        # This replaces an empty folder and nothing else, so that what came there in the meantime is safe.
        (Path(staging) / top.name).rename(top)


def _told(path: Path, name: str) -> str:
    width = max(map(len, FILES))
    files = "\n".join(f"    {file:<{width}}  {what}" for file, what in FILES.items())
    return f"""\
Wrote the pipeline {name}:

  {path}/
{files}

It runs as it is, on sample data, in about a minute:

  tfline run {shlex.quote(str(path))}

Then make it your own: the first lines of pipeline.yaml say how."""
