"""Results of calls: which call each belongs to, so that they stand in the calls' order and know their tool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile

from tokenization.conversation import INTERPRETER, Message
from tokenization.formats.calls import NamedCall
from tokenization.formats.fields import Fault, shown
from tokenization.grammar.pythonic import RESULT, RESULT_END


@dataclass(frozen=True)
class Spoken:
    """A message as the row has it."""

    number: int
    """Its place in the row, from 1."""
    message: Message
    calls: tuple[NamedCall, ...] = ()
    """The message's, where their results are messages of their own."""
    answers: str | None = None
    """The id of the call whose result this is."""
    result: Message | None = None
    """An observation that the row holds in the same message as its call."""


def settled(spoken: Sequence[Spoken]) -> Iterator[Message]:
    """The messages in their final order.

    Results of a turn's calls follow the calls' order where they have ids, else they stay as they stand. Each is
    named after its call; without ids after its own `name`, or by its place where there are as many as calls.
    """
    calls: list[NamedCall] = []
    for assistant, group in groupby(spoken, key=lambda one: one.message.role == "assistant"):
        run = list(group)
        if assistant:
            calls = [call for one in run for call in one.calls]
            for one in run:
                yield one.message
                if one.result:
                    yield _bare(one.result)
        else:
            results = list(takewhile(lambda one: one.message.role == "observation", run))
            by_id = any(one.answers is not None for one in results)
            yield from map(_bare, _by_id(results, calls) if by_id else _by_place(results, calls))
            yield from (one.message for one in run[len(results) :])


def _bare(result: Message) -> Message:
    """Without the block that ChatGLM3's own data puts around what the interpreter printed: the template puts it."""
    content = result.content
    if result.name == INTERPRETER and content.startswith(RESULT) and content.endswith(RESULT_END):
        return replace(result, content=content[len(RESULT) : -len(RESULT_END)])
    return result


def _by_id(results: Sequence[Spoken], calls: Sequence[NamedCall]) -> list[Message]:
    places: dict[str, list[int]] = {}
    for place, call in enumerate(calls):
        if call.id is not None:
            places.setdefault(call.id, []).append(place)
    answered: dict[int, Spoken] = {}
    for one in results:
        if one.answers is None:
            raise Fault(
                f"message {one.number} has no 'tool_call_id', unlike a result beside it; give all or none"
            )
        found = places.get(one.answers, [])
        if len(found) != 1:
            raise Fault(
                f"message {one.number} has the 'tool_call_id' {shown(one.answers)}, which {len(found)} calls "
                f"of the turn before have; their ids are {shown(list(places))}"
            )
        if before := answered.get(found[0]):
            raise Fault(
                f"messages {before.number} and {one.number} both have the 'tool_call_id' {shown(one.answers)}; "
                "join the two or drop one"
            )
        answered[found[0]] = one
    return [replace(one.message, name=calls[place].call.name) for place, one in sorted(answered.items())]


def _by_place(results: Sequence[Spoken], calls: Sequence[NamedCall]) -> list[Message]:
    names = [call.call.name for call in calls]
    if len(set(names)) == 1:
        names = names[:1] * len(results)
    if len(names) != len(results):
        return [one.message for one in results]
    return [
        one.message if one.message.name else replace(one.message, name=name)
        for one, name in zip(results, names, strict=True)
    ]
