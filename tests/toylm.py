"""A bigram model in one JSON file, loaded by name: so small and fast that a test can run hundreds of jobs."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from taskspace.models.lm import LM
from taskspace.pretraining.architectures import BigramLM
from taskspace.runs.study import Study
from taskspace.tasks.pairs import Suite
from taskspace.toy import agreement_task, TOY_WORDS, WordTokenizer


def write(path, seed=0, words=TOY_WORDS, **faults):
    "Write a random bigram table; `faults` make jobs slow or deadly, see `load`."
    table = torch.randn(len(words), len(words), generator=torch.Generator().manual_seed(seed))
    Path(path).write_text(json.dumps({"words": list(words), "table": table.tolist(), **faults}))
    return str(path)


class Faulty(BigramLM):
    "Waits, before each forward pass or until a file is gone, raises, or kills its process, as happens in long runs."

    def __init__(self, table, slow=0.0, die_if=None, raise_if=None, hold_if=None, hold_after=0):
        super().__init__(table)
        self.slow, self.die_if, self.raise_if = slow, die_if, raise_if
        self.hold_if, self.before_hold = hold_if, hold_after

    def forward(self, input_ids, attention_mask=None, **kwargs):
        if self.slow:
            time.sleep(self.slow)
        self.before_hold -= 1
        while self.hold_if and self.before_hold < 0 and Path(self.hold_if).exists():
            time.sleep(0.05)
        if self.die_if and Path(self.die_if).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if self.raise_if and Path(self.raise_if).exists():
            raise RuntimeError("the device is on fire\nand more lines")
        return super().forward(input_ids, attention_mask, **kwargs)


def load(name, revision=None, **kwargs):
    "The model in a file, called as `load_lm` is; a revision is a file beside it."
    data = json.loads(Path(name if revision is None else f"{name}.{revision}").read_text())
    words, table = data.pop("words"), torch.tensor(data.pop("table"))
    return LM(Faulty(table, **data), WordTokenizer(words), name=str(name), revision=revision)


def suite(tasks=6, pairs=8):
    "Agreement of one noun each; the first half of the tasks is one group, the second another."
    nouns = ["cat", "dog", "king", "girl", "cats", "dogs"][:tasks]
    groups = ["agreement" if i < tasks / 2 else "other" for i in range(tasks)]
    made = (replace(agreement_task(n, pairs=pairs), phenomenon=g) for n, g in zip(nouns, groups, strict=True))
    return Suite("toy", tuple(made))


def study(folder, seeds=3, **faults):
    "A study of 21 jobs a seed: one gradient and 20 transfer jobs."
    suite(tasks=5).to_frame().to_parquet(folder / "toy.parquet")
    model = write(folder / "model.json", **faults)
    return Study(
        suite=str(folder / "toy.parquet"),
        models=[{"name": model, "loader": "toylm:load", "label": "toy"}],
        probes=["gradient", "transfer"],
        train_pairs=4,
        eval_pairs=3,
        seeds=seeds,
        controls=["full", "masked", "shuffled"],
        ftgd={"steps": 1},
    )
