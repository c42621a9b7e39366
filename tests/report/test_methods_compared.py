"""The page Methods compared of a report: it shows what a run has, and with a file of data needs what foretells them."""

import json

import pytest

from taskspace.report.templates import execute, template


@pytest.mark.slow
def test_the_page_joins_a_run_with_data_needs(tmp_path):
    needs = template("which_probe").parent / "which_probe" / "needs.parquet"
    page = execute("methods_compared", tmp_path / "page.ipynb", {"need": str(needs)})
    outputs = [o for c in json.loads(page.read_text())["cells"] for o in c.get("outputs", [])]
    said = " ".join("".join(o.get("data", {}).get("text/markdown", "")) for o in outputs)
    assert "gradient cosine, gradient overlap, predicted, transfer, data need" in said
    assert "Closest to *data need*" in said and "all methods together" in said and "Not shown" not in said
