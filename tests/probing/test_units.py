"""The unit probe and ablation: any architecture, known answers, nothing where there is nothing, exact restoration."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.probing import ablation
from taskspace.probing.ablation import ablated, ablation_probe, matched_units, unit_norms
from taskspace.probing.sites import find_sites
from taskspace.probing.units import activations, attributions, sentences_of, task_units, unit_probe, Units
from taskspace.scoring.convention import convention_of
from taskspace.scoring.encoding import encode_pairs
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import toy_lm, toy_suite, TOY_WORDS, WordTokenizer
from taskspace.tuning.gradients import margins

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))
import test_masked  # noqa: E402
import test_scoring  # noqa: E402

TOY = toy_suite()


def tokenizer():
    "One token a word, with a prefix token."
    return test_scoring.tokenizer("words", True, "own")


def more(kind: str) -> nn.Module:
    "A tiny model with random weights of a family that the tests of scores do not have."
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    size = {"opt": {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16}, "bloom": {"hidden_size": 16}}
    wide = {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4} if kind == "gptj" else {}
    extra = size.get(kind, {"hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 2})
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    settings = wide or {**layers, **extra}
    config = AutoConfig.for_model(kind, vocab_size=test_scoring.VOCABULARY, initializer_range=0.3, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


CAUSAL = {
    "gpt2": (16, 64, 16),
    "neox": (16, 32, 16),
    "llama": (16, 32, 16),
    "solu": (16, 64, 16),
    "opt": (16, 32, 16),
    "bloom": (16, 64, 16),
    "gptj": (16, 64, 16),
    "phi": (16, 32, 16),
    "gemma": (16, 32, 512),
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_units_are_found_in_every_causal_architecture(kind):
    module = test_scoring.model(kind) if kind in test_scoring.ARCHITECTURES else more(kind)
    lm = LM(module, tokenizer(), name=kind)
    for units, width in zip(("residual", "mlp", "attention"), CAUSAL[kind], strict=True):
        sites = find_sites(lm, units)
        assert [(s.layer, s.width) for s in sites] == [(1, width), (2, width)]
        assert_attributions_are_slopes(lm, sites, test_scoring.pairs(2).tasks[0])


MASKED = [k for k in test_masked.ARCHITECTURES if k != "albert"]


@pytest.mark.parametrize("kind", MASKED)
def test_units_are_found_in_every_masked_architecture(kind):
    lm = test_masked.make(kind)
    good, bad = (
        ("The kings sleep near the castle.", "the king sleeps ."),
        ("The kings sleeps near the castle.", "the kings sleeps ."),
    )
    task = Task("t", [MinimalPair(g, b) for g, b in zip(good, bad, strict=True)])
    for units, width in (("residual", 32), ("mlp", 48), ("attention", 32)):
        sites = find_sites(lm, units)
        assert [(s.layer, s.width) for s in sites] == [(1, width), (2, width)]
    assert_attributions_are_slopes(lm, sites, task)


def assert_attributions_are_slopes(lm, sites, task):
    "All units of a layer scaled by 1 + e: the margins follow the sum of its attributions."
    from taskspace.probing.sites import at_sites

    pairs = encode_pairs(lm, task)
    found = attributions(lm, pairs, sites)
    for at, part in enumerate(np.split(found, len(sites), axis=1)):
        both = []
        for step in (3e-3, -3e-3):
            with at_sites([sites[at]], lambda k, state, step=step: state * (1 + step)):
                both.append(margins(lm, pairs))
        slope = (both[0] - both[1]) / 6e-3
        # worst seen: 0.005 of slopes up to 40 (modernbert)
        assert np.abs(slope - part.sum(1)).max() < 0.01 * max(1, np.abs(slope).max())


@pytest.mark.parametrize("kind", ["gpt2", "neox", "llama", "phi"])
def test_attributions_in_shared_rows_are_those_of_whole_sentences(kind, monkeypatch):
    "Pairs that share their beginnings with each other too, one of equal sentences, and one with a bad sentence alone."
    from taskspace.probing import units as module
    from taskspace.scoring.logprobs import find_shortcuts, Shortcuts

    lm = LM(test_scoring.model(kind) if kind in test_scoring.ARCHITECTURES else more(kind), tokenizer(), name=kind)
    pairs = encode_pairs(lm, [p for t in test_scoring.pairs(4).tasks for p in t])
    pairs += [pairs[0], pairs[0]._replace(bad=pairs[1].good), pairs[0]._replace(bad=pairs[0].good)]
    sites = [site for units in ("residual", "mlp") for site in find_sites(lm, units)]
    assert find_shortcuts(lm, pairs[0].good).shared_rows
    shared = [attributions(lm, pairs, sites, tokens) for tokens in (64, 8192)]
    head = find_shortcuts(lm, pairs[0].good).head
    monkeypatch.setattr(module, "find_shortcuts", lambda *_: Shortcuts(head, False))
    whole = attributions(lm, pairs, sites)
    assert np.abs(whole).max() > 0.1
    assert not shared[0][-1].any()  # equal sentences have no margin to lose
    worst = max(np.abs(found - whole).max() for found in shared) / np.abs(whole).max()
    assert worst < 5e-6  # worst seen: 9e-7


@pytest.mark.parametrize("kind", ["lstm", "cnn", "mamba"])
def test_what_an_architecture_lacks_is_refused_in_one_line(kind):
    lm = LM(test_scoring.model(kind), tokenizer(), name=kind)
    assert [s.width for s in find_sites(lm, "residual")] == [16, 16]
    for units in ("mlp", "attention"):
        with pytest.raises(TaskspaceError, match=f"^model '{kind}' .* has no {units} units; it has: residual$"):
            find_sites(lm, units)


def test_blocks_that_share_their_weights_are_refused():
    with pytest.raises(TaskspaceError, match="runs its blocks 2 times; choose a model whose layers do not share"):
        find_sites(test_masked.make("albert"))


# ---- a network with two rules, whose answers are known


class Rules(nn.Module):
    """The next token after a noun is decided by the neurons of one layer: neuron k of a noun adds to the good verb what
    it takes from the bad one. `wiring` says which neurons each noun drives."""

    def __init__(self, wiring: dict[str, tuple[int, ...]], neurons: int = 8):
        super().__init__()
        words = TOY_WORDS
        self.embed = nn.Embedding(len(words), len(words)).requires_grad_(False)
        self.embed.weight.data = torch.eye(len(words))
        self.layers = nn.ModuleList([Layer(len(words), neurons)])
        self.head = nn.Linear(len(words), len(words), bias=False)
        self.head.weight.data = torch.eye(len(words))
        up, down = self.layers[0].mlp.up.weight.data, self.layers[0].mlp.down.weight.data
        up.zero_()
        down.zero_()
        for noun, driven in wiring.items():
            for k in driven:
                up[k, words.index(noun)] = 1.0
                down[words.index("sees"), k], down[words.index("see"), k] = 1.0, -1.0

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask):
        return self.head(self.layers[0](self.embed(input_ids)))


class Layer(nn.Module):
    "A residual block with a feed-forward part alone."

    def __init__(self, width, neurons):
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.up, self.mlp.down = nn.Linear(width, neurons, bias=False), nn.Linear(neurons, width, bias=False)

    def forward(self, x):
        return x + self.mlp.down(self.mlp.up(x).relu())


def rules(wiring):
    return LM(Rules(wiring), WordTokenizer(), name="rules")


NOUNS = ("cat", "dog", "king")


def noun_suite():
    "The verb behind each noun, with seven determiners."
    determiners = ("the", "a", "my", "no", "one", "this", "that")
    return Suite(
        "nouns",
        [Task(n, [MinimalPair(f"{d} {n} sees", f"{d} {n} see") for d in determiners], n) for n in NOUNS],
    )


@pytest.mark.parametrize(
    ("wiring", "expected"),
    [
        ({"cat": (0, 1), "dog": (2, 3), "king": (4, 5)}, np.diag([-4.0, -4, -4])),
        ({"cat": (0, 1), "dog": (0, 1), "king": (4, 5)}, [[-4, -4, 0], [-4, -4, 0], [0, 0, -4]]),
        # cat and dog share one neuron of two
        ({"cat": (0, 1), "dog": (1, 2), "king": (4, 5)}, [[-4, -2, 0], [-2, -4, 0], [0, 0, -4]]),
    ],
    ids=["disjoint", "shared", "half"],
)
def test_ablation_finds_the_units_that_were_wired(wiring, expected):
    lm = rules(wiring)
    found = ablation_probe(lm, noun_suite(), "mlp", top=0.25, by="attribution", train_pairs=3, eval_pairs=4)
    expected = np.array(expected, float)
    # A neuron adds 1 to the logit of one verb and takes 1 from that of the other; the two verbs share their normaliser.
    assert np.abs(found.ablation.matrix - expected).to_numpy().max() < 1e-5  # worst seen 5e-7
    for noun, driven in wiring.items():
        assert found.rows[noun].attrs["units"] == {"1": list(driven)}
    overlap = unit_probe(lm, noun_suite(), "mlp", top=0.25, by="attribution").overlap.matrix.to_numpy()
    shared = [[len(set(wiring[a]) & set(wiring[b])) for b in NOUNS] for a in NOUNS]
    assert np.allclose(overlap, [[s / (4 - s) for s in row] for row in shared])
    accuracy = ablation_probe(
        lm, noun_suite(), "mlp", 0.25, "attribution", train_pairs=3, eval_pairs=4, metric="accuracy", random=False
    )
    assert np.array_equal(accuracy.ablation.matrix, np.where(expected == -4, -0.5, 0))  # a tie counts half
    assert accuracy.ablation.kind == "ablation, accuracy"


def test_units_that_nobody_uses_do_no_harm():
    lm = rules({"cat": (0, 1), "dog": (2, 3), "king": (4, 5)})
    norms = unit_norms(lm, [p.good for t in noun_suite() for p in t], "mlp")
    assert np.flatnonzero(norms.rms).tolist() == [0, 1, 2, 3, 4, 5]
    before = margins(lm, encode_pairs(lm, noun_suite()["cat"]))
    with ablated(lm, Units("mlp", {1: np.array([6, 7])})):
        assert (margins(lm, encode_pairs(lm, noun_suite()["cat"])) == before).all()


# ---- restoration


def bits(lm):
    "Everything that a model gives for the toy suite, and its weights."
    return lm.digest(), margins(lm, encode_pairs(lm, [p for t in TOY for p in t])).tobytes()


@pytest.mark.parametrize("kind", ["residual", "mlp", "attention"])
def test_the_model_is_as_it_was_bit_for_bit(kind):
    lm = toy_lm(spread=0.2)
    lm.model.train()  # the mode is the owner's
    before, hooks = bits(lm), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()]
    units = task_units(lm, TOY["cats"], kind, top=0.1)
    with ablated(lm, units):
        inside = bits(lm)
        with ablated(lm, task_units(lm, TOY["dogs"], kind, top=0.5)):
            assert bits(lm)[1] not in (before[1], inside[1])
        assert bits(lm) == inside
    assert inside[0] == before[0] and inside[1] != before[1]
    with pytest.raises(KeyboardInterrupt), ablated(lm, units):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError, match="deep"), ablated(lm, units), ablated(lm, units):
        raise RuntimeError("deep")
    unit_probe(lm, TOY, kind, by="attribution")
    ablation_probe(lm, TOY, kind, top=0.1)
    assert bits(lm) == before
    assert lm.model.training
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules()] == hooks
    assert all(p.grad is None and p.requires_grad for p in lm.model.parameters())


@pytest.mark.parametrize("kind", ["residual", "mlp", "attention"])
def test_shared_rows_stay_right_with_units_off(kind):
    "Scores run many sentences in one row; one sentence at a time, all logits, gives the same."
    lm = toy_lm(spread=0.2)
    pairs = encode_pairs(lm, [p for t in TOY for p in t])
    with ablated(lm, task_units(lm, TOY["cats"], kind, top=0.2)):
        fast = margins(lm, pairs)
        slow = [test_scoring.naive(lm, p.good) - test_scoring.naive(lm, p.bad) for p in pairs]
        from taskspace.scoring.logprobs import find_shortcuts

        assert find_shortcuts(lm).shared_rows
    assert np.abs(fast - slow).max() < 1e-4  # worst seen 5e-6


# ---- matched random units


def test_random_units_match_in_layer_and_strength():
    lm = toy_lm(spread=0.2)
    norms = unit_norms(lm, [p.good for t in TOY for p in t], "mlp")
    strong = np.argsort(norms.rms[:128])[-6:]  # of layer 1
    units = Units("mlp", {1: np.sort(strong), 2: np.arange(3)})
    draws = [matched_units(units, norms, seed) for seed in range(20)]
    assert all({k: len(v) for k, v in d.by_layer.items()} == {1: 6, 2: 3} for d in draws)
    assert not any(set(d.by_layer[1]) & set(strong) for d in draws)
    taken = np.concatenate([norms.rms[d.by_layer[1]] for d in draws])
    assert taken.min() > np.quantile(norms.rms[:128], 0.75)  # the strongest of what is left
    assert len({tuple(d.by_layer[1]) for d in draws}) > 10


# ---- nothing to find


def random_suite(tasks, pairs, seed):
    "Tasks of one word's difference between random words."
    rng = np.random.default_rng(seed)
    nouns, ends = ["cat", "dog", "king", "girl", "cats", "dogs", "kings", "girls"], ["see", "sees", "sleep", "sleeps"]

    def pair():
        a, b = rng.choice(ends, 2, replace=False)
        d, n, o = rng.choice(["the", "my", "no"]), rng.choice(nouns), rng.choice(["me", "us", "them"])
        return MinimalPair(f"{d} {n} {a} {o} .", f"{d} {n} {b} {o} .")

    return Suite("random", [Task(str(t), [pair() for _ in range(pairs)], str(t % 2)) for t in range(tasks)])


def test_units_of_shuffled_pairs_overlap_as_chance_says():
    lm = toy_lm(spread=0.2)
    off = ~np.eye(10, dtype=bool)
    overlap, shuffled, chance = [], [], 0.0
    for seed in range(3):
        found = unit_probe(lm, random_suite(10, 16, seed), "mlp", top=0.1, by="paired", magnitude=False, bootstrap=0)
        overlap.append(found.overlap.matrix.to_numpy()[off].mean())
        shuffled.append(found.shuffled.matrix.to_numpy()[off].mean())
        chance = found.chance.matrix.iloc[0, 1]
    # chance .054; seen: overlap .059, shuffled .059
    assert abs(np.mean(overlap) - chance) < 0.015
    assert abs(np.mean(shuffled) - chance) < 0.015


def test_shuffling_takes_away_what_tasks_share():
    "The toy suite has something to find; its own null has not."
    lm, off = toy_lm(spread=0.2), ~np.eye(5, dtype=bool)
    found = unit_probe(lm, TOY, "mlp", top=0.05, by="paired", bootstrap=0)
    overlap, shuffled, chance = (found[n].matrix.to_numpy()[off].mean() for n in ("overlap", "shuffled", "chance"))
    assert overlap > 3 * chance  # seen: .148 of .026
    assert abs(shuffled - chance) < 0.02  # seen: .034


@pytest.mark.slow
def test_intervals_hold_what_other_pairs_would_show():
    "Simulated activations: the interval holds the mean overlap over new pairs about as often as it says."
    from taskspace.probing.units import _Evidence, _measured, _sets

    rng = np.random.default_rng(0)
    units, k, n = 400, 40, 40
    shared = np.zeros((3, units))
    shared[0, :60] = shared[1, 30:90] = shared[2, 200:260] = 0.6

    def world(draws):
        sets = []
        for effect in shared:
            good = rng.normal(size=(n, units)) + effect
            sets.append(_sets(_Evidence(good, rng.normal(size=(n, units)), "welch", True), k, 5, rng))
        return _measured(sets, units, k, draws, rng)["overlap"]

    truth = np.mean([world(0)["value"] for _ in range(60)], axis=0)
    held = []
    for _ in range(60):
        one = world(100)
        held.append((one["low"] <= truth) & (truth <= one["high"]))
        assert (one["low"] <= one["value"]).all() and (one["value"] <= one["high"]).all()
    off = np.mean(held, axis=0)[np.triu_indices(3, 1)]
    assert off.min() > 0.85, off  # seen over 150 worlds: .99; intervals from five blocks are on the wide side


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be over 0 and at most 1, the share of units to keep, not 0"),
        ({"top": 1.5}, "top must be over 0 and at most 1, the share of units to keep, not 1.5"),
        ({"units": "heads"}, "units must be one of residual, mlp, attention, not 'heads'"),
        ({"by": "anova"}, "by must be one of welch, paired, attribution, not 'anova'"),
        ({"position": "first"}, "position must be one of last, mean, not 'first'"),
    ],
)
def test_bad_settings_are_one_line(options, message):
    lm = toy_lm()
    for probe in (unit_probe, ablation_probe):
        with pytest.raises(TaskspaceError) as e:
            probe(lm, TOY, **options)
        assert str(e.value) == message


def test_one_pair_is_too_few():
    with pytest.raises(TaskspaceError, match="task 'cats' has 1 pair; a t needs at least two"):
        unit_probe(toy_lm(), TOY.take(1))


def test_the_mean_over_tokens_is_the_mean():
    lm = toy_lm(spread=0.2)
    sites = find_sites(lm, "residual")
    (pair,) = encode_pairs(lm, [TOY["cats"].pairs[0]])
    sentence = sentences_of(pair)[0]
    found = activations(lm, [sentence], sites, "mean")
    with torch.no_grad():
        states = lm.model(torch.tensor([sentence.ids]), output_hidden_states=True).hidden_states
    # of the last block transformers gives the state behind the last norm
    assert np.abs(found[0, :32] - states[1][0, 1:].mean(0).numpy()).max() < 1e-6


def in_contexts(pairs):
    words = (("sleeps", "sleep"), ("sleep", "sleeps"))
    return Task("x", [MinimalPair(*words[k % 2], id=f"p{k}", context=f"the cat{'s' * (k % 2)}") for k in range(pairs)])


def test_norms_are_those_of_the_texts_with_their_contexts(monkeypatch):
    lm, task = toy_lm(), in_contexts(4)
    seen = []
    real = ablation._norms_of
    monkeypatch.setattr(ablation, "_norms_of", lambda lm, rows, *more: seen.append(rows) or real(lm, rows, *more))
    ablation.ablation_row(lm, task, Suite("s", (task,)), "mlp", top=0.1, value="mean", random=False)
    (rows,) = seen
    wanted = {tuple([lm.bos_id, *lm.encode(f"{p.context} {s}")]) for p in task for s in (p.good, p.bad)}
    assert {tuple(r) for r in rows} == wanted
    ablation.ablation_row(lm, task, Suite("s", (task,)), "mlp", top=0.1, value="zero", random=False)
    assert len(seen) == 1  # no norms are needed


def test_pairs_that_score_only_behind_contexts_can_be_ablated():
    lm, task = toy_lm(), in_contexts(8)
    rule = convention_of("blimp", prefix=None)
    for random in (True, False):
        found = ablation_probe(lm, Suite("s", (task,)), "mlp", top=0.1, random=random, convention=rule)
        assert np.isfinite(found.ablation.matrix.to_numpy()).all()
