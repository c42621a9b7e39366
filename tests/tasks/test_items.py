"""Rows with contexts and options; SyntaxGym's files, formulas and criteria."""

from __future__ import annotations

import json
import math
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining.tokens import byte_tokenizer
from taskspace.scoring.criteria import item_accuracy, region_surprisals, score_criteria
from taskspace.scoring.regions import token_table
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.conditional import conditional_pair, ewok_pairs
from taskspace.tasks.pairs import MinimalPair
from taskspace.tasks.readers import suite_from_file, suite_from_frame
from taskspace.tasks.syntaxgym import (
    criterion_margin,
    evaluate,
    parse_formula,
    read_syntaxgym,
    suite_from_syntaxgym,
)
from taskspace.toy import toy_lm


@cache
def byte_lm():
    "A small model with random weights and a tokenizer of bytes."
    torch.manual_seed(0)
    tokenizer = byte_tokenizer(["the cat that sat on the mat today ."] * 20, 280)
    settings = dict(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3)
    settings |= dict(bos_token_id=None, eos_token_id=None)
    return LM(GPT2LMHeadModel(GPT2Config(**settings)).eval(), tokenizer, name="bytes")


# ---- Rows


def test_contexts_and_options_are_read_from_every_kind_of_file(tmp_path):
    frame = pd.DataFrame(
        {
            "task": ["one", "two", "none"],
            "context": ["A robin", "In box A is", None],
            "context_bad": ["A penguin", None, None],
            "good": ["can fly.", "the key.", "A cat sleeps."],
            "bad": ["can fly.", "a cup.", "A cat sleep."],
            "options": [None, '["nothing.", "an egg."]', None],
        }
    )
    frame.to_csv(tmp_path / "mine.csv", index=False)
    frame.to_parquet(tmp_path / "mine.parquet")
    frame.to_json(tmp_path / "mine.jsonl", orient="records", lines=True)
    found = [suite_from_file(tmp_path / f"mine.{e}") for e in ("csv", "parquet", "jsonl")]
    assert len({s.digest for s in found}) == 1
    (one,), (two,), (none,) = found[0]
    assert one.texts == ("A robin can fly.", "A penguin can fly.")
    assert two.others == ("nothing.", "an egg.") and two.texts[2] == "In box A is nothing."
    assert none == MinimalPair("A cat sleeps.", "A cat sleep.")
    assert [t.pairs[0].texts for t in suite_from_frame(found[0].to_frame())] == [t.pairs[0].texts for t in found[0]]


def test_both_contexts_of_ewok_stand_before_both_targets():
    row = {"Context1": "C1.", "Context2": "C2.", "Target1": "T1.", "Target2": "T2."}
    one, two = ewok_pairs(row, "ewok, line 4")
    assert one.texts == ("C1. T1.", "C2. T1.") and two.texts == ("C2. T2.", "C1. T2.")
    with pytest.raises(TaskspaceError, match=r"ewok, line 4: column 'Target2' must be text, not None"):
        ewok_pairs({**row, "Target2": None}, "ewok, line 4")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "A", "good": "b"}, "field 'bad' is missing"),
        ({"options": "one, two", "good": "b"}, "field 'options' must be a list of sentences"),
        ({"options": ["a", ""], "good": "b"}, "field 'options', option 1 must be a sentence"),
        ({"options": ["a", "b"], "answer": 2}, "field 'answer' must be a number from 0 to 1, not 2"),
        ({"options": ["a", "b"], "answer": "b"}, "field 'answer' must be a number from 0 to 1, not 'b'"),
        ({"context": "A", "context_good": "B", "good": "c", "bad": "d"}, "'context' and 'context_good' mean the same"),
        ({"context_bad": "A", "good": "c", "bad": "d"}, "'context_bad' stands without 'context'"),
        ({"context": "A", "good": "c", "bad": "d", "separator": 3}, "'separator' must be text, not 3"),
        ({"context": "A", "good": "c", "options": ["c"]}, None),
        ({"good": "c", "bad": "d", "options": ["c"]}, "the good sentence stands among the wrong ones"),
    ],
)
def test_rows_at_fault_are_named(row, message):
    if message is None:  # a tie, as in BLiMP's identical pairs
        assert conditional_pair(row, "x, line 3").identical
        return
    with pytest.raises(TaskspaceError, match=r"^x, line 3: .*" + re.escape(message)):
        conditional_pair(row, "x, line 3")


# ---- Formulas, with values worked out by hand

VALUES = {("a", 1): 1.0, ("a", 2): 3.0, ("b", 1): 2.0, ("b", 2): 2.5, ("sub_no-matrix", 5): 7.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(2;%a%) > (2;%b%)", True),
        ("(2;%a%)<(2;%b%)", False),
        ("((2;%a%) > (2;%b%)) & ((1;%a%) > (1;%b%))", False),
        ("((2;%a%) > (2;%b%)) | ((1;%a%) > (1;%b%))", True),
        ("(2;%a%) > (2;%b%) & (1;%a%) < (1;%b%)", True),  # & is weaker than <
        ("((2;%a%)-(2;%b%)) > ((1;%b%)-(1;%a%))", False),  # .5 > 1
        ("(*;%a%) = 4", True),
        ("(*;%b%) = 4.5005", True),  # closer than .001
        ("(*;%b%) = 4.502", False),
        ("5 - 4 - 3 < 0", True),  # from the left: -2
        ("5+4=9-1+1", True),
        ("5-(3+2)=0", True),
        ("(5-3)+((2+1)-(2+2))=1", True),
        ("((2;%a%)-(2;%b%))+(((1;%a%)+(2;%a%))-((1;%b%)+(2;%b%)))>0", False),  # .5 - .5
        (" ( 5 ; %sub_no-matrix% ) > - 3 ", True),
        ("1 > 2 | 1 > 2 | 2 > 1 & 1 > 2", False),  # & and | from the left, alike: (F | F | T) & F
    ],
)
def test_formulas_have_the_values_worked_out_by_hand(text, expected):
    assert evaluate(parse_formula(text), VALUES) is expected


def test_margins_of_one_inequality():
    assert criterion_margin(parse_formula("(2;%a%) > (2;%b%)"), VALUES) == 0.5
    assert criterion_margin(parse_formula("((1;%a%)+1) < (2;%b%)"), VALUES) == 0.5
    assert math.isnan(criterion_margin(parse_formula("(1;%a%) = 1"), VALUES))
    assert math.isnan(criterion_margin(parse_formula("1 < 2 & 2 < 3"), VALUES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(2;%a%) > ", "ends too early"),
        ("(2;%a% > 3", "cannot be read at"),
        ("((2;%a%) > 3", "a bracket that is not closed"),
        ("(2;%a%) > 3)", "goes on with ')'"),
        ("(2;%a%) > 3 > 1", "joins by '>' what are not two numbers"),
        ("(2;%a%) & 3", "joins by '&' what are not two comparisons"),
        ("(2;%a%) + 3", "compares nothing"),
        ("", "ends too early"),
        ("__import__('os')", "cannot be read at"),
        ("(x;%a%) > 1", "cannot be read at"),
        ("> 3", "has '>' where a region or a number belongs"),
    ],
)
def test_formulas_that_cannot_be_read_are_named(text, message):
    with pytest.raises(TaskspaceError, match=re.escape(message)) as error:
        parse_formula(text)
    assert "\n" not in str(error.value) and "write e.g." in str(error.value)


# ---- Files


def written(path, **changes):
    "A suite of three items in three conditions, with an empty region."
    nouns, verbs = ("cat", "dog", "king"), {"match": "sees", "mismatch": "see", "plural": "see"}

    def regions(noun, condition):
        subject = f"the {noun}s" if condition == "plural" else f"the {noun}"
        contents = [subject, "", "often " + verbs[condition], "me", "."]
        return [{"region_number": k + 1, "content": c} for k, c in enumerate(contents)]

    items = [
        {
            "item_number": k + 1,
            "conditions": [{"condition_name": c, "regions": regions(noun, c)} for c in verbs],
        }
        for k, noun in enumerate(nouns)
    ]
    formulas = [
        "(3;%mismatch%) > (3;%match%)",
        "((3;%mismatch%) + (4;%mismatch%)) > ((3;%match%) + (4;%match%))",
        "((3;%mismatch%) - (3;%match%)) > ((3;%plural%) - (3;%match%))",
        "((3;%mismatch%) > (3;%match%)) & ((1;%mismatch%) = (1;%match%))",
        "(*;%plural%) < (*;%match%)",
    ]
    data = {
        "meta": {"name": "toy", "metric": "sum"},
        "region_meta": {},
        "predictions": [{"type": "formula", "formula": f} for f in formulas],
        "items": items,
    }
    path.write_text(json.dumps({**data, **changes}))
    return path


def test_criteria_are_those_worked_out_from_tokens(tmp_path):
    "Surprisals by hand: the tokens of the toy are its words, so a region is a run of them."
    lm, gym = toy_lm(spread=0.3), read_syntaxgym(written(tmp_path / "toy.json"))
    found = score_criteria(lm, gym)
    correct, margins = [], []
    for item in gym.items:
        s = {}
        for name, condition in item.conditions.items():
            bits = -token_table(lm, [condition.text]).logp.to_numpy() / math.log(2)
            assert condition.text.split()[2:] == ["often", condition.regions[2][1].split()[1], "me", "."]
            s[name] = {1: bits[:2].sum(), 3: bits[2:4].sum(), 4: bits[4], "*": bits.sum()}
        a, b, c = s["match"], s["mismatch"], s["plural"]
        margins += [b[3] - a[3], b[3] + b[4] - a[3] - a[4], b[3] - c[3], math.nan, a["*"] - c["*"]]
        correct += [m > 0 for m in margins[-5:]]
        correct[-2] = b[3] > a[3] and abs(b[1] - a[1]) < 1e-3
    assert np.allclose(found.margin, margins, atol=1e-4, equal_nan=True)
    assert found.correct.tolist() == correct
    assert 0 < sum(correct) < len(correct)  # else the test could not fail
    by_item = [all(correct[k : k + 5]) for k in range(0, 15, 5)]
    assert item_accuracy(found)["toy"] == pytest.approx(np.mean(by_item))
    assert item_accuracy(found[found.criterion == 1])["toy"] == pytest.approx(np.mean(correct[::5]))


@pytest.mark.parametrize("metric", ["mean", "median", "range", "max", "min"])
def test_metrics_of_the_tokens_of_a_region(tmp_path, metric):
    lm = toy_lm(spread=0.3)
    only = [{"type": "formula", "formula": "(3;%mismatch%) > (3;%match%)"}]
    gym = read_syntaxgym(written(tmp_path / "m.json", meta={"name": "m", "metric": metric}, predictions=only))
    table = region_surprisals(lm, gym)
    bits = -token_table(lm, [gym.items[1].conditions["match"].text]).logp.to_numpy()[2:4] / math.log(2)
    by_hand = {"mean": bits.mean(), "median": bits.mean(), "range": abs(bits[0] - bits[1])}
    by_hand |= {"max": bits.max(), "min": bits.min()}
    found = table.query("item == '2' and condition == 'match' and region == 3").surprisal.item()
    assert found == pytest.approx(by_hand[metric], abs=1e-4)
    assert table.query("region == 2").surprisal.isna().all()
    score_criteria(lm, gym)
    empty = [{"type": "formula", "formula": "(2;%mismatch%) > (2;%match%)"}]
    path = written(tmp_path / "e.json", meta={"metric": metric}, predictions=empty)
    with pytest.raises(TaskspaceError, match=r"e\.json, item 1, condition 'mismatch': region 2 has no surprisal"):
        score_criteria(lm, read_syntaxgym(path))


def test_criteria_that_are_pairs_have_the_same_margins(tmp_path):
    "Those of one region and of neighbouring ones; the whole sentence has no context."
    lm, gym = toy_lm(spread=0.3), read_syntaxgym(written(tmp_path / "toy.json"))
    suite, scores = gym.pairs(), score_criteria(lm, gym, unit="nats")
    assert suite.names == ["toy_1", "toy_2", "toy_5"]
    assert suite["toy_1"].pairs[0] == MinimalPair("often sees", "often see", "1", "the cat")
    assert suite["toy_2"].pairs[0].good == "often sees me" and suite["toy_5"].pairs[0].context is None
    for number in (1, 2, 5):
        margins = score_pairs(lm, suite[f"toy_{number}"]).margin
        assert np.allclose(margins, scores.query(f"criterion == {number}").margin, atol=1e-4)
    written(tmp_path / "other.json", meta={"name": "other"})
    assert len(suite_from_syntaxgym(tmp_path)) == 6
    none = written(tmp_path / "none.json", predictions=[{"type": "formula", "formula": "(3;%match%) = 2"}])
    with pytest.raises(TaskspaceError, match=r"none\.json: no criterion is one inequality"):
        suite_from_syntaxgym(none)


@pytest.mark.parametrize("ends", [("today .", ""), ("today .", "  "), ("today . ", ""), ("", "")])
@pytest.mark.parametrize(
    ("formula", "one", "other"),
    [
        ("(2;%a%) + (3;%a%) > (2;%b%) + (3;%b%)", ["the cat", "sat", ""], ["the cat", "sits", ""]),
        ("(2;%a%) + (3;%a%) > (2;%b%) + (3;%b%)", ["the cat", "", "sat"], ["the cat", "", "sits"]),
        ("(2;%a%) + (3;%a%) > (2;%b%)", ["the cat", "sat", ""], ["the cat", "sat", "near"]),
        ("(3;%a%) > (3;%b%)", ["the cat ", "that ", "sat"], ["the cat ", "who ", "sat"]),
        ("(3;%a%) > (3;%b%)", ["the cat", "that ", "sat "], ["the cat", "who", "sits"]),
        ("(2;%a%) + (3;%a%) + (4;%a%) > (*;%b%)", ["", "the cat", "sat"], ["", "the cat", "sits"]),
        ("(*;%a%) > (*;%b%)", ["the cat ", "", "sat"], ["the cat", "", "sits"]),
    ],
)
def test_empty_regions_and_white_space_leave_the_margin_as_it_is(tmp_path, formula, one, other, ends):
    "With a tokenizer whose tokens are bytes, so that each blank counts."
    names = {"a": one, "b": other}
    conditions = [
        {"condition_name": n, "regions": [{"region_number": k, "content": c} for k, c in enumerate([*r, *ends], 1)]}
        for n, r in names.items()
    ]
    path, only = tmp_path / "gaps.json", [{"type": "formula", "formula": formula}]
    written(path, items=[{"item_number": 1, "conditions": conditions}], predictions=only)
    lm = byte_lm()
    (margin,) = score_criteria(lm, read_syntaxgym(path), unit="nats")["margin"]
    assert score_pairs(lm, suite_from_syntaxgym(path))["margin"].to_list() == pytest.approx([margin], abs=1e-4)


def test_an_empty_last_region_has_no_surprisal(tmp_path):
    regions = ["the cat", "sits", "", ""]
    condition = {
        "condition_name": "a",
        "regions": [{"region_number": k, "content": c} for k, c in enumerate(regions, 1)],
    }
    path, only = tmp_path / "end.json", [{"type": "formula", "formula": "(4;%a%) + (3;%a%) = 0"}]
    written(path, items=[{"item_number": 1, "conditions": [condition]}], predictions=only)
    assert region_surprisals(byte_lm(), read_syntaxgym(path))["surprisal"].to_list()[2:] == [0, 0]
    assert score_criteria(byte_lm(), read_syntaxgym(path))["correct"].all()


def item_with(regions):
    return [{"item_number": 9, "conditions": [{"condition_name": "match", "regions": regions}]}]


ONE = [{"region_number": 1, "content": "the cat"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": [{"type": "formula", "formula": "(3;%no%) > 1"}]}, "prediction 1, item 1: no condition 'no'"),
        (
            {"predictions": [{"type": "formula", "formula": "(8;%match%) > 1"}]},
            "prediction 1, item 1: condition 'match' has",
        ),
        (
            {"predictions": [{"type": "formula", "formula": "(8;%match%) >"}]},
            "prediction 1: formula '(8;%match%) >' ends",
        ),
        ({"predictions": [{"type": "formula"}]}, "prediction 1: 'formula' is missing"),
        ({"predictions": []}, "no predictions"),
        ({"items": []}, "no items"),
        (
            {"items": item_with([*ONE, *ONE])},
            "item 9, condition 'match': region_number '1' is no number or stands twice",
        ),
        (
            {"items": item_with([{"region_number": "x", "content": "a"}])},
            "item 9, condition 'match': region_number 'x'",
        ),
        ({"items": item_with([{"region_number": 1}])}, "item 9, condition 'match', region 1: 'content' is missing"),
        (
            {"items": item_with([{"region_number": 1, "content": " "}])},
            "item 9, condition 'match': all regions are empty",
        ),
        ({"items": item_with(ONE) * 2}, "item 9: two items have this number"),
        ({"items": [3]}, "item 1: 'conditions' is missing"),
        (
            {"items": [{"item_number": 9, "conditions": 2 * item_with(ONE)[0]["conditions"]}]},
            "item 9: two conditions are called 'match'",
        ),
        (
            {"items": item_with([{"region_number": "9" * 5000, "content": "a"}])},
            "item 9, condition 'match': region_num",
        ),
        (
            {"items": item_with([{"region_number": 1, "content": "\ud800"}])},
            "item 9, condition 'match': holds a lone surrogate",
        ),
        ({"predictions": [{"formula": "(" * 5000 + "1" + ")" * 5000 + " < 2"}]}, "prediction 1: formula '((((("),
        ({"predictions": [{"formula": "1" + "+1" * 5000 + " < 2"}]}, "prediction 1: formula '1+1+1"),
        ({"meta": {"name": "\ud800"}}, "meta.name holds a lone surrogate"),
        ({"meta": {"metric": "mode"}}, "metric 'mode' is unknown"),
        ({"meta": []}, "'meta' is missing"),
    ],
)
def test_files_at_fault_are_named(tmp_path, changes, message):
    path = written(tmp_path / "bad.json", **changes)
    with pytest.raises(TaskspaceError, match=f"{re.escape(str(path))}[,:] {re.escape(message)}"):
        read_syntaxgym(path)


def test_a_text_that_is_too_long_is_named(tmp_path):
    long = [{"region_number": 1, "content": "the cat " * 20}]
    only = [{"type": "formula", "formula": "(1;%match%) > 1"}]
    gym = read_syntaxgym(written(tmp_path / "long.json", items=item_with(long), predictions=only))
    with pytest.raises(
        TaskspaceError, match=r"long\.json, item 9, condition 'match': 41 tokens, but model 'toy' takes 32"
    ):
        score_criteria(toy_lm(), gym)


def test_what_is_no_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(TaskspaceError, match=r"x\.json: not valid JSON"):
        read_syntaxgym(tmp_path / "x.json")
    text = written(tmp_path / "x.json").read_text()
    (tmp_path / "x.json").write_text(text.replace('"items":', '"items": [], "items":'))
    with pytest.raises(TaskspaceError, match=r"x\.json: 'items' is given twice"):
        read_syntaxgym(tmp_path / "x.json")
    with pytest.raises(TaskspaceError, match=r"nowhere\.json: no such file"):
        read_syntaxgym(tmp_path / "nowhere.json")


def test_two_files_with_suites_of_one_name_are_named(tmp_path):
    for name in ("a.json", "b.json"):
        written(tmp_path / name)
    with pytest.raises(TaskspaceError, match=r"b\.json: task 'toy_1' is in a\.json too; change meta\.name in one"):
        suite_from_syntaxgym(tmp_path)
