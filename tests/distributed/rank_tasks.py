"""What test ranks can be asked to do. Arguments and answers are JSON; tensors go through files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.check import check_config
from configs.load import load_config
from configs.shapes import ModelShape
from trainer.build import build_run
from trainer.checkpoint.hf_export import copy_companions, write_weights
from trainer.data.micro_batch import global_batches
from trainer.step import train_step


def train_steps(
    config: str, overrides: list[str], steps: int, export: str | None = None
) -> list[dict[str, Any]]:
    """Take `steps` steps of a run and return their reports; `export` names a folder for the weights after."""
    settings = load_config(config, overrides)
    shape = ModelShape.from_folder(settings.model.path)
    run = build_run(settings, check_config(settings, shape, None, None))
    batches = global_batches(run.stream, settings.batch.rows)
    reports = []
    for step in range(1, steps + 1):
        report, _ = train_step(run.parts, next(batches), step, False)
        reports.append(
            {"loss": report.loss, "grad_norm": report.grad_norm, "by_source": report.loss_by_source}
        )
    if export:
        folder = Path(export)
        parameters = run.parts.engine.parameters()
        if run.parts.grid.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            copy_companions(Path(settings.model.path), folder, next(iter(parameters.values())).dtype)
        import torch.distributed as dist

        dist.barrier()
        write_weights(folder, shape, run.bounds, parameters, run.parts.grid)
        dist.barrier()
    if run.tracker:
        run.tracker.close()
    return reports
