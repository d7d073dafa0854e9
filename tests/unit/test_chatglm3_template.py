"""The ChatGLM3 template: what is rendered, piece by piece, and its tokens and targets with the real tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

import pytest
from written_pieces import TOKENIZER, Piece, Token, given, learned, owned, real, sentencepiece, tokens_of

from tokenization.conversation import INTERPRETER, Call, Conversation, Message, runs
from tokenization.encoder import Encoder
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, RenderError, Segment
from tokenization.templates import prompt
from tokenization.templates.chatglm3 import CHATGLM3

CONTROL, SYSTEM, USER, TEXT = SpanKind.CONTROL, SpanKind.SYSTEM, SpanKind.USER, SpanKind.TEXT
CALL_NAME, ARGUMENTS, CODE = SpanKind.CALL_NAME, SpanKind.ARGUMENTS, SpanKind.CODE
OBSERVATION, STOP = SpanKind.OBSERVATION, SpanKind.STOP
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
NAMED = {"<s>": 1, "</s>": 2} | {role: 32000 + place for place, role in enumerate(ROLES)}
IDS = ControlIds(1, 2, {role: NAMED[role] for role in ROLES})


class Said(NamedTuple):
    """A message: its role's token, metadata and content."""

    role: Piece
    metadata: list[Piece]
    content: list[Piece]
    trained: bool
    """Of what the template writes around the two: a space before each, and the line end between."""

    @property
    def rendered(self) -> list[Piece]:
        space, line = (" ", CONTROL, self.trained), ("\n", CONTROL, self.trained)
        return [self.role, space, *self.metadata, line, *([space, *self.content] if self.content else [])]


def told(role: str, *content: Piece) -> Said:
    return Said(given(f"<|{role}|>"), [], list(content), False)


def ends(role: str, *content: Piece) -> Said:
    """A message whose role's token is what the assistant generates to end its turn."""
    return Said(learned(f"<|{role}|>", STOP), [], list(content), False)


ASSISTANT = given("<|assistant|>")


def says(*content: Piece, role: Piece = ASSISTANT) -> Said:
    return Said(role, [], list(content), True)


def calls(name: str, *content: Piece, role: Piece = ASSISTANT) -> Said:
    return Said(role, [learned(name, CALL_NAME)], list(content), True)


def function(arguments: str) -> list[Piece]:
    inside = [learned(arguments, ARGUMENTS)] if arguments else []
    return [learned("```python\ntool_call("), *inside, learned(")\n```")]


NEXT = learned("<|assistant|>")
"""What the assistant generates to go on."""
EOS, LAST = given("</s>"), learned("</s>", STOP)

HI, OK = Message("user", "hi"), Message("assistant", "ok")
WEATHER = Call.of("查询天气", {"city": "北京"})
HYPOT = Call.of("math.hypot", {"x": 3, "y": [None, 4.5, True]})
PROGRAM = Call.of(INTERPRETER, {"code": "print('2')\nx"})
TOOL = '{"name": "查", "parameters": {"x": true}}'
TOOLS = (
    "Answer the following questions as best as you can. You have access to the following tools:\n"
    f"[{TOOL}, {TOOL}]"
)
ASKED, ANSWERED = told("user", given("hi", USER)), says(learned("ok", TEXT))

CASES: dict[str, tuple[Conversation, list[Said], Piece]] = {
    "two turns behind a system message": (
        Conversation(
            "t", (Message("system", " S\n"), HI, OK, Message("user", " a "), Message("assistant", "天 \n"))
        ),
        [
            told("system", given(" S\n", SYSTEM)),
            ASKED,
            ANSWERED,
            ends("user", given(" a ", USER)),
            says(learned("天 \n", TEXT)),
        ],
        LAST,
    ),
    "tools behind a system message that is learned": (
        Conversation("t", (Message("system", "S", True), HI), (TOOL, TOOL)),
        [told("system", learned("S", SYSTEM), given(f"\n\n{TOOLS}", SYSTEM)), ASKED],
        EOS,
    ),
    "tools alone": (
        Conversation("t", (HI, OK), (TOOL, TOOL)),
        [told("system", given(TOOLS, SYSTEM)), ASKED, ANSWERED],
        LAST,
    ),
    "text, then two calls in a row, and their results": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", "好", calls=(WEATHER, HYPOT)),
                Message("observation", "5", name="查询天气"),
                Message("observation", "六", name="math.hypot"),
                OK,
            ),
        ),
        [
            ASKED,
            says(learned("好", TEXT)),
            calls("查询天气", *function("city='北京'"), role=NEXT),
            calls("math.hypot", *function("x=3, y=[None, 4.5, True]"), role=NEXT),
            ends("observation", given("5", OBSERVATION)),
            told("observation", given("六", OBSERVATION)),
            ANSWERED,
        ],
        LAST,
    ),
    "a call alone, and the user before its result": (
        Conversation("t", (HI, Message("assistant", calls=(Call("f"),)), HI)),
        [ASKED, calls("f", *function("")), ends("user", given("hi", USER))],
        EOS,
    ),
    "keys that Python has no name for": (
        Conversation("t", (HI, Message("assistant", calls=(Call.of("f", {"class": 1, "a-b": "'"}),)))),
        [ASKED, calls("f", *function("**{'class': 1, 'a-b': \"'\"}"))],
        LAST,
    ),
    "the interpreter's code and its result": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", calls=(PROGRAM,)),
                Message("observation", "2\n", name=INTERPRETER),
                OK,
                HI,
            ),
        ),
        [
            ASKED,
            calls("interpreter", learned("```python\n"), learned("print('2')\nx", CODE), learned("\n```")),
            ends("observation", given("```result\n"), given("2\n", OBSERVATION), given("\n```")),
            ANSWERED,
            ends("user", given("hi", USER)),
        ],
        EOS,
    ),
    "loss, all the other way round": (
        Conversation(
            "t",
            (
                Message("system", "S", True),
                Message("user", "hi", True),
                Message("assistant", "ok", False, calls=(Call.of("f", {"x": 1}),)),
                Message("observation", "5", True),
                OK,
                Message("user", "a", False),
            ),
        ),
        [
            told("system", learned("S", SYSTEM)),
            told("user", learned("hi", USER)),
            told("assistant", given("ok", TEXT)),
            Said(
                given("<|assistant|>"),
                [given("f", CALL_NAME)],
                [given("```python\ntool_call("), given("x=1", ARGUMENTS), given(")\n```")],
                False,
            ),
            Said(given("<|observation|>", STOP), [], [learned("5", OBSERVATION)], False),
            ANSWERED,
            ends("user", given("a", USER)),
        ],
        EOS,
    ),
    "a turn of which the end is learned": (
        Conversation("t", (HI, Message("assistant", "a", False), Message("assistant", "b"))),
        [ASKED, told("assistant", given("a", TEXT)), says(learned("b", TEXT))],
        LAST,
    ),
    "a turn of which the end is not learned": (
        Conversation("t", (HI, Message("assistant", "a"), Message("assistant", "b", False))),
        [ASKED, says(learned("a", TEXT)), Said(NEXT, [], [given("b", TEXT)], False)],
        given("</s>", STOP),
    ),
    "nothing said": (
        Conversation("t", (Message("system", ""), Message("user", ""), Message("assistant", ""), HI)),
        [told("system"), told("user"), says(), ends("user", given("hi", USER))],
        EOS,
    ),
    "an empty result, and an empty message that goes on": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", calls=(Call("f"),)),
                Message("observation", ""),
                Message("assistant", ""),
                OK,
            ),
        ),
        [
            ASKED,
            calls("f", *function("")),
            ends("observation"),
            says(),
            says(learned("ok", TEXT), role=NEXT),
        ],
        LAST,
    ),
}


def pieces(segments: Sequence[Segment]) -> list[Piece]:
    spelled = {id: word for word, id in NAMED.items()}
    made: list[Piece] = []
    for segment in segments:
        if isinstance(segment, Control):
            made.append((spelled[segment.id], segment.kind, segment.trained))
        else:
            made += [
                (segment.text[span.start : span.stop], span.kind, span.trained) for span in segment.spans
            ]
    return made


def merged(expected: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind and mask as one: a hand need not know where the template's own words are joined."""
    one: list[Piece] = []
    for text, kind, trained in expected:
        if one and one[-1][1:] == (kind, trained) and not NAMED.keys() & {text, one[-1][0]}:
            one[-1] = (one[-1][0] + text, kind, trained)
        else:
            one.append((text, kind, trained))
    return one


@pytest.mark.parametrize("case", CASES)
def test_rendered_pieces(case: str) -> None:
    conversation, said, last = CASES[case]
    expected = [given("<s>"), *chain.from_iterable(message.rendered for message in said), last]
    assert merged(pieces(CHATGLM3.render(conversation, IDS))) == merged(expected)


@pytest.mark.parametrize("case", CASES)
def test_before_every_turn_stands_its_prompt(case: str) -> None:
    """All but its last token: the role of the turn, which an earlier turn's stop may be."""
    conversation, _, _ = CASES[case]
    rendered = CHATGLM3.render(conversation, IDS)
    place = len(conversation.messages) - len(conversation.spoken)
    for run in runs(conversation.spoken):
        if run[0].role == "assistant":
            before = prompt(conversation.messages[:place], IDS, CHATGLM3, conversation.tools)
            assert before[-1] == Control(NAMED["<|assistant|>"])
            assert rendered[: len(before)] == before
        place += len(run)


def test_the_turn_after_a_sample_is_prompted_in_place_of_its_end() -> None:
    conversation, said, _ = CASES["loss, all the other way round"]
    expected = [given("<s>"), *chain.from_iterable(m.rendered for m in said), given("<|assistant|>")]
    assert merged(pieces(CHATGLM3.render(conversation, IDS, generate=True))) == merged(expected)


@pytest.mark.parametrize("name", ["a\nb", ""])
def test_a_name_that_could_not_be_read_back_is_refused(name: str) -> None:
    conversation = Conversation("t", (HI, Message("assistant", calls=(Call(name),))))
    with pytest.raises(RenderError):
        CHATGLM3.render(conversation, IDS)


# Token by token, with the real tokenizer.


def encoded(text: Sequence[Piece], trained: bool) -> list[Token]:
    """One text as SentencePiece encodes it, with a space before it that is the template's; nothing for nothing."""
    characters = "".join(characters for characters, _, _ in text)
    return owned(sentencepiece().encode(characters), [(" ", CONTROL, trained), *text]) if characters else []


@cache
def encoder() -> Encoder:
    return Encoder.from_folder(TOKENIZER, CHATGLM3.special_tokens)


def table(conversation: Conversation) -> list[Token]:
    return tokens_of(encoder().encode(CHATGLM3.render(conversation, encoder().control), "s", "t"))


@real
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_targets(case: str) -> None:
    conversation, said, last = CASES[case]
    expected = [(1, CONTROL, False)]
    for message in said:
        expected.append((NAMED[message.role[0]], *message.role[1:]))
        expected += encoded([*message.metadata, ("\n", CONTROL, message.trained)], message.trained)
        expected += encoded(message.content, message.trained)
    assert table(conversation) == [*expected, (2, *last[1:])]


@real
def test_every_id_of_a_call_by_hand() -> None:
    conversation = Conversation(
        "t", (HI, Message("assistant", calls=(Call.of("f", {"x": 1}),)), Message("observation", "hi"), OK)
    )
    assert table(conversation) == [
        (1, CONTROL, False),  # <s>
        (32001, CONTROL, False),  # <|user|>
        (29871, CONTROL, False),  # ▁
        (13, CONTROL, False),  # <0x0A>
        (7251, USER, False),  # ▁hi
        (32002, CONTROL, False),  # <|assistant|>
        (285, CALL_NAME, True),  # ▁f
        (13, CONTROL, True),
        (7521, CONTROL, True),  # ▁```
        (4691, CONTROL, True),  # python
        (13, CONTROL, True),
        (10154, CONTROL, True),  # tool
        (29918, CONTROL, True),  # _
        (4804, CONTROL, True),  # call
        (29898, CONTROL, True),  # (
        (29916, ARGUMENTS, True),  # x
        (29922, ARGUMENTS, True),  # =
        (29896, ARGUMENTS, True),  # 1
        (29897, CONTROL, True),  # )
        (13, CONTROL, True),
        (28956, CONTROL, True),  # ```
        (32003, STOP, True),  # <|observation|>
        (29871, CONTROL, False),
        (13, CONTROL, False),
        (7251, OBSERVATION, False),  # ▁hi
        (32002, CONTROL, False),
        (29871, CONTROL, True),  # metadata of nothing is generated too
        (13, CONTROL, True),
        (3431, TEXT, True),  # ▁ok
        (2, STOP, True),  # </s>
    ]
