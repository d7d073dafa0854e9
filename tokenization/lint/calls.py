"""Rules about tools, calls and their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from tokenization.conversation import INTERPRETER, Call, Conversation, Message
from tokenization.lint.finding import Numbered, counted, listed, numbered, quoted
from tokenization.lint.schemas import SchemaFault, Tool


def tool_faults(tools: Sequence[Tool]) -> Iterator[Numbered]:
    for place, tool in enumerate(tools, 1):
        if tool.name is None:
            told = f"tool {place} has no name, so no call can be said to be unknown; give it one"
            yield numbered(0, "warning", "schema", told)
        elif tool.fault:
            told = f"the parameters of tool {quoted(tool.name)} are no JSON schema: {tool.fault}"
            yield numbered(0, "warning", "schema", told)
    for name, times in Counter(tool.name for tool in tools if tool.name).items():
        if times > 1:
            told = f"{times} tools are named {quoted(name)}; rename or drop all but one"
            yield numbered(0, "warning", "schema", told)


def call_faults(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[Numbered]:
    known = {tool.name: tool for tool in reversed(tools) if tool.name}
    nameless = any(tool.name is None for tool in tools)
    for number, message in enumerate(messages, 1):
        for call in message.calls:
            if call.name in known:
                yield from _argument_faults(number, call, known[call.name])
            elif call.name != INTERPRETER and not nameless:
                told = f"message {number} calls {quoted(call.name)}, {_but_known(call.name, tools)}"
                yield numbered(number, "error", "unknown-tool", told)


def _but_known(name: str, tools: Sequence[Tool]) -> str:
    """Which tools there are instead, those with a like name first."""
    names = [tool.name for tool in tools if tool.name]
    if not names:
        return "but no tools are given; give the row its tools, or write the call as text"
    near = get_close_matches(name, names)
    return f"which is not among the tools ({listed([*dict.fromkeys([*near, *names])])})"


def _argument_faults(number: int, call: Call, tool: Tool) -> Iterator[Numbered]:
    arguments = call.values
    opening = f"message {number} calls {quoted(call.name)}:"
    unknown = [
        f"$: {quoted(name)} is none of its arguments ({listed(tool.names)})"
        for name in tool.unknown(arguments)
    ]
    try:
        broken = tool.violations(arguments)
        # By the standard a schema allows every name it does not forbid; yet most such names are misspelt.
        doubtful = unknown
    except SchemaFault as fault:
        if not tool.fault:  # else it is told of the tool
            told = f"the schema of tool {quoted(call.name)} cannot be applied: {fault}"
            yield numbered(0, "warning", "schema", told)
        broken = [f"$: {quoted(name)} is required and missing" for name in tool.lacking(arguments)] + unknown
        doubtful = []
    yield from (numbered(number, "error", "arguments", f"{opening} {told}") for told in broken)
    yield from (numbered(number, "warning", "arguments", f"{opening} {told}") for told in doubtful)


class _Turn(NamedTuple):
    """The calls of a turn of the assistant and the observations after it, each with its message's number."""

    calls: list[tuple[int, Call]]
    results: list[tuple[int, Message]]
    answered: int = 0
    """The last of its messages that makes no call, 0 where all do."""


class _Paired(NamedTuple):
    """What is left when each result of a turn has taken a call."""

    strange: list[tuple[int, Message, Call]]
    """Results of another tool than the call they had to take."""
    surplus: list[tuple[int, Message]]
    unanswered: list[tuple[int, Call]]


def result_faults(conversation: Conversation) -> Iterator[Numbered]:
    """Results without a call, and calls without a result.

    Results may be missing where the data ends with the calls, not where the assistant answers without them.
    """
    turns = _turns(conversation)
    paired = [_pair(turn) for turn in turns]
    for turn, (strange, surplus, _) in zip(turns, paired, strict=True):
        for number, result, call in strange:
            told = f"message {number} is a result of {quoted(result.name or '')}, but {quoted(call.name)} was called"
            yield numbered(number, "error", "orphan-observation", f"{told}; put results behind their calls")
        for number, _ in surplus:
            if turn.calls:
                made = counted(len(turn.calls), "call")
                told = f"message {number} is a result too many: the turn before makes {made}"
                yield numbered(number, "error", "orphan-observation", f"{told}; add its call or drop it")
            else:
                told = f"message {number} is an observation, but the turn before makes no structured call; make it one"
                yield numbered(number, "warning", "orphan-observation", told)
    for turn, (_, _, unanswered) in zip(turns, paired, strict=True):
        over = [(n, call) for n, call in unanswered if turn is not turns[-1] or n < turn.answered]
        for number, call in over:
            told = (
                f"message {number} calls {quoted(call.name)}, and the conversation goes on without a result"
            )
            yield numbered(
                number, "warning", "unanswered-call", f"{told}; add the observation or drop the call"
            )


def _turns(conversation: Conversation) -> list[_Turn]:
    turns: list[_Turn] = []
    before = None
    for number, message in enumerate(conversation.messages, 1):
        if message.role == "assistant":
            if before != "assistant":
                turns.append(_Turn([], []))
            turns[-1].calls.extend((number, call) for call in message.calls)
            if not message.calls:
                turns[-1] = turns[-1]._replace(answered=number)
        elif message.role == "observation":
            turns[-1].results.append((number, message))
        before = message.role
    return turns


def _pair(turn: _Turn) -> _Paired:
    """A result that knows its tool takes a call of that tool; those that are left take the calls in order."""
    waiting = list(turn.calls)
    left: list[tuple[int, Message]] = []
    for number, result in turn.results:
        named = next((one for one in waiting if one[1].name == result.name), None)
        if named:
            waiting.remove(named)
        else:
            left.append((number, result))
    taken = [(number, result, call) for (number, result), (_, call) in zip(left, waiting, strict=False)]
    strange = [one for one in taken if one[1].name is not None]
    return _Paired(strange, left[len(waiting) :], waiting[len(left) :])
