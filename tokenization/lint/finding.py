"""What lint reports: a fault with its rule and severity, told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]
"""An error is what the model must not learn, or what training stops at; a warning is what somebody should look at."""

RULES = {
    "unreadable": "a row that is no JSON, or no conversation",
    "role-order": "messages in an order that is no conversation",
    "unwritable": "a conversation that the template cannot write",
    "schema": "a tool whose parameters are no JSON schema; its calls are checked for names alone",
    "unknown-tool": "a call of a tool that is not given",
    "arguments": "a call whose arguments break its tool's schema",
    "orphan-observation": "a result that no call waits for",
    "unanswered-call": "a call without a result, although the conversation goes on",
    "control-text": "a mark of a chat template or of the tokenizer in a text",
    "empty-answer": "an assistant's message with neither text nor call",
    "text-call": "a call written as text, although tools are given",
    "no-targets": "nothing to learn, so that training leaves it out",
    "too-long": "more tokens than data.sequence_length",
    "duplicate": "messages and tools of an earlier row",
}

BAD_ROW = frozenset({"unreadable", "role-order", "unwritable", "control-text"})
"""Rules whose errors keep a row out of training: it stops at one, or leaves it out as data.on_error says."""

_SHOWN = 5
"""Names listed in a message."""
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Finding:
    severity: Severity
    rule: str
    message: str


class Numbered(NamedTuple):
    """A finding and the number of the message it is about: from 1, or 0 for the tools."""

    number: int
    finding: Finding


def finding(severity: Severity, rule: str, message: str) -> Finding:
    """A finding told in one line, without characters that a terminal would act on."""
    line = " ".join(message.split())
    return Finding(severity, rule, "".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def numbered(number: int, severity: Severity, rule: str, message: str) -> Numbered:
    return Numbered(number, finding(severity, rule, message))


def quoted(name: str) -> str:
    return repr(_shortened(name))


def listed(names: Sequence[str]) -> str:
    """The first few of the names."""
    shown = ", ".join(map(_shortened, names[:_SHOWN]))
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
