"""Control tokens that the model did not know: the same new rows and the same training on every layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_table import REFERENCE, TOLERANCE, case, curve
from rank_pool import RankPool
from test_conversion import assert_same_bits
from test_resume import assert_same_tensors, measured
from tiny import layout, read_weights, write_config, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.errors import ConfigError
from configs.load import load_config
from launch.preflight import check_settings

OWN, GROWN = 1201, 1205
"""The demo tokenizer's ids, and with the four role tokens of chatglm3."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHATGLM3 = {"template": "chatglm3", "pack_window": 16}
FAR = {"lr": 1e-3, "schedule": "constant", "warmup_ratio": 0.0}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def source(request: pytest.FixtureRequest, model: Path, tied_model: Path) -> Path:
    return tied_model if request.param else model


def convert(
    ranks: RankPool, source: Path, folder: Path, size: tuple[int, int], dtype: str = "float32"
) -> dict[str, torch.Tensor]:
    """`source` read for training in the template and written to `folder`/out, nothing trained: its weights then."""
    config = write_config(folder / "run.yaml", source, data=CHATGLM3, model={"dtype": dtype})
    out = str(folder / "out")
    ranks.run("convert", size[0] * size[1], config=str(config), overrides=layout(*size), export=out)
    return read_weights(folder / "out")


def grown(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model is to begin with: its weights, and below embedding and head their mean, four times."""
    return weights | {
        name: torch.cat([weights[name], weights[name].double().mean(0).to(weights[name].dtype).expand(4, -1)])
        for name in (EMBEDDING, HEAD)
        if name in weights
    }


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 1)], ids=lambda size: f"TP{size[0]} PP{size[1]}")
def test_new_rows_are_the_mean(size: tuple[int, int], source: Path, ranks: RankPool, tmp_path: Path) -> None:
    assert_same_bits(convert(ranks, source, tmp_path, size), grown(read_weights(source)))
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == GROWN


def test_spare_rows_and_bfloat16(ranks: RankPool, tmp_path: Path) -> None:
    """A vocabulary padded to 1216 keeps its size; the rows of the added ids are new, those above stay."""
    source = write_model(tmp_path / "model", dtype=torch.bfloat16, vocab_size=1216)
    weights = read_weights(source)
    for name in (EMBEDDING, HEAD):
        weights[name][OWN:GROWN] = weights[name][:OWN].float().mean(0).bfloat16()
    assert_same_bits(convert(ranks, source, tmp_path, (2, 1), "bfloat16"), weights)
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 1216


def test_one_loss_on_every_layout(source: Path, ranks: RankPool, tmp_path: Path) -> None:
    config = write_config(tmp_path / "run.yaml", source, data=CHATGLM3)
    reference = curve(ranks, config, REFERENCE)
    assert len(set(reference.losses)) == len(reference.losses)
    for one in (case(2, 2), case(2, sequence=True)):
        assert max(curve(ranks, config, one).distance(reference)) < TOLERANCE, one.name


def test_a_run_goes_on_and_its_folder_is_served(source: Path, ranks: RankPool, tmp_path: Path) -> None:
    """A resumed run is the run that was not interrupted, and nothing is added to its checkpoint or made new in it."""
    config = write_config(tmp_path / "run.yaml", source, data=CHATGLM3, train={"steps": 2}, optimizer=FAR)

    def start(name: str, every: str) -> Path:
        run = tmp_path / name
        settings = [*layout(1, 2), f"run.output_dir={run}", f"checkpoint.every={every}"]
        assert set(ranks.run("train_run", 2, config=str(config), overrides=settings)) == {0}
        return run

    straight, broken = start("straight", "null"), start("broken", "1")
    shutil.rmtree(broken / "checkpoints/step-00000002")
    (broken / "checkpoints/latest").unlink()
    start("broken", "1")
    assert measured(broken) == measured(straight)
    last = straight / "checkpoints/step-00000002"
    assert_same_tensors(broken / "checkpoints/step-00000002", last)

    weights = read_weights(last)
    moved = (weights[EMBEDDING] - grown(read_weights(source))[EMBEDDING])[OWN:].abs().amax(1)
    assert (moved[[1, 2]] > 5e-4).all()  # <|user|> and <|assistant|>, each step at a rate of 1e-3
    assert_same_bits(convert(ranks, last, tmp_path, (2, 1)), weights)

    loaded: Any = AutoModelForCausalLM.from_pretrained(last, output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report
    assert (model.config.vocab_size, len(AutoTokenizer.from_pretrained(last))) == (GROWN, GROWN)
    assert model.generation_config.eos_token_id == [2, 1202, 1204]


def test_only_what_the_template_adds_may_be_missing(model: Path, tmp_path: Path) -> None:
    """A folder whose own tokenizer is larger than its embedding is of two models."""
    short = shutil.copytree(model, tmp_path / "short")
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(settings | {"vocab_size": OWN - 1}))
    for folder in (model, short):
        config = load_config(write_config(tmp_path / "run.yaml", folder, data=CHATGLM3), [])
        if folder is model:
            check_settings(config, 1)
        else:
            with pytest.raises(ConfigError, match=r"tokenizer vocabulary=1201: .*\(1200\)"):
                check_settings(config, 1)
