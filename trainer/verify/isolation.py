"""Whether the samples of a row see each other: one of each row is replaced, and the others must not notice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
import torch

from trainer.data.micro_batch import GlobalBatch, MicroBatch
from trainer.data.rows import IGNORED, PackedRow
from trainer.verify.job import Answer
from trainer.verify.places import Place, Streams, sample_numbers


def with_neighbours(row: PackedRow) -> PackedRow:
    """The row itself where it has several samples; a sample that is alone is cut in two, as if they were two."""
    if len(_starts(row)) > 1 or row.filled < 2:
        return row
    cut = row.filled // 2
    labels, positions = row.labels.copy(), row.positions.copy()
    labels[cut] = IGNORED  # nothing precedes it any more
    positions[cut : row.filled] -= np.int32(cut)
    return replace(row, labels=labels, positions=positions, samples=row.samples * 2)


def replaced(batch: GlobalBatch, vocab: int, seed: int) -> tuple[GlobalBatch, list[int]]:
    """The batch with other tokens, ids below `vocab`, in one sample of each row, and the number of that sample.

    Which are targets stays. The first of a row, then the last, then the middle one: what attention lets through goes
    to later samples, what lies in the future to earlier ones.
    """
    rows: list[PackedRow] = []
    changed: list[int] = []
    random = np.random.default_rng(seed)
    for number, row in enumerate(batch.rows):
        starts = [*_starts(row), row.filled]
        last = len(starts) - 2
        sample = (0, last, last // 2)[number % 3]
        a, b = starts[sample], starts[sample + 1]
        tokens, labels = row.tokens.copy(), row.labels.copy()
        tokens[a:b] = (tokens[a:b] + random.integers(1, vocab, b - a)) % vocab  # another id at each place
        labels[a:b] = np.where(labels[a:b] == IGNORED, IGNORED, tokens[a:b])
        rows.append(replace(row, tokens=tokens, labels=labels))
        changed.append(sample)
    return GlobalBatch(tuple(rows)), changed


def stream_leaks(
    before: Streams,
    after: Streams,
    batch: GlobalBatch,
    place: Place,
    micros: Sequence[MicroBatch],
    changed: Sequence[int],
    part: tuple[int, int],
) -> list[Answer]:
    """Of each layer here: the largest change of a hidden state where no sample was replaced, where that is, and the
    largest where one was; relative to the layer's largest hidden state. Layers that were not observed are absent.

    part: which tensor rank of how many has its part of the row here; (0, 1) where the row is whole
    """
    found: list[Answer] = []
    for layer in sorted(before):
        worst, own, where = 0.0, 0.0, (-1, -1)
        scale = max(float(hidden.abs().max()) for hidden, *_ in before[layer])
        for number, micro in enumerate(micros):
            samples = sample_numbers(batch, place, micro, number).transpose(0, 1)  # [s, b]
            rows = torch.tensor([place.row(number, b) for b in range(len(micro.tokens))])
            touched = samples == torch.tensor([changed[row] for row in rows.tolist()])  # [s, b]
            length = len(samples) // part[1]
            own_part = slice(part[0] * length, (part[0] + 1) * length)
            samples, touched = samples[own_part], touched[own_part]
            apart = (before[layer][number][0] - after[layer][number][0]).abs().amax(-1)  # [s or s / tp, b]
            apart = apart.nan_to_num(inf, inf)
            own = max(own, float(apart[touched].max()) if touched.any() else 0.0)
            others = apart.masked_fill(touched, 0.0)
            if float(others.max()) > worst:
                worst = float(others.max())
                s, b = divmod(int(others.argmax()), others.shape[1])
                where = int(rows[b]), int(samples[s, b])
        found.append({"layer": layer, "others": worst / scale, "own": own / scale, "where": where})
    return found


def lost_positions(streams: Streams, micros: Sequence[MicroBatch]) -> list[str]:
    """The layers here that were given, or gave on, other positions than those of the rows."""
    found: list[str] = []
    for layer, passed in sorted(streams.items()):
        for (_, before, after), micro in zip(passed, micros, strict=True):
            for positions, how in ((before, "was given"), (after, "gave on")):
                if not torch.equal(positions.cpu().reshape(-1), micro.positions.reshape(-1)):
                    found.append(f"layer {layer} {how} other positions than its rows have")
                    break
    return found


def unlike_restarts(rows: Sequence[PackedRow]) -> Iterator[str]:
    """Rows whose positions do not count from 0 through each sample, and through the padding."""
    for row in rows:
        ends = [*_starts(row), row.filled, len(row.tokens)]
        counted = np.concatenate([np.arange(b - a) for a, b in pairwise(ends)])
        if len(ends) - 2 != len(row.samples) or not np.array_equal(counted, row.positions):
            yield f"row {row.index} has {len(row.samples)} samples, and positions begin {len(ends) - 2} times"


def _starts(row: PackedRow) -> list[int]:
    return np.flatnonzero(row.positions[: row.filled] == 0).tolist()
