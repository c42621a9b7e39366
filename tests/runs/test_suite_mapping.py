"""A study whose suite is a mapping is checked, planned and run like any other; its record says how it was read."""

import os

import toylm
from taskspace.runs.execute import run_study
from taskspace.runs.results import open_run
from taskspace.runs.study import parse_study, public_study, Study
from taskspace.tasks.catalogue import load_suite


def test_a_study_reads_its_suite_through_a_mapping(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = toylm.suite().to_frame()
    frame.rename(columns={"good": "sen", "bad": "wrong_sen", "task": "what"}).to_csv("mine.csv", sep=";", index=False)
    toylm.write("model.json")
    said = {"name": str(tmp_path / "mine.csv"), "good": "sen", "bad": "wrong_sen", "task": "{what}", "language": "=eng"}
    study = Study(
        suite=said,
        models=[{"name": "model.json", "loader": "toylm:load", "label": "toy"}],
        probes=["score"],
        train_pairs=4,
        eval_pairs=3,
    )
    assert parse_study(study.to_yaml()) == study
    run_study(study, "run", workers=0, progress=False)
    run = open_run("run")
    assert run.suite.names == toylm.suite().names and set(run.suite.groups("language").values()) == {"eng"}
    assert run.suite.origin["mapping"]["good"] == "sen" and run.study.suite == said
    assert str(tmp_path) not in str(public_study(run.study).suite) + str(run.suite.origin)
    assert run.status().failed == 0 and run.status().total > 0


def test_paths_of_a_study_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    toylm.suite().to_frame().to_csv(tmp_path / "mine.csv", index=False)
    study = parse_study("suite: ~/mine.csv\nmodels: [~/model, {name: ~/other}]\nreference: ~/text.txt\n")
    assert study.suite == os.path.join(tmp_path, "mine.csv") and study.reference == os.path.join(tmp_path, "text.txt")
    assert [m.title for m in study.models] == ["~/model", "~/other"]
    assert parse_study("suite: rublimp:~/files\nmodels: [a]").suite == f"rublimp:{tmp_path}/files"
    for suite in ("~/mine.csv", {"name": "~/mine.csv", "language": "=eng"}):
        assert load_suite(suite).names == toylm.suite().names
    assert load_suite(study.suite).names == toylm.suite().names


def test_short_forms_and_names_that_yaml_takes_for_switches():
    study = parse_study("models: a\nprobes: ablation\nselect: cat\nseeds: '3'\nprefix: none\noff: mean\n")
    assert (study.probes, study.select, study.seeds) == (("ablation",), ("cat",), (0, 1, 2))
    assert (study.prefix, study.off) == (None, "mean")
    assert parse_study(study.to_yaml()) == study
