"""What lint says of training: by data.on_error, data.max_bad_rows, and where the bad rows are."""

from __future__ import annotations

import pytest

from configs.schema import DataConfig, SourceConfig
from launch.lint_verdict import Seen, verdicts


def said(bad: int, early: int, *, on_error: str, limit: int = 100, eta: float = 0.5) -> tuple[str, bool]:
    sources = [SourceConfig("a", "-", "agent"), SourceConfig("g", "-", "general")]
    data = DataConfig(sources=sources, eta=eta, on_error=on_error, max_bad_rows=limit)  # pyright: ignore[reportArgumentType]
    (verdict,) = verdicts(data, [Seen("a", 5000, 4000, bad, early), Seen("g", 5000, 4000, 1, 0)])
    return verdict.said, verdict.stops


@pytest.mark.parametrize(
    ("bad", "early", "settings", "words", "stops"),
    [
        (
            6,
            1,
            {"on_error": "strict"},
            "7 bad row(s), data.on_error=strict: training does not start; mend them",
            True,
        ),
        (6, 0, {"on_error": "strict"}, "training stops when it has drawn 1 of them; mend them", True),
        (6, 0, {"on_error": "strict", "limit": 6}, "data.on_error=skip data.max_bad_rows=7", True),
        (
            6,
            6,
            {"on_error": "skip", "limit": 7},
            "leaves out each that it draws, data.max_bad_rows=7 allows",
            False,
        ),
        (
            7,
            7,
            {"on_error": "skip", "limit": 7},
            "training stops when it has drawn 8 of them; mend them",
            True,
        ),
        (8, 8, {"on_error": "skip", "limit": 7}, "data.max_bad_rows=7: training does not start; mend", True),
        (
            8,
            8,
            {"on_error": "skip", "limit": 7, "eta": 0.0},
            "1 bad row(s), data.on_error=skip: training",
            False,
        ),
        (1200, 0, {"on_error": "skip"}, "1,201 bad row(s), ", True),
        (1200, 0, {"on_error": "skip"}, "or set data.max_bad_rows=1201", True),
    ],
)
def test_bad_rows(bad: int, early: int, settings: dict[str, object], words: str, stops: bool) -> None:
    told, stopped = said(bad, early, **settings)  # pyright: ignore[reportArgumentType]
    assert words in told
    assert stopped == stops


def test_good_data_is_not_spoken_of() -> None:
    sources = [SourceConfig("a", "-", "agent")]
    assert list(verdicts(DataConfig(sources=sources), [Seen("a", 3, 3, 0, 0)])) == []
