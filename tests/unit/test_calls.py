"""Which tokens are a call: by hand, and against what the templates were given to write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tokenization.builder import SampleBuilder
from tokenization.conversation import Call, Conversation, Message
from tokenization.sample import SpanKind, TokenizedSample
from tokenization.templates import open_template
from trainer.data.calls import call_parts
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


def parts_of(*samples: str, length: int = 24) -> str:
    """Of samples of kinds, capital where the token is a target: the part of each, `.` for none."""
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
    parts = call_parts(pack_row(made, [0] * len(made), index=0, length=length, pad_id=0))
    assert parts.dtype == np.int32
    return "".join("." if part < 0 else str(part) for part in parts)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (["cuuCNNCAAACS"], "....0001111."),  # the token that ends a part is of it
        (["cuTCNNCAAACCNCPPCS"], "....0001111.22333."),  # two calls, the second of code
        (["cuNNCSooNAS"], "..000...233"),  # without arguments, then one right behind an observation
        (["cuNCCCS"], "..0011."),  # without arguments, in brackets
        (["cuNCCNCCS"], "..001223."),
        (["cuNCCACS"], "..00.11."),
        (["cuNATAS"], "..011.."),  # what comes after a text is no argument
        (["cuNCAsuA"], "..001..."),
        (["cuCAAS"], "......"),  # arguments of no name
        (["cuNACPS"], "..01111"),  # both kinds of values are one call's
        (["cNCA", "cACNA"], ".001...23"),  # the border between samples ends a call
        (["cNN", "cNA"], ".00.23"),
        (["cuncacNCAS"], "......0011"),  # the first is not learned
        (["cuNCAaS"], "......."),  # nor all of this one
        (["cuNcAs"], "..0.1."),  # what ends them is not asked for
    ],
)
def test_by_hand(samples: list[str], expected: str) -> None:
    assert parts_of(*samples) == expected.ljust(24, ".")


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
    parts = call_parts(row)[: len(sample)]
    assert {*parts.tolist()} == {-1, 0, 1, 2, 3}
    for i, call in enumerate(calls):
        name, values = (
            sample.tokens[(parts == 2 * i) & (sample.kinds == SpanKind.CALL_NAME)],
            sample.tokens[(parts == 2 * i + 1) & (sample.kinds == SpanKind.ARGUMENTS)],
        )
        assert call.name in encoder.decode(name)
        written = encoder.decode(values)
        assert all(str(value)[:2] in written for value in call.values.values())
        for part in (2 * i, 2 * i + 1):  # and one token more, by which it ends
            (places,) = np.nonzero(parts == part)
            assert sample.kinds[places[-1]] not in (SpanKind.CALL_NAME, SpanKind.ARGUMENTS)


@pytest.mark.parametrize("template", ["llama2", "chatml", "chatglm3"])
def test_no_arguments_are_values_too(template: str) -> None:
    """Where a model gave some, it would be wrong."""
    call = Call.of("ping", {})
    messages = Message("user", "Is it there?"), Message("assistant", "", calls=(call,))
    found, encoder = open_template(template, DEMO)
    sample = SampleBuilder(encoder, found).encode(Conversation("0", messages), "s")
    parts = call_parts(pack_row([sample], [0], index=0, length=len(sample), pad_id=0))
    assert {*parts.tolist()} == {-1, 0, 1}


def test_what_opens_the_next_call_is_not_of_one_without_arguments() -> None:
    """`<|assistant|>` in chatglm3: a model that rightly makes the first call and then stops is right about it."""
    calls = Call.of("ping", {}), Call.of("add", {"a": 1})
    messages = Message("user", "Is it there?"), Message("assistant", "", calls=calls)
    found, encoder = open_template("chatglm3", DEMO)
    sample = SampleBuilder(encoder, found).encode(Conversation("0", messages), "s")
    parts = call_parts(pack_row([sample], [0], index=0, length=len(sample), pad_id=0))
    (names,) = np.nonzero(sample.kinds == SpanKind.CALL_NAME)
    second = next(place for place in names if parts[place] == 2)
    (empty,) = np.nonzero(parts == 1)
    assert len(empty) > 0
    opener = sample.tokens[names[0] - 1]
    assert sample.tokens[second - 1] == opener
    assert opener not in sample.tokens[empty]
