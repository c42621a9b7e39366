"""What a paper takes from a run: figures equal the report's, other tools read the files, fonts are embedded."""

import hashlib
import json
import re
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from taskspace.claims.means import accuracy_intervals
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.report import exports
from taskspace.report.exports import (
    draw,
    export_run,
    ExportOptions,
    latex_table,
    paper_tables,
    report_charts,
    WIDTHS,
    write_lm_eval,
)
from taskspace.report.renderer import MIME, mimebundle
from taskspace.runs.model_comparison import last_run_scores
from taskspace.runs.results import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny):
    return open_run(tiny / "run")


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    "Every kind of export but the figures, by kind."
    top, options = tmp_path_factory.mktemp("made"), ExportOptions(licence="cc-by-4.0", authors=("Doe, Jo", "Roe, R."))
    for kind in ("latex", "csv", "lm-eval", "hub", "archive"):
        export_run(run, kind, top / kind, options)
    return top


def test_csv_has_the_numbers_of_the_report(made, tiny):
    for path in sorted((tiny / "report" / "data").glob("*.parquet")):
        expected, found = pd.read_parquet(path), pd.read_csv(made / "csv" / f"{path.stem}.csv", low_memory=False)
        assert list(found) == list(expected) and len(found) == len(expected), path.stem
        for name in expected.select_dtypes("number"):
            assert np.allclose(found[name], expected[name].astype(float), rtol=1e-12, equal_nan=True), (path.stem, name)


def test_latex_has_the_numbers_of_the_tables(made, run):
    text = (made / "latex" / "accuracy.tex").read_text()
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") == 1
    table, _ = paper_tables(run)["accuracy"]
    rows = [line for line in text.split("\\midrule")[1].split("\\bottomrule")[0].splitlines() if line.strip()]
    assert len(rows) == len(table)
    for row, r in zip(rows, table.itertuples(), strict=True):
        assert f" {r.accuracy:.3g} & [{r.accuracy_pairs_low:.3g}, {r.accuracy_pairs_high:.3g}]" in row
    scores = last_run_scores(run)
    assert table.iloc[0].accuracy == accuracy_intervals(scores[table.iloc[0].model]).iloc[0].accuracy


def test_no_sign_of_a_text_is_a_command_of_latex():
    hostile = "a_b & 50 % of $x$ #1 {c} \\input{/etc/passwd} ~ ^ <i>"
    text = latex_table(pd.DataFrame({"name": [hostile]}), hostile, "x")
    assert "\\input" not in text and "\\textbackslash{}input\\{/etc/passwd\\}" in text
    body = text.split("\\midrule")[1].split("\\\\")[0]
    assert not re.search(r"(?<!\\)[&%#_]", body)


def test_lm_eval_reads_its_results(made, run):
    utils = pytest.importorskip("lm_eval.utils", reason="lm_eval is not installed: pip install -e '.[peers]'")
    for model, scores in last_run_scores(run).items():
        folder = made / "lm-eval" / utils.sanitize_model_name(model)
        results = json.loads(next(folder.glob("results_*.json")).read_text())
        table = utils.make_table(results)
        for task, own in scores.groupby("task"):
            line = next(line for line in table.splitlines() if re.match(rf"\| *-? *{re.escape(task)} *\|", line))
            error = own["correct"].std(ddof=1) / len(own) ** 0.5
            assert re.search(rf"\|acc +\|↑ +\|{own['correct'].mean():7.4f}\|± +\|{error:6.4f}\|", line), line
        assert "N/A" not in results["results"][task].values()
        assert utils.make_table(results, "groups").count("\n") > len(results["groups"])


def test_datasets_reads_the_folder_for_the_hub(made, tiny, tmp_path):
    import datasets
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(made / "hub" / "README.md")
    assert card.data.license == "cc-by-4.0" and "Doe, Jo and Roe, R." in card.text
    names = {c["config_name"] for c in card.data.to_dict()["configs"]}
    assert names == {p.stem for p in (made / "hub" / "data").glob("*.parquet")} and "scores" in names
    loaded = datasets.load_dataset(str(made / "hub"), "accuracy", split="train", cache_dir=str(tmp_path)).to_pandas()
    expected = pd.read_parquet(tiny / "report" / "data" / "accuracy.parquet")
    assert loaded["accuracy"].tolist() == expected["accuracy"].tolist()
    assert str(tiny) not in "".join(p.read_text() for p in (made / "hub").glob("*.*") if p.suffix in (".md", ".yaml"))


def test_an_archive_can_be_checked_and_comes_out_the_same(made, run, tmp_path):
    path = next((made / "archive").glob("*.zip"))
    with zipfile.ZipFile(path) as archive:
        sums = [line.split("  ", 1) for line in archive.read("SHA256SUMS").decode().splitlines()]
        assert {name for _, name in sums} | {"SHA256SUMS"} == set(archive.namelist())
        assert all(hashlib.sha256(archive.read(name)).hexdigest() == digest for digest, name in sums)
        about = json.loads(archive.read(".zenodo.json"))
    assert about["creators"] == [{"name": "Doe, Jo"}, {"name": "Roe, R."}] and about["license"] == "cc-by-4.0"
    options = ExportOptions(licence="cc-by-4.0", authors=("Doe, Jo", "Roe, R."))
    assert export_run(run, "archive", tmp_path / "a", options)[0].read_bytes() == path.read_bytes()


@pytest.mark.parametrize("width", list(WIDTHS))
def test_figures_have_the_width_of_print_and_embed_their_fonts(tiny, tmp_path, width):
    charts = report_charts(tiny / "report")
    assert len(charts) > 3 and len({name.rsplit("-", 1)[0] for name in charts}) > 2
    for name, spec in list(charts.items())[:2]:
        svg = draw(spec, tmp_path / f"{name}.svg", width).read_text()
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) / 72 * 25.4 == pytest.approx(WIDTHS[width], abs=0.01)
        pdf = draw(spec, tmp_path / f"{name}.pdf", width).read_bytes()
        box = [float(n) for n in re.search(rb"/MediaBox ?\[([^]]*)\]", pdf)[1].split()]
        # Half a point is 0.2 mm
        assert box[2] == pytest.approx(WIDTHS[width] / 25.4 * 72, abs=1) and b"/FontFile" in pdf


def test_every_chart_of_the_report_is_exported(run, tiny, tmp_path):
    files = export_run(run, "figures", tmp_path / "figures", ExportOptions(report=tiny / "report"))
    pages = "".join(p.read_text() for p in sorted((tiny / "report").glob("*.html")))
    assert len(files) == 2 * pages.count('class="taskspace-chart"') and all(p.stat().st_size > 500 for p in files)


def test_what_cannot_be_exported_is_said_in_one_line(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for kind, out, says in (
        ("word", "new", "--to word: unknown"),
        ("csv", "full", "is not empty and not an older export"),
    ):
        with pytest.raises(TaskspaceError, match=says):
            export_run(run, kind, tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]
    with pytest.raises(TaskspaceError, match="--width poster: choose one of column, page"):
        draw(mimebundle({"mark": "point"})["application/vnd.vegalite.v5+json"], tmp_path / "x.svg", "poster")
    with pytest.raises(TaskspaceError, match="no report; make it first with taskspace report"):
        export_run(run, "figures", tmp_path / "none")


def test_files_of_others_in_an_export_are_never_removed(run, tmp_path):
    export_run(run, "latex", tmp_path / "tables")
    export_run(run, "csv", tmp_path / "tables")
    assert not list((tmp_path / "tables").glob("*.tex"))
    (tmp_path / "tables" / "mine.tex").write_text("dear")
    with pytest.raises(TaskspaceError, match="mine.tex: is not part of the export, which would be replaced"):
        export_run(run, "latex", tmp_path / "tables")
    assert (tmp_path / "tables" / "mine.tex").read_text() == "dear"
    (tmp_path / "link").symlink_to(tmp_path / "tables")
    with pytest.raises(TaskspaceError, match="link: is a symbolic link"):
        export_run(run, "latex", tmp_path / "link")


@pytest.mark.parametrize(
    "text",
    ["not json", "{}", "[]", '{"cells": [1]}', json.dumps({"cells": [{"outputs": [{"data": {MIME: "x"}}]}]})],
)
def test_a_page_that_is_none_is_said_in_one_line(run, tmp_path, text):
    (tmp_path / "report" / "notebooks").mkdir(parents=True)
    (tmp_path / "report" / "notebooks" / "index.ipynb").write_text(text)
    with pytest.raises(TaskspaceError, match="index.ipynb: not a page of a report; make it again with") as e:
        export_run(run, "figures", tmp_path / "figures", ExportOptions(report=tmp_path / "report"))
    assert "\n" not in str(e.value) and [p.name for p in tmp_path.iterdir()] == ["report"]


def test_a_chart_that_vega_refuses_is_named_with_vega_s_reason(tmp_path):
    cell = {"mark": "point", "encoding": {"opacity": {"condition": {"test": "gone > 1", "value": 1}, "value": 0}}}
    with pytest.raises(TaskspaceError, match='^x: Vega cannot draw this chart: Unrecognized signal name: "gone"$'):
        draw({**cell, "data": {"values": [{"a": 1}]}}, tmp_path / "x.svg")


def test_every_model_has_a_folder_of_its_own_inside_of_the_export(run, tmp_path, monkeypatch):
    scores = next(iter(last_run_scores(run).values()))
    labels = ["Ü/ß", "Ü:ß", "ü*SS", "..", ".", "x/..", "a\0b", " "]
    monkeypatch.setattr(exports, "last_run_scores", lambda _: dict.fromkeys(labels, scores))
    made = write_lm_eval(run, tmp_path / "out")
    assert [json.loads(p.read_text())["model_name"] for p in made] == labels
    assert len({p.parent.name.casefold() for p in made}) == len(labels)
    assert {p.parent.parent for p in made} == {tmp_path / "out"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_export_of_a_partial_run_is_asked_for(run, tmp_path, capsys):
    shutil.copytree(run.path, tmp_path / "part", ignore=shutil.ignore_patterns("report"))
    job = next(j for j in run.plan.itertuples() if j.kind == "score" and j.model == "large" and j.step == 1)
    next((tmp_path / "part").glob(f"results/*/{job.key}.*")).unlink()
    given = ["export", str(tmp_path / "part"), "--to", "csv", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as e:
        main(given)
    said = capsys.readouterr().err.strip()
    assert e.value.code == 2 and "\n" not in said and not (tmp_path / "out").exists()
    assert re.search(r"1 of \d+ results are missing, first score large step 1; .*partial export \(--partial\)", said)
    with pytest.raises(SystemExit) as e:
        main([*given, "--partial"])
    assert e.value.code == 0 and (tmp_path / "out" / "scores.csv").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_push_goes_to_the_data_set_that_is_named_and_only_when_asked(run, tmp_path, monkeypatch, fails):
    "With a stand-in for the hub: what it is called with, what lies in the folder then, and one line where it refuses."
    calls = []

    class Hub:
        def create_repo(self, name, **options):
            calls.append(("create", name, options))
            if fails:
                raise OSError("401 Unauthorized\nInvalid token")

        def upload_folder(self, repo_id, repo_type, folder_path):
            there = {p.relative_to(folder_path).as_posix() for p in folder_path.rglob("*.*") if p.is_file()}
            calls.append(("upload", repo_id, repo_type, there))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    if fails:
        with pytest.raises(
            TaskspaceError, match=r"^--push me/mine: not pushed \(401 Unauthorized\); hf auth login"
        ) as e:
            export_run(run, "hub", tmp_path / "hub", ExportOptions(push="me/mine"))
        assert "\n" not in str(e.value) and not (tmp_path / "hub").exists()
        return
    export_run(run, "hub", tmp_path / "quiet")
    assert calls == []
    made = export_run(run, "hub", tmp_path / "hub", ExportOptions(push="me/mine"))
    assert calls[0] == ("create", "me/mine", {"repo_type": "dataset", "exist_ok": True})
    assert calls[1][:3] == ("upload", "me/mine", "dataset")
    assert calls[1][3] == {p.relative_to(tmp_path / "hub").as_posix() for p in made}
    assert 'load_dataset("me/mine", "scores"' in (tmp_path / "hub" / "README.md").read_text()
