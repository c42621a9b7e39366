"""Models, runs and files compared: the same figures from each source, and scipy's p for two checkpoints."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import taskspace
from taskspace.claims.comparing import compare_scores
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.models.loading import load_lm
from taskspace.report.escaping import in_csv
from taskspace.report.exports import write_lm_eval
from taskspace.runs.execute import example_run, run_study
from taskspace.runs.model_comparison import compare_models, last_run_scores, rank_models, read_scores, score_tables
from taskspace.runs.results import open_run
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.catalogue import load_suite

WORDS = "blimp; prefix auto (token 0); no leading space; sum of log-probabilities; ties count one half"


@pytest.fixture(scope="module")
def suite():
    return load_suite("builtin").take(6)


@pytest.fixture(scope="module")
def mini(suite):
    "Scores of two checkpoints of mini."
    return [score_pairs(load_lm(f"builtin:mini@{step}"), suite) for step in (32, 128)]


def said(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(list(map(str, args)))
    return e.value.code, *capsys.readouterr()


def test_two_checkpoints_of_mini_give_the_p_of_scipy(mini):
    early, late = (scores["correct"].to_numpy() for scores in mini)
    found = taskspace.compare_models(*mini).iloc[0]
    a, b = int((early > late).sum()), int((early < late).sum())
    assert b > a > 0 and found.p == binomtest(a, a + b, 0.5).pvalue < 1e-5
    by_task = [scores.groupby("task")["correct"].mean().mean() for scores in mini]
    assert found.difference == pytest.approx(by_task[0] - by_task[1])


def test_pairs_that_share_a_name_count_once_in_a_run(tmp_path):
    frame = load_suite("builtin").take(6).to_frame()
    frame = frame[frame["task"].isin(frame["task"].unique()[:3])]
    frame.assign(pair=frame.groupby("task").cumcount() // 2, language="eng").to_csv(tmp_path / "items.csv", index=False)
    study = {"suite": str(tmp_path / "items.csv"), "probes": ["score"], "checkpoints": [96, 256]}
    run = run_study({**study, "models": ["builtin:nano"]}, tmp_path / "run", workers=0, progress=False)
    scores = last_run_scores(run)["builtin:nano"]
    assert len(scores) == 18 and set(scores["language"]) == {"eng"}
    pd.testing.assert_series_equal(scores["margin"], run.scores(step=256)["margin"].reset_index(drop=True))
    found = compare_models(run, scores.assign(margin=0.0), draws=50).iloc[0]
    assert (found.tasks, found.pairs) == (3, 18)
    write_lm_eval(run, tmp_path / "out")
    said = json.loads(next((tmp_path / "out").rglob("*.json")).read_text())
    assert all(n["effective"] == 6 for n in said["n-samples"].values())


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_names_with_signs_and_apostrophes_come_back(tmp_path, ending):
    names = ["=q", "'=q", "''=q", "'q", "'", "+", "a'=q"]
    table = pd.DataFrame({"task": names, "pair": "0", "margin": 1.0, "correct": 1.0})
    in_csv(table).to_csv(tmp_path / f"x.{ending}", index=False, sep="," if ending == "csv" else "\t")
    assert read_scores(tmp_path / f"x.{ending}")["task"].tolist() == names


def test_sources_that_share_a_name_are_told_apart(mini, tmp_path):
    "Also where a file is called as another one would be."
    names = ["s", "s (2)", "s (3)"]
    paths = [tmp_path / folder / f"{name}.parquet" for folder in ("a", "b") for name in names]
    for k, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        mini[0].assign(margin=float(k)).to_parquet(path)
    one, two, three, *others = paths
    for sources in (paths, [one, others[0], two, three], [one, three, others[0], others[2]]):
        found = score_tables(*sources)
        margins = {name: table["margin"].iloc[0] for name, table in found.items()}
        assert list(margins.values()) == [paths.index(p) for p in sources]
        assert all(margins[p.stem] == paths.index(p) for p in sources if p.parent.name == "a")
    assert list(score_tables(one, others[0])) == ["s", "s (2)"]


def test_files_of_every_kind_give_what_tables_give(mini, tmp_path):
    early, late = mini
    expected = compare_models(early, late)
    late.to_parquet(tmp_path / "late.parquet")
    for ending, separator in (("csv", ","), ("tsv", "\t"), ("jsonl", None)):
        path, text = tmp_path / f"early.{ending}", early.assign(convention=WORDS)
        text.to_json(path, orient="records", lines=True, double_precision=15) if separator is None else text.to_csv(
            path, sep=separator, index=False
        )
        found = compare_models(path, tmp_path / "late.parquet")
        assert found.attrs == {"a": "early", "b": "late"}
        # Decimals of JSON lose 1e-15 of a margin
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_names_of_pairs_stay_texts(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("task,pair,margin,correct\nt,007,1,1\nt,'-1,1,1\nNA,1e3,1,1\n")
    found = read_scores(path)
    assert found["pair"].tolist() == ["007", "-1", "1e3"] and found["task"].tolist() == ["t", "t", "NA"]
    path = tmp_path / "s.jsonl"
    path.write_text('{"task": "t", "pair": "007", "margin": 1, "correct": 1}\n')
    assert read_scores(path)["pair"].tolist() == ["007"]


@pytest.mark.slow
def test_a_run_gives_the_last_checkpoint_of_each_model():
    run = example_run()
    tables = last_run_scores(run)
    assert list(tables) == list(dict.fromkeys(run.checkpoints["model"]))
    for model, table in tables.items():
        last = run.checkpoints.loc[run.checkpoints["model"] == model, "step"].max()
        expected = run.scores(model, int(last))
        assert np.array_equal(table["margin"], expected["margin"]) and table["language"].notna().all()
    both = compare_models(run)
    assert both.attrs == dict(zip("ab", tables, strict=True))
    pd.testing.assert_frame_equal(both, compare_models(*tables.values()))
    assert len(rank_models(run.path)) == len(tables)


def test_a_name_is_a_model_and_needs_a_suite(suite):
    assert list(score_tables("builtin:nano@64", suite=suite)) == ["builtin:nano@64"]
    with pytest.raises(TaskspaceError, match="a model is scored on a suite; give one"):
        compare_models("builtin:nano", "builtin:nano@64")
    with pytest.raises(TaskspaceError, match="1 models .* where two are compared"):
        compare_models("builtin:nano", suite=suite)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", "", "not a readable .csv file"),
        ("other.csv", "a,b\n1,2\n", "no column 'task'"),
        ("broken.parquet", "PAR1", "not a readable .parquet file"),
        ("broken.jsonl", "{oops", "line 1: not valid JSON"),
        ("twice.csv", "task,pair,margin,correct,margin\nt,0,1,1,-1\n", "has column 'margin' more than once"),
        (
            "twice.jsonl",
            '{"task": "t", "pair": "0", "margin": 1, "correct": 1, "margin": -1}\n',
            "line 1: 'margin' is given twice",
        ),
        ("x" * 300 + ".csv", None, "the name is too long"),
    ],
)
def test_files_that_are_no_scores_are_refused_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(TaskspaceError) as e:
        read_scores(path)
    assert says in str(e.value) and "\n" not in str(e.value)
    assert str(path) in str(e.value) or len(name) > 255


@pytest.mark.parametrize(("column", "value"), [("correct", 7), ("correct", -1), ("correct", "yes"), ("margin", "x")])
def test_scores_that_are_none_are_named(column, value):
    sound = pd.DataFrame({"task": "t", "pair": ["0", "1"], "margin": [1.0, -1.0], "correct": [1.0, 0.0]})
    with pytest.raises(TaskspaceError, match=f"b: {column} .*{value}"):
        compare_scores(sound, sound.assign(**{column: value}), ("a", "b"))


def test_the_command_compares_and_writes(mini, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, scores in zip(("early", "late"), mini, strict=True):
        scores.to_parquet(f"{name}.parquet")
    status, out, _ = said(capsys, "compare", "late.parquet", "early.parquet", "-o", "table.csv")
    found = pd.read_csv("table.csv").iloc[0]
    assert status == 0 and out.startswith("A: late\nB: early\n")
    line = next(line for line in out.splitlines() if line.startswith("all tasks"))
    assert f"{100 * found.difference:+.1f}" in line and f"{found.p:.2g}" in line
    mini[0].to_parquet("again.parquet")
    status, out, _ = said(capsys, "compare", "late.parquet", "early.parquet", "again.parquet")
    groups = {line.split()[0]: line.split()[-1] for line in out.splitlines()[1:4]}
    assert status == 0 and groups == {"late": "a", "early": "b", "again": "b"}
    mini[0].iloc[1:].to_parquet("short.parquet")
    status, out, err = said(capsys, "compare", "late.parquet", "short.parquet")
    assert status == 2 and err.count("\n") == 1 and "--common" in err
    assert said(capsys, "compare", "late.parquet", "short.parquet", "--common")[0] == 0


@pytest.mark.slow
def test_models_of_a_run_without_scores_are_named(tiny, tmp_path):
    shutil.copytree(tiny / "run", tmp_path / "part")
    run = open_run(tmp_path / "part")
    job = next(j for j in run.plan.itertuples() if j.kind == "score" and j.model == "large" and j.step == 1)
    next((tmp_path / "part").glob(f"results/*/{job.key}.*")).unlink()
    with pytest.warns(UserWarning, match="part: large left out, not scored yet; finish the run"):
        assert list(score_tables(tmp_path / "part")) == ["small"]
