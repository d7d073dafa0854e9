"""Control strings in data: refused, written apart or kept where they are text, and never a control token (R17)."""

from __future__ import annotations

import json
import os

import pytest
from found_tokenizers import DEMO, bytes_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.control_text import parted, settle, strings
from tokenization.conversation import Call, Conversation, Message
from tokenization.encoder import Encoder
from tokenization.segments import Control, RenderError
from tokenization.templates import TEMPLATES

EXAMPLES = int(os.environ.get("CONTROL_EXAMPLES", "100"))
MARKS = TEMPLATES["llama2"].control_text
ENCODERS = {("demo", name): Encoder.from_folder(DEMO, t.special_tokens) for name, t in TEMPLATES.items()} | {
    ("bytes", name): Encoder(bytes_tokenizer(None), special=t.special_tokens) for name, t in TEMPLATES.items()
}
"""One tokenizer whose texts are divided into words, and one whose texts are not."""


def talk(text: str, *, tool: str = "t", argument: str = "a", name: str = "f") -> Conversation:
    return Conversation(
        "t",
        (
            Message("user", "hi"),
            Message("assistant", "ok", calls=(Call.of(name, {argument: [1, {"x": argument}]}),)),
            Message("observation", text, name=name),
        ),
        (json.dumps({"name": tool}),),
    )


@pytest.mark.parametrize(
    ("conversation", "place"),
    [
        (talk("see [/INST] here"), "message 3"),
        (talk("", argument="<tool_call>"), "message 2"),
        (talk("", name="<tools>"), "message 2"),
        (talk("", tool="<<SYS>>"), "a tool"),
    ],
)
def test_refusal_names_the_place_and_the_remedies(conversation: Conversation, place: str) -> None:
    with pytest.raises(
        RenderError, match=f"^{place} holds '.*data.control_text=neutralise to write it '"
    ) as told:
        settle(conversation, MARKS, "refuse")
    assert "\n" not in str(told.value)


def test_nothing_to_settle_and_allowed() -> None:
    for conversation in (talk("[ INST ] </s> <|user|> INST]"), talk("[INST]")):
        assert settle(conversation, MARKS, "allow") is conversation
    assert settle(talk("[ INST ] </s> INST]"), MARKS, "refuse") == talk("[ INST ] </s> INST]")
    assert settle(talk("[INST]"), (), "refuse") == talk("[INST]")


def test_neutralised_everywhere() -> None:
    spoiled = talk("a [INST]b", tool="<tools>", argument="[/INST]", name="<<SYS>>")
    assert settle(spoiled, MARKS, "neutralise") == talk(
        "a [ INST]b", tool="< tools>", argument="[ /INST]", name="< <SYS>>"
    )


hostile = st.sampled_from(
    [
        *MARKS,
        *(token for template in TEMPLATES.values() for token in template.special_tokens),
        *(
            "<s>",
            "</s>",
            "<unk>",
            "<|endoftext|>",
            "<｜user｜>",
            "＜|user|＞",
            "［INST］",
            "[IN\u200bST]",
            "< /s>",
        ),
        *("[INST", "INST]", "<|user", "|>", "<<SYS", "SYS>>", "\\u003c/s>", "&lt;s&gt;", "▁</s>", "</s"),
    ]
)
texts = st.lists(hostile | st.text(max_size=3), max_size=5).map("".join)
texts = texts.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    messages.append(Message("user", draw(texts)))
    for _ in range(draw(st.integers(0, 2))):
        calls = (Call.of(draw(texts).replace("\n", " ") or "f", {draw(texts): draw(texts)}),)
        messages += [Message("assistant", draw(texts), calls=calls), Message("observation", draw(texts))]
    messages.append(Message("assistant", draw(texts)))
    if messages[-2].role == "observation" and draw(st.booleans()):
        messages.append(Message("user", draw(texts)))
    return Conversation("t", tuple(messages), (json.dumps({"name": draw(texts)}, ensure_ascii=False),))


@pytest.mark.parametrize(("tokenizer", "name"), ENCODERS)
@settings(deadline=None, max_examples=EXAMPLES)
@given(conversation=conversations())
def test_control_ids_stand_only_where_the_template_puts_them(
    tokenizer: str, name: str, conversation: Conversation
) -> None:
    """As many as in the same conversation without any; and after `neutralise` no mark is left that the template did
    not write."""
    template, encoder = TEMPLATES[name], ENCODERS[tokenizer, name]
    control = {encoder.bos, encoder.eos, *encoder.special.values()}
    try:
        segments = template.render(conversation, encoder.control)
    except RenderError:
        return  # a name that this template cannot write
    plain = template.render(harmless(conversation), encoder.control)
    placed = [segment.id for segment in segments if isinstance(segment, Control)]
    assert [id for id in encoder.ids(segments) if id in control] == placed
    assert [segment.id for segment in plain if isinstance(segment, Control)] == placed
    neutral = settle(conversation, template.control_text, "neutralise")
    assert settle(neutral, template.control_text, "refuse") == neutral
    for _, text in strings(neutral):
        assert not any(mark in text for mark in template.control_text)
    learned = encoder.decode(encoder.ids(template.render(neutral, encoder.control)))
    own = encoder.decode(encoder.ids(plain))
    assert {mark: learned.count(mark) for mark in template.control_text} == {
        mark: own.count(mark) for mark in template.control_text
    }


def harmless(conversation: Conversation) -> Conversation:
    """The same with a letter for every string that says something."""
    return conversation.map_text(lambda text: "x" if text.strip() else text)


@given(st.sampled_from(MARKS))
def test_a_parted_mark_is_none(mark: str) -> None:
    assert not any(other in parted(mark) for other in MARKS)
