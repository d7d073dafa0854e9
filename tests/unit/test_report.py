"""`agenttune report`: one page with nothing fetched and nothing executed, whatever a run's folder holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.cli import main
from launch.report_charts import charts, left_out, series, smoothed, thinned
from launch.report_run import read_run


def step(number: int, **changes: Any) -> dict[str, Any]:
    report = {
        **{
            "step": number,
            "loss": 5 / number,
            "loss_by_source": {"agent": 4 / number, "general": 6 / number},
        },
        **{
            "lr": 1e-3,
            "grad_norm": 1.5,
            "targets": 300,
            "tokens": 900,
            "rows": 4,
            "fill": 0.9,
            "step_seconds": 2.0,
        },
        **{
            "tokens_per_second": 450.0,
            "data_wait_seconds": 0.01,
            "data_hash": "0",
            "skipped": 0,
            "mfu": None,
        },
    }
    return report | changes


def write_run(folder: Path, steps: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return folder


class Page(HTMLParser):
    """The page's tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def made(run: Path) -> Page:
    assert main(["report", str(run)]) == 0
    return Page((run / "report.html").read_text())


def test_a_run_with_all_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [step(n, mfu=0.4, memory=4e9, loss_by_kind={"text": 1.0, "call_name": 0.5}) for n in range(1, 60)]
    lines[30] |= {"skipped": 1, "loss": None}
    lines[31:] = [line | {"skipped": 1} for line in lines[31:]]
    run = write_run(tmp_path / "a run", lines)
    evaluation = {"step": 50, "loss": 0.25, "calls": 8, "name_exact": 0.75, "call_exact": 0.5}
    (run / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    (run / "summary.json").write_text(json.dumps({"data/agent/drawn": 1234, "data/general/drawn": 5}))
    (run / "start.json").write_text(json.dumps({"groups": 3.0, "first step": 1.0}))
    (run / "config.yaml").write_text("run: {seed: 7}\n")
    memory = {"weights": 2e9, "total": 5e9, "loss": 0.0}
    stages = [{"stage": n, "decoder_layers": 4, "memory": memory} for n in range(2)]
    (run / "plan.json").write_text(json.dumps({"stages": stages}))
    page = made(run)
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    titles = {"Loss", "Loss by kind of span", "Held out, right", "Gradient norm", "Speed", "Shares", "Data"}
    titles |= {
        "Newest start",
        "Planned memory of a rank on a GPU, GB",
        "Held out",
        "Memory of rank 0",
        "Learning rate",
    }
    assert titles <= set(page.words)
    assert {"59", "1,234", "0.2500", "40.0%", "stage 1, 4 layers", "75%", "run: {seed: 7}"} <= set(page.words)
    assert "1 step(s) left out, their loss or gradient was no number or a spike: 31" in page.words
    assert sum(tag == "svg" for tag, _ in page.tags) == 8


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    norms = {"embedding": 1.0, "layer_00": 0.5, "head": 2.0}
    page = made(write_run(tmp_path / "run", [step(n, grad_norm_by_layer=norms) for n in range(1, 5)]))
    assert "Gradient norm by layer" in page.words
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), (tag, value)
    text = (tmp_path / "run/report.html").read_text()
    assert not re.search(r"url\((?!#)", text)


def test_what_data_says_is_text(tmp_path: Path) -> None:
    """A source's name is the user's; so is a row that an error quotes."""
    name = "<script>alert(1)</script>"
    run = write_run(tmp_path / "run", [step(n, loss_by_source={name: 1.0, "b": 2.0}) for n in range(1, 5)])
    (run / "summary.json").write_text(json.dumps({f"data/{name}/drawn": 3}))
    (run / "config.yaml").write_text(name)
    (run / "logs").mkdir()
    begins = "2026 rank 1 begins: process 7 on n0\n"
    log = f"{begins}Traceback (most recent call last):\nOSError: {name}\n"
    (run / "logs/rank-00001.log").write_text(log)
    page = made(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count(name) >= 2
    assert f"the newest start ended with an error, rank-00001: OSError: {name}" in page.words
    (run / "logs/rank-00001.log").write_text(log + begins)  # it went on since
    assert not any("ended with an error" in word for word in made(run).words)


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [])
    assert "none yet" in made(run).words
    with (run / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(step(1)) + '\n{"step": 2, "lo')
    assert "Loss" in made(run).words  # while the next line is written


def test_a_folder_that_is_none_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "no metrics.jsonl in it; name a run's folder" in capsys.readouterr().err
    run = write_run(tmp_path / "run", [step(1)])
    assert main(["report", str(run), "--out", str(tmp_path / "absent/x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [step(n) for n in range(1, 30)])
    first = [chart.svg for chart in charts(read_run(run))]
    assert first == [chart.svg for chart in charts(read_run(run))]


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(VALUES, st.integers(1, 50))
def test_thinning_keeps_the_mean_and_smoothing_the_range(values: list[float], points: int) -> None:
    pairs = (np.arange(1.0, len(values) + 1), np.array(values))
    steps, means = thinned(pairs, points)
    assert len(steps) == len(means) == min(points, len(values))
    assert np.all(np.diff(steps) > 0)
    if len(values) % points == 0:
        assert np.isclose(means.mean(), np.mean(values), atol=1e-3)
    _, smooth = smoothed(pairs)
    assert np.all(smooth <= max(values) + 1e-3)
    assert np.all(smooth >= min(values) - 1e-3)


def test_series_leave_out_what_is_not_there() -> None:
    lines = [step(1), step(2, loss=None), {"step": 3}, step(4, loss_by_source={"b": 1.0})]
    assert series(lines, "loss")[0].tolist() == [1.0, 4.0]
    assert series(lines, "loss_by_source", "b")[0].tolist() == [4.0]
    assert [line["step"] for line in left_out([step(1), step(2, skipped=1), step(3, skipped=1)])] == [2]


def test_an_error_of_a_rank_that_is_no_more_is_past(tmp_path: Path) -> None:
    """After a start that ran out of memory comes one on fewer ranks."""
    run = write_run(tmp_path / "run", [step(n) for n in range(1, 5)])
    (run / "logs").mkdir()
    for rank in range(4):
        (run / f"logs/rank-0000{rank}.log").write_text(f"2026 rank {rank} begins: process 7 on n0\n")
    error = "Traceback (most recent call last):\nRuntimeError: out of memory\n"
    (run / "logs/rank-00003.log").write_text(f"2026 rank 3 begins: process 7 on n0\n{error}")
    for data, errors in ((2, 1), (1, 0)):  # copies of the model in the newest start
        layout = {"tensor": 2, "pipeline": 1, "data": data}
        (run / "plan.json").write_text(json.dumps({"layout": layout}))
        assert len(read_run(run).errors) == errors


def test_a_held_out_loss_that_is_no_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [step(n) for n in range(1, 5)])
    (run / "evaluations.jsonl").write_text(json.dumps({"step": 4, "loss": None}) + "\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/latest").write_text("step-00000009\n")  # of a folder that somebody has deleted
    assert "no number" in made(run).words
