"""Each stage knows which micro-batch passes, and does not go on with another one's bounds."""

from __future__ import annotations

import pytest
import torch

from trainer.bounds import sample_bounds
from trainer.parallel.passing import Passage, Passing


def passage(*lengths: int) -> Passage:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    return Passage((torch.zeros_like(positions), positions), (), sample_bounds(positions))


FIRST, SECOND = passage(3, 5), passage(8)


def test_parts_see_the_micro_batches_in_order_each_for_itself() -> None:
    passing = Passing()
    for _ in range(2):  # two steps
        passing.expect([FIRST, SECOND])
        for part, micro in ((0, FIRST), (0, SECOND), (1, FIRST), (1, SECOND)):
            assert passing.now is None
            with passing.through(part, micro.inputs):
                assert passing.now is micro.bounds
    assert passing.now is None


def test_another_micro_batch_than_the_one_that_is_due_is_an_error() -> None:
    passing = Passing()
    passing.expect([FIRST, SECOND])
    with (
        pytest.raises(RuntimeError, match="not those of the rows that are due"),
        passing.through(0, SECOND.inputs),
    ):
        pass
    assert passing.now is None


def test_one_more_than_expected_is_an_error() -> None:
    passing = Passing()
    passing.expect([FIRST])
    with passing.through(0, FIRST.inputs):
        pass
    with pytest.raises(RuntimeError, match="1 micro-batches were expected"), passing.through(0, FIRST.inputs):
        pass
