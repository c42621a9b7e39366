"""The probes find the planted rules in a built-in model, and nothing where there is nothing.

Figures: nbs/tutorials/planted_structure.ipynb."""

import numpy as np
import pytest

from taskspace import FTGD, hypothesis_space, load_lm, load_suite
from taskspace.probing.gradient import gradient_probe
from taskspace.probing.transfer import transfer_probe
from taskspace.scoring.scores import accuracy, score_pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lm():
    return load_lm("builtin:micro")


@pytest.fixture(scope="module")
def suite(lm):
    "The tasks that the model masters: no probe can find a rule that the model does not have."
    whole = load_suite("builtin").take(32)
    known = accuracy(score_pairs(lm, whole))
    mastered = whole.select([n for n in whole.names if known[n] > 0.75])
    assert len(mastered) >= 24
    return mastered


@pytest.fixture(scope="module")
def rule_of(suite):
    return {t.name: t.rules[0] for t in suite}


def auc(space, groups):
    return space.within_across(groups, permutations=199, interval=None)


def check_follows_rules(space, suite, rule_of):
    rules, words = hypothesis_space(suite, "rules"), hypothesis_space(suite, "words")
    by_rule = auc(space, rule_of)
    assert by_rule.statistic >= 0.95 and by_rule.p <= 0.005
    assert abs(auc(space, suite.groups("lexicon")).statistic - 0.5) < 0.1
    assert space.compare(rules, control=words, permutations=199, interval=None).p <= 0.01
    assert space.compare(words, control=rules, permutations=199, interval=None).p > 0.05


def test_rules_and_words_are_nearly_independent(suite):
    assert (
        abs(
            hypothesis_space(suite, "rules")
            .compare(hypothesis_space(suite, "words"), permutations=0, interval=None)
            .statistic
        )
        < 0.2
    )


def test_gradient_cosine_follows_rules(lm, suite, rule_of):
    check_follows_rules(gradient_probe(lm, suite).cosine, suite, rule_of)  # AUC 1.00 measured


@pytest.mark.soak
def test_gradient_cosine_follows_every_rule_of_the_scale_that_knows_them_all():
    largest, whole = load_lm("builtin:mini"), load_suite("builtin").take(32)
    assert accuracy(score_pairs(largest, whole)).min() > 0.9
    check_follows_rules(
        gradient_probe(largest, whole).cosine, whole, {t.name: t.rules[0] for t in whole}
    )  # AUC 0.987 measured with 48 pairs


def test_gradient_cosine_of_shuffled_pairs_follows_nothing(lm, suite, rule_of):
    seeds = [auc(gradient_probe(lm, suite.shuffled(seed)).cosine, rule_of).statistic for seed in range(3)]
    assert 0.40 <= np.mean(seeds) <= 0.60  # 0.52 measured with the first seed


def test_transfer_follows_rules_and_leaves_the_model_as_it_was(lm, suite, rule_of):
    before = lm.digest()
    space = transfer_probe(lm, suite, FTGD(lr=3e-4), train_pairs=16, eval_pairs=16, bootstrap=0)
    check_follows_rules(space, suite, rule_of)  # AUC 0.96 measured with 24 pairs
    assert lm.digest() == before


def test_transfer_from_shuffled_pairs_follows_nothing(lm, suite, rule_of):
    space = transfer_probe(lm, suite, FTGD(lr=3e-4), train_pairs=16, eval_pairs=16, bootstrap=0, shuffled=True)
    assert 0.40 <= auc(space, rule_of).statistic <= 0.60  # 0.43 measured with 24 pairs
