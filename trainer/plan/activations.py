"""Activations of a rank: what one micro-batch leaves behind for its backward pass, and what the passes need beside it.

Counted over `trainer/model/layers.py` and `trainer/loss.py` tensor by tensor, one storage once, as flash attention on a
GPU keeps them (queries, keys, values, output and a float32 log-sum for each token and head). All in bytes. Letters: T
places of a micro-batch (s x b), S those of the residual stream (T / tensor with sequence parallelism), h hidden size, a
and k query and key-value heads of a rank, d head size, f its part of the feed-forward size.
"""

from __future__ import annotations

from trainer.plan.setup import Recompute, Setup


def norm_kept(setup: Setup) -> float:
    """RMSNorm: its input and a factor for each place."""
    return setup.stream_tokens * (float(setup.item * setup.shape.hidden) + 4)


def layer_kept(setup: Setup, mode: Recompute | None = None) -> float:
    """What a decoder layer keeps of one micro-batch."""
    mode = mode or setup.recompute
    shape, tensor, item = setup.shape, setup.layout.tensor, setup.item
    if mode == "full":
        return item * setup.stream_tokens * shape.hidden
    d = shape.head_dim
    a, k = shape.heads // tensor * d, shape.kv_heads // tensor * d
    f = shape.intermediate // tensor
    qkv = a + 2 * k
    # Queries, keys and values, turned; attention's output, which goes into the next product; gate and up. Of several
    # rows the output is put in another order for the product, and flash attention keeps its own.
    inner = qkv + a + 2 * f + (a if setup.micro_rows > 1 else 0)
    kept = 2 * norm_kept(setup) + setup.tokens * (item * inner + 4.0 * (shape.heads // tensor))
    if mode == "none":
        # What products are made of: both norms' output and the gate's.
        kept += 2 * stream_bytes(setup) + setup.tokens * item * f
    return kept


def loss_kept(setup: Setup) -> float:
    """Final norm, the targets' hidden states and their logits over this rank's vocabulary.

    The worst case, in which every place is a target: rows of an agent's prompts and observations have fewer. The final
    norm's output goes into no product and is kept by the pipeline, where `stage_kept` counts it.
    """
    picked = setup.item * setup.tokens * setup.shape.hidden
    return norm_kept(setup) + picked + setup.item * setup.tokens * vocabulary(setup)


def vocabulary(setup: Setup) -> int:
    """Rows of the output matrix that a rank holds."""
    return -(-setup.shape.vocab // setup.layout.tensor)


def stage_kept(setup: Setup, stage: int) -> float:
    """What a stage keeps of one micro-batch from its forward to its backward pass, the loss apart.

    Beside its layers': hidden states received from the stage before, those sent on, tokens, positions and labels.
    """
    stream, places = stream_bytes(setup), 8.0 * setup.tokens  # numbers of int64
    kept = setup.decoders(stage) * layer_kept(setup)
    if setup.first(stage):
        kept += (3 if setup.layout.tensor > 1 else 2) * places  # megatron-core shifts the tokens of its slice
    else:
        kept += stream + 2 * places
    if setup.last(stage):
        return kept + setup.item * setup.tokens * setup.shape.hidden + 2 * places
    return kept + stream


def stream_bytes(setup: Setup) -> float:
    """Hidden states between layers, as much of them as a rank has."""
    return setup.item * setup.stream_tokens * setup.shape.hidden


def outputs_left(setup: Setup, stage: int) -> float:
    """What DeepSpeed lets go of late: the last stage's outputs of a micro-batch stay until its place in the pipeline is
    taken again, and with them, where it is not the first too, what it received and that one's gradient."""
    if not setup.last(stage):
        return 0.0
    row = setup.item * setup.tokens * setup.shape.hidden
    return row + (0 if setup.first(stage) else 2 * stream_bytes(setup))


def layer_working(setup: Setup) -> float:
    """The most that the backward pass of a layer needs at a time, less what it has let go of by then.

    It begins with the feed-forward part: the gradient of its second product's input, P bytes, and of the weight; then
    those of gate and up. With `full` the whole layer is computed again before.
    """
    item, h = setup.item, setup.shape.hidden
    f = setup.shape.intermediate // setup.layout.tensor
    part = item * f * setup.tokens
    row = item * setup.tokens * h if setup.sequence else 0.0
    most = max(row + part + item * f * h, 2.0 * part)
    if setup.recompute == "selective":
        return max(most, 3.0 * part)
    if setup.recompute == "full":
        # In float32 the first norm keeps the layer's input as it is, which is there already.
        shared = stream_bytes(setup) if item == 4 else 0.0
        return layer_kept(setup, "none") - shared + most
    return most


def loss_working(setup: Setup) -> float:
    """The same of the loss: the gradients of the targets' hidden states and of the head. That of the logits takes their
    place."""
    item, h, v = setup.item, setup.shape.hidden, vocabulary(setup)
    return item * (setup.tokens * h + v * h)
