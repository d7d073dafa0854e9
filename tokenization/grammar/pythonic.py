"""Calls as ChatGLM3 writes them: a fenced block of Python that calls `tool_call` with keyword arguments.

    ```python
    tool_call(city='北京', unit='celsius')
    ```

The tool's name stands in the message's metadata. The block is text: it is read by hand, never evaluated.
"""

from __future__ import annotations

import keyword

from tokenization.conversation import INTERPRETER, Call, Message
from tokenization.grammar.reply import Said
from tokenization.sample import SpanKind
from tokenization.segments import Part, markup

FENCE, FENCE_END = "```python\n", "\n```"
RESULT, RESULT_END = "```result\n", "\n```"


def call_parts(call: Call, trained: bool) -> list[Part]:
    """The body of a call's message. Raises ValueError for a call of the interpreter with more than code."""
    if call.name == INTERPRETER:
        if call.code is None:
            raise ValueError(
                f'a call of {INTERPRETER} has one argument, {{"code": "…"}}, not {call.arguments[:60]}; '
                "rename the tool or its argument"
            )
        return [markup(FENCE, trained), (call.code, SpanKind.CODE, trained), markup(FENCE_END, trained)]
    values = call.values
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in values):
        arguments = ", ".join(f"{name}={value!r}" for name, value in values.items())
    else:
        arguments = f"**{values!r}"
    return [
        markup(f"{FENCE}tool_call(", trained),
        (arguments, SpanKind.ARGUMENTS, trained),
        markup(f"){FENCE_END}", trained),
    ]


def result_parts(message: Message) -> list[Part]:
    """An observation's body; the interpreter's stands in a block of its own."""
    body = (message.content, SpanKind.OBSERVATION, message.trained)
    return [markup(RESULT), body, markup(RESULT_END)] if message.name == INTERPRETER else [body]


def parse_message(text: str) -> Said:
    """One generated message, metadata and content: a text or a call. Raises CallError."""
    raise NotImplementedError
