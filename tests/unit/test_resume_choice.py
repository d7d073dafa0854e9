"""Which checkpoint a run goes on from where some are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.schema import CheckpointConfig, Config, RunConfig
from trainer.checkpoint.manifest import FileRecord, Records
from trainer.checkpoint.resume import agree_on_checkpoint, share
from trainer.checkpoint.store import commit, step_folder
from trainer.checkpoint.tensors import write_text
from trainer.parallel.grid import Grid


def written(folder: Path) -> Records:
    return {"training_state/a": write_text(folder / "training_state" / "a", "content")}


def run_with(grid: Grid, folder: Path, damaged: list[int]) -> Config:
    """Checkpoints of steps 1 to 3, of which some have another byte in a file."""
    for step in (1, 2, 3):
        file = commit(folder / "checkpoints", step, grid, written) / "training_state" / "a"
        if step in damaged:
            file.write_text("contenT")
    return Config(run=RunConfig(str(folder)))


@pytest.mark.parametrize(("damaged", "taken"), [([], 3), ([3], 2), ([3, 2], 1), ([1, 2], 3)])
def test_the_newest_sound_one_is_taken(
    damaged: list[int], taken: int, single_rank: Grid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_with(single_rank, tmp_path, damaged)
    assert agree_on_checkpoint(config, single_rank) == step_folder(tmp_path / "checkpoints", taken)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 - taken
    for line, step in zip(said, (3, 2), strict=False):
        assert f"checkpoint step-0000000{step} is damaged: {tmp_path}" in line
        assert "training_state/a: holds other bytes than were written" in line
        assert f"Going on from step-0000000{step - 1} instead" in line


def test_none_is_left(single_rank: Grid, tmp_path: Path) -> None:
    config = run_with(single_rank, tmp_path, [1, 2, 3])
    with pytest.raises(ConfigError, match=r"step-00000001/.*other bytes.*checkpoint\.resume=never"):
        agree_on_checkpoint(config, single_rank)


def test_what_was_named_is_not_replaced(single_rank: Grid, tmp_path: Path) -> None:
    run_with(single_rank, tmp_path, [3])
    named = str(step_folder(tmp_path / "checkpoints", 3))
    config = Config(run=RunConfig(str(tmp_path)), checkpoint=CheckpointConfig(resume=named))
    with pytest.raises(ConfigError, match="other bytes"):
        agree_on_checkpoint(config, single_rank)


def test_a_fresh_start(single_rank: Grid, tmp_path: Path) -> None:
    assert agree_on_checkpoint(Config(run=RunConfig(str(tmp_path))), single_rank) is None


@given(sizes=st.dictionaries(st.text(min_size=1), st.integers(0, 1000)), ranks=st.integers(1, 5))
def test_ranks_share_the_reading(sizes: dict[str, int], ranks: int) -> None:
    records = {name: FileRecord(size, "") for name, size in sizes.items()}
    shares = [share(records, rank, ranks) for rank in range(ranks)]
    assert sorted(name for own in shares for name in own) == sorted(sizes)
    loads = [sum(sizes[name] for name in own) for own in shares]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)
