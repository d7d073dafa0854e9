"""Calls between tags, as Hermes and Qwen models write them, in text:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Oslo"}}
    </tool_call>

Results come back between `<tool_response>` tags. Servers know this form (vLLM: `--tool-call-parser hermes`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenization.conversation import Call, Message, canonical
from tokenization.grammar.reply import (
    DEEPEST,
    LONGEST_CALL,
    CallError,
    Said,
    check_call,
    check_length,
    deeper,
    strict_json,
)
from tokenization.sample import SpanKind
from tokenization.segments import Part, interleaved, markup

OPEN, CLOSE = "<tool_call>", "</tool_call>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"
TOOLS, TOOLS_END = "<tools>", "</tools>"
MARKS = (OPEN, CLOSE, RESULT, RESULT_END, TOOLS, TOOLS_END)

_SPACE = re.compile(r"[ \t\r\n]*")


def call_parts(call: Call, trained: bool) -> list[Part]:
    """One call, from tag to tag. Raises RenderError for one that could not be read back, see `check_call`."""
    check_call(call)
    kind = SpanKind.ARGUMENTS if call.code is None else SpanKind.CODE
    return [
        markup(f'{OPEN}\n{{"name": "', trained),
        (canonical(call.name)[1:-1], SpanKind.CALL_NAME, trained),
        markup('", "arguments": ', trained),
        (call.arguments, kind, trained),
        markup(f"}}\n{CLOSE}", trained),
    ]


def turn_parts(messages: Sequence[Message], strip: bool = False) -> list[Part]:
    """The assistant's messages in a row as one turn: texts and calls, a line end between one and the next.

    `strip` takes white space off both ends of each text. Raises RenderError for a call that could not be read back,
    and where the calls, with what stands between them, are longer than LONGEST_CALL.
    """
    groups: list[list[Part]] = []
    calls: list[int] = []  # their places in groups
    for message in messages:
        text = message.content.strip() if strip else message.content
        groups.append([(text, SpanKind.TEXT, message.trained)] if text else [])
        calls += range(len(groups), len(groups) + len(message.calls))
        groups += [call_parts(call, message.trained) for call in message.calls]
    if calls:
        called = interleaved("\n", groups[calls[0] : calls[-1] + 1])
        check_length(sum(len(text) for text, _, _ in called), "the calls of a turn")
    return interleaved("\n", groups)


def result_parts(message: Message) -> list[Part]:
    """One observation, from tag to tag."""
    return [
        markup(f"{RESULT}\n"),
        (message.content, SpanKind.OBSERVATION, message.trained),
        markup(f"\n{RESULT_END}"),
    ]


def parse_turn(text: str) -> list[Said]:
    """The texts and calls of a turn, in order: `turn_parts` read back.

    An empty text is not read back, and two texts in a row are one, a line end between them. White space within the
    tags is free. Raises CallError where a tag opens and no well-formed call follows, and where the calls, with what
    stands between them, are longer than LONGEST_CALL.
    """
    said: list[Said] = []
    at = 0
    within = text[: text.find(OPEN) + LONGEST_CALL]  # calls must end in it
    while (start := text.find(OPEN, at)) >= 0:
        _say(said, text[at:start], last=False)
        try:
            call, at = _parse_call(within, start + len(OPEN))
        except CallError as error:
            if error.unfinished and len(within) < len(text):
                raise CallError(f"the calls of a turn are longer than {LONGEST_CALL} characters") from None
            raise
        said.append(call)
    _say(said, text[at:], last=True)
    return said


def _say(said: list[Said], text: str, last: bool) -> None:
    """Adds a text without the line ends that part it from the calls beside it."""
    if said:
        text = text.removeprefix("\n")
    if not last:
        text = text.removesuffix("\n")
    if text:
        said.append(text)


def _parse_call(text: str, start: int) -> tuple[Call, int]:
    """The call whose opening tag ends at `start`, and the index after its closing tag."""
    start = _skip(text, start)
    if start == len(text):
        raise CallError("the reply ends where a call begins", unfinished=True)
    value, end = strict_json(text, start)
    if deeper(value, DEEPEST + 2):  # the call itself and its arguments are two levels
        raise CallError(f"a call's arguments are nested deeper than {DEEPEST} levels")
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise CallError('a call is an object of "name" and "arguments" and nothing else')
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or not name:
        raise CallError(f"a call's name is a string that is not empty, not {canonical(name)[:40]}")
    if not isinstance(arguments, dict):
        raise CallError(f"the arguments of {name[:40]!r} are an object, not {canonical(arguments)[:40]}")
    end = _skip(text, end)
    if not text.startswith(CLOSE, end):
        rest = text[end : end + len(CLOSE)]
        raise CallError(
            f"the call of {name[:40]!r} is not closed by {CLOSE}", unfinished=CLOSE.startswith(rest)
        )
    return Call.of(name, arguments), end + len(CLOSE)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
