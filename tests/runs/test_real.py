"""The study of a real model: what its page quotes follows from its extract."""

import json
from pathlib import Path

import numpy as np
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
