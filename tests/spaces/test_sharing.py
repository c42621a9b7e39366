"""Sharing: intervals over tasks cover where nothing is shared, and missing cells stay missing."""

import numpy as np
import pandas as pd
import pytest

from taskspace.spaces.sharing import FIGURES, sharing_table
from taskspace.spaces.space import TaskSpace


def drawn(seed, tasks=12, size=4000, kept=400):
    "Overlap and chance of random subspaces, in three groups that mean nothing."
    rng = np.random.default_rng(seed)
    names = [f"task {i}" for i in range(tasks)]
    member = np.array([np.isin(np.arange(size), rng.choice(size, kept, replace=False)) for _ in names], float)
    shared, expected = member @ member.T, np.full((tasks, tasks), kept**2 / size)
    groups = {name: f"group {i % 3}" for i, name in enumerate(names)}
    return [TaskSpace(pd.DataFrame(s / (2 * kept - s), names, names), "overlap", groups) for s in (shared, expected)]


@pytest.mark.slow
def test_intervals_cover_where_groups_share_nothing_more():
    held = np.zeros((100, len(FIGURES)))
    for seed in range(100):
        table = sharing_table(*drawn(seed)).xs("tasks", level="level").loc[list(FIGURES)]
        held[seed] = (table["low"] <= [0, 1, 1, 0.5]) & (table["high"] >= [0, 1, 1, 0.5])
        assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()
    assert (held.mean(0) >= 0.93).all()  # measured: 1.0 of each


def test_tasks_without_a_group_are_left_out_and_no_overlap_across_has_no_ratio():
    overlap, chance = drawn(0)
    overlap.groups["task 0"] = None
    assert (sharing_table(overlap, chance).xs("tasks", level="level")["units"] == 11).all()
    names = overlap.tasks
    same = np.equal.outer(np.arange(12) % 3, np.arange(12) % 3)
    apart = TaskSpace(pd.DataFrame(same * 0.1, names, names), "overlap", drawn(0)[0].groups)
    table = sharing_table(apart)
    assert "odds" not in table.index.get_level_values("figure") and np.isnan(table.loc["ratio", "estimate"]).all()
