"""Where a stream stands: all that its next row depends on beside data, config and seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from tokenization.errors import DataError
from tokenization.length import LengthCounts
from tokenization.sample import TokenizedSample
from trainer.data.report import Packed


class Waiting(NamedTuple):
    """A sample that was drawn and awaits a row."""

    source: int
    k: int
    """Which draw of its source this is, from 0."""
    part: int
    """Which of the samples that draw gave, from 0; more than one where a long one is divided."""
    sample: TokenizedSample
    length: int
    targets: int
    """Both of the sample, counted once."""

    @classmethod
    def of(cls, source: int, k: int, part: int, sample: TokenizedSample) -> Waiting:
        return cls(source, k, part, sample, len(sample), sample.targets)


@dataclass
class State:
    """Lists are by source. The stream changes its own; `copy` is what others keep."""

    row: int
    """Index of the next row."""
    draws: list[int]
    targets: list[int]
    """Of the samples drawn, those that wait included."""
    counts: list[LengthCounts]
    packed: list[Packed]
    bad: list[dict[str, int]]
    """Rows left out for a fault in the first pass, by reason: each row is met once there."""
    skipped: list[int]
    """Draws left out for a fault, of all passes."""
    waiting: list[Waiting] = field(default_factory=list)
    """Oldest first."""
    hash: str = ""
    """`chain` of all samples in rows, in their order."""

    @classmethod
    def fresh(cls, sources: int) -> State:
        return cls(
            row=0,
            draws=[0] * sources,
            targets=[0] * sources,
            counts=[LengthCounts()] * sources,
            packed=[Packed()] * sources,
            bad=[{} for _ in range(sources)],
            skipped=[0] * sources,
        )

    def copy(self) -> State:
        lists = {name: list(value) for name, value in vars(self).items() if isinstance(value, list)}
        return replace(self, **lists)  # what stands in the lists is replaced, never changed

    def bad_rows(self) -> int:
        return sum(sum(reasons.values()) for reasons in self.bad)

    def to_json(self) -> dict[str, Any]:
        """A few kilobytes: samples that wait are named, not held; their tokens go into one hash."""
        return {
            "row": self.row,
            "draws": self.draws,
            "targets": self.targets,
            "counts": [list(astuple(counts)) for counts in self.counts],
            "packed": [list(astuple(packed)) for packed in self.packed],
            "bad": self.bad,
            "skipped": self.skipped,
            "waiting": [[w.source, w.k, w.part] for w in self.waiting],
            "waiting_hash": chained(w.sample for w in self.waiting),
            "hash": self.hash,
        }

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], samples_of: Callable[[int, int], tuple[TokenizedSample, ...]]
    ) -> State:
        """`samples_of(source, k)` are the samples that a draw gives. Raises DataError where those that wait are not
        what they were."""
        waiting: list[Waiting] = []
        samples_of = lru_cache(8)(samples_of)  # the parts of a long one stand together
        for source, k, part in values["waiting"]:
            samples = samples_of(source, k)
            if part < len(samples):
                waiting.append(Waiting.of(source, k, part, samples[part]))
        found = chained(w.sample for w in waiting)
        if found != values["waiting_hash"]:
            raise DataError(
                f"the {len(values['waiting'])} samples that await a row have other tokens (hash {found}) than when the "
                f"checkpoint was made ({values['waiting_hash']}): the tokenizer or its template has changed; bring "
                "that back, or start afresh with checkpoint.resume=never"
            )
        return cls(
            row=values["row"],
            draws=list(values["draws"]),
            targets=list(values["targets"]),
            counts=[LengthCounts(*counts) for counts in values["counts"]],
            packed=[Packed(*packed) for packed in values["packed"]],
            bad=[dict(reasons) for reasons in values["bad"]],
            skipped=list(values["skipped"]),
            waiting=waiting,
            hash=values["hash"],
        )


def chain(previous: str, sample: TokenizedSample) -> str:
    """The rolling hash of tokens and mask, 32 hex digits, after one more sample; "" before the first."""
    content = sample.tokens.astype("<i4", copy=False).tobytes() + sample.trained.tobytes()
    tokens = blake2b(content, digest_size=16).hexdigest()
    link = json.dumps([previous, sample.source, sample.id, len(sample), tokens])
    return blake2b(link.encode(), digest_size=16).hexdigest()


def chained(samples: Iterable[TokenizedSample]) -> str:
    hash = ""
    for sample in samples:
        hash = chain(hash, sample)
    return hash
