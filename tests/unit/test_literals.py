"""Python literals in calls: as `ast` reads them, which stands in this test alone, or refused."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tagged_calls import often, values

from tokenization.conversation import Call, canonical
from tokenization.grammar.pythonic import parse_message
from tokenization.grammar.reply import CallError

ESCAPES = [
    r"\\",
    r"\'",
    r"\"",
    r"\n",
    r"\r",
    r"\t",
    r"\a",
    r"\b",
    r"\f",
    r"\v",
    r"\0",
    r"\07",
    r"\101",
    r"\777",
    r"\x41",
]
ESCAPES += [
    r"\xfF",
    r"\u5317",
    r"\uFFFF",
    r"\U0001f642",
    r"\U0010ffff",
    r"\q",
    r"\8",
    r"\ ",
    "\\北",
    "\\\n",
    "\\\r\n",
    r"\7q",
]


def quoted(quote: str) -> st.SearchStrategy[str]:
    plain = st.characters(exclude_categories=["Cs"], exclude_characters=f"\0\r\n\\{quote}")
    return st.lists(st.sampled_from(ESCAPES) | plain, max_size=8).map(lambda it: quote + "".join(it) + quote)


strings = quoted("'") | quoted('"')
digits = st.text("0123456789", min_size=1, max_size=20)
unsigned = st.one_of(
    st.integers(0).map(str),
    st.sampled_from(
        ["0", "00", "1.", ".5", "0.", "1e3", "1E+3", "1.e-3", ".5e0", "00.5", "01e1", "5e-324", "1e308"]
    ),
    st.builds("{}.{}".format, digits, digits),
    st.builds("{}.{}e-{}".format, digits, digits, st.integers(0, 400)),
)
figures = st.builds(str.__add__, st.sampled_from(["", "-"]), unsigned)
gaps = st.text(" \t\n", max_size=2)


def separated(items: list[str], gaps: Sequence[str], comma: bool) -> str:
    before, after = gaps
    return before + f"{before},{after}".join(items) + ("," if items and comma else "") + after


def collections(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.builds("{}{}:{}{}".format, strings, gaps, gaps, inner)
    some = st.tuples(gaps, gaps)
    return st.one_of(
        st.builds(separated, st.lists(inner, max_size=4), some, st.booleans()).map("[{}]".format),
        st.builds(separated, st.lists(pairs, max_size=3), some, st.booleans()).map("{{{}}}".format),
    )


literals = st.recursive(
    strings | figures | st.sampled_from(["True", "False", "None"]), collections, max_leaves=8
)


def python_reads(source: str) -> dict[str, object] | None:
    """The arguments of `tool_call(…)` as Python reads them; None where it does not, or a key is given twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that it does not know
        try:
            call = ast.parse(source, mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                return None
            arguments: dict[str, object] = {}
            for item in call.keywords:
                if any(isinstance(node, ast.Dict) and has_twice(node) for node in ast.walk(item)):
                    return None
                value = ast.literal_eval(item.value)
                more = value if item.arg is None else {item.arg: value}
                if arguments.keys() & more.keys():
                    return None
                arguments |= more
        except (SyntaxError, ValueError, TypeError, MemoryError):
            return None
    return arguments


def has_twice(node: ast.Dict) -> bool:
    keys = [ast.literal_eval(key) for key in node.keys if key]
    return len(set(keys)) < len(keys)


@often
@given(literals)
def test_literals_are_read_as_python_reads_them(literal: str) -> None:
    arguments = python_reads(f"tool_call(a={literal})")
    if arguments is None:
        with pytest.raises(CallError, match="given twice"):
            parse_message(f"f\ntool_call(a={literal})")
        return
    if "Infinity" in json.dumps(arguments):
        with pytest.raises(CallError, match="beyond a float's range"):
            parse_message(f"f\ntool_call(a={literal})")
        return
    assert parse_message(f"f\ntool_call(a={literal})") == Call("f", canonical(arguments))


@often
@given(st.text(st.sampled_from("'\"\\nxuU01fe.-, :[]{}\n\r#"), max_size=12))
def test_nothing_is_read_that_python_does_not_read(soup: str) -> None:
    try:
        said = parse_message(f"f\ntool_call(a={soup})")
    except CallError:
        return
    assert said == Call("f", canonical(python_reads(f"tool_call(a={soup})")))


@often
@given(values)
def test_json_is_read_too(value: object) -> None:
    """Models that know JSON write it where Python is due."""
    text = json.dumps(value, ensure_ascii=False)
    assert parse_message(f"f\ntool_call(a={text})") == Call("f", canonical({"a": json.loads(text)}))
