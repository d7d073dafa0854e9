"""What `benchmarks/gpu.py` makes of its parts' answers, and the cost model beside a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.cost import predicted
from benchmarks.gpu import LAYERS, PEERS, ROWS, Lot, share, table
from benchmarks.small_llama import DEMO, demo_files, small_llama, write_config
from configs.gpus import GPUS
from configs.load import load_config
from trainer.plan.speed import DATASHEET, REACHED


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a small model on an H100, as if it had taken a second."""
    folder = tmp_path_factory.mktemp("cost")
    shape = small_llama(folder / "model", DEMO / "tokenizer")
    config = load_config(str(write_config(folder, demo_files(), 512, rows=2, lr=1e-4)))
    found = predicted(config, shape, GPUS["h100"], 1.0, 4)
    least = predicted(config, shape, GPUS["h100"], 1.0, 4, DATASHEET)
    assert least["floor_seconds"] == least["predicted_seconds"] == found["floor_seconds"]
    # By hand: a head of 256 x vocabulary, six FLOPs a weight and place; both rows are as good as full.
    head = 6 * 256 * shape.vocab * 1024 * (1 - found["targets_share"]) / GPUS["h100"].flops
    assert found["mfu"] - found["mfu_at_targets"] == pytest.approx(head, abs=1e-4)
    return found


def test_a_step_beside_the_model(step: dict[str, Any]) -> None:
    assert 0 < step["floor_seconds"] < step["predicted_seconds"] < step["measured_seconds"]
    assert step["predicted_seconds"] == pytest.approx(sum(step["parts"].values()), abs=1e-3)
    assert 0.2 < step["targets_share"] < 0.6
    assert step["tokens_per_second"] == pytest.approx(1024, rel=0.02)
    assert REACHED.products < 1


def test_a_share_is_of_all_weights() -> None:
    parts = {"products_us": 900.0, "summed_in_products_us": 1000.0, "summed_apart_us": 2000.0}
    parts |= {"head_us": 300.0, "head_summed_us": 350.0, "embedding_us": 600.0}
    found: dict[str, Any] = {"accumulation": parts, "steps": {"ours": {"measured_seconds": 0.5}}}
    share(found)
    assert found["sums_share"] == pytest.approx(ROWS * (LAYERS * 100 + 50 + 600) / 1e6 / 0.5)


@pytest.mark.parametrize(
    "found", [{}, {"steps": {"error": "no time was left"}, "accumulation": {"error": "x"}}]
)
def test_what_was_not_measured_is_a_dash(found: dict[str, Any]) -> None:
    share(found)
    lines = table(found).splitlines()
    assert all(" - " in line for line in lines if line.startswith("P1"))
    assert sum(line.startswith("P1") for line in lines) == 6
    assert lines[1].split() == ["tests/gpu", "-", "passed"]


def test_a_full_table(step: dict[str, Any]) -> None:
    peers = {title: {"ratio_median": 0.5, "memory_ratio": 0.7} for title in PEERS.values()}
    found: dict[str, Any] = {
        "tests": {"passed": True},
        "ceilings": {"product_flops": 7.9e14, "copy_bytes_per_second": 4e12},
        "steps": peers | {"ours": step},
        "whole": {"mfu": 0.551, "peak_bytes": 130e9},
        "adamw": {"bytes_per_second": 3.6e12},
        "attention": {"one sample": {"forward_flops": 3e14}, "samples": {"forward_flops": 2e14}},
        "kernels": {"norm": {"both_us": 50.0}},
        "sums_share": 0.021,
    }
    told = {line[:58].strip(): line[58:].split() for line in table(found).splitlines()[1:]}
    assert all("-" not in said for said in told.values())
    assert told["P11 tokens/s over compiled PyTorch"] == ["2.00x", ">=", "1.07x"]
    assert told["P13 float32 sums of gradients, share of a step"] == ["2.1%", "<=", "3%"]
    assert told["AdamW's bandwidth over a copy's"] == ["90%", ">=", "85%"]
    assert told["P12 all 32 layers with AdamW: MFU"] == ["55.1%", ">=", "55%"]


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    def fails(limit: float) -> Any:
        raise RuntimeError(f"out of memory after {limit:.0f} s")

    lot = Lot(1, tmp_path / "new/gpu.json", {"before": 1})
    lot.part("one", fails, 30)
    lot.part("two", lambda limit: {"limit": limit}, 20)
    lot.ends = 0
    lot.part("three", lambda limit: {}, 20)
    assert lot.found["one"] == {"error": "RuntimeError: out of memory after 30 s"}
    assert lot.found["two"] == {"limit": 20}
    assert lot.found["three"] == {"error": "no time was left"}
    assert '"before": 1' in (tmp_path / "new/gpu.json").read_text()
