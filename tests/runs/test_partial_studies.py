"""Studies that measure some cells of a transfer space: jobs that wait for a prediction, whoever computes it."""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_crash import stored

import toylm
from taskspace.errors import TaskspaceError
from taskspace.probing.partial import cells_each, choose_cells, REST
from taskspace.report.pages import methods
from taskspace.report.site import all_spaces
from taskspace.runs.estimate import estimate_study
from taskspace.runs.execute import run_study
from taskspace.runs.extract import open_extract, retest_extract, write_extract
from taskspace.runs.jobs import Plan, prediction_of, seed_of, work
from taskspace.runs.predictions import predicted_agreement
from taskspace.runs.results import open_run
from taskspace.runs.shards import shares
from taskspace.runs.store import Store
from taskspace.runs.study import parse_study, Study
from taskspace.spaces.views import cell_table
from taskspace.tasks.pairs import Suite
from taskspace.toy import agreement_task

TASKS, SHARE = 12, 0.4
MEASURED = cells_each(TASKS, SHARE).measured  # of the 11 other targets of a source
NOUNS = ["cat", "dog", "king", "girl", "cats", "dogs"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder with a suite of twelve tasks and two bigram models."
    folder = tmp_path_factory.mktemp("partial")
    made = (
        replace(agreement_task(noun, adverb, pairs=8), phenomenon=adverb or "plain")
        for adverb in ("", "often")
        for noun in NOUNS
    )
    Suite("toy", tuple(made)).to_frame().to_parquet(folder / "toy.parquet")
    for name in ("one", "two"):
        toylm.write(folder / f"{name}.json", seed=len(name), raise_if=str(folder / "fire"))
    toylm.write(folder / "two.json", seed=5, raise_if=str(folder / "fire"))
    return folder


def study(here, cells=SHARE, models=("one",), **fields):
    made = [{"name": str(here / f"{m}.json"), "loader": "toylm:load", "label": m, "scale": m} for m in models]
    usual = {"train_pairs": 4, "eval_pairs": 3, "ftgd": {"steps": 1, "lr": 0.3}, "probes": ["transfer"]}
    return Study(suite=str(here / "toy.parquet"), models=made, transfer_cells=cells, **{**usual, **fields})


def run(here, out, executor=None, shard=None, workers=0, **fields):
    return run_study(study(here, **fields), out, executor, workers=workers, progress=False, shard=shard)


@pytest.fixture(scope="module")
def done(here, tmp_path_factory):
    "Runs that nothing disturbed, each computed once."

    @functools.cache
    def folder(**fields):
        out = tmp_path_factory.mktemp("done") / "run"
        run(here, out, **fields)
        return out

    return folder


# -- the field


@pytest.mark.parametrize("value", ["0", "-0.1", "1.5", ".nan", "true", "all", "[0.2]"])
def test_a_share_that_is_none_is_refused_in_one_line(value):
    with pytest.raises(TaskspaceError, match="transfer_cells") as error:
        parse_study(f"models: [builtin:nano]\ntransfer_cells: {value}", "study.yaml")
    assert "\n" not in str(error.value) and str(error.value).startswith("study.yaml")


def test_it_belongs_to_the_transfer_probe():
    with pytest.raises(TaskspaceError, match="transfer_cells: it belongs to the transfer probe"):
        Study(models=["builtin:nano"], probes=["score"], transfer_cells=0.2)


def test_a_suite_that_is_too_small_is_refused_before_any_job(here, tmp_path):
    few = study(here, select=NOUNS[:5])
    with pytest.raises(TaskspaceError, match="transfer_cells: a share of 0.4 .* measure all cells"):
        run_study(few, tmp_path / "run", workers=0, progress=False)
    assert not (tmp_path / "run").exists()


def test_it_reads_back(here):
    assert parse_study(study(here).to_yaml()) == study(here)


# -- jobs and keys


def test_all_cells_have_the_keys_that_they_always_had(here, monkeypatch):
    fields = {"controls": ["full"], "seeds": 2, "probes": ["gradient", "transfer"]}
    plain = list(Plan(study(here, None, **fields)).jobs())
    assert list(Plan(study(here, 1, **fields)).jobs()) == plain  # 1 is the same as leaving it out
    settings = Plan(study(here, None)).settings("transfer", "none")
    assert list(settings) == ["convention", "dtype", "ftgd", "control", "reference"]
    partial = list(Plan(study(here, **fields)).jobs())
    same = {job.key for job in plain} & {job.key for job in partial}
    assert {(j.kind, j.control) for j in plain if j.key in same} == {("gradient", None), ("transfer", "full")}
    assert [j.kind for j in partial].count("predicted") == 2 and len(partial) == len(plain) + 2


def test_plain_transfer_waits_for_the_prediction_of_the_first_seed(here):
    plan = Plan(study(here, seeds=(3, 1), controls=["full"], models=("one", "two")))
    jobs = list(plan.jobs())
    for job in jobs:
        needed = prediction_of(plan, job)
        if job.control != "none":
            assert needed is None
            continue
        assert (needed.kind, needed.seed, needed.at) == ("predicted", 3, job.at)
        assert jobs.index(needed) < jobs.index(job)
    other = {j.key for j in Plan(study(here, 0.5, seeds=(3, 1))).jobs() if j.kind == "transfer"}
    assert not other & {j.key for j in jobs}  # another share, another result
    turned = {j.key for j in Plan(study(here, seeds=(1, 3))).jobs() if j.kind == "transfer"}
    assert not turned & {j.key for j in jobs}  # cells chosen by another prediction, another result


def test_predictions_are_made_where_transfer_is_and_once(here):
    kinds = [j.kind for j in Plan(study(here, probes=["predicted", "transfer"])).jobs()]
    assert kinds.count("predicted") == 1


def test_a_job_without_its_cells_says_so(here):
    plan = Plan(study(here))
    assert "before its prediction was there" in work(plan.payload(list(plan.jobs())[-1]))["error"]


# -- what is measured


def test_measured_cells_are_those_of_the_full_probe(here, done):
    part, full = open_run(done()), open_run(done(cells=None))
    choice = choose_cells(part.space(kind="predicted"), SHARE, seed_of(part.plan["key"][0]))
    for source, row in ((s, r) for (s, _), r in part.rows().items()):
        there = choice.columns[choice.loc[source] != REST]
        assert set(row.task[row.after.notna()]) == set(there) and len(there) == 1 + MEASURED
        whole = full.rows()[source, 0]
        assert row.before.equals(whole.before)
        assert np.nanmax(np.abs(row.after - whole.after)) < 1e-5
    space, table = part.space(), cell_table(part.space())
    assert table.how.value_counts().to_dict() == {
        "measured": TASKS * (1 + MEASURED),
        "predicted": TASKS * (TASKS - 1 - MEASURED),
    }
    measured = (table.how == "measured").to_numpy().reshape(TASKS, TASKS)
    assert np.abs(space.matrix - full.space().matrix).to_numpy()[measured].max() < 1e-5
    assert part.space(kind="measured").matrix.isna().equals(pd.DataFrame(~measured, space.tasks, space.tasks))
    assert full.space(kind="measured").matrix.equals(full.space().matrix)
    assert space.matrix.notna().all(axis=None) and space.low.notna().all(axis=None) and space.replicates is None
    assert space.meta["control"] == "none" and space.meta["model"] == "one"


def test_all_seeds_measure_the_same_cells(done):
    part, full = open_run(done(seeds=2)), open_run(done(cells=None, seeds=2))
    rows = part.rows()
    for (source, seed), row in rows.items():
        assert row.attrs["cells"] == rows[source, 0].attrs["cells"]
        assert row.after.isna().sum() == 3 * (TASKS - 1 - MEASURED) and seed in (0, 1)
    measured = (cell_table(part.space()).how == "measured").to_numpy().reshape(TASKS, TASKS)
    for metric, normalise in (("margin", None), ("margin", "gain"), ("accuracy", None), ("log_odds", None)):
        a, b = (r.space(metric=metric, normalise=normalise).matrix.to_numpy() for r in (part, full))
        assert np.allclose(a[measured], b[measured], atol=1e-5) and np.isfinite(a[~measured]).any()


def test_controls_measure_everything_and_shuffled_is_untouched(done):
    part = open_run(done(controls=("full", "shuffled")))
    for control in ("full", "shuffled"):
        space = part.space(control=control)
        assert space.matrix.notna().all(axis=None) and space.replicates is not None
        assert set(cell_table(space).how) == {"measured"}


def test_published_cells_say_how_they_were_made_and_of_which_control(done):
    ran = open_run(done(controls=("shuffled",), probes=("gradient", "transfer")))
    cells = all_spaces(ran)
    spaces = {(k, c): part for (k, c), part in cells.groupby(["kind", "control"])}
    transfer = cell_table(ran.space())
    assert list(spaces["transfer", "none"]["how"]) == list(transfer["how"])
    assert (transfer["how"] == "predicted").sum() == TASKS * (TASKS - 1 - MEASURED)
    assert set(spaces["transfer", "shuffled"]["how"]) == set(spaces["cosine", "none"]["how"]) == {"measured"}
    assert np.allclose(spaces["transfer", "shuffled"]["value"], ran.space(control="shuffled").to_long()["value"])
    assert set(spaces["predicted", "none"]["how"]) == {"predicted"}
    assert not cells.duplicated(["model", "step", "revision", "kind", "control", "source", "target"]).any()


# -- in what order, and by whom


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_wait_for_predictions_and_give_the_same_bytes(here, done, tmp_path, workers):
    fields = {"models": ("one", "two"), "seeds": 2}
    with ThreadPoolExecutor(workers) as pool:
        run(here, tmp_path / "run", pool, **fields)
    assert stored(tmp_path / "run") == stored(done(**fields))


@pytest.mark.slow
def test_processes_wait_for_predictions_and_give_the_same_bytes(here, done, tmp_path):
    fields = {"models": ("one", "two"), "seeds": 2}
    run(here, tmp_path / "run", workers=2, **fields)
    assert stored(tmp_path / "run") == stored(done(**fields))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_shards_compute_the_prediction_themselves_where_it_is_not_there(here, done, tmp_path, order):
    expected, out = stored(done()), tmp_path / "run"
    plan = Plan(study(here))
    jobs = list(plan.jobs())
    assert [jobs[0] in part for part in shares(jobs, 3)].count(True) == 1
    for number in order:
        run(here, out, shard=f"{number}/3")
    assert stored(out) == expected
    run(here, out)  # merges them
    assert stored(out) == expected and open_run(out).status().done == 1 + TASKS
    assert open_run(out).space().matrix.equals(open_run(done()).space().matrix)


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_an_interrupted_run_goes_on(here, done, tmp_path, kept):
    expected, out = stored(done()), tmp_path / "run"
    run(here, out)
    keys = [job.key for job in Plan(study(here)).jobs()]
    for key in keys[kept:]:
        Store(out).files()[key].unlink()
    assert open_run(out).status().missing == 1 + TASKS - kept
    run(here, out)
    assert stored(out) == expected


def test_a_prediction_that_is_lost_later_changes_nothing_that_was_measured(here, done, tmp_path):
    out = tmp_path / "run"
    run(here, out)
    plan = Plan(study(here))
    Store(out).files()[next(plan.jobs()).key].unlink()
    assert open_run(out).space().matrix.isna().sum(axis=None) == TASKS * (TASKS - 1 - MEASURED)  # measured ones alone
    run(here, out)
    assert stored(out) == stored(done())


def test_a_prediction_that_fails_fails_what_waits_for_it_with_the_reason(here, tmp_path):
    (here / "fire").touch()
    try:
        failed = run(here, tmp_path / "run", models=("one", "two")).status()
    finally:
        (here / "fire").unlink()
    assert failed.failed == failed.total == 2 * (1 + TASKS)
    waited = failed.failures[failed.failures["kind"] == "transfer"]
    assert waited["error"].str.startswith("its prediction failed: RuntimeError: the device is on fire").all()
    assert run(here, tmp_path / "run", models=("one", "two")).status().done == 2 * (1 + TASKS)


# -- before and after


def test_the_estimate_counts_the_cells_that_are_measured(here, tmp_path):
    base = {
        "models": ["builtin:nano"],
        "probes": ["transfer"],
        "train_pairs": 10,
        "eval_pairs": 20,
        "ftgd": {"steps": 1},
    }
    found = {c: estimate_study(Study(transfer_cells=c, **base), tmp_path / "run", workers=1) for c in (None, 0.2, 0.5)}
    for cells, estimate in found.items():
        table = estimate.table.set_index("probe")
        assert table.loc["transfer", "jobs"] == 32 and ("predicted" in table.index) == (cells is not None)
    one_job = {c: e.table.set_index("probe").loc["transfer"] for c, e in found.items()}
    assert one_job[0.2]["seconds"] < one_job[0.5]["seconds"] < one_job[None]["seconds"]
    assert one_job[0.2]["seconds"] < 0.6 * one_job[None]["seconds"]
    assert one_job[0.2]["bytes"] < one_job[0.5]["bytes"] < one_job[None]["bytes"]
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_half_done_has_what_is_there(here, tmp_path):
    out = tmp_path / "run"
    run(here, out)
    jobs = list(Plan(study(here)).jobs())
    for job in jobs[-3:]:
        Store(out).files()[job.key].unlink()
    table = cell_table(open_run(out).space())
    assert table.how.value_counts()["missing"] == TASKS * TASKS - 9 * (1 + MEASURED)  # 18 drawn cells are too few
    run(here, out)
    Store(out).files()[jobs[-1].key].unlink()
    table = cell_table(open_run(out).space())
    assert set(table.how[table.source == jobs[-1].source]) == {"missing"}
    assert set(table.how[table.source != jobs[-1].source]) == {"measured", "predicted"}


def test_intervals_hold_what_the_full_run_measured(done):
    held = []
    for lr in (0.3, 3.0):
        fields = {"ftgd": {"steps": 2, "lr": lr}}
        part, full = (open_run(done(**frozen(fields), **more)).space() for more in ({}, {"cells": None}))
        guessed = (cell_table(part).how == "predicted").to_numpy().reshape(TASKS, TASKS)
        inside = (part.low <= full.matrix + 1e-6) & (full.matrix <= part.high + 1e-6)
        held.append(inside.to_numpy()[guessed].mean())
    assert np.mean(held) > 0.9


class frozen(dict):
    "Fields that a cache can take as arguments."

    def __init__(self, fields):
        super().__init__({name: Frozen(value) for name, value in fields.items()})


class Frozen(dict):
    def __hash__(self):
        return hash(tuple(self.items()))


def test_agreement_is_read_off_the_measured_cells(done):
    table = predicted_agreement(open_run(done()))
    assert table["cells"].tolist() == [TASKS * MEASURED]


def test_an_extract_keeps_which_cells_were_measured(done, tmp_path):
    part = open_run(done())
    write_extract(part, tmp_path / "extract", permutations=9, progress=False)
    kept = open_extract(tmp_path / "extract").space("one")
    assert cell_table(kept).how.tolist() == cell_table(part.space()).how.tolist()
    assert np.allclose(kept.low, part.space().low, atol=1e-3)
    tests = open_extract(tmp_path / "extract").table("tests").set_index("kind").loc["transfer"]
    retest_extract(tmp_path / "extract", permutations=9, progress=False)
    again = open_extract(tmp_path / "extract").table("tests").set_index("kind")["measured"]
    assert again["transfer"] == tests["measured"] and again.drop("transfer").isna().all()
    assert tests["measured"] == pytest.approx(MEASURED / (TASKS - 1))
    full = open_run(done(cells=None))
    write_extract(full, tmp_path / "full", permutations=9, progress=False)
    assert "measured" not in open_extract(tmp_path / "full").table("spaces")
    assert set(cell_table(open_extract(tmp_path / "full").space("one")).how) == {"measured"}


def test_the_report_says_what_was_measured(done):
    said = " ".join(methods(open_run(done())).split())
    assert "40% of the other tasks were measured after each" in said and "bit for bit. Without a control" in said
    full = " ".join(methods(open_run(done(cells=None))).split())
    assert "Without a control" not in full and "bit for bit. Transfer is after" in full
