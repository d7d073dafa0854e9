"""The Llama 2 template: what is rendered, and its tokens and targets with the real tokenizer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.builder import SampleBuilder
from tokenization.conversation import Conversation, Message, Role
from tokenization.encoder import Encoder
from tokenization.errors import Where
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.segments import Control, ControlIds, Segment, Text
from tokenization.templates import prompt, template_named
from tokenization.templates.llama2 import LLAMA2

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TOKENIZER = DATA / "llama2_tokenizer"
real = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository (../shared/data)")

CONTROL, SYSTEM, USER, TEXT, STOP = (SpanKind[name] for name in ("CONTROL", "SYSTEM", "USER", "TEXT", "STOP"))
BOS, EOS = 1, 2
WHERE = Where("talks.json", 1)


Said = tuple[Role, str] | tuple[Role, str, bool]


def talk(*messages: Said) -> Conversation:
    said = [Message(role, text, loss[0] if loss else None) for role, text, *loss in messages]
    return Conversation("t", tuple(said))


def render(*messages: Said) -> list[Segment]:
    return LLAMA2.render(talk(*messages), ControlIds(BOS, EOS))


def written(segments: list[Segment]) -> str:
    """The rendered text with bos and eos spelled out and | where one encoded string ends."""
    control = {BOS: "<s>", EOS: "</s>"}
    return "".join(s.text + "|" if isinstance(s, Text) else control[s.id] for s in segments)


on_any_machine = settings(deadline=None)  # time depends on what else runs


# What is rendered.

RENDERED = [
    ([("user", " hi\n")], "<s> [INST] hi [/INST]|"),
    ([("user", "hi"), ("assistant", "\tok\n ")], "<s> [INST] hi [/INST]| ok |</s>"),
    (
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        "<s> [INST] a [/INST]| b |</s><s> [INST] c [/INST]| d |</s>",
    ),
    ([("user", "a"), ("assistant", "")], "<s> [INST] a [/INST]|  |</s>"),
    ([("user", ""), ("assistant", "b")], "<s> [INST]  [/INST]| b |</s>"),
    (
        [("system", " S\n"), ("user", " hi "), ("assistant", "ok"), ("user", "c")],
        "<s> [INST] <<SYS>>\n S\n\n<</SYS>>\n\n hi [/INST]| ok |</s><s> [INST] c [/INST]|",
    ),
    ([("system", "S"), ("user", " \n")], "<s> [INST] <<SYS>>\nS\n<</SYS>> [/INST]|"),
    ([("system", ""), ("user", "hi")], "<s> [INST] <<SYS>>\n\n<</SYS>>\n\nhi [/INST]|"),
]


@pytest.mark.parametrize(("messages", "expected"), RENDERED)
def test_rendered_text(messages: list[Any], expected: str) -> None:
    assert written(render(*messages)) == expected


def test_spans_of_an_instruction_with_a_system_prompt() -> None:
    (_, text) = render(("system", "S", True), ("user", "hi"))
    assert isinstance(text, Text)
    assert [(text.text[s.start : s.stop], s.kind, s.trained) for s in text.spans] == [
        (" [INST] <<SYS>>\n", CONTROL, False),
        ("S", SYSTEM, True),
        ("\n<</SYS>>\n\n", CONTROL, False),
        ("hi", USER, False),
        (" [/INST]", CONTROL, False),
    ]


def test_only_eos_ends_a_turn() -> None:
    segments = render(("user", "a"), ("assistant", "b"), ("user", "c"))
    assert [s.kind for s in segments if isinstance(s, Control)] == [CONTROL, STOP, CONTROL]


any_text = st.text(max_size=12) | st.sampled_from(["", " ", "</s>", "[/INST]", "<</SYS>>\n\n", "  a  b "])
any_loss = st.sampled_from([None, True, False])


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages = [Message("system", draw(any_text), draw(any_loss))] if draw(st.booleans()) else []
    roles: tuple[Role, Role] = ("user", "assistant")
    for turn in range(draw(st.integers(1, 6))):
        messages.append(Message(roles[turn % 2], draw(any_text), draw(any_loss)))
    return Conversation("t", tuple(messages))


@on_any_machine
@given(conversations())
def test_spans_cover_every_character_once(conversation: Conversation) -> None:
    for segment in LLAMA2.render(conversation, ControlIds(BOS, EOS)):
        if isinstance(segment, Text):
            covered = [n for span in segment.spans for n in range(span.start, span.stop)]
            assert covered == list(range(len(segment.text)))
            assert all(span.start < span.stop for span in segment.spans)
            assert not any(span.trained for span in segment.spans if span.kind is CONTROL)


@on_any_machine
@given(conversations())
def test_a_samples_beginning_is_inferences_prompt(conversation: Conversation) -> None:
    """Before every answer: the training sample's segments so far are the prompt of the messages so far."""
    control = ControlIds(BOS, EOS)
    rendered = LLAMA2.render(conversation, control)
    for number, message in enumerate(conversation.messages):
        if message.role == "assistant":
            before = prompt(conversation.messages[:number], control, LLAMA2)
            assert rendered[: len(before)] == before
            last = before[-1]
            assert isinstance(last, Text)
            assert last.text.endswith(" [/INST]")


def test_a_prompt_ends_with_the_user() -> None:
    with pytest.raises(ValueError, match="ends with the user's message or an observation"):
        prompt(talk(("user", "a"), ("assistant", "b")).messages, ControlIds(BOS, EOS), LLAMA2)
    with pytest.raises(ValueError, match="no messages"):
        prompt([], ControlIds(BOS, EOS), LLAMA2)


def test_unknown_template() -> None:
    with pytest.raises(
        ValueError, match="'llama3' is not known; use one of llama2, chatglm3, chatml or model"
    ):
        template_named("llama3")


# Token by token, with the real tokenizer.


@cache
def encoder() -> Encoder:
    return Encoder.from_folder(TOKENIZER)


def sample(*messages: Said) -> TokenizedSample:
    return encoder().encode(render(*messages), "source", "t")


def table(made: TokenizedSample) -> list[tuple[int, SpanKind, bool]]:
    rows = zip(made.tokens.tolist(), made.kinds.tolist(), made.trained.tolist(), strict=True)
    return [(token, SpanKind(kind), trained) for token, kind, trained in rows]


# id, kind and target of the template's own tokens, whose pieces are named beside them
OPEN = [(518, CONTROL, False), (25580, CONTROL, False), (29962, CONTROL, False)]  # ▁[ INST ]
CLOSE = [
    (518, CONTROL, False),
    (29914, CONTROL, False),
    (25580, CONTROL, False),
    (29962, CONTROL, False),
]
BEGIN = [(BOS, CONTROL, False), *OPEN]


@real
def test_two_turns_the_first_not_learned() -> None:
    made = sample(("user", "hi"), ("assistant", "ok", False), ("user", "a</s>"), ("assistant", "ok\nyes"))
    assert table(made) == [
        *BEGIN,
        (7251, USER, False),  # ▁hi
        *CLOSE,
        (3431, TEXT, False),  # ▁ok
        (29871, TEXT, False),  # ▁
        (EOS, STOP, False),
        *BEGIN,
        (263, USER, False),  # ▁a
        (829, USER, False),  # </
        (29879, USER, False),  # s
        (29958, USER, False),  # >
        *CLOSE,
        (3431, TEXT, True),  # ▁ok
        (13, TEXT, True),  # <0x0A>
        (3582, TEXT, True),  # yes
        (29871, TEXT, True),  # ▁
        (EOS, STOP, True),
    ]


@real
def test_system_prompt_with_both_contents_learned() -> None:
    made = sample(("system", "S", True), ("user", "hi", True), ("assistant", "ok", False))
    sys_open = [
        (3532, CONTROL, False),
        (14816, CONTROL, False),
        (29903, CONTROL, False),
        (6778, CONTROL, False),
    ]
    assert (
        table(made)
        == [
            *BEGIN,
            *sys_open,  # ▁<< SY S >>
            (13, CONTROL, False),
            (29903, SYSTEM, True),  # S
            (13, CONTROL, False),
            (29966, CONTROL, False),  # <
            (829, CONTROL, False),  # </
            *sys_open[1:],
            (13, CONTROL, False),
            (13, CONTROL, False),
            (2918, USER, True),  # hi
            *CLOSE,
            (3431, TEXT, False),
            (29871, TEXT, False),
            (EOS, STOP, False),
        ]
    )


@real
def test_chinese_emoji_and_an_empty_answer() -> None:
    made = sample(("user", "你好", True), ("assistant", "🙂"), ("user", "鿿"), ("assistant", " \n"))
    smile = [243, 162, 156, 133]  # the bytes f0 9f 99 82, each its value + 3
    assert table(made) == [
        *BEGIN,
        (29871, CONTROL, False),  # ▁, the template's space
        (30919, USER, True),  # 你
        (31076, USER, True),  # 好
        *CLOSE,
        (29871, TEXT, True),
        *[(byte, TEXT, True) for byte in smile],
        (29871, TEXT, True),
        (EOS, STOP, True),
        *BEGIN,
        (29871, CONTROL, False),
        *[(byte, USER, False) for byte in (236, 194, 194)],  # e9 bf bf
        *CLOSE,
        (259, TEXT, True),  # ▁▁
        (EOS, STOP, True),
    ]


@real
def test_the_last_message_from_the_user() -> None:
    made = sample(("user", "hi"), ("assistant", "ok"), ("user", "hi"))
    assert table(made)[12:] == [*BEGIN, (7251, USER, False), *CLOSE]
    assert made.trained.sum() == 3


@real
@pytest.mark.parametrize("text", ["</s>", "<s>", "<unk>", "a </s> b", "</s></s>"])
def test_control_tokens_in_data_stay_text(text: str) -> None:
    made = sample(("system", text), ("user", text), ("assistant", text))
    tokens = made.tokens.tolist()
    assert (tokens.count(0), tokens.count(BOS), tokens.count(EOS)) == (0, 1, 1)
    assert encoder().texts(made.tokens[made.trained][:-1].tolist()) == [f" {text} "]


# Whole files against other tokenizers.


def rows(name: str) -> list[dict[str, Any]]:
    return json.loads((DATA / "conversations" / name).read_text(encoding="utf-8"))


@real
def test_the_reference_rule_over_whole_files() -> None:
    """Every turn of both files, exactly as SentencePiece itself encodes it."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    builder = SampleBuilder(encoder())
    turns = 0
    for name in ("agentinstruct_db.json", "sharegpt_general.json"):
        for row in rows(name):
            made = builder.build(row, source=name, format="auto", where=WHERE, default_id="0")
            expected: list[int] = []
            trained: list[bool] = []
            talk = row["conversations"]
            for user, answer in zip(talk[::2], talk[1::2], strict=True):
                asked = pieces.encode(f"[INST] {user['value'].strip()} [/INST]")
                said = pieces.encode(f"{answer['value'].strip()} ")
                expected += [BOS, *asked, *said, EOS]
                trained += [False] * (1 + len(asked)) + [answer.get("loss") is not False] * (len(said) + 1)
                turns += 1
            assert made.tokens.tolist() == expected
            assert made.trained.tolist() == trained
    assert turns == 2226
