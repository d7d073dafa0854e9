"""The same training done plainly: transformers, one sample at a time, torch's AdamW. Nothing of trainer/ here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

Sample = dict[str, Any]
"""{"tokens": [int], "trained": [bool], "source": index}, not shifted."""
Row = list[Sample]


@dataclass(frozen=True)
class PeerRun:
    """Loss and gradient norm before clipping of each step; float32 sums of the first step's gradients; the model."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, torch.Tensor]
    model: torch.nn.Module


def unpack(tokens: np.ndarray, labels: np.ndarray, positions: np.ndarray, filled: int) -> Row:
    """The samples of a packed row; all int [s], labels -100 where no target."""
    starts = [*np.flatnonzero(positions[:filled] == 0).tolist(), filled]
    return [
        {"tokens": tokens[a:b].tolist(), "trained": (labels[a:b] != -100).tolist(), "source": 0}
        for a, b in pairwise(starts)
    ]


def sample_losses(model: torch.nn.Module, sample: Sample) -> torch.Tensor:
    """Negative log-likelihood of each target of a sample given what precedes it, float32 [targets]."""
    tokens = torch.tensor(sample["tokens"])
    logits = model(input_ids=tokens[None]).logits[0, :-1].float()
    losses = F.cross_entropy(logits, tokens[1:], reduction="none")
    return losses[torch.tensor(sample["trained"][1:], dtype=torch.bool)]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def peer_run(
    folder: Path,
    batches: Sequence[Sequence[Row]],
    *,
    lr: float = 5e-5,
    clip: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> PeerRun:
    """A step on each global batch: the sum of its targets' losses over their number.

    Gradients are summed in float32 over the samples; the update is made on float32 weights.
    """
    model = load(folder, dtype)
    weights = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}
    groups = [
        {"params": [w for name, w in weights.items() if "norm" not in name], "weight_decay": 0.1},
        {"params": [w for name, w in weights.items() if "norm" in name], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)
    losses: list[float] = []
    norms: list[float] = []
    first: dict[str, torch.Tensor] = {}
    for batch in batches:
        samples = [sample for row in batch for sample in row if any(sample["trained"])]
        targets = max(1, sum(sum(sample["trained"]) for sample in samples))
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        total = 0.0
        for sample in samples:
            loss = sample_losses(model, sample).sum()
            total += loss.item()
            (loss / targets).backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                sums[name] += parameter.grad.float()
                parameter.grad = None
        losses.append(total / targets)
        norms.append(float(torch.stack([s.double().square().sum() for s in sums.values()]).sum().sqrt()))
        first = first or sums
        scale = min(1.0, clip / (norms[-1] + 1e-6)) if clip else 1.0
        for name, weight in weights.items():
            weight.grad = sums[name] * scale
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
    return PeerRun(losses, norms, first, model)
