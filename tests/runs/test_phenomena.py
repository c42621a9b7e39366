"""The study of phenomena in five languages: what its page quotes follows from its extract."""

import numpy as np
import pandas as pd
import pytest

from keptpages import auc, shown, STUDIES, without_means
from taskspace import open_extract
from taskspace.runs.study import read_study

FOLDER = STUDIES / "languages"


@pytest.fixture(scope="module")
def kept():
    return open_extract(FOLDER / "suites")


@pytest.fixture(scope="module")
def tasks(kept):
    "Phenomenon, language and accuracy of each task."
    accuracy = kept.table("accuracy").set_index("task")["accuracy"]
    return pd.read_csv(FOLDER / "suites.csv", index_col="task").assign(accuracy=accuracy)


@pytest.fixture(scope="module")
def page():
    return shown("phenomena.ipynb")


def test_there_are_at_most_six_tasks_of_a_phenomenon_in_a_language(kept, tasks):
    sizes = tasks.groupby(["phenomenon", "language"]).size()
    assert len(tasks) == 110 and sizes.max() == 6 and tasks["phenomenon"].nunique() == 7
    assert tasks["accuracy"].notna().all()
    study = read_study(FOLDER / "suites.yaml")
    same = ("probes", "score_pairs", "train_pairs", "eval_pairs", "seeds", "gradient_embeddings", "prefix")
    assert all(getattr(study, name) == getattr(kept.study, name) for name in same)


def test_accuracies_of_languages_are_those_of_the_extract(tasks, page):
    names = {"eng": "English", "nld": "Dutch", "rus": "Russian", "tur": "Turkish", "zho": "Chinese"}
    assert f"In the mean it has {tasks.accuracy.mean():.1%} (" in page
    for code, mean in tasks.groupby("language")["accuracy"].mean().items():
        assert f"{names[code]}: {mean:.1%} (" in page


@pytest.mark.parametrize("kind", ["cosine", "overlap"])
def test_the_auc_between_languages_is_that_of_another_program(kept, tasks, page, kind):
    matrix = kept.space("gemma3", kind=kind).matrix.loc[tasks.index, tasks.index].to_numpy()
    first, second = np.triu_indices(len(tasks), 1)
    language, phenomenon = tasks["language"].to_numpy(), tasks["phenomenon"].to_numpy()
    alike, foreign = phenomenon[first] == phenomenon[second], language[first] != language[second]
    values = without_means(matrix)
    found = auc(values[foreign], alike[foreign])
    shared = pd.read_parquet(FOLDER / "phenomena.parquet").set_index(["space", "between", "reading"])
    kept_value = shared.loc[(kind, "different languages", "as measured"), "value"]
    assert kept_value == pytest.approx(found, abs=5e-5)  # rounding breaks ties among cells of four digits: 7e-6 seen
    assert f"{found:.3f} (" in page


def test_extract_and_tables_are_small():
    assert sum(p.stat().st_size for p in (FOLDER / "suites").rglob("*.*")) < 1e6
