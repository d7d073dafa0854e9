"""Gradients that products add to their sums are those that DeepSpeed adds: none is lost, none counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_pool import RankPool
from tiny import layout, write_config

ROUNDING = 2.0**-8
"""Of bfloat16: DeepSpeed adds gradients that were rounded to it."""


@pytest.mark.parametrize(
    ("overrides", "processes", "tied"),
    [
        (layout(), 1, True),
        (layout(2, 2, sequence=True, recompute="selective"), 4, False),
        (layout(1, 2, 2), 4, True),
        (layout(1, 2, schedule="dualpipev", recompute="full"), 2, False),
    ],
    ids=["one rank, tied", "TP2 PP2 sequence", "PP2 DP2 tied", "PP2 dualpipev"],
)
def test_sums_of_every_parameter(
    overrides: list[str],
    processes: int,
    tied: bool,
    ranks: RankPool,
    model: Path,
    tied_model: Path,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "run.yaml", tied_model if tied else model, model={"dtype": "bfloat16"})

    def sample(row: int, trained: bool) -> dict[str, object]:
        tokens = [(7 * row + 3 * place) % 1000 + 5 for place in range(40)]
        return {"tokens": tokens, "trained": [trained and place > 3 for place in range(40)], "source": 0}

    # Of the four micro-batches one has no target at all.
    rows = [[sample(row, trained=row != 2), sample(row + 9, trained=row != 2)] for row in range(4)]
    ours, theirs = (
        ranks.run(
            "weight_sum_tasks.gradients",
            processes,
            config=str(config),
            overrides=overrides,
            rows=rows,
            apart=apart,
        )
        for apart in (False, True)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, (norm, total) in mine.items():
            assert norm == pytest.approx(other[name][0], rel=2 * ROUNDING), name
            assert total == pytest.approx(other[name][1], abs=8 * ROUNDING * norm), name
