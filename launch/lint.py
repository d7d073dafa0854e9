"""`agenttune lint`: faults in agent data, each with its file and line. No torch here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configs.check import check_numbers, check_sources
from configs.load import load_config
from configs.schema import Config, TrainConfig
from launch.arguments import Parser
from launch.lint_rows import Linter, Located
from launch.lint_verdict import Seen, Verdict, verdicts
from launch.tables import table
from tokenization.builder import SampleBuilder
from tokenization.lint import Marks
from tokenization.lint.finding import RULES
from tokenization.templates import TEMPLATES
from tokenization.tokenizer_files import read_tokenizer
from trainer.data.mixture import shares
from trainer.data.open import open_builder, open_sources

_DESCRIPTION = """\
Reads every row of every source and reports what is wrong with it as agent data, with file and line.

Sources come in the config's order. Of model.path only the tokenizer is needed. Messages are counted
from 1, a system text beside them included. The exit code is 1 if there are errors: rows that the model
must not learn, and what stops training. Bad rows, which training cannot take, are errors with
data.on_error=strict; with skip they are left out, so they are warnings, and more of them than
data.max_bad_rows are one error."""
_EPILOG = (
    "rules:\n" + "".join(f"  {rule:20}{what}\n" for rule, what in RULES.items()) + "\nexamples:\n"
    "  agenttune lint configs/demo.yaml\n"
    "  agenttune lint configs/demo.yaml --format json | jq 'select(.rule == \"arguments\")'\n\n"
    "JSON is a line for each finding, and a last one with the summary."
)


def main(argv: list[str]) -> int:
    args = _parse(argv)
    config = load_config(args.config, args.overrides)
    # How long to train is of no concern here, and often not settled yet.
    check_numbers(replace(config, train=TrainConfig(steps=1)))
    check_sources(config.data.sources)
    shares([(source.role, source.weight) for source in config.data.sources], config.data.eta)
    builder = open_builder(config)
    linter = Linter(builder, config.data, open_marks(config, builder))
    for source in open_sources(config):
        for one in linter.source(source):
            # tqdm's own, which takes a bar away from the terminal for as long as it writes.
            tqdm.write(_json(one) if args.format == "json" else _text(one), file=sys.stdout)
    found = _verdicts(linter)
    summary = _summary(linter, found)
    if args.format == "json":
        print(json.dumps({"summary": summary}, ensure_ascii=False))
    else:
        print(f"\n{_tables(linter)}" if linter.rules else _tables(linter))
        for number, verdict in enumerate(found):
            print("" if number else "\n", "error: " if verdict.stops else "", verdict.said, sep="")
    return int(summary["errors"] > 0)


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


def _verdicts(linter: Linter) -> list[Verdict]:
    tallies = linter.tallies.items()
    seen = [Seen(name, one.rows, one.samples, one.bad, linter.early[name]) for name, one in tallies]
    return list(verdicts(linter.data, seen))


def _summary(linter: Linter, found: Sequence[Verdict]) -> dict[str, Any]:
    own = sum(verdict.stops and not verdict.told_of_rows for verdict in found)
    return {
        "sources": [{"source": name} | asdict(tally) for name, tally in linter.tallies.items()],
        "training": {
            "stops": any(verdict.stops for verdict in found),
            "told": [verdict.said for verdict in found],
        },
        "errors": sum(tally.errors for tally in linter.tallies.values()) + own,
        "warnings": sum(tally.warnings for tally in linter.tallies.values()),
        "rules": {rule: linter.rules[rule] for rule in RULES if linter.rules[rule]},
    }


def _tables(linter: Linter) -> str:
    """Counts of each source and, where there are findings, of each rule."""
    sources = [["source", "rows", "samples", "bad", "errors", "warnings"]]
    sources += [[name, *map(str, asdict(tally).values())] for name, tally in linter.tallies.items()]
    rules = [["rule", "findings"], *([rule, str(linter.rules[rule])] for rule in RULES if linter.rules[rule])]
    return "\n\n".join(table(lines) for lines in (rules, sources) if len(lines) > 1)


def _parse(argv: list[str]) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = Parser("agenttune lint", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=layout)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    add("--format", choices=("text", "json"), default="text", help="default text")
    return parser.parse_intermixed_args(argv)  # options may stand between CONFIG and KEY=VALUE
