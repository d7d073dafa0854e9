"""A conversation as every data format is read into: who said what, and which of it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str
    loss: bool | None = None
    """Are this message's tokens targets? None: the assistant's are, the others' are not."""

    @property
    def trained(self) -> bool:
        """What `loss` comes to."""
        return self.role == "assistant" if self.loss is None else self.loss


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then user and assistant in turns, the user first; either may end it.

    Raises ValueError where the messages stand in another order, see `order_fault`.
    """

    id: str
    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if fault := order_fault(self.messages):
            raise ValueError(fault)

    def with_system(self, content: str) -> Conversation:
        """The same conversation opened by this system message, unless it brings one of its own."""
        if self.messages[0].role == "system":
            return self
        return replace(self, messages=(Message("system", content), *self.messages))


def order_fault(messages: Sequence[Message]) -> str | None:
    """What is wrong with the order of the messages (counted from 1) and how to mend it, or None."""
    if not messages:
        return "the conversation has no messages; it needs a user message at least"
    first_turn = 1 if messages[0].role == "system" else 0
    if len(messages) == first_turn:
        return "the conversation has only a system message; it needs a user message"
    if messages[first_turn].role == "assistant":
        return (
            f"message {first_turn + 1} is the assistant's, but a conversation opens with the user's; "
            "drop it or put a user message before it"
        )
    for number, message in enumerate(messages[first_turn:], first_turn + 1):
        if message.role == "system":
            return f"message {number} is a system message; only the first message can be one: move or drop it"
        if number > first_turn + 1 and message.role == messages[number - 2].role:
            return (
                f"messages {number - 1} and {number} are both the {message.role}'s; "
                "user and assistant take turns: join the two or drop one"
            )
    return None
