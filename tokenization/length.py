"""What becomes of a conversation longer than a row, and of one that teaches nothing.

System prompt and tools are always kept. A cut is made between turns alone: never inside a call, between a call and
its results, or between a question and its answer. What remains is a conversation of its own, rendered anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from tokenization.conversation import Conversation, Message
from tokenization.sample import TokenizedSample

Policy = Literal["truncate", "drop-oldest", "window", "drop"]
Encode = Callable[[Conversation], TokenizedSample]


@dataclass(frozen=True)
class LengthCounts:
    """Samples drawn, by what became of them (the first four sum to the draws), and targets lost."""

    kept: int = 0
    """Whole."""
    truncated: int = 0
    """Kept in part, or in several parts."""
    dropped_long: int = 0
    """Left out: longer than a row, and `drop` is set or no target would remain."""
    no_targets: int = 0
    """Left out: would cost time and teach nothing."""
    targets_lost: int = 0

    def __add__(self, other: LengthCounts) -> LengthCounts:
        return LengthCounts(
            self.kept + other.kept,
            self.truncated + other.truncated,
            self.dropped_long + other.dropped_long,
            self.no_targets + other.no_targets,
            self.targets_lost + other.targets_lost,
        )


@dataclass(frozen=True)
class Fitted:
    """The samples a conversation gives to training, each with targets and within a row, and what was lost."""

    samples: tuple[TokenizedSample, ...]
    counts: LengthCounts


def fit(conversation: Conversation, encode: Encode, capacity: int, policy: Policy) -> Fitted:
    """The samples of a conversation, each of at most `capacity` tokens and with at least one target.

    truncate:    the turns from the start that fit
    drop-oldest: the last turns that fit
    window:      all turns, in as few consecutive parts as they fit into; each turn is trained once
    drop:        nothing of a conversation that is too long

    A part that begins in the middle of an exchange is opened by the user's message and the results it goes on from.
    """
    whole = encode(conversation)
    if not whole.targets:
        return Fitted((), LengthCounts(no_targets=1))
    if len(whole) <= capacity:
        return Fitted((whole,), LengthCounts(kept=1))
    parts = [] if policy == "drop" else _PARTS[policy](conversation, encode, capacity)
    samples = tuple(sample for sample in parts if sample.targets)
    lost = whole.targets - sum(sample.targets for sample in samples)
    if not samples:
        return Fitted((), LengthCounts(dropped_long=1, targets_lost=lost))
    return Fitted(samples, LengthCounts(truncated=1, targets_lost=lost))


def cuts(messages: Sequence[Message]) -> list[int]:
    """Places in the spoken messages before which a cut may be made, ascending, the start and the end among them.

    Before a user's message, and between a turn's results and the next turn.
    """
    return [
        place
        for place in range(len(messages) + 1)
        if place in (0, len(messages))
        or (messages[place].role == "user" and messages[place - 1].role == "assistant")
        or (messages[place].role != "observation" and messages[place - 1].role == "observation")
    ]


def part(conversation: Conversation, start: int, stop: int) -> Conversation:
    """The spoken messages `start` to `stop` - 1 as a conversation, with its system message and tools.

    Where it goes on from results, the turn that asked for them, they themselves and the user's message before open it:
    or an answer would be learned without its evidence. What a part repeats is no target again.
    """
    spoken = conversation.spoken
    opening: list[Message] = []
    if conversation.system:
        opening.append(conversation.system)
    if spoken[start].role != "user":
        evidence = start - 1
        while spoken[evidence].role == "observation":
            evidence -= 1
        while spoken[evidence - 1].role == "assistant":
            evidence -= 1
        if spoken[evidence - 1].role == "observation":  # the task comes before earlier calls
            opening.append(next(m for m in reversed(spoken[:evidence]) if m.role == "user"))
        else:
            evidence -= 1
        opening += spoken[evidence:start]
    if start:
        opening = [replace(m, loss=False) for m in opening]
    return replace(conversation, messages=(*opening, *spoken[start:stop]))


def _first_turns(conversation: Conversation, encode: Encode, capacity: int) -> list[TokenizedSample]:
    _, sample = _longest(conversation, encode, capacity, cuts(conversation.spoken))
    return [sample] if sample else []


def _last_turns(conversation: Conversation, encode: Encode, capacity: int) -> list[TokenizedSample]:
    end = len(conversation.spoken)
    made = cache(lambda start: encode(part(conversation, start, end)))
    # A later beginning is shorter, unless the user's message that opens it is longer: so each is looked at again.
    places = cuts(conversation.spoken)[1:-1]
    first = bisect_left(places, True, key=lambda start: len(made(start)) <= capacity)
    return [made(start) for start in places[first:] if len(made(start)) <= capacity][:1]


def _windows(conversation: Conversation, encode: Encode, capacity: int) -> list[TokenizedSample]:
    places = cuts(conversation.spoken)
    samples: list[TokenizedSample] = []
    while len(places) > 1:
        count, sample = _longest(conversation, encode, capacity, places)
        samples += [sample] if sample else []
        places = places[count:]
    return samples


def _longest(
    conversation: Conversation, encode: Encode, capacity: int, places: Sequence[int]
) -> tuple[int, TokenizedSample | None]:
    """Of the parts from the first place to a later one the longest that fits, and how many steps of `places` it
    takes; one step and None where not even that fits."""
    made = cache(lambda stop: encode(part(conversation, places[0], stop)))
    fitting = bisect_left(places, True, lo=1, key=lambda stop: len(made(stop)) > capacity) - 1
    return (fitting, made(places[fitting])) if fitting else (1, None)


_PARTS = {"truncate": _first_turns, "drop-oldest": _last_turns, "window": _windows}
