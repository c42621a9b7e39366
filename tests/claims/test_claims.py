"""Claims: data can give every verdict, missing data decide nothing, and chance is rarely taken for support."""

import numpy as np
import pandas as pd
import pytest

from taskspace.claims import verdicts as module
from taskspace.claims.judging import claims, findings, models_table, passing_tasks
from taskspace.claims.verdicts import (
    claim_a,
    claim_b,
    claim_c,
    claim_d,
    claim_e,
    CLAIMS,
    judge,
    paired,
    verdict_of_parts,
    VERDICTS,
)
from taskspace.errors import TaskspaceError
from taskspace.spaces.resampling import resample_means
from taskspace.spaces.sharing import sharing_table
from taskspace.spaces.space import TaskSpace
from taskspace.spaces.statistics import cost_at, over_seeds


def measured(truth, seed, noise=1.0, pairs=25, groups=None):
    rng = np.random.default_rng(seed)
    n = len(truth)
    names, target = [f"task {i}" for i in range(n)], np.repeat(np.arange(n), pairs)
    values = truth[:, target] + noise * rng.normal(size=(n, n * pairs))
    frame = pd.DataFrame(np.stack([values[:, target == j].mean(1) for j in range(n)], 1), names, names)
    return TaskSpace(
        frame,
        "margin transfer",
        groups,
        replicates=resample_means(values, target, 100, seed=seed),
        meta={"pairs": pairs},
    )


def frame(a):
    names = [f"task {i}" for i in range(len(a))]
    return pd.DataFrame(a, names, names)


N = 16
LABELS = np.arange(N) % 4
SAME = (LABELS[:, None] == LABELS).astype(float)
GROUPS = {f"task {i}": f"group {g}" for i, g in enumerate(LABELS)}


def world(structure, vocabulary, seed, bare=False):
    rng = np.random.default_rng(seed)
    traits = rng.normal(size=(N, 2))
    shared = np.exp(-np.linalg.norm(traits[:, None] - traits, axis=-1))
    truth = structure * SAME + vocabulary * shared + 0.4 * rng.normal(size=(N, N))
    space = measured(truth, seed, groups=GROUPS)
    if bare:
        space = TaskSpace(space.matrix, space.kind, GROUPS)
    return (
        space,
        TaskSpace(frame(SAME), "hypothesis: phenomenon", GROUPS),
        TaskSpace(frame(shared), "hypothesis: lexicon"),
    )


def curves(reaches, saves, seed=0, tasks=10, noise=0.03, right=None):
    "Paths of both methods; `right` is the share of the gain in accuracy that FTGD reaches, as in margin by default."
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {
                "task": f"t{t}",
                "method": m,
                "gain": 3 * g * (1 - 0.5**k) + noise * rng.normal(),
                "gain_accuracy": 0.3 * (right if right and m == "ftgd" else g) * (1 - 0.5**k)
                + 0.1 * noise * rng.normal(),
                "harm": h * k + noise * rng.normal(),
            }
            for t in range(tasks)
            for m, g, h in (("ftgd", reaches, 0.1 * saves), ("full", 1.0, 0.1))
            for k in range(1, 8)
        ]
    )


def test_a_can_be_won_and_lost_in_both_parts():
    assert claim_a(curves(0.95, 0.3)).verdict == "supported"
    assert claim_a(curves(0.5, 0.3)).verdict == "not supported"  # learns too little
    assert claim_a(curves(0.95, 3.0)).verdict == "not supported"  # harms more
    assert claim_a(curves(0.95, 1.0, noise=0.3)).verdict == "undecided"
    assert claim_a(curves(0.75, 0.3), at_least=0.7).verdict == "supported"


def test_a_is_not_won_by_margins_alone():
    "FTGD optimises margins itself, so a claim about learning needs the accuracy too."
    assert claim_a(curves(0.95, 0.3, right=0.4)).verdict == "not supported"
    assert claim_a(curves(0.5, 0.3, right=0.95)).verdict == "not supported"
    blind = claim_a(curves(0.95, 0.3).drop(columns="gain_accuracy"))
    assert blind.verdict == "undecided" and "In accuracy: not measured" in blind.why
    assert claim_a(curves(0.5, 0.3).drop(columns="gain_accuracy")).verdict == "not supported"


def test_a_says_on_how_many_tasks_harm_is_compared():
    gained = curves(0.95, 0.3)
    gained.loc[gained.task == "t0", "gain_accuracy"] = -0.1
    margin, accuracy = claim_a(gained).why.split(" In accuracy: ")
    assert "which 9 of 10 tasks reach, full fine-tuning harms" in accuracy and "reach" not in margin
    assert "the gain of FTGD minus 80% of the other gain is +" in margin and "; at equal gain full" in margin


def test_a_tells_what_the_subspace_alone_does_and_does_not_judge_it():
    both_ways = curves(0.95, 0.3)
    own = curves(0.95, 0.3, seed=1).query("method == 'ftgd'")

    def beside(harm, right=1.0):
        "The differential on all parameters, with some of the harm and of the gain in accuracy that FTGD has."
        rival = own.assign(method="all", harm=own.harm * harm, gain_accuracy=own.gain_accuracy * right)
        return claim_a(pd.concat([both_ways, rival]))

    alone = claim_a(both_ways)
    for harm, side in ((3.0, 1), (1.0, 0), (0.3, -1)):
        found = beside(harm)
        row = found.levels.loc["against all parameters, tasks"]
        assert np.sign(row["low"]) + np.sign(row["high"]) == 2 * side, found.why
        assert (found.verdict, found.estimate, found.low) == (alone.verdict, alone.estimate, alone.low)
        assert alone.why in found.why and "what the subspace alone does" in found.why and inside(found.levels)
    margin, accuracy = beside(1.0, right=3.0).details["all"]
    assert margin.verdicts[0] == "supported" and accuracy.verdicts[0] == "not supported"
    blind = claim_a(pd.concat([both_ways, own.assign(method="all", gain_accuracy=np.nan)]))
    assert blind.verdict == "supported" and blind.why.endswith("In accuracy: not measured; 10 tasks.")


def test_a_has_an_interval_for_each_level_and_gain():
    groups = {f"t{t}": f"g{t % 3}" for t in range(10)}
    found = claim_a(curves(0.95, 0.3), groups=groups)
    assert list(found.levels.index) == ["tasks", "groups", "in accuracy, tasks", "in accuracy, groups"]
    own = found.levels.loc["tasks"]  # the jackknife of a mean is Student's interval
    assert (own["low"], own["high"]) == pytest.approx((found.low, found.high), rel=1e-9)
    assert inside(found.levels)


def inside(table):
    "Whether no row has its estimate outside its interval."
    rows = table.dropna(subset=["low", "high"])
    return bool(((rows["low"] <= rows["estimate"]) & (rows["estimate"] <= rows["high"])).all())


def test_a_keeps_the_paths_of_different_models_apart():
    both_ = pd.concat([curves(0.95, s).assign(scale=name) for name, s in (("small", 0.3), ("large", 0.8))])
    apart = np.mean([claim_a(both_[both_["scale"] == name]).estimate for name in ("small", "large")])
    assert claim_a(both_).estimate == pytest.approx(apart, rel=1e-12)


def test_where_there_is_no_interval_the_reason_stands_there():
    judged = {}
    for seed, name in enumerate("ab"):  # of four tasks two reach an equal gain
        gained = curves(0.95, 0.3, seed, tasks=4)
        gained.loc[gained["task"].isin(["t0", "t1"]), "gain"] = -0.1
        judged[name] = claim_a(gained)
    together = module.over_models(judged)
    shares, overlap = spread(0.02, 0.02)
    few = claim_d(shares[shares["task"].isin(["task 0", "task 1"])], overlap)
    one = claim_e({step: space.select(space.tasks[:4]) for step, space in course(False).items()})
    said = [judged["a"].why, together.why, few.why, one.why]
    assert not any("nan" in why for why in said), said
    assert together.why.count("(too few tasks for an interval)") == 2


def test_a_compares_harm_at_equal_gain():
    assert cost_at([0.0, 1.0, 2.0], [0.0, 0.2, 0.6], 1.5) == pytest.approx(0.4)
    assert cost_at([0.0, 1.0], [0.0, 0.2], 0.5) == pytest.approx(0.1)
    assert np.isnan(cost_at([0.0, 1.0], [0.0, 0.2], 2.0))
    further = curves(0.95, 1.0, noise=0.0)
    late = further.groupby(["task", "method"]).cumcount() > 2
    further = further[~((further.method == "full") & late)]  # full stops early: less gain and less harm
    assert abs(claim_a(further).estimate) < 0.1


@pytest.mark.parametrize("bare", [False, True])
def test_b_can_be_won_and_lost(bare):
    assert claim_b(*world(1.0, 0.0, 0, bare)).verdict == "supported"
    assert claim_b(*world(0.0, 3.0, 0, bare)).verdict == "not supported"


@pytest.mark.soak
def test_b_does_not_take_chance_for_support():
    found = [claim_b(*world(0.0, 0.0, s)).verdict for s in range(60)]
    assert found.count("undecided") >= 50, found  # each side errs at most 5 times in 100


def scales(strengths, seed, bare=False, trainings=3):
    "Spaces of three sizes, each trained several times."
    return {
        f"scale {k}": [world(s, 0.0, 100 * seed + 10 * k + t, bare)[0] for t in range(trainings)]
        for k, s in enumerate(strengths)
    }


SIZES = {"scale 0": 1e5, "scale 1": 1e6, "scale 2": 1e7}


@pytest.mark.parametrize("bare", [False, True])
def test_c_can_be_won_and_lost(bare):
    assert claim_c(scales((0.1, 0.5, 1.0), 0, bare), SIZES).verdict == "supported"
    assert claim_c(scales((1.0, 0.5, 0.1), 0, bare), SIZES).verdict == "not supported"


def test_c_is_not_replicated_by_one_training_of_a_size():
    once = claim_c(scales((0.1, 0.5, 1.0), 0, trainings=1), SIZES)
    assert once.verdict == "not replicated" and "needs 3 trainings" in once.why
    assert once.low > 0 and "trainings" not in once.levels.index  # whatever the interval over tasks says
    uneven = scales((0.1, 0.5, 1.0), 0) | {"scale 1": scales((0.1, 0.5, 1.0), 0)["scale 1"][:2]}
    assert claim_c(uneven, SIZES).verdict == "not replicated"


@pytest.mark.soak
def test_c_counts_what_trainings_differ_by():
    "Sizes that differ no more than trainings do are no finding."
    rng = np.random.default_rng(0)
    found = []
    for s in range(40):
        strengths = rng.uniform(0, 1, size=(3, 3))
        spaces = {
            f"scale {k}": [world(strengths[k, t], 0.0, 1000 * s + 10 * k + t)[0] for t in range(3)] for k in range(3)
        }
        found.append(claim_c(spaces, SIZES).verdict)
    assert found.count("undecided") >= 34, found  # seen: 40 of 40


@pytest.mark.soak
def test_c_intervals_over_pairs_hold_what_other_pairs_give():
    rng = np.random.default_rng(0)
    truths = [SAME + rng.normal(size=(N, N)) for _ in range(3)]
    found = [
        claim_c({f"scale {k}": measured(t, 1000 * k + s, 3.0, groups=GROUPS) for k, t in enumerate(truths)}, SIZES)
        for s in range(80)
    ]
    expected = np.mean([f.estimate for f in found])
    rows = [f.levels.loc["pairs"] for f in found]
    assert np.mean([row.low <= expected <= row.high for row in rows]) >= 0.9


def spread(rise, together, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        [
            {"step": s, "task": f"task {t}", "share": 0.1 + rise * np.log10(max(s, 1)) + 0.004 * rng.normal()}
            for s in (0, 1, 10, 100, 1000)
            for t in range(N)
        ]
    )
    overlap = {
        s: TaskSpace(frame(0.1 + 0.02 * rng.random((N, N)) + together * np.log10(s) * SAME), "overlap", GROUPS)
        for s in (1, 10, 100, 1000)
    }
    return table, overlap


def test_d_can_be_won_and_lost():
    assert claim_d(*spread(0.02, 0.02)).verdict == "supported"
    assert claim_d(*spread(-0.02, 0.02)).verdict == "supported"  # the effective share is shown and not judged
    assert claim_d(*spread(0.02, -0.02)).verdict == "not supported"
    assert claim_d(*spread(0.02, 0.0)).verdict == "undecided"
    half = claim_d(spread(0.02, 0.0)[0], None)
    assert half.verdict == "undecided" and "no data: overlap" in half.why


def test_d_is_not_fooled_by_overlap_that_grows_everywhere():
    "Twice the overlap in all cells doubles the difference, and changes neither the ratio nor the AUC."
    table, overlap = spread(0.0, 0.0, seed=1)
    once = {s: TaskSpace(o.matrix + 0.05 * SAME, "overlap", GROUPS) for s, o in overlap.items()}
    grown = {s: TaskSpace(o.matrix * (1 + np.log10(s)), "overlap", GROUPS) for s, o in once.items()}
    found = claim_d(table, grown)
    assert found.details["sharing"]["difference"]["low"].min() > 0 and found.verdict == "undecided", found.why


def test_d_is_judged_by_the_figures_of_sharing_with_odds_among_them():
    table, overlap = spread(0.02, 0.02)
    levels = claim_d(table, overlap).details["sharing"]
    assert list(levels) == ["ratio", "odds", "AUC", "difference"] and all(map(inside, levels.values()))
    steps = np.log10([s for s in overlap if s > 0])
    weight = (steps - steps.mean()) / ((steps - steps.mean()) ** 2).sum()
    for kind in ("ratio", "odds"):  # with any chance that all cells have, as subspaces of one size do
        known = [
            sharing_table(o, TaskSpace(o.matrix * 0 + 0.005, "chance", GROUPS)).loc[(kind, "tasks"), "estimate"]
            for s, o in overlap.items()
            if s > 0
        ]
        assert levels[kind]["estimate"].iloc[0] == pytest.approx(weight @ np.log10(known), rel=1e-9)


def test_d_shows_the_active_share_beside_the_effective_one():
    table, overlap = spread(0.02, 0.02)
    found = claim_d(table.assign(active_share=-table["share"]), overlap)
    assert "the effective share changes by +0.02" in found.why and "the active share changes by -0.02" in found.why
    assert claim_d(table.assign(active_share=np.nan), overlap).why == claim_d(table, overlap).why


def course(leap, seed=0):
    rng = np.random.default_rng(seed)
    truth, out = rng.normal(size=(N, N)), {}
    for k in range(6):
        truth = truth + (2.0 if leap and k == 3 else 0.3) * rng.normal(size=(N, N))
        out[10**k] = measured(truth, 10 * seed + k, 1.0, pairs=30)
    return out


@pytest.mark.slow
def test_e_can_be_won_and_lost():
    assert claim_e(course(False)).verdict == "supported"
    lost = claim_e(course(True))
    assert lost.verdict == "not supported" and "steps 100 and 1000" in lost.why and lost.p < 0.05
    churn = {10**k: measured(np.random.default_rng(k).normal(size=(N, N)), k, 0.5) for k in range(6)}
    assert claim_e(churn).verdict == "not supported"  # nothing stays


def same_sentences(related, seed, noise=9.0, share=0.8, steps=7, pairs=60, draws=60):
    "Spaces along training whose noise is mostly that of their sentences; truths of neighbours correlate by `related`."
    rng = np.random.default_rng(seed)
    names, target, common, x, out = (
        [f"task {i}" for i in range(N)],
        np.repeat(np.arange(N), pairs),
        rng.normal(size=(N, N * pairs)),
        rng.normal(size=(N, N)),
        {},
    )
    for k in range(steps):
        if k:
            x = related * x + np.sqrt(1 - related**2) * rng.normal(size=(N, N))
        values = x[:, target] + noise * (np.sqrt(share) * common + np.sqrt(1 - share) * rng.normal(size=common.shape))
        matrix = pd.DataFrame(np.stack([values[:, target == j].mean(1) for j in range(N)], 1), names, names)
        out[10**k] = TaskSpace(
            matrix,
            "margin transfer",
            replicates=resample_means(values, target, draws, seed=seed),
            meta={"pairs": pairs},
        )
    return out


@pytest.mark.soak
def test_e_does_not_take_common_sentences_for_stability():
    nothing = [claim_e(same_sentences(0.0, s)) for s in range(8)]
    assert all(f.verdict != "supported" and f.details["agreement"] < 0.5 for f in nothing), [f.why for f in nothing]
    assert abs(np.mean([f.details["agreement"] for f in nothing])) < 0.12
    stable = [claim_e(same_sentences(0.93, s, noise=4.0)) for s in range(4)]
    assert all(f.details["agreement"] > 0.85 and f.details["agreement_low"] > 0.5 for f in stable)
    assert all(f.verdict == "supported" for f in stable), [f.why for f in stable]


@pytest.mark.slow
def test_e_says_how_many_stretches_are_left_out():
    path = course(False)
    assert "left out" not in claim_e(path).why and claim_e(path).details["left_out"] == 0
    steps = list(path)

    def drown(space):
        "A space whose replicates say that it is noise alone."
        noise = 3 * (space.replicates - space.replicates.mean(0))
        return TaskSpace(space.matrix, replicates=noise, meta=space.meta)

    path[steps[0]] = drown(measured(np.zeros((N, N)), 0, pairs=30))
    found = claim_e(path)
    assert "1 of 5 stretches left out: mostly noise" in found.why and "6 checkpoints" in found.why
    for k in steps[:4]:
        path[k] = drown(measured(np.zeros((N, N)), k, pairs=30))
    assert "in 1 of 5 stretches" in claim_e(path).why and claim_e(path).verdict == "undecided"


def test_e_needs_replicates_of_the_same_pairs_for_support():
    path = course(False)
    last = list(path)[-1]
    path[last] = TaskSpace(
        path[last].matrix, "margin transfer", replicates=path[last].replicates[:80], meta={"pairs": 30}
    )
    assert claim_e(path).verdict == "undecided" and "not of the same pairs" in claim_e(path).why


def test_d_is_asked_of_every_model_that_has_the_data():
    shares, overlap = spread(0.02, 0.02)
    _, falls = spread(0.02, -0.02)

    def of(scale, count, spaces=overlap):
        return {(scale, s): o for s, o in list(spaces.items())[:count]}

    def d(overlap):
        return findings(distribution=shares.assign(scale="small"), overlap=overlap)[3]

    assert d(of("small", 4)).verdict == d(of("small", 4) | of("big", 3)).verdict == "supported"
    mixed = d(of("small", 4) | of("big", 4, falls))
    assert mixed.verdict == "undecided" and list(mixed.models["verdict"]) == ["supported", "not supported"]
    assert "supported for small" in mixed.why and "not supported for big" in mixed.why and mixed.low < mixed.estimate
    lacks = d(of("small", 4) | of("big", 2))
    assert lacks.verdict == "supported" and "big: no data: overlap spaces at 3 checkpoints" in lacks.why
    assert d({}).why.startswith("no data") and d({("big", 0): overlap[1]}).why.startswith("no data")


def test_e_is_judged_over_tasks_and_by_ranks():
    found = claim_e(course(False))
    assert {"tasks", "pairs"} <= set(found.levels.index) and "by ranks" in found.why and inside(found.levels)
    stable = found.details["stable"]
    assert set(stable["product"].index) == {"tasks", "stretches", "pairs"} and inside(stable["product"])
    led, rng = {}, np.random.default_rng(0)
    for k in range(6):  # a few large cells stay, all others are drawn anew
        truth = 0.5 * rng.normal(size=(N, N))
        truth[0, 1:6] = truth[2, 8:13] = 12
        led[10**k] = measured(truth, k, 0.5, pairs=30)
    few = claim_e(led)
    assert few.details["agreement"] > 0.9 and few.details["ranks"][0] < 0.3 and few.verdict == "not supported"


def test_every_training_is_judged_and_none_speaks_for_another():
    _, structure, words = world(1, 0, 0)
    spaces = {("mini", t, 1000): world(1.0 if t < 3 else 0.0, 0.0, t)[0] for t in (1, 2, 3)}
    spaces |= {("nano", 1000): [world(1.0, 0.0, 10 + t)[0] for t in range(2)]}
    found = findings(spaces, {"phenomenon": structure, "lexicon": words}, parameters={"nano": 1e5, "mini": 1e7})
    b, c = found[1], found[2]
    assert list(b.models["model"]) == ["nano 1", "nano 2", "mini 1", "mini 2", "mini 3"]
    assert set(b.models["verdict"][:4]) == {"supported"} and b.models["verdict"][4] != "supported"
    assert b.verdict == "undecided" and "supported for 2 of 2 trainings of nano" in b.why and inside(b.levels)
    assert "trainings of mini" in b.why and "supported for 2 of 3" in b.why and "standard deviation" in b.why
    means = b.models.groupby("scale")["estimate"].mean()
    assert b.estimate == pytest.approx(means.mean())  # every size counts once
    assert c.verdict == "not replicated" and "mini" in c.why and "3 trainings, standard deviation" in c.why
    table = models_table(found)
    assert table.groupby("claim").size().to_dict() == {"b": 5, "c": 5}


def test_a_gate_leaves_out_tasks_and_says_which():
    space, structure, words = world(1, 0, 0)
    accuracy = pd.DataFrame({"scale": "mini", "task": space.tasks, "accuracy": np.linspace(0.4, 0.9, N)})
    hypotheses = {"phenomenon": structure, "lexicon": words}
    found = findings({("mini", 1): space}, hypotheses, accuracy=accuracy, gate=0.6)
    alone = claim_b(space.select(space.tasks[6:]), structure, words)
    assert found[1].why == alone.why and found[1].gate == "tasks with accuracy of 0.6 or more: mini 10 of 16"
    assert claims({("mini", 1): space}, hypotheses, accuracy=accuracy, gate=0.6)["gate"].nunique() == 1
    assert claims({("mini", 1): space}, hypotheses)["gate"].eq("").all()
    few = findings({("mini", 1): space}, hypotheses, accuracy=accuracy, gate=0.85)[1]
    assert few.why.startswith("no data: a space of 5 complete tasks or more (there are 2)")
    with pytest.raises(
        TaskspaceError, match="no task has an accuracy of 0.95 or more .the highest is 0.900, of 'task 15'"
    ):
        passing_tasks(accuracy, 0.95)
    with pytest.raises(TaskspaceError, match="gate: the accuracies of nano 1 are not known"):
        findings({("nano", 1): space}, hypotheses, accuracy=accuracy, gate=0.6)


def test_missing_data_decide_nothing_and_say_what_is_missing():
    table = claims()
    assert (
        list(table.claim) == list("abcde")
        and set(table.verdict) == {"undecided"}
        and table.why.str.startswith("no data: ").all()
    )
    assert list(table.columns) == [
        "claim",
        "says",
        "verdict",
        "statistic",
        "estimate",
        "low",
        "high",
        "p",
        "levels",
        "gate",
        "why",
    ]
    space, structure, words = world(1, 0, 0)
    for found, lacks in (
        (claim_a(curves(1, 1).query("method == 'ftgd'")), "'full'"),
        (claim_a(curves(1, 1, tasks=2)), "3 tasks"),
        (claim_b(space, structure, None), "lexical"),
        (claim_b(space.select(space.tasks[:3]), structure, words), "5 complete tasks"),
        (claim_b(space, structure, structure), "told apart"),
        (claim_c({"s": space}, {"s": 1e5}), "two scales"),
        (claim_c(scales((1, 1), 0), None), "two scales"),
        (claim_e({k: v for k, v in list(course(False).items())[:3]}), "4 trained checkpoints"),
        (claim_e({k: TaskSpace(v.matrix) for k, v in course(False).items()}), "replicates"),
    ):
        assert found.verdict == "undecided" and found.why.startswith("no data") and lacks in found.why, found


def test_unfinished_spaces_are_cut_to_what_is_there():
    space, structure, words = world(1, 0, 0)
    holes = space.matrix.copy()
    holes.iloc[3] = np.nan
    found = claim_b(TaskSpace(holes, space.kind, GROUPS), structure, words)
    assert found.verdict == "supported" and found.details["tasks"] == N - 1


def test_noise_alone_is_no_space():
    noise = {f"scale {k}": measured(np.zeros((N, N)), k, groups=GROUPS) for k in range(3)}
    found = claim_c(noise, SIZES)
    assert found.verdict == "not replicated" and found.low < 0 < found.high


@pytest.mark.slow
def test_the_table_takes_a_whole_study():
    space, structure, words = world(1, 0, 0)
    spaces = {(k, 1000): s for k, s in scales((0.1, 0.5, 1.0), 0).items()} | {
        ("scale 2", s): x for s, x in course(False).items() if s != 1000
    }
    shares, overlap = spread(0.02, 0.02)
    found = findings(
        spaces,
        {"phenomenon": structure, "lexicon": words},
        curves(0.95, 0.3),
        shares.assign(scale="scale 2"),
        {("scale 2", s): o for s, o in overlap.items()},
        SIZES,
    )
    assert [f.claim for f in found] == list(CLAIMS) and all(f.verdict in VERDICTS for f in found)
    assert found[0].verdict == found[3].verdict == "supported" and "no data" not in found[2].why


def test_rules_of_judgement():
    assert [judge(*b) for b in ((1, 2), (-2, -1), (-1, 1), (np.nan, np.nan), (np.nan, -1.0))] == [
        "supported",
        "not supported",
        "undecided",
        "undecided",
        "not supported",
    ]
    assert (
        verdict_of_parts("supported", "not supported", "undecided") == "not supported"
        and verdict_of_parts("supported") == "supported"
    )
    held = [
        low <= 0.3 <= high
        for low, high in (paired(0.3 + np.random.default_rng(s).normal(size=12), 99)[1:3] for s in range(500))
    ]
    assert 0.93 <= np.mean(held) <= 0.97
    assert all(np.isnan(paired([1.0, 2.0])[1:]))
    # A mean over tasks and one over models have the same interval and test.
    assert paired([0.2, np.nan, 0.3, -0.1, 0.4]) == over_seeds([0.2, 0.3, -0.1, 0.4])[:4]
    with pytest.raises(TaskspaceError, match="no column 'harm'"):
        claim_a(curves(1, 1).drop(columns="harm"))


def test_no_verdict_is_written_into_the_code(monkeypatch):
    "Turning the one rule around turns the verdicts around: they come from nowhere else."
    monkeypatch.setattr(
        module,
        "judge",
        lambda low, high, threshold=0.0: (
            "supported" if high < threshold else "not supported" if low > threshold else "undecided"
        ),
    )
    assert (
        claim_c(scales((0.1, 0.5, 1.0), 0), SIZES).verdict == "not supported"
        and claim_a(curves(0.95, 0.3)).verdict == "not supported"
    )
