"""A user's table beside a run, a file and a model, in Python, at the command line and as a page."""

import json
import re

import pandas as pd
import pytest

import taskspace
from taskspace.claims.correlates import correlate
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.report.site import render_report
from taskspace.report.templates import execute
from taskspace.runs.execute import example_run
from taskspace.runs.model_comparison import last_run_scores
from taskspace.runs.run_correlates import _at, correlate_run, correlate_sources, read_correlates


@pytest.fixture(scope="module")
def run():
    return example_run()


@pytest.fixture(scope="module")
def table(run):
    return pd.DataFrame({"task": [t.name for t in run.suite], "number": range(len(run.suite))})


@pytest.fixture(scope="module")
def found(run, table):
    return correlate_run(run, table, permutations=99)


def said(capsys, *args):
    with pytest.raises(SystemExit) as e:
        main(list(map(str, args)))
    return e.value.code, *capsys.readouterr()


@pytest.mark.slow
def test_a_run_gives_what_its_scores_and_spaces_give(run, table, found):
    for model, scores in last_run_scores(run).items():
        own = found[found["model"] == model].reset_index(drop=True)
        alone = correlate(scores, table, permutations=99)
        pd.testing.assert_frame_equal(
            own.iloc[: len(alone)][["measure", "correlation", "p"]], alone[["measure", "correlation", "p"]]
        )
        space = correlate(run.space(model), table, permutations=99)
        cells = own[own["measure"] == "margin transfer"]
        assert cells["correlation"].to_list() == space["correlation"].to_list()
        assert {"gives", "receives", "gradient cosine"} <= set(own["measure"])


@pytest.mark.slow
def test_a_table_by_checkpoint_is_taken_to_all_models(run):
    at = run.checkpoints[["model", "step"]].assign(seen=lambda f: f["step"].astype(float) ** 0.5)
    found = correlate_run(run, at)
    assert {"accuracy", "margin", "AUC within phenomena"} == set(found["measure"])
    assert (found[found["measure"] == "margin"]["correlation"] > 0).all() and found["p"].isna().all()


@pytest.mark.slow
def test_the_command_prints_and_writes_the_same(run, table, found, tmp_path, capsys):
    table.to_csv(tmp_path / "mine.csv", index=False)
    out = tmp_path / "out.parquet"
    status, text, _ = said(capsys, "correlate", run.path, "--table", tmp_path / "mine.csv", "-o", out)
    written = pd.read_parquet(out)
    assert status == 0 and written["correlation"].to_list() == pytest.approx(found["correlation"].to_list())
    first = found.iloc[0]
    shown = re.escape(f"{first['correlation']:+.2f}")
    assert re.search(rf"number +accuracy +tasks +{first['n']} +{shown} ", text)
    assert len(text.splitlines()) == 1 + (found["method"] == "spearman").sum()
    for name, content, says in (
        ("mine.csv", "task,number\na,1\nb,two\n", "line 3: number is 'two', which is no number"),
        ("mine.csv", "task,number\na,1\nb,2\n", "number: 0 tasks have a value and a measurement"),
        ("mine.csv", "word\na\n", "no column task, model or step"),
        ("mine.txt", "", "unknown ending"),
    ):
        (tmp_path / name).write_text(content)
        status, _, error = said(capsys, "correlate", run.path, "--table", tmp_path / name)
        assert status == 2 and says in error and error.count("\n") == 1


def test_files_of_scores_and_tables_by_pair(run, tmp_path):
    scores = last_run_scores(run)
    model = next(iter(scores))
    scores[model].drop(columns="language").to_csv(tmp_path / "scores.csv", index=False)
    by_pair = scores[model][["task", "pair"]].assign(length=scores[model]["tokens_good"].astype(float))
    by_pair.to_csv(tmp_path / "pairs.csv", index=False)
    read = read_correlates(tmp_path / "pairs.csv")
    found = correlate_sources(tmp_path / "scores.csv", table=read, permutations=49)
    alone = taskspace.correlate(scores[model], by_pair, permutations=49)
    assert list(found["among"].unique()) == ["tasks", "pairs of a task", "all pairs"]
    assert found["correlation"].to_list() == pytest.approx(alone["correlation"].to_list())


@pytest.mark.slow
def test_the_page_has_the_figures(run, table, found, tmp_path):
    table.to_csv(tmp_path / "mine.csv", index=False)
    given = {"run": str(run.path), "table": str(tmp_path / "mine.csv")}
    page = json.loads(execute("correlates", tmp_path / "page.ipynb", given).read_text())
    outputs = [o.get("data", {}) for c in page["cells"] for o in c.get("outputs", [])]
    html = "".join("".join(o.get("text/html", "")) for o in outputs)
    assert html.count("<tr>") == len(found) and f"{found['correlation'].iloc[0]:+.2f}" in html
    assert any("16 rows" in "".join(o.get("text/markdown", "")) for o in outputs)


@pytest.mark.slow
def test_the_page_takes_columns_of_any_name(run, table, tmp_path):
    names = [
        "accuracy",
        "value",
        "column",
        "self",
        "correct",
        "margin",
        "x",
        "y",
        "index",
        "correlation",
        "a.b",
        "x[0]",
    ]
    many = table.assign(**{name: range(len(table)) for name in names if name != "self"})
    many["self"] = range(len(table))
    many.to_csv(tmp_path / "mine.csv", index=False)
    given = {"run": str(run.path), "table": str(tmp_path / "mine.csv")}
    page = execute("correlates", tmp_path / "page.ipynb", given).read_text()
    assert all(f"Accuracy against {name}" in page for name in names)


def test_a_report_refuses_a_bad_table_at_once(run, tmp_path):
    (tmp_path / "mine.csv").write_text("word\na\n")
    with pytest.raises(TaskspaceError, match=r"mine.csv: the table has no column task"):
        render_report(run, tmp_path / "report", values={"table": str(tmp_path / "mine.csv")})


def test_a_checkpoint_has_its_own_auc():
    "Kept as `checkpoint_places` names places: by step, by revision, and the last one without a step by neither."
    aucs, last = {("m", 10): 0.6, ("n", "early"): 0.7, ("n", None): 0.8}, {"m": None, "n": "late"}

    def auc(model, step, revision):
        return _at(aucs, pd.Series({"model": model, "step": step, "revision": revision}), last)

    assert (auc("m", 10, None), auc("n", None, "early"), auc("n", float("nan"), "late")) == (0.6, 0.7, 0.8)
    assert pd.isna(auc("m", 30, None)) and pd.isna(auc("n", None, "between"))
