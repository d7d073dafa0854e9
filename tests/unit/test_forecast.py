"""What a run writes of its plan, and what it says of it after its third step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from configs.layout import Layout
from configs.schema import BatchConfig, Config, ParallelConfig
from configs.shapes import SHAPES
from trainer import forecast as module
from trainer.forecast import compared, forecast, write_forecast
from trainer.metrics import StepReport

LAYOUT = Layout(2, 2, 2)
CONFIG = Config(parallel=ParallelConfig(tensor=2, pipeline=2, data=2), batch=BatchConfig(rows=16))
REPORT: Any = SimpleNamespace(step=3, tokens=60_000, tokens_per_second=30_000.0, step_seconds=2.0)


def grid(kind: str) -> Any:
    return SimpleNamespace(layout=LAYOUT, device=torch.device(kind))


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """An H100, whose memory the tests give, on two nodes of four; what ranks sum is kept."""
    shared: list[float] = []

    def all_reduce(most: torch.Tensor, op: Any) -> None:
        assert op == torch.distributed.ReduceOp.MAX
        shared.append(float(most))
        most.fill_(40e9)

    make = torch.tensor
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 30e9)
    monkeypatch.setattr(module.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(module.torch, "tensor", lambda value, dtype, device: make(value, dtype=dtype))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_SIZE", "4")  # by DeepSpeed's launcher, which `agenttune train` has on each host
    return shared


def test_written_at_the_start(tmp_path: Path, on_gpus: list[float]) -> None:
    plan = forecast(CONFIG, SHAPES["llama2-7b"], grid("cuda"))
    assert plan is not None
    write_forecast(plan, tmp_path)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["layout"] == {"tensor": 2, "pipeline": 2, "data": 2}
    assert written["step_seconds"] == plan.choice.speed.time.total
    assert written["stages"][0]["traffic"]["data"]["link"] == "node"
    assert written["stages"][0]["traffic"]["pipeline"]["link"] == "network"
    assert on_gpus == []  # nothing is shared for it


def test_none_under_a_schedule_that_is_not_planned(tmp_path: Path, on_gpus: list[float]) -> None:
    """Nor one that is left from a start under another."""
    write_forecast(forecast(CONFIG, SHAPES["llama2-7b"], grid("cuda")), tmp_path)
    folded = replace(CONFIG, parallel=replace(CONFIG.parallel, schedule="dualpipev"))
    plan = forecast(folded, SHAPES["llama2-7b"], grid("cuda"))
    write_forecast(plan, tmp_path)
    assert not (tmp_path / "plan.json").exists()
    assert compared(plan, REPORT, grid("cuda")) == ""
    assert on_gpus == []


def test_without_gpus_no_time_is_predicted_and_nothing_is_said(tmp_path: Path) -> None:
    plan = forecast(CONFIG, SHAPES["llama2-7b"], grid("cpu"))
    write_forecast(plan, tmp_path)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert "step_seconds" not in written
    assert written["stages"][1]["memory"]["weights"] > 0
    assert compared(plan, REPORT, grid("cpu")) == ""
    assert compared(None, REPORT, grid("cpu")) == ""


def test_compared_on_gpus(on_gpus: list[float]) -> None:
    plan = forecast(CONFIG, SHAPES["llama2-7b"], grid("cuda"))
    assert plan is not None
    report: StepReport = REPORT
    said = compared(plan, report, grid("cuda"))
    assert on_gpus == [30e9]
    seconds, memory = plan.choice.speed.time.total, plan.choice.peak.torch / 1e9
    assert f"tokens/s {60_000 / seconds:,.0f} and 30,000 (" in said
    assert f"step {seconds:.2f} s and 2.00 s ({2.0 / seconds - 1:+.0%})" in said
    assert f"memory of the fullest rank {memory:.1f} GB and 40.0 GB ({40 / memory - 1:+.0%})" in said
    assert "\n" not in said
    unknown = compared(replace(plan, timed=False), report, grid("cuda"))
    assert "tokens/s" not in unknown
    assert "40.0 GB" in unknown


def test_a_forecast_holds_the_runs_own_layout() -> None:
    plan = forecast(CONFIG, SHAPES["llama2-7b"], grid("cpu"))
    assert plan is not None
    assert plan.choice.setup.layout == LAYOUT
