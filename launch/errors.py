"""An error in one line, as a person is told of it, and the exit code that it means."""

from __future__ import annotations

from configs.errors import ConfigError
from tokenization.errors import DataError


def one_line(error: Exception) -> str:
    """With its type, unless that is known by the exit code."""
    text = " ".join(str(error).split())
    known = isinstance(error, ConfigError | DataError)
    return text if known else f"{type(error).__name__}: {text}".rstrip(": ")


def exit_code(error: Exception) -> int:
    """2 for a bad config, 3 for bad data, else 1."""
    return error.exit_code if isinstance(error, ConfigError | DataError) else 1
