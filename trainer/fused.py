"""Formulas over rows of numbers, computed without their steps passing through the memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_BLOCK = 1 << 20
"""Bytes that a CPU takes of the first argument at a time, as float32: all steps' results stay in a cache, and there are
few calls (docs/performance.md has the sizes that were tried)."""


def fused(rows: int, summed: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function of tensors whose first dimension is rows that have nothing to do with each other.

    Where its first argument is on a GPU, torch's compiler makes it one kernel. On a CPU, where compiling would cost
    every start more than it gains, it goes over a block of rows at a time.

    rows: how many of its arguments, the first ones, have these rows; all results have them. It may write to an argument
        instead, and return None
    summed: how many of its results, the last ones, have none, and are sums over rows, float32
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        @cache
        def compiled() -> Callable[..., R]:
            return torch.compile(function)

        @wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            assert not named, "rows are told by their place"
            first: Any = arguments[0]
            if first.is_cuda:
                return compiled()(*arguments)
            return _by_blocks(function, arguments[:rows], arguments[rows:], summed)

        return call

    return made


def _by_blocks(
    function: Callable[..., Any], rows: tuple[Any, ...], rest: tuple[Any, ...], summed: int
) -> Any:
    first: torch.Tensor = rows[0]
    block = max(1, _BLOCK * len(first) // max(1, 4 * first.numel()))
    if block >= len(first):
        return function(*rows, *rest)
    whole: list[torch.Tensor] = []
    single = False
    for start in range(0, len(first), block):
        told = function(*(x[start : start + block] for x in rows), *rest)
        if told is None:
            continue
        single = isinstance(told, torch.Tensor)
        results: tuple[torch.Tensor, ...] = (told,) if single else told
        with_rows = len(results) - summed
        if not whole:
            sizes = [(len(first), *x.shape[1:]) for x in results[:with_rows]]
            whole = [x.new_empty(size) for x, size in zip(results, sizes, strict=False)]
            whole += [torch.zeros_like(x) for x in results[with_rows:]]
        for kept, x in zip(whole[:with_rows], results, strict=False):
            kept[start : start + block] = x
        for kept, x in zip(whole[with_rows:], results[with_rows:], strict=True):
            kept += x
    return (whole[0] if single else tuple(whole)) if whole else None
