"""Rows of data files read into conversations.

A row is an object with a list of messages under `conversations` or `messages`. The messages are written
`{"from", "value"}` (ShareGPT, AgentInstruct) or `{"role", "content"}` (OpenAI); both may carry `loss`.
Keys that are not known are left alone, except those that would change what the model must see:
tool definitions and structured tool calls are refused, not dropped.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from tokenization.conversation import Conversation, Message, Role
from tokenization.errors import DataError, Where

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_Object = Mapping[str, object]

FORMATS = ("auto", "sharegpt", "messages")
_LISTS = ("conversations", "messages")
_NO_TOOLS = (None, "", "[]", [])


class _Fields(NamedTuple):
    """The keys of one message."""

    role: str
    content: str


_SHAREGPT = _Fields("from", "value")
_MESSAGES = _Fields("role", "content")


def parse_row(row: object, *, format: str = "auto", where: Where, default_id: str) -> Conversation:
    """The conversation of one row, which is what `json.loads` gave.

    `format` is `sharegpt` (`conversations` of from/value), `messages` (role/content under either key) or
    `auto`, which looks at the keys of the row and of its first message. A row without `id` gets `default_id`.
    A `system` string beside the messages opens the conversation; an empty one counts as none.

    Raises DataError, naming `where`, for a row that is no conversation, and ValueError for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; use one of {', '.join(FORMATS)}")
    if not isinstance(row, Mapping):
        raise DataError(f"row is {_named(row)}, not an object; a row holds one conversation", where)
    _refuse_tools(row, "the row", ("tools", "functions"), where)
    if "loss" in row:
        raise DataError("the row has 'loss', which is read from messages alone; move it to them", where)
    items, fields = _message_list(row, format, where)
    messages = tuple(_message(item, number, fields, where) for number, item in enumerate(items, 1))
    try:
        conversation = Conversation(_id(row, default_id, where), messages)
    except ValueError as fault:
        raise DataError(str(fault), where) from None
    system = row.get("system")
    if system is None or system == "":
        return conversation
    if messages[0].role == "system":
        raise DataError("the row has a 'system' text and a system message; keep one of the two", where)
    return conversation.with_system(_text(system, "'system'", where))


def _message_list(row: _Object, format: str, where: Where) -> tuple[list[object], _Fields]:
    """The row's list of messages and the keys they are written with."""
    keys = [key for key in _LISTS if key in row and not (format == "sharegpt" and key == "messages")]
    wanted = "'conversations'" if format == "sharegpt" else "'conversations' or 'messages'"
    if not keys:
        raise DataError(f"row has no {wanted}, a list of messages; its keys are {_shown(list(row))}", where)
    if len(keys) == 2 and format == "auto":
        raise DataError("row has 'conversations' and 'messages'; drop one or set the source's format", where)
    key = keys[-1]
    items = row[key]
    if not isinstance(items, list):
        raise DataError(f"{key!r} is {_named(items)}, not a list of messages", where)
    if not items:
        raise DataError(f"{key!r} is an empty list; drop the row or give it messages", where)
    if format == "auto":
        first = items[0]
        if isinstance(first, Mapping) and ("role" in first or "from" in first):
            return items, _MESSAGES if "role" in first else _SHAREGPT
        return items, _MESSAGES if key == "messages" else _SHAREGPT
    return items, _SHAREGPT if format == "sharegpt" else _MESSAGES


def _message(item: object, number: int, fields: _Fields, where: Where) -> Message:
    if not isinstance(item, Mapping):
        shape = f'{{"{fields.role}": …, "{fields.content}": …}}'
        raise DataError(f"message {number} is {_named(item)}, not an object {shape}", where)
    _refuse_tools(item, f"message {number}", ("tool_calls", "function_call"), where)
    for key in fields:
        if key not in item:
            raise DataError(f"message {number} has no {key!r}; its keys are {_shown(list(item))}", where)
    name = item[fields.role]
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise DataError(f"message {number} has the unknown role {_shown(name)}; {_known_roles(name)}", where)
    content = _text(item[fields.content], f"message {number}: {fields.content!r}", where)
    _refuse_unread_loss(item, f"message {number}", where)
    loss = item.get("loss")
    if not (loss is None or isinstance(loss, bool)):
        raise DataError(f"message {number}: 'loss' is {_shown(loss)}; it can be true, false or null", where)
    return Message(role, content, loss)


def _known_roles(name: object) -> str:
    near = get_close_matches(name.lower(), ROLES, n=1) if isinstance(name, str) else []
    known = f"known are {', '.join(ROLES)}"
    return f"did you mean {near[0]!r}? {known}" if near else known


def _text(value: object, name: str, where: Where) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} is {_named(value)}, not a string; write the text itself", where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} holds half a surrogate pair at character {error.start + 1}; write the whole character",
            where,
        ) from None
    return value


def _id(row: _Object, default_id: str, where: Where) -> str:
    value = row.get("id")
    if value is None:
        return default_id
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"'id' is {_named(value)}; it can be a string, a whole number or left out", where)
    return _text(value, "'id'", where)


def _refuse_tools(fields: _Object, owner: str, keys: tuple[str, ...], where: Where) -> None:
    for key in keys:
        if fields.get(key) not in _NO_TOOLS:
            raise DataError(
                f"{owner} has {key!r}, which the template cannot show the model; "
                f"write it out in a message's text and drop {key!r}",
                where,
            )


def _refuse_unread_loss(item: _Object, owner: str, where: Where) -> None:
    """A misspelt `loss`, or OpenAI's `weight`, would otherwise be trained on without a word."""
    for key in item:
        if key == "weight" or (key != "loss" and get_close_matches(key.lower(), ("loss",), cutoff=0.8)):
            raise DataError(f"{owner} has {key!r}, which is not read; write 'loss': true or false", where)


def _named(value: object) -> str:
    """A JSON value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {str: "a string", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")


def _shown(value: object) -> str:
    """A value as it stands in an error: on one line and not endless."""
    return reprlib.repr(value)
