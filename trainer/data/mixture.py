"""How often each source is drawn, and in what order. Pure: the state of the mixture is the counts alone.

The order is the chairman assignment problem (R. Tijdeman, "The chairman assignment problem", Discrete
Mathematics 32, 1980, 323-330): k states with shares that sum to 1 send one chairman a year such that the
number each has sent stays close to its due at *every* time. With his rule the distance never passes
1 - 1/(2k - 2), the best possible bound; random draws would stray by about the square root of their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

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


def next_source(shares: Sequence[Fraction], counts: Sequence[int]) -> int:
    """Index of the source to draw from after `counts[i]` draws of each source i, all made by this rule.

    After any n draws, counts[i] is within 1 - 1/(2k - 2) of n * shares[i], where k sources have a share.
    """
    n = sum(counts) + 1
    drawable = [i for i, share in enumerate(shares) if share > 0]
    if len(drawable) == 1:
        return drawable[0]
    slack = 2 * len(drawable) - 2
    # One more draw of a source is early unless it is owed 1/slack by now, and late once it is owed more than
    # 1 - 1/slack: of those not early, the one that would be late first. Ties go to the lower index.
    ready = (i for i in drawable if slack * (n * shares[i] - counts[i]) >= 1)
    return min(ready, key=lambda i: (slack * (counts[i] + 1) - 1) / shares[i])


def _exact(number: float) -> Fraction:
    return Fraction(str(number))
