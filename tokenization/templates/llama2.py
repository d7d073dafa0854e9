"""The Llama 2 chat template.

    <s>[INST] <<SYS>>
    {system}
    <</SYS>>

    {user} [/INST] {assistant} </s><s>[INST] {user} [/INST] …

A turn is `[bos] + encode("[INST] {user} [/INST]") + encode("{assistant} ") + [eos]`. The two strings are
encoded apart, because at inference the prompt ends after `[/INST]` and the answer's tokens follow it: an
answer begins with a token of its own that carries the space before it.

White space is taken off as Meta's generation code and the chat template of the Llama 2 chat models do: both
ends of an answer, and both ends of what stands between `[INST]` and `[/INST]`. With a system prompt that is
the whole `<<SYS>>…` string, so the system prompt and the beginning of the first user message stay as written.

Targets are what the model must generate: an answer's tokens, the space that ends it, and its `</s>`. A
message's `loss` overrides that for the message's own characters and, if it is the assistant's, its `</s>`;
`<s>`, `[INST]`, `<<SYS>>` and their counterparts are never targets.
"""

from __future__ import annotations

from tokenization.conversation import Conversation, Message
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Segment, Text, joined


def render(conversation: Conversation, control: ControlIds) -> list[Segment]:
    """Per user message bos and an instruction, per assistant message an answer and the eos that ends it."""
    segments: list[Segment] = []
    system: Message | None = None
    for message in conversation.messages:
        if message.role == "system":
            system = message
        elif message.role == "user":
            segments += [Control(control.bos, SpanKind.CONTROL), _instruction(system, message)]
            system = None
        else:
            answer = f"{message.content.strip()} "
            segments += [
                joined((answer, SpanKind.ASSISTANT, message.trained)),
                Control(control.eos, SpanKind.STOP, message.trained, ends_turn=True),
            ]
    return segments


def _instruction(system: Message | None, user: Message) -> Text:
    def markup(text: str) -> tuple[str, SpanKind, bool]:
        return text, SpanKind.CONTROL, False

    if system is None:
        content = user.content.strip()
        return joined(markup("[INST] "), (content, SpanKind.USER, user.trained), markup(" [/INST]"))
    content = user.content.rstrip()
    return joined(
        markup("[INST] <<SYS>>\n"),
        (system.content, SpanKind.SYSTEM, system.trained),
        # The strip of the whole string takes these line ends too when no user text follows them.
        markup("\n<</SYS>>\n\n" if content else "\n<</SYS>>"),
        (content, SpanKind.USER, user.trained),
        markup(" [/INST]"),
    )
