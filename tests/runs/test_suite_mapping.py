"""A study whose suite is a mapping is checked, planned and run like any other; its record says how it was read."""

import toylm
from taskspace.runs.execute import run_study
from taskspace.runs.results import open_run
from taskspace.runs.study import parse_study, public_study, Study


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
