"""Reports: whole or not at all, honest about what is missing, and every parameter checked."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.report import site as report
from taskspace.report.pages import methods, page
from taskspace.report.site import render_report, write_data
from taskspace.report.templates import check, check_parameters, execute, page_templates, parameters
from taskspace.runs.execute import run_study
from taskspace.runs.extract import write_extract
from taskspace.runs.results import open_run
from taskspace.runs.study import Study
from taskspace.runs.summaries import learning_curves, missing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny):
    return open_run(tiny / "run")


@pytest.fixture(scope="module")
def made(tiny):
    return tiny / "report" / "index.html"


def test_spaces_and_findings_of_a_run_are_read_without_torch(tiny):
    "Each page of a report runs in a process of its own and would wait for it."
    code = f"""
import sys
from taskspace.runs.results import open_run
from taskspace.runs.summaries import findings_of
run = open_run({str(tiny / "run")!r})
run.space("large"), run.space("large", kind="cosine"), findings_of(run)
print([m for m in ("torch", "transformers") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["summary", "scale", "training", "correlates"])
def test_what_a_page_imports_loads_no_torch(name):
    cells = nbformat.read(page_templates()[name], 4).cells
    parsed = [ast.parse(c.source) for c in cells if c.cell_type == "code"]
    imports = [ast.unparse(n) for tree in parsed for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    code = "\n".join(["import sys", *imports, "print([m for m in ('torch', 'transformers') if m in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_report_has_all_its_pages_and_names_its_models(made):
    pages = {p.name for p in made.parent.glob("*.html")}
    assert pages >= {"index.html", "scale-small.html", "scale-large.html", "training.html", "methods.html", "data.html"}
    assert "Verdicts on the claims" in made.read_text(encoding="utf-8")


def test_all_links_of_a_report_lead_somewhere(made):
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
    import docs

    assert docs.broken(made.parent) == []


def test_a_report_needs_no_network(made):
    for path in made.parent.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "cdn.jsdelivr" not in text and "fonts.googleapis" not in text
    assert (made.parent / "assets" / "vega.js").stat().st_size > 500_000


def test_methods_state_what_was_computed_from_what(made, run):
    text = (made.parent / "methods.html").read_text(encoding="utf-8")
    for part in (run.checkpoints["weights"][0][:16], run.suite.digest[:16], "train_pairs", "transformers"):
        assert part in text
    text = " ".join(text.split())
    assert "the model was tuned in place" in text and "put back bit for bit" in text and "copy of the model" not in text


def test_the_data_are_the_runs_numbers(made, run):
    data = made.parent / "data"
    scores = pd.read_parquet(data / "scores.parquet")
    assert len(scores) == len(run.scores()) and scores["margin"].equals(run.scores()["margin"])
    spaces = pd.read_csv(data / "spaces.csv")
    space = run.space("small", 1)
    own = (spaces.model == "small") & (spaces.step == 1) & (spaces.kind == "transfer") & (spaces.control == "none")
    cell = spaces[own].set_index(["source", "target"])["value"]
    a, b = space.tasks[:2]
    assert cell[a, b] == pytest.approx(space.matrix.loc[a, b], rel=1e-12)


def test_missing_results_are_refused_then_named(run, tmp_path, monkeypatch):
    real = report.execute

    def summary_alone(name, out, given):
        if name == "summary":
            return real(name, out, given)
        out.write_text(
            json.dumps(
                {
                    "cells": [{"cell_type": "markdown", "metadata": {}, "source": f"# {name}"}],
                    "metadata": {},
                    "nbformat": 4,
                    "nbformat_minor": 4,
                }
            )
        )
        return out

    monkeypatch.setattr(report, "execute", summary_alone)
    part = tmp_path / "part"
    shutil.copytree(run.path, part)
    gone = [j for j in run.plan.itertuples() if j.kind == "transfer" and j.model == "large" and j.step == 1][:2]
    for job in gone:
        for path in part.glob(f"results/*/{job.key}.*"):
            path.unlink()
    with pytest.raises(TaskspaceError, match=r"2 of \d+ results are missing, first transfer large step 1") as refusal:
        render_report(part, tmp_path / "out", progress=False)
    assert (
        "\n" not in str(refusal.value)
        and not (tmp_path / "out").exists()
        and [p.name for p in tmp_path.iterdir()] == ["part"]
    )
    with pytest.raises(TaskspaceError, match="gate: an accuracy lies between 0 and 1, not at 2"):
        render_report(part, tmp_path / "out", partial=True, progress=False, gate=2)
    page = render_report(part, tmp_path / "out", partial=True, progress=False, gate=0.4)
    text = page.read_text(encoding="utf-8")
    assert "Judged on tasks with accuracy of 0.4 or more: small" in text and "What each model says alone" in text
    assert "A partial report" in text and all(job.source in text for job in gone)


def test_a_damaged_result_is_a_missing_one(run, tmp_path, capsys):
    part = tmp_path / "part"
    shutil.copytree(run.path, part)
    job = next(j for j in run.plan.itertuples() if j.kind == "transfer" and j.model == "large" and j.step == 1)
    (path,) = part.glob(f"results/*/{job.key}.*")
    data = path.read_bytes()
    one_bit = data[:-1] + bytes([data[-1] ^ 1])  # as long as the log says
    for damaged in (data[: len(data) // 2], one_bit):
        path.write_bytes(damaged)
        gone = missing(open_run(part))
        assert gone[["model", "step", "kind", "state", "jobs", "sources"]].values.tolist() == [
            ["large", 1, "transfer", "missing", 1, job.source]
        ]
        with pytest.raises(
            TaskspaceError,
            match=rf"1 of \d+ results are missing, first transfer large step 1 {job.source}; .*--partial",
        ):
            render_report(part, tmp_path / "out", progress=False)
        with pytest.raises(TaskspaceError, match=r"1 of \d+ results are missing.*--partial"):
            write_extract(open_run(part), tmp_path / "out", progress=False)
        with pytest.raises(SystemExit) as e:
            main(["report", str(part), "--out", str(tmp_path / "out")])
        assert (
            e.value.code == 2 and "results are missing" in capsys.readouterr().err and not (tmp_path / "out").exists()
        )
        assert f"{len(run.plan) - 1} of {len(run.plan)} jobs are done" in methods(open_run(part))


def test_a_report_holds_what_it_was_rendered_from(made, tmp_path):
    config = yaml.safe_load((made.parent / "_quarto.yml").read_text(encoding="utf-8"))
    assert config["website"]["title"] == open_run(made.parent.parent / "run").study.name
    for name in report._SOURCES:
        for path in made.parent.glob(name):
            shutil.copy(path, tmp_path)
    assert (tmp_path / config["format"]["html"]["css"]).is_file() and (
        tmp_path / config["format"]["html"]["include-in-header"]
    ).is_file()
    assert {e["href"] for e in config["website"]["navbar"]["left"]} == {p.name for p in tmp_path.glob("*.[im][pd]*")}
    site = report.render(tmp_path)
    assert {p.name for p in site.glob("*.html")} == {p.name for p in made.parent.glob("*.html")}


def test_nothing_half_written_stays_when_a_page_fails(run, made, tmp_path, monkeypatch):
    out = tmp_path / "report"
    shutil.copytree(made.parent, out)
    before = {p.name: p.read_bytes() for p in out.glob("*.html")}
    monkeypatch.setattr(
        report, "execute", lambda *a, **k: (_ for _ in ()).throw(TaskspaceError("template 'scale': broke"))
    )
    with pytest.raises(TaskspaceError, match="broke"):
        render_report(run, out, progress=False)
    assert {p.name: p.read_bytes() for p in out.glob("*.html")} == before and [p.name for p in tmp_path.iterdir()] == [
        "report"
    ]


def test_a_folder_with_other_things_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(TaskspaceError, match="is not empty and not an older report"):
        render_report(run, tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(TaskspaceError, match="is a file"):
        render_report(run, tmp_path / "thesis.txt", progress=False)


def test_files_of_others_in_a_report_are_never_removed(run, made, tmp_path):
    shutil.copytree(made.parent, tmp_path / "report")
    (tmp_path / "report" / "notebooks" / "mine.ipynb").write_text("dear")
    with pytest.raises(TaskspaceError, match="notebooks/mine.ipynb: is not part of the report, which would be") as e:
        render_report(run, tmp_path / "report", progress=False)
    assert "\n" not in str(e.value) and (tmp_path / "report" / "notebooks" / "mine.ipynb").read_text() == "dear"


def test_a_report_takes_no_place_that_it_would_break(run, made, tmp_path, monkeypatch, capsys):
    "A link would become a folder; a shell that stands in a folder would lose it."
    (tmp_path / "here" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(made.parent)
    monkeypatch.chdir(tmp_path / "here" / "below")
    cases = ((".", "is the working folder, or holds it"), ("..", "is the working folder"), ("../../link", "symbolic"))
    for out, says in cases:
        for more in ([], ["--single-file"]):
            with pytest.raises(SystemExit) as e:
                main(["report", str(run.path), "-o", out, *more])
            said = capsys.readouterr().err.strip()
            assert e.value.code == 2 and says in said and "\n" not in said
    assert Path.cwd() == tmp_path / "here" / "below" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["scale", "summary", "training"])
def test_parameters_are_documented_and_checked(name):
    table = parameters(name)
    assert (
        len(table) and (table["meaning"].str.len() > 10).all() and set(table["type"]) <= {"str", "int", "bool", "float"}
    )
    with pytest.raises(TaskspaceError, match="has no parameter 'rnu'; did you mean 'run'"):
        check_parameters(name, {"rnu": "x"})
    with pytest.raises(TaskspaceError, match="run must be str, not 3"):
        check_parameters(name, {"run": 3})


def test_a_template_refuses_what_papermill_lets_through(tmp_path):
    "Papermill itself only warns of an unknown name; the template's own check ends the notebook."
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match="has no parameter 'modle'; did you mean 'model'"):
        papermill.execute_notebook(
            str(page_templates()["scale"]), str(tmp_path / "out.ipynb"), parameters={"modle": "x"}, progress_bar=False
        )


def test_truth_values_are_no_numbers():
    with pytest.raises(TaskspaceError, match="step must be int"):
        check_parameters("scale", {"step": True})
    check("scale", {"run": "", "model": "x", "_private": 3, "check": check})


def test_errors_inside_a_notebook_come_as_one_line(tmp_path):
    with pytest.raises(TaskspaceError, match=r"template 'scale': TaskspaceError in cell \d+: .*nowhere") as error:
        execute("scale", tmp_path / "out.ipynb", {"run": str(tmp_path / "nowhere")})
    assert "\n" not in str(error.value)


def test_pages_hide_code_and_keep_what_it_showed():
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n> What it\n> is about."),
        nbformat.v4.new_code_cell("secret = 1"),
        nbformat.v4.new_code_cell(
            "chart",
            outputs=[
                nbformat.v4.new_output(
                    "display_data", {"application/vnd.vegalite.v5+json": {}, "text/html": "<b>", "text/plain": "b"}
                )
            ],
        ),
    ]
    shown = page(nbformat.v4.new_notebook(cells=cells))
    front = "".join(shown["cells"][0]["source"])
    assert "title: Title" in front and "description: What it is about." in front
    assert "secret" not in json.dumps(shown) and shown["cells"][1]["outputs"][0]["data"] == {
        "text/markdown": ["```{=html}\n", "<b>\n", "```\n"]
    }


def test_nothing_is_missing_in_a_finished_run(run):
    assert missing(run).empty and list(missing(run)) == [
        "model",
        "step",
        "unit",
        "revision",
        "kind",
        "control",
        "state",
        "jobs",
        "sources",
    ]


def test_data_of_a_study_without_probes(tmp_path, run):
    study = Study(**{**run.study.model_dump(), "probes": ["score"], "controls": []})
    only = run_study(study, tmp_path / "run", workers=0, progress=False)
    assert set(write_data(only, tmp_path / "data")["file"]) == {
        "scores.parquet",
        "scores.csv",
        "accuracy.parquet",
        "accuracy.csv",
        "checkpoints.parquet",
        "checkpoints.csv",
        "jobs.parquet",
        "jobs.csv",
        "study.yaml",
    }


def test_steps_that_were_not_measured_are_no_part_of_a_curve():
    from types import SimpleNamespace

    log = pd.DataFrame(
        {
            "source": "t",
            "seed": 0,
            "step": range(5),
            "eval_margin": [1.0, None, 2.0, None, 4.0],
            "perplexity": [10.0, None, 20.0, None, 10.0],
        }
    )
    fake = SimpleNamespace(
        checkpoints=pd.DataFrame({"model": ["m"], "scale": ["s"], "training": [1]}),
        tuning=lambda model, control: log if control == "none" else log.head(0),
    )
    found = learning_curves(fake)
    assert (
        found["step"].tolist() == [0, 2, 4]
        and found["gain"].tolist() == [0.0, 1.0, 3.0]
        and found["harm"].round(6).tolist() == [0.0, 0.693147, 0.0]
    )


def test_a_kernel_imports_nothing_from_where_a_report_is_made(run, tmp_path, monkeypatch):
    "Neither from the current directory nor from the run; braces in a path are part of it."
    place = tmp_path / "runs" / "{model} {0} {"
    shutil.copytree(run.path, place)
    for name in ("altair", "pandas", "taskspace", "ipykernel_launcher", "IPython", "json"):
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'obeyed')!r}, 'w')")
    monkeypatch.chdir(place)
    out = execute("scale", "out.ipynb", {"run": ".", "model": "small"})
    notebook = json.loads(out.read_text(encoding="utf-8"))
    assert not (tmp_path / "obeyed").exists() and Path.cwd() == place
    assert "figures" in json.dumps(notebook["cells"])
    assert "papermill" not in notebook["metadata"] and "papermill" not in notebook["cells"][-1]["metadata"]


def test_no_table_has_a_head_only(made):
    for path in made.parent.glob("*.html"):
        assert not re.search(r"<tbody>\s*</tbody>", path.read_text(encoding="utf-8")), path.name
