"Parsl as the executor of a run, also when a worker is lost."

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import toylm
from taskspace.runs.execute import run_study
from taskspace.runs.store import Store

pytestmark = pytest.mark.slow


def stored(out):
    "The finished results as bytes, by file name."
    return {p.name: p.read_bytes() for p in Store(out).files().values()}


@pytest.fixture
def parsl(tmp_path, monkeypatch):
    "A pool of two workers on this machine."
    pytest.importorskip("parsl", reason="Parsl is not installed (pip install 'taskspace[parsl]')")
    from parsl import Config, HighThroughputExecutor
    from parsl.concurrent import ParslPoolExecutor
    from parsl.launchers import SimpleLauncher
    from parsl.providers import LocalProvider

    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests.parent), *filter(None, sys.path)]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    workers = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=2,
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1, launcher=SimpleLauncher()),
    )
    config = Config(executors=[workers], run_dir=str(tmp_path / "parsl"), initialize_logging=False, retries=2)
    with ParslPoolExecutor(config) as executor:
        yield executor


def test_parsl_gives_the_same_bytes(parsl, tmp_path):
    study = toylm.study(tmp_path, 1)
    for name, executor in (("one", None), ("two", parsl)):
        run_study(study, tmp_path / name, executor, workers=0 if executor is None else None, progress=False)
    assert stored(tmp_path / "two") == stored(tmp_path / "one") and len(stored(tmp_path / "two")) == 21


def test_a_lost_worker_costs_nothing_but_time(parsl, tmp_path):
    "One worker process is killed in the middle of a run; its job is done by another one."
    study = toylm.study(tmp_path, 1)
    run_study(study, tmp_path / "one", workers=0, progress=False)
    toylm.write(tmp_path / "model.json", slow=0.02)  # the same weights, so the same results
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(run_study, study, tmp_path / "two", parsl, progress=False)
        store = Store(tmp_path / "two")
        while len(done := [e for e in store.entries() if e.get("state") == "done"]) < 3:
            assert not running.done(), running.exception()
            time.sleep(0.05)
        killed = done[-1]["worker"]
        os.kill(int(killed.split(":")[1]), signal.SIGKILL)
        assert len(store.files()) < 21
        run = running.result(timeout=180)
    before, after = (sum(e["worker"] == killed for e in some) for some in (done, run.store.entries()))
    assert run.status().done == 21 and after <= before + 1  # a result may have been on its way
    assert stored(tmp_path / "two") == stored(tmp_path / "one")
