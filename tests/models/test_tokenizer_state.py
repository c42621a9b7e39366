"""The digest of a tokenizer of one's own is the same in every process, and another one for another vocabulary."""

import abc
import functools
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from taskspace.models.checkpoints import loaded_digests
from taskspace.models.lm import LM
from taskspace.pretraining.architectures import BigramLM
from taskspace.toy import TOY_WORDS, WordTokenizer


class Trie:
    def __init__(self, words):
        self.words, self.above = list(words), self

    def __call__(self, text):
        return text.split()


class Slotted:
    __slots__ = ("bos", "words")
    eos = pad = 0

    def __init__(self, words):
        self.words, self.bos = list(words), 0

    def encode(self, text, add_special_tokens=False):
        return [self.words.index(word) for word in text.split()]


class OfClass:
    words = list(TOY_WORDS)
    bos = eos = pad = 0
    encode = Slotted.encode


class Child(OfClass):
    pass


@dataclass(frozen=True)
class Piece:
    text: str
    seen: frozenset = field(default_factory=lambda: frozenset(TOY_WORDS))


class Closed:
    "Its words are in a generator, where only encodings show them."

    bos = eos = pad = 0

    def __init__(self, words):
        self.lock, self.coder = threading.Lock(), self._coder(list(words))
        next(self.coder)

    @staticmethod
    def _coder(words, ids=()):
        while True:
            text = yield ids
            ids = [words.index(word) if word in words else 0 for word in text.split()]

    def encode(self, text, add_special_tokens=False):
        return self.coder.send(text)


class Derived(WordTokenizer):
    @property
    def size(self):
        return len(self.words)

    @functools.cached_property
    def longest(self):
        return max(map(len, self.words))

    @classmethod
    def default(cls):
        return cls()

    @staticmethod
    def clean(text):
        return text


class Abstract(abc.ABC, WordTokenizer):
    pass


def holding(make):
    "A tokenizer with one thing more."

    def tokenizer(words):
        made = WordTokenizer(TOY_WORDS)
        made.more = make(words)
        return made

    return tokenizer


def in_closure(words):
    return lambda text: [words.index(word) for word in text.split()]


def byt5(words):
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=len(words))


def of_class(words):
    return type("Mine", (OfClass,), {"words": list(words)})()


KINDS = {
    "words": WordTokenizer,
    "derived": Derived,
    "abstract": Abstract,
    "slots": Slotted,
    "class": of_class,
    "closed": Closed,
    "ByT5": byt5,
    "object": holding(Trie),
    "set": holding(set),
    "sets": holding(lambda words: {"known": [frozenset(words)]}),
    "dictionary": holding(lambda words: {word: 0 for word in set(words)}),
    "tuple keys": holding(lambda words: {(word, "a"): k for k, word in enumerate(words)}),
    "pieces": holding(lambda words: {Piece(word): None for word in words}),
    "pattern": holding(lambda words: re.compile("|".join(words))),
    "function": holding(in_closure),
    "method": holding(lambda words: Trie(words).__call__),
    "array": holding(lambda words: np.array(words)),
    "tensor": holding(lambda words: torch.arange(len(words))),
    "path": holding(lambda words: Path(*words)),
}
WORDS = (*TOY_WORDS[:-1], "fox")  # another last word


def digest_of(tokenizer):
    return loaded_digests(LM(BigramLM(torch.eye(len(TOY_WORDS))), tokenizer, name="own"))[1]


def all_digests():
    return {name: digest_of(make(TOY_WORDS)) for name, make in KINDS.items()}


def test_tokenizers_have_one_digest_in_every_process():
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {Path(__file__).stem} as t; "
    found = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ran = [sys.executable, "-c", script + "[print(*item, sep='=') for item in t.all_digests().items()]"]
        out = subprocess.run(ran, env=environment, capture_output=True, text=True, check=True).stdout
        found.append(dict(line.split("=") for line in out.splitlines()))
    assert found[0] == found[1] == all_digests()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"tensor"}))
def test_another_vocabulary_has_another_digest(kind):
    assert digest_of(KINDS[kind](TOY_WORDS)) == digest_of(KINDS[kind](TOY_WORDS))
    assert digest_of(KINDS[kind](TOY_WORDS)) != digest_of(KINDS[kind](WORDS if kind != "ByT5" else TOY_WORDS[1:]))


def test_words_of_a_base_class_count(monkeypatch):
    before = digest_of(Child())
    monkeypatch.setattr(OfClass, "words", list(WORDS))
    assert digest_of(Child()) != before


def test_what_is_computed_on_demand_does_not_count():
    tokenizer = Derived()
    before = digest_of(tokenizer)
    assert tokenizer.longest and digest_of(tokenizer) == before


def test_the_digest_of_plain_values_is_as_it_was():
    assert digest_of(WordTokenizer()) == "d1d9d1801f037df208ef57d8afbe099b"


def test_very_deep_objects_end():
    tokenizer, deep = WordTokenizer(), []
    for _ in range(5000):
        deep = [deep]
    tokenizer.more = deep
    assert digest_of(tokenizer) == digest_of(tokenizer)
