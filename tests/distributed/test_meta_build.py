"""The shipped 7B, 13B and 70B layouts, built stage by stage on the meta device."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from rank_pool import RankPool

from configs.layout import Layout, resolve_layout
from configs.load import load_config
from configs.shapes import SHAPES, ModelShape
from trainer.model.names import Piece, owned_table, stage_table
from trainer.stages import divide, layer_costs

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Processes each config is meant for, and the parameters that Meta's models have.
RUNS = {
    "llama2-7b": ("llama2_7b.yaml", 8, 6_738_415_616),
    "llama2-13b": ("llama2_13b.yaml", 8, 13_015_864_320),
    "llama2-70b": ("llama2_70b.yaml", 32, 68_976_648_192),
}


def rank_of(layout: Layout, tensor_rank: int, stage: int) -> int:
    """Of data rank 0. Tensor ranks are neighbours, then data ranks, then stages."""
    return tensor_rank + layout.tensor * layout.data * stage


def parameter_shape(pieces: tuple[Piece, ...], tensor: int) -> list[int]:
    """Slices one below the other. All of Llama 2's sizes divide evenly."""
    rows, rest = 0, [0]
    for piece in pieces:
        height, *rest = piece.shape
        if piece.split == "rows":
            assert height % tensor == 0
            height //= tensor
        elif piece.split == "columns":
            assert rest[0] % tensor == 0
            rest = [rest[0] // tensor]
        rows += height
    return [rows, *rest]


@pytest.mark.parametrize("name", RUNS)
def test_every_tensor_has_one_home(name: str, ranks: RankPool, tmp_path: Path) -> None:
    file, processes, parameters = RUNS[name]
    config = load_config(CONFIGS / file)
    layout = resolve_layout(config, processes)
    assert layout.world_size == processes
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[name].hf_config()))
    shape = ModelShape.from_folder(tmp_path)
    asked = [rank_of(layout, t, s) for s in range(layout.pipeline) for t in (0, layout.tensor - 1)]
    sizes = [layout.tensor, layout.pipeline, layout.data]
    length = config.data.sequence_length
    found = ranks.run(
        "stage_parameters", 1, shape=str(tmp_path), sequence_length=length, sizes=sizes, ranks=asked
    )[0]

    stages = divide(layer_costs(shape, length), layout)
    for stage in range(layout.pipeline):
        table = stage_table(shape, stages[stage])
        expected = {name: parameter_shape(pieces, layout.tensor) for name, pieces in table.items()}
        for tensor_rank in (0, layout.tensor - 1):
            assert found[str(rank_of(layout, tensor_rank, stage))] == expected

    owned = [
        piece for s in range(layout.pipeline) for ps in owned_table(shape, stages, s).values() for piece in ps
    ]
    assert Counter(piece.name for piece in owned) == Counter(shape.tensors().keys())
    for piece in owned:
        edges = [piece.bounds(rank, layout.tensor) for rank in range(layout.tensor)]
        if piece.split == "none":
            assert set(edges) == {(0, piece.shape[0])}
        else:
            whole = piece.shape[0 if piece.split == "rows" else 1]
            assert [0, *(stop for _, stop in edges)] == [*(start for start, _ in edges), whole]

    # Norms are held by every tensor rank, everything else once among them.
    held = 0
    for stage in range(layout.pipeline):
        for shape_ in found[str(rank_of(layout, 0, stage))].values():
            held += shape_[0] if len(shape_) == 1 else shape_[0] * shape_[1] * layout.tensor
    assert held == parameters
