from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from configs.schema import OptimizerConfig
from trainer.optimizer import learning_rate, make_adamw, parameter_groups

# By hand: 10 steps, 2 of them warm-up, then 0.5 (1 + cos(pi k / 8)) for k = 0 to 7.
COSINE = [
    0.5,
    1.0,
    1.0,
    0.9619397663,
    0.8535533906,
    0.6913417162,
    0.5,
    0.3086582838,
    0.1464466094,
    0.0380602337,
]


def rates(steps: int, config: OptimizerConfig) -> list[float]:
    return [learning_rate(step, steps, config) for step in range(1, steps + 1)]


def test_cosine_by_hand() -> None:
    assert rates(10, OptimizerConfig(lr=1.0, warmup_ratio=0.2)) == pytest.approx(COSINE, abs=1e-9)
    floored = OptimizerConfig(lr=2.0, warmup_ratio=0.2, min_lr_ratio=0.1)
    by_hand = [1.0, *(2.0 * (0.1 + 0.9 * share) for share in COSINE[1:])]
    assert rates(10, floored) == pytest.approx(by_hand, abs=1e-9)


def test_constant_by_hand() -> None:
    config = OptimizerConfig(lr=3.0, warmup_ratio=0.3, schedule="constant")
    assert rates(10, config) == pytest.approx([1.0, 2.0, *[3.0] * 8])
    config = OptimizerConfig(lr=3.0, warmup_ratio=0.0, schedule="constant")
    assert rates(4, config) == [3.0] * 4


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["cosine", "constant"]))
def test_rises_then_never_rises_again(steps: int, warmup: float, floor: float, schedule: str) -> None:
    config = OptimizerConfig(lr=5e-5, warmup_ratio=warmup, min_lr_ratio=floor, schedule=schedule)  # pyright: ignore
    found = rates(steps, config)
    peak = found.index(max(found))
    assert all(0 < rate <= config.lr * (1 + 1e-12) for rate in found)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert max(found) == pytest.approx(config.lr)


@given(st.integers(2, 300), st.integers(1, 150))
def test_after_the_warm_up_it_is_the_cosine_of_transformers(steps: int, warmup: int) -> None:
    warmup = min(warmup, steps - 1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, warmup, steps).lr_lambdas[0]
    ours = rates(steps, OptimizerConfig(lr=1.0, warmup_ratio=warmup / steps))
    assert ours[warmup:] == pytest.approx([theirs(step) for step in range(warmup, steps)], abs=1e-9)
    assert ours[:warmup] == pytest.approx([theirs(step + 1) for step in range(warmup)], abs=1e-9)


def test_norms_do_not_decay() -> None:
    matrix, norm = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3))
    groups = parameter_groups([matrix, norm], 0.1)
    assert [(list(map(id, g["params"])), g["weight_decay"]) for g in groups] == [
        ([id(matrix)], 0.1),
        ([id(norm)], 0.0),
    ]
    optimizer = make_adamw([matrix, norm], OptimizerConfig(lr=0.5, weight_decay=0.1))
    for parameter in (matrix, norm):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(norm, torch.ones(3))
    torch.testing.assert_close(matrix.detach(), torch.full((3, 2), 1 - 0.5 * 0.1))


def test_one_step_of_adamw_by_hand() -> None:
    """Loshchilov and Hutter's update: after one step the moments' bias corrections cancel their betas."""
    config = OptimizerConfig(lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5]]))
    weight.grad = torch.tensor([[0.3, -0.1, 0.0]])
    make_adamw([weight], config).step()
    expected = [
        w * (1 - 0.01 * 0.2) - 0.01 * g / (abs(g) + 1e-3) for w, g in ((1, 0.3), (-2, -0.1), (0.5, 0.0))
    ]
    assert weight.detach().flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_steps_are_torchs_own_bit_by_bit() -> None:
    config = OptimizerConfig(lr=0.1, weight_decay=0.1)
    shapes = [(3, 4), (4,)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    groups = parameter_groups(theirs, 0.1)
    reference = torch.optim.AdamW(groups, lr=0.1, betas=config.betas, eps=config.eps, fused=True)
    optimizer = make_adamw(ours, config)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for our, their in zip(ours, theirs, strict=True):
            our.grad = torch.randn(our.shape, generator=generator)
            their.grad = our.grad.clone()
        optimizer.step()
        reference.step()
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our, their)
        assert our.is_leaf
        assert torch.equal(optimizer.state[our]["exp_avg_sq"], reference.state[their]["exp_avg_sq"])
