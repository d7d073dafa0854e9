from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.parallel.weight_sums import add_product


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**16))
def test_a_product_is_added_to_its_sum(t: int, i: int, o: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, gradient = (torch.randn(t, size, generator=generator).bfloat16() for size in (i, o))
    sums = torch.randn(o, i, generator=generator)
    expected = sums.double() + gradient.double().T @ inputs.double()
    held = sums.data_ptr()
    add_product(inputs, gradient, sums)
    assert (sums.data_ptr(), sums.dtype) == (held, torch.float32)
    # The product itself is rounded to bfloat16 on a CPU.
    torch.testing.assert_close(sums.double(), expected, rtol=2**-7, atol=2**-7 * t**0.5)
