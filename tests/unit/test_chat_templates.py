"""One grammar for training and serving: the Jinja twin in transformers, the prompts, and turns read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from found_tokenizers import DEMO, REAL, Found, Served, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.builder import SampleBuilder
from tokenization.conversation import INTERPRETER, Call, Conversation, Message, runs
from tokenization.errors import Where
from tokenization.grammar.reply import Said
from tokenization.sample import SpanKind
from tokenization.templates import TEMPLATES, prompt
from tokenization.templates.messages import chat_messages, chat_tools

real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the repository (../shared/data)")
FOLDERS = {"demo": DEMO, "llama2": REAL}
MARKS = {
    mark for template in TEMPLATES.values() for mark in (*template.control_text, *template.special_tokens)
}
MARKS |= {"<s>", "</s>", "<unk>"}


@dataclass(frozen=True)
class Every:
    """The model folders served, one for each template."""

    of: dict[str, Served] = field(repr=False)


@pytest.fixture(scope="module", params=["demo", pytest.param("llama2", marks=real)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Every:
    folder = tmp_path_factory.mktemp("served")
    model = Found(FOLDERS[request.param]).write(folder / "model")
    return Every({name: serve(model, name, folder / name) for name in TEMPLATES})


pieces = st.sampled_from(
    ["hi", " ", "\n", "  ", "a b", "你好", "天气", "🙂", "'", '"', "\\", "{", "}", "```", "\t", "1.0"]
)
texts = st.lists(pieces | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=5).map(
    "".join
)
texts = texts.filter(lambda text: not any(mark in text for mark in MARKS) and "▁" not in text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["get_weather", "查询天气", "math.hypot", "text-to-speech", "a/b"])
keys = st.sampled_from(["city", "城市", "first-name", "class", "x"])
calls = st.builds(Call.of, names, st.dictionaries(keys, values, max_size=3)) | st.builds(
    lambda code: Call.of(INTERPRETER, {"code": code}), texts
)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    messages.append(Message("user", draw(texts)))
    for _ in range(draw(st.integers(1, 3))):
        made: list[Call] = []
        for _ in range(draw(st.integers(1, 2))):
            made += (now := draw(st.lists(calls, max_size=2)))
            messages.append(Message("assistant", draw(texts), calls=tuple(now)))
        if made:
            messages += [Message("observation", draw(texts), name=call.name) for call in made]
        if not made or draw(st.booleans()):
            messages.append(Message("user", draw(texts)))
    if draw(st.booleans()) and messages[-1].role != "assistant":
        messages.append(Message("assistant", draw(texts)))
    tool = '{"name": "get_weather", "parameters": {"city": [1.0, null, true]}}'
    return Conversation(
        "t", tuple(messages), draw(st.sampled_from([(), (tool,), (tool, '{"name": "天气"}')]))
    )


def beginnings(conversation: Conversation) -> list[Conversation]:
    """The conversation up to each of its messages that end a turn or are given."""
    count = len(conversation.messages)
    first = 2 if conversation.system else 1
    ends = [
        end
        for end in range(first, count + 1)
        if end == count
        or not (conversation.messages[end - 1].role == conversation.messages[end].role == "assistant")
    ]
    return [Conversation("t", conversation.messages[:end], conversation.tools) for end in ends]


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=60)
@given(conversation=conversations())
def test_the_written_template_gives_ids_and_masks_of_training(
    name: str, conversation: Conversation, served: Every
) -> None:
    one = served.of[name]
    for beginning in beginnings(conversation):
        messages, tools = chat_messages(beginning.messages), chat_tools(beginning.tools)
        sample = one.encoder.encode(one.template.render(beginning, one.encoder.control), "s", "t")
        theirs = one.tokenizer.apply_chat_template(
            messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
        )
        assert theirs["input_ids"] == sample.tokens.tolist()
        # Of a character spelled in bytes, transformers marks the first alone where a generated stretch ends with it.
        bytes_ = {one.tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)}
        ids, masks = theirs["input_ids"], theirs["assistant_masks"]
        differ = [id for id, a, b in zip(ids, masks, sample.trained.tolist(), strict=True) if bool(a) != b]
        assert not set(differ) - bytes_
        if beginning.messages[-1].role != "assistant":
            asked = one.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, return_dict=True
            )
            made = prompt(beginning.messages, one.encoder.control, one.template, beginning.tools)
            assert asked["input_ids"] == one.encoder.ids(made)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=100)
@given(conversation=conversations())
def test_a_turn_follows_its_prompt_and_is_read_back(
    name: str, conversation: Conversation, served: Every
) -> None:
    one = served.of[name]
    sample = one.encoder.encode(one.template.render(conversation, one.encoder.control), "s", "t")
    stops = (sample.kinds == SpanKind.STOP).nonzero()[0].tolist()
    place = len(conversation.messages) - len(conversation.spoken)
    for run in runs(conversation.spoken):
        if run[0].role == "assistant":
            before = prompt(
                conversation.messages[:place], one.encoder.control, one.template, conversation.tools
            )
            ids = one.encoder.ids(before)
            assert sample.tokens[: len(ids)].tolist() == ids
            stop = stops.pop(0)
            assert sample.trained[len(ids) : stop + 1].all()
            written = one.encoder.texts(sample.tokens[len(ids) : stop].tolist(), one.template.joint)
            assert one.template.parse(written) == expected(name, run)
        place += len(run)
    assert not stops


def expected(name: str, run: tuple[Message, ...]) -> list[Said]:
    """A turn's texts and calls as a server gives them back."""
    said: list[Said] = []
    for message in run:
        text = message.content.strip() if name == "llama2" else message.content
        said += [text, *message.calls] if text else message.calls
    if name == "chatglm3":
        return said
    together: list[Said] = []
    for is_text, group in groupby(said, key=lambda one: isinstance(one, str)):
        members = list(group)
        together += ["\n".join(map(str, members))] if is_text else members
    return together


def asked(id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


RAW: list[list[dict[str, Any]]] = [
    [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": None, "tool_calls": [asked("1", "interpreter", {"code": "x"})]},
        {"role": "assistant", "content": None, "tool_calls": [asked("2", "f", {})]},
        {"role": "tool", "tool_call_id": "2", "content": "R2"},
        {"role": "tool", "tool_call_id": "1", "content": "R1"},
        {"role": "assistant", "content": "a", "tool_calls": [asked("9", "g", {})]},
        {"role": "tool", "tool_call_id": "9", "content": "R9"},
    ],
    [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": "t",
            "tool_calls": [asked("1", "interpreter", {"code": "x"}), asked("2", "f", {})],
        },
        {"role": "tool", "tool_call_id": "2", "content": "R2"},
        {"role": "user", "content": "b"},
    ],
    [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {"x": 1}}},
        {"role": "function", "name": "f", "content": "R"},
        {"role": "assistant", "content": "a"},
    ],
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("messages", RAW)
def test_openais_messages_as_a_client_sends_them(
    name: str, messages: list[dict[str, Any]], served: Every
) -> None:
    """Results stand in the order of their calls, and each knows its tool, in training and in the written template."""
    one = served.of[name]
    builder = SampleBuilder(one.encoder, one.template)
    made = builder.build(
        {"messages": messages}, source="s", format="auto", where=Where("f.jsonl", 1), default_id="0"
    )
    theirs = one.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert made.tokens.tolist() == theirs


def test_every_written_folder_has_its_template(served: Every) -> None:
    for name, one in served.of.items():
        assert (Path(one.out) / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATES[
            name
        ].chat_template
