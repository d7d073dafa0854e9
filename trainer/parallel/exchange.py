"""Small things that all ranks tell each other, as JSON: nothing is pickled."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist

from trainer.parallel.grid import Grid


def exchange(value: object, grid: Grid) -> list[Any]:
    """What each rank says, by rank; a collective of the side group. `value` is anything that JSON has."""
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    ranks = range(grid.layout.world_size)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in ranks]
    dist.all_gather(sizes, torch.tensor([len(content)]), group=grid.side_group)
    longest = max(int(size) for size in sizes)
    told = [torch.zeros(longest, dtype=torch.uint8) for _ in ranks]  # [longest] each
    padded = torch.nn.functional.pad(content, (0, longest - len(content)))
    dist.all_gather(told, padded, group=grid.side_group)
    return [json.loads(bytes(text[: int(size)].numpy())) for text, size in zip(told, sizes, strict=True)]
