"""Several methods compared: what agrees with a cause is found, and nothing is found where there is nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

from taskspace.errors import TaskspaceError
from taskspace.spaces.method_agreement import map_agreement, method_table, over_trainings, predictors, space_of_counts
from taskspace.spaces.space import TaskSpace

TASKS = [f"t{i}" for i in range(18)]


def space(cells, kind="space", **rest):
    return TaskSpace(pd.DataFrame(cells, TASKS, TASKS), kind, **rest)


def noise(seed):
    return np.random.default_rng(seed).normal(size=(18, 18))


def world(seed, strength):
    """A cause, two methods that see it by a strength each, and what only words make of it."""
    truth, words = np.kron(np.eye(6), np.ones((3, 3))), np.kron(np.ones((3, 3)), np.eye(6))
    parts = {"data need": truth, **{f"m{k}": s * truth for k, s in enumerate(strength)}}
    spaces = {
        k: over_trainings([space(v + 0.5 * noise([seed, i, t])) for t in range(2)])
        for i, (k, v) in enumerate(parts.items())
    }
    return spaces, space(words)


def test_the_better_method_comes_first_and_its_lead_is_known():
    spaces, words = world(0, (1.0, 0.3, 0.0))
    table = predictors(spaces, [words]).set_index("method")
    assert list(table.index) == ["m0", "m1", "m2"]
    assert table.loc["m0", "behind"] == 0 and table.loc["m2", "behind_low"] > 0
    assert table.loc["m2", "low"] < 0 < table.loc["m2", "high"]


def test_equal_methods_are_not_told_apart():
    "The interval of the difference holds 0 in most worlds of two methods that are equally good."
    told = [predictors(world(seed, (0.6, 0.6))[0])["behind_low"].iloc[1] > 0 for seed in range(12)]
    assert np.mean(told) <= 0.2  # none of 12; up to twice .025, since the better one is put first


def test_what_words_explain_is_taken_out():
    words = np.kron(np.ones((3, 3)), np.eye(6))
    spaces = {"data need": space(words + 0.3 * noise(1)), "m": space(words + 0.3 * noise(2))}
    row = method_table(spaces, [space(words)], permutations=199).iloc[0]
    assert row["correlation"] > 0.3 and row["correlation_p"] < 0.01
    assert abs(row["partial"]) < 0.15 and row["partial_p"] > 0.05


def test_an_ablation_is_turned_and_tasks_are_put_in_order():
    spaces, _ = world(3, (1.0,))
    turned = {"ablation": space(-spaces["m0"].matrix.to_numpy()), "data need": spaces["data need"].select(TASKS[::-1])}
    plain = method_table({"m0": spaces["m0"], "data need": spaces["data need"]}, permutations=19)
    assert method_table(turned, permutations=19)["correlation"].iloc[0] == pytest.approx(plain["correlation"].iloc[0])


def test_ceilings_come_from_trainings():
    spaces, _ = world(0, (1.0,))
    single = {**spaces, "single": space(noise(9))}
    table = method_table(single, permutations=19, method="pearson").set_index(["a", "b"])
    assert table.loc[("data need", "m0"), "ceiling"] == pytest.approx(
        np.sqrt(np.prod([spaces[k].noise_ceiling("pearson")["reliability"] for k in ("data need", "m0")]))
    )
    assert np.isnan(table.loc[("m0", "single"), "ceiling"])


def test_a_space_without_differences_has_no_figures():
    spaces, words = world(0, (1.0,))
    flat = {**spaces, "flat": space(np.zeros((18, 18)))}
    table = method_table(flat, permutations=19).set_index(["a", "b"])
    assert np.isnan(table.loc[("m0", "flat"), "correlation"]) and table["q"].notna().sum() == 1
    assert "flat" not in set(predictors(flat)["method"])
    with pytest.raises(TaskspaceError, match="none of the spaces is causal; there are: m0, flat"):
        predictors({k: flat[k] for k in ("m0", "flat")})


# -- maps that others have published
def flat(matrix):
    return np.asarray(matrix)[np.triu_indices(len(matrix), 1)]


def without_means(matrix):
    "The cells of a symmetric matrix without what each task has in common with all, by least squares over its cells."
    first, second = np.triu_indices(len(matrix), 1)
    design = np.zeros((len(first), len(matrix)))
    design[np.arange(len(first)), first] = design[np.arange(len(first)), second] = 1
    return flat(matrix) - design @ np.linalg.lstsq(design, flat(matrix), rcond=None)[0]


def test_the_agreement_with_a_map_is_that_of_another_program():
    both = [noise(k) + noise(k).T + np.add.outer(row, row) for k, row in ((0, np.arange(18)), (1, -np.arange(18)))]
    both[1] += both[0] / 2
    words = noise(2) + noise(2).T
    found = map_agreement(*map(space, both), [space(words)])
    assert found["rank"] == pytest.approx(spearmanr(flat(both[0]), flat(both[1])).statistic, abs=1e-9)
    centred = spearmanr(*map(without_means, both)).statistic
    assert found["centred"] == pytest.approx(centred, abs=1e-9) and found["centred"] > found["rank"] + 0.2
    design = np.column_stack([np.ones(153), rankdata(flat(words))])
    left = [rankdata(flat(m)) - design @ np.linalg.lstsq(design, rankdata(flat(m)), rcond=None)[0] for m in both]
    assert found["given"] == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)


def test_a_map_in_another_order_is_the_same_map():
    one, other = noise(3) + noise(3).T, noise(4) + noise(4).T
    turned = TaskSpace(pd.DataFrame(other, TASKS, TASKS).iloc[::-1, ::-1], "map")
    plain, found = map_agreement(space(one), space(other)), map_agreement(space(one), turned)
    assert found["rank"] == pytest.approx(plain["rank"], abs=1e-12)
    assert found["centred"] == pytest.approx(plain["centred"], abs=1e-9)


def test_shared_units_are_a_share_of_those_that_a_task_has():
    counts = pd.DataFrame([[8, 4, 1], [4, 2, 0], [1, 0, 8]], list("abc"), list("abc"))
    shares = space_of_counts(counts[["c", "a", "b"]]).matrix
    assert shares.loc["a", "b"] == shares.loc["b", "a"] == 1.0 and shares.loc["a", "c"] == 1 / 8
    assert (np.diag(shares) == 1).all()
    with pytest.raises(TaskspaceError, match="'b' has no units"):
        space_of_counts(counts.replace(2, 0))
    with pytest.raises(TaskspaceError, match="a square table"):
        space_of_counts(counts.iloc[:2])
