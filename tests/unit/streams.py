"""Streams over sources that lie in memory, with samples that tell where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import DataConfig, SourceConfig
from tokenization.errors import DataError, Where
from tokenization.length import Fitted, LengthCounts, Policy
from tokenization.sample import TokenizedSample
from trainer.data.position import Position
from trainer.data.row_index import FileStamp
from trainer.data.rows import PackedRow
from trainer.data.sample_store import SampleStore
from trainer.data.sources import Source
from trainer.data.stream import RowStream

PAD = 3
Row = tuple[int, bool] | str
"""The length of a sample and whether it has targets; a string is a bad row, and what is wrong with it."""


class Rows:
    """A file that lies in memory."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stamp(self) -> FileStamp:
        return FileStamp(
            "folder/memory", len(self), hashlib.sha256(repr(self.rows).encode()).hexdigest()[:32]
        )

    def row(self, i: int) -> tuple[object, Where]:
        return self.rows[i], Where("memory", i + 1)


class FakeBuilder:
    """Tokens that tell source and row apart; turns of three, of which the last two are targets."""

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
    ) -> Fitted:
        if isinstance(row, str):
            raise DataError(row, where)
        assert isinstance(row, tuple)
        assert format == "auto"
        length, trained = row
        tokens = np.arange(length, dtype=np.int32) + 1000 * int(default_id) + 100_000 * ord(source[0])
        mask = (np.arange(length) % 3 > 0) & trained

        def piece(start: int, stop: int) -> TokenizedSample:
            kinds = np.zeros(stop - start, np.uint8)
            return TokenizedSample(source, default_id, tokens[start:stop], mask[start:stop], kinds)

        targets = int(mask.sum())
        if not targets:
            return Fitted((), LengthCounts(no_targets=1))
        if length <= capacity:
            return Fitted((piece(0, length),), LengthCounts(kept=1))
        edges = [*range(0, length, capacity // 3 * 3), length]
        pieces = [piece(*edge) for edge in pairwise(edges) if mask[slice(*edge)].any()]
        pieces = {"window": pieces, "truncate": pieces[:1], "drop": []}[too_long]
        lost = targets - sum(p.targets for p in pieces)
        kept = (
            LengthCounts(truncated=1, targets_lost=lost)
            if pieces
            else LengthCounts(dropped_long=1, targets_lost=lost)
        )
        return Fitted(tuple(pieces), kept)


def stream_of(
    rows: Mapping[str, Sequence[Row]],
    *,
    eta: float = 0.5,
    seed: int = 1,
    length: int = 32,
    window: int = 6,
    too_long: str = "truncate",
    unit: str = "samples",
    stores: Path | None = None,
    position: Position | None = None,
    builder: FakeBuilder | None = None,
    **settings: Any,
) -> RowStream:
    """Sources whose name begins with `a` are agent sources."""
    roles = {name: "agent" if name.startswith("a") else "general" for name in rows}
    config = DataConfig(
        sources=[SourceConfig(name=name, path="memory", role=roles[name]) for name in rows],  # pyright: ignore[reportArgumentType]
        eta=eta,
        sequence_length=length,
        pack_window=window,
        too_long=too_long,  # pyright: ignore[reportArgumentType]
        eta_unit=unit,  # pyright: ignore[reportArgumentType]
        **settings,
    )
    sources = [Source(name, roles[name], "auto", [Rows(content)]) for name, content in rows.items()]
    kept = [SampleStore(stores / name, name) for name in rows] if stores else []
    return RowStream(sources, builder or FakeBuilder(), config, seed, PAD, kept, position)


def same(a: PackedRow, b: PackedRow) -> bool:
    arrays = ("tokens", "labels", "positions", "sources", "kinds")
    return (a.index, a.samples, a.filled) == (b.index, b.samples, b.filled) and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays
    )
