"""Extracts: the run's own numbers, small, whole or not at all."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from taskspace.cli import app
from taskspace.errors import TaskspaceError
from taskspace.runs.extract import (
    _stability,
    open_extract,
    retest_extract,
    space_of,
    space_rows,
    write_extract,
)
from taskspace.runs.results import open_run
from taskspace.runs.study import public_study
from taskspace.runs.summaries import claims_of, learning_curves
from taskspace.spaces.hypotheses import opponents
from taskspace.spaces.space import TaskSpace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny):
    return open_run(tiny / "run")


@pytest.fixture(scope="module")
def kept(run, tmp_path_factory):
    return open_extract(
        write_extract(run, tmp_path_factory.mktemp("extract") / "tiny", permutations=49, progress=False)
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 6), st.booleans(), st.booleans(), st.integers(0, 999))
def test_a_space_comes_back_to_four_decimals(n, symmetric, bounds, seed):
    import pandas as pd

    rng, names = np.random.default_rng(seed), [f"t{i}" for i in range(n)]
    values = rng.normal(size=(n, n))
    if symmetric:
        values = values + values.T

    def frame(v):
        return pd.DataFrame(v, names, names)

    space = TaskSpace(
        frame(values), "transfer", {t: "g" for t in names}, *((frame(values - 1), frame(values + 1)) if bounds else ())
    )
    rows = space_rows(space)
    assert len(rows) == (n * (n + 1) // 2 if symmetric else n * n)
    again = space_of(rows, "transfer", space.groups)
    assert (
        again.tasks == names and np.abs(again.matrix - values).max(axis=None) < 5.1e-5
    )  # half a unit of the last decimal, and float32
    assert (again.low is None) == (not bounds)
    if bounds:
        assert np.abs(again.high - values - 1).max(axis=None) < 5.1e-5


def test_tables_say_what_steps_count(kept):
    assert set(kept.table("spaces")["unit"]) == set(kept.table("accuracy")["unit"]) == {"steps"}


def test_the_numbers_are_the_runs(run, kept):
    for scale in ("small", "large"):
        for step in (0, 1):
            for kind, control in (("transfer", "none"), ("transfer", "full"), ("cosine", "none"), ("overlap", "none")):
                options = {"control": control} if kind == "transfer" else {}
                whole, again = run.space(scale, step, kind=kind, **options), kept.space(scale, step, kind, control)
                assert np.abs(whole.matrix - again.matrix).max(axis=None) < 5.1e-5 and whole.groups == again.groups
    scores = run.scores("small", 1)
    told = kept.table("accuracy").query("scale == 'small' and step == 1").set_index("task")
    assert np.allclose(
        told["accuracy"], scores.groupby("task", sort=False, observed=True)["correct"].mean().loc[told.index], atol=1e-6
    )
    test = run.space("large", 1).within_across(permutations=49)
    row = (
        kept.table("tests").query("scale == 'large' and step == 1 and kind == 'transfer' and control == 'none'").iloc[0]
    )
    assert [row["within"], row["within_p"], row["within_low"]] == pytest.approx(
        [test.statistic, test.p, test.low], nan_ok=True
    )
    assert len(kept.table("curves")) == len(learning_curves(run)) and kept.study == public_study(run.study)


def test_it_is_small_and_says_from_what_it_was_computed(run, kept):
    assert sum(p.stat().st_size for p in kept.path.iterdir()) < 150_000
    about = json.loads((kept.path / "extract.json").read_text())
    assert (
        about["suite"]["digest"] == run.suite.digest
        and about["checkpoints"][0]["weights"] == run.checkpoints["weights"][0]
        and about["code"]
        and not about["missing"]
    )


def test_claims_can_be_judged_on_some_scales(run):
    def why(*scales):
        return claims_of(run, scales or None).set_index("claim")["why"]

    assert "two scales or more" in why("large")["c"] and "two scales or more" not in why()["c"]
    both = why()["b"]  # every model that was asked for, none in silence
    assert "small" in both and "large" in both
    assert "large" not in why("small")["b"] and "small" not in why("large")["b"]
    with pytest.raises(TaskspaceError, match="no scale 'huge'; there are: small, large"):
        claims_of(run, ["huge"])


def test_what_is_not_there_is_listed(kept):
    for wrong, said in (
        (dict(scale="huge"), "there are: small, large"),
        (dict(scale="small", step=7), "there are: 0, 1"),
        (dict(scale="small", control="masked"), "there are: none, full"),
        (dict(scale="small", kind="sign"), "transfer, cosine, overlap"),
    ):
        with pytest.raises(TaskspaceError, match=said):
            kept.space(**wrong)
    with pytest.raises(TaskspaceError, match="no table 'nothing'; there are: accuracy"):
        kept.table("nothing")


def test_nothing_half_written(run, tmp_path, tiny):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(TaskspaceError, match="not an older extract"):
        write_extract(run, tmp_path / "mine", progress=False)
    with pytest.raises(TaskspaceError, match="no scale"):
        write_extract(run, tmp_path / "new", ["huge"], permutations=9, progress=False)
    shutil.copytree(tiny / "run", tmp_path / "partial", ignore=shutil.ignore_patterns("report"))
    next(
        p for p in sorted((tmp_path / "partial").rglob("*.parquet")) if p.stem.split(".")[0] not in ("plan", "suite")
    ).unlink()
    done = CliRunner().invoke(app, ["extract", str(tmp_path / "partial"), "--out", str(tmp_path / "new")])
    assert done.exit_code != 0 and not (tmp_path / "new").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "partial"} and [
        p.name for p in (tmp_path / "mine").iterdir()
    ] == ["notes.txt"]
    with pytest.raises(TaskspaceError, match="taskspace extract RUN"):
        open_extract(tmp_path)


def test_an_extract_is_replaced_as_a_whole(run, tmp_path):
    write_extract(run, tmp_path / "kept", permutations=9, progress=False)
    header = json.loads((tmp_path / "kept" / "extract.json").read_text())
    header["checksums"]["old.parquet"] = "0"
    (tmp_path / "kept" / "extract.json").write_text(json.dumps(header))
    (tmp_path / "kept" / "old.parquet").write_bytes(b"")
    write_extract(run, tmp_path / "kept", permutations=9, progress=False)
    assert not (tmp_path / "kept" / "old.parquet").exists() and open_extract(tmp_path / "kept").table("claims")[
        "claim"
    ].tolist() == list("abcde")


def test_files_of_others_in_an_extract_are_never_removed(run, kept, tmp_path):
    folder = tmp_path / "kept"
    shutil.copytree(kept.path, folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "mine.svg").write_text("dear")
    for write in (lambda: write_extract(run, folder, permutations=9, progress=False), lambda: retest_extract(folder)):
        with pytest.raises(TaskspaceError, match=r"figures/mine.svg: is not part of the extract") as e:
            write()
        assert "\n" not in str(e.value) and (folder / "figures" / "mine.svg").read_text() == "dear"
    (tmp_path / "link").symlink_to(kept.path)
    with pytest.raises(TaskspaceError, match="is a symbolic link; name the folder that it leads to"):
        write_extract(run, tmp_path / "link", progress=False)


def test_a_list_of_files_leads_nowhere_else(kept, tmp_path):
    "An extract may come from someone else."
    folder = tmp_path / "kept"
    shutil.copytree(kept.path, folder)
    (tmp_path / "mine.txt").write_text("secret")
    header = json.loads((folder / "extract.json").read_text())
    header["checksums"]["../mine.txt"] = "0"
    (folder / "extract.json").write_text(json.dumps(header))
    retest_extract(folder, permutations=9, progress=False)
    assert "../mine.txt" not in json.loads((folder / "extract.json").read_text())["checksums"]
    assert (tmp_path / "mine.txt").read_text() == "secret"


def test_hypotheses_are_those_of_the_suite(run, kept):
    mine, theirs = kept.hypotheses(), opponents(run.suite)
    assert list(mine) == list(theirs)
    for name, space in theirs.items():
        assert np.abs(mine[name].matrix - space.matrix).max(axis=None) < 5.1e-5 and mine[name].groups == space.groups


def test_an_extract_is_tested_anew_from_what_it_holds(run, kept, tmp_path):
    shutil.copytree(kept.path, tmp_path / "kept")
    (tmp_path / "kept" / "hypotheses.parquet").unlink()
    with pytest.raises(TaskspaceError, match=r"holds no hypotheses; add them with retest_extract\(folder, suite\)"):
        retest_extract(tmp_path / "kept", progress=False)
    with pytest.raises(TaskspaceError, match="made of other sentences than suite"):
        retest_extract(tmp_path / "kept", run.suite.take(3), progress=False)
    retest_extract(tmp_path / "kept", run.suite, permutations=49, progress=False)
    first = open_extract(tmp_path / "kept")
    held = {name: first.table(name) for name in ("tests", "explained")}  # before the folder is another one
    retest_extract(tmp_path / "kept", permutations=49, progress=False)
    again = open_extract(tmp_path / "kept")
    for name in ("spaces", "accuracy", "curves"):
        assert again.table(name).equals(kept.table(name))
    # Hypotheses are kept to four decimals, so some ranks tie: measured 0.04 (p, 2 of 50 permutations) and 4e-4
    for name, moved in (("tests", 0.06), ("explained", 1e-3)):
        one, two = (t.select_dtypes("number").astype(float) for t in (held[name], again.table(name)))
        assert np.allclose(one, two, rtol=0, atol=moved, equal_nan=True)
    test = again.space("large", 1).within_across(permutations=49)
    row = (
        again.table("tests")
        .query("scale == 'large' and step == 1 and kind == 'transfer' and control == 'none'")
        .iloc[0]
    )
    assert [row["within"], row["within_low"], row["level"]] == [test.statistic, test.low, "tasks"]
    before, after = (e.table("claims").set_index("claim") for e in (kept, again))
    assert before.loc["a", "why"] == after.loc["a", "why"] and again.header["retested"]
    assert np.allclose(again.table("tests")["ceiling"], kept.table("tests")["ceiling"], equal_nan=True)


def test_stability_follows_the_steps_however_they_are_listed():
    import pandas as pd

    rng, names = np.random.default_rng(0), [f"t{i}" for i in range(6)]

    def space(step):
        values = np.random.default_rng(5).normal(size=(6, 6)) + step / 4 * np.random.default_rng(step).normal(
            size=(6, 6)
        )
        return TaskSpace(
            pd.DataFrame(values, names, names), "transfer", replicates=values + 0.1 * rng.normal(size=(50, 6, 6))
        )

    spaces = {step: space(step) for step in (1, 2, 4, 8)}
    right, wrong = (
        _stability({("nano", 1, step): spaces[step] for step in order}) for order in ((1, 2, 4, 8), (8, 1, 4, 2))
    )
    assert right["step"].tolist() == wrong["step"].tolist() == [1, 2, 4, 8]
    pd.testing.assert_frame_equal(right, wrong)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"format": 1, "stu',
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b"{}",
        b'{"study": 3, "checkpoints": [], "groups": {}}',
    ],
)
def test_a_damaged_extract_says_so_in_one_line(kept, tmp_path, text):
    shutil.copytree(kept.path, tmp_path / "kept")
    (tmp_path / "kept" / "extract.json").write_bytes(text)
    with pytest.raises(
        TaskspaceError, match=r"extract.json: damaged \(.+\); write the extract anew with taskspace extract RUN --out"
    ) as e:
        open_extract(tmp_path / "kept")
    assert "\n" not in str(e.value)


def test_a_cut_table_says_so_in_one_line(kept, tmp_path):
    shutil.copytree(kept.path, tmp_path / "kept")
    file = tmp_path / "kept" / "spaces.parquet"
    for size in (0, 3, file.stat().st_size // 2):
        file.write_bytes((kept.path / "spaces.parquet").read_bytes()[:size])
        with pytest.raises(TaskspaceError, match=r"spaces.parquet: damaged \(.+\); write the extract anew") as e:
            open_extract(tmp_path / "kept").space("small")
        assert "\n" not in str(e.value)


def test_a_table_that_is_another_one_is_not_believed(kept, tmp_path):
    import pandas as pd

    shutil.copytree(kept.path, tmp_path / "kept")
    file = tmp_path / "kept" / "spaces.parquet"
    table = pd.read_parquet(file)
    table.loc[0, "value"] += 1
    table.to_parquet(file, index=False)
    with pytest.raises(TaskspaceError, match=r"spaces.parquet: damaged \(it is not the file that was written\); write"):
        open_extract(tmp_path / "kept").space("small")


def test_a_scale_of_two_models_is_not_one_space(kept, tmp_path):
    import pandas as pd

    shutil.copytree(kept.path, tmp_path / "kept")
    table = (
        pd.read_parquet(tmp_path / "kept" / "spaces.parquet").astype({"scale": str}).assign(scale="nano")
    )  # as earlier versions allowed
    table.drop(columns="training").to_parquet(tmp_path / "kept" / "spaces.parquet", index=False)
    header = json.loads((tmp_path / "kept" / "extract.json").read_text())
    (tmp_path / "kept" / "extract.json").write_text(json.dumps({**header, "checksums": {}}))
    two = open_extract(tmp_path / "kept")
    with pytest.raises(TaskspaceError, match=r"'nano' has several trainings; name one: 1 \(small\), 2 \(large\)"):
        two.space("nano")
    assert two.space("nano", training=2).matrix.equals(kept.space("large").matrix)
    assert two.space("nano", training="small").matrix.equals(kept.space("small").matrix)
    with pytest.raises(TaskspaceError, match="'nano' has no training 3; there are: 1"):
        two.space("nano", training=3)
