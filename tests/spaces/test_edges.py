"""Few units, missing labels and unlike operands: what intervals and spaces do at their edges."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from taskspace.claims.verdicts import claim_c
from taskspace.errors import TaskspaceError
from taskspace.spaces import sentence_similarity
from taskspace.spaces.change import change_point
from taskspace.spaces.hypotheses import opponents
from taskspace.spaces.levels import level_error_over_pairs, level_intervals
from taskspace.spaces.resampling import auc_of, jackknife_error, left_out_interval, stretched_interval
from taskspace.spaces.sentence_similarity import words
from taskspace.spaces.signs import opposition_scores
from taskspace.spaces.space import TaskSpace
from taskspace.spaces.statistics import cells
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import measured_space


def space_of(values, names=None, **more):
    names = list("abcdefghijklmnopqrstuvwxyz"[: len(values)]) if names is None else names
    return TaskSpace(pd.DataFrame(values, names, names), **more)


def noisy(pairs, seed=0, tasks=6):
    names = list("abcdefghi"[:tasks])
    truth = pd.DataFrame(np.random.default_rng(9).normal(size=(tasks, tasks)), names, names)
    return measured_space(truth, pairs=pairs, seed=seed, noise=3.0)


def mean_cell(matrix, keep):
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


@pytest.mark.parametrize(
    "text, found",
    [
        ("लड़की किताब पढ़ती है।", ["लड़की", "किताब", "पढ़ती", "है", "।"]),
        ("ประเทศที่ สวย", ["ป", "ร", "ะ", "เ", "ท", "ศ", "ที่", "ส", "ว", "ย"]),
        ("Fu\u0308r dich!", ["fu\u0308r", "dich", "!"]),
        ("می\u200cروند", ["می\u200cروند"]),
        ("Don't stop-gap.", ["don't", "stop-gap", "."]),
    ],
)
def test_marks_belong_to_their_word(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    "text, found",
    [
        ("猫睡了10次。", ["猫", "睡", "了", "10", "次", "。"]),
        ("猫がﾊﾟﾝをABC-1", ["猫", "が", "ﾊﾟ", "ﾝ", "を", "abc-1"]),
        ("น้ำ ๑๒", ["น้ำ", "๑๒"]),
        ("ຂ້ອຍ", ["ຂ້", "ອ", "ຍ"]),
        ("ဗမာစာ", ["ဗ", "မာ", "စာ"]),
        ("ឆ្មា", ["ឆ្", "មា"]),
        ("고양이가 잔다", ["고양이가", "잔다"]),
    ],
)
def test_without_blanks_between_words_characters_are_words(text, found):
    assert words(text) == found


def test_the_null_of_a_chinese_suite_is_one_of_characters():
    "A space that is nothing but counts of characters is no grammar."
    pairs = {"a1": "了过", "a2": "了着", "b1": "们的", "b2": "们地", "c1": "把被", "c2": "把给"}
    tasks = [
        Task(name, [MinimalPair(f"他{n}{good}人", f"他{n}{bad}人") for n in "见看听说"], phenomenon=name[0])
        for name, (good, bad) in pairs.items()
    ]
    suite = Suite("signs", tasks)
    found = opponents(suite)
    assert {"lexicon", "1-grams", "2-grams"} <= set(found)
    assert np.allclose(found["1-grams"].matrix, opponents(suite, tokens=list)["1-grams of tokens"].matrix)


def test_a_sentence_is_cut_once():
    "A report asks for the same sentences again and again; what it gets is its own."
    words("The same sentence.").clear()
    before = sentence_similarity._words.cache_info().misses
    assert words("The same sentence.") == ["the", "same", "sentence", "."]
    assert sentence_similarity._words.cache_info().misses == before


def test_a_difference_is_as_sure_as_its_less_sure_operand():
    sure, unsure = noisy(100), noisy(5, seed=1)
    one, other = sure - unsure, unsure - sure
    assert np.allclose(one.high - one.low, other.high - other.low, rtol=1e-9)
    assert one.resampled_pairs() == 5 and (one.high - one.low).mean(axis=None) > (unsure.high - unsure.low).mean(
        axis=None
    )
    with pytest.raises(TaskspaceError, match="a DataFrame; give a TaskSpace or a number"):
        sure - sure.matrix


def test_labels_may_be_numbers_and_survive_a_file(tmp_path):
    space = TaskSpace(pd.DataFrame(np.eye(4)), groups={0: 0, 1: 0, 2: True, 3: None})
    assert space.groups == {"0": "0", "1": "0", "2": "True", "3": None}
    space.save(tmp_path / "space.npz")
    assert TaskSpace.load(tmp_path / "space.npz").groups == space.groups


def test_two_tasks_have_nothing_beyond_what_each_gives_and_takes():
    with pytest.raises(TaskspaceError, match="give three or more"):
        space_of(np.ones((2, 2))).centred()


def test_rounding_of_a_symmetric_space_is_no_imbalance():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(50, 8, 8))
    drawn = drawn + drawn.swapaxes(1, 2)
    table = space_of(drawn.mean(0), replicates=drawn).asymmetry()
    assert (table["balance"] == 0).all() and table["p"].isna().all()


def test_without_replicates_a_change_has_no_bounds():
    found = change_point(np.random.default_rng(0).normal(size=(4, 5, 5)))
    assert np.isnan([found["low"], found["high"], found["p"]]).all() and found["largest"] > 0


def test_one_group_of_two_gives_no_interval_over_tasks():
    "Without either of its tasks there is no cell within a group left."
    labels = dict.fromkeys("abcdef") | {"a": "pair", "b": "pair"} | {t: t for t in "cdef"}
    test = space_of(np.random.default_rng(0).normal(size=(6, 6)), groups=labels).within_across(permutations=0)
    assert np.isfinite(test.statistic) and np.isnan(test.low) and np.isnan(test.high)


def test_tasks_without_a_group_are_no_group():
    labels = {t: g for t, g in zip("abcdefghi", ["x"] * 3 + ["y"] * 3 + [None] * 3, strict=True)}
    space = space_of(np.random.default_rng(0).normal(size=(9, 9)), groups=labels)
    assert "groups" not in level_intervals(space, mean_cell, bounds=None).index


def test_an_opposition_score_is_as_sure_as_the_cell_that_it_is():
    space = noisy(5, tasks=2)
    own = np.eye(2, dtype=bool)
    cosine, drawn = (
        np.where(own, 1, (a + a.swapaxes(-1, -2)) / 20) for a in (space.matrix.to_numpy(), space.replicates)
    )
    made = space_of(cosine, space.tasks, replicates=drawn, meta=space.meta) + 0
    (score,) = opposition_scores(made, [tuple(space.tasks)]).itertuples()
    assert (score.low, score.high) == pytest.approx((made.low.iloc[0, 1], made.high.iloc[0, 1]))


def test_trainings_on_the_same_pairs_share_their_noise():
    space = noisy(30)
    alone = level_error_over_pairs([space], mean_cell, None)
    assert level_error_over_pairs([space] * 5, mean_cell, None).error == pytest.approx(alone.error)
    others = [noisy(30, seed=k) for k in range(5)]
    assert level_error_over_pairs(others, mean_cell, None).error < 0.75 * alone.error
    assert level_error_over_pairs([space, space], mean_cell, None, [1, -1]).error == pytest.approx(0, abs=1e-12)


def test_a_slope_between_two_sizes_has_the_interval_of_welch():
    rng, groups = np.random.default_rng(0), dict(zip("abcdefgh", "xxxxyyyy", strict=True))

    def training(signal):
        inside = np.equal.outer(*[np.array(list(groups.values()))] * 2)
        return space_of(rng.normal(size=(8, 8)) + signal * inside, groups=groups)

    trainings = {"small": [training(s) for s in (0.2, 0.3, 0.2)], "large": [training(s) for s in (0, 1, 2, 3)]}
    found = claim_c(trainings, {"small": 1e5, "large": 1e6}).levels.loc["trainings"]
    aucs = [[s.within_across(permutations=0, interval=None).statistic for s in v] for v in trainings.values()]
    wanted = stats.ttest_ind(aucs[1], aucs[0], equal_var=False).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted)) and found["units"] == 7


def test_a_figure_that_nothing_moves_has_no_bounds_at_any_level():
    "An AUC of 1 may stay 1 without any task and in all replicates, which says nothing about its precision."
    names, labels = [f"task {i}" for i in range(12)], np.arange(12) % 3
    groups = {n: str(g) for n, g in zip(names, labels, strict=True)}
    apart = (labels[:, None] == labels) + np.linspace(0, 0.1, 144).reshape(12, 12)
    draws = apart + 0.001 * np.random.default_rng(0).normal(size=(50, 12, 12))
    space = TaskSpace(pd.DataFrame(apart, names, names), "perfect", groups, replicates=draws, meta={"pairs": 20})

    def auc(matrix, keep):
        return float(auc_of(cells(matrix), cells(labels[keep][:, None] == labels[keep]) > 0))

    table = level_intervals(space, auc, bounds=(0, 1))
    assert list(table.index) == ["pairs", "tasks", "groups"] and (table["estimate"] == 1).all()
    assert table[["low", "high"]].isna().all(axis=None)
    for over in ("pairs", "tasks"):
        test = space.within_across(interval=over)
        assert test.statistic == 1 and np.isnan([test.low, test.high]).all()
    for bounds, value in ((None, 0.1), (None, 1e-9), ((0, 1), 0.1)):
        error = jackknife_error(np.full(7, value), bounds)
        assert np.isnan(stretched_interval(value, error, 6, bounds)).all()  # no spread but for rounding


def test_one_interval_serves_all_levels():
    "With bounds the interval is Student's of Fisher's z; without it is Student's, or the normal curve's."
    half = stats.t.ppf(0.975, 7) * 0.3
    low, high = stretched_interval(0.6, 0.3, 7, (0, 1))
    assert np.allclose(np.arctanh(2 * np.array([low, high]) - 1), np.arctanh(0.2) + np.array([-half, half]))
    assert np.allclose(stretched_interval(2.0, 0.3, 7, None), [2 - half, 2 + half])
    normal = stats.norm.ppf(0.975) * 0.3
    for freedom in (0, -1, np.inf):
        assert np.allclose(stretched_interval(2.0, 0.3, freedom, None), [2 - normal, 2 + normal])
    left = np.array([1e-13, 2e-13, 4e-13])  # small, but it differs
    assert np.isfinite(left_out_interval(2e-13, left, bounds=None)).all()
    assert stretched_interval(1.0, 0.3, 7, (0, 1))[1] == 1.0  # clipped, but it holds the estimate


def test_cells_that_are_no_numbers_are_refused_and_missing_ones_are_missing():
    names = ["a", "b"]
    with pytest.raises(TaskspaceError, match="'matrix' holds what is no number"):
        TaskSpace(pd.DataFrame([["x", 1], [2, 3]], names, names))
    with pytest.raises(TaskspaceError, match="'low' holds what is no number"):
        space_of(np.eye(2), low=pd.DataFrame([["x", 1], [2, 3]], names, names))
    cells = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([1, 2], dtype="Int64")}, names)
    assert TaskSpace(cells).matrix.isna().to_numpy().tolist() == [[False, False], [True, False]]
    half = pd.Index(["a\ud800", "b"], dtype=object)
    with pytest.raises(TaskspaceError, match="holds half a character"):
        TaskSpace(pd.DataFrame(np.eye(2), half, half))


def test_a_space_without_draws_or_tasks_is_saved(tmp_path):
    none = space_of(np.eye(3), replicates=np.zeros((0, 3, 3)))
    assert none.replicates is None
    for space in (none, noisy(5).select([])):
        assert TaskSpace.load(space.save(tmp_path / "space.parquet")).tasks == space.tasks
    empty = noisy(5).select([])
    assert empty.complete().tasks == empty.average({}).tasks == []


def test_what_is_no_map_of_the_tasks_is_refused():
    space = noisy(5)
    whole = space.embed()
    for onto, message in (
        (space.select(space.tasks[:-1]).embed(), "the map lacks task 'f'"),
        (whole.to_numpy(), "onto: must be a map"),
        (whole[["x"]], "onto: must be a map"),
        (whole.assign(x=np.nan), "missing or no numbers"),
        (whole.astype(object).assign(x="left"), "missing or no numbers"),
    ):
        with pytest.raises(TaskspaceError, match=message):
            space.embed(onto=onto)
    assert np.allclose(space.embed(onto=whole), whole)
