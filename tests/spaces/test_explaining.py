"""What explains a space: the intervals over groups are those of leaving out groups, and it stays quick."""

import time

import numpy as np
import pandas as pd
import pytest

from taskspace.spaces.explaining import explain_space
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
