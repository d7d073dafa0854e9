"""The states of torch's random generators, which a resumed run goes on with.

Nothing in a Llama draws after the start, so they decide nothing today; what draws tomorrow, dropout for one, goes on as
if never interrupted.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

import torch


def random_states() -> dict[str, str]:
    """This rank's, base64 by device: `cpu` and, where there is one, `cuda`."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return {device: b64encode(state.numpy().tobytes()).decode() for device, state in states.items()}


def restore_random_states(states: Sequence[Mapping[str, str]], rank: int) -> None:
    """Set this rank's from those of all ranks that saved; of fewer of them some are taken twice.

    Raises ValueError where a state is none.
    """
    own = states[rank % len(states)]
    found = {device: torch.frombuffer(bytearray(b64decode(own[device])), dtype=torch.uint8) for device in own}
    try:
        torch.set_rng_state(found["cpu"])
        if torch.cuda.is_available() and "cuda" in found:
            torch.cuda.set_rng_state(found["cuda"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"random state of rank {rank}: {error}; the checkpoint is another version's"
        ) from None
