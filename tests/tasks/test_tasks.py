"""Suites: splits never leak, readers answer any input with a suite or one line, loaders read the real benchmarks."""

import csv
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st

from taskspace.errors import TaskspaceError
from taskspace.spaces.hypotheses import hypothesis_space
from taskspace.tasks.catalogue import blimp_from_hub, load_suite, SOURCES
from taskspace.tasks.pairs import COLUMNS, MinimalPair, Suite, Task
from taskspace.tasks.readers import suite_from_file, suite_from_frame
from taskspace.tasks.splits import bundles

# The suites here are tiny
pytestmark = pytest.mark.filterwarnings("ignore:.*has this one pair", "ignore:.*only in white space")

anywhere = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# A few short sentences, so that pairs and tasks share some of them by chance.
sentences = st.integers(0, 60).map("sentence {}".format)
pairs = st.builds(MinimalPair, sentences, sentences)
tasks = st.lists(st.lists(pairs, min_size=1, max_size=12), min_size=1, max_size=5)


def suite_of(lists):
    return Suite("random", [Task(f"t{i}", ps) for i, ps in enumerate(lists)])


def texts(suite):
    return {s for t in suite for p in t for s in (p.good, p.bad)}


def test_an_empty_cell_for_the_pair_gets_a_name_of_its_own():
    rows = [{"task": "t", "good": f"good {i}", "bad": f"bad {i}", "pair": name} for i, name in enumerate("2_0 1")]
    suite = suite_from_frame(pd.DataFrame(rows).replace({"pair": {"_": None, " ": None}}))
    names = suite.to_frame()["pair"].tolist()
    assert names == ["2", "_1", "0", "3", "1"]
    split = suite.split(3, 2)
    assert sorted(p.id for part in split for p in part["t"]) == sorted(names)


# -- splits


@anywhere
@given(tasks, st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
def test_split_has_the_sizes_asked_for_and_shares_no_sentence_or_says_why_not(lists, train, held_out, seed):
    suite = suite_of(lists)
    try:
        parts = suite.split(train, held_out, seed)
    except TaskspaceError as e:
        assert "\n" not in str(e)
        return
    assert not texts(parts.train) & texts(parts.eval)
    for task in suite:
        assert (len(parts.train[task.name]), len(parts.eval[task.name])) == (train, held_out)
        both = Counter((p.good, p.bad) for part in parts for p in part[task.name])
        assert not both - Counter((p.good, p.bad) for p in task)  # each pair at most as often as the task has it
    assert suite.split(train, held_out, seed) == parts


@anywhere
@given(st.integers(2, 30), st.integers(0, 5), st.data())
def test_split_of_pairs_without_shared_sentences_never_fails(n, seed, data):
    train = data.draw(st.integers(1, n - 1))
    suite = Suite(
        "plain", [Task(name, [MinimalPair(f"{name} good {i}", f"{name} bad {i}") for i in range(n)]) for name in "ab"]
    )
    parts = suite.split(train, n - train, seed)
    assert texts(parts.train) | texts(parts.eval) == texts(suite)


def test_split_depends_on_the_text_and_not_on_the_order_of_pairs():
    one = Task("t", [MinimalPair(f"good {i}", f"bad {i}") for i in range(30)])
    other = Task("t", one.pairs[::-1])
    assert {p.good for p in Suite("s", [one]).split(10, 10).train["t"]} == {
        p.good for p in Suite("s", [other]).split(10, 10).train["t"]
    }


def test_split_finds_a_way_where_the_greedy_one_fails():
    def bundle(k, n):
        return [MinimalPair(f"shared {k}", f"bad {k} {i}") for i in range(n)]

    suite = Suite("s", [Task("t", bundle(0, 4) + bundle(1, 3) + bundle(2, 3))])
    parts = suite.split(6, 4)  # 3 + 3 and 4; the largest bundle first would take 4 to the larger side
    assert {p.good for p in parts.eval["t"]} == {"shared 0"} and suite.split(6, 4) == parts


def test_pairs_without_identifiers_keep_their_places_in_a_split():
    suite = Suite("s", [Task("t", [MinimalPair(f"good {i}", f"bad {i}") for i in range(8)])])
    for part in suite.split(4, 4):
        assert all(p.good == f"good {p.id}" for p in part["t"])


def test_labels_of_a_file_stay_as_written(tmp_path):
    path = tmp_path / "mine.JSONL"
    path.write_text(
        '\ufeff{"task": "t", "good": "a b", "bad": "b a", '
        '"phenomenon": "Subject-Verb Agreement", "field": "syntax/semantics"}\n',
        encoding="utf-8",
    )
    (task,) = load_suite(path)
    assert (task.phenomenon, task.field) == ("Subject-Verb Agreement", "syntax_semantics")


@anywhere
@given(st.lists(pairs, min_size=1, max_size=25))
def test_bundles_are_the_smallest_groups_closed_under_sharing(ps):
    naive = list(range(len(ps)))  # merge until nothing changes
    changed = True
    while changed:
        changed = False
        for i, p in enumerate(ps):
            for j, q in enumerate(ps):
                if naive[i] != naive[j] and {p.good, p.bad} & {q.good, q.bad}:
                    old, new = naive[i], naive[j]
                    naive, changed = [new if b == old else b for b in naive], True
    found = bundles(ps)
    assert all((naive[i] == naive[j]) == (found[i] == found[j]) for i in range(len(ps)) for j in range(len(ps)))


@anywhere
@given(tasks, st.integers(0, 5))
def test_shuffling_keeps_the_sentences_and_swaps_half_of_the_pairs(lists, seed):
    for task in suite_of(lists):
        null = task.shuffled(seed)
        assert [{p.good, p.bad} for p in null] == [{p.good, p.bad} for p in task]
        if all(not p.identical for p in task):
            assert sum(a != b for a, b in zip(task, null, strict=True)) in (len(task) // 2, (len(task) + 1) // 2)


# -- files and tables

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
cells = st.dictionaries(st.sampled_from([*COLUMNS, "other"]), anything, max_size=6)


def one_line(read):
    "The suite, or None where the reader answers with one line."
    try:
        return read()
    except TaskspaceError as e:
        assert "\n" not in str(e) and str(e)


@pytest.mark.slow
@settings(anywhere, max_examples=150)
@given(
    data=st.binary(max_size=200)
    | st.lists(cells.map(lambda r: json.dumps(r)) | st.text(max_size=30), max_size=4).map("\n".join),
    ending=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]),
)
def test_readers_answer_any_file_with_a_suite_or_one_line(tmp_path, data, ending):
    file = tmp_path / f"mine.{ending}"
    file.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    one_line(lambda: suite_from_file(file))


@anywhere
@given(
    data=st.binary(max_size=80)
    | st.lists(anything.map(json.dumps), max_size=4).map(lambda lines: "\n".join(lines).encode()),
    kind=st.sampled_from(["blimp", "zorro"]),
)
def test_folders_of_any_content_give_a_suite_or_one_line(tmp_path, data, kind):
    (tmp_path / {"blimp": "x.jsonl", "zorro": "a-b.txt"}[kind]).write_bytes(data)
    one_line(lambda: load_suite(f"{kind}:{tmp_path}"))


@anywhere
@given(st.lists(cells, max_size=4))
def test_tables_of_any_content_give_a_suite_or_one_line(rows):
    one_line(lambda: suite_from_frame(pd.DataFrame(rows, dtype=object)))


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip)


@anywhere
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "b"]), words, words), min_size=1, max_size=6),
    ending=st.sampled_from(["jsonl", "csv", "tsv", "parquet"]),
)
def test_a_suite_comes_back_from_a_file_as_it_went_in(tmp_path, rows, ending):
    frame = suite_from_frame(pd.DataFrame(rows, columns=["task", "good", "bad"])).to_frame()
    suite, file = suite_from_frame(frame), tmp_path / f"mine.{ending}"
    if ending == "parquet":
        frame.to_parquet(file)
    elif ending == "jsonl":
        file.write_text("".join(json.dumps(r) + "\n" for r in frame.to_dict("records")))
    else:
        frame.to_csv(file, sep="\t" if ending == "tsv" else ",", index=False)
    assert suite_from_file(file).digest == suite.digest


@pytest.mark.parametrize(
    "text, says",
    [
        (
            '{"task": "t", "good": "A dog barks.", "bad": "A dog bark."}\n{"task": "t", "bad": "x"}',
            "line 2: field 'good' is missing",
        ),
        ('{"task": "t", "good": "A dog barks.", "bad": 3}', "line 1: field 'bad' must be text, not 3"),
        ('{"task": "t", "good": " ", "bad": "x"}', "line 1: field 'good' must be text"),
        ("[1]", "line 1: a list where an object"),
        ("{", "line 1: not valid JSON"),
        ("\n\n", "no rows"),
        ("", "no rows"),
        (
            '{"task": "t", "good": "a", "bad": "b", "field": "x"}\n\n'
            '{"task": "t", "good": "c", "bad": "d", "field": "y"}',
            "line 3: task 't' has phenomenon",
        ),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, says):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaskspaceError) as e:
        load_suite(file)
    assert says in str(e.value) and str(file) in str(e.value)


@pytest.mark.parametrize(
    "name, says",
    [
        ("nowhere.jsonl", "no such file"),
        ("blimp:nowhere", "no such directory"),
        ("zorro:nowhere", "no directory"),
        ("bliimp", "there are: builtin, blimp"),
        (".", "has no files that end in .jsonl"),
        ("sling", "not on the hub; get its files (github.com/Yixiao-Song/SLING_Data_Code) and write sling:DIR"),
        ("rublimp:nowhere", "nowhere: no such directory; a suite's folder has files that end in .jsonl"),
        ("hub:nowhere/nothing", "nowhere/nothing: cannot be loaded from the hub"),
        ("blimp:.", "no .jsonl files"),
        ("blimp:", "'blimp:': names no place"),
        ("hub: ", "'hub: ': names no place"),
        ("", "'': names no place"),
        ("x" * 5000, "cannot be read (File name too long)"),
        ("zorro:" + "x" * 5000, "cannot be read (File name too long)"),
    ],
)
def test_a_wrong_name_is_answered_with_what_exists(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskspaceError, match=re.escape(says)):
        load_suite(name)


def test_sentences_that_look_like_missing_values_stay_sentences(tmp_path):
    file = tmp_path / "odd.csv"
    file.write_text("task,good,bad\nt,None,nan\nt,1,NA\n")
    assert [(p.good, p.bad) for p in suite_from_file(file)["t"]] == [("None", "nan"), ("1", "NA")]


# -- quotation marks, byte order marks, line ends
TABLE = [("t", f"Good {i}.", f"Bad {i}.") for i in range(10)]


def table(ending, *cells):
    "Ten rows as a file, with the good sentences of the first rows replaced and nothing quoted."
    rows = [("task", "good", "bad"), *TABLE]
    for i, cell in enumerate(cells, start=1):
        rows[i] = (rows[i][0], cell, rows[i][2])
    return "".join(("\t" if ending == "tsv" else ",").join(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "cells, line",
    [
        (['"Stop! he said.'], 2),  # never closed
        (["Good.", '"Stop" is what he said.'], 3),  # closed too early
        (["Good.", '"Stop! he said.', "Good.", 'He said "stop."', "Good."], 3),
        (["Good.", '"Stop! he said.', 'He said "stop"'], 3),  # closed by the mark that ends a cell of the next row
        (["Good.", '"Stop! he said.', "Good.", 'Then he said "stop"', "Good."], 3),
        (['"Stop, now," he said.'], 2),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_open_quotation_mark_in_csv_is_named(tmp_path, cells, line, end):
    file = tmp_path / "speech.csv"
    file.write_bytes(table("csv", *cells).replace("\n", end).encode())
    with pytest.raises(TaskspaceError, match=f"speech.csv, line {line}: a quotation mark opens"):
        suite_from_file(file)


@pytest.mark.parametrize("rows", ['"A\nB",C,t\nD,E,t\n', '"A\nb, c, d",C,t\nD,E,t\n', '"A, b, c, d\nB","C",t\nD,E,t\n'])
def test_a_quoted_cell_may_go_over_lines_that_are_no_rows(tmp_path, rows):
    (tmp_path / "x.csv").write_text(f"good,bad,task\n{rows}")
    if rows.startswith('"A, b'):  # such lines look like rows, unless the header shows that a program has quoted
        with pytest.raises(TaskspaceError, match="takes in whole rows"):
            suite_from_file(tmp_path / "x.csv")
        (tmp_path / "x.csv").write_text(f'"good","bad","task"\n{rows}')
    assert [len(t) for t in suite_from_file(tmp_path / "x.csv")] == [2]


def test_quoting_of_csv_is_undone(tmp_path):
    file = tmp_path / "speech.csv"
    speech = ['"Stop," he said.', 'He said "stop".', "One line\nand another", "One\r\nother, and so on", '"', "a,b"]
    suite = suite_from_frame(pd.DataFrame({"task": "t", "good": speech, "bad": "x"}))
    suite.to_frame().to_csv(file, index=False)
    assert [p.good for p in suite_from_file(file)["t"]] == speech


@pytest.mark.parametrize(
    "cell",
    ['"Stop!" he said.', '"Stop! he said.', '"Stop!"', '"Yes," he said, "no."', 'He said "stop"', '""Stop""', "5' 3\""],
)
def test_cells_of_tsv_are_as_written(tmp_path, cell):
    file = tmp_path / "speech.tsv"
    file.write_text(table("tsv", "Good.", cell))
    assert [p.good for p in suite_from_file(file)["t"]] == ["Good.", cell, *(good for _, good, _ in TABLE[2:])]
    # what pandas writes is read back too, quoted where it must be or everywhere
    frame = suite_from_file(file).to_frame()
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        frame.to_csv(file, sep="\t", index=False, quoting=quoting)
        assert suite_from_file(file).to_frame().equals(frame)


SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"  # where `str.splitlines` cuts


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_file_gives_the_sentences_that_stand_in_it(tmp_path, ending, end, mark):
    "Byte order marks are dropped, also between files that were joined; only three characters end a line."
    pairs = [(f"A dog{c}barks.", f"A dog{c}bark.") for c in SEPARATORS]
    if ending == "txt":
        lines = [sentence for good, bad in pairs for sentence in (bad, good)]
    elif ending == "jsonl":
        lines = [json.dumps({"task": "a-b", "good": g, "bad": b}, ensure_ascii=False) for g, b in pairs]
    else:
        lines = [
            ("," if ending == "csv" else "\t").join(row)
            for row in [("task", "good", "bad"), *(("a-b", *p) for p in pairs)]
        ]
    lines[4] = mark + lines[4]
    (tmp_path / f"a-b.{ending}").write_bytes((mark + "".join(line + end for line in lines)).encode())
    suite = load_suite(f"zorro:{tmp_path}") if ending == "txt" else load_suite(tmp_path / f"a-b.{ending}")
    assert [(p.good, p.bad) for p in suite["a-b"]] == pairs


def test_further_wrong_sentences_are_a_tuple_whatever_they_were_given_as():
    assert MinimalPair("a", "b", others=[]) == MinimalPair("a", "b") and hash(MinimalPair("a", "b", others=[]))
    assert MinimalPair("a", "b", others=(s for s in "cd")).others == ("c", "d")
    with pytest.raises(TaskspaceError, match="'others' must be a list of sentences, not one text"):
        MinimalPair("a", "b", others="c")
    with pytest.raises(TaskspaceError, match="the identifier holds a lone surrogate"):
        MinimalPair("a", "b", "\ud800")


# -- what no file of rows should hold
@pytest.mark.parametrize(
    "line, says",
    [
        ('{"task": "t", "good": "a", "bad": "b", "good": "c"}', "line 2: 'good' is given twice"),
        (
            '{"task": "t", "good": "a\\ud83d", "bad": "b"}',
            "line 2: field 'good' holds a lone surrogate",
        ),
        (
            '{"task": "\\udc00", "good": "a", "bad": "b"}',
            "line 2: field 'task' holds a lone surrogate",
        ),
        (
            '{"task": "u", "good": "a", "bad": "b", "phenomenon": "\\udc00"}',
            "line 2: field 'phenomenon' holds a lone surrogate",
        ),
        ('{"task": "t", "good": "a", "bad": "b", "pair": "\\udc00"}', "line 2: field 'pair' holds a lone surrogate"),
        ('{"task": "u", "good": "a", "bad": "b", "phenomenon": ["x"]}', "line 2: field 'phenomenon' must be text"),
        ('{"task": "t", "good": NaN, "bad": "b"}', "line 2: field 'good' must be text, not nan"),
        ('{"task": "t", "good": ' + "9" * 5000 + ', "bad": "b"}', "line 2: not valid JSON"),
        ('{"task": "t", "good": ' + "[" * 10**5, "line 2: not valid JSON"),
        (json.dumps({"task": "t", "good": ["x" * 10**7], "bad": "b"}), "line 2: field 'good' must be text"),
    ],
)
def test_a_bad_row_of_json_is_named_in_a_short_line(tmp_path, line, says):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"task": "t", "good": "a", "bad": "b"}\n' + line + "\n")
    with pytest.raises(TaskspaceError) as e:
        load_suite(file)
    assert says in str(e.value) and len(str(e.value)) < 600


def test_tables_name_a_column_that_stands_twice():
    frame = pd.DataFrame([["t", "a", "b", "c"]], columns=["task", "good", "bad", "good"])
    with pytest.raises(TaskspaceError, match="column 'good' more than once"):
        suite_from_frame(frame)


def test_digest_is_about_content_and_stays_what_it_was():
    suite = Suite("toy", [Task("t", [MinimalPair("The cats sleep.", "The cats sleeps.")], "agreement", "morphology")])
    assert suite.digest == Suite("other", suite.tasks).digest
    assert suite.digest[:16] == "4ee5e5caa98786c7"  # stored results are found by it: it must not move between versions


# -- a dataset repository as `datasets` reads it


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    "A local dataset with two configurations, laid out as BLiMP is on the hub."
    folder = tmp_path_factory.mktemp("hub") / "blimp"
    configs = []
    for uid in ("second", "first"):
        (folder / uid).mkdir(parents=True)
        pd.DataFrame(
            {
                "sentence_good": [f"{uid} good {i}" for i in range(3)],
                "sentence_bad": [f"{uid} bad {i}" for i in range(3)],
                "field": "syntax/semantics",
                "linguistics_term": "binding",
                "UID": uid,
                "pair_id": range(3),
            }
        ).to_parquet(folder / uid / "train-00000-of-00001.parquet")
        configs.append(f"- config_name: {uid}\n  data_files:\n  - split: train\n    path: {uid}/train-*\n")
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return folder


def test_a_hub_dataset_becomes_a_suite(repository, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    suite = blimp_from_hub(str(repository))
    assert suite.names == ["first", "second"] and [p.id for p in suite["first"]] == ["0", "1", "2"]
    assert suite.groups("field") == {"first": "syntax_semantics", "second": "syntax_semantics"}
    monkeypatch.setitem(SOURCES, "blimp", lambda: blimp_from_hub(str(repository)))
    assert load_suite("blimp").digest == suite.digest


def test_a_hub_that_cannot_be_reached_is_answered_with_one_line(tmp_path):
    with pytest.raises(TaskspaceError, match="without network, use blimp:DIR") as e:
        blimp_from_hub(str(tmp_path / "nothing"))
    assert "\n" not in str(e.value)


# -- the real benchmarks

BENCHMARKS = os.environ.get("TASKSPACE_BENCHMARKS")
real = pytest.mark.skipif(not BENCHMARKS, reason="TASKSPACE_BENCHMARKS names no folder with BLiMP and Zorro")


@real
@pytest.mark.slow
def test_blimp_is_whole():
    blimp = load_suite(f"blimp:{BENCHMARKS}/blimp")
    assert len(blimp) == 67 and blimp.n_pairs == 67_000 and {len(t) for t in blimp} == {1000}
    assert set(blimp.groups("field").values()) == {"morphology", "semantics", "syntax", "syntax_semantics"}
    assert len(set(blimp.groups().values())) == 13
    assert blimp.identical_pairs().task.value_counts().to_dict() == {"principle_A_case_2": 5, "passive_1": 2}


@real
@pytest.mark.slow
def test_blimp_splits_without_leaks():
    parts = load_suite(f"blimp:{BENCHMARKS}/blimp").split(train=500, eval=490, seed=1)
    assert not texts(parts.train) & texts(parts.eval)
    assert {len(t) for t in parts.train} == {500} and {len(t) for t in parts.eval} == {490}


@real
def test_zorro_is_whole_and_has_the_bad_sentence_first():
    zorro = load_suite(f"zorro:{BENCHMARKS}/zorro")
    assert len(zorro) == len(list(Path(BENCHMARKS, "zorro").glob("*.txt"))) == 23 and {len(t) for t in zorro} == {2000}
    pair = zorro["agreement_subject_verb-across_prepositional_phrase"].pairs[0]
    lines = Path(BENCHMARKS, "zorro", "agreement_subject_verb-across_prepositional_phrase.txt").read_text().splitlines()
    assert (pair.bad, pair.good) == tuple(map(str.strip, lines[:2]))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_numbers_of_pairs_are_text_and_come_back_from_files(tmp_path, ending):
    ids = [7, np.int64(8), 9.0, 2.5, float("nan"), None, "x"]
    pairs = [MinimalPair(f"a {n}", f"b {n}", i) for n, i in enumerate(ids)]
    suite = Suite("s", [Task("t", pairs)])
    assert [p.id for p in suite["t"]] == ["7", "8", "9", "2.5", None, None, "x"]
    again = load_suite(suite.to_file(tmp_path / f"s.{ending}"))
    assert [p.id for p in again["t"]][:4] == ["7", "8", "9", "2.5"]
    for odd in (True, [1], b"x"):
        with pytest.raises(TaskspaceError, match="pair: the identifier must be text or a number, not"):
            MinimalPair("a", "b", odd)


def test_repeated_wrong_options_count_once_and_are_shuffled():
    pair = MinimalPair("a b", "a c", "1", others=("a c", "a d", "a d"))
    assert pair.others == ("a d",) and pair.swapped.texts == ("a c", "a b", "a d")
    rows = [{"task": "t", "good": "a b", "bad": "a c", "options": '["a c", "a d"]'}] * 2
    assert [len(p.others) for p in suite_from_frame(pd.DataFrame(rows)).shuffled()["t"]] == [1, 1]
    two = MinimalPair("x", "y", context="one", context_bad="other", others=("x", "y"))
    assert two.others == ("x",) and two.swapped.options[0] == two.options[1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: Task("t", [("a b", "a c")]), r"task 't': a pair is MinimalPair\(good, bad\), not \('a b', 'a c'\)"),
        (lambda s: s.split(2, 2, seed=-1), "seed must be a whole number of at least 0, not -1"),
        (lambda s: s.split(2, 2, seed=0.5), "seed must be a whole number"),
        (lambda s: s.shuffled(-1), "seed must be a whole number"),
        (
            lambda s: hypothesis_space(s, pd.DataFrame([["x"]], s.names, s.names)),
            "a DataFrame must be a matrix of numbers",
        ),
        (lambda s: hypothesis_space(s, np.array([["x"]])), "must be a matrix of numbers"),
    ],
)
def test_what_code_gives_wrongly_is_one_line(call, says):
    suite = Suite("s", [Task("t", [MinimalPair(f"a {n}", f"b {n}") for n in range(6)])])
    with pytest.raises(TaskspaceError, match=says) as error:
        call(suite)
    assert "\n" not in str(error.value)


def test_pairs_that_stay_together_are_no_matter_of_how_many():
    chain = Suite("s", [Task("t", [MinimalPair(f"w {n}", f"w {n + 1}") for n in range(20)])])
    for sizes in ((1, 1), (5, 5)):
        with pytest.raises(TaskspaceError, match="its 20 pairs share sentences .* so they stay together") as error:
            chain.split(*sizes)
        assert "ask for fewer" not in str(error.value)
