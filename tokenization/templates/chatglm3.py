"""The ChatGLM3 dialogue format on a Llama vocabulary.

    <s><|system|>
     {system}<|user|>
     {user}<|assistant|>get_weather
     ```python
    tool_call(city='北京')
    ```<|observation|>
     {result}<|assistant|>
     {text}</s>

Role tokens are control tokens: no text is ever encoded into one. After a role come metadata (the name of the tool
that the message calls, `interpreter` for code, else nothing), a line end and the content; each of the two begins
with the space that SentencePiece puts before every text, since ChatGLM3 encodes them apart. One eos stands after the
last message.

The prompt ends with a bare `<|assistant|>`, so metadata, line end and content are all targets, and so is what ends the
message: `<|user|>` (or eos) when the turn is over, `<|observation|>` when a call wants its result, `<|assistant|>` when
the assistant goes on. A text before a call, and each of several calls, is a message of its own.
"""

from __future__ import annotations

import keyword
from collections.abc import Sequence

from tokenization.conversation import Conversation, Message, runs
from tokenization.grammar.pythonic import call_parts, parse_message, result_parts
from tokenization.grammar.reply import Said
from tokenization.sample import SpanKind
from tokenization.segments import Control, ControlIds, Part, Segment, Text, joined, markup
from tokenization.templates.template import Template, jinja
from tokenization.templates.tools import system_parts

SYSTEM, USER, ASSISTANT, OBSERVATION = ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_TOKEN = {"system": SYSTEM, "user": USER, "observation": OBSERVATION}

TOOLS = "Answer the following questions as best as you can. You have access to the following tools:\n"


def render(conversation: Conversation, control: ControlIds, *, generate: bool = False) -> list[Segment]:
    """bos, then each message behind its role's token, and eos."""
    segments: list[Segment] = [Control(control.bos)]
    ended: bool | None = None  # after a turn of the assistant: is what ends it a target?

    def speak(token: str, text: Text) -> None:
        nonlocal ended
        kind = SpanKind.CONTROL if ended is None else SpanKind.STOP
        segments.extend([Control(control[token], kind, bool(ended)), text])
        ended = None

    tools = f"{TOOLS}[{', '.join(conversation.tools)}]" if conversation.tools else ""
    if system := system_parts(conversation, tools):
        speak(SYSTEM, _text(system))
    for run in runs(conversation.spoken):
        if run[0].role == "assistant":
            segments += _turn(run, control)
            ended = run[-1].trained
        else:
            for message in run:
                observed = message.role == "observation"
                content = (
                    result_parts(message) if observed else [(message.content, SpanKind.USER, message.trained)]
                )
                speak(_TOKEN[message.role], _text(content))
    if generate:
        return [*segments, Control(control[ASSISTANT])]
    return [
        *segments,
        Control(control.eos, SpanKind.CONTROL if ended is None else SpanKind.STOP, bool(ended)),
    ]


def _turn(run: Sequence[Message], control: ControlIds) -> list[Segment]:
    """The assistant's messages in a row; the token that begins one is what ends the one before."""
    segments: list[Segment] = []
    goes_on = False  # is the next role token a target?
    for message in run:
        texts: list[Text] = []
        if message.content or not message.calls:
            texts.append(_text([(message.content, SpanKind.TEXT, message.trained)], message.trained))
        for call in message.calls:
            name = (call.name, SpanKind.CALL_NAME, message.trained)
            texts.append(_text(call_parts(call, message.trained), message.trained, name))
        for text in texts:
            segments += [Control(control[ASSISTANT], SpanKind.CONTROL, goes_on), text]
            goes_on = message.trained
    return segments


def _text(content: Sequence[Part], trained: bool = False, *metadata: Part) -> Text:
    """Metadata, line end and content of a message."""
    space = [markup(" ", trained)] if any(text for text, _, _ in content) else []
    return joined(markup(" ", trained), *metadata, markup("\n", trained), *space, *content)


def _parse(parts: Sequence[str]) -> list[Said]:
    return [said for said in map(parse_message, parts) if said != ""]


CHATGLM3 = Template(
    name="chatglm3",
    render=render,
    parse=_parse,
    chat_template=jinja("ordered.jinja", "chatglm3.jinja", tools_before=TOOLS, keywords=keyword.kwlist),
    special_tokens=ROLES,
    stop_tokens=(USER, OBSERVATION),
    joint=ASSISTANT,
)
