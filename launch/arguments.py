"""A command line's own mistakes, told like those in a config: one line, exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from configs.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are ConfigErrors instead of a usage text."""

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Options may stand anywhere among KEY=VALUE."""
        return self.parse_intermixed_args(None if args is None else list(args), namespace)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")
