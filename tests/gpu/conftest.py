"""Tests of what only a GPU has: its kernels, its queue. Where torch sees none they are skipped, and say so.

`pytest tests/gpu`; `make bench-gpu` runs them too. One process, which is the only rank of its job.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "tests/gpu" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch sees none"))


@pytest.fixture(autouse=True)
def _only_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the only rank of a job."""
    from trainer.parallel.grid import stop_grid

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for key, value in (environment | {"MASTER_PORT": str(port)}).items():
        monkeypatch.setenv(key, value)
    yield
    if torch.distributed.is_initialized():
        stop_grid()
