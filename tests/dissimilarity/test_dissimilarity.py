"""CKA, Procrustes, hidden states and stitching against formulas written out, properties and failures."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from atlength import covering
from taskspace.dissimilarity.comparison import cka_matrix, cka_models, cka_states, model_distance
from taskspace.dissimilarity.measures import cka, ExactCKA, mean_matching, MinibatchCKA, procrustes
from taskspace.dissimilarity.states import (
    capture,
    encode_text,
    Encoded,
    find_blocks,
    hidden_states,
    pad,
    Reader,
    stream_states,
    text_batches,
)
from taskspace.dissimilarity.stitching import fit_map, scrambled, stitch, stitch_controls, StitchMap, text_losses
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining.architectures import build, CNNConfig, LSTMConfig, TransformerConfig
from taskspace.toy import WordTokenizer

# --- formulas, as written in the papers, with n x n matrices ---


def hsic1(K, L):
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    return (
        np.trace(K @ L) + one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
    ) / (n * (n - 3))


def hsic0(K, L):
    H = np.eye(len(K)) - 1 / len(K)
    return np.trace(K @ H @ L @ H) / (len(K) - 1) ** 2


def naive_cka(X, Y, hsic):
    K, L = X @ X.T, Y @ Y.T
    return hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))


def related(rng, n, d, e, noise=1.0):
    X = rng.normal(size=(n, d)) + rng.normal(size=d) * 3
    return X, X @ rng.normal(size=(d, e)) / np.sqrt(d) + noise * rng.normal(size=(n, e)) + 2


@pytest.mark.parametrize("n,d,e", [(5, 3, 4), (40, 60, 8), (40, 8, 60), (200, 16, 24), (64, 64, 64)])
@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_equals_the_formula(n, d, e, unbiased):
    X, Y = related(np.random.default_rng(n + d), n, d, e)
    expected = naive_cka(X, Y, hsic1 if unbiased else hsic0)
    assert cka(X, Y, unbiased) == pytest.approx(expected, abs=1e-10)  # worst case seen 4e-13
    sums = ExactCKA(unbiased)  # the feature form, whichever of the two cka() chose
    for i in range(0, n, 7):
        sums.update([torch.tensor(X[i : i + 7])], [torch.tensor(Y[i : i + 7])])
    assert sums.value()[0, 0] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 60), st.integers(1, 20), st.floats(0.01, 100), st.booleans())
def test_cka_properties(seed, n, d, scale, unbiased):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, d, d)
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    value = cka(X, Y, unbiased)
    assert cka(X, X, unbiased) == pytest.approx(1, abs=1e-9)
    assert cka(Y, X, unbiased) == pytest.approx(value, abs=1e-8)
    assert cka(X @ Q * scale + 3, Y, unbiased) == pytest.approx(value, abs=1e-8)
    order = rng.permutation(n)
    assert cka(X[order], Y[order], unbiased) == pytest.approx(value, abs=1e-8)


def test_unbiased_cka_of_noise_is_near_zero_where_the_biased_is_not():
    rng = np.random.default_rng(0)
    draws = [(rng.normal(size=(32, 512)), rng.normal(size=(32, 512))) for _ in range(200)]
    unbiased, biased = (np.mean([cka(X, Y, u) for X, Y in draws]) for u in (True, False))
    assert abs(unbiased) < 0.02  # measured -0.0002
    assert biased > 0.9  # measured 0.94


@pytest.mark.parametrize("batch", [8, 33, 100, 1000])
def test_biased_minibatches_equal_the_full_batch(batch):
    X, Y = related(np.random.default_rng(1), 503, 20, 30)
    assert cka(X, Y, False, batch=batch) == pytest.approx(cka(X, Y, False), abs=1e-6)  # worst seen 1e-15


def test_minibatch_estimators():
    X, Y = related(np.random.default_rng(2), 4096, 10, 12, noise=3)
    parts = [(X[i : i + 64], Y[i : i + 64]) for i in range(0, len(X), 64)]
    grams = [[(a @ a.T, b @ b.T) for a, b in ((x, y), (x, x), (y, y))] for x, y in parts]
    num, dx, dy = (np.mean([hsic1(*g[k]) for g in grams]) for k in range(3))
    assert cka(X, Y, batch=64) == pytest.approx(num / np.sqrt(dx * dy), abs=1e-10)
    ratios = [naive_cka(x, y, hsic1) for x, y in parts]
    assert cka(X, Y, batch=64, average="ratio") == pytest.approx(np.mean(ratios), abs=1e-10)
    assert cka(X, Y, batch=64) == pytest.approx(cka(X, Y), abs=0.02)
    # rows that do not fill a batch still count, however they arrive
    pieces = MinibatchCKA(64)
    for i in range(0, 4000, 37):
        pieces.update([torch.tensor(X[i : min(i + 37, 4000)])], [torch.tensor(Y[i : min(i + 37, 4000)])])
    assert pieces.value()[0, 0] == pytest.approx(cka(X[:4000], Y[:4000], batch=64), abs=1e-10)
    assert pieces.n == 4000


@pytest.mark.slow
def test_cka_is_exact_in_float32_with_a_large_mean():
    "A residual stream has a few features with a huge mean; the sums must not drown in it."
    rng = np.random.default_rng(3)
    X, Y = related(rng, 2000, 32, 32)
    X[:, 0] += 1000
    sums = ExactCKA()
    for i in range(0, 2000, 100):
        sums.update([torch.tensor(X[i : i + 100]).float()], [torch.tensor(Y[i : i + 100]).float()])
    assert sums.value()[0, 0] == pytest.approx(naive_cka(X - X.mean(0), Y, hsic1), abs=1e-5)


@pytest.mark.parametrize("n,d,e", [(40, 60, 8), (200, 16, 24)])
def test_cka_equals_an_independent_package(n, d, e):
    peer = pytest.importorskip("ckatorch", reason="ckatorch is a peer to compare with: pip install ckatorch")
    X, Y = (torch.tensor(Z) for Z in related(np.random.default_rng(n), n, d, e))
    for unbiased in (True, False):
        theirs = float(peer.cka_base(X, Y, unbiased=unbiased))
        assert cka(X, Y, unbiased) == pytest.approx(theirs, abs=1e-5)  # worst seen 4e-16
    cut = n // 4 * 4
    assert cka(X[:cut], Y[:cut], batch=cut // 4) == pytest.approx(
        float(peer.cka_batch(X[:cut].reshape(4, -1, d), Y[:cut].reshape(4, -1, e))), abs=1e-5
    )


def test_cka_failures():
    X = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(TaskspaceError, match="X has 10 rows and Y 9"):
        cka(X, X[:9])
    with pytest.raises(TaskspaceError, match="needs 4 rows or more, not 3"):
        cka(X[:3], X[:3])
    with pytest.raises(TaskspaceError, match="must be a matrix"):
        cka(X[0], X[0])
    with pytest.raises(TaskspaceError, match="average must be"):
        cka(X, X, batch=5, average="mean")
    assert np.isnan(cka(np.ones((10, 2)), X))


# --- Procrustes ---

matrices = st.tuples(
    st.integers(0, 10**6), st.integers(3, 12), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.floats(0, 3)
)


@settings(max_examples=150, deadline=None)
@given(matrices, st.sampled_from(["angular", "euclidean"]))
def test_procrustes_is_a_metric(drawn, kind):
    seed, n, a, b, c, noise = drawn
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, 6))
    X, Y, Z = (base[:, :w] + noise * rng.normal(size=(n, w)) for w in (a, b, c))
    xy, yz, xz = procrustes(X, Y, kind), procrustes(Y, Z, kind), procrustes(X, Z, kind)
    assert xz <= xy + yz + 1e-9
    assert procrustes(Y, X, kind) == pytest.approx(xy, abs=1e-9)
    assert procrustes(X, X, kind) < 1e-7 and 0 <= xy <= (np.pi / 2 if kind == "angular" else np.sqrt(2)) + 1e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 30), st.integers(1, 8), st.integers(0, 5))
def test_procrustes_invariances(seed, n, d, extra):
    rng = np.random.default_rng(seed)
    X, Y = related(rng, n, d, d)
    Q = np.linalg.qr(rng.normal(size=(d + extra, d + extra)))[0][:d]  # also into a wider space
    assert procrustes(X, X @ Q * 7 - 2) < 1e-7
    assert procrustes(X @ Q, Y) == pytest.approx(procrustes(X, Y), abs=1e-7)
    assert procrustes(X, Y) <= mean_matching(X, Y) + 1e-9


def test_procrustes_equals_scipy():
    from scipy.linalg import orthogonal_procrustes

    X, Y = related(np.random.default_rng(4), 50, 6, 6)
    unit = [(Z - Z.mean(0)) / np.linalg.norm(Z - Z.mean(0)) for Z in (X, Y)]
    nuclear = orthogonal_procrustes(*unit)[1]
    assert procrustes(X, Y, "euclidean") == pytest.approx(np.sqrt(2 - 2 * nuclear), abs=1e-10)
    assert procrustes(X, Y) == pytest.approx(np.arccos(nuclear), abs=1e-10)


def test_procrustes_failures():
    X = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(TaskspaceError, match="Y has no spread"):
        procrustes(X, np.ones((10, 3)))
    with pytest.raises(TaskspaceError, match="kind must be"):
        procrustes(X, X, "cosine")
    with pytest.raises(TaskspaceError, match="not finite"):
        procrustes(X * np.nan, X)


# --- hidden states ---

WORDS = [
    "the",
    "a",
    "old",
    "king",
    "queen",
    "cat",
    "dog",
    "of",
    "and",
    "sees",
    "finds",
    "her",
    "his",
    "house",
    "hill",
    "garden",
    "in",
    "on",
    "with",
]
TOKENS = ["<s>", *WORDS]  # token 0 is prefix and padding


def sentences(n, seed=0, longest=9):
    rng = np.random.default_rng(seed)
    return list(dict.fromkeys(" ".join(rng.choice(WORDS, rng.integers(1, longest))) for _ in range(n)))


def model(kind, seed=0, width=16, depth=3):
    size = len(TOKENS)
    if kind == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(seed)
        net = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size,
                n_positions=32,
                n_embd=width,
                n_layer=depth,
                n_head=2,
                initializer_range=0.3,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    elif kind == "neox":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        torch.manual_seed(seed)
        net = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=size,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=2,
                intermediate_size=32,
                initializer_range=0.3,
                max_position_embeddings=32,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    elif kind == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(seed)
        net = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=2,
                intermediate_size=32,
                initializer_range=0.3,
                max_position_embeddings=32,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    elif kind == "transformer":
        net = build(TransformerConfig(size, width, depth, num_attention_heads=2), seed)
    elif kind == "lstm":
        net = build(LSTMConfig(size, width, depth), seed)
    else:
        net = build(CNNConfig(size, width, depth), seed)
    if kind in ("transformer", "cnn"):
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(1 if p.ndim < 2 else 8)  # far from the small initial weights
    return LM(net, WordTokenizer(TOKENS), name=f"{kind}-{seed}")


KINDS = ["gpt2", "neox", "llama", "transformer", "lstm", "cnn"]


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_models_own_and_padding_never_counts(kind):
    lm, texts = model(kind), sentences(30)
    states = hidden_states(lm, texts)
    single: dict[int, list] = {layer: [] for layer in states}
    for t in texts:  # one text at a time needs no padding
        ids = torch.tensor([[0, *lm.encode(t)]])
        with torch.no_grad():
            own = lm.model(ids, output_hidden_states=True)
        for layer, h in enumerate(own.hidden_states):
            single[layer].append(h[0, 1:])
    assert list(states) == [0, 1, 2, 3] and len(states[0]) == sum(len(t.split()) for t in texts)
    last = 3 if kind in KINDS[:3] else 4  # Hugging Face puts the final norm into its last hidden state; ours does not
    for layer in range(last):
        assert torch.allclose(states[layer], torch.cat(single[layer]), atol=2e-5), (kind, layer)  # worst seen 3e-6


@pytest.mark.parametrize("kind", ["gpt2", "lstm"])
def test_positions_and_batches(kind):
    lm, texts = model(kind), sentences(25)
    every = hidden_states(lm, texts)
    ends = np.cumsum([len(t.split()) for t in texts])
    assert torch.allclose(hidden_states(lm, texts, positions="last")[2], every[2][ends - 1], atol=1e-5)
    means = torch.stack([p.mean(0) for p in every[2].split([len(t.split()) for t in texts])])
    assert torch.allclose(hidden_states(lm, texts, positions="mean", token_budget=30)[2], means, atol=1e-5)
    first = hidden_states(lm, texts, [1], positions="first")[1]
    assert torch.allclose(first, first[:1].expand_as(first), atol=1e-5)  # the prefix token sees nothing else
    sizes = [len(b[3]) for b in stream_states(lm, texts, [3], token_budget=40)]
    assert len(sizes) > 3 and sum(sizes) == ends[-1] and max(sizes) <= 40
    assert list(hidden_states(lm, texts, [-1, 0])) == [3, 0]
    given_blocks = hidden_states(lm, texts, blocks=find_blocks(lm)[:1])
    assert list(given_blocks) == [0, 1] and torch.allclose(given_blocks[1], every[1], atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 60))
def test_batches_keep_the_order_of_texts_and_are_as_large_as_the_budget_allows(lengths, budget):
    encoded = [Encoded([i] * n, 0, n) for i, n in enumerate(lengths)]
    parts = text_batches(encoded, budget)
    assert [e for part in parts for e in part] == encoded
    sizes = [[len(e.ids) for e in part] for part in parts]
    assert all(len(part) == 1 or max(part) * len(part) <= budget for part in sizes)
    for part, following in zip(sizes, sizes[1:], strict=False):
        assert max(*part, following[0]) * (len(part) + 1) > budget


def test_encoder_states_leave_special_tokens_out():
    lm, texts = encoder(), sentences(20)
    net, tokenizer = lm.model, lm.tokenizer
    states, heads = hidden_states(lm, texts), hidden_states(lm, texts, [2], positions="first")[2]
    rows = 0
    for i, t in enumerate(texts):
        with torch.no_grad():
            own = net(**tokenizer(t, return_tensors="pt"), output_hidden_states=True).hidden_states
        k = len(t.split())
        for layer in range(3):
            assert torch.allclose(states[layer][rows : rows + k], own[layer][0, 1:-1], atol=1e-5)
        assert torch.allclose(heads[i], own[2][0, 0], atol=1e-5)
        rows += k
    assert rows == len(states[0])


def encoder(seed=0, width=16, depth=2):
    "A BERT whose tokens are words between [CLS] and [SEP]."
    from tokenizers import models as tm
    from tokenizers import pre_tokenizers, processors, Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    core = Tokenizer(tm.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
    )
    return LM(BertModel(config), tokenizer, name="bert")


def test_state_failures():
    lm = model("transformer")
    for args, message in [
        ((["the cat"], [9]), "layer 9 is not one of them"),
        ((["the cat"], []), "list of layers is empty"),
        ((["the cat"], None, "middle"), "positions must be one of"),
        (([" "],), "has no tokens"),
        ((["the " * 200],), "takes 128 tokens"),
    ]:
        with pytest.raises(TaskspaceError, match=message):
            hidden_states(lm, *args)
    bare = LM(torch.nn.Embedding(20, 20), WordTokenizer(TOKENS), name="bare")
    with pytest.raises(TaskspaceError, match="bare: found no list of layers in Embedding; pass blocks="):
        hidden_states(bare, ["the cat"])


def dropping(seed=0, depth=3):
    "A GPT-2 with dropout, in training mode but for its first block."
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3)
    config = GPT2Config(
        vocab_size=len(TOKENS),
        n_positions=32,
        n_embd=16,
        n_layer=depth,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        **rates,
    )
    lm = LM(GPT2LMHeadModel(config), WordTokenizer(TOKENS), name=f"dropping-{seed}")
    lm.model.train()
    find_blocks(lm)[0].eval()
    return lm


def modes(*lms):
    return [(name, m.training) for lm in lms for name, m in lm.model.named_modules()]


@pytest.mark.parametrize(
    "measure",
    [
        lambda a, b: torch.cat(list(hidden_states(a, TEST).values())),
        lambda a, b: torch.cat([v for s in stream_states(a, TEST) for v in s.values()]),
        lambda a, b: torch.cat(list(Reader(a)([encode_text(a, t) for t in TEST]).values())),
        lambda a, b: capture(a, *pad(a, [encode_text(a, TEST[0])]), [2], find_blocks(a))[2].detach(),
        lambda a, b: torch.tensor(cka_matrix(a, b, TEST).values),
        lambda a, b: torch.tensor(cka_models([a, b], TEST)[2].values),
        lambda a, b: torch.tensor(text_losses(a, TEST).nll),
        lambda a, b: torch.tensor(stitch(a, b, 1, 2, TRAIN, TEST).losses.values),
        lambda a, b: torch.tensor(stitch(a, b, 1, 2, TRAIN, TEST, steps=5).losses.values),
        lambda a, b: torch.tensor(text_losses(stitch(a, b, 1, 2, [], TEST, kind="identity").lm, TEST).nll),
    ],
    ids=[
        *("hidden_states", "stream_states", "Reader", "capture", "cka_matrix", "cka_models", "text_losses"),
        *("stitch", "trained", "chimera"),
    ],
)
def test_models_are_measured_in_evaluation_mode_and_left_as_they_were(measure):
    a, b = dropping(0), dropping(1)
    before = modes(a, b)
    assert {v for _, v in before} == {True, False}
    got = measure(a, b)
    assert modes(a, b) == before
    for lm in (a, b):
        lm.model.eval()
    assert torch.equal(got, measure(a, b))


def test_a_string_is_one_text():
    lm, text = model("gpt2"), "the king sees her"
    assert (
        torch.equal(hidden_states(lm, text)[3], hidden_states(lm, [text])[3]) and len(hidden_states(lm, text)[3]) == 4
    )
    assert torch.equal(next(stream_states(lm, text))[3], hidden_states(lm, text)[3])
    assert text_losses(lm, text).tokens.tolist() == [4]
    assert cka_matrix(lm, lm, text).attrs["rows"] == 4 and cka_models([lm, lm], text)[1].shape == (2, 2)
    assert len(stitch(lm, lm, 1, 1, TRAIN, "the dog of the hill", kind="mean").losses) == 1


def test_the_prefix_is_that_of_scoring():
    tokenizer = WordTokenizer(TOKENS)
    tokenizer.bos = None  # the end of a text stands before it
    lm = LM(model("gpt2").model, tokenizer, name="ends")
    from taskspace.scoring.encoding import prefix_id

    assert lm.bos_id is None and prefix_id(lm) is not None
    assert encode_text(lm, "the king sees her").ids[0] == prefix_id(lm) and encode_text(lm, "the king").start == 1


def test_no_text_is_refused():
    with pytest.raises(TaskspaceError, match="there are no texts"):
        text_losses(model("gpt2"), [])


# --- all layers of two models ---


@pytest.mark.parametrize("pair", [("gpt2", "lstm"), ("cnn", "transformer"), ("bert", "lstm")])
def test_cka_matrix_equals_the_loop(pair):
    a, b = encoder(depth=3) if pair[0] == "bert" else model(pair[0]), model(pair[1], seed=1, width=24, depth=2)
    texts = sentences(60)
    X, Y = hidden_states(a, texts), hidden_states(b, texts)
    loop = np.array([[naive_cka(X[i].double().numpy(), Y[j].double().numpy(), hsic1) for j in Y] for i in X])
    for options in ({}, {"token_budget": 20}, {"estimator": "minibatch", "batch": 10**6}, {"seed": 5}):
        table = cka_matrix(a, b, texts, **options)
        assert np.abs(table.values - loop).max() < 1e-5, options  # worst seen 3e-7
    assert list(table.index) == [0, 1, 2, 3] and list(table.columns) == [0, 1, 2] and table.attrs["rows"] == len(X[0])
    assert np.abs(cka_states(X, Y).values - loop).max() < 1e-6
    short = [{layer: v[:20] for layer, v in S.items()} for S in (X, Y)]  # fewer rows than features
    one_by_one = [[cka(x, y) for y in short[1].values()] for x in short[0].values()]
    assert np.abs(cka_states(*short).values - one_by_one).max() < 1e-8
    with pytest.raises(TaskspaceError, match="row i of both"):
        cka_states(X, {layer: v[1:] for layer, v in Y.items()})
    close = cka_matrix(a, b, texts, estimator="minibatch", batch=64)
    assert 1e-6 < np.abs(close.values - loop).max() < 0.1
    biased = cka_matrix(a, b, texts, unbiased=False)
    assert biased.loc[1, 2] == pytest.approx(cka(X[1], Y[2], unbiased=False), abs=1e-5)
    parts = cka_matrix(a, b, texts, unbiased=False, estimator="minibatch", batch=16, seed=3)
    assert np.abs(parts.values - biased.values).max() < 1e-6  # seen 0: the biased form is never cut into minibatches
    grams = [[x @ x.T for x in (S[layer].double().numpy() for layer in (1, 2))] for S in (X, Y)]
    assert parts.loc[2, 1] == pytest.approx(
        hsic0(grams[0][1], grams[1][0]) / np.sqrt(hsic0(grams[0][1], grams[0][1]) * hsic0(grams[1][0], grams[1][0])),
        abs=1e-5,
    )
    assert procrustes(X[3], Y[2]) == pytest.approx(procrustes(Y[2], X[3]), abs=1e-9)  # differing widths


def test_cka_matrix_of_gathered_states():
    a, b, texts = model("gpt2"), model("lstm", 1, width=24, depth=2), sentences(60)
    X, Y = hidden_states(a, texts), hidden_states(b, texts)
    for unbiased in (True, False):
        table = cka_matrix(X, Y, unbiased=unbiased)
        assert (table.shape, list(table.columns)) == ((4, 3), [0, 1, 2]) and table.equals(cka_states(X, Y, unbiased))
        assert np.abs(table.values - cka_matrix(a, b, texts, unbiased=unbiased).values).max() < 1e-6
    with pytest.raises(TaskspaceError, match="two models or the states of two"):
        cka_matrix(X, b)
    with pytest.raises(TaskspaceError, match="two models or the states of two"):
        cka_matrix(a, Y, texts)
    with pytest.raises(TaskspaceError, match="takes no texts and no layers"):
        cka_matrix(X, Y, texts)
    with pytest.raises(TaskspaceError, match="takes no texts and no layers"):
        cka_matrix(X, Y, layers_b=[1])
    with pytest.raises(TaskspaceError, match="of two models needs text"):
        cka_matrix(a, b)


@pytest.mark.slow
def test_stitch_stands_beside_the_other_measures():
    import subprocess
    import sys

    code = (
        "from taskspace.dissimilarity import hidden_states, cka_matrix, stitch; "
        "import taskspace.dissimilarity.stitching as s; assert stitch is s.stitch"
    )
    for first in ("", "import taskspace.dissimilarity.stitching; "):
        subprocess.run([sys.executable, "-c", first + code], check=True)
    import taskspace.dissimilarity as module

    with pytest.raises(AttributeError, match="has no attribute 'stitches'"):
        _ = module.stitches


def test_cka_of_groups_and_model_distance():
    lms, texts = [model("transformer", s) for s in range(3)], sentences(60)
    tables = cka_models(lms, texts, layers=[1, 3])
    pair = cka_matrix(lms[0], lms[2], texts)
    assert list(tables) == [1, 3]
    for layer, table in tables.items():
        assert table.iloc[0, 2] == pytest.approx(pair.loc[layer, layer], abs=1e-5)
        assert np.allclose(table, table.T) and np.allclose(np.diag(table), 1, atol=1e-6)
    assert model_distance(pair) == pytest.approx(np.sqrt((np.arccos(np.diag(pair)) ** 2).sum()))
    with pytest.raises(TaskspaceError, match="the same layers on both sides"):
        model_distance(pair.iloc[:2])
    whole = cka_models(lms, texts, [-1], estimator="minibatch", batch=10**6)[-1]
    assert np.abs(whole - tables[3]).max().max() < 1e-5  # worst seen 1e-6
    by_seed = [cka_models(lms, texts, [3], estimator="minibatch", batch=16, seed=s)[3] for s in (0, 1)]
    assert by_seed[0].iloc[0, 1] != by_seed[1].iloc[0, 1]


class Largest(TorchDispatchMode):
    "Notes the largest tensor that any operation makes."

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, torch.Tensor):
                self.entries = max(self.entries, t.numel())
        return out


@pytest.mark.parametrize(
    "options,bound",
    [({"estimator": "exact"}, (4 * 16) * (3 * 24)), ({"estimator": "minibatch", "batch": 32}, (4 + 3) * 32**2)],
)
@pytest.mark.slow
def test_memory_is_that_of_a_batch_however_long_the_text(options, bound):
    a, b, texts, budget = model("transformer"), model("transformer", 1, width=24, depth=2), sentences(700), 32
    states = budget * max(4 * 16, 4 * 24)  # the layers' states of a batch side by side, or a feed-forward layer
    most = []
    for n in (100, 700):
        with Largest() as seen:
            cka_matrix(a, b, texts[:n], token_budget=budget, **options)
        most.append(seen.entries)
    rows = sum(len(t.split()) for t in texts)
    # A Gram matrix of all tokens would be rows ** 2
    assert most[1] == most[0] <= max(bound, states) < rows**2 / 1000, most


def test_gathered_states_of_wide_models_are_compared_group_by_group(monkeypatch):
    import taskspace.dissimilarity.comparison as module

    X, Y = (hidden_states(model("transformer", s, depth=d), sentences(60)) for s, d in ((0, 3), (1, 2)))
    whole = cka_states(X, Y)
    groups = module._groups
    monkeypatch.setattr(module, "_groups", lambda layers: groups(layers, 40))
    assert [s.stop - s.start for s in module._groups(list(X.values()))] == [2, 2]
    gathered, sizes = module._gathered, []

    def counted(xs, ys, unbiased):
        sizes.extend(sum(x.shape[1] for x in side) for side in (xs, ys))
        return gathered(xs, ys, unbiased)

    monkeypatch.setattr(module, "_gathered", counted)
    assert np.abs(cka_states(X, Y).values - whole.values).max() < 1e-6  # worst seen 2e-9
    assert len(sizes) == 8 and max(sizes) == 32


def test_cka_matrix_failures():
    class Halves(WordTokenizer):
        def encode(self, text, add_special_tokens=False):
            return [i for i in super().encode(text) for _ in (0, 1)]

    a, b = model("transformer"), model("transformer", 1)
    b.tokenizer = Halves(TOKENS)
    with pytest.raises(TaskspaceError, match="into 2 tokens, transformer-1 into 4"):
        cka_matrix(a, b, ["the cat"])
    assert cka_matrix(a, b, sentences(30), positions="last").attrs["rows"] == len(sentences(30))
    with pytest.raises(TaskspaceError, match="the list of texts is empty"):
        cka_matrix(a, a, [])
    with pytest.raises(TaskspaceError, match="estimator must be"):
        cka_matrix(a, a, ["the cat"], estimator="best")


# --- stitching ---

TRAIN, TEST = sentences(400)[:250], sentences(400)[250:330]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_self_stitch_costs_nothing(kind):
    lm = model(kind)
    for layer in range(4):
        assert stitch(lm, lm, layer, layer, [], TEST, kind="identity").penalty == 0
        assert abs(stitch(lm, lm, layer, layer, TRAIN, TEST).penalty) < 1e-4, (kind, layer)  # worst seen 2e-6
        trained = stitch(lm, lm, layer, layer, TRAIN, TEST, steps=20)
        # Below 0 where the map teaches an untrained top
        assert trained.penalty <= 0.01 * trained.receiver_loss, (kind, layer, trained.penalty)


@pytest.mark.slow
def test_a_default_self_stitch_costs_nothing_on_text_that_the_model_has_not_read():
    from taskspace.models.loading import load_lm
    from taskspace.tasks.grammar import builtin_suite

    lm = load_lm("builtin:nano")
    texts = list(dict.fromkeys(s for t in builtin_suite(5) for p in t for s in (p.good, p.bad)))
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    for layer in range(3):
        assert abs(stitch(lm, lm, layer, layer, texts[:200], texts[200:]).penalty) < 1e-5  # worst seen 5e-7
    trained = stitch(lm, lm, 1, 1, texts[:200], texts[200:], steps=100)
    assert trained.penalty < -0.01  # training teaches the map the text
    assert 0.01 < stitch(load_lm("builtin:nano@0"), lm, 1, 1, texts[:200], texts[200:]).penalty < 5


def test_one_huge_feature_costs_a_self_stitch_nothing():
    "Large models have a few features a thousand times the size of the others."
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(2000, 16, generator=rng) * torch.tensor([3000.0, 0.05] + [1.0] * 14)
    phi = fit_map(StitchMap(16, 16), X, X)
    assert torch.allclose(phi(X)[:, 1:], X[:, 1:], atol=2e-3)  # worst seen 8e-5; 1.6 with a ridge that goes by the mean


HALVES = [
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float64, torch.float32),
]


@pytest.mark.slow
@pytest.mark.parametrize("types, kind", covering(HALVES, ["affine", "affine+norm", "mean", "identity"]))
def test_models_of_any_type_can_be_stitched(types, kind):
    bottom, top = (
        LM(model("gpt2", seed).model.to(dtype), WordTokenizer(TOKENS), name=f"{dtype}")
        for seed, dtype in enumerate(types)
    )
    for layer in (0, 2):
        s = stitch(bottom, top, layer, 2, TRAIN, TEST, kind=kind, steps=3)
        assert np.isfinite(s.losses.values).all() and (s.interval()[0] <= s.penalty <= s.interval()[1])
        wide = torch.float64 if torch.float64 in types else torch.float32
        assert {p.dtype for p in s.lm.model.phi.parameters()} == ({wide} if kind != "identity" else set())
        assert {p.dtype for p in top.model.parameters()} == {types[1]}
    own = stitch(top, top, 2, 2, TRAIN, TEST, kind=kind)
    if kind in ("mean", "identity"):
        assert own.penalty == 0
    elif kind == "affine":
        assert abs(own.penalty) < 1e-3, own.penalty  # worst seen 2e-7


def test_stitch_losses_are_those_of_the_models():
    bottom, top = model("transformer"), model("lstm", 1, width=24, depth=2)
    s = stitch(bottom, top, 2, 1, TRAIN, TEST, steps=0)
    for lm, column in ((top, "receiver"), (bottom, "giver"), (s.lm, "stitched")):
        for text, nll in list(zip(TEST, s.losses[column], strict=True))[:5]:
            ids = torch.tensor([[0, *top.encode(text)]])
            with torch.no_grad():
                logp = lm.logits(ids, torch.ones_like(ids)).log_softmax(-1)
            expected = -sum(float(logp[0, i - 1, ids[0, i]]) for i in range(1, ids.shape[1]))
            assert nll == pytest.approx(expected, abs=1e-4)
    assert s.penalty == pytest.approx(s.loss - s.receiver_loss) and s.interval()[0] <= s.penalty <= s.interval()[1]
    assert (s.losses.tokens == [len(t.split()) for t in TEST]).all() and s.layers == (2, 1)


def test_stitch_reads_only_the_seam():
    "Blocks of the bottom above the seam and blocks of the top below it do not matter; the others do."
    bottom, top = model("transformer"), model("transformer", 1)
    before = stitch(bottom, top, 1, 2, TRAIN, TEST, kind="identity").loss

    def spoilt(lm, number):
        lm = LM(copy.deepcopy(lm.model), lm.tokenizer)
        with torch.no_grad():
            for p in find_blocks(lm)[number].parameters():
                p.add_(torch.randn_like(p))
        return lm

    assert stitch(spoilt(bottom, 1), top, 1, 2, TRAIN, TEST, kind="identity").loss == before
    assert stitch(bottom, spoilt(top, 1), 1, 2, TRAIN, TEST, kind="identity").loss == before
    assert stitch(spoilt(bottom, 0), top, 1, 2, TRAIN, TEST, kind="identity").loss != before
    assert stitch(bottom, spoilt(top, 2), 1, 2, TRAIN, TEST, kind="identity").loss != before


@pytest.mark.slow
def test_training_helps_and_leaves_the_models_alone():
    bottom, top = model("transformer"), model("transformer", 1)
    digests = bottom.digest(), top.digest()
    grads = [p.requires_grad for p in top.model.parameters()]
    start, end = (stitch(bottom, top, 2, 2, TRAIN, TEST, steps=k, lr=1e-2) for k in (0, 100))
    assert end.log.loss.min() < start.log.loss[0] and end.loss < start.loss
    assert (bottom.digest(), top.digest()) == digests and [p.requires_grad for p in top.model.parameters()] == grads
    assert all(p.grad is None for p in top.model.parameters())
    again = stitch(bottom, top, 2, 2, TRAIN, TEST, steps=100, lr=1e-2)
    assert again.loss == end.loss


def test_maps_start_at_least_squares():
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(400, 6, generator=rng)
    W, b = torch.randn(4, 6, generator=rng), torch.randn(4, generator=rng)
    phi = fit_map(StitchMap(6, 4), X, X @ W.T + b)
    assert torch.allclose(phi(X), X @ W.T + b, atol=1e-4)  # worst seen 9e-6
    shift = fit_map(StitchMap(6, 6, "mean"), X, X + 3)
    assert torch.allclose(shift(X), X + 3, atol=1e-5)
    Y = torch.nn.functional.layer_norm(X @ W.T + b, (4,)) * 2 + 1
    error = {
        k: float((fit_map(StitchMap(6, 4, k), X, Y)(X) - Y).detach().square().mean()) for k in ("affine", "affine+norm")
    }
    assert error["affine+norm"] < error["affine"]


def test_controls_and_failures():
    a, wide = model("transformer"), model("transformer", 1, width=24)
    table = stitch_controls(a, wide, 1, 2, TRAIN, TEST, steps=5)
    assert list(table.index) == ["stitched", "self", "scrambled"]
    assert table.penalty["self"] < 0.01 * table.receiver_loss["self"]
    s = scrambled(a)
    for p, q in zip(a.model.parameters(), s.model.parameters(), strict=True):
        assert torch.equal(p.sort().values.flatten().sort().values, q.flatten().sort().values)
    assert s.digest() != a.digest()
    with pytest.raises(TaskspaceError, match="needs equal widths, not 16 and 24"):
        stitch(a, wide, 1, 1, TRAIN, TEST, kind="mean")
    with pytest.raises(TaskspaceError, match="stands in train and test text"):
        stitch(a, a, 1, 1, TRAIN, TRAIN[:1])
    with pytest.raises(TaskspaceError, match="at least 10 train texts"):
        stitch(a, a, 1, 1, TRAIN[:3], TEST)
    with pytest.raises(TaskspaceError, match="kind must be one of"):
        stitch(a, a, 1, 1, TRAIN, TEST, kind="mlp")
    with pytest.raises(TaskspaceError, match="layer 8 is not one of them"):
        stitch(a, a, 8, 1, TRAIN, TEST)
    with pytest.raises(TaskspaceError, match="bert is an encoder and predicts no next token"):
        stitch(encoder(), a, 1, 1, TRAIN, TEST)
    assert text_losses(a, TEST).tokens.sum() == sum(len(t.split()) for t in TEST)


@pytest.mark.slow
def test_controls_take_blocks():
    a, wide = model("transformer"), model("gpt2", 1, width=24)
    plain = stitch_controls(a, wide, 1, 2, TRAIN, TEST)
    given_blocks = stitch_controls(a, wide, 1, 2, TRAIN, TEST, blocks=(find_blocks(a), find_blocks(wide)))
    assert given_blocks.equals(plain)
    assert stitch_controls(a, wide, 1, 2, TRAIN, TEST, blocks=(None, find_blocks(wide))).equals(plain)
    # other blocks than those that would be found: every second of them
    a2, b2 = find_blocks(a)[::2], find_blocks(wide)[::2]
    other = stitch_controls(a, wide, 2, 1, TRAIN, TEST, blocks=(a2, b2))
    assert other.equals(stitch_controls(a, wide, 3, 1, TRAIN, TEST)) and not other.equals(plain)
    with pytest.raises(TaskspaceError, match="holds no such"):
        stitch_controls(a, wide, 1, 2, TRAIN, TEST, blocks=(find_blocks(model("transformer", 5)), None))


# --- statistics over models ---


def test_over_seeds_is_students_interval_and_the_exact_flip_test():
    from scipy.stats import ttest_1samp

    from taskspace.spaces.statistics import over_seeds

    values = [0.3, 0.1, -0.05, 0.4, 0.2]
    e = over_seeds(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (e.low, e.high) == pytest.approx((low, high)) and e.n == 5
    from itertools import product

    null = [np.mean(np.array(s) * values) for s in product((1, -1), repeat=5)]
    assert e.p == np.mean(np.abs(null) >= abs(np.mean(values)) - 1e-12) == 4 / 32
    many = np.random.default_rng(0).normal(size=40)
    assert over_seeds(many).p == pytest.approx(ttest_1samp(many, 0).pvalue, abs=0.05)
    with pytest.raises(TaskspaceError, match="needs at least 2 values"):
        over_seeds([1.0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=3, max_size=3))
def test_blocks_are_found_where_they_were_put(seed, sizes):
    from taskspace.dissimilarity.comparison import block_structure

    if sum(sizes) <= 3 or max(sizes) < 2:
        return
    member = np.repeat([0, 1, 2], sizes)
    noise = np.random.default_rng(seed).normal(size=(len(member), len(member))) * 0.01
    found = block_structure(np.where(member[:, None] == member[None], 0.9, 0.3) + noise)
    assert found.starts == tuple(np.flatnonzero(np.diff(member, prepend=-1)).tolist())
    assert found.contrast == pytest.approx(0.6, abs=0.05)
    n = 6
    fade = np.exp(-np.abs(np.subtract.outer(range(n), range(n))) / 3)
    assert block_structure(fade).excess == pytest.approx(0, abs=1e-12)


def test_block_and_match_failures():
    import pandas as pd

    from taskspace.dissimilarity.comparison import block_structure, matched_similarity

    with pytest.raises(TaskspaceError, match="3 layers cannot show 3 blocks"):
        block_structure(np.eye(3))
    with pytest.raises(TaskspaceError, match="square map"):
        block_structure(np.ones((3, 4)))
    assert matched_similarity(pd.DataFrame([[0.9, 0.2, 0.1], [0.1, 0.3, 0.8]])) == pytest.approx(
        ((0.9 + 0.3 + 0.8) / 3 + (0.9 + 0.8) / 2) / 2
    )
