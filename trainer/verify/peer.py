"""The same training done plainly: transformers, one sample at a time, torch's AdamW. Nothing of trainer's is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from configs.schema import OptimizerConfig

Sample = dict[str, Any]
"""{"tokens": [int], "trained": [bool], "source": index}, not shifted."""
Row = list[Sample]


@dataclass(frozen=True)
class PeerStep:
    """What a step came to, before the update."""

    loss: float
    """Sum over the targets divided by their number."""
    norm: float
    """Of the gradient, before clipping."""
    samples: list[list[float]]
    """Sum of each sample's losses, [row][sample]."""
    gradients: dict[str, torch.Tensor]
    """Of each parameter, summed over the samples, float32."""


@dataclass(frozen=True)
class PeerRun:
    """Loss and gradient norm before clipping of each step; float32 sums of the first step's gradients; the model."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, torch.Tensor]
    model: torch.nn.Module


def unpack(
    tokens: np.ndarray,
    labels: np.ndarray,
    positions: np.ndarray,
    filled: int,
    sources: np.ndarray | None = None,
) -> Row:
    """The samples of a packed row; all int [s], labels -100 where no target. Source 0 where none are given."""
    starts = [*np.flatnonzero(positions[:filled] == 0).tolist(), filled]
    return [
        {
            "tokens": tokens[a:b].tolist(),
            "trained": (labels[a:b] != -100).tolist(),
            "source": 0 if sources is None else int(sources[a]),
        }
        for a, b in pairwise(starts)
    ]


def sample_losses(model: torch.nn.Module, sample: Sample) -> torch.Tensor:
    """Negative log-likelihood of each target of a sample given what precedes it, float32 [targets]."""
    tokens = torch.tensor(sample["tokens"])
    targets = torch.tensor(sample["trained"][1:], dtype=torch.bool).nonzero().flatten()  # places before them
    logits = model(input_ids=tokens[None], logits_to_keep=targets).logits[0].float()  # [targets, vocabulary]
    return F.cross_entropy(logits, tokens[1:][targets], reduction="none")


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
    """A step on each global batch, at a constant learning rate, AdamW otherwise as a run's is by default."""
    model = load(folder, dtype)
    steps = list(peer_steps(model, batches, OptimizerConfig(lr=lr, clip=clip)))
    return PeerRun([s.loss for s in steps], [s.norm for s in steps], steps[0].gradients, model)


def peer_steps(
    model: torch.nn.Module, batches: Sequence[Sequence[Row]], config: OptimizerConfig
) -> Iterator[PeerStep]:
    """A step on each global batch, at the learning rate `config.lr`: the sum of its targets' losses over their number.

    Gradients are summed in float32 over the samples; the update is made on float32 weights when the next is asked for.
    """
    weights = {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}
    groups = [
        {"params": [w for n, w in weights.items() if "norm" not in n], "weight_decay": config.weight_decay},
        {"params": [w for n, w in weights.items() if "norm" in n], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    for batch in batches:
        targets = max(1, sum(sum(sample["trained"]) for row in batch for sample in row))
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        samples: list[list[float]] = []
        for row in batch:
            samples.append([])
            for sample in row:
                if not any(sample["trained"]):
                    samples[-1].append(0.0)
                    continue
                loss = sample_losses(model, sample).sum()
                samples[-1].append(loss.item())
                (loss / targets).backward()
                for name, parameter in model.named_parameters():
                    assert parameter.grad is not None
                    sums[name] += parameter.grad.float()
                    parameter.grad = None
        norm = float(torch.stack([s.double().square().sum() for s in sums.values()]).sum().sqrt())
        yield PeerStep(sum(map(sum, samples)) / targets, norm, samples, sums)
        scale = min(1.0, config.clip / (norm + 1e-6)) if config.clip else 1.0
        for name, weight in weights.items():
            weight.grad = sums[name] * scale
        optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
