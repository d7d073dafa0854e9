from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from trainer.parallel.grid import Grid


# No test may fail because other work slows the machine down.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="module")
def single_rank() -> Iterator[Grid]:
    """This process as the only rank of a job, for code that asks process groups."""
    from configs.layout import Layout
    from trainer.parallel.grid import start_grid, stop_grid

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (environment | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}).items():
            patch.setenv(key, value)
        yield start_grid(Layout(tensor=1, pipeline=1, data=1))
        stop_grid()
