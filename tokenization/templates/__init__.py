"""Chat templates by name, and the prompt that inference begins from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenization.conversation import Conversation, Message
from tokenization.segments import ControlIds, Segment
from tokenization.templates import llama2

Template = Callable[[Conversation, ControlIds], list[Segment]]

TEMPLATES: dict[str, Template] = {"llama2": llama2.render}


def template_named(name: str) -> Template:
    """The template of that name; ValueError names the known ones."""
    if name not in TEMPLATES:
        raise ValueError(f"template {name!r} is not known; use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def prompt(messages: Sequence[Message], control: ControlIds, template: str = "llama2") -> list[Segment]:
    """What the model is given before it generates its answer to the last message, which is the user's.

    The same function renders training samples, so a sample's ids up to an answer are this prompt's ids.
    Raises ValueError if the messages do not end with the user's or stand in an order that is no conversation.
    """
    conversation = Conversation("prompt", tuple(messages))
    if conversation.messages[-1].role != "user":
        raise ValueError("a prompt ends with the user's message; drop the last one or add the user's")
    return template_named(template)(conversation, control)
