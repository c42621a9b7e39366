"""The studies of real models: what their pages quote follows from their extracts."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from keptpages import auc, shown, STUDIES
from taskspace import open_extract
from taskspace.runs.study import read_study


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def kept(request):
    return open_extract(STUDIES / "real" / request.param)


def space_of(kept, kind):
    return kept.space(kept.header["checkpoints"][0]["scale"], kind=kind)


@pytest.fixture(scope="module")
def page():
    return shown("real_models.ipynb")


@pytest.fixture(scope="module")
def second_page():
    return shown("units_and_tuning.ipynb")


def cells(space):
    return space.matrix.to_numpy()[np.triu_indices(len(space), 1)]


def test_accuracy_is_that_of_the_pairs(kept, page):
    accuracy = kept.table("accuracy")["accuracy"]
    assert len(accuracy) == 67 and f"{accuracy.mean():.1%} (" in page


def test_bigrams_go_with_the_cosine_and_not_with_the_overlap(kept, page):
    found = {
        kind: np.corrcoef(cells(space_of(kept, kind)), cells(kept.hypotheses()["2-grams"]))[0, 1]
        for kind in ("cosine", "overlap")
    }
    assert found["cosine"] > 0.3 > 0.15 > found["overlap"]
    assert all(f" {value:.2f} " in page for value in found.values())


def test_the_overlap_goes_with_that_of_a_small_model(kept, page):
    small = open_extract(STUDIES / "english" / "blimp").space("large", kind="overlap")
    mine = space_of(kept, "overlap")
    rank = spearmanr(cells(mine), cells(small.select(mine.tasks))).statistic
    assert f"{rank:.2f} (" in page


def test_tasks_of_a_phenomenon_share_parameters(kept):
    "By another program than the page's: how often a cell within phenomena is above one across."
    space = space_of(kept, "overlap")
    labels = np.array([space.groups[t] for t in space.tasks])
    same = (labels[:, None] == labels[None])[np.triu_indices(len(labels), 1)]
    values = cells(space)
    above = (values[same][:, None] > values[~same][None]).mean() + (
        values[same][:, None] == values[~same][None]
    ).mean() / 2
    assert above == pytest.approx(space.within_across(permutations=0, interval=None).statistic, abs=1e-9)
    assert above > 0.8


EXTRACTS = sorted(p.parent.name for p in (STUDIES / "real").glob("*/extract.json"))
SETTINGS = (
    "probes",
    "controls",
    "ftgd",
    "select",
    "score_pairs",
    "train_pairs",
    "eval_pairs",
    "seeds",
    "prefix",
    "units",
)


@pytest.mark.parametrize("name", EXTRACTS)
def test_an_extract_is_of_the_study_beside_it(name):
    ran, written = open_extract(STUDIES / "real" / name).study, read_study(STUDIES / "real" / f"{name}.yaml")
    assert {k: getattr(ran, k) for k in SETTINGS} == {k: getattr(written, k) for k in SETTINGS}
    assert ran.gradient_embeddings == written.gradient_embeddings


def test_extracts_are_small():
    assert len(EXTRACTS) >= 7 and sum(p.stat().st_size for p in (STUDIES / "real").rglob("*.*")) < 3e6


@pytest.fixture(scope="module")
def units():
    return open_extract(STUDIES / "real" / "smollm2_units")


def test_units_are_shared_beyond_chance_and_stand_out_by_phenomenon_no_more_than_it(units, second_page):
    kinds = ("unit_overlap", "unit_chance_in_layers", "unit_shuffled")
    found = {kind: units.space("smollm2", kind=kind) for kind in kinds}
    means = {kind: cells(s).mean() for kind, s in found.items()}
    assert means["unit_overlap"] > 2 * max(means["unit_chance_in_layers"], means["unit_shuffled"])
    for kind, space in found.items():
        assert (
            f"{means[kind]:.1%}" in second_page
            and f"{space.within_across(permutations=0, interval=None).statistic:.2f} (" in second_page
        )


def test_what_a_task_loses_without_units(units, second_page):
    lost = {c: -units.space("smollm2", kind="ablation", control=c).matrix.to_numpy() for c in ("none", "random")}
    own, random = (np.diag(matrix).mean() for matrix in lost.values())
    others = lost["none"][~np.eye(67, dtype=bool)].mean()
    assert f"loses {own:.2f} nats of margin in the mean, without random ones {random:.2f}." in second_page
    assert (
        f"Other tasks lose {others:.2f} with it." in second_page and f"It loses {own - random:+.2f} nats" in second_page
    )


def test_shared_units_are_those_of_other_models(second_page):
    kept = pd.read_parquet(STUDIES / "real" / "units_agreement.parquet").set_index(["method", "with"])
    rank = kept["rank"].xs("unit overlap")
    assert (
        len(rank) == 8
        and rank.min() > 0.25
        and f"{rank['mean']:.2f} ({kept.rank_low['unit overlap', 'mean']:.2f}" in second_page
    )


AWAY = ~np.eye(67, dtype=bool)


def transfers(model, kind="transfer", of="transfer"):
    "The cells of a kept space, rows and columns in the order of names."
    return (
        open_extract(STUDIES / "real" / f"{model}_{of}").space(model, kind=kind).matrix.sort_index().sort_index(axis=1)
    )


def cell_of(page, name, model):
    "What a table of both models has in the row of a name; a wide table stands there in parts."
    parts = [line.removeprefix(name).strip() for line in page.splitlines() if line.startswith(name)]
    return re.split(r"\s{2,}", "  ".join(parts))[["smollm2", "gemma3"].index(model)]


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_what_tuning_gains(model, second_page):
    "Of the task itself, by counting, and how many others lose."
    matrix = transfers(model).to_numpy()
    assert f"{np.diag(matrix).mean():.2f} (" in second_page
    assert cell_of(second_page, "transfers that are losses", model) == f"{(matrix[AWAY] < 0).mean():.0%}"
    assert np.diag(matrix).mean() > 5 * matrix[AWAY].mean()


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_prediction_agrees_with_direction(model, second_page):
    measured, predicted = (transfers(model, kind).to_numpy()[AWAY] for kind in ("transfer", "predicted"))
    rank = spearmanr(measured, predicted).statistic
    assert cell_of(second_page, "prediction with measurement", model).startswith(f"{rank:.2f} (")


def test_the_models_move_the_same_tasks(second_page):
    both = [transfers(model).to_numpy() for model in ("smollm2", "gemma3")]
    found = [spearmanr(*(m[cells] for m in both)).statistic for cells in (AWAY, ~AWAY)]
    assert f"transfers of both models agree by {found[0]:.2f} (" in second_page
    assert f"gains of the tasks themselves by {found[1]:.2f}. With" in second_page


def test_half_precision_moves_cells_less_than_pairs_do(second_page):
    exact = transfers("gemma3", of="transfer_float32")
    both, second = (transfers("gemma3", of=of).loc[exact.index, exact.columns] for of in ("transfer", "transfer_1"))
    rounded = 2 * both - second  # of the first seed, as the exact ones
    moved = np.median(np.abs(exact - rounded))
    assert f"by {spearmanr(exact.to_numpy().ravel(), rounded.to_numpy().ravel()).statistic:.3f} by rank" in second_page
    assert f"moves a cell by {moved:.2f} nats" in second_page and moved < 0.3


@pytest.mark.parametrize("model, title", [("smollm2", "SmolLM2 135M"), ("gemma3", "Gemma 3 270M")])
def test_the_seeds_agree(model, title, second_page):
    second = transfers(model, of="transfer_1")
    first = 2 * transfers(model) - second  # the kept space is the mean of both
    between, own = (spearmanr(first.to_numpy()[c], second.to_numpy()[c]).statistic for c in (AWAY, ~AWAY))
    assert f"4422 transfers of {title} agree by {between:.2f} (" in second_page
    assert f"gains of the tasks themselves by {own:.2f}. " in second_page


@pytest.mark.parametrize("model, title", [("smollm2", "SmolLM2 135M"), ("gemma3", "Gemma 3 270M")])
def test_a_prediction_is_worse_for_other_pairs(model, title, second_page):
    guess, same = (transfers(model, kind, "transfer_1") for kind in ("predicted", "transfer"))
    other = 2 * transfers(model) - same
    found = [spearmanr(guess.to_numpy()[AWAY], m.to_numpy()[AWAY]).statistic for m in (same, other)]
    said = re.search(
        rf"of {title} .*? of the same pairs by ([\d.]+) \(.*?, and with those of other pairs by ([\d.]+) \(",
        second_page,
    )
    assert list(said.groups()) == [f"{value:.2f}" for value in found] and found[1] < found[0] - 0.1


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_ftgd_and_full_tuning(model, second_page):
    curves = open_extract(STUDIES / "real" / f"{model}_full").table("curves")
    assert curves["task"].nunique() == 13
    ends = curves[curves["step"] == curves["step"].max()].groupby("method")[["gain", "harm"]].mean()
    assert set(ends.index) == {"ftgd", "full"}
    assert all(f"{value:.2f} (" in second_page for value in ends.to_numpy().ravel())


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_pairs_without_contrast(model, page):
    "By another program: how often a cell within phenomena is above one across."
    kept = open_extract(STUDIES / "real" / f"{model}_shuffled")
    for kind in ("cosine", "overlap"):
        own = kept.space(model, kind=kind)
        labels = np.array([own.groups[t] for t in own.tasks])
        same = (labels[:, None] == labels)[np.triu_indices(len(labels), 1)]
        assert f" {auc(cells(own), same):.2f} (" in page
