"""Faults of parallel training and of the model, each put into the code of the process that calls `plant`."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any


def plant(name: str) -> None:
    """Put the fault `name` of FAULTS into the modules that are imported here."""
    FAULTS[name]()


def _mean_of_each_micro_batch() -> None:
    """Each micro-batch's loss divided by its own targets, and then the mean of those."""
    from trainer.loss import TargetLoss

    sound = TargetLoss.__call__

    def call(self: TargetLoss, hidden: Any, labels: Any) -> Any:
        self.scale = 1 / max(1, len(labels[0]))
        return sound(self, hidden, labels)

    TargetLoss.__call__ = call


def _norms_not_reduced() -> None:
    """Gradients of the norms' weights stay what a tensor rank has of its own part of the row."""
    from trainer.model import layers

    layers.copy_to_tensor_model_parallel_region = lambda weight, group: weight


def _positions_lost() -> None:
    """A middle stage counts its positions through the row."""
    import torch

    from trainer.bounds import SampleBounds, sample_bounds
    from trainer.model.layers import Parts

    sound = Parts.bounds

    def bounds(self: Parts, positions: torch.Tensor) -> SampleBounds:
        if 0 < self.grid.stage < self.grid.layout.pipeline - 1:
            return sample_bounds(torch.arange(positions.shape[1]).expand_as(positions).contiguous())
        return sound(self, positions)

    Parts.bounds = bounds


def _interleaved_pairs() -> None:
    """The rotary embedding turns neighbours, as Meta's own code does, and not the two halves of a head."""
    import torch

    from trainer.model import layers

    def split(heads: Any, n: int, kv: int, table: Any, positions: Any) -> Any:
        cos, sin = table[:, positions, None]
        first, second = heads[:, : n + kv, ::2], heads[:, : n + kv, 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
        return turned[:, :n], turned[:, n:], heads[:, n + kv :]

    layers.split_rotated = split


def _labels_not_shifted() -> None:
    """Each token is to predict itself."""
    import numpy as np
    import torch

    from trainer.data import micro_batch

    micro_batch.shifted = lambda values, last: torch.from_numpy(np.stack(values).astype(np.int64))


def _across_samples() -> None:
    """A row is one sample to attention, though positions restart in it."""
    import torch

    from trainer.bounds import SampleBounds
    from trainer.model.layers import Parts

    sound = Parts.bounds

    def bounds(self: Parts, positions: torch.Tensor) -> SampleBounds:
        edges = (0, positions.numel())
        return replace(sound(self, positions), edges=edges, cumulative=torch.tensor(edges, dtype=torch.int32))

    Parts.bounds = bounds


def _slice_from_elsewhere() -> None:
    """The key-value heads of a tensor rank are those of another."""
    from trainer.model.names import Piece

    sound = Piece.bounds

    def bounds(self: Piece, tensor_rank: int, tensor: int) -> tuple[int, int]:
        other = tensor - 1 - tensor_rank if "k_proj" in self.name else tensor_rank
        return sound(self, other, tensor)

    Piece.bounds = bounds


def _rows_of_its_own() -> None:
    """The second rank's stream has another seed."""
    import os

    from trainer.verify import rank

    sound = rank.load_config

    def load(*arguments: Any) -> Any:
        config = sound(*arguments)
        own = config.run.seed + (os.environ["RANK"] == "1")
        return replace(config, run=replace(config.run, seed=own))

    rank.load_config = load


def _recomputed_otherwise() -> None:
    """What is computed again is not what was: the second time its inputs, or what it comes to, are a little larger."""
    from trainer.model import layers

    sound, again = layers.recomputed, layers.made_again

    def recomputed(function: Any) -> Any:
        calls = [0]

        def counted(first: Any, *rest: Any) -> Any:
            calls[0] += 1
            return function(first * (1 + 0.01 * (calls[0] > 1)), *rest)

        return sound(counted)

    layers.recomputed = recomputed
    layers.made_again = lambda value, make: again(value, lambda: 1.01 * make())


def _copies_not_averaged() -> None:
    """The copies' gradients are not summed."""
    from deepspeed.runtime.zero import stage_1_and_2

    def left(self: Any, bucket: Any, *_: Any, **__: Any) -> Any:
        return self.flatten(bucket)

    stage_1_and_2.DeepSpeedZeroOptimizer.allreduce_bucket = left


def _weight_decay_everywhere() -> None:
    """On the norms too."""
    from trainer import optimizer

    sound = optimizer.parameter_groups

    def groups(*arguments: Any) -> Any:
        return [{**group, "weight_decay": 0.1} for group in sound(*arguments)]

    optimizer.parameter_groups = groups


def _rank_killed() -> None:
    """The second rank of the layout is no more before it has told of its rows."""
    from trainer.verify import rank

    sound = rank.rows_hash

    def rows_hash(rows: Any) -> str:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(rows)

    rank.rows_hash = rows_hash


def _parent_killed() -> None:
    """What has forked the ranks is no more before one of them has told of its rows."""
    from trainer.verify import rank

    def rows_hash(rows: Any) -> str:
        if os.environ["RANK"] == "1":
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
        raise AssertionError("nobody ended it")

    rank.rows_hash = rows_hash


def _norm_of_more() -> None:
    """The gradient norm is over some slices twice."""
    from trainer import step

    sound = step._share
    step._share = lambda parts, norm, *rest: sound(parts, 1.001 * norm, *rest)


FAULTS = {
    "mean of each micro-batch": _mean_of_each_micro_batch,
    "norms not reduced": _norms_not_reduced,
    "positions lost": _positions_lost,
    "interleaved pairs": _interleaved_pairs,
    "labels not shifted": _labels_not_shifted,
    "across samples": _across_samples,
    "slice from elsewhere": _slice_from_elsewhere,
    "rows of its own": _rows_of_its_own,
    "recomputed otherwise": _recomputed_otherwise,
    "copies not averaged": _copies_not_averaged,
    "weight decay everywhere": _weight_decay_everywhere,
    "norm of more": _norm_of_more,
    "rank killed": _rank_killed,
    "parent killed": _parent_killed,
}
