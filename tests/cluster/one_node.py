"""A SLURM cluster of one node on this machine, with every file in one folder: for tests, and to try a script by hand.

    python tests/cluster/one_node.py FOLDER        starts it, says how to use it, and ends it with Ctrl-C

Needs Debian's packages slurm-wlm and munge. It changes nothing outside the folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={port}
SlurmdPort={other}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str | None:
    "What this machine lacks for a cluster; None where it has all."
    gone = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"{gone[0]} is not installed (apt-get install slurm-wlm munge)" if gone else None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _start(*command: str, env: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def cluster(folder: Path):
    "Start it in a new folder, and give the environment with which the commands of SLURM find it."
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    names = {"folder": folder, "host": host, "user": getpass.getuser()}
    (folder / "slurm.conf").write_text(CONFIG.format(port=_free_port(), other=_free_port(), **names))
    env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["key-file=munge.key", "socket=munge.socket", "pid-file=munge.pid", "log-file=munge.log"]
    paths = [f"--{name}={folder}/{place}" for name, place in (m.split("=") for m in [*munge, "seed-file=munge.seed"])]
    started = [_start("munged", "--foreground", "--force", *paths, env=env)]
    try:
        _wait(lambda: (folder / "munge.socket").exists(), started)
        started += [_start("slurmctld", "-D", "-i", env=env), _start("slurmd", "-D", "-N", host, env=env)]
        _wait(lambda: "idle" in _said("sinfo", "-h", "-o", "%T", env=env), started)
        yield env
    finally:
        if len(started) == len(("munged", "slurmctld", "slurmd")):
            _said("scancel", "--user", getpass.getuser(), env=env)
            with contextlib.suppress(RuntimeError):
                _wait(lambda: not _said("squeue", "-h", env=env), started)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _said(*command: str, env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def _wait(condition, started: list[subprocess.Popen], seconds: float = 30) -> None:
    "Wait until something is true, while all programs that were started live."
    pause = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        if any(process.poll() is not None for process in started):
            break
        pause.wait(0.1)
    raise RuntimeError("the cluster does not start; see the logs in its folder")


if __name__ == "__main__":
    if reason := lacking():
        sys.exit(reason)
    with cluster(Path(sys.argv[1]).resolve()) as env:
        print(f"export SLURM_CONF={env['SLURM_CONF']}")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
