"""One loss and one gradient norm, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from layout_table import CASES, DATA, MORE_CASES, REFERENCE, TOLERANCE, Case, Curve, case, curve, write_run
from rank_pool import RankPool
from tiny import write_config

DEMO = [*CASES, *(pytest.param(one, marks=pytest.mark.long) for one in MORE_CASES)]
REAL = [
    case(2, 2, sequence=True),
    *(pytest.param(one, marks=pytest.mark.long) for one in (case(1, 3), case(1, 1, 2))),
]
REAL_STEPS = 2
"""Few, because a step of real rows takes seconds; `layout_table.py` runs all of all."""


@pytest.fixture(scope="module")
def demo_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("demo") / "run.yaml", model)


@pytest.fixture(scope="module")
def demo_reference(ranks: RankPool, demo_run: Path) -> Curve:
    return curve(ranks, demo_run, REFERENCE)


@pytest.mark.parametrize("case", DEMO, ids=lambda case: case.name)
def test_demo_rows(case: Case, ranks: RankPool, demo_run: Path, demo_reference: Curve) -> None:
    assert max(curve(ranks, demo_run, case).distance(demo_reference)) < TOLERANCE


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the real tokenizer and conversations are not here: no folder {DATA}")
    return write_run(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def real_reference(ranks: RankPool, real_run: Path) -> Curve:
    return curve(ranks, real_run, REFERENCE, REAL_STEPS)


@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_real_rows(case: Case, ranks: RankPool, real_run: Path, real_reference: Curve) -> None:
    assert max(curve(ranks, real_run, case, REAL_STEPS).distance(real_reference)) < TOLERANCE


def test_steps_change_the_loss(demo_reference: Curve) -> None:
    """Or else agreement after the first step would say nothing about the update."""
    assert len(set(demo_reference.losses)) == len(demo_reference.losses)
    assert all(norm > 0.1 for norm in demo_reference.norms)
