from __future__ import annotations

import pytest
import torch

from trainer.checkpoint.replicas import apart

COPY = torch.tensor([1.0, -2.0, 0.0, 1e-3])


def test_rounding_is_no_difference() -> None:
    assert not apart(torch.stack([COPY, COPY]))
    assert not apart(torch.stack([COPY, COPY * (1 + 1e-2)]))
    assert not apart(torch.zeros(3, 4))


@pytest.mark.parametrize("copy", [0, 1, 2])
@pytest.mark.parametrize("value", [1e36, float("inf"), float("nan"), 1.0])
def test_one_number_of_one_copy(copy: int, value: float) -> None:
    held = torch.stack([COPY] * 3)
    held[copy, 2] = value
    assert apart(held)


def test_a_copy_that_was_never_reduced() -> None:
    assert apart(torch.stack([COPY, torch.zeros(4)]))
