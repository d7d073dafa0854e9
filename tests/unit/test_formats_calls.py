"""Tools, calls and results, as each format writes them, and what they come to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.conversation import Call, Conversation, Message
from tokenization.errors import Where
from tokenization.formats import parse_row

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
WEATHER_TEXT = (
    '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}'
)
OSLO = Call("get_weather", '{"city": "Oslo"}')
ROMA = Call("get_weather", '{"city": "Roma"}')
TIME = Call("time")
ASK = Message("user", "?")
DONE = Message("assistant", "Done.")


def parse(row: object, format: str = "auto") -> Conversation:
    return parse_row(row, format=format, where=Where("talks.jsonl", 7), default_id="row-7")


def from_value(*turns: tuple[str, object], **row: Any) -> dict[str, Any]:
    said = [("human", "?"), *turns]
    return {"conversations": [{"from": role, "value": value} for role, value in said], **row}


def messages(*said: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "?"}, *said], **row}


def chatglm3(*said: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"role": "user", "content": "?"}, *said], **row}


def calling(*calls: tuple[str | None, str, object], content: str | None = None) -> dict[str, Any]:
    made = [
        {"type": "function", "function": {"name": name, "arguments": arguments}} | ({"id": id} if id else {})
        for id, name, arguments in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(content: str, id: str | None = None, **item: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **({"tool_call_id": id} if id else {}), **item}


def observed(content: str, name: str | None, loss: bool | None = None) -> Message:
    return Message("observation", content, loss, name=name)


def called(*calls: Call, content: str = "", loss: bool | None = None) -> Message:
    return Message("assistant", content, loss, calls)


ARGS = '{"city": "Oslo"}'
A, B = ("a", "get_weather", ARGS), ("b", "time", "{}")
DONE_OPENAI = {"role": "assistant", "content": "Done."}

TABLE: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "sharegpt: a call as JSON text": (
        from_value(
            ("function_call", '{"name": "get_weather", "arguments": {"city": "Oslo"}}'),
            ("observation", "5"),
            ("gpt", "Done."),
        ),
        (ASK, called(OSLO), observed("5", "get_weather"), DONE),
    ),
    "sharegpt: a call as an object, its arguments as text": (
        from_value(("function_call", {"name": "get_weather", "arguments": ARGS}), ("tool_response", "5")),
        (ASK, called(OSLO), observed("5", "get_weather")),
    ),
    "sharegpt: several calls, as many results": (
        from_value(
            (
                "function_call",
                [{"name": "get_weather", "arguments": ARGS}, {"name": "time", "arguments": ""}],
            ),
            ("tool", "5"),
            ("tool", "9:30"),
        ),
        (ASK, called(OSLO, TIME), observed("5", "get_weather"), observed("9:30", "time")),
    ),
    "sharegpt: one result of two calls has no tool that is known": (
        from_value(
            (
                "function_call",
                '[{"name": "get_weather", "arguments": {"city": "Oslo"}}, {"name": "time", "arguments": {}}]',
            ),
            ("observation", "5, 9:30"),
        ),
        (ASK, called(OSLO, TIME), observed("5, 9:30", None)),
    ),
    "sharegpt: text, then a call, are one turn": (
        from_value(
            ("gpt", "I look."), ("function_call", {"name": "time", "arguments": {}}), ("observation", "9")
        ),
        (ASK, Message("assistant", "I look."), called(TIME), observed("9", "time")),
    ),
    "sharegpt: a result of a call written as text": (
        from_value(("gpt", "Action: look"), ("observation", "9")),
        (ASK, Message("assistant", "Action: look"), observed("9", None)),
    ),
    "openai: content beside a call": (
        messages(calling(A, content="I look."), result("5", "a"), DONE_OPENAI),
        (ASK, called(OSLO, content="I look."), observed("5", "get_weather"), DONE),
    ),
    "openai: no content key beside a call": (
        messages({"role": "assistant", "tool_calls": calling(A)["tool_calls"]}),
        (ASK, called(OSLO)),
    ),
    "openai: results take the order of the calls": (
        messages(calling(A, B), result("9:30", "b"), result("5", "a"), DONE_OPENAI),
        (ASK, called(OSLO, TIME), observed("5", "get_weather"), observed("9:30", "time"), DONE),
    ),
    "openai: results keep their loss when they change places": (
        messages(calling(A, B), result("9:30", "b", loss=True), result("5", "a", loss=False)),
        (ASK, called(OSLO, TIME), observed("5", "get_weather", False), observed("9:30", "time", True)),
    ),
    "openai: calls of a turn in two messages": (
        messages(calling(A), calling(B), result("9:30", "b"), result("5", "a")),
        (ASK, called(OSLO), called(TIME), observed("5", "get_weather"), observed("9:30", "time")),
    ),
    "openai: an id counts in its own turn": (
        messages(calling(A), result("5", "a"), calling(("a", "time", {})), result("9:30", "a")),
        (ASK, called(OSLO), observed("5", "get_weather"), called(TIME), observed("9:30", "time")),
    ),
    "openai: without ids results stay as they stand": (
        messages(calling((None, "get_weather", ARGS), (None, "time", {})), result("5"), result("9:30")),
        (ASK, called(OSLO, TIME), observed("5", "get_weather"), observed("9:30", "time")),
    ),
    "openai: a name that the result brings itself": (
        messages(calling(A, B), result("9:30", name="time"), result("5", name="get_weather")),
        (ASK, called(OSLO, TIME), observed("9:30", "time"), observed("5", "get_weather")),
    ),
    "openai: calls of one tool name all results": (
        messages(calling(A, ("b", "get_weather", '{"city": "Roma"}')), result("5 and 15")),
        (ASK, called(OSLO, ROMA), observed("5 and 15", "get_weather")),
    ),
    "openai: a result without content, then the user": (
        messages(calling(B), result("", "b") | {"content": None}, {"role": "user", "content": "?"}),
        (ASK, called(TIME), observed("", "time"), ASK),
    ),
    "openai: a result in parts": (
        messages(
            calling(B), {"role": "tool", "content": [{"type": "text", "text": "9"}], "tool_call_id": "b"}
        ),
        (ASK, called(TIME), observed("9", "time")),
    ),
    "openai, older: function_call and function": (
        messages(
            {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": ""}},
            {"role": "function", "name": "time", "content": "9:30"},
            DONE_OPENAI,
        ),
        (ASK, called(TIME), observed("9:30", "time"), DONE),
    ),
    "openai: weight of a call": (
        messages(calling(B) | {"weight": 0}),
        (ASK, called(TIME, loss=False)),
    ),
    "chatglm3: a call and its result in one message": (
        chatglm3(
            {"role": "assistant", "content": "I look."},
            {"role": "tool", "name": "get_weather", "parameters": {"city": "Oslo"}, "observation": "5"},
            DONE_OPENAI,
        ),
        (ASK, Message("assistant", "I look."), called(OSLO), observed("5", "get_weather"), DONE),
    ),
    "chatglm3: results are JSON of any kind, and never trained": (
        chatglm3(
            {
                "role": "tool",
                "name": "time",
                "parameters": {},
                "observation": {"h": 9, "米": None},
                "loss": True,
            },
            {"role": "tool", "name": "time", "parameters": {}, "observation": [1.5, True], "loss": False},
            {"role": "tool", "name": "time", "parameters": {}, "observation": None},
        ),
        (
            ASK,
            called(TIME, loss=True),
            observed('{"h": 9, "米": null}', "time"),
            called(TIME, loss=False),
            observed("[1.5, true]", "time"),
            called(TIME),
            observed("null", "time"),
        ),
    ),
    "chatglm3: an observation by itself, trained if it says so": (
        chatglm3(
            {
                "role": "assistant",
                "metadata": "time",
                "content": " ```python\ntool_call()\n```",
                "loss": False,
            },
            {"role": "observation", "content": "9", "loss": True, "metadata": ""},
            {"role": "assistant", "content": "Done.", "metadata": ""},
        ),
        (ASK, called(TIME, loss=False), observed("9", "time", True), DONE),
    ),
    "chatglm3: metadata names the tool of the block": (
        chatglm3(
            {
                "role": "assistant",
                "metadata": "get_weather",
                "content": "```python\ntool_call(city='Oslo')\n```",
            }
        ),
        (ASK, called(OSLO)),
    ),
    "chatglm3: code in a block": (
        chatglm3(
            {"role": "assistant", "metadata": "interpreter", "content": "```python\nx = 1\nprint(x)\n```"},
            {"role": "observation", "content": "1"},
        ),
        (ASK, called(Call("interpreter", '{"code": "x = 1\\nprint(x)"}')), observed("1", "interpreter")),
    ),
    "chatglm3: bare code": (
        chatglm3({"role": "assistant", "metadata": "interpreter", "content": "print(1)\n"}),
        (ASK, called(Call("interpreter", '{"code": "print(1)\\n"}'))),
    ),
    "the combined tool among from and value": (
        {
            "conversations": [
                {"from": "human", "value": "?"},
                {"from": "tool", "name": "get_weather", "parameters": {"city": "Oslo"}, "observation": 5},
            ]
        },
        (ASK, called(OSLO), observed("5", "get_weather")),
    ),
    "a table's nulls say nothing": (
        messages(
            calling(B) | {"function_call": None, "name": None, "parameters": None},
            result("9", "b", parameters=None, observation=None, tool_calls=None, metadata=None),
        ),
        (ASK, called(TIME), observed("9", "time")),
    ),
}


@pytest.mark.parametrize(("row", "expected"), TABLE.values(), ids=TABLE.keys())
def test_calls_and_results(row: dict[str, Any], expected: tuple[Message, ...]) -> None:
    assert parse(row).messages == expected


@pytest.mark.parametrize("format", ["auto", "chatglm3", "openai"])
def test_chatglm3_is_read_by_its_name_too(format: str) -> None:
    row = chatglm3({"role": "tool", "name": "time", "parameters": {}, "observation": "9"}, tools=["any", 1])
    assert parse(row, format).messages == (ASK, called(TIME), observed("9", "time"))
    assert parse(row, format).tools == ('"any"', "1")


def test_toolbench_takes_the_longest_path_and_its_functions() -> None:
    path = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": ARGS}},
        {"role": "function", "name": "get_weather", "content": "5"},
        {"role": "user", "content": "Another way?", "valid": False},
        {"role": "assistant", "content": "Done."},
    ]
    row = {"answer_generation": {"train_messages": [path[:2], path[:3], path], "function": [WEATHER]}}
    conversation = parse(row)
    another = Message("user", "Another way?")
    assert conversation.messages == (ASK, called(OSLO), observed("5", "get_weather"), another, DONE)
    assert conversation.tools == (WEATHER_TEXT,)


@settings(deadline=None)
@given(order=st.permutations(range(5)), some=st.integers(1, 5))
def test_results_in_any_order_come_back_in_the_order_of_the_calls(order: list[int], some: int) -> None:
    answered = order[:some]
    row = messages(
        calling(*((f"id{n}", f"tool{n}", {}) for n in range(5))),
        *(result(f"result {n}", f"id{n}") for n in answered),
    )
    after = parse(row).messages[2:]
    assert [m.content for m in after] == [f"result {n}" for n in sorted(answered)]
    assert [m.name for m in after] == [f"tool{n}" for n in sorted(answered)]
