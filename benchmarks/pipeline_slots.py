"""How long a pipeline's schedule takes and what it holds, counted from DeepSpeed's own schedule classes.

A slot is the forward pass of half a stage: a part under DualPipeV, where 1F1B's passes go through two. Sends wait for
their receives, as large messages do. Nothing is measured here.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from deepspeed.runtime.pipe import schedule as deepspeed_schedule
from deepspeed.runtime.pipe.schedule import (
    BackwardPass,
    CommitP2P,
    ForwardPass,
    RecvActivation,
    RecvGrad,
    SendActivation,
    SendGrad,
)

from configs.schema import Schedule


class Pass(NamedTuple):
    forward: bool
    phase: int
    """Which of the rank's parts."""


class Message(NamedTuple):
    """One end of it."""

    sent: bool
    peer: int


Program = list[Pass | tuple[Message, ...]]
"""What a rank does, one after the other; of several messages together it waits for all."""


def programs(schedule: Schedule, ranks: int, micro_batches: int) -> list[Program]:
    """Of each rank, in a step of so many micro-batches."""
    return [_program(schedule, ranks, micro_batches, rank) for rank in range(ranks)]


def _program(schedule: Schedule, ranks: int, micro_batches: int, rank: int) -> Program:
    folded = schedule == "dualpipev"
    kind = deepspeed_schedule.DualPipeVSchedule if folded else deepspeed_schedule.TrainSchedule
    program: Program = []
    waiting: list[Message] = []
    for command in (command for slot in kind(micro_batches, ranks, rank) for command in slot):
        phase = getattr(command, "phase", 0)
        on = rank + (1 if phase == 0 else -1)  # the second part is on the way back
        back = 2 * rank - on
        match command:
            case ForwardPass() | BackwardPass():
                program.append(Pass(isinstance(command, ForwardPass), phase))
            case SendActivation() | RecvGrad():
                waiting.append(Message(isinstance(command, SendActivation), on))
            case SendGrad() | RecvActivation():
                waiting.append(Message(isinstance(command, SendGrad), back))
            case CommitP2P() if waiting:
                program.append(tuple(waiting))
                waiting = []
            case _:
                pass
        if waiting and not folded:  # 1F1B's are each waited for at once
            program.append(tuple(waiting))
            waiting = []
    assert not waiting
    return program


def step_slots(schedule: Schedule, ranks: int, micro_batches: int, forward: float, backward: float) -> float:
    """The time of a step in which half a stage's passes take `forward` and `backward`, and messages nothing.

    Raises ValueError where ranks would wait for each other for ever.
    """
    halves = 1 if schedule == "dualpipev" else 2
    seconds = {True: halves * forward, False: halves * backward}
    told = programs(schedule, ranks, micro_batches)
    clock, place = [0.0] * ranks, [0] * ranks
    ready: dict[
        tuple[bool, int, int, int], float
    ] = {}  # when an end of the n-th message of two ranks is there
    asked: dict[int, list[tuple[bool, int, int, int]]] = {}
    counts: Counter[tuple[bool, int, int]] = Counter()
    moved = True
    while moved:
        moved = False
        for rank, program in enumerate(told):
            while place[rank] < len(program):
                action = program[place[rank]]
                if isinstance(action, Pass):
                    clock[rank] += seconds[action.forward]
                else:
                    if rank not in asked:
                        asked[rank] = []
                        for sent, peer in action:
                            source, target = (rank, peer) if sent else (peer, rank)
                            number = counts[sent, source, target]
                            counts[sent, source, target] += 1
                            ready[sent, source, target, number] = clock[rank]
                            asked[rank].append((not sent, source, target, number))
                        moved = True
                    if not all(other in ready for other in asked[rank]):
                        break
                    clock[rank] = max(clock[rank], *(ready[other] for other in asked.pop(rank)))
                place[rank] += 1
                moved = True
    if any(at < len(program) for at, program in zip(place, told, strict=True)):
        raise ValueError(
            f"{schedule} of {micro_batches} micro-batches on {ranks} ranks: ranks wait for each other"
        )
    return max(clock)


def in_flight(schedule: Schedule, ranks: int, micro_batches: int) -> list[tuple[int, ...]]:
    """Of each rank, micro-batches between their passes at its fullest moment, by part that it holds."""
    found: list[tuple[int, ...]] = []
    for program in programs(schedule, ranks, micro_batches):
        now, most = [0] * (2 if schedule == "dualpipev" else 1), (0,)
        for action in program:
            if isinstance(action, Pass):
                now[action.phase] += 1 if action.forward else -1
                most = max(most, tuple(now), key=sum)
        found.append(most)
    return found
