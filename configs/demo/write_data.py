"""Write the demo's two data sets, agent.jsonl and general.jsonl, the same bytes every time.

    python configs/demo/write_data.py [--out FOLDER]

Everything in them is composed from the material in this folder; what can be computed is computed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import chat
import scenarios_compute
import scenarios_lookup
import scenarios_records
import trajectory

Turns = Sequence[Mapping[str, object]]

SCENARIOS = (*scenarios_lookup.SCENARIOS, *scenarios_compute.SCENARIOS, *scenarios_records.SCENARIOS)
AGENT_ROWS = 400
GENERAL_ROWS = 600
FOREIGN_EVERY = 15
"""Every so many general conversations, one is in another language."""


def distinct(make: Callable[[Random], Turns], name: str, seen: set[str], ignored: int = 0) -> Turns:
    """The first turns made from the seeds `name`.0, `name`.1 … that nobody before them has.

    The first `ignored` turns are left out of the comparison. What was found is added to `seen`.
    """
    for attempt in range(1000):
        turns = make(Random(f"{name}.{attempt}"))
        text = json.dumps(turns[ignored:])
        if text not in seen:
            seen.add(text)
            return turns
    raise ValueError(f"{name}: nothing new in 1000 attempts; write more material or ask for fewer rows")


def agent_rows() -> Iterator[dict[str, object]]:
    """AgentInstruct rows, the scenarios in turn, so that any stretch of the file is mixed."""
    seen: set[str] = set()
    for number in range(AGENT_ROWS):
        index, place = divmod(number, len(SCENARIOS))
        scenario = SCENARIOS[place]
        name = f"{scenario.name}_{index}"
        turns = distinct(partial(trajectory.turns, scenario), name, seen, ignored=2)
        yield {"id": name, "conversations": turns}


def general_rows() -> Iterator[dict[str, object]]:
    """Rows of role and content, the topics in turn."""
    seen: set[str] = set()
    for number in range(GENERAL_ROWS):
        topic = chat.TOPICS[number % len(chat.TOPICS)]
        make = chat.foreign if number % FOREIGN_EVERY == 0 else partial(chat.english, topic)
        name = f"chat_{number}"
        yield {"id": name, "messages": distinct(make, name, seen)}


def write(path: Path, rows: Iterator[dict[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the demo's data sets, the same bytes every time.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    folder = parser.parse_args(arguments).out
    write(folder / "agent.jsonl", agent_rows())
    write(folder / "general.jsonl", general_rows())


if __name__ == "__main__":
    main()
