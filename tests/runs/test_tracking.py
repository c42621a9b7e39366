"""A run told to trackers: fakes of three packages, one that fails, and the real Trackio where it is installed."""

import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

from taskspace.cli import main
from taskspace.runs import tracking
from taskspace.runs.results import open_run

STUDY = """
name: followed
suite: builtin
select: [reflexive_gender_court, noun_ellipsis_court, determiner_noun_court]
models: ["builtin:nano"]
checkpoints: [64, 640]
probes: [score]
score_pairs: 4
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def run(study, kind):
    with pytest.raises(SystemExit) as e:
        main(["run", str(study), "--out", str(study.parent / "run"), "--workers", "0", "--quiet", "--track", kind])
    return e.value.code


def fake(monkeypatch, name, fails=""):
    "A package with all functions of a tracker, which are kept; one of them may fail."
    told, module = [], ModuleType(name)

    def function(called):
        def call(*given, **named):
            told.append((called, *given, named))
            if called == fails:
                raise ConnectionError("no server\nat all")

        return call

    names = ["init", "log", "finish", "set_experiment", "start_run", "log_params", "set_tags", "log_metrics", "end_run"]
    for called in names:
        setattr(module, called, function(called))
    monkeypatch.setattr(tracking, "import_module", {name: module}.__getitem__)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_progress_and_accuracy_are_told(study, monkeypatch, name):
    told = fake(monkeypatch, name)
    assert run(study, name) == 0
    assert [t[0] for t in told] == ["init", "log", "log", "finish"]
    assert told[0][-1]["name"] == "followed" and told[0][-1]["config"]["suite"] == "builtin"
    json.dumps(told[0][-1]["config"])
    scores = open_run(study.parent / "run").scores()
    by_task = scores[scores["step"] == 640].groupby("task")["correct"].mean().mean()
    last = next(t[1] for t in told if t[0] == "log" and t[1]["step/builtin:nano"] == 640)
    assert last["accuracy/builtin:nano"] == pytest.approx(by_task)
    assert told[2][1]["jobs/progress"] == 1 and told[2][-1] == {"step": 2}


def test_mlflow_has_numbers_as_metrics(study, monkeypatch):
    told = fake(monkeypatch, "mlflow")
    assert run(study, "mlflow") == 0
    assert [t[0] for t in told] == [
        "set_experiment",
        "start_run",
        "log_params",
        "log_metrics",
        "log_metrics",
        "end_run",
    ]
    assert all(isinstance(v, float) for t in told if t[0] == "log_metrics" for v in t[1].values())
    tracking.tracker_of("mlflow").log({"report": "file:///report/index.html", "n": 1}, 3)
    assert told[-2][:2] == ("set_tags", {"report": "file:///report/index.html"})
    assert told[-1] == ("log_metrics", {"n": 1.0}, {"step": 3})


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_stops_nothing(study, monkeypatch, capsys, fails):
    fake(monkeypatch, "wandb", fails)
    assert run(study, "wandb") == 0
    said = capsys.readouterr()
    assert said.err.count("the tracker failed (no server); the run goes on without it") == 1
    assert "2 jobs done" in said.out


def test_a_package_that_is_missing_is_named_before_anything_is_computed(study, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(study, "wandb") == 2
    assert capsys.readouterr().err == "taskspace: --track wandb needs a package: pip install 'taskspace[wandb]'\n"
    assert run(study, "tensorboard") == 2 and "trackio, wandb, mlflow" in capsys.readouterr().err
    assert not (study.parent / "run").exists()


@pytest.mark.slow
def test_trackio_keeps_what_it_is_told(study, tmp_path):
    pytest.importorskip("trackio")
    given = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-m", "taskspace.cli", "run", str(study), "--out", str(tmp_path / "run"), "--workers"]
    done = subprocess.run(
        [*command, "0", "--quiet", "--track", "trackio"], env={**os.environ, **given}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "the tracker failed" not in done.stderr, done.stderr
    assert list((tmp_path / "trackio").glob("taskspace*"))
