"""What a chat template is to the rest: conversation to segments, a reply read back, what it needs of a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenization.conversation import Conversation
from tokenization.grammar.reply import Said
from tokenization.segments import ControlIds, Segment


class Render(Protocol):
    """A conversation as segments: the training sample or, to `generate`, what the model is given before its next
    turn. A sample's segments up to a turn of the assistant are the prompt of the messages before it."""

    def __call__(
        self, conversation: Conversation, control: ControlIds, *, generate: bool = False
    ) -> list[Segment]: ...


@dataclass(frozen=True)
class Template:
    name: str
    render: Render
    parse: Callable[[Sequence[str]], list[Said]]
    """A generated turn, without its stop, to its texts and calls in order. It comes in parts: what stands between
    `joint` tokens. Raises CallError."""
    chat_template: str
    """The same template in Jinja, for transformers: what a written model folder is served with."""
    special_tokens: tuple[str, ...] = ()
    """Control tokens it needs beside bos and eos; added to a vocabulary that lacks them."""
    stop_tokens: tuple[str, ...] = ()
    """Those of them that end a turn of the assistant, beside eos."""
    joint: str | None = None
    """The one that parts messages inside a turn of the assistant."""
    control_text: tuple[str, ...] = ()
    """Structure that is ordinary text to the tokenizer, so that data could counterfeit it."""


def jinja(*files: str, **constants: object) -> str:
    """The Jinja files of this folder as one template, with constants that it shares with the Python side set first."""
    settings = [f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in constants.items()]
    sources = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in files]
    return "".join((*settings, *sources))
