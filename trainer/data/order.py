"""The order inside a source: one permutation of its rows per pass, a pure function of seed, name and pass.

Any place of it is computed alone, so it needs no memory and starts nowhere: a Feistel network on the numbers below
a * b, drawn as an a x b table just large enough for the rows. Each round moves one coordinate by an amount that is a
keyed hash of the other; that can be undone, so a round, and all of them, is a permutation. A number that falls outside
the rows is sent through again until it falls inside ("cycle walking": J. Black and P. Rogaway, "Ciphers with arbitrary
finite domains", CT-RSA 2002), which keeps it a permutation of the rows.

Rows that are held out of training are the first of another such permutation, which no seed changes.
"""

from __future__ import annotations

import math
from fractions import Fraction
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 12
"""M. Luby and C. Rackoff prove 4 enough for long keys and large domains; small ones want more."""
_BLOCK = 1024
"""Draws computed at once: some 0.1 µs each instead of 100."""


def permuted(seed: int, source: str, epoch: int, rows: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that stand at `places` of the pass's order; both int64 [n], values 0 to rows - 1.

    Integer arithmetic modulo 2^64 alone: the same on every machine and in every release of numpy, on which a resumed
    run relies.
    """
    digest = blake2b(f"{seed}/{epoch}/{source}".encode()).digest()
    keys = np.frombuffer(digest, "<u8")  # [8]
    width = math.isqrt(rows - 1) + 1
    height = -(-rows // width)
    result = places.astype(np.uint64)
    outside = np.arange(len(places))
    while len(outside):
        moved = _network(result[outside], width, height, keys)
        result[outside] = moved
        outside = outside[moved >= rows]
    return result.astype(np.int64)


def _network(
    numbers: NDArray[np.uint64], width: int, height: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    columns, lines = np.uint64(width), np.uint64(height)
    x, y = numbers % columns, numbers // columns  # [n]
    for i in range(_ROUNDS):
        key = keys[i % len(keys)] + np.uint64(i)
        if i % 2:
            y = (y + _mixed(x, key) % lines) % lines
        else:
            x = (x + _mixed(y, key) % columns) % columns
    return y * columns + x


def _mixed(numbers: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """64 well-mixed bits of each number: the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), with the key put in before and in between."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27)) ^ key) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def held_out_count(rows: int, share: float) -> int:
    """How many of a source's rows are held out of training: `share` of them, taken as written (0.1 is 1/10), rounded
    up, so at least one where there is a share; but one row is always left for training."""
    return min(math.ceil(Fraction(str(share)) * rows), max(0, rows - 1))


def held_out_order(source: str, rows: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that stand at `places` of the one order that divides a source; both int64 [n], values 0 to rows - 1.

    Its first `held_out_count` are held out, the others trained on. It follows from the source's name and number of rows
    alone: no seed, no layout and no length of a run moves a row from one side to the other.
    """
    return permuted(0, f"held out/{source}", 0, rows, places)


class SourceOrder:
    """Draw k of a source -> row index. Keeps the block of draws last asked for."""

    def __init__(self, seed: int, source: str, rows: int, held_out: int = 0) -> None:
        """`held_out` of the source's `rows` are never drawn."""
        self._seed = seed
        self._source = source
        self._all = rows
        self._held_out = held_out
        self.rows = rows - held_out
        """Draws in a pass."""
        self._block = -1, -1
        self._found: list[int] = []

    def row(self, k: int) -> int:
        epoch, place = divmod(k, self.rows)
        block = epoch, place // _BLOCK
        if block != self._block:
            first = block[1] * _BLOCK
            places = np.arange(first, min(first + _BLOCK, self.rows))
            found = permuted(self._seed, self._source, epoch, self.rows, places)
            if self._held_out:
                found = held_out_order(self._source, self._all, found + self._held_out)
            self._found = found.tolist()
            self._block = block
        return self._found[place % _BLOCK]
