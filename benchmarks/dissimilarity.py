"""CKA of all layer pairs of two 12-layer models over 20,000 tokens: `cka_matrix` against loops over the pairs.

Run as `python benchmarks/dissimilarity.py [tokens] [width] [threads]`. Everything runs in one process, on the same
models, texts and number of threads. Three loops stand beside the library:

- "from memory", the obvious loop: the states of all layers are read once, then `pair(X[i], Y[j])` for every i and j,
  where `pair` is the unbiased CKA by the formula of Song et al. (2012) on Gram matrices of 512 tokens. (The Gram
  matrices of all tokens at once would take 3 GB and several seconds a pair.)
- "from models": the same loop in the memory of two layers, which reads them from the two models again for every pair.
  It is timed on 8 pairs and scaled to all.
- "biased, from features": the least that a loop over pairs can cost, the biased CKA |X'Y|^2 / (|X'X| |Y'Y|) of
  Kornblith et al. (2019) from states in memory. It is another, simpler measure, which needs no Gram matrix.

The time of reading the text with the models is part of both sides of a ratio ("with reading") or of neither ("states in
memory").
"""

import json
import resource
import sys
import time

import numpy as np
import torch

from taskspace.dissimilarity.comparison import cka_matrix, cka_states
from taskspace.dissimilarity.states import hidden_states
from taskspace.models.lm import LM
from taskspace.pretraining.architectures import build, TransformerConfig

TOKENS, WIDTH, THREADS = (
    int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 20_000), (2, 64), (3, 1))
)
torch.set_num_threads(THREADS)
LAYERS, WORDS, BATCH = 12, 500, 512


class Numbers:
    "A tokenizer of texts that are already numbers."

    bos_token_id = eos_token_id = pad_token_id = 0

    def encode(self, text, add_special_tokens=False):
        return [int(w) for w in text.split()]


def hsic(K, L):
    "The unbiased HSIC of two Gram matrices, written out."
    n = len(K)
    K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
    a, b = K.sum(1), L.sum(1)
    return ((K * L).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b)) / (n * (n - 3))


def pair(X, Y):
    "Unbiased CKA of two matrices in minibatches: numerators and denominators summed, then the ratio."
    sums = np.zeros(3)
    for x, y in zip(X.split(BATCH), Y.split(BATCH), strict=True):
        if len(x) < 4:
            continue
        x, y = x - x.mean(0), y - y.mean(0)
        K, L = x @ x.T, y @ y.T
        sums += [len(x) * float(v) for v in (hsic(K, L), hsic(K, K), hsic(L, L))]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def biased(X, Y):
    "Biased CKA of two matrices from their features."
    X, Y = X - X.mean(0), Y - Y.mean(0)
    return float((X.T @ Y).norm() ** 2 / ((X.T @ X).norm() * (Y.T @ Y).norm()))


def clock(f, times=1):
    "What f gives, and the least of its times in seconds."
    took = []
    for _ in range(times):
        start = time.perf_counter()
        value = f()
        took.append(time.perf_counter() - start)
    return value, min(took)


rng = np.random.default_rng(0)
texts = []
while sum(len(t.split()) for t in texts) < TOKENS:
    texts.append(" ".join(map(str, rng.integers(1, WORDS, rng.integers(8, 24)))))
a, b = (
    LM(build(TransformerConfig(WORDS, WIDTH, LAYERS, num_attention_heads=4), seed), Numbers(), name=str(seed))
    for seed in (0, 1)
)
hidden_states(a, texts[:50])  # warm up

ours, one_pass = clock(lambda: cka_matrix(a, b, texts), 3)
quick, one_pass_minibatch = clock(lambda: cka_matrix(a, b, texts, estimator="minibatch"))
(X, Y), reading = clock(lambda: (hidden_states(a, texts), hidden_states(b, texts)), 3)
gathered, from_states = clock(lambda: cka_states(X, Y), 3)
loop, from_memory = clock(lambda: np.array([[pair(X[i], Y[j]) for j in Y] for i in X]))
simple, from_features = clock(lambda: np.array([[biased(X[i], Y[j]) for j in Y] for i in X]))
sample = [(int(i), int(j)) for i, j in rng.integers(0, LAYERS + 1, (8, 2))]
_, from_models = clock(
    lambda: [pair(hidden_states(a, texts, [i])[i], hidden_states(b, texts, [j])[j]) for i, j in sample]
)
from_models *= ours.size / len(sample)
print(
    json.dumps(
        {
            "tokens": len(X[0]),
            "width": WIDTH,
            "layer_pairs": ours.size,
            "threads": THREADS,
            "seconds": {
                "cka_matrix, exact, with reading": round(one_pass, 2),
                "cka_matrix, minibatch, with reading": round(one_pass_minibatch, 2),
                "cka_states, exact, states in memory": round(from_states, 2),
                "reading the states of all layers once": round(reading, 2),
                "loop from memory, unbiased by the formula on Gram matrices of 512 tokens": round(from_memory, 2),
                "loop from models, the same but reading two layers again for each pair, scaled from 8 pairs": round(
                    from_models, 1
                ),
                "loop from memory, biased by the formula on features": round(from_features, 2),
            },
            "times as fast": {
                "states in memory: cka_states against the obvious loop": round(from_memory / from_states, 1),
                "with reading: cka_matrix against the obvious loop": round((reading + from_memory) / one_pass, 1),
                "with reading: cka_matrix against the loop from models": round(from_models / one_pass, 1),
                "states in memory: cka_states against the biased loop from features": round(
                    from_features / from_states, 1
                ),
            },
            "largest difference": {
                "cka_states to cka_matrix": float(f"{np.abs(gathered.values - ours.values).max():.1e}"),
                "cka_matrix in minibatches to the obvious loop": round(float(np.abs(quick.values - loop).max()), 5),
                "cka_matrix, exact, to the obvious loop, which is an estimate": round(
                    float(np.abs(ours.values - loop).max()), 5
                ),
            },
            "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        },
        indent=1,
    )
)
assert from_memory / from_states >= 10, (
    "with states in memory, all pairs at once must be at least ten times as fast as the obvious loop"
)
assert from_models / one_pass >= 10, (
    "with reading, one pass must be at least ten times as fast as a loop that reads for each pair"
)
