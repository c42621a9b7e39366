"""Reports of suites whose tasks have no phenomenon, or some of them, and different numbers of pairs."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from taskspace.claims.means import accuracy_intervals, task_means
from taskspace.report.answers import what_was_run
from taskspace.report.checkpoints import last_scores, with_phenomena
from taskspace.report.exports import draw, report_charts
from taskspace.report.templates import execute
from taskspace.runs.execute import run_study
from taskspace.runs.model_comparison import last_run_scores
from taskspace.runs.results import open_run
from taskspace.runs.study import Study
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.pairs import Suite
from toysite import tiny_models

PAIRS = (10, 13, 10, 10, 9, 14)
SOME = ("negation", "negation", None, None, None, None)


def suite_of(phenomena):
    "Six built-in tasks with different numbers of pairs."
    tasks = list(load_suite("builtin"))[: len(phenomena)]
    known = zip(tasks, PAIRS, phenomena, strict=True)
    return Suite("mine", tuple(replace(t, pairs=t.pairs[:n], phenomenon=p, field=None) for t, n, p in known))


@pytest.fixture(scope="module", params=[(None,) * 6, SOME], ids=["none", "some"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    suite_of(request.param).to_frame().to_parquet(folder / "mine.parquet")
    models = [{"name": str(path), "label": n, "scale": n} for n, path in tiny_models(folder / "models").items()]
    fields = {"probes": ["score", "transfer"], "train_pairs": 4, "eval_pairs": 4, "ftgd": {"steps": 1}}
    study = Study(name="bare", suite=str(folder / "mine.parquet"), models=models, checkpoints="all", **fields)
    return run_study(study, folder / "run", workers=0, progress=False)


@pytest.fixture(scope="module")
def pages(run):
    "The executed pages, where a report keeps them."
    notebooks = run.path / "report" / "notebooks"
    notebooks.mkdir(parents=True)
    for name, given in (("summary", {}), ("scale", {"model": "large"}), ("training", {})):
        execute(name, notebooks / f"{name}.ipynb", {"run": str(run.path), **given})
    return run.path / "report"


def shown(page):
    "All that a page says, as one text."
    outputs = (o for cell in json.loads(page.read_text())["cells"] for o in cell.get("outputs", []))
    return "\n".join("".join(o.get("data", {}).get(f"text/{k}", "")) for o in outputs for k in ("html", "plain"))


def rows_of(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


def accuracies(spec, *by):
    "What a chart says of accuracy, by some of its columns."
    return {tuple(r[b] for b in by): r["accuracy"] for r in rows_of(spec) if "accuracy" in r}


@pytest.mark.slow
def test_every_task_and_phenomenon_has_its_accuracy_on_the_pages(run, pages, tmp_path):
    charts, final = report_charts(pages), with_phenomena(last_scores(run))
    titled = {name: json.dumps(spec) for name, spec in charts.items()}
    by_task = next(charts[n] for n, text in titled.items() if "Accuracy by task" in text)
    own = final[final["model"] == "large"].groupby("task", observed=True)["correct"].mean()
    assert accuracies(by_task, "task") == pytest.approx({(t,): v for t, v in own.items()}) and len(own) == 6

    names = ["model", "phenomenon"]
    expected = {tuple(r[:2]): r.accuracy for r in task_means(final, names).itertuples(index=False)}
    by_phenomenon = next(charts[n] for n, text in titled.items() if "Accuracy by phenomenon" in text)
    assert accuracies(by_phenomenon, *names) == pytest.approx(expected)
    course = next(charts[n] for n, text in titled.items() if "Accuracy over training" in text)
    last = {key[:2]: v for key, v in accuracies(course, *names, "step").items() if key[2] == 1}
    assert last == pytest.approx(expected)
    for name, spec in charts.items():
        draw(spec, tmp_path / f"{name}.svg")


@pytest.mark.slow
def test_a_model_has_one_accuracy_on_all_pages(run, pages):
    "That of the tables of a paper, the mean over tasks."
    for model, own in last_run_scores(run).items():
        accuracy = accuracy_intervals(own, draws=2).iloc[0].accuracy
        assert accuracy != pytest.approx(own["correct"].mean(), abs=1e-3)
        assert shown(pages / "notebooks" / "summary.ipynb").count(f"{accuracy:.1%}") >= 2, model
    assert f"{accuracy:.1%}" in shown(pages / "notebooks" / "scale.ipynb")


@pytest.mark.slow
def test_only_known_phenomena_are_counted(run):
    known = {t.phenomenon for t in open_run(run.path).suite} - {None}
    assert f"6 tasks, {'1 phenomenon, ' * len(known)}66 minimal pairs" in what_was_run(run)


def test_every_task_counts_once_and_missing_names_are_a_group():
    frame = pd.DataFrame({"task": list("aaab"), "p": ["x", "x", "x", None], "correct": [1.0, 1, 1, 0], "margin": 1.0})
    whole = task_means(frame).iloc[0]
    assert (whole.accuracy, whole.margin, whole.tasks, whole.pairs) == (0.5, 1.0, 2, 4)
    by = task_means(frame, ["p"])
    assert by["p"].isna().tolist() == [False, True] and by["accuracy"].tolist() == [1.0, 0.0]
    assert task_means(frame.head(0)).empty and task_means(frame.head(0), ["p"]).empty
    assert list(task_means(frame.drop(columns="margin"))) == ["accuracy", "tasks", "pairs"]
