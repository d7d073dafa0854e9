"""Bad rows among the first of each source: told before ranks start, with where they and the others are to be found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    HeldOutSource,
    ModelConfig,
    RunConfig,
    SourceConfig,
)
from launch.preflight import check_sources
from tokenization.errors import DataError
from trainer.data.bad_rows import Quarantine
from trainer.data.open import open_builder

TOKENIZER = Path(__file__).parents[2] / "configs/demo/tokenizer"
ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of 20 rows those on lines 3 and 7 are bad."""
    lines = ["{" if line in (3, 7) else json.dumps(ROW) for line in range(1, 21)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = SourceConfig("mine", str(tmp_path / "rows.jsonl"), "agent")
    return Config(
        run=RunConfig(output_dir=str(tmp_path / "run")),
        model=ModelConfig(path=str(TOKENIZER)),
        data=DataConfig(sources=[source], eta=1, sequence_length=64, pack_window=4, on_error="skip"),
    )


def test_it_is_said_which_bad_rows_come_into_the_quarantine_file_and_what_names_all(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file holds what training left out, as it is counted: neither more for the check before, nor twice."""
    stream = check_sources(config, open_builder(config))
    quarantine = Quarantine(tmp_path / "run", 0)
    said = capsys.readouterr().err
    assert said.startswith("source 'mine': 2 of the first 20 rows are bad (2 x no JSON: ")
    assert f"as {tmp_path / 'rows.jsonl'}:3: no JSON" in said
    assert f"Training leaves out each that it draws, and tells it in {quarantine.path} then" in said
    assert said.endswith("are named by agenttune lint\n")
    assert not quarantine.path.exists()
    assert stream.state().bad_rows() == 0
    while stream.seen(1) < 1:
        next(stream)
        quarantine.add(stream.take_bad_rows())
    told = [json.loads(line)["line"] for line in quarantine.path.read_text().splitlines()]
    assert sorted(told) == [3, 7]
    assert stream.state().bad_rows() == 2


def test_too_many_are_an_error_before_ranks_start(config: Config) -> None:
    few = replace(config, data=replace(config.data, max_bad_rows=1))
    with pytest.raises(
        DataError, match=r"2 of the first 20 rows are bad .*More than data\.max_bad_rows=1 in all"
    ):
        check_sources(few, open_builder(few))


def test_what_evaluations_look_at_is_read_before_ranks_start(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And only where there are evaluations."""
    (tmp_path / "good.jsonl").write_text("\n".join(json.dumps(ROW) for _ in range(20)))
    good = replace(
        config.data, on_error="strict", sources=[SourceConfig("mine", str(tmp_path / "good.jsonl"), "agent")]
    )
    apart = HeldOutSource("apart", str(tmp_path / "rows.jsonl"))
    looked = replace(config, data=good, evaluation=EvaluationConfig(every=1, sources=[apart]))
    with pytest.raises(DataError, match=r"rows\.jsonl:3: no JSON"):
        check_sources(looked, open_builder(looked))
    assert capsys.readouterr().err == ""
    same = replace(
        looked,
        data=replace(
            good, on_error="skip", sources=[*config.data.sources, replace(good.sources[0], name="good")]
        ),
    )
    check_sources(same, open_builder(same))
    assert "evaluation source 'apart': " in (said := capsys.readouterr().err)
    assert "rows.jsonl is trained on too" in said
    never = replace(looked, evaluation=replace(looked.evaluation, every=None))
    check_sources(never, open_builder(never))
