"""Groups of models: what is missing is missing, never significant."""

import numpy as np
import pytest

from taskspace.spaces.statistics import over_seeds


@pytest.mark.parametrize("missing", [np.nan, np.inf])
@pytest.mark.parametrize("seeds", [3, 20])  # all sign patterns, and a sample of them
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_missing_seed_leaves_no_p_value(missing, seeds):
    found = over_seeds([missing, *np.linspace(0.1, 0.3, seeds - 1)])
    assert np.isnan([found.p, found.low, found.high]).all() and found.n == seeds


def test_p_is_never_below_what_the_seeds_allow():
    assert over_seeds([0.1, 0.1, 0.2]).p == pytest.approx(2 / 8)
