"""What becomes of a conversation that is too long: by hand, by brute force over all cuts, and as properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.conversation import Call, Conversation, Message, runs
from tokenization.length import Fitted, LengthCounts, Policy, cuts, fit, part
from tokenization.sample import TokenizedSample

CALL = Call.of("f", {})
TOOLS = ('{"name": "f"}',)


def encode(conversation: Conversation) -> TokenizedSample:
    """A token for each character and call of a message, and one to begin with; the tools cost one each."""
    tokens, trained = [0] * (1 + len(conversation.tools)), [False] * (1 + len(conversation.tools))
    for message in conversation.messages:
        written = [ord(character) for character in message.content] + [1] * len(message.calls)
        tokens += written
        trained += [message.trained] * len(written)
    kinds = np.zeros(len(tokens), np.uint8)
    return TokenizedSample("s", conversation.id, np.array(tokens, np.int32), np.array(trained), kinds)


def said(text: str, *, system: bool = False) -> Conversation:
    """`u` user, `a` assistant, `c` assistant's call, `o` observation; a digit after each is its length."""
    roles = {"u": "user", "a": "assistant", "c": "assistant", "o": "observation"}
    messages = [Message("system", "S")] if system else []
    for kind, length in zip(text[::2], text[1::2], strict=True):
        calls = (CALL,) if kind == "c" else ()
        content = kind * (int(length) - len(calls))
        messages.append(Message(roles[kind], content, calls=calls))  # pyright: ignore[reportArgumentType]
    return Conversation("t", tuple(messages), TOOLS if "c" in text else ())


def texts(fitted: Fitted) -> list[str]:
    """The samples as their characters, without what each begins with."""
    return ["".join(map(chr, (t for t in sample.tokens.tolist() if t > 1))) for sample in fitted.samples]


def trained(fitted: Fitted) -> list[int]:
    return [sample.targets for sample in fitted.samples]


def test_cuts_by_hand() -> None:
    assert cuts(said("u1a1u1a1").messages) == [0, 2, 4]
    assert cuts(said("u1c1o1c1o1a1").messages) == [0, 3, 5, 6]
    assert cuts(said("u1a1c1c1o1o1a1u1").messages) == [0, 6, 7, 8]
    assert cuts(said("u1c1o1u1a1").messages) == [0, 3, 5]
    assert cuts(said("u1").messages) == [0, 1]


# 1 token to begin with, 1 for the system message where there is one, 1 for the tools where there are calls
TALK = said("u2a3u2a3u2a3")
TASK = said("u2c3o2c3o2a3", system=True)


@pytest.mark.parametrize(
    ("conversation", "capacity", "policy", "expected", "counts"),
    [
        (TALK, 16, "truncate", ["uuaaauuaaauuaaa"], LengthCounts(kept=1)),
        (TALK, 15, "truncate", ["uuaaauuaaa"], LengthCounts(truncated=1, targets_lost=3)),
        (TALK, 10, "truncate", ["uuaaa"], LengthCounts(truncated=1, targets_lost=6)),
        (TALK, 5, "truncate", [], LengthCounts(dropped_long=1, targets_lost=9)),
        (TALK, 15, "drop-oldest", ["uuaaauuaaa"], LengthCounts(truncated=1, targets_lost=3)),
        (TALK, 10, "drop-oldest", ["uuaaa"], LengthCounts(truncated=1, targets_lost=6)),
        (TALK, 15, "window", ["uuaaauuaaa", "uuaaa"], LengthCounts(truncated=1)),
        (TALK, 10, "window", ["uuaaa"] * 3, LengthCounts(truncated=1)),
        (TALK, 15, "drop", [], LengthCounts(dropped_long=1, targets_lost=9)),
        # The call itself is a token that `texts` leaves out.
        (TASK, 17, "truncate", ["SuuccooccooS"[:-1]], LengthCounts(truncated=1, targets_lost=3)),
        (TASK, 10, "truncate", ["Suuccoo"], LengthCounts(truncated=1, targets_lost=6)),
        # An answer comes with the results it rests on, so it may fit nowhere.
        (TASK, 17, "drop-oldest", ["Suuccooaaa"], LengthCounts(truncated=1, targets_lost=6)),
        (TASK, 10, "drop-oldest", [], LengthCounts(dropped_long=1, targets_lost=9)),
        (TASK, 17, "window", ["Suuccooccoo", "Suuccooaaa"], LengthCounts(truncated=1)),
        (TASK, 10, "window", ["Suuccoo"], LengthCounts(truncated=1, targets_lost=6)),
    ],
)
def test_by_hand(
    conversation: Conversation, capacity: int, policy: Policy, expected: list[str], counts: LengthCounts
) -> None:
    fitted = fit(conversation, encode, capacity, policy)
    assert texts(fitted) == expected
    assert fitted.counts == counts
    assert sum(trained(fitted)) + counts.targets_lost == 9


def test_a_turn_too_long_by_itself_is_lost_and_the_others_are_not() -> None:
    fitted = fit(said("u1a2u1a9u1a3"), encode, 8, "window")
    assert texts(fitted) == ["uaa", "uaaa"]
    assert fitted.counts == LengthCounts(truncated=1, targets_lost=9)


def test_what_teaches_nothing_is_left_out_whatever_its_length() -> None:
    untrained = Conversation("t", (Message("user", "u" * 9), Message("assistant", "a", False)))
    for policy in ("truncate", "drop-oldest", "window", "drop"):
        for capacity in (3, 30):
            assert fit(untrained, encode, capacity, policy) == Fitted((), LengthCounts(no_targets=1))


def test_a_part_trains_nothing_twice() -> None:
    """What a later part repeats, the system prompt and the user's message, is a target in the first part alone."""
    learned = [Message("system", "SS", True), Message("user", "uu", True), *said("u1c2o2c2o2a3").messages[1:]]
    conversation = Conversation("t", tuple(learned), TOOLS)
    fitted = fit(conversation, encode, 15, "window")
    assert texts(fitted) == ["SSuucoocoo", "SSuucooaaa"]
    assert trained(fitted) == [2 + 2 + 2 + 2, 3]


def test_counts_add_up_by_name() -> None:
    total = LengthCounts(1, 2, 3, 4, 5) + LengthCounts(kept=10, targets_lost=20)
    assert total == LengthCounts(kept=11, truncated=2, dropped_long=3, no_targets=4, targets_lost=25)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Any order that is a conversation: the user, then turns of one or more messages, results, the user again."""
    text = "u1"
    for _ in range(draw(st.integers(1, 7))):
        for _ in range(draw(st.integers(1, 2))):
            text += draw(st.sampled_from("ac")) + str(draw(st.integers(1, 9)))
        text += "".join(f"o{draw(st.integers(1, 9))}" for _ in range(draw(st.integers(0, 2))))
        if draw(st.booleans()) or text[-2] != "o":
            text += f"u{draw(st.integers(1, 9))}"
    conversation = said(text, system=draw(st.booleans()))
    losses = [draw(st.sampled_from([None, None, True, False])) for _ in conversation.messages]
    messages = (
        Message(m.role, m.content, loss, m.calls)
        for m, loss in zip(conversation.messages, losses, strict=True)
    )
    return Conversation("t", tuple(messages), conversation.tools)


def shape(messages: Sequence[Message]) -> list[tuple[str, str, int]]:
    return [(m.role, m.content, len(m.calls)) for m in messages]


@settings(deadline=None, max_examples=300)
@given(
    conversation=conversations(),
    capacity=st.integers(1, 60),
    policy=st.sampled_from(["truncate", "drop-oldest", "window"]),
)
def test_what_is_kept_is_whole_and_as_much_as_can_be(
    conversation: Conversation, capacity: int, policy: Policy
) -> None:
    made: list[Conversation] = []

    def seen(c: Conversation) -> TokenizedSample:
        made.append(c)
        return encode(c)

    fitted = fit(conversation, seen, capacity, policy)
    whole = encode(conversation)
    assert sum(trained(fitted)) + fitted.counts.targets_lost == whole.targets
    assert all(len(sample) <= capacity and sample.targets for sample in fitted.samples)
    if not fitted.counts.truncated:
        return
    for kept in made[1:]:
        assert kept.tools == conversation.tools
        assert (kept.system is None) == (conversation.system is None)
        for before, run in zip(runs(kept.spoken), runs(kept.spoken)[1:], strict=False):
            assert {before[0].role == "assistant", run[0].role == "assistant"} == {True, False}
        for place, message in enumerate(kept.spoken):
            if message.role == "observation":  # never parted from its call
                assert kept.spoken[place - 1].role in ("assistant", "observation")
    places = cuts(conversation.spoken)
    if policy == "truncate":
        fits = [p for p in places[1:] if len(encode(part(conversation, 0, p))) <= capacity]
        assert texts(fitted) == texts(Fitted((encode(part(conversation, 0, max(fits))),), LengthCounts()))
    elif policy == "drop-oldest":
        end = len(conversation.spoken)
        ends = [encode(part(conversation, p, end)) for p in places[1:-1]]
        best = next(sample for sample in ends if len(sample) <= capacity)
        assert len(fitted.samples[0]) == len(best) or len(best) < len(fitted.samples[0])
