"""Scenarios on records that a tool reads and changes: calendar, reminders, files, shop, shopping list."""

from __future__ import annotations

from random import Random

from facts import NAMES, WEEKDAYS
from trajectory import Call, Scenario, Task, Tool, counted, listed

LIST_EVENTS = Tool("list_events", ("day",), "the events of a day")
ADD_EVENT = Tool("add_event", ("day", "time", "title"), "put an event into the calendar")
EVENTS = ("dentist", "lunch", "football", "piano lesson", "team meeting", "dinner", "yoga")


def calendar(rng: Random) -> Task:
    day = rng.choice(WEEKDAYS)
    hours = sorted(rng.sample(range(8, 20), rng.randrange(0, 4)))
    titles = rng.sample(EVENTS, len(hours))
    events = [f"{hour:02d}:00 {title}" for hour, title in zip(hours, titles, strict=True)]
    look = Call(f"I need the events on {day}.", LIST_EVENTS, (day,), "; ".join(events) or "no events")
    kind = rng.randrange(3)
    if kind == 0:
        answer = f"On {day} you have {listed(titles)}." if titles else f"You have no events on {day}."
        return Task(
            rng.choice((f"What do I have on {day}?", f"What is on my calendar for {day}?")), (look,), answer
        )
    hour, title = rng.randrange(8, 20), rng.choice([event for event in EVENTS if event not in titles])
    if kind == 1:
        if hour in hours:
            answer = f"No, you have {titles[hours.index(hour)]} at {hour:02d}:00."
        else:
            answer = f"Yes, you are free on {day} at {hour:02d}:00."
        return Task(f"Am I free on {day} at {hour:02d}:00?", (look,), answer)
    question = f"Put {title} on {day} at {hour:02d}:00 if I am free then."
    if hour in hours:
        answer = f"You are not free, you have {titles[hours.index(hour)]} at {hour:02d}:00."
        return Task(question, (look,), answer)
    add = Call(f"You are free, so I add {title}.", ADD_EVENT, (day, f"{hour:02d}:00", title), "added")
    return Task(question, (look, add), f"I put {title} on {day} at {hour:02d}:00.")


ADD_REMINDER = Tool("add_reminder", ("time", "text"), "remember something")
LIST_REMINDERS = Tool("list_reminders", ("day",), "the reminders of today or tomorrow")
ERRANDS = (
    "call Anna",
    "buy milk",
    "water the plants",
    "pay the rent",
    "feed the cat",
    "post the letter",
    "buy bread",
)


def reminders(rng: Random) -> Task:
    errands = rng.sample(ERRANDS, 2)
    times = [f"{rng.randrange(7, 21):02d}:{rng.choice(('00', '15', '30', '45'))}" for _ in errands]
    day = rng.choice(("today", "tomorrow"))
    kind = rng.randrange(3)
    if kind == 0:
        seen = rng.sample(ERRANDS, rng.randrange(0, 4))
        look = Call(f"I need the reminders of {day}.", LIST_REMINDERS, (day,), "; ".join(seen) or "none")
        answer = (
            f"You have {counted(len(seen), 'reminder')}: {listed(seen)}."
            if seen
            else "You have no reminders."
        )
        return Task(f"What are my reminders for {day}?", (look,), answer)
    adds = tuple(
        Call(f"I add the reminder for {time}.", ADD_REMINDER, (time, errand), "added")
        for time, errand in zip(times, errands, strict=True)
    )[:kind]
    wishes = [f"at {time} to {errand}" for time, errand in zip(times, errands, strict=True)][:kind]
    return Task(f"Remind me {listed(wishes)}.", adds, f"I will remind you {listed(wishes)}.")


LIST_FILES = Tool("list_files", ("folder",), "the files in a folder with their size in kB")
READ_FILE = Tool("read_file", ("path",), "the text of a file")
FOLDERS = ("docs", "music", "photos", "notes", "work")
FILES = ("plan.txt", "list.txt", "letter.txt", "report.txt", "ideas.txt", "todo.txt")
TEXTS = (
    "Meet at noon.",
    "Buy milk and bread.",
    "The door code is 4711.",
    "Call Ben on Monday.",
    "All is well.",
)


def files(rng: Random) -> Task:
    folder = rng.choice(FOLDERS)
    names = rng.sample(FILES, rng.randrange(1, 4))
    sizes = rng.sample(range(2, 90), len(names))
    seen = "; ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
    look = Call(f"I need the files in {folder}.", LIST_FILES, (folder,), seen)
    kind = rng.randrange(4)
    if kind == 0:
        question = rng.choice((f"Which files are in {folder}?", f"What is in the folder {folder}?"))
        verb = "is" if len(names) == 1 else "are"
        return Task(question, (look,), f"In {folder} there {verb} {listed(names)}.")
    if kind == 1:
        largest = names[sizes.index(max(sizes))]
        return Task(
            f"Which file in {folder} is the largest?",
            (look,),
            f"The largest is {largest}, with {max(sizes)} kB.",
        )
    if kind == 2:
        answer = f"The files in {folder} take {sum(sizes)} kB."
        return Task(f"How much space do the files in {folder} take?", (look,), answer)
    text, name = rng.choice(TEXTS), rng.choice(names)
    read = Call(f"I read {name}.", READ_FILE, (f"{folder}/{name}",), text)
    if rng.random() < 0.5:
        return Task(f"What does {folder}/{name} say?", (read,), f'It says: "{text}"')
    # The user remembers another folder than the file is in.
    elsewhere = rng.choice([other for other in FOLDERS if other != folder])
    wrong = Call(f"I read {name}.", READ_FILE, (f"{elsewhere}/{name}",), "Error: no such file")
    look = Call(f"The file is not in {elsewhere}. I look in {folder}.", LIST_FILES, (folder,), seen)
    question = f"What does {name} say? It is in {elsewhere} or in {folder}."
    return Task(question, (wrong, look, read), f'It is in {folder} and says: "{text}"')


GET_STOCK = Tool("get_stock", ("item",), "how many of an item are in stock")
GET_PRICE = Tool("get_price", ("item",), "the price of one item in euros")
ITEMS = ("lamp", "chair", "table", "bed", "desk", "shelf", "sofa", "clock", "mirror")


def inventory(rng: Random) -> Task:
    item, other = rng.sample(ITEMS, 2)
    stock, price, wanted = rng.randrange(0, 40), rng.randrange(5, 90), rng.randrange(2, 9)
    look = Call(f"I need the stock of the {item}.", GET_STOCK, (item,), str(stock))
    cost = Call(f"I need the price of the {item}.", GET_PRICE, (item,), f"{price} euros")
    kind = rng.randrange(4)
    if kind == 0:
        answer = f"The stock of the {item} is {stock}." if stock else f"The {item} is out of stock."
        return Task(f"How many of the {item} are in stock?", (look,), answer)
    if kind == 1:
        return Task(f"What does the {item} cost?", (cost,), f"The {item} costs {price} euros.")
    if kind == 2:
        question = f"Can I order the {item} {wanted} times, and what does that cost?"
        if stock < wanted:
            return Task(question, (look,), f"No, the stock of the {item} is only {stock}.")
        return Task(question, (look, cost), f"Yes, that costs {wanted * price} euros.")
    other_price = rng.choice([euros for euros in range(5, 90) if euros != price])
    second = Call(f"I need the price of the {other}.", GET_PRICE, (other,), f"{other_price} euros")
    cheaper = item if price < other_price else other
    question = f"Which is cheaper, the {item} or the {other}?"
    return Task(question, (cost, second), f"The {cheaper} is cheaper.")


ADD_ITEM = Tool("add_item", ("list", "item"), "put an item on a list")
SHOW_LIST = Tool("show_list", ("list",), "the items on a list")
GROCERIES = ("milk", "bread", "eggs", "tea", "rice", "apples", "cheese", "fish", "salt", "honey")


def shopping(rng: Random) -> Task:
    name = rng.choice(NAMES)
    before = rng.sample(GROCERIES, rng.randrange(1, 4))
    wanted = rng.sample(GROCERIES, rng.randrange(1, 3))
    look = Call(f"I need the list of {name}.", SHOW_LIST, (name,), ", ".join(before))
    missing = [item for item in wanted if item not in before]
    if rng.random() < 0.4:
        item = wanted[0]
        answer = (
            f"No, {item} is not on the list." if missing[:1] == [item] else f"Yes, {item} is on the list."
        )
        return Task(f"Is {item} on the list of {name}?", (look,), answer)
    adds = [Call(f"I still have to add {item}.", ADD_ITEM, (name, item), "added") for item in missing]
    question = f"Put {listed(wanted)} on the list of {name} if missing."
    answer = f"I added {listed(missing)}." if missing else f"The list of {name} has that already."
    return Task(question, (look, *adds), answer)


SCENARIOS = (
    Scenario("calendar", (LIST_EVENTS, ADD_EVENT), calendar),
    Scenario("reminders", (ADD_REMINDER, LIST_REMINDERS), reminders),
    Scenario("files", (LIST_FILES, READ_FILE), files),
    Scenario("inventory", (GET_STOCK, GET_PRICE), inventory),
    Scenario("shopping", (SHOW_LIST, ADD_ITEM), shopping),
)
