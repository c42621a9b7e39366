"""The study of a real model: what its page quotes follows from its extract."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from taskspace import open_extract

STUDIES = Path(__file__).resolve().parents[2] / "nbs" / "studies"


@pytest.fixture(scope="module")
def kept():
    return open_extract(STUDIES / "real" / "smollm2")


@pytest.fixture(scope="module")
def page():
    "All that the page says and shows, as one text."
    notebook = json.loads((STUDIES / "real_models.ipynb").read_text(encoding="utf-8"))
    outputs = [o.get("data", {}) for c in notebook["cells"] for o in c.get("outputs", [])]
    return "\n".join("".join(d.get("text/plain", "")) + "".join(d.get("text/markdown", "")) for d in outputs)


def cells(space):
    return space.matrix.to_numpy()[np.triu_indices(len(space), 1)]


def test_accuracy_is_that_of_the_pairs(kept, page):
    accuracy = kept.table("accuracy")["accuracy"]
    assert len(accuracy) == 67 and f"{accuracy.mean():.1%} (" in page


def test_bigrams_go_with_the_cosine_and_not_with_the_overlap(kept, page):
    found = {
        kind: np.corrcoef(cells(kept.space("smollm2", kind=kind)), cells(kept.hypotheses()["2-grams"]))[0, 1]
        for kind in ("cosine", "overlap")
    }
    assert found["cosine"] > 0.3 > 0.1 > found["overlap"]
    assert all(f" {value:.2f} " in page for value in found.values())


def test_the_overlap_goes_with_that_of_a_small_model(kept, page):
    small = open_extract(STUDIES / "english" / "blimp").space("large", kind="overlap")
    mine = kept.space("smollm2", kind="overlap")
    rank = spearmanr(cells(mine), cells(small.select(mine.tasks))).statistic
    assert f"{rank:.2f} (" in page


def test_tasks_of_a_phenomenon_share_parameters(kept):
    "By another program than the page's: how often a cell within phenomena is above one across."
    space = kept.space("smollm2", kind="overlap")
    labels = np.array([space.groups[t] for t in space.tasks])
    same = (labels[:, None] == labels[None])[np.triu_indices(len(labels), 1)]
    values = cells(space)
    above = (values[same][:, None] > values[~same][None]).mean() + (
        values[same][:, None] == values[~same][None]
    ).mean() / 2
    assert above == pytest.approx(space.within_across(permutations=0, interval=None).statistic, abs=1e-9)
    assert above > 0.8


def test_the_extract_is_small():
    assert sum(p.stat().st_size for p in (STUDIES / "real").rglob("*.*")) < 2e6


@pytest.fixture(scope="module")
def units():
    return open_extract(STUDIES / "real" / "smollm2_units")


def test_units_are_shared_beyond_chance_and_stand_out_by_phenomenon_no_more_than_it(units, page):
    kinds = ("unit_overlap", "unit_chance_in_layers", "unit_shuffled")
    found = {kind: units.space("smollm2", kind=kind) for kind in kinds}
    means = {kind: cells(s).mean() for kind, s in found.items()}
    assert means["unit_overlap"] > 2 * max(means["unit_chance_in_layers"], means["unit_shuffled"])
    for kind, space in found.items():
        assert (
            f"{means[kind]:.1%}" in page
            and f"{space.within_across(permutations=0, interval=None).statistic:.2f} (" in page
        )


def test_what_a_task_loses_without_units(units, page):
    lost = {c: -units.space("smollm2", kind="ablation", control=c).matrix.to_numpy() for c in ("none", "random")}
    own, random = (np.diag(matrix).mean() for matrix in lost.values())
    others = lost["none"][~np.eye(67, dtype=bool)].mean()
    assert f"loses {own:.2f} nats of margin in the mean, without random ones {random:.2f}." in page
    assert f"Other tasks lose {others:.2f} with it." in page and f"It loses {own - random:+.2f} nats" in page


def test_shared_units_are_those_of_other_models(page):
    kept = pd.read_parquet(STUDIES / "real" / "units_agreement.parquet").set_index(["method", "with"])
    rank = kept["rank"].xs("unit overlap")
    assert (
        len(rank) == 8
        and rank.min() > 0.25
        and f"{rank['mean']:.2f} ({kept.rank_low['unit overlap', 'mean']:.2f}" in page
    )
