"""Rows of every accepted shape become the same conversation; every other row is a one-line DataError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenization.conversation import Conversation, Message
from tokenization.errors import DataError, Where
from tokenization.formats import parse_row

WHERE = Where("talks.jsonl", 7)
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "conversations"


def parse(row: object, format: str = "auto") -> Conversation:
    return parse_row(row, format=format, where=WHERE, default_id="row-7")


def sharegpt(*turns: tuple[str, str], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **row}


def openai(*turns: tuple[str, str], **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **row}


HI = (Message("user", "hi", None), Message("assistant", "ok", None))


@pytest.mark.parametrize("format", ["auto", "sharegpt"])
@pytest.mark.parametrize("human", ["human", "user"])
@pytest.mark.parametrize("gpt", ["gpt", "chatgpt", "assistant"])
def test_sharegpt_names_of_the_roles(format: str, human: str, gpt: str) -> None:
    assert parse(sharegpt((human, "hi"), (gpt, "ok")), format).messages == HI


@pytest.mark.parametrize("format", ["auto", "messages"])
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_role_and_content_under_either_key(format: str, key: str) -> None:
    row = {key: openai(("user", "hi"), ("assistant", "ok"))["messages"]}
    assert parse(row, format).messages == HI


def test_a_set_format_chooses_between_two_lists() -> None:
    row = {**sharegpt(("human", "a")), **openai(("user", "b"))}
    assert parse(row, "sharegpt").messages[0].content == "a"
    assert parse(row, "messages").messages[0].content == "b"


@pytest.mark.parametrize(
    ("row_id", "expected"), [("db_0", "db_0"), (12, "12"), (0, "0"), (None, "row-7"), ("", "")]
)
def test_ids(row_id: object, expected: str) -> None:
    assert parse(sharegpt(("human", "hi"), id=row_id)).id == expected
    assert parse(sharegpt(("human", "hi"))).id == "row-7"


@pytest.mark.parametrize("loss", [None, True, False])
def test_loss_is_kept_as_it_stands(loss: bool | None) -> None:
    row = {"conversations": [{"from": "human", "value": "hi", "loss": loss}]}
    assert parse(row).messages == (Message("user", "hi", loss),)


def test_loss_and_role_decide_what_is_trained() -> None:
    table = {
        ("system", None): False,
        ("user", None): False,
        ("assistant", None): True,
        ("system", True): True,
        ("user", True): True,
        ("assistant", True): True,
        ("assistant", False): False,
        ("user", False): False,
    }
    for (role, loss), trained in table.items():
        assert Message(role, "x", loss).trained is trained, (role, loss)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "row",
    [
        sharegpt(("system", "S"), ("human", "hi"), ("gpt", "ok")),
        sharegpt(("human", "hi"), ("gpt", "ok"), system="S"),
        openai(("system", "S"), ("user", "hi"), ("assistant", "ok"), system=""),
    ],
)
def test_system_as_a_message_or_beside_the_messages(row: object) -> None:
    assert parse(row).messages == (Message("system", "S", None), *HI)


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_text_is_none(system: object) -> None:
    assert parse(sharegpt(("human", "hi"), ("gpt", "ok"), system=system)).messages == HI


def test_a_default_system_prompt_yields_to_the_conversations_own() -> None:
    own = parse(sharegpt(("system", "S"), ("human", "hi")))
    assert own.with_system("D") == own
    bare = parse(sharegpt(("human", "hi")))
    assert bare.with_system("D").messages[0] == Message("system", "D", None)
    assert bare.with_system("D").messages[1:] == bare.messages


def test_it_may_end_on_the_user() -> None:
    roles = [m.role for m in parse(sharegpt(("human", "a"), ("gpt", "b"), ("human", "c"))).messages]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_are_no_fault(tools: object) -> None:
    assert parse(sharegpt(("human", "hi"), ("gpt", "ok"), tools=tools)).messages == HI


LONE_SURROGATE = json.loads('"a\\ud83d"')


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([], "row is a list, not an object"),
        ("hi", "row is a string"),
        (None, "row is null"),
        (3.5, "row is a number"),
        (True, "row is a boolean"),
        ({}, "no 'conversations' or 'messages'"),
        ({"instruction": "a", "output": "b"}, "its keys are ['instruction', 'output']"),
        ({"messages": None}, "'messages' is null, not a list"),
        ({"conversations": {"from": "human"}}, "'conversations' is an object, not a list"),
        ({"conversations": []}, "'conversations' is an empty list"),
        ({"messages": []}, "'messages' is an empty list"),
        ({**sharegpt(("human", "a")), **openai(("user", "b"))}, "drop one or set the source's format"),
        ({"conversations": ["hi"]}, 'message 1 is a string, not an object {"from"'),
        ({"messages": [["user", "hi"]]}, 'message 1 is a list, not an object {"role"'),
        ({"conversations": [{"from": "human"}]}, "message 1 has no 'value'; its keys are ['from']"),
        ({"messages": [{"content": "a"}]}, "message 1 has no 'role'"),
        ({"conversations": [{}]}, "message 1 has no 'from'; its keys are []"),
        (sharegpt(("humen", "a")), "unknown role 'humen'; did you mean 'human'? known are system, human"),
        (sharegpt(("GPT", "a")), "did you mean 'gpt'?"),
        (sharegpt(("human", "a"), ("observation", "b")), "message 2 has the unknown role 'observation'"),
        ({"messages": [{"role": 3, "content": "a"}]}, "message 1 has the unknown role 3; known are"),
        ({"messages": [{"role": [], "content": "a"}]}, "unknown role []"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1: 'content' is null, not a string"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "'content' is a list, not a string"),
        (sharegpt(("human", LONE_SURROGATE)), "half a surrogate pair at character 2"),
        (
            {"conversations": [{"from": "human", "value": "a", "loss": 1}]},
            "'loss' is 1; it can be true",
        ),
        ({"conversations": [{"from": "human", "value": "a", "loss": "no"}]}, "'loss' is 'no'"),
        (sharegpt(("gpt", "a"), ("human", "b")), "message 1 is the assistant's"),
        (sharegpt(("system", "S"), ("gpt", "a")), "message 2 is the assistant's"),
        (sharegpt(("gpt", "a"), system="S"), "message 1 is the assistant's"),
        (sharegpt(("human", "a"), ("human", "b")), "messages 1 and 2 are both the user's"),
        (sharegpt(("system", "S"), ("human", "a"), ("gpt", "b"), ("gpt", "c")), "messages 3 and 4 are both"),
        (sharegpt(("human", "a"), ("system", "S")), "message 2 is a system message"),
        (sharegpt(("system", "S"), ("system", "S"), ("human", "a")), "message 2 is a system message"),
        (sharegpt(("system", "S")), "only a system message"),
        (sharegpt(("system", "S"), ("human", "a"), system="T"), "keep one of the two"),
        (sharegpt(("human", "a"), system=["S"]), "'system' is a list, not a string"),
        (sharegpt(("human", "a"), id=["x"]), "'id' is a list"),
        (sharegpt(("human", "a"), id=1.5), "'id' is a number"),
        (sharegpt(("human", "a"), id=True), "'id' is a boolean"),
        (sharegpt(("human", "a"), id=LONE_SURROGATE), "'id' holds half"),
        (sharegpt(("human", "a"), tools='[{"name": "f"}]'), "the row has 'tools'"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "message 1 has 'tool_calls'"),
    ],
)
def test_what_is_no_conversation(row: object, says: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(row)
    message = str(caught.value)
    assert message.startswith("talks.jsonl:7: ")
    assert says in message
    assert "\n" not in message
    assert caught.value.where == WHERE


def test_errors_stay_short_on_long_values() -> None:
    for row in [{f"key{n}": 1 for n in range(1000)}, sharegpt(("role\n" * 1000, "a"))]:
        with pytest.raises(DataError) as caught:
            parse(row)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_sharegpt_format_wants_its_own_key() -> None:
    with pytest.raises(DataError, match="no 'conversations', a list"):
        parse(openai(("user", "hi")), "sharegpt")


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="'sharegtp' is not known; use one of auto, sharegpt, messages"):
        parse(sharegpt(("human", "hi")), "sharegtp")


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository (../shared/data)")
def test_every_row_of_the_real_files() -> None:
    totals = {"agentinstruct_db.json": (400, 2452, 400), "sharegpt_general.json": (500, 2000, 0)}
    for name, (rows, messages, untrained) in totals.items():
        parsed = [parse(row) for row in json.loads((DATA / name).read_text(encoding="utf-8"))]
        flat = [message for conversation in parsed for message in conversation.messages]
        assert (len(parsed), len(flat)) == (rows, messages)
        assert sum(m.role == "assistant" and not m.trained for m in flat) == untrained
        assert not any(m.role != "assistant" and m.trained for m in flat)
    lines = (DATA / "fireact_hotpotqa.jsonl").read_text(encoding="utf-8").splitlines()
    ends = {parse(json.loads(line)).messages[-1].role for line in lines}
    assert ends == {"user"}  # the reward, told to the agent after its last answer


@pytest.mark.parametrize(("key", "value"), [("los", False), ("Loss", False), ("losss", True), ("weight", 0)])
def test_a_loss_that_would_not_be_read_is_refused(key: str, value: object) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", key: value}]}
    with pytest.raises(DataError, match=f"message 2 has '{key}', which is not read; write 'loss'"):
        parse_row(row, where=Where("f.jsonl", 3), default_id="0")


def test_loss_of_a_row_is_refused() -> None:
    row = {
        "loss": False,
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    with pytest.raises(DataError, match="the row has 'loss'"):
        parse_row(row, where=Where("f.jsonl", 3), default_id="0")
