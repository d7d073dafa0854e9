"""The loss against torch's own, and the one number all micro-batches and data ranks have to add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.layout import Layout
from configs.schema import BatchConfig, Config, OptimizerConfig
from configs.shapes import SHAPES
from tokenization.sample import TokenizedSample
from trainer.data.micro_batch import GlobalBatch, at_targets
from trainer.data.packing import pack_row
from trainer.data.rows import PackedRow
from trainer.guard import Guard
from trainer.loss import IGNORED, TargetLoss
from trainer.parallel.engine import Engine
from trainer.parallel.grid import Grid
from trainer.step import StepParts, train_step

VOCAB, HIDDEN, LENGTH, SOURCES, GROUPS = 37, 6, 9, 2, 18
GENTLE = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def target_loss(grid: Grid, head: torch.Tensor) -> TargetLoss:
    loss = TargetLoss(VOCAB, HIDDEN, GROUPS, grid.tensor_group, grid.device)
    loss.bind_head(head)
    return loss


def plain_losses(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Torch's cross-entropy at every place [b, s], 0 without a target. hidden: [s, b, h]."""
    logits = (hidden.transpose(0, 1) @ head.T).float()  # [b, s, v]
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")


@GENTLE
@given(st.integers(1, 3), st.floats(0, 1), st.integers(0, 2**16), st.sampled_from([1.0, 0.125]))
def test_sum_over_the_targets(single_rank: Grid, b: int, trained: float, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(LENGTH, b, HIDDEN, generator=generator, requires_grad=True)
    head = torch.randn(VOCAB, HIDDEN, generator=generator, requires_grad=True)
    labels = torch.randint(0, VOCAB, (b, LENGTH), generator=generator)
    labels[torch.rand(b, LENGTH, generator=generator) >= trained] = IGNORED
    groups = torch.randint(0, GROUPS, (b, LENGTH), generator=generator)

    loss = target_loss(single_rank, head)
    loss.scale = scale
    ours, theirs = loss(hidden, at_targets(labels, groups)), plain_losses(hidden, head, labels)
    assert ours.dtype is torch.float32
    torch.testing.assert_close(ours, theirs.sum() * scale)
    mine = torch.autograd.grad(ours, [hidden, head])
    plain = torch.autograd.grad(theirs.sum() * scale, [hidden, head])
    for a, expected in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, expected)
    by_group = [theirs[groups == group].sum().item() for group in range(GROUPS)]
    assert loss.take_sums().tolist() == pytest.approx(by_group, rel=1e-5)
    assert loss.take_sums().tolist() == [0.0] * GROUPS


def test_bfloat16_hidden_states_have_a_float32_loss(single_rank: Grid) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(LENGTH, 1, HIDDEN, generator=generator).bfloat16().requires_grad_()
    head = torch.randn(VOCAB, HIDDEN, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(0, VOCAB, (1, LENGTH), generator=generator)
    loss = target_loss(single_rank, head)(hidden, at_targets(labels, torch.zeros_like(labels)))
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, plain_losses(hidden, head, labels).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_target_all_gradients_are_zero_and_there(single_rank: Grid, dtype: torch.dtype) -> None:
    hidden = torch.full((LENGTH, 1, HIDDEN), 3.0, dtype=dtype, requires_grad=True)
    head = torch.ones(VOCAB, HIDDEN, dtype=dtype, requires_grad=True)
    labels = torch.full((1, LENGTH), IGNORED)
    loss = target_loss(single_rank, head)
    value = loss(hidden, at_targets(labels, torch.zeros_like(labels)))
    value.backward()
    assert value.item() == 0.0
    for gradient in (hidden.grad, head.grad):
        assert gradient is not None
        assert not gradient.any()
    assert not loss.take_sums().any()


class MeanEngine:
    """DeepSpeed's part in a step: the mean over micro-batches, whose gradient it would then average over ranks."""

    def __init__(self, loss: TargetLoss, embedding: torch.Tensor) -> None:
        self.loss, self.embedding = loss, embedding
        self.mean = torch.zeros(())

    def step(self, micro_batches: Sequence[Any], lr: float, may_update: Callable[[float], bool]) -> None:
        losses = []
        for (tokens, _), labels, _ in micro_batches:
            losses.append(self.loss(self.embedding[tokens].transpose(0, 1), labels))
        self.mean = torch.stack(losses).mean()
        assert may_update(0.0)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[PackedRow], int, int]:
    """Rows with anything from no target to all of them, and data ranks x micro_rows that divide them."""
    data, micro_rows, micro = draw(st.sampled_from([(1, 1, 4), (1, 2, 2), (2, 1, 3), (2, 2, 1), (4, 1, 1)]))
    rows = []
    for index in range(data * micro_rows * micro):
        size = draw(st.integers(1, LENGTH))
        tokens = draw(st.lists(st.integers(0, VOCAB - 1), min_size=size, max_size=size))
        share = draw(st.sampled_from([0, 1, 2]))  # of the tokens: none, some, all but the first
        trained = [place > 0 and (share == 2 or (share == 1 and place % 3 == 1)) for place in range(size)]
        sample = TokenizedSample(
            "x",
            str(index),
            np.array(tokens, np.int32),
            np.array(trained, np.bool_),
            np.zeros(size, np.uint8),
        )
        source = draw(st.integers(0, SOURCES - 1))
        rows.append(pack_row([sample], [source], index=index, length=LENGTH, pad_id=0))
    return rows, data, micro_rows


@GENTLE
@given(batches())
def test_all_layouts_add_up_to_the_global_mean(
    single_rank: Grid, case: tuple[list[PackedRow], int, int]
) -> None:
    rows, data, micro_rows = case
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(VOCAB, HIDDEN, generator=generator, requires_grad=True)
    head = torch.randn(VOCAB, HIDDEN, generator=generator, requires_grad=True)
    batch = GlobalBatch(tuple(rows))
    means: list[torch.Tensor] = []
    reported: list[float] = []
    for rank in range(data):
        loss = target_loss(single_rank, head)
        engine = MeanEngine(loss, embedding)
        grid = replace(single_rank, layout=Layout(1, 1, data), data_rank=rank)
        config = Config(batch=BatchConfig(len(rows), micro_rows), optimizer=OptimizerConfig())
        parts = StepParts(config, SHAPES["tiny"], grid, cast(Engine, engine), loss, ("a", "b"), 10)
        report = train_step(parts, batch, 1, Guard()).report
        means.append(engine.mean)
        reported.append(report.loss)  # of this rank's targets alone: there are no others to sum with here

    total, targets = torch.zeros(()), 0
    for row in rows:  # each token by the one before it
        for place in np.flatnonzero(row.labels != IGNORED).tolist():
            logits = embedding[int(row.tokens[place - 1])] @ head.T
            total = total + F.cross_entropy(logits[None], torch.tensor([int(row.labels[place])]))
            targets += 1
    expected = total / max(1, targets)
    ours = torch.stack(means).mean()  # what DeepSpeed's average over data ranks makes of it
    torch.testing.assert_close(ours, expected)
    assert sum(reported) == pytest.approx(expected.item(), rel=1e-5, abs=1e-9)
    if targets:
        for a, b in zip(
            torch.autograd.grad(ours, [embedding, head]),
            torch.autograd.grad(expected, [embedding, head]),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
