"""Gradients of ranks, each its own slices, against whole ones or against those of another pass. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from configs.shapes import ModelShape
from trainer.model.names import Piece, stage_table
from trainer.verify.job import Job, Who

_FLOOR = 1e-4
"""Of the norm of all gradients: a slice that is smaller is measured by so much of it. Rows of a vocabulary that no
token of the batch has, and few have of a slice of it, have no gradient or hardly one."""
Gradients = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Slice:
    """A rank's part of a parameter's gradient, and what it should be."""

    name: str
    rank: int
    found: NDArray[np.float32]
    expected: NDArray[np.float32]


@dataclass(frozen=True)
class Apart:
    """How far gradients are from what they should be."""

    parameters: int
    worst: str
    """The parameter and the rank."""
    relative: float
    """Of the worst slice: norm of the difference by the norm of what it should be."""
    factor: float
    """And how long it is in the direction of what it should be: 1 where it is that."""
    wrong: tuple[str, ...]
    """Parameters that are further than the limit, in the order of the forward pass."""


def against_whole(job: Job, who: Who, whole: Who, limit: float) -> Apart:
    """Those of `who` in step 1, each rank's slices, against the whole ones of `whole`, which is one process."""
    pieces, ranks = _pieces(job), _tellers(job) if who == "layout" else [0]
    expected = load_file(job.gradients(whole, "step 1", 0))
    layout = job.layout if who == "layout" else None

    def slices() -> Iterator[Slice]:
        for rank in ranks:
            for name, found in load_file(job.gradients(who, "step 1", rank)).items():
                tensor_rank, tensor = (rank % layout.tensor, layout.tensor) if layout else (0, 1)
                start, stop = pieces[name].bounds(tensor_rank, tensor)
                should = expected[name]
                if pieces[name].split == "rows":
                    should = should[start:stop]
                elif pieces[name].split == "columns":
                    should = should[:, start:stop]
                yield Slice(name, rank, found, should)

    return measure(slices(), pieces, _norm(expected.values()), limit)


def against_pass(job: Job, what: str, limit: float) -> Apart:
    """The layout's of pass `what` against its own of step 1, rank by rank."""
    first = {rank: load_file(job.gradients("layout", "step 1", rank)) for rank in _tellers(job)}

    def slices() -> Iterator[Slice]:
        for rank, expected in first.items():
            for name, found in load_file(job.gradients("layout", what, rank)).items():
                yield Slice(name, rank, found, expected[name])

    # What several ranks hold counts several times, which only raises the floor a little.
    total = _norm(tensor for expected in first.values() for tensor in expected.values())
    return measure(slices(), _pieces(job), total, limit)


def measure(slices: Iterable[Slice], names: Iterable[str], total: float, limit: float) -> Apart:
    """total: norm of all gradients; names: of the parameters that there must be slices of, in order"""
    far: dict[str, tuple[float, int, float]] = {}
    for one in slices:
        size = max(_norm([one.expected]), _FLOOR * total, 1e-30)
        relative, factor = inf, nan
        if one.found.shape == one.expected.shape:
            relative = _norm([one.found - one.expected]) / size
            factor = float(np.vdot(one.found, one.expected)) / size**2
            relative = relative if isfinite(relative) else inf
        if one.name not in far or relative > far[one.name][0]:
            far[one.name] = relative, one.rank, factor
    order = list(names)
    for name in order:
        far.setdefault(name, (inf, -1, 0.0))
    worst = max(order, key=lambda name: far[name][0])
    relative, rank, factor = far[worst]
    told = f"{worst} on rank {rank}" if rank >= 0 else f"{worst}, of which no rank told"
    return Apart(len(order), told, relative, factor, tuple(name for name in order if far[name][0] > limit))


def blame(layout: Apart, serial: Apart) -> str:
    """What kind of fault makes gradients so; each is compared with transformers'."""
    scale = f" (that one is {layout.factor:.3f} times what it should be)" if isfinite(layout.factor) else ""
    if not layout.wrong and not serial.wrong:
        return "gradients agree, so their norm is not taken over every slice once"
    if layout.wrong and all("norm" in name for name in layout.wrong):
        return (
            f"weights of norms alone ({len(layout.wrong)}): their gradients are not summed over the tensor ranks, "
            "which each have a part of the row"
        )
    if len(layout.wrong) == layout.parameters:
        return (
            f"all parameters{scale}: a mean of each micro-batch or copy instead of one over the batch's targets, or "
            "what the line of the loss says"
        )
    if serial.wrong:
        return f"one process is wrong too ({len(serial.wrong)} parameters), so it is the model or the loss"
    return (
        f"{len(layout.wrong)} parameters{scale}, first {layout.wrong[0]}: a sum over ranks is missing or taken twice, "
        "or a slice lies at the wrong place"
    )


def _tellers(job: Job) -> list[int]:
    """The ranks of the first copy of the model: tensor ranks are neighbours, then come the copies, then the stages."""
    layout = job.layout
    first = range(0, layout.world_size, layout.tensor * layout.data)
    return [start + tensor_rank for start in first for tensor_rank in range(layout.tensor)]


def _pieces(job: Job) -> dict[str, Piece]:
    shape = ModelShape.from_folder(job.model)
    table = stage_table(shape, [range(shape.layers + 3)])
    return {piece.name: piece for pieces in table.values() for piece in pieces}


def _norm(tensors: Iterable[NDArray[np.floating]]) -> float:
    return sqrt(sum(float(np.linalg.norm(tensor)) ** 2 for tensor in tensors))
