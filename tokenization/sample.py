"""What a conversation becomes: token ids, and which of them are targets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class SpanKind(IntEnum):
    """What a stretch of tokens is. Stored as uint8."""

    CONTROL = 0
    """Put there by the template: bos, [INST], <<SYS>> …"""
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    STOP = 4
    """The token that ends an assistant turn."""


@dataclass(frozen=True)
class TokenizedSample:
    """One conversation as ids.

    tokens:    int32 [n]
    trained:   bool [n], true where the token itself is a target (not shifted)
    kinds:     uint8 [n], SpanKind of each token
    turn_ends: token counts after which a turn is complete, ascending; a cut is made only there
    """

    source: str
    id: str
    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    kinds: NDArray[np.uint8]
    turn_ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens)
