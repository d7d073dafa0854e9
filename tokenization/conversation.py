"""A conversation as every data format is read into: who said what, which tools there are, and what is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "observation"]

INTERPRETER = "interpreter"
"""The tool whose one argument, `code`, is a program: templates that know code write it as such."""


def canonical(value: object) -> str:
    """JSON in the one way it is written here: key order as given, nothing escaped that need not be, no NaN.

    It is what `tojson` gives in a transformers chat template. Raises ValueError for NaN and infinities.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Call:
    """A call of a tool: its name, and `canonical` JSON of an object for its arguments."""

    name: str
    arguments: str = "{}"

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, object]) -> Call:
        """Raises ValueError where the arguments hold what JSON has no word for."""
        return cls(name, canonical(arguments))

    @property
    def values(self) -> dict[str, Any]:
        return json.loads(self.arguments)

    @property
    def code(self) -> str | None:
        """The program, where this is a call of the interpreter with nothing but code."""
        if self.name != INTERPRETER:
            return None
        values = self.values
        return values["code"] if list(values) == ["code"] and isinstance(values["code"], str) else None


@dataclass(frozen=True)
class Message:
    """What one side said. An assistant's message is its text, then its calls; an observation is a call's result."""

    role: Role
    content: str = ""
    loss: bool | None = None
    """Are this message's tokens targets? None: the assistant's are, the others' are not."""
    calls: tuple[Call, ...] = ()
    """Only the assistant's."""
    name: str | None = None
    """An observation's tool, where it is known."""

    @property
    def trained(self) -> bool:
        """What `loss` comes to."""
        return self.role == "assistant" if self.loss is None else self.loss


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then the user's and the assistant's, the user first; anyone may end it.

    A turn of the assistant is one or more of its messages in a row; observations follow it. Raises ValueError
    where the messages stand in another order, see `order_fault`.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[str, ...] = ()
    """What may be called: `canonical` JSON each, usually of a function's name, description and parameters."""

    def __post_init__(self) -> None:
        if fault := order_fault(self.messages):
            raise ValueError(fault)

    @property
    def system(self) -> Message | None:
        return self.messages[0] if self.messages[0].role == "system" else None

    @property
    def spoken(self) -> tuple[Message, ...]:
        """The messages without the system's."""
        return self.messages[1:] if self.system else self.messages

    def with_system(self, content: str) -> Conversation:
        """The same conversation opened by this system message, unless it brings one of its own."""
        if self.system:
            return self
        return replace(self, messages=(Message("system", content), *self.messages))

    def map_text(self, change: Callable[[str], str]) -> Conversation:
        """The same conversation with `change` applied to every string of the data, inside JSON too.

        Raises ValueError where two keys of an object would become one.
        """

        def json_text(text: str) -> str:
            return canonical(_map_strings(json.loads(text), change))

        def message(m: Message) -> Message:
            calls = tuple(Call(change(call.name), json_text(call.arguments)) for call in m.calls)
            name = m.name if m.name is None else change(m.name)
            return replace(m, content=change(m.content), calls=calls, name=name)

        return Conversation(self.id, tuple(map(message, self.messages)), tuple(map(json_text, self.tools)))


def runs(messages: Iterable[Message]) -> list[tuple[Message, ...]]:
    """The messages in groups as the sides take turns: the assistant's in a row, or the others' in a row."""
    return [tuple(group) for _, group in groupby(messages, key=lambda m: m.role == "assistant")]


def order_fault(messages: Sequence[Message]) -> str | None:
    """What is wrong with the order of the messages (counted from 1) and how to mend it, or None."""
    if not messages:
        return "the conversation has no messages; it needs a user message at least"
    first = 1 if messages[0].role == "system" else 0
    if len(messages) == first:
        return "the conversation has only a system message; it needs a user message"
    if messages[first].role == "assistant":
        return (
            f"message {first + 1} is the assistant's, but a conversation opens with the user's; "
            "drop it or put a user message before it"
        )
    before: Role = "system"
    for number, message in enumerate(messages[first:], first + 1):
        if message.role == "system":
            return f"message {number} is a system message; only the first message can be one: move or drop it"
        if message.role == before == "user":
            return (
                f"messages {number - 1} and {number} are both the user's; "
                "user and assistant take turns: join the two or drop one"
            )
        if message.role == "observation" and before in ("system", "user"):
            return (
                f"message {number} is an observation, but no call of the assistant's comes before it; "
                "put the call there or drop it"
            )
        if message.calls and message.role != "assistant":
            return f"message {number} makes a call, but is the {message.role}'s; only the assistant calls"
        before = message.role
    return None


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        changed = {change(key): _map_strings(item, change) for key, item in value.items()}
        if len(changed) < len(value):
            raise ValueError(f"two of the keys {', '.join(value)} become one")
        return changed
    return value
