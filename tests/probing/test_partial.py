"""Partial probes: which cells are measured, what is put in the place of the others, and how often that is right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from atlength import at_length
from taskspace.errors import TaskspaceError
from taskspace.probing.gradient import predicted_transfer
from taskspace.probing.partial import (
    cell_doubt,
    cells_each,
    choose_cells,
    chosen_targets,
    complete_by,
    completed_space,
    DRAWN,
    FEWEST,
    OWN,
    partial_transfer_probe,
    REST,
    UNSURE,
)
from taskspace.probing.row_spaces import METRICS, space_from_rows
from taskspace.probing.transfer import transfer_probe
from taskspace.spaces.space import TaskSpace
from taskspace.spaces.views import cell_table
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.toy import toy_lm
from taskspace.tuning.ftgd import FTGD


def space(cells, **more):
    names = [f"t{i}" for i in range(len(cells))]
    return TaskSpace(pd.DataFrame(np.asarray(cells, dtype=float), names, names), **more)


def noise(rng, tasks=20):
    return rng.normal(size=(tasks, tasks))


def seen(measured, choice):
    return replace(measured, matrix=measured.matrix.where(choice != REST))


# -- which cells


def test_half_of_the_cells_have_the_largest_doubt_and_half_are_drawn():
    predicted = space(np.random.default_rng(0).standard_t(3, (30, 30)))
    choice, doubt = choose_cells(predicted, 0.4), cell_doubt(predicted)
    for source in predicted.tasks:
        marks, own = choice.loc[source], doubt.loc[source]
        assert marks[source] == OWN and (marks == OWN).sum() == 1
        assert (marks == UNSURE).sum() == 6 and (marks == DRAWN).sum() == 6  # 12 of 29
        assert own[marks == UNSURE].min() >= own[marks.isin([DRAWN, REST])].max()


def test_drawn_cells_are_any_of_the_rest_alike_and_follow_the_seed():
    predicted = space(np.random.default_rng(0).normal(size=(12, 12)))
    counts = sum((choose_cells(predicted, 0.5, seed) == DRAWN).to_numpy().astype(int) for seed in range(600))
    rest = np.isin(choose_cells(predicted, 0.5).to_numpy(dtype=object), [DRAWN, REST])
    assert (counts[~rest] == 0).all()
    share = counts[rest] / 600  # 3 of 8 (the measured ones are 6 of 11)
    assert abs(share.mean() - 3 / 8) < 0.04 and np.abs(share - share.mean()).max() < 0.09  # standard error .02
    assert choose_cells(predicted, 0.5, 3).equals(choose_cells(predicted, 0.5, 3))
    assert not choose_cells(predicted, 0.5, 3).equals(choose_cells(predicted, 0.5, 4))


@pytest.mark.parametrize("share", [0, -0.1, 1.0001, np.nan, np.inf, "0.2", None, True, [0.2]])
def test_what_is_no_share_is_refused_in_one_line(share):
    with pytest.raises(TaskspaceError, match="cells must be a share above 0 and up to 1") as error:
        cells_each(30, share)
    assert "\n" not in str(error.value)


def test_no_share_below_one_measures_all_cells_in_silence():
    for tasks in range(2, 80):
        for share in (0.01, 0.1, 0.2, 0.4, 0.7, 0.95, 0.999):
            try:
                found = cells_each(tasks, share)
            except TaskspaceError as error:
                assert "measure all cells" in str(error)
                continue
            assert FEWEST <= found.measured < tasks - 1 and found.drawn >= found.unsure
            assert found.drawn * tasks >= 19
            assert found.measured == FEWEST or abs(found.measured - share * (tasks - 1)) <= 0.5
        assert cells_each(tasks, 1).measured == tasks - 1


def test_the_share_that_is_advised_is_allowed():
    with pytest.raises(TaskspaceError, match="take a share of 0.62"):
        cells_each(9, 0.2)
    assert cells_each(9, 0.62).measured < 8


def test_doubt_grows_with_size_and_with_intervals_and_is_never_nothing():
    cells = np.zeros((20, 20))
    assert (cell_doubt(space(cells)) == 1).all().all()  # a prediction of nothing everywhere
    cells[0, 1], cells[0, 2] = 4.0, np.nan
    doubt = cell_doubt(space(cells)).to_numpy()
    assert doubt[0, 1] == doubt[np.isfinite(doubt)].max() and np.isinf(doubt[0, 2]) and (doubt > 0).all()
    p = noise(np.random.default_rng(0))
    narrow, wide = (space(p, low=space(p - w).matrix, high=space(p + w).matrix) for w in (0.1, 10))
    assert (cell_doubt(space(p)) < cell_doubt(narrow)).all().all() and (
        cell_doubt(narrow) < cell_doubt(wide)
    ).all().all()
    cells[1] = np.nan  # a source without predictions
    assert (choose_cells(space(cells), 0.4).loc["t1"] != REST).sum() == 1 + cells_each(20, 0.4).measured


# -- what stands in the other cells


WORLDS = {
    "exact": lambda p, rng: p,
    "a line": lambda p, rng: 0.3 - 2 * p + 0.1 * noise(rng, len(p)),
    "useless": lambda p, rng: noise(rng, len(p)),
    "bent": lambda p, rng: np.tanh(2 * p) + 0.05 * noise(rng, len(p)),
    "curved": lambda p, rng: p - 0.5 * p**2,
    "noise grows with size": lambda p, rng: p + np.abs(p) * noise(rng, len(p)),
    "noise falls with size": lambda p, rng: p + noise(rng, len(p)) / (0.3 + np.abs(p)),
    "heavy tails": lambda p, rng: p + 0.1 * rng.standard_t(1.2, p.shape),
    "noise of sources": lambda p, rng: p + rng.exponential(1, (len(p), 1)) ** 2 * noise(rng, len(p)),
    "constant": lambda p, rng: np.full(p.shape, 0.7),
}


@pytest.mark.parametrize("kind", at_length(WORLDS))
@pytest.mark.parametrize("tasks, share", [(10, 0.45), (24, 0.2)])  # 20 drawn cells, the fewest, and 72
def test_intervals_hold_what_would_have_been_measured(kind, tasks, share):
    held = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p = rng.standard_t(3, (tasks, tasks))
        predicted, full = space(p), space(WORLDS[kind](p, rng))
        choice = choose_cells(predicted, share, seed)
        found = completed_space(predicted, seen(full, choice), choice)
        rest = (choice == REST).to_numpy()
        inside = (found.low <= full.matrix + 1e-9) & (full.matrix <= found.high + 1e-9)
        held.append(inside.to_numpy()[rest].mean())
    assert np.mean(held) >= 0.93  # 0.95 is promised; the standard error over worlds is below 0.01


def test_intervals_are_no_wider_than_the_prediction_is_bad():
    rng = np.random.default_rng(0)
    p = rng.standard_t(3, (30, 30))
    widths = []
    for error in (0.01, 0.1, 1):
        predicted, full = space(p), space(p + error * noise(rng, 30))
        choice = choose_cells(predicted, 0.3)
        found = completed_space(predicted, seen(full, choice), choice)
        widths.append(float(np.median((found.high - found.low).to_numpy()[(choice == REST).to_numpy()])))
    assert widths[0] * 8 < widths[1] and widths[1] * 8 < widths[2] and widths[2] < 8


def test_a_line_is_found_in_spite_of_wild_cells():
    rng = np.random.default_rng(1)
    p = noise(rng, 30)
    wild = (rng.random(p.shape) < 0.05) * 50
    choice = choose_cells(space(p), 0.3)
    found = completed_space(space(p), seen(space(0.2 + 0.5 * p + wild), choice), choice)
    assert abs(found.meta["cells"]["slope"] - 0.5) < 0.05 and abs(found.meta["cells"]["constant"] - 0.2) < 0.05


def test_all_cells_measured_is_the_full_probe():
    rng = np.random.default_rng(0)
    full = space(noise(rng), replicates=rng.normal(size=(5, 20, 20)), meta={"seeds": 1})
    choice = choose_cells(space(noise(rng)), 1)
    assert not (choice == REST).any().any()
    found = completed_space(space(noise(rng)), full, choice)
    assert found.matrix.equals(full.matrix) and found.replicates is full.replicates and found.kind == full.kind
    assert found.meta["cells"] == {"measured": 400, "predicted": 0} and found.meta["seeds"] == 1


def test_measured_cells_stay_and_what_is_not_there_stays_empty():
    rng = np.random.default_rng(0)
    p = noise(rng)
    choice = choose_cells(space(p), 0.4)
    measured = seen(space(p + 0.1), choice)
    measured.matrix.loc["t3"] = np.nan  # a source that was not tuned yet
    gap = choice.columns[(choice.loc["t4"] == DRAWN)][0]
    measured.matrix.loc["t4", gap] = np.nan  # measured, and without a value
    found = completed_space(space(p), measured, choice)
    assert found.matrix.loc["t3"].isna().all() and np.isnan(found.matrix.loc["t4", gap])
    there = measured.matrix.notna()
    assert found.matrix[there].equals(measured.matrix[there])
    table = cell_table(found)
    assert dict(table.how.value_counts()) == {
        "measured": there.to_numpy().sum(),
        "missing": 21,
        "predicted": 400 - 21 - there.to_numpy().sum(),
    }
    predicted = table[table.how == "predicted"]
    assert ((predicted.low <= predicted.value) & (predicted.value <= predicted.high)).all()
    few = measured.matrix.copy()
    few.iloc[2:] = np.nan
    with pytest.raises(TaskspaceError, match="of the drawn cells are measured, and intervals need 19"):
        completed_space(space(p), replace(measured, matrix=few), choice)


def test_completed_spaces_are_saved_with_their_record(tmp_path):
    p = noise(np.random.default_rng(0))
    choice = choose_cells(space(p), 0.4)
    found = completed_space(space(p), seen(space(p + 0.1), choice), choice)
    assert cell_table(TaskSpace.load(found.save(tmp_path / "space.parquet"))).equals(cell_table(found))
    assert set(cell_table(found.select(found.tasks[5:9])).how) == {"measured", "predicted"}


def test_tasks_are_found_by_name():
    p = noise(np.random.default_rng(0))
    choice = choose_cells(space(p), 0.4)
    measured = seen(space(p), choice)
    turned = completed_space(space(p).select(choice.index[::-1]), measured, choice.iloc[::-1, ::-1])
    assert np.allclose(turned.matrix, completed_space(space(p), measured, choice).matrix)


# -- with a model


def suite(tasks=12, pairs=6):
    nouns = ["cat", "dog", "cats", "dogs"]
    made = [
        Task(
            f"task{i}",
            [
                MinimalPair(f"the {nouns[i % 4]} w{i} {k} sees", f"the {nouns[i % 4]} w{i} {k} see")
                for k in range(pairs)
            ],
        )
        for i in range(tasks)
    ]
    return Suite("made", made)


WORDS = [".", "the", "cat", "dog", "cats", "dogs", "sees", "see", *(f"w{i}" for i in range(12)), *map(str, range(6))]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_partial_probe_measures_what_the_full_one_does(seeds):
    lm, settings = toy_lm(words=WORDS, spread=0.2), FTGD(steps=2, lr=1e-2, keep=0.1)
    full = transfer_probe(lm, suite(), settings, 3, 3, seeds)
    part = partial_transfer_probe(lm, suite(), 0.4, settings, 3, 3, seeds)
    table, cells = cell_table(part), full.matrix.stack().to_numpy()
    measured = (table.how == "measured").to_numpy()
    assert measured.sum() == 12 * (1 + cells_each(12, 0.4).measured) < 144 and (~measured).any()
    assert np.abs(table.value.to_numpy() - cells)[measured].max() < 1e-5
    whole = partial_transfer_probe(lm, suite(), 1, settings, 3, 3, seeds)
    assert whole.matrix.equals(full.matrix) and whole.low.equals(full.low)
    assert np.array_equal(whole.replicates, full.replicates)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_completed(metric):
    lm, settings = toy_lm(words=WORDS, spread=0.2), FTGD(steps=2, lr=1e-2, keep=0.1)
    full = transfer_probe(lm, suite(), settings, 3, 3, metric=metric, bootstrap=20)
    part = partial_transfer_probe(lm, suite(), 0.4, settings, 3, 3, metric=metric, bootstrap=20)
    measured = (cell_table(part).how == "measured").to_numpy().reshape(12, 12)
    assert part.matrix.notna().all().all()
    assert np.abs(part.matrix - full.matrix).to_numpy()[measured].max() < 1e-5


def test_by_gain_is_the_completed_space_divided():
    rng = np.random.default_rng(0)
    p, names = noise(rng, 12), [f"t{i}" for i in range(12)]
    choice = choose_cells(space(p), 0.5)
    frame = pd.DataFrame([(t, str(k)) for t in names for k in range(4)], columns=["task", "pair"])
    rows = {}
    for i, source in enumerate(names):
        after = np.repeat(p[i], 4) + rng.normal(size=48) - 3 * (np.repeat(names, 4) == source)
        after[np.repeat((choice.loc[source] == REST).to_numpy(), 4)] = np.nan
        rows[source] = frame.assign(before=0.0, after=after)
    raw, gain = (
        complete_by(space(p), choice, lambda by: space_from_rows(rows, normalise=by, bootstrap=20), n)
        for n in (None, "gain")
    )
    assert np.allclose(gain.matrix, raw.matrix.div(np.diag(raw.matrix), axis=0))
    guessed = (choice == REST).to_numpy()
    assert (np.diag(raw.matrix) < 0).any()  # where bounds change places
    low, value, high = (f.to_numpy()[guessed] for f in (gain.low, gain.matrix, gain.high))
    assert (low < value).all() and (value < high).all() and gain.replicates is None


def test_rows_with_missing_targets_give_the_cells_of_whole_rows():
    lm, settings = toy_lm(words=WORDS, spread=0.2), FTGD(steps=1, keep=0.1)
    parts = suite().split(3, 3, 0)
    predicted = predicted_transfer(lm, parts.train, settings, parts.eval)
    choice = choose_cells(predicted, 0.4)
    for metric in METRICS:
        full = transfer_probe(lm, suite(), settings, 3, 3, metric=metric, bootstrap=30)
        some = transfer_probe(lm, suite(), settings, 3, 3, metric=metric, bootstrap=30, targets=chosen_targets(choice))
        there = (choice != REST).to_numpy()
        assert np.array_equal(some.matrix.notna(), there)
        for name in ("matrix", "low", "high"):
            a, b = (getattr(s, name).to_numpy()[there] for s in (full, some))
            assert np.abs(a - b).max() < 1e-5
        assert np.isnan(some.replicates[:, ~there]).all() and np.isnan(some.halves[..., ~there]).all()
