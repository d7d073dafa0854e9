"""The one endless sequence of packed rows: a pure function of (data, config, seed), the same on every layout.

What is mixed is samples *drawn*. One that the length policy leaves out counts as drawn, so the order of draws
depends on the shares alone. The cursor names the samples that await a row but does not hold them: restoring
tokenizes them again, then goes on exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from hashlib import blake2b
from typing import Any, Protocol

from configs.errors import ConfigError
from configs.schema import DataConfig
from tokenization.errors import DataError, Where
from tokenization.length import Fitted, LengthCounts, Policy
from tokenization.sample import TokenizedSample
from trainer.data.mixture import next_source, shares
from trainer.data.order import SourceOrder
from trainer.data.packing import choose, pack_row
from trainer.data.report import Packed, SourceReport
from trainer.data.rows import PackedRow
from trainer.data.sources import Source


class SampleBuilder(Protocol):
    """Turns a row of JSON into tokens and their mask; a pure function of its arguments."""

    def fitted(
        self,
        row: object,
        *,
        source: str,
        format: str,
        where: Where,
        default_id: str,
        capacity: int,
        too_long: Policy,
    ) -> Fitted: ...


@dataclass(frozen=True)
class _Waiting:
    source: int
    k: int
    """Which draw of its source this is, from 0."""
    part: int
    """Which of the samples that draw gave, from 0; more than one where a long one is divided."""
    sample: TokenizedSample


class RowStream(Iterator[PackedRow]):
    """Rows of `config.sequence_length` tokens. Raises DataError for a bad row of data or a barren source.

    sources: opened from config.sources, in the same order; those without a share are never read.
    """

    def __init__(
        self, sources: Sequence[Source], builder: SampleBuilder, config: DataConfig, seed: int, pad_id: int
    ) -> None:
        names = [source.name for source in sources]
        if names != [source.name for source in config.sources]:
            raise ValueError(f"sources {names} are not those of the config")
        if len(set(names)) < len(names):
            raise ConfigError(f"data.sources has the names {', '.join(names)}; give each source its own")
        self._sources = sources
        self._builder = builder
        self._config = config
        self._pad_id = pad_id
        self._shares = shares([(source.role, source.weight) for source in config.sources], config.eta)
        self._orders = [SourceOrder(seed, source.name, len(source)) for source in sources]
        self._identity = {
            "run.seed": seed,
            "data.sequence_length": config.sequence_length,
            "data.pack_window": config.pack_window,
            "data.too_long": config.too_long,
            "data.template": config.template,
            "data.control_text": config.control_text,
            "data.system_prompt": config.system_prompt,
            "data.sources": [
                [s.name, len(s), s.format, str(share)] for s, share in zip(sources, self._shares, strict=True)
            ],
        }
        self._row = 0
        self._draws = [0] * len(sources)
        self._counts = [LengthCounts()] * len(sources)
        self._packed = [Packed()] * len(sources)
        self._waiting: list[_Waiting] = []
        self._hash = ""

    def __next__(self) -> PackedRow:
        while len(self._waiting) < self._config.pack_window:
            self._draw()
        chosen = choose([len(w.sample) for w in self._waiting], self._config.sequence_length)
        taken = [self._waiting[i] for i in chosen]
        gone = set(chosen)
        self._waiting = [w for i, w in enumerate(self._waiting) if i not in gone]
        row = pack_row(
            [w.sample for w in taken],
            [w.source for w in taken],
            index=self._row,
            length=self._config.sequence_length,
            pad_id=self._pad_id,
        )
        for w in taken:
            self._packed[w.source] += Packed(1, len(w.sample), w.sample.targets)
            self._hash = chain(self._hash, w.sample)
        self._row += 1
        return row

    def _draw(self) -> None:
        i = next_source(self._shares, self._draws)
        k = self._draws[i]
        fitted = self._fitted(i, k)
        self._draws[i] += 1
        self._counts[i] += fitted.counts
        self._waiting += [_Waiting(i, k, part, sample) for part, sample in enumerate(fitted.samples)]
        if (
            not fitted.samples
            and self._draws[i] == len(self._sources[i])
            and not (self._counts[i].kept or self._counts[i].truncated)
        ):
            raise DataError(
                f"source {self._sources[i].name!r}: none of its {self._draws[i]} rows can be trained on: "
                f"{self._counts[i].no_targets} have no target, {self._counts[i].dropped_long} do not fit "
                f"into data.sequence_length {self._config.sequence_length}; mend it or raise the length"
            )

    def _fitted(self, i: int, k: int) -> Fitted:
        """What draw `k` of source `i` gives; a row without an id of its own is named after its number."""
        source, number = self._sources[i], self._orders[i].row(k)
        row, where = source.row(number)
        return self._builder.fitted(
            row,
            source=source.name,
            format=source.format,
            where=where,
            default_id=str(number),
            capacity=self._config.sequence_length,
            too_long=self._config.too_long,
        )

    def cursor(self) -> dict[str, Any]:
        """Where the stream stands, as JSON of a few kilobytes: `row` is the index of the next row."""
        return {
            "identity": self._identity,
            "row": self._row,
            "draws": list(self._draws),
            "counts": [list(astuple(counts)) for counts in self._counts],
            "packed": [list(astuple(packed)) for packed in self._packed],
            "waiting": [[w.source, w.k, w.part, len(w.sample)] for w in self._waiting],
            "hash": self._hash,
        }

    def restore(self, cursor: Mapping[str, Any]) -> None:
        """Goes on where `cursor` was taken.

        Raises ConfigError where seed, lengths or sources are not those of the cursor, DataError where a
        waiting sample has changed since.
        """
        for key, now in self._identity.items():
            then = cursor["identity"].get(key, "unknown")
            if then != now:
                raise ConfigError(
                    f"{key} is {now} but the checkpoint's data stream was made with {then}; "
                    "set it back, or start afresh with checkpoint.resume=never"
                )
        waiting: list[_Waiting] = []
        for i, k, part, length in cursor["waiting"]:
            samples = self._fitted(i, k).samples
            found = len(samples[part]) if part < len(samples) else 0
            if found != length:
                _, where = self._sources[i].row(self._orders[i].row(k))
                raise DataError(
                    f"{found} tokens, but {length} when the checkpoint was made; "
                    "bring back that data and tokenizer, or start afresh with checkpoint.resume=never",
                    where,
                )
            waiting.append(_Waiting(i, k, part, samples[part]))
        self._waiting = waiting
        self._row = cursor["row"]
        self._draws = list(cursor["draws"])
        self._counts = [LengthCounts(*counts) for counts in cursor["counts"]]
        self._packed = [Packed(*packed) for packed in cursor["packed"]]
        self._hash = cursor["hash"]

    def settled(self, i: int) -> int:
        """Leading draws of source `i` that are behind the stream: in a row, or left out."""
        return min((w.k for w in self._waiting if w.source == i), default=self._draws[i])

    def seen(self, epochs: float) -> bool:
        """Whether every source with a share has been passed over `epochs` times."""
        return all(
            self.settled(i) >= math.ceil(epochs * len(source))
            for i, (source, share) in enumerate(zip(self._sources, self._shares, strict=True))
            if share > 0
        )

    def report(self) -> list[SourceReport]:
        """What each source has given so far."""
        return [
            SourceReport(
                name=source.name,
                share=float(share),
                drawn=drawn,
                epochs=drawn / len(source),
                packed=packed,
                fill=packed.tokens / max(self._row * self._config.sequence_length, 1),
                counts=counts,
            )
            for source, share, drawn, packed, counts in zip(
                self._sources, self._shares, self._draws, self._packed, self._counts, strict=True
            )
        ]


def count_rows(stream: RowStream, epochs: float) -> int:
    """Rows until every source with a share has been seen `epochs` times. Uses a fresh stream up to there."""
    rows = 0
    while not stream.seen(epochs):
        next(stream)
        rows += 1
    return rows


def chain(previous: str, sample: TokenizedSample) -> str:
    """The rolling hash of tokens and mask, 32 hex digits, after one more sample; "" before the first."""
    content = sample.tokens.astype("<i4").tobytes() + sample.trained.tobytes()
    tokens = blake2b(content, digest_size=16).hexdigest()
    link = json.dumps([previous, sample.source, sample.id, len(sample), tokens])
    return blake2b(link.encode(), digest_size=16).hexdigest()
