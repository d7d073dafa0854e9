"""A run whose steps are all done is known before its ranks start, where their number costs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import (
    BatchConfig,
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    SourceConfig,
    TrainConfig,
)
from trainer.checkpoint.progress import nothing_to_do
from trainer.data.epochs import known_steps, rows_of_epochs
from trainer.data.open import open_builder, open_data

TOKENIZER = Path(__file__).parents[2] / "configs/demo/tokenizer"


@pytest.mark.parametrize(
    ("done", "steps", "complete"),
    [(0, 5, False), (4, 5, False), (5, 5, True), (7, 5, True), (5, None, False)],
)
def test_complete_is_all_steps_done(done: int, steps: int | None, complete: bool) -> None:
    said = nothing_to_do(done, steps)
    assert (said is not None) == complete
    if said:
        assert said.startswith(
            f"nothing to do: {done} of {steps} steps are done; raise train.steps or train.epochs"
        )


def test_steps_of_epochs_are_known_when_they_were_counted(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"id": str(i)}) + "\n" for i in range(50)))
    source = SourceConfig("mine", str(tmp_path / "rows.jsonl"), "agent")
    config = Config(
        run=RunConfig(output_dir=str(tmp_path / "run")),
        model=ModelConfig(path=str(TOKENIZER)),
        data=DataConfig(sources=[source], eta=1, sequence_length=64, pack_window=8),
        batch=BatchConfig(rows=4),
        train=TrainConfig(epochs=2),
    )
    data = open_data(config, open_builder(config), first=True, workers=0)

    def known(config: Config) -> int | None:
        return known_steps(config, data.stream(config), data.builder)

    assert known(config) is None
    rows = rows_of_epochs(config, data, 2, lambda: None)
    assert rows % 4  # else the last step were no step of its own
    assert known(config) == rows // 4 + 1
    assert known(replace(config, train=TrainConfig(steps=3))) == 3
    # Other rows, or another number of them: not counted yet.
    assert known(replace(config, train=TrainConfig(epochs=3))) is None
    assert known(replace(config, run=replace(config.run, seed=5))) is None
    assert known(replace(config, data=replace(config.data, on_error="skip"))) is None
