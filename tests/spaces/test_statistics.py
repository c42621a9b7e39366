"""Permutation tests: equal to naive code and to other packages, uniform under the null, fast enough."""

from itertools import permutations
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from taskspace.errors import TaskspaceError
from taskspace.spaces.statistics import (
    benjamini_hochberg,
    cells,
    from_cells,
    left_out_aucs,
    mantel,
    mrqap,
    partial_mantel,
    permutation_p,
    square,
    task_permutations,
    within_across,
)


def matrix(n, seed, symmetric=False):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return (a + a.T) / 2 if symmetric else a


def near(trait):
    return -np.abs(np.subtract.outer(trait, trait))


# -- equal to naive code


def naive_auc(a, labels):
    n = len(a)
    inside = [a[i, j] for i in range(n) for j in range(n) if i != j and labels[i] == labels[j]]
    across = [a[i, j] for i in range(n) for j in range(n) if i != j and labels[i] != labels[j]]
    return np.mean([(x > y) + 0.5 * (x == y) for x in inside for y in across])


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 9), st.integers(0, 10_000), st.integers(2, 3))
def test_auc_equals_counting_pairs_of_cells(n, seed, k):
    a, labels = np.round(matrix(n, seed), 1), np.arange(n) % k  # rounding makes ties
    auc = within_across(a, labels, permutations=0).statistic
    assert auc == pytest.approx(naive_auc(a, labels), abs=1e-12)  # worst seen 2e-16


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 8), st.integers(0, 10_000))
def test_null_of_each_test_equals_recomputing_after_relabelling(n, seed):
    a, b, z = matrix(n, seed), matrix(n, seed + 1, True), matrix(n, seed + 2)
    labels = np.arange(n) % 2
    orders = task_permutations(n, 5, seed)
    auc, plain, partial = (
        within_across(a, labels, 5, seed).null,
        mantel(a, b, "spearman", 5, seed).null,
        partial_mantel(a, b, z, "pearson", 5, seed).null,
    )
    line = np.polyfit(cells(z), cells(b), 1)
    rest = from_cells(cells(b) - np.polyval(line, cells(z)), n)
    for k, order in enumerate(orders):
        assert auc[k] == pytest.approx(naive_auc(a, labels[order]), abs=1e-12)
        moved = b[np.ix_(order, order)]
        assert plain[k] == pytest.approx(stats.spearmanr(cells(a), cells(moved)).statistic, abs=1e-12)
        r = np.corrcoef([cells(a), cells(rest[np.ix_(order, order)]), cells(z)])
        expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        assert partial[k] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sizes", [(2, 1, 1), (9, 1), (3, 3, 3), (5, 5), (1, 1, 1, 1, 2)])
def test_the_null_is_that_of_dense_products_to_the_last_bit(sizes):
    "Groups of all kinds: few cells within, few across; with ties."
    n = sum(sizes)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    a = np.random.default_rng(n).integers(0, 7, (n, n)).astype(float)
    member = np.eye(len(sizes))[labels]
    ranks = from_cells(stats.rankdata(cells(a)), n)
    shuffled = member[task_permutations(n, 99, 3)]
    within = sum(s * (s - 1) for s in sizes)
    sums = np.einsum("pik,pik->p", shuffled, ranks @ shuffled) - within * (within + 1) / 2
    assert np.array_equal(within_across(a, labels, 99, seed=3).null, sums / (within * (n * (n - 1) - within)))


@given(n=st.integers(4, 12), seed=st.integers(0, 999), k=st.integers(2, 3))
@pytest.mark.slow
def test_left_out_aucs_are_those_of_the_smaller_matrices(n, seed, k):
    rng = np.random.default_rng(seed)
    a, labels = rng.integers(0, 9, (n, n)).astype(float), np.arange(n) % k
    for task, found in enumerate(left_out_aucs(a, labels)):
        keep = np.arange(n) != task
        rest = labels[keep]
        if len(set(rest)) == len(rest) or len(set(rest)) == 1:
            assert np.isnan(found)
        else:
            assert found == naive_auc(a[np.ix_(keep, keep)], rest)


def test_p_is_close_to_the_exact_one_over_all_relabellings():
    a, b = matrix(6, 3), near(np.random.default_rng(4).normal(size=6))
    every = [stats.pearsonr(cells(a), cells(b[np.ix_(o, o)])).statistic for o in map(list, permutations(range(6)))]
    exact = np.mean(np.array(every) >= stats.pearsonr(cells(a), cells(b)).statistic - 1e-10)
    assert mantel(a, b, "pearson", 4999, seed=1).p == pytest.approx(
        exact, abs=4 * np.sqrt(exact * (1 - exact) / 4999) + 1 / 5000
    )


# -- equal to other packages


def test_statistics_equal_scipy_and_sklearn():
    from sklearn.metrics import roc_auc_score

    a, b = matrix(15, 0), matrix(15, 1)
    assert mantel(a, b, "spearman", 0).statistic == pytest.approx(
        stats.spearmanr(cells(a), cells(b)).statistic, abs=1e-12
    )
    assert mantel(a, b, "pearson", 0).statistic == pytest.approx(
        stats.pearsonr(cells(a), cells(b)).statistic, abs=1e-12
    )
    labels = np.arange(15) % 4
    same = labels[:, None] == labels
    assert within_across(a, labels, 0).statistic == pytest.approx(roc_auc_score(cells(same), cells(a)), abs=1e-12)
    p = np.random.default_rng(0).random(40)
    assert np.allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_mantel_equals_scikit_bio(method, alternative):
    distance = pytest.importorskip("skbio.stats.distance")
    rng = np.random.default_rng(5)
    trait = rng.normal(size=12)
    x, y = -near(trait), -near(trait + rng.normal(size=12))
    r, p, n = distance.mantel(x, y, method=method, permutations=1999, alternative=alternative, seed=0)
    mine = mantel(x, y, method, 1999, seed=0, alternative=alternative)
    assert n == mine.tasks and mine.statistic == pytest.approx(r, abs=1e-12)
    error = np.sqrt(max(p * (1 - p), 5e-4) / 2000)  # both draw 1,999 relabellings, but not the same
    assert mine.p == pytest.approx(p, abs=5 * error)


def test_partial_mantel_equals_the_formula_and_the_regression():
    a, b, z = (matrix(12, s) for s in (1, 2, 3))
    b, a = b + z, a + 0.5 * z
    r = {k: stats.pearsonr(cells(x), cells(y)).statistic for k, x, y in (("ab", a, b), ("az", a, z), ("bz", b, z))}
    formula = (r["ab"] - r["az"] * r["bz"]) / np.sqrt((1 - r["az"] ** 2) * (1 - r["bz"] ** 2))
    assert partial_mantel(a, b, z, "pearson", 0).statistic == pytest.approx(formula, abs=1e-12)
    table = mrqap(a, {"b": b, "z": z}, "pearson", 99)
    fit = np.linalg.lstsq(
        np.column_stack([stats.zscore(cells(b)), stats.zscore(cells(z))]), stats.zscore(cells(a)), rcond=None
    )[0]
    assert np.allclose(table.beta, fit) and table.partial["b"] == pytest.approx(formula, abs=1e-12)
    assert mrqap(a, {"b": b}, "pearson", 99).p["b"] == mantel(a, b, "pearson", 99, alternative="two-sided").p


def test_without_permutations_there_are_no_p_values():
    a, b, z = (matrix(6, s) for s in range(3))
    table = mrqap(a, {"b": b, "z": z}, permutations=0)
    assert table.p.isna().all() and np.isnan(table.attrs["p"]) and 0 <= table.attrs["r2"] <= 1


# -- properties


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 10), st.integers(0, 10_000))
def test_the_order_of_tasks_and_the_diagonal_do_not_matter(n, seed):
    a, b, labels = matrix(n, seed), matrix(n, seed + 1), np.arange(n) % 2
    order = np.random.default_rng(seed).permutation(n)
    cut = np.ix_(order, order)
    changed = a.copy()
    np.fill_diagonal(changed, np.nan)
    assert within_across(changed[cut], labels[order], 0).statistic == pytest.approx(
        within_across(a, labels, 0).statistic, abs=1e-12
    )
    assert mantel(changed[cut], b[cut], permutations=0).statistic == pytest.approx(
        mantel(a, b, permutations=0).statistic, abs=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 9), st.integers(0, 10_000))
def test_rank_statistics_do_not_change_under_growing_functions(n, seed):
    a, b, labels = matrix(n, seed), matrix(n, seed + 1), np.arange(n) % 2
    assert within_across(np.exp(a), labels, 0).statistic == pytest.approx(
        within_across(a, labels, 0).statistic, abs=1e-12
    )
    assert mantel(a**3, b, permutations=0).statistic == pytest.approx(mantel(a, b, permutations=0).statistic, abs=1e-12)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(-1, 1))
def test_p_values_lie_above_zero_and_reach_one(null, observed):
    for alternative in ("greater", "less", "two-sided"):
        assert 1 / (1 + len(null)) <= permutation_p(observed, np.array(null), alternative) <= 1


def test_the_seed_decides():
    a, b = matrix(12, 1), matrix(12, 2)
    assert mantel(a, b, seed=1).p == mantel(a, b, seed=1).p
    assert not np.array_equal(mantel(a, b, seed=1).null, mantel(a, b, seed=2).null)


# -- the truth under simulation

SIMULATIONS, PERMUTATIONS = 500, 199


def uniform_p(p, seed=0):
    "KS p-value against uniformity; the grid of permutation p-values is smoothed within its steps."
    p = np.asarray(p)
    assert np.isclose(p * (PERMUTATIONS + 1), np.round(p * (PERMUTATIONS + 1))).all()
    return stats.kstest(p - np.random.default_rng(seed).random(len(p)) / (PERMUTATIONS + 1), "uniform").pvalue


def simulated(name, s):
    rng = np.random.default_rng(s)
    n = 12
    effects = rng.normal(size=(n, 1)) + rng.normal(size=n)  # givers and receivers
    if name == "groups":
        return within_across(effects + rng.normal(size=(n, n)), np.arange(n) % 4, PERMUTATIONS, s).p
    x, y = near(rng.normal(size=n)) + effects, near(rng.normal(size=n))
    if name == "mantel":
        return mantel(x, y, "spearman", PERMUTATIONS, s).p
    if name == "mantel two-sided":
        return mantel(x, y, "pearson", PERMUTATIONS, s, "two-sided").p
    z = near(rng.normal(size=n))
    if name == "partial":
        return partial_mantel(x + 2 * z, y + z, z, "pearson", PERMUTATIONS, s).p
    return mrqap(x + 2 * z, {"y": y + z, "z": z}, "pearson", PERMUTATIONS, s).p["y"]


@pytest.mark.parametrize("name", ["groups", "mantel", "mantel two-sided", "partial", "mrqap"])
@pytest.mark.slow
def test_p_values_are_uniform_under_the_null(name):
    p = [simulated(name, s) for s in range(SIMULATIONS)]
    assert uniform_p(p) > 0.01, np.quantile(p, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert np.mean(np.array(p) <= 0.05) < 0.08


def test_taking_cells_for_independent_would_be_wrong():
    found = [
        stats.spearmanr(cells(near(r.normal(size=12))), cells(near(r.normal(size=12)))).pvalue
        for r in map(np.random.default_rng, range(200))
    ]
    assert np.mean(np.array(found) <= 0.05) > 0.15


def test_a_planted_effect_is_found():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 4
    found = [
        within_across((labels[:, None] == labels) + rng.normal(size=(12, 12)), labels, PERMUTATIONS, s).p
        for s in range(50)
    ]
    assert np.mean(np.array(found) <= 0.05) > 0.9


# -- speed and failures


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 67, 500])
def test_a_thousand_tasks_take_seconds(k):
    "Permutations and jackknife, for groups large and small. Measured: 3 to 6 seconds on one core."
    from taskspace.spaces.space import TaskSpace

    names = [f"task {i}" for i in range(1000)]
    space = TaskSpace(
        pd.DataFrame(matrix(1000, 0), names, names), "cosine", {t: str(i % k) for i, t in enumerate(names)}
    )
    start = perf_counter()
    test = space.within_across()
    assert perf_counter() - start < 20
    assert 0.4 < test.low < test.statistic < test.high < 0.6 and len(test.null) == 999


def test_blimp_size_takes_well_under_a_second():
    a, b, labels = matrix(67, 0), matrix(67, 1), np.arange(67) % 13
    for call in (
        lambda: within_across(a, labels, 999),
        lambda: mantel(a, b, permutations=999),
        lambda: partial_mantel(a, b, [matrix(67, 2)], permutations=999),
    ):
        call()
        start = perf_counter()
        call()
        assert perf_counter() - start < 1.5  # 0.04 to 0.1 s on an idle core; room for a loaded machine


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: square(a[:, :3]), "square matrix"),
        (lambda a: square(a[:2, :2]), "at least 3"),
        (lambda a: square(np.where(np.eye(6, k=1) > 0, np.nan, a)), r"cell \(0, 1\) and 4 others are missing"),
        (lambda a: within_across(a, list("aabb")), "4 group labels for 6 tasks"),
        (lambda a: within_across(a, list("aaaaaa")), "no cells across"),
        (lambda a: within_across(a, ["a", "b", None, None, None, None]), "at least 3"),
        (lambda a: mantel(a, np.ones((6, 6))), "all off-diagonal cells are equal"),
        (lambda a: mantel(a, matrix(5, 0)), "different shapes"),
        (lambda a: within_across(a[:0, :0], []), "no task has a group"),
        (lambda a: mantel(a, a, "kendall"), "method 'kendall' is unknown"),
        (lambda a: mantel(a, a.T, alternative="both"), "alternative 'both' is unknown"),
        (lambda a: partial_mantel(a, matrix(6, 9), matrix(6, 9)), "drop a control"),
        (lambda a: mrqap(a, {}), "at least one"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        call(matrix(6, 0))
    assert "\n" not in str(e.value)


def test_tasks_without_a_group_are_left_out():
    a = matrix(8, 0)
    labels = ["x", "y", "x", "y", "x", "y", None, float("nan")]
    assert within_across(a, labels, 99) == within_across(a[:6, :6], labels[:6], 99)
    assert np.isnan(benjamini_hochberg(pd.DataFrame([[np.nan, 0.1]]))[0, 0])


# -- what is missing is missing, never significant


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_a_missing_statistic_has_no_p_value(alternative):
    for value in (np.nan, np.inf, -np.inf):
        assert np.isnan(permutation_p(value, np.zeros(999), alternative))
    null = np.random.default_rng(0).normal(size=99)
    assert permutation_p(0.3, np.append(null, [np.nan] * 900), alternative) == permutation_p(0.3, null, alternative)
    assert permutation_p(0.3, np.full(9, np.nan), alternative) == 1.0


def test_labels_of_tables_can_be_missing():
    a = np.random.default_rng(0).normal(size=(8, 8))
    labels = ["x", "y", "x", "y", "x", "y"]
    assert (
        within_across(a, [*labels, None, None])
        == within_across(a, [*labels, np.nan, pd.NA])
        == within_across(a[:6, :6], labels)
    )
