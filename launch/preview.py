"""`agenttune preview`: samples, or packed rows of the training stream, as the model will see them. No torch here."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from configs.check import check_numbers
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import Config, DataConfig, TrainConfig
from launch.arguments import Parser
from tokenization.builder import SampleBuilder
from tokenization.encoder import Encoder
from tokenization.errors import DataError
from tokenization.length import Fitted
from tokenization.preview import NAMES, TARGET_COLOURS, row_to_json, to_html, to_json, to_terminal
from tokenization.sample import TokenizedSample
from trainer.data.open import open_builder, open_sources, open_stream
from trainer.data.report import Packed
from trainer.data.rows import IGNORED, PackedRow

PER_SOURCE = 3
"""Samples of each source that a person is shown without --count."""

_DESCRIPTION = (
    "Shows samples as the model will see them: targets coloured by the kind of their span and the rest dim, or "
    "targets in ⟦ ⟧ where output is no terminal or NO_COLOR is set. Sources come in the config's order and each in "
    "the order of its files, nothing shuffled, nothing cut. Of model.path only the tokenizer is needed."
)
_EPILOG = (
    "examples: agenttune preview configs/demo.yaml --count 2; "
    "agenttune preview configs/demo.yaml --format html > samples.html; "
    "agenttune preview configs/demo.yaml --rows 0:8 --format json data.sequence_length=1024. "
    "JSON is a line per sample or row, its labels not shifted: a target's own id, else -100."
)


class Shown(NamedTuple):
    """A sample for a person to read, and the row it came in, if it did."""

    sample: TokenizedSample
    row: PackedRow | None = None


def main(argv: list[str]) -> int:
    args = _parse(argv)
    rows = _bounds(args.rows) if args.rows is not None else None
    config = load_config(args.config, args.overrides)
    # How long to train is of no concern here, and often not settled yet.
    check_numbers(replace(config, train=TrainConfig(steps=1)))
    if not config.data.sources:
        raise ConfigError("data.sources=[]: at least 1 source needed; add one with name, path and role")
    if args.format == "json":
        for line in json_lines(config, args.count, rows):
            print(line)
        return 0
    builder = open_builder(config)
    shown = packed_samples(config, builder, *rows) if rows else first_samples(config, builder, args.count)
    if args.format == "html":
        print(to_html([_named_after_row(one) for one in shown], builder.encoder), end="")
    else:
        _print_readable(shown, builder.encoder, config.data)
    return 0


def json_lines(config: Config, count: int | None, rows: tuple[int, int] | None) -> Iterator[str]:
    """Packed rows from `rows[0]` up to `rows[1]`, or the first `count` samples (None: all), one line each."""
    if rows is None:
        yield from map(to_json, islice(_samples(config, open_builder(config), None), count))
    else:
        for row in islice(open_stream(config), *rows):
            yield row_to_json(row.index, row.samples, row.tokens, row.labels, row.positions)


def first_samples(config: Config, builder: SampleBuilder, count: int | None) -> Iterator[Shown]:
    """The first `count` samples of all sources together, or the first PER_SOURCE of each."""
    per_source = PER_SOURCE if count is None else None
    return map(Shown, islice(_samples(config, builder, per_source), count))


def packed_samples(config: Config, builder: SampleBuilder, start: int, stop: int) -> Iterator[Shown]:
    """The samples of packed rows `start` to `stop` - 1, in the order they stand there, cut as they are there.

    A row holds tokens and labels; kinds come from the samples it was made of.
    """
    keeper = _Keeper(**{f.name: getattr(builder, f.name) for f in fields(builder)})
    for row in islice(open_stream(config, keeper), stop):
        samples = keeper.take(row)
        if row.index >= start:
            yield from (Shown(sample, row) for sample in samples)


@dataclass(frozen=True)
class _Keeper(SampleBuilder):
    """Keeps the samples it builds until the row that holds them is there."""

    built: list[TokenizedSample] = field(default_factory=list)

    def fitted(self, row: object, **settings: Any) -> Fitted:
        fitted = super().fitted(row, **settings)
        self.built.extend(fitted.samples)
        return fitted

    def take(self, row: PackedRow) -> list[TokenizedSample]:
        """The samples of a row; ids may be given twice, so the tokens decide."""
        edges = [*np.flatnonzero(row.positions[: row.filled] == 0), row.filled]
        taken: list[TokenizedSample] = []
        for name, start, stop in zip(row.samples, edges, edges[1:], strict=False):
            for at, sample in enumerate(self.built):
                named = (sample.source, sample.id) == name
                if named and np.array_equal(sample.tokens, row.tokens[start:stop]):
                    taken.append(sample)
                    del self.built[at]
                    break
        return taken


def _samples(config: Config, builder: SampleBuilder, per_source: int | None) -> Iterator[TokenizedSample]:
    for source in open_sources(config):
        for i in range(min(len(source), per_source or len(source))):
            try:
                row, where = source.row(i)
                sample = builder.build(
                    row, source=source.name, format=source.format, where=where, default_id=str(i)
                )
            except DataError as error:
                if config.data.on_error == "strict" or error.where is None:
                    raise
                print(f"left out: {error}", file=sys.stderr)
            else:
                yield sample


def _print_readable(shown: Iterable[Shown], encoder: Encoder, data: DataConfig) -> None:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    packed: defaultdict[str, Packed] = defaultdict(Packed)
    long = untrained = 0
    row = None
    for sample, its_row in shown:
        if its_row is not row and its_row is not None:
            row = its_row
            print(_bold(_row_heading(row), colour))
        print(to_terminal(sample, encoder, colour))
        packed[sample.source] += Packed(1, len(sample), sample.targets)
        long += len(sample) > data.sequence_length
        untrained += not sample.targets
    print(_legend(colour))
    print(_table(packed))
    for note in _notes(long, untrained, data):
        print(note)


def _row_heading(row: PackedRow) -> str:
    targets = int((row.labels != IGNORED).sum())
    text = f"row {row.index}  samples {len(row.samples)}  tokens {row.filled} of {len(row.tokens)}  targets {targets}"
    return f"━━ {text} ".ljust(100, "━")


def _legend(colour: bool) -> str:
    if not colour:
        return "Targets stand in ⟦ ⟧."
    kinds = ", ".join(f"\x1b[{code}m{NAMES[kind]}\x1b[0m" for kind, code in TARGET_COLOURS.items())
    return f"Targets by kind: {kinds}; \x1b[2mdim is no target\x1b[0m."


def _table(packed: dict[str, Packed]) -> str:
    """Samples, tokens and targets of each source, and its share of them."""
    total = sum(packed.values(), Packed())
    lines = [["source", "samples", "share", "tokens", "share", "targets", "share"]]
    for name, part in [*packed.items(), ("total", total)]:
        lines.append([name])
        for number, whole in zip(astuple(part), astuple(total), strict=True):
            lines[-1] += [f"{number:,}", f"{number / (whole or 1):.0%}"]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    return "\n".join(
        f"{name:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        for name, *cells in lines
    )


_TOO_LONG = {
    "truncate": "training keeps their first turns, as far as they fit",
    "drop-oldest": "training keeps their last turns, as far as they fit",
    "window": "training takes them in several parts",
    "drop": "training leaves them out",
}


def _notes(long: int, untrained: int, data: DataConfig) -> Iterator[str]:
    """What training would not take as it is shown."""
    if long:
        limit = f"data.sequence_length={data.sequence_length}"
        yield f"Longer than {limit}: {long} of them; {_TOO_LONG[data.too_long]} (data.too_long={data.too_long})."
    if untrained:
        yield f"Without a target: {untrained} of them; training leaves them out."


def _bold(text: str, colour: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colour else text


def _named_after_row(shown: Shown) -> TokenizedSample:
    """The page has no headings for rows: the row goes into the sample's."""
    sample, row = shown
    return sample if row is None else replace(sample, source=f"row {row.index}  {sample.source}")


def _bounds(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--rows={text}: must be A:B, A less than B; --rows 0:4 shows the first 4 rows")
    return int(found[1]), int(found[2])


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("agenttune preview", description=_DESCRIPTION, epilog=_EPILOG)
    add = parser.add_argument
    add("config", metavar="CONFIG", help="YAML file, see configs/")
    add("overrides", metavar="KEY=VALUE", nargs="*", default=[], help="settings that replace the file's")
    formats = ("terminal", "json", "html")
    add("--format", choices=formats, default="terminal", help="default terminal; html is one page, on stdout")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="the first N samples, counted through all sources; without it all as JSON, "
        f"else the first {PER_SOURCE} of each source",
    )
    which.add_argument(
        "--rows",
        metavar="A:B",
        help="packed rows A to B-1 of the training stream instead: mixed, shuffled and cut as in training, "
        "batch.rows of them to a step, the first being row 0",
    )
    args = parser.parse_intermixed_args(argv)  # options may stand between CONFIG and KEY=VALUE
    if args.count is not None and args.count < 1:
        raise ConfigError(
            f"--count={args.count}: must be at least 1; leave it out to see some of each source"
        )
    return args
