"""DeepSpeed's pipeline engine around this rank's layers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any, cast

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.pipe.dualpipev import DualPipeVModule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import nn

from configs.schema import Schedule
from trainer.parallel.grid import Grid
from trainer.parallel.passing import Passage, Passing, Tensors
from trainer.parallel.weight_sums import sum_in_products
from trainer.stages import Ranges

MOMENTS = ("exp_avg", "exp_avg_sq")
# In bfloat16 each data rank has a norm of its own sum, and one that alone found it not finite would leave the others in
# their collectives. So none leaves: all ask `may_update`, which judges by what all have found.
bf16_optimizer.is_invalid_grad_norm = lambda norm: False
__all__ = ["MOMENTS", "Engine", "LayerSpec", "TiedLayerSpec", "build_engine", "build_stages"]


class Stages(PipelineModule):
    """A pipeline whose parts are given instead of guessed from parameter counts."""

    bounds: list[int]
    """Layers at which parts begin, in the order of the forward pass, closed by the number of layers."""
    held: Ranges
    """This rank's."""

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        stages: Sequence[Ranges],
        stage: int,
        passing: Passing,
        **options: Any,
    ) -> None:
        self.passing = passing
        self.bounds = [*sorted(part.start for held in stages for part in held), len(layers)]
        self.held = stages[stage]
        super().__init__(layers=list(layers), **options)

    def _partition_layers(self, method: str = "") -> None:
        self.parts = self.bounds
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def forward(self, forward_input: Tensors) -> Any:
        with self.passing.through(self.part, forward_input):
            return super().forward(forward_input)

    @property
    def part(self) -> int:
        """Which of this rank's parts is passed through: the first where it has one."""
        return 0

    def rest(self) -> None:
        """Be as after a step."""


class FoldedStages(DualPipeVModule, Stages):
    """The same with two parts on each rank: DeepSpeed builds both, and chooses its engine by this class."""

    @property
    def part(self) -> int:
        return self.active_phase

    def rest(self) -> None:
        self.activate_phase(0)


MODULES: dict[Schedule, type[Stages]] = {"1f1b": Stages, "dualpipev": FoldedStages}


def build_stages(
    layers: Sequence[LayerSpec],
    stages: Sequence[Ranges],
    grid: Grid,
    loss: Callable[..., torch.Tensor],
    passing: Passing,
) -> Stages:
    """This rank's layers, those of `stages[grid.stage]`, on the rank's device. `passing`: the layers' own."""
    layout = grid.layout
    topology = PipeModelDataParallelTopology(num_pp=layout.pipeline, num_mp=layout.tensor, num_dp=layout.data)
    with _quiet():
        deepspeed.init_distributed(
            dist.get_backend(), auto_mpi_discovery=False
        )  # takes the groups that are up
        return MODULES[layout.schedule](layers, stages, grid.stage, passing, topology=topology, loss_fn=loss)


class Engine:
    """A step of the pipeline, and the float32 state behind it.

    DeepSpeed runs the schedule, sums gradients in float32, reduces them over the data ranks (ZeRO-1), clips
    and updates.
    """

    def __init__(self, engine: PipelineEngine, module: Stages) -> None:
        self._engine = engine
        self._optimizer = cast(Any, engine.optimizer)
        self.module = module
        self._begin_moments()

    def step(
        self,
        micro_batches: Sequence[Passage],
        lr: float,
        may_update: Callable[[float], bool],
    ) -> None:
        """One optimizer step over this data rank's micro-batches.

        `may_update` is asked once, on all ranks, when the gradients are summed over micro-batches and data ranks. It
        gets their global norm before clipping (inf where that is no finite number), and says whether the weights and
        moments may change.
        """
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        answer: bool | None = None

        def ask() -> bool:
            nonlocal answer
            if answer is None:  # ZeRO updates one parameter group after another
                norm = float(optimizer._global_grad_norm)
                answer = may_update(norm if norm >= 0 else inf)  # DeepSpeed says -1 for what is not finite
            return answer

        optimizer.optimizer.may_update = ask
        self.module.passing.expect(micro_batches)
        self._engine.train_batch(iter(micro_batches))
        if answer is None:  # in float32 DeepSpeed leaves such a step out by itself
            may_update(inf)

    def evaluate(
        self,
        micro_batches: Sequence[Passage],
        passed: Callable[[], None],
    ) -> None:
        """Pass micro-batches forward, as many on each data rank, and no gradient back.

        The loss sees them as in a step. `passed` is called when one has left this stage. The next step finds all as it
        would be without. A collective of all ranks.
        """
        engine, module = self._engine, cast(Any, self.module)
        offset, of_step, room = module.micro_offset, engine.micro_batches, engine.num_pipe_buffers
        hook = self.module.register_forward_hook(lambda *_: passed())
        engine.micro_batches = len(micro_batches)  # DualPipeV counts its second part's buffers from there
        self.module.passing.expect(micro_batches)
        try:
            engine.eval_batch(
                iter(micro_batches),
                reduce_output=cast(str, None),
                bcast_loss=False,
                num_micro_batches=len(micro_batches),
            )
        finally:
            hook.remove()
            engine.micro_batches = of_step
            self.module.train()
            self.module.rest()
        module.micro_offset = offset  # DeepSpeed counts forward passes, by which it would seed layers
        engine.fwd_outputs, engine.total_loss = [], None
        for name in engine.pipe_buffers:
            engine.pipe_buffers[name] = [None] * room  # their memory is the next step's
        engine.num_pipe_buffers = room

    def tell_gradients(self, look: Callable[[Iterator[tuple[str, torch.Tensor]]], None]) -> None:
        """From now on `look` is given each step's gradients, summed over micro-batches and data ranks, before they are
        clipped and before `may_update` is asked: this rank's whole float32 slices, copies, with their parameters' names
        as `parameters` has them.

        Each is a collective of the data group, made when it is asked for: all its ranks take them all, or none.
        """
        step = self._optimizer.step

        def told(*arguments: Any) -> None:
            # DeepSpeed's name for a slice that ZeRO's partitions are put together to.
            look((name, cast(Any, held).get_full_hp_grad()) for name, held in self.parameters().items())
            step(*arguments)

        self._optimizer.step = told

    def parameters(self) -> dict[str, nn.Parameter]:
        """This rank's parameters by their name in the pipeline (`3.attention.qkv.weight`)."""
        return dict(self.module.named_parameters())

    def read_state(self, parameter: nn.Parameter, keep: bool = True) -> dict[str, torch.Tensor]:
        """The parameter's float32 weights (`master`) and moments, its whole tensor slice, on the CPU, a copy.

        A collective of the data group: all its ranks call it for the same parameters in the same order, also those that
        do not `keep` what it gives; for them it is empty.
        """
        state = {"master": safe_get_full_fp32_param(parameter)}
        state |= {moment: safe_get_full_optimizer_state(parameter, moment) for moment in MOMENTS}
        # DeepSpeed puts them together in new tensors, so on a CPU too they are nobody else's.
        return {key: cast(torch.Tensor, value).detach().cpu() for key, value in state.items()} if keep else {}

    def write_state(self, state_of: Callable[[str, str], torch.Tensor], updates: int) -> None:
        """Put back what `read_state` gave after so many updates; asks for one tensor at a time, by parameter and kind.

        Of the moments only for those that are this data rank's, whole or in part.
        """
        for moments in self._optimizer.optimizer.state.values():
            moments["step"].fill_(updates)
        for name, parameter in self.parameters().items():
            master = state_of(name, "master")
            safe_set_full_fp32_param(parameter, master)
            with torch.no_grad():
                parameter.copy_(master)
            if cast(Any, parameter)._hp_mapping is not None:
                for moment in MOMENTS:
                    safe_set_full_optimizer_state(parameter, state_of(name, moment), moment)

    def _begin_moments(self) -> None:
        """Moments of zero, which every parameter finds in ZeRO's flat partitions.

        Made by AdamW in its first step otherwise, too late for a checkpoint before one; and DeepSpeed links them once,
        after the first parameter group's first step, so that it misses the second's.
        """
        base = self._optimizer.optimizer
        for group in base.param_groups:
            for flat in group["params"]:  # the flat partitions ZeRO made of the group
                base.state[flat] = {
                    "step": torch.tensor(0.0, device=flat.device),
                    **{moment: torch.zeros_like(flat) for moment in MOMENTS},
                }
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()


def build_engine(
    module: Stages,
    optimizer: torch.optim.Optimizer,
    *,
    micro_batches: int,
    micro_rows: int,
    data_ranks: int,
    clip: float,
    dtype: torch.dtype,
) -> Engine:
    """DeepSpeed's PipelineEngine with ZeRO-1; one path for every layout, device and precision."""
    config = {
        "train_batch_size": micro_batches * micro_rows * data_ranks,
        "train_micro_batch_size_per_gpu": micro_rows,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": clip,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 1},
        # Each gradient goes to its float32 sum as soon as it is there. Otherwise DeepSpeed clears the bfloat16
        # gradients when the backward pass reaches the layers' output, after the head's was computed.
        "bf16": {"enabled": dtype is torch.bfloat16, "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",  # of gradients between data ranks
        # Whole tensors travel between stages: the positions beside the hidden states are integers.
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False, "use_reentrant": False},
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    with _quiet():
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    sum_in_products(module, engine.optimizer)
    return Engine(cast(PipelineEngine, engine), module)


@contextlib.contextmanager
def _quiet():
    """DeepSpeed prints its topology and layers while it builds; our own lines say what matters."""
    deepspeed_logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
