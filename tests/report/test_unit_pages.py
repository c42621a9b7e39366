"""The page of a model shows units and ablation where a study has them."""

import json

import pytest

from taskspace.report.site import all_spaces
from taskspace.report.templates import execute
from taskspace.runs.execute import run_study
from toysite import tiny_model

NAMES = ("reflexive_gender_court", "reflexive_gender_town", "determiner_noun_court", "determiner_noun_town")


@pytest.mark.slow
def test_units_and_ablation_have_sections_and_data(tmp_path):
    tiny_model(tmp_path / "m", 8, 0)
    study = {"models": [{"name": str(tmp_path / "m"), "label": "m"}], "probes": ["score", "units", "ablation"]}
    settings = {"units": "mlp", "top": 0.1, "train_pairs": 4, "eval_pairs": 4, "device": "cpu"}
    run = run_study({**study, **settings, "select": NAMES}, tmp_path / "run", workers=0, progress=False)
    page = json.loads(execute("scale", tmp_path / "page.ipynb", {"run": str(run.path), "model": "m"}).read_text())
    shown = [out.get("data", {}) for cell in page["cells"] if cell["cell_type"] == "code" for out in cell["outputs"]]
    text = " ".join("".join(data.get("text/markdown", "")) for data in shown)
    assert "## Units" in text and "those 10.0% of the mlp units of all layers that tell good from bad" in text
    assert "## Without units" in text and "which are set to zero" in text
    assert "Random units would share 0.0" in text
    assert (
        str(shown).count("Units by layer")
        and str(shown).count("Overlap of units, m")
        and str(shown).count("Ablation, m")
    )
    kinds = set(all_spaces(run)["kind"])
    assert kinds == {f"unit_{m}" for m in ("overlap", "count", "chance", "chance_in_layers", "shuffled")} | {"ablation"}
