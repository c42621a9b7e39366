"""Means over models or tasks: Student's interval and sign flips; what is missing is missing, never significant."""

import numpy as np
import pytest
from scipy import stats

from taskspace.spaces.statistics import over_seeds, sign_flip_p, student_interval


@pytest.mark.parametrize("missing", [np.nan, np.inf])
@pytest.mark.parametrize("seeds", [3, 20])  # all sign patterns, and a sample of them
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_missing_seed_leaves_no_p_value(missing, seeds):
    found = over_seeds([missing, *np.linspace(0.1, 0.3, seeds - 1)])
    assert np.isnan([found.p, found.low, found.high]).all() and found.n == seeds


def test_p_is_never_below_what_the_seeds_allow():
    assert over_seeds([0.1, 0.1, 0.2]).p == pytest.approx(2 / 8)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_students(level):
    values = np.random.default_rng(0).normal(0.3, size=7)
    exact = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert student_interval(values, level) == pytest.approx((values.mean(), exact.low, exact.high), rel=1e-12)


def test_a_sample_of_sign_patterns_agrees_with_all_of_them():
    values = np.random.default_rng(1).normal(0.4, size=12)
    exact = sign_flip_p(values, flips=2**12)
    assert sign_flip_p(values, flips=4000) == pytest.approx(exact, abs=0.01)  # seen: 0.001
    assert sign_flip_p(values, flips=99) >= 1 / 100
    assert sign_flip_p(-values) == sign_flip_p(values)
