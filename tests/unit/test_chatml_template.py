"""The ChatML template: what is rendered, piece by piece, and its tokens and targets with the real tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from written_pieces import TOKENIZER, Piece, Token, given, learned, owned, real, sentencepiece, tokens_of

from tokenization.conversation import INTERPRETER, Call, Conversation, Message, runs
from tokenization.encoder import Encoder
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Segment
from tokenization.templates import prompt
from tokenization.templates.chatml import CHATML

CONTROL, SYSTEM, USER, TEXT = SpanKind.CONTROL, SpanKind.SYSTEM, SpanKind.USER, SpanKind.TEXT
CALL_NAME, ARGUMENTS, CODE = SpanKind.CALL_NAME, SpanKind.ARGUMENTS, SpanKind.CODE
OBSERVATION, STOP = SpanKind.OBSERVATION, SpanKind.STOP
SPELLED = {1: "<s>", 2: "</s>", 32000: "<|im_start|>", 32001: "<|im_end|>"}
IDS = ControlIds(1, 2, {"<|im_start|>": 32000, "<|im_end|>": 32001})

CUT = given("")
"""Where one encoded string ends and the next begins, with no control token between them."""
BOS, START, END, LINE = given("<s>"), given("<|im_start|>"), given("<|im_end|>"), given("\n")
STOPS = learned("<|im_end|>", STOP)


def block(role: str, *content: Piece) -> list[Piece]:
    return [START, given(f"{role}\n"), *content, END, LINE]


ASSISTANT = [START, given("assistant\n"), CUT]


def call(name: str, arguments: Piece) -> list[Piece]:
    """One that is learned."""
    return [
        learned('<tool_call>\n{"name": "'),
        learned(name, CALL_NAME),
        learned('", "arguments": '),
        arguments,
        learned("}\n</tool_call>"),
    ]


def result(text: str, learned: bool = False) -> list[Piece]:
    return [given("<tool_response>\n"), (text, OBSERVATION, learned), given("\n</tool_response>")]


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
ASKED = [BOS, *block("user", given("hi", USER))]
ANSWERED = [*ASSISTANT, learned("ok", TEXT), STOPS, LINE]
WEATHER = Call.of("查询天气", {"city": "北京"})
HYPOT = Call.of("math.hypot", {"x": 3, "y": [None, 4.5]})

CASES: dict[str, tuple[Conversation, list[Piece]]] = {
    "two turns behind a system message": (
        Conversation(
            "t", (Message("system", " S\n"), HI, OK, Message("user", " a "), Message("assistant", " b\n"))
        ),
        [
            BOS,
            *block("system", given(" S\n", SYSTEM)),
            *ASKED[1:],
            *ANSWERED,
            *block("user", given(" a ", USER)),
            *ASSISTANT,
            learned(" b\n", TEXT),
            STOPS,
            LINE,
        ],
    ),
    "tools behind a system message that is learned": (
        Conversation("t", (Message("system", "S", True), HI), (TOOL, TOOL)),
        [BOS, *block("system", learned("S", SYSTEM), given(f"\n\n{TOOLS}", SYSTEM)), *ASKED[1:]],
    ),
    "tools alone": (
        Conversation("t", (HI, OK), (TOOL, TOOL)),
        [BOS, *block("system", given(TOOLS, SYSTEM)), *ASKED[1:], *ANSWERED],
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
            *ASKED,
            *ASSISTANT,
            learned("好", TEXT),
            learned("\n"),
            *call("查询天气", learned('{"city": "北京"}', ARGUMENTS)),
            learned("\n"),
            *call("math.hypot", learned('{"x": 3, "y": [null, 4.5]}', ARGUMENTS)),
            STOPS,
            LINE,
            *block("user", *result("5"), LINE, *result("六")),
            *ANSWERED,
        ],
    ),
    "results, then the user": (
        Conversation("t", (HI, Message("assistant", calls=(Call("f"),)), Message("observation", ""), HI)),
        [
            *ASKED,
            *ASSISTANT,
            *call("f", learned("{}", ARGUMENTS)),
            STOPS,
            LINE,
            *block("user", given("<tool_response>\n\n</tool_response>")),
            *ASKED[1:],
        ],
    ),
    "the interpreter's code and its result": (
        Conversation(
            "t",
            (
                HI,
                Message("assistant", calls=(Call.of(INTERPRETER, {"code": "print('2')\n"}),)),
                Message("observation", "2\n", name=INTERPRETER),
            ),
        ),
        [
            *ASKED,
            *ASSISTANT,
            *call("interpreter", learned('{"code": "print(\'2\')\\n"}', CODE)),
            STOPS,
            LINE,
            *block("user", *result("2\n")),
        ],
    ),
    "a call that looks like the interpreter's": (
        Conversation("t", (HI, Message("assistant", calls=(Call.of(INTERPRETER, {"code": "", "x": 1}),)))),
        [
            *ASKED,
            *ASSISTANT,
            *call("interpreter", learned('{"code": "", "x": 1}', ARGUMENTS)),
            STOPS,
            LINE,
        ],
    ),
    "loss, all the other way round": (
        Conversation(
            "t",
            (
                Message("system", "S", True),
                Message("user", "hi", True),
                Message("assistant", "ok", False, calls=(Call("f"),)),
                Message("observation", "5", True),
                OK,
                Message("user", "a", False),
            ),
        ),
        [
            BOS,
            *block("system", learned("S", SYSTEM)),
            *block("user", learned("hi", USER)),
            *ASSISTANT,
            given("ok", TEXT),
            given('\n<tool_call>\n{"name": "'),
            given("f", CALL_NAME),
            given('", "arguments": '),
            given("{}", ARGUMENTS),
            given("}\n</tool_call>"),
            given("<|im_end|>", STOP),
            LINE,
            *block("user", *result("5", True)),
            *ANSWERED,
            *block("user", given("a", USER)),
        ],
    ),
    "a turn of which the end is learned": (
        Conversation("t", (HI, Message("assistant", "a", False), Message("assistant", "b"))),
        [*ASKED, *ASSISTANT, given("a", TEXT), learned("\n"), learned("b", TEXT), STOPS, LINE],
    ),
    "a turn of which the end is not learned": (
        Conversation("t", (HI, Message("assistant", "a"), Message("assistant", "b", False))),
        [
            *ASKED,
            *ASSISTANT,
            learned("a", TEXT),
            given("\n"),
            given("b", TEXT),
            given("<|im_end|>", STOP),
            LINE,
        ],
    ),
    "nothing said": (
        Conversation("t", (Message("system", ""), Message("user", ""), Message("assistant", ""), HI)),
        [
            BOS,
            START,
            given("system\n"),
            END,
            LINE,
            START,
            given("user\n"),
            END,
            LINE,
            *ASSISTANT,
            STOPS,
            LINE,
            *ASKED[1:],
        ],
    ),
}


def pieces(segments: Sequence[Segment]) -> list[Piece]:
    made: list[Piece] = []
    for before, segment in zip([None, *segments], segments, strict=False):
        if isinstance(segment, Control):
            made.append((SPELLED[segment.id], segment.kind, segment.trained))
            continue
        if before and not isinstance(before, Control):
            made.append(CUT)
        made += [(segment.text[span.start : span.stop], span.kind, span.trained) for span in segment.spans]
    return made


def merged(expected: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one kind and mask as one: a hand need not know where the template's own words are joined."""
    one: list[Piece] = []
    words = set(SPELLED.values())
    for text, kind, trained in expected:
        if one and text and one[-1][0] and one[-1][1:] == (kind, trained) and not words & {text, one[-1][0]}:
            one[-1] = (one[-1][0] + text, kind, trained)
        else:
            one.append((text, kind, trained))
    return one


def without_empty_cuts(expected: Sequence[Piece]) -> list[Piece]:
    """Where nothing is said, nothing is between the cut and the control token."""
    words = set(SPELLED.values())
    return [
        piece
        for piece, after in zip(expected, [*expected[1:], BOS], strict=True)
        if piece != CUT or after[0] not in words
    ]


@pytest.mark.parametrize("case", CASES)
def test_rendered_pieces(case: str) -> None:
    conversation, expected = CASES[case]
    assert merged(without_empty_cuts(pieces(CHATML.render(conversation, IDS)))) == merged(
        without_empty_cuts(expected)
    )


@pytest.mark.parametrize("case", CASES)
def test_before_every_turn_stands_its_prompt(case: str) -> None:
    conversation, _ = CASES[case]
    rendered = CHATML.render(conversation, IDS)
    place = len(conversation.messages) - len(conversation.spoken)
    for run in runs(conversation.spoken):
        if run[0].role == "assistant":
            before = prompt(conversation.messages[:place], IDS, CHATML, conversation.tools)
            assert pieces(before)[-2:] == ASSISTANT[:2]
            assert rendered[: len(before)] == before
        place += len(run)


def test_the_turn_after_a_sample_is_prompted_behind_it() -> None:
    conversation, expected = CASES["loss, all the other way round"]
    assert merged(pieces(CHATML.render(conversation, IDS, generate=True))) == merged(
        [*expected, *ASSISTANT[:2]]
    )


# Token by token, with the real tokenizer.


def encoded(text: Sequence[Piece]) -> list[Token]:
    """One text as SentencePiece encodes it behind a line end, where it puts no space in front."""
    return owned(sentencepiece().encode("\n" + "".join(characters for characters, _, _ in text))[2:], text)


def tokens(expected: Sequence[Piece]) -> list[tuple[int, SpanKind, bool]]:
    named = {word: id for id, word in SPELLED.items()}
    made: list[tuple[int, SpanKind, bool]] = []
    text: list[Piece] = []
    for piece in [*expected, CUT]:
        if piece != CUT and piece[0] not in named:
            text.append(piece)
            continue
        made += encoded(text)
        text = []
        if piece != CUT:
            made.append((named[piece[0]], piece[1], piece[2]))
    return made


@cache
def encoder() -> Encoder:
    return Encoder.from_folder(TOKENIZER, CHATML.special_tokens)


def table(conversation: Conversation) -> list[Token]:
    return tokens_of(encoder().encode(CHATML.render(conversation, encoder().control), "s", "t"))


@real
@pytest.mark.parametrize("case", CASES)
def test_tokens_and_targets(case: str) -> None:
    conversation, expected = CASES[case]
    assert table(conversation) == tokens(expected)


@real
def test_every_id_of_a_call_by_hand() -> None:
    conversation = Conversation("t", (HI, Message("assistant", "好", calls=(Call("f"),)), HI))
    turn = [
        (31076, TEXT, True),  # 好
        *[(id, CONTROL, True) for id in (13, 29966, 10154, 29918, 4804, 29958, 13)],  # \n < tool _ call > \n
        *[(id, CONTROL, True) for id in (6377, 978, 1115, 376)],  # {" name ": ▁"
        (29888, CALL_NAME, True),  # f
        *[(id, CONTROL, True) for id in (613, 376, 25699, 1115)],  # ", ▁" arguments ":
        (426, ARGUMENTS, True),  # ▁{
        (930, ARGUMENTS, True),  # }}
        *[(id, CONTROL, True) for id in (13, 829, 10154, 29918, 4804, 29958)],  # \n </ tool _ call >
    ]
    asked = [
        (32000, CONTROL, False),  # <|im_start|>
        (1792, CONTROL, False),  # user
        (13, CONTROL, False),  # <0x0A>
        (2918, USER, False),  # hi
        (32001, CONTROL, False),  # <|im_end|>
        (13, CONTROL, False),
    ]
    assert table(conversation) == [
        (1, CONTROL, False),  # <s>
        *asked,
        (32000, CONTROL, False),
        (465, CONTROL, False),  # ass
        (22137, CONTROL, False),  # istant
        (13, CONTROL, False),
        *turn,
        (32001, STOP, True),
        (13, CONTROL, False),
        *asked,
    ]
