"""Rows of data files read into conversations.

A row is one object. Keys that are not known are left alone, except those that would change what the model sees or
what is trained: they are read or refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tokenization.conversation import Conversation, Message
from tokenization.errors import DataError, Where
from tokenization.formats.calls import read_tools
from tokenization.formats.fields import Fault, Object, given, json_text, named, optional_text, shown, text
from tokenization.formats.messages import MEDIA, OPENAI, SHAREGPT, Fields, Reading, read_messages
from tokenization.formats.plain import read_alpaca, read_pair, read_toolbench

_Reader = Callable[[Object], Reading]
_LISTS = ("messages", "conversations")


def parse_row(row: object, *, format: str = "auto", where: Where, default_id: str) -> Conversation:
    """The conversation of one row, which is what `json.loads` gave.

    agentinstruct, sharegpt: `conversations` of from/value
    openai, messages:        `messages` or `conversations` of role/content, with `tool_calls` or `function_call`
    chatglm3:                `conversations` of role/content, with `metadata` and `tool` messages
    pairs:                   `prompt` and `response`, with `history`
    alpaca:                  `instruction`, `input` and `output`, with `history`
    toolbench:               a tree under `answer_generation`
    auto:                    what the keys of the row and of its first message say

    Beside each may stand `id` (else `default_id`), a `system` text, and `tools` or `functions`.

    Raises DataError, naming `where`, for a row that is no conversation, and ValueError for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    try:
        return _read(row, format, default_id)
    except Fault as fault:
        raise DataError(str(fault), where) from None


def _read(row: object, format: str, default_id: str) -> Conversation:
    if not isinstance(row, Mapping):
        raise Fault(f"row is {named(row)}, not an object; a row holds one conversation")
    _refuse(row)
    reading = (_detected(row) if format == "auto" else _READERS[format])(row)
    messages = reading.messages
    if system := optional_text(row, "system", "row"):
        if messages[0].role == "system":
            raise Fault("the row has a 'system' text and a system message; keep one of the two")
        messages = (Message("system", system), *messages)
    return Conversation(_id(row, default_id), messages, _tools(row, reading))


def _refuse(row: Object) -> None:
    """What no format reads and nobody would miss before the model is trained."""
    if row.get("chosen") is not None or row.get("rejected") is not None:
        raise Fault(
            "the row is a preference ('chosen', 'rejected'), and there is no training on those; "
            "make a row of messages that ends with the chosen answer"
        )
    if "loss" in row:
        raise Fault("the row has 'loss', which is read from messages alone; move it to them")
    if given(row, "system_prompt"):
        raise Fault(
            "the row has 'system_prompt', which is not read; write it as 'system' or a system message"
        )
    for key in MEDIA:
        if given(row, key):
            raise Fault(f"the row has {key!r}, which a text model cannot be shown; drop the row or the key")


def _listed(row: Object, *, keys: Sequence[str], fields: Fields | None = None) -> Reading:
    """Messages under the first of `keys` that the row has; `fields` None: as the first message has them."""
    there = [key for key in keys if row.get(key) is not None] or [key for key in keys if key in row]
    if not there:
        wanted = " or ".join(map(repr, keys))
        raise Fault(f"row has no {wanted}, a list of messages; its keys are {shown(list(row))}")
    key = there[0]
    items = row[key]
    if fields is None:
        first = items[0] if isinstance(items, list) and items and isinstance(items[0], Mapping) else {}
        marked = "role" in first or "from" in first
        fields = OPENAI if "role" in first or not (marked or key == "conversations") else SHAREGPT
    return read_messages(items, key, fields)


def _detected(row: Object) -> _Reader:
    """How the row is written, by its keys."""

    def has(*keys: str) -> bool:
        return all(row.get(key) is not None for key in keys)

    if has(*_LISTS):
        raise Fault("row has 'conversations' and 'messages'; drop one or set the source's format")
    if has("messages") or has("conversations"):
        return partial(_listed, keys=_LISTS)
    fitting = [format for format, keys in _KEYS.items() if has(*keys)]
    if len(fitting) > 1:
        raise Fault(f"row could be {' or '.join(fitting)}; set the source's format to one of them")
    if not fitting:
        wanted = "; ".join(f"{' and '.join(map(repr, keys))} ({format})" for format, keys in _KEYS.items())
        raise Fault(
            f"row fits no format, its keys are {shown(list(row))}; wanted are 'messages' or 'conversations', "
            f"a list of messages; {wanted}"
        )
    return _READERS[fitting[0]]


def _tools(row: Object, reading: Reading) -> tuple[str, ...]:
    beside = [(f"{key!r}", row[key]) for key in ("tools", "functions") if given(row, key)]
    found = [*beside, *reading.tools]
    if len(found) > 1:
        raise Fault(f"tools stand in two places, {found[0][0]} and {found[1][0]}; keep one of the two")
    return read_tools(found[0][1], found[0][0]) if found else ()


def _id(row: Object, default_id: str) -> str:
    value = row.get("id")
    if value is None:
        return default_id
    if isinstance(value, str):
        return text(value, "'id'")
    if isinstance(value, bool) or not isinstance(value, int):
        raise Fault(f"'id' is {named(value)}; it can be a string, a whole number or left out")
    return json_text(value, "'id'")


_KEYS = {
    "pairs": ("prompt", "response"),
    "alpaca": ("instruction", "output"),
    "toolbench": ("answer_generation",),
}
"""What `auto` knows a row without a list of messages by."""

_READERS: dict[str, _Reader] = {
    "agentinstruct": partial(_listed, keys=("conversations",), fields=SHAREGPT),
    "sharegpt": partial(_listed, keys=("conversations",), fields=SHAREGPT),
    "openai": partial(_listed, keys=_LISTS, fields=OPENAI),
    "messages": partial(_listed, keys=_LISTS, fields=OPENAI),
    "chatglm3": partial(_listed, keys=("conversations",), fields=OPENAI),
    "pairs": read_pair,
    "alpaca": read_alpaca,
    "toolbench": read_toolbench,
}

FORMATS = ("auto", *_READERS)
