"""Whatever a file holds, a row is a conversation or a DataError: no other error, and nothing a template chokes on.

`python tests/unit/test_formats_hostile.py LINES [SEED]` reads that many hostile lines and says what became of them.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import SourceConfig
from tokenization.conversation import Conversation, canonical
from tokenization.errors import DataError, Where
from tokenization.formats import FORMATS, parse_row
from trainer.data.sources import open_source

F = {"name": "f", "arguments": {"a": [1, None]}}
USER, DONE = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok"}
CALLS = [{"id": "a", "type": "function", "function": F}, {"id": "b", "function": {**F, "arguments": "{}"}}]
GOOD: list[dict[str, Any]] = [
    {
        "id": 1,
        "system": "S",
        "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ok"}],
    },
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
            {
                "role": "assistant",
                "metadata": "f",
                "content": "```python\ntool_call(a=[1, {'b': None}])\n```",
            },
            {"role": "observation", "content": "2"},
            {"role": "assistant", "metadata": "interpreter", "content": "```python\nprint(1)\n```"},
        ]
    },
    {"prompt": "hi", "response": "ok", "history": [["a", "b"]], "system": "S", "tools": []},
    {"instruction": "hi", "input": "there", "output": "ok", "history": None},
    {"answer_generation": {"train_messages": [[USER], [USER, DONE]], "function": [{"name": "f"}]}},
]
KEYS = [
    *("conversations", "messages", "from", "value", "role", "content", "loss", "los", "weight", "metadata"),
    *("name", "tools", "functions", "system", "id", "tool_calls", "function_call", "tool_call_id"),
    *("parameters", "observation", "arguments", "function", "type", "text", "history", "prompt", "response"),
    *("input", "instruction", "output", "answer_generation", "train_messages", "images", "chosen", "\ud800"),
]
WORDS = [
    *("", "user", "assistant", "tool", "observation", "function_call", "text", "f", "interpreter", "a", "[]"),
    *(
        '{"name": "f", "arguments": {}}',
        '{"a": 1}',
        "```python\ntool_call(a=1)\n```",
        "\ud83d",
        "a\nb\u2028c\x00",
    ),
]

HUGE, DEEP, NAN = "\x01huge", "\x01deep", "\x01nan"
"""Stand for what the json module does not write; see `real` and `written`."""
DEEPEST = 5000
SCALARS: list[Any] = [None, True, False, 0, 1, -1.5, [], {}, HUGE, DEEP, NAN, *WORDS]


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"arguments": value}
    return value


def real(value: Any) -> Any:
    """The value with the stand-ins replaced."""
    if isinstance(value, list):
        return [real(item) for item in value]
    if isinstance(value, dict):
        return {key: real(item) for key, item in value.items()}
    if value == NAN:
        return float("nan")
    return 10**4300 if value == HUGE else nested(DEEPEST) if value == DEEP else value


def written(value: Any, escaped: bool) -> bytes:
    """The value as JSON, or nearly."""
    text = json.dumps(value, ensure_ascii=escaped).encode(errors="surrogatepass")
    for stand_in, meant in ((HUGE, b"9" * 4301), (DEEP, b"[" * DEEPEST + b"]" * DEEPEST), (NAN, b"NaN")):
        text = text.replace(json.dumps(stand_in).encode(), meant)
    return text


def junk(random: Random, levels: int = 2) -> Any:
    """A JSON value of any kind."""
    kind = random.randrange(3) if levels else 0
    if kind == 0:
        return deepcopy(random.choice(SCALARS))
    some = range(random.randrange(4))
    if kind == 1:
        return [junk(random, levels - 1) for _ in some]
    return {random.choice(KEYS): junk(random, levels - 1) for _ in some}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list and object within a value, with each of its indices or keys."""
    if isinstance(value, list | dict):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoiled(random: Random) -> Any:
    """A good row with up to three faults: a value replaced, left out, put in twice or elsewhere."""
    row: Any = deepcopy(random.choice(GOOD))
    for _ in range(random.randrange(4)):
        container: Any
        container, key = random.choice(list(places(row)) or [([0], 0)])
        change = random.randrange(4)
        if change == 0:
            container[key] = junk(random)
        elif change == 1:
            del container[key]
        elif isinstance(container, dict):
            container[random.choice(KEYS)] = junk(random) if change == 2 else container.pop(key)
        else:
            container.insert(random.randrange(len(container)), deepcopy(container[key]))
    return row


def hostile_lines(random: Random, count: int) -> Iterator[bytes]:
    """Lines of a file with their ends: most are nearly rows, some are nearly JSON, some are nothing."""
    specks = [*b'\xff \xed\xa0\x80 \\ud800 \\ \x00 " NaN 1e999 , }'.split(), b"\t", b"\r"]
    wholes = [
        b"",
        b"  ",
        b"\x0c",
        b"\xef\xbb\xbf",
        b"\xff\xfe{",
        b"-" + b"9" * 4301,
        b"[" * 10_000,
        b'{"a":' * 10_000,
    ]
    for _ in range(count):
        line = written(spoiled(random) if random.random() < 0.9 else junk(random), random.random() < 0.5)
        damage, at = random.randrange(12), random.randrange(len(line))
        if damage == 0:
            line = line[:at]
        elif damage == 1:
            line = line[:at] + random.choice(specks) + line[at:]
        elif damage == 2:
            line = random.choice([*wholes, line + line])
        yield line + random.choice([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b" \r\n"])


def read_row(row: object, format: str, where: Where) -> str:
    """What became of a row: "conversation", or its fault without what differs from row to row."""
    try:
        conversation = parse_row(row, format=format, where=where, default_id="0")
    except DataError as error:
        return fault(error)
    assert_sound(conversation)
    return "conversation"


def assert_legible(message: str, place: str) -> None:
    message.encode()
    assert message.startswith(place), message
    assert len(message.splitlines()) == 1, message
    assert len(message) < 600, message


def fault(error: DataError) -> str:
    message = str(error)
    assert_legible(message, f"{error.where}: ")
    words = message.removeprefix(f"{error.where}: ")
    return re.sub(r"'[^']*'|\[.*\]|\d+", "…", words).split(";")[0][:70]


def assert_sound(conversation: Conversation) -> None:
    """It can be written, hashed and changed as its readers do."""
    hash(conversation)
    repr(conversation).encode()
    assert conversation.map_text(lambda text: text.encode().decode()) == conversation
    for message in conversation.messages:
        assert message.role == "assistant" or not message.calls
        assert all(call.name and call.arguments.startswith("{") for call in message.calls)
    for text in [*conversation.tools, *(call.arguments for m in conversation.messages for call in m.calls)]:
        assert canonical(json.loads(text)) == text


def read_lines(lines: Iterable[bytes], path: Path) -> Counter[str]:
    """Reads the lines as a file, row by row, and counts what became of them."""
    path.write_bytes(b"".join(lines))
    try:
        source = open_source(SourceConfig(name="hostile", path=str(path), role="agent"))
    except DataError as error:
        assert_legible(str(error), str(path))
        raise
    found: Counter[str] = Counter()
    for i in range(len(source)):
        try:
            row, where = source.row(i)
        except DataError as error:
            found[fault(error)] += 1
        else:
            found[read_row(row, "auto", where)] += 1
    assert sum(found.values()) == len(source)
    return found


@pytest.mark.parametrize("row", GOOD)
def test_the_rows_that_are_spoiled_are_good_ones(row: dict[str, Any]) -> None:
    assert read_row(row, "auto", Where("rows.jsonl", 1)) == "conversation"


texts = st.text(st.characters(), max_size=5) | st.sampled_from(WORDS)  # surrogates among them
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(row=values, format=st.sampled_from(FORMATS))
def test_any_value_is_a_conversation_or_a_data_error(row: object, format: str) -> None:
    read_row(row, format, Where("rows.jsonl", 1))


@settings(deadline=None, max_examples=300)
@given(random=st.randoms(use_true_random=False), format=st.sampled_from(["auto", "auto", *FORMATS]))
def test_a_spoiled_row_is_a_conversation_or_a_data_error(random: Random, format: str) -> None:
    read_row(real(spoiled(random)), format, Where("rows.jsonl", 1))


@pytest.mark.parametrize("seed", range(3))
def test_hostile_lines_are_read_or_named(seed: int, tmp_path: Path) -> None:
    found = read_lines(hostile_lines(Random(seed), 1000), tmp_path / "rows.jsonl")
    assert found["conversation"] > 200
    assert len(found) > 60


@pytest.mark.parametrize("seed", range(100))
def test_a_hostile_file_of_any_kind(seed: int, tmp_path: Path) -> None:
    """Arrays and objects over several lines: what spoils them may end the reading of all, with a line."""
    random = Random(seed)
    row = json.dumps(spoiled(random), indent=random.choice([None, 1])).encode()
    lines = [row, random.choice([b",\n", b"\n"]), *hostile_lines(random, 2)]
    opening, closing = random.choice([(b"[\n", b"]"), (b"", b""), (b'{"messages":\n', b"}")])
    with suppress(DataError):
        read_lines([opening, *lines[: random.randrange(1, 5)], closing], tmp_path / "rows.json")


def main(count: int, seed: int) -> None:
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = read_lines(hostile_lines(Random(seed), count), Path(folder) / "rows.jsonl")
    print(f"{count} lines, {sum(found.values())} rows in {time.perf_counter() - begun:.0f} s, seed {seed}")
    for words, times in found.most_common():
        print(f"{times:8}  {words}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
