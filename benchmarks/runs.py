"""What a run costs beside the science: planning, storing, status, memory; an estimate for a study of the paper's size.

    python benchmarks/runs.py            10,000 jobs through the store, a plan of 100,000
    python benchmarks/runs.py --pool     the same with jobs going through local worker processes
    python benchmarks/runs.py --scale status      status of 1,000,000 jobs that are all done
    python benchmarks/runs.py --scale report      the report on 250 x 250 transfer of 12 checkpoints
    python benchmarks/runs.py --scale gradient    the gradient spaces of 1,000 tasks
With --size .1 a scale is a tenth as large.

The jobs are those of a study, but for the science: where a worker would tune and measure, it takes a table of the
right size. So all that is measured is ours: making jobs ready, sending them, writing results as Parquet, storing,
logging."""

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import toylm
from taskspace.runs import execute as runs
from taskspace.runs import jobs
from taskspace.runs.jobs import Plan
from taskspace.runs.results import open_run
from taskspace.runs.store import Store
from taskspace.runs.study import Study
from taskspace.tasks.pairs import Suite, Task


@functools.cache
def one_result() -> pd.DataFrame:
    "A transfer row of the size of BLiMP's: 67 tasks of 50 pairs, with a log of ten steps."
    n = 67 * 50
    frame = pd.DataFrame(
        {
            "task": [f"task_{i // 50}" for i in range(n)],
            "pair": [str(i) for i in range(n)],
            "before": [i / 7 for i in range(n)],
            "after": [i / 9 for i in range(n)],
        }
    )
    frame.attrs = {"log": [{"step": i, "loss": i / 7, "margin": i / 3} for i in range(10)]}
    return frame


def no_science(payload):
    "A job without its science, in whichever process it runs. Nothing is loaded: models are nothing but files."
    jobs._load = lambda payload: SimpleNamespace(base=None, n_parameters=1)
    jobs.compute = lambda payload: one_result()
    return jobs.work(payload)


def study(folder: Path, models: int, seeds: int, tasks: int = 67, pairs: int = 6) -> Study:
    "A study of models x seeds x tasks transfer jobs, with models that are nothing but files."
    words = [f"w{i}" for i in range(tasks)]
    base = toylm.suite(1, pairs).tasks[0]

    def task(w):
        found = [type(p)(f"{w} {p.good}", f"{w} {p.bad}", p.id) for p in base.pairs]
        return Task(w, found, f"phenomenon {words.index(w) % 12}")

    Suite("wide", [task(w) for w in words]).to_frame().to_parquet(folder / "wide.parquet")
    for m in range(models):
        (folder / "models" / f"checkpoint-{m}").mkdir(parents=True, exist_ok=True)
        (folder / "models" / f"checkpoint-{m}" / "config.json").write_text(
            json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n": m})
        )
        (folder / "models" / f"checkpoint-{m}" / "model.safetensors").write_text(str(m))
    return Study(
        suite=str(folder / "wide.parquet"),
        models=[{"name": str(folder / "models"), "checkpoints": "all"}],
        probes=["transfer"],
        seeds=seeds,
        train_pairs=3,
        eval_pairs=3,
    )


def timed(label: str, function, *args):
    wall, cpu = time.perf_counter(), time.process_time()
    value = function(*args)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{label:<46} {wall:8.2f} s wall {cpu:8.2f} s CPU", flush=True)
    return value, wall, cpu


def memory() -> float:
    "Resident memory now, in MB."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pool", action="store_true")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--scale", choices=list(SCALES))
    parser.add_argument("--size", type=float, default=1.0)
    options = parser.parse_args()
    if options.scale:
        with tempfile.TemporaryDirectory() as name:
            SCALES[options.scale](Path(name), options.size)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = study(folder, 154, 10)
        plan, wall, _ = timed("plan: suite, splits, digests of 154 checkpoints", Plan, large)
        all_jobs, more, _ = timed("plan: keys of all jobs", lambda: list(plan.jobs()))
        print(f"  {len(all_jobs)} jobs planned in {wall + more:.1f} s")

        (folder / "models").rename(folder / "all")
        seeds = 10
        models = max(1, round(options.jobs / 67 / seeds))
        small = study(folder, models, seeds)
        n = models * seeds * 67
        runs.work = no_science
        marks: list[float] = []
        put = Store.put

        def watched(self, key, data):
            if len(marks) * n // 10 <= watched.count:
                marks.append(memory())
            watched.count += 1
            return put(self, key, data)

        watched.count = 0
        Store.put = watched  # type: ignore[method-assign]
        try:
            run, wall, cpu = timed(
                f"run of {n} jobs without their science",
                lambda: runs.run_study(small, folder / "out", workers=2 if options.pool else 0, progress=False),
            )
        finally:
            Store.put = put  # type: ignore[method-assign]
        print(
            f"  {1000 * wall / n:.2f} ms a job ({1000 * cpu / n:.2f} ms CPU); memory after each "
            f"tenth: {' '.join(f'{m:.0f}' for m in marks)} MB"
        )
        timed(
            f"run again, {n} results verified", lambda: runs.run_study(small, folder / "out", workers=0, progress=False)
        )
        status, *_ = timed(f"status of {n} jobs", lambda: open_run(folder / "out").status())
        assert status.done == n, status

        (folder / "models").rename(folder / "some")
        (folder / "all").rename(folder / "models")
        store = finished_run(folder / "many", plan, all_jobs)
        timed(f"status of {len(all_jobs)} jobs", lambda: open_run(store.path).status())


def finished_run(out: Path, plan: Plan, all_jobs: list) -> Store:
    "A run in which every job is done: the plan, a line of the log and a file of ten bytes for each job."
    from taskspace.runs.plans import save_plan

    store = Store(out).create()
    save_plan(store, plan, all_jobs)
    for start in {j.key[:2] for j in all_jobs}:
        (store.results / start).mkdir(exist_ok=True)
    done = {"time": "2026-01-01T00:00:00+0000", "seconds": 1.0, "worker": "host:1", "state": "done", "bytes": 10}
    with store.log_path.open("w") as f:
        for j in all_jobs:
            f.write(json.dumps({**done, "key": j.key}) + "\n")
            with open(store.results / j.key[:2] / f"{j.key}.{'0' * 16}.parquet", "wb") as result:
                result.write(b"0123456789")
    return store


def highest() -> float:
    "Largest resident memory of this process so far, in MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def in_fork(function) -> None:
    "Do something in a process that has seen nothing of what was done before."
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def scale_status(folder: Path, size: float) -> None:
    "Aim: under 10 s and 1 GB for a million."

    def prepare() -> None:
        plan = Plan(study(folder, 154, max(1, round(97 * size))))
        finished_run(folder / "many", plan, list(plan.jobs()))

    def look() -> None:
        status, *_ = timed("open the run, and its status", lambda: open_run(folder / "many").status())
        assert status.done == status.total, status
        print(f"{status.total:,} jobs done; peak {highest():.0f} MB")

    in_fork(prepare)
    in_fork(look)


def made_up(payload) -> pd.DataFrame:
    "A row of transfer with twelve groups in it and noise, or scores that are mostly right."
    job = jobs.Job(*payload["job"])
    suite = jobs.decompress_suite(payload["suite"])
    frame, rng = suite.to_frame(), np.random.default_rng(int(job.key[:8], 16))
    n = len(frame)
    if job.kind == "score":
        margin = rng.normal(1, 1, n)
        tokens = np.full(n, 8)
        both = {"logp_good": margin - 20, "logp_bad": np.full(n, -20.0), "tokens_good": tokens, "tokens_bad": tokens}
        found = frame[["task", "phenomenon", "pair"]].assign(**both, margin=margin, correct=(margin > 0).astype(float))
        found.attrs = {"convention": payload["settings"]["convention"], "prefix_id": None}
        return found
    same = frame["phenomenon"] == dict(zip(frame["task"], frame["phenomenon"], strict=True))[job.source]
    after = rng.normal(0, 0.5, n) + 0.5 * same + (frame["task"] == job.source)
    found = frame[["task", "pair"]].assign(before=0.0, after=after.to_numpy())
    found.attrs = {"log": [{"step": i, "loss": -i / 7, "margin": i / 3} for i in range(10)]}
    return found


def made_up_job(payload):
    jobs._load = lambda payload: SimpleNamespace(base=None, n_parameters=1)
    jobs.compute = made_up
    return jobs.work(payload)


def scale_report(folder: Path, size: float) -> None:
    "Aim: under five minutes, no page over 3 MB."
    from taskspace.report.site import render_report

    own = study(folder, max(2, round(12 * size)), 1, max(24, round(250 * size)), 13)
    own = own.model_copy(update={"probes": ("score", "transfer"), "eval_pairs": 10})
    runs.work = made_up_job
    run, *_ = timed("made-up results", lambda: runs.run_study(own, folder / "out", workers=0, progress=False))
    assert run.status().done == run.status().total, run.status()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    page, wall, cpu = timed("report", lambda: render_report(run, progress=False))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kernels = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"report: {cpu + kernels:.0f} s CPU with its kernels, which hold up to {after.ru_maxrss / 1e3:.0f} MB")
    pages = {p.relative_to(page.parent): p.stat().st_size / 1e6 for p in page.parent.rglob("*.html")}
    for path, megabytes in sorted(pages.items(), key=lambda item: -item[1]):
        print(f"  {megabytes:6.2f} MB  {path}")


def scale_gradient(folder: Path, size: float) -> None:
    "Aim: under 4 GB."
    from taskspace import gradient_probe, load_lm, load_suite

    lm, builtin = load_lm("builtin:nano"), load_suite("builtin")
    count = round(1000 * size)
    tasks = [
        Task(f"{t.name}_{k}", t.pairs[5 * k :][:5], t.phenomenon)
        for k in range(-(-count // len(builtin)))
        for t in builtin
    ][:count]
    found, *_ = timed(
        f"gradient spaces of {count} tasks", lambda: gradient_probe(lm, Suite("many", tuple(tasks)), blocks=5)
    )
    print(f"{found['cosine']}; peak {highest():.0f} MB")


SCALES = {"status": scale_status, "report": scale_report, "gradient": scale_gradient}


if __name__ == "__main__":
    main()
