"""Where samples lie in the rows of a micro-batch, found on the CPU before the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SampleBounds:
    """Of a micro-batch's rows, one after the other: t = b s places. Padding is a sample of its own."""

    edges: tuple[int, ...]
    """Where samples begin, closed by t."""
    cumulative: torch.Tensor
    """The same, int32 [samples + 1], where the layers are."""
    positions: torch.Tensor
    """Place of each token in its sample, int64 [b, s], there too."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [stop - start for start, stop in zip(self.edges, self.edges[1:], strict=False)]


def sample_bounds(positions: torch.Tensor, device: torch.device | None = None) -> SampleBounds:
    """positions: integer [b, s], restarting at 0 with every sample, with the padding and with each row.

    What layers take of it goes to `device`, by default that of the positions. Waits for the device where these are not
    on the CPU. Raises ValueError where a row does not begin with 0.
    """
    device = device or positions.device
    if bool((positions[:, 0] != 0).any()):
        raise ValueError(
            f"positions must begin with 0 in each row, they begin with {positions[:, 0].tolist()}"
        )
    starts = (positions.flatten() == 0).nonzero().flatten().tolist()
    edges = (*starts, positions.numel())
    cumulative = torch.tensor(edges, dtype=torch.int32)
    return SampleBounds(edges, to_device(cumulative, device), to_device(positions, device))


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on a GPU is begun and not waited for: memory that may not be paged out is what that needs."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
