"""What every rank imports before it can begin, and what it must not, because it takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# A rank's imports, and one optimizer step.
RANK = """
import json, sys
import torch
import trainer.loop, trainer.build
from configs.schema import OptimizerConfig
from trainer.optimizer import make_adamw
weight = torch.nn.Parameter(torch.ones(2, 2))
optimizer = make_adamw([weight], OptimizerConfig(lr=0.5, weight_decay=0.0))
weight.grad = torch.ones(2, 2)
optimizer.step()
from megatron.core import parallel_state, tensor_parallel
print(json.dumps([sorted(sys.modules), weight.tolist(), weight.requires_grad, torch.compile.__module__]))
"""
SLOW = [
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "sympy",
    "setuptools",
    "wandb",
    "transformers",
]


def test_a_rank_begins_without_what_it_does_not_use() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RANK],
        capture_output=True,
        check=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
    )
    modules, weight, trains, compile_from = json.loads(ended.stdout.splitlines()[-1])
    assert [name for name in SLOW if name in modules] == []
    assert "deepspeed.runtime.pipe.engine" in modules
    assert weight == [[0.5, 0.5], [0.5, 0.5]]
    assert trains
    assert compile_from == "torch"
