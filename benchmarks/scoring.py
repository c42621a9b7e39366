"""How fast pairs are scored, beside minicons and lm_eval on the same model directory, and how much of it is matrix
multiplication.

    python benchmarks/scoring.py                  all shapes, about 300 pairs over all tasks
    python benchmarks/scoring.py --shape 2m       one of them
    python benchmarks/scoring.py --shape masked   a BERT of 30M parameters, by pll-word-l2r, beside minicons
    python benchmarks/scoring.py --all            no peers; the whole suite on the 70M shape, with time and memory

Weights are random, since speed does not depend on them. Pairs are BLiMP's where $TASKSPACE_BENCHMARKS names a folder
with them, else those of the built-in suite. The peers are those of the extra `peers`; each runs at the best of the
batch sizes tried. Loading is not counted; tokenising is. Times are medians of the clock's seconds, and need a machine
that does nothing else: two threads wait for each other at every operation, and lose most of their time where a third
one runs. On a busy machine `--threads 1` counts processor seconds instead.
"""

import argparse
import gc
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from products import Products

from taskspace.models.loading import load_lm
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.pairs import Suite

CLOCK: Callable[[], float] = time.perf_counter
WANTED = {"70m": 2.0, "2m": 3.0, "masked": 3.0}
SHARE = {"70m": 70, "2m": 70, "masked": 60}  # wanted percentage of matrix multiplications


def pairs(count: int | None) -> Suite:
    "About `count` pairs, equally many of each task; all of them for None."
    folder = os.environ.get("TASKSPACE_BENCHMARKS")
    suite = load_suite(f"blimp:{folder}/blimp" if folder else "builtin")
    return suite if count is None else suite.take(max(1, round(count / len(suite))))


def sentences(suite: Suite) -> list[str]:
    return [s for task in suite for p in task for s in (p.good, p.bad)]


def model_directory(shape: str, folder: Path) -> str:
    """A model of that shape with random weights, and a byte-level BPE tokenizer of about 4,000 tokens, which cuts
    BLiMP's rarer words."""
    if shape == "masked":
        return masked_directory(folder)
    from tokenizers import decoders, models, pre_tokenizers, Tokenizer, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator(
        sentences(pairs(None)),
        trainers.BpeTrainer(
            vocab_size=4096,
            special_tokens=["<|endoftext|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    torch.manual_seed(0)
    model: torch.nn.Module
    if shape == "70m":
        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=50304, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048
            )
        )
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=8192, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0)
        )
    path = folder / shape
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>").save_pretrained(
        path
    )
    return str(path)


def masked_directory(folder: Path) -> str:
    "A BERT with random weights and the vocabulary of the published ones, and a tokenizer of 4,000 pieces of words."
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(sentences(pairs(None)), vocab_size=4096, show_progress=False)
    torch.manual_seed(0)
    config = BertConfig(hidden_size=512, num_hidden_layers=4, num_attention_heads=8, intermediate_size=2048)
    path = folder / "masked"
    BertForMaskedLM(config).save_pretrained(path)
    pieces.save_model(str(path))
    BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    return str(path)


def seconds(function: Callable[[], object]) -> float:
    """Time of one call. It begins when what ran before is over: its garbage is collected, and its threads, which wait
    for work in a busy loop, sleep."""
    gc.collect()
    time.sleep(0.5)
    start = CLOCK()
    function()
    return CLOCK() - start


class Peak:
    "The most resident memory beyond that at the start, in MB, looked at every 5 ms."

    def __enter__(self):
        self.stop, self.base, self.most = threading.Event(), self.now(), 0.0
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def watch(self):
        while not self.stop.wait(0.005):
            self.most = max(self.most, self.now() - self.base)

    @staticmethod
    def now() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def peers(directory: str, text: list[str]) -> dict[str, Callable[[int], object]]:
    "The other tools, loaded; each is called with a batch size."
    try:
        import lm_eval.api.instance
        import lm_eval.models.huggingface
        import minicons.scorer
    except ImportError as e:
        print(f"peers left out: {e}; pip install -e '.[peers]'")
        return {}
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if directory.endswith("masked"):
        masked = minicons.scorer.MaskedLMScorer(directory, "cpu")
        masked.tokenizer.batch_encode_plus = masked.tokenizer.__call__  # the tool's name for it

        def minicons_masked(size: int):
            chunks = (text[k : k + size] for k in range(0, len(text), size))
            return [x for part in chunks for x in masked.sequence_score(part, PLL_metric="within_word_l2r")]

        return {"minicons": minicons_masked}
    scorer = minicons.scorer.IncrementalLMScorer(directory, "cpu", torch_dtype=torch.float32)
    harness = lm_eval.models.huggingface.HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=1)
    requests = [lm_eval.api.instance.Instance("loglikelihood", {}, ("", " " + s), 0) for s in text]

    def minicons_run(size: int):
        return [x for k in range(0, len(text), size) for x in scorer.sequence_score(text[k : k + size])]

    def lm_eval_run(size: int):
        harness.batch_size_per_gpu = size
        return harness.loglikelihood(requests, disable_tqdm=True)

    return {"minicons": minicons_run, "lm_eval": lm_eval_run}


def bfloat16(directory: str, suite: Suite, exact, lm_eval: float | None) -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    low = load_lm(directory, device="cpu", dtype="bfloat16")
    few = suite.take(1).select([t.name for t in suite][:4])  # without instructions for it this takes a second a pair
    both = score_pairs(low, few).merge(exact, on=["task", "pair"], suffixes=("", "_exact"))
    gap = (both.logp_good - both.logp_good_exact).abs()
    print(
        f"  bfloat16 weights against float32: sentence scores differ by {gap.median():.4f} nats in "
        f"the median, {gap.max():.4f} at most ({len(gap)} pairs)"
    )
    if not any(f in flags for f in ("avx512_bf16", "amx_bf16", "bf16")):
        print("  bfloat16 speed: skipped, this processor has no bfloat16 instructions")
        return
    took = statistics.median(seconds(lambda: score_pairs(low, suite)) for _ in range(5))
    print(
        f"  bfloat16: {took:.2f} s"
        + ("" if lm_eval is None else f", {lm_eval / took:.2f} times as fast as lm_eval in float32  wanted: 4.0")
    )


def measure(shape: str, directory: str, suite: Suite, repeats: int, sizes: list[int], with_peers: bool) -> None:
    lm, text = load_lm(directory, device="cpu", dtype="float32"), sentences(suite)

    def ours():
        return score_pairs(lm, suite)

    with Peak() as peak:
        scores = ours()
    tokens = int(scores.tokens_good.sum() + scores.tokens_bad.sum())
    print(
        f"\n{lm.n_parameters / 1e6:.1f}M parameters, {lm.model.config.vocab_size:,} words; "
        f"{len(scores)} pairs of {suite.name}, {tokens / len(text):.1f} tokens a sentence"
    )
    other, best = peers(directory, text) if with_peers else {}, {}
    for name, run in other.items():
        tried = {size: seconds(partial(run, size)) for size in sizes}
        best[name] = min(tried, key=tried.__getitem__)
        print(f"  {name} by batch size: " + ", ".join(f"{s}: {t:.2f} s" for s, t in tried.items()))
    times: dict[str, list[float]] = {name: [] for name in ("taskspace", *other)}
    for _ in range(repeats):  # in turns, so that a slow moment of the machine hits all alike
        times["taskspace"].append(seconds(ours))
        for name, run in other.items():
            times[name].append(seconds(partial(run, best[name])))
    middle = {name: statistics.median(t) for name, t in times.items()}
    print(
        f"  {'CPU seconds' if CLOCK is time.process_time else '':<12} {'median s':>9} {'fastest':>8} "
        f"{'slowest':>8} {'pairs/s':>8} {'times ours':>11}"
    )
    for name, t in times.items():
        ratio = middle[name] / middle["taskspace"]
        least = min(a / b for a, b in zip(t, times["taskspace"], strict=True))
        wanted = "" if name == "taskspace" else f" ({least:.2f} at least)  wanted: {WANTED[shape]:.1f}"
        print(
            f"  {name:<12} {middle[name]:9.2f} {min(t):8.2f} {max(t):8.2f} "
            f"{len(scores) / middle[name]:8.1f} {ratio:11.2f}{wanted}"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only what happens in this thread is written down
    with Products(lm.model) as products:
        ours()
    torch.set_num_threads(threads)
    limit = min(seconds(products.again) for _ in range(3))
    print(
        f"  its {len(products.found)} matrix multiplications alone: {limit:.2f} s "
        f"({products.work / limit / 1e9:.0f} GFLOP/s), {100 * limit / middle['taskspace']:.0f} % of the whole  "
        f"wanted: {SHARE[shape]} %"
    )
    print(f"  peak memory beyond the weights: {peak.most:.0f} MB  wanted: below 1000")
    bfloat16(directory, suite, scores, middle.get("lm_eval"))


def everything(directory: str) -> None:
    lm, suite = load_lm(directory, device="cpu", dtype="float32"), pairs(None)
    n = sum(map(len, suite))
    score_pairs(lm, suite.take(1))
    with Peak() as peak:
        took = seconds(lambda: score_pairs(lm, suite, progress=True))
    print(
        f"{n:,} pairs of {suite.name} on {lm.n_parameters / 1e6:.1f}M parameters: {took / 60:.1f} "
        f"minutes, {n / took:.1f} pairs/s, peak memory beyond the weights {peak.most:.0f} MB"
    )


def main() -> None:
    global CLOCK
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=[*WANTED, "all"], default="all")
    parser.add_argument("--pairs", type=int, default=268)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="of the peers; the best one counts"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.threads == 1:
        CLOCK = time.process_time
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        if options.all:
            everything(model_directory("70m", Path(name)))
            return
        suite = pairs(options.pairs)
        for shape in WANTED if options.shape == "all" else [options.shape]:
            measure(
                shape,
                model_directory(shape, Path(name)),
                suite,
                options.repeats,
                options.batch_sizes,
                not options.no_peers,
            )


if __name__ == "__main__":
    main()
