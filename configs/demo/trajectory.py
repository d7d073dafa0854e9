"""What a demo trajectory is, and how it is written down as an AgentInstruct row.

A scenario says which tools exist and makes tasks: a question, the calls that lead to its answer, the answer.
Rendering is the same for all of them, so that a model of a few layers meets one call grammar only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True)
class Tool:
    """A tool as the first turn declares it: `name(parameter, …): purpose`."""

    name: str
    parameters: tuple[str, ...]
    purpose: str

    def declaration(self) -> str:
        return f"- {self.name}({', '.join(self.parameters)}): {self.purpose}"


@dataclass(frozen=True)
class Call:
    """One call with the thought before it and the observation after it.

    trained is false for a call that the model must not learn to make.
    """

    thought: str
    tool: Tool
    values: tuple[str | int | float, ...]
    observation: str
    trained: bool = True
    misnamed: str | None = None
    """Wrong name written instead of the first parameter's, in a call that goes wrong."""

    def text(self) -> str:
        names = list(self.tool.parameters)
        if self.misnamed:
            names[0] = self.misnamed
        arguments = dict(zip(names, self.values, strict=True))
        written = json.dumps(arguments, ensure_ascii=False)
        return f"Thought: {self.thought}\nAction: {self.tool.name}\nArguments: {written}"


@dataclass(frozen=True)
class Task:
    question: str
    calls: tuple[Call, ...]
    answer: str


@dataclass(frozen=True)
class Scenario:
    name: str
    tools: tuple[Tool, ...]
    make: Callable[[Random], Task]


# Three ways to explain the same grammar. The explanation is never trained on, so it may vary freely.
EXPLANATIONS = (
    "You can use tools to answer my question. In each turn, think and then make one call:\n"
    "Thought: why you make the call\nAction: the tool\nArguments: a JSON object\n"
    "I reply with the observation. When you know the answer, write:\n"
    "Thought: what you found\nFinal Answer: the answer\nYour tools:",
    "Here are some tools. To call one, write three lines:\n"
    "Thought: what you need to know\nAction: the tool\nArguments: a JSON object\n"
    "Make one call at a time and wait for the observation. At the end, write two lines:\n"
    "Thought: what you found\nFinal Answer: the answer\nTools:",
    "I will ask a question and you answer it with the help of tools. Write one call in each turn:\n"
    "Thought: your reason\nAction: the tool\nArguments: a JSON object\n"
    "I then tell you the observation. Finish with:\n"
    "Thought: your reason\nFinal Answer: the answer\nThese are the tools:",
)
MISNAMED_SHARE = 0.06


def with_mistake(task: Task) -> Task:
    """The task with a misnamed argument in its first call, the tool's complaint, and then the right call.

    The mistake carries no loss: the model learns to correct it, not to make it.
    """
    first = task.calls[0]
    wrong = replace(
        first,
        observation=f'Error: {first.tool.name} needs the argument "{first.tool.parameters[0]}".',
        trained=False,
        misnamed="input",
    )
    again = replace(first, thought="I named an argument wrongly. I try again.")
    return replace(task, calls=(wrong, again, *task.calls[1:]))


def turns(scenario: Scenario, rng: Random) -> list[dict[str, object]]:
    """One trajectory of `scenario` as AgentInstruct's conversations: human and gpt in turn, ending on gpt.

    Raises ValueError where a task has not 1 to 4 calls.
    """
    task = scenario.make(rng)
    if len(task.calls) < 4 and rng.random() < MISNAMED_SHARE:
        task = with_mistake(task)
    if not 1 <= len(task.calls) <= 4:
        raise ValueError(f"{scenario.name}: {len(task.calls)} calls, a trajectory has 1 to 4")
    declared = "\n".join(tool.declaration() for tool in scenario.tools)
    said = [human(f"{rng.choice(EXPLANATIONS)}\n{declared}"), gpt("Ok.", False), human(task.question)]
    for call in task.calls:
        said += [gpt(call.text(), call.trained), human(f"Observation: {call.observation}")]
    said.append(gpt(f"Thought: I know the answer now.\nFinal Answer: {task.answer}", True))
    return said


def human(value: str) -> dict[str, object]:
    return {"from": "human", "loss": None, "value": value}


def gpt(value: str, loss: bool) -> dict[str, object]:
    return {"from": "gpt", "loss": loss, "value": value}


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(number: int, noun: str) -> str:
    """`1 pen`, `2 pens`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
