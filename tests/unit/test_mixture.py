from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from trainer.data.mixture import Parts, next_source, next_source_by_targets, shares

share_vectors = (
    st.lists(st.integers(0, 1000), min_size=1, max_size=12)
    .filter(any)
    .map(lambda parts: [Fraction(part, sum(parts)) for part in parts])
)
lopsided = st.lists(st.integers(0, 7), min_size=2, max_size=9).map(
    lambda powers: [Fraction(10**p, sum(10**q for q in powers)) for p in powers]
)


def drawn(shares: list[Fraction], n: int) -> list[int]:
    counts = [0] * len(shares)
    order = []
    for _ in range(n):
        order.append(next_source(Parts.of(shares), counts))
        counts[order[-1]] += 1
    return order


@settings(max_examples=150, deadline=None)
@given(vector=share_vectors | lopsided)
def test_every_prefix_holds_each_source_within_tijdemans_bound(vector: list[Fraction]):
    k = sum(share > 0 for share in vector)
    bound = 1 - Fraction(1, 2 * k - 2) if k > 1 else Fraction(0)
    order = drawn(vector, 300)
    for n in range(1, len(order) + 1):
        for i, share in enumerate(vector):
            assert abs(order[:n].count(i) - n * share) <= bound < 1


@settings(deadline=None)
@given(parts=st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any))
def test_the_order_repeats_once_the_shares_come_out_even(parts: list[int]):
    vector = [Fraction(part, sum(parts)) for part in parts]
    order = drawn(vector, 2 * sum(parts))
    assert order[: sum(parts)] == order[sum(parts) :]
    assert [order[: sum(parts)].count(i) for i in range(len(parts))] == parts


def test_an_order_worked_out_by_hand():
    # With two sources a draw is early until it is owed 1/2 and late once it is owed more: each source simply
    # stands at its due, rounded. The first has n/5: 0.2 0.4 0.6 0.8 1.0 1.2 1.4 1.6 1.8 2.0 for n = 1 to 10.
    assert drawn([Fraction(1, 5), Fraction(4, 5)], 10) == [1, 1, 0, 1, 1, 1, 1, 0, 1, 1]
    assert drawn([Fraction(0), Fraction(1)], 3) == [1, 1, 1]


@settings(max_examples=150, deadline=None)
@given(
    vector=share_vectors | lopsided,
    sizes=st.lists(st.lists(st.integers(0, 5000), min_size=12, max_size=12), min_size=2, max_size=40),
)
def test_by_targets_it_is_the_draw_that_brings_all_closest(vector: list[Fraction], sizes: list[list[int]]):
    """Against the definition, and no source is ever ahead by more than the samples are large."""
    largest = max(map(max, sizes))
    targets = [0] * len(vector)

    def distances(targets: list[int]) -> list[Fraction]:
        return [given - share * sum(targets) for share, given in zip(vector, targets, strict=True)]

    for offered in sizes:
        after = {
            i: sum(d * d for d in distances([t + offered[i] * (i == j) for j, t in enumerate(targets)]))
            for i, share in enumerate(vector)
            if share
        }
        i = next_source_by_targets(Parts.of(vector), targets, offered[: len(vector)])
        assert i == min(after, key=lambda i: (after[i], i))
        targets[i] += offered[i]
        assert max(distances(targets)) <= largest


@pytest.mark.parametrize("eta", [0.05, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_by_targets_eta_is_met_within_half_a_percent_after_1000_samples(eta: float, seed: int):
    """Lengths as conversations have them: log-normal, agent samples four times as long, at most 2000."""
    random = np.random.default_rng(seed)
    vector = shares([("agent", 1.0), ("general", 1.0)], eta)
    targets = [0, 0]

    def sample(i: int) -> int:
        return int(min(2000, random.lognormal(np.log((400, 100)[i]), 1.0)))

    offered = [sample(0), sample(1)]
    for n in range(1, 5001):
        i = next_source_by_targets(Parts.of(vector), targets, offered)
        targets[i] += offered[i]
        offered[i] = sample(i)
        if n >= 1000:
            assert abs(targets[0] / sum(targets) - eta) < 0.005


def test_an_order_by_targets_worked_out_by_hand():
    # Halves; samples of 6 and 2. Half the difference between the two is each one's distance from its due.
    vector = [Fraction(1, 2)] * 2
    targets, order = [0, 0], []
    for _ in range(7):
        order.append(next_source_by_targets(Parts.of(vector), targets, (6, 2)))
        targets[order[-1]] += (6, 2)[order[-1]]
    # From (0 0): to 6 0 or 0 2, the latter is closer. (0 2): 6 2 or 0 4, both 4 apart, the lower index. Then 6 4, 6 6.
    assert order == [1, 0, 1, 1, 1, 0, 1]


def test_eta_goes_to_the_agent_sources_and_weights_divide_it():
    roles = [("agent", 1.0), ("general", 1.0), ("agent", 3.0), ("general", 4.0)]
    fifth = Fraction(1, 5)
    assert shares(roles, 0.2) == [fifth / 4, Fraction(4, 5) / 5, fifth * 3 / 4, Fraction(4, 5) * 4 / 5]
    assert shares(roles, 0) == [0, fifth, 0, 4 * fifth]
    assert shares(roles, 1) == [Fraction(1, 4), 0, Fraction(3, 4), 0]
    assert shares([("general", 1e-05), ("general", 0.3)], 0.0) == [Fraction(1, 30001), Fraction(30000, 30001)]


@given(
    eta=st.floats(0, 1),
    weights=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8),
)
def test_shares_sum_to_one_exactly(eta: float, weights: list[float]):
    roles = [("agent" if i % 2 else "general", weight) for i, weight in enumerate(weights)]
    result = shares(roles, eta)
    assert sum(result) == 1
    assert float(sum(result[1::2])) == pytest.approx(eta)


@pytest.mark.parametrize(
    ("roles", "eta", "words"),
    [
        ([("agent", 1.0)], 0.2, ["data.eta is 0.2", "no source has role general", "set data.eta to 1"]),
        ([("general", 1.0)], 0.2, ["data.eta is 0.2", "no source has role agent", "set data.eta to 0"]),
        ([], 0.0, ["general"]),
        ([("agent", 1.0), ("general", 1.0)], 1.5, ["1.5", "between 0 and 1"]),
        ([("agent", 1.0), ("general", 1.0)], -0.1, ["-0.1", "between 0 and 1"]),
        ([("agent", 1.0), ("general", 1.0)], float("nan"), ["nan", "between 0 and 1"]),
        ([("agent", 1.0), ("general", 0.0)], 0.5, ["sources[1].weight", "0.0", "above 0"]),
        ([("agent", -2.0), ("general", 1.0)], 0.5, ["sources[0].weight", "-2.0"]),
        ([("agent", float("inf")), ("general", 1.0)], 0.5, ["sources[0].weight", "inf"]),
    ],
)
def test_what_cannot_be_mixed_is_refused(roles: list[tuple[str, float]], eta: float, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        shares(roles, eta)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
