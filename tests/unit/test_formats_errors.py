"""What is no conversation is refused in one line: where, which message, what is wrong, and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenization.errors import DataError, Where
from tokenization.formats import parse_row

WHERE = Where("talks.jsonl", 7)
LONE_SURROGATE = json.loads('"a\\ud83d"')
NAN, HUGE = float("nan"), 10**5000
ASK = {"role": "user", "content": "?"}
F = {"name": "f", "arguments": "{}"}


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def error_of(row: object, format: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        parse_row(row, format=format, where=WHERE, default_id="row-7")
    assert caught.value.where == WHERE
    message = str(caught.value)
    assert message.startswith("talks.jsonl:7: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 450
    return message


def sharegpt(*turns: tuple[str, object], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **row}


def openai(*said: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"messages": list(said), **row}


def says(**item: Any) -> dict[str, Any]:
    """An OpenAI row whose second message is the assistant's, with these keys."""
    return openai(ASK, {"role": "assistant", "content": "", **item})


def calls(arguments: object) -> dict[str, Any]:
    return says(tool_calls=[{"function": {"name": "f", "arguments": arguments}}])


def code(content: str, metadata: str = "interpreter") -> dict[str, Any]:
    return says(metadata=metadata, content=content)


def answered(*results: dict[str, Any], ids: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    made = [{"id": id, "function": F} for id in ids]
    results = tuple({"role": "tool", "content": "5", **result} for result in results)
    return openai(ASK, {"role": "assistant", "content": None, "tool_calls": made}, *results)


ROWS: list[tuple[object, str]] = [
    ([], "row is a list, not an object"),
    ("hi", "row is a string"),
    (None, "row is null"),
    (3.5, "row is a number"),
    (True, "row is a boolean"),
    ({}, "row fits no format, its keys are []; wanted are 'messages' or 'conversations', a list of messages"),
    ({"instruction": "a", "text": "b"}, "its keys are ['instruction', 'text']; wanted are"),
    ({"instruction": "a", "text": "b"}, "'instruction' and 'output' (alpaca)"),
    ({"prompt": "a", "response": None}, "'prompt' and 'response' (pairs)"),
    ({"tree": {}}, "'answer_generation' (toolbench)"),
    ({"messages": None}, "row fits no format, its keys are ['messages']"),
    ({"prompt": "a", "response": "b", "instruction": "c", "output": "d"}, "could be pairs or alpaca; set"),
    ({"conversations": {"from": "human"}}, "'conversations' is an object, not a list"),
    ({"conversations": []}, "'conversations' is an empty list"),
    ({"messages": []}, "'messages' is an empty list"),
    ({**sharegpt(("human", "a")), **openai(ASK)}, "drop one or set the source's format"),
    ({"prompt": [ASK], "chosen": [], "rejected": []}, "the row is a preference ('chosen', 'rejected')"),
    ({**openai(ASK), "rejected": "no"}, "make a row of messages that ends with the chosen answer"),
    ({**openai(ASK), "loss": False}, "the row has 'loss', which is read from messages alone"),
    ({**openai(ASK), "images": ["a.png"]}, "the row has 'images', which a text model cannot be shown"),
]
MESSAGES: list[tuple[object, str]] = [
    ({"conversations": ["hi"]}, 'message 1 is a string, not an object {"from"'),
    ({"messages": [["user", "hi"]]}, 'message 1 is a list, not an object {"role"'),
    ({"conversations": [{"from": "human"}]}, "message 1 has no 'value'; its keys are ['from']"),
    ({"messages": [{"content": "a"}]}, "message 1 has no 'role'"),
    ({"conversations": [{}]}, "message 1 has no 'from'; its keys are []"),
    (openai(ASK, {"role": "assistant"}), "message 2 has no 'content'"),
    (
        sharegpt(("humen", "a")),
        "unknown role 'humen'; did you mean 'human'? known are system, developer, human",
    ),
    (sharegpt(("GPT", "a")), "did you mean 'gpt'?"),
    ({"messages": [{"role": 3, "content": "a"}]}, "message 1 has the unknown role 3; known are"),
    ({"messages": [{"role": [], "content": "a"}]}, "unknown role []"),
    (sharegpt(("human", None)), "message 1: 'value' is null, not a string"),
    (sharegpt(("human", [{"type": "text", "text": "a"}])), "message 1: 'value' is a list, not a string"),
    (openai({"role": "user", "content": {"a": 1}}), "message 1: 'content' is an object, not a string"),
    (openai({"role": "user", "content": ["a"]}), "'content', part 1 is a string, not an object"),
    (openai({"role": "user", "content": [{"text": "a"}]}), "'content', part 1 has no 'type'"),
    (
        openai({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}),
        "message 1: 'content', part 2 has the type 'image_url'; only 'text'",
    ),
    (openai({"role": "user", "content": [{"type": "text", "text": None}]}), "part 1: 'text' is null"),
    (sharegpt(("human", LONE_SURROGATE)), "half a surrogate pair at character 2"),
    (says(loss=1), "message 2: 'loss' is 1; it can be true, false or null"),
    (says(loss="no"), "'loss' is 'no'"),
    (says(los=False), "message 2 has 'los', which is not read; write 'loss'"),
    (says(Loss=False), "message 2 has 'Loss', which is not read"),
    (says(losss=True), "message 2 has 'losss', which is not read"),
    (says(weight=0, loss=False), "message 2 has 'loss' and 'weight'; keep one of the two"),
    (says(weight=0.5), "message 2: 'weight' is 0.5; it can be 0 or 1"),
    (says(weight=True), "'weight' is True; it can be 0 or 1"),
    (openai({**ASK, "weight": 0}), "message 1 has 'weight', but is the user's"),
    (sharegpt(("gpt", "a"), ("human", "b")), "message 1 is the assistant's"),
    (sharegpt(("system", "S"), ("gpt", "a")), "message 2 is the assistant's"),
    (sharegpt(("gpt", "a"), system="S"), "message 1 is the assistant's"),
    (sharegpt(("human", "a"), ("human", "b")), "messages 1 and 2 are both the user's"),
    (sharegpt(("human", "a"), ("observation", "b")), "message 2 is an observation, but no call"),
    (sharegpt(("human", "a"), ("system", "S")), "message 2 is a system message"),
    (sharegpt(("system", "S"), ("system", "S"), ("human", "a")), "message 2 is a system message"),
    (sharegpt(("system", "S")), "only a system message"),
    (sharegpt(("system", "S"), ("human", "a"), system="T"), "keep one of the two"),
    (sharegpt(("human", "a"), system=["S"]), "'system' is a list, not a string"),
    (sharegpt(("human", "a"), id=["x"]), "'id' is a list"),
    (sharegpt(("human", "a"), id=1.5), "'id' is a number"),
    (sharegpt(("human", "a"), id=True), "'id' is a boolean"),
    (sharegpt(("human", "a"), id=LONE_SURROGATE), "'id' holds half"),
    (sharegpt(("human", "a"), id=HUGE), "'id': NaN, an infinity or a number of thousands of digits"),
    (
        openai({**ASK, "tool_calls": [{}]}),
        "message 1 has 'tool_calls', which is not read from the user's messages",
    ),
    (openai({**ASK, "name": "Ada"}), "message 1 has 'name', which is not read"),
    (openai({**ASK, "metadata": "f"}), "message 1 has 'metadata', which is not read"),
    (openai({**ASK, "audio": {"id": "x"}}), "message 1 has 'audio', which is not read"),
    (openai({**ASK, "tools": [F]}), "message 1 has 'tools', which is not read"),
    (says(refusal="No."), "message 2 has 'refusal', which is not read from the assistant's messages"),
    (says(reasoning_content="Hm."), "message 2 has 'reasoning_content', which is not read"),
    (says(tool_call_id="a"), "message 2 has 'tool_call_id', which is not read"),
]
CALLS: list[tuple[object, str]] = [
    (openai(ASK, tools="[{"), "'tools': no JSON: "),
    (openai(ASK, tools='[] "x"'), "'tools': text after the JSON value, character 4"),
    (openai(ASK, tools={"name": "f"}), "'tools' is an object, not a list of tools; put it in [ ]"),
    (openai(ASK, tools=[F], functions=[F]), "tools stand in two places, 'tools' and 'functions'; keep one"),
    (
        openai({"role": "system", "content": "S", "tools": [F]}, ASK, tools=[F]),
        "tools stand in two places, 'tools' and message 1: 'tools'",
    ),
    (openai(ASK, tools=[F, {"n": NAN}]), "'tools', number 2: NaN, an infinity or"),
    (openai(ASK, tools=[{LONE_SURROGATE: 1}]), "'tools', number 1: a string holds half a surrogate pair"),
    (openai(ASK, tools=[nested(101)]), "'tools', number 1: nested deeper than 100 levels; flatten it"),
    (openai(ASK, tools=nested(5000)), "nested deeper than 100 levels"),
    (openai(ASK, tools="[" * 5000), "'tools': no JSON: "),
    (
        says(tool_calls=[{"function": F}], function_call=F),
        "message 2 has 'function_call' and 'tool_calls'; keep one",
    ),
    (
        says(tool_calls={"function": F}),
        "message 2: 'tool_calls' is an object, not a list; put the call in [ ]",
    ),
    (says(tool_calls=["f"]), "message 2, call 1 is a string, not an object"),
    (says(tool_calls=[{"id": "a"}]), "message 2, call 1 has no 'function'; its keys are ['id']"),
    (says(tool_calls=[{"function": F, "type": "custom"}]), "call 1 has the type 'custom'; only 'function'"),
    (says(tool_calls=[{"function": F, "id": 1}]), "message 2, call 1: 'id' is a number"),
    (says(tool_calls=[{"function": F}, {"function": {"arguments": {}}}]), "message 2, call 2 has no 'name'"),
    (says(tool_calls=[{"function": F, "input": "x"}]), "call 1: a call has 'input', which is not read"),
    (says(function_call="f"), "message 2: 'function_call': a call is a string, not an object"),
    (says(function_call={"name": "f"}), "message 2: 'function_call' has no 'arguments'"),
    (says(function_call={**F, "parameters": {"a": 1}}), "a call has 'parameters', which is not read"),
    (says(function_call={**F, "name": ""}), "'name' is ''; a tool's name is one line without white space"),
    (says(function_call={**F, "name": "f\ng"}), "'name' is 'f\\ng'; a tool's name is one line"),
    (says(function_call={**F, "name": " f"}), "'name' is ' f'; a tool's name"),
    (calls("{"), "message 2, call 1: 'arguments': no JSON: "),
    (calls("[]"), "message 2, call 1: 'arguments' is a list, not an object; write {} for none"),
    (calls(None), "'arguments' is null, not an object; write {} for none"),
    (calls('{"a": 1} {"a": 2}'), "'arguments': text after the JSON value, character 10"),
    (calls('{"a": 1, "a": 2}'), "'arguments': no JSON: an object has a key twice"),
    (calls('{"a": NaN}'), "NaN is not part of JSON"),
    (calls('{"a": 1e999}'), "1e999 is beyond a float's range"),
    (calls('{"a": "\\ud83d"}'), "half a surrogate pair"),
    (calls({"a": float("inf")}), "message 2, call 1: 'arguments': NaN, an infinity or"),
    (calls({"a": nested(100)}), "'arguments': nested deeper than 100 levels"),
    (sharegpt(("human", "a"), ("function_call", "f(1)")), "message 2: 'value': no JSON: "),
    (sharegpt(("human", "a"), ("function_call", [])), "message 2: 'value' is an empty list of calls"),
    (sharegpt(("human", "a"), ("function_call", None)), "message 2: 'value': a call is null, not an object"),
    (
        answered({"tool_call_id": "c"}),
        "message 3 has the 'tool_call_id' 'c', which 0 calls of the turn before have",
    ),
    (answered({"tool_call_id": "c"}), "; their ids are ['a', 'b']"),
    (answered({"tool_call_id": "a"}, ids=("a", "a")), "message 3 has the 'tool_call_id' 'a', which 2 calls"),
    (answered({"tool_call_id": "a"}, {}), "message 4 has no 'tool_call_id', unlike a result beside it"),
    (
        answered({"tool_call_id": "b"}, {"tool_call_id": "b"}),
        "messages 3 and 4 both have the 'tool_call_id' 'b'",
    ),
    (answered({"tool_call_id": 5}), "message 3: 'tool_call_id' is a number"),
    (answered({"observation": "5"}), "message 3 has 'observation', which is not read from the observation's"),
    (openai(ASK, {"role": "tool", "parameters": {}, "name": "f"}), "message 2 has no 'observation'"),
    (openai(ASK, {"role": "tool", "parameters": {}, "observation": 1}), "message 2 has no 'name'"),
    (
        openai(ASK, {"role": "tool", "parameters": [], "observation": 1, "name": "f"}),
        "message 2: 'parameters' is a list, not an object",
    ),
    (
        openai(ASK, {"role": "tool", "parameters": {}, "observation": 1, "name": "f", "content": "I look."}),
        "message 2 has 'content' beside 'parameters'; give the text a message of its own",
    ),
    (
        openai({"role": "tool", "parameters": {}, "observation": 1, "name": "f"}, ASK),
        "message 1 is the assistant's, but a conversation opens with the user's",
    ),
    (says(metadata="f", tool_calls=[{"function": F}]), "message 2 has 'metadata' beside other calls"),
    (code("I count.\n```python\n1\n```"), "message 2: text stands before the code"),
    (code("```python\n1\n"), "the code is no single ```python block that ``` closes"),
    (code("```sql\n1\n```"), "the code is no single ```python block"),
    (code("```python\n1\n```\n```python\n2\n```"), "the code is no single ```python block"),
    (code("Hello.", metadata="f"), "message 2: the call of 'f': "),
    (code("```python\ntool_call(a=open('x'))\n```", metadata="f"), "message 2: the call of 'f': "),
    (code("x", metadata="f\ng"), "message 2: 'metadata' is 'f\\ng'; a tool's name is one line"),
]
PLAIN: list[tuple[object, str]] = [
    ({"prompt": [ASK], "response": "a"}, "'prompt' is a list, not a string"),
    ({"prompt": "a", "response": "b", "input": "c"}, "the row has 'input' beside 'prompt'"),
    ({"instruction": "a", "output": 5}, "'output' is a number, not a string"),
    ({"instruction": "a", "input": {}, "output": "b"}, "'input' is an object, not a string"),
    (
        {"prompt": "a", "response": "b", "history": "c"},
        "'history' is a string, not a list of [question, answer]",
    ),
    (
        {"prompt": "a", "response": "b", "history": [["q", "a"], ["q"]]},
        "'history', entry 2 is no list of two strings",
    ),
    ({"prompt": "a", "response": "b", "history": [["q", None]]}, "'history', entry 1, answer is null"),
    ({"answer_generation": []}, "'answer_generation' is a list, not an object"),
    ({"answer_generation": {}}, "'answer_generation' has no 'train_messages'"),
    ({"answer_generation": {"train_messages": [ASK]}}, "'train_messages' is not a list of lists of messages"),
    ({"answer_generation": {"train_messages": []}}, "'train_messages' is an empty list"),
    ({"answer_generation": {"train_messages": [[]]}}, "'train_messages' is an empty list"),
    ({"answer_generation": {"train_messages": [[ASK, ASK]]}}, "messages 1 and 2 are both the user's"),
    (
        {"answer_generation": {"train_messages": [[ASK]], "function": F}},
        "'function' is an object, not a list of tools",
    ),
]


@pytest.mark.parametrize(("row", "words"), [*ROWS, *MESSAGES, *CALLS, *PLAIN])
def test_what_is_no_conversation(row: object, words: str) -> None:
    assert words in error_of(row)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("agentinstruct", "row has no 'conversations', a list of messages; its keys are ['a', 'b']"),
        ("sharegpt", "row has no 'conversations', a list"),
        ("chatglm3", "row has no 'conversations', a list"),
        ("openai", "row has no 'messages' or 'conversations', a list"),
        ("pairs", "row has no 'prompt'; its keys are ['a', 'b']"),
        ("alpaca", "row has no 'instruction'"),
        ("toolbench", "row has no 'answer_generation'"),
    ],
)
def test_a_set_format_wants_its_own_keys(format: str, words: str) -> None:
    assert words in error_of({"a": 1, "b": 2}, format)


def test_the_levels_that_are_too_many_are_counted_exactly() -> None:
    parse_row(openai(ASK, tools=[nested(100)]), where=WHERE, default_id="0")
    parse_row(calls({"a": nested(99)}), where=WHERE, default_id="0")


@pytest.mark.parametrize(
    "row",
    [
        {f"key{n}": 1 for n in range(1000)},
        {"x" * 10**5: 1},
        sharegpt(("role\n" * 1000, "a")),
        says(function_call={**F, "name": "n\n" * 1000}),
        says(function_call={**F, "k\n" * 1000: 1}),
        answered({"tool_call_id": "i\n" * 1000}, ids=tuple(f"{n}" for n in range(1000))),
        openai({"role": "user", "content": [{"type": "t\n" * 1000}]}),
        says(**{"loss" + "\n": 1}),
        code("x\n" * 1000, metadata="m" * 1000),
    ],
)
def test_errors_stay_short_on_long_values(row: object) -> None:
    error_of(row)


def test_unknown_format() -> None:
    known = "auto, agentinstruct, sharegpt, openai, messages, chatglm3, pairs, alpaca, toolbench"
    with pytest.raises(ValueError, match=f"'sharegtp' is not known; use one of {known}"):
        parse_row(openai(ASK), format="sharegtp", where=WHERE, default_id="0")
