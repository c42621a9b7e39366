"""Interchange: everything gives the margin, nothing 0, and a network whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.probing.interchange import (
    aligned_task,
    first_difference,
    interchange_effects,
    interchange_probe,
    is_aligned,
    patched,
)
from taskspace.probing.sites import find_sites
from taskspace.scoring.encoding import encode_pairs
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import toy_lm, toy_masked_lm
from taskspace.tuning.gradients import margins

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))
import test_masked  # noqa: E402
import test_scoring  # noqa: E402
from test_units import CAUSAL, more, rules, tokenizer  # noqa: E402


def random_task(lm, n=8):
    "Pairs of as many words each, which differ in one to three."
    words, rng = sorted({w for s in test_scoring.TEXT for w in s.split()}), np.random.default_rng(0)
    pairs = []
    for _ in range(n):
        good = list(rng.choice(words, rng.integers(3, 9)))
        bad = list(good)
        for k in rng.choice(len(good), min(len(good), int(rng.integers(1, 4))), replace=False):
            bad[k] = str(rng.choice([w for w in words if w != good[k]]))
        pairs.append(MinimalPair(" ".join(good), " ".join(bad)))
    return Task("random", pairs)


@pytest.mark.parametrize("kind", CAUSAL)
def test_everything_gives_the_margin_and_nothing_0(kind):
    lm = LM(test_scoring.model(kind) if kind in test_scoring.ARCHITECTURES else more(kind), tokenizer(), name=kind)
    check(lm, random_task(lm))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "distilbert"])
def test_and_in_masked_models(kind):
    lm = test_masked.make(kind)
    words = ["king", "kings", "lady", "girl", "castle", "court"]
    pairs = [MinimalPair(f"the {g} sleeps .", f"the {b} sleeps .") for g in words for b in words if g != b]
    check(lm, Task("words", pairs))  # those whose words have equally many tokens


def check(lm, task):
    pairs, sites = encode_pairs(lm, task), find_sites(lm)
    pairs = [p for p in pairs if is_aligned(p)]
    assert len(pairs) > 1
    later, own = patched(lm, pairs, sites, lambda p, k: True)
    assert np.abs(later + own - margins(lm, pairs)).max() < 1e-4  # worst seen 2e-5 (distilbert)
    for kind in ("residual", "mlp", "attention"):
        assert np.abs(patched(lm, pairs, find_sites(lm, kind), lambda p, k: False)).max() < 1e-4
    if lm.objective == "causal":  # what stands before the first difference is the same in both
        before = patched(lm, pairs, sites, lambda p, k: k < first_difference(p))
        assert np.abs(before).max() < 1e-4


def test_a_naive_run_of_one_pair_gives_the_same():
    "One position of one layer, by hand with transformers' own hooks and all logits."
    lm = toy_lm(spread=0.2)
    pair = MinimalPair("the cats see me .", "the cat see me .")
    table = interchange_effects(lm, Task("t", [pair, pair]))
    (p,) = encode_pairs(lm, [pair])
    good, bad = torch.tensor([p.good]), torch.tensor([p.bad])
    block, kept = lm.model.transformer.h[0], []
    with torch.no_grad():
        handle = block.register_forward_hook(lambda m, a, out: kept.append(out if torch.is_tensor(out) else out[0]))
        plain = lm.model(bad).logits.log_softmax(-1)
        lm.model(good)
        handle.remove()

        def put(m, a, out):
            state = (out if torch.is_tensor(out) else out[0]).clone()
            state[0, 2] = kept[1][0, 2]
            return state if torch.is_tensor(out) else (state, *out[1:])

        handle = block.register_forward_hook(put)
        moved = lm.model(bad).logits.log_softmax(-1)
        handle.remove()

    def total(logp):
        return float(logp[0, range(len(p.bad) - 1), p.bad[1:]].sum())

    row = table.query("layer == 1 and offset == 0").iloc[0]
    assert row["later"] == pytest.approx(total(moved) - total(plain), abs=1e-5)
    assert row["own"] == pytest.approx(float(plain[0, 1, p.good[2]] - plain[0, 1, p.bad[2]]), abs=1e-5)
    assert table.attrs["margin"] == pytest.approx(margins(lm, [p])[0], abs=1e-5)


# ---- the network of two rules: what follows a noun depends on its neurons alone


def number_task(good, bad, name=None):
    "The verb behind a noun that asks for it, against one that does not care."
    return Task(
        name or good, [MinimalPair(f"{d} {good} sees", f"{d} {bad} sees") for d in ("the", "my", "no", "one")], good
    )


def test_the_effect_is_where_the_rule_is():
    lm = rules({"cat": (0, 1)})
    table = interchange_effects(lm, number_task("cat", "girl"), "mlp")
    assert list(table["offset"]) == [0, 1]
    at_noun, at_verb = table["later"]
    with torch.no_grad():
        ids = torch.tensor([lm.encode("the cat"), lm.encode("the girl")])
        logp = lm.logits(ids, torch.ones_like(ids)).log_softmax(-1)[:, 1]
    sees = lm.encode("sees")[0]
    # The neurons hold the rule; the noun's own logit, which the residual carries, is not among them.
    plain = logp[1].exp()
    see = lm.encode("see")[0]
    lifted = torch.log(1 - plain[sees] - plain[see] + plain[sees] * np.e**2 + plain[see] * np.e**-2)
    assert at_noun == pytest.approx(float(2 - lifted), abs=1e-5)
    assert at_verb == 0
    residual = interchange_effects(lm, number_task("cat", "girl"), "residual")
    assert residual["later"][0] == pytest.approx(float(logp[0, sees] - logp[1, sees]), abs=1e-5)


@pytest.mark.parametrize(("wiring", "shared"), [((2, 3), 0.0), ((0, 1), 1.0)], ids=["disjoint", "shared"])
def test_a_direction_works_on_a_task_that_shares_the_rule(wiring, shared):
    lm = rules({"cat": (0, 1), "dog": wiring})
    suite = Suite("numbers", [number_task("cat", "girl"), number_task("dog", "king")])
    found = interchange_probe(lm, suite, layer=1, units="mlp", train_pairs=2, eval_pairs=2)
    matrix = found.interchange.matrix.to_numpy()
    assert np.allclose(np.diag(matrix), matrix[0, 0], atol=1e-5) and matrix[0, 0] > 1
    assert np.allclose([matrix[0, 1], matrix[1, 0]], shared * matrix[0, 0], atol=1e-5)
    assert found.interchange.kind == "interchange"
    # The nouns of a task are always the same, so its own cells have no unseen words; the other task's nouns are unseen
    unseen = found.unseen.matrix.to_numpy()
    assert np.isnan(np.diag(unseen)).all() and np.allclose(unseen[0, 1], matrix[0, 1], atol=1e-6)


def test_random_directions_do_little():
    lm = rules({"cat": (0, 1), "dog": (0, 1)})
    suite = Suite("numbers", [number_task("cat", "girl"), number_task("dog", "king")])
    random = [
        interchange_probe(lm, suite, 1, "residual", seed=s, train_pairs=2, eval_pairs=2, bootstrap=0).random.matrix
        for s in range(10)
    ]
    own = np.diag(interchange_probe(lm, suite, 1, train_pairs=2, eval_pairs=2).interchange.matrix).mean()
    assert np.mean(random) < own / 10  # seen: .05 of 1.9


# ---- bad input


def test_pairs_of_unequal_length_are_counted():
    lm = toy_lm()
    even, odd = MinimalPair("the cats see .", "the cat see ."), MinimalPair("the cats see .", "the cats often see .")
    task = Task("t", [odd, even, odd])
    assert aligned_task(lm, task) == (None, 1)
    with pytest.raises(TaskspaceError) as e:
        interchange_effects(lm, task)
    assert str(e.value) == (
        "task 't': 1 of 3 pairs has sentences of equally many tokens, and interchange needs two; "
        "choose another task or other pairs"
    )
    table = interchange_effects(lm, Task("t", [odd, even, MinimalPair("my dogs see .", "my dog see .")]))
    assert table.attrs["left_out"] == 1 and set(table["pairs"]) == {2}
    with pytest.raises(TaskspaceError, match="0 tasks have four pairs .* pairs left: t 1"):
        interchange_probe(lm, Suite("s", [task]))


def test_the_model_is_as_it_was():
    lm = toy_masked_lm(spread=0.2)
    task = Task("t", [MinimalPair(f"{d} cats see me .", f"{d} cat see me .") for d in ("the", "my", "no", "some")])
    suite = Suite(
        "s", [task, Task("u", [MinimalPair(f"{d} dogs run .", f"{d} dog run .") for d in ("the", "my", "no", "some")])]
    )
    before = lm.digest(), margins(lm, encode_pairs(lm, task)).tobytes()
    interchange_effects(lm, task)
    interchange_probe(lm, suite, train_pairs=2, eval_pairs=2)
    assert (lm.digest(), margins(lm, encode_pairs(lm, task)).tobytes()) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
