"""The study of many languages: what its page quotes follows from its extract."""

import numpy as np
import pandas as pd
import pytest

from keptpages import auc, shown, STUDIES, without_means
from taskspace import open_extract
from taskspace.runs.study import read_study
from taskspace.tasks.languages import data_table

FOLDER = STUDIES / "languages"
FAMILY = {row["code"]: row["family"] for row in data_table("languages.csv")}


@pytest.fixture(scope="module")
def kept():
    return open_extract(FOLDER / "gemma3")


@pytest.fixture(scope="module")
def page():
    return shown("languages.ipynb")


@pytest.fixture(scope="module")
def accuracy(kept):
    return kept.table("accuracy").set_index("task")["accuracy"]


def pairs_of_tasks(tasks):
    "Which two tasks each cell is about, and whether they have one language, and one feature."
    first, second = np.triu_indices(len(tasks), 1)
    language = np.array([t.split("-")[0] for t in tasks])
    feature = np.array([t[-1] for t in tasks])
    return first, second, language[first] == language[second], feature[first] == feature[second]


def test_accuracy_is_that_of_the_pairs(accuracy, page):
    assert f"The mean over all tasks is {accuracy.mean():.1%} (" in page


def test_known_tasks_are_counted(accuracy, page):
    known = accuracy[accuracy > 0.8 - 1e-6]
    languages = {t.split("-")[0] for t in known.index}
    assert f": {len(known)} tasks of {len(languages)} languages." in page


@pytest.mark.parametrize("kind", ["cosine", "overlap"])
def test_a_feature_between_languages(kept, page, kind):
    "By another program than the page's: the AUC of tasks of one feature against others, in different languages."
    space = kept.space("gemma3", kind=kind)
    *_, language, feature = pairs_of_tasks(space.tasks)
    values = without_means(space.matrix.to_numpy())
    found = auc(values[~language], feature[~language])
    assert f"- *{kind}, all*: {found:.3f}, beyond tokens" in page


def test_what_is_known_is_asked_apart(kept, accuracy, page):
    space = kept.space("gemma3", kind="cosine")
    first, second, language, feature = pairs_of_tasks(space.tasks)
    known = accuracy.loc[space.tasks].to_numpy() > 0.8 - 1e-6
    chosen = ~language & known[first] & known[second]
    values = without_means(space.matrix.to_numpy())
    assert f"- *cosine, both known*: {auc(values[chosen], feature[chosen]):.3f}, beyond" in page


def test_one_family_alone(kept, page):
    "The correlation of the overlap with one family is what the page's chart has, to two digits."
    space = kept.space("gemma3", kind="overlap")
    first, second, *_ = pairs_of_tasks(space.tasks)
    family = np.array([FAMILY[t.split("-")[0]] for t in space.tasks])
    found = np.corrcoef(space.matrix.to_numpy()[first, second], family[first] == family[second])[0, 1]
    assert f"one family goes with the overlap by {found:.2f}" in page


def test_every_language_has_a_script_and_a_family(kept):
    scripts = pd.read_csv(FOLDER / "scripts.csv").set_index("code")["script"]
    languages = {t.split("-")[0] for t in kept.header["groups"]}
    assert languages <= set(scripts.index) and languages <= set(FAMILY)
    assert set(scripts) <= {"Arab", "Armn", "Cyrl", "Deva", "Geor", "Grek", "Hebr", "Latn", "Taml"}


def test_the_study_is_the_one_beside_the_page(kept):
    asked, run = read_study(FOLDER / "gemma3.yaml"), kept.study
    same = ("select", "probes", "gradient_embeddings", "score_pairs", "train_pairs", "eval_pairs", "prefix", "seeds")
    assert all(getattr(asked, name) == getattr(run, name) for name in same)


@pytest.fixture(scope="module")
def moved():
    return open_extract(FOLDER / "transfer")


def test_gains_follow_from_the_cells(moved, page):
    cells = moved.table("spaces").query("kind == 'transfer'")
    own = cells[cells["source"] == cells["target"]]["value"].mean()
    assert f"A task gains {own:.2f} nats (" in page
    language, feature = ((cells["source"].str[k] == cells["target"].str[k]) for k in (slice(3), -1))
    difference = cells[~language & feature]["value"].mean() - cells[~language & ~feature]["value"].mean()
    assert f"- *More for the same feature in other languages?* {difference:+.3f} (" in page
    family = cells["source"].str[:3].map(FAMILY) == cells["target"].str[:3].map(FAMILY)
    relatives = cells[~language & family]["value"].mean() - cells[~family]["value"].mean()
    assert f"- *More among relatives, whatever the feature?* {relatives:+.3f} (" in page


def test_transfer_is_that_of_the_plan_beside_the_page(moved):
    asked, run = read_study(FOLDER / "transfer.yaml"), moved.study
    same = ("select", "probes", "ftgd", "score_pairs", "train_pairs", "eval_pairs", "prefix", "seeds")
    assert all(getattr(asked, name) == getattr(run, name) for name in same)
    assert moved.header["missing"] == 0


def test_transfer_is_of_twelve_languages_of_six_families():
    languages = {t.split("-")[0] for t in read_study(FOLDER / "transfer.yaml").select}
    assert len(languages) == 12 and len({FAMILY[x] for x in languages}) == 6


def test_the_extract_is_small_and_holds_no_sentence():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1.5e6
    tables = [pd.read_parquet(p) for p in files if p.suffix == ".parquet"]
    assert not {"good", "bad", "sen", "wrong_sen"} & {c for t in tables for c in t}
