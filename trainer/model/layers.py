"""The layers of a Llama as one rank holds them: slices on megatron-core's parallel linear layers.

Between layers travels `(hidden, positions)`: hidden [s, b, h] (with sequence parallelism [s / tp, b, h]) and
positions [b, s], so that every stage knows where samples begin. Letters: s row length, b rows in a
micro-batch, h hidden size, tp tensor ranks, n and kv query and key-value heads of this rank, d head size,
f feed-forward size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from configs.shapes import ModelShape
from trainer.bounds import SampleBounds, sample_bounds
from trainer.model.attention import packed_attention
from trainer.model.kernels import rms_norm, split_rotated, swiglu
from trainer.model.rotary import rotary_table
from trainer.parallel.grid import Grid
from trainer.parallel.passing import Passing

Recompute = Literal["none", "selective", "full"]
Stream = tuple[torch.Tensor, torch.Tensor]
Layer = TypeVar("Layer", bound=nn.Module)


def padded_vocabulary(vocab: int, tensor: int) -> int:
    """The vocabulary rounded up to a multiple of the tensor size, so that every rank holds as many rows."""
    return -(-vocab // tensor) * tensor


@dataclass(frozen=True)
class Parts:
    """What every layer of a rank is built from."""

    shape: ModelShape
    grid: Grid
    dtype: torch.dtype
    recompute: Recompute = "none"
    passing: Passing = field(default_factory=Passing)
    """Of the pipeline that the layers are part of."""

    def bounds(self, positions: torch.Tensor) -> SampleBounds:
        """Of the rows that pass: known where a pipeline passes them, else read from positions [b, s]."""
        return self.passing.now or sample_bounds(positions)

    def product(
        self,
        layer: ColumnParallelLinear | RowParallelLinear,
        inputs: torch.Tensor,
        make: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """`layer` of `inputs`, which `make()` gives once more where `selective` recompute does not keep them."""
        if self.recompute != "selective":
            return layer(inputs)[0]
        with made_again(inputs, make):
            return layer(inputs)[0]

    @property
    def megatron(self) -> ModelParallelConfig:
        return ModelParallelConfig(
            tensor_model_parallel_size=self.grid.layout.tensor,
            sequence_parallel=self.grid.sequence_parallel,
            params_dtype=self.dtype,
            use_cpu_initialization=True,
            perform_initialization=False,  # weights are always read from a folder
        )

    def column(self, inputs: int, outputs: int) -> ColumnParallelLinear:
        """A linear layer whose outputs are divided between the tensor ranks."""
        layer = ColumnParallelLinear(
            inputs,
            outputs,
            config=self.megatron,
            init_method=_unused,
            bias=False,
            tp_group=self.grid.tensor_group,
        )
        return _divided(layer)

    def row(self, inputs: int, outputs: int) -> RowParallelLinear:
        """A linear layer whose inputs are divided between the tensor ranks, its outputs summed over them."""
        layer = RowParallelLinear(
            inputs,
            outputs,
            config=self.megatron,
            init_method=_unused,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=self.grid.tensor_group,
        )
        return _divided(layer)


def _unused(weight: torch.Tensor) -> None:
    raise AssertionError("weights are read from a model folder, never initialised here")


def _divided(layer: Layer) -> Layer:
    """Mark the weights as slices, so that the gradient norm counts every slice and not one rank's alone."""
    for weight in layer.parameters():
        weight.tensor_model_parallel = True  # pyright: ignore[reportAttributeAccessIssue]
    return layer


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) over h, its mean square taken in float32."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.eps = parts.shape.norm_eps
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(parts.shape.hidden, dtype=parts.dtype))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if self.parts.grid.sequence_parallel:
            # Each rank norms its own part of the row, so its gradient is a part of the sum: this sums it.
            weight = copy_to_tensor_model_parallel_region(weight, group=self.parts.grid.tensor_group)
        return rms_norm(hidden, weight, self.eps)


class Embedding(nn.Module):
    """Token ids [b, s] to hidden states; each tensor rank holds a range of the vocabulary."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.sequence_parallel = parts.grid.sequence_parallel
        self.word = _divided(
            VocabParallelEmbedding(
                padded_vocabulary(parts.shape.vocab, parts.grid.layout.tensor),
                parts.shape.hidden,
                init_method=_unused,
                reduce_scatter_embeddings=self.sequence_parallel,
                config=parts.megatron,
                tp_group=parts.grid.tensor_group,
            )
        )

    def forward(self, batch: Stream) -> Stream:
        tokens, positions = batch
        hidden = self.word(tokens)
        if not self.sequence_parallel:
            hidden = hidden.transpose(0, 1)  # [b, s, h] -> [s, b, h]
        return hidden.contiguous(), positions


class Attention(nn.Module):
    """Grouped-query attention: this rank's heads."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        shape, tensor = parts.shape, parts.grid.layout.tensor
        self.parts = parts
        self.heads = shape.heads // tensor
        self.kv_heads = shape.kv_heads // tensor
        self.head_dim = shape.head_dim
        self.qkv = parts.column(shape.hidden, (shape.heads + 2 * shape.kv_heads) * shape.head_dim)
        self.output = parts.row(shape.heads * shape.head_dim, shape.hidden)

    def forward(self, hidden: torch.Tensor, norm: Norm, bounds: SampleBounds) -> torch.Tensor:
        normed = norm(hidden)  # [s, b, h]
        qkv = self.parts.product(self.qkv, normed, lambda: norm(hidden))  # [s, b, (n + 2 kv) d]
        mixed, _ = self.output(self.core(qkv, bounds))  # [s, b, h]
        return mixed

    def core(self, qkv: torch.Tensor, bounds: SampleBounds) -> torch.Tensor:
        """Everything between the two projections: [s, b, (n + 2 kv) d] to [s, b, n d]."""
        s, b, _ = qkv.shape
        shape, n, kv = self.parts.shape, self.heads, self.kv_heads
        table = rotary_table(
            self.head_dim, shape.max_positions, tuple(shape.rope.items()), qkv.device, qkv.dtype
        )
        heads = qkv.transpose(0, 1).reshape(b * s, n + 2 * kv, self.head_dim)  # [b s, n + 2 kv, d]
        query, key, value = split_rotated(heads, n, kv, table, bounds.positions.flatten())
        mixed = packed_attention(query, key, value, bounds)  # [b s, n, d]
        return mixed.reshape(b, s, n * self.head_dim).transpose(0, 1).contiguous()


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)), gate and up in one product."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.gate_up = parts.column(parts.shape.hidden, 2 * parts.shape.intermediate)
        self.down = parts.row(parts.shape.intermediate, parts.shape.hidden)

    def forward(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        normed = norm(hidden)  # [s, b, h]
        both = self.parts.product(self.gate_up, normed, lambda: norm(hidden))  # [s, b, 2 f / tp]
        gated = swiglu(both)  # [s, b, f / tp]
        return self.parts.product(self.down, gated, lambda: swiglu(both))  # [s, b, h]


def recomputed(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function`, keeping its inputs alone and running again in the backward pass."""
    return lambda *inputs: checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


@contextmanager
def made_again(value: torch.Tensor, make: Callable[[], torch.Tensor]) -> Iterator[None]:
    """What would keep `value` for its backward pass meanwhile keeps `make` instead, which gives the same again."""
    address, shape = (
        value.data_ptr(),
        value.shape,
    )  # autograd holds `keep` as long as what it gave, `value` it must not

    def keep(tensor: torch.Tensor) -> torch.Tensor | Callable[[], torch.Tensor]:
        return make if tensor.data_ptr() == address and tensor.shape == shape else tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, _given_back):
        yield


def _given_back(kept: torch.Tensor | Callable[[], torch.Tensor]) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    with torch.no_grad():
        return kept()


class DecoderLayer(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.attention_norm = Norm(parts)
        self.attention = Attention(parts)
        self.feed_forward_norm = Norm(parts)
        self.feed_forward = FeedForward(parts)

    def forward(self, stream: Stream) -> Stream:
        hidden, positions = stream
        block = recomputed(self.block) if self.parts.recompute == "full" else self.block
        return block(hidden, self.parts.bounds(positions)), positions

    def block(self, hidden: torch.Tensor, bounds: SampleBounds) -> torch.Tensor:
        hidden = hidden + self.attention(hidden, self.attention_norm, bounds)
        return hidden + self.feed_forward(hidden, self.feed_forward_norm)


class FinalNorm(nn.Module):
    """The last norm; the row is whole again after it: returns [s, b, h]."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.norm = Norm(parts)
        self.grid = parts.grid

    def forward(self, stream: Stream) -> torch.Tensor:
        hidden = self.norm(stream[0])
        if self.grid.sequence_parallel:
            # The head's backward already sums over the tensor ranks, so each rank takes its part back.
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False, group=self.grid.tensor_group
            )
        return hidden


class Head(nn.Module):
    """Holds the output matrix [vocabulary / tp, h]. The loss applies it, to the targets' positions alone."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        rows = padded_vocabulary(parts.shape.vocab, parts.grid.layout.tensor) // parts.grid.layout.tensor
        self.weight = nn.Parameter(torch.empty(rows, parts.shape.hidden, dtype=parts.dtype))
        _divided(self)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden
