"""A run some of whose steps have a gradient or a loss that is not what it should be on one of its ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import trainer.loop
from tests.distributed import rank_tasks
from trainer.guard import Guard, GuardError
from trainer.step import StepParts, Taken, Wishes, train_step

SPOILT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda gradient: _one(gradient, float("nan")),
    "inf": lambda gradient: _one(gradient, float("-inf")),
    "bit": lambda gradient: _flipped(gradient),
}
"""What becomes of a parameter's gradient; other kinds are `norm` (a bit, where all tensor ranks have the parameter),
`loss` and, in bfloat16, `late`."""


def train_spoilt(
    config: str, overrides: list[str], spoilt: list[dict[str, Any]], stop: int
) -> dict[str, Any]:
    """The run, with `spoilt` {"step", "rank", "kind"}, up to a signal after step `stop` (0: to its end).

    Returns what each step came to on this rank, and a digest of weights, moments and their count after it.
    """
    told: dict[str, Any] = {"steps": [], "error": ""}

    def step(parts: StepParts, batch: Any, number: int, guard: Guard, wishes: Any, *others: Any) -> Taken:
        if not told["steps"]:
            told["begin"] = digest(parts)
        kinds = {s["kind"]: s["rank"] for s in spoilt if s["step"] == number}
        handles = [
            matrix(parts).register_hook(SPOILT[kind])
            for kind, rank in kinds.items()
            if kind in SPOILT and rank == parts.grid.rank
        ]
        if kinds.get("norm") == parts.grid.rank:
            handles.append(norm(parts).register_hook(_flipped))
        optimizer: Any = parts.engine._optimizer  # pyright: ignore[reportPrivateUsage]
        update = optimizer.step
        if (
            kinds.get("late") == parts.grid.rank
        ):  # after the sum over data ranks: the others know nothing of it
            optimizer.step = lambda: (spoil_sum(optimizer), update())
        losses = parts.loss.token_losses
        if "loss" in kinds:  # a row as hard as that: every rank of the last stage has it
            parts.loss.token_losses = lambda hidden, targets: 100 * losses(hidden, targets)
        try:
            taken = train_step(parts, batch, number, guard, lambda: Wishes(stop=number == stop), *others)
        finally:
            parts.loss.token_losses = losses
            optimizer.step = update
            for handle in handles:
                handle.remove()
        report = taken.report
        seen = {"step": number, "fault": taken.fault, "lr": report.lr, "skipped": report.skipped}
        told["steps"].append(seen | {"digest": digest(parts)})
        return taken

    trainer.loop.train_step = step
    try:
        told["code"] = rank_tasks.train_run(config, overrides)
    except GuardError as error:
        told["error"] = str(error)
    return told


def spoil_sum(optimizer: Any) -> None:
    optimizer.fp32_groups_gradient_flat_partition[0].view(-1)[0] = float("nan")


def matrix(parts: StepParts) -> nn.Parameter:
    """A parameter of this rank that no other has."""
    return next(p for name, p in parts.engine.parameters().items() if p.ndim > 1 and "tied" not in name)


def norm(parts: StepParts) -> nn.Parameter:
    """A parameter that the other tensor ranks have too."""
    return next(p for p in parts.engine.parameters().values() if p.ndim == 1)


def digest(parts: StepParts) -> str:
    """Of this rank's weights as trained and in float32, its moments, and how many updates these have seen."""
    sha = hashlib.sha256()
    for parameter in parts.engine.parameters().values():
        sha.update(parameter.detach().float().numpy().tobytes())
        for value in parts.engine.read_state(parameter).values():
            sha.update(value.numpy().tobytes())
    base = parts.engine._optimizer.optimizer  # pyright: ignore[reportPrivateUsage]
    sha.update(str([float(state["step"]) for state in base.state.values()]).encode())
    return sha.hexdigest()


def _one(gradient: torch.Tensor, value: float) -> torch.Tensor:
    changed = gradient.clone()
    changed.view(-1)[changed.numel() // 2] = value
    return changed


def _flipped(gradient: torch.Tensor) -> torch.Tensor:
    """The highest bit of the exponent of the largest number: it becomes one of 1e36 or so."""
    changed = gradient.float().clone()
    place = int(changed.abs().argmax())
    changed.view(-1).view(torch.int32)[place] ^= 1 << 30
    return changed.to(gradient.dtype)
