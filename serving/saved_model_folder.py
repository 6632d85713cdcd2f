"""Where the SavedModel is in a folder that somebody names, and what is there instead when there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.errors import ServingError

PROTO, TEXT, CHUNKED = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
LARGEST_PROTO = 2**31 - 1
"""Bytes (protobuf.dev/programming-guides/proto-limits)."""

_TOLD = 10
_KINDS = {
    ".keras": "a Keras model; export it with model.export(FOLDER)",
    ".h5": "a Keras HDF5 file; load it in Keras and export it with model.export(FOLDER)",
    ".hdf5": "a Keras HDF5 file; load it in Keras and export it with model.export(FOLDER)",
    ".tflite": "a TFLite model, which is made from a SavedModel",
    ".onnx": "an ONNX model",
    ".pbtxt": "a text protocol buffer; a SavedModel's is saved_model.pbtxt",
    ".pb": "a protocol buffer, perhaps a frozen graph; a SavedModel's is saved_model.pb",
    ".index": "the index of a checkpoint: weights without a graph",
}
_MAGIC = ((0, b"\x89HDF\r\n\x1a\n", ".h5"), (4, b"TFL3", ".tflite"))


class SavedModelError(ServingError):
    """There is no SavedModel, or it is broken; the message says where and how, with the first of many problems.

    Attributes:
        problems: Every problem found.
    """

    def __init__(self, place: Path, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        listed = [f"\n  - {problem}" for problem in problems[:_TOLD]]
        if len(problems) > _TOLD:
            listed.append(f"\n  and {len(problems) - _TOLD} more")
        super().__init__(f"{place}: {problems[0]}" if len(problems) == 1 else f"{place} is broken:{''.join(listed)}")


def find_saved_model(folder: Path) -> Path:
    """The folder with saved_model.pb or saved_model.pbtxt.

    That is the folder itself (an export, a version of a store), its Format-Serving (TFX's Model artifact), or its child with the
    highest number (a model's folder in a store, which TF Serving would be pointed at).

    Raises:
        SavedModelError: There is none; the message says what there is.
    """
    try:
        versions = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal())
        places = [folder, folder / "Format-Serving", *(path for _, path in versions[-1:])]
        for place in places:
            if any((place / name).is_file() for name in (PROTO, TEXT)):
                return place
        newest = f" (version {versions[-1][0]}, the newest, is no SavedModel)" if versions else ""
        raise SavedModelError(folder, [f"no SavedModel: expected saved_model.pb, found {_found(folder)}{newest}"])
    except (FileNotFoundError, NotADirectoryError):
        what = f"a file, {_kind(folder) or 'of no kind that tfline knows'}" if folder.is_file() else "nothing"
        raise SavedModelError(folder, [f"expected the folder of a SavedModel, found {what}"]) from None
    except OSError as error:
        raise SavedModelError(folder, [f"cannot be read: {error.strerror}"]) from error


def _found(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if (folder / CHUNKED).is_file():
        return f"{CHUNKED}, the form for graphs above 2 GB, which only TensorFlow reads"
    if (folder / "config.json").is_file() and (folder / "model.weights.h5").is_file():
        return "an unpacked Keras model (config.json, model.weights.h5)"
    kinds = [f"{path.name} ({kind})" for path in files if (kind := _kind(path))]
    if kinds:
        return ", ".join(kinds[:3])
    below = [place.relative_to(folder).as_posix() for place in _below(folder)]
    if below:
        return f"SavedModels further down: {', '.join(below[:3])}; name one of them"
    names = sorted(path.name for path in folder.iterdir())
    return f"only {', '.join(names[:5])}{' …' if len(names) > 5 else ''}" if names else "an empty folder"


def _below(folder: Path) -> Iterator[Path]:
    for depth in ("*", "*/*"):
        yield from (path.parent for path in sorted(folder.glob(f"{depth}/{PROTO}")))


def _kind(path: Path) -> str:
    """What a file is that people take for a SavedModel; "" for any other."""
    with path.open("rb") as file:
        head = file.read(16)
    suffix = next((suffix for at, magic, suffix in _MAGIC if head[at : at + len(magic)] == magic), path.suffix.lower())
    if path.name in (PROTO, TEXT):
        return "which belongs to a SavedModel; name the folder that it is in"
    return "the record of a checkpoint: weights without a graph" if path.name == "checkpoint" else _KINDS.get(suffix, "")
