"""What an evaluation looks at: rows of data that are never trained on, packed once, the same on every layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from configs.schema import Config
from tokenization.errors import DataError
from tokenization.sample import TokenizedSample
from trainer.data.notices import tell_once
from trainer.data.open import Data, cache_folder
from trainer.data.order import held_out_order
from trainer.data.packing import pack_row
from trainer.data.rows import PackedRow
from trainer.data.samples import Samples
from trainer.data.sources import open_source
from trainer.data.state import chain

_BLOCK = 1024
"""Places of the held-out order that are computed at once."""


@dataclass(frozen=True)
class HeldOut:
    """Rows are numbered from 0."""

    rows: tuple[PackedRow, ...]
    sources: tuple[str, ...]
    """Names by index."""
    hash: str
    """`chain` of all samples in the rows, in their order."""
    pad_id: int

    def padded(self, turn: int, turns: int = 1) -> tuple[PackedRow, ...]:
        """The rows, and empty ones behind them up to a multiple of `turn`, rows that all data ranks take at a time, and
        at least so many of it."""
        length = len(self.rows[0].tokens)
        numbers = range(len(self.rows), max(turns, -(-len(self.rows) // turn)) * turn)
        empty = [pack_row([], [], index=index, length=length, pad_id=self.pad_id) for index in numbers]
        return (*self.rows, *empty)


def open_held_out(config: Config, data: Data) -> HeldOut:
    """The data that the config evaluates on: evaluation.sources, else what is held out of the training sources.

    One row of each source in turn, the sources' own rows in file order, held-out ones in `held_out_order`; at most
    evaluation.rows packed rows. Raises DataError for a bad row, unless data.on_error is `skip`, and where nothing can
    be looked at.
    """
    wanted = config.evaluation
    if wanted.sources:
        folder = cache_folder(config)
        sources = [open_source(source, folder if folder.is_dir() else None) for source in wanted.sources]
        samples = Samples(sources, data.builder, config.data, config.run.seed)
        places: list[Iterator[int]] = [iter(range(len(source))) for source in sources]
    else:
        stream = data.stream(config)
        sources, samples = data.sources, stream.samples
        places = [
            _held_out(source.name, len(source), len(source) - samples.rows(i))
            if stream.shares[i]
            else iter(())
            for i, source in enumerate(sources)
        ]
    skips = config.data.on_error == "skip"
    rows, hash = _packed(samples, places, config, data.builder.encoder.pad_id, skips)
    if not rows:
        said = "evaluation.sources" if wanted.sources else f"evaluation.held_out={wanted.held_out:g}"
        raise DataError(f"{said}: none of the rows has a target that fits; name others, or hold more out")
    return HeldOut(rows, tuple(source.name for source in sources), hash, data.builder.encoder.pad_id)


def _packed(
    samples: Samples, places: Sequence[Iterator[int]], config: Config, pad_id: int, skips: bool
) -> tuple[tuple[PackedRow, ...], str]:
    """Rows that are filled in order: a sample that does not fit begins the next. And the hash of what is in them."""
    length, most = config.data.sequence_length, config.evaluation.rows
    rows: list[PackedRow] = []
    taken: list[tuple[int, TokenizedSample]] = []
    hash = ""

    def close() -> None:
        nonlocal hash
        if taken:
            made, of = [sample for _, sample in taken], [i for i, _ in taken]
            rows.append(pack_row(made, of, index=len(rows), length=length, pad_id=pad_id))
            for sample in made:
                hash = chain(hash, sample)
            taken.clear()

    for i, sample in _samples(samples, places, skips):
        if sum(len(other) for _, other in taken) + len(sample) > length:
            close()
            if len(rows) == most:
                break
        taken.append((i, sample))
    close()
    return tuple(rows), hash


def _samples(
    samples: Samples, places: Sequence[Iterator[int]], skips: bool
) -> Iterator[tuple[int, TokenizedSample]]:
    """One row's samples of each source in turn, with the source's index, until all are through."""
    left = dict(enumerate(places))
    while left:
        for i in tuple(left):
            row = next(left[i], None)
            if row is None:
                del left[i]
                continue
            try:
                fitted = samples.of_row(i, row)
            except DataError as error:
                if not skips or error.where is None:
                    raise
                tell_once(f"an evaluation leaves out {error}")
                continue
            yield from ((i, sample) for sample in fitted.samples)


def _held_out(source: str, rows: int, held_out: int) -> Iterator[int]:
    """The first `held_out` rows of the order that divides a source."""
    for first in count(0, _BLOCK):
        if first >= held_out:
            return
        places = np.arange(first, min(first + _BLOCK, held_out))
        yield from held_out_order(source, rows, places).tolist()
