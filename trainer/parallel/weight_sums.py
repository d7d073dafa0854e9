"""Gradients of weights in bfloat16, added to their float32 sums by the very products that compute them.

DeepSpeed would let each micro-batch's gradient be rounded to bfloat16 and written, then read it, cast it and add it:
18 bytes for each weight and micro-batch. megatron-core's linear layers can leave the sum to a function of NVIDIA's
Apex; here it is a product of torch's that has a float32 result, where a GPU has one, and nothing is rounded on its way.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel import layers as megatron_layers
from torch import nn


def sum_in_products(module: nn.Module, optimizer: object) -> None:
    """Have the linear layers of `module` add to the sums of `optimizer`, where it is one that keeps such sums.

    A weight that is no linear layer's own, as the head's and the embedding's, has its sum in `main_grad` too, for who
    multiplies by it; DeepSpeed adds what autograd finds for it.
    """
    if not isinstance(optimizer, BF16_Optimizer):
        return
    megatron_layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        wgrad_gemm_accum_fp32=add_product
    )
    groups = zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients, strict=True)
    for weights, sums in groups:
        for weight, flat in zip(weights, sums, strict=True):
            weight.main_grad = flat.view(weight.shape)
            weight._hp_grad = flat  # DeepSpeed's name, by which it finds those of tied weights
    for layer in module.modules():
        if isinstance(layer, ColumnParallelLinear | RowParallelLinear):
            layer.gradient_accumulation_fusion = True
    clear = optimizer.clear_hp_grads

    def cleared() -> None:
        clear()
        _have_gradients(optimizer)

    optimizer.clear_hp_grads = cleared
    _have_gradients(optimizer)


def _have_gradients(optimizer: BF16_Optimizer) -> None:
    """DeepSpeed asks which sums have been added to, and is not told by a product; in a step all are."""
    held = cast(Any, optimizer).fp32_groups_has_gradients
    held[:] = [[True] * len(group) for group in held]


def add_product(inputs: torch.Tensor, gradient: torch.Tensor, sums: torch.Tensor) -> None:
    """sums += gradient^T inputs. inputs: [t, i], gradient: [t, o], both bfloat16; sums: float32 [o, i]."""
    if sums.is_cuda:
        torch.addmm(sums, gradient.t(), inputs, out_dtype=torch.float32, out=sums)
    else:
        sums += gradient.t() @ inputs
