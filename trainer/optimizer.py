"""AdamW's parameter groups and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import nn

from configs.schema import OptimizerConfig


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors (the norms) without."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


class AdamW(torch.optim.AdamW):
    """torch's, which asks before it updates.

    Without what keeps torch's compiler out of it: that imports the compiler, and takes as long as torch does. Nothing
    here is compiled, so nothing else changes.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    may_update: Callable[[], bool] = staticmethod(lambda: True)
    """Where it says no, `step` leaves weights, moments and their count as they are."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.may_update():
            _update(self, closure)


_update = unwrap(torch.optim.AdamW.step)


def make_adamw(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019) in torch's fused form: one pass over the states, on CPU and CUDA."""
    return AdamW(
        parameter_groups(parameters, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of the `step`-th update of the weights (counted from 1) of `steps`.

    Linear warm-up reaches `lr` at step max(1, warmup_ratio * steps), rounded; a cosine then falls towards
    min_lr_ratio * lr, which it would reach one step after the last, so that no step is taken at zero.
    """
    warmup = max(1, round(config.warmup_ratio * steps)) if config.warmup_ratio > 0 else 0
    if step <= warmup:
        return config.lr * step / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - 1 - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
