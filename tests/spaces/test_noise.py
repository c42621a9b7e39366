"""Intervals over pairs in simulated worlds: equal, column-wise and unequal noise, reliability from .1 to .95."""

import numpy as np
import pytest

from taskspace.spaces.resampling import auc_of, correlation_of, statistic_interval
from taskspace.spaces.statistics import cells, mantel, within_across

pytestmark = pytest.mark.slow

N, PAIRS, REPLICATES, WORLDS = 24, 12, 200, 40
GROUPS = np.arange(N) % 4
SAME = (GROUPS[:, None] == GROUPS[None]).astype(float)
INSIDE = cells(SAME) > 0
RELIABILITIES = (0.1, 0.35, 0.6, 0.95)


def auc(values):
    return auc_of(values, INSIDE)


def rank(values):
    return correlation_of(values, cells(SAME), "spearman")


def product(values):
    return correlation_of(values, cells(SAME), "pearson")


STATISTICS = {"auc": (auc, (0, 1)), "spearman": (rank, (-1, 1)), "pearson": (product, (-1, 1))}


def world(effect, rng):
    "A true space with effects of rows, columns and groups."
    return effect * SAME + 0.5 * rng.normal(size=(N, 1)) + 0.5 * rng.normal(size=(1, N)) + rng.normal(size=(N, N))


def errors(kind, count, rng):
    "Errors of single pairs, shape (tasks, tasks, pairs), of variance 1 for equal and column noise."
    noise = rng.normal(size=(N, N, count))
    if kind == "column":
        return np.sqrt(0.5) * (rng.normal(size=(1, N, count)) + noise)
    if kind == "unequal":
        return noise * np.exp(0.7 * rng.normal(size=(N, 1, 1))) * np.exp(np.linspace(-0.7, 0.7, N))[:, None]
    return noise


def resampled(values, rng):
    "Replicates of the means over pairs, which the sources share."
    out = np.empty((REPLICATES, N, N))
    for j in range(N):
        weights = rng.multinomial(PAIRS, np.full(PAIRS, 1 / PAIRS), size=REPLICATES) / PAIRS
        out[:, :, j] = weights @ values[:, j].T
    return out


@pytest.mark.parametrize("kind", ["equal", "column", "unequal"])
def test_intervals_hold_what_they_promise(kind):
    rng = np.random.default_rng({"equal": 1, "column": 2, "unequal": 3}[kind])
    measured, corrected = [], []
    for reliability in RELIABILITIES:
        for number in range(WORLDS):
            true = world(0.8 * (number % 2), rng)
            scale = np.sqrt(cells(true).var() * (1 - reliability) / reliability)
            values = true[:, :, None] + scale * np.sqrt(PAIRS) * errors(kind, PAIRS, rng)
            replicates = resampled(values, rng)
            others = [cells(true + scale * errors(kind, 1, rng)[..., 0]) for _ in range(20)]
            for statistic, bounds in STATISTICS.values():
                found = statistic_interval(values.mean(2), replicates, statistic, [SAME], 0.95, PAIRS, bounds)
                estimate = float(statistic(cells(values.mean(2))))
                assert found.low <= estimate <= found.high
                expected = np.mean([statistic(other) for other in others])
                measured.append(found.low <= expected <= found.high)
                if np.isfinite(found.corrected):
                    assert found.reliability >= 0.3 and found.corrected_low <= found.corrected <= found.corrected_high
                    corrected.append(found.corrected_low <= statistic(cells(true)) <= found.corrected_high)
    # Seen: 0.948 to 0.960 measured, 0.943 to 0.968 corrected; where nothing is corrected, noise is most of the space.
    assert np.mean(measured) >= 0.93 and np.mean(corrected) >= 0.93, (np.mean(measured), np.mean(corrected))


def test_tests_are_not_fooled_by_noise():
    "Where groups have no part in a space, p is below .05 at most as often as it says."
    rng = np.random.default_rng(4)
    found = []
    for number in range(300):
        kind = ("equal", "column", "unequal")[number % 3]
        space = world(0.0, rng) + errors(kind, 1, rng)[..., 0] * rng.choice([0.3, 1.0, 3.0])
        found.append(within_across(space, GROUPS.tolist(), 199, seed=number).p < 0.05)
        found.append(mantel(space, SAME, permutations=199, seed=number).p < 0.05)
    assert np.mean(found) <= 0.06, np.mean(found)  # seen: 0.027
