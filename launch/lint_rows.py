"""The rows of a config's sources gone through by lint: what is found of each, and what is counted. No torch here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

from tqdm import tqdm

from configs.schema import DataConfig
from launch.lint_verdict import is_early
from tokenization import length
from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message, order_fault
from tokenization.errors import DataError, Where
from tokenization.formats import parse_row
from tokenization.lint import Marks, content_key, lint_conversation, lint_sample
from tokenization.lint.finding import BAD_ROW, Finding, finding
from tokenization.sample import TokenizedSample
from tokenization.segments import RenderError
from trainer.data.sources import Source


class Located(NamedTuple):
    """A finding and the row it is about; `id` is None where the row could not be read."""

    finding: Finding
    where: Where
    source: str
    id: str | None


@dataclass
class Tally:
    """What is counted of one source."""

    rows: int = 0
    samples: int = 0
    """That training gets from it."""
    bad: int = 0
    """Rows that training cannot take."""
    errors: int = 0
    warnings: int = 0


@dataclass
class Linter:
    """Goes through the sources of one config, row by row."""

    builder: SampleBuilder
    data: DataConfig
    marks: Marks
    tallies: dict[str, Tally] = field(default_factory=dict)
    rules: Counter[str] = field(default_factory=Counter)
    early: Counter[str] = field(default_factory=Counter)
    """Of each source's bad rows, those that training meets before it starts."""
    _seen: dict[bytes, Where] = field(default_factory=dict)
    """The first row of each content."""
    _told: set[tuple[str, str]] = field(default_factory=set)
    """Sources and what was said of their tools: once is enough."""

    def source(self, source: Source) -> Iterator[Located]:
        tally = self.tallies[source.name] = Tally()
        # Nothing to see for a file read in a second, nor in a pipe.
        for number in tqdm(
            range(len(source)), desc=source.name, unit=" rows", leave=False, disable=None, delay=1
        ):
            tally.rows += 1
            found = list(self._row(source, number, tally))
            if any(_spoils(one.finding) for one in found):
                tally.bad += 1
                self.early[source.name] += is_early(number)
                if self.data.on_error == "skip":
                    found = [one._replace(finding=_left_out(one.finding)) for one in found]
            for one in found:
                if one.finding.rule == "schema":
                    if (source.name, one.finding.message) in self._told:
                        continue
                    self._told.add((source.name, one.finding.message))
                self.rules[one.finding.rule] += 1
                tally.errors += one.finding.severity == "error"
                tally.warnings += one.finding.severity == "warning"
                yield one

    def _row(self, source: Source, number: int, tally: Tally) -> Iterator[Located]:
        try:
            row, where = source.row(number)
            conversation = parse_row(row, format=source.format, where=where, default_id=str(number))
        except DataError as error:
            if error.where is None:
                raise  # not about a row
            reason = str(error).removeprefix(f"{error.where}: ")
            yield Located(finding("error", _rule(reason), reason), error.where, source.name, None)
            return
        found = lint_conversation(conversation, self.marks)
        first = self._seen.setdefault(content_key(conversation), where)
        if first is not where:
            found.append(
                finding("warning", "duplicate", f"the messages and tools of {first} once more; drop one")
            )
        if all((one.severity, one.rule) != ("error", "control-text") for one in found):
            found += self._trained(row, where, source, str(number), tally)
        yield from (Located(one, where, source.name, conversation.id) for one in found)

    def _trained(self, row: object, where: Where, source: Source, id: str, tally: Tally) -> list[Finding]:
        """What becomes of the row in training."""
        limit, policy = self.data.sequence_length, self.data.too_long

        def encode(part: Conversation) -> TokenizedSample:
            return self.builder.encode(part, source.name)

        try:
            conversation = self.builder.conversation(row, format=source.format, where=where, default_id=id)
            fitted = length.fit(conversation, encode, limit, policy)
            whole = fitted.samples[0] if fitted.counts.kept else encode(conversation)
        except (DataError, RenderError) as error:
            return [finding("error", "unwritable", str(error).removeprefix(f"{where}: "))]
        tally.samples += len(fitted.samples)
        return lint_sample(whole, fitted, limit, policy)


def _spoils(finding: Finding) -> bool:
    return finding.severity == "error" and finding.rule in BAD_ROW


def _left_out(finding: Finding) -> Finding:
    """A finding of a row that training leaves out: nothing wrong is learned of it, and nothing stops at it."""
    said = f"{finding.message} (training leaves the row out)" if _spoils(finding) else finding.message
    return replace(finding, severity="warning", message=said)


def _rule(reason: str) -> str:
    """Is a row no conversation by the order of its messages, or by anything else?"""
    return "role-order" if _without_numbers(reason) in _order_faults() else "unreadable"


@cache
def _order_faults() -> set[str]:
    """All that `order_fault` says, from a conversation with each fault."""
    user, answer, result = Message("user"), Message("assistant"), Message("observation")
    call = (Call("f"),)
    faulty: list[list[Message]] = [
        [],
        [Message("system")],
        [answer],
        [user, answer, Message("system")],
        [user, user],
        [result],
        [replace(user, calls=call)],
        [user, answer, replace(result, calls=call)],
    ]
    return {_without_numbers(order_fault(messages) or "") for messages in faulty}


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "0", text)
