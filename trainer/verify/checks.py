"""What must hold of what the processes told; each check ends with one line. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from trainer.verify import limits
from trainer.verify.answers import Answers
from trainer.verify.gradients import against_pass, against_whole, blame
from trainer.verify.job import STEPS, Job, Who
from trainer.verify.limits import differs, relative

WHO: tuple[Who, ...] = ("peer", "serial", "layout")
Need = tuple[Who, str]
"""Of whom, which pass."""


class Finding(NamedTuple):
    name: str
    holds: bool
    told: str


class Check(NamedTuple):
    name: str
    needs: tuple[Need, ...]
    """The passes that must have ended on all ranks."""
    find: Callable[[Answers], tuple[bool, str]]


def checks(job: Job) -> list[Check]:
    """Those of a job."""
    rows: tuple[Need, ...] = tuple((who, "rows") for who in WHO)
    firsts: tuple[Need, ...] = tuple((who, "step 1") for who in WHO)
    updated: tuple[Who, ...] = ("peer", "layout")
    steps: tuple[Need, ...] = tuple((who, f"step {n}") for who in updated for n in range(1, STEPS + 1))
    found = [
        Check("rows", rows, _rows),
        Check("loss", firsts, _loss),
        Check("gradients", firsts, _gradients),
        Check("steps", steps, _steps),
        Check("isolation", (("layout", "isolation"),), _isolation),
        Check("micro-batches", (("layout", "step 1"), ("layout", "cut")), _cut),
    ]
    if job.recompute != "none":
        found.append(Check("recompute", (("layout", "step 1"), ("layout", "kept")), _recompute))
    return found


def ready(left: list[Check], answers: Answers) -> Iterator[Finding]:
    """Findings of the checks that can be made now; they are taken out of `left`."""
    for check in list(left):
        if all(answers.whole(*need) for need in check.needs):
            left.remove(check)
            yield Finding(check.name, *check.find(answers))


def _rows(answers: Answers) -> tuple[bool, str]:
    hashes = [
        (_named(who, rank), answer["hash"]) for who in WHO for rank, answer in answers.ranks(who, "rows")
    ]
    others = [(name, found) for name, found in hashes if found != answers.rows_hash]
    rows = STEPS * answers.job.rows
    if others:
        name, found = others[0]
        return False, (
            f"preview shows {rows} rows of hash {answers.rows_hash}, {name} made others, of {found} "
            f"({len(others)} of {len(hashes)} processes): the stream depends on the process, on an order that is not "
            "fixed or on an unseeded random number"
        )
    told = f"{rows} rows of hash {answers.rows_hash} in all {len(hashes)} processes, as preview shows them"
    return True, told


def _loss(answers: Answers) -> tuple[bool, str]:
    peer, layout = answers.first("peer", "step 1"), answers.first("layout", "step 1")
    far = {who: _worst_loss(answers, who) for who in ("serial", "layout")}
    sources = ", ".join(f"{name} {loss:.6f}" for name, loss in layout["by_source"].items())
    told = (
        f"layout {layout['loss']:.7f} ({sources}), one process {answers.first('serial', 'step 1')['loss']:.7f}, "
        f"transformers {peer['loss']:.7f}; "
    )
    worst, where = max(far.values())
    apart, sample, whose = max(_worst_sample(answers, who) for who in ("serial", "layout"))
    told += (
        f"{where} {differs(worst, limits.LOSS)}; of each sample, worst {sample} on {whose}, "
        f"{differs(apart, limits.SAMPLE)}"
    )
    if worst <= limits.LOSS and apart <= limits.SAMPLE:
        return True, told
    if far["serial"][0] > limits.LOSS or _worst_sample(answers, "serial")[0] > limits.SAMPLE:
        blame = (
            "one process is wrong too, so it is the model: which pairs the rotary embedding turns, the shift of "
            "labels, attention across samples, the weights as they are read"
        )
    else:
        blame = (
            "one process is right, so it is the layout: a slice of a weight from the wrong place, positions that a "
            "stage loses, a sum over ranks that is missing or taken twice"
        )
    return False, f"{told}; {blame}"


def _worst_loss(answers: Answers, who: Who) -> tuple[float, str]:
    """How far the loss of step 1, in all or of a source, is from transformers', at the worst."""
    peer = answers.first("peer", "step 1")
    found = [(0.0, "")]
    for rank, answer in answers.ranks(who, "step 1"):
        found.append((relative(answer["loss"], peer["loss"]), f"that in all on {_named(who, rank)}"))
        for name, loss in peer["by_source"].items():
            far = relative(answer["by_source"].get(name), loss)
            found.append((far, f"that of source {name} on {_named(who, rank)}"))
    return max(found)


def _worst_sample(answers: Answers, who: Who) -> tuple[float, str, str]:
    """How far the loss of a sample of step 1 is from transformers', which it is, and whose."""
    theirs, ours = answers.samples("peer", "step 1"), answers.samples(who, "step 1")
    far, key = max((relative(ours.get(key), loss), key) for key, loss in theirs.items())
    return far, answers.name(*key), {"serial": "the one process"}.get(who, "the layout")


def _gradients(answers: Answers) -> tuple[bool, str]:
    layout = against_whole(answers.job, "layout", "peer", limits.GRADIENT)
    serial = against_whole(answers.job, "serial", "peer", limits.GRADIENT)
    peer = answers.first("peer", "step 1")["norm"]
    norms = [
        (who, relative(a["norm"], peer), a["norm"]) for who in WHO for _, a in answers.ranks(who, "step 1")
    ]
    _, far, norm = max(norms, key=lambda one: one[1])
    worst = max((layout, serial), key=lambda one: one.relative)
    told = (
        f"{worst.parameters} parameters, before clipping; worst {worst.worst}, "
        f"{differs(worst.relative, limits.GRADIENT)}; norm {norm:.7f}, transformers {peer:.7f}, "
        f"{differs(far, limits.NORM)}"
    )
    if worst.relative <= limits.GRADIENT and far <= limits.NORM:
        return True, told
    return False, f"{told}; {blame(layout, serial)}"


def _steps(answers: Answers) -> tuple[bool, str]:
    worst, where = 0.0, ""
    for what in (f"step {n}" for n in range(2, STEPS + 1)):
        expected = answers.first("peer", what)["loss"]
        for rank, answer in answers.ranks("layout", what):
            if (far := relative(answer["loss"], expected)) > worst:
                worst, where = far, f"that of {what} on rank {rank} "
    both: tuple[Who, ...] = ("layout", "peer")
    ours, theirs = (
        " ".join(f"{answers.first(who, f'step {n}')['loss']:.6f}" for n in range(1, STEPS + 1))
        for who in both
    )
    told = (
        f"losses of {STEPS} steps, the weights updated between: layout {ours}, transformers and torch's AdamW "
        f"{theirs}; {where}{differs(worst, limits.LOSS)}"
    )
    if worst <= limits.LOSS:
        return True, told
    return False, (
        f"{told}; where the lines of loss and gradients hold it is the update: clipping by another norm, weight decay "
        "on other parameters, copies of the model that are not updated alike"
    )


def _isolation(answers: Answers) -> tuple[bool, str]:
    job = answers.job
    told_by = answers.ranks("layout", "isolation")
    lost = [f"{one} (rank {rank}, stage {a['stage']})" for rank, a in told_by for one in a["positions"]]
    leaks = [(leak["layer"], leak, rank, a["stage"]) for rank, a in told_by for leak in a["leaks"]]
    losses = [far for _, a in told_by for _, _, far, was_replaced in a["losses"] if not was_replaced]
    own = {layer: max(leak["own"] for at, leak, *_ in leaks if at == layer) for layer, *_ in leaks}
    worst = max([*(leak["others"] for _, leak, *_ in leaks), *losses], default=inf)
    stages = f"{job.layout.pipeline} stage{'s' if job.layout.pipeline > 1 else ''}"
    told = (
        f"a sample of each of {job.rows} rows was replaced: hidden states of all others after {len(own)} layers on "
        f"{stages}, and losses, {differs(worst, limits.HIDDEN)}"
    )
    if lost:
        return False, f"{lost[0]}, {len(lost)} such in all: samples see each other from there on; {told}"
    if worst > limits.HIDDEN or not own:
        seen = min(
            (one for one in leaks if one[1]["others"] > limits.HIDDEN), key=lambda one: one[0], default=None
        )
        where = "in the losses"
        if seen:
            layer, leak, rank, stage = seen
            row, sample = leak["where"]
            # Those of the last batch were looked at.
            of = answers.name((STEPS - 1) * job.rows + row, sample)
            where = f"after layer {layer} (stage {stage}, rank {rank}), in {of}"
        return False, f"{told}; first seen {where}: attention reaches from one sample into another there"
    if min(own.values()) < limits.MOVED:
        return False, (
            f"{told}, but the one replaced changed by {min(own.values()):.1e} alone, less than {limits.MOVED:.0e}: "
            "hidden states do not depend on tokens there"
        )
    told += f" (those of the one replaced by {min(own.values()):.1e} or more); positions restart with each"
    return True, told


def _cut(answers: Answers) -> tuple[bool, str]:
    job = answers.job
    targets = ", ".join(map(str, answers.first("layout", "step 1")["targets"]))
    told = f"of {job.other_micro_rows} row(s) instead of {job.micro_rows}, which on rank 0 have {targets} targets"
    blame = "a mean of each micro-batch instead of one over the batch's targets, or rows that see each other"
    return _same(answers, "cut", told, blame)


def _recompute(answers: Answers) -> tuple[bool, str]:
    told = f"{answers.job.recompute}, and none instead"
    return _same(answers, "kept", told, "what is computed again differs from what was computed")


def _same(answers: Answers, what: str, told: str, blame: str) -> tuple[bool, str]:
    """The layout's pass `what` against its step 1."""
    loss = max(
        relative(answer["loss"], answers.first("layout", "step 1")["loss"])
        for _, answer in answers.ranks("layout", what)
    )
    far = against_pass(answers.job, what, limits.GRADIENT)
    told = (
        f"{told}: the loss {differs(loss, limits.LOSS)}; gradients, worst {far.worst}, "
        f"{differs(far.relative, limits.GRADIENT)}"
    )
    holds = loss <= limits.LOSS and far.relative <= limits.GRADIENT
    return holds, told if holds else f"{told}; {blame}"


def _named(who: Who, rank: int) -> str:
    return {"serial": "the one process", "peer": "transformers"}.get(who, f"rank {rank}")


def not_made(left: list[Check]) -> Iterator[Finding]:
    """Of the checks that were left, since ranks which have other rows make no step together."""
    for check in left:
        yield Finding(check.name, False, "not made, since the ranks have other rows than each other")
