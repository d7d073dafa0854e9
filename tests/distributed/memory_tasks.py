"""Bytes that real ranks hold, counted by torch's own storages. No code of the plan is used here."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import layers, mappings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configs.check import check_config
from configs.layout import Layout
from configs.load import load_config
from configs.shapes import ModelShape
from tokenization.sample import TokenizedSample
from trainer import fused
from trainer.build import build_run
from trainer.data.micro_batch import GlobalBatch
from trainer.data.packing import pack_row
from trainer.guard import Guard
from trainer.loop import Run
from trainer.model.layers import DecoderLayer, Parts
from trainer.parallel.grid import start_grid, stop_grid
from trainer.step import train_step


def storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Bytes of each storage, once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


class Live(TorchDispatchMode):
    """Bytes of storages that operators have made since it began and that somebody holds; the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note(tree_leaves((args, kwargs)), made=False)
        made = func(*args, **(kwargs or {}))
        self._note(tree_leaves(made), made=True)
        return made

    def _note(self, tensors: list[Any], made: bool) -> None:
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes() if made else 0
            if key not in self._known:
                self._known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                # Its address will be another's.
                weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def step_bytes(config: str, overrides: list[str]) -> dict[str, Any]:
    """What a rank holds between steps, by part, and the most that it holds in its second step.

    Every row is one sample, and every token of it but the first a target. What is counted began with the run.
    """
    # A formula's steps are small beside what a layer of real size keeps: here too.
    fused._BLOCK = 1 << 17
    live = Live()
    with live:
        run = _build(config, overrides)
        take_step(run, 1)
        gc.collect()  # what the build left in circles
        live.peak = live.now
        take_step(run, 2)
    engine: Any = run.parts.engine
    optimizer = engine._optimizer
    flat = getattr(optimizer, "bf16_groups_flat", None) or optimizer.bit16_groups_flat
    sums = getattr(optimizer, "fp32_groups_gradients_flat", [])
    master = (
        getattr(optimizer, "fp32_groups_flat_partition", None) or optimizer.single_partition_of_fp32_groups
    )
    moments = [
        state[key] for state in optimizer.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
    ]
    weights = storages(engine.parameters().values())
    assert weights == storages(flat)
    return {
        "parameters": sum(p.numel() for p in engine.parameters().values()),
        "weights": sum(weights.values()),
        "gradients": sum(storages(sums).values()),
        "optimizer": sum(storages([*master, *moments]).values()),
        "peak": live.peak,
    }


def take_step(run: Run, step: int) -> None:
    length, vocab = run.parts.config.data.sequence_length, run.parts.shape.vocab
    draw = np.random.default_rng(step)
    rows = []
    for index in range(run.parts.config.batch.rows):
        trained = np.ones(length, np.bool_)
        trained[0] = False
        tokens = draw.integers(0, vocab, length, dtype=np.int32)
        sample = TokenizedSample("agent", str(index), tokens, trained, np.zeros(length, np.uint8))
        rows.append(pack_row([sample], [0], index=index, length=length, pad_id=0))
    train_step(run.parts, GlobalBatch(tuple(rows)), step, Guard())


def _build(config: str, overrides: list[str]) -> Run:
    settings = load_config(config, overrides)
    shape = ModelShape.from_folder(settings.model.path)
    return build_run(settings, check_config(settings, shape, None, None))


def kept_by_layer(
    shape: str, sizes: list[int], sequence: bool, mode: str, dtype: str, length: int, micro_rows: int
) -> list[list[Any]]:
    """Storages that one decoder layer keeps for its backward pass: bytes, shape and type of each, parameters excluded.

    [tensor, pipeline, data] sizes; each row is one sample.
    """
    grid = start_grid(Layout(*sizes, sequence=sequence))
    parts = Parts(ModelShape.from_folder(shape), grid, getattr(torch, dtype), cast(Any, mode))
    layer = DecoderLayer(parts)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    own = storages(layer.parameters())
    places = length // (sizes[0] if sequence else 1)
    hidden = torch.randn(places, micro_rows, parts.shape.hidden, dtype=parts.dtype, requires_grad=True)
    positions = torch.arange(length).repeat(micro_rows, 1)
    kept: dict[int, list[Any]] = {}
    held: list[torch.Tensor] = []  # else another takes a freed one's address

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), [storage.nbytes(), list(tensor.shape), str(tensor.dtype)])
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer((hidden * 1, positions))
    stop_grid()
    return list(kept.values())


def step_traffic(config: str, overrides: list[str]) -> dict[str, tuple[int, int]]:
    """Calls and bytes of the whole tensors of the second step's collectives, by group, and of what is sent."""
    sent: dict[str, tuple[int, int]] = {}
    named: dict[tuple[int, ...], str] = {}

    def noted(kind: str, function: Callable[..., Any], whole: int) -> Callable[..., Any]:
        """`whole`: which argument is the whole tensor."""

        def call(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group") or next((a for a in args if isinstance(a, dist.ProcessGroup)), None)
            ranks = tuple(dist.get_process_group_ranks(group or dist.group.WORLD))
            named_so = kwargs.get("tensor", kwargs.get("output_tensor"))
            tensor: Any = args[whole] if len(args) > whole else named_so
            key = kind if kind == "send" else f"{named.get(ranks, 'other')} {kind}"
            calls, size = sent.get(key, (0, 0))
            sent[key] = (calls + 1, size + tensor.numel() * tensor.itemsize)
            return function(*args, **kwargs)

        return call

    gather = noted("gather", dist.all_gather_into_tensor, 0)
    scatter = noted("gather", dist.reduce_scatter_tensor, 1)
    replaced: dict[str, Any] = {
        "all_reduce": noted("all_reduce", dist.all_reduce, 0),
        "send": noted("send", dist.send, 0),
        "all_gather_into_tensor": gather,
    }
    for name, function in replaced.items():
        setattr(dist, name, function)
    for module in (mappings, layers):
        cast(Any, module).dist_all_gather_func = gather
        cast(Any, module).dist_reduce_scatter_func = scatter
    run = _build(config, overrides)
    found, rank = run.parts.grid.layout, run.parts.grid.rank
    if found.data > 1:
        first = rank - run.parts.grid.data_rank * found.tensor
        named[tuple(range(first, first + found.data * found.tensor, found.tensor))] = "data"
    if found.tensor > 1:
        named[tuple(dist.get_process_group_ranks(run.parts.grid.tensor_group))] = "tensor"
    for _, group in cast(Any, run.parts.engine.module).get_tied_weights_and_groups():
        named[tuple(dist.get_process_group_ranks(group))] = "tied"
    take_step(run, 1)
    sent.clear()
    take_step(run, 2)
    return sent
