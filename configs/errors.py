"""The two errors a user can mend: a wrong setting and a wrong line of data."""

from __future__ import annotations

REQUEUE = 75
"""Exit code of a run that saved and stopped because it was told to: start it again to go on."""


class ConfigError(ValueError):
    """A setting that cannot work: one line with the value, the limit and the remedy. Exit code 2."""

    exit_code = 2
