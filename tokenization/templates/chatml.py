"""ChatML with calls between tags, as Hermes and Qwen models are prompted.

    <s><|im_start|>system
    {system}<|im_end|>
    <|im_start|>user
    {user}<|im_end|>
    <|im_start|>assistant
    {turn}<|im_end|>

`<|im_start|>` and `<|im_end|>` are control tokens; what stands between two of them is one string. Only the
assistant's turn is encoded apart from the line of its role, because at inference the prompt ends with that line.
Targets are the turn (see `grammar/tagged.py`) and its `<|im_end|>`; the line end after it is not generated. Results
of calls in a row share one block of the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tokenization.conversation import Conversation, Message, runs
from tokenization.grammar.reply import Said
from tokenization.grammar.tagged import MARKS, parse_turn, result_parts, turn_parts
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Part, Segment, interleaved, joined, markup
from tokenization.templates.template import Template, jinja
from tokenization.templates.tools import AFTER, BEFORE, system_parts, tools_text

START, END = "<|im_start|>", "<|im_end|>"

_ASSISTANT, _LINE_END = joined(markup("assistant\n")), joined(markup("\n"))


def render(conversation: Conversation, control: ControlIds, *, generate: bool = False) -> list[Segment]:
    """bos, then a block for each speaker in turn."""
    start, end = Control(control[START]), Control(control[END])
    segments: list[Segment] = [Control(control.bos)]
    if system := system_parts(conversation, tools_text(conversation.tools)):
        segments += (start, joined(markup("system\n"), *system), end, _LINE_END)
    for run in runs(conversation.spoken):
        if run[0].role != "assistant":
            for parts in _blocks(run):
                segments += (start, joined(markup("user\n"), *parts), end, _LINE_END)
        else:
            stop = Control(control[END], SpanKind.STOP, run[-1].trained)
            segments += (start, _ASSISTANT, joined(*turn_parts(run)), stop, _LINE_END)
    return [*segments, start, _ASSISTANT] if generate else segments


def _blocks(run: Sequence[Message]) -> Iterator[list[Part]]:
    """The user's blocks before a turn: one for each message, one for all results in a row."""
    for role, messages in groupby(run, key=lambda m: m.role):
        if role == "observation":
            yield interleaved("\n", map(result_parts, messages))
        else:
            yield from ([(m.content, SpanKind.USER, m.trained)] for m in messages)


def _parse(parts: Sequence[str]) -> list[Said]:
    return parse_turn("".join(parts))


CHATML = Template(
    name="chatml",
    render=render,
    parse=_parse,
    chat_template=jinja(
        "ordered.jinja", "tagged.jinja", "chatml.jinja", tools_before=BEFORE, tools_after=AFTER
    ),
    special_tokens=(START, END),
    stop_tokens=(END,),
    control_text=MARKS,
)
