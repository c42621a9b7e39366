"""A bigram model in one JSON file, loaded by name: so small and fast that a test can run hundreds of jobs."""

import json
import os
import signal
import time
from pathlib import Path

import torch

from taskspace.pretraining.architectures import BigramLM
from taskspace.models.lm import LM
from taskspace.tasks.pairs import MinimalPair, Suite, Task

WORDS = "<s> the a my no one this that cat dog king girl cats dogs see sees sleep sleeps run runs me us . often".split()


class Words:
    "Splits at spaces; its word list is its state."

    bos = eos = pad = 0

    def __init__(self, words):
        self.words = list(words)

    def encode(self, text, add_special_tokens=False):
        return [self.words.index(w) for w in text.split()]


def write(path, seed=0, words=WORDS, **faults):
    "Write a random bigram table; `faults` make jobs slow or deadly, see `load`."
    table = torch.randn(len(words), len(words), generator=torch.Generator().manual_seed(seed))
    Path(path).write_text(json.dumps({"words": list(words), "table": table.tolist(), **faults}))
    return str(path)


class Faulty(BigramLM):
    "Waits before each forward pass, raises, or kills its process, to stand for what happens in long runs."

    def __init__(self, table, slow=0.0, die_if=None, raise_if=None):
        super().__init__(table)
        self.slow, self.die_if, self.raise_if = slow, die_if, raise_if

    def forward(self, input_ids, attention_mask=None, **kwargs):
        if self.slow:
            time.sleep(self.slow)
        if self.die_if and Path(self.die_if).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raise_if and Path(self.raise_if).exists():
            raise RuntimeError("the device is on fire\nand more lines")
        return super().forward(input_ids, attention_mask, **kwargs)


def load(name, revision=None, **kwargs):
    "The model in a file, called as `load_lm` is; a revision is a file beside it."
    data = json.loads(Path(name if revision is None else f"{name}.{revision}").read_text())
    words, table = data.pop("words"), torch.tensor(data.pop("table"))
    return LM(Faulty(table, **data), Words(words), name=str(name), revision=revision)


def suite(tasks=6, pairs=8):
    "Agreement of one noun each; every task has the same verbs."
    nouns = "cat dog king girl cats dogs".split()
    frames = [(d, v) for d in "the a my no one this that".split() for v in ("see", "sleep", "run")]

    def pair(noun, i):
        d, v = frames[i]
        good, bad = (v, v + "s") if noun.endswith("s") else (v + "s", v)
        return MinimalPair(f"{d} {noun} {good} .", f"{d} {noun} {bad} .", str(i))

    return Suite(
        "toy",
        [
            Task(n, [pair(n, i) for i in range(pairs)], "agreement" if i < tasks / 2 else "other")
            for i, n in enumerate(nouns[:tasks])
        ],
    )
