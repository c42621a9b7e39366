"""A figure of a page is that of one checkpoint, which the page names."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from taskspace.models.loading import load_lm
from taskspace.report.checkpoints import by_unit, checkpoint_names, last_scores, repeated_steps, scores_at
from taskspace.report.templates import execute
from taskspace.runs.execute import run_study
from taskspace.runs.study import Study
from toysite import tiny_models

REVISIONS = ("chck_1M", "chck_10M", "main")


def revision(name, revision=None, **kwargs):
    "Another checkpoint for each revision."
    return load_lm(f"{name}/step{int(revision == 'main')}")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("revisions")
    models = tiny_models(folder)
    loader = f"{__name__}:revision"
    return run_study(
        Study(
            name="revisions",
            models=[
                {"name": str(models["small"]), "label": "small", "loader": loader, "checkpoints": list(REVISIONS)},
                {"name": str(models["large"]), "label": "large", "checkpoints": "all"},
            ],
            probes=["score"],
            score_pairs=6,
        ),
        folder / "run",
        workers=0,
        progress=False,
    )


@pytest.mark.slow
def test_the_last_checkpoint_is_one_checkpoint(run):
    assert checkpoint_names(run) == ["1M words", "10M words", "main", "step 0", "step 1"]
    curves = run.scores().groupby(["scale", "step"], observed=True)["margin"].mean().reset_index()
    assert [(title, list(own["step"])) for title, own in by_unit(run, curves)] == [
        ("pre-training step", [0, 1]),
        ("words of pre-training", [10**6, 10**7]),
    ]
    last, scores = last_scores(run), run.scores()
    assert last.groupby("model", sort=False)["checkpoint"].unique().map(list).to_dict() == {
        "small": ["main"],
        "large": ["step 1"],
    }
    own = scores[(scores["model"] == "small") & (scores["revision"] == "main")]
    assert (
        last.loc[last["model"] == "small", "margin"].tolist()
        == own["margin"].tolist()
        == scores_at(run, 2)["margin"].tolist()
    )
    assert own["correct"].mean() != scores.loc[scores["model"] == "small", "correct"].mean()


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["main", "chck_1M"])
def test_a_page_shows_figure_number_and_name_of_one_checkpoint(run, chosen, tmp_path):
    given = {"run": str(run.path), "model": "small"} | ({} if chosen == "main" else {"revision": chosen})
    cells = json.loads(execute("scale", tmp_path / "scale.ipynb", given).read_text(encoding="utf-8"))["cells"]
    html = next(
        "".join(out["data"]["text/html"]) for c in cells for out in c.get("outputs", []) if "figures" in str(out)
    )
    scores = run.scores()
    own = scores[(scores["model"] == "small") & (scores["revision"] == chosen)]
    name = "1M words" if chosen == "chck_1M" else chosen
    assert f"<b>{name}</b>" in html and f"<b>{own['correct'].mean():.1%}</b>" in html and "<b>6</b>" in html


def stages(*checkpoints):
    "A run as far as its checkpoints go."
    columns = ("model", "scale", "step", "revision", "name", "unit")
    known = [dict(zip(columns, (*c, "steps"), strict=True)) for c in checkpoints]
    return SimpleNamespace(header={"checkpoints": known}, checkpoints=pd.DataFrame(known).astype({"step": "Int64"}))


def test_checkpoints_of_one_step_are_told_apart_and_make_no_curve():
    two = [("m", "m", 100, f"stage{i}-step100", "hub/m") for i in (1, 2)]
    hub = stages(*two, ("m", "m", 200, "x", "hub/m"))
    assert checkpoint_names(hub) == ["step 100, stage1-step100", "step 100, stage2-step100", "step 200"]
    assert repeated_steps(hub) == {"m": ["step 100, stage1-step100", "step 100, stage2-step100"]}
    folders = stages(*(("m", "m", 5, None, f"/a/s{i}-step5") for i in (1, 2)), ("n", "n", None, None, "/a/n"))
    assert checkpoint_names(folders) == ["step 5, s1-step5", "step 5, s2-step5", ""]
    assert list(repeated_steps(folders)) == ["m"]
