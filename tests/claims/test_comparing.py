"""Models compared: tests as scipy and statsmodels have them, intervals that hold the truth, tables that must match."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from taskspace.claims.comparing import (
    compare_scores,
    indistinct_groups,
    mcnemar_p,
    pairwise_tests,
    rank_scores,
    scoring_rule,
)
from taskspace.claims.means import accuracy_intervals, means_by_group
from taskspace.errors import TaskspaceError


def scored(rates, n=20, seed=0, **columns):
    "Scores of a model that gets pairs right at these rates, one a task."
    rng = np.random.default_rng(seed)
    k = len(rates)
    right = rng.random((k, n)) < np.asarray(rates)[:, None]
    margin = np.where(right, 1, -1) * rng.exponential(size=(k, n))
    frame = pd.DataFrame(
        {
            "task": np.repeat([f"task {i}" for i in range(k)], n),
            "phenomenon": np.repeat([f"group {i % 3}" for i in range(k)], n),
            "pair": np.tile(np.arange(n).astype(str), k),
            "margin": margin.ravel(),
            "correct": right.ravel().astype(float),
        }
    )
    return frame.assign(**columns)


def test_mcnemar_is_that_of_scipy_and_statsmodels():
    table = pytest.importorskip(
        "statsmodels.stats.contingency_tables", reason="statsmodels is not installed: pip install -e '.[peers]'"
    )
    for a, b in ((0, 0), (1, 0), (3, 12), (40, 40), (130, 12)):
        assert mcnemar_p(a, b) == mcnemar_p(b, a)
        if a + b:
            assert mcnemar_p(a, b) == binomtest(a, a + b).pvalue
            peer = table.mcnemar([[7, a], [b, 9]], exact=True).pvalue
            assert mcnemar_p(a, b) == pytest.approx(min(peer, 1), rel=1e-12)


def test_q_values_are_those_of_statsmodels_within_each_level():
    multi = pytest.importorskip(
        "statsmodels.stats.multitest", reason="statsmodels is not installed: pip install -e '.[peers]'"
    )
    found = compare_scores(scored(np.linspace(0.5, 1, 9)), scored(np.full(9, 0.6), seed=1), draws=50)
    for _, own in found.groupby("level"):
        assert own["q"].to_numpy() == pytest.approx(multi.multipletests(own["p"], method="fdr_bh")[1])


def test_what_is_compared_are_the_pairs_and_not_the_rows():
    a, b = scored([0.9, 0.5, 0.7]), scored([0.4, 0.6, 0.5], seed=1)
    whole = compare_scores(a, b).iloc[0]
    joined = a.merge(b, on=["task", "pair"])
    assert whole.only_a == ((joined.correct_x == 1) & (joined.correct_y == 0)).sum()
    assert whole.only_b == ((joined.correct_x == 0) & (joined.correct_y == 1)).sum()
    assert whole.p == binomtest(whole.only_a, whole.only_a + whole.only_b).pvalue
    shuffled = compare_scores(a, b.sample(frac=1, random_state=0)).iloc[0]
    pd.testing.assert_series_equal(whole, shuffled)


def test_signs_turn_when_the_models_change_places():
    a, b = scored([0.9, 0.5, 0.7], n=40), scored([0.4, 0.6, 0.5], n=40, seed=1)
    one, other = compare_scores(a, b).iloc[0], compare_scores(b, a).iloc[0]
    assert one.difference == pytest.approx(-other.difference) and one.p == other.p
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)
    # Replicates are other ones: bounds agree but for chance, here 0.0 with the same weights
    assert one.difference_pairs_low == pytest.approx(-other.difference_pairs_high, abs=0.02)


def test_ties_belong_to_the_model_that_is_right():
    a, b = scored([1.0, 1.0]), scored([1.0, 1.0])
    b.loc[:4, ["correct", "margin"]] = 0.5, 0.0
    whole = compare_scores(a, b, draws=50).iloc[0]
    assert (whole.only_a, whole.only_b) == (5, 0) and whole.difference == pytest.approx(2.5 / 40)


def test_intervals_of_one_task_are_those_of_scipy():
    "scipy's percentile bootstrap of a mean, which is narrower by Student's factor; 200 pairs make that 1 %."
    frame = scored([0.8], n=200)
    found = means_by_group(frame, {"margin": None}, draws=4000).iloc[0]
    peer = bootstrap((frame["margin"].to_numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0)
    width = peer.confidence_interval.high - peer.confidence_interval.low
    # Worst difference of a bound over ten seeds: 0.04 of the width
    assert found.margin_pairs_low == pytest.approx(peer.confidence_interval.low, abs=0.1 * width)
    assert found.margin_pairs_high == pytest.approx(peer.confidence_interval.high, abs=0.1 * width)


@pytest.mark.soak
def test_intervals_of_a_difference_hold_it_as_often_as_they_say():
    """Worlds of 8 tasks: the same tasks for the interval over pairs, new tasks for the interval over tasks. In
    400 worlds 95.5 and 94.5 % of the intervals held the truth; of 80 at least 88 % must."""
    rng, held, worlds = np.random.default_rng(0), np.zeros(2), 80
    same, tasks = rng.uniform(-0.2, 0.4, 8), np.repeat(np.arange(8).astype(str), 15)
    for k in range(worlds):
        for level, effects in enumerate((same, rng.uniform(-0.2, 0.4, 8))):
            base, twin = rng.random((8, 15)) < 0.55, rng.random((8, 15)) < 0.55 + effects[:, None]
            frame = pd.DataFrame({"task": tasks, "d": (twin.astype(float) - base).ravel()})
            found = means_by_group(frame, {"d": (-1, 1)}, 200, k).iloc[0]
            name, truth = ("pairs", effects.mean()) if level == 0 else ("tasks", 0.1)
            held[level] += found[f"d_{name}_low"] <= truth <= found[f"d_{name}_high"]
    assert (held / worlds >= 0.88).all() and (held / worlds < 1).all(), held / worlds


def test_certainty_is_not_claimed_where_nothing_varies():
    table = accuracy_intervals(scored([1.0, 1.0, 1.0], n=10), draws=50)
    assert (table["accuracy_pairs_low"] < 1).all() and (table["accuracy_pairs_high"] == 1).all()
    assert table["accuracy_pairs_low"].iloc[0] == pytest.approx(0.025 ** (1 / 30))
    assert table["accuracy_tasks_low"].iloc[0] == pytest.approx(0.025 ** (1 / 3))
    one_pair = accuracy_intervals(scored([0.5, 0.5, 0.5], n=1), draws=50).iloc[0]
    assert np.isnan(one_pair.accuracy_pairs_low) and not np.isnan(one_pair.accuracy_tasks_low)


def test_languages_have_rows_where_there_are_several():
    languages = np.repeat(["deu", "eng", "deu", "eng"], 20)
    a, b = scored([0.9] * 4, language=languages), scored([0.5] * 4, seed=1, language=languages)
    table = compare_scores(a, b, draws=50)
    assert table.loc[table["level"] == "language", "name"].tolist() == ["deu", "eng"]
    assert (table.loc[table["level"] == "language", "pairs"] == 40).all()
    assert "language" not in set(compare_scores(a.assign(language="deu"), b, draws=50)["level"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.iloc[3:], "b: lacks 3 of the pairs of a, first pair '0' of task 'task 0'"),
        (
            lambda t: pd.concat([t, t.head(1)]),
            "a: lacks 1 of the pairs of b, first pair '0' of task 'task 0', which b has 2 times; remove rows",
        ),
        (
            lambda t: pd.concat([t.assign(convention=c) for c in "xy"]),
            "b: pair '0' of task 'task 0' stands there twice, and convention differs",
        ),
        (
            lambda t: pd.concat([t.assign(model="x"), t.assign(model="y")]),
            "b: pair '0' of task 'task 0' stands there twice, and model differs between rows; keep the rows of one",
        ),
        (
            lambda t: pd.concat([t.assign(step=1), t.assign(step=None)]),
            "b: pair '0' of task 'task 0' stands there twice, and step differs",
        ),
        (lambda t: t.drop(columns="margin"), "b: no column 'margin'"),
        (lambda t: t.assign(margin=np.nan), "b: margin of pair '0' of task 'task 0' is missing"),
        (lambda t: t.iloc[:0], "b: no scores"),
        (lambda t: t.assign(pair=t["pair"] + "x"), "b: lacks 60 of the pairs of a"),
    ],
)
def test_tables_that_do_not_match_are_refused_in_one_line(change, says):
    a = scored([0.9, 0.5, 0.7])
    with pytest.raises(TaskspaceError) as e:
        compare_scores(a, change(a))
    assert str(e.value).startswith(says) and "\n" not in str(e.value)


def test_common_pairs_can_be_compared():
    a, b = scored([0.9, 0.5, 0.7]), scored([0.5, 0.5, 0.5], seed=1)
    found = compare_scores(a.iloc[5:], b.iloc[:-7], common=True, draws=50).iloc[0]
    assert found.pairs == 60 - 5 - 7
    with pytest.raises(TaskspaceError, match="no pair in common"):
        compare_scores(a.iloc[:10], b.iloc[10:], common=True)


def test_pairs_that_share_a_name_count_once_each():
    a, b = scored([0.9, 0.5, 0.7]), scored([0.5, 0.5, 0.5], seed=1)
    items = [t.assign(pair=[str(int(p) // 2) for p in t["pair"]], model=m) for t, m in ((a, "a"), (b, "b"))]
    plain, again = compare_scores(a, b, draws=50), compare_scores(*items, draws=50)
    pd.testing.assert_frame_equal(plain, again)
    ranked = rank_scores(dict(zip("ab", items, strict=True)), draws=50)
    assert ranked["pairs"].tolist() == [60, 60]


def test_two_conventions_are_refused():
    rule = {"name": "blimp", "prefix": "auto", "leading_space": False, "reduction": "sum", "method": "causal"}
    a, b = scored([0.9, 0.5]), scored([0.5, 0.5], seed=1)
    a.attrs = {"convention": rule}
    b["convention"] = "blimp; prefix auto (token 5); no leading space; sum of log-probabilities; ties count one half"
    assert scoring_rule(a) == scoring_rule(b) and compare_scores(a, b, draws=2) is not None
    for what, word in (("prefix auto (token 5)", "no prefix"), ("sum of", "mean of"), ("no leading", "a leading")):
        other = b.assign(convention=b["convention"].str.replace(what, word))
        with pytest.raises(TaskspaceError, match="a was scored with .*mixed=True"):
            compare_scores(a, other)
        compare_scores(a, other, mixed=True, draws=2)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.data())
def test_letters_are_shared_exactly_where_models_are_not_told_apart(n, data):
    models = [f"m{i}" for i in range(n)]
    pairs = list(combinations(models, 2))
    differ = {p for p in pairs if data.draw(st.booleans())}
    letters = {m: set(x.split()) for m, x in indistinct_groups(models, differ).items()}
    assert all(letters.values())
    assert {p for p in pairs if not letters[p[0]] & letters[p[1]]} == differ


def test_many_models_are_ranked_and_corrected_together():
    tables = {"weak": scored([0.5] * 5, n=40), "strong": scored([0.95] * 5, n=40, seed=1)}
    tables["twin"] = scored([0.95] * 5, n=40, seed=2)
    ranking = rank_scores(tables, draws=50)
    groups = dict(zip(ranking["model"], ranking["group"], strict=True))
    assert ranking["model"].iloc[-1] == "weak" and groups["strong"] == groups["twin"] == "a" and groups["weak"] == "b"
    tests = pairwise_tests(tables)
    assert len(tests) == 3 and (tests["q"] >= tests["p"]).all()
    # Over five tasks the least p is 2/32, so no two models can be told apart there
    assert set(rank_scores(tables, over="tasks", draws=50)["group"]) == {"a"}
    with pytest.raises(TaskspaceError, match="over: must be one of pairs, tasks"):
        rank_scores(tables, over="pair")
