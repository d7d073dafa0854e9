"""Comparisons of steps: what they refuse, and how the peers are shown to have the same rows and a correct mask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import sides
from benchmarks.turns import Step, compare


class Told:
    """A side that says what it is told to."""

    def __init__(self, *seconds: float, loss: float = 2.0, rows: int = 7) -> None:
        self.seconds, self.loss, self.rows = list(seconds), loss, rows

    def step(self) -> Step:
        return Step(self.seconds.pop(0), self.loss, 10**9, self.rows)


def told(ours: Any, theirs: Any, pairs: int, **limits: float) -> dict[str, Any]:
    return compare(ours, theirs, pairs, **limits)  # pyright: ignore[reportArgumentType]


def test_ratios_are_of_pairs_and_the_first_is_left_out() -> None:
    found = told(Told(90, 1, 4, 9), Told(1, 2, 4, 3, loss=2.0001), 3)
    assert (found["ratio_min"], found["ratio_median"], found["ratio_max"]) == (0.5, 1.0, 3.0)
    assert (found["our_seconds"], found["their_seconds"], found["pairs"]) == (4, 3, 3)
    assert found["largest_difference_of_loss"] == pytest.approx(1e-4)


def test_other_losses_and_other_rows_end_it() -> None:
    with pytest.raises(ValueError, match="further apart than"):
        told(Told(1, 1), Told(1, 1, loss=2.001), 1)
    with pytest.raises(ValueError, match="further apart than"):
        told(Told(1, 1, loss=math.nan), Told(1, 1), 1)
    with pytest.raises(ValueError, match="on different rows"):
        told(Told(1, 1), Told(1, 1, rows=8), 1)


def test_where_time_runs_out_three_pairs_are_taken() -> None:
    found = told(Told(*[1] * 9), Told(*[1] * 9), 8, until=time.monotonic())
    assert found["pairs"] == 3
    assert told(Told(*[1] * 9), Told(*[1] * 9), 8, until=math.inf)["pairs"] == 8


def test_a_checksum_is_of_the_numbers_whatever_holds_them() -> None:
    tokens, labels = [3, 5, 8], [-100, 5, 8]
    whole = sides.checksum([(torch.tensor(tokens, dtype=torch.int32), labels)])
    assert whole == sides.checksum([(tokens, torch.tensor(labels))])
    assert whole != sides.checksum([(labels, tokens)])


@pytest.fixture
def small() -> Callable[..., LlamaForCausalLM]:
    shape = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=50
    )

    def made(attention: str = "sdpa") -> LlamaForCausalLM:
        torch.manual_seed(1)
        shape._attn_implementation = attention
        return LlamaForCausalLM(shape)

    return made


@pytest.fixture
def row() -> dict[str, torch.Tensor]:
    """Samples of 5, 7 and 4 tokens."""
    positions = torch.cat([torch.arange(length) for length in (5, 7, 4)])
    tokens = torch.randint(0, 50, (16,), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "labels": tokens, "position_ids": positions}


def test_a_peer_whose_samples_see_each_other_is_refused(
    small: Callable[..., LlamaForCausalLM], row: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = row | {"position_ids": torch.arange(16)}
    sides.keep_apart(small(), [alone, row])
    sides.keep_apart(small(), [alone])
    monkeypatch.setattr(
        sides, "collated", lambda rows: {k: v[None] for k, v in rows[0].items() if k != "position_ids"}
    )
    with pytest.raises(ValueError, match="samples see each other"):
        sides.keep_apart(small(), [alone, row])


def test_attention_of_variable_lengths_in_transformers(
    small: Callable[..., LlamaForCausalLM], row: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plain twin in place of the kernel, which is CUDA's alone: the same logits as under the mask."""

    def twin(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, edges: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        parts = [
            F.scaled_dot_product_attention(
                q[a:b].transpose(0, 1), k[a:b].transpose(0, 1), v[a:b].transpose(0, 1), is_causal=True
            )
            for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
        return torch.cat(parts, 1).transpose(0, 1)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", twin)
    monkeypatch.setattr(sides, "CUDA", True)
    batch = sides.collated([row])
    batch.pop("labels")
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 12, 16]
    assert batch["max_length_q"] == 7
    found = small(sides.register_varlen())(**batch, use_cache=False).logits
    masked = small()(
        input_ids=row["input_ids"][None], position_ids=row["position_ids"][None], use_cache=False
    )
    torch.testing.assert_close(found, masked.logits, rtol=1e-5, atol=1e-6)
