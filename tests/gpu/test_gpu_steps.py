"""Whole steps on the GPU: transformers' numbers on the CPU, samples kept apart, and a host that does not wait."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import write_config, write_model

from configs.check import check_config
from configs.load import load_config
from configs.shapes import ModelShape
from trainer.build import build_run
from trainer.data.micro_batch import GlobalBatch, global_batches
from trainer.guard import Guard
from trainer.loop import Run
from trainer.parallel.grid import stop_grid
from trainer.step import passage, train_step
from trainer.verify.peer import peer_run, unpack

STEPS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Heads of 64, for flash attention; initialised so that its scores differ.
    return write_model(
        tmp_path_factory.mktemp("model") / "m", hidden_size=256, num_attention_heads=4, num_key_value_heads=2
    )


def built(model: Path, file: Path, dtype: str, rows: int = 4, **sections: Any) -> Run:
    told: dict[str, Any] = {
        "model": {"path": str(model), "dtype": dtype},
        "batch": {"rows": rows, "micro_rows": 1},
        "optimizer": {"schedule": "constant", "warmup_ratio": 0.0, "lr": 5e-5},
        "checkpoint": {"resume": "never"},
    }
    config = load_config(str(write_config(file, model, **told | sections)))
    return build_run(config, check_config(config, ModelShape.from_folder(config.model.path), None, 1))


def batches(run: Run) -> Iterator[GlobalBatch]:
    return global_batches(run.stream, run.parts.config.batch.rows)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize(("dtype", "loss", "norm"), [("float32", 2e-5, 2e-4), ("bfloat16", 5e-3, 5e-2)])
def test_losses_and_norms_are_those_of_transformers_on_the_cpu(
    model: Path, tmp_path: Path, dtype: str, loss: float, norm: float, recompute: str
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    run = built(model, tmp_path / "run.yaml", dtype, parallel={"recompute": recompute})
    assert run.parts.grid.device.type == "cuda"
    taken = [batch for batch, _ in zip(batches(run), range(STEPS), strict=False)]
    reports = [train_step(run.parts, batch, i + 1, Guard()).report for i, batch in enumerate(taken)]
    rows = [[unpack(r.tokens, r.labels, r.positions, r.filled) for r in batch.rows] for batch in taken]
    theirs = peer_run(model, rows)
    for report, expected_loss, expected_norm in zip(reports, theirs.losses, theirs.norms, strict=True):
        assert report.loss == pytest.approx(expected_loss, rel=loss)
        assert report.grad_norm == pytest.approx(expected_norm, rel=norm)
        assert report.mfu is None or 0 < report.mfu < 1


def test_samples_do_not_see_each_other(model: Path, tmp_path: Path) -> None:
    """Where one sample of a row is replaced, the others' losses stay the same to the bit."""
    run = built(model, tmp_path / "run.yaml", "bfloat16", rows=1)
    batch = next(b for b in batches(run) if np.sum(b.rows[0].positions[: b.rows[0].filled] == 0) > 2)
    row = batch.rows[0]
    ends = [*np.flatnonzero(row.positions[: row.filled] == 0)[1:].tolist(), row.filled]
    tokens = row.tokens.copy()
    changed = slice(ends[0], ends[1])
    tokens[changed] = (tokens[changed] + 7) % 1000
    of_place = sample_losses(run, batch)
    of_other = sample_losses(run, GlobalBatch((replace(row, tokens=tokens),)))
    inside = np.zeros(len(row.tokens), bool)
    inside[changed] = True
    assert (of_place[inside] != of_other[inside]).any()
    assert (of_place[~inside] == of_other[~inside]).all()


def sample_losses(run: Run, batch: GlobalBatch) -> np.ndarray:
    """Of each place that predicts a target; 0 elsewhere."""
    loss, taken = run.parts.loss, list[torch.Tensor]()
    compute = loss.token_losses

    def observed(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = compute(hidden, targets)
        taken.append(losses.detach().flatten())
        return losses

    loss.token_losses = observed
    passages = [passage(micro, run.parts.grid.device) for micro in batch.micro_batches(0, 1, 1)]
    run.parts.engine.evaluate(passages, lambda: None)
    loss.token_losses = compute
    row = batch.rows[0]
    found = np.zeros(len(row.tokens))
    found[:-1][row.labels[1:] != -100] = torch.cat(taken).double().cpu().numpy()
    return found


def test_no_micro_batch_makes_the_host_wait(model: Path, tmp_path: Path) -> None:
    """As often as the host waits in a step of 2 micro-batches, so often in one of 8."""
    waits: list[int] = []
    for rows in (2, 8):
        run = built(model, tmp_path / f"{rows}.yaml", "bfloat16", rows=rows)
        source = batches(run)
        for step in (1, 2, 3):  # the first ones compile
            train_step(run.parts, next(source), step, Guard())
        batch = next(source)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train_step(run.parts, batch, 4, Guard())
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(w.message) for w in caught))
        stop_grid()
    assert waits[0] > 0, "the host waits for the norm of the gradient: no warning came of it"
    assert waits[0] == waits[1], f"{waits[1] - waits[0]} waits more for 6 micro-batches more"
