"""The order inside a source: one permutation of its rows per pass, a pure function of seed, name and pass."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def permutation(seed: int, source: str, epoch: int, rows: int) -> NDArray[np.int64]:
    """Each of 0 to rows - 1 once, int64 [rows].

    Sorts raw 64-bit draws instead of calling Generator.permutation: numpy promises to keep the draws of a bit
    generator across releases, but not what Generator makes of them, and a resumed run needs the same order.
    """
    digest = blake2b(f"{seed}/{epoch}/{source}".encode(), digest_size=16).digest()
    bits = np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "little")))
    return np.argsort(bits.random_raw(rows), kind="stable").astype(np.int64)


class SourceOrder:
    """Draw k of a source -> row index. Keeps the permutation of the pass last asked for."""

    def __init__(self, seed: int, source: str, rows: int) -> None:
        self._seed = seed
        self._source = source
        self._rows = rows
        self._epoch = -1
        self._permutation = np.empty(0, np.int64)

    def row(self, k: int) -> int:
        epoch, at = divmod(k, self._rows)
        if epoch != self._epoch:
            self._permutation = permutation(self._seed, self._source, epoch, self._rows)
            self._epoch = epoch
        return int(self._permutation[at])
