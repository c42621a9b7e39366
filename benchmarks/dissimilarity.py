"""CKA of all layer pairs of two 12-layer models over 20,000 tokens: one pass against the obvious loop over pairs.

Run as `python benchmarks/dissimilarity.py [tokens] [width]`, in one process on one thread, with the same models and texts.

The obvious loop takes each pair of layers by itself: read the two layers from the two models, then HSIC by the formula of
Song et al. (2012) on Gram matrices of 512 tokens (whole ones would take 3 GB and minutes a pair). It is timed on a sample of
pairs and scaled to all. Reading dominates it, so a second loop is given its best case too: the states of all layers are
gathered once, and all pairs are then computed from memory.
"""
import json
import resource
import sys
import time

import numpy as np
import torch

from taskspace.architectures import TransformerConfig, build
from taskspace.dissimilarity import cka_matrix, hidden_states
from taskspace.models import LM

torch.set_num_threads(1)
TOKENS = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
WIDTH = int(sys.argv[2]) if len(sys.argv) > 2 else 64
LAYERS, WORDS, BATCH = 12, 500, 512


class Numbers:
    "A tokenizer of texts that are already numbers."
    bos_token_id = eos_token_id = pad_token_id = 0
    def encode(self, text, add_special_tokens=False): return [int(w) for w in text.split()]


def hsic(K, L):
    "The unbiased HSIC of two Gram matrices, written out."
    n = len(K)
    K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
    k, l = K.sum(1), L.sum(1)
    return ((K * L).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)) / (n * (n - 3))


def pair(X, Y):
    "CKA of two matrices in minibatches."
    sums = np.zeros(3)
    for x, y in zip(X.split(BATCH), Y.split(BATCH)):
        if len(x) < 4: continue
        x, y = x - x.mean(0), y - y.mean(0)
        K, L = x @ x.T, y @ y.T
        sums += [len(x) * float(v) for v in (hsic(K, L), hsic(K, K), hsic(L, L))]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def clock(f):
    start = time.perf_counter()
    return f(), time.perf_counter() - start


rng = np.random.default_rng(0)
texts = []
while sum(len(t.split()) for t in texts) < TOKENS: texts.append(" ".join(map(str, rng.integers(1, WORDS, rng.integers(8, 24)))))
a, b = (LM(build(TransformerConfig(WORDS, WIDTH, LAYERS, num_attention_heads=4), seed), Numbers(), name=str(seed)) for seed in (0, 1))
hidden_states(a, texts[:50])  # warm up

ours, seconds = clock(lambda: cka_matrix(a, b, texts))
quick, quick_seconds = clock(lambda: cka_matrix(a, b, texts, estimator="minibatch"))
(X, Y), gather = clock(lambda: (hidden_states(a, texts), hidden_states(b, texts)))
loop, loop_seconds = clock(lambda: np.array([[pair(X[i], Y[j]) for j in Y] for i in X]))
sample = [(int(i), int(j)) for i, j in rng.integers(0, LAYERS + 1, (8, 2))]
_, obvious = clock(lambda: [pair(hidden_states(a, texts, [i])[i], hidden_states(b, texts, [j])[j]) for i, j in sample])
obvious *= ours.size / len(sample)
print(json.dumps({
    "tokens": len(X[0]), "width": WIDTH, "layer_pairs": ours.size, "threads": 1,
    "seconds_one_pass_exact": round(seconds, 2), "seconds_one_pass_minibatch": round(quick_seconds, 2),
    "seconds_obvious_loop_scaled_from_8_pairs": round(obvious, 1),
    "seconds_loop_from_memory": round(gather + loop_seconds, 2), "of_which_reading_once": round(gather, 2),
    "speedup_over_obvious_loop": round(obvious / seconds, 1),
    "speedup_over_loop_from_memory": round((gather + loop_seconds) / seconds, 1),
    "largest_difference_minibatch_to_loop": round(float(np.abs(quick.values - loop).max()), 5),
    "largest_difference_exact_to_loop": round(float(np.abs(ours.values - loop).max()), 5),
    "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}, indent=1))
assert obvious / seconds >= 10, "one pass must be at least ten times as fast as the obvious loop"
