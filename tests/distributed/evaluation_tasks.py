"""What test ranks can be asked about evaluations."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import Any

import torch
from rank_runs import Sample, built, packed

from configs.layout import Layout
from trainer import build, loop
from trainer import evaluate as evaluation
from trainer.data.held_out import HeldOut
from trainer.data.micro_batch import global_batches
from trainer.evaluate import evaluate
from trainer.guard import Guard
from trainer.loop import Run, train
from trainer.loss import TargetLoss
from trainer.parallel.grid import start_grid
from trainer.step import train_step


def evaluate_rows(config: str, overrides: list[str], rows: list[list[Sample]]) -> dict[str, Any]:
    """The report on rows of samples, under the weights that a run begins with."""
    run = built(config, overrides)
    beats: list[None] = []
    evaluation.beat = lambda: beats.append(None)
    report = asdict(evaluation.evaluate(run.parts, _looked_at(run, rows), 0)[0])
    held = run.parts.engine._engine.pipe_buffers.values()  # DeepSpeed's
    assert not any(each is not None for kept in held for each in kept), "the next step lacks their memory"
    return {**report, "beats": len(beats)}


def held_out_apart(config: str, overrides: list[str], rank: int) -> None:
    """Build a run, where one rank holds out other data than the rest."""
    sound = build.open_held_out

    def other(*arguments: Any) -> HeldOut:
        found = sound(*arguments)
        return replace(found, hash="f" + found.hash[1:]) if os.environ["RANK"] == str(rank) else found

    build.open_held_out = other
    built(config, overrides)


def steps_between(
    config: str, overrides: list[str], steps: int, rows: list[list[Sample]] | None
) -> dict[str, Any]:
    """Take steps; with `rows`, evaluate them before the first and after each. What all of it has come to."""
    run = built(config, overrides)
    batches = global_batches(run.stream, run.parts.config.batch.rows)
    engine = run.parts.engine
    reports: list[Any] = []
    for step in range(1, steps + 1):
        if rows:
            evaluate(run.parts, _looked_at(run, rows), step - 1)
        report = train_step(run.parts, next(batches), step, Guard()).report
        reports.append([report.loss, report.grad_norm, report.loss_by_source, report.loss_by_kind])
    if rows:
        evaluate(run.parts, _looked_at(run, rows), steps)
    digest = blake2b(torch.get_rng_state().numpy().tobytes())
    for parameter in engine.parameters().values():
        for tensor in engine.read_state(parameter).values():
            digest.update(tensor.numpy().tobytes())
    inner = engine._engine  # DeepSpeed's
    counters = {
        f"{type(each).__name__}.{name}": value
        for each in (inner, inner.module, inner.optimizer)
        for name, value in vars(each).items()
        if isinstance(value, int | float | str | bool)
    }
    return {"reports": reports, "state": digest.hexdigest(), "counters": counters}


def stopped_while_evaluating(config: str, overrides: list[str], step: int, rank: int) -> int:
    """The whole run, where `rank` alone is told to stop while all evaluate after `step`; returns the exit code."""
    run = built(config, overrides)
    sound = loop.evaluate

    def signalled(*arguments: Any) -> Any:
        if arguments[2] == step and run.parts.grid.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound(*arguments)

    loop.evaluate = signalled
    code = train(run)
    if run.tracker:
        run.tracker.close()
    return code


def predicted(head: list[list[float]], hidden: list[list[float]]) -> list[int]:
    """What a loss over all ranks as tensor ranks predicts from hidden states, under an output matrix of `head` rows."""
    tensor = int(os.environ["WORLD_SIZE"])
    grid = start_grid(Layout(tensor, 1, 1))
    loss = TargetLoss(len(head), len(head[0]), 1, grid.tensor_group, grid.device)
    part = -(-len(head) // tensor)
    padded = torch.zeros(part * tensor, len(head[0]))  # a logit of 0 where nothing is
    padded[: len(head)] = torch.tensor(head)
    loss.bind_head(padded[part * grid.tensor_rank :][:part])
    return loss.predicted(torch.tensor(hidden)[:, None]).tolist()


def _looked_at(run: Run, rows: list[list[Sample]]) -> HeldOut:
    length = run.parts.config.data.sequence_length
    rows_ = tuple(packed(samples, index, length) for index, samples in enumerate(rows))
    return HeldOut(rows_, run.parts.source_names, "", 0)
