"""The toy of examples and tests: the same every time, no effect on other random numbers, and as its chapter says."""

import numpy as np
import pytest
import torch

from taskspace.errors import TaskspaceError
from taskspace.toy import (
    agreement_task,
    bigram_suite,
    case_task,
    measured_space,
    planted_space,
    planted_truth,
    toy_bigram,
    toy_lm,
    toy_suite,
    TOY_WORDS,
    WordTokenizer,
)


@pytest.mark.parametrize("make", [toy_lm, toy_bigram])
def test_a_seed_decides_the_weights_and_nothing_else_changes(make):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    first = make(seed=3)
    assert torch.equal(torch.randn(3), expected)
    assert first.digest() == make(seed=3).digest() != make(seed=4).digest()


@pytest.mark.parametrize("suite", [toy_suite(), bigram_suite()])
def test_suites_can_be_read_and_split(suite):
    sentences = [s for t in suite for p in t for s in (p.good, p.bad)]
    assert {w for s in sentences for w in s.split()} <= set(TOY_WORDS[1:])
    own = [{s for p in t for s in (p.good, p.bad)} for t in suite]
    assert suite.name == "bigram" or len(set().union(*own)) == sum(map(len, own))
    parts = suite.split(train=3, eval=4)
    assert parts.train.names == parts.eval.names == suite.names


def test_no_task_has_more_than_fourteen_pairs():
    assert len(agreement_task("kings", pairs=99)) == len(case_task("girl", pairs=99)) == 14


def test_a_tokenizer_without_special_tokens():
    tokenizer = WordTokenizer(["a", "b"], bos=None)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.encode("b a")) == (None, None, [1, 0])
    with pytest.raises(TaskspaceError, match="no word 'c'; it has: a b"):
        tokenizer.encode("a c")


def test_more_pairs_come_closer_to_the_truth():
    truth = planted_truth()
    error = [np.abs(measured_space(truth, pairs=n).matrix - truth).to_numpy().mean() for n in (10, 1000)]
    assert error[1] < error[0] / 5  # expected: a tenth
    assert planted_space().matrix.equals(measured_space(truth).matrix)


def test_planted_phenomena_are_found_and_absent_ones_are_not():
    assert planted_space(tasks=12).within_across().p < 0.01
    noise = measured_space(planted_truth(12) * 0, noise=1)
    assert noise.within_across().p > 0.05
    assert planted_space(tasks=9).groups["negation_5"] == "negation"
