"""The tools as the system prompt describes them, for templates whose calls stand between tags."""

from __future__ import annotations

from collections.abc import Sequence

from tokenization.conversation import Conversation
from tokenization.grammar.tagged import CLOSE, OPEN, TOOLS, TOOLS_END
from tokenization.sample import SpanKind
from tokenization.segments import Part

BEFORE = f"You can call functions to help the user. The functions, as JSON schemas, one to a line:\n{TOOLS}\n"
AFTER = (
    f"\n{TOOLS_END}\n"
    f"To call a function, write a JSON object with its name and arguments between {OPEN} and {CLOSE}, "
    f"one pair of tags for each call:\n"
    f'{OPEN}\n{{"name": "function", "arguments": {{"argument": "value"}}}}\n{CLOSE}'
)
"""A call as `grammar/tagged.py` writes it."""


def tools_text(tools: Sequence[str]) -> str:
    """What the model is told of the tools, each wrapped as OpenAI's `tools` are; nothing where there are none."""
    lines = "\n".join(f'{{"type": "function", "function": {tool}}}' for tool in tools)
    return BEFORE + lines + AFTER if tools else ""


def system_parts(conversation: Conversation, tools: str) -> list[Part]:
    """The system message and, after an empty line, what is said of the tools; empty where both are missing.

    The message's `loss` is about its own characters, never about the tools.
    """
    parts: list[Part] = []
    if conversation.system:
        parts.append((conversation.system.content, SpanKind.SYSTEM, conversation.system.trained))
    if tools:
        between = "\n\n" if conversation.system and conversation.system.content else ""
        parts.append((between + tools, SpanKind.SYSTEM, False))
    return parts
