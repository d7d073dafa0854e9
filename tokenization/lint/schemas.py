"""What the tools of a conversation say of their arguments, and whether a call keeps to it.

Schemas come with the data and are not trusted: nothing is fetched for a `$ref`, and a schema that cannot be used is
told from a call that breaks one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from tokenization.lint.finding import quoted

_TYPES = {
    "dict": "object",
    "map": "object",
    "str": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
}
"""What other languages call JSON Schema's types."""

_OPENING = {
    *(
        "additionalProperties",
        "patternProperties",
        "unevaluatedProperties",
        "propertyNames",
        "dependentSchemas",
    ),
    *("allOf", "anyOf", "oneOf", "if", "$ref", "$dynamicRef"),
}
"""Keys by which a schema may know names that are not among its `properties`."""

_META_SCHEMA = Draft202012Validator(
    Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
)

_LONGEST = 160
"""Characters of a violation."""


class SchemaFault(ValueError):
    """A schema that no argument can be held against: one line."""


@dataclass(frozen=True)
class Tool:
    """A tool as the data gives it.

    name:   None where it has none
    schema: of the arguments; None where nothing is said of them
    fault:  why `schema` is no JSON schema (Draft 2020-12), if it is none
    """

    name: str | None
    schema: Any
    fault: str | None = None

    def violations(self, arguments: dict[str, Any]) -> list[str]:
        """How the arguments break the schema, each with its JSON path. Raises SchemaFault where that cannot be told."""
        if self.fault:
            raise SchemaFault(self.fault)
        if self.schema is None:
            return []
        # The empty registry: a `$ref` finds what is in the schema and nothing else.
        validator = Draft202012Validator(self.schema, registry=Registry())
        try:
            errors = sorted(validator.iter_errors(arguments), key=lambda error: error.json_path)
        except (Unresolvable, RecursionError, ArithmeticError, re.error) as error:
            reason = "it refers to itself without end" if isinstance(error, RecursionError) else str(error)
            raise SchemaFault(_shortened(reason)) from None
        return list(dict.fromkeys(f"{error.json_path}: {_shortened(error.message)}" for error in errors))

    @property
    def required(self) -> list[str]:
        return [name for name in self._part("required", list) if isinstance(name, str)]

    @property
    def names(self) -> list[str]:
        """Names of arguments that the schema lists."""
        return list(dict.fromkeys([*self._part("properties", dict), *self.required]))

    def lacking(self, arguments: dict[str, Any]) -> list[str]:
        """Required names that the arguments are without, as far as the schema tells."""
        return [name for name in self.required if name not in arguments]

    def unknown(self, arguments: dict[str, Any]) -> list[str]:
        """Names that the schema does not list, although it lists names and says nothing of others."""
        listing = (
            isinstance(self.schema, dict)
            and "properties" in self.schema
            and not _OPENING & self.schema.keys()
        )
        return [name for name in arguments if name not in self.names] if listing else []

    def _part(self, key: str, kind: type[Any]) -> Any:
        part = self.schema.get(key) if isinstance(self.schema, dict) else None
        return part if isinstance(part, kind) else kind()


def read_tools(tools: Sequence[str]) -> list[Tool]:
    """The tools of a conversation, from JSON texts."""
    return [_read_tool(tool) for tool in tools]


@lru_cache(maxsize=4096)  # rows of a source share their tools, and checking a schema takes a millisecond
def _read_tool(text: str) -> Tool:
    tool = json.loads(text)
    if not isinstance(tool, dict):
        return Tool(None, None)
    name = tool.get("name")
    schema = tool.get("parameters")
    return Tool(name if isinstance(name, str) and name else None, schema, _fault(schema))


def _fault(schema: Any) -> str | None:
    if schema is None:
        return None
    try:
        errors = sorted(_META_SCHEMA.iter_errors(schema), key=lambda one: (len(one.path), one.json_path))
    except RecursionError:
        return "it is nested too deep; flatten it"
    faults = list(dict.fromkeys(map(_told, errors)))
    return f"{faults[0]} (and {len(faults) - 1} more)" if len(faults) > 1 else "".join(faults) or None


def _told(error: ValidationError) -> str:
    """What is wrong with a schema, with the remedy where it is known."""
    at, value = error.json_path, error.instance
    if error.absolute_path and error.absolute_path[-1] == "type" and isinstance(value, str):
        known = _TYPES.get(value.lower())
        remedy = f"write {known!r}" if known else "leave it out where any value will do"
        return f"{at}: {quoted(value)} is none of JSON Schema's types; {remedy}"
    if error.absolute_path and error.absolute_path[-1] == "required" and isinstance(value, bool):
        return f"{at}: {value} is no list of names; list the required ones beside 'properties'"
    return f"{at}: {_shortened(error.message)}"


def _shortened(text: str) -> str:
    """The beginning and the end: what was found stands in front, what is wrong with it behind."""
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2 - 1
    return f"{text[:half]}…{text[-half:]}"
