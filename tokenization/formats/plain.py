"""Rows without a list of messages of their own: a question and its answer, and ToolBench's trees."""

from __future__ import annotations

from collections.abc import Mapping

from tokenization.conversation import Message
from tokenization.formats.fields import Fault, Object, given, named, optional_text, required, text
from tokenization.formats.messages import OPENAI, Reading, read_messages


def read_pair(row: Object) -> Reading:
    """{"prompt", "response", "history"?}."""
    if given(row, "input"):
        raise Fault(
            "the row has 'input' beside 'prompt', which is not read; write it into 'prompt' or drop it"
        )
    question = text(required(row, "prompt", "row"), "'prompt'")
    answer = text(required(row, "response", "row"), "'response'")
    return _exchanges([*_history(row), (question, answer)])


def read_alpaca(row: Object) -> Reading:
    """{"instruction", "input"?, "output", "history"?}: the input goes on a line after the instruction."""
    question = text(required(row, "instruction", "row"), "'instruction'")
    if added := optional_text(row, "input", "row"):
        question = f"{question}\n{added}"
    answer = text(required(row, "output", "row"), "'output'")
    return _exchanges([*_history(row), (question, answer)])


def read_toolbench(row: Object) -> Reading:
    """The longest of the paths through a tree of trials, the last of equals: {"answer_generation": {"train_messages":
    [[message, …], …], "function": [tool, …]}}. Each path is the one before it with more of the trial."""
    tree = required(row, "answer_generation", "row")
    if not isinstance(tree, Mapping):
        raise Fault(f"'answer_generation' is {named(tree)}, not an object")
    paths = required(tree, "train_messages", "'answer_generation'")
    if not isinstance(paths, list) or not all(isinstance(path, list) for path in paths):
        raise Fault("'train_messages' is not a list of lists of messages; write each path as a list")
    if not paths:
        raise Fault("'train_messages' is an empty list; drop the row, its tree was never searched")
    reading = read_messages(max(reversed(paths), key=len), "train_messages", OPENAI)
    tools = (("'function'", tree["function"]),) if given(tree, "function") else ()
    return Reading(reading.messages, reading.tools + tools)


def _exchanges(pairs: list[tuple[str, str]]) -> Reading:
    return Reading(tuple(m for q, a in pairs for m in (Message("user", q), Message("assistant", a))))


def _history(row: Object) -> list[tuple[str, str]]:
    """The exchanges before: [[question, answer], …], null for none."""
    history = row.get("history")
    if history is None or history == "":
        return []
    if not isinstance(history, list):
        raise Fault(f"'history' is {named(history)}, not a list of [question, answer]")
    return [_exchange(pair, f"'history', entry {number}") for number, pair in enumerate(history, 1)]


def _exchange(pair: object, name: str) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise Fault(f"{name} is no list of two strings; write [question, answer]")
    question, answer = pair
    return text(question, f"{name}, question"), text(answer, f"{name}, answer")
