"""Folders of runs that someone else made, or that went wrong: what is in them is data, and mistakes are one line."""

import os
import shutil
from pathlib import Path

import pytest

import toylm
from taskspace.errors import TaskspaceError
from taskspace.runs.execute import run_study
from taskspace.runs.results import open_run
from taskspace.runs.store import Store
from taskspace.runs.study import Study

posix = pytest.mark.skipif(os.name == "nt", reason="symbolic links and pipes of POSIX")


def study_in(folder, **changes):
    "A study of one model and six tasks, with its suite and model in a folder."
    toylm.suite().to_frame().to_parquet(folder / "toy.parquet")
    model = toylm.write(folder / "model.json")
    fields = dict(
        suite=str(folder / "toy.parquet"),
        models=[{"name": model, "loader": "toylm:load", "label": "toy"}],
        train_pairs=4,
        eval_pairs=3,
        ftgd={"steps": 1},
    )
    return Study(**{**fields, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A folder with a finished run in `run`, and its study."
    here = tmp_path_factory.mktemp("finished")
    study = study_in(here)
    run_study(study, here / "run", workers=0, progress=False)
    return here / "run", study


@pytest.fixture
def copy(finished, tmp_path):
    "A copy of the finished run."
    return Path(shutil.copytree(finished[0], tmp_path / "run", symlinks=True))


def one_line(read):
    "The message of the error that a call raises, which must be one line of ours."
    with pytest.raises(TaskspaceError) as e:
        read()
    text = str(e.value)
    assert text and "\n" not in text and len(text) < 1000
    return text


# -- links that lead out of the folder
PLACES = (".tmp", "lock", "aside", "results", "log.jsonl", "study.yaml", ".digests.json", "report")


@posix
@pytest.mark.parametrize("place", PLACES)
def test_a_link_that_leads_out_of_a_run_is_refused(finished, copy, tmp_path, place):
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("keep")
    target = other if place in (".tmp", "aside", "results", "report") else other / "precious"
    shutil.rmtree(copy / place, ignore_errors=True)
    (copy / place).unlink(missing_ok=True)
    (copy / place).symlink_to(target)
    for use in (lambda: open_run(copy), lambda: run_study(finished[1], copy, workers=0, progress=False)):
        assert f"{place}: a symbolic link that leads out of the run's folder" in one_line(use)
    assert [p.name for p in other.iterdir()] == ["precious"] and (other / "precious").read_text() == "keep"


@posix
def test_links_among_the_results_are_refused_too(finished, copy, tmp_path):
    (tmp_path / "other").mkdir()
    key, path = next(iter(Store(copy).files().items()))
    moved = path.rename(tmp_path / "other" / path.name)
    path.symlink_to(moved)
    run = open_run(copy)
    for use in (run.scores, run.status, lambda: run_study(finished[1], copy, workers=0, progress=False)):
        assert "a symbolic link that leads out of the run's folder" in one_line(use)
    path.unlink()
    shutil.rmtree(path.parent)
    path.parent.symlink_to(tmp_path / "other")
    for use in (lambda: open_run(copy), lambda: run_study(finished[1], copy, workers=0, progress=False)):
        assert f"{key[:2]}: a symbolic link that leads out" in one_line(use)
    assert moved.exists()


@posix
def test_links_that_stay_inside_and_the_folder_itself_may_be_links(finished, copy, tmp_path):
    os.rename(copy / "results", copy / "kept")
    (copy / "results").symlink_to("kept")
    (tmp_path / "latest").symlink_to(copy)
    assert open_run(tmp_path / "latest").status(check=True).missing == 0


@posix
@pytest.mark.parametrize("place", ["log.jsonl", "lock", "plan.0123456789abcdef.parquet", "results", ".tmp", "aside"])
def test_a_pipe_in_a_run_keeps_nobody_waiting(finished, copy, place):
    shutil.rmtree(copy / place, ignore_errors=True)
    (copy / place).unlink(missing_ok=True)
    os.mkfifo(copy / place)
    for use in (lambda: open_run(copy), lambda: run_study(finished[1], copy, workers=0, progress=False)):
        assert f"{place}: neither a file nor a directory" in one_line(use)


@pytest.mark.parametrize("place", ["log.jsonl", "lock", "results", ".tmp", "aside"])
def test_a_place_of_the_wrong_kind_is_named(finished, copy, place):
    kind = "file" if place in ("log.jsonl", "lock") else "directory"
    shutil.rmtree(copy / place, ignore_errors=True)
    (copy / place).unlink(missing_ok=True)
    (copy / place).mkdir() if kind == "file" else (copy / place).write_text("x")
    for use in (lambda: open_run(copy), lambda: run_study(finished[1], copy, workers=0, progress=False)):
        assert place in one_line(use)


@posix
def test_what_a_killed_run_left_is_removed_without_following_links(finished, copy, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("keep")
    (copy / ".tmp" / "folder").mkdir()
    (copy / ".tmp" / "folder" / "half").write_text("half")
    (copy / ".tmp" / "link").symlink_to(tmp_path / "other")
    victim = next(iter(Store(copy).files().values()))
    data = victim.read_bytes()
    victim.unlink()
    (copy / ".tmp" / victim.name).symlink_to(tmp_path / "other" / "precious")
    (tmp_path / "planted.tmp").symlink_to(tmp_path / "other" / "precious")
    run_study(finished[1], copy, workers=0, progress=False)
    assert victim.read_bytes() == data and not list((copy / ".tmp").iterdir())
    assert (tmp_path / "other" / "precious").read_text() == "keep"
