"""A masked and a causal model in one study and on one page of a report."""

import json

import numpy as np
import pytest

from taskspace.models.lm import LM, save_lm
from taskspace.pretraining.builtin import builtin_model, builtin_tokenizer
from taskspace.report.templates import execute
from taskspace.runs.execute import run_study
from taskspace.runs.predictions import predicted_agreement
from taskspace.runs.study import Study
from taskspace.tasks.catalogue import load_suite


@pytest.mark.slow
def test_a_masked_model_goes_through_all_probes_and_the_page_that_compares_models(tmp_path):
    for scale in ("masked", "nano"):
        save_lm(LM(builtin_model(scale), builtin_tokenizer(scale)), tmp_path / scale)
    study = Study(
        models=[{"name": tmp_path / s, "label": s} for s in ("masked", "nano")],
        select=load_suite("builtin").names[:8:2],
        probes=["score", "gradient", "transfer", "predicted", "states"],
        train_pairs=4,
        eval_pairs=4,
        score_pairs=6,
        ftgd={"steps": 1},
        device="cpu",
    )
    run = run_study(study, tmp_path / "run", workers=0, progress=False)
    assert run.status().done == run.status().total == 16
    assert {len(layers) for layers in (run.states("masked"), run.states("nano"))} == {3}
    agreement = predicted_agreement(run)
    assert len(agreement) == 2 and (agreement["product_moment"] > 0.99).all()  # worst seen: .9999
    assert np.isfinite(run.space("masked", kind="cosine").matrix).all(axis=None)
    page = execute("dissimilarity", tmp_path / "page.ipynb", {"run": str(run.path)})
    shown = json.loads(page.read_text())["cells"]
    outputs = [o for c in shown for o in c.get("outputs", [])]
    assert not any(o["output_type"] == "error" for o in outputs) and len(outputs) > 3
    assert "masked" in json.dumps(outputs)
