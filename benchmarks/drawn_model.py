"""A step without files: weights drawn where they lie, for shapes that would take long to write and read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from configs.check import check_config
from configs.schema import (
    BatchConfig,
    Config,
    DataConfig,
    ModelConfig,
    ParallelConfig,
    SourceConfig,
    TrainConfig,
)
from configs.shapes import ModelShape
from trainer import build
from trainer.model.names import stage_table
from trainer.parallel.grid import start_grid
from trainer.stages import divide, layer_costs
from trainer.step import StepParts


def drawn_parts(
    shape: ModelShape, *, dtype: Any, length: int, rows: int, processes: int = 1, **parallel: Any
) -> StepParts:
    """Joins the process groups as the environment says, and builds this rank; one row to a micro-batch."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "rows.jsonl"  # of which nothing is read
        source.touch()
        (Path(name) / "config.json").write_text(json.dumps(shape.hf_config(dtype=dtype)))
        config = Config(
            model=ModelConfig(name, dtype),
            data=DataConfig(
                sequence_length=length, sources=[SourceConfig("random", str(source), "general")], eta=0.0
            ),
            parallel=ParallelConfig(**parallel),
            batch=BatchConfig(rows=rows, micro_rows=1),
            train=TrainConfig(steps=1000),
        )
        layout = check_config(config, shape, None, processes)
        grid = start_grid(layout)
        stages = divide(layer_costs(shape, length), layout)
        table = stage_table(shape, stages[grid.stage])
        reading, build.load_weights = build.load_weights, _draw
        try:
            engine, loss = build.build_model(config, shape, grid, stages, table, range(0), load=True)
        finally:
            build.load_weights = reading
    return StepParts(config, shape, grid, engine, loss, ("random",), 1000)


def _draw(
    _folder: Path, _shape: ModelShape, _table: Any, parameters: Mapping[str, torch.Tensor], *_: Any
) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
            else:
                parameter.fill_(1.0)
