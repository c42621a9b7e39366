"""What a run costs beside the science: planning, storing, status, memory; an estimate for a study of the paper's size.

    python benchmarks/runs.py            10,000 jobs through the store, a plan of 100,000
    python benchmarks/runs.py --pool     the same with jobs going through local worker processes

The jobs are those of a study, but for the science: where a worker would tune and measure, it takes a table of the
right size. So all that is measured is ours: making jobs ready, sending them, writing results as Parquet, storing,
logging."""

import argparse
import functools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

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
    "A job without its science, in whichever process it runs."
    jobs.compute = lambda payload: one_result()
    return jobs.work(payload)


def study(folder: Path, models: int, seeds: int, tasks: int = 67, pairs: int = 6) -> Study:
    "A study of models x seeds x tasks transfer jobs, with models that are nothing but files."
    words = [f"w{i}" for i in range(tasks)]
    base = toylm.suite(1, pairs).tasks[0]

    def task(w):
        return Task(w, [type(p)(f"{w} {p.good}", f"{w} {p.bad}", p.id) for p in base.pairs], "p")

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
    options = parser.parse_args()
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
        timed(f"status of {n} jobs", lambda: open_run(folder / "out").status())

        (folder / "models").rename(folder / "some")
        (folder / "all").rename(folder / "models")
        store = Store(folder / "many").create()
        from taskspace.runs.plans import save_plan

        save_plan(store, plan, all_jobs)
        for j in all_jobs:
            path = store.results / j.key[:2] / f"{j.key}.{'0' * 16}.parquet"
            path.parent.mkdir(exist_ok=True)
            path.touch()
        with store.log_path.open("w") as f:
            f.writelines(
                json.dumps(
                    {
                        "time": "2026-01-01T00:00:00+0000",
                        "key": j.key,
                        "seconds": 1.0,
                        "worker": "host:1",
                        "state": "done",
                    }
                )
                + "\n"
                for j in all_jobs
            )
        timed(f"status of {len(all_jobs)} jobs", lambda: open_run(store.path).status())


if __name__ == "__main__":
    main()
