"""The figures that the page Which probe to believe shows, computed again from its extract."""

import json
import re

import pandas as pd
import pytest

from taskspace.probing.needs import load_need
from taskspace.report.templates import template
from taskspace.spaces.method_agreement import aligned_methods, over_trainings
from taskspace.spaces.space import TaskSpace
from taskspace.tasks.grammar import builtin_suite

FOLDER = template("which_probe").parent / "which_probe"
SCALES = [s for s in ("nano", "micro", "mini") if (FOLDER / f"needs_{s}.parquet").exists()]


@pytest.fixture(scope="module")
def needs():
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 2_000_000
    return {s: load_need(FOLDER / f"needs_{s}.parquet", builtin_suite(2)) for s in SCALES}


@pytest.fixture(scope="module")
def said():
    "What the cells of the page say, as text."
    cells = json.loads(template("which_probe").read_text(encoding="utf-8"))["cells"]
    data = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    return " ".join(" ".join("".join(d.get(k, "")) for k in ("text/markdown", "text/html")) for d in data)


def other_losses(need, table):
    "What tasks lose without rules that they do not name: a row a task and rule, a column a training."
    scores = need.scores.set_index(["task", "without", "training"])["accuracy"].unstack()
    rows = [(task, rule) for task, rule, named in table[["task", "without", "named"]].to_numpy() if not named]
    return pd.DataFrame(
        [scores.loc[(task, "everything")] - scores.loc[(task, rule)] for task, rule in rows], index=rows
    )


@pytest.mark.parametrize("scale", SCALES)
def test_exactly_the_tasks_that_depend_on_a_rule_fail_without_it(needs, scale):
    "All rules of the extract, in every training, by accuracy and by margin."
    need = needs[scale]
    assert need.scores["training"].nunique() >= 2
    assert need.auc().mean().min() >= 0.95 and need.auc("margin").mean().min() >= 0.95  # nano: .993 and 1.0
    table = need.table().query("whole > 0.75")
    assert other_losses(need, table).min(axis=1).max() <= 0.05  # in both trainings: .00, .00 and .01
    lost = table[table["named"]].groupby("without")["need"].max()
    assert lost.min() > 0.3  # every rule that is learned is lost by some task


def test_the_page_says_what_the_extract_holds(needs, said):
    low = min(n.auc(by).mean().min() for n in needs.values() for by in ("accuracy", "margin"))
    assert f"the AUC is at least **{low:.3f}**" in said
    others = [t[~t["named"]]["need"].abs().max() for t in (n.table().query("whole > 0.75") for n in needs.values())]
    plain = " ".join(said.split())
    assert f"loses at most {max(others):.2f} in the mean" in plain
    repeated = [other_losses(n, n.table().query("whole > 0.75")).min(axis=1).max() for n in needs.values()]
    assert f"at most {max(repeated):.2f} in every training" in plain
    for scale, need in needs.items():
        rules = len(need.named)
        assert (
            f"`builtin:{scale}` with {need.scores['training'].nunique()} trainings" in said and f"{rules} rules" in said
        )


@pytest.mark.parametrize("scale", SCALES)
def test_figures_of_the_probes(needs, said, scale):
    need, suite = needs[scale], builtin_suite(2)
    table = need.table().query("whole > 0.75")
    learned = list(dict.fromkeys(table["task"]))
    spaces = {"data need": need.space().select(learned)}
    for kind, rows in pd.read_parquet(FOLDER / f"spaces_{scale}.parquet").groupby("kind"):
        each = [g.pivot(index="source", columns="target", values="value") for _, g in rows.groupby("training")]
        spaces[kind] = over_trainings([TaskSpace(m.loc[learned, learned], kind) for m in each])
    fell = [t for t in learned if (table.loc[table["task"] == t, "need"] > 0.05).any()]
    rule = {t.name: t.rules[0] for t in suite}
    found = {k: s.select(fell).within_across(rule, interval=None).statistic for k, s in aligned_methods(spaces).items()}
    plain = re.sub(r"\s+", " ", said)
    title = "AUC" if len(SCALES) == 1 else f"AUC, {scale}"
    (table,) = (t for t in re.findall(r"<table.*?</table>", plain) if f"<th>{title}</th>" in t)
    names, *rows = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r) for r in re.findall(r"<tr.*?</tr>", table))
    shown = {row[0]: row[names.index(title)] for row in rows}
    assert {kind: shown[kind] for kind in found} == {kind: f"{auc:.2f}" for kind, auc in found.items()}
