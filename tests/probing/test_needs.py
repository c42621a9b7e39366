"""What tasks need of the text: intervals that cover, a space without the noise of single trainings, known needs."""

import numpy as np
import pandas as pd
import pytest

from taskspace.errors import TaskspaceError
from taskspace.probing.needs import data_need, EVERYTHING, named_needs, need_auc, need_space, need_table
from taskspace.tasks.grammar import builtin_suite, corpus, RULES, shows

TEXTS = [EVERYTHING, *"abcdef"]


def world(trainings, seed, pairs=None, noise=0.03):
    """Scores of 12 tasks, the first two need a, the next two b and so on; the noise of tasks differs."""
    rng = np.random.default_rng(seed)
    truth = pd.DataFrame(
        [[j // 2 == c for j in range(12)] for c in range(6)], list("abcdef"), [f"t{j}" for j in range(12)]
    )
    rows = []
    for s in range(trainings):
        for text in TEXTS:
            drop = np.zeros(12) if text == EVERYTHING else 0.3 * truth.loc[text].to_numpy()
            accuracy = 0.9 - drop + noise * np.linspace(0.2, 2, 12) * rng.normal(size=12)
            accuracy = accuracy if pairs is None else np.round(accuracy * pairs) / pairs
            rows += [(s, text, f"t{j}", a, 10 * a) for j, a in enumerate(accuracy)]
    return pd.DataFrame(rows, columns=["training", "without", "task", "accuracy", "margin"]), truth


@pytest.mark.parametrize("trainings, pairs", [(2, None), (5, 20)])
def test_intervals_cover_and_hold_their_estimate(trainings, pairs):
    covered, false = [], []
    for seed in range(15):
        scores, truth = world(trainings, seed, pairs)
        table = need_table(scores, named=truth)
        covered.append(((table["low"] <= 0.3 * table["named"]) & (0.3 * table["named"] <= table["high"])).mean())
        false.append((table["q"][~table["named"]] < 0.05).any())
        assert ((table["low"] <= table["need"]) & (table["need"] <= table["high"])).all()
    assert np.mean(covered) >= 0.95  # 0.974 with five trainings of 20 pairs, 1.0 with two
    assert np.mean(false) <= 0.1  # worlds with any false need: none of 15


def test_known_needs_are_found_and_shuffled_ones_are_not():
    scores, truth = world(3, 0)
    assert need_auc(scores, truth).to_numpy().min() == 1
    shuffled = [
        need_auc(world(3, s)[0].assign(accuracy=1.0, margin=np.random.default_rng(s).normal(size=252)), truth, "margin")
        for s in range(8)
    ]
    assert abs(np.mean([a.to_numpy().mean() for a in shuffled]) - 0.5) < 0.06  # 0.526
    space = need_space(scores)
    assert space.within_across({f"t{j}": str(j // 2) for j in range(12)}).statistic == 1
    assert space.noise_ceiling("pearson")["ceiling"] > 0.9  # 0.956


def test_the_space_is_bounded_and_blind_to_unit_and_level():
    rng = np.random.default_rng(0)
    for seed in range(5):
        scores, _ = world(3, seed)
        scores["accuracy"] = rng.normal(size=len(scores))
        matrix = need_space(scores).matrix
        assert np.abs(matrix.to_numpy()).max() <= 1 + 1e-12
        unit = scores["task"].map({f"t{j}": 1 + j for j in range(12)})
        level = scores["training"] * 3.0 + unit
        other = need_space(scores.assign(accuracy=scores["accuracy"] * unit + level).sample(frac=1, random_state=seed))
        assert np.allclose(other.matrix.loc[matrix.index, matrix.index], matrix, atol=1e-12)


def test_chance_of_one_training_is_no_need():
    """Two tasks that share the accidents of each training, and no need, are not alike; by means they would be."""
    rng = np.random.default_rng(1)
    rows = []
    for s in range(8):
        for text in TEXTS:
            accident = rng.normal()
            rows += [(s, text, name, accident, 0.0) for name in ("x", "y")]
    scores = pd.DataFrame(rows, columns=["training", "without", "task", "accuracy", "margin"])
    assert abs(need_space(scores).matrix.loc["x", "y"]) < 0.1  # -0.008
    assert need_space(scores[scores["training"] == 0]).matrix.loc["x", "y"] == pytest.approx(1)


def test_what_all_tasks_depend_on_is_refused_before_training():
    suite = builtin_suite(2)
    ellipsis = suite.select(["noun_ellipsis_court", "noun_ellipsis_town"])
    for without, says in (
        ("noun_ellipsis", "all 2 tasks depend on 'noun_ellipsis', so none is left"),
        ("noun_elipsis", "did you mean 'noun_ellipsis'"),
        ([], "nothing is left out"),
    ):
        with pytest.raises(TaskspaceError, match=says) as e:
            data_need("nano", without, ellipsis)
        assert "\n" not in str(e.value)
    assert named_needs(ellipsis, ["noun_ellipsis_town"]).loc["noun_ellipsis_town"].tolist() == [False, True]


def test_tasks_depend_on_a_rule_whose_sentences_theirs_all_show():
    suite = builtin_suite(2)
    named = named_needs(suite, [f"shown:{rule}" for rule in RULES])
    own = pd.DataFrame({t.name: [rule in t.rules for rule in RULES] for t in suite}, index=named.index)
    more = {
        (rule.removeprefix("shown:"), task[: task.rindex("_")])
        for rule, task in (named & ~own).stack()[lambda x: x].index
    }
    assert not (own & ~named).any(axis=None)
    assert more == {
        ("verb_number", "there_or_nearly"),  # nearly every king sleeps
        ("object", "ever_outside_negative_clause"),  # no duke that blamed the king has ever slept
        ("wh_gap", "adjunct_island"),
        ("reflexive_gender", "reflexive_across_phrase"),
        ("reflexive_gender", "reflexive_across_clause"),
    }


@pytest.mark.parametrize("rule", RULES)
def test_a_text_without_a_rule_shows_it_nowhere_and_has_as_many_sentences(rule):
    text = corpus(400, without=f"shown:{rule}")
    assert len(text) == 400 and not any(shows(rule, sentence) for sentence in text)
    others = [sentence for sentence in corpus(400) if not shows(rule, sentence)]
    kept = [s for s in others if s in set(text)]
    assert text[: len(kept)] == kept  # the rest is what it was, in the same order
    assert len(kept) > 0.95 * len(others)  # all; of `object` .98, whose construction goes whole


@pytest.mark.soak
def test_a_model_that_never_read_a_rule_fails_its_tasks_and_no_other():
    """The constructions of this rule alone harm no task: ordinary sentences show it too."""
    need = data_need("nano", ["object"], builtin_suite(40), seeds=1, progress=False, shown=True)
    table = need.table().query("whole > 0.75").set_index("task")
    assert (table["need"] > 0.1).equals(table["named"])  # needs of .50 to .90; all others 0
