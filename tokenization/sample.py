"""What a conversation becomes: token ids, and which of them are targets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class SpanKind(IntEnum):
    """What a stretch of tokens is. Stored as uint8."""

    CONTROL = 0
    """The template's own: bos, [INST], <<SYS>>, role tokens, and the marks around a call, which are generated."""
    SYSTEM = 1
    """The system prompt and the tools described in it."""
    USER = 2
    TEXT = 3
    """What the assistant says."""
    CALL_NAME = 4
    ARGUMENTS = 5
    CODE = 6
    """A program for the interpreter."""
    OBSERVATION = 7
    """A call's result."""
    STOP = 8
    """The token that ends an assistant turn."""


@dataclass(frozen=True)
class TokenizedSample:
    """One conversation as ids.

    tokens:  int32 [n]
    trained: bool [n], true where the token itself is a target (not shifted)
    kinds:   uint8 [n], SpanKind of each token
    """

    source: str
    id: str
    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    kinds: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> int:
        return int(np.count_nonzero(self.trained))

    @property
    def turns(self) -> int:
        """Turns of the assistant."""
        return int(np.count_nonzero(self.kinds == SpanKind.STOP))
