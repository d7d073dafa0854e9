"""How often each source is drawn, and in what order. Pure: the state of the mixture is the counts alone.

By samples, the order is the chairman assignment problem (R. Tijdeman, "The chairman assignment problem", Discrete
Mathematics 32, 1980, 323-330): k states with shares that sum to 1 send one chairman a year such that the
number each has sent stays close to its due at *every* time. With his rule the distance never passes
1 - 1/(2k - 2), the best possible bound; random draws would stray by about the square root of their number.

By targets, samples differ in what they bring, so the mixture is steered: of the samples that are next in each source
the one is drawn after which all sources stand closest to their due. Each source keeps its own order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from configs.errors import ConfigError


def shares(sources: Sequence[tuple[str, float]], eta: float) -> list[Fraction]:
    """The exact share of draws of each (role, weight); they sum to 1.

    eta of the draws goes to the role `agent`, the rest to `general`; weights divide a role's part. Decimals
    are taken as written: 0.2 is 1/5. Raises ConfigError for eta outside 0 to 1, a weight that is not above 0,
    and a role that is due draws but has no source.
    """
    if not 0 <= eta <= 1:
        raise ConfigError(f"data.eta is {eta}, the agent share of the mixture; set it between 0 and 1")
    for i, (_, weight) in enumerate(sources):
        if not (math.isfinite(weight) and weight > 0):
            raise ConfigError(f"data.sources[{i}].weight is {weight}; set it above 0, or remove the source")
    agent = _exact(eta)
    parts = {"agent": agent, "general": 1 - agent}
    for role, part in parts.items():
        if part > 0 and all(source_role != role for source_role, _ in sources):
            raise ConfigError(
                f"data.eta is {eta} but no source has role {role}; "
                f"add one to data.sources, or set data.eta to {0 if role == 'agent' else 1}"
            )
    totals = {role: sum(_exact(weight) for r, weight in sources if r == role) for role in parts}
    return [parts[role] * _exact(weight) / totals[role] for role, weight in sources]


class Parts(NamedTuple):
    """Shares in whole numbers: as exact as fractions, and twenty times as fast."""

    parts: list[int]
    whole: int
    """Their sum."""

    @classmethod
    def of(cls, shares: Sequence[Fraction]) -> Parts:
        whole = math.lcm(*(share.denominator for share in shares))
        return cls([int(share * whole) for share in shares], whole)


def next_source(shares: Parts, counts: Sequence[int]) -> int:
    """Index of the source to draw from after `counts[i]` draws of each source i, all made by this rule.

    After any n draws, counts[i] is within 1 - 1/(2k - 2) of n times its share, where k sources have one.
    """
    parts, whole = shares
    n = sum(counts) + 1
    slack = max(2 * sum(part > 0 for part in parts) - 2, 1)
    # One more draw of a source is early unless it is owed 1/slack by now, and late once it is owed more than
    # 1 - 1/slack: of those not early, the one that would be late first. Ties go to the lower index.
    first, due = -1, 0
    for i, part in enumerate(parts):
        if part and slack * (n * part - counts[i] * whole) >= whole:
            late = slack * (counts[i] + 1) - 1
            if first < 0 or late * parts[first] < due * part:
                first, due = i, late
    return first


def next_source_by_targets(shares: Parts, targets: Sequence[int], offered: Sequence[int]) -> int:
    """Index of the source to draw from after sources gave `targets[i]` targets, where the next sample of each would
    bring `offered[i]` (of one without a share it does not matter).

    The draw after which the squared distances from the sources' dues, their shares of all targets, have the smallest
    sum; ties go to the lower index. Of two sources, none strays from its due by more than about half of its largest
    sample.
    """
    parts, whole = shares
    total = sum(targets)
    ahead = [given * whole - part * total for part, given in zip(parts, targets, strict=True)]
    # A draw of t from source i adds t * (whole at i, less each part) to these: of the new sum of squares only what
    # differs between draws is computed.
    squares, leads = (
        sum(part * part for part in parts),
        sum(a * part for a, part in zip(ahead, parts, strict=True)),
    )
    best, least = -1, 0
    for i, part in enumerate(parts):
        if part:
            t = offered[i]
            change = 2 * t * (whole * ahead[i] - leads) + t * t * (whole * whole - 2 * whole * part + squares)
            if best < 0 or change < least:
                best, least = i, change
    return best


def _exact(number: float) -> Fraction:
    return Fraction(str(number))
