"""Published throughput beside what the plan says of layouts of ours on the same GPUs.

The others train with FSDP, so tokens per second of each GPU are compared, of our fastest layout for the same model,
GPUs, sequence length and batch, with torch's kernels one after another in place of our fused ones. None of the plan's
constants was chosen by these rows.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product

import pytest

from configs.gpus import GPUS
from configs.layout import Layout
from configs.schema import BatchConfig, Config, DataConfig, ModelConfig, TrainConfig
from configs.shapes import SHAPES
from trainer.plan import work as work_module
from trainer.plan.layouts import make_plan
from trainer.plan.setup import NETWORK_GBIT, Cluster, Setup
from trainer.plan.speed import DATASHEET, speed
from trainer.plan.traffic import Link, bandwidth, data_link, pipeline_link, tensor_link
from trainer.plan.work import KernelBytes, micro_batch_work

# Model, H100s, tokens of a row, rows of a step, tokens/s of each GPU. Nodes have 8, with the network that is assumed.
PUBLISHED = {
    # foundation-model-stack/fms-fsdp: 96 GPUs, two rows on each. With a quarter of that network (800 Gbit/s a node) the
    # plan gives our 7B and 13B two thirds and three quarters of these: DeepSpeed sums float32 gradients after the
    # passes, while FSDP does beside them.
    "fms-fsdp 7B": ("llama2-7b", 96, 4096, 192, 9600),
    "fms-fsdp 13B": ("llama2-13b", 96, 4096, 192, 4850),
    "fms-fsdp 70B": ("llama2-70b", 96, 4096, 192, 890),
    # scripts/train/benchmarking/README.md of mosaicml/llm-foundry, its models of these sizes.
    "llm-foundry 7B": ("llama2-7b", 8, 4096, 256, 8611),
    "llm-foundry 13B": ("llama2-13b", 8, 4096, 240, 4717),
    "llm-foundry 70B": ("llama2-70b", 64, 2048, 2048, 1039),
}


ONE_BY_ONE = KernelBytes(
    # A norm goes to float32 and back, the rotary embedding works on halves, the gate's backward joins two gradients, a
    # softmax is made in float32, and a gradient is cast before it is added.
    *((42.0, 88.0), (6.0, 6.0), (12.0, 31.0), (10.0, 26.0), (34.0, 14.0), (4.0, 4.0)),
    sums={2: 18.0, 4: 12.0},
    looked_up={2: 18.0, 4: 12.0},
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_set_ups_are_feasible_and_as_fast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "OURS", ONE_BY_ONE)
    model, gpus, length, rows, tokens_per_second = PUBLISHED[name]
    config = Config(
        model=ModelConfig(path=""),
        data=DataConfig(sequence_length=length),
        batch=BatchConfig(rows=rows),
        train=TrainConfig(steps=1),
    )
    cluster = Cluster(GPUS["h100"], gpus, 8, NETWORK_GBIT * 1e9 / 8)
    plan = make_plan(config, SHAPES[model], cluster, gpus)
    fastest = plan.ranked[0]
    assert fastest.fits
    assert fastest.speed.per_gpu == pytest.approx(tokens_per_second, rel=0.25)


def setup(**changes: object) -> Setup:
    cluster = Cluster(GPUS["h100"], 32, 8, 50e9)
    base = Setup(SHAPES["llama2-13b"], Layout(4, 4, 2, True), cluster, 2, "selective", 4096, 64, 1)
    return replace(base, **changes)  # pyright: ignore[reportArgumentType]


def test_parts_add_up_and_mfu_is_the_products_share() -> None:
    found = speed(setup())
    assert found.time.total == pytest.approx(sum(asdict(found.time).values()))
    assert found.tokens_per_second == pytest.approx(64 * 4096 / found.time.total)
    assert found.per_gpu == pytest.approx(found.tokens_per_second / 32)
    # By hand: 13.0e9 parameters less the embedding's 0.16e9; attention 6 * 40 layers * 5120 * 4096 a token.
    flops = 64 * 4096 * (6 * (13_015_864_320 - 32000 * 5120) + 6 * 40 * 5120 * 4096)
    assert found.mfu == pytest.approx(flops / (found.time.total * 32 * 989e12))


def test_the_floor_is_the_same_work_at_the_datasheets_rates() -> None:
    found, reached = speed(setup()), speed(setup(), DATASHEET)
    assert found.floor == reached.time.total == reached.floor
    assert 0.37 * found.time.total < found.floor < 0.85 * found.time.total
    alone = setup(layout=Layout(1, 1, 1), recompute="none")
    found = speed(alone)
    assert found.floor == pytest.approx(found.flops / 989e12 + found.moved / 3.35e12)


def test_samples_shorter_than_rows_and_places_without_a_target() -> None:
    """By hand: two rows of 4096, with samples of 3000, 1096, 2048 and 2000, and 48 places of padding."""
    told = setup(layout=Layout(1, 1, 1), samples=(3000, 1096, 2048, 2000), counted_rows=2, targets=0.25)
    full, part = (micro_batch_work(replace(told, targets=share), 0).passes for share in (1.0, 0.25))
    squares = 3000**2 + 1096**2 + 2048**2 + 2000**2
    assert part.attention == pytest.approx(3.5 * 40 * 2 * 5120 * squares / 2)
    assert full.products - part.products == pytest.approx(0.75 * 6 * 32000 * 5120 * 4096)
    tokens, parameters = 8144 / 2, 13_015_864_320 - 32000 * 5120  # of a row
    flops = 64 * (6 * parameters * tokens + 6 * 40 * 5120 * squares / 2)
    found = speed(told)
    assert found.mfu == pytest.approx(flops / (found.time.total * 989e12))


def test_the_embedding_and_several_rows_cost_more() -> None:
    """By hand, of a 13B model on one GPU with micro-batches of one row and of two."""
    alone = setup(layout=Layout(1, 1, 1), recompute="none")
    one, two = micro_batch_work(alone, 0), micro_batch_work(replace(alone, micro_rows=2), 0)
    parameters, embedding = 13_015_864_320, 32000 * 5120
    assert one.sums == two.sums == 8 * (parameters - embedding) + 18 * embedding
    copied = 40 * 2 * 4096 * (3 + 1) * 5120 * (4 + 4)
    assert two.passes.moved == pytest.approx(2 * one.passes.moved + copied)
    assert two.passes.products == 2 * one.passes.products


def test_what_slows_a_step() -> None:
    base = speed(setup()).time
    assert speed(setup(recompute="none")).time.recompute == 0
    assert speed(setup(recompute="full")).time.recompute > base.recompute > 0
    slow = speed(setup(cluster=Cluster(GPUS["h100"], 32, 8, 5e9))).time
    assert slow.pipeline > 9 * base.pipeline  # a stage fills a node
    assert slow.data == base.data
    wide = Layout(8, 1, 4, True)
    near, far = (
        speed(setup(layout=wide, cluster=Cluster(GPUS["h100"], 32, 8, rate))).time for rate in (50e9, 5e9)
    )
    assert far.data == pytest.approx(10 * near.data)
    assert speed(setup(layout=Layout(4, 1, 8, True))).time.bubble == 0
    assert base.bubble / (base.total - base.data - base.optimizer) == pytest.approx(3 / 35)


@pytest.mark.parametrize(
    ("layout", "per_node", "tensor", "pipeline", "data"),
    [
        (Layout(8, 4, 1), 8, "node", "network", "node"),
        (Layout(4, 2, 1), 8, "node", "node", "node"),
        (Layout(4, 1, 4), 8, "node", "node", "network"),
        (Layout(2, 2, 4), 8, "node", "network", "node"),
        (Layout(16, 1, 1), 8, "network", "node", "node"),
        (Layout(4, 1, 3), 6, "network", "node", "network"),
    ],
)
def test_links(layout: Layout, per_node: int, tensor: Link, pipeline: Link, data: Link) -> None:
    """By hand: ranks are numbered by tensor, then data, then stage."""
    found = setup(layout=layout, cluster=Cluster(GPUS["h100"], layout.world_size, per_node, 50e9))
    assert (tensor_link(found), data_link(found)) == (tensor, data)
    if layout.pipeline > 1:
        assert pipeline_link(found) == pipeline


def test_links_agree_with_every_ranks_node() -> None:
    """Groups written down rank by rank."""
    for tensor, data, stages, per_node in product((1, 2, 3, 4, 8), (1, 2, 3, 8), (1, 2, 3), (4, 8)):
        layout = Layout(tensor, stages, data)
        found = setup(layout=layout, cluster=Cluster(GPUS["h100"], layout.world_size, per_node, 50e9))
        ranks = range(layout.world_size)
        node = {rank: rank // per_node for rank in ranks}
        groups = [[r for r in ranks if r // tensor == g] for g in range(data * stages)]
        inside = all(len({node[r] for r in group}) == 1 for group in groups)
        if (
            not inside or layout.world_size % per_node == 0
        ):  # a last node that is not full may spare a crossing
            assert (tensor_link(found) == "node") == inside


def test_a_ring_shares_the_adapters_of_its_node() -> None:
    cluster = Cluster(GPUS["h100"], 32, 8, 50e9)
    assert bandwidth(cluster, "node", 8, 1) == 450e9
    assert bandwidth(cluster, "network", 32, 1) == 400e9  # eight adapters
    assert bandwidth(cluster, "network", 4, 8) == 50e9  # one rank of the group in each node
    assert bandwidth(cluster, "network", 8, 4) == 100e9


def test_each_part_by_hand() -> None:
    """Of a 7B model's last stage, which is the slowest: tensor 2 x pipeline 2 x data 2 on a node of H100s."""
    shape, layout = SHAPES["llama2-7b"], Layout(2, 2, 2)
    setup = Setup(shape, layout, Cluster(GPUS["h100"], 8, 8, 50e9), 2, "none", 4096, 16, 1)
    time, layers, m = speed(setup).time, setup.decoders(1), 8
    tokens, h, intermediate, vocabulary = 4096, 4096, 11008, 32000
    weights = layers * (4 * h * h + 3 * h * intermediate) / 2 + vocabulary / 2 * h
    products = 6 * weights * tokens / (989e12 * 0.80)
    attention = 3.5 * layers * (2 * 4096 * h / 2) * tokens / (989e12 * 0.37)
    moving = 3.35e12 * 0.85
    layer = (
        2 * tokens * h * (4 + 10 + 6 + 6) + tokens * 1.5 * h * (4 + 4) + tokens * intermediate / 2 * (6 + 10)
    )
    logits = (4 + 4) * tokens * vocabulary / 2
    numbers = weights + layers * 2 * h + h
    assert time.compute == pytest.approx(m * (products + attention))
    assert time.kernels == pytest.approx(m * (layers * layer + logits) / moving)
    assert time.accumulate == pytest.approx(m * 8 * numbers / moving)
    assert time.optimizer == pytest.approx(
        numbers * (28 + 8 + (28 + 6) / 2) / moving, rel=1e-3
    )  # of the fuller stage, padded
    assert time.data == pytest.approx(
        numbers * (4 + 2 / 2) / (450e9 * 0.82), rel=1e-3
    )  # summed, and weights gathered
    assert time.bubble == pytest.approx(
        (time.compute + time.kernels + time.accumulate + time.tensor + time.pipeline) / m
    )
