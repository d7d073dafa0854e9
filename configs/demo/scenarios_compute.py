"""Scenarios whose observations are computed: sums, units, money, dates, text, a table asked in SQL."""

from __future__ import annotations

import sqlite3
from datetime import date, timedelta
from fractions import Fraction
from random import Random

from facts import DICTIONARY, MONTH_DAYS, MONTHS, NAMES, UNITS, WEEKDAYS
from trajectory import Call, Scenario, Task, Tool

CALCULATE = Tool("calculate", ("expression",), "the value of an expression")
THINGS = ("pens", "apples", "books", "cups", "eggs")


def calculate(left: int, sign: str, right: int) -> tuple[Call, int]:
    value = {"+": left + right, "-": left - right, "*": left * right}[sign]
    expression = f"{left} {sign} {right}"
    return Call(f"I need to compute {expression}.", CALCULATE, (expression,), str(value)), value


def calculator(rng: Random) -> Task:
    kind = rng.randrange(4)
    if kind == 0:
        sign = rng.choice("+-*")
        left, right = rng.randrange(20, 100), rng.randrange(3, 20)
        call, value = calculate(left, sign, right)
        question = rng.choice((f"What is {left} {sign} {right}?", f"Compute {left} {sign} {right}."))
        return Task(question, (call,), f"{left} {sign} {right} = {value}.")
    thing = rng.choice(THINGS)
    boxes, each = rng.randrange(3, 20), rng.randrange(4, 25)
    product, total = calculate(boxes, "*", each)
    if kind == 1:
        question = f"There are {boxes} boxes with {each} {thing} each. How many {thing} are there?"
        return Task(question, (product,), f"There are {total} {thing}.")
    extra = rng.randrange(2, 11)
    more = kind == 2
    change, result = calculate(total, "+" if more else "-", extra)
    question = f"{rng.choice(NAMES)} has {boxes} boxes with {each} {thing} each and "
    question += f"{'buys' if more else 'sells'} {extra} {thing}. How many {thing} are there now?"
    return Task(question, (product, change), f"There are {result} {thing} now.")


CONVERT = Tool("convert_units", ("value", "from", "to"), "a value in another unit, to two decimals")


def decimal(value: Fraction) -> str:
    """To two decimals, halves up, without trailing zeros."""
    hundredths = (value * 100 + Fraction(1, 2)).__floor__()
    return f"{hundredths // 100}.{hundredths % 100:02d}".rstrip("0").rstrip(".")


def convert(value: int, start: str, end: str) -> tuple[Call, str]:
    size = Fraction(*UNITS[start][1:]) / Fraction(*UNITS[end][1:])
    result = decimal(value * size)
    return Call(f"I need {value} {start} in {end}.", CONVERT, (value, start, end), f"{result} {end}"), result


def units(rng: Random) -> Task:
    start = rng.choice(list(UNITS))
    alike = [unit for unit in UNITS if UNITS[unit][0] == UNITS[start][0] and unit != start]
    end = rng.choice(alike)
    value = rng.randrange(2, 60)
    call, result = convert(value, start, end)
    if result == "0" or rng.random() < 0.25:
        other = rng.randrange(2, 60)
        base = {"length": "metres", "mass": "grams", "time": "minutes"}[UNITS[start][0]]
        units_of_base = [unit for unit in (start, *alike) if unit != base]
        one, two = rng.sample(units_of_base, 2)
        (first, _), (second, _) = convert(value, one, base), convert(other, two, base)
        sizes = [number * Fraction(*UNITS[unit][1:]) for number, unit in ((value, one), (other, two))]
        more = f"{value} {one}" if sizes[0] > sizes[1] else f"{other} {two}"
        answer = "They are equal." if sizes[0] == sizes[1] else f"{more} is more."
        return Task(f"Which is more, {value} {one} or {other} {two}?", (first, second), answer)
    question = rng.choice((f"How much is {value} {start} in {end}?", f"Convert {value} {start} to {end}."))
    return Task(question, (call,), f"{value} {start} is {result} {end}.")


GET_RATE = Tool("get_rate", ("from", "to"), "what one unit of a currency is worth in another")
CURRENCIES = ("euros", "dollars", "pounds", "yen", "pesos", "rupees")


def currency(rng: Random) -> Task:
    start, end = rng.sample(CURRENCIES, 2)
    rate = Fraction(rng.randrange(2, 40), rng.choice((4, 5, 10)))
    amount = rng.randrange(2, 40) * 5
    result = decimal(amount * rate)
    look = Call(f"I need the rate from {start} to {end}.", GET_RATE, (start, end), decimal(rate))
    if rng.random() < 0.25:
        question = f"What is the rate from {start} to {end}?"
        return Task(question, (look,), f"The rate from {start} to {end} is {decimal(rate)}.")
    expression = f"{amount} * {decimal(rate)}"
    multiply = Call(f"I need to compute {expression}.", CALCULATE, (expression,), result)
    question = rng.choice((f"How much is {amount} {start} in {end}?", f"Change {amount} {start} into {end}."))
    return Task(question, (look, multiply), f"{amount} {start} is {result} {end}.")


GET_WEEKDAY = Tool("get_weekday", ("date",), "the day of the week of a date")
ADD_DAYS = Tool("add_days", ("date", "days"), "the date some days after a date")


def spoken(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def dates(rng: Random) -> Task:
    month = rng.randrange(12)
    start = date(rng.randrange(2020, 2030), month + 1, rng.randrange(1, MONTH_DAYS[month] + 1))
    days = rng.randrange(3, 60)
    end = start + timedelta(days=days)

    def weekday_call(day: date) -> Call:
        name = WEEKDAYS[day.weekday()]
        return Call(f"I need the weekday of {spoken(day)}.", GET_WEEKDAY, (day.isoformat(),), name)

    shift = Call(
        f"I need the date {days} days after {spoken(start)}.",
        ADD_DAYS,
        (start.isoformat(), days),
        end.isoformat(),
    )
    kind = rng.randrange(3)
    if kind == 0:
        weekday = WEEKDAYS[start.weekday()]
        question = f"Which day of the week is {spoken(start)}?"
        return Task(question, (weekday_call(start),), f"{spoken(start)} is a {weekday}.")
    if kind == 1:
        question = f"Which date is {days} days after {spoken(start)}?"
        return Task(question, (shift,), f"It is {spoken(end)}.")
    question = f"My holiday begins on {spoken(start)}. On which weekday am I back, {days} days later?"
    return Task(question, (shift, weekday_call(end)), f"You are back on a {WEEKDAYS[end.weekday()]}.")


COUNT_LETTER = Tool("count_letter", ("word", "letter"), "how often a letter stands in a word")
REVERSE = Tool("reverse_word", ("word",), "a word written backwards")
WORDS = (*DICTIONARY, "banana", "letter", "coffee", "summer", "winter", "garden", "window", "pepper", "level")


def text(rng: Random) -> Task:
    word = rng.choice(WORDS)
    if rng.random() < 0.5:
        back = word[::-1]
        call = Call(f'I need "{word}" backwards.', REVERSE, (word,), back)
        if rng.random() < 0.5:
            answer = (
                f'Yes, backwards it is "{back}" too.' if back == word else f'No, backwards it is "{back}".'
            )
            return Task(f'Does "{word}" read the same backwards?', (call,), answer)
        return Task(f'What is "{word}" backwards?', (call,), f'"{word}" backwards is "{back}".')
    letters = rng.sample(sorted(set(word)), min(len(set(word)), rng.choice((1, 1, 2))))
    counts = [word.count(letter) for letter in letters]
    calls = tuple(
        Call(f'I need to count "{letter}" in "{word}".', COUNT_LETTER, (word, letter), str(count))
        for letter, count in zip(letters, counts, strict=True)
    )
    if len(letters) == 1:
        question = f'How often does "{letters[0]}" stand in "{word}"?'
        times = "once" if counts[0] == 1 else f"{counts[0]} times"
        return Task(question, calls, f'"{letters[0]}" stands in "{word}" {times}.')
    question = f'How many letters of "{word}" are "{letters[0]}" or "{letters[1]}"?'
    number = sum(counts)
    return Task(question, calls, f'{number} letters of "{word}" are "{letters[0]}" or "{letters[1]}".')


QUERY = Tool("run_sql", ("query",), "run one SQL query and get the rows")
# table: (columns, the first a name and the last two numbers; names of the rows)
TABLES = {
    "staff": (("name", "age", "salary"), NAMES),
    "fruit": (("name", "price", "stock"), ("apple", "pear", "plum", "lemon", "melon", "grape", "cherry")),
    "hotels": (("name", "price", "rating"), ("Star", "Park", "Lake", "Hill", "Sun", "Rose", "Palace")),
}
RANGES = {
    "age": (20, 65),
    "salary": (2000, 5000),
    "price": (2, 99),
    "stock": (0, 90),
    "rating": (1, 6),
}


def table(rng: Random) -> Task:
    name = rng.choice(list(TABLES))
    columns, labels = TABLES[name]
    rows = [
        (label, *(rng.randrange(*RANGES[column]) for column in columns[1:]))
        for label in rng.sample(labels, rng.randrange(3, 6))
    ]
    column = rng.choice(columns[1:])
    base = sqlite3.connect(":memory:")
    base.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
    base.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", rows)

    def ask(thought: str, query: str) -> tuple[Call, list[tuple[str | int, ...]]]:
        found = base.execute(query).fetchall()
        return Call(thought, QUERY, (query,), str([tuple(row) for row in found])), found

    limit = rng.choice(rows)[columns.index(column)]
    label = rng.choice(rows)[0]
    intro = f'The table "{name}" has the columns {", ".join(columns)}. '
    kind = rng.randrange(5)
    if kind == 0:
        call, found = ask("I count the rows.", f"SELECT COUNT(*) FROM {name} WHERE {column} > {limit}")
        question = f"In how many rows is the {column} above {limit}?"
        answer = f"The number of rows is {found[0][0]}."
    elif kind == 1:
        call, found = ask(f"I add up the {column}.", f"SELECT SUM({column}) FROM {name}")
        question, answer = f"What is the sum of {column}?", f"The sum of {column} is {found[0][0]}."
    elif kind == 2:
        call, found = ask(f"I look up the {column}.", f"SELECT {column} FROM {name} WHERE name = '{label}'")
        question, answer = f"What is the {column} of {label}?", f"The {column} of {label} is {found[0][0]}."
    else:
        way, most = (("MAX", "highest"), ("MIN", "lowest"))[kind - 3]
        call, found = ask(f"I find the {most} {column}.", f"SELECT {way}({column}) FROM {name}")
        best = found[0][0]
        second, named = ask(
            "I find its name.", f"SELECT name FROM {name} WHERE {column} = {best} ORDER BY name"
        )
        names = " and ".join(str(row[0]) for row in named)
        question = f"Who or what has the {most} {column}?"
        return Task(intro + question, (call, second), f"{names}, with {best}.")
    return Task(intro + question, (call,), answer)


SCENARIOS = (
    Scenario("calculator", (CALCULATE,), calculator),
    Scenario("units", (CONVERT,), units),
    Scenario("currency", (GET_RATE, CALCULATE), currency),
    Scenario("dates", (GET_WEEKDAY, ADD_DAYS), dates),
    Scenario("text", (COUNT_LETTER, REVERSE), text),
    Scenario("table", (QUERY,), table),
)
