"""Which tokens are a call: by hand, and against what the templates were given to write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.templates import open_template
from trainer.data.calls import call_numbers
from trainer.data.packing import pack_row

DEMO = Path(__file__).resolve().parents[2] / "configs/demo/tokenizer"
LETTERS = {
    "c": SpanKind.CONTROL,
    "u": SpanKind.USER,
    "t": SpanKind.TEXT,
    "n": SpanKind.CALL_NAME,
    "a": SpanKind.ARGUMENTS,
    "p": SpanKind.CODE,
    "o": SpanKind.OBSERVATION,
    "s": SpanKind.STOP,
}


def numbers_of(*samples: str, length: int = 24) -> str:
    """Of samples of kinds, capital where the token is a target: the call of each, `.` for none."""
    made = [
        TokenizedSample(
            "s",
            str(i),
            np.arange(len(kinds), dtype=np.int32),
            np.array([kind.isupper() for kind in kinds]),
            np.array([LETTERS[kind.lower()] for kind in kinds], np.uint8),
        )
        for i, kinds in enumerate(samples)
    ]
    numbers = call_numbers(pack_row(made, [0] * len(made), index=0, length=length, pad_id=0))
    assert numbers.dtype == np.int32
    return "".join("." if number < 0 else str(number) for number in numbers)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (["cuuCNNCAAACS"], "....00.000.."),
        (["cuTCNNCAAACCNCPPCS"], "....00.000..1.11.."),  # two calls, the second of code
        (["cuNNCSooNAS"], "..00....11."),  # without arguments, then one right behind an observation
        (["cuNATAS"], "..00..."),  # what comes after a text is no argument
        (["cuNCAsuA"], "..0.0..."),
        (["cuCAAS"], "......"),  # arguments of no name
        (["cuNACPS"], "..00.0."),  # both kinds of values are one call's
        (["cNCA", "cACNA"], ".0.0...11"),  # the border between samples ends a call
        (["cNN", "cNA"], ".00.11"),
        (["cuncacNCAS"], "......0.0."),  # the first is not learned
        (["cuNCAaS"], "......."),  # nor all of this one
    ],
)
def test_by_hand(samples: list[str], expected: str) -> None:
    assert numbers_of(*samples) == expected.ljust(24, ".")


@pytest.mark.parametrize("template", ["llama2", "chatml", "chatglm3"])
def test_the_calls_of_a_conversation(template: str) -> None:
    calls = [Call.of("get_weather", {"city": "Bern", "days": 3}), Call.of("add", {"a": 1, "b": [2]})]
    conversation = Conversation(
        "0",
        (
            Message("user", "What is it like there?"),
            Message("assistant", "I look.", calls=tuple(calls)),
            Message("observation", "sunny", name="get_weather"),
            Message("observation", "3", name="add"),
            Message("assistant", "It is sunny."),
        ),
    )
    found, encoder = open_template(template, DEMO)
    sample = SampleBuilder(encoder, found).encode(conversation, "s")
    row = pack_row([sample], [0], index=0, length=len(sample) + 5, pad_id=0)
    numbers = call_numbers(row)
    assert {*numbers.tolist()} == {-1, 0, 1}
    for i, call in enumerate(calls):
        name = sample.tokens[(numbers[: len(sample)] == i) & (sample.kinds == SpanKind.CALL_NAME)]
        values = sample.tokens[(numbers[: len(sample)] == i) & (sample.kinds == SpanKind.ARGUMENTS)]
        assert call.name in encoder.decode(name)
        written = encoder.decode(values)
        assert all(str(value)[:2] in written for value in call.values.values())
