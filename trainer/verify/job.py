"""What is compared: told to every process as JSON, and where what they answer lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Self

from configs.layout import Layout
from configs.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    GuardConfig,
    TrainConfig,
    WandbConfig,
)
from tokenization.preview import row_to_json
from trainer.data.rows import PackedRow

Who = Literal["serial", "layout", "peer"]
"""One process of our code, the layout's processes of it, and transformers."""
STEPS = 3
_RATE = 1e-3
"""Far above fine-tuning's: small random weights are moved enough for a wrong update to show in the next loss."""

Answer = dict[str, Any]
Tell = Callable[[str, Answer], None]
"""What a process says, and about which of its passes."""


@dataclass(frozen=True)
class Job:
    """One comparison."""

    folder: str
    """Temporary; holds run.yaml, the small model and the gradients."""
    layout: Layout
    recompute: Literal["none", "selective", "full"]
    rows: int
    """Of a batch."""
    micro_rows: int
    other_micro_rows: int
    """By which the same batch is cut for comparison."""

    @property
    def config_file(self) -> Path:
        return Path(self.folder) / "run.yaml"

    @property
    def model(self) -> Path:
        return Path(self.folder) / "model"

    def gradients(self, who: Who, what: str, rank: int) -> Path:
        """The file of a rank's gradients of a pass."""
        return Path(self.folder) / f"{who}-{what}-{rank}.safetensors"

    def processes(self, who: Who) -> int:
        return self.layout.world_size if who == "layout" else 1

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values: Mapping[str, Any] = json.loads(text)
        return cls(**{**values, "layout": Layout(**values["layout"])})


def verify_config(config: Config, folder: Path, rows: int, micro_rows: int) -> Config:
    """The run's settings as the comparison takes them: float32, a few steps at one learning rate, nothing kept.

    The data's settings stay, and so does AdamW, its clipping too. Files are written to `folder` alone.
    """
    return replace(
        config,
        run=replace(config.run, output_dir=str(folder / "run")),
        model=replace(config.model, dtype="float32"),
        data=replace(config.data, cache_dir=str(folder / "cache"), workers=0),
        batch=BatchConfig(rows, micro_rows),
        train=TrainConfig(steps=STEPS),
        optimizer=replace(config.optimizer, lr=_RATE, warmup_ratio=0.0, schedule="constant"),
        guard=GuardConfig(loss=None, gradient=None),
        checkpoint=CheckpointConfig(),
        wandb=WandbConfig(mode="disabled"),
    )


def rows_hash(rows: Iterable[PackedRow]) -> str:
    """Of what `preview --rows --format json` prints of them."""
    return lines_hash(row_to_json(r.index, r.samples, r.tokens, r.labels, r.positions) for r in rows)


def lines_hash(lines: Iterable[str]) -> str:
    digest = blake2b(digest_size=8)
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
