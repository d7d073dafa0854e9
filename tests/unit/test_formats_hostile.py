"""Whatever a file holds, a row is a conversation or a DataError: no other error, and nothing a template chokes on.

`python tests/unit/test_formats_hostile.py LINES [SEED]` reads that many hostile lines and says what became of them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import SourceConfig
from tokenization.conversation import Conversation
from tokenization.errors import DataError, Where
from tokenization.formats import FORMATS, parse_row
from trainer.data.sources import open_source

F = {"name": "f", "arguments": {"a": [1, None]}}
USER, DONE = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}
CALLS = [{"id": "a", "type": "function", "function": F}, {"id": "b", "function": {**F, "arguments": "{}"}}]
GOOD: list[dict[str, Any]] = [
    {"id": 1, "system": "S", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ok"}]},
    {
        "tools": '[{"name": "f"}]',
        "conversations": [
            {"from": "human", "value": "hi", "loss": None},
            {"from": "function_call", "value": json.dumps(F), "loss": True},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "ok"},
        ],
    },
    {
        "functions": [{"type": "function", "function": {"name": "f"}}],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "S"}]},
            USER,
            {"role": "assistant", "content": None, "tool_calls": CALLS, "weight": 1},
            {"role": "tool", "tool_call_id": "b", "content": "1"},
            {"role": "tool", "tool_call_id": "a", "content": "2"},
            {"role": "assistant", "content": "ok", "function_call": {"name": "g", "arguments": '{"a": 1}'}},
            {"role": "function", "name": "g", "content": "3"},
        ],
    },
    {
        "conversations": [
            {"role": "system", "content": "S", "tools": [{"name": "f"}, 5]},
            USER,
            {"role": "tool", "name": "f", "parameters": {"a": 1}, "observation": {"b": [2]}},
            {"role": "assistant", "metadata": "f", "content": "```python\ntool_call(a=[1, {'b': None}])\n```"},
            {"role": "observation", "content": "2"},
            {"role": "assistant", "metadata": "interpreter", "content": "```python\nprint(1)\n```"},
        ]
    },
    {"prompt": "hi", "response": "ok", "history": [["a", "b"]], "system": "S", "tools": []},
    {"instruction": "hi", "input": "there", "output": "ok", "history": None},
    {"answer_generation": {"train_messages": [[USER], [USER, DONE]], "function": [{"name": "f"}]}},
]
KEYS = sorted(
    {
        *("conversations", "messages", "from", "value", "role", "content", "loss", "weight", "metadata", "name"),
        *("tools", "functions", "system", "id", "tool_calls", "function_call", "tool_call_id", "parameters"),
        *("observation", "arguments", "function", "type", "text", "history", "prompt", "response", "input"),
        *("instruction", "output", "answer_generation", "train_messages", "images", "chosen", "los", "\ud800"),
    }
)
WORDS = ["", "user", "assistant", "tool", "observation", "function_call", "text", "f", "interpreter", "a", "[]"]
WORDS += ['{"name": "f", "arguments": {}}', '{"a": 1}', "```python\ntool_call(a=1)\n```", "\ud83d", "a\nb\u2028c\x00"]


def nested(levels: int, key: str | None = None) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if key is None else {key: value}
    return value


SCALARS: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: 10**4300,
    lambda: [],
    dict,
    lambda: nested(90),
    lambda: nested(300, "arguments"),
    lambda: nested(5000),
]


def junk(random: Random, levels: int = 2) -> Any:
    """A JSON value of any kind."""
    kind = random.randrange(4 if levels else 2)
    if kind == 0:
        return random.choice(SCALARS)()
    if kind == 1:
        return random.choice(WORDS)
    if kind == 2:
        return [junk(random, levels - 1) for _ in range(random.randrange(4))]
    return {random.choice(KEYS): junk(random, levels - 1) for _ in range(random.randrange(4))}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value, with each of its keys or indices."""
    if isinstance(value, list | dict):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoiled(random: Random) -> Any:
    """A good row with up to three things wrong: a value replaced, left out, put in twice, or under a wrong key."""
    row: Any = deepcopy(random.choice(GOOD))
    for _ in range(random.randrange(4)):
        all_places = [place for place in places(row) if not isinstance(place[0][place[1]], list) or random.random() < 0.3]
        if not all_places:
            break
        container, key = random.choice(all_places)
        change = random.randrange(5)
        if change == 0:
            container[key] = junk(random)
        elif change == 1:
            del container[key]
        elif isinstance(container, dict):
            container[random.choice(KEYS)] = junk(random) if change < 4 else container.pop(key)
        elif change == 2:
            container.insert(key, deepcopy(container[key]))
        else:
            random.shuffle(container)
        if len(json_text(row)) > 100_000:
            break
    return row


def json_text(value: Any) -> str:
    """JSON, or nearly: NaN passes, and what Python cannot write is replaced."""
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 5000 + "]" * 5000
    except ValueError:
        return "9" * 4301


def hostile_lines(seed: int, count: int) -> Iterator[bytes]:
    """Lines of a JSONL file, with their ends: most are nearly rows, some are nearly JSON, some are nothing."""
    random = Random(seed)
    for _ in range(count):
        line = json_text(spoiled(random) if random.random() < 0.9 else junk(random)).encode()
        if random.random() < 0.1:
            line = json.dumps(json.loads(line), ensure_ascii=False).encode(errors="surrogatepass") if len(line) < 4000 else line
        damage = random.randrange(12)
        at = random.randrange(len(line) + 1)
        if damage == 0:
            line = line[:at]
        elif damage == 1:
            line = line[:at] + random.choice([b"\xff", b"\xed\xa0\x80", b"\x00", b"\\ud800", b"NaN", b"\t", b'"', b"1e999"]) + line[at:]
        elif damage == 2:
            line = line[:at] + line[at + 1 :]
        elif damage == 3:
            line = random.choice([b"", b"  ", b"\x0c", b"\xef\xbb\xbf", line + line, b"-" + b"9" * 4301, b"[" * 10_000])
        yield line + random.choice([b"\n", b"\n", b"\r\n", b"\n\n", b" \r\n"])
