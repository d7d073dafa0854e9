"""Tools and arguments: exact JSON, whichever way a row brings them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.conversation import Conversation, Message
from tokenization.errors import Where
from tokenization.formats import parse_row

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
WEATHER_TEXT = (
    '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}'
)
ASK, DONE = Message("user", "?"), Message("assistant", "Done.")
SAID = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Done."}]


def parse(row: object) -> Conversation:
    return parse_row(row, where=Where("talks.jsonl", 7), default_id="row-7")


def call_of(arguments: object) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [SAID[0], {"role": "assistant", "content": None, "tool_calls": [call]}]}


TOOLS: list[dict[str, Any]] = [
    {"tools": [WEATHER]},
    {"functions": [WEATHER]},
    {"tools": json.dumps([WEATHER])},
    {"tools": " [" + WEATHER_TEXT + "]\n"},
    {"tools": [{"type": "function", "function": WEATHER}], "functions": []},
    {"tools": [{"function": WEATHER, "type": "function"}], "functions": None},
]


@pytest.mark.parametrize("beside", TOOLS)
@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Done."}]},
        {"messages": SAID},
        {"prompt": "?", "response": "Done."},
        {"instruction": "?", "output": "Done."},
        {"answer_generation": {"train_messages": [SAID], "function": []}},
    ],
)
def test_tools_beside_any_row(row: dict[str, Any], beside: dict[str, Any]) -> None:
    assert parse({**row, **beside}) == Conversation("row-7", (ASK, DONE), (WEATHER_TEXT,))


def test_tools_of_the_system_message() -> None:
    row = {"messages": [{"role": "system", "content": "S", "tools": [WEATHER]}, *SAID]}
    assert parse(row) == Conversation("row-7", (Message("system", "S"), ASK, DONE), (WEATHER_TEXT,))


@pytest.mark.parametrize("tools", [None, "", "[]", [], " [ ] ", "null"])
def test_no_tools_are_no_fault(tools: object) -> None:
    assert parse({"messages": SAID, "tools": tools}).tools == ()


def test_what_is_wrapped_round_a_function_is_taken_off() -> None:
    """As the written chat templates do: `type` and `strict` are for servers."""
    tools = [
        {"type": "function", "function": {"name": "f"}, "strict": True},
        {"function": {"name": "g"}},
        {"name": "h", "function": "not one"},
    ]
    read = [json.loads(tool) for tool in parse({"messages": SAID, "tools": tools}).tools]
    assert read == [{"name": "f"}, {"name": "g"}, {"name": "h", "function": "not one"}]


def test_arguments_keep_order_types_and_nulls() -> None:
    written = (
        '{"b": null, "a": 1.0, "n": 1, "e": 1e22, "z": [], "é": "\\u00e9\\n", "o": {"y": true, "x": -0.0}}'
    )
    kept = '{"b": null, "a": 1.0, "n": 1, "e": 1e+22, "z": [], "é": "é\\n", "o": {"y": true, "x": -0.0}}'
    for arguments in (written, f" {written}\n", json.loads(written)):
        call = parse(call_of(arguments)).messages[1].calls[0]
        assert call.arguments == kept


@pytest.mark.parametrize("arguments", ["", " \n", "{}", {}])
def test_no_arguments(arguments: object) -> None:
    assert parse(call_of(arguments)).messages[1].calls[0].arguments == "{}"


json_objects = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(deadline=None)
@given(arguments=json_objects, escaped=st.booleans())
def test_arguments_mean_the_same_as_text_and_as_an_object(arguments: dict[str, Any], escaped: bool) -> None:
    """Compared by `repr`: == takes 1, 1.0 and True for one, and no heed of order."""
    as_text = json.dumps(arguments, ensure_ascii=escaped)
    rows = [
        call_of(as_text),
        call_of(arguments),
        {
            "messages": [
                SAID[0],
                {"role": "function_call", "content": f'{{"name": "f", "arguments": {as_text}}}'},
            ]
        },
        {"messages": [SAID[0], {"role": "tool", "name": "f", "parameters": arguments, "observation": ""}]},
    ]
    for row in rows:
        call = parse(row).messages[1].calls[0]
        assert repr(json.loads(call.arguments)) == repr(arguments)
        assert repr(json.loads(as_text)) == repr(arguments)
