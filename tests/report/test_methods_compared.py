"""The page Methods compared of a report: it shows what a run has, and with a file of data needs what foretells them."""

import json

import pytest

from taskspace.report.templates import execute, template
from taskspace.runs.execute import run_study


def said_by(page):
    "The sentences of an executed page."
    outputs = [o for c in json.loads(page.read_text())["cells"] for o in c.get("outputs", [])]
    return " ".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)


@pytest.mark.slow
def test_the_page_joins_a_run_with_data_needs(tmp_path):
    needs = template("which_probe").parent / "which_probe" / "needs_nano.parquet"
    page = execute("methods_compared", tmp_path / "page.ipynb", {"need": str(needs)})
    said = said_by(page)
    assert "gradient cosine, gradient overlap, predicted, transfer, data need" in said
    assert "Closest to *data need*" in said and "all methods together" in said and "Not shown" not in said


@pytest.mark.slow
def test_a_study_of_few_tasks_has_the_page_too(tmp_path):
    tasks = ["reflexive_gender_court", "reflexive_gender_town", "determiner_noun_court", "determiner_noun_town"]
    study = {"models": ["builtin:nano"], "select": tasks, "probes": ["gradient", "units"], "train_pairs": 6}
    run_study(study, tmp_path / "run", workers=0, progress=False)
    page = execute("methods_compared", tmp_path / "page.ipynb", {"run": str(tmp_path / "run")})
    assert said_by(page).count("Not shown") == 2 and "at least 5 of the same" in said_by(page)
