"""Time and memory of each probe over sizes of models, numbers of tasks and numbers of pairs, beside the formulas.

    python benchmarks/cost.py --quick                       two small models, two numbers of each: a minute
    python benchmarks/cost.py --out taskspace/assets/cost.csv    five models up to 270M, three numbers of each: hours
    python benchmarks/cost.py --add taskspace/assets/cost.csv --only 270m    what the file lacks of 270M

Each job is measured in a process of its own, which is forked from one that has loaded the model: processor seconds of
one thread, and the largest resident memory. The seconds of other programs on the machine do not count."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch

from taskspace import FTGD, LM, load_lm
from taskspace.probing.ablation import ablation_row
from taskspace.probing.gradient import gradient_probe, predicted_transfer
from taskspace.probing.rows import transfer_row
from taskspace.probing.units import unit_probe
from taskspace.runs.cost import exponents, fit_rates, Shape, with_estimates
from taskspace.runs.jobs import GRADIENT_BLOCKS, GRADIENT_MEMORY
from taskspace.scoring.encoding import encode_pairs
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.tuning.gradients import margins, undisturbed

STEPS = 3
FULL = {
    "nano": ((4, 8, 16), (8, 16, 32)),
    "micro": ((4, 8, 16), (8, 16, 32)),
    "mini": ((4, 8, 16), (8, 16, 32)),
    "70m": ((2, 4, 8), (5, 10, 20)),
    "270m": ((2, 4, 8), (5, 10, 20)),
}
QUICK = {"nano": ((2, 4), (3, 6)), "micro": ((2, 4), (3, 6))}


def random_model(name: str):
    "Random weights in the shape of Pythia 70M, or of Gemma 3 270M: what is computed does not depend on values."
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if name == "70m":
        sizes = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}
        return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50_304, **sizes))
    sizes = {"hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "intermediate_size": 2048}
    return LlamaForCausalLM(LlamaConfig(vocab_size=262_144, tie_word_embeddings=True, **sizes))


def model(name: str) -> LM:
    if name in ("nano", "micro", "mini"):
        return load_lm(f"builtin:{name}", device="cpu")
    return LM(random_model(name).eval(), load_lm("builtin:nano", device="cpu").tokenizer, name=name)


def shape_of(lm: LM) -> Shape:
    c = lm.model.config
    return Shape(lm.n_parameters, c.vocab_size, c.hidden_size, c.num_hidden_layers, bool(c.tie_word_embeddings))


def random_suite(lm: LM, tasks: int, pairs: int) -> Suite:
    "Sentences of eleven random words; a pair differs in one of them, so few pairs begin alike, as in real suites."
    rng = np.random.default_rng(0)
    words = sorted(w for w in lm.tokenizer.get_vocab() if re.fullmatch("[a-z]+", w))

    def pair(i: int) -> MinimalPair:
        good = list(rng.choice(words, 11))
        bad, at = list(good), int(rng.integers(2, 9))
        bad[at] = words[(words.index(bad[at]) + 1) % len(words)]
        return MinimalPair(" ".join(good), " ".join(bad), str(i))

    return Suite("random", tuple(Task(f"t{k}", [pair(i) for i in range(pairs)], f"p{k % 3}") for k in range(tasks)))


def sizes_of(lm: LM, suite: Suite) -> dict[str, float]:
    "Tokens of a pair, and those behind the shared beginning."
    encoded = encode_pairs(lm, [p for t in suite for p in t])
    return {
        "tokens": float(np.mean([len(p.good) + len(p.bad) - p.shared for p in encoded])),
        "differing": float(np.mean([len(p.good) + len(p.bad) - 2 * max(p.starts[0], 1) for p in encoded])),
    }


def jobs_of(lm: LM, train: Suite, held_out: Suite) -> dict[str, Callable[[], object]]:
    "One job of each probe, as a worker computes it."
    ftgd, source = FTGD(steps=STEPS), train.tasks[0]
    encoded = encode_pairs(lm, [p for t in held_out for p in t])
    before = np.zeros(len(encoded))  # measured once for all sources
    blocks = min(GRADIENT_BLOCKS, len(source))
    return {
        "score": lambda: score_pairs(lm, train),
        "gradient": lambda: gradient_probe(lm, train, ftgd, blocks, memory=GRADIENT_MEMORY),
        "predicted": lambda: predicted_transfer(lm, train, ftgd, held_out, memory=GRADIENT_MEMORY),
        "transfer": lambda: transfer_row(lm, source, held_out, ftgd, before, encoded=encoded),
        "units": lambda: unit_probe(lm, train),
        "ablation": lambda: ablation_row(lm, source, held_out, before=before, encoded=encoded),
    }


def high_water() -> float:
    "Largest resident memory of this process since it was last reset, in MB."
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6


def in_a_child(lm: LM, tasks: int, pairs: int, probe: str, repeats: int) -> dict[str, float]:
    "Processor seconds and megabytes of one job. A small one is done first, so that nothing is imported meanwhile."
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            small, train, held_out = (random_suite(lm, *size) for size in ((2, 4), (tasks, pairs), (tasks, pairs)))
            jobs_of(lm, small, small)[probe]()
            job, seconds = jobs_of(lm, train, held_out)[probe], []
            Path("/proc/self/clear_refs").write_text("5")
            for _ in range(repeats):
                start = time.process_time()
                job()
                seconds.append(time.process_time() - start)
            os.write(writing, json.dumps({"seconds": min(seconds), "megabytes": high_water()}).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as f:
        said = f.read()
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{probe} of {tasks} tasks with {pairs} pairs has failed")
    return json.loads(said)


NAMED = ["name", "probe", "tasks", "pairs"]


def measure(
    grid: dict,
    repeats: int,
    probes: list[str] | None = None,
    add: Path | None = None,
    sizes: list[tuple] | None = None,
) -> pd.DataFrame:
    "The measured jobs; with `add` those of a file and what it lacks, written to it one after the other."
    torch.set_num_threads(1)
    rows = pd.read_csv(add).to_dict("records") if add else []
    there = {tuple(r[n] for n in NAMED) for r in rows}
    for name, (all_tasks, all_pairs) in grid.items():
        lm = model(name)
        shape = shape_of(lm)
        score_pairs(lm, random_suite(lm, 1, 2))  # imports, and the proofs of shortcuts; no gradients before a fork
        with undisturbed(lm, []):
            margins(lm, encode_pairs(lm, list(random_suite(lm, 1, 2).tasks[0])))
        for tasks, pairs in itertools.product(all_tasks, all_pairs):
            if sizes and (tasks, pairs) not in sizes:
                continue
            suite = random_suite(lm, tasks, pairs)
            work = {"tasks": tasks, "pairs": pairs, "held_out": pairs, **sizes_of(lm, suite), "steps": STEPS}
            for probe in jobs_of(lm, suite, suite):
                if (name, probe, tasks, pairs) in there or (probes and probe not in probes):
                    continue
                found = in_a_child(lm, tasks, pairs, probe, 1 if shape.parameters > 1e7 else repeats)
                own = {"name": name, "probe": probe, **shape._asdict(), **work, "blocks": min(GRADIENT_BLOCKS, pairs)}
                rows.append({**own, **found})
                print(name, tasks, pairs, probe, found, flush=True)
                if add:
                    table(rows).to_csv(add, index=False)
    return table(rows)


def table(rows: list[dict]) -> pd.DataFrame:
    "The measured jobs, models from small to large."
    frame = pd.DataFrame(rows).drop(columns="bytes", errors="ignore")
    frame = frame.sort_values(["parameters", "tasks", "pairs"], kind="stable", ignore_index=True)
    return frame.round({"tokens": 3, "differing": 3, "seconds": 4, "megabytes": 1})


def tell(measured: pd.DataFrame) -> None:
    "Exponents, and how far the formulas are off."
    both = with_estimates(measured, fit_rates(measured))
    print("exponents of time\n", exponents(measured).round(2).to_string(), sep="")
    print("exponents of memory\n", exponents(measured, "megabytes").round(2).to_string(), sep="")
    for what in ("seconds", "megabytes"):
        off = (both[f"estimated_{what}"] / both[what] - 1).abs()
        by = off.groupby([both["probe"], both["name"]], sort=False).max().unstack()
        print(f"largest relative error of {what}\n", by.round(3).to_string(), sep="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small models")
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--out", type=Path, help="CSV file for the measured jobs")
    parser.add_argument("--probes", nargs="*", help="names of probes")
    parser.add_argument("--sizes", nargs="*", help="numbers of tasks and pairs, such as 4x10")
    parser.add_argument("--add", type=Path, help="CSV file of which only what it lacks is measured")
    options = parser.parse_args()
    grid = QUICK if options.quick else FULL
    grid = {n: sizes for n, sizes in grid.items() if not options.only or n in options.only}
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes or ()]
    measured = measure(grid, 1 if options.quick else 3, options.probes, options.add, sizes)
    if options.out:
        measured.to_csv(options.out, index=False)
    tell(measured)


if __name__ == "__main__":
    main()
