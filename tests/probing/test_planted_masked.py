"""On the built-in masked model the gradient probe finds the planted rules, and nothing where there is nothing."""

import pytest

from taskspace import load_lm, load_suite
from taskspace.probing.gradient import gradient_probe
from taskspace.scoring.scores import accuracy, score_pairs


@pytest.mark.soak
def test_the_gradient_cosine_of_a_masked_model_follows_rules_and_that_of_shuffled_pairs_nothing():
    lm, whole = load_lm("builtin:masked"), load_suite("builtin").take(12)
    known = accuracy(score_pairs(lm, whole))
    suite = whole.select([n for n in whole.names if known[n] > 0.75])  # no probe can find a rule that it does not have
    assert len(suite) >= 20
    rule_of = {t.name: t.rules[0] for t in suite}

    def auc(pairs):
        return gradient_probe(lm, pairs).cosine.within_across(rule_of, permutations=0, interval=None).statistic

    assert auc(suite) >= 0.90
    # A single null has a standard deviation of .08 (26 tasks), the mean of ten .03; seen: .519
    assert 0.42 <= sum(auc(suite.shuffled(seed)) for seed in range(10)) / 10 <= 0.58
