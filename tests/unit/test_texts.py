"""What is written beside the weights is that of the model that was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from configs.load import load_config
from trainer.checkpoint.progress import FOLDER, model_digest
from trainer.checkpoint.texts import write_texts
from trainer.data.open import open_builder

DEMO = Path(__file__).parents[2] / "configs/demo"


def test_a_config_that_is_changed_under_a_run_is_not_written(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(DEMO / "tokenizer", model)
    (model / "config.json").write_text(json.dumps({"rope_theta": 10_000.0}))
    config = load_config(DEMO.with_suffix(".yaml"), [f"model.path={model}"])
    builder, digest = open_builder(config), model_digest(model)
    (out / FOLDER).mkdir(parents=True)
    assert "config.json" in write_texts(out, config, builder, 1201, digest)

    (model / "config.json").write_text(json.dumps({"rope_theta": 500_000.0}))
    with pytest.raises(OSError, match=r"config\.json, tokenizer or chat template was changed since this run"):
        write_texts(out, config, builder, 1201, digest)
    assert json.loads((out / "config.json").read_text())["rope_theta"] == 10_000
