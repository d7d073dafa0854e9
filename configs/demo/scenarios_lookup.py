"""Scenarios whose tools look something up: weather, countries, words, trains, books, contacts."""

from __future__ import annotations

from random import Random

from facts import BOOKS, COUNTRIES, DICTIONARY, LANGUAGES, NAMES
from trajectory import Call, Scenario, Task, Tool, listed

# Few cities, so that even a tiny model soon knows their names.
CITIES = ("Berlin", "Paris", "Vienna", "Rome", "Madrid", "Warsaw", "Copenhagen", "Lisbon", "Oslo", "Tokyo")

GET_WEATHER = Tool("get_weather", ("city",), "today's weather")


def weather(rng: Random) -> Task:
    cities = rng.sample(CITIES, rng.choice((1, 1, 2, 2, 3)))
    degrees = rng.sample(range(-5, 33), len(cities))
    skies = [
        rng.choice(("sunny", "cloudy", "rainy", "windy") if d > 2 else ("snowy", "sunny")) for d in degrees
    ]
    calls = tuple(
        Call(f"I need the weather in {city}.", GET_WEATHER, (city,), f"{degree} degrees, {sky}")
        for city, degree, sky in zip(cities, degrees, skies, strict=True)
    )
    if len(cities) > 1:
        warmest = cities[degrees.index(max(degrees))]
        which = "warmer" if len(cities) == 2 else "warmest"
        question = f"Which city is {which} today, {', '.join(cities[:-1])} or {cities[-1]}?"
        return Task(question, calls, f"{warmest} is {which}, with {max(degrees)} degrees.")
    city, degree, sky = cities[0], degrees[0], skies[0]
    if rng.random() < 0.4:
        advice = "Yes, it is rainy" if sky == "rainy" else f"No, it is {sky}"
        return Task(f"Do I need an umbrella in {city} today?", calls, f"{advice} in {city} today.")
    question = rng.choice((f"What is the weather in {city}?", f"How is the weather in {city} today?"))
    return Task(question, calls, f"It is {degree} degrees and {sky} in {city}.")


GET_COUNTRY = Tool("get_country", ("country",), "capital, continent and currency of a country")
FIND_CAPITAL = Tool("find_capital", ("city",), "the country whose capital a city is")


def country_call(country: str) -> Call:
    capital, continent, currency, _ = COUNTRIES[country]
    seen = f"capital {capital}, continent {continent}, currency {currency}"
    return Call(f"I need to look up {country}.", GET_COUNTRY, (country,), seen)


def geography(rng: Random) -> Task:
    country, other = rng.sample(list(COUNTRIES), 2)
    capital, continent, currency, _ = COUNTRIES[country]
    kind = rng.randrange(4)
    if kind == 0:
        question = rng.choice(
            (f"What is the capital of {country}?", f"Which city is the capital of {country}?")
        )
        return Task(question, (country_call(country),), f"The capital of {country} is {capital}.")
    if kind == 1:
        place = Call(
            f"I need the country of {capital}.",
            FIND_CAPITAL,
            (capital,),
            f"{capital} is the capital of {country}",
        )
        question = f"What money do people use in the country whose capital is {capital}?"
        return Task(question, (place, country_call(country)), f"In {country} people use the {currency}.")
    if kind == 2:
        return Task(f"Where is {country}?", (country_call(country),), f"{country} is in {continent}.")
    calls = (country_call(country), country_call(other))
    same = COUNTRIES[other][1] == continent
    answer = f"Yes, both are in {continent}." if same else f"No, {country} is in {continent}"
    answer += "" if same else f" and {other} is in {COUNTRIES[other][1]}."
    return Task(f"Are {country} and {other} on the same continent?", calls, answer)


TRANSLATE = Tool("translate", ("word", "language"), "a word in French, German, Spanish or Chinese")


def translation(rng: Random) -> Task:
    language = rng.choice(LANGUAGES)
    column = LANGUAGES.index(language)
    words = rng.sample(list(DICTIONARY), rng.choice((1, 1, 2, 2, 3)))
    found = [DICTIONARY[word][column] for word in words]
    calls = tuple(
        Call(f'I need the word "{word}" in {language}.', TRANSLATE, (word, language), foreign)
        for word, foreign in zip(words, found, strict=True)
    )
    quoted = listed([f'"{word}"' for word in words])
    if len(words) == 1:
        question = rng.choice((f"How do you say {quoted} in {language}?", f"What is {quoted} in {language}?"))
        return Task(question, calls, f'{quoted} is "{found[0]}" in {language}.')
    pairs = listed([f'"{word}" is "{foreign}"' for word, foreign in zip(words, found, strict=True)])
    return Task(f"Translate {quoted} into {language}.", calls, f"In {language}, {pairs}.")


FIND_TRAINS = Tool("find_trains", ("from", "to", "after"), "trains that leave after a time")
GET_FARE = Tool("get_fare", ("from", "to"), "the fare of a journey in euros")
STATIONS = CITIES[:8]


def clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def trains(rng: Random) -> Task:
    start, end = rng.sample(STATIONS, 2)
    after = rng.randrange(6 * 12, 14 * 12) * 5
    departures = sorted(after + step * 5 for step in rng.sample(range(1, 30), 2))
    ride = rng.randrange(24, 72) * 5
    seen = "; ".join(f"{clock(leave)}, arrives {clock(leave + ride)}" for leave in departures)
    time = clock(after)
    look = Call(
        f"I need the trains from {start} to {end} after {time}.", FIND_TRAINS, (start, end, time), seen
    )
    kind = rng.randrange(4)
    if kind == 0:
        question = f"When does the next train from {start} to {end} leave after {time}?"
        return Task(question, (look,), f"The next train to {end} leaves at {clock(departures[0])}.")
    if kind == 1:
        question = f"I leave {start} after {time}. When can I be in {end}?"
        return Task(question, (look,), f"You can be in {end} at {clock(departures[0] + ride)}.")
    fare = rng.randrange(19, 120)
    price = Call(f"I need the fare from {start} to {end}.", GET_FARE, (start, end), f"{fare} euros")
    if kind == 2:
        people = rng.randrange(2, 6)
        question = f"What do {people} tickets from {start} to {end} cost?"
        return Task(question, (price,), f"{people} tickets cost {people * fare} euros.")
    question = f"When does the last train from {start} to {end} leave after {time}, and what does it cost?"
    return Task(question, (look, price), f"It leaves at {clock(departures[-1])} and costs {fare} euros.")


SEARCH_BOOKS = Tool("search_books", ("author",), "books of an author with the year")


def books(rng: Random) -> Task:
    authors = rng.sample(list(BOOKS), rng.choice((1, 1, 2)))
    shelves = [sorted(BOOKS[author], key=lambda book: rng.random()) for author in authors]
    calls = tuple(
        Call(
            f"I need the books of {author}.",
            SEARCH_BOOKS,
            (author,),
            "; ".join(f"{title} ({year})" for title, year in shelf),
        )
        for author, shelf in zip(authors, shelves, strict=True)
    )
    titles = [[title for title, _ in shelf] for shelf in shelves]
    if len(authors) == 2:
        wanted = [rng.choice(shelf) for shelf in shelves]
        first = min(wanted, key=lambda book: book[1])
        question = f"Which is older, {wanted[0][0]} by {authors[0]} or {wanted[1][0]} by {authors[1]}?"
        return Task(question, calls, f"{first[0]} is older. It is from {first[1]}.")
    author, shelf = authors[0], shelves[0]
    kind = rng.randrange(3)
    if kind == 0:
        return Task(
            f"Which books by {author} do you have?", calls, f"By {author} we have {listed(titles[0])}."
        )
    if kind == 1:
        title, year = rng.choice(shelf)
        return Task(f"When did {author} publish {title}?", calls, f"{title} is from {year}.")
    newest = max(shelf, key=lambda book: book[1])
    return Task(f"Which of your books by {author} is the newest?", calls, f"The newest is {newest[0]}.")


FIND_CONTACT = Tool("find_contact", ("name",), "phone number and town of a person")
SEND_MESSAGE = Tool("send_message", ("number", "text"), "send a text message")
MESSAGES = ("I am late.", "See you soon!", "Happy birthday!", "Call me tonight.", "Thank you for the book.")


def contacts(rng: Random) -> Task:
    people = rng.sample(NAMES, rng.choice((1, 1, 2)))
    numbers = [f"555-{rng.randrange(1000, 9999)}" for _ in people]
    towns = [rng.choice(STATIONS) for _ in people]
    looks = [
        Call(f"I need the contact of {name}.", FIND_CONTACT, (name,), f"{number}, lives in {town}")
        for name, number, town in zip(people, numbers, towns, strict=True)
    ]
    if len(people) == 2:
        question = f"Do {people[0]} and {people[1]} live in the same town?"
        same = towns[0] == towns[1]
        answer = f"Yes, both live in {towns[0]}."
        if not same:
            answer = f"No, {people[0]} lives in {towns[0]} and {people[1]} lives in {towns[1]}."
        return Task(question, tuple(looks), answer)
    name, number = people[0], numbers[0]
    if rng.random() < 0.4:
        question = f"What is the phone number of {name}?"
        return Task(question, tuple(looks), f"The number of {name} is {number}.")
    text = rng.choice(MESSAGES)
    send = Call(f"Now I can write to {name}.", SEND_MESSAGE, (number, text), "sent")
    return Task(f'Write to {name}: "{text}"', (*looks, send), f"I sent the message to {name}.")


FIND_RECIPE = Tool("find_recipe", ("dish",), "what one portion of a dish needs")
RECIPES = {
    "pancakes": (("eggs", 2), ("cups of milk", 1), ("cups of flour", 1)),
    "omelette": (("eggs", 3), ("spoons of butter", 1)),
    "soup": (("carrots", 2), ("onions", 1), ("cups of water", 3)),
    "salad": (("tomatoes", 2), ("cucumbers", 1), ("spoons of oil", 2)),
    "porridge": (("cups of oats", 1), ("cups of milk", 2)),
    "fruit salad": (("apples", 1), ("oranges", 1), ("bananas", 2)),
}


def recipes(rng: Random) -> Task:
    dish = rng.choice(list(RECIPES))
    needs = RECIPES[dish]
    seen = ", ".join(f"{thing}: {amount}" for thing, amount in needs)
    look = Call(f"I need the recipe for {dish}.", FIND_RECIPE, (dish,), seen)
    portions = rng.randrange(2, 10)
    if rng.random() < 0.5:
        thing, amount = rng.choice(needs)
        question = f"How many {thing} do I need for {portions} portions of {dish}?"
        return Task(question, (look,), f"You need {portions * amount} {thing}.")
    everything = listed([f"{portions * amount} {thing}" for thing, amount in needs])
    question = f"I want to make {portions} portions of {dish}. What do I need?"
    return Task(question, (look,), f"You need {everything}.")


SCENARIOS = (
    Scenario("weather", (GET_WEATHER,), weather),
    Scenario("geography", (GET_COUNTRY, FIND_CAPITAL), geography),
    Scenario("translation", (TRANSLATE,), translation),
    Scenario("trains", (FIND_TRAINS, GET_FARE), trains),
    Scenario("books", (SEARCH_BOOKS,), books),
    Scenario("contacts", (FIND_CONTACT, SEND_MESSAGE), contacts),
    Scenario("recipes", (FIND_RECIPE,), recipes),
)
