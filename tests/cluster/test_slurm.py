"The array of shards on a real SLURM: cancelled, killed, out of time and put back into the queue."

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from one_node import cluster, lacking

import toylm
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.files import lock_holder
from taskspace.runs.execute import run_study
from taskspace.runs.slurm import slurm_scripts, SlurmJob
from taskspace.runs.store import Store

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    "The environment in which the commands of SLURM find a cluster of one node with four CPUs."
    if reason := lacking():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm") / "node") as env:
        yield {**env, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}


def said(*command, env):
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def accepted(*command, env):
    "Whether SLURM takes a command. It refuses to change a job that it is just about to put back into the queue."
    return subprocess.run(command, env=env, capture_output=True, text=True).returncode == 0


def stored(out):
    "The finished results as bytes, by file name."
    return {p.name: p.read_bytes() for p in Store(out).files().values()}


def until(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


@pytest.mark.slow
def test_an_array_that_is_cancelled_killed_out_of_time_and_requeued_gives_the_same_bytes(slurm, tmp_path):
    gate, out = tmp_path / "gate", tmp_path / "out"
    (tmp_path / "plain").mkdir()
    run_study(toylm.study(tmp_path / "plain", 2), tmp_path / "undisturbed", workers=0, progress=False)
    expected = stored(tmp_path / "undisturbed")
    gate.touch()
    study = toylm.study(tmp_path, 2, hold_if=str(gate), hold_after=65)  # each does one job or some
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    command = [sys.executable, "-m", "taskspace.cli", "slurm", "study.yaml", "--out", "out", "--array", "4", "--submit"]
    told = subprocess.run(command, env=slurm, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0 and "42 jobs to do in 4 shards\nSubmitted: array" in told.stdout, told.stderr
    array, report = re.search(r"array (\d+), report (\d+)", told.stdout).groups()

    def logs():
        return "\n".join(f"{p.name}: {p.read_text()}" for p in (out / "slurm").glob("*.log"))

    def held(number):
        place = Store(out / "shards" / f"{number}-of-4")
        return place.busy and len(place.files()) > 0

    until(lambda: all(held(n) for n in (1, 2, 3, 4)), logs)
    assert 4 <= len(stored(out)) < 42 and stored(out).items() <= expected.items()
    said("scontrol", "update", f"JobId={array}_3", "TimeLimit=1", env=slurm)  # SLURM looks at limits every 30 s
    said("scancel", f"{array}_1", env=slurm)
    said("scontrol", "requeue", f"{array}_4", env=slurm)
    pid = int(lock_holder(out / "shards" / "2-of-4" / "lock").split()[1])
    os.kill(pid, signal.SIGKILL)
    until(lambda: "interrupted; the same command continues" in (out / "slurm" / f"{array}_3.log").read_text(), logs)
    longer = ("scontrol", "update", f"JobId={array}_3", "TimeLimit=UNLIMITED")  # for when it comes back
    until(lambda: accepted(*longer, env=slurm), logs)
    gate.unlink()
    until(lambda: said("squeue", "-h", "-j", array, env=slurm) == "", logs)
    until(lambda: not (out / "shards").exists(), logs)  # the report begins with the merge
    said("scancel", report, env=slurm)
    assert stored(out) == expected
    state = {n: said("scontrol", "show", "job", f"{array}_{n}", env=slurm) for n in (1, 2, 3, 4)}
    assert "JobState=CANCELLED" in state[1] and "Restarts=0" in state[1]
    assert all("JobState=COMPLETED" in state[n] and "Restarts=1" in state[n] for n in (2, 3, 4)), state
    assert "Traceback" not in logs()


def test_a_task_that_finishes_nothing_is_not_started_again(tmp_path):
    "Without a SLURM: a command that does nothing and dies, and one that is asked to requeue."
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho requeued $*\n")
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "setup").write_text('taskspace() { mkdir -p out/shards/3-of-4/results/aa; eval "$WORK"; exit 137; }\n')
    array, _ = slurm_scripts("study.yaml", "out", SlurmJob("4", setup=str(tmp_path / "setup")))
    array = array.replace(str(Path("out").resolve()), "out")
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_JOB_ID": "7",
    }
    for work, code, says in (
        ("true", 137, ""),
        ("touch out/shards/3-of-4/results/aa/k.parquet", 0, "requeued requeue 7_3"),
    ):
        done = subprocess.run(
            ["bash", "-c", array], env={**env, "WORK": work}, cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.strip()) == (code, says), done.stderr
        assert ("has finished no job; it is not started again" in done.stderr) == (code == 137)


@pytest.mark.parametrize(
    "more, says",
    [
        (["--submit"], "--submit: there is no sbatch here; leave it out"),
        (["--time", "4h"], "--time 4h: write minutes, HH:MM:SS or D-HH:MM"),
        (["--mem", "16 GB"], "--mem 16 GB: write a number with K, M, G or T"),
        (["--partition", "a\n#SBATCH --x"], "--partition a #SBATCH --x: write the name of a partition"),
        (["--array", "0"], "--array 0: write 32, or 32%8 for at most 8 at a time"),
        (["--setup", "nowhere.sh"], "--setup nowhere.sh: no such file"),
    ],
)
def test_what_slurm_would_not_take_is_one_line_and_nothing_is_written(more, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "study.yaml").write_text("suite: builtin\nmodels: [builtin:nano]\n")
    with pytest.raises(SystemExit) as e:
        main(["slurm", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--array", "4", *more])
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.startswith(f"taskspace: {says}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_path_that_slurm_cannot_read(tmp_path):
    with pytest.raises(TaskspaceError, match="SLURM cannot read a path with '%'"):
        slurm_scripts("study.yaml", tmp_path / "50%", SlurmJob("4"))
