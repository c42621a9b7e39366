"""Whether a label is shared where another one differs: against plain loops, and whatever the order of the tasks."""

import numpy as np
import pandas as pd
import pytest

from keptpages import auc, without_means
from taskspace.errors import TaskspaceError
from taskspace.spaces import crossed
from taskspace.spaces.crossed import crossed_table
from taskspace.spaces.space import TaskSpace

LANGUAGE = np.repeat(list("abcde"), 6)
FEATURE = np.tile(list("xxyyzz"), 5)
NAMES = [f"{n}{k}" for k, n in enumerate(LANGUAGE)]
SETS = {
    "different": LANGUAGE[:, None] != LANGUAGE,
    "with a": (LANGUAGE[:, None] != LANGUAGE) & ((LANGUAGE == "a")[:, None] | (LANGUAGE == "a")),
}


def symmetric(rng):
    values = rng.normal(size=(30, 30))
    return pd.DataFrame(values + values.T, NAMES, NAMES)


def made(seed=0):
    rng = np.random.default_rng(seed)
    words = TaskSpace(symmetric(rng))
    shared = 0.6 * (FEATURE[:, None] == FEATURE)
    return TaskSpace(symmetric(rng) + shared + 0.5 * words.matrix), words


LABELS = dict(zip(NAMES, FEATURE, strict=True)), dict(zip(NAMES, LANGUAGE, strict=True))


def plain(space, words, pairs, feature):
    "Both AUCs of a set, cell by cell."
    upper = np.triu_indices(len(feature), 1)
    chosen = pairs[upper]
    alike = np.array([feature[i] == feature[j] for i, j in zip(*upper, strict=True)])[chosen]
    values = without_means(space.matrix.to_numpy())[chosen]
    other = words.matrix.to_numpy()[upper][chosen]
    slope, start = np.polyfit(other, values, 1)
    return auc(values, alike), auc(values - slope * other - start, alike)


def test_aucs_are_those_of_plain_loops():
    space, words = made()
    found = crossed_table(space, *LABELS, SETS, {}, [words], draws=0)["value"]
    for name, pairs in SETS.items():
        assert np.allclose(found[name], plain(space, words, pairs, FEATURE), atol=1e-9)


def test_intervals_leave_out_a_language_with_all_its_tasks():
    from scipy.stats import t

    space, words = made()
    found = crossed_table(space, *LABELS, SETS, {"language": LANGUAGE}, [words], draws=0)
    left = []
    for language in np.unique(LANGUAGE):
        stays = language != LANGUAGE
        left.append(plain(space, words, SETS["different"] & stays[:, None] & stays, FEATURE)[0])
    logits = np.log(np.array(left) / (1 - np.array(left)))
    error = np.sqrt(4 / 5 * ((logits - logits.mean()) ** 2).sum())
    value = found["value"]["different", "as measured"]
    ends = np.log(value / (1 - value)) + t.ppf([0.025, 0.975], 4) * error
    bounds = found.loc[("different", "as measured"), ["low_language", "high_language"]].to_numpy(float)
    assert np.allclose(bounds, 1 / (1 + np.exp(-ends)), atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 1 << 24])  # one shuffle after the other, and all together
def test_p_is_that_of_counting(at_once, monkeypatch):
    monkeypatch.setattr(crossed, "_AT_ONCE", at_once)
    space, words = made(3)
    found = crossed_table(space, *LABELS, SETS, {}, [words], draws=60, seed=5)
    own, others = (pd.factorize(label)[0] for label in (FEATURE, LANGUAGE))
    shuffles = crossed._shuffled(own, others, 60, 5)
    for new in shuffles:  # the features of each language stay in it
        assert all(sorted(new[others == n]) == sorted(own[others == n]) for n in range(5))
    assert len({tuple(new) for new in shuffles}) == 60
    for name, pairs in SETS.items():
        drawn = np.array([plain(space, words, pairs, new) for new in shuffles])
        whole = np.array(plain(space, words, pairs, own))
        assert np.allclose(found["p"][name], (1 + (drawn >= whole - 1e-9).sum(0)) / 61)


def test_the_order_of_the_tasks_and_the_names_of_labels_change_nothing():
    space, words = made(1)
    turn = np.random.default_rng(0).permutation(30)
    turned = TaskSpace(space.matrix.iloc[turn, turn])
    sets = {name: pairs[np.ix_(turn, turn)] for name, pairs in SETS.items()}
    renamed = [{t: f"a {v}" for t, v in label.items()} for label in LABELS]
    one = crossed_table(space, *LABELS, SETS, {"language": LANGUAGE}, [words], draws=0)
    other = crossed_table(turned, *renamed, sets, {"language": LANGUAGE[turn]}, [words], draws=0)
    assert np.allclose(one, other, atol=1e-9, equal_nan=True)


def test_a_difference_is_one_auc_less_another():
    space, words = made(2)
    named = {"more with a": ("with a", "different")}
    found = crossed_table(space, *LABELS, SETS, {"language": LANGUAGE}, differences=named, draws=9)
    assert list(found.index) == [(n, "as measured") for n in ("different", "with a", "more with a")]
    values = found["value"].droplevel("reading")
    assert values["more with a"] == pytest.approx(values["with a"] - values["different"], abs=1e-12)
    assert np.isnan(found.loc[("more with a", "as measured"), "p"])


def test_a_set_without_two_kinds_of_cells_has_no_auc_and_no_p():
    space, words = made()
    alone = {"one feature": FEATURE[:, None] == FEATURE}
    found = crossed_table(space, *LABELS, alone, {"language": LANGUAGE}, [words], draws=9)
    assert found.isna().all(axis=None)


@pytest.mark.parametrize("wrong", [np.ones((2, 2)), np.triu(np.ones((30, 30)))])
def test_a_set_is_a_symmetric_matrix(wrong):
    with pytest.raises(TaskspaceError, match="set 'wrong' must be a symmetric matrix of 30 by 30"):
        crossed_table(made()[0], *LABELS, {"wrong": wrong}, {})


def test_what_does_not_fit_the_space_is_named():
    space, _ = made()
    upper = TaskSpace(pd.DataFrame(np.triu(space.matrix), NAMES, NAMES))
    without = {t: v for t, v in LABELS[0].items() if t != NAMES[3]}
    missing = pd.Series(LABELS[1]).replace("b", np.nan)
    for given, message in (
        ((upper, *LABELS, SETS, {}), "has a direction"),
        ((space, without, LABELS[1], SETS, {}), "task 'a3' has no label;"),
        ((space, LABELS[0], missing, SETS, {}), "task 'b6' has no label that differs"),
        ((space, *LABELS, SETS, {"language": LANGUAGE[1:]}), "one for each of 30 tasks, not 29"),
    ):
        with pytest.raises(TaskspaceError, match=message):
            crossed_table(*given)


def test_missing_cells_are_named():
    space, words = made()
    lacking = space.matrix.copy()
    lacking.iloc[1, 2] = lacking.iloc[2, 1] = np.nan
    gap = TaskSpace(lacking)
    for given, what in (
        ((gap, *LABELS, SETS, {}), "crossed: cell"),
        ((space, *LABELS, SETS, {}, [gap]), "taken out: cell"),
    ):
        with pytest.raises(TaskspaceError, match=rf"{what} \(1, 2\) and 1 others are missing; take the complete tasks"):
            crossed_table(*given)


def test_spaces_taken_out_have_the_tasks():
    space, words = made()
    with pytest.raises(TaskspaceError):
        crossed_table(space, *LABELS, SETS, {}, [words.select(NAMES[:5])])
