"""Scores equal the textbook on every architecture and tokenizer, and nothing but the sentence moves them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining import architectures as A
from taskspace.scoring.convention import Convention, convention_of
from taskspace.scoring.encoding import encode_pairs
from taskspace.scoring.logprobs import token_logprobs
from taskspace.scoring.scores import score_pairs, score_sentences, text_loss
from taskspace.tasks.pairs import MinimalPair, Suite, Task

TEXT = [
    "the cats that the dog sees often sleep .",
    "the cat that the dogs see often sleeps .",
    "no dog has ever seen me .",
    "who sees us quickly ?",
    "my cats see the dog that sees us .",
    "a cat sleeps .",
    "the dogs never see that cat again and again and again .",
]
VOCABULARY = 96


def pairs(n: int = 24) -> Suite:
    "Pairs of random words of the text: shared beginnings of every length, none at all, and a tie."
    rng, words = random.Random(0), sorted({w for s in TEXT for w in s.split()})

    def pair(i):
        good = [rng.choice(words) for _ in range(rng.randint(3, 12))]
        bad = list(good)
        k = rng.randrange(len(bad))
        bad[k : k + 1] = [rng.choice(words) for _ in range(rng.randint(1, 2))]
        return MinimalPair(" ".join(good), " ".join(bad), str(i))

    tie = MinimalPair(TEXT[0], TEXT[0], "tie")
    return Suite("random", (Task("one", tuple(map(pair, range(n)))), Task("two", (*map(pair, range(n)), tie))))


def tokenizer(kind: str, bos: bool, pad: str):
    "A real fast tokenizer of at most VOCABULARY tokens; pad is 'eos', 'own' or 'none'."
    from tokenizers import decoders, models, pre_tokenizers, Tokenizer, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<eos>", "<pad>", "<unk>", "<bos>"]
    if kind == "bytes":
        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = sorted({c for s in TEXT for c in s.replace(" ", "Ġ")})
        t.train_from_iterator(
            TEXT,
            trainers.BpeTrainer(
                vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=letters, show_progress=False
            ),
        )
    elif kind == "pieces":
        t = Tokenizer(models.Unigram())
        t.pre_tokenizer = pre_tokenizers.Metaspace()
        t.train_from_iterator(
            TEXT,
            trainers.UnigramTrainer(
                vocab_size=VOCABULARY, special_tokens=specials, unk_token="<unk>", show_progress=False
            ),
        )
    else:
        t = Tokenizer(models.WordLevel(unk_token="<unk>"))
        t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        t.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=specials, show_progress=False))
    pads = {"eos": {"pad_token": "<eos>"}, "own": {"pad_token": "<pad>"}, "none": {}}[pad]
    return PreTrainedTokenizerFast(
        tokenizer_object=t, unk_token="<unk>", eos_token="<eos>", **({"bos_token": "<bos>"} if bos else {}), **pads
    )


def model(kind: str) -> torch.nn.Module:
    "A tiny model with random weights, large enough that probabilities differ."
    torch.manual_seed(0)
    hf = dict(vocab_size=VOCABULARY, initializer_range=0.3)
    if kind == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, **hf))
    if kind == "neox":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                hidden_size=16,
                intermediate_size=32,
                max_position_embeddings=64,
                **hf,
            )
        )
    if kind == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                hidden_size=16,
                intermediate_size=32,
                max_position_embeddings=64,
                **hf,
            )
        )
    if kind == "mamba":
        from transformers import MambaConfig, MambaForCausalLM

        return MambaForCausalLM(MambaConfig(num_hidden_layers=2, hidden_size=16, state_size=4, **hf))
    built = A.build(
        {"lstm": A.LSTMConfig, "cnn": A.CNNConfig, "solu": A.TransformerConfig}[kind](
            vocab_size=VOCABULARY, hidden_size=16
        )
    )
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return built


def naive(lm: LM, ids: list[int]) -> float:
    "One sentence alone, no padding, all logits, float32 softmax."
    x = torch.tensor([ids])
    with torch.no_grad():
        logp = lm.logits(x, torch.ones_like(x)).float().log_softmax(-1)
    return float(logp[0, :-1].gather(1, x[0, 1:, None]).double().sum())


ARCHITECTURES = ["gpt2", "neox", "llama", "mamba", "lstm", "cnn", "solu"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(
    ("tokens", "bos", "pad"),
    [("bytes", False, "eos"), ("pieces", True, "own"), ("words", True, "none"), ("words", False, "none")],
)
@pytest.mark.parametrize("prefix", ["auto", None])
def test_scores_equal_the_textbook(kind, tokens, bos, pad, prefix):
    lm, suite = LM(model(kind), tokenizer(tokens, bos, pad), name=kind), pairs()
    convention = convention_of("blimp", prefix=prefix)
    scores = score_pairs(lm, suite, convention)
    encoded = encode_pairs(lm, [p for t in suite for p in t], convention)
    worst = max(
        abs(a - naive(lm, ids))
        for p, g, b in zip(encoded, scores.logp_good, scores.logp_bad, strict=True)
        for a, ids in ((g, p.good), (b, p.bad))
    )
    assert worst < 1e-4  # worst seen over all of these: 7.2e-6 nats (solu); 2.9e-6 to 6.9e-6 for the others
    assert scores.correct.iloc[-1] == 0.5


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_nothing_but_the_sentence_moves_a_score(kind):
    lm, suite = LM(model(kind), tokenizer("words", False, "eos"), name=kind), pairs()
    base = score_pairs(lm, suite)
    for options in (
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 256},
        {"token_budget": 16},
        {"token_budget": 100_000},
        {"share": False},
        {"share": False, "batch_size": 7},
    ):
        other = score_pairs(lm, suite, **options)
        assert (
            np.abs(other[["logp_good", "logp_bad"]].to_numpy() - base[["logp_good", "logp_bad"]].to_numpy()).max()
            < 1e-4
        ), options  # worst seen 4.8e-6
    backwards = Suite("r", tuple(Task(t.name, t.pairs[::-1]) for t in suite.tasks[::-1]))
    assert np.abs(score_pairs(lm, backwards).logp_good.to_numpy()[::-1] - base.logp_good.to_numpy()).max() < 1e-4


LM_GPT2 = LM(model("gpt2"), tokenizer("words", True, "eos"), name="gpt2")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(4, 25), min_size=2, max_size=12), min_size=1, max_size=12), st.integers(1, 60))
def test_any_batch_of_tokens(sequences, budget):
    from taskspace.scoring.logprobs import sequence_logprobs

    got = sequence_logprobs(LM_GPT2, sequences, token_budget=budget)
    assert (
        np.abs(got - [naive(LM_GPT2, s) for s in sequences]).max() < 1e-4
    )  # worst seen over 200 random batches: 3.8e-6
    each = token_logprobs(LM_GPT2, sequences, [1] * len(sequences))
    assert [len(e) for e in each] == [len(s) - 1 for s in sequences]


def test_the_conventions_are_what_they_say():
    lm, suite = LM(model("gpt2"), tokenizer("bytes", True, "eos"), name="gpt2"), pairs(4)
    scores = {name: score_pairs(lm, suite, name) for name in ("blimp", "lm-eval", "minicons")}
    sentence = suite.tasks[0].pairs[0].good
    plain, spaced, bos = lm.encode(sentence), lm.encode(" " + sentence), lm.bos_id
    assert plain != spaced
    assert scores["blimp"].logp_good[0] == pytest.approx(naive(lm, [bos, *plain]), abs=1e-4)
    assert scores["lm-eval"].logp_good[0] == pytest.approx(naive(lm, [bos, *spaced]), abs=1e-4)
    assert scores["minicons"].logp_good[0] == pytest.approx(naive(lm, plain) / (len(plain) - 1), abs=1e-4)
    assert scores["minicons"].attrs["convention"] == {
        "name": "minicons",
        "prefix": "tokenizer",
        "leading_space": False,
        "reduction": "mean",
        "method": "causal",
        "ties": 0.5,
    }
    assert scores["blimp"].attrs["prefix_id"] == bos


def test_a_sentence_may_begin_with_the_prefix_token():
    from taskspace.pretraining.architectures import BigramLM
    from taskspace.toy import WordTokenizer

    table = torch.randn(26, 26, generator=torch.Generator().manual_seed(0))
    lm = LM(BigramLM(table), WordTokenizer("abcdefghijklmnopqrstuvwxyz", bos=None))
    row = score_pairs(lm, Task("t", [MinimalPair("a b c", "b c d")]), convention_of(prefix=0)).iloc[0]
    logp = table.log_softmax(1)
    assert (row.tokens_good, row.tokens_bad) == (3, 3)
    assert row.logp_good == pytest.approx(float(logp[0, 0] + logp[0, 1] + logp[1, 2]), abs=1e-5)


def test_a_prefix_is_never_doubled():
    class Adds:
        bos_token_id, eos_token_id, pad_token_id = 3, 0, None

        def encode(self, text, add_special_tokens=False):
            return [3, *(4 + len(w) for w in text.split())]

    assert encode_pairs(LM(model("gpt2"), Adds()), [MinimalPair("a bb", "a ccc")])[0].good == [3, 5, 6]


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        (
            MinimalPair("the zebra sleeps .", "the zebra sleep .", "z"),
            {},
            "task 't', pair z: the tokenizer cannot express",
        ),
        (MinimalPair("the " * 70, "the cat", "long"), {}, "task 't', pair long: 71 tokens, but model 'gpt2' takes 64"),
        (
            MinimalPair("the", "cat", "one"),
            {"convention": Convention("own", prefix=None)},
            "task 't', pair one: 'the' is one token",
        ),
        (
            MinimalPair("the cat", "the dog"),
            {"convention": convention_of(prefix=VOCABULARY)},
            "has no such token; its ids go from 0 to 95",
        ),
        (
            MinimalPair("the cat", "the dog"),
            {"convention": convention_of(prefix="bos")},
            "prefix must be 'auto', 'tokenizer', None or a token id",
        ),
        (MinimalPair("the cat", "the dog"), {"convention": "acl"}, "there are: blimp, lm-eval, minicons"),
        (
            MinimalPair("the cat", "the dog"),
            {"convention": None},
            "convention must be a name or a Convention, not None",
        ),
        (MinimalPair("the cat", "the dog"), {"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_named(pair, options, message):
    with pytest.raises(TaskspaceError, match=message.replace(".", r"\.")) as e:
        score_pairs(LM_GPT2, Task("t", [pair]), **options)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reduction": "max"}, "reduction must be 'sum' or 'mean', not 'max'"),
        ({"method": "psychic"}, "unknown method 'psychic'; there are: auto, causal"),
    ],
)
def test_a_convention_of_unknown_parts_is_refused_in_one_line(parts, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        Convention("own", **parts)
    assert "\n" not in str(e.value)


def test_logits_that_are_not_numbers_name_the_pair():
    broken = LM(model("gpt2"), tokenizer("words", True, "eos"), name="broken")
    row = broken.encode("dogs")[0]
    with torch.no_grad():
        broken.model.transformer.wte.weight[row] = float("nan")
    with pytest.raises(TaskspaceError, match=r"task 't', pair p: model 'broken' gives logits that are not numbers"):
        score_pairs(broken, Task("t", [MinimalPair("the dogs see us .", "the dogs sees us .", "p")]))


def test_infinite_logits_name_the_pair():
    class Never(torch.nn.Module):
        "Gives one word no probability at all."

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))

        def forward(self, input_ids, attention_mask):
            return self.bias.expand(*input_ids.shape, VOCABULARY)

    lm = LM(Never(), tokenizer("words", True, "eos"), name="never")
    with torch.no_grad():
        lm.model.bias[lm.encode("dogs")[0]] = -float("inf")
    assert score_sentences(lm, ["the cat sees us ."]).logp[0] == pytest.approx(-5 * np.log(VOCABULARY - 1), abs=1e-4)
    with pytest.raises(TaskspaceError, match=r"task 't', pair p: model 'never' gives infinite logits"):
        score_pairs(
            lm,
            Task(
                "t",
                [
                    MinimalPair("the cat sees us .", "the cats sees us ."),
                    MinimalPair("the dogs see us .", "the cat see us .", "p"),
                ],
            ),
        )


def test_a_token_less_probable_than_a_float_can_say():
    "The fast sum overflows there and must be done again, in the same batch as ordinary ones."
    from taskspace.scoring.logprobs import linear_logprobs

    x, weight = (
        torch.randn(5, 8, generator=torch.Generator().manual_seed(0)),
        30 * torch.randn(40, 8, generator=torch.Generator().manual_seed(1)),
    )
    rows, targets = torch.arange(5).repeat_interleave(40), torch.arange(40).repeat(5)
    exact = (x.double() @ weight.double().T).log_softmax(1).flatten()
    assert exact.min() < -200 and exact.max() > -1
    assert (
        linear_logprobs(x, weight, None, rows, targets) - exact
    ).abs().max() < 1e-4  # worst seen over 50 seeds: 6.5e-5, of values down to -450


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_margin_without_the_shared_beginning_is_the_whole_margin(kind):
    from taskspace.tuning.gradients import margins

    lm = LM(model(kind), tokenizer("words", True, "none"))
    encoded = encode_pairs(lm, [p for task in pairs() for p in task])
    short, whole = margins(lm, encoded), score_pairs(lm, pairs()).margin.to_numpy()
    with torch.no_grad():
        tails = np.array(
            [
                [
                    float(token_logprobs(lm, [ids], [max(p.start, p.shared)])[0].double().sum())
                    for ids in (p.good, p.bad)
                ]
                for p in encoded
            ]
        )
    assert (
        np.abs(short - (tails[:, 0] - tails[:, 1])).max() < 1e-4 and np.abs(short - whole).max() < 1e-4
    )  # worst seen: 5.1e-6
    assert short[-1] == 0  # the tie


@pytest.mark.parametrize("kind", ["bytes", "pieces", "words"])
@pytest.mark.parametrize("special", [False, True])
def test_many_texts_in_one_call_get_the_ids_of_one_by_one(kind, special):
    from tokenizers.processors import TemplateProcessing

    from taskspace.scoring.encoding import _together, _tokens

    fast = tokenizer(kind, True, "own")
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 0)]
    )
    lm = LM(model("gpt2"), fast)
    texts = [
        "",
        " ",
        *TEXT,
        *(" " + t for t in TEXT),
        "the zebra sleeps .",
        "<eos> the cat",
        "the  cat\n",
    ] * 60  # more than one call
    assert _together(lm) and list(_tokens(lm, texts, special)) == [
        fast.encode(t, add_special_tokens=special) for t in texts
    ]
    fast.backend_tokenizer.enable_padding(length=40)
    fast.backend_tokenizer.enable_truncation(3)
    assert list(_tokens(lm, texts[:9], special)) == [fast.encode(t, add_special_tokens=special) for t in texts[:9]]


def test_a_tokenizer_of_ones_own_is_asked_one_by_one():
    from taskspace.scoring.encoding import _together

    class Shouts(type(tokenizer("words", True, "own"))):
        def encode(self, text, **kwargs):
            return super().encode(text.lower(), **kwargs)

    plain = tokenizer("words", True, "own")
    lm = LM(model("gpt2"), Shouts(tokenizer_object=plain.backend_tokenizer, bos_token="<bos>", unk_token="<unk>"))
    assert not _together(lm)
    pair = MinimalPair("THE CATS SLEEP .", "THE CATS SLEEPS .")
    assert encode_pairs(lm, [pair])[0].good == [lm.bos_id, *plain.encode("the cats sleep .", add_special_tokens=False)]


def test_batches_side_by_side_give_the_scores_of_one_after_another():
    lm, suite = LM(model("neox"), tokenizer("words", True, "eos"), name="neox"), pairs(60)
    one = score_pairs(lm, suite, token_budget=64)
    try:
        torch.set_num_threads(3)
        many = score_pairs(lm, suite, token_budget=64)
        assert torch.get_num_threads() == 3 and not lm.head._forward_pre_hooks
        with pytest.raises(TaskspaceError, match="takes 64"):
            score_pairs(lm, Task("t", [MinimalPair("the " * 70, "the cat")]))
        lm.model.gpt_neox.layers[1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on fire")))
        with pytest.raises(RuntimeError, match="on fire"):
            score_pairs(lm, suite, token_budget=64)
        assert torch.get_num_threads() == 3 and not lm.head._forward_pre_hooks
    finally:
        torch.set_num_threads(1)
    assert np.abs(one.margin - many.margin).max() < 1e-4  # worst seen with 2, 3 and 8 threads on three models: 0


def test_text_longer_than_the_context_is_cut():
    long = " ".join(w for t in TEXT * 4 for w in t.split())
    ids = [LM_GPT2.bos_id, *LM_GPT2.encode(long)]
    assert len(ids) > 2 * LM_GPT2.max_length == 128
    by_hand = [naive(LM_GPT2, ids[k : k + 64]) for k in range(0, len(ids) - 1, 63)]
    assert text_loss(LM_GPT2, [long]) == pytest.approx(-sum(by_hand) / (len(ids) - 1), abs=1e-4)
    with pytest.raises(TaskspaceError, match="sentence 0: .* takes 64"):
        score_sentences(LM_GPT2, [long])
    with pytest.raises(TaskspaceError, match="text 1: the tokenizer cannot express"):
        text_loss(LM_GPT2, ["the cat .", "the zebra ."])


def test_text_loss_is_the_mean_over_tokens():
    scores = score_sentences(LM_GPT2, TEXT)
    assert text_loss(LM_GPT2, TEXT) == pytest.approx(-scores.logp.sum() / scores.tokens.sum())
    with pytest.raises(TaskspaceError, match="no texts"):
        text_loss(LM_GPT2, [])
