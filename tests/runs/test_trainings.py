"""Several trainings of one size: kept apart everywhere, named where one is meant, and judged each."""

import numpy as np
import pandas as pd
import pytest

import toysite
from taskspace.claims.judging import models_table
from taskspace.errors import TaskspaceError
from taskspace.runs.execute import run_study
from taskspace.runs.extract import open_extract, retest_extract, write_extract
from taskspace.runs.results import open_run
from taskspace.runs.study import Study
from taskspace.runs.summaries import checkpoint_spaces, claims_of, distributedness, findings_of, learning_curves

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def trained(once):
    "A run of two sizes with three trainings each."

    def make(folder):
        run_study(toysite.trainings_study(folder), folder / "run", workers=0, progress=False)

    return open_run(once("trainings", make) / "run")


@pytest.fixture(scope="module")
def found(trained):
    "What the run says about each claim."
    return findings_of(trained)


def test_trainings_are_kept_apart_and_named(trained):
    known = trained.checkpoints.drop_duplicates("model")
    assert known["scale"].tolist() == 3 * ["small"] + 3 * ["large"] and known["training"].tolist() == 2 * [1, 2, 3]
    spaces = [trained.space("small", training=n).matrix for n in (1, 2, 3)]
    assert not any(np.allclose(spaces[0], other) for other in spaces[1:])
    assert trained.space("small", training="small b").matrix.equals(spaces[1])
    assert trained.space("small b").matrix.equals(spaces[1]) and trained.space("small b").meta["training"] == 2
    rows = trained.rows("large", training=3)
    assert rows.keys() == trained.rows("large c").keys()
    assert trained.gradients("large", training=3)[0]["cosine"].matrix.equals(
        trained.space("large c", kind="cosine").matrix
    )


def test_a_call_that_may_mean_several_trainings_is_refused_in_one_line(trained):
    for call, says in (
        (
            lambda: trained.space("small"),
            r"'small' has several trainings; name one: 1 \(small a\), 2 \(small b\), 3 \(small c\)",
        ),
        (lambda: trained.space("small", training=4), r"no training 4; there are: 1 \(small a\)"),
        (lambda: trained.space(training=1), "model must be given; there are: small a"),
        (
            lambda: checkpoint_spaces(trained),
            r"'small' has several trainings \(small a, .*\); say by='model' or by='training'",
        ),
        (lambda: checkpoint_spaces(trained, by="size"), "by: must be one of scale, model, training"),
    ):
        with pytest.raises(TaskspaceError, match=says) as e:
            call()
        assert "\n" not in str(e.value)


def test_tables_hold_every_training(trained):
    places = list(checkpoint_spaces(trained, by="training"))
    assert places == [(s, n, step) for s in ("small", "large") for n in (1, 2, 3) for step in (0, 1)]
    for table in (learning_curves(trained), distributedness(trained)):
        assert table.groupby(["scale", "training"])["model"].nunique().tolist() == 6 * [1]
    assert learning_curves(trained)["gain_accuracy"].notna().all()


def test_every_training_is_judged(trained, found):
    table = models_table(found)
    assert set(table["model"]) == set(trained.checkpoints["model"])  # one name in claims and on pages
    assert table.groupby("claim").size().to_dict() == {"a": 6, "b": 6, "c": 6}
    assert "3 trainings of small" in found[1].why and "standard deviation" in found[1].why
    sizes = table[table["claim"] == "b"].groupby("scale")["estimate"].mean()
    assert found[1].estimate == pytest.approx(sizes.mean())
    assert found[2].verdict != "not replicated" and "trainings" in found[2].levels.index
    gated = claims_of(trained, ["small"], gate=0.4)
    assert gated["gate"].str.startswith("tasks with accuracy of 0.4 or more: small a ").all()


def test_no_row_of_any_table_excludes_its_own_estimate(trained, found):
    "Every table of a run with an estimate and its bounds, under whatever name the estimate stands."
    from taskspace.spaces.explaining import explain_course
    from taskspace.spaces.hypotheses import hypothesis_spaces
    from taskspace.spaces.signs import opposition_by_group, opposition_scores, signs_table

    spaces = checkpoint_spaces(trained, by="model")
    space = trained.space("large a")
    scores = opposition_scores(space, [(a, b) for a in space.tasks[:4] for b in space.tasks[4:]])
    tables = {
        "claims": [pd.DataFrame([f.to_dict() for f in found]), "estimate"],
        "models": [models_table(found), "estimate"],
        **{f"levels of {f.claim}": [f.levels, "estimate"] for f in found if f.levels is not None},
        "course": [explain_course(spaces, hypothesis_spaces(trained.suite), permutations=0), "value"],
        "signs": [signs_table(space, permutations=0), "auc"],
        "opposed": [scores, "score"],
        "opposed by group": [opposition_by_group(scores), "score"],
        **{f"cells {place}": [s.to_long(), "value"] for place, s in spaces.items()},
    }
    seen = {name: outside(table, estimate) for name, (table, estimate) in tables.items()}
    assert {name: rows for name, rows in seen.items() if rows} == {}
    assert outside(pd.DataFrame({"estimate": [0.5], "low": [0.6], "high": [0.7]}), "estimate") == 1  # it can fail


def outside(table, estimate):
    "How many rows have their estimate outside their bounds, but for rounding."
    rows = table.dropna(subset=[estimate, "low", "high"])
    slack = 1e-12 * (1 + rows[estimate].abs())
    return int(((rows[estimate] < rows["low"] - slack) | (rows[estimate] > rows["high"] + slack)).sum())


def test_an_extract_keeps_the_trainings(trained, tmp_path):
    kept = open_extract(write_extract(trained, tmp_path / "kept", permutations=9, progress=False, gate=0.4))
    for n in (1, 2, 3):
        whole = trained.space("large", training=n)
        assert np.allclose(kept.space("large", training=n).matrix, whole.matrix, atol=1e-4)
    with pytest.raises(TaskspaceError, match=r"'large' has several trainings; name one: 1 \(large a\)"):
        kept.space("large")
    for name in ("accuracy", "curves", "distribution", "models", "spaces", "tests"):
        assert kept.table(name).groupby("scale", observed=True)["training"].nunique().tolist() == [3, 3], name
    tests = kept.table("tests")
    for name in ("within", "structure", "words"):
        if name in tests:
            figures = {name: "estimate", f"{name}_low": "low", f"{name}_high": "high"}
            assert outside(tests.rename(columns=figures), "estimate") == 0, name
    gate, named = kept.table("claims")["gate"], kept.table("models")["model"]
    assert gate.str.startswith("tasks with accuracy of 0.4 or more: small a ").all()
    again = open_extract(retest_extract(kept.path, permutations=9, progress=False))  # keeps its gate and names
    assert again.table("claims")["gate"].equals(gate) and set(again.table("models")["model"]) == set(named)
    with pytest.raises(TaskspaceError, match="gate: an accuracy lies between 0 and 1, not at 2"):
        write_extract(trained, tmp_path / "none", progress=False, gate=2)


def test_the_same_weights_are_no_second_training(tmp_path):
    folders = toysite.trainings(tmp_path, {"small": 8}, ("a", "a copy"))  # the seed comes from the first letter
    models = [{"name": str(path), "label": name, "scale": "small"} for name, path in folders.items()]
    with pytest.raises(TaskspaceError, match="'small a' and 'small a copy' end with the same weights"):
        run_study(Study(models=models, checkpoints="all", probes=["score"], score_pairs=2), tmp_path / "run", workers=0)
