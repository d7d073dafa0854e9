"""Rows of every format become the conversation they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from configs.schema import SourceConfig
from tokenization.conversation import Call, Conversation, Message
from tokenization.errors import Where
from tokenization.formats import FORMATS, parse_row

WHERE = Where("talks.jsonl", 7)
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "conversations"


def parse(row: object, format: str = "auto") -> Conversation:
    return parse_row(row, format=format, where=WHERE, default_id="row-7")


def sharegpt(*turns: tuple[str, object], **row: Any) -> dict[str, Any]:
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **row}


def openai(*turns: tuple[str, object], **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **row}


SYSTEM = Message("system", "S")
HI = (Message("user", "hi"), Message("assistant", "ok"))


@pytest.mark.parametrize("format", ["auto", "agentinstruct", "sharegpt"])
@pytest.mark.parametrize("human", ["human", "user"])
@pytest.mark.parametrize("gpt", ["gpt", "chatgpt", "assistant"])
def test_sharegpt_names_of_the_roles(format: str, human: str, gpt: str) -> None:
    assert parse(sharegpt((human, "hi"), (gpt, "ok")), format).messages == HI


@pytest.mark.parametrize("format", ["auto", "openai", "messages"])
@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_role_and_content_under_either_key(format: str, key: str) -> None:
    row = {key: openai(("developer", "S"), ("user", "hi"), ("assistant", "ok"))["messages"]}
    assert parse(row, format).messages == (SYSTEM, *HI)


def test_a_set_format_chooses_between_two_lists() -> None:
    row = {**sharegpt(("human", "a")), **openai(("user", "b"))}
    assert parse(row, "sharegpt").messages[0].content == "a"
    assert parse(row, "messages").messages[0].content == "b"
    assert parse({**row, "conversations": None}).messages[0].content == "b"


PLAIN: list[tuple[str, dict[str, Any], tuple[Message, ...]]] = [
    ("pairs", {"prompt": "hi", "response": "ok"}, HI),
    ("pairs", {"prompt": "hi", "response": "ok", "history": None, "system": ""}, HI),
    (
        "pairs",
        {"prompt": "hi", "response": "ok", "history": [["a", "b"], ["c", "d"]], "system": "S"},
        (
            SYSTEM,
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "c"),
            Message("assistant", "d"),
            *HI,
        ),
    ),
    ("alpaca", {"instruction": "hi", "output": "ok"}, HI),
    ("alpaca", {"instruction": "hi", "input": "", "output": "ok", "history": []}, HI),
    ("alpaca", {"instruction": "hi", "input": None, "output": "ok", "prompt": "the two, again"}, HI),
    (
        "alpaca",
        {
            "instruction": "Sum up.",
            "input": "A text.",
            "output": "It.",
            "system": "S",
            "history": [["a", "b"]],
        },
        (
            SYSTEM,
            Message("user", "a"),
            Message("assistant", "b"),
            Message("user", "Sum up.\nA text."),
            Message("assistant", "It."),
        ),
    ),
    (
        "toolbench",
        {
            "win": True,
            "tree": {"size": 3},
            "answer_generation": {
                "train_messages": [
                    openai(("user", "hi"))["messages"],
                    openai(("system", "S"), ("user", "hi"), ("assistant", "as long, but before"))["messages"],
                    openai(("system", "S"), ("user", "hi"), ("assistant", "ok"))["messages"],
                    openai(("user", "shorter"))["messages"],
                ]
            },
        },
        (SYSTEM, *HI),
    ),
]


@pytest.mark.parametrize(("format", "row", "messages"), PLAIN)
def test_rows_without_a_list_of_messages(
    format: str, row: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    assert parse(row).messages == messages
    assert parse(row, format).messages == messages


@pytest.mark.parametrize(
    ("row_id", "expected"), [("db_0", "db_0"), (12, "12"), (0, "0"), (None, "row-7"), ("", "")]
)
def test_ids(row_id: object, expected: str) -> None:
    assert parse(sharegpt(("human", "hi"), id=row_id)).id == expected
    assert parse(sharegpt(("human", "hi"))).id == "row-7"


@pytest.mark.parametrize("loss", [None, True, False])
def test_loss_is_kept_as_it_stands(loss: bool | None) -> None:
    said = [{"from": "human", "value": "hi", "loss": loss}, {"from": "gpt", "value": "ok", "loss": loss}]
    said.append({"from": "observation", "value": "5", "loss": loss})
    messages = parse({"conversations": said}).messages
    assert messages == tuple(
        Message(role, text, loss)  # pyright: ignore[reportArgumentType]
        for role, text in (("user", "hi"), ("assistant", "ok"), ("observation", "5"))
    )


@pytest.mark.parametrize(("weight", "loss"), [(0, False), (1, True), (None, None)])
def test_weight_is_openais_word_for_loss(weight: int | None, loss: bool | None) -> None:
    row = openai(("user", "hi"), ("assistant", "ok"))
    row["messages"][1]["weight"] = weight
    assert parse(row).messages[1].loss is loss


def test_loss_and_role_decide_what_is_trained() -> None:
    table = {
        ("system", None): False,
        ("user", None): False,
        ("observation", None): False,
        ("assistant", None): True,
        ("system", True): True,
        ("user", True): True,
        ("observation", True): True,
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
    assert parse(row).messages == (SYSTEM, *HI)


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_text_is_none(system: object) -> None:
    assert parse(sharegpt(("human", "hi"), ("gpt", "ok"), system=system)).messages == HI


def test_a_default_system_prompt_yields_to_the_conversations_own() -> None:
    own = parse(sharegpt(("system", "S"), ("human", "hi")))
    assert own.with_system("D") == own
    bare = parse(sharegpt(("human", "hi")))
    assert bare.with_system("D").messages == (Message("system", "D"), *bare.messages)


def test_it_may_end_on_the_user() -> None:
    roles = [m.role for m in parse(sharegpt(("human", "a"), ("gpt", "b"), ("human", "c"))).messages]
    assert roles == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b", "cache_control": {}}], "a b"),
    ],
)
def test_openai_content_may_be_null_or_parts(content: object, text: str) -> None:
    assert parse(openai(("user", content), ("assistant", "ok"))).messages[0] == Message("user", text)


def test_keys_that_are_of_no_concern_are_left_alone() -> None:
    row = openai(
        ("user", "hi"), ("assistant", "ok"), prompt="hi", source="web", tool_choice="auto", images=[]
    )
    row["messages"][1] |= {
        "refusal": None,
        "audio": None,
        "tool_calls": [],
        "metadata": {"model": "m"},
        "valid": 1,
    }
    row["messages"][0] |= {"metadata": {"time": 5}, "name": None}
    assert parse(row).messages == HI


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository (../shared/data)")
@pytest.mark.parametrize(
    ("files", "rows", "roles", "untrained", "calls", "tools"),
    [
        ("agentinstruct_db.json", 400, {"user": 1226, "assistant": 1226}, 400, 0, 0),
        ("sharegpt_general.json", 500, {"user": 1000, "assistant": 1000}, 0, 0, 0),
        ("alpaca_en.json", 999, {"user": 999, "assistant": 999}, 0, 0, 0),
        ("fireact_hotpotqa.jsonl", 500, {"user": 1885, "assistant": 1385}, 0, 0, 0),
        ("glaive_toolcall_en.json", 300, {"user": 746, "assistant": 957, "observation": 211}, 0, 211, 219),
        ("toolbench_trees/*.json", 3, {"system": 3, "user": 4, "assistant": 11, "observation": 8}, 0, 11, 23),
    ],
)
def test_every_row_of_the_real_files(
    files: str, rows: int, roles: dict[str, int], untrained: int, calls: int, tools: int
) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(DATA.glob(files))]
    values = [value for text in texts for value in (text.splitlines() if files.endswith("l") else [text])]
    read = [json.loads(value) for value in values]
    parsed = [parse(row) for value in read for row in (value if isinstance(value, list) else [value])]
    flat = [message for conversation in parsed for message in conversation.messages]
    assert len(parsed) == rows
    assert {role: sum(m.role == role for m in flat) for role in {m.role for m in flat}} == roles
    assert sum(m.role == "assistant" and not m.trained for m in flat) == untrained
    assert not any(m.role != "assistant" and m.trained for m in flat)
    assert sum(len(m.calls) for m in flat) == calls
    assert sum(len(conversation.tools) for conversation in parsed) == tools
    assert all(m.name for m in flat if m.role == "observation")


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository (../shared/data)")
def test_what_glaive_calls_is_what_it_wrote() -> None:
    rows = json.loads((DATA / "glaive_toolcall_en.json").read_text(encoding="utf-8"))
    written = [
        json.loads(m["value"]) for r in rows for m in r["conversations"] if m["from"] == "function_call"
    ]
    calls = [call for row in rows for m in parse(row).messages for call in m.calls]
    assert [{"name": call.name, "arguments": call.values} for call in calls] == written
    assert calls[0] == Call.of("search_recipes", {"ingredients": ["chicken", "bell peppers", "rice"]})


def test_every_format_is_a_setting() -> None:
    assert set(get_args(get_type_hints(SourceConfig)["format"])) == set(FORMATS)
