"""The demo's data is what its generators write and adds up."""

from __future__ import annotations

import calendar
import json
import operator
import re
import subprocess
import sys
from collections import Counter
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo"
CALL = re.compile(r"Thought: .+\nAction: (\w+)\nArguments: (\{.*\})")
FINAL = "Thought: I know the answer now.\nFinal Answer: "
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}

Row = dict[str, Any]


def read(name: str) -> list[Row]:
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


AGENT = read("agent.jsonl")
GENERAL = read("general.jsonl")


def scenario(name: str) -> list[tuple[str, list[dict[str, Any]], list[str], str]]:
    """(question, arguments of each trained call, its observation, final answer) of a scenario's rows."""
    found = []
    for row in AGENT:
        if row["id"].rsplit("_", 1)[0] != name:
            continue
        turns = row["conversations"]
        arguments, observations = [], []
        for said, seen in zip(turns[3:-1:2], turns[4::2], strict=True):
            call = CALL.fullmatch(said["value"])
            if call and said["loss"]:
                arguments.append(json.loads(call[2]))
                observations.append(seen["value"].removeprefix("Observation: "))
        found.append((turns[2]["value"], arguments, observations, turns[-1]["value"].removeprefix(FINAL)))
    assert len(found) >= 20
    return found


# The files are what the generators write.


@pytest.mark.parametrize(
    ("script", "files"),
    [
        ("write_data.py", ["agent.jsonl", "general.jsonl"]),
        ("train_tokenizer.py", ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]),
    ],
)
def test_the_files_are_what_the_generator_writes(script: str, files: list[str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DEMO / script), "--out", str(tmp_path)], check=True)
    for name in files:
        assert (tmp_path / Path(name).name).read_bytes() == (DEMO / name).read_bytes()


def test_the_files_are_small_and_hold_as_many_rows_as_promised() -> None:
    assert sum((DEMO / name).stat().st_size for name in ("agent.jsonl", "general.jsonl")) < 900_000
    assert (len(AGENT), len(GENERAL)) == (400, 600)
    for rows in (AGENT, GENERAL):
        assert len({row["id"] for row in rows}) == len(rows)


# The agent's trajectories.


@pytest.mark.parametrize("row", AGENT, ids=lambda row: row["id"])
def test_a_trajectory_is_well_formed(row: Row) -> None:
    turns = row["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    assert all(turn["loss"] is None for turn in turns[::2])
    assert turns[1] == {"from": "gpt", "loss": False, "value": "Ok."}
    assert turns[-1]["value"].startswith(FINAL)
    assert turns[-1]["loss"] is True

    declared = dict(re.findall(r"^- (\w+)\(([\w, ]+)\): ", turns[0]["value"], flags=re.MULTILINE))
    calls = turns[3:-1:2]
    assert 1 <= len(calls) <= 4
    for said, seen in zip(calls, turns[4::2], strict=True):
        call = CALL.fullmatch(said["value"])
        assert call
        names, arguments = declared[call[1]].split(", "), json.loads(call[2])
        # A call the model shall not learn is one that names an argument wrongly, and is told so.
        assert (list(arguments) == names) == said["loss"]
        assert seen["value"].startswith("Observation: ")
        assert said["loss"] or "Error" in seen["value"]


def test_the_trajectories_differ() -> None:
    kinds = Counter(row["id"].rsplit("_", 1)[0] for row in AGENT)
    assert len(kinds) >= 12
    assert min(kinds.values()) >= 20
    bodies = [json.dumps(row["conversations"][2:]) for row in AGENT]
    assert len(set(bodies)) == len(bodies)
    answers = Counter(row["conversations"][-1]["value"] for row in AGENT)
    assert len(answers) >= 350
    assert max(answers.values()) <= 8
    mistakes = sum(any(turn["loss"] is False for turn in row["conversations"][3::2]) for row in AGENT)
    assert 10 <= mistakes <= 40


def test_weather_answers_follow_from_the_observations() -> None:
    for question, arguments, observations, answer in scenario("weather"):
        degrees = [int(seen.split()[0]) for seen in observations]
        cities = [call["city"] for call in arguments]
        assert all(city in question for city in cities)
        if len(cities) > 1:
            assert answer.startswith(cities[degrees.index(max(degrees))])
            assert f"with {max(degrees)} degrees" in answer
        elif "umbrella" in question:
            assert answer.startswith("Yes") == ("rainy" in observations[0])
        else:
            assert answer == f"It is {observations[0].replace(' degrees,', ' degrees and')} in {cities[0]}."


def test_sums_are_right() -> None:
    for _, arguments, observations, answer in scenario("calculator"):
        for call, seen in zip(arguments, observations, strict=True):
            left, sign, right = call["expression"].split()
            assert SIGNS[sign](int(left), int(right)) == int(seen)
        assert re.findall(r"-?\d+", answer)[-1 if "=" in answer else 0] == observations[-1]


def test_money_is_changed_at_the_rate_observed() -> None:
    for question, _, observations, answer in scenario("currency"):
        rate = Decimal(observations[0])
        amount = re.search(r"\d+", question)
        if amount:
            # A number written with fewer decimals is the same number.
            assert Decimal(observations[1]) == (int(amount[0]) * rate).quantize(
                Decimal("0.01"), ROUND_HALF_UP
            )
            assert f" {observations[1]} " in answer
        else:
            assert answer.endswith(f"{observations[0]}.")


def test_units_are_converted_by_their_definitions() -> None:
    metres_grams_minutes = {
        "metres": "1", "kilometres": "1000", "centimetres": "0.01", "miles": "1609.344", "feet": "0.3048",
        "inches": "0.0254", "grams": "1", "kilograms": "1000", "pounds": "453.59237", "minutes": "1",
        "hours": "60", "days": "1440",
    }  # fmt: skip
    sizes = {unit: Decimal(size) for unit, size in metres_grams_minutes.items()}
    for question, arguments, observations, answer in scenario("units"):
        for call, seen in zip(arguments, observations, strict=True):
            exact = call["value"] * sizes[call["from"]] / sizes[call["to"]]
            number, unit = seen.split()
            assert Decimal(number) == exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
            assert unit == call["to"]
        if "Which is more" in question:
            one, two = ((call["value"] * sizes[call["from"]], call) for call in arguments)
            if one[0] == two[0]:
                assert answer == "They are equal."
            else:
                more = max(one, two, key=lambda pair: pair[0])[1]
                assert answer == f"{more['value']} {more['from']} is more."
        else:
            assert answer.endswith(f"is {observations[0]}.")


def test_dates_are_those_of_the_calendar() -> None:
    for _, arguments, observations, answer in scenario("dates"):
        for call, seen in zip(arguments, observations, strict=True):
            year, month, day = map(int, call["date"].split("-"))
            for _ in range(call.get("days", 0)):
                day += 1
                if day > calendar.monthrange(year, month)[1]:
                    year, month, day = year + month // 12, month % 12 + 1, 1
            weekday = calendar.day_name[calendar.weekday(year, month, day)]
            assert seen == (f"{year}-{month:02d}-{day:02d}" if "days" in call else weekday)
            expected = f"{day} {calendar.month_name[month]} {year}" if "days" in call else weekday
            # The last observation is the answer.
            assert call is not arguments[-1] or expected in answer


def test_letters_are_counted_and_words_reversed() -> None:
    for _, arguments, observations, answer in scenario("text"):
        for call, seen in zip(arguments, observations, strict=True):
            word = call["word"]
            if "letter" in call:
                assert int(seen) == sum(letter == call["letter"] for letter in word)
            else:
                assert seen == "".join(reversed(word))
                assert f'"{seen}"' in answer
        if len(observations) == 2:
            assert answer.startswith(f"{sum(map(int, observations))} letters")


def test_the_table_answers_with_what_the_query_found() -> None:
    for _, arguments, observations, answer in scenario("table"):
        assert all(call["query"].startswith("SELECT ") for call in arguments)
        found = re.findall(r"\(('?)(\w+)\1,\)", observations[-1])
        assert found
        assert all(value in answer for _, value in found)


def test_prices_and_stocks_lead_to_the_answer() -> None:
    for question, arguments, observations, answer in scenario("inventory"):
        numbers = [int(seen.split()[0]) for seen in observations]
        wanted = re.search(r"\d+", question)
        if wanted:
            enough = numbers[0] >= int(wanted[0])
            assert answer.startswith("Yes") == enough
            assert not enough or f" {int(wanted[0]) * numbers[1]} euros" in answer
        elif "cheaper" in question:
            assert f"The {arguments[numbers.index(min(numbers))]['item']} is" in answer
        else:
            assert str(numbers[0]) in answer or (numbers[0] == 0 and "out of stock" in answer)


def test_countries_have_their_capitals() -> None:
    known = {
        "Norway": "Oslo", "Iceland": "Reykjavik", "France": "Paris", "Spain": "Madrid", "Germany": "Berlin",
        "Austria": "Vienna", "Poland": "Warsaw", "Japan": "Tokyo", "Egypt": "Cairo", "Kenya": "Nairobi",
        "Peru": "Lima", "Chile": "Santiago", "Canada": "Ottawa",
    }  # fmt: skip
    claims = re.findall(r"The capital of (\w+) is ([\w ]+)\.", json.dumps([AGENT, GENERAL]))
    for _, arguments, observations, _ in scenario("geography"):
        for call, seen in zip(arguments, observations, strict=True):
            if "country" in call:
                claims.append((call["country"], seen.split(",")[0].removeprefix("capital ")))
            else:
                city, country = seen.split(" is the capital of ")
                assert city == call["city"]
                claims.append((country, city))
    checked = {(country, capital) for country, capital in claims if country in known}
    assert checked <= set(known.items())
    assert len(checked) >= 6


# The general chat.


def test_conversations_take_turns_and_differ() -> None:
    for row in GENERAL:
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert 1 <= len(turns) // 2 <= 3
        assert all(message["content"].strip() == message["content"] != "" for message in row["messages"])
    with_system = sum(row["messages"][0]["role"] == "system" for row in GENERAL)
    assert 100 <= with_system <= 300
    assert len({json.dumps(row["messages"]) for row in GENERAL}) == len(GENERAL)
    answers = Counter(m["content"] for row in GENERAL for m in row["messages"] if m["role"] == "assistant")
    assert len(answers) >= 500
    assert max(answers.values()) <= 15


def test_chat_computes_rightly() -> None:
    pairs = [
        (row["messages"][place]["content"], message["content"])
        for row in GENERAL
        for place, message in enumerate(row["messages"][1:])
        if message["role"] == "assistant"
    ]
    seen: Counter[str] = Counter()
    names = {"plus": "+", "minus": "-", "times": "*"}
    for asked, said in pairs:
        if sum_ := re.search(r"(-?\d+) (plus|minus|times|[+*-]) (\d+) (?:=|is) (-?\d+)\.", said):
            left, sign, right, result = sum_.groups()
            assert SIGNS[names.get(sign, sign)](int(left), int(right)) == int(result)
            seen["sum"] += 1
        if asked.startswith("Sort these"):
            assert [int(n) for n in said.split(", ")] == sorted(map(int, re.findall(r"\d+", asked)))
            seen["sorted"] += 1
        if asked.startswith("Continue"):
            shown = [int(n) for n in re.findall(r"\d+", asked)]
            assert said.startswith(f"The next number is {2 * shown[-1] - shown[-2]},")
            seen["continued"] += 1
        if later := re.search(r"Today is (\w+)\. .*in (\d+) days", asked):
            days = list(calendar.day_name)
            assert said.endswith(f"{days[(days.index(later[1]) + int(later[2])) % 7]}.")
            seen["weekday"] += 1
    assert min(seen.values()) >= 5
    assert len(seen) == 4
