"""Calls as ChatGLM3 writes them: a fenced block of Python that calls `tool_call` with keyword arguments.

    ```python
    tool_call(city='北京', unit='celsius')
    ```

The tool's name stands in the message's metadata. The block is text: it is read by hand, never evaluated, and of Python
it may hold what `literals.py` reads.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Any

from tokenization.conversation import INTERPRETER, Call, Message
from tokenization.grammar.literals import WHITE, fault, keywords, skip
from tokenization.grammar.reply import LONGEST_CALL, CallError, Said, check_call, check_length
from tokenization.sample import SpanKind
from tokenization.segments import Part, RenderError, markup

FENCE, FENCE_END = "```python\n", "\n```"
RESULT, RESULT_END = "```result\n", "\n```"

_FENCE = re.compile(rf"[{WHITE}]*```python\n?")
_FENCE_LINE = re.compile(r"^```[ \t\r]*$", re.MULTILINE)
_CALL = re.compile(r"tool_call[ \t]*\(")


def call_parts(call: Call, trained: bool) -> list[Part]:
    """The body of a call's message.

    Raises RenderError for what could not be read back: see `check_call`; a name with a line end; a call of the
    interpreter with more than code; a name and a body of more than LONGEST_CALL characters together.
    """
    check_call(call)
    if "\n" in call.name:
        raise RenderError(f"the tool's name {call.name[:60]!r} holds a line end; rename the tool")
    if call.name == INTERPRETER:
        if call.code is None:
            raise RenderError(
                f'a call of {INTERPRETER} has one argument, {{"code": "…"}}, not {call.arguments[:60]}; '
                "rename the tool or its argument"
            )
        parts = [markup(FENCE, trained), (call.code, SpanKind.CODE, trained), markup(FENCE_END, trained)]
    else:
        parts = [
            markup(f"{FENCE}tool_call(", trained),
            (_written(call.values), SpanKind.ARGUMENTS, trained),
            markup(f"){FENCE_END}", trained),
        ]
    check_length(len(call.name) + sum(len(text) for text, _, _ in parts), f"the call of {call.name[:60]!r}")
    return parts


def _written(values: Mapping[str, Any]) -> str:
    """Keyword arguments; one `**{…}` where a name is none that Python takes."""
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in values):
        return ", ".join(f"{name}={value!r}" for name, value in values.items())
    return f"**{values!r}"


def result_parts(message: Message) -> list[Part]:
    """An observation's body; the interpreter's stands in a block of its own."""
    body = (message.content, SpanKind.OBSERVATION, message.trained)
    return [markup(RESULT), body, markup(RESULT_END)] if message.name == INTERPRETER else [body]


def parse_message(text: str) -> Said:
    """One generated message, `metadata\\ncontent`, as a text or a call: what `call_parts` and the template write,
    read back.

    Each of the two may begin with one space, the template's, which is taken off. Where there is no metadata, the
    content is text as it is. A program is what stands between the fences that begin and end the content. Around
    `tool_call(…)` the fences, or a line end beside one, may be missing. Raises CallError for any other content, and
    for name and content of more than LONGEST_CALL characters.
    """
    metadata, _, content = text.partition("\n")
    name, content = metadata.removeprefix(" "), content.removeprefix(" ")
    if not name:
        return content
    if (length := len(name) + len(content)) > LONGEST_CALL:
        raise CallError(f"a call has {length} characters; at most {LONGEST_CALL} are read")
    call = Call.of(name, {"code": _code(content)} if name == INTERPRETER else _arguments(content))
    try:
        (call.name + call.arguments).encode()
    except UnicodeEncodeError:
        raise CallError(f"the call of {name[:40]!r} holds half a surrogate pair") from None
    return call


def _code(content: str) -> str:
    """The program in a fenced block. It may hold fences itself: the block ends with the last one."""
    fence = _FENCE.match(content)
    if not fence:
        raise fault(content, skip(content, 0), "a block that ```python begins", "```python")
    block = content[fence.end() :].rstrip(WHITE)
    if not block.endswith("```"):
        if _FENCE_LINE.search(block):
            raise CallError("text follows the block of code")
        raise CallError("the reply ends inside a block of code", unfinished=True)
    return block[:-3].removesuffix("\n")


def _arguments(content: str) -> dict[str, Any]:
    """The arguments of `tool_call(…)`, with nothing but its fences beside it."""
    fence = _FENCE.match(content)
    at = skip(content, fence.end() if fence else 0)
    opened = _CALL.match(content, at)
    if not opened:
        raise fault(content, at, "tool_call(…) in a block that ```python begins", "```python", "tool_call")
    values, at = keywords(content, opened.end())
    at = skip(content, at)
    if fence:
        if not content.startswith("```", at):
            raise fault(content, at, "``` after the call", "```")
        at = skip(content, at + 3)
    if at < len(content):
        raise CallError(f"text follows the call: {content[at : at + 20]!r}")
    return values
