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
from tokenization.grammar.reply import LONGEST_CALL, CallError, Said, strict_json
from tokenization.sample import SpanKind
from tokenization.segments import Part, interleaved, markup

OPEN, CLOSE = "<tool_call>", "</tool_call>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"
TOOLS, TOOLS_END = "<tools>", "</tools>"
MARKS = (OPEN, CLOSE, RESULT, RESULT_END, TOOLS, TOOLS_END)

_SPACE = re.compile(r"[ \t\r\n]*")


def call_parts(call: Call, trained: bool) -> list[Part]:
    """One call, from tag to tag."""
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

    `strip` takes white space off both ends of each text.
    """
    groups: list[list[Part]] = []
    for message in messages:
        text = message.content.strip() if strip else message.content
        groups.append([(text, SpanKind.TEXT, message.trained)] if text else [])
        groups += [call_parts(call, message.trained) for call in message.calls]
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

    White space within the tags is free. Raises CallError where a tag opens and no well-formed call follows.
    """
    said: list[Said] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0:
        _say(said, text[at:start], last=False)
        call, at = _parse_call(text, start + len(OPEN))
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
    body = text[start : start + LONGEST_CALL]
    if not body:
        raise CallError("the reply ends where a call begins", unfinished=True)
    value, length = strict_json(body)
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise CallError('a call is an object of "name" and "arguments" and nothing else')
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or not name:
        raise CallError(f"a call's name is a string, not {canonical(name)[:40]}")
    if not isinstance(arguments, dict):
        raise CallError(f"the arguments of {name} are an object, not {canonical(arguments)[:40]}")
    end = _skip(text, start + length)
    if not text.startswith(CLOSE, end):
        rest = text[end : end + len(CLOSE)]
        raise CallError(f"the call of {name} is not closed by {CLOSE}", unfinished=CLOSE.startswith(rest))
    return Call.of(name, arguments), end + len(CLOSE)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
