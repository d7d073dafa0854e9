"""Negative log-likelihoods under logits whose vocabulary is divided between tensor ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from trainer.fused import fused


class _VocabParallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, wanted: torch.Tensor, first: int, vocab: int, group: dist.ProcessGroup
    ) -> torch.Tensor:
        leave_out_padding(logits, first, vocab)
        local = wanted - first
        largest = logits.amax(-1).float()  # [k]
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        both = _sums(logits, local, largest)  # [k, 2]
        dist.all_reduce(both, group=group)
        norm = both[:, 0].log() + largest  # of the softmax: its denominator's logarithm
        ctx.kept = logits, local, norm
        return norm - both[:, 1]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, local, norm = ctx.kept
        ctx.kept = None  # the gradient takes the logits' place
        _to_gradient(logits, local, norm, gradient)
        return logits, None, None, None, None


@fused(rows=3)
def _sums(logits: torch.Tensor, local: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Of exponentials, and the logit that is wanted where this rank has it: float32 [k, 2]."""
    size = logits.shape[-1]
    exponentials = (logits.float() - largest[:, None]).exp().sum(-1)
    here = (local >= 0) & (local < size)
    own = logits.gather(1, local.clamp(0, size - 1)[:, None])[:, 0].float()
    return torch.stack((exponentials, torch.where(here, own, 0.0)), 1)


@fused(rows=4)
def _to_gradient(
    logits: torch.Tensor, local: torch.Tensor, norm: torch.Tensor, gradient: torch.Tensor
) -> None:
    """Logits become probabilities, less 1 where wanted, times the loss's gradient."""
    chances = (logits.float() - norm[:, None]).exp()
    wanted = torch.arange(logits.shape[-1], device=logits.device) == local[:, None]
    logits.copy_((chances - wanted.float()) * gradient[:, None])


def leave_out_padding(logits: torch.Tensor, first: int, vocab: int) -> None:
    """Logits [k, vocabulary / tp] beyond the vocabulary, which only pad it to the tensor size, become the least there
    are: they take no part in a softmax."""
    if first + logits.shape[-1] > vocab:
        logits[:, max(0, vocab - first) :] = torch.finfo(logits.dtype).min


def vocab_parallel_losses(
    logits: torch.Tensor, wanted: torch.Tensor, first: int, vocab: int, group: dist.ProcessGroup
) -> torch.Tensor:
    """-log softmax(logits)[wanted], float32 [k], the same on all ranks of `group`; a collective of it.

    logits: [k, vocabulary / tp], this rank's part of the vocabulary, which begins at id `first` of `vocab` ids; what is
    beyond them is overwritten. wanted: int64 [k].
    Keeps the logits; their gradient takes their place, so that the backward pass can be made once.
    """
    return _VocabParallel.apply(logits, wanted, first, vocab, group)  # pyright: ignore[reportReturnType]
