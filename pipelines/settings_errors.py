"""Turns pydantic's errors about a configuration into sentences for the person who wrote it.

Each error is followed through its location, the data and the JSON schema of the model at once. Pydantic's locations hold labels
of union members between the keys, and only the schema tells a label from a key; it also says which keys and values are right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import CoreSchema

Keys = tuple[str | int, ...]
Located = tuple[Keys, ErrorDetails]
"""An error and what is left of its location."""

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of"}
_KINDS = {"integer": "an integer", "number": "a number", "boolean": "true or false", "object": "a mapping", "null": "null"}
_KEY = ("[key]",)
_FROM_VALIDATORS = frozenset({"value_error", "assertion_error"})
_DESCRIBED = re.compile(
    ".*_(type|parsing|short|long)|(greater|less)_than(_equal)?|enum|literal_error|missing|multiple_of|none_required"
    "|int_from_float|string_pattern_mismatch"
)
"""The errors that a description of the schema explains in full; others are told in pydantic's words."""


def dotted(keys: Keys) -> str:
    """The path of a setting as overrides write it: `train.layers.0.units`."""
    return ".".join(map(str, keys))


def received(value: object) -> str:
    """What came, for an error: values as YAML writes them, with their Python type; collections by their kind only."""
    match value:
        case None:
            return "null"
        case bool():
            return f"{str(value).lower()} (bool)"
        case str():
            return f"{value if len(value) <= 60 else value[:57] + '...'!r} (str)"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return f"a list of {len(value)} item{'' if len(value) == 1 else 's'}"
        case _:
            return f"{value} ({type(value).__name__})"


def nearest(word: str, right: Iterable[str]) -> str | None:
    """The one of `right` that `word` is most likely a misspelling of, without regard to case; None when none is near."""
    by_lower = {name.lower(): name for name in right}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def explain(error: ValidationError, kind: type[BaseModel], data: object, origins: Mapping[Keys, Sequence[str]]) -> list[str]:
    """Tells every problem in one line.

    Args:
        error: What `kind.model_validate(data)` raised.
        kind: The configuration's class.
        data: The merged settings, plain YAML types.
        origins: Where each setting was set (`pipeline.yaml:12`, `--set a=1`); first where it began, then what changed it.
            The root, (), is always there.

    Returns:
        Lines of the form `<origin>: <dotted path>: <what is wrong>`, in pydantic's order, each once.
    """
    schema = kind.model_json_schema(schema_generator=_AnySchema)
    walk = _Walk(schema.get("$defs", {}), origins)
    found = [(item["loc"], item) for item in error.errors(include_url=False)]
    return list(dict.fromkeys(walk.value(schema, data, (), found)))


class _AnySchema(GenerateJsonSchema):
    """A JSON schema for any model: what JSON schema cannot say (a callable, a class) is an empty schema, not a failure."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (pydantic's own declaration)

    def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}


class _Walk:
    """One walk through the errors of one validation."""

    def __init__(self, definitions: Mapping[str, Any], origins: Mapping[Keys, Sequence[str]]) -> None:
        self._definitions = definitions
        self._origins = origins

    def value(self, schema: Mapping[str, Any], data: object, keys: Keys, errors: Sequence[Located]) -> Iterator[str]:
        """Tells the errors of the value at `keys`, and of all below it."""
        schema = self._resolve(schema)
        yield from (self._at_value(schema, keys, item) for where, item in errors if not where)
        groups: dict[str | int, list[Located]] = {}
        for where, item in errors:
            if where:
                groups.setdefault(where[0], []).append((where[1:], item))
        members = self._members(schema)
        if not groups:
            return
        if "discriminator" in schema:
            for tag, group in groups.items():
                yield from self.value(self._by_tag(schema).get(str(tag), {}), data, keys, group)
        elif len(members) == 1:  # X | None: pydantic puts no label into the location
            yield from self.value(members[0], data, keys, [(where, item) for where, item in errors if where])
        elif members:
            yield from self._union(schema, members, data, keys, groups)
        else:
            yield from self._inside(schema, data, keys, groups)

    def _union(
        self,
        schema: Mapping[str, Any],
        members: Sequence[Mapping[str, Any]],
        data: object,
        keys: Keys,
        groups: Mapping[str | int, Sequence[Located]],
    ) -> Iterator[str]:
        """Tells of a value that no member of a plain union takes: the member that it is most like, or the union as a whole."""
        # Every member failed, and pydantic reports them in their order; the labels themselves say little about which is which.
        by_label = dict(zip(groups, members, strict=True)) if len(groups) == len(members) else {}
        like = {
            label: sum(item["type"] not in _FROM_VALIDATORS for _, item in group)
            for label, group in groups.items()
            if any(where or item["type"] in _FROM_VALIDATORS for where, item in group)
        }
        if like:
            label = min(like, key=lambda name: like[name])
            yield from self.value(by_label.get(label, {}), data, keys, groups[label])
        else:
            yield self._at_value(schema, keys, next(iter(groups.values()))[0][1])

    def _inside(
        self, schema: Mapping[str, Any], data: object, keys: Keys, groups: Mapping[str | int, Sequence[Located]]
    ) -> Iterator[str]:
        """Tells the errors of the keys of a section, or of the items of a list."""
        allowed = schema.get("properties", {})
        kinds = {key: {item["type"] for where, item in group if not where} for key, group in groups.items()}
        meant = {nearest(str(key), allowed) for key, types in kinds.items() if "extra_forbidden" in types}
        for key, group in groups.items():
            here = (*keys, key)
            child = self._child(schema, key)
            if "extra_forbidden" in kinds[key]:
                yield self._unknown(here, allowed)
            elif "missing" in kinds[key] and isinstance(key, int):  # a tuple that is too short
                yield self._at_value(schema, keys, group[0][1])
            elif "missing" in kinds[key]:
                wanted = self.describe(child)
                if key not in meant:  # else the line about the misspelt key says it
                    yield self._say(here, f"missing key{', expected ' + wanted if wanted else ''}.")
            elif _has(data, key) or key in allowed:
                yield from self._key(schema, here, group)
                inside = data[key] if _has(data, key) else None  # type: ignore[index]
                yield from self.value(child, inside, here, [(where, item) for where, item in group if where != _KEY])
            else:  # a label that the schema did not foretell
                yield from self.value({}, data, keys, group)

    def _key(self, schema: Mapping[str, Any], keys: Keys, group: Sequence[Located]) -> Iterator[str]:
        """Tells the errors of a key itself, where a mapping's keys have a type of their own."""
        for item in [item for where, item in group if where == _KEY]:
            choices = self._choices(schema.get("propertyNames", {}))
            yield self._unknown(keys, choices) if choices else self._say(keys, f"not a valid key: {_told(item)}.")

    def _at_value(self, schema: Mapping[str, Any], keys: Keys, item: ErrorDetails) -> str:
        kind, value = item["type"], item["input"]
        if kind in _FROM_VALIDATORS:
            changed = self._origins.get(keys, ())[1:]
            return self._say(keys, _told(item) + (f" (changed by {', '.join(changed)})" if changed else ""))
        tagged = next((union for union in (schema, *self._members(schema)) if "discriminator" in union), None)
        if kind.startswith("union_tag_") and tagged and isinstance(value, Mapping):
            return self._tag(tagged, keys, value)
        wanted = self.describe(schema)
        if not (wanted and _DESCRIBED.fullmatch(kind)):
            return self._say(keys, f"{_told(item)}, got {received(value)}.")
        hint = ""
        choices = [choice for choice in self._choices(schema) if isinstance(choice, str)]
        if isinstance(value, str) and (near := nearest(value, choices)):
            hint = f" Did you mean {near!r}?"
        elif isinstance(value, bool) and choices:  # `on` and `no` are booleans to YAML
            hint = " Put it in quotes."
        elif value is not None and not isinstance(value, str | list | Mapping) and wanted.startswith(("text", "a path")):
            hint = " Put it in quotes if text is meant."
        elif isinstance(value, Mapping) and list(value.values()) == [None]:
            hint = " Text that begins with { needs quotes."
        return self._say(keys, f"expected {wanted}, got {received(value)}.{hint}")

    def _tag(self, schema: Mapping[str, Any], keys: Keys, value: Mapping[str, Any]) -> str:
        """Tells of a section whose discriminator is missing or wrong."""
        name, tags = schema["discriminator"]["propertyName"], list(self._by_tag(schema))
        if name in value:
            near = nearest(str(value[name]), tags)
            hint = f" Did you mean {near!r}?" if near else ""
            return self._say((*keys, name), f"expected {_one_of(tags)}, got {received(value[name])}.{hint}")
        known = {key for member in self._by_tag(schema).values() for key in member.get("properties", {})}
        misspelt = nearest(name, [key for key in value if key not in known])
        if misspelt:
            return self._say((*keys, misspelt), f"unknown key. Did you mean {name!r}?")
        return self._say((*keys, name), f"missing key, expected {_one_of(tags)}.")

    def _unknown(self, keys: Keys, allowed: Iterable[str]) -> str:
        near = nearest(str(keys[-1]), allowed)
        listed = ", ".join(allowed)
        hint = f"Did you mean {near!r}?" if near else f"Allowed: {listed}." if listed else "No keys are allowed here."
        return self._say(keys, f"unknown key. {hint}")

    def _say(self, keys: Keys, text: str) -> str:
        known = next(keys[:end] for end in range(len(keys), -1, -1) if keys[:end] in self._origins)
        return f"{self._origins[known][0]}: {dotted(keys) + ': ' if keys else ''}{text}"

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            beside = {name: value for name, value in schema.items() if name != "$ref"}
            schema = {**self._definitions[schema["$ref"].removeprefix("#/$defs/")], **beside}
        return schema

    def _members(self, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The members of a union, None left out; empty for what is not a union."""
        found = [self._resolve(member) for member in schema.get("anyOf", schema.get("oneOf", ()))]
        return [member for member in found if member.get("type") != "null"]

    def _by_tag(self, schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The members of a discriminated union."""
        found = schema["discriminator"]["mapping"].items()
        return {tag: self._resolve({"$ref": member} if isinstance(member, str) else member) for tag, member in found}

    def _child(self, schema: Mapping[str, Any], key: str | int) -> Mapping[str, Any]:
        """The schema of a key or of an item; empty where nothing is known."""
        if isinstance(key, int):
            first = schema.get("prefixItems", [])
            found = first[key] if key < len(first) else schema.get("items", {})
        else:
            others = [schema.get("additionalProperties", {}), *schema.get("patternProperties", {}).values()]
            found = schema.get("properties", {}).get(
                key, next((other for other in others if isinstance(other, Mapping) and other), {})
            )
        return self._resolve(found) if isinstance(found, Mapping) else {}

    def _choices(self, schema: Mapping[str, Any]) -> list[Any]:
        schema = self._resolve(schema)
        own = schema.get("enum", [schema["const"]] if "const" in schema else [])
        return [*own, *(choice for member in self._members(schema) for choice in self._choices(member))]

    def describe(self, schema: Mapping[str, Any]) -> str:
        """What a schema takes, in words: "an integer ≥ 1 or null"; "" when it takes anything."""
        schema = self._resolve(schema)
        union = schema.get("anyOf", schema.get("oneOf"))
        if union:
            parts = [self.describe(member) for member in union]
            return " or ".join(dict.fromkeys(parts)) if all(parts) else ""
        if "enum" in schema or "const" in schema:
            return _one_of(self._choices(schema))
        kind = schema.get("type", "")
        if kind == "string":
            return _text(schema)
        if kind == "array":
            return "a list" + _between(schema, "minItems", "maxItems", "item")
        limits = [f"{sign} {schema[name]}" for name, sign in _LIMITS.items() if name in schema]
        return f"{_KINDS.get(kind, '')} {' and '.join(limits)}".strip()


def _has(data: object, key: str | int) -> bool:
    return key in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(key, int) and key < len(data)


def _told(item: ErrorDetails) -> str:
    """Pydantic's message, as far as it goes on after "path: "."""
    text = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text.replace("Input should be", "expected", 1)


def _one_of(choices: Sequence[Any]) -> str:
    quoted = ", ".join(str(choice).lower() if isinstance(choice, bool) else repr(choice) for choice in choices)
    return quoted if len(choices) == 1 else f"one of {quoted}"


def _text(schema: Mapping[str, Any]) -> str:
    named = schema.get("format", "text")
    if named != "text" and not named.endswith("path"):
        return ""  # dates, addresses: pydantic says better what is wrong with them
    text = "a path" if named.endswith("path") else "text"
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    return text + _between(schema, "minLength", "maxLength", "character") + pattern


def _between(schema: Mapping[str, Any], low: str, high: str, unit: str) -> str:
    least, most = schema.get(low, 0), schema.get(high)
    if most is None:
        return f" of at least {least} {unit}{'' if least == 1 else 's'}" if least else ""
    count = f"{most}" if least == most else f"{least} to {most}" if least else f"at most {most}"
    return f" of {count} {unit}{'' if most == 1 else 's'}"
