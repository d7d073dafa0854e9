"""Made-up data as long as agents' is: lengths from a seed, conversations as a file, packed rows without one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from tokenization.sample import TokenizedSample
from trainer.data.micro_batch import GlobalBatch
from trainer.data.packing import pack_row

MEDIAN, SPREAD, LEAST = 900, 0.8, 32
"""Tokens of a sample: a lognormal distribution, cut where a row ends."""
DEMO = Path(__file__).parents[1] / "configs" / "demo"


def sample_lengths(seed: int) -> Iterator[int]:
    """Without an end."""
    draw = random.Random(seed)
    while True:
        yield max(LEAST, int(MEDIAN * draw.lognormvariate(0, SPREAD)))


def write_conversations(file: Path, count: int, seed: int, most: int = 3000) -> None:
    """JSONL, each of so many words as a sample has tokens, at most `most`, in turns of 100 words or so."""
    known = " ".join(
        message["content"]
        for line in (DEMO / "general.jsonl").read_text().splitlines()
        for message in json.loads(line)["messages"]
    ).split()
    draw = random.Random(seed)
    with file.open("w", encoding="utf-8") as out:
        for length in islice(sample_lengths(seed), count):
            turns = max(1, round(min(length, most) / 200))
            words = max(1, min(length, most) // (2 * turns))
            messages = [
                {"role": role, "content": " ".join(draw.choices(known, k=words))}
                for _ in range(turns)
                for role in ("user", "assistant")
            ]
            out.write(json.dumps({"messages": messages}) + "\n")


def random_batches(
    rows: int, length: int, vocab: int, seed: int, lengths: Iterator[int] | None = None
) -> Iterator[GlobalBatch]:
    """Rows of random ids, full, of samples whose second half is to be learned; `lengths`: theirs, without an end."""
    lengths, draw = lengths or sample_lengths(seed), np.random.default_rng(seed)
    number = 0
    while True:
        packed = []
        for _ in range(rows):
            samples: list[TokenizedSample] = []
            left = length
            while left:
                taken = min(next(lengths), left)
                left -= taken
                trained = np.arange(taken) > taken // 2
                tokens = draw.integers(0, vocab, taken, dtype=np.int32)
                samples.append(
                    TokenizedSample("random", str(number), tokens, trained, np.zeros(taken, np.uint8))
                )
                number += 1
            packed.append(pack_row(samples, [0] * len(samples), index=len(packed), length=length, pad_id=0))
        yield GlobalBatch(tuple(packed))
