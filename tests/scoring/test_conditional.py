"""Sentences behind contexts: scores, margins and gradients equal the plain computation of one text at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_scoring import ARCHITECTURES, model, TEXT, tokenizer

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.scoring.convention import convention_of
from taskspace.scoring.encoding import encode_pairs, prefix_id
from taskspace.scoring.logprobs import row_size
from taskspace.scoring.prefixtree import inputs
from taskspace.scoring.scores import score_pairs
from taskspace.spaces.ngrams import ngram_contrast
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import toy_lm
from taskspace.tuning.ftgd import FTGD, tune
from taskspace.tuning.gradients import against_best, gradient_differential, margins

WORDS = sorted({w for s in TEXT for w in s.split()})


def task(kind: str, n: int = 10) -> Task:
    "Random words: one context, two contexts before one sentence, two contexts and two sentences, four options."
    rng = random.Random(kind)

    def some(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    def pair(i: int) -> MinimalPair:
        good, bad, more = some(1, 5), some(1, 5), {}
        if kind in ("two contexts", "one sentence"):
            more = {"context_bad": some(1, 9)}
        if kind == "options":
            more = {"others": (some(1, 5), some(1, 5))}
        return MinimalPair(good, good if kind == "one sentence" else bad, str(i), some(1, 9), **more)

    return Task(kind, [pair(i) for i in range(n)])


KINDS = ["one context", "two contexts", "one sentence", "options"]
SUITE = Suite("conditional", [*map(task, KINDS), Task("plain", [MinimalPair(TEXT[0], TEXT[1])])])


def spelled(lm: LM, ids: list[int]) -> str:
    "What tokens spell, from their names: a space for its mark, and before every token of a list of words."
    names = lm.tokenizer.convert_ids_to_tokens(ids)
    between = "" if "Ġ" in lm.tokenizer.get_vocab() or "▁" in lm.tokenizer.get_vocab() else " "
    return between.join(names).replace("Ġ", " ").replace("▁", " ").lstrip()


def plain(lm: LM, option) -> tuple[float, int]:
    "Log-probability of the tokens behind the context, the text alone, all logits; the boundary by counting characters."
    lead = [] if prefix_id(lm) is None else [prefix_id(lm)]
    own = lm.encode(option.text)
    start = 0
    while option.context and len(spelled(lm, own[: start + 1])) <= len(option.context):
        start += 1
    ids, start = lead + own, max(1, len(lead) + start)
    x = torch.tensor([ids])
    with torch.no_grad():
        logp = lm.logits(x, torch.ones_like(x)).float().log_softmax(-1)[0, :-1]
    each = logp.gather(1, x[0, 1:, None])[:, 0]
    return float(each[start - 1 :].double().sum()), len(ids) - start


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(("tokens", "bos"), [("bytes", True), ("pieces", True), ("words", False)])
def test_scores_behind_contexts_are_those_of_one_text_at_a_time(kind, tokens, bos):
    lm = LM(model(kind), tokenizer(tokens, bos, "eos"), name=kind)
    frame = score_pairs(lm, SUITE)
    found = [[plain(lm, o) for o in p.options] for t in SUITE for p in t]
    good = np.array([f[0][0] for f in found])
    wrong = [max(f[1:]) for f in found]
    assert np.abs(frame.logp_good - good).max() < 1e-4  # worst seen over all: 4.8e-6
    assert np.abs(frame.logp_bad - [w for w, _ in wrong]).max() < 1e-4
    assert frame.tokens_good.tolist() == [f[0][1] for f in found]
    assert frame.tokens_bad.tolist() == [n for _, n in wrong]
    fast = margins(lm, encode_pairs(lm, [p for t in SUITE for p in t]))
    assert np.abs(fast - frame.margin).max() < 1e-4


def margin_of(lm: LM, pair: MinimalPair) -> torch.Tensor:
    "The margin of a pair by hand, one text at a time, with its graph; the words of the toy are its tokens."
    found = []
    for option in pair.options:
        ids = torch.tensor([[lm.bos_id, *lm.encode(option.text)]])
        logp = lm.logits(ids, torch.ones_like(ids))[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(logp[-len(option.sentence.split()) :].sum())
    return found[0] - torch.stack(found[1:]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_differentials_are_gradients_of_the_margin(kind):
    "Also where the best of several wrong sentences counts: the gradient is that of the one the model prefers."
    lm = toy_lm(spread=0.2, words=("<s>", *WORDS))
    items = task(kind, 6)
    found = gradient_differential(lm, items)
    lm.model.zero_grad()
    (-sum(margin_of(lm, p) for p in items) / len(items)).backward()
    for name, p in lm.model.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=2e-6), name  # worst seen: 8e-7, at norms up to 12


def test_tuning_raises_margins_behind_contexts_and_leaves_no_trace():
    lm = toy_lm(spread=0.2, words=("<s>", *WORDS))
    digest, encoded = lm.digest(), encode_pairs(lm, task("options", 8).pairs)
    before = margins(lm, encoded)
    tuned = tune(lm, task("options", 8), FTGD(steps=8, lr=0.02, keep=0.2), eval_task=task("options", 8))
    with tuned.applied(lm):
        assert (margins(lm, encoded) - before).mean() > 5  # measured: 21 nats
    assert lm.digest() == digest
    assert tuned.log.margin.iloc[1] == pytest.approx(before.mean(), abs=1e-4)


def test_the_best_wrong_sentence_is_chosen_by_the_model():
    lm = toy_lm(spread=0.2, words=("<s>", *WORDS))
    items = task("options", 6)
    chosen = against_best(lm, encode_pairs(lm, items.pairs))
    scores = score_pairs(lm, items)
    for pair, best, margin in zip(items, chosen, scores.margin, strict=True):
        others = [MinimalPair(pair.good, s, context=pair.context) for s in (pair.bad, *pair.others)]
        each = score_pairs(lm, Task("each", others)).margin
        assert margin == pytest.approx(each.min(), abs=1e-4)
        assert best.bad[-len(lm.encode(others[int(each.argmin())].bad)) :] == lm.encode(others[int(each.argmin())].bad)
        assert not best.others


class Pieces:
    "A token for every three characters; it can neither decode nor give offsets."

    bos, eos, pad = 0, None, None

    def encode(self, text, add_special_tokens=False):
        return [1 + sum(map(ord, text[k : k + 3])) % 90 for k in range(0, len(text), 3)]


class Deaf(Pieces):
    "Reads four characters and no more."

    def encode(self, text, add_special_tokens=False):
        return super().encode(text[:4])


def test_a_token_that_straddles_the_boundary_is_scored():
    lm = LM(model("gpt2"), Pieces())
    pair = MinimalPair("efgh", "xyz", context="abcd", separator="")
    (encoded,) = encode_pairs(lm, [pair])
    assert encoded.start == 2  # bos, "abc"; then "def", which holds the end of the context, and "gh"
    assert score_pairs(lm, Task("t", [pair])).tokens_good.tolist() == [2]
    exact = MinimalPair("efgh", "xyz", context="abcdef", separator="")
    assert encode_pairs(lm, [exact])[0].start == 3


@pytest.mark.slow
def test_a_shared_context_is_run_once():
    "Of 300 tokens before twenty sentences; and the numbers are those of one sentence at a time."
    from transformers import GPT2Config, GPT2LMHeadModel

    words = [f"w{k}" for k in range(50)]
    rng = random.Random(0)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=51, n_positions=512, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2)
    lm = LM(GPT2LMHeadModel(config), toy_lm(words=("<s>", *words)).tokenizer)
    context = " ".join(rng.choices(words, k=300))
    items = [MinimalPair(*(" ".join(rng.choices(words, k=6)) for _ in "ab"), context=context) for _ in range(10)]
    whole = score_pairs(lm, Task("t", items))
    encoded = [e for p in encode_pairs(lm, items) for e in (p.good, p.bad)]
    assert row_size([e.start for e in encode_pairs(lm, items)]) == 602
    once = score_pairs(lm, Task("t", items), share=False)
    assert np.abs(whole.margin - once.margin).max() < 1e-4
    assert inputs(encoded, 602)["shared rows"] < 301 + 20 * 6  # with rows of 64 nodes it is all 20 contexts
    assert inputs(encoded)["shared rows"] > 20 * 300


def saved(tmp_path) -> str:
    "A GPT-2 with a byte tokenizer, as a folder that other tools can load."
    model("gpt2").save_pretrained(tmp_path)
    tokenizer("bytes", True, "eos").save_pretrained(tmp_path)
    return str(tmp_path)


def test_minicons_gives_the_same_conditional_scores(tmp_path):
    scorer = pytest.importorskip("minicons.scorer", reason="minicons is not installed: pip install -e '.[peers]'")
    tool = scorer.IncrementalLMScorer(saved(tmp_path), "cpu")
    pairs = task("two contexts").pairs
    theirs = tool.conditional_score([p.context for p in pairs], [p.good for p in pairs])
    lm = LM(tool.model, tool.tokenizer)
    found = score_pairs(lm, Task("t", pairs), "minicons")
    assert np.abs(found.logp_good - theirs).max() < 1e-4


def test_lm_eval_gives_the_same_conditional_scores(tmp_path):
    "With its prefix: the tokenizer's own, since a context stands before the sentence."
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install -e '.[peers]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tool = HFLM(pretrained=saved(tmp_path), device="cpu", dtype="float32", batch_size=16)
    pairs = task("two contexts").pairs
    asked = [Instance("loglikelihood", {}, (p.context, " " + p.good), 0) for p in pairs]
    theirs = [score for score, _ in tool.loglikelihood(asked, disable_tqdm=True)]
    lm = LM(tool.model, tool.tokenizer)
    found = score_pairs(lm, Task("t", pairs), convention_of("lm-eval", prefix="tokenizer"))
    assert np.abs(found.logp_good - theirs).max() < 1e-4


def test_what_cannot_be_scored_is_named():
    lm = toy_lm()
    long = Task("t", [MinimalPair("sees", "see", "7", context="the cat " * 40)])
    with pytest.raises(
        TaskspaceError, match=r"task 't', pair 7: 82 tokens, 81 of them before 'sees'.*takes 32; shorten"
    ):
        score_pairs(lm, long)
    with pytest.raises(TaskspaceError, match=r"task 't', pair 7: 'a' has no token of its own behind its context"):
        score_pairs(LM(model("gpt2"), Deaf()), Task("t", [MinimalPair("a", "b", "7", "abcd", separator="")]))
    with pytest.raises(TaskspaceError, match=r"task 't', pair 7: the first token of 'bcdef'.*give a prefix token"):
        score_pairs(
            LM(model("gpt2"), Pieces()),
            Task("t", [MinimalPair("bcdef", "cdefg", "7", "a", separator="")]),
            convention_of("blimp", prefix=None),
        )


def test_without_contexts_digests_are_as_they_were():
    "Written down before pairs had contexts."
    assert Suite("s", [Task("plain", [MinimalPair(TEXT[0], TEXT[1])])]).digest[:16] == "1f7e3055dca861c1"
    values = [[t.name, [p.values for p in t]] for t in SUITE]
    assert len({Suite("s", [Task("t", [replace(p, id=None)])]).digest for p in task("one context")}) == 10
    assert values[-1] == ["plain", [[TEXT[0], TEXT[1], None]]]
    assert Suite("s", [Task(n, [MinimalPair(*v) for v in vs]) for n, vs in values]).digest == SUITE.digest


def test_probes_and_runs_take_pairs_with_contexts():
    from taskspace.probing.gradient import gradient_probe
    from taskspace.probing.rows import transfer_row
    from taskspace.runs.formats import compress_suite, decompress_suite

    lm = toy_lm(spread=0.2, words=("<s>", *WORDS))
    suite = Suite("s", [task(k, 12) for k in ("one sentence", "options")])
    sent = decompress_suite(compress_suite(suite))
    assert sent == suite and sent.digest == suite.digest
    parts = suite.split(train=4, eval=4, seed=0)
    read = [{c for t in part for p in t for c in (p.context, p.context_bad, *p.texts) if c} for part in parts]
    assert not read[0] & read[1]
    own = gradient_probe(lm, suite)["cosine"].matrix.to_numpy()
    flat = [torch.cat([g.flatten() for g in gradient_differential(lm, t).values()]) for t in suite]
    assert own[0, 1] == pytest.approx(float(torch.cosine_similarity(*flat, dim=0)), abs=1e-4)
    row = transfer_row(lm, parts.train.tasks[1], parts.eval, FTGD(steps=3, lr=0.02))
    gain = (row.after - row.before).groupby(row.task).mean()
    assert row.before[:4].to_numpy() == pytest.approx(score_pairs(lm, parts.eval).margin[:4].to_numpy(), abs=1e-4)
    assert abs(gain["options"]) > 1e-3


def test_ngrams_of_the_whole_text_count():
    "One sentence behind two contexts: the contrast is in the contexts."
    (pair,) = task("one sentence", 1)
    contrast = ngram_contrast([pair], 1)
    both = set(pair.context.split()) ^ set(pair.context_bad.split())
    assert both <= {gram[0] for gram in contrast}
