"""Task spaces and hypothesis spaces: files, alignment by name, likeness as computed by hand, trees and maps."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskspace.errors import TaskspaceError
from taskspace.spaces import trees_and_maps as maps
from taskspace.spaces.hypotheses import hypothesis_space
from taskspace.spaces.resampling import resample_means, split_halves
from taskspace.spaces.sentence_similarity import (
    differing_region,
    edit,
    edit_likeness,
    length_likeness,
    set_likeness,
    word_likeness,
    words,
)
from taskspace.spaces.space import TaskSpace
from taskspace.tasks.pairs import MinimalPair, Suite, Task


def labels(n):
    return [f"task {i}" for i in range(n)]


def space(n=8, seed=0, draws=20, kind="margin transfer", **more):
    rng = np.random.default_rng(seed)

    def frame(a):
        return pd.DataFrame(a, labels(n), labels(n))

    truth = rng.normal(size=(n, n)) + (np.arange(n)[:, None] % 2 == np.arange(n) % 2)
    target = np.repeat(np.arange(n), 20)
    values = truth[:, target] + rng.normal(size=(n, 20 * n))
    low, high = np.quantile(resample_means(values, target, 50), [0.025, 0.975], axis=0)
    groups = {t: f"group {i % 2}" for i, t in enumerate(labels(n))}
    matrix = np.stack([values[:, target == j].mean(1) for j in range(n)], 1)
    return TaskSpace(
        frame(matrix),
        **{
            "kind": kind,
            "groups": groups,
            "low": frame(low),
            "high": frame(high),
            "replicates": resample_means(values, target, draws),
            "meta": {"pairs": 20, "model": "m"},
            "halves": split_halves(values, target, 4),
            **more,
        },
    )


def same(a, b):
    pd.testing.assert_frame_equal(a.matrix, b.matrix)
    assert (a.kind, a.groups, a.meta) == (b.kind, b.groups, b.meta)
    for name in ("low", "high", "replicates", "halves", "seed_deviations"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None) and (
            x is None or np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
        ), name


# -- on disk


def test_saving_loses_nothing(tmp_path):
    full = space()
    same(TaskSpace.load(full.save(tmp_path / "deep" / "space.parquet")), full)
    bare = TaskSpace(pd.DataFrame([[np.nan, 1.0], [2.0, np.nan]], ["ä", "b"], ["ä", "b"]))
    same(TaskSpace.load(bare.save(tmp_path / "bare.parquet")), bare)


def seeded(seed=0, count=2):
    "A space in which nothing but seeds makes noise."
    a, rng = space(seed=seed), np.random.default_rng(seed)
    moves = rng.normal(size=(count, 8, 8))
    moves -= moves.mean(0)
    mixtures = np.random.default_rng(0).normal(size=(count, 400)).T  # the same for all, as the probe's are
    replicates = a.matrix.to_numpy() + np.tensordot(mixtures, moves, 1)
    return replace(a, replicates=replicates, seed_deviations=a.matrix.to_numpy() + moves)


def rewritten(path, change):
    "A file of a space with its Arrow table changed."
    pq.write_table(change(pq.read_table(path)), path)
    return path


def test_a_file_of_format_1_keeps_its_seed_deviations(tmp_path):
    "It called them `seeds`."
    a = seeded()

    def older(table):
        header = json.loads(table.schema.metadata[b"taskspace"]) | {"format": 1}
        names = ["seeds" if name == "seed_deviations" else name for name in table.column_names]
        return table.rename_columns(names).replace_schema_metadata({"taskspace": json.dumps(header)})

    path = rewritten(a.save(tmp_path / "a.parquet"), older)
    assert "seeds" in pd.read_parquet(path).columns
    same(TaskSpace.load(path), a)


def test_a_file_of_a_later_format_says_what_to_do(tmp_path):
    def later(table):
        header = json.loads(table.schema.metadata[b"taskspace"]) | {"format": 99}
        return table.replace_schema_metadata({"taskspace": json.dumps(header)})

    path = rewritten(space().save(tmp_path / "a.parquet"), later)
    with pytest.raises(TaskspaceError, match="a.parquet: format 99 is newer .* update taskspace"):
        TaskSpace.load(path)


def test_what_seeds_do_is_kept_and_follows_the_space(tmp_path):
    a = seeded()
    same(TaskSpace.load(a.save(tmp_path / "a.parquet")), a)
    assert (
        "seed_deviations" not in pd.read_parquet(space().save(tmp_path / "old.parquet")).columns
        and TaskSpace.load(tmp_path / "old.parquet").seed_deviations is None
    )
    turned = a.select(a.tasks[::-1])
    assert np.array_equal(turned.seed_deviations, a.seed_deviations[:, ::-1, ::-1]) and np.array_equal(
        turned.complete().seed_deviations, turned.seed_deviations
    )
    mean = a.symmetric()
    assert (
        np.allclose(mean.seed_deviations, (a.seed_deviations + a.seed_deviations.swapaxes(1, 2)) / 2)
        and a.average().seed_deviations.shape == (2, 2, 2)
        and a.centred().seed_deviations.shape == (2, 8, 8)
    )
    with pytest.raises(TaskspaceError, match="'seed_deviations' has shape"):
        replace(a, seed_deviations=np.ones((2, 3, 3)))


def test_derived_bounds_and_p_values_have_the_degrees_of_freedom_of_seeds():
    a, plain, off = seeded(), space(seed=3, draws=400), ~np.eye(8, dtype=bool)
    for derived in (a.symmetric(), a.centred(), a - 1.0, a - seeded(1), a - plain, plain - a):
        blind = replace(derived, seed_deviations=None)
        reach = (derived.high - derived.low).to_numpy()[off] / derived.replicates.std(0)[off] / 2
        # Student's is 12.7 for two seeds and 2.1 for 20 pairs. Least seen: 6.6, where the other space has one seed.
        assert reach.min() > 5, derived.kind
        assert derived.significant().min(axis=None) > blind.significant().min(axis=None)
    assert (a - seeded(1, 3)).seed_deviations.shape == (3, 8, 8)
    assert (a.asymmetry().p > replace(a, seed_deviations=None).asymmetry().p).all() and (
        a.average().high - a.average().low
    ).notna().all(axis=None)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.data())
def test_saving_keeps_any_numbers_and_names(tmp_path_factory, n, data):
    names = data.draw(st.lists(st.text(min_size=1), min_size=n, max_size=n, unique=True))
    cells = data.draw(st.lists(st.floats(width=64), min_size=n * n, max_size=n * n))
    try:
        [name.encode() for name in names]
    except UnicodeEncodeError:
        return  # lone surrogates are no text
    a = TaskSpace(pd.DataFrame(np.reshape(cells, (n, n)), names, names), meta={"note": names[0]})
    same(TaskSpace.load(a.save(tmp_path_factory.mktemp("spaces") / "s.parquet")), a)


def test_a_saved_space_is_an_ordinary_table_and_always_the_same_bytes(tmp_path):
    a = space()
    table = pd.read_parquet(a.save(tmp_path / "a.parquet"))
    assert {"source", "target", "value", "low", "high"} <= set(table.columns) and len(table) == 64
    assert (tmp_path / "a.parquet").read_bytes() == a.save(tmp_path / "b.parquet").read_bytes()


def test_numpy_values_in_meta_become_plain_ones(tmp_path):
    a = space(meta={"steps": np.int64(3), "lr": np.float32(0.5), "seeds": np.arange(2)})
    assert TaskSpace.load(a.save(tmp_path / "a.parquet")).meta == {"steps": 3, "lr": 0.5, "seeds": [0, 1]}


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing", b"x" * 4000])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "space.parquet"
    path.write_bytes(content)
    with pytest.raises(TaskspaceError, match="not a readable task space") as e:
        TaskSpace.load(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_a_truncated_file_is_named(tmp_path):
    path = space().save(tmp_path / "space.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TaskspaceError, match="not a readable task space"):
        TaskSpace.load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(TaskspaceError, match="no such file"):
        TaskSpace.load(tmp_path / "none.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(TaskspaceError, match="not a task space"):
        TaskSpace.load(tmp_path / "other.parquet")
    with pytest.raises(TaskspaceError, match="cannot be stored"):
        space(meta={"model": object()}).save(tmp_path / "a.parquet")


# -- by name, never by position


def test_comparison_aligns_tasks_by_name():
    a, b = space(seed=1), space(seed=2)
    turned = b.select(list(reversed(b.tasks)))
    assert a.compare(turned) == a.compare(b)
    assert a.compare(b.matrix).statistic == a.compare(b).statistic == a.compare(b.matrix.to_numpy()).statistic
    pd.testing.assert_frame_equal((a - turned).matrix, (a - b).matrix)
    assert a.regress({"b": turned}).p["b"] == a.regress({"b": b}).p["b"]


def test_selecting_takes_everything_along():
    a = space()
    cut = a.select(["task 5", "task 1", "task 3"])
    assert cut.tasks == ["task 5", "task 1", "task 3"] and list(cut.groups) == cut.tasks
    assert cut.replicates[4, 0, 2] == a.replicates[4, 5, 3] and cut.halves[1, 1, 2, 0] == a.halves[1, 1, 3, 5]
    assert cut.low.loc["task 1", "task 3"] == a.low.loc["task 1", "task 3"]


def test_interval_bounds_follow_arithmetic():
    a = space()
    doubled = a * 2
    assert (
        np.allclose(doubled.matrix, 2 * a.matrix) and (doubled.low.to_numpy() < doubled.matrix.to_numpy()).mean() > 0.95
    )
    assert np.allclose((a - a).replicates, 0) and (TaskSpace(a.matrix) + 1).low is None
    both = a.symmetric()
    assert np.allclose(both.matrix, both.matrix.T) and np.allclose(both.replicates, both.replicates.swapaxes(1, 2))


def test_averages_and_centring_equal_naive_code():
    a = space(9)
    mean = a.average()
    cells = [
        a.matrix.loc[i, j]
        for i in a.tasks
        for j in a.tasks
        if i != j and a.groups[i] == "group 0" and a.groups[j] == "group 1"
    ]
    assert mean.matrix.loc["group 0", "group 1"] == pytest.approx(np.mean(cells))
    assert np.isnan(a.average({t: t for t in a.tasks}).matrix.loc["task 0", "task 0"])
    centred = a.centred().matrix
    assert np.allclose(np.nansum(centred, 0), 0) and np.allclose(np.nansum(centred, 1), 0)
    shifted = TaskSpace(a.matrix + np.arange(9)[:, None] + 3 * np.arange(9))
    assert np.allclose(shifted.centred().matrix, centred, equal_nan=True)


def test_averages_are_over_the_cells_that_are_there():
    a = space(9)
    holes, replicates = a.matrix.copy(), a.replicates.copy()
    holes.iloc[2], holes.iloc[1, 4], replicates[:, 2] = np.nan, np.nan, np.nan
    replicates[0, 5, 6] = np.nan
    mean = TaskSpace(holes, groups=a.groups, replicates=replicates, meta={"pairs": 20}).average()
    inside = [holes.loc[i, j] for i in a.tasks for j in a.tasks if i != j and a.groups[i] == a.groups[j] == "group 0"]
    assert mean.matrix.loc["group 0", "group 0"] == pytest.approx(np.nanmean(inside)) and mean.matrix.notna().all(
        axis=None
    )
    assert np.isfinite(mean.replicates).all() and (mean.low < mean.matrix).all(axis=None)


def test_centring_fits_rows_and_columns_to_the_cells_that_are_there():
    a = space(9)
    complete = a.centred()
    holes, replicates = a.matrix.copy(), a.replicates.copy()
    holes.iloc[2], holes.iloc[1, 4], holes.iloc[7, 1:7], holes.iloc[7, 8] = np.nan, np.nan, np.nan, np.nan
    replicates[3:, 2], replicates[3:5, 1, 4] = np.nan, np.nan
    left = TaskSpace(holes, replicates=replicates).centred()
    off = np.isfinite(holes.to_numpy()) & ~np.eye(9, dtype=bool)
    i, j = np.nonzero(off)
    design = np.column_stack([np.eye(9)[i], np.eye(9)[j]])
    values = holes.to_numpy()[i, j]
    expected = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    alone = i == 7  # the only cell of its row
    assert (
        np.allclose(left.matrix.to_numpy()[i, j][~alone], expected[~alone])
        and np.isnan(left.matrix.to_numpy()[~off]).all()
        and np.isnan(left.matrix.iloc[7, 0])
    )
    assert np.allclose(left.replicates[:3], complete.replicates[:3], equal_nan=True)  # fitted or by the closed form
    assert np.isfinite(left.replicates[5:]).sum((1, 2)).tolist() == [64] * 15
    shifted = TaskSpace(holes + np.arange(9)[:, None] + 3 * np.arange(9)).centred().matrix
    assert np.allclose(shifted, left.matrix, equal_nan=True)


def test_a_single_name_is_one_task():
    assert space().select("task 3").tasks == ["task 3"]
    with pytest.raises(TaskspaceError, match="no task 'task 99'"):
        space().select("task 99")


def test_missing_labels_are_no_group():
    a = space(8)
    labels_ = {
        t: (f"group {i % 2}" if i < 6 else missing)
        for i, (t, missing) in enumerate(zip(a.tasks, [None] * 6 + [float("nan"), pd.NA], strict=True))
    }
    plain = {t: g if isinstance(g, str) else None for t, g in labels_.items()}
    assert a.within_across(labels_) == a.within_across(plain) and a.within_across(labels_).tasks == 6
    assert TaskSpace(a.matrix, groups=labels_).groups == plain and list(a.average(labels_).tasks) == [
        "group 0",
        "group 1",
    ]


def gradients(seed, n=8, blocks=5, size=60):
    "A space of gradient cosines with nothing in it, resampled in a few blocks as the gradient probe does."
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(n, blocks, size))

    def cosines(w):
        v = np.einsum("nb,nbs->ns", w, g)
        return v @ v.T / np.sqrt(np.outer((v**2).sum(1), (v**2).sum(1)))

    replicates = np.stack([cosines(rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=n)) for _ in range(100)])
    return TaskSpace(
        pd.DataFrame(cosines(np.ones((n, blocks))), labels(n), labels(n)),
        "gradient cosine",
        replicates=replicates,
        meta={"pairs": [20] * n, "blocks": blocks},
    )


def test_gradients_are_tested_with_the_number_of_their_blocks():
    from taskspace.spaces.resampling import cell_tests

    assert (
        gradients(0).resampled_pairs() == 5
        and space().resampled_pairs() == 20
        and TaskSpace(space().matrix, meta={"blocks": 1, "pairs": 7}).resampled_pairs() == 7
    )
    assert TaskSpace(space().matrix, meta={"pairs": [4, 4]}).resampled_pairs() is None
    spaces = [gradients(s) for s in range(60)]
    off_diagonal = ~np.eye(8, dtype=bool)

    def alarms(known):
        "The share of cells with p < 0.05."
        pairs = [a.resampled_pairs() if known else None for a in spaces]
        p = [cell_tests(a.matrix.to_numpy(), a.replicates, n)[0] for a, n in zip(spaces, pairs, strict=True)]
        return np.mean([np.nanmean(one[off_diagonal] < 0.05) for one in p])

    assert alarms(True) < 0.06 < alarms(False), (alarms(True), alarms(False))


def test_trees_leave_out_replicates_with_missing_cells():
    a = space(8, draws=40)
    replicates = a.replicates.copy()
    replicates[::2, 1] = np.nan
    few = maps.cluster_stability(a.matrix, replicates)
    assert few.stability.equals(maps.cluster_stability(a.matrix, a.replicates[1::2]).stability)
    assert maps.cluster_stability(a.matrix, np.full((3, 8, 8), np.nan)).stability.isna().all()


def test_a_perfect_space_shows_its_tests_without_bounds():
    from taskspace.report.charts import forest

    a = TaskSpace(hypothesis(space(12)).matrix, groups=space(12).groups)
    test = a.within_across()
    assert test.statistic == 1.0 and np.isnan([test.low, test.high]).all()
    assert forest({"perfect": test, "other": space(12).within_across()}).to_dict() and "NaN" in test._repr_html_()


def test_complete_drops_as_little_as_it_can():
    a = space(6).matrix.copy()
    a.iloc[2] = np.nan  # a source that is not tuned yet
    left = TaskSpace(a).complete()
    assert left.tasks == [t for t in labels(6) if t != "task 2"]
    with pytest.raises(TaskspaceError, match="missing"):
        TaskSpace(a).compare(space(6))


# -- evidence


def test_evidence_is_reported_with_its_source():
    a = space(12, draws=100)
    test = a.within_across()
    assert test.details["interval"] == "over pairs and seeds" and test.low < test.details["corrected"] < test.high
    assert a.within_across(interval="tasks").details["interval"] == "over tasks"
    assert np.isnan(a.within_across(interval=None).low)
    assert TaskSpace(a.matrix, groups=a.groups).within_across().details["interval"] == "over tasks"
    control = pd.DataFrame(np.random.default_rng(0).normal(size=(12, 12)), labels(12), labels(12))
    assert a.compare(hypothesis(a), control=control).name.startswith("partial")
    assert 0 < a.noise_ceiling()["ceiling"] <= 1 and a.significant().shape == (12, 12) and a.asymmetry().q.notna().all()
    assert a.cluster_stability().stability.between(0, 1).all()


def hypothesis(a):
    return TaskSpace(
        pd.DataFrame([[float(a.groups[i] == a.groups[j]) for j in a.tasks] for i in a.tasks], a.tasks, a.tasks),
        "hypothesis: phenomenon",
    )


def test_comparison_with_its_own_hypothesis_is_found():
    assert space(16, draws=50).compare(hypothesis(space(16))).p < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: TaskSpace(np.ones((2, 2))), "must be a DataFrame"),
        (lambda a: TaskSpace(pd.DataFrame(np.ones((2, 2)), ["a", "b"], ["b", "a"])), "same tasks in the same order"),
        (lambda a: TaskSpace(pd.DataFrame(np.ones((2, 2)), ["a", "a"], ["a", "a"])), "'a' stands twice"),
        (lambda a: TaskSpace(a.matrix, low=a.matrix.iloc[:2, :2]), "'low' must have the labels"),
        (lambda a: TaskSpace(a.matrix, replicates=np.ones((5, 3, 3))), "'replicates' has shape"),
        (lambda a: a.select(["nope"]), "has no task 'nope'"),
        (lambda a: space(9).compare(a), "has no task 'task 8'"),
        (lambda a: a.compare(3), "must be a TaskSpace or a matrix"),
        (lambda a: a - space(9), "their tasks differ"),
        (lambda a: TaskSpace(a.matrix).within_across(), "has no groups"),
        (lambda a: TaskSpace(a.matrix).noise_ceiling(), "no split halves"),
        (lambda a: TaskSpace(a.matrix).significant(), "no replicates"),
        (
            lambda a: TaskSpace(a.matrix, groups=a.groups).within_across(interval="pairs"),
            "no replicates for an interval",
        ),
        (lambda a: a.within_across(interval="weeks"), "interval='weeks' is unknown"),
        (lambda a: a.cluster(metric="tea"), "metric 'tea' is unknown"),
        (lambda a: a.cluster("tea"), "choose a linkage method"),
        (lambda a: a.embed("tea"), "embedding 'tea' is unknown"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        call(space())
    assert "\n" not in str(e.value)


def test_a_space_shows_itself():
    a = space()
    shown = a._repr_mimebundle_()
    shown = shown[0] if isinstance(shown, tuple) else shown
    assert "text/html" in shown and any("vega" in k for k in shown) and "8 tasks, 2 groups" in shown["text/plain"]
    holes = a.matrix.copy()
    holes.iloc[0, 1] = np.nan
    assert TaskSpace(holes)._repr_mimebundle_()


# -- hypotheses


def task(name, *pairs, **more):
    return Task(name, [MinimalPair(g, b) for g, b in pairs], **more)


SUITE = Suite(
    "toy",
    [
        task(
            "a",
            ("The cats sleep.", "The cats sleeps."),
            phenomenon="agreement",
            field="morphology",
            rules=("number",),
            lexicon="one",
        ),
        task(
            "b",
            ("The dogs sleep.", "The dogs sleeps."),
            phenomenon="agreement",
            field="morphology",
            rules=("number", "far"),
            lexicon="two",
        ),
        task(
            "c",
            ("No cats ever sleep there.", "Cats ever sleep there."),
            phenomenon="npi",
            field="semantics",
            rules=("npi",),
            lexicon="one",
        ),
    ],
)


def test_hypotheses_by_label_rules_and_words():
    def cell(by, i, j):
        return hypothesis_space(SUITE, by).matrix.loc[i, j]

    assert [cell("phenomenon", *p) for p in ("ab", "ac")] == [1, 0] and [cell("field", *p) for p in ("ab", "ac")] == [
        1,
        0,
    ]
    assert [cell("words", *p) for p in ("ab", "ac")] == [0, 1] and [cell("rules", *p) for p in ("ab", "ac")] == [0.5, 0]
    assert cell({"a": "x", "b": None, "c": None}, "b", "c") == 0 and cell({"a": "x", "b": "y", "c": "y"}, "b", "c") == 1
    frame = pd.DataFrame(np.arange(9.0).reshape(3, 3), list("cba"), list("cba"))
    assert hypothesis_space(SUITE, frame).matrix.loc["a", "c"] == 6.0 and hypothesis_space(SUITE, frame).tasks == list(
        "abc"
    )
    assert (
        hypothesis_space(SUITE, np.eye(3)).matrix.loc["b", "b"] == 1
        and hypothesis_space(SUITE, "field").groups["c"] == "semantics"
    )


def test_hypotheses_take_what_holds_labels_or_a_matrix():
    series = pd.Series({"a": "x", "b": "x", "c": np.nan})
    given = hypothesis_space(SUITE, series)
    assert (
        given.matrix.equals(hypothesis_space(SUITE, {"a": "x", "b": "x", "c": None}).matrix)
        and given.groups["c"] is None
    )
    for same_ in (
        given,
        given.select(["c", "a", "b"]),
        given.matrix,
        given.matrix.to_numpy().tolist(),
        tuple(map(tuple, given.matrix.to_numpy())),
    ):
        assert hypothesis_space(SUITE, same_).matrix.equals(given.matrix)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (["x", "x", "y"], "a list must be a matrix of numbers"),
        ([[1, 2], [3]], "a list must be a matrix"),
        ([[1, 2], [3, 4]], "a matrix of shape"),
        (3, "by, a int,"),
        ({1, 2}, "by, a set,"),
        ("x" * 5000, "is unknown"),
        (pd.Series({"a": "x"}), "no label for task 'b'"),
    ],
)
def test_other_hypotheses_get_one_short_line(by, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        hypothesis_space(SUITE, by)
    assert "\n" not in str(e.value) and len(str(e.value)) < 250


def test_lexical_overlap_by_hand():
    # a: the 2, cats 2, sleep 1, sleeps 1, full stop 2; b the same with dogs: shares 1/4, 1/4, 1/8, 1/8, 1/4
    assert word_likeness(SUITE).loc["a", "b"] == pytest.approx(
        (1 / 4 + 1 / 8 + 1 / 8 + 1 / 4) / (1 / 4 + 1 / 8 + 1 / 8 + 1 / 4 + 1 / 4 + 1 / 4)
    )
    assert word_likeness(SUITE, "difference").loc["a", "b"] == 1  # sleep against sleeps in both
    assert word_likeness(SUITE, "difference").loc["a", "c"] == 0
    assert hypothesis_space(SUITE, "lexicon").meta["part"] == "pair"


def test_edits_and_lengths_by_hand():
    assert edit(MinimalPair("The cats sleep.", "The cats sleeps.")) == ("substitution", pytest.approx(2 / 3))
    assert (
        edit(MinimalPair("No cats sleep.", "Cats sleep."))[0] == "deletion"
        and edit(MinimalPair("A b c", "A c b"))[0] == "order"
    )
    assert edit(MinimalPair("Same.", "Same."))[0] == "none"
    assert edit_likeness(SUITE).loc["a", "b"] == 1 and edit_likeness(SUITE).loc["a", "c"] == pytest.approx(
        (0 + 1 - 2 / 3) / 2
    )
    assert length_likeness(SUITE).loc["a", "b"] == 1 and length_likeness(SUITE).loc["a", "c"] == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcd"), max_size=6))
def test_the_differing_region_is_what_differs(good, bad):
    left, right, start = differing_region(good, bad)
    end = len(good) - start - len(left)
    assert end >= 0 and good[:start] == bad[:start] and good[len(good) - end :] == bad[len(bad) - end :]
    assert [*good[:start], *left, *good[len(good) - end :]] == good and [
        *bad[:start],
        *right,
        *bad[len(bad) - end :],
    ] == bad
    if left and right:
        assert left[0] != right[0] and left[-1] != right[-1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["a b c.", "a c", "d", "b, a"]), st.sampled_from(["a b", "c d e", "a"])),
            min_size=1,
            max_size=3,
        ),
        min_size=2,
        max_size=4,
    )
)
def test_likeness_is_symmetric_and_between_0_and_1(tasks):
    suite = Suite("s", [task(f"t{i}", *pairs) for i, pairs in enumerate(tasks)])
    for matrix in (
        word_likeness(suite),
        word_likeness(suite, "difference"),
        edit_likeness(suite),
        length_likeness(suite),
        set_likeness({t.name: t.rules for t in suite}),
    ):
        a = matrix.to_numpy()
        assert np.allclose(a, a.T) and a.min() >= -1e-12 and a.max() <= 1 + 1e-12 and np.allclose(np.diag(a), 1)


def test_words_keep_apostrophes_and_any_script():
    assert words("Don't  SHOUT, Ünal!") == ["don't", "shout", ",", "ünal", "!"] and words("猫 が") == ["猫", "が"]


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("tea", "by='tea' is unknown"),
        ({"a": "x"}, "no label for task 'b'"),
        (np.eye(2), r"shape \(2, 2\)"),
        (pd.DataFrame([[1.0]], ["a"], ["a"]), "has no task 'b'"),
    ],
)
def test_unusable_hypotheses_are_named(by, message):
    with pytest.raises(TaskspaceError, match=message):
        hypothesis_space(SUITE, by)


def test_a_suite_that_lacks_what_a_theory_needs_is_named():
    bare = Suite("bare", [task("a", ("x", "y")), task("b", ("x", "z"))])
    for by in ("phenomenon", "field", "words", "rules"):
        with pytest.raises(TaskspaceError, match="pass by="):
            hypothesis_space(bare, by)


# -- trees and maps


def test_classical_scaling_equals_peers():
    a = maps.task_distances(space(12).matrix)
    mine = maps.classical_scaling(a, 3)
    from sklearn import manifold

    if hasattr(manifold, "ClassicalMDS"):
        theirs = manifold.ClassicalMDS(n_components=3, metric="precomputed").fit_transform(a)
        assert np.allclose(np.abs(mine), np.abs(theirs), atol=1e-8)
    ordination = pytest.importorskip("skbio.stats.ordination")
    with np.errstate(all="ignore"):
        theirs = ordination.pcoa(a, dimensions=3).samples.to_numpy()
    assert np.allclose(np.abs(mine), np.abs(theirs), atol=1e-8)


def test_trees_equal_scipy():
    from scipy.cluster.hierarchy import cophenet, leaves_list, linkage
    from scipy.spatial.distance import squareform

    a = space(12)
    condensed = squareform(maps.task_distances(a.matrix))
    tree = a.cluster()
    expected = linkage(condensed, "average", optimal_ordering=True)
    assert np.allclose(tree.linkage, expected) and tree.order == [a.tasks[i] for i in leaves_list(expected)]
    assert tree.cophenetic == pytest.approx(cophenet(expected, condensed)[0]) and sorted(tree.order) == sorted(a.tasks)
    assert len(set(tree.labels(3))) == 3 and [len(c) for c in tree.clades()][-1] == 12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 6.3), st.booleans(), st.floats(0.1, 10))
def test_alignment_undoes_rotation_reflection_shift_and_scale(seed, angle, mirror, size):
    points = np.random.default_rng(seed).normal(size=(9, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(
        [1, -1 if mirror else 1]
    )
    moved = size * points @ turn + [3, -7]
    assert np.allclose(maps.align(moved, points, scale=True), points, atol=1e-9)
    assert np.allclose(maps.align(moved / size, points), points, atol=1e-9)


def test_maps_are_deterministic_and_faithful_where_they_can_be():
    plane = np.random.default_rng(0).normal(size=(10, 2))
    exact = np.linalg.norm(plane[:, None] - plane, axis=-1)
    for method in ("classical", "mds"):
        assert maps.stress(maps.embed(exact, method), exact) < 1e-3  # worst seen 1e-8
        assert np.array_equal(maps.embed(exact, method), maps.embed(exact, method))
    a = maps.task_distances(space(10).matrix)
    assert maps.stress(maps.embed(a, "mds"), a) <= maps.stress(maps.embed(a, "classical"), a) + 1e-9
    first = space(10).embed()
    assert np.allclose(space(10).embed(onto=first), first, atol=1e-9) and 0 < first.attrs["stress"] < 1


def test_profiles_find_tasks_that_help_the_same_tasks():
    n = 12
    rng, group = np.random.default_rng(0), np.arange(n) % 3
    a = rng.normal(size=(3, 3))[np.ix_(group, group)] + 0.1 * rng.normal(size=(n, n))
    d = maps.task_distances(a, "profile")
    alike = (group[:, None] == group) & ~np.eye(n, dtype=bool)
    assert d[alike].mean() < 0.3 * d[group[:, None] != group].mean()


def test_stability_is_one_without_noise():
    a = space(8, draws=3)
    still = maps.cluster_stability(a.matrix, np.stack([a.matrix.to_numpy()] * 4))
    assert np.allclose(still.stability, 1) and still["size"].max() == 8


def test_umap_is_optional():
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(TaskspaceError, match=r"taskspace\[umap\]"):
            space().embed("umap")
    else:
        assert space(20).embed("umap").shape == (20, 2)


def test_meta_is_json():
    json.dumps(hypothesis_space(SUITE, "lexicon").meta)
