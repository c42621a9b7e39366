"Shards: processes that share a run with no server. What happens to one run happens to one of them, and to all at once."

import errno
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_crash import fork, posix, quietly, stored

import toylm
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.runs import jobs as jobs_module
from taskspace.runs import shards
from taskspace.runs.execute import run_study
from taskspace.runs.jobs import Job
from taskspace.runs.results import open_run
from taskspace.runs.shards import claimed, merge_shards, Shard, shard_locked, shares
from taskspace.runs.store import Store
from taskspace.runs.study import Study

OF = 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The results of an undivided run of 21 jobs, and the study."
    here = tmp_path_factory.mktemp("whole")
    study = toylm.study(here, 1)
    quietly(study, here / "run")
    return study, stored(here / "run")


def one(study, out, number, of=OF, executor=None):
    return run_study(study, out, executor, workers=0, progress=False, shard=f"{number}/{of}")


@pytest.fixture
def divided(whole, tmp_path):
    "The folder of a run that three shards have finished."
    for number in range(1, OF + 1):
        one(whole[0], tmp_path / "out", number)
    return tmp_path / "out"


def one_line(call):
    with pytest.raises(TaskspaceError) as e:
        call()
    text = str(e.value)
    assert "\n" not in text and len(text) < 400
    return text


# -- who does what
@pytest.mark.parametrize("of", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("sizes", [[20] * 9, [5], [1, 1, 1], [3, 90, 3, 90, 3], [70, 70, 70, 71] * 3])
def test_every_job_is_in_one_share_and_few_checkpoints_are_loaded_twice(of, sizes):
    jobs = [Job(f"{at:02}{n:030}", "transfer", at) for at, size in enumerate(sizes) for n in range(size)]
    parts = shares(jobs + jobs[:3], of)
    assert len(parts) == of and sorted(j for part in parts for j in part) == jobs
    assert all([j.at for j in part] == sorted(j.at for j in part) for part in parts)
    loads = sum(len({j.at for j in part}) for part in parts)
    assert loads <= len(sizes) + of
    longest, least = max(map(len, parts)), -(-len(jobs) // of)
    assert longest <= max(least + 1, max(sizes))


def test_each_shard_loads_its_own_checkpoints(tmp_path, monkeypatch):
    toylm.suite(tasks=5).to_frame().to_parquet(tmp_path / "toy.parquet")
    models = [
        {"name": toylm.write(tmp_path / f"m{i}.json", seed=i), "loader": "toylm:load", "label": f"m{i}"}
        for i in range(4)
    ]
    study = Study(
        suite=str(tmp_path / "toy.parquet"),
        models=models,
        probes=["transfer"],
        train_pairs=4,
        eval_pairs=3,
        ftgd={"steps": 1},
    )
    used, real = [], jobs_module.compute
    monkeypatch.setattr(jobs_module, "compute", lambda p: used.append(p["checkpoint"].model) or real(p))
    one(study, tmp_path / "out", 1, 2)
    first, used[:] = set(used), []
    one(study, tmp_path / "out", 2, 2)
    assert len(first) == len(set(used)) == 2 and first | set(used) == {"m0", "m1", "m2", "m3"}


# -- the same bytes
@pytest.mark.slow
def test_shards_give_the_bytes_of_an_undivided_run_before_and_after_the_merge(whole, divided):
    expected = whole[1]
    assert stored(divided) == expected and not list(Store(divided).results.rglob("*.parquet"))
    run = open_run(divided)
    assert str(run.status()).startswith("21 of 21 jobs done") and run.space().matrix.notna().all(axis=None)
    times = run.log().set_index("key").seconds
    with Store(divided).locked():
        assert merge_shards(Store(divided)) == 21
    assert stored(divided) == expected and not Store(divided).shards.exists()
    assert open_run(divided).log().set_index("key").seconds.equals(times)


class Lost(ThreadPoolExecutor):
    "An executor that is lost after some jobs."

    def __init__(self, jobs):
        super().__init__(1)
        self.left = jobs

    def submit(self, fn, *args):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("lost")
        return super().submit(fn, *args)


@pytest.mark.parametrize("takes", ["3/3", "1/2", "1/3", None])
def test_the_next_run_takes_over_what_a_dead_shard_has_left(whole, tmp_path, takes):
    study, expected = whole
    out = tmp_path / "out"
    with pytest.raises(TaskspaceError, match="takes no more jobs"), Lost(2) as lost:
        one(study, out, 1, executor=lost)
    one(study, out, 2)
    after = 2 + 7 + 5  # the second has taken over what the first has left, and not the part of the third
    assert len(stored(out)) == after and stored(out).items() <= expected.items()
    run_study(study, out, workers=0, progress=False, shard=takes)
    assert len(stored(out)) == {"3/3": 21, "1/2": len(stored(out)), "1/3": after, None: 21}[takes]
    assert stored(out).items() <= expected.items()


def test_what_failed_in_a_dead_shard_is_left_to_its_own_next_run(whole, tmp_path):
    fire = tmp_path / "fire"
    study, expected, out = toylm.study(tmp_path, 1, raise_if=str(fire)), whole[1], tmp_path / "out"
    fire.touch()
    one(study, out, 1)
    fire.unlink()
    one(study, out, 2)
    one(study, out, 3)
    status = open_run(out).status()
    assert status.failed == 7 and status.done == 14
    one(study, out, 1)
    assert open_run(out).status().done == 21 and len(expected) == 21


# -- kill -9, one of them or all
@posix
@pytest.mark.slow
def test_kill_9_of_each_and_of_all_at_random_moments(whole, tmp_path):
    study, expected = whole
    out, rng, kills = tmp_path / "out", random.Random(0), 0
    while kills < 12:
        group = [fork.Process(target=one, args=(study, out, n)) for n in range(1, OF + 1)]
        for process in group:
            process.start()
        for process in rng.sample(group, rng.randint(1, OF)):
            process.join(timeout=rng.uniform(0.02, 0.6))
            if process.is_alive():
                process.kill()
                kills += 1
        for process in group:
            process.join()
        assert stored(out).items() <= expected.items() if out.is_dir() else True
        if len(stored(out)) == len(expected):
            for path in list(Store(out).files().values())[::3]:
                path.unlink()
    for number in range(1, OF + 1):
        one(study, out, number)
    assert stored(out) == expected


@pytest.mark.slow
@posix
def test_a_merge_that_is_killed_loses_nothing(whole, divided):
    study, expected = whole

    def merge_and_die(after):
        left, replace = [after], os.replace

        def counted(*args):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            replace(*args)

        os.replace = counted
        with Store(divided).locked():
            merge_shards(Store(divided))

    for after in (0, 3, 9, 9):
        main = fork.Process(target=merge_and_die, args=(after,))
        main.start()
        main.join()
        assert stored(divided) == expected and open_run(divided).status().done == 21
    assert main.exitcode == 0 or main.exitcode == 9
    assert quietly(study, divided).status().done == 21 and stored(divided) == expected
    assert not Store(divided).shards.exists()


# -- two at once
def test_one_number_twice_and_a_run_beside_shards_are_refused(whole, tmp_path):
    study, out = whole[0], tmp_path / "out"
    with shard_locked(Store(out), Shard(1, OF)):
        assert f"shard 1/3 is at work already (process {os.getpid()} on" in one_line(lambda: one(study, out, 1))
        assert "shard 1/3 is at work here (process" in one_line(lambda: quietly(study, out))
        assert "shard 1/3 is at work here (process" in one_line(lambda: one(study, out, 1, of=2))
        one(study, out, 2)
        assert open_run(out).status().shards == ("1/3",) and "running now (shard 1/3)" in str(open_run(out).status())
        with Store(out).locked():
            assert "shard 1/3 is at work here" in one_line(lambda: merge_shards(Store(out)))
    with Store(out).locked():
        assert "another run is writing here" in one_line(lambda: one(study, out, 1))


def test_a_shard_whose_work_was_taken_over_leaves_it_there(whole, tmp_path, capsys):
    study, out = whole[0], tmp_path / "out"
    one(study, out, 2)
    before = stored(out)
    next(iter(Store(out).files().values())).unlink()
    with claimed(Store(out), Shard(2, OF)) as mine:
        assert mine
        run_study(study, out, workers=0, shard="2/3")
    assert len(stored(out)) == len(before) - 1 and "shard 2/3: process" in capsys.readouterr().out
    one(study, out, 2)
    assert stored(out) == before


# -- files that cannot be trusted
def test_damaged_results_of_a_shard_are_computed_again(whole, divided):
    study, expected = whole
    victims = [list(Store(p).files().values())[1] for p in sorted(Store(divided).shards.iterdir())]
    for path in victims:
        path.write_bytes(path.read_bytes()[:-5])
    assert open_run(divided).status().done == 18
    one(study, divided, 2)  # its own, and those of the two that have died
    assert stored(divided) == expected and open_run(divided).status().set_aside == 1
    assert quietly(study, divided).status().set_aside == 3
    assert stored(divided) == expected


def test_a_log_that_was_scribbled_on_is_no_obstacle(divided):
    log = Store(divided / "shards" / "1-of-3").log_path
    log.write_bytes(log.read_bytes()[:-7] + b'\n\xff\xfe\n[]\n{"time": 3, "key": null}\n{"key"')
    assert open_run(divided).status().done == 21
    with Store(divided).locked():
        merge_shards(Store(divided))
    assert open_run(divided).status().done == 21


# -- no space left
@pytest.mark.parametrize("after", [0, 6, 17])
def test_a_full_disk_costs_a_shard_one_line(whole, tmp_path, monkeypatch, after):
    study, expected = whole
    out, left, sync = tmp_path / "out", [after], os.fsync
    one(study, out, 2)

    def full(fd):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(fd)

    monkeypatch.setattr(os, "fsync", full)
    assert "no space left on the disk; free some" in one_line(lambda: one(study, out, 1))
    monkeypatch.undo()
    assert stored(out).items() <= expected.items()
    for number in (1, 3):
        one(study, out, number)
    assert stored(out) == expected


# -- what does not belong together
def test_shards_of_other_studies_weights_or_code_are_refused(whole, tmp_path, monkeypatch):
    study, out = whole[0], tmp_path / "out"
    one(study, out, 1)
    before = stored(out)
    other = study.model_copy(update={"train_pairs": 3})
    said = one_line(lambda: one(other, out, 2))
    assert f"{out}: shard 1/3 ran with train_pairs: 4, this is 3; use one study in all shards, or say taskspace" in said
    assert "shard 1/3 ran with train_pairs: 4" in one_line(lambda: one(other, out, 1))
    monkeypatch.setattr(shards, "code_version", lambda: "9.9.9+0")
    assert "ran with taskspace 0.1.0+" in one_line(lambda: one(study, out, 2))
    monkeypatch.undo()
    record = out / "shards" / "1-of-3" / "shard.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "jobs": "0" * 32}))
    assert "ran with other weights or sentences" in one_line(lambda: one(study, out, 2))
    record.write_text("{")
    assert "shard.json: damaged; remove it and start this shard again" in one_line(lambda: one(study, out, 2))
    record.unlink()
    one(study, out, 1)
    assert stored(out) == before
    with Store(out).locked():
        merge_shards(Store(out))
    one(other, out, 2)  # after a merge a changed study may go on
    assert before.items() < stored(out).items()


@pytest.mark.slow
def test_a_merge_of_a_foreign_folder_is_refused_before_anything_moves(whole, divided, tmp_path, capsys):
    other = tmp_path / "other"
    one(whole[0].model_copy(update={"train_pairs": 3}), other, 1, of=4)
    shutil.copytree(other / "shards" / "1-of-4", divided / "shards" / "1-of-4")

    def refused(says):
        with pytest.raises(SystemExit) as e:
            main(["merge", str(divided)])
        error = capsys.readouterr().err
        assert e.value.code == 2 and says in error and error.count("\n") == 1
        assert len(list(divided.glob("shards/*-of-3/results/*/*.parquet"))) == 21

    refused("1-of-4: its jobs are not those of")
    (divided / "shards" / "1-of-4" / "shard.json").unlink()
    refused("1-of-4: has results but no shard.json that says of what; move it away")
    (divided / "shards" / "1-of-4").rename(divided / "shards" / "holiday")
    refused("holiday: no shard's folder; move it away")
    shutil.rmtree(divided / "shards" / "holiday")
    for path in [*other.glob("plan.*"), *other.glob("suite.*")]:
        shutil.copy(path, divided)
    for path in set(divided.glob("plan.*")) - {divided / p.name for p in other.glob("plan.*")}:
        path.unlink()
    refused("1-of-3: its jobs are not those of")


@pytest.mark.parametrize(
    "given, says",
    [
        ("5/4", "shard 5/4: there is none; of 4 the first is 1/4 and the last 4/4"),
        ("0/4", "shard 0/4: there is none"),
        ("1/0", "shard 1/0: not a shard; write I/N"),
        ("two", "shard two: not a shard; write I/N"),
        ("-1/4", "shard -1/4: not a shard"),
    ],
)
def test_a_shard_that_is_none(given, says, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("suite: builtin\nmodels: [builtin:nano]\n")
    with pytest.raises(SystemExit) as e:
        main(["run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), f"--shard={given}"])
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.startswith(f"taskspace: {says}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@posix
@pytest.mark.parametrize("place", ["shards", "shards/1-of-3", "shards/1-of-3/results", "shards/1-of-3/shard.json"])
def test_a_link_that_leads_out_of_a_shard_is_refused(divided, tmp_path, place):
    kept = (divided / place).rename(tmp_path / "kept")
    (divided / place).symlink_to(kept)
    assert "a symbolic link that leads out of the run's folder" in one_line(lambda: open_run(divided))
