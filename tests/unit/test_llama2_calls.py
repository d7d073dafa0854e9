"""Calls, results and tools in the Llama 2 template: piece by piece, and token by token with the real tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from written_pieces import TOKENIZER, Piece, Token, given, learned, owned, real, sentencepiece, tokens_of

from tokenization.conversation import Call, Conversation, Message, runs
from tokenization.encoder import Encoder
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Segment
from tokenization.templates import prompt
from tokenization.templates.llama2 import LLAMA2

CONTROL, SYSTEM, USER, TEXT = SpanKind.CONTROL, SpanKind.SYSTEM, SpanKind.USER, SpanKind.TEXT
CALL_NAME, ARGUMENTS, CODE = SpanKind.CALL_NAME, SpanKind.ARGUMENTS, SpanKind.CODE
OBSERVATION, STOP = SpanKind.OBSERVATION, SpanKind.STOP
BOS, EOS = 1, 2


def asks(*content: Piece) -> list[Piece]:
    return [given("<s>"), given(" [INST] "), *content, given(" [/INST]"), CUT]


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
    return [given("<tool_response>\n"), (text, OBSERVATION, trained), given("\n</tool_response>")]


CUT = given("")
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
ASKED, ANSWERED = asks(given("hi", USER)), [learned(" ok ", TEXT), STOPS]
WEATHER = Call.of("查询天气", {"city": "北京"})
HYPOT = Call.of("math.hypot", {"x": 3, "y": [None, 4.5]})

CASES: dict[str, tuple[Conversation, list[Piece]]] = {
    "tools behind a system message that is learned": (
        Conversation("t", (Message("system", "S", True), HI, OK, HI), (TOOL, TOOL)),
        [
            *asks(
                given("<<SYS>>\n"),
                learned("S", SYSTEM),
                given(f"\n\n{TOOLS}", SYSTEM),
                given("\n<</SYS>>\n\n"),
                given("hi", USER),
            ),
            *ANSWERED,
            *ASKED,
        ],
    ),
    "tools alone": (
        Conversation("t", (HI,), (TOOL, TOOL)),
        asks(given("<<SYS>>\n"), given(TOOLS, SYSTEM), given("\n<</SYS>>\n\n"), given("hi", USER)),
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
            *asks(*result("5"), given("\n"), *result(" 六 ")),
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
            *asks(given("<tool_response>\n\n</tool_response>\n"), given(" hi", USER)),
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
            given(" ok", TEXT),
            given('\n<tool_call>\n{"name": "'),
            given("f", CALL_NAME),
            given('", "arguments": '),
            given("{}", ARGUMENTS),
            given("}\n</tool_call> "),
            given("</s>", STOP),
            *asks(*result("5", True)),
            *ANSWERED,
            *asks(given("a", USER)),
        ],
    ),
    "a turn of which the end is learned": (
        Conversation("t", (HI, Message("assistant", "a", False), Message("assistant", "b"))),
        [*ASKED, given(" a", TEXT), learned("\n"), learned("b ", TEXT), STOPS],
    ),
    "a turn of which the end is not learned": (
        Conversation("t", (HI, Message("assistant", "a"), Message("assistant", "b", False))),
        [*ASKED, learned(" a", TEXT), given("\n"), given("b ", TEXT), given("</s>", STOP)],
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


@cache
def encoder() -> Encoder:
    return Encoder.from_folder(TOKENIZER)


def encoded(text: Sequence[Piece]) -> list[Token]:
    """One text, whose first space SentencePiece puts there."""
    return owned(
        sentencepiece().encode("".join(characters for characters, _, _ in text).removeprefix(" ")), text
    )


@real
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_targets(case: str) -> None:
    conversation, pieces = CASES[case]
    expected: list[Token] = []
    text: list[Piece] = []
    for word, kind, trained in [*pieces, CUT]:
        if word not in ("", "<s>", "</s>"):
            text.append((word, kind, trained))
            continue
        expected += encoded(text) if text else []
        text = []
        expected += [({"<s>": BOS, "</s>": EOS}[word], kind, trained)] if word else []
    assert tokens_of(encoder().encode(LLAMA2.render(conversation, encoder().control), "s", "t")) == expected
