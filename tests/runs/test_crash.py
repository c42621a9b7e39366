"""What happens to long runs, done to short ones: kill -9, Ctrl-C, two at once, bad files, a full disk, lost workers."""

import contextlib
import errno
import functools
import json
import multiprocessing as mp
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import toylm
from atlength import covering
from taskspace.errors import TaskspaceError
from taskspace.runs import execute as runs
from taskspace.runs import store
from taskspace.runs.execute import dask_executor, run_study
from taskspace.runs.jobs import Plan
from taskspace.runs.results import open_run
from taskspace.runs.store import Store
from taskspace.runs.summaries import missing

pytestmark = pytest.mark.slow

fork = mp.get_context("fork")  # a forked main process starts in milliseconds, so twenty of them can be killed
posix = pytest.mark.skipif(os.name == "nt", reason="signals and forks of POSIX")


@pytest.fixture
def toy(tmp_path):
    "Makes the study of 63 jobs, or of fewer seeds, in a folder of its own."
    return functools.partial(toylm.study, tmp_path)


def stored(out):
    "The finished results as bytes, by file name."
    return {p.name: p.read_bytes() for p in Store(out).files().values()}


def quietly(study, out, executor=None, workers=0):
    return run_study(study, out, executor, workers=workers, progress=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder of a run that nothing disturbed, computed once for each number of seeds.
    What slows a model down is no part of its results."""

    @functools.cache
    def folder(seeds):
        here = tmp_path_factory.mktemp(f"uninterrupted{seeds}")
        quietly(toylm.study(here, seeds), here / "run")
        return here / "run"

    return folder


@pytest.fixture
def whole(toy, tmp_path, uninterrupted):
    "The study of 63 jobs and the results of an uninterrupted run, a copy of which is in `whole`."
    shutil.copytree(uninterrupted(3), tmp_path / "whole")
    return toy(), stored(tmp_path / "whole")


# -- the main process dies -------------------------------------------------------------------------
@posix
def test_kill_9_at_twenty_random_moments(whole, tmp_path):
    study, expected = whole
    assert len(expected) == 63
    out, rng, kills, progress = tmp_path / "out", random.Random(0), 0, []
    started = time.perf_counter()
    unhurried = fork.Process(target=quietly, args=(study, tmp_path / "unhurried"))
    unhurried.start()
    unhurried.join()
    span = time.perf_counter() - started  # kills fall all over a run, however fast the machine is
    while kills < 20:
        main = fork.Process(target=quietly, args=(study, out))
        main.start()
        main.join(timeout=rng.uniform(0.03, 0.25) * span)
        if main.is_alive():
            main.kill()
            kills += 1
        main.join()
        found = stored(out) if out.is_dir() else {}
        assert found.items() <= expected.items()  # whatever is there is whole and true
        progress.append(len(found))
        if len(found) == len(expected):  # done before the twentieth kill: take a third of it away and go on killing
            for path in list(Store(out).files().values())[::3]:
                path.unlink()
    assert max(progress) > min(progress)
    quietly(study, out)
    assert stored(out) == expected
    assert not list(Store(out).temporary.iterdir())


@posix
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_kill_9_around_every_call_that_touches_the_disk(toy, tmp_path, uninterrupted, call):
    study, expected = toy(seeds=1), stored(uninterrupted(1))

    def run_and_die(out, after):
        left = [after]

        def watch(event, args):  # Python reports these calls before it makes them
            if event in {"open": ("open",), "replace": ("os.rename",)}.get(call, ()):
                step(args)

        def step(args):
            if not any(str(out) in str(a) for a in args):
                return
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        if call in ("write", "fsync"):

            def fsync(fd, really=os.fsync):
                if call == "fsync":
                    step([out])
                really(fd)
                if call == "write":
                    step([out])

            os.fsync = fsync
        else:
            sys.addaudithook(watch)
        quietly(study, out)

    out, died = tmp_path / "out", 0
    for after in (0, 1, 2, 3, 5, 8, 13, 21, 34):
        main = fork.Process(target=run_and_die, args=(out, after))
        main.start()
        main.join()
        died += main.exitcode == -signal.SIGKILL
        assert not out.is_dir() or stored(out).items() <= expected.items()
    assert died >= 4
    quietly(study, out)
    assert stored(out) == expected


@posix
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to tell which file is synced")
def test_a_result_gets_its_name_when_its_bytes_are_on_the_disk(toy, tmp_path):
    """No kill can fall between opening and writing a name in results/, because none is ever opened for writing:
    each comes by renaming a synced file."""
    study, out = toy(seeds=1), tmp_path / "out"

    def watched():
        results, synced, renamed = str(out / "results"), set(), []

        def watch(event, args):
            if event == "open" and str(args[0]).startswith(results) and args[2] and args[2] & (os.O_WRONLY | os.O_RDWR):
                os._exit(3)
            if event == "os.rename" and str(args[1]).startswith(results):
                if str(args[0]) not in synced:
                    os._exit(4)
                if renamed and str(Path(renamed[-1]).parent) not in synced:
                    os._exit(5)  # the name of the one before
                synced.clear()
                renamed.append(str(args[1]))

        def fsync(fd, really=os.fsync):
            really(fd)
            synced.add(os.readlink(f"/proc/self/fd/{fd}"))

        os.fsync = fsync
        sys.addaudithook(watch)
        quietly(study, out)
        os._exit(0 if len(renamed) == 21 else 6)

    main = fork.Process(target=watched)
    main.start()
    main.join()
    assert main.exitcode == 0


def command(study_file, out, *more):
    "The real command in a process group of its own, with the toy model on its path."
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from taskspace.cli import main; main()",
            "run",
            str(study_file),
            "--out",
            str(out),
            *more,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[i]) for i in (1, 2))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a shell's background jobs, and so their children, ignore it


def wait_for(condition, process, seconds=120):
    "Wait until something is true, looking at it as long as the process lives."
    deadline = psutil.time.time() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert psutil.time.time() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)


@posix
@pytest.mark.parametrize("how", ["kill -9", "Ctrl-C"])
def test_no_orphans_and_a_store_to_go_on_with(toy, tmp_path, uninterrupted, how):
    study = toy(slow=0.02)
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    out = tmp_path / "out"
    main = command(tmp_path / "study.yaml", out, "--workers", "2")
    wait_for(lambda: len(Store(out).files()) > 3, main)
    family = psutil.Process(main.pid).children(recursive=True)
    assert len(family) >= 2
    if how == "kill -9":
        main.kill()
    else:
        os.killpg(main.pid, signal.SIGINT)  # what a terminal does
    _, err = main.communicate(timeout=60)
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    if how == "Ctrl-C":
        assert (
            main.returncode == 130
            and "Traceback" not in err
            and "leaked" not in err
            and "continues where it stopped" in err
        )
    assert 3 < open_run(out).status().done < 63
    quietly(toy(), out)
    assert stored(out) == stored(uninterrupted(3))


@posix
@pytest.mark.parametrize("times", [2, 30])
def test_ctrl_c_pressed_again_and_again_changes_nothing(toy, tmp_path, times):
    (tmp_path / "study.yaml").write_text(toy(slow=0.02).to_yaml())
    main, store = command(tmp_path / "study.yaml", tmp_path / "out", "--workers", "2"), Store(tmp_path / "out")
    wait_for(lambda: len({entry.get("worker") for entry in store.entries()}) > 1, main)
    family = psutil.Process(main.pid).children(recursive=True)
    for _ in range(times):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            main.wait(timeout=0.02)
    _, err = main.communicate(timeout=60)
    assert main.returncode == 130 and err.strip().splitlines()[-1].startswith("taskspace: interrupted")
    assert "Traceback" not in err and "leaked" not in err and err.count("interrupted") == 1
    assert not psutil.wait_procs(family, timeout=30)[1]


# -- two at once -----------------------------------------------------------------------------------
@posix
def test_two_runs_at_once_one_refuses_and_nothing_is_lost(toy, tmp_path):
    study, out = toy(seeds=1, slow=0.01), tmp_path / "out"
    first = fork.Process(target=quietly, args=(study, out))
    first.start()
    while first.is_alive() and not Store(out).files():
        first.join(timeout=0.01)
    with pytest.raises(TaskspaceError, match=f"another run is writing here .process {first.pid} on"):
        quietly(study, out)
    assert open_run(out).status().running
    seen = []
    while first.is_alive():  # what is there can be read while it goes on
        run = open_run(out)
        seen.append((run.status().done, int((run.log().state == "done").sum()), len(run.provenance())))
        rows = run.rows()
        if rows:
            assert run.space().matrix.loc[[source for source, _ in rows]].notna().all(axis=None)
        first.join(timeout=0.05)
    assert all(a <= b <= c for a, b, c in seen) and seen == sorted(seen) and len(set(seen)) > 2
    first.join()
    assert first.exitcode == 0 and open_run(out).status().done == 21 and not open_run(out).status().running


def test_the_lock_holds_also_where_the_early_look_missed_it(toy, tmp_path, monkeypatch):
    study, out = toy(seeds=1), tmp_path / "out"
    with Store(out).create().locked():
        monkeypatch.setattr(Store, "busy", False)
        with pytest.raises(TaskspaceError, match="another run is writing here"):
            quietly(study, out)
    assert not Store(out).files()


# -- files that cannot be trusted ------------------------------------------------------------------
@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_results_are_set_aside_and_computed_again(whole, tmp_path, damage):
    study, expected = whole
    out = tmp_path / "whole"
    victims = list(Store(out).files().values())[5:8]
    for n, path in enumerate(victims):
        data = bytearray(path.read_bytes())
        if damage == "truncated":
            data = data[: len(data) // 2]
        elif damage == "empty":
            data = b""
        else:
            data[(len(data) - 1) * n // 2] ^= 1 << n
        path.write_bytes(data)
    before = open_run(out)
    assert before.status(check=True).done == 60 and sorted(
        before.log(check=True).query("state == 'missing'").key
    ) == sorted(p.name[:32] for p in victims)
    if damage != "flipped":
        assert before.status().done == 60 and (before.log().state == "missing").sum() == 3
    assert missing(before).jobs.sum() == 3
    assert (
        sum(len(before.rows(control=c)) for c in ("none", "full", "masked", "shuffled")) + len(before.gradients()) == 60
    )  # not believed by readers either
    run = quietly(study, out)
    assert stored(out) == expected
    assert sorted(p.name for p in Store(out).aside.iterdir()) == sorted(f"{p.name}.0" for p in victims)
    assert run.status().set_aside == 3 and sum(e["state"] == "aside" for e in run.store.entries()) == 3


def test_status_reads_no_result_whose_size_the_log_knows(whole, tmp_path, monkeypatch):
    run, read, really = open_run(tmp_path / "whole"), [], store.read_result
    monkeypatch.setattr(store, "read_result", lambda path: read.append(path) or really(path))
    assert run.status().done == 63 and (run.log().state == "done").all() and not read
    lines = run.store.log_path.read_text().splitlines()
    run.store.log_path.write_text(
        "\n".join(json.dumps({**json.loads(line), "bytes": None}) for line in lines[:10]) + "\n"
    )  # no sizes, as older runs and killed ones leave it
    victim = list(run.store.files().values())[0]
    victim.write_bytes(victim.read_bytes()[:-1])
    assert run.status().done == 62 and len(read) == 63


@pytest.mark.parametrize("name", ["plan.*", "suite.*"])
@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:20] + bytes([d[20] ^ 4]) + d[21:]])
def test_a_damaged_plan_or_suite_is_not_believed_and_written_again(toy, tmp_path, uninterrupted, name, damage):
    study, out = toy(seeds=1), shutil.copytree(uninterrupted(1), tmp_path / "out")
    (path,) = out.glob(name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TaskspaceError, match="missing or damaged; start the same taskspace run again"):
        open_run(out).space()
    quietly(study, out)
    assert open_run(out).space().matrix.shape == (5, 5)


def test_a_log_that_was_cut_or_scribbled_on_is_no_obstacle(whole, tmp_path):
    study, expected = whole
    out = tmp_path / "whole"
    log = out / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-7] + b'\n\xff\xfe\n[]\nnull\n{"key": 3, "state"')
    assert open_run(out).status().done == 63
    list(Store(out).files().values())[0].unlink()
    assert quietly(study, out).status().done == 63 and stored(out) == expected


# -- no space left ---------------------------------------------------------------------------------
@pytest.mark.parametrize("after, code", covering([0, 1, 2, 3, 4, 5, 20, 21], [errno.ENOSPC, errno.EDQUOT]))
def test_a_full_disk_stops_the_run_with_a_clear_line(toy, tmp_path, monkeypatch, uninterrupted, after, code):
    study, expected = toy(seeds=1), stored(uninterrupted(1))
    out, left, sync = tmp_path / "out", [after], os.fsync

    def full(fd):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        sync(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        TaskspaceError, match="no space left on the disk; free some and start the same command again"
    ) as e:
        quietly(study, out)
    assert "\n" not in str(e.value)
    monkeypatch.undo()
    assert stored(out).items() <= expected.items() and not list(Store(out).temporary.iterdir())
    quietly(study, out)
    assert stored(out) == expected


@posix
@pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs user namespaces to mount a small disk",
)
def test_a_disk_that_is_really_full(whole, tmp_path):
    study, expected = whole
    (tmp_path / "disk").mkdir()
    script = """
import sys
import time
sys.path[:0] = {path!r}
from pathlib import Path
from taskspace.runs.execute import run_study
from taskspace.runs.store import Store
from taskspace.runs.study import read_study
from taskspace.errors import TaskspaceError
import subprocess
out = Path({disk!r}) / "out"
study = read_study({study!r})
try: run_study(study, out, workers=0, progress=False)
except TaskspaceError as e: print(e)
print(len(Store(out).files()))
subprocess.run(["mount", "-o", "remount,size=50M", {disk!r}], check=True)
print(run_study(study, out, workers=0, progress=False).status().done)
print(*sorted(p.name for p in Store(out).files().values()))
"""
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    (tmp_path / "script.py").write_text(
        script.format(
            path=[str(Path(__file__).parents[1])], disk=str(tmp_path / "disk"), study=str(tmp_path / "study.yaml")
        )
    )
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            f"mount -t tmpfs -o size=256k none {tmp_path}/disk && exec {sys.executable} {tmp_path}/script.py",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout.splitlines()
    assert "no space left on the disk" in said[0], done.stderr
    assert 0 < int(said[1]) < 63 and said[2] == "63" and set(said[3].split()) == set(expected)


# -- workers that die ------------------------------------------------------------------------------
@posix
def test_a_killed_worker_costs_nothing_but_time(toy, tmp_path, uninterrupted):
    study, out = toy(slow=0.005), tmp_path / "out"
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    main = command(tmp_path / "study.yaml", out, "--workers", "2", "--quiet")
    wait_for(lambda: len(Store(out).files()) > 3, main)
    family = psutil.Process(main.pid).children(recursive=True)
    workers = [p for p in family if not p.children() and "resource_tracker" not in " ".join(p.cmdline())]
    workers[0].kill()
    _, err = main.communicate(timeout=120)
    assert main.returncode == 0 and "leaked" not in err, err
    assert stored(out) == stored(uninterrupted(3))


class Breaking(runs._Serial):
    "A pool whose worker dies at one job, over and over."

    def __init__(self, deadly):
        self.deadly, self.executor, self.gpus, self.starts = deadly, self, [], 0

    def start(self):
        self.starts += 1

    def stop(self):
        pass

    def submit(self, fn, payload):
        if payload["job"][0] in self.deadly:
            future = runs.Future()
            future.set_exception(runs.BrokenExecutor("died"))
            return future
        return super().submit(fn, payload)


def test_a_job_that_kills_its_worker_is_found_and_the_others_are_done(toy, tmp_path, monkeypatch):
    study = toy(seeds=1)
    keys = [j.key for j in Plan(study).jobs()]
    pool = Breaking({keys[4], keys[9]})
    monkeypatch.setattr(runs, "_Pool", lambda *_: pool)
    status = run_study(study, tmp_path / "out", progress=False).status()
    assert status.done == len(keys) - 2 and set(status.failures.key) == {keys[4], keys[9]}
    assert status.failures.error.str.contains("worker process died").all() and pool.starts > 2


def test_workers_that_all_die_end_the_run(toy, tmp_path, monkeypatch):
    study = toy(seeds=1)
    monkeypatch.setattr(runs, "_Pool", lambda *_: Breaking({j.key for j in Plan(study).jobs()}))
    with pytest.raises(TaskspaceError, match="every worker process dies"):
        run_study(study, tmp_path / "out", progress=False)


# -- Dask ------------------------------------------------------------------------------------------
@contextlib.contextmanager
def dask_cluster(port=0, workers=2):
    "A scheduler and single-threaded worker processes on loopback, without nannies: address, scheduler, workers."
    pytest.importorskip("distributed")
    here = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60",
        "OMP_NUM_THREADS": "1",
    }

    def start(*args):
        command = [sys.executable, "-m", "distributed.cli." + args[0], *args[1:]]
        return subprocess.Popen(command, env=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    scheduler = start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
    started = [
        start("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        for _ in range(workers)
    ]
    try:
        for w in started:
            next(line for line in w.stderr if "Registered to:" in line)
        yield address, scheduler, started
    finally:
        for p in (*started, scheduler):
            p.kill()
        for p in (*started, scheduler):
            p.wait()


@pytest.mark.soak
def test_dask_gives_the_same_bytes_also_when_a_worker_is_killed_and_when_the_scheduler_is(toy, tmp_path, uninterrupted):
    "All goes well; then a worker is killed and the run goes on; then the scheduler, and another one ends the run."
    expected, out, study = stored(uninterrupted(3)), tmp_path / "out", tmp_path / "study.yaml"
    study.write_text(toy(slow=0.005).to_yaml())

    def start(address):
        return command(study, out, "--executor", "dask", "--scheduler", address, "--quiet")

    with dask_cluster() as (address, scheduler, workers):
        with dask_executor(address) as executor:
            quietly(toy(), tmp_path / "two", executor)
        assert stored(tmp_path / "two") == expected and open_run(tmp_path / "two").log().worker.nunique() == 2
        main = start(address)
        wait_for(lambda: len(Store(out).files()) > 3, main, seconds=400)
        workers[0].kill()
        survived = len(Store(out).files())
        wait_for(lambda: len(Store(out).files()) > survived + 3, main, seconds=400)
        scheduler.kill()
        _, err = main.communicate(timeout=400)
    kept = stored(out)
    assert main.returncode == 2 and "start the same run again" in err.splitlines()[-1]
    assert 3 < len(kept) < 63 and kept.items() <= expected.items()
    with dask_cluster(int(address.rsplit(":", 1)[1]), workers=1) as (again, *_):
        assert again == address
        main = start(again)
        _, err = main.communicate(timeout=400)
    assert main.returncode == 0, err
    assert stored(out) == expected


def test_a_scheduler_that_is_not_there():
    with (
        pytest.raises(TaskspaceError, match="scheduler 'tcp://127.0.0.1:9' does not answer"),
        dask_executor("tcp://127.0.0.1:9", timeout=0.5),
    ):
        pass


def test_dask_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(TaskspaceError, match=r"pip install 'taskspace\[dask\]'"), dask_executor("tcp://127.0.0.1:9"):
        pass


class Failing(runs._Serial):
    "An executor of the user's own that fails at one job, in a way of its own."

    def __init__(self, at, error):
        self.at, self.error = at, error

    def submit(self, fn, payload):
        if payload["job"][0] != self.at:
            return super().submit(fn, payload)
        future = runs.Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    "error, says",
    [
        (
            runs.BrokenExecutor("died"),
            "the executor broke; start the same run again with a fresh one, finished jobs are kept",
        ),
        (runs.CancelledError(), "the scheduler dropped the jobs; start the same run again when it is back"),
    ],
)
def test_an_executor_that_is_lost_ends_the_run_and_keeps_what_is_done(toy, tmp_path, uninterrupted, error, says):
    study, out, expected = toy(seeds=1), tmp_path / "out", stored(uninterrupted(1))
    with pytest.raises(TaskspaceError, match=says):
        quietly(study, out, Failing([j.key for j in Plan(study).jobs()][7], error))
    assert len(stored(out)) == 7 and stored(out).items() <= expected.items()
    quietly(study, out)
    assert stored(out) == expected


def test_a_job_that_the_executor_gives_up_is_a_failed_job(toy, tmp_path):
    study, out = toy(seeds=1), tmp_path / "out"
    lost = [j.key for j in Plan(study).jobs()][7]
    status = quietly(study, out, Failing(lost, TimeoutError("no worker wanted it\nmore"))).status()
    assert (
        status.done == 20
        and list(status.failures.key) == [lost]
        and list(status.failures.error) == ["TimeoutError: no worker wanted it"]
    )
