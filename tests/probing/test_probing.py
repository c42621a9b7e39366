"""The probes: exact on the bigram oracle, first order on every architecture, naive loops for the rest."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ftgd import ARCHITECTURES, make, WORDS

from atlength import at_length, covering
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining.architectures import BigramLM
from taskspace.probing import transfer
from taskspace.probing.differentials import collect_differentials, Fold, fold_width, group_sums, step_products
from taskspace.probing.gradient import gradient_probe, predicted_transfer
from taskspace.probing.row_spaces import METRICS, space_from_rows
from taskspace.probing.rows import transfer_row
from taskspace.probing.transfer import split_sizes, transfer_probe
from taskspace.scoring.convention import Convention, convention_of
from taskspace.scoring.encoding import convention_record
from taskspace.spaces.resampling import cell_tests
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import toy_lm, toy_suite, WordTokenizer
from taskspace.tuning.ftgd import FTGD, tune
from taskspace.tuning.gradients import gradient_differential, subspace

DETERMINERS = ["the", "a", "my", "no", "that"]
OBJECTS = ["me", "us", "that"]


def number(name, noun):
    return Task(
        name,
        [MinimalPair(f"{d} {noun}s see {o}", f"{d} {noun}s sees {o}") for d in DETERMINERS for o in OBJECTS],
        "number",
    )


def case(name, noun):
    return Task(
        name,
        [
            MinimalPair(f"{d} {noun} sees {o} {e}", f"{d} {noun} sees the {e}")
            for d in DETERMINERS
            for o in ("me", "us")
            for e in (".", "quickly")
        ],
        "case",
    )


SUITE = Suite(
    "small", [number("cats", "cat"), number("dogs", "dog"), case("cat object", "cat"), case("dog object", "dog")]
)


# -- the bigram oracle


def bigram(seed=0, dtype=torch.float32) -> LM:
    torch.manual_seed(seed)
    return LM(BigramLM(torch.randn(len(WORDS), len(WORDS))).to(dtype), WordTokenizer(WORDS), name="bigram")


def after(name, noun, good, bad):
    return Task(name, [MinimalPair(f"{d} {noun} {good}", f"{d} {noun} {bad}") for d in DETERMINERS])


ORACLE = Suite(
    "oracle",
    [
        after("cat", "cat", "sees", "see"),
        after("dog", "dog", "sees", "see"),
        after("rest", "cat", "sees", "me"),
        after("flip", "cat", "me", "sees"),
    ],
)
ONE_STEP = FTGD(optimizer="sgd", steps=1, lr=0.25, keep=1.0)
# Margins are differences of two logits of a row
BY_HAND = np.array([[2, 0, 1, -1], [0, 2, 0, 0], [1, 0, 2, -2], [-1, 0, -2, 2]]) * 0.25


def test_bigram_transfer_is_exactly_zero_across_rows_and_by_hand_within():
    space = transfer_probe(bigram(), ORACLE.select(["cat", "dog", "rest"]), ONE_STEP, train_pairs=2, eval_pairs=3)
    assert (space.matrix.loc[["cat", "rest"], "dog"] == 0).all()
    assert (space.matrix.loc["dog", ["cat", "rest"]] == 0).all()
    rows = {t.name: transfer_row(bigram(), t, ORACLE, ONE_STEP) for t in ORACLE}
    worst = np.abs(space_from_rows(rows).matrix - BY_HAND).to_numpy().max()
    assert worst < 1e-6  # worst seen: 2.4e-7, one float32 rounding of a margin


def test_bigram_prediction_is_exact():
    predicted = predicted_transfer(bigram(), ORACLE, ONE_STEP)
    assert np.abs(predicted.matrix - BY_HAND).to_numpy().max() < 1e-6


def test_bigram_five_steps_of_descent_by_hand():
    lm = bigram(dtype=torch.float64)
    rows = {t.name: transfer_row(lm, t, ORACLE, replace(ONE_STEP, steps=5)) for t in ORACLE}
    # The differential does not change: logits are the weights
    assert np.abs(space_from_rows(rows).matrix - 5 * BY_HAND).to_numpy().max() < 1e-12


# -- first order on every architecture


@pytest.mark.slow
@pytest.mark.parametrize("kind, update", covering(ARCHITECTURES, ["differential", "random", "masked", "full"]))
def test_measured_transfer_tends_to_the_prediction(kind, update):
    lm = make(kind, dtype=torch.float64)
    ratios = []
    for lr in (1e-3, 1e-5):
        f = FTGD(update=update, optimizer="sgd", steps=1, lr=lr, keep=0.05)
        measured = space_from_rows(
            {t.name: transfer_row(lm, t, SUITE, f) for t in SUITE}, bootstrap=0
        ).matrix.to_numpy()
        predicted = predicted_transfer(lm, SUITE, f, evaluation=SUITE).matrix.to_numpy()
        if update == "differential":
            assert np.allclose(predicted, predicted_transfer(lm, SUITE, f).matrix, rtol=1e-4)
        ratios.append(np.abs(measured - predicted).max() / np.abs(predicted).max())
    # Relative to the largest cell. Promised is 1 per cent; a hundredth of the step brings a hundredth of the error.
    assert ratios[1] < 1e-2 and ratios[1] < ratios[0] / 50  # worst seen at lr 1e-5: 6e-4
    assert (np.abs(np.diag(measured / predicted) - 1) < 1e-2).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("update", ["differential", "full"])
def test_the_prediction_is_for_the_settings_given(optimizer, update):
    lm, f = make("llama", dtype=torch.float64), FTGD(update=update, optimizer=optimizer, steps=3, lr=1e-6, keep=0.05)
    measured = space_from_rows({t.name: transfer_row(lm, t, SUITE, f) for t in SUITE}, bootstrap=0).matrix
    assert np.abs(np.diag(measured / predicted_transfer(lm, SUITE, f).matrix) - 1).max() < 1e-2  # worst seen: 4e-4


def test_prediction_puts_targets_in_the_order_of_the_suite():
    lm, f = bigram(), replace(ONE_STEP, lr=1e-3)
    turned = predicted_transfer(lm, ORACLE, f, evaluation=ORACLE.select(ORACLE.names[::-1]))
    assert np.allclose(turned.matrix, predicted_transfer(lm, ORACLE, f).matrix, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_predictions_for_other_pairs_hold_the_subspaces_alone(optimizer, monkeypatch):
    lm, f, held_out = bigram(), replace(ONE_STEP, lr=1e-3, optimizer=optimizer), ORACLE.take(3)
    tuned = predicted_transfer(lm, ORACLE, f, held_out, deltas={t.name: tune(lm, t, f) for t in ORACLE}).matrix
    for memory in (2 << 30, 1):  # with 1 byte they lie in a file
        found = predicted_transfer(lm, ORACLE, f, held_out, memory=memory).matrix
        assert np.allclose(found, tuned, rtol=1e-4, atol=1e-8)
    monkeypatch.setattr("taskspace.probing.gradient._CACHED", 2)  # many pieces of each tensor
    assert np.allclose(predicted_transfer(lm, ORACLE, f, held_out).matrix, tuned, rtol=1e-4, atol=1e-8)


def test_prediction_from_tuned_deltas():
    lm = make("llama", dtype=torch.float64)
    f = FTGD(lr=1e-6, steps=3, keep=0.05)
    deltas = {t.name: tune(lm, t, f) for t in SUITE}
    measured = space_from_rows({t.name: transfer_row(lm, t, SUITE, f) for t in SUITE}, bootstrap=0)
    predicted = predicted_transfer(lm, SUITE, deltas=deltas)
    assert np.abs(measured.matrix / predicted.matrix - 1).to_numpy().max() < 1e-2


# -- from rows to a space


def naive_space(rows, metric, normalise, names):
    "One cell at a time."
    value = {
        "margin": lambda m: m.mean(),
        "accuracy": lambda m: ((m > 0) + 0.5 * (m == 0)).mean(),
        "log_odds": lambda m: np.log(
            (((m > 0) + 0.5 * (m == 0)).sum() + 0.5) / (len(m) - ((m > 0) + 0.5 * (m == 0)).sum() + 0.5)
        ),
    }[metric]
    out = pd.DataFrame(np.nan, names, names)
    for i in names:
        for j in names:
            found = []
            for (source, _), r in rows.items():
                if source != i:
                    continue
                cell = r[r.task == j]
                before, later = value(cell.before), value(cell.after)
                found.append((later - before) / (1 - before) if normalise == "headroom" else later - before)
            out.loc[i, j] = np.mean(found) if found else np.nan
    if normalise == "gain":
        out = out.div(np.diag(out), axis=0)
    return out.where(np.isfinite(out))


def random_rows(rng, names, seeds=2, pairs=5, missing=()):
    rows = {}
    for s in range(seeds):
        frame = pd.DataFrame([(t, str(i)) for t in names for i in range(pairs)], columns=["task", "pair"])
        before = rng.integers(-2, 3, len(frame)).astype(float)
        for source in names:
            if (source, s) in missing:
                continue
            rows[source, s] = frame.assign(before=before, after=before + rng.integers(-2, 4, len(frame)))
    return rows


@pytest.mark.parametrize(
    "metric, normalise",
    [(m, n) for m in METRICS for n in (None, "headroom", "gain") if n != "headroom" or m == "accuracy"],
)
def test_spaces_equal_a_naive_loop(metric, normalise):
    names = list("abc")
    rows = random_rows(np.random.default_rng(0), names, missing={("b", 1)})
    space = space_from_rows(rows, metric, normalise)
    expected = naive_space(rows, metric, normalise, names)
    assert np.allclose(space.matrix, expected, equal_nan=True, rtol=1e-12)
    assert space.replicates.shape == (200, 3, 3) and space.halves.shape == (20, 2, 3, 3)


def test_missing_sources_are_empty_rows():
    rows = {k: v for k, v in random_rows(np.random.default_rng(0), list("abc")).items() if k[0] != "b"}
    space = space_from_rows(rows)
    assert space.matrix.loc["b"].isna().all() and space.matrix.loc[["a", "c"]].notna().all().all()
    assert space.complete().tasks == ["a", "c"]


def test_bootstrap_resamples_pairs_together():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(t, str(i)) for t in "ab" for i in range(40)], columns=["task", "pair"])
    change = rng.normal(size=len(frame))
    rows = {"a": frame.assign(before=0.0, after=change), "b": frame.assign(before=0.0, after=change + 1)}
    space = space_from_rows(rows, bootstrap=2000)
    assert np.allclose(space.replicates[:, 1] - space.replicates[:, 0], 1)  # the same draw of pairs for all sources
    own = change[:40]
    assert abs(space.replicates[:, 0, 0].std() / (own.std() / np.sqrt(40)) - 1) < 0.1  # the standard error of a mean
    assert (space.low <= space.matrix).all().all() and (space.matrix <= space.high).all().all()
    assert np.allclose(space.halves.mean(1)[:, 0, 0], own.mean())  # halves of even size add up to the whole
    assert abs(np.diff(space.halves[:, :, 0, 0], axis=1).std() / (2 * own.std() / np.sqrt(40)) - 1) < 0.5


def test_seeds_widen_the_interval():
    frame = pd.DataFrame([("a", str(i)) for i in range(10)], columns=["task", "pair"])
    rows = {("a", s): frame.assign(before=0.0, after=float(s)) for s in range(4)}
    space = space_from_rows(rows)
    assert space.matrix.iloc[0, 0] == 1.5 and space.low.iloc[0, 0] < 1 and space.high.iloc[0, 0] > 2


def noisy_rows(rng, seeds, pool, held_out, seed_noise, pair_noise):
    "Rows of five tasks without any transfer: noise of pairs, which seeds may share, and of seeds."
    names, by_pair = [f"t{i}" for i in range(5)], rng.normal(size=(5, 5, pool)) * pair_noise
    rows = {}
    for k in range(seeds):
        own = [np.sort(rng.permutation(pool)[:held_out]) for _ in names]
        for i, source in enumerate(names):
            parts = [
                pd.DataFrame(
                    {
                        "task": t,
                        "pair": own[j].astype(str),
                        "before": 0.0,
                        "after": by_pair[i, j, own[j]] + seed_noise * rng.normal(),
                    }
                )
                for j, t in enumerate(names)
            ]
            rows[source, k] = pd.concat(parts, ignore_index=True)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("seeds, seed_noise", at_length([(2, 1), (1, 0), (6, 0), (3, 1)]))
def test_intervals_hold_the_truth_with_shared_pairs_and_few_seeds(seeds, seed_noise):
    rng, inside = np.random.default_rng(seeds), []
    for _ in range(24):
        space = space_from_rows(noisy_rows(rng, seeds, 60, 30, seed_noise, 1), splits=0)
        inside.append(((space.low <= 0) & (space.high >= 0)).to_numpy().mean())
    # Seen: 0.938, 0.938, 0.948 and 0.955; 0.848 and 0.923 for the last two with seeds drawn with replacement
    assert 0.91 < np.mean(inside) < 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seeds", at_length([2, 3, 5]))
def test_what_is_computed_from_few_seeds_does_not_find_what_is_not_there(seeds):
    rng, off = np.random.default_rng(seeds), ~np.eye(5, dtype=bool)

    def excludes(low, high):
        return ((low > 0) | (high < 0)).to_numpy()

    found = {"p": [], "symmetric": [], "difference": [], "balance": []}
    for _ in range(40):
        space, other = (space_from_rows(noisy_rows(rng, seeds, 24, 24, 1, 1), splits=0) for _ in range(2))
        both, apart, balance = space.symmetric(), space - other, space.asymmetry()
        found["p"].append(
            (cell_tests(space.matrix.to_numpy(), space.replicates, 24, space.seed_deviations)[0][off] < 0.05).mean()
        )
        found["symmetric"].append(excludes(both.low, both.high)[off].mean())
        found["difference"].append(excludes(apart.low, apart.high)[off].mean())
        found["balance"].append((balance.p < 0.05).mean())
    means = {k: float(np.mean(v)) for k, v in found.items()}
    # Worst seen: 0.060; 0.25, 0.16 and 0.09 for 2, 3 and 5 seeds with the degrees of freedom of the pairs
    assert all(v < 0.08 for v in means.values()), means


def test_seeds_pull_as_much_as_their_mean_varies():
    frame = pd.DataFrame([("a", str(i)) for i in range(10)], columns=["task", "pair"])
    space = space_from_rows({("a", s): frame.assign(before=0.0, after=float(s)) for s in range(4)}, bootstrap=2000)
    error = np.arange(4).std(ddof=1) / 2
    assert np.sqrt(((space.seed_deviations - 1.5) ** 2).sum()) == pytest.approx(error)
    assert space.replicates.std() == pytest.approx(error, rel=0.05)  # seen: 0.0065
    assert space_from_rows({"a": frame.assign(before=0.0, after=1.0)}).seed_deviations is None


def test_a_draw_without_headroom_is_passed_over():
    frame = pd.DataFrame([(t, str(i)) for t in "ab" for i in range(6)], columns=["task", "pair"])
    # One of six pairs is wrong before: a third of the draws miss it, and have no headroom.
    rows = {
        (s, k): frame.assign(
            before=np.where(frame.pair == "0", -1.0, 1.0), after=np.where((frame.pair == "1") & (k == 1), -1.0, 1.0)
        )
        for s in "ab"
        for k in range(2)
    }
    space = space_from_rows(rows, "accuracy", "headroom")
    assert np.isnan(space.replicates).any(0).all() and np.isfinite(space.replicates).mean() > 0.5
    assert (
        space.low.notna().all(axis=None)
        and space.high.notna().all(axis=None)
        and np.isfinite(space.seed_deviations).all()
    )


@pytest.mark.slow
def test_halves_of_seeds_that_share_pairs_have_no_noise_in_common():
    rng = np.random.default_rng(0)
    agreement = [
        space_from_rows(noisy_rows(rng, 5, 40, 20, 0, 1), bootstrap=0, splits=8).noise_ceiling("pearson")["agreement"]
        for _ in range(30)
    ]
    assert abs(np.mean(agreement)) < 0.15  # seen: -0.02; 0.41 where a shared pair stands in both halves


def test_a_source_without_one_of_the_seeds_keeps_its_evidence():
    rows = noisy_rows(np.random.default_rng(0), 2, 30, 30, 0.1, 1)
    del rows["t4", 1]
    space = space_from_rows(rows)
    assert np.isfinite(space.replicates).all() and space.significant().loc["t4"].drop("t4").notna().all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(2, 6))
def test_order_of_rows_changes_nothing(seed, seeds, pairs):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, list("abc"), seeds, pairs)
    turned = dict(sorted(rows.items(), key=lambda kv: (kv[0][1], rng.random())))
    a, b = space_from_rows(rows, bootstrap=20), space_from_rows(turned, bootstrap=20)
    assert a.matrix.equals(b.matrix) and np.array_equal(a.replicates, b.replicates, equal_nan=True)


def test_rows_that_do_not_fit_are_refused():
    rows = random_rows(np.random.default_rng(0), list("ab"), seeds=1)
    other = {**rows, ("b", 0): rows["b", 0].assign(pair="x")}
    for call, message in (
        (lambda: space_from_rows({}), "no rows"),
        (lambda: space_from_rows(rows, "speed"), "metric must be one of"),
        (lambda: space_from_rows(rows, "margin", "headroom"), "headroom"),
        (lambda: space_from_rows(rows, normalise="rank"), "normalise"),
        (lambda: space_from_rows(other), "evaluation pairs differ"),
        (lambda: space_from_rows({("z", 0): rows["a", 0]}), "source 'z'"),
    ):
        with pytest.raises(TaskspaceError, match=message):
            call()


# -- the transfer probe


def test_transfer_probe_takes_the_seed_of_its_settings():
    lm, f = make("gpt2"), FTGD(update="random", keep=0.05, lr=0.01, steps=2)
    one, other, same = (
        transfer_probe(lm, SUITE, replace(f, seed=a), 4, 4, seeds=b, bootstrap=0)
        for a, b in ((5, None), (0, None), (0, [5]))
    )
    assert one.matrix.equals(same.matrix) and not one.matrix.equals(other.matrix) and one.meta["seeds"] == [5]
    with pytest.raises(TaskspaceError, match="metric"):
        transfer_probe(lm, SUITE, f, metric="f1")


def test_random_subspaces_of_two_tasks_differ():
    lm, f = make("gpt2"), FTGD(update="random", keep=0.05, steps=1)
    a, b = (tune(lm, t, f).delta for t in list(SUITE)[:2])
    assert any(n not in b or not torch.equal(a[n][0], b[n][0]) for n in a)


@pytest.mark.slow
def test_transfer_probe_repeats_and_leaves_the_model_alone():
    lm = make("gpt2")
    digest = lm.digest()
    f = FTGD(steps=3, lr=0.01)
    a, b = (transfer_probe(lm, SUITE, f, train_pairs=5, eval_pairs=6, seeds=2, bootstrap=30) for _ in range(2))
    assert lm.digest() == digest
    assert a.matrix.equals(b.matrix) and np.array_equal(a.replicates, b.replicates)
    assert not a.matrix.equals(transfer_probe(lm, SUITE, f, train_pairs=5, eval_pairs=6, seeds=[5, 6]).matrix)
    assert (np.diag(a.matrix) > 0).all() and a.groups["cats"] == "number" and a.meta["ftgd"]["steps"] == 3


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_sources_side_by_side_give_the_rows_of_one_after_the_other(kind, three_threads, monkeypatch):
    lm, f = make(kind), FTGD(steps=3, lr=0.01)
    digest, names = lm.digest(), set()
    real = transfer.transfer_row

    def watched(twin, *rest):
        names.add(threading.current_thread().name)
        return real(twin, *rest)

    monkeypatch.setattr(transfer, "transfer_row", watched)
    several = transfer_probe(lm, SUITE, f, 5, 6, seeds=2, bootstrap=0)
    threads, after = len(names), torch.get_num_threads()
    monkeypatch.setattr(transfer, "COPIES", 0)
    one = transfer_probe(lm, SUITE, f, 5, 6, seeds=2, bootstrap=0)
    assert threads >= 3 and after == 3 and lm.digest() == digest
    assert list(several.matrix) == list(one.matrix)
    assert np.abs(several.matrix - one.matrix).max(axis=None) < 1e-5  # the same bits here


def test_a_source_that_fails_side_by_side_leaves_everything_as_it_was(three_threads):
    lm = make("gpt2")
    digest = lm.digest()
    with pytest.raises(TaskspaceError, match="is not finite"):
        transfer_probe(lm, SUITE, FTGD(steps=3, lr=1e38, optimizer="sgd", keep=1.0), 5, 6)
    assert torch.get_num_threads() == 3 and lm.digest() == digest


@pytest.mark.slow
def test_shuffled_pairs_teach_less():
    lm = make("gpt2")
    f = FTGD(steps=5, lr=0.01, optimizer="sgd", keep=0.1)
    true, null = (
        np.diag(transfer_probe(lm, SUITE, f, train_pairs=8, eval_pairs=4, shuffled=s, seeds=4, bootstrap=0).matrix)
        for s in (False, True)
    )
    assert (true > 0).all() and np.abs(null).mean() < true.mean() / 3, (true, null)


def test_before_may_be_given_and_must_fit():
    lm = make("gpt2")
    row = transfer_row(lm, SUITE["cats"], SUITE, FTGD(steps=1))
    assert row.equals(transfer_row(lm, SUITE["cats"], SUITE, FTGD(steps=1), before=row.before))
    assert len(row) == SUITE.n_pairs and isinstance(row.attrs["log"], list)
    with pytest.raises(TaskspaceError, match="3 margins, the evaluation suite 70 pairs; give one margin a pair"):
        transfer_row(lm, SUITE["cats"], SUITE, FTGD(steps=1), before=[0, 0, 0])


def test_more_pairs_than_there_are():
    with pytest.raises(TaskspaceError, match="has 15 pairs; 10 to train and 6 to evaluate need 16"):
        transfer_probe(make("gpt2"), SUITE, train_pairs=10, eval_pairs=6)
    with pytest.raises(TaskspaceError, match="seeds"):
        transfer_probe(make("gpt2"), SUITE, seeds=[])
    assert split_sizes(SUITE, None, None) == (7, 8)
    assert split_sizes(SUITE, 4, None) == (4, 11) and split_sizes(SUITE, None, 4) == (11, 4)


# -- the gradient probe


def naive_measures(lm, f):
    flat, sets = [], []
    for t in SUITE:
        d = gradient_differential(lm, t)
        flat.append(torch.cat([g.flatten() for g in d.values()]).double().numpy())
        starts = dict(zip(d, np.cumsum([0, *[g.numel() for g in d.values()]]), strict=False))
        chosen = subspace(lm, d, f.keep, f.scope)
        sets.append({int(i) + starts[n] for n, index in chosen.items() for i in index})
    out = {
        m: np.full((len(SUITE),) * 2, np.nan) for m in ("cosine", "overlap", "alignment", "sign_agreement", "predicted")
    }
    for i in range(len(SUITE)):
        for j in range(len(SUITE)):
            a, b, both = flat[i], flat[j], sorted(sets[i] & sets[j])
            out["cosine"][i, j] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            out["overlap"][i, j] = len(both) / len(sets[i] | sets[j])
            own = sorted(sets[i])
            out["predicted"][i, j] = a[own] @ b[own]
            if both:
                out["alignment"][i, j] = a[both] @ b[both] / np.linalg.norm(a[both]) / np.linalg.norm(b[both])
                out["sign_agreement"][i, j] = (np.sign(a[both]) == np.sign(b[both])).mean()
    return out, flat


@pytest.mark.parametrize(
    "kind, scope, blocks, piece",
    [
        ("gpt2", "global", 1, 1 << 18),
        ("gpt2", "global", 1, 7),
        ("lstm", "tensor", 3, 100),
        ("llama", "layer", 2, 1 << 18),
    ],
)
def test_gradient_probe_equals_a_naive_loop(kind, scope, blocks, piece, monkeypatch):
    monkeypatch.setattr("taskspace.probing.differentials._PIECE", piece)
    lm, f = make(kind), FTGD(keep=0.05, scope=scope)
    digest = lm.digest()
    spaces, (expected, flat) = gradient_probe(lm, SUITE, f, blocks=blocks), naive_measures(make(kind), f)
    for m in ("cosine", "overlap", "alignment", "sign_agreement"):
        # float32 sums; worst seen: 3e-6
        assert np.allclose(spaces[m].matrix, expected[m], atol=2e-5, equal_nan=True), m
    assert np.allclose(
        predicted_transfer(lm, SUITE, replace(f, lr=1.0, optimizer="sgd", steps=1)).matrix,
        expected["predicted"],
        rtol=1e-4,
        atol=1e-5,
    )
    assert lm.digest() == digest and spaces.meta["fold_error"] == 0 and spaces.meta["fold_width"] is None
    share = [(x**2).sum() ** 2 / (x**4).sum() / len(x) for x in flat]
    assert np.allclose(spaces.distribution.effective_share, share, rtol=1e-4)
    if blocks > 1:
        assert spaces.cosine.replicates.shape == (200, 4, 4)
        assert (np.diagonal(spaces.cosine.replicates, axis1=1, axis2=2).round(9) == 1).all()


def test_parts_of_the_model_add_up():
    lm = make("gpt2")
    d = collect_differentials(lm, SUITE, FTGD(keep=0.05), tokens=4096)
    for by in ("layer", "component"):
        parts = d.groups(by)
        assert sorted(n for names in parts.values() for n in names) == sorted(d.sizes)
        assert np.allclose(sum(d.gram(names) for names in parts.values()), d.gram(list(d.sizes)))
        assert np.array_equal(
            sum(d.shared(names)["count"] for names in parts.values()), d.shared(list(d.sizes))["count"]
        )
    spaces = gradient_probe(lm, SUITE, FTGD(keep=0.05))
    assert set(spaces.by_component["cosine"]) == {"attention", "mlp", "embedding", "norm"} and {"0", "1"} <= set(
        spaces.by_layer["overlap"]
    )
    shares = spaces.distribution[["attention", "mlp", "embedding", "norm"]].sum(axis=1)
    assert np.allclose(shares, 1) and spaces.distribution.layer_spread.between(0, 1).all()


def test_cosine_intervals_hold_the_measured_and_the_expected_cosine():
    from taskspace.probing.differentials import block_products
    from taskspace.probing.gradient import _block_counts, _cosine_draws, _cosines, _pulls
    from taskspace.spaces.resampling import interval

    rng, width, blocks, truth, found = np.random.default_rng(0), 2000, 5, 0.6, []
    task = np.zeros((2, width))
    task[0, 0], task[1, :2] = 1, (truth, np.sqrt(1 - truth**2))
    for k in range(100):
        x = (task[:, None] + rng.normal(size=(2, blocks, width)) / np.sqrt(width)).reshape(2 * blocks, width)
        products = block_products(torch.from_numpy(x), blocks)
        measured = _cosines(products.of_tasks)
        draws = _cosine_draws(measured, _pulls(products), _block_counts(2, blocks, 200, seed=k), slice(2))
        low, high = interval(draws, measured, pairs=blocks)
        found.append([a[0, 1] for a in (measured, low, high)])
    measured, low, high = np.transpose(found)
    assert (low < measured).all() and (measured < high).all()  # plain resampling of blocks leaves the cosine out
    assert ((low <= measured.mean()) & (high >= measured.mean())).mean() > 0.9  # seen: 0.97
    assert (high - low).mean() < 8 * measured.std()  # seen: 5.7


def test_places_without_a_gradient_are_not_shared():
    probe = gradient_probe(bigram(), ORACLE, FTGD(keep=0.5))
    assert probe.overlap.matrix.loc["cat", "dog"] == 0 and probe.overlap.matrix.loc["cat", "cat"] == 1
    assert (np.diag(probe.sign_agreement.matrix) == 1).all()


def test_chance_follows_the_scope():
    lm = make("gpt2")
    f = FTGD(keep=0.002, scope="tensor")  # small tensors keep one place each, which two tasks often have in common
    weights = dict(lm.model.named_parameters())
    sets = [
        {(n, int(i)) for n, index in subspace(lm, weights, 0.002, "tensor", random=s).items() for i in index}
        for s in range(400)
    ]
    simulated = np.mean([len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
    chance = gradient_probe(lm, SUITE, f)["chance"].matrix.to_numpy()
    # 0.0147 and 0.0148, standard error 0.0011; a subspace drawn from the whole model gives 0.0024
    assert abs(chance[0, 1] - simulated) < 0.004
    assert gradient_probe(lm, SUITE, f, blocks=2).meta["prefix_id"] is not None
    with pytest.raises(TaskspaceError, match="blocks must be from 1 to"):
        gradient_probe(lm, SUITE, f, blocks=99)


def test_every_probe_follows_the_convention_and_records_it():
    lm, f = make("gpt2"), FTGD(steps=1)
    parts = SUITE.split(4, 4, 0)

    def spaces(convention):
        return {
            "gradient": gradient_probe(lm, SUITE, f, convention=convention).cosine,
            "predicted": predicted_transfer(lm, SUITE, f, convention=convention),
            "transfer": transfer_probe(lm, SUITE, f, 4, 4, bootstrap=0, convention=convention),
        }

    own = Convention("own", prefix=5, reduction="mean")
    found, usual = spaces(own), spaces("blimp")
    same = spaces(convention_of(own, reduction="sum"))
    row = transfer_row(lm, parts.train["cats"], parts.eval, f, convention=own)
    record = convention_record(lm, convention_of(own, reduction="sum"))
    assert record["prefix_id"] == 5 and record["convention"]["name"] == "own"
    for recorded in (row.attrs, *(s.meta for s in found.values())):
        assert {k: recorded[k] for k in record} == record
    for name in found:  # a mean of scores leaves tuning and gradients as they are; another prefix does not
        assert found[name].matrix.equals(same[name].matrix) and not np.allclose(found[name].matrix, usual[name].matrix)


def test_chance_overlap_is_what_random_subspaces_share():
    lm = make("gpt2")
    weights = dict(lm.model.named_parameters())
    sets = []
    for s in range(30):
        chosen = subspace(lm, weights, 0.1, random=s)
        sets.append({(n, int(i)) for n, index in chosen.items() for i in index})
    seen = np.mean([len(a & b) / len(a | b) for k, a in enumerate(sets) for b in sets[:k]])
    chance = gradient_probe(lm, SUITE, FTGD(keep=0.1)).chance.matrix.iloc[0, 1]
    assert abs(seen / chance - 1) < 0.02  # worst seen: 1.6e-3


@pytest.mark.slow
def test_folding_is_unbiased_within_its_stated_error():
    lm = make("gpt2")
    exact = gradient_probe(lm, SUITE).cosine.matrix
    stated = gradient_probe(lm, SUITE, width=67).meta["fold_error"]
    folded = [collect_differentials(lm, SUITE, width=67, seed=s, tokens=4096) for s in range(25)]
    grams = [d.gram(list(d.sizes)) for d in folded]
    errors = np.stack([g / np.sqrt(np.outer(np.diag(g), np.diag(g))) - exact for g in grams])[:, ~np.eye(4, dtype=bool)]
    assert stated > 0 and {d.error() for d in folded} == {stated}
    assert np.sqrt((errors**2).mean(0)).max() < 1.3 * stated
    assert np.abs(errors.mean(0)).max() < 4 * stated / np.sqrt(25)


def test_folding_keeps_to_the_memory_allowed():
    sizes = [10, 5000, 90_000]
    assert fold_width(sizes, 4, 10**9) is None
    for memory in (10_000, 100_000, 1_000_000):
        width = fold_width(sizes, 4, memory)
        assert 0.9 * memory < 16 * sum(min(s, width) for s in sizes) <= memory
        assert all(width % k for k in range(2, int(width**0.5) + 1))
    fold = Fold({"a": 100, "b": 7}, 7)
    x, y = torch.randn(2, 100)
    assert torch.allclose(fold("a", x + 2 * y), fold("a", x) + 2 * fold("a", y), atol=1e-5)
    assert torch.equal(fold("b", x[:7]), x[:7]) and len(fold("a", x)) == 7


def test_a_file_holds_the_subspaces_that_memory_does_not():
    lm = make("gpt2")
    inside = collect_differentials(lm, SUITE, FTGD(keep=0.1), width=None, tokens=4096)
    outside = collect_differentials(lm, SUITE, FTGD(keep=0.1), memory=1000, width=None, tokens=4096)
    assert inside.subspaces.file is None and outside.subspaces.file is not None
    for name in inside.sizes:
        assert np.array_equal(inside.subspaces.counts(name), outside.subspaces.counts(name))
        for task in range(len(SUITE)):
            here, there = inside.subspaces.places(task, name), outside.subspaces.places(task, name)
            assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
    assert np.array_equal(step_products(inside), step_products(outside))
    for measure, here in inside.shared(list(inside.sizes)).items():
        assert np.array_equal(here, outside.shared(list(inside.sizes))[measure])


def test_memory_bounds_rows_and_subspaces_together():
    lm = make("gpt2")
    for memory in (20_000, 50_000, 100_000):
        d = collect_differentials(lm, SUITE, FTGD(keep=0.1), memory=memory, tokens=4096)
        held = sum(4 * rows.numel() for rows in d.rows.values())
        kept = 0 if d.subspaces.file else d.subspaces.values.nbytes + d.subspaces.indices.nbytes
        assert held + kept <= memory and d.fold.signs


def test_a_disk_without_room_for_the_subspaces_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(TaskspaceError, match=r"no room for .* GB \(No space left on device\); set TMPDIR"):
        collect_differentials(make("gpt2"), SUITE, memory=1000)


def test_sums_over_groups_are_those_of_their_parameters():
    d = collect_differentials(make("gpt2"), SUITE, FTGD(keep=0.05), blocks=2, tokens=4096)
    groups = {"all": list(d.sizes), **d.groups("layer"), **d.groups("component")}
    found = {g: (products, shared) for g, products, shared in group_sums(d, groups)}
    assert set(found) == set(groups)
    for g, names in groups.items():
        gram = d.gram(names).reshape(4, 2, 4, 2)
        assert np.allclose(found[g][0].with_tasks, gram.sum(3), rtol=1e-9, atol=1e-12)
        assert np.allclose(found[g][0].within, gram[range(4), :, range(4)], rtol=1e-9, atol=1e-12)
        assert all(np.array_equal(found[g][1][k], m) for k, m in d.shared(names).items())


def test_what_a_probe_of_many_tasks_needs_is_said_before_the_first_gradient(monkeypatch):
    from taskspace.probing import gradient

    lm = make("gpt2")
    monkeypatch.setattr(gradient, "collect_differentials", None)  # would be called for the first gradient
    many = Suite("many", [Task(f"t{k}", SUITE.tasks[0].pairs) for k in range(3000)])
    with pytest.raises(
        TaskspaceError, match=r"3,000 tasks need [\d.]+ GB, and 4.3 GB are allowed; take fewer tasks, or"
    ):
        gradient_probe(lm, many)
    with pytest.raises(TaskspaceError, match="take blocks=1, which gives no intervals, fewer tasks, or memory="):
        gradient_probe(lm, many, blocks=2)


def test_parts_keep_bounds_where_draws_do_not_fit(monkeypatch):
    from taskspace.probing import gradient

    lm = make("gpt2")
    whole = gradient_probe(lm, SUITE, blocks=2)
    monkeypatch.setattr(gradient, "_keep_all_draws", lambda *_: False)
    part = gradient_probe(lm, SUITE, blocks=2)
    assert np.array_equal(part.cosine.replicates, whole.cosine.replicates)
    for g, space in part.by_layer["cosine"].items():
        assert space.replicates is None and space.low.equals(whole.by_layer["cosine"][g].low)


@pytest.mark.slow
def test_the_matrices_of_many_tasks_take_what_is_said(monkeypatch):
    import tracemalloc

    from taskspace.probing import gradient

    monkeypatch.setattr(gradient, "_SLAB", 1 << 14)
    lm = make("gpt2")
    many = Suite("many", [Task(f"t{k}", SUITE.tasks[k % 4].pairs[k % 3 :][:5], f"p{k % 7}") for k in range(100)])
    d = collect_differentials(lm, many, FTGD(keep=0.002), blocks=5, tokens=4096)
    layers, components = (d.table[by].nunique() for by in ("layer", "component"))
    gradient.interval(np.zeros((2, 3)), np.zeros(3), pairs=2)  # what it imports is not counted
    tracemalloc.start()
    spaces = gradient._all_spaces(d, {}, 200, 0, keep_all=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = gradient._matrix_bytes(100, 5, 200, layers, components, False)
    assert spaces["", ""]["cosine"].replicates.nbytes < peak < said  # seen: 0.85 of it
    # With the products of all blocks with all others it would be 6 GB
    assert gradient._matrix_bytes(1000, 5, 200, 3, 4, False) < 3e9


MEMORY = """
import resource, torch
from transformers import GPT2Config, GPT2LMHeadModel
from taskspace.models.lm import LM
from taskspace.probing.gradient import gradient_probe
from taskspace.tasks.pairs import MinimalPair, Suite, Task

class Words:
    bos = eos = pad = 0
    def encode(self, text, add_special_tokens=False):
        return [int(w) for w in text.split()]

config = GPT2Config(n_layer=1, n_head=2, n_embd=64, vocab_size=2048, n_positions=8, bos_token_id=0, eos_token_id=0)
lm = LM(GPT2LMHeadModel(config), Words(), name="toy")
tasks = [Task(f"t{k}", [MinimalPair(f"{k} {k + 1} 5", f"{k} {k + 2} 5")], f"g{k % 20}") for k in range(1000)]
spaces = gradient_probe(lm, Suite("many", tasks), memory=64 << 20)
assert spaces.cosine.matrix.shape == (1000, 1000) and spaces.meta["fold_width"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_a_thousand_tasks_stay_under_the_memory_of_a_laptop():
    "Measured: 2.1 GB, of which torch and the model are 0.5."
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 4_000_000


def test_probes_refuse_what_has_no_gradient():
    lm = make("gpt2")
    same = Suite("s", [SUITE["cats"], Task("same", [MinimalPair("the cat sees me", "the cat sees me")])])
    with pytest.raises(TaskspaceError, match="task 'same'"):
        gradient_probe(lm, same)
    for p in lm.model.parameters():
        p.requires_grad_(False)
    with pytest.raises(TaskspaceError, match="no trainable"):
        gradient_probe(lm, SUITE)


def test_the_gradient_probe_records_its_parameters():
    lm, suite = toy_lm(), toy_suite()
    assert gradient_probe(lm, suite).meta["parameters"] == "all"
    assert gradient_probe(lm, suite, FTGD(parameters="*mlp*")).meta["parameters"] == "*mlp*"
