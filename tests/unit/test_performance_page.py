"""docs/performance.md says what is recorded, no more."""

from __future__ import annotations

from benchmarks import table


def test_tables_are_those_of_the_recorded_results() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), (
        "python benchmarks/table.py writes them anew"
    )


def test_every_goal_has_a_command_and_no_figure_stands_where_none_was_measured(monkeypatch) -> None:
    monkeypatch.setattr(table, "recorded", lambda name: {})
    rows = list(table.goals())
    assert all(measured == "–" for _, _, measured, _, _ in rows)
    assert all(command.startswith("make bench") for number, _, _, _, command in rows if number)
