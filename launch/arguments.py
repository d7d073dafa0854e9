"""A command line's own mistakes, told like those in a config: one line, exit code 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

from configs.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are ConfigErrors instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")
