"""Loads the configuration of a pipeline folder: pipeline.yaml, an environment's overlay, then overrides from the command line.

Later layers win: mappings are merged key by key, anything else is replaced as a whole. Every value keeps where it was set, so
that whatever is wrong is told with file and line. Knows no setting by name: the class to validate with is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from components.errors import UsageError
from pipelines.settings_errors import Keys, dotted, explain, received

T = TypeVar("T", bound=BaseModel)

_EXPECTED_FOLDER = (
    "Expected a pipeline folder: pipeline.yaml (its settings), model.py (its model) and, "
    "where settings differ by place, environments/<name>.yaml. `tfline new FOLDER` writes one."
)
_UNFINISHED = object()
"""Stands for a YAML node that is being read, or could not be."""
_TAG = "tag:yaml.org,2002:"


def load_settings(
    folder: Path,
    kind: type[T],
    *,
    environment: str | None = None,
    overrides: Sequence[str] = (),
    variables: Mapping[str, str] = {},
) -> T:
    """Reads a pipeline folder's settings into one validated object.

    Args:
        folder: Holds pipeline.yaml and, for overlays, environments/<name>.yaml.
        kind: The class to validate with.
        environment: The overlay to lay over pipeline.yaml; it must exist, unless it is "local".
        overrides: `a.b.c=value`, applied last, in order. The value is YAML and replaces what was there; a number
            addresses a list's item.
        variables: `{name}` in a text value becomes variables[name]. Other names, and what begins with `{{`, stay as they are.

    Raises:
        UsageError: With all problems found, one a line: origin (file and line, or override), dotted path, what was expected, what
            came.
    """
    problems: list[str] = []
    root = reduce(_merge, [_read_file(path, problems) for path in _files(folder, environment)])
    parsed = [_parse_override(override, problems) for override in overrides]
    _refuse(problems)  # what is wrong in a file that could not be read would only be guessed at below
    for keys, setting in filter(None, parsed):
        try:
            root = _assign(root, keys, setting)
        except UsageError as error:
            problems.append(str(error))
    origins: dict[Keys, tuple[str, ...]] = {}
    data = _plain(root, (), origins, variables)
    try:
        settings = kind.model_validate(data)
    except ValidationError as error:
        problems += explain(error, kind, data, origins)
        raise UsageError("\n".join(problems)) from error
    _refuse(problems)
    return settings


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was set.

    Attributes:
        value: dict of str to Setting, list of Setting, or a scalar as PyYAML makes it.
        origins: `pipeline.yaml:12` or `--set a=1`; for a mapping first where it began, then what changed it.
    """

    value: Any
    origins: tuple[str, ...]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _files(folder: Path, environment: str | None) -> list[Path]:
    """The files to read, the base first."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}. {_EXPECTED_FOLDER}")
    base = folder / "pipeline.yaml"
    if not base.exists():
        raise UsageError(f"{folder}: no pipeline.yaml in this folder. {_EXPECTED_FOLDER}")
    if environment is None:
        return [base]
    # Looked up, never joined: an environment's name from the command line cannot become a path out of the folder.
    overlays = {path.stem: path for path in sorted((folder / "environments").glob("*.yaml"))}
    if environment in overlays:
        return [base, overlays[environment]]
    if environment == "local":
        return [base]
    there = f"There are: {', '.join(overlays)}." if overlays else "The folder has none."
    raise UsageError(f"{folder / 'environments'}: no environment {environment!r} (a file <environment>.yaml). {there}")


def _read_file(path: Path, problems: list[str]) -> Setting:
    """Reads one file, whose document must be a mapping; what is wrong is added to `problems`."""
    nothing = Setting({}, (f"{path}:1",))
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}.")
        return nothing
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problems.append(f"{path}:{line}: not UTF-8 text (byte 0x{error.object[error.start]:02x}). Save the file as UTF-8.")
        return nothing
    before = len(problems)
    setting = _Reader(str(path), text, problems, numbered=True).read(())
    if len(problems) == before and setting is None:
        problems.append(f"{path}: the file is empty, expected settings (key: value). Write {{}} if none are meant.")
    elif len(problems) == before and setting and not isinstance(setting.value, dict):
        came = received(_plain(setting, (), {}, {}))
        problems.append(f"{setting.origins[0]}: expected a mapping (key: value) at the top, got {came}.")
    return setting or nothing


def _parse_override(override: str, problems: list[str]) -> tuple[Keys, Setting] | None:
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        problems.append(f"--set {override}: expected KEY=VALUE, such as train.epochs=3.")
        return None
    origin = f"--set {override}"
    before = len(problems)
    setting = _Reader(origin, text, problems, numbered=False).read(keys)
    if setting is None and len(problems) > before:
        return None
    return keys, setting or Setting(None, (origin,))  # `key=` is YAML's null, as `key:` is in a file


def _merge(base: Setting, over: Setting) -> Setting:
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    both = {key: _merge(base.value[key], value) if key in base.value else value for key, value in over.value.items()}
    return Setting({**base.value, **both}, (*base.origins, *over.origins))


def _assign(at: Setting, keys: Keys, new: Setting, above: Keys = ()) -> Setting:
    """`at` with the value under `keys` replaced; sections that are not there yet are made."""
    if not keys:
        return new
    key, rest, here = keys[0], keys[1:], (*above, keys[0])
    changed = tuple(dict.fromkeys((*at.origins, *new.origins)))
    if at.value is None or isinstance(at.value, dict):
        inside = at.value or {}
        return Setting({**inside, key: _assign(inside.get(key, Setting(None, ())), rest, new, here)}, changed)
    name = dotted(above) or "the top"
    if not isinstance(at.value, list):
        raise UsageError(
            f"{new.origins[0]}: {name}: expected a mapping to set {str(key)!r} in, got {received(at.value)} from {at.origins[0]}."
        )
    if not (re.fullmatch("[0-9]+", str(key)) and int(key) < len(at.value)):
        span = f"a number below {len(at.value)}" if at.value else "no number, as the list is empty"
        raise UsageError(
            f"{new.origins[0]}: {dotted(here)}: {name} is a list (from {at.origins[0]}): expected {span}, got {str(key)!r}."
        )
    items = list(at.value)
    items[int(key)] = _assign(items[int(key)], rest, new, here)
    return Setting(items, changed)


def _plain(at: Setting, keys: Keys, origins: dict[Keys, tuple[str, ...]], variables: Mapping[str, str]) -> Any:
    """The values alone, variables filled in; `origins` is told where each was set."""
    origins[keys] = at.origins
    if isinstance(at.value, dict):
        return {key: _plain(value, (*keys, key), origins, variables) for key, value in at.value.items()}
    if isinstance(at.value, list):
        return [_plain(value, (*keys, index), origins, variables) for index, value in enumerate(at.value)]
    if isinstance(at.value, str) and variables:
        names = "|".join(map(re.escape, variables))
        return re.sub(rf"(?<!\{{)\{{({names})\}}", lambda found: variables[found[1]], at.value)
    return at.value


class _Reader:
    """Turns one YAML document into Settings, strictly: no key twice, only text as keys, only YAML's own types."""

    def __init__(self, source: str, text: str, problems: list[str], *, numbered: bool) -> None:
        self._source = source
        self._text = text
        self._problems = problems
        self._numbered = numbered
        self._built: dict[int, Any] = {}  # by node: an alias is the same node again, and reading changes nodes with merge keys

    def read(self, keys: Keys) -> Setting | None:
        """The document, which is going to be the value of `keys`; None when it is empty or not YAML (then there is a problem)."""
        try:
            self._loader = yaml.SafeLoader(self._text)
            node = self._loader.get_single_node()
            return Setting(self._value(node, keys), (self._at(node.start_mark.line),)) if node else None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line, mark.column + 1) if mark else (0, 1)
            since = error.context or ""
            if since and self._numbered and error.context_mark and error.context_mark.line != line:
                since += f" from line {error.context_mark.line + 1}"
            where = f"{self._at(line)}:{column}" if self._numbered else self._source
            quotes = (
                " A value that begins with { needs quotes." if re.search(r"(^|[:-] +)\{\w+\}[^\s,]", self._line(line)) else ""
            )
            self._problems.append(f"{where}: not valid YAML: {since}{', ' if since else ''}{error.problem}.{quotes}")
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position)
            self._problems.append(
                f"{self._at(line)}: not valid YAML: the character {chr(int(error.character))!r} is not allowed."
            )
        except RecursionError:
            self._problems.append(f"{self._source}: nested too deeply.")
        return None

    def _at(self, line: int) -> str:
        return f"{self._source}:{line + 1}" if self._numbered else self._source

    def _line(self, line: int) -> str:
        return next(iter(self._text.split("\n")[line : line + 1]), "")

    def _problem(self, node: yaml.Node, keys: Keys, text: str) -> None:
        self._problems.append(f"{self._at(node.start_mark.line)}: {dotted(keys) + ': ' if keys else ''}{text}")

    def _value(self, node: yaml.Node, keys: Keys) -> Any:
        if id(node) in self._built:
            if self._built[id(node)] is _UNFINISHED:
                self._problem(node, keys, "an alias stands inside what it stands for.")
            return self._built[id(node)]
        self._built[id(node)] = _UNFINISHED
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            self._built[id(node)] = self._mapping(node, keys)
        elif isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            items = enumerate(node.value)
            self._built[id(node)] = [
                Setting(self._value(item, (*keys, n)), (self._at(item.start_mark.line),)) for n, item in items
            ]
        elif isinstance(node, yaml.ScalarNode):
            self._built[id(node)] = self._scalar(node, keys)
        else:
            self._foreign(node, keys)
            self._built[id(node)] = None
        return self._built[id(node)]

    def _scalar(self, node: yaml.ScalarNode, keys: Keys) -> Any:
        try:
            return self._loader.construct_object(node)
        except yaml.constructor.ConstructorError:
            self._foreign(node, keys)
        except (
            ValueError,
            LookupError,
            AttributeError,
            TypeError,
        ) as error:  # PyYAML lets them through, for 2024-02-30 and `!!int x`
            self._problem(node, keys, f"{node.value!r} is not a valid {node.tag.removeprefix(_TAG)}: {error}.")
        return _UNFINISHED

    def _foreign(self, node: yaml.Node, keys: Keys) -> None:
        self._problem(node, keys, f"the type {node.tag.replace(_TAG, '!!')} is not supported, expected plain YAML.")

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Setting]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = lines.get(key.value)
                if line is not None:
                    first = f", first on line {line}" if self._numbered and line <= key.start_mark.line else ""
                    self._problem(key, (*keys, key.value), f"the key is there twice{first}.")
                lines.setdefault(key.value, key.start_mark.line + 1)
        self._loader.flatten_mapping(node)
        found: dict[str, Setting] = {}
        for key, value in node.value:
            name = self._scalar(key, keys) if isinstance(key, yaml.ScalarNode) else None
            if isinstance(name, str):
                found[name] = Setting(self._value(value, (*keys, name)), (self._at(key.start_mark.line),))
            elif isinstance(key, yaml.ScalarNode) and name is not _UNFINISHED:
                text = f"YAML reads this key as {received(name)}, expected text. Put it in quotes: {key.value!r}."
                self._problem(key, (*keys, key.value), text)
            elif name is not _UNFINISHED:
                self._problem(key, keys, "a key is a list or a mapping, expected text. Put it in quotes.")
        return found
