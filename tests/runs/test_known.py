"""The page What is known: its tables are those of the kept results, and no verdict says more than its interval."""

import re
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from keptpages import auc, outputs_of, STUDIES
from taskspace import open_extract

LINES = {"AUC of": 0.5, "AUC by": 0.5, "share of one stretch": 0.4, "line of .9": 0.9}  # what is no finding; else 0


def kept_rows() -> list[dict[str, str]]:
    "The rows of all tables of the page, as they are saved in it."
    found = []
    for table in ("".join(o.get("text/markdown", [])) for o in outputs_of("known.ipynb")):
        names, _, *rows = (line.strip("| ").split(" | ") for line in table.splitlines())
        found += [dict(zip(names, row, strict=True)) for row in rows]
    return found


def bounds(row: dict[str, str]) -> tuple[float, float]:
    if "(the same without any task)" in row["estimate (interval)"]:
        return estimate(row), estimate(row)
    low, high = re.search(r"\(([-\d.]+) to ([-\d.]+)\)", row["estimate (interval)"]).groups()
    return float(low), float(high)


def estimate(row: dict[str, str]) -> float:
    return float(row["estimate (interval)"].split()[0])


def the_row(start: str, figure: str = "") -> dict[str, str]:
    (row,) = (r for r in kept_rows() if r["finding"].startswith(start) and figure in r["figure"])
    return row


def test_a_verdict_says_no_more_than_its_interval():
    rows = kept_rows()
    assert len(rows) == 48
    for row in rows:
        low, high = bounds(row)
        assert low <= estimate(row) <= high and row["over"] and row["study"], row
        assert row["verdict"] in ("holds", "does not hold", "open")
        line = next((value for text, value in LINES.items() if text in row["figure"]), 0.0)
        above, below = "holds", "does not hold"
        if row["finding"].startswith(("(e)", "NPI")):  # these say that the figure is small
            above, below = below, above
        verdict = above if low > line else below if high < line else "open"
        null = re.search(r"shuffled pairs [\d.]+, at the upper bound ([\d.]+)", row["figure"])
        if low > line and ("at most" in row["figure"] or (null and low <= float(null[1]))):
            verdict = "open"  # that something is there at all cannot be seen from these
        assert row["verdict"] == verdict, row


@pytest.mark.parametrize("within, start", [(True, "training is stable"), (False, "the same between")])
def test_agreement_of_trainings_is_that_of_the_spaces_kept(within, start):
    extract = open_extract(STUDIES / "english" / "trainings")
    spaces = [extract.space("middle", kind="cosine", training=n) for n in (1, 2, 3)]
    tasks, groups = spaces[0].tasks, spaces[0].groups
    cells = [(a, b) for a in tasks for b in tasks if a != b and (groups[a] == groups[b]) == within]
    columns = [[s.matrix.loc[a, b] for a, b in cells] for s in spaces]
    ranks = [spearmanr(x, y).statistic for x, y in combinations(columns, 2)]
    row = the_row(start)
    assert estimate(row) == pytest.approx(sum(ranks) / 3, abs=6e-4)
    assert bounds(row) == pytest.approx((min(ranks), max(ranks)), abs=6e-4)


def test_claims_are_those_of_the_extract():
    claims = open_extract(STUDIES / "english" / "trainings").table("claims").set_index("claim")
    for letter, figure in (("a", "harm"), ("b", "variance"), ("c", "slope")):
        row = next(r for r in kept_rows() if r["finding"].startswith(f"({letter})") and figure in r["figure"])
        assert estimate(row) == pytest.approx(claims.loc[letter, "estimate"], abs=6e-4)
        assert bounds(row) == pytest.approx(tuple(claims.loc[letter, ["low", "high"]]), abs=6e-4)


def test_every_row_leads_to_a_page_and_to_data_that_are_there():
    for row in kept_rows():
        (page, data) = re.findall(r"\]\(([^)]*)\)", row["study"])
        assert (STUDIES / page).is_file() and (STUDIES / data.split("/nbs/studies/")[1]).exists()


@pytest.mark.parametrize("model, name", [("smollm2", "SmolLM2"), ("gemma3", "Gemma 3")])
def test_what_the_overlap_of_a_real_model_keeps_given_words(model, name):
    rows = open_extract(STUDIES / "real" / model).table("explained")
    rows = rows[(rows.kind == "overlap") & (rows.what == "partial") & (rows.of == "phenomenon")]
    row = the_row("(b) the same in a real model", name)
    assert estimate(row) == pytest.approx(rows.value.item(), abs=6e-4)
    assert bounds(row) == pytest.approx((rows.groups_low.item(), rows.groups_high.item()), abs=6e-4)


@pytest.mark.parametrize("start, beyond", [("tasks of a phenomenon share units, in", 0), ("the same beyond chance", 2)])
def test_shared_units_are_those_of_the_extract(start, beyond):
    "By regression of ranks, where the page takes partial correlations."
    units, smollm2 = (open_extract(STUDIES / "real" / name) for name in ("smollm2_units", "smollm2"))
    own, known = units.space("smollm2", kind="unit_overlap"), smollm2.hypotheses()
    tasks = own.tasks
    chance = [units.space("smollm2", kind=k) for k in ("unit_chance_in_layers", "unit_shuffled")][:beyond]
    taken = [s for name, s in known.items() if name.endswith("-grams")] + chance
    upper = np.triu_indices(len(tasks), 1)
    ranks = [rankdata(s.matrix.loc[tasks, tasks].to_numpy()[upper]) for s in (own, known["phenomenon"], *taken)]
    rest = np.stack([np.ones(len(ranks[0])), *ranks[2:]], 1)
    mine, theirs = (r - rest @ np.linalg.lstsq(rest, r, rcond=None)[0] for r in ranks[:2])
    assert estimate(the_row(start)) == pytest.approx(np.corrcoef(mine, theirs)[0, 1], abs=6e-4)


def test_what_a_task_loses_without_its_units():
    units = open_extract(STUDIES / "real" / "smollm2_units")
    own, random = (np.diag(units.space("smollm2", kind="ablation", control=c).matrix) for c in ("none", "random"))
    assert estimate(the_row("a task needs its units")) == pytest.approx((random - own).mean(), abs=6e-4)


@pytest.mark.parametrize("model, name", [("smollm2", "SmolLM2"), ("gemma3", "Gemma 3")])
def test_prediction_and_transfer_of_a_real_model(model, name):
    "By Spearman's formula over all cells with direction."
    tuned = open_extract(STUDIES / "real" / f"{model}_transfer")
    both = [tuned.space(model, kind=k) for k in ("transfer", "predicted")]
    away = ~np.eye(67, dtype=bool)
    columns = [s.matrix.loc[both[0].tasks, both[0].tasks].to_numpy()[away] for s in both]
    row = the_row("tuning follows the gradients", name)
    assert estimate(row) == pytest.approx(spearmanr(*columns).statistic, abs=6e-4)


@pytest.mark.parametrize("model, name", [("smollm2", "SmolLM2"), ("gemma3", "Gemma 3")])
def test_what_pairs_without_contrast_show_of_a_phenomenon(model, name):
    "By counting: how often the size of a cell of two NPI tasks is above that of an NPI task and another."
    space = open_extract(STUDIES / "real" / f"{model}_shuffled").space(model, kind="cosine")
    groups = np.array([space.groups[t] for t in space.tasks])
    upper, size = np.triu_indices(len(groups), 1), np.abs(space.matrix.to_numpy())
    first, second = (groups[k] == "npi_licensing" for k in upper)
    touched = first | second
    found = auc(size[upper][touched], (first & second)[touched])
    assert f"shuffled pairs {found:.3f}," in the_row("NPI", f"NPI cells of {name} without their sign, cosine")["figure"]
