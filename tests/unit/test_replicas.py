from __future__ import annotations

import pytest
import torch

from trainer.checkpoint.replicas import differ

COPY = torch.tensor([1.0, -2.0, 0.0, 1e-3])


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_what_is_alike(tolerance: float) -> None:
    assert not differ(torch.stack([COPY, COPY]), tolerance)
    assert not differ(torch.zeros(3, 4), tolerance)


def test_rounding_is_a_difference_where_there_must_be_none() -> None:
    copies = torch.stack([COPY, COPY * (1 + 1e-2)])
    assert differ(copies, 0.0)
    assert not differ(copies, 0.1)


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("copy", [0, 1, 2])
@pytest.mark.parametrize("value", [1e36, float("inf"), float("nan"), 1.0])
def test_one_number_of_one_copy(copy: int, value: float, tolerance: float) -> None:
    held = torch.stack([COPY] * 3)
    held[copy, 2] = value
    assert differ(held, tolerance)


def test_a_copy_that_was_never_reduced() -> None:
    assert differ(torch.stack([COPY, torch.zeros(4)]), 0.1)
