"""Arguments held against tools' schemas: what breaks them, what is no schema, and that nothing in one does harm."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tokenization.lint.schemas import SchemaFault, Tool, read_tools

TRIP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "minLength": 1},
        "days": {"type": "integer", "minimum": 1},
        "stops": {"type": "array", "items": {"type": "object", "required": ["city"]}},
        "class": {"enum": ["first", "second"]},
        "when": {"$ref": "#/$defs/date"},
    },
    "required": ["to", "days"],
    "$defs": {"date": {"type": "string", "pattern": "^[0-9]{4}-"}},
}


def tool(parameters: object) -> Tool:
    (read,) = read_tools([json.dumps({"name": "f", "parameters": parameters})])
    return read


@pytest.mark.parametrize(
    ("arguments", "violations"),
    [
        ({"to": "Oslo", "days": 2, "stops": [{"city": "Rome"}], "class": "first", "when": "2024-01"}, []),
        ({"to": "Oslo", "days": 2.0, "stops": []}, []),
        ({"to": "Oslo"}, ["$: 'days' is a required property"]),
        ({}, ["$: 'to' is a required property", "$: 'days' is a required property"]),
        ({"to": "Oslo", "days": "2"}, ["$.days: '2' is not of type 'integer'"]),
        ({"to": "Oslo", "days": True}, ["$.days: True is not of type 'integer'"]),
        ({"to": "Oslo", "days": None}, ["$.days: None is not of type 'integer'"]),
        ({"to": "", "days": 0}, ["$.days: 0 is less than the minimum of 1", "$.to: '' should be non-empty"]),
        (
            {"to": "Oslo", "days": 1, "stops": [{"city": "Rome"}, {}]},
            ["$.stops[1]: 'city' is a required property"],
        ),
        ({"to": "Oslo", "days": 1, "class": "third"}, ["$.class: 'third' is not one of ['first', 'second']"]),
        ({"to": "Oslo", "days": 1, "when": "soon"}, ["$.when: 'soon' does not match '^[0-9]{4}-'"]),
    ],
)
def test_violations(arguments: dict[str, Any], violations: list[str]) -> None:
    assert tool(TRIP).violations(arguments) == violations


@pytest.mark.parametrize(
    "parameters", [None, True, {}, {"type": "object"}, {"type": ["object", "null"]}, {"x": 1}]
)
def test_schemas_that_say_little(parameters: object) -> None:
    read = tool(parameters)
    assert read.fault is None
    assert read.violations({"a": 1}) == []
    assert read.unknown({"a": 1}) == []
    assert read.lacking({}) == []


def nested(schema: object, **others: object) -> dict[str, Any]:
    return {"properties": {"a": schema}} | others


@pytest.mark.parametrize(
    ("parameters", "at", "fault"),
    [
        ({"type": "dict"}, "$.type", "'dict' is none of JSON Schema's types; write 'object'"),
        (
            nested({"type": "float"}),
            "$.properties.a.type",
            "'float' is none of JSON Schema's types; write 'number'",
        ),
        (
            nested({"type": "any"}),
            "$.properties.a.type",
            "'any' is none of JSON Schema's types; leave it out where any value will do",
        ),
        (
            nested({"type": "dict"}, type="dict"),
            "$.type",
            "'dict' is none of JSON Schema's types; write 'object' (and 1 more)",
        ),
        (
            nested({"required": True}),
            "$.properties.a.required",
            "True is no list of names; list the required ones beside 'properties'",
        ),
        ({"properties": ["a"]}, "$.properties", "['a'] is not of type 'object'"),
        ({"pattern": "("}, "$.pattern", "'(' is not a 'regex'"),
        ([], "$", "[] is not of type 'object', 'boolean'"),
        ("text", "$", "'text' is not of type 'object', 'boolean'"),
    ],
)
def test_what_is_no_schema(parameters: object, at: str, fault: str) -> None:
    read = tool(parameters)
    assert read.fault == f"{at}: {fault}"
    with pytest.raises(SchemaFault):
        read.violations({})


def test_names_are_known_even_where_the_schema_is_none() -> None:
    read = tool({"type": "dict", "properties": {"a": {"type": "float"}, "b": {}}, "required": ["a", "c", 1]})
    assert read.names == ["a", "b", "c"]
    assert read.lacking({"b": 1}) == ["a", "c"]
    assert read.unknown({"a": 1, "c": 2, "d": 3}) == ["d"]


@pytest.mark.parametrize("key", ["additionalProperties", "patternProperties", "allOf", "$ref", "if"])
def test_names_may_stand_elsewhere(key: str) -> None:
    assert tool({"properties": {"a": {}}, key: {}}).unknown({"b": 1}) == []


@pytest.mark.parametrize(
    ("parameters", "arguments", "reason"),
    [
        ({"$ref": "https://example.org/schema.json"}, {}, "Unresolvable: https://example.org/schema.json"),
        ({"$ref": "#/$defs/none"}, {}, "PointerToNowhere: '/$defs/none' does not exist"),
        ({"$ref": "#"}, {}, "it refers to itself without end"),
        ({"properties": {"a": {"multipleOf": 0.1}}}, {"a": 10**400}, "int too large"),
    ],
)
def test_schemas_that_cannot_be_applied(
    parameters: object, arguments: dict[str, Any], reason: str, monkeypatch
) -> None:
    fetched: list[object] = []
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, lambda *arguments, **_: fetched.append(arguments))
    read = tool(parameters)
    assert read.fault is None
    with pytest.raises(SchemaFault) as raised:
        read.violations(arguments)
    assert str(raised.value).startswith(reason)
    assert fetched == []


@pytest.mark.parametrize(
    "text", ["null", "1", '"f"', "[]", "{}", '{"name": 1}', '{"name": ""}', '{"title": "f"}']
)
def test_tools_without_a_name(text: str) -> None:
    (read,) = read_tools([text])
    assert read.name is None


def test_deep_schemas_are_refused_quickly() -> None:
    deep = "{}"
    for _ in range(400):
        deep = f'{{"properties": {{"a": {deep}}}}}'
    start = time.monotonic()
    (read,) = read_tools([f'{{"name": "f", "parameters": {deep}}}'])
    assert read.fault == "it is nested too deep; flatten it"
    assert time.monotonic() - start < 10


WORDS = st.sampled_from([*Draft202012Validator.VALIDATORS, "$id", "$schema", "$defs", "$anchor", "a"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.just(10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["object", "string", "dict", "#", "#/a", "http://[", "a", "(", "x://y", "^a"]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(JSON, st.dictionaries(WORDS, JSON, max_size=3))
def test_any_json_may_stand_for_a_schema(parameters: object, arguments: dict[str, Any]) -> None:
    read = tool(parameters)
    read.unknown(arguments)
    read.lacking(arguments)
    try:
        violations = read.violations(arguments)
    except SchemaFault:
        return
    assert read.fault is None
    assert all(one.startswith("$") for one in violations)
