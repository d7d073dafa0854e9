"""General chat of the demo: small topics, put together into conversations of one to three turns."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import chat_seeds as seeds
from facts import BOOKS, COUNTRIES, DICTIONARY, LANGUAGES, MONTH_DAYS, MONTHS, NAMES, WEEKDAYS
from trajectory import listed

Turn = tuple[str, str]
"""What the user says and what the assistant says."""

SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Keep your answers short.",
    "Answer every question truthfully.",
    "You are a patient teacher.",
    "You talk with a child. Use simple words.",
)


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def country(rng: Random) -> list[Turn]:
    first, second = rng.sample(list(COUNTRIES), 2)
    column = rng.randrange(4)
    ask, follow, reply = (
        ("What is the capital of {}?", "And of {}?", "The capital of {} is {}."),
        ("On which continent is {}?", "And {}?", "{} is in {}."),
        ("What is the currency of {}?", "And of {}?", "The currency of {} is the {}."),
        ("Name an official language of {}.", "And of {}?", "An official language of {} is {}."),
    )[column]
    turns = [(ask.format(first), reply.format(first, COUNTRIES[first][column]))]
    return [*turns, (follow.format(second), reply.format(second, COUNTRIES[second][column]))][
        : rng.choice((1, 2))
    ]


def arithmetic(rng: Random) -> list[Turn]:
    left, right = rng.randrange(2, 60), rng.randrange(2, 13)
    value, sign, word = rng.choice(
        ((left + right, "+", "plus"), (left - right, "-", "minus"), (left * right, "*", "times"))
    )
    ask, reply = rng.choice(
        (
            (f"What is {left} {word} {right}?", f"{left} {word} {right} is {value}."),
            (f"{left} {sign} {right} = ?", f"{left} {sign} {right} = {value}."),
            (f"Please compute {left} {sign} {right}.", f"The result is {value}."),
        )
    )
    more = rng.randrange(1, 10)
    return [(ask, reply), (f"Add {more} to that.", f"{value} + {more} = {value + more}.")][
        : rng.choice((1, 1, 2))
    ]


def story_sum(rng: Random) -> list[Turn]:
    name, thing = rng.choice(NAMES), rng.choice(("pens", "apples", "books", "coins", "cards"))
    had, change = rng.randrange(12, 60), rng.randrange(2, 11)
    buys = rng.random() < 0.5
    now = had + change if buys else had - change
    deed = f"{'buys' if buys else 'gives away'} {change}"
    ask = f"{name} has {had} {thing} and {deed}. How many {thing} are there now?"
    return [(ask, f"{had} {'+' if buys else '-'} {change} = {now}. {name} has {now} {thing} now.")]


def definition(rng: Random) -> list[Turn]:
    word, meaning = rng.choice(list(seeds.DEFINITIONS.items()))
    noun = article(word)
    ask = rng.choice(
        (f"What is {noun}?", f'What does the word "{word}" mean?', f"Explain to me what {noun} is.")
    )
    return [(ask, f"{noun.capitalize()} is {meaning}.")]


def explanation(rng: Random) -> list[Turn]:
    return [rng.choice(list(seeds.EXPLANATIONS.items()))]


def small_talk(rng: Random) -> list[Turn]:
    said = rng.choice(list(seeds.SMALL_TALK))
    return [(said, rng.choice(seeds.SMALL_TALK[said]))]


def rewriting(rng: Random) -> list[Turn]:
    kind = rng.randrange(4)
    if kind == 0:
        rude, polite = rng.choice(list(seeds.POLITE.items()))
        return [(rng.choice((f"Say this politely: {rude}", f"Make this sentence polite: {rude}")), polite)]
    if kind == 1:
        long, short = rng.choice(list(seeds.SHORTER.items()))
        return [(rng.choice((f"Make this shorter: {long}", f"Say it with fewer words: {long}")), short)]
    now, (past, future) = rng.choice(list(seeds.TENSES.items()))
    turns = [(f"Put this into the past: {now}", past), ("And into the future?", future)]
    return turns[: kind - 1]


def naming(rng: Random) -> list[Turn]:
    kind, members = rng.choice(list(seeds.CATEGORIES.items()))
    number = rng.choice((2, 3, 4))
    picked = rng.sample(members, number)
    count = {2: "two", 3: "three", 4: "four"}[number]
    if rng.random() < 0.5:
        lines = "\n".join(f"{place}. {member}" for place, member in enumerate(picked, start=1))
        turns = [(f"Give me a numbered list of {count} {kind}.", lines)]
    else:
        turns = [(f"Name {count} {kind}.", f"{listed(picked).capitalize()}.")]
    inverse = ("Put them in alphabetical order.", f"{listed(sorted(picked)).capitalize()}.")
    return [*turns, inverse][: rng.choice((1, 1, 2))]


def words(rng: Random) -> list[Turn]:
    table, ask, follow, reply = rng.choice(
        (
            (
                seeds.OPPOSITES,
                'What is the opposite of "{}"?',
                'And of "{}"?',
                'The opposite of "{}" is "{}".',
            ),
            (seeds.PLURALS, 'What is the plural of "{}"?', 'And of "{}"?', 'The plural of "{}" is "{}".'),
            (seeds.YOUNG, "What is a young {} called?", "And a young {}?", "A young {} is called a {}."),
            (seeds.SYMBOLS, "What is the chemical symbol of {}?", "And of {}?", "The symbol of {} is {}."),
        )
    )
    first, second = rng.sample(list(table), 2)
    turns = [(ask.format(first), reply.format(first, table[first]))]
    return [*turns, (follow.format(second), reply.format(second, table[second]))][: rng.choice((1, 1, 2))]


def vocabulary(rng: Random) -> list[Turn]:
    word, other = rng.sample(list(DICTIONARY), 2)
    language = rng.choice(LANGUAGES)
    column = LANGUAGES.index(language)
    turns = [
        (
            rng.choice((f'Translate "{word}" into {language}.', f'What is "{word}" in {language}?')),
            f'In {language}, "{word}" is "{DICTIONARY[word][column]}".',
        ),
        (f'And "{other}"?', f'In {language}, "{other}" is "{DICTIONARY[other][column]}".'),
    ]
    return turns[: rng.choice((1, 2))]


def time(rng: Random) -> list[Turn]:
    kind = rng.randrange(4)
    if kind == 0:
        day, step = rng.randrange(7), rng.choice((1, -1))
        word = "after" if step == 1 else "before"
        other = WEEKDAYS[(day + step) % 7]
        return [(f"Which day comes {word} {WEEKDAYS[day]}?", f"{other} comes {word} {WEEKDAYS[day]}.")]
    month = rng.randrange(12)
    if kind == 1:
        days = "28 days, and 29 in a leap year" if month == 1 else f"{MONTH_DAYS[month]} days"
        return [(f"How many days does {MONTHS[month]} have?", f"{MONTHS[month]} has {days}.")]
    if kind == 2:
        after = MONTHS[(month + 1) % 12]
        return [(f"Which month follows {MONTHS[month]}?", f"{after} follows {MONTHS[month]}.")]
    today, days = rng.randrange(7), rng.randrange(2, 13)
    then = WEEKDAYS[(today + days) % 7]
    return [(f"Today is {WEEKDAYS[today]}. Which day is it in {days} days?", f"In {days} days it is {then}.")]


def numbers(rng: Random) -> list[Turn]:
    kind = rng.randrange(3)
    start, step = rng.randrange(1, 30), rng.randrange(2, 12)
    if kind == 0:
        shown = ", ".join(str(start + step * place) for place in range(4))
        reply = f"The next number is {start + step * 4}, because each is {step} more than the one before."
        return [(f"Continue: {shown}", reply)]
    picked = rng.sample(range(1, 100), 4)
    shown = ", ".join(map(str, picked))
    if kind == 1:
        return [(f"Sort these numbers: {shown}", ", ".join(map(str, sorted(picked))))]
    turns = [
        (f"Which of these is the largest: {shown}?", f"The largest is {max(picked)}."),
        ("And the smallest?", f"The smallest is {min(picked)}."),
    ]
    return turns[: rng.choice((1, 2))]


def planets(rng: Random) -> list[Turn]:
    first, second = rng.sample(seeds.PLANETS, 2)
    if rng.random() < 0.5:
        nearer = min(first, second, key=seeds.PLANETS.index)
        return [(f"Which is nearer to the Sun, {first} or {second}?", f"{nearer} is nearer to the Sun.")]
    larger = max(first, second, key=seeds.PLANETS_BY_SIZE.index)
    return [(f"Which planet is larger, {first} or {second}?", f"{larger} is larger.")]


def reading(rng: Random) -> list[Turn]:
    author = rng.choice(list(BOOKS))
    title, year = rng.choice(BOOKS[author])
    turns = [(f"Who wrote {title}?", f"{author} wrote {title}."), ("When was it published?", f"In {year}.")]
    return turns[: rng.choice((1, 2))]


TOPICS: tuple[Callable[[Random], list[Turn]], ...] = (
    country,
    arithmetic,
    story_sum,
    definition,
    explanation,
    small_talk,
    rewriting,
    naming,
    words,
    vocabulary,
    time,
    numbers,
    planets,
    reading,
)


def foreign(rng: Random) -> list[dict[str, object]]:
    """A conversation in another language; the system message, where there is one, asks for that language."""
    language = rng.choice(list(seeds.FOREIGN))
    system = rng.choice(
        (None, f"Answer in {language}.", f"The user speaks {language}. Answer in {language}.")
    )
    return messages(system, list(rng.choice(seeds.FOREIGN[language])))


def english(topic: Callable[[Random], list[Turn]], rng: Random) -> list[dict[str, object]]:
    """A conversation about `topic`, perhaps with another or a thank-you after it; three turns at most."""
    turns = topic(rng)
    more = rng.random()
    if more < 0.2:
        turns = turns + rng.choice(TOPICS)(rng)
    elif more < 0.3:
        said = rng.choice(list(seeds.THANKS))
        turns = [*turns, (said, rng.choice(seeds.THANKS[said]))]
    return messages(rng.choice(SYSTEM) if rng.random() < 0.3 else None, turns[:3])


def messages(system: str | None, turns: list[Turn]) -> list[dict[str, object]]:
    said: list[dict[str, object]] = []
    if system:
        said.append({"role": "system", "content": system})
    for user, assistant in turns:
        said.append({"role": "user", "content": user})
        said.append({"role": "assistant", "content": assistant})
    return said
