"""The one loss: negative log-likelihood of the targets, summed, over the targets of the global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel import ColumnParallelLinear

from trainer.cross_entropy import leave_out_padding, vocab_parallel_losses

IGNORED = -100
Look = Callable[[torch.Tensor, Sequence[torch.Tensor]], None]


class TargetLoss:
    """What the rank with the head computes from its hidden states and a micro-batch's shifted labels.

    The head's product is taken at the targets only: most of an agent row is observation and prompt, and a
    position without a target has no part in the loss. Every tensor rank computes the same value.

    `scale` turns a micro-batch's sum into its part of the global mean; set it before each step.
    `sums` gathers the unscaled sums by group, float64 [groups], until `take_sums` empties it. What the groups are is
    the caller's: each label comes with the index of its own.
    """

    def __init__(
        self,
        vocab: int,
        hidden: int,
        groups: int,
        tensor_group: dist.ProcessGroup,
        device: torch.device,
    ) -> None:
        self.scale = 1.0
        self.sums = torch.zeros(groups, dtype=torch.float64, device=device)
        self._vocab = vocab
        self._head: torch.Tensor | None = None
        self._tensor_group = tensor_group
        self._look: Look | None = None
        tensor = tensor_group.size()
        self._project = ColumnParallelLinear(
            hidden,
            -(-vocab // tensor) * tensor,
            config=ModelParallelConfig(tensor_model_parallel_size=tensor, use_cpu_initialization=True),
            init_method=lambda _: None,
            bias=False,
            skip_weight_param_allocation=True,
            tp_group=tensor_group,
        )

    def bind_head(self, weight: torch.Tensor) -> None:
        """Give the loss this rank's rows of the output matrix, [vocabulary / tp, h], where it holds any."""
        self._head = weight

    @property
    def is_here(self) -> bool:
        """This rank's pipeline stage holds the head, and so computes the loss."""
        return self._head is not None

    def __call__(self, hidden: torch.Tensor, labels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Scaled sum over the micro-batch's targets, a float32 scalar; 0 where it has none.

        hidden: [s, b, h]; labels: as `at_targets` gives them.
        """
        head = self._head
        assert head is not None, "bind_head comes first"
        places, wanted, groups, *others = labels  # [k] each
        if len(places) == 0:
            # Every parameter still gets its gradient: data ranks reduce the same list of them.
            return (hidden.sum() + head.sum()).float() * 0.0
        picked = hidden.reshape(-1, 1, hidden.shape[-1]).index_select(0, places)  # [k, 1, h]
        losses = self.token_losses(picked, wanted[:, None]).flatten()  # [k]
        self.sums.index_add_(0, groups, losses.detach().double())
        if self._look is not None:
            self._look(self.predicted(picked), [wanted, groups, *others])
        return losses.sum() * self.scale

    def token_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihoods, float32 [k, 1], of targets [k, 1] given hidden states [k, 1, h]."""
        logits, first = self._logits(hidden)
        return vocab_parallel_losses(logits, targets[:, 0], first, self._vocab, self._tensor_group)[:, None]

    def predicted(self, hidden: torch.Tensor) -> torch.Tensor:
        """The id whose logit is the largest, int64 [k], given hidden states [k, 1, h]; of equal ones the lowest.

        A collective of the tensor group. The vocabulary's size, which is no id, where a logit is no number.
        """
        logits, first = self._logits(hidden)
        leave_out_padding(logits, first, self._vocab)
        largest, at = logits.max(-1)  # of equal ones the first
        of_all = largest.clone()
        dist.all_reduce(of_all, dist.ReduceOp.MAX, group=self._tensor_group)
        ids = torch.where(largest == of_all, at + first, self._vocab)
        dist.all_reduce(ids, dist.ReduceOp.MIN, group=self._tensor_group)
        return ids

    @contextmanager
    def apart(self, sums: torch.Tensor, look: Look) -> Iterator[None]:
        """Meanwhile losses are added to `sums`, float64 by groups that are its own, and `look` is given each
        micro-batch's predicted ids and what its labels say, of its targets alone: int64 [k] each."""
        kept = self.sums
        self.sums, self._look = sums, look
        try:
            yield
        finally:
            self.sums, self._look = kept, None

    def _logits(self, hidden: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Of this rank's part of the vocabulary, [k, vocabulary / tp], and its first id."""
        # Where weights are summed by products (`trainer.parallel.weight_sums`), the head's are too.
        self._project.gradient_accumulation_fusion = hasattr(self._head, "main_grad")
        projected, _ = self._project(hidden, weight=self._head)  # [k, 1, vocabulary / tp]
        logits = projected.flatten(0, 1)
        return logits, self._tensor_group.rank() * logits.shape[-1]

    def take_sums(self) -> torch.Tensor:
        """Sums by group since the last call, float64 [groups] on the loss's device."""
        taken = self.sums.clone()
        self.sums.zero_()
        return taken
