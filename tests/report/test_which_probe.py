"""The figures that the page Which probe to believe quotes, computed again from its extract."""

import pandas as pd
import pytest

from taskspace.probing.needs import DataNeed, named_needs, need_auc
from taskspace.report.templates import template
from taskspace.spaces.hypotheses import opponents
from taskspace.spaces.method_agreement import aligned_methods, over_trainings, predictors
from taskspace.spaces.space import TaskSpace
from taskspace.tasks.grammar import builtin_suite

OWN = ["wh_gap", "tough", "ellipsis", "participle", "polarity", "strength"]  # shown by their constructions alone


@pytest.fixture(scope="module")
def extract():
    folder = template("which_probe").parent / "which_probe"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 1_000_000
    return [pd.read_parquet(folder / f"{name}.parquet") for name in ("needs", "spaces")]


@pytest.fixture(scope="module")
def page():
    text = template("which_probe").read_text(encoding="utf-8")
    return " ".join(text.split())


def test_exactly_the_tasks_that_name_a_rule_fail_without_it(extract, page):
    "Removing a rule that only its constructions show lowers its tasks in every training, and no rule harms another."
    scores, suite = extract[0], builtin_suite(2)
    auc = need_auc(scores[scores["without"].isin([*OWN, "everything"])], named_needs(suite, OWN))
    assert auc.shape == (14, 2) and auc.mean().min() >= 0.95  # 1.0 in both trainings
    rules = [c for c in dict.fromkeys(scores["without"]) if c != "everything"]
    table = DataNeed(scores, named_needs(suite, rules)).table().query("whole > 0.75")
    others = table[~table["named"]]
    assert others["need"].abs().max() == pytest.approx(0.01) and len(others) == 234
    assert "more than .01 without a rule that it does not name (234 cells)" in page and "AUC 1.00" in page


def test_figures_of_the_probes(extract, page):
    scores, measured = extract
    suite = builtin_suite(80)
    rules = [c for c in dict.fromkeys(scores["without"]) if c != "everything"]
    need = DataNeed(scores, named_needs(suite, rules), suite.groups())
    table = need.table().query("whole > 0.75")
    learned = list(dict.fromkeys(table["task"]))
    spaces = {"data need": need.space().select(learned)}
    for kind, rows in measured.groupby("kind"):
        each = [g.pivot(index="source", columns="target", values="value") for _, g in rows.groupby("training")]
        spaces[kind] = over_trainings([TaskSpace(m.loc[learned, learned], kind) for m in each])
    fell = [t for t in learned if (table.loc[table["task"] == t, "need"] > 0.05).any()]
    rule = {t.name: t.rules[0] for t in suite}
    found = {k: s.select(fell).within_across(rule, interval=None).statistic for k, s in aligned_methods(spaces).items()}
    assert len(fell) == 14 and [round(found[k], 2) for k in ("ablation", "unit overlap")] == [0.57, 0.98]
    assert {found[k] for k in ("gradient cosine", "gradient overlap", "predicted", "transfer")} == {1.0}
    words = {name: s for name, s in opponents(suite.select(learned)).items() if name != "phenomenon"}
    first = predictors(spaces, words).query("cause == 'data need'").iloc[0]
    assert first["method"] == "gradient overlap" and round(first["partial"], 2) == 0.16 and first["low"] < 0
    for quoted in ("comes close (.98)", "does not: .57", "by .16"):
        assert quoted in page
