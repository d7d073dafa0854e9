"""`agenttune lint`: faults in agent data, each with its file and line. No torch here."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from configs.check import check_numbers
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import Config, DataConfig, TrainConfig
from launch.arguments import Parser
from tokenization import length
from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message, order_fault
from tokenization.errors import DataError, Where
from tokenization.formats import parse_row
from tokenization.lint import Marks, content_key, lint_conversation, lint_sample
from tokenization.lint.finding import RULES, Finding, finding
from tokenization.sample import TokenizedSample
from tokenization.segments import RenderError
from tokenization.templates import TEMPLATES
from tokenization.tokenizer_files import read_tokenizer
from trainer.data.open import open_builder, open_sources
from trainer.data.sources import Source

_DESCRIPTION = """\
Reads every row of every source and reports what is wrong with it as agent data, with file and line.

Sources come in the config's order. Of model.path only the tokenizer is needed. Messages are counted
from 1, a system text beside them included. The exit code is 1 if there are errors."""
_EPILOG = (
    "rules:\n" + "".join(f"  {rule:20}{what}\n" for rule, what in RULES.items()) + "\nexamples:\n"
    "  agenttune lint configs/demo.yaml\n"
    "  agenttune lint configs/demo.yaml --format json | jq 'select(.rule == \"arguments\")'\n\n"
    "JSON is a line for each finding, and a last one with the summary."
)


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
            for one in self._row(source, number, tally):
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


def main(argv: list[str]) -> int:
    args = _parse(argv)
    config = load_config(args.config, args.overrides)
    # How long to train is of no concern here, and often not settled yet.
    check_numbers(replace(config, train=TrainConfig(steps=1)))
    if not config.data.sources:
        raise ConfigError("data.sources=[]: at least 1 source needed; add one with name, path and role")
    builder = open_builder(config)
    linter = Linter(builder, config.data, open_marks(config, builder))
    for source in open_sources(config):
        for one in linter.source(source):
            # tqdm's own, which takes a bar away from the terminal for as long as it writes.
            tqdm.write(_json(one) if args.format == "json" else _text(one), file=sys.stdout)
    if args.format == "json":
        print(json.dumps({"summary": _summary(linter)}, ensure_ascii=False))
    else:
        print(f"\n{_tables(linter)}" if linter.rules else _tables(linter))
    return int(any(tally.errors for tally in linter.tallies.values()))


def open_marks(config: Config, builder: SampleBuilder) -> Marks:
    """Control strings of the run's template, of all others, and of the tokenizer."""
    tokenizer, _ = read_tokenizer(Path(config.model.path))
    tokens = [str(token.content) for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    known = [mark for one in TEMPLATES.values() for mark in (*one.special_tokens, *one.control_text)]
    every = {*known, *tokens, *builder.encoder.special}
    return Marks(builder.template.control_text, config.data.control_text, tuple(sorted(every)))


def _text(one: Located) -> str:
    return f"{one.where}: {one.finding.severity}: {one.finding.rule}: {one.finding.message}"


def _json(one: Located) -> str:
    place: dict[str, Any] = {"file": one.where.file, "line": one.where.line}
    if one.where.row is not None:
        place["row"] = one.where.row
    return json.dumps(place | {"source": one.source, "id": one.id} | asdict(one.finding), ensure_ascii=False)


def _summary(linter: Linter) -> dict[str, Any]:
    return {
        "sources": [{"source": name} | asdict(tally) for name, tally in linter.tallies.items()],
        "errors": sum(tally.errors for tally in linter.tallies.values()),
        "warnings": sum(tally.warnings for tally in linter.tallies.values()),
        "rules": {rule: linter.rules[rule] for rule in RULES if linter.rules[rule]},
    }


def _tables(linter: Linter) -> str:
    """Counts of each source and, where there are findings, of each rule."""
    sources = [["source", "rows", "samples", "errors", "warnings"]]
    sources += [[name, *map(str, asdict(tally).values())] for name, tally in linter.tallies.items()]
    rules = [["rule", "findings"], *([rule, str(linter.rules[rule])] for rule in RULES if linter.rules[rule])]
    return "\n\n".join(_table(lines) for lines in (rules, sources) if len(lines) > 1)


def _table(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    return "\n".join(
        f"{name:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        for name, *cells in lines
    )


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


def _parse(argv: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("agenttune lint", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=layout)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    add("--format", choices=("text", "json"), default="text", help="default text")
    return parser.parse_intermixed_args(argv)  # options may stand between CONFIG and KEY=VALUE
