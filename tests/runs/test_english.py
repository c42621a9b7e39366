"""The kept results of the study of English: complete, small, of the suites and models that the page names, with no
paths of one machine."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from taskspace import open_extract
from taskspace.runs.study import parse_study

FOLDER = Path(__file__).resolve().parents[2] / "nbs" / "studies" / "english"
SCALES = {
    "blimp": ["small", "middle", "large"],
    "others": ["small-1", "lstm"],
    "zorro": ["small", "small-1", "middle", "large", "lstm"],
}


@pytest.fixture(scope="module", params=list(SCALES))
def kept(request):
    return request.param, open_extract(FOLDER / request.param)


def test_nothing_is_missing(kept):
    name, extract = kept
    assert (
        extract.about["missing"] == 0
        and extract.about["suite"]["tasks"] == {"blimp": 67, "others": 67, "zorro": 23}[name]
    )
    checkpoints = pd.DataFrame(extract.about["checkpoints"])
    assert (
        list(dict.fromkeys(checkpoints.scale)) == SCALES[name]
        and checkpoints.groupby("scale").step.nunique().eq(9).all()
        and checkpoints.step.min() == 0
    )
    accuracy = extract.table("accuracy")
    assert (
        len(accuracy) == 9 * len(SCALES[name]) * extract.about["suite"]["tasks"]
        and accuracy.pairs.eq(extract.study.score_pairs).all()
    )
    for kind in ("cosine", "overlap"):
        assert all(
            extract.space(scale, step, kind).matrix.notna().all(axis=None)
            for scale in SCALES[name]
            for step in (0, 2048)
        )


def test_the_study_kept_is_the_study_beside_it(kept):
    name, extract = kept
    written = parse_study((FOLDER / f"{name}.yaml").read_text(), f"{name}.yaml")
    assert (
        extract.study.model_copy(update={"suite": written.suite}) == written
    )  # where the benchmark's files lay is all that may differ


def test_transfer_is_there_where_the_study_has_it(kept):
    name, extract = kept
    cells = extract.table("spaces").query("kind == 'transfer'")
    assert cells["value"].notna().all()
    found = set(zip(cells.scale, cells.step, cells.control, strict=True))
    steps = (2048,) if name == "zorro" else (64, 256, 1024, 2048)
    controls = ["none", *extract.study.controls]
    assert found == {(s, t, "none") for s in SCALES[name] for t in steps} | {
        (s, 2048, c) for s in SCALES[name] for c in controls
    }


def test_it_is_small_and_of_no_machine():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 8_000_000
    for path in files:
        assert not any(part in path.read_bytes() for part in (b"/work", b"/home/", b"/root", b"/tmp/")), path


def test_losses_fall_and_larger_decoders_are_better():
    log = pd.read_parquet(FOLDER / "pretraining.parquet")
    config = yaml.safe_load((FOLDER / "pretrain.yaml").read_text())
    assert sorted(log["step"].unique()) == config["training"]["checkpoints"]
    last = log[log["step"] == log["step"].max()].set_index("run")
    assert all(path.sort_values("step").valid_loss.is_monotonic_decreasing for _, path in log.groupby("run"))
    assert (
        last.loc["small-seed0", "valid_loss"] - 0.1
        > last.loc["middle", "valid_loss"]
        > last.loc["large", "valid_loss"] + 0.1
    )
    assert (
        last.loc["middle", "parameters"] >= 3 * last.loc["small-seed0", "parameters"]
        and last.loc["large", "parameters"] >= 3 * last.loc["middle", "parameters"]
    )


def test_representations_are_similarities_of_all_checkpoints():
    table = pd.read_parquet(FOLDER / "representations.parquet")
    assert len(table) == 25 * 26 // 2 and table["cka"].between(-0.05, 1 + 1e-9).all()
    same = table[(table.a == table.b) & (table.a_step == table.b_step)]
    assert len(same) == 25 and np.allclose(same["cka"], 1)


def test_provenance_names_the_code_and_the_weights(kept):
    about = json.loads((FOLDER / kept[0] / "extract.json").read_text())
    assert (
        1 <= len(about["code"]) <= 2
        and all(c["weights"] for c in about["checkpoints"])
        and len({c["weights"] for c in about["checkpoints"]}) == len(about["checkpoints"])
    )
    assert len({c["tokenizer"] for c in about["checkpoints"]}) == 1
