"""The built-in English: the same for the same seed, true to its rules, and not to be solved by counting words."""

import re
from collections import Counter, defaultdict
from itertools import pairwise
from math import log
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskspace.errors import TaskspaceError
from taskspace.tasks import grammar
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.grammar import (
    builtin_suite,
    CLOSED,
    corpus,
    FIELDS,
    held_out,
    RULES,
    sides,
    task_table,
    vocabulary,
)
from taskspace.tasks.lexicon import LEXICONS, noun, open_words, verb


def words(sentence):
    return [*sentence[:-1].lower().split(), sentence[-1]]


@pytest.fixture(scope="module")
def suite():
    return builtin_suite(200)


@pytest.fixture(scope="module")
def text():
    return corpus(30_000)


# -- the suite


def test_suite_has_the_phenomena_and_crosses_rules_with_words(suite):
    assert len(suite) >= 24 and set(suite.groups().values()) == set(FIELDS) and len(FIELDS) == 12
    assert {r for t in suite for r in t.rules} == set(RULES)
    for rule in RULES:  # each rule with each list, as often with the one as with the other
        assert len({Counter(t.lexicon for t in suite if rule in t.rules)[name] for name in ("court", "town")}) == 1
    assert {t.lexicon for t in suite} == {"court", "town"} and not open_words("court") & open_words("town")


def test_tasks_use_the_words_of_their_list_alone(suite):
    for task in suite:
        allowed = open_words(task.lexicon) | set(CLOSED)
        for pair in task:
            assert not set(words(pair.good) + words(pair.bad)) - allowed, pair


def test_good_and_bad_differ_little(suite):
    for task in suite:
        for pair in task:
            good, bad = words(pair.good), words(pair.bad)
            assert len(good) == len(bad) and good != bad, pair
            swapped = sum((Counter(good) - Counter(bad)).values())
            assert swapped <= 1, pair  # one word exchanged, or the same words in another order


def test_suite_is_the_same_for_the_same_seed(suite):
    assert load_suite("builtin").digest == suite.digest
    assert builtin_suite(30).digest == suite.take(30).digest != builtin_suite(30, seed=1).digest
    assert len(task_table()) == len(suite)


def test_no_sentence_comes_twice(suite):
    for task in suite:
        sentences = [s for p in task for s in (p.good, p.bad)]
        assert len(set(sentences)) == len(sentences), task.name
    parts = suite.split(100, 100)
    assert parts.train.n_pairs == parts.eval.n_pairs == 100 * len(suite)


@pytest.mark.parametrize("pairs", [0, -1])
def test_impossible_sizes_are_refused(pairs):
    with pytest.raises(TaskspaceError, match="at least 1"):
        builtin_suite(pairs)


def test_a_task_that_runs_out_of_pairs_says_how_many_there_are(monkeypatch):
    monkeypatch.setattr(grammar, "held_out", lambda sentence: False)
    with pytest.raises(TaskspaceError, match="fewer than 3 pairs; ask for at most 0"):
        builtin_suite(3, seed=99)


# -- the corpus


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 40))
def test_corpus_is_the_same_for_the_same_seed_and_a_shorter_one_is_its_beginning(seed, n, more):
    assert corpus(n + more, seed)[:n] == corpus(n, seed)


@pytest.mark.slow
def test_corpus_never_holds_a_test_sentence(suite, text):
    for seed in (0, 7):
        held = builtin_suite(100, seed=seed)
        assert not {p.good for t in held for p in t} & {*text, *corpus(5000, seed=seed)}
    assert not {p.bad for t in suite for p in t} & set(text)
    assert not any(map(held_out, text)) and all(held_out(p.good) for t in suite for p in t)


def test_vocabulary_is_what_is_used(suite, text):
    assert (
        set(vocabulary()) == {w for s in text for w in words(s)} and len(set(vocabulary())) == len(vocabulary()) < 400
    )
    assert {w for t in suite for p in t for s in (p.good, p.bad) for w in words(s)} <= set(vocabulary())


def test_text_is_spelt_as_english(suite, text):
    names = {n for pair in LEXICONS["all"]["names"] for n in pair}
    for sentence in [*text, *(s for t in suite for p in t for s in (p.good, p.bad))]:
        assert re.fullmatch(r"[A-Z][a-zA-Z]*( [a-zA-Z]+)*[.?]", sentence), sentence
        assert not re.search(r"\ba [aeiou]", sentence) and "an" not in sentence.split(), sentence
        assert all(w in names for w in re.findall(r"(?<= )[A-Z]\w+", sentence)), sentence


def test_golden_text():
    assert corpus(3) == [
        "The proud teacher secretly chose four baskets.",
        "The men themselves sneezed.",
        "The servant forgot the cups after several waitresses slept.",
    ]


def test_generation_is_fast():
    start = process_time()
    corpus(20_000)
    assert process_time() - start < 5  # measured 0.3 s


# -- rules, read off the text by other code than that which wrote it

SINGULAR = {f[0] for kind in ("person", "thing") for f in LEXICONS["all"][kind]}
PLURAL = {f[1] for kind in ("person", "thing") for f in LEXICONS["all"][kind]}
ADJECTIVES = {w for kind in ("trait", "look") for w in LEXICONS["all"][kind]}
MALE, FEMALE = (
    {w.lower() for c in LEXICONS["all"]["names"] for w in (c[g],)}
    | {w for c in LEXICONS["all"]["couple"] for w in c[g]}
    for g in (0, 1)
)
KNOWING = {f for v in LEXICONS["all"]["knowing"] for f in v}
PASTS = {v[2] for v in LEXICONS["all"]["irregular"]}
PARTICIPLES = {v[3] for v in LEXICONS["all"]["irregular"]}
NEEDS = {
    **dict.fromkeys(("a", "this", "that", "every", "one"), SINGULAR),
    **dict.fromkeys(("these", "those", "many", "several", "all", "two", "three", "four"), PLURAL),
}


def faults(sentence):
    "The rules that a sentence breaks, as far as simple patterns show it."
    s, found = words(sentence), set()
    plain = [w for w in s if w not in ADJECTIVES]
    for a, b in pairwise(plain):
        if a in NEEDS and b in SINGULAR | PLURAL and b not in NEEDS[a]:
            found.add("determiner_number")
    for i, w in enumerate(s):
        before = [x for x in s[:i] if x not in {"often", "secretly", "recently", "suddenly"}]
        if w in PARTICIPLES and before[-1] not in {"has", "have", "ever", "was", "were"}:
            found.add("participle")
        if w in PASTS and before[-1] in {"has", "have", "ever"}:
            found.add("participle")
    if "ever" in s and s[0] != "no":
        found.add("polarity")
    for group, wrong in (({"there"}, {"every", "all"}), ({"nearly", "almost"}, {"a", "many", "several"})):
        if s[0] in group and (s[2] if s[0] == "there" else s[1]) in wrong:
            found.add("strength")
    if s[-2] in ADJECTIVES and not {"is", "are", "was", "were"} & set(s):
        found.add("ellipsis")
    for self, wrong in (("himself", FEMALE), ("herself", MALE)):
        if self in s:
            start = next(
                (i for i, w in enumerate(s) if w == "that" and s[i - 1] in KNOWING), 0
            )  # of an embedded clause
            clause = s[start : s.index(self)]
            subject = next((w for w in clause if w in MALE | FEMALE), None)
            if subject in wrong:
                found.update({"reflexive_gender", "reflexive_antecedent"})
    return found


def test_patterns_find_no_fault_in_the_corpus(text):
    assert not [s for s in text if faults(s)]


def test_the_same_patterns_tell_bad_from_good(suite):
    for rule in (
        "determiner_number",
        "participle",
        "polarity",
        "strength",
        "ellipsis",
        "reflexive_gender",
        "reflexive_antecedent",
    ):
        for task in suite:
            if rule in task.rules:
                assert not [p for p in task if faults(p.good)], rule
                assert all(rule in faults(p.bad) for p in task), (
                    rule,
                    [p.bad for p in task if rule not in faults(p.bad)][:3],
                )


@pytest.mark.parametrize(
    "forms, expected",
    [
        (noun("lady"), ("lady", "ladies")),
        (noun("boy"), ("boy", "boys")),
        (noun("waitress"), ("waitress", "waitresses")),
        (noun("man"), ("man", "men")),
        (verb("polish"), ("polishes", "polish", "polished", "polished")),
        (verb("bury"), ("buries", "bury", "buried", "buried")),
        (verb("smile"), ("smiles", "smile", "smiled", "smiled")),
        (verb("fall"), ("falls", "fall", "fell", "fallen")),
    ],
)
def test_forms(forms, expected):
    assert forms == expected


def test_sides():
    assert sides("a [b c|d] e [|f] .") == ("a b c e  .", "a d e f .")


# -- counting words does not solve it


def ngram_accuracy(suite, text, n):
    "Accuracy of an n-gram model with add-0.1 smoothing, backing off to nothing."
    counts, contexts = Counter(), Counter()
    for sentence in text:
        tokens = ["<s>"] * (n - 1) + words(sentence)
        for i in range(n - 1, len(tokens)):
            counts[tuple(tokens[i - n + 1 : i + 1])] += 1
            contexts[tuple(tokens[i - n + 1 : i])] += 1
    size = len(vocabulary())

    def score(sentence):
        tokens = ["<s>"] * (n - 1) + words(sentence)
        return sum(
            log(
                (counts[tuple(tokens[i - n + 1 : i + 1])] + 0.1) / (contexts[tuple(tokens[i - n + 1 : i])] + 0.1 * size)
            )
            for i in range(n - 1, len(tokens))
        )

    result = defaultdict(float)
    for task in suite:
        for pair in task:
            margin = score(pair.good) - score(pair.bad)
            result[task.name] += (0.5 if abs(margin) < 1e-9 else float(margin > 0)) / len(task)
    return result


def test_single_words_say_nothing(suite, text):
    assert set(round(a, 9) for a in ngram_accuracy(suite, text, 1).values()) == {0.5}


def test_neighbouring_words_do_not_suffice(suite, text):
    accuracy = ngram_accuracy(suite, text, 2)
    at_chance = [t for t in suite if t.rules[0] in ("verb_number", "reflexive_antecedent")]
    assert max(accuracy[t.name] for t in at_chance) < 0.65


# Leaving something out


def kind_of(sentence):
    """A construction that a word gives away."""
    return next((k for k, w in (("there_or_nearly", {"there", "nearly", "almost"}),) if w & set(words(sentence))), None)


def test_a_construction_left_out_is_gone_and_the_rest_stays():
    whole, rest = corpus(3000), corpus(3000, without="there_or_nearly")
    assert len(rest) == 3000 and not any(map(kind_of, rest))
    kept = [s for s in whole if not kind_of(s)]
    assert 2500 < len(kept) < 3000 and rest[: len(kept)] == kept


def test_a_word_list_left_out_of_a_construction():
    for gone, left in (("court", "town"), ("town", "court")):
        text = corpus(5000, without=f"there_or_nearly_{gone}")
        mine = [s for s in text if kind_of(s)]
        lists = {name: open_words(name) - set(CLOSED) for name in (gone, left)}
        assert all(not lists[gone] & set(words(s)) and lists[left] & set(words(s)) for s in mine)
        assert abs(len(mine) - sum(map(bool, map(kind_of, corpus(5000))))) < 40  # 150; at most 7 apart
        others = [s for s in text if not kind_of(s)]
        assert any(open_words(gone) & set(words(s)) for s in others)


def test_no_text_without_a_rule_shows_it():
    text = corpus(5000, without=["polarity", "perfect"])
    assert not any("ever" in words(s) for s in text) and len(text) == 5000
    with pytest.raises(TaskspaceError, match="nothing is left to write"):
        corpus(5, without=[*grammar.CONSTRUCTIONS, *(w.__name__ for w in grammar.PLAIN)])
    with pytest.raises(TaskspaceError, match="without: give names of constructions, rules or tasks, not 3"):
        corpus(5, without=3)


def test_needs_are_the_rules(suite):
    needs = grammar.needs_table(suite)
    assert list(needs.columns) == suite.names and set(needs.index) == set(grammar.CONSTRUCTIONS)
    for task in suite:
        mine = needs.index[needs[task.name]]
        assert {r for c in mine for r in grammar.CONSTRUCTIONS[c].rules} == set(task.rules)
        assert any(task.name == f"{c}_{task.lexicon}" for c in mine)
