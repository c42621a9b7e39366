"""Units, ablation and interchange as probes of a study: stored a result a source, resumed, read back as spaces."""

import shutil

import numpy as np
import pytest

from taskspace.errors import TaskspaceError
from taskspace.models.loading import load_lm
from taskspace.probing.ablation import ablation_probe
from taskspace.probing.interchange import interchange_effects, interchange_probe
from taskspace.probing.units import unit_probe
from taskspace.runs.execute import run_study
from taskspace.runs.extract import open_extract, write_extract
from taskspace.runs.jobs import Plan, seed_of
from taskspace.runs.results import open_run
from taskspace.runs.study import parse_study, Study
from toysite import tiny_model

NAMES = ("reflexive_gender_court", "reflexive_gender_town", "determiner_noun_court", "determiner_noun_town")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(folder / "m", 8, 0)
    return Study(
        models=[{"name": str(folder / "m"), "label": "m"}],
        select=NAMES,
        probes=["units", "ablation", "interchange"],
        units="mlp",
        top=0.1,
        train_pairs=6,
        eval_pairs=5,
        seeds=2,
        device="cpu",
    )


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    return run_study(study, tmp_path_factory.mktemp("run") / "run", workers=0, progress=False)


@pytest.mark.slow
def test_one_result_a_source(run):
    assert run.plan.groupby("kind", sort=False).size().to_dict() == {"units": 2, "ablation": 8, "interchange": 8}
    assert not len(run.status().failures)
    assert list(run.plan.loc[run.plan.kind == "ablation", "source"]) == [*NAMES, *NAMES]


def test_a_run_goes_on_where_it_was_cut_off(run, study, tmp_path):
    files = {p.name: p.read_bytes() for p in run.store.files().values()}
    shutil.copytree(run.path, tmp_path / "cut")
    for path in list(open_run(tmp_path / "cut").store.files().values())[::3]:
        path.unlink()
    again = run_study(study, tmp_path / "cut", workers=0, progress=False)
    assert {p.name: p.read_bytes() for p in again.store.files().values()} == files


def test_the_spaces_are_those_of_the_probes(run, study):
    "One seed of the run, computed by hand."
    (first, *_) = run_study(
        study.model_copy(update={"seeds": (0,)}), run.path.parent / "one", workers=0, progress=False
    ).units()
    lm = load_lm(study.models[0].name, device="cpu")
    parts = run.suite.split(6, 5, 0)
    key = run.plan.loc[(run.plan.kind == "units") & (run.plan.seed == 0), "key"].iloc[0]
    direct = unit_probe(lm, parts.train, "mlp", 0.1, seed=seed_of(key))
    assert first.overlap.matrix.equals(direct.overlap.matrix)
    assert first.table.drop(columns="response").equals(direct.table.drop(columns="response"))
    assert np.allclose(first.table.response, direct.table.response, rtol=1e-12)
    assert first.units(NAMES[0]).by_layer[1].tolist() == direct.units(NAMES[0]).by_layer[1].tolist()
    rows = open_run(run.path.parent / "one")
    space = rows.space(kind="ablation", bootstrap=0)
    whole = ablation_probe(lm, run.suite, "mlp", 0.1, train_pairs=6, eval_pairs=5, random=False, bootstrap=0)
    assert np.abs(space.matrix - whole.ablation.matrix).to_numpy().max() < 1e-6
    assert (space.kind, space.meta["top"], space.meta["units"]) == ("ablation", 0.1, "mlp")
    assert rows.space(kind="ablation", control="random").kind == "ablation of random units"
    assert rows.space(kind="ablation", metric="accuracy").kind == "ablation, accuracy"


def test_interchange_is_that_of_the_probe(run, study, tmp_path):
    one = run_study(
        study.model_copy(update={"seeds": (0,), "probes": ("interchange",), "units": "residual", "layer": 1}),
        tmp_path / "run",
        workers=0,
        progress=False,
    )
    lm = load_lm(study.models[0].name, device="cpu")
    direct = interchange_probe(lm, run.suite, 1, train_pairs=6, eval_pairs=5, bootstrap=0)
    space = one.space(kind="interchange", bootstrap=0)
    assert np.abs(space.matrix - direct.interchange.matrix).to_numpy().max() < 1e-6
    assert (space.kind, space.meta["layer"], space.meta["units"]) == ("interchange", 1, "residual")
    assert one.space(kind="interchange", control="random").kind == "interchange along random directions"
    unseen = one.space(kind="interchange", control="unseen").matrix
    assert np.isnan(np.diag(unseen)).sum() == np.isnan(np.diag(direct.unseen.matrix)).sum()
    with pytest.raises(TaskspaceError, match="no control 'full'; there are: none, random, unseen"):
        one.space(kind="interchange", control="full")
    effects = one.interchange()
    assert list(dict.fromkeys(effects.task)) == list(NAMES)
    again = interchange_effects(lm, run.suite.split(6, 5, 0).train[NAMES[0]])
    assert np.allclose(effects[effects.task == NAMES[0]]["later"], again["later"], atol=1e-9)


def test_tasks_without_aligned_pairs_have_no_cells(study, tmp_path):
    uneven = [(f"the {a} sleeps", f"the {a} near the ring sleep") for a in ("king", "queen", "guard", "duke")] * 3
    even = [(f"the {a} sleeps", f"the {a} sleep") for a in ("king", "queen", "guard", "duke", "singer", "prince")] * 2
    rows = [(t, g, b) for t, pairs in {"uneven": uneven, "even": even, "more": even[::-1]}.items() for g, b in pairs]
    path = tmp_path / "suite.csv"
    path.write_text("task,good,bad\n" + "\n".join(",".join(row) for row in rows))
    other = study.model_copy(update={"suite": str(path), "select": None, "probes": ("interchange",), "seeds": (0,)})
    other = other.model_copy(update={"train_pairs": 4, "eval_pairs": 3})
    run = run_study(other, tmp_path / "run", workers=0, progress=False)
    assert not len(run.status().failures)
    assert run.space(kind="interchange", bootstrap=0).tasks == ["even", "more"]


@pytest.mark.slow
def test_seeds_are_averaged(run):
    both = [s.overlap.matrix for s in run.units()]
    space = run.space(kind="unit_overlap")
    assert len(both) == 2
    assert np.allclose(space.matrix, (both[0] + both[1]) / 2)
    assert (space.low <= space.matrix + 1e-12).all(axis=None) and (space.matrix <= space.high + 1e-12).all(axis=None)
    with pytest.raises(TaskspaceError, match="no space of kind 'unit_angle'; there are: unit_overlap, unit_count"):
        run.space(kind="unit_angle")


def test_only_their_own_settings_enter_the_keys(study):
    def keys(**changes):
        plan = Plan(
            study.model_copy(update={"probes": ("score", "units", "ablation", "interchange"), "seeds": (0,), **changes})
        )
        return {kind: {j.key for j in plan.jobs() if j.kind == kind} for kind in plan.study.probes}

    base = keys()
    for change, moved in (
        ({"off": "mean"}, {"ablation"}),
        ({"top": 0.2}, {"units", "ablation"}),
        ({"by": "paired"}, {"units", "ablation"}),
        ({"units": "residual"}, {"units", "ablation", "interchange"}),
        ({"layer": 1}, {"interchange"}),
        ({"ftgd": {**study.ftgd, "steps": 3}}, set()),
    ):
        other = keys(**change)
        assert {kind for kind in base if not base[kind] & other[kind]} == moved
        assert all(base[kind] == other[kind] for kind in set(base) - moved)


def test_a_layer_that_the_model_lacks_is_refused_before_any_job(study):
    deep = study.model_copy(update={"layer": 99})
    with pytest.raises(TaskspaceError, match=r"^layer: model m has layers 1 to \d+, and no layer 99; name one that"):
        Plan(deep)
    assert list(
        Plan(deep.model_copy(update={"probes": ("units",)})).jobs()
    )  # where nothing is interchanged, no layer counts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("top: 0", "study: top: input should be greater than 0"),
        ("top: 1.5", "study: top: input should be less than or equal to 1"),
        ("units: heads", "study: units: input should be 'residual', 'mlp' or 'attention'"),
        ("layer: 0", "study: layer: input should be greater than or equal to 1"),
        ("by: anova", "study: by: input should be 'welch', 'paired' or 'attribution'"),
    ],
)
def test_bad_settings_are_named(line, message):
    with pytest.raises(TaskspaceError) as e:
        parse_study(f"models: [builtin:nano]\nprobes: [units]\n{line}\n")
    assert str(e.value).startswith(message), e.value
    assert "\n" not in str(e.value)


def test_an_extract_keeps_the_spaces_and_their_controls(run, tmp_path):
    write_extract(run, tmp_path / "x", permutations=9)
    kept = open_extract(tmp_path / "x")
    held = kept.table("spaces")[["kind", "control"]].drop_duplicates().itertuples(index=False, name=None)
    units = [("unit_overlap", "none"), ("unit_chance_in_layers", "none"), ("unit_shuffled", "none")]
    made = [("ablation", "none"), ("ablation", "random")]
    turned = [("interchange", control) for control in ("none", "random", "unseen")]
    assert set(held) == {*units, *made, *turned}
    for kind, control in [*units, *made, *turned[:2]]:
        exact = run.space(kind=kind, control=control).matrix
        same = kept.space("m", kind=kind, control=control).matrix.loc[exact.index, exact.columns]
        assert np.allclose(same, exact, atol=5.1e-5, equal_nan=True), (kind, control)
