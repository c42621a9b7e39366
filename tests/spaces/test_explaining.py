"""What explains a space: the intervals over groups are those of leaving out groups, and it stays quick."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from taskspace.errors import TaskspaceError
from taskspace.report.evidence import explanation_course
from taskspace.runs.extract import explained_rows
from taskspace.spaces.explaining import explain_course, explain_space
from taskspace.spaces.resampling import left_out_interval
from taskspace.spaces.space import TaskSpace


def planted(n, count, seed=0, hypotheses=2):
    "A space of `count` groups that follows them and words, with its hypotheses."
    rng = np.random.default_rng(seed)
    names = [f"t{i}" for i in range(n)]
    groups = {t: f"g{i % count}" for i, t in enumerate(names)}
    same = (np.arange(n)[:, None] % count == np.arange(n) % count).astype(float)
    words = [np.corrcoef(rng.normal(size=(n, 6)) + np.eye(6)[np.arange(n) % 6]) for _ in range(hypotheses - 1)]

    def space(cells, kind):
        return TaskSpace(pd.DataFrame(cells, names, names), kind, groups)

    found = space(same + words[0] + 0.5 * rng.normal(size=(n, n)), "planted")
    of_words = {f"{k}-grams": space(w, "words") for k, w in enumerate(words, 1)}
    return found, {"phenomenon": space(same, "phenomenon"), **of_words}


def test_intervals_over_groups_leave_out_groups():
    space, hypotheses = planted(20, 5)
    found = explain_space(space, hypotheses, permutations=0)
    shares = {name: [] for name in found.parts.index}
    for group in dict.fromkeys(space.groups.values()):
        rest = [t for t in space.tasks if space.groups[t] != group]
        cut = {n: h.select(rest) for n, h in hypotheses.items()}
        for name, value in explain_space(space.select(rest), cut, permutations=0).parts["share"].items():
            shares[name].append(value)
    for name, left in shares.items():
        row = found.over_groups.loc[("part", name)]
        bounds = left_out_interval(found.parts.loc[name, "share"], np.array(left))
        assert (row["low"], row["high"]) == pytest.approx(bounds, rel=1e-9)
        assert row["low"] <= row["value"] <= row["high"] and row["units"] == 5


def test_without_three_groups_there_is_no_interval_over_groups():
    space, hypotheses = planted(12, 2)
    assert explain_space(space, hypotheses, permutations=0).over_groups is None
    bare = TaskSpace(space.matrix, "planted")
    assert explain_space(bare, hypotheses, permutations=0).over_groups is None
    each = TaskSpace(space.matrix, "planted", {t: t for t in space.tasks})
    assert explain_space(each, hypotheses, permutations=0).over_groups is None


def test_five_spaces_of_67_tasks_take_seconds():
    space, hypotheses = planted(67, 13, hypotheses=5)
    start = time.process_time()
    explain_space(space, hypotheses, permutations=999)
    assert time.process_time() - start < 5  # measured: 1.3 s of one core


def test_hypotheses_that_say_the_same_share_what_they_explain():
    "The n-grams stay in the parts: what they explain as well as phenomena is not grammar."
    space, hypotheses = planted(20, 5)
    wanted = explain_space(space, hypotheses, permutations=19)
    mean = replace(hypotheses["1-grams"], matrix=(hypotheses["phenomenon"].matrix + hypotheses["1-grams"].matrix) / 2)
    found = explain_space(space, {**hypotheses, "2-grams": mean}, permutations=19)
    assert found.collinear == {
        "phenomenon": "follows from 1-grams and 2-grams",
        "1-grams": "follows from phenomenon and 2-grams",
        "2-grams": "follows from phenomenon and 1-grams",
    }
    assert found.parts["share"].sum() == pytest.approx(1) and found.p == wanted.p
    assert found.explained == pytest.approx(wanted.explained)
    assert found.parts.loc["only grammar", "share"] == pytest.approx(0, abs=1e-12)
    assert found.parts.loc["only words", "share"] == pytest.approx(
        wanted.explained - found.parts.loc["shared", "share"]
    )
    assert found.table[["partial", "p"]].isna().all(axis=None) and list(found.table.index) == [*hypotheses, "2-grams"]
    assert found.note in found._repr_html_() and "2-grams: follows from" in found.note


def test_what_can_be_told_apart_keeps_its_figures():
    space, hypotheses = planted(20, 5, hypotheses=3)
    wanted = explain_space(space, hypotheses, permutations=19)
    assert not wanted.collinear and not wanted.note
    again = replace(hypotheses["2-grams"], matrix=1 + 2 * hypotheses["2-grams"].matrix)
    even = replace(again, matrix=0 * again.matrix)
    found = explain_space(space, {**hypotheses, "3-grams": again, "field": even}, permutations=19)
    assert set(found.collinear) == {"2-grams", "3-grams", "field"} and np.isnan(found.table.loc["field", "correlation"])
    for column in wanted.table.columns.drop("family"):
        for name in ("phenomenon", "1-grams"):
            assert found.table.loc[name, column] == pytest.approx(wanted.table.loc[name, column])
    for column in ("share", "low", "high"):
        assert found.parts[column].to_dict() == pytest.approx(wanted.parts[column].to_dict())
    found.chart().to_dict()
    course = explain_course({1: space, 2: space}, {**hypotheses, "3-grams": again}, permutations=0)
    explanation_course(course, "partial").to_dict()


def test_without_any_difference_nothing_can_be_explained():
    space, hypotheses = planted(20, 5)
    even = {n: replace(h, matrix=0 * h.matrix) for n, h in hypotheses.items()}
    with pytest.raises(TaskspaceError, match="all off-diagonal cells of 'phenomenon' are equal"):
        explain_space(space, even, permutations=0)


def test_rows_of_an_extract_say_why_figures_are_missing():
    space, hypotheses = planted(20, 5)
    twice = {**hypotheses, "2-grams": hypotheses["1-grams"]}
    rows = explained_rows(space, twice, permutations=0)
    why = rows[rows["what"] == "partial"].set_index("of")["why"].to_dict()
    assert why == {"phenomenon": "", "1-grams": "follows from 2-grams", "2-grams": "follows from 1-grams"}
    (row,) = explained_rows(space.select(space.tasks[:4]), hypotheses).itertuples()
    assert row.what == "nothing" and "4 tasks" in row.why and np.isnan(row.value)
