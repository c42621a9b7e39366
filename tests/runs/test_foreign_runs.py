"""Folders of runs that someone else made, or that went wrong: what is in them is data, and mistakes are one line."""

import errno
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import toylm
from taskspace.claims.judging import findings
from taskspace.dissimilarity.states import hidden_states
from taskspace.errors import TaskspaceError
from taskspace.files import bytes_in_words
from taskspace.models.checkpoints import directory_digests, expand, ModelSpec
from taskspace.models.loading import load_lm
from taskspace.report.pages import methods
from taskspace.report.site import _path_in_text, _published, data_tables, write_data
from taskspace.report.templates import template
from taskspace.runs import plans
from taskspace.runs.execute import dask_executor, run_study
from taskspace.runs.extract import open_extract, write_extract
from taskspace.runs.formats import from_bytes, suite_to_json, to_bytes
from taskspace.runs.jobs import ModelChanged, state_texts
from taskspace.runs.plans import NotThere
from taskspace.runs.results import open_run
from taskspace.runs.store import checksum, Store
from taskspace.runs.study import Study
from taskspace.runs.summaries import checkpoint_spaces, claims_of, distributedness, parameter_counts
from taskspace.tasks.catalogue import load_suite

pytestmark = pytest.mark.slow

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
    plan = open_run(copy).plan
    key = plan.loc[plan["kind"] == "score", "key"].iloc[0]
    path = Store(copy).files()[key]
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


# -- nothing is loaded, called or asked for
def with_plan(out, change):
    "Another plan, with a checksum that fits: `change` takes table and header."
    (path,) = out.glob("plan.*.parquet")
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"taskspace"])
    table, header = change(table, header)
    text = header if isinstance(header, str) else json.dumps(header)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"taskspace": text}), sink)
    replace(path, sink.getvalue().to_pybytes())


def replace(path, data):
    "Other bytes in place of a file's, under the checksum that they have."
    parts = path.name.split(".")
    path.unlink()
    parts[1] = checksum(data)
    target = path.with_name(".".join(parts))
    target.write_bytes(data)
    return target


def with_result(out, kind, data):
    "Other bytes for the first result of a kind; `data` takes its key and its own bytes."
    run = open_run(out)
    key = run.plan.loc[run.plan["kind"] == kind, "key"].iloc[0]
    path = run.store.files()[key]
    return replace(path, data(key, path.read_bytes()))


@pytest.fixture
def no_models(monkeypatch):
    "Whatever would load a model or ask a network fails the test."

    def never(*args, **kwargs):
        raise AssertionError("a model was loaded, or the network asked")

    monkeypatch.setattr("taskspace.models.loading.load_lm", never)
    monkeypatch.setattr("taskspace.models.checkpoints.Checkpoint.load", never)
    monkeypatch.setattr("pkgutil.resolve_name", never)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", never)
    monkeypatch.setattr("huggingface_hub.list_repo_refs", never)
    monkeypatch.setattr("huggingface_hub.snapshot_download", never)
    monkeypatch.setattr("socket.socket.connect", never)


@pytest.mark.parametrize(
    "trap",
    [
        {"loader": "evil:load"},
        {"loader": None, "name": "someone/model", "kwargs": '{"trust_remote_code": true}'},
        {"loader": None, "name": "someone/private", "kwargs": '{"token": true}', "revision": "main"},
        {"loader": "os:system", "name": "touch executed", "kwargs": "{}"},
    ],
)
@pytest.mark.slow
def test_to_read_a_run_loads_no_model(copy, tmp_path, monkeypatch, no_models, trap):
    (tmp_path / "evil.py").write_text("open('executed', 'w')\ndef load(*args, **kwargs): raise SystemExit\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with_plan(copy, lambda table, h: (table, {**h, "checkpoints": [{**h["checkpoints"][0], **trap}]}))
    run = open_run(copy)
    assert parameter_counts(run) == {"toy": open_run(copy).provenance()["parameters"][0]}
    assert len(run.scores()) and len(claims_of(run)) == 5 and len(methods(run)) and len(data_tables(run))
    kept = open_extract(write_extract(run, tmp_path / "kept", permutations=9, progress=False))
    assert kept.header["parameters"] == parameter_counts(run) and not (tmp_path / "executed").exists()


def test_no_template_of_a_report_loads_a_model():
    for name in ("summary", "scale", "training", "dissimilarity"):
        text = template(name).read_text()
        assert not any(word in text for word in ("load_lm", ".load(", "expand(", "hidden_states(")), name


def test_what_the_page_on_dissimilarity_needs_is_stored(tmp_path):
    suite = load_suite("builtin").select(load_suite("builtin").names[:2]).take(6)
    suite.to_frame().to_parquet(tmp_path / "small.parquet")
    study = Study(suite=str(tmp_path / "small.parquet"), models=["builtin:nano"], probes=["states"])
    run = run_study(study, tmp_path / "run", workers=0, progress=False)
    lm, texts = load_lm("builtin:nano", device="cpu"), state_texts(run.suite)
    for layer, rows in hidden_states(lm, texts, positions="mean").items():
        kept, rows = run.states()[layer], rows.numpy()
        assert kept.shape[1] <= len(texts) == len(kept)
        assert np.allclose(kept @ kept.T, rows @ rows.T, rtol=1e-4, atol=1e-4 * np.abs(rows @ rows.T).max())
    assert parameter_counts(run) == {"nano": lm.n_parameters}
    with pytest.raises(NotThere, match="no gradient result"):
        run.gradients()


# -- names of the machine
@pytest.mark.slow
def test_an_extract_and_the_data_of_a_report_are_of_no_machine(tmp_path):
    home = tmp_path / "home of ada"
    home.mkdir()
    study = study_in(home, models=[{"name": toylm.write(home / "model.json"), "loader": "toylm:load"}])
    run = run_study(study, home / "run", workers=0, progress=False)
    run.store.log(key=run.plan["key"][0], state="failed", error=f"model {home}/model.json: gone", worker="ada-pc:123")
    write_extract(run, tmp_path / "kept", permutations=9, progress=False)
    write_data(run, tmp_path / "data")
    (tmp_path / "data" / "methods.md").write_text(methods(run))
    telling = [str(tmp_path), "home of ada", "ada-pc", f"{socket.gethostname()}:{os.getpid()}"]
    for path in [*(tmp_path / "kept").iterdir(), *(tmp_path / "data").iterdir()]:
        frame = pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else ""
        text = frame + path.read_bytes().decode(errors="replace")
        assert not [word for word in telling if word in text], path
    assert open_extract(tmp_path / "kept").study.models[0].title == "model.json" == run.checkpoints["model"][0]


def test_a_published_notebook_names_the_run_by_its_folder():
    folder = Path("/home/a_da/my run")
    notebook = {
        "metadata": {"papermill": {"input_path": "/home/a_da/x"}},
        "cells": [
            {
                "source": ['run = "/home/a_da/my run"'],
                "outputs": [{"name": "stderr", "text": "/usr/lib/x.py: warning"}],
            },
            {"source": "", "outputs": [{"data": {"text/markdown": r"*Not shown: /home/a\_da/my run: gone*"}}]},
            {"source": "", "outputs": [{"data": {"text/html": "<b>&#x2F;home/a_da/my run</b>"}}]},
        ],
    }
    found = _published(notebook, _path_in_text(folder), folder.name)
    text = json.dumps(found)
    assert "a_da" not in text and "da/" not in text and "warning" not in text and text.count("my run") == 3


# -- suite and plan belong together
def test_a_run_killed_between_the_new_suite_and_the_new_plan_keeps_the_old_suite(finished, copy, monkeypatch):
    before = open_run(copy)
    toylm.suite(tasks=4, pairs=9).to_frame().to_parquet(copy.parent / "other.parquet")
    changed = finished[1].model_copy(update={"suite": str(copy.parent / "other.parquet")})
    put = plans.put_current

    def killed(store, stem, *rest):
        if stem == "plan":
            raise KeyboardInterrupt
        return put(store, stem, *rest)

    monkeypatch.setattr(plans, "put_current", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(changed, copy, workers=0, progress=False)
    assert len(list(copy.glob("suite.*"))) == 2
    after = open_run(copy)
    assert after.suite == before.suite and after.scores().equals(before.scores())
    monkeypatch.undo()
    run = run_study(changed, copy, workers=0, progress=False)
    assert len(run.suite) == 4 and len(list(copy.glob("suite.*"))) == len(list(copy.glob("plan.*"))) == 1


@pytest.mark.parametrize("older", [False, True])
def test_scores_are_never_read_under_the_suite_of_another_plan(copy, older):
    (path,) = copy.glob("suite.*.json")
    replace(path, suite_to_json(toylm.suite(tasks=6, pairs=9)).encode())
    if older:  # which did not say in which file the suite is
        with_plan(copy, lambda table, h: (table, {k: v for k, v in h.items() if k != "suite_file"}))
    assert "start the same taskspace run again" in one_line(lambda: open_run(copy))


# -- what is remembered can be forgotten
@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    return folder


def test_no_flipped_digit_in_the_memory_of_digests_is_believed(weights):
    memory = {}
    right = directory_digests(weights, memory=memory)
    text = json.dumps(memory)
    for at, old in enumerate(text):
        if old in "0123456789abcdef":
            new = text[:at] + ("2" if old == "1" else "1") + text[at + 1 :]
            assert directory_digests(weights, memory=json.loads(new)) == right
    for odd in ({k: v for v in (3, None, [], [1], [[1], 2, 3], "x", {}) for k in memory}, {}):
        assert directory_digests(weights, memory=odd) == right


def test_the_memory_is_used(weights, monkeypatch):
    memory = {}
    right = directory_digests(weights, memory=memory)
    monkeypatch.setattr("taskspace.models.checkpoints.file_digest", lambda path: pytest.fail("read again"))
    assert directory_digests(weights, memory=json.loads(json.dumps(memory))) == right


def test_a_memory_that_is_wrong_is_forgotten_after_one_run(finished, copy, monkeypatch):
    shutil.rmtree(copy / "results")
    (copy / "results").mkdir()

    def changed(payload):
        raise ModelChanged("model m: its weights changed after the run was planned; start the run again")

    (copy / ".digests.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("taskspace.runs.jobs.compute", changed)
        assert run_study(finished[1], copy, workers=0, progress=False).status().failed
    assert not (copy / ".digests.json").exists()
    assert run_study(finished[1], copy, workers=0, progress=False).status().missing == 0


# -- one checkpoint is one checkpoint
def test_two_checkpoints_of_one_step_are_refused(tmp_path):
    with pytest.raises(
        TaskspaceError, match="'step100' and 'checkpoint-100' are both step 100; list one of them, or list"
    ):
        expand(ModelSpec(name="lab/olmo", checkpoints=["step100", "main", "checkpoint-100"]))
    with pytest.raises(
        TaskspaceError, match="not mixed: stage1 .1., stage2 .1.; list the model twice, each time with a"
    ):
        expand(ModelSpec(name="lab/olmo", checkpoints=["stage1-step100", "stage2-step100"]))
    for name in ("checkpoint-100", "step100", "step7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    spec = ModelSpec(name=str(tmp_path))
    for choice in ("all", "last", "log-spaced 2", ["step100", "checkpoint-100"]):
        with pytest.raises(TaskspaceError, match="both step 100"):
            expand(spec, choice)
    with pytest.raises(TaskspaceError, match="100 may be checkpoint-100 or step100; give the name of the folder"):
        expand(spec, [100])
    assert [c.step for c in expand(spec, ["checkpoint-100", 7])] == [100, 7]


def test_runs_of_earlier_versions_with_two_checkpoints_of_one_step_are_refused(copy):
    def twice(table, h):
        two = [{**h["checkpoints"][0], "step": 100, "revision": r} for r in ("stage1-step100", "stage2-step100")]
        return table, {**h, "checkpoints": two, "digests": 2 * h["digests"]}

    with_plan(copy, twice)
    assert "'stage1-step100' and 'stage2-step100' are both step 100" in one_line(lambda: open_run(copy))


@pytest.mark.slow
def test_checkpoints_without_a_step_stand_apart_and_the_last_is_judged(tmp_path):
    revisions = ("step1250", "early", "late", "main")
    for seed, revision in enumerate(revisions):
        toylm.write(tmp_path / f"model.json.{revision}", seed=seed)
    study = study_in(tmp_path)
    model = {**study.models[0].model_dump(), "checkpoints": list(revisions)}
    run = run_study(study_in(tmp_path, models=[model]), tmp_path / "run", workers=0, progress=False)
    spaces = checkpoint_spaces(run)
    assert list(spaces) == [("toy", 1250), ("toy", "early"), ("toy", "late"), ("toy", None)]
    for revision, space in zip(revisions, spaces.values(), strict=True):
        assert space.matrix.equals(run.space(revision=revision).matrix)
    assert distributedness(run).groupby("revision").size().to_dict() == dict.fromkeys(revisions, 6)
    assert run.scores().groupby("revision").size().nunique() == 1
    last = findings(spaces={k: v for k, v in spaces.items() if not isinstance(k[1], str)}, parameters={"toy": 10})
    alone = findings(spaces={("toy", 5): run.space(revision="main")}, parameters={"toy": 10})
    assert repr(last[1]) == repr(alone[1])
    kept = open_extract(write_extract(run, tmp_path / "kept", permutations=9, progress=False))
    for revision in revisions:
        assert np.allclose(kept.space("toy", revision=revision).matrix, run.space(revision=revision).matrix, atol=1e-4)
    assert np.allclose(kept.space("toy").matrix, run.space(revision="main").matrix, atol=1e-4)


# -- plans, results and suites with checksums that fit
def nested(depth):
    return "[" * depth + "]" * depth


def columns(**changes):
    "Changes columns of a plan."

    def change(table, h):
        for name, make in changes.items():
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array([make] * len(table)))
        return table, h

    return change


def header(**changes):
    return lambda table, h: (table, {k: v for k, v in {**h, **changes}.items() if v != "gone"})


def checkpoint(**changes):
    return lambda table, h: (table, {**h, "checkpoints": [{**h["checkpoints"][0], **changes}]})


PLANS = {
    "header is no JSON": lambda table, h: (table, "{oops"),
    "header is a list": lambda table, h: (table, "[]"),
    "header is deep": lambda table, h: (table, nested(100_000)),
    "header with half a character": lambda table, h: (table, json.dumps({**h, "study": "\ud800"})),
    "no study": header(study="gone"),
    "study is a number": header(study=3),
    "no checkpoints": header(checkpoints=[]),
    "checkpoints are text": header(checkpoints="x"),
    "checkpoint is text": header(checkpoints=["x"]),
    "no digests": header(digests=[]),
    "digests are numbers": header(digests=[[1, 2]]),
    "digests are one": header(digests=[["a"]]),
    "no suite": header(suite="gone"),
    "suite file is a path": header(suite_file="../../etc/passwd"),
    "model is a number": checkpoint(model=3),
    "scale is none": checkpoint(scale=None),
    "step is text": checkpoint(step="x"),
    "step is a fraction": checkpoint(step=1.5),
    "step is negative": checkpoint(step=-1),
    "step is huge": checkpoint(step=2**80),
    "step is a truth value": checkpoint(step=True),
    "no jobs": lambda table, h: (table.slice(0, 0), h),
    "a column less": lambda table, h: (table.drop_columns(["source"]), h),
    "a column twice": lambda table, h: (table.append_column("key", table["key"]), h),
    "key is a number": columns(key=3),
    "key is a path": columns(key="../../x"),
    "at is beyond": columns(at=7),
    "at is negative": columns(at=-1),
    "at is text": columns(at="x"),
    "at is a fraction": columns(at=0.5),
    "at is missing": columns(at=float("nan")),
    "seed is text": columns(seed="x"),
    "seed is a fraction": columns(seed=0.5),
    "seed is missing": columns(seed=None),
    "kind is missing": columns(kind=None),
    "source is a number": columns(source=3),
    "source is missing": columns(source=None),
    "a list where a name belongs": columns(control=["x"]),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_that_is_none_is_one_line(copy, case):
    with_plan(copy, PLANS[case])
    text = one_line(lambda: open_run(copy))
    assert (
        "plan." in text
        and "damaged (" in text
        and text.endswith("start the same taskspace run again, finished jobs are kept")
    )


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "name: 3", "models: []", "a: &a [*a]", "name: [x]\nmodels: [y]"])
def test_a_stored_study_that_is_none_is_one_line(copy, text):
    with_plan(copy, header(study=text))
    run = open_run(copy)
    for use in (lambda: run.study, run.space, lambda: methods(run)):
        assert "stored study" in one_line(use)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"{}", os.urandom(300)])
def test_a_plan_of_other_bytes_is_one_line(copy, data):
    (path,) = copy.glob("plan.*")
    replace(path, data)
    assert "plan." in one_line(lambda: open_run(copy))


SUITES = [
    b"",
    b"\xff",
    b"[]",
    b"{}",
    b"null",
    nested(100_000).encode(),
    b'{"name": "x", "tasks": []}',
    b'{"name": 3, "tasks": [["a", null, null, [], null, [["g", "b", null]]]]}',
    b'{"name": "x", "tasks": [["a", null, null, [], null, []]]}',
    b'{"name": "x", "tasks": [["a", null, null, [3], null, [["g", "b", null]]]]}',
    b'{"name": "x", "tasks": [[{"a": 1}, null, null, [], null, [["g", "b", null]]]]}',
    b'{"name": "x", "tasks": [["a", null, null, [], null, [[1, 2, 3]]]]}',
    b'{"name": "x", "tasks": [["a", null, null, [], null, [["g"]]]]}',
    b'{"name": "x", "tasks": [["\\ud800", null, null, [], null, [["g", "b", null]]]]}',
]


@pytest.mark.parametrize("data", SUITES, ids=range(len(SUITES)))
@pytest.mark.parametrize("named", [True, False])
def test_a_suite_that_is_none_is_one_line(copy, data, named):
    (path,) = copy.glob("suite.*")
    new = replace(path, data)
    with_plan(copy, header(suite_file=new.name.split(".")[1] if named else "gone"))
    assert "suite." in one_line(lambda: open_run(copy).suite)


def other(frame=None, head=None, drop=()):
    "A result with changes of its table and header."

    def data(key, old):
        numbers, about = from_bytes(old)
        numbers = numbers.drop(columns=list(drop))
        for name, value in (frame or {}).items():
            numbers[name] = [value] * len(numbers)
        for name, value in (head or {}).items():
            if name.startswith("attrs."):
                numbers.attrs[name.removeprefix("attrs.")] = value
            else:
                about[name] = value
        return to_bytes(numbers, about)

    return data


def raw(text):
    "A result whose header is any text."

    def data(key, old):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"task": ["a"]}).replace_schema_metadata({"taskspace": text}), sink)
        return sink.getvalue().to_pybytes()

    return data


RESULTS = {
    "no Parquet": ("score", lambda key, old: b"PAR1 nothing"),
    "nothing": ("score", lambda key, old: b""),
    "no header": ("score", raw("")),
    "header is a list": ("score", raw("[]")),
    "header is deep": ("score", raw(nested(100_000))),
    "attrs are a frame of nonsense": ("score", raw('{"attrs": {"__frame__": {"evil": 1}}}')),
    "of another job": ("score", other(head={"key": "0" * 32})),
    "of another kind": ("score", other(head={"kind": "gradient"})),
    "no margin": ("score", other(drop=["margin"])),
    "margin is text": ("score", other({"margin": "<script>"})),
    "task is a number": ("score", other({"task": 3})),
    "correct is a list": ("score", other({"correct": [1]})),
    "no values": ("gradient", other(drop=["values"])),
    "too few values": ("gradient", other({"values": [0.5]})),
    "values are text": ("gradient", other({"values": "<script>"})),
    "values of text": ("gradient", other({"values": ["x", "y"]})),
    "too few bounds": ("gradient", other({"low": [0.5]})),
    "a source alone": ("gradient", other({"source": "x"})),
    "kinds are gone": ("gradient", other(head={"attrs.kinds": {}})),
    "groups are a number": ("gradient", other(head={"attrs.groups": 3})),
    "measure is one": ("gradient", other({"measure": "x"})),
    "part is another": ("gradient", other({"part": "layer:x"})),
    "before is text": ("transfer", other({"before": "x"})),
    "no pair": ("transfer", other(drop=["pair"])),
    "log is text": ("transfer", other(head={"attrs.log": "x"})),
    "log of text": ("transfer", other(head={"attrs.log": [{"step": "x", "eval_margin": "y"}]})),
    "tasks of another suite": ("transfer", other({"task": "x"})),
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_result_that_is_none_is_one_line(copy, tmp_path, case):
    kind, data = RESULTS[case]
    with_result(copy, kind, data)
    run = open_run(copy)
    uses = {
        "score": (run.scores, run.provenance),
        "gradient": (run.gradients, lambda: checkpoint_spaces(run, "cosine")),
        "transfer": (run.space, lambda: checkpoint_spaces(run)),
    }[kind]
    for use in (*uses, lambda: write_extract(run, tmp_path / "kept", permutations=9, progress=False)):
        one_line(use)
    assert not (tmp_path / "kept").exists() and run.status().missing == 0


# -- odd but valid lines of the log
LINES = [
    "3",
    "[]",
    '{"key": 3}',
    '{"key": ["x"], "state": "failed"}',
    '{"key": KEY, "state": "failed", "error": 3, "seconds": "x"}',
    '{"key": KEY, "state": "failed", "error": null, "seconds": NaN}',
    '{"key": KEY, "state": "failed", "error": ["x"], "seconds": [1]}',
    '{"key": KEY, "state": "failed", "error": "a\\nb\\u001b[31m\\ud800", "seconds": -5}',
    '{"key": KEY, "state": ["failed"], "seconds": 1' + "0" * 400 + "}",
    '{"key": KEY, "state": {}, "seconds": true, "worker": {"a": 1}, "time": 3}',
    '{"key": KEY, "state": "failed", "bytes": "many", "seconds": 1e999}',
    nested(100_000),
    "1" * 10_000,
    '{"key": "\\ud800"}',
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_odd_lines_of_the_log_are_no_obstacle(finished, copy, tmp_path, line):
    run = open_run(copy)
    key, gone = run.plan["key"].iloc[0], run.plan["key"].iloc[1]
    run.store.files()[gone].unlink()
    with run.store.log_path.open("a") as log:
        log.write(line.replace("KEY", json.dumps(key)) + "\n" + line.replace("KEY", json.dumps(gone)) + "\n")
    text = str(run.status())
    text.encode()
    assert all(c.isprintable() or c == "\n" for c in text) and run.status().seconds >= 0
    assert run.status().done == len(run.plan) - 1 and run.status(check=True).done == len(run.plan) - 1
    run.log().to_parquet(tmp_path / "log.parquet")
    run.provenance()
    assert run_study(finished[1], copy, workers=0, progress=False).status().missing == 0


# -- extracts
@pytest.fixture(scope="module")
def extracted(finished, tmp_path_factory):
    return write_extract(
        open_run(finished[0]), tmp_path_factory.mktemp("kept") / "kept", permutations=9, progress=False
    )


EXTRACTS = {
    "no value": lambda f: f.drop(columns="value"),
    "value is text": lambda f: f.assign(value="x"),
    "no rows": lambda f: f.iloc[:0],
    "step is text": lambda f: f.assign(step="x"),
    "source is a number": lambda f: f.assign(source=3),
    "cells twice": lambda f: pd.concat([f, f]),
    "half of the cells": lambda f: f.iloc[::2],
    "no scale": lambda f: f.drop(columns="scale"),
}


@pytest.mark.parametrize("case", EXTRACTS)
def test_a_table_of_an_extract_that_is_none_is_one_line(extracted, tmp_path, case):
    kept = Path(shutil.copytree(extracted, tmp_path / "kept"))
    EXTRACTS[case](pd.read_parquet(kept / "spaces.parquet")).to_parquet(kept / "spaces.parquet")
    header = json.loads((kept / "extract.json").read_text())
    (kept / "extract.json").write_text(json.dumps({**header, "checksums": {}}))  # who writes tables can write these too
    if case == "half of the cells":
        assert open_extract(kept).space("toy").matrix.isna().any(axis=None)
    else:
        one_line(lambda: open_extract(kept).space("toy"))


@posix
def test_links_in_an_extract_are_refused(extracted, tmp_path):
    for name in ("extract.json", "spaces.parquet"):
        kept = Path(shutil.copytree(extracted, tmp_path / name))
        (kept / name).unlink()
        (kept / name).symlink_to(extracted / name)
        text = one_line(lambda kept=kept: open_extract(kept).space("toy"))
        assert f"{name}: a symbolic link that leads out of the extract" in text


# -- a full disk
def test_a_full_disk_says_which_file_and_how_much(finished, copy, tmp_path, monkeypatch):
    victim = next(iter(Store(copy).files().values()))
    size = victim.stat().st_size
    victim.unlink()
    write = Path.write_bytes

    def full(path, data):
        if path.suffix == ".parquet" and "plan" not in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    text = one_line(lambda: run_study(finished[1], copy, workers=0, progress=False))
    assert text.startswith(str(victim)) and f"(this file needs {bytes_in_words(size)})" in text
    monkeypatch.setattr(Path, "write_bytes", write)
    run = run_study(finished[1], copy, workers=0, progress=False)
    monkeypatch.setattr(Path, "write_bytes", full)
    text = one_line(lambda: write_extract(run, tmp_path / "kept", permutations=9, progress=False))
    assert "kept/accuracy.parquet: no space left on the disk" in text and "this file needs" in text
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# -- schedulers
@pytest.mark.parametrize("data", [b"", b"nope", b"[1]", b"{}", b"\xff\xfe", b'{"address": 3}', b"[" * 100_000])
def test_a_scheduler_file_that_is_none(tmp_path, data):
    pytest.importorskip("distributed")
    (tmp_path / "scheduler").write_bytes(data)
    text = one_line(lambda: dask_executor(str(tmp_path / "scheduler")).__enter__())
    assert "not a scheduler file, which is JSON with an address" in text


@pytest.mark.parametrize("address", ["tls://127.0.0.1:9", "wss://127.0.0.1:9"])
def test_encrypted_schedulers_need_certificates(tmp_path, address):
    pytest.importorskip("distributed")
    (tmp_path / "scheduler").write_text(json.dumps({"address": address}))
    for given in (address, str(tmp_path / "scheduler")):
        assert "needs certificates" in one_line(lambda given=given: dask_executor(given).__enter__())


# Twice, since what is left of a client that failed must not block the next one
@pytest.mark.parametrize("address", ["foo://1", "tcp://", "127.0.0.1:port", "x" * 5000, "a\0b"] * 2)
def test_addresses_that_are_none(address):
    pytest.importorskip("distributed")
    with pytest.raises(TaskspaceError, match="does not answer") as e:
        dask_executor(address, timeout=0.5).__enter__()
    assert "\n" not in str(e.value)
