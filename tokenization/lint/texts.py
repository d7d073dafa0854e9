"""Rules about what is written in the messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter

from tokenization.control_text import Policy, parted, strings
from tokenization.conversation import Conversation
from tokenization.lint.finding import Numbered, listed, numbered

_CALL = re.compile(
    r"<tool_call>|<function_?call>|<function=|\[TOOL_CALLS\]|```python\s+tool_call\(|^Action:[^\n]*\n\s*Action Input:",
    re.MULTILINE,
)
"""How the grammars of this project and of others begin a call."""


@dataclass(frozen=True)
class Marks:
    """Strings that are structure to a template or to a tokenizer.

    own:   those that the run's template writes as ordinary text, so that `policy` (data.control_text) is about them
    every: of any template or tokenizer; beyond `own` they are only a sign of a conversation that was rendered before
    """

    own: tuple[str, ...]
    policy: Policy
    every: tuple[str, ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        longest_first = sorted({*self.own, *self.every}, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))


def mark_faults(conversation: Conversation, marks: Marks) -> Iterator[Numbered]:
    for place, texts in groupby(strings(conversation), key=itemgetter(0)):
        held = sorted({mark for _, text in texts for mark in marks.pattern.findall(text)})
        number = int(place.split()[-1]) if place.startswith("message") else 0
        own = [mark for mark in held if mark in marks.own]
        others = [mark for mark in held if mark not in marks.own]
        if own:
            yield _own_mark(number, f"{place} holds {listed(own)}", own, marks.policy)
        if others:
            told = f"{place} holds {listed(others)}: control strings of a chat template, here plain text"
            yield numbered(
                number, "warning", "control-text", f"{told}; take them out if it was rendered before"
            )


def _own_mark(number: int, told: str, own: Sequence[str], policy: Policy) -> Numbered:
    told = f"{told}, which the template takes for its own"
    if policy == "refuse":
        remedy = f"mend it, or set data.control_text=neutralise to write {parted(own[0])}"
        return numbered(number, "error", "control-text", f"{told}; {remedy}")
    done = f"writes {parted(own[0])}" if policy == "neutralise" else "lets it stand"
    return numbered(number, "warning", "control-text", f"{told}; data.control_text={policy} {done}")


def answer_faults(conversation: Conversation) -> Iterator[Numbered]:
    for number, message in enumerate(conversation.messages, 1):
        if message.role != "assistant":
            continue
        if not message.calls and not message.content.strip():
            told = f"message {number} is the assistant's and empty; write an answer or drop the turn"
            yield numbered(number, "warning", "empty-answer", told)
        if conversation.tools and (sign := _text_call(message.content)):
            told = f"message {number} has a call in its text ({sign}); give it as a structured call"
            yield numbered(number, "warning", "text-call", told)


def _text_call(text: str) -> str | None:
    """What of a text looks like a call."""
    if found := _CALL.search(text):
        return found[0]
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and "name" in first and ("arguments" in first or "parameters" in first):
            return "JSON with a name and arguments"
    return None
