"""Every row of the public data sets through every template: nothing is refused, nothing trained that is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from configs.schema import SourceConfig
from tokenization.builder import SampleBuilder
from tokenization.conversation import Message
from tokenization.encoder import Encoder
from tokenization.invariants import GIVEN
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.templates import TEMPLATES, prompt
from trainer.data.sources import open_source

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="no real data beside the repository (../shared/data)"
)

# file -> rows, and calls that are written as such
FILES = {
    "agentinstruct_db.json": (400, 0),
    "alpaca_en.json": (999, 0),
    "fireact_hotpotqa.jsonl": (500, 0),
    "glaive_toolcall_en.json": (300, 211),
    "sharegpt_general.json": (500, 0),
    "toolbench_trees/*.json": (3, 11),
}


@cache
def builder(template: str) -> SampleBuilder:
    chosen = TEMPLATES[template]
    return SampleBuilder(Encoder.from_folder(DATA / "llama2_tokenizer", chosen.special_tokens), chosen)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("file", FILES)
def test_every_row_becomes_a_sample(template: str, file: str) -> None:
    made = builder(template)
    source = open_source(SourceConfig(name="s", path=str(DATA / "conversations" / file), role="agent"))
    calls = 0
    kinds: Counter[int] = Counter()
    for i in range(len(source)):
        row, where = source.row(i)
        conversation = made.conversation(row, format="auto", where=where, default_id=str(i))
        sample = made.encode(conversation, "s")
        calls += sum(len(message.calls) for message in conversation.messages)
        kinds.update(sample.kinds[sample.trained].tolist())
        check_prompts(made, conversation.messages, conversation.tools, sample)
    assert (len(source), calls) == FILES[file]
    assert not any(kinds[kind] for kind in GIVEN)
    assert kinds[SpanKind.TEXT]
    assert kinds[SpanKind.STOP]
    assert bool(kinds[SpanKind.CALL_NAME]) == bool(calls)


def check_prompts(
    made: SampleBuilder, messages: Sequence[Message], tools: Sequence[str], sample: TokenizedSample
) -> None:
    """The ids before the first and the last turn of the assistant are those a server makes of the messages before."""
    starts = [
        place
        for place, message in enumerate(messages)
        if message.role == "assistant" and messages[place - 1].role != "assistant"
    ]
    for place in {starts[0], starts[-1]}:
        ids = made.encoder.ids(prompt(messages[:place], made.encoder.control, made.template, tools))
        assert sample.tokens[: len(ids)].tolist() == ids
    stops = np.flatnonzero(sample.kinds == SpanKind.STOP)
    assert len(stops) == len(starts)
