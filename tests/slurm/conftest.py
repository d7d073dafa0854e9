"""A cluster for the whole session, and a run's folder on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, cluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(why)
    folder = Path(
        tempfile.mkdtemp(prefix="slurm-")
    )  # pytest's own is closed to munge, and too long for a socket
    try:
        with cluster(folder) as up:
            yield up
    finally:
        shutil.rmtree(folder, ignore_errors=True)
