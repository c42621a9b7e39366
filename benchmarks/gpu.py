"""What a GPU does with taskspace, in eight minutes and with no network: scoring, probes, half precision, pre-training.

    python benchmarks/gpu.py --out gpu.csv                     70M, 410M and 1.4B shapes, built-in suite
    python benchmarks/gpu.py --pairs blimp.jsonl               also a file of pairs
    python benchmarks/gpu.py --quick                           a tiny shape, on a processor too: does the script work?

Weights are random: speed and memory do not depend on them. Of every measurement the table has seconds, the largest
memory on the card (of the process, on a processor), the operations of the matrix products by the formulas of
`taskspace.runs.cost`, and which share that is of what one large product reaches on this device in the same format.
When the minutes are over, what is left is skipped and named."""

from __future__ import annotations

import argparse
import logging
import os
import re
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd
import torch

from taskspace import FTGD, LM, load_lm, load_suite
from taskspace.devices import pick_device
from taskspace.pretraining.training import pretrain, TrainingConfig
from taskspace.probing.gradient import gradient_probe, predicted_transfer
from taskspace.probing.rows import transfer_row
from taskspace.runs.cost import Shape, time_terms, Work
from taskspace.scoring.encoding import encode_pairs
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.pairs import Suite
from taskspace.tuning.gradients import margins, undisturbed

# hidden size, layers, heads, intermediate size: those of Pythia
SHAPES = {"70m": (512, 6, 8, 2048), "410m": (1024, 24, 16, 4096), "1.4b": (2048, 24, 16, 8192)}
TINY = {"tiny": (64, 2, 2, 128)}
STEPS = 10


class Clock:
    "Measures, and keeps what was measured in rows."

    def __init__(self, device: torch.device, minutes: float):
        self.device, self.end, self.rows = device, time.perf_counter() + 60 * minutes, []
        self.peaks: dict[torch.dtype, float] = {}

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def memory(self) -> float:
        "Largest memory since the last measurement began, in MB."
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        status = Path("/proc/self/status")
        return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1e3 if status.exists() else float("nan")

    def peak(self, dtype: torch.dtype) -> float:
        "Operations a second of one large matrix product."
        if dtype not in self.peaks:
            n = 8192 if self.device.type == "cuda" else 512
            a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
            a @ b
            start = self.now()
            for _ in range(5):
                a @ b
            self.peaks[dtype] = 5 * 2 * n**3 / (self.now() - start)
        return self.peaks[dtype]

    def measure(self, model: str, what: str, dtype: torch.dtype, operations: float, function: Callable, **more) -> Any:
        "Do something, print what it took, and give what it gave; None where the time is over."
        if time.perf_counter() > self.end:
            print(f"{model:<6} {str(dtype)[6:]:<9} {what:<22} skipped: the minutes are over", flush=True)
            return None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = self.now()
        found = function()
        took = self.now() - start
        share = operations / took / self.peak(dtype)
        row = {"model": model, "dtype": str(dtype)[6:], "what": what, "seconds": took, "MB": self.memory()}
        self.rows.append({**row, "operations": operations, "share": share, **more})
        print(
            f"{model:<6} {row['dtype']:<9} {what:<22} {took:8.2f} s {row['MB']:9.0f} MB {share:7.1%} of products",
            flush=True,
        )
        return found


def random_lm(name: str, sizes: tuple[int, ...], tokenizer: Any, device: torch.device, dtype: torch.dtype) -> LM:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = GPTNeoXConfig(vocab_size=50_304 if name != "tiny" else 512, **dict(zip(names, sizes, strict=True)))
    return LM(GPTNeoXForCausalLM(config).to(device=device, dtype=dtype).eval(), tokenizer, name=name)


def work_of(lm: LM, suite: Suite, pairs: int, held_out: int) -> Work:
    "The size of a job, its tokens counted."
    some = encode_pairs(lm, [p for t in suite for p in list(t)[:5]])
    tokens = float(np.mean([len(p.good) + len(p.bad) - p.shared for p in some]))
    differing = float(np.mean([len(p.good) + len(p.bad) - 2 * max(p.starts[0], 1) for p in some]))
    return Work(len(suite), pairs, held_out, tokens, differing, steps=STEPS, every=STEPS)


def lm_eval_scores(lm: LM, suite: Suite, batch: int) -> np.ndarray:
    "Margins as lm_eval computes them."
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel("ERROR")
    peer = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch, device=str(lm.device))
    texts = [s for t in suite for p in t for s in (p.good, p.bad)]
    asked = [Instance("loglikelihood", {}, ("", s), i) for i, s in enumerate(texts)]
    found = np.array([r[0] for r in peer.loglikelihood(asked, disable_tqdm=True)])
    return found[::2] - found[1::2]


def scoring(
    clock: Clock, name: str, lm: LM, dtype: torch.dtype, suites: dict[str, Suite], shape: Shape, peer: bool
) -> np.ndarray:
    "Score all suites; the first one also with lm_eval. Gives the margins of the first."
    first = None
    score_pairs(lm, next(iter(suites.values())).take(1))  # proofs of shortcuts, kernels
    for title, suite in suites.items():
        pairs = sum(map(len, suite))
        work = work_of(lm, suite, max(1, pairs // len(suite)), 0)
        operations = time_terms("score", shape, work).products
        found = clock.measure(
            name, f"score {title}", dtype, operations, lambda s=suite: score_pairs(lm, s), pairs=pairs
        )
        if first is None and found is not None:
            first = found["margin"].to_numpy()
            if peer and find_spec("lm_eval"):
                for batch in (64, 256):
                    theirs = clock.measure(
                        name, f"lm_eval, batch {batch}", dtype, operations,
                        lambda s=suite, b=batch: lm_eval_scores(lm, s, b), pairs=pairs,
                    )  # fmt: skip
                    if theirs is not None:
                        print(f"       largest difference of a margin {np.abs(theirs - first).max():.1e} nats")
    return first if first is not None else np.zeros(0)


def probes(clock: Clock, name: str, lm: LM, dtype: torch.dtype, suite: Suite, pairs: int, shape: Shape) -> None:
    "The gradient probe, predicted transfer, and the rows of two sources."
    parts = suite.split(pairs, pairs, 0)
    work, ftgd = work_of(lm, suite, pairs, pairs), FTGD(steps=STEPS, every=STEPS)

    def operations(probe: str) -> float:
        return time_terms(probe, shape, work).products

    clock.measure(name, "gradient probe", dtype, operations("gradient"), lambda: gradient_probe(lm, parts.train, ftgd))
    predict = lambda: predicted_transfer(lm, parts.train, ftgd, parts.eval)  # noqa: E731
    clock.measure(name, "predicted transfer", dtype, operations("predicted"), predict)
    encoded = encode_pairs(lm, [p for t in parts.eval for p in t])
    with undisturbed(lm, []):
        before = margins(lm, encoded)
    for task in parts.train.tasks[:2]:
        clock.measure(
            name, "transfer, one source", dtype, operations("transfer"),
            lambda t=task: transfer_row(lm, t, parts.eval, ftgd, before, encoded=encoded),
        )  # fmt: skip


def half_precision(full: np.ndarray, half: np.ndarray) -> str:
    "How far margins in bfloat16 are from those in float32."
    from scipy.stats import spearmanr

    off = np.abs(full - half)
    return f"margins: rank agreement {spearmanr(full, half)[0]:.4f}, median difference {np.median(off):.1e} nats"


def pretraining(clock: Clock, quick: bool, seconds: float) -> None:
    "The paper's 27M for two minutes: tokens a second."
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = (64, 128, 2, 2, 512) if quick else (448, 1216, 8, 7, 16_384)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = LlamaConfig(**dict(zip(names, sizes, strict=True)), tie_word_embeddings=True)
    model = LlamaForCausalLM(config).to(clock.device)
    batch, context = (4, 32) if quick else (64, 256)
    rows = np.random.default_rng(0).integers(0, sizes[-1], (1024, context))
    count = sum(p.numel() for p in model.parameters())

    def train(steps: int) -> Any:
        settings = TrainingConfig(steps=steps, batch_size=batch, learning_rate=1e-3, checkpoints=2)
        return pretrain(model, rows, settings, progress=False)

    start = clock.now()
    train(3)
    steps = max(1, round(seconds / ((clock.now() - start) / 3)))
    dtype = torch.bfloat16 if clock.device.type == "cuda" else torch.float32
    tokens = steps * batch * context
    if (
        clock.measure("27m", "pre-training", dtype, 6.0 * count * tokens, lambda: train(steps), tokens=tokens)
        is not None
    ):
        print(f"       {tokens / clock.rows[-1]['seconds']:,.0f} tokens a second, {count:,} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape and few pairs, on any device")
    parser.add_argument("--pairs", help="a file of pairs, scored as well")
    parser.add_argument("--minutes", type=float, default=8, help="when to stop")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-peer", action="store_true", help="leave lm_eval out")
    parser.add_argument("--out", type=Path, help="CSV file for the table")
    options = parser.parse_args()
    device = pick_device(options.device)
    if device.type == "cpu" and not options.quick:
        parser.error("no GPU here; --quick tries the script on a processor")
    clock, tokenizer = Clock(device, options.minutes), load_lm("builtin:nano", device="cpu").tokenizer
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{card}; torch {torch.__version__}")
    suites = {"built-in": load_suite("builtin").take(4 if options.quick else 200)}
    if options.pairs:
        suites["file"] = load_suite(options.pairs)
    tasks = suites["built-in"].select(suites["built-in"].names[: 3 if options.quick else 12])
    pretraining(clock, options.quick, 1 if options.quick else 60 * options.minutes / 4)
    for name, sizes in (TINY if options.quick else SHAPES).items():
        margins_in = {}
        for dtype in (torch.float32, torch.bfloat16):
            lm = random_lm(name, sizes, tokenizer, device, dtype)
            c = lm.model.config
            shape = Shape(lm.n_parameters, c.vocab_size, c.hidden_size, c.num_hidden_layers, tied=False)
            margins_in[dtype] = scoring(clock, name, lm, dtype, suites, shape, not options.no_peer)
            probes(clock, name, lm, dtype, tasks, 2 if options.quick else 50, shape)
            del lm
        if all(map(len, margins_in.values())):
            print(f"{name:<6} bfloat16 beside float32: {half_precision(*margins_in.values())}", flush=True)
    if options.out:
        pd.DataFrame(clock.rows).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
