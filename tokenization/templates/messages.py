"""A conversation in the form that transformers' chat templates and OpenAI's clients know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenization.conversation import Message

_ROLES = {"observation": "tool"}


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages for `apply_chat_template`; arguments are objects there, not JSON text."""
    return [_message(message) for message in messages]


def chat_tools(tools: Sequence[str]) -> list[dict[str, Any]] | None:
    """Tools for `apply_chat_template`, None where there are none."""
    return [{"type": "function", "function": json.loads(tool)} for tool in tools] or None


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {
        "role": _ROLES.get(message.role, message.role),
        "content": message.content,
    }
    if message.name is not None:
        written["name"] = message.name
    if message.calls:
        written["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.values}}
            for call in message.calls
        ]
    return written
