"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version


def machine(*packages: str) -> str:
    """Processor, cores and the versions that a figure depends on; `packages` beside torch."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
