"""Columns of a user's table against what was measured: known answers, coverage of intervals, what is refused."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from taskspace.claims.correlates import (
    checkpoint_means,
    correlate,
    correlates_together,
    matching_checkpoints,
)
from taskspace.claims.means import accuracy_intervals
from taskspace.errors import TaskspaceError
from taskspace.toy import measured_space


def scored(margin):
    "A table of scores with these margins, shape (tasks, pairs)."
    tasks, pairs = margin.shape
    return pd.DataFrame(
        {
            "task": np.repeat([f"t{k}" for k in range(tasks)], pairs),
            "pair": np.tile([f"p{k}" for k in range(pairs)], tasks),
            "margin": margin.ravel(),
            "correct": (margin > 0).ravel().astype(float),
        }
    )


def row(found, **wanted):
    "The only row with these values."
    for name, value in wanted.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_every_row_has_the_known_correlation():
    rng = np.random.default_rng(0)
    margin, column = rng.normal(size=(2, 12, 9))
    scores = scored(margin)
    table = scores[["task", "pair"]].assign(x=column.ravel()).sample(frac=1, random_state=0)  # in another order
    found = correlate(scores, table, permutations=99)
    for method, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        means = row(found, measure="margin", among="tasks", method=method)
        assert means["correlation"] == pytest.approx(function(column.mean(1), margin.mean(1)).statistic)
        whole = row(found, measure="margin", among="all pairs", method=method)
        assert whole["correlation"] == pytest.approx(function(column.ravel(), margin.ravel()).statistic)
    inside = row(found, measure="margin", among="pairs of a task", method="pearson")
    a, b = (v - v.mean(1, keepdims=True) for v in (column, margin))
    assert inside["correlation"] == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert (inside["n"], means["n"]) == (108, 12)


def test_within_tasks_takes_out_what_differs_between_tasks():
    rng = np.random.default_rng(1)
    own = rng.normal(size=(8, 40))
    task = np.arange(8)[:, None]
    scores, table = scored(own - 4 * task), scored(own)[["task", "pair"]].assign(x=(own + 4 * task).ravel())
    found = correlate(scores, table, permutations=99)
    assert row(found, measure="margin", among="pairs of a task", method="spearman")["correlation"] == pytest.approx(1)
    assert row(found, measure="margin", among="tasks", method="spearman")["correlation"] == pytest.approx(-1)
    assert row(found, measure="margin", among="all pairs", method="spearman")["correlation"] < -0.8


def test_a_space_has_the_mantel_correlation_of_differences():
    rng = np.random.default_rng(2)
    names = [f"task_{k}" for k in range(9)]
    value = rng.normal(size=9)
    alike = -np.abs(np.subtract.outer(value, value))
    space = measured_space(pd.DataFrame(alike, names, names), noise=0.0)
    table = pd.DataFrame({"task": names, "x": value, "other": rng.normal(size=9)}).iloc[::-1]
    found = correlate(space, table)
    assert row(found, column="x", method="pearson")["correlation"] == pytest.approx(1)
    assert row(found, column="x", method="pearson")["p"] == pytest.approx(1 / 1000)
    assert row(found, column="other", method="spearman")["p"] > 0.05
    some = correlate(space, table.assign(x=table["x"].where(table["task"] != "task_3")), "x")  # a task without a value
    assert set(some["n"]) == {8 * 7}
    gives = correlate(space.asymmetry()["gives"], table, "x")
    mean = (alike.sum(1) - np.diag(alike)) / 8
    assert row(gives, method="pearson")["correlation"] == pytest.approx(np.corrcoef(mean, value)[0, 1])


@pytest.mark.soak
def test_intervals_over_tasks_hold_the_truth_as_often_as_they_say():
    "Of 200 samples, 95.5 % were held of task means, and as many of pairs within tasks."
    rng, held, samples = np.random.default_rng(4), np.zeros(2), 100
    # The tasks have variance 1, and the mean of six pairs adds a sixth of that of a pair
    truth = np.array([(0.8 + 0.7 / 6) / np.sqrt((1 + 1 / 6) * (0.64 + 1.49 / 6)), 0.7 / np.sqrt(1.49)])
    for _ in range(samples):
        shared, own = rng.normal(size=(10, 1)), rng.normal(size=(10, 6))
        scores = scored(0.8 * shared + 0.7 * own + rng.normal(size=(10, 6)))
        table = scores[["task", "pair"]].assign(x=(shared + own).ravel())
        found = correlate(scores.drop(columns="correct"), table, permutations=0)
        found = found[(found["method"] == "pearson") & (found["among"] != "all pairs")]
        bounds = found["correlation_tasks_low"].to_numpy(), found["correlation_tasks_high"].to_numpy()
        held += (bounds[0] <= truth) & (truth <= bounds[1])
    assert (held / samples >= 0.89).all()  # 0.89 is 2.75 standard errors below 0.95


def test_nothing_is_found_where_nothing_is():
    "Of 20 unrelated columns, the smallest q is not small; without the correction some p are under 0.05."
    rng = np.random.default_rng(5)
    scores = scored(rng.normal(size=(15, 4)))
    table = pd.DataFrame(rng.normal(size=(15, 20))).add_prefix("x").assign(task=[f"t{k}" for k in range(15)])
    found = correlate(scores, table, permutations=199)
    assert found["q"].min() > 0.05 and 0 < (found["p"] <= 0.05).mean() < 0.15


def test_checkpoints_have_an_interval_over_models_only():
    rng = np.random.default_rng(6)
    parts = []
    for model in range(5):
        for step in (0, 10, 20, 30):
            margin = rng.normal(size=(6, 5)) + step / 40 + model
            parts.append(scored(margin).assign(model=f"m{model}", step=step))
    scores = pd.concat(parts, ignore_index=True)
    means = checkpoint_means(scores)
    assert len(means) == 20 and {"accuracy", "margin"} <= set(means)
    table = means[["model", "step"]].assign(words=means["step"] ** 2)
    found = correlate(scores, table)
    grows = row(found, measure="margin", method="spearman")
    assert grows["among"] == "checkpoints of a model" and grows["correlation"] > 0.7 and np.isnan(grows["p"])
    assert grows["correlation_models_low"] < grows["correlation"] < grows["correlation_models_high"]
    alone = correlate(scores[scores["model"] == "m0"], table)
    assert alone[["correlation_models_low", "p"]].isna().all(axis=None)
    # one row a model: its last checkpoint
    found = correlate(scores, pd.DataFrame({"model": [f"m{k}" for k in range(5)], "size": range(5)}))
    last = means[means["step"] == 30]
    expected = stats.pearsonr(range(5), last["margin"]).statistic
    assert row(found, measure="margin", method="pearson")["correlation"] == pytest.approx(expected)
    assert set(found["among"]) == {"models"} and found["p"].notna().all()


def test_several_models_are_corrected_together():
    rng = np.random.default_rng(7)
    table = pd.DataFrame({"task": [f"t{k}" for k in range(9)], "x": rng.normal(size=9)})
    each = {m: [correlate(scored(rng.normal(size=(9, 4))), table, permutations=99)] for m in ("a", "b")}
    found = correlates_together(each)
    assert list(found["model"].unique()) == ["a", "b"]
    own = found[found["method"] == "spearman"]
    assert own["q"].to_numpy() == pytest.approx(stats.false_discovery_control(own["p"]))


def test_pairs_that_share_a_name_have_the_value_of_their_item():
    rng = np.random.default_rng(8)
    values = rng.normal(size=(5, 12))
    scores = scored(values)
    items = scored(values.reshape(5, 6, 2).mean(-1))
    names = items[["task", "pair"]].assign(x=rng.normal(size=len(items)))
    place = scores.groupby("task").cumcount() // 2
    named = scores.assign(pair=items["pair"].iloc[:6].to_numpy()[place], model="a")
    shared, single = (correlate(s, names, permutations=49).query("measure == 'margin'") for s in (named, items))
    pd.testing.assert_frame_equal(shared.drop(columns="q"), single.drop(columns="q"))
    with pytest.raises(TaskspaceError, match="several rows for pair .* of .*, and model differs between rows"):
        correlate(pd.concat([items.assign(model="a"), items.assign(model="b")]), names)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"task": ["t0", "t0"], "x": [1, 2]}, "row 1: task t0 stands there twice"),
        ({"task": ["t0", "t1"], "x": ["1", "much"]}, "row 1: x is 'much', which is no number"),
        ({"task": ["t0", "t1"], "word": ["a", "b"]}, "no column of numbers"),
        ({"x": [1, 2]}, "no column task, model or step"),
        ({"pair": ["p0", "p1"], "x": [1, 2]}, "a column pair and none of tasks"),
        ({"task": ["t0", "t1"], "step": [1, 2], "x": [1, 2]}, "columns of tasks and of checkpoints"),
        ({"task": ["other", "t1"], "x": [1, 2]}, "x: 1 tasks have a value and a measurement"),
        ({"model": ["a", "b"], "x": [1, 2]}, "the scores have no column 'model'"),
    ],
)
def test_a_bad_table_gets_one_line(table, says):
    scores = scored(np.random.default_rng(0).normal(size=(6, 4)))
    with pytest.raises(TaskspaceError, match=says) as e:
        correlate(scores, pd.DataFrame(table))
    assert "\n" not in str(e.value)


def of_models(revisions, steps, accuracy):
    "Scores of two tasks for models a to f, with so many right of ten pairs at each checkpoint."
    rows = [
        {
            "model": model,
            "step": step,
            "revision": revision,
            "task": task,
            "pair": str(k),
            "margin": right,
            "correct": right,
        }
        for n, model in enumerate("abcdef")
        for revision, step, share in zip(revisions, steps, accuracy, strict=True)
        for task in ("x", "y")
        for k in range(10)
        for right in [float(k < 10 * share - n)]
    ]
    return pd.DataFrame(rows)


def test_revisions_without_a_step_stand_apart():
    means = checkpoint_means(of_models(["early", "late"], [np.nan, np.nan], [0.6, 0.9]))
    assert means.loc[means["model"] == "a", ["revision", "accuracy"]].to_numpy().tolist() == [
        ["early", 0.6],
        ["late", 0.9],
    ]


@pytest.mark.parametrize("steps", [(10, 30), (30, 10), (10, np.nan), (np.nan, 10)])
def test_the_last_checkpoint_is_the_one_of_most_steps_or_of_none(steps):
    means = checkpoint_means(of_models(["r", "r"], steps, [0.6, 0.9]))
    (last,) = matching_checkpoints(means, pd.DataFrame({"model": ["a"]})).query("model == 'a'")["step"]
    assert last == 30 if 30 in steps else np.isnan(last)


def test_a_measure_of_few_models_does_not_hide_the_others():
    means = checkpoint_means(of_models(["r"], [10], [0.9])).assign(other=[1.0, 2.0, 3.0, np.nan, np.nan, np.nan])
    table = pd.DataFrame({"model": list("abcdef"), "x": range(6)})
    found = correlate(means, table, permutations=9)
    assert set(found["measure"]) == {"accuracy", "margin"}
    pd.testing.assert_frame_equal(found, correlate(means.drop(columns="other"), table, permutations=9))
    with pytest.raises(TaskspaceError, match="0 models have a value and a measurement"):
        correlate(means, table.assign(model=list("uvwxyz")), permutations=9)


def test_pairs_of_several_models_are_refused():
    "Each pair would count once a model, as if it were another pair."
    one = scored(np.random.default_rng(0).normal(size=(5, 9)))
    table = one[["task", "pair"]].assign(x=range(45))
    with pytest.raises(TaskspaceError, match="several rows for pair"):
        correlate(pd.concat([one.assign(model=m) for m in "ab"]), table, permutations=9)


@pytest.mark.parametrize("column", ["model", "step", "convention"])
def test_tasks_of_several_models_are_refused(column):
    "The mean of a task over models would be the accuracy of none."
    one = scored(np.random.default_rng(0).normal(size=(5, 9)))
    several = pd.concat([one.assign(**{column: k}) for k in range(2)], ignore_index=True)
    table = pd.DataFrame({"task": one["task"].unique(), "x": range(5)})
    for scores in (several, several.drop(columns="pair")):
        with pytest.raises(TaskspaceError, match=f"several rows for .*t0, and {column} differs between rows; keep"):
            correlate(scores, table, permutations=9)
        with pytest.raises(TaskspaceError, match=f"several rows for .*t0, and {column} differs between rows; keep"):
            accuracy_intervals(scores, draws=9)
    found = correlate(one.assign(**{column: 1}), table, permutations=9)
    pd.testing.assert_frame_equal(found, correlate(one, table, permutations=9))
