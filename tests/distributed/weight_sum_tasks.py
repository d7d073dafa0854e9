"""What ranks are asked in `test_summed_products.py`."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import torch
from rank_runs import Sample, built, packed, take_steps

from trainer.data.micro_batch import GlobalBatch
from trainer.parallel import engine


def gradients(
    config: str, overrides: list[str], rows: list[list[Sample]], apart: bool
) -> dict[str, list[float]]:
    """Of each parameter of this rank, after one step over `rows`: norm and sum of its float32 gradient.

    apart: as DeepSpeed sums them, each micro-batch's gradient in bfloat16 first
    """
    with patch.object(engine, "sum_in_products", (lambda *_: None) if apart else engine.sum_in_products):
        run = built(config, overrides)
    found: dict[str, list[float]] = {}

    def look(told: Iterator[tuple[str, torch.Tensor]]) -> None:
        found.update({name: [float(x.double().norm()), float(x.double().sum())] for name, x in told})

    run.parts.engine.tell_gradients(look)
    length = run.parts.config.data.sequence_length
    batch = GlobalBatch(tuple(packed(samples, index, length) for index, samples in enumerate(rows)))
    take_steps(run, iter([batch]), 1)
    return found
