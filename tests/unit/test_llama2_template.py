"""The Llama 2 template: what is rendered, and its tokens and targets with the real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message, Role, runs
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


# Calls, results and tools, piece by piece.

CALL_NAME, ARGUMENTS, CODE, OBSERVATION = (
    SpanKind[name] for name in ("CALL_NAME", "ARGUMENTS", "CODE", "OBSERVATION")
)
Piece = tuple[str, SpanKind, bool]
"""Characters or a control token, what they are, and whether they are targets."""


def told(text: str, kind: SpanKind = CONTROL) -> Piece:
    return text, kind, False


def learned(text: str, kind: SpanKind = CONTROL) -> Piece:
    return text, kind, True


def asks(*content: Piece) -> list[Piece]:
    return [told("<s>"), told(" [INST] "), *content, told(" [/INST]"), CUT]


def call(name: str, arguments: Piece) -> list[Piece]:
    """One that is learned."""
    return [
        learned('<tool_call>\n{"name": "'),
        learned(name, CALL_NAME),
        learned('", "arguments": '),
        arguments,
        learned("}\n</tool_call>"),
    ]


def result(text: str, trained: bool = False) -> list[Piece]:
    return [told("<tool_response>\n"), (text, OBSERVATION, trained), told("\n</tool_response>")]


CUT = told("")
"""Where an instruction ends and an answer, or nothing, begins."""
STOPS = learned("</s>", STOP)
TOOL = '{"name": "查", "parameters": {}}'
TOOLS = f"""You can call functions to help the user. The functions, as JSON schemas, one to a line:
<tools>
{{"type": "function", "function": {TOOL}}}
{{"type": "function", "function": {TOOL}}}
</tools>
To call a function, write a JSON object with its name and arguments between <tool_call> and </tool_call>, \
one pair of tags for each call:
<tool_call>
{{"name": "function", "arguments": {{"argument": "value"}}}}
</tool_call>"""

HI, OK = Message("user", "hi"), Message("assistant", "ok")
ASKED, ANSWERED = asks(told("hi", USER)), [learned(" ok ", TEXT), STOPS]
WEATHER = Call.of("查询天气", {"city": "北京"})
HYPOT = Call.of("math.hypot", {"x": 3, "y": [None, 4.5]})

CASES: dict[str, tuple[Conversation, list[Piece]]] = {
    "tools behind a system message that is learned": (
        Conversation("t", (Message("system", "S", True), HI, OK, HI), (TOOL, TOOL)),
        [
            *asks(
                told("<<SYS>>\n"),
                learned("S", SYSTEM),
                told(f"\n\n{TOOLS}", SYSTEM),
                told("\n<</SYS>>\n\n"),
                told("hi", USER),
            ),
            *ANSWERED,
            *ASKED,
        ],
    ),
    "tools alone": (
        Conversation("t", (HI,), (TOOL, TOOL)),
        asks(told("<<SYS>>\n"), told(TOOLS, SYSTEM), told("\n<</SYS>>\n\n"), told("hi", USER)),
    ),
    "text, then two calls in a row, and their results": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", " 好\n", calls=(WEATHER, HYPOT)),
                Message("observation", "5", name="查询天气"),
                Message("observation", " 六 ", name="math.hypot"),
                OK,
            ),
        ),
        [
            *ASKED,
            learned(" 好", TEXT),
            learned("\n"),
            *call("查询天气", learned('{"city": "北京"}', ARGUMENTS)),
            learned("\n"),
            *call("math.hypot", learned('{"x": 3, "y": [null, 4.5]}', ARGUMENTS)),
            learned(" "),
            STOPS,
            *asks(*result("5"), told("\n"), *result(" 六 ")),
            *ANSWERED,
        ],
    ),
    "a call, then text; its result, then the user": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", calls=(Call("f"),)),
                Message("assistant", " wait "),
                Message("observation", ""),
                Message("user", " hi "),
            ),
        ),
        [
            *ASKED,
            learned(" "),
            *call("f", learned("{}", ARGUMENTS)),
            learned("\n"),
            learned("wait ", TEXT),
            STOPS,
            *asks(told("<tool_response>\n\n</tool_response>\n"), told(" hi", USER)),
        ],
    ),
    "the interpreter's code and its result": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", calls=(Call.of("interpreter", {"code": "print('2')\n"}),)),
                Message("observation", "2\n", name="interpreter"),
            ),
        ),
        [
            *ASKED,
            learned(" "),
            *call("interpreter", learned('{"code": "print(\'2\')\\n"}', CODE)),
            learned(" "),
            STOPS,
            *asks(*result("2\n")),
        ],
    ),
    "loss, all the other way round": (
        Conversation(
            "t",
            (
                Message("user", "hi", True),
                Message("assistant", "ok", False, calls=(Call("f"),)),
                Message("observation", "5", True),
                OK,
                Message("user", "a", False),
            ),
        ),
        [
            *asks(learned("hi", USER)),
            told(" ok", TEXT),
            told('\n<tool_call>\n{"name": "'),
            told("f", CALL_NAME),
            told('", "arguments": '),
            told("{}", ARGUMENTS),
            told("}\n</tool_call> "),
            told("</s>", STOP),
            *asks(*result("5", True)),
            *ANSWERED,
            *asks(told("a", USER)),
        ],
    ),
    "a turn of which the end is learned": (
        Conversation("t", (HI, Message("assistant", "a", False), Message("assistant", "b"))),
        [*ASKED, told(" a", TEXT), learned("\n"), learned("b ", TEXT), STOPS],
    ),
    "a turn of which the end is not learned": (
        Conversation("t", (HI, Message("assistant", "a"), Message("assistant", "b", False))),
        [*ASKED, learned(" a", TEXT), told("\n"), told("b ", TEXT), told("</s>", STOP)],
    ),
}


def pieces(segments: Sequence[Segment]) -> list[Piece]:
    made: list[Piece] = []
    for segment in segments:
        if isinstance(segment, Control):
            made.append(({BOS: "<s>", EOS: "</s>"}[segment.id], segment.kind, segment.trained))
            continue
        made += [(segment.text[span.start : span.stop], span.kind, span.trained) for span in segment.spans]
        made += [CUT] if segment.text.endswith("[/INST]") else []
    return made


def merged(expected: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind and mask as one: a hand need not know where the template's own words are joined."""
    one: list[Piece] = []
    for text, kind, trained in expected:
        if one and one[-1][1:] == (kind, trained) and not {"", "<s>", "</s>"} & {text, one[-1][0]}:
            one[-1] = (one[-1][0] + text, kind, trained)
        else:
            one.append((text, kind, trained))
    return one


@pytest.mark.parametrize("case", CASES)
def test_rendered_pieces(case: str) -> None:
    conversation, expected = CASES[case]
    assert merged(pieces(LLAMA2.render(conversation, ControlIds(BOS, EOS)))) == merged(expected)


@pytest.mark.parametrize("case", CASES)
def test_before_every_turn_stands_its_prompt(case: str) -> None:
    conversation, _ = CASES[case]
    control = ControlIds(BOS, EOS)
    rendered = LLAMA2.render(conversation, control)
    place = len(conversation.messages) - len(conversation.spoken)
    for run in runs(conversation.spoken):
        if run[0].role == "assistant":
            before = prompt(conversation.messages[:place], control, LLAMA2, conversation.tools)
            assert rendered[: len(before)] == before
            assert pieces(before)[-1] == CUT
        place += len(run)


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


def encoded(text: Sequence[Piece]) -> list[tuple[int, SpanKind, bool]]:
    """One text, whose first space SentencePiece puts there. A token belongs to the content that it has characters of,
    the last of several; one without any, to the piece that its last character is in."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(TOKENIZER / "tokenizer.model"))
    owners = [piece for piece in text for _ in piece[0].encode()]  # [bytes]
    made: list[tuple[int, SpanKind, bool]] = []
    at = 0
    for id in pieces.encode("".join(characters for characters, _, _ in text).removeprefix(" ")):
        length = 1 if pieces.is_byte(id) else len(pieces.id_to_piece(id).replace("▁", " ").encode())
        own = owners[at : at + length]
        content = [piece for piece in own if piece[1] != CONTROL]
        made.append((id, *(content or own)[-1][1:]))
        at += length
    assert at == len(owners)
    return made


@real
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_targets(case: str) -> None:
    conversation, pieces = CASES[case]
    expected: list[tuple[int, SpanKind, bool]] = []
    text: list[Piece] = []
    for word, kind, trained in [*pieces, CUT]:
        if word not in ("", "<s>", "</s>"):
            text.append((word, kind, trained))
            continue
        expected += encoded(text) if text else []
        text = []
        expected += [({"<s>": BOS, "</s>": EOS}[word], kind, trained)] if word else []
    made = encoder().encode(LLAMA2.render(conversation, encoder().control), "source", "t")
    assert table(made) == expected


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
