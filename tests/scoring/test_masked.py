"""Masked models: equal to one hidden token at a time, for every architecture, kind of tokenizer and method, and to
minicons; nothing depends on batches or order; gradients are those of the same score; what does not fit is refused."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, Regex, Tokenizer, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast
from transformers.models.bert.modeling_bert import BertIntermediate

from taskspace.dissimilarity.states import hidden_states
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.models.loading import load_lm
from taskspace.pretraining.architectures import build, LSTMConfig
from taskspace.probing.sites import find_sites
from taskspace.probing.units import activations, sentences_of
from taskspace.scoring.convention import Convention, convention_of, CONVENTIONS, MASKED_METHODS
from taskspace.scoring.encoding import encode_masked, encode_pairs
from taskspace.scoring.logprobs import find_shortcuts, LOGITS, one_length, tokens_at_once
from taskspace.scoring.masked import batches_of, masked_logprobs, questions_of
from taskspace.scoring.scores import score_pairs, score_sentences, text_loss
from taskspace.tasks import grammar
from taskspace.tasks.pairs import MinimalPair, Task
from taskspace.toy import toy_lm, toy_masked_lm, toy_suite, WordTokenizer
from taskspace.tuning.ftgd import FTGD, tune
from taskspace.tuning.gradients import gradient_differential, margins

SPECIALS = ["<cls>", "<pad>", "<sep>", "<unk>", "<mask>"]
SENTENCES = [
    "The kings sleep near the castle.",
    "the king sleeps .",
    "No unhappy ladies everlaughed",
    "Kings",
]
TEXT = [*grammar.corpus(100), *SENTENCES]


@lru_cache
def tokenizer(kind):
    "A fast tokenizer of a family: pieces of words, bytes, pieces with a blank before each word, or single letters."
    special = {"special_tokens": SPECIALS, "show_progress": False}
    if kind == "wordpiece":
        t = Tokenizer(models.WordPiece(unk_token="<unk>"))
        t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        t.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=90, **special))
    elif kind == "bytes":
        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, **special))
    elif kind == "unigram":
        t = Tokenizer(models.Unigram())
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        t.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **special))
    else:
        letters = sorted({c for s in TEXT for c in s})
        t = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIALS, *letters])}, unk_token="<unk>"))
        t.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        t.add_special_tokens(SPECIALS)
    t.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", special_tokens=[("<cls>", 0), ("<sep>", 2)]
    )
    names = dict(cls_token="<cls>", pad_token="<pad>", sep_token="<sep>", unk_token="<unk>", mask_token="<mask>")
    return PreTrainedTokenizerFast(tokenizer_object=t, **names)


class Letters:
    "A tokenizer of one's own: single letters, no words told, special tokens by their ids alone."

    pad, cls, sep, mask = 0, 1, 2, 3

    def encode(self, text, add_special_tokens=False):
        return [4 + ord(c) % 90 for c in text]


ARCHITECTURES = {
    "bert": ("wordpiece", {}),
    "roberta": ("bytes", {}),
    "deberta": ("bytes", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}),
    "deberta-v2": ("unigram", {}),  # as v3: buckets of relative positions, shared keys
    "deberta-v2 new head": ("unigram", {"legacy": False}),
    "modernbert": ("bytes", {"local_attention": 8, "global_attn_every_n_layers": 2, "reference_compile": False}),
    "xlm-roberta": ("unigram", {}),
    "distilbert": ("letters", {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
    "albert": ("unigram", {"embedding_size": 16}),
    "electra": ("wordpiece", {"embedding_size": 16}),
}
SIZE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=130,
    initializer_range=0.3,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=2,
    cls_token_id=0,
    sep_token_id=2,
)
DEBERTA = dict(relative_attention=True, position_buckets=8, pos_att_type=["c2p", "p2c"], share_att_key=True)


def model(name, vocabulary, **more):
    "A small random masked model of transformers; settings that its kind lacks are left out."
    kind = name.split()[0]
    extra = ARCHITECTURES.get(name, ("", {}))[1] | (DEBERTA if kind == "deberta-v2" else {}) | more
    known = AutoConfig.for_model(kind).to_dict()
    settings = {k: v for k, v in SIZE.items() if k in known} | extra
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, vocab_size=vocabulary, **settings)).eval()


def make(name, **more):
    tok = tokenizer(ARCHITECTURES[name][0])
    return LM(model(name, len(tok), **more), tok, name=name)


def naive(lm, text, method):
    "One hidden token at a time, one input in a forward pass, a softmax over all logits; words from the tokenizer."
    told = lm.tokenizer(text)
    ids, words = told["input_ids"], told.word_ids()
    total = 0.0
    for k, word in enumerate(words):
        if word is None:
            continue
        x = torch.tensor([ids])
        for j in range(k, len(ids)):
            if j == k or (method == "pll-word-l2r" and words[j] == word):
                x[0, j] = lm.tokenizer.mask_token_id
        with torch.no_grad():
            logits = lm.model(input_ids=x, attention_mask=torch.ones_like(x)).logits[0, k - (method == "mntp")]
        total += float(logits.double().log_softmax(-1)[ids[k]])
    return total


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_equal_one_hidden_token_at_a_time(name):
    lm = make(name)
    assert lm.objective == "masked"
    for method in MASKED_METHODS:
        fast = score_sentences(lm, SENTENCES, method).logp
        gap = np.abs(fast - [naive(lm, s, method) for s in SENTENCES]).max()
        assert gap < 1e-4, method  # worst of all: 5.0e-6, sums down to -127


def test_the_projection_is_done_at_the_hidden_places_alone():
    "By proof: `linear` where the head is a plain linear layer, `rows` where something position by position follows."
    heads = {name: find_shortcuts(make(name), [5, 6, 7]).head for name in ARCHITECTURES}
    assert heads.pop("deberta-v2 new head") in ("rows", "full")
    assert set(heads.values()) == {"linear"}, heads


SEE_PADDING = {
    "convbert": {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3},
    "fnet": {},  # has no attention mask
    "nystromformer": {"num_landmarks": 2, "segment_means_seq_len": 2},
    "yoso": {},
}


def test_architectures_that_keep_padding_out_are_found():
    assert all(find_shortcuts(make(name), [5, 6, 7]).padded for name in ARCHITECTURES)
    half = LM(model("bert", 90).bfloat16(), tokenizer("wordpiece"))
    assert find_shortcuts(half, [5, 6, 7]).padded


@pytest.mark.parametrize("kind", SEE_PADDING)
def test_models_that_see_padding_get_inputs_of_one_length(kind):
    tok = tokenizer("wordpiece")
    lm = LM(model(kind, len(tok), **SEE_PADDING[kind]), tok)
    assert not find_shortcuts(lm, [5, 6, 7]).padded and one_length(lm, [5, 6, 7])
    wanted = [textbook(lm, m) for m in encode_masked(lm, SENTENCES, "blimp", "sentence {}".format)]
    assert np.abs(score_sentences(lm, SENTENCES).logp - [w.item() for w in wanted]).max() < 1e-4
    pairs = [MinimalPair(*SENTENCES[:2]), MinimalPair(*SENTENCES[2:])]
    fast = margins(lm, encode_pairs(lm, pairs))
    assert np.abs(fast - [(a - b).item() for a, b in (wanted[:2], wanted[2:])]).max() < 1e-4
    found = gradient_differential(lm, pairs)
    ((wanted[1] - wanted[0] + wanted[3] - wanted[2]) / 2).backward()
    for name, p in lm.model.named_parameters():
        g = torch.zeros_like(p) if p.grad is None else p.grad
        assert (found[name] - g).abs().max() < 1e-4 * max(1, float(g.abs().max())), name


def textbook(lm, sentence):
    "The score of a sentence, each of its inputs alone."
    total = 0
    for mask in sentence.masks:
        ids = torch.tensor([sentence.ids])
        ids[0, list(mask.hidden)] = lm.mask_id
        total = total + lm.logits(ids, torch.ones_like(ids))[0, mask.read].log_softmax(-1)[sentence.ids[mask.token]]
    return total


def test_states_of_a_model_that_sees_padding_are_those_of_each_text_alone():
    tok = tokenizer("wordpiece")
    lm = LM(model("convbert", len(tok), **SEE_PADDING["convbert"]), tok)
    sentences = [s for p in encode_pairs(lm, [MinimalPair(*SENTENCES[:2])]) for s in sentences_of(p)]
    sites = find_sites(lm, "residual")
    together = activations(lm, sentences, sites)
    alone = np.concatenate([activations(lm, [s], sites) for s in sentences])
    assert np.abs(together - alone).max() < 1e-5
    (together,) = hidden_states(lm, SENTENCES, [-1]).values()
    alone = torch.cat([next(iter(hidden_states(lm, [s], [-1]).values())) for s in SENTENCES])
    assert (together - alone).abs().max() < 1e-5


def blanks_as_signs(normalizer, pre_tokenizer=None):
    "A tokenizer as Gemma's or Llama's: a sign in place of each blank, and no cut there, so that it tells one word."
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c"), ("a", "t"), ("▁c", "at"), ("▁", "▁")]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz."]
    vocabulary = [*SPECIALS, *(f"<0x{b:02X}>" for b in range(256)), *letters, *(a + b for a, b in merges)]
    ids = {w: i for i, w in enumerate(vocabulary)}
    t = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizer
    if pre_tokenizer is not None:
        t.pre_tokenizer = pre_tokenizer
    special = [("<cls>", 0), ("<sep>", 2)]
    t.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=special)
    names = dict(cls_token="<cls>", pad_token="<pad>", sep_token="<sep>", unk_token="<unk>", mask_token="<mask>")
    return PreTrainedTokenizerFast(tokenizer_object=t, **names)


BLANK = normalizers.Replace(" ", "▁")
SIGNS = {
    "gemma": (BLANK, pre_tokenizers.Split(" ", "merged_with_previous")),
    "llama": (normalizers.Sequence([normalizers.Prepend("▁"), BLANK]),),
    "metaspace": (normalizers.Sequence([]), pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
}


@pytest.mark.parametrize("kind", SIGNS)
def test_words_end_at_blanks_where_the_tokenizer_tells_one_word_for_all(kind):
    tok = blanks_as_signs(*SIGNS[kind])
    lm = LM(model("bert", len(tok)), tok)
    assert set(tok("the cats sleep").word_ids()) == {None, 0}
    for text in ("the cats sleep", "the cat  é sat.", "cat", " the cat "):
        (found,) = encode_masked(lm, [text], "pll-word-l2r", "sentence {}".format)
        signs = "".join(tok.convert_ids_to_tokens([i for i in found.ids if i not in (0, 2)]))
        ends = [m.hidden[-1] for m in found.masks]
        assert ends == sorted(ends) and len(set(ends)) == len(text.split()) + text.endswith(" "), (text, signs)
    (found,) = encode_masked(lm, ["the cats sleep"], "pll-word-l2r", "sentence {}".format)
    pieces = tok.convert_ids_to_tokens(found.ids)
    hidden = {"".join(pieces[k] for k in m.hidden).strip("▁") for m in found.masks if m.token in (1, len(pieces) - 2)}
    assert hidden == {"the", "p"}


def random_masked(seed=0):
    lm = make("bert")
    texts = [s for s in SENTENCES for _ in (0, 1)] + TEXT[:10]
    return lm, encode_masked(lm, texts, "blimp", "sentence {}".format)


@pytest.mark.slow
def test_the_last_layer_ends_at_the_hidden_places_in_relatives_of_bert(monkeypatch):
    ends = {name for name in ARCHITECTURES if find_shortcuts(make(name), [5, 6, 7]).last}
    assert ends == {"bert", "roberta", "xlm-roberta", "electra", "deberta", "deberta-v2", "deberta-v2 new head"}
    places, real = [], BertIntermediate.forward

    def counted(module, states):
        places.append(states.shape[:-1].numel())
        return real(module, states)

    lm = make("bert")
    encoded = encode_masked(lm, SENTENCES[:1], "blimp", "sentence {}".format)
    masked_logprobs(lm, encoded)
    monkeypatch.setattr(BertIntermediate, "forward", counted)
    masked_logprobs(lm, encoded)
    masks = len(encoded[0].masks)
    assert places == [masks * len(encoded[0].ids), masks]  # of the first layer, and of the last one


def test_a_hook_that_may_look_at_other_places_keeps_the_last_layer_whole():
    lm = make("bert")
    assert find_shortcuts(lm, [5]).last
    handle = lm.model.bert.encoder.layer[-1].register_forward_hook(lambda module, args, out: None)
    assert not find_shortcuts(lm, [5]).last
    handle.remove()


@pytest.mark.slow
def test_nothing_moves_with_batch_size_order_or_threads(monkeypatch):
    lm, sentences = random_masked()
    whole = masked_logprobs(lm, sentences)
    monkeypatch.setattr("taskspace.scoring.masked.PIECE", 7)
    for options in ({"batch_size": 1}, {"token_budget": 30}, {"token_budget": 100_000}):
        assert np.abs(masked_logprobs(lm, sentences, **options) - whole).max() < 1e-4  # worst measured 4.3e-6
    assert np.abs(masked_logprobs(lm, sentences[::-1])[::-1] - whole).max() < 1e-4
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.abs(masked_logprobs(lm, sentences) - whole).max() < 1e-4
    finally:
        torch.set_num_threads(threads)


def test_each_distinct_input_is_run_once():
    lm, sentences = random_masked()
    questions, seen = questions_of(sentences, lm.mask_id), []
    hook = lm.model.register_forward_pre_hook(lambda _, args, kw: seen.append(len(kw["input_ids"])), with_kwargs=True)
    masked_logprobs(lm, sentences[:1])  # the looks at a new model
    seen.clear()
    masked_logprobs(lm, sentences)
    hook.remove()
    assert sum(seen) == len(questions.inputs) < len(questions.target) / 1.15


def test_progress_counts_every_sentence_once():
    lm, sentences = random_masked()
    done = []
    masked_logprobs(lm, sentences, token_budget=60, done=done.append)
    assert sum(done) == len(sentences) and len(done) > 3


@pytest.mark.parametrize("method", MASKED_METHODS)
def test_gradients_are_those_of_the_naive_score(method):
    lm = make("bert")
    pairs = [MinimalPair("the king sleeps .", "the king sleep ."), MinimalPair("Kings laugh", "No kings laugh at all")]
    words = [w for p in pairs for s in (p.good, p.bad) for w in [lm.tokenizer(s).word_ids()]]
    lm.model.zero_grad()
    for (text, weight), word in zip([(s, w) for p in pairs for s, w in ((p.good, -1), (p.bad, 1))], words, strict=True):
        ids = lm.tokenizer(text)["input_ids"]
        for k in range(1, len(ids) - 1):
            later = [j for j in range(k, len(ids)) if word[j] == word[k]]
            x = torch.tensor([ids])
            x[0, later if method == "pll-word-l2r" else [k]] = lm.mask_id
            logp = lm.model(input_ids=x).logits[0, k - (method == "mntp")].log_softmax(-1)[ids[k]]
            (weight / 2 * logp).backward()
    slow = {n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None}
    lm.model.zero_grad()
    for tokens in (20, 8192):
        fast = gradient_differential(lm, pairs, method, tokens=tokens)
        scale = max(float(g.abs().max()) for g in slow.values())
        assert max(float((fast[n] - g).abs().max()) for n, g in slow.items()) < 1e-5 * scale  # worst measured 1.9e-6
    assert all(p.grad is None for p in lm.model.parameters())


def test_margins_equal_differences_of_scores_and_tuning_raises_them():
    lm, suite = toy_masked_lm(spread=0.2), toy_suite()
    before, digest = score_pairs(lm, suite).margin.to_numpy(), lm.digest()
    encoded = encode_pairs(lm, [p for t in suite for p in t])
    assert np.abs(margins(lm, encoded) - before).max() < 1e-4  # measured: the same numbers
    tuned = tune(lm, suite["cats"], FTGD(keep=0.05, steps=5, lr=1e-2), suite["dogs"], ["the cats see me ."])
    with tuned.applied(lm):
        after = score_pairs(lm, suite["cats"]).margin
    assert after.mean() > before[:8].mean() + 0.1 and lm.digest() == digest
    assert tuned.log.eval_margin.iloc[-1] > tuned.log.eval_margin.iloc[0]
    assert np.isfinite(tuned.log.perplexity).all()


def test_a_tokenizer_of_ones_own_has_words_by_its_blanks():
    torch.manual_seed(0)
    lm = LM(model("bert", 94), Letters(), name="letters")
    (text,) = encode_masked(lm, ["ab cde"], "blimp", "sentence {}".format)
    assert text.ids[0] == 1 and text.ids[-1] == 2 and len(text.ids) == 8
    # the blank belongs to the word that follows it, as in byte tokenizers
    assert [m.hidden for m in text.masks] == [(1, 2), (2,), (3, 4, 5, 6), (4, 5, 6), (5, 6), (6,)]
    (bare,) = encode_masked(lm, ["ab cde"], convention_of("pll", prefix=None), "sentence {}".format)
    assert bare.ids == text.ids[1:-1] and len(bare.masks) == 6


def test_words_by_blanks_are_those_of_a_fast_tokenizer():
    fast = make("bert")

    class Slow:
        mask_id, cls_id, sep_id = 4, 0, 2

        def encode(self, text, add_special_tokens=False):
            return fast.tokenizer.encode(text, add_special_tokens=False)

    slow, texts = LM(fast.model, Slow(), name="slow"), ["the kings sleep", "no unhappy ladies everlaughed"]
    one, other = (encode_masked(lm, texts, "blimp", "sentence {}".format) for lm in (fast, slow))
    assert one == other


def test_the_method_is_the_models_own_and_recorded():
    lm = toy_masked_lm()
    for name in CONVENTIONS:
        record = score_pairs(lm, toy_suite(), name).attrs["convention"]
        default = {"minicons": "pll", "blimp": "pll-word-l2r", "lm-eval": "pll-word-l2r"}
        assert record["method"] == default.get(name, name)
    one = score_pairs(lm, toy_suite(), convention_of("pll", reduction="mean"))
    whole = score_pairs(lm, toy_suite(), "pll")
    assert np.allclose(one.logp_good * one.tokens_good, whole.logp_good)


def test_half_precision_is_near_float32():
    lm, sentences = random_masked()
    exact = masked_logprobs(lm, sentences)
    low = LM(lm.model.bfloat16(), lm.tokenizer, name="half")
    assert np.abs(masked_logprobs(low, sentences) - exact).max() < 0.05 * np.abs(exact).max()


# What does not fit is refused in one line


def refused(message, function):
    with pytest.raises(TaskspaceError, match=message) as e:
        function()
    assert "\n" not in str(e.value)


def test_methods_of_the_other_kind_are_refused():
    pair = Task("t", [MinimalPair("the cat sees me", "the cat see me")])
    for method in MASKED_METHODS:
        refused(f"causal LM, which method '{method}' does not fit", lambda m=method: score_pairs(toy_lm(), pair, m))
        refused("causal LM", lambda m=method: gradient_differential(toy_lm(), pair, m))
    causal = Convention("own", method="causal")
    refused("masked LM, which method 'causal' does not fit", lambda: score_pairs(toy_masked_lm(), pair, causal))
    refused("masked LM", lambda: tune(toy_masked_lm(), pair, convention=causal))
    refused(
        "takes prefix 'auto', 'tokenizer' or None, not 3",
        lambda: score_pairs(toy_masked_lm(), pair, convention_of(prefix=3)),
    )


def test_a_masked_model_without_a_mask_token_is_refused():
    lm = LM(toy_masked_lm().model, WordTokenizer(), name="maskless")
    refused("'maskless' is a masked LM, but its tokenizer has no mask token", lambda: score_sentences(lm, ["the cat"]))


def test_sentences_that_cannot_be_scored_are_named():
    lm = toy_masked_lm()
    refused(
        "sentence 1: 44 tokens, but model 'toy masked' takes 32",
        lambda: score_sentences(lm, ["the cat", "the cat " * 21]),
    )
    refused("sentence 0: 'the .MASK. sees' has the mask token", lambda: score_sentences(lm, ["the [MASK] sees"]))
    refused("sentence 0: the tokenizer gives no tokens for ''", lambda: score_sentences(lm, [""]))
    bare = convention_of("mntp", prefix=None)
    refused("one token with nothing before it, .* under method 'mntp'", lambda: score_sentences(lm, ["the"], bare))
    assert len(score_sentences(lm, ["the"])) == 1  # the special tokens are context enough


def test_roberta_numbers_its_positions_after_the_padding():
    lm = make("roberta")
    assert lm.max_length == 128  # of 130 rows
    x = torch.full((1, 128), 7)
    assert torch.isfinite(lm.logits(x, torch.ones_like(x))).all()
    with pytest.raises((IndexError, RuntimeError)):
        lm.logits(torch.full((1, 129), 7), torch.ones(1, 129, dtype=torch.long))
    refused("129 tokens, but model 'roberta' takes 128", lambda: score_sentences(lm, ["k" * 127]))


def test_a_model_that_looks_back_alone_is_not_masked():
    tok = toy_masked_lm().tokenizer
    lm = LM(build(LSTMConfig(len(tok.words), 8)), tok, name="lstm", objective="masked")
    refused("'lstm' is said to be masked, but looks at earlier tokens alone", lambda: score_sentences(lm, ["the cat"]))
    refused("objective must be one of causal, masked", lambda: LM(lm.model, tok, objective="both"))


class Bag(nn.Module):
    "Every position sees the mean of all tokens: a masked model that is no class of a library."

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(size, 8), nn.Linear(8, size)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids) * attention_mask[..., None]
        return self.head(x + x.sum(1, keepdim=True) / attention_mask.sum(1)[:, None, None])


def test_a_masked_model_of_ones_own():
    tok = toy_masked_lm().tokenizer
    lm = LM(Bag(len(tok.words)), tok, name="bag", objective="masked")
    sentences = encode_masked(lm, ["the cats see me .", "the cat"], "pll", "sentence {}".format)
    slow = []
    for s in sentences:
        total = 0.0
        for k in range(1, len(s.ids) - 1):
            x = torch.tensor([[*s.ids[:k], lm.mask_id, *s.ids[k + 1 :]]])
            total += float(lm.logits(x, torch.ones_like(x))[0, k].detach().double().log_softmax(-1)[s.ids[k]])
        slow.append(total)
    assert np.abs(masked_logprobs(lm, sentences) - slow).max() < 1e-5


class Bare(Bag):
    "The same without a word about its output layer, and so with all logits at once."

    get_output_embeddings = None


def test_batches_of_a_model_of_ones_own_are_as_large_as_its_vocabulary_allows():
    tok = toy_masked_lm().tokenizer
    lm = LM(Bare(len(tok.words)), tok, objective="masked")
    questions = questions_of(encode_masked(lm, ["the cats see me ."] * 40, "pll", "sentence {}".format), lm.mask_id)
    shortcuts = find_shortcuts(lm, questions.inputs[0])
    many = questions._replace(inputs=questions.inputs * 40)
    assert shortcuts.head == "full" and len(many.inputs) * len(many.inputs[0]) > 1000
    assert len(batches_of(lm, many, shortcuts, 1000)) == len(
        batches_of(lm, many, shortcuts._replace(head="linear"), 1000)
    )
    assert tokens_at_once(lm, 10**9, sliced=False) == LOGITS // len(tok.words)


def test_a_long_text_is_cut_into_windows_and_every_token_counts_once():
    lm = make("bert")
    text = " ".join(TEXT[:12])
    n = len(lm.encode(text))
    assert n > 2 * lm.max_length
    loss = text_loss(lm, [text], "pll")
    size, ids, total = lm.max_length - 2, lm.encode(text), 0.0
    for a in range(0, n, size):
        part = [0, *ids[a : a + size], 2]
        for k in range(1, len(part) - 1):
            x = torch.tensor([[*part[:k], lm.mask_id, *part[k + 1 :]]])
            with torch.no_grad():
                total -= float(lm.model(input_ids=x).logits[0, k].log_softmax(-1)[part[k]])
    assert loss == pytest.approx(total / n, abs=1e-4)


# minicons


@pytest.fixture(scope="module", params=["wordpiece", "bytes", "unigram"])
def trained(request, tmp_path_factory):
    "A small BERT that has learnt something, in a directory, with words of several tokens."
    name = {"wordpiece": "bert", "bytes": "roberta", "unigram": "deberta-v2"}[request.param]
    lm = make(name, initializer_range=0.02)
    ids = [torch.tensor(lm.tokenizer(s)["input_ids"]) for s in TEXT[:100]]
    rows = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=lm.tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-2)
    for step in range(80):
        batch = rows[torch.arange(step * 32, step * 32 + 32) % len(rows)]
        hidden = (torch.rand(batch.shape, generator=torch.Generator().manual_seed(step)) < 0.2) & (batch > 4)
        logits = lm.model(batch.masked_fill(hidden, lm.mask_id), (batch != 1).long()).logits
        loss = nn.functional.cross_entropy(logits[hidden], batch[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("masked") / name
    lm.model.eval().save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return str(path), loss.item()


@pytest.mark.parametrize(("method", "metric"), [("pll", "original"), ("pll-word-l2r", "within_word_l2r")])
@pytest.mark.slow
def test_minicons(trained, method, metric):
    scorer = pytest.importorskip("minicons.scorer", reason="minicons is not installed: pip install -e '.[peers]'")
    directory, loss = trained
    lm, texts = load_lm(directory, device="cpu", dtype="float32"), [*SENTENCES, *TEXT[:20]]
    assert loss < np.log(len(lm.tokenizer)) - 0.5  # chance
    tool = scorer.MaskedLMScorer(directory, "cpu")
    tool.tokenizer.batch_encode_plus = tool.tokenizer.__call__  # the tool calls it so; transformers 5 does not
    theirs = tool.sequence_score(texts, reduction=lambda x: x.sum().item(), PLL_metric=metric)
    assert np.abs(score_sentences(lm, texts, method).logp - theirs).max() < 1e-4
    if method == "pll":
        means = tool.sequence_score(texts)
        assert np.abs(score_sentences(lm, texts, "minicons").logp - means).max() < 1e-4
