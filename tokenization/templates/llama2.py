"""The Llama 2 chat template, with tools in the system prompt and calls between tags.

    <s>[INST] <<SYS>>
    {system}
    <</SYS>>

    {user} [/INST] {assistant} </s><s>[INST] {user} [/INST] …

An exchange is `[bos] + encode(" [INST] {given} [/INST]") + encode(" {answer} ") + [eos]`. The two strings are
encoded apart, because at inference the prompt ends after `[/INST]` and the answer's tokens follow it. Each begins
with the space that SentencePiece puts before every text, as in Meta's own code; so the ids are also those of the
one string `[INST] {given} [/INST] {answer} `.

`given` is what the user and the tools say before an answer: user messages and results between tags, a line end
between one and the next. `answer` is the assistant's whole turn, see `grammar/tagged.py`.

White space is taken off as Meta's generation code and the chat template of the Llama 2 chat models do: both
ends of an answer, and both ends of what stands between `[INST]` and `[/INST]`. With a system prompt that is
the whole `<<SYS>>…` string, so the system prompt and the beginning of the first user message stay as written.

Targets are what the model must generate: an answer's tokens, the space that ends it, and its `</s>`. A
message's `loss` overrides that for the message's own characters and, if it is the last of the assistant's turn,
its `</s>`; `<s>`, `[INST]`, `<<SYS>>` and their counterparts are never targets.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenization.conversation import Conversation, Message, runs
from tokenization.grammar.reply import Said
from tokenization.grammar.tagged import MARKS, parse_turn, result_parts, turn_parts
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Part, Segment, Text, interleaved, joined, markup
from tokenization.templates.template import Template, jinja
from tokenization.templates.tools import AFTER, BEFORE, system_parts, tools_text


def render(conversation: Conversation, control: ControlIds, *, generate: bool = False) -> list[Segment]:
    """Before each turn of the assistant bos and an instruction, then the answer and the eos that ends it.

    An instruction is a prompt as it is: to `generate` nothing more is needed.
    """
    system = system_parts(conversation, tools_text(conversation.tools))
    segments: list[Segment] = []
    for run in runs(conversation.spoken):
        if run[0].role != "assistant":
            segments += [Control(control.bos), _instruction(system, run)]
            system = []
        else:
            segments += [_answer(run), Control(control.eos, SpanKind.STOP, run[-1].trained)]
    return segments


def _instruction(system: Sequence[Part], run: Sequence[Message]) -> Text:
    """`[INST] … [/INST]` around what is given before an answer."""
    groups: list[list[Part]] = []
    for place, message in enumerate(run):
        if message.role == "observation":
            groups.append(result_parts(message))
            continue
        content = message.content.lstrip() if place == 0 and not system else message.content
        content = content.rstrip() if place == len(run) - 1 else content
        groups.append([(content, SpanKind.USER, message.trained)] if content else [])
    given = interleaved("\n", groups)
    if system:
        # The strip of the whole string takes the last line ends too when nothing follows them.
        end = "\n<</SYS>>\n\n" if given else "\n<</SYS>>"
        given = [markup("<<SYS>>\n"), *system, markup(end), *given]
    return joined(markup(" [INST] "), *given, markup(" [/INST]"))


def _answer(run: Sequence[Message]) -> Text:
    """A turn between two spaces. They count as text where they stand beside text: one kind, one pass of the encoder."""
    parts = turn_parts(run, strip=True)
    kinds = [kind for _, kind, _ in parts] or [SpanKind.TEXT]
    before, after = (
        SpanKind.TEXT if kind is SpanKind.TEXT else SpanKind.CONTROL for kind in (kinds[0], kinds[-1])
    )
    return joined((" ", before, run[0].trained), *parts, (" ", after, run[-1].trained))


def _parse(parts: Sequence[str]) -> list[Said]:
    return parse_turn("".join(parts).strip())


LLAMA2 = Template(
    name="llama2",
    render=render,
    parse=_parse,
    chat_template=jinja(
        "ordered.jinja", "tagged.jinja", "llama2.jinja", tools_before=BEFORE, tools_after=AFTER
    ),
    control_text=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", *MARKS),
)
