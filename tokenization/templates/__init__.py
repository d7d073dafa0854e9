"""Chat templates by name, and the prompt that inference begins from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenization.conversation import Conversation, Message
from tokenization.encoder import Encoder
from tokenization.segments import ControlIds, Segment
from tokenization.templates.chatglm3 import CHATGLM3
from tokenization.templates.chatml import CHATML
from tokenization.templates.llama2 import LLAMA2
from tokenization.templates.template import Template

TEMPLATES: dict[str, Template] = {template.name: template for template in (LLAMA2, CHATGLM3, CHATML)}


def template_named(name: str) -> Template:
    """The template of that name; ValueError names the known ones."""
    if name not in TEMPLATES:
        raise ValueError(f"template {name!r} is not known; use one of {', '.join(TEMPLATES)} or model")
    return TEMPLATES[name]


def open_template(name: str, path: Path) -> tuple[Template, Encoder]:
    """A template, and the tokenizer at `path` with the control tokens that it needs.

    `model` is the template of the folder itself. Raises ValueError, with the remedy, where there is none, where the
    tokenizer cannot be read, or for an unknown name.
    """
    if name == "model":
        from tokenization.templates.folder import folder_template  # transformers takes a second to import

        return folder_template(path)
    template = template_named(name)
    return template, Encoder.from_folder(path, template.special_tokens)


def prompt(
    messages: Sequence[Message], control: ControlIds, template: Template, tools: Sequence[str] = ()
) -> list[Segment]:
    """What the model is given before it generates its turn after the last message: the user's or an observation.

    The same function renders training samples, so a sample's ids up to a turn are this prompt's ids. Raises
    ValueError if the messages end with the assistant's or stand in an order that is no conversation.
    """
    conversation = Conversation("prompt", tuple(messages), tuple(tools))
    if conversation.messages[-1].role == "assistant":
        raise ValueError(
            "a prompt ends with the user's message or an observation; drop the assistant's at the end"
        )
    return template.render(conversation, control, generate=True)
