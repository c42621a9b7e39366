"""Tokens, words and regions: their log-probabilities are those of a plain computation, for every kind of tokenizer."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from test_conditional import Pieces
from test_scoring import ARCHITECTURES, model, TEXT, tokenizer, VOCABULARY
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, Tokenizer, trainers
from transformers import PreTrainedTokenizerFast

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.scoring.convention import convention_of
from taskspace.scoring.offsets import first_after, token_offsets
from taskspace.scoring.regions import region_logprobs, token_table, word_logprobs
from taskspace.scoring.scores import score_sentences

UNICODE = ["naïve café , the 猫 sleeps 🐈 .", "мы sehen e\u0301lan the cats", "שלום the dog"]


def wordpiece() -> PreTrainedTokenizerFast:
    "As BERT's: lower case, accents gone, pieces marked by ##, no token holds a space, marks around every text."
    t = Tokenizer(models.WordPiece(unk_token="<unk>"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    specials = ["<eos>", "<pad>", "<unk>", "<bos>"]
    t.train_from_iterator(
        TEXT + UNICODE, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    )
    marks = [("<bos>", t.token_to_id("<bos>")), ("<eos>", t.token_to_id("<eos>"))]
    t.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=marks)
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token=None, eos_token="<eos>", bos_token="<bos>")


def fallback() -> PreTrainedTokenizerFast:
    "As Llama's: a mark for the space before each word, and bytes for what the vocabulary lacks."
    letters = sorted(set("".join(TEXT)) - {" "})
    pieces = ["<unk>", "<eos>", "<bos>", "▁", *letters, "▁the", "▁cat", "▁cats", "at", "s▁"]
    vocabulary = {p: i for i, p in enumerate([*pieces, *(f"<0x{b:02X}>" for b in range(256))])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "t"), ("▁", "c"), ("▁c", "at"), ("▁cat", "s")]
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    t = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", eos_token="<eos>", bos_token="<bos>")


def every_byte() -> PreTrainedTokenizerFast:
    "As GPT-2's, without a merge: one token a byte."
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE({c: i for i, c in enumerate(["<eos>", *alphabet])}, []))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<eos>")


class Slow:
    "The tokens of another tokenizer, without its offsets."

    def __init__(self, inner):
        self.inner, self.bos, self.eos, self.pad = inner, inner.bos_token_id, inner.eos_token_id, None

    def encode(self, text, add_special_tokens=False):
        return self.inner.encode(text, add_special_tokens=False)

    def decode(self, ids):
        return self.inner.decode(ids)


class Letters:
    "One token a character, and no more than `encode`."

    bos, eos, pad = 0, None, None

    def encode(self, text, add_special_tokens=False):
        return [1 + ord(c) % 90 for c in text]


KINDS = {
    "BPE": lambda: tokenizer("bytes", True, "eos"),
    "bytes": every_byte,
    "unigram": lambda: tokenizer("pieces", True, "own"),
    "WordPiece": wordpiece,
    "byte fallback": fallback,
    "words": lambda: tokenizer("words", True, "none"),
    "slow bytes": lambda: Slow(every_byte()),
    "slow fallback": lambda: Slow(fallback()),
    "letters": Letters,
}
FAR = ("bytes", "byte fallback", "slow bytes", "slow fallback", "letters")  # those that can write any character


def lm_of(kind: str, architecture: str = "gpt2") -> LM:
    "A tiny model of at least as many tokens as its tokenizer has."
    made = KINDS[kind]()
    if kind not in ("bytes", "byte fallback", "slow bytes", "slow fallback"):
        return LM(model(architecture), made, name=kind)
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_positions=128, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    return LM(GPT2LMHeadModel(config), made, name=kind)


def texts_of(kind: str) -> list[str]:
    return TEXT + UNICODE if kind in FAR else TEXT


def naive_words(lm: LM, text: str) -> list[float]:
    """log P of each word: the sum over the tokens of the text up to its end, less those up to the word before. Right
    where the tokens of a beginning that ends in a word are the first ones of the text's, as in all tokenizers here."""
    first = lm.bos_id if lm.bos_id is not None else lm.eos_id
    ids = [first, *lm.encode(text)]
    x = torch.tensor([ids])
    with torch.no_grad():
        logp = lm.logits(x, torch.ones_like(x)).float().log_softmax(-1)[0, :-1].gather(1, x[0, 1:, None])[:, 0].double()
    counts = [len(lm.encode(text[: m.end()])) for m in re.finditer(r"\S+", text)]
    return [float(logp[a:b].sum()) for a, b in zip([0, *counts[:-1]], counts, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_those_of_the_plain_computation(kind):
    lm, texts = lm_of(kind), texts_of(kind)
    found = word_logprobs(lm, texts, unit="bits")
    assert found.word.tolist() == [w for t in texts for w in t.split()]
    expected = np.concatenate([naive_words(lm, t) for t in texts])
    assert np.abs(found.logp - expected).max() < 1e-4  # worst seen over all: 2.9e-6
    assert np.allclose(found.surprisal, -found.logp / np.log(2))
    assert np.abs(found.groupby("sentence").logp.sum() - score_sentences(lm, texts).logp).max() < 1e-4
    assert not found.straddles.any() and (found.tokens > 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokens_add_up_on_every_architecture(architecture):
    lm = lm_of("BPE", architecture)
    found, whole = token_table(lm, TEXT), score_sentences(lm, TEXT)
    assert np.abs(found.groupby("sentence").logp.sum() - whole.logp).max() < 1e-4
    assert found.groupby("sentence").size().tolist() == whole.tokens.tolist()
    words = word_logprobs(lm, TEXT)
    assert np.abs(words.logp - np.concatenate([naive_words(lm, t) for t in TEXT])).max() < 1e-4


@pytest.mark.parametrize("kind", ["bytes", "byte fallback"])
def test_decoding_finds_the_offsets_of_fast_tokenizers(kind):
    "And so does the search by `encode` alone, but for bytes, whose halves of a character no text has."
    lm = lm_of(kind)
    slow = LM(lm.model, Slow(lm.tokenizer))
    ids = [lm.encode(t) for t in TEXT + UNICODE]
    for text, a, b in zip(
        TEXT + UNICODE, token_offsets(lm, TEXT + UNICODE, ids), token_offsets(slow, TEXT + UNICODE, ids), strict=True
    ):
        for place in range(1, len(text)):
            if text[place] != " ":
                assert first_after(a, place) == first_after(b, place), (text, place)


@pytest.mark.parametrize("told", [True, False])
def test_marks_that_a_tokenizer_adds_belong_to_no_word(told, monkeypatch):
    lm = lm_of("WordPiece")
    if not told:  # as where the tokenizer is a slow one
        monkeypatch.setattr("taskspace.scoring.offsets._told", lambda *args: None)
    own = convention_of("blimp", prefix="tokenizer")
    found, plain = word_logprobs(lm, TEXT, own), word_logprobs(lm, TEXT)
    assert found.tokens.equals(plain.tokens) and not found.straddles.any()
    assert np.abs(found.logp - plain.logp).max() < 1e-4  # the mark before the text is the same in both
    marks = token_table(lm, TEXT, own).groupby("sentence").tail(1)
    whole = score_sentences(lm, TEXT, own).logp
    assert set(marks.token) == {"<eos>"}
    assert np.abs(found.groupby("sentence").logp.sum().to_numpy() + marks.logp.to_numpy() - whole).max() < 1e-4
    (region,) = region_logprobs(lm, ["the cat"], [{"all": (0, 7)}], own).itertuples()
    assert region.tokens == len(lm.encode("the cat"))


@pytest.mark.parametrize("kind", ["byte fallback", "bytes", "letters", "slow fallback"])
@pytest.mark.parametrize("text", ["  the cat", "\tthe cat ", " the"])
def test_words_behind_blanks_keep_their_tokens_under_a_leading_space(kind, text):
    lm, rule = lm_of(kind), convention_of("blimp", leading_space=True)
    found, tokens = word_logprobs(lm, [text], rule), token_table(lm, [text], rule)
    assert found.word.tolist() == text.split()
    behind = int(text.endswith(" ")) * (len(lm.encode(" " + text)) - len(lm.encode(" " + text.rstrip())))
    assert found.tokens.sum() == len(tokens) - behind
    if not behind:
        assert abs(found.logp.sum() - score_sentences(lm, [text], rule).logp[0]) < 1e-4


def test_a_leading_space_moves_no_word():
    lm = lm_of("BPE")
    plain, spaced = word_logprobs(lm, TEXT), word_logprobs(lm, TEXT, "lm-eval")
    assert spaced[["word", "start", "end"]].equals(plain[["word", "start", "end"]])
    assert np.abs(spaced.groupby("sentence").logp.sum() - score_sentences(lm, TEXT, "lm-eval").logp).max() < 1e-4


def test_without_a_prefix_the_first_word_has_no_number():
    found = word_logprobs(lm_of("words"), TEXT, convention_of("blimp", prefix=None))
    assert found.logp.isna().tolist() == (found.position == 0).tolist()


def test_regions_take_tokens_across_their_boundary():
    lm = LM(model("gpt2"), Pieces())
    (found,) = [region_logprobs(lm, ["abcdefgh"], [{"left": (0, 4), "none": (4, 4), "right": (4, 8)}])]
    assert found.tokens.tolist() == [1, 0, 2]  # "abc"; "def" and "gh"
    assert found.straddles.tolist() == [False, False, True]
    tokens = token_table(lm, ["abcdefgh"])
    assert found.logp.tolist() == pytest.approx([tokens.logp[0], 0, tokens.logp[1:].sum()])


def test_bad_regions_and_units_are_named():
    lm = lm_of("words")
    for regions, message in [
        ({"a": (0, 5), "b": (3, 8)}, "sentence 0: regions 'a' and 'b' overlap, at characters 3 to 5"),
        ({"a": (0, 500)}, "sentence 0: region 'a' goes from 0 to 500"),
        ({"a": (5, 3)}, "sentence 0: region 'a' goes from 5 to 3"),
        ({"a": 5}, "sentence 0: region 'a' is 5; regions are a mapping such as"),
        ({"a": (1, 2, 3)}, "sentence 0: region 'a' is (1, 2, 3); regions are a mapping"),
        ({"a": (0, 2.5)}, "sentence 0: region 'a' is (0, 2.5); regions are a mapping"),
        ([(0, 3)], "sentence 0: regions are a mapping such as"),
        ({3: (0, 3), "3": (4, 7)}, "sentence 0: two regions have the same name as text"),
    ]:
        with pytest.raises(TaskspaceError, match=re.escape(message)):
            region_logprobs(lm, TEXT[:1], [regions])
    with pytest.raises(TaskspaceError, match="unit must be nats or bits, not 'hartleys'"):
        word_logprobs(lm, TEXT, unit="hartleys")
    for use in (word_logprobs, token_table, lambda lm, texts: region_logprobs(lm, texts, [{}])):
        with pytest.raises(TaskspaceError, match="sentences must be a list of texts, not 'the cat'"):
            use(lm, "the cat")
        with pytest.raises(TaskspaceError, match="sentences must be a list of texts"):
            score_sentences(lm, "the cat")
        with pytest.raises(TaskspaceError, match="sentence 0: must be a text, not 3"):
            use(lm, [3])
    with pytest.raises(TaskspaceError, match="7 sentences, but regions for 1"):
        region_logprobs(lm, TEXT, [{}])


def test_nothing_in_nothing_out():
    assert word_logprobs(lm_of("words"), []).empty and isinstance(token_table(lm_of("words"), []), pd.DataFrame)
