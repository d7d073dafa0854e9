"""Small things that all ranks tell each other, as JSON: nothing is pickled."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist

from trainer.parallel.grid import Grid


def exchange(value: object, grid: Grid) -> list[Any]:
    """What each rank says, by rank; a collective. `value` is anything that JSON has."""
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(grid.device)
    ranks = range(grid.layout.world_size)
    sizes = [torch.zeros(1, dtype=torch.int64, device=grid.device) for _ in ranks]
    dist.all_gather(sizes, torch.tensor([len(content)], device=grid.device))
    longest = max(int(size) for size in sizes)
    told = [torch.zeros(longest, dtype=torch.uint8, device=grid.device) for _ in ranks]  # [longest] each
    dist.all_gather(told, torch.nn.functional.pad(content, (0, longest - len(content))))
    return [
        json.loads(bytes(text[: int(size)].cpu().numpy())) for text, size in zip(told, sizes, strict=True)
    ]
