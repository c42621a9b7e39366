"""Any table becomes a suite: columns by name, two layouts, folders; text stays as it is; mistakes are named."""

import importlib.machinery
import json
import os
import sys
import types
import warnings

import pandas as pd
import pytest

from taskspace.errors import TaskspaceError
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.tasks.readers import suite_from_file, suite_from_folder, suite_from_frame

pytestmark = pytest.mark.filterwarnings("ignore:.*has this one pair")


def written(path, *rows, separator=",", mark="", end="\n"):
    "A text file of rows, nothing quoted."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((mark + "".join(separator.join(row) + end for row in rows)).encode())
    return path


def sentences(suite):
    return {t.name: [(p.good, p.bad) for p in t] for t in suite}


# -- the layouts that benchmarks have


def test_usual_columns_are_found_in_any_spelling(tmp_path):
    file = written(tmp_path / "a.csv", ("UID", "Sentence_Good", "bad sentence", "pair_ID"), ("t", "x y", "y x", "7"))
    (task,) = suite_from_file(file)
    assert (task.name, task.pairs) == ("t", (MinimalPair("x y", "y x", "7"),))


def test_the_name_of_a_file_is_its_task_where_no_column_is(tmp_path):
    file = written(tmp_path / "hypernym.csv", ("sentence_good", "sentence_bad"), ("x", "y"))
    assert suite_from_file(file).names == ["hypernym"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_separator_is_found(tmp_path, separator, ending):
    file = written(tmp_path / f"a.{ending}", ("task", "good", "bad"), ("t", "Yes: x", "No: x"), separator=separator)
    assert sentences(suite_from_file(file)) == {"t": [("Yes: x", "No: x")]}


def test_a_separator_can_be_said(tmp_path):
    file = written(tmp_path / "a.csv", ("good", "bad"), ("x, a; b", "y, a; b"), separator="#")
    assert sentences(suite_from_file(file, separator="#")) == {"a": [("x, a; b", "y, a; b")]}


def test_nested_folders_give_their_names(tmp_path):
    for place in ("Anaphor/Plural/self.jsonl", "Anaphor/pp.jsonl", "Aspect/le.jsonl", ".hidden/x.jsonl"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(json.dumps({"sentence_good": place, "sentence_bad": "b"}))
    assert suite_from_folder(tmp_path).names == ["Anaphor/Plural/self", "Anaphor/pp", "Aspect/le"]
    suite = suite_from_folder(tmp_path, task="{file}", phenomenon="{top}", field="=syntax", language="=zho")
    assert suite.groups() == {"self": "Anaphor", "pp": "Anaphor", "le": "Aspect"}
    assert {(t.field, t.language) for t in suite} == {("syntax", "zho")}


def test_two_rows_a_pair_are_joined_by_their_pair_or_in_turn(tmp_path):
    head = ("Phenomenon", "Paradigm", "Item", "Grammaticality", "Sentence")
    rows = [("P", "p", str(i), kind, f"{kind} {i}") for kind in ("Grammatical", "Ungrammatical") for i in range(3)]
    suite = suite_from_file(written(tmp_path / "nl.csv", head, *rows), pair="Item")
    assert sentences(suite) == {"p": [(f"Grammatical {i}", f"Ungrammatical {i}") for i in range(3)]}
    assert [p.id for p in suite["p"]] == ["0", "1", "2"] and suite["p"].phenomenon == "P"
    rows = [(str(i), "phen", "para", f"s{i}", str(1 - i % 2)) for i in range(4)]
    file = written(tmp_path / "zh.csv", ("", "0", "1", "2", "3"), *rows)
    suite = suite_from_file(file, phenomenon=0, task=1, sentence=2, label=3)
    assert sentences(suite) == {"para": [("s0", "s1"), ("s2", "s3")]}


def test_rows_without_labels_alternate_where_the_mapping_says_so(tmp_path):
    file = written(tmp_path / "ba.csv", ("", "0"), ("good 1",), ("bad 1",), ("good 2",), ("bad 2",))
    said = {"sentence": ["2", ""], "label": ["3", "=good,bad"], "task": ["1", "{file}"]}
    assert sentences(suite_from_file(file, **said)) == {"ba": [("good 1", "bad 1"), ("good 2", "bad 2")]}


def test_labels_of_ones_own_are_named(tmp_path):
    file = written(tmp_path / "a.csv", ("s", "ok"), ("x", "fein"), ("y", "falsch"))
    said = {"sentence": "s", "label": "ok", "good_label": "fein", "bad_label": "falsch"}
    assert sentences(suite_from_file(file, **said)) == {"a": [("x", "y")]}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_mapping_reads_every_kind_of_file(tmp_path, ending):
    frame = pd.DataFrame({"sen": ["a b", "c d"], "wrong_sen": ["b a", "d c"], "phenomenon": "SV-#", "lang": "rus"})
    frame["number"] = [1, 2]
    file = tmp_path / f"x.{ending}"
    if ending == "parquet":
        frame.to_parquet(file)
    elif ending.startswith("json"):
        frame.to_json(file, orient="records", lines=ending == "jsonl", force_ascii=False)
    else:
        frame.to_csv(file, sep="\t" if ending == "tsv" else ",", index=False)
    suite = suite_from_file(file, good="sen", bad="wrong_sen", task="{lang}-{phenomenon}", pair="{lang}{number}")
    assert sentences(suite) == {"rus-SV-#": [("a b", "b a"), ("c d", "d c")]}
    assert [p.id for p in suite.tasks[0]] == ["rus1", "rus2"] and suite.tasks[0].language == "rus"


def test_cells_that_were_quoted_twice_are_read(tmp_path):
    rows = [("t", '""Yes, he left."", he said"', "x"), ("t", '""Yes, he left.""', '""Yes, he leave.""')]
    file = written(tmp_path / "a.csv", ("task", "good", "bad"), rows[1])
    assert sentences(suite_from_file(file)) == {"t": [("Yes, he left.", "Yes, he leave.")]}
    with pytest.raises(TaskspaceError, match="line 2: a quotation mark opens"):
        suite_from_file(written(tmp_path / "a.csv", ("task", "good", "bad"), rows[0]))


# -- text is data

TEXTS = [
    "Él vio un café.",  # composed
    "E\u0301l vio un cafe\u0301.",  # decomposed
    "הילדה ישנה.",
    "العربيّة لغةٌ جميلةٌ.",
    "हिन्दी में क्\u200dष",  # with a joiner
    "他看见了自己。",
    "a\u00a0b  c\u3000d",  # blanks of several kinds
    " leading and trailing ",
    "line\u2028separator",
    "\u202bright to left\u202c",
    "😀👩\u200d👩\u200d👧",
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("mark, end", [("", "\n"), ("\ufeff", "\r\n")])
def test_no_letter_of_a_sentence_changes(tmp_path, ending, mark, end):
    pairs = [(text, f"{text[:-1]}!{text[-1:]}") for text in TEXTS]
    file = tmp_path / f"x.{ending}"
    objects = [{"task": "t", "good": good, "bad": bad} for good, bad in pairs]
    if ending == "parquet":
        pd.DataFrame(objects).to_parquet(file)
    elif ending == "json":
        file.write_bytes((mark + json.dumps(objects, ensure_ascii=False)).encode())
    elif ending == "jsonl":
        file.write_bytes((mark + "".join(json.dumps(o, ensure_ascii=False) + end for o in objects)).encode())
    else:
        rows = [("task", "good", "bad"), *(("t", *pair) for pair in pairs)]
        written(file, *rows, separator="\t" if ending == "tsv" else ",", mark=mark, end=end)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sentences(suite_from_file(file)) == {"t": pairs}


def test_tabs_in_quotes_are_kept(tmp_path):
    file = written(tmp_path / "a.tsv", ('"task"', '"good"', '"bad"'), ('"t"', '"x\ty"', '"x y"'), separator="\t")
    with pytest.warns(
        UserWarning, match=r"a.tsv, line 2: the sentences differ only in white space or Unicode form \(1"
    ):
        assert sentences(suite_from_file(file)) == {"t": [("x\ty", "x y")]}


def test_pairs_that_differ_in_form_alone_are_named_once(tmp_path):
    rows = [
        ("ok", "ko"),
        ("same", "same"),
        ("café", "cafe\u0301"),
        ("a  b", "a b"),
        ("a\u00adb", "ab"),
        ("c\u200bd", "cd"),
    ]
    file = written(tmp_path / "a.csv", ("good", "bad"), *rows)
    with pytest.warns(UserWarning) as caught:
        suite_from_file(file)
    (message,) = [str(w.message) for w in caught]
    assert "a.csv, line 4: the sentences differ only" in message and "4 such pairs" in message


def test_white_space_at_the_edge_of_one_sentence_is_named_once(tmp_path):
    rows = [(" both", " of them"), ("one ", "two"), ("three", "\u00a0four"), ("a b", "a b ")]
    file = written(tmp_path / "a.csv", ("good", "bad"), *rows)
    with pytest.warns(UserWarning) as caught:
        assert sentences(suite_from_file(file)) == {"a": rows}
    form, edges = (str(w.message) for w in caught)
    assert "a.csv, line 5: the sentences differ only" in form
    assert "a.csv, line 3: white space stands at the edge of only one sentence (2 such pairs" in edges
    frame = pd.DataFrame({"task": "t", "context": "A cat", "good": [" sleeps", "sat"], "bad": ["sleep", "sit "]})
    with pytest.warns(UserWarning, match=r"table, row 1: white space stands .* \(1 such"):
        suite_from_frame(frame)


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_a_blank_behind_the_separator_belongs_to_no_cell(tmp_path, separator):
    rows = [('"Well, he sleeps."', '"Well, he sleep."'), ("A dog; barks.".replace(separator, ""), '"A dog bark."')]
    text = "\n".join(f"{separator} ".join(row) for row in [("good", "bad"), *rows])
    if separator == ",":
        rows[0] = tuple(cell.replace('"', "") for cell in rows[0])
    (tmp_path / "a.csv").write_text(text)
    found = sentences(suite_from_file(tmp_path / "a.csv"))
    assert found == {"a": [tuple(cell.replace('"', "") for cell in row) for row in rows]}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.csv",
            'good,bad\nx y,x z\n"A b.", "A c."\n',
            "line 3: a blank stands between the separator and a quotation mark",
        ),
        ("a.csv", "good,bad,,\nWell, a b.,Well, a c.\n", "line 2: 'Well' stands in a column without a name"),
        ("a.csv", "good,bad\nWell, a b.,a c.\n", "line 2: more cells than the header has"),
        ("a.tsv", 'good\tbad\nx\ty\n"Well, a b."\tWell a b.\n', "line 3: '\"Well, a b.\"' stands in quotation marks"),
        ("a.tsv", 'good\tbad\n"a\tb"\ta c\n', "in a TSV, where the names in the header are quoted too"),
        (
            "a.csv",
            'good,bad,task\n"A, b, c, d\nB","C",t\n',
            r"up to line 3\); put .* quote the names in the header too",
        ),
        ("a.csv", "good,bad\nab,ac\n".encode("utf-16-le"), "looks like UTF-16"),
        ("a.csv", "good,bad\nab,ac\n".encode("utf-16-be"), "looks like UTF-16"),
        ("a.csv", "good,bad\nab,ac\n".encode("utf-16"), "begins as UTF-16 does"),
    ],
)
def test_cells_that_were_cut_wrongly_are_named_with_what_helps(tmp_path, name, text, says):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaskspaceError, match=says) as error:
        suite_from_file(tmp_path / name)
    assert "\n" not in str(error.value)


def test_marks_and_blanks_that_belong_to_sentences_stay(tmp_path):
    "An index without a name, direct speech in TSV, and a quoted cell that begins with a blank."
    (tmp_path / "a.csv").write_text(',good,bad,\n0,"a, b",a c,\n1," ""d"" e"," ""d"" f",?\n')
    assert sentences(suite_from_file(tmp_path / "a.csv")) == {"a": [("a, b", "a c"), (' "d" e', ' "d" f')]}
    speech = [('"Well, he sleeps."', '"Well, he sleep."'), ('"Well," he says.', '"Well," he say.')]
    (tmp_path / "b.tsv").write_text("\n".join(map("\t".join, [("good", "bad"), *speech])))
    assert sentences(suite_from_file(tmp_path / "b.tsv")) == {"b": speech}


def test_a_task_with_one_pair_is_named(tmp_path):
    file = written(tmp_path / "a.csv", ("task", "good", "bad"), ("t", "a", "b"), ("u", "c", "d"), ("t", "e", "f"))
    with pytest.warns(UserWarning, match="a.csv, line 3: task 'u' has this one pair"):
        suite_from_file(file)


# -- mistakes

HEAD = ("sen", "wrong_sen", "phenomenon")
PAIR = ("x", "y", "P")


@pytest.mark.parametrize(
    "rows, mapping, says",
    [
        ([HEAD, PAIR], {}, "a.csv: no column is good (good, sentence_good, good_sentence); it has: sen, wrong_sen"),
        (
            [HEAD, PAIR],
            {"good": "sent", "bad": "wrong_sen"},
            "a.csv: there is no column 'sent' for good; it has: sen, wrong_sen, phenomenon; did you mean 'sen'?",
        ),
        ([HEAD, PAIR], {"good": "sen"}, "no column is bad"),
        (
            [HEAD, PAIR],
            {"good": "sen", "bad": "wrong_sen", "task": "{lang}-{phenomenon}"},
            "there is no column 'lang' for task",
        ),
        ([HEAD, PAIR], {"good": "sen", "bad": "wrong_sen", "task": "{phenomenon"}, "task: template '{phenomenon'"),
        ([HEAD, PAIR], {"good": "sen", "bad": "wrong_sen", "task": "{phenomenon.x}"}, "no column 'phenomenon.x'"),
        ([HEAD, PAIR], {"good": "sen", "bad": "wrong_sen", "task": "{phenomenon!r}"}, "no ':' and no '!'"),
        ([HEAD, ("x", "", "P")], {"good": "sen", "bad": "wrong_sen"}, "line 2: field 'wrong_sen' (bad) is missing"),
        (
            [HEAD, PAIR, ("x", "y", "")],
            {"good": "sen", "bad": "wrong_sen", "task": "{phenomenon}"},
            "line 3: field 'phenomenon' is empty, but the template '{phenomenon}' needs it",
        ),
        ([HEAD, PAIR], {"goood": "sen"}, "goood: there is no such field; did you mean 'good'?"),
        ([HEAD, PAIR], {"layout": "columns"}, "layout: input should be 'pairs' or 'rows'"),
        ([("taks", "good", "bad"), PAIR], {}, "has a column 'taks'; say task=taks"),
        ([("text", "label"), ("x", "1"), ("y", "2")], {}, "line 3: the label '2' is not 1, true"),
        ([("text", "label"), ("x", "1"), ("y", "")], {}, "line 3: the label '' is not"),
        ([("text", "label"), ("x", "1"), ("y", "1")], {}, "line 3: good like its partner (a.csv, line 2)"),
        ([("text", "label"), ("x", "1"), ("y", "0"), ("z", "1")], {}, "line 4: a row without a partner"),
        (
            [("text", "label", "task"), ("x", "1", "t"), ("y", "0", "u")],
            {},
            "line 2: a row without a partner; a pair is one good and one bad row of one task",
        ),
        (
            [("text", "label"), *((s, str(int(s.isupper()))) for s in "AaBbcDd")],
            {},
            "line 6: good and bad change places here, so a row is missing above",
        ),
        ([("text", "label", "pair"), ("x", "1", "7"), ("y", "0", "8")], {}, "line 2: the only row of pair '7'"),
        (
            [("text", "label", "pair"), ("x", "1", "7"), ("y", "0", "7"), ("z", "0", "7")],
            {},
            "line 4: one of too many rows of pair '7' (3 in all)",
        ),
        (
            [("text", "label", "pair"), ("x", "1", ""), ("y", "0", ""), ("z", "1", "1"), ("v", "0", "2")],
            {},
            "line 4: a row without a partner",
        ),
        (
            [("text", "label", "phenomenon"), ("x", "1", "P"), ("y", "0", "Q")],
            {},
            "line 3: phenomenon is 'Q', but 'P' in its partner (a.csv, line 2)",
        ),
        (
            [("text", "label", "context"), ("x", "1", "c"), ("y", "0", "")],
            {},
            "line 3: one of this row and its partner (a.csv, line 2) has no context",
        ),
        (
            [("text", "label"), ("x", "ok"), ("y", "bad")],
            {"good_label": "fine"},
            "line 2: the label 'ok' is not 'fine'",
        ),
    ],
)
def test_a_mistake_is_named_with_file_and_row(tmp_path, monkeypatch, rows, mapping, says):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a.csv", *rows)
    with pytest.raises(TaskspaceError) as e:
        suite_from_file("a.csv", **mapping)
    assert says in str(e.value) and "\n" not in str(e.value)


def test_mixed_encodings_name_file_and_line(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("good,bad\nça,ca\n".encode() + "où,ou\n".encode("latin-1"))
    with pytest.raises(TaskspaceError, match=r"a.csv: not UTF-8 text \(.* line 3\); save the file as UTF-8"):
        suite_from_file(file)


@pytest.mark.parametrize(
    "text, says", [("{}", "a dict where a list"), ("[1]", "item 0: a int"), ("[", "not valid JSON")]
)
def test_json_is_one_list_of_objects(tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TaskspaceError, match=f"a.json.*{says}"):
        suite_from_file(tmp_path / "a.json")


@pytest.mark.parametrize("column", ["a.b", "a[0]", "0", "", "good.__class__", "my col"])
def test_any_name_of_a_column_is_a_name_in_a_template(tmp_path, column):
    file = written(tmp_path / "a.csv", (column, "good", "bad"), ("x", "A", "B"), ("x", "C", "D"))
    assert suite_from_file(file, task=f"{{{column}}}-{{{{y}}}}").names == ["x-{y}"]


def test_names_may_be_numbers_and_labels_1_point_0(tmp_path):
    pd.DataFrame({"task": [7, 7], "good": ["a", "b"], "bad": ["c", "d"]}).to_parquet(tmp_path / "a.parquet")
    assert suite_from_file(tmp_path / "a.parquet").names == ["7"]
    rows = [
        {"task": "t", "pair": pair, "text": f"s{pair}", "label": label} for pair, label in ((1, "1.0"), ("1", "0.0"))
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sentences(suite_from_file(tmp_path / "b.jsonl")) == {"t": [("s1", "s1")]}
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({**row, "pair": [1]}) for row in rows))
    with pytest.raises(TaskspaceError, match="b.jsonl, line 1: field 'pair' must be text"):
        suite_from_file(tmp_path / "b.jsonl")


def test_rows_of_a_pair_may_have_two_contexts(tmp_path):
    file = written(tmp_path / "a.csv", ("context", "text", "label"), ("one", "x", "1"), ("two", "y", "0"))
    (pair,) = suite_from_file(file)["a"]
    assert pair.texts == ("one x", "two y")


# -- what spreadsheets write


def test_excel_says_the_separator_in_a_line_of_its_own_and_leaves_rows_without_cells(tmp_path):
    rows = [("task", "good", "bad"), ("t", "A, b.", "A c."), ("", "", ""), ("t", "D.", "E.")]
    file = written(tmp_path / "a.csv", ("sep=;",), *rows, separator=";", mark="\ufeff", end="\r\n")
    assert sentences(suite_from_file(file)) == {"t": [("A, b.", "A c."), ("D.", "E.")]}
    written(file, ("sep=;",), *rows, ("t", "F.", ""), separator=";", end="\r\n")
    with pytest.raises(TaskspaceError, match="a.csv, line 6: field 'bad' is missing"):
        suite_from_file(file)


def test_a_sheet_of_a_workbook_is_read_like_a_table_of_text(tmp_path, monkeypatch):
    openpyxl = types.ModuleType("openpyxl")
    openpyxl.__spec__ = importlib.machinery.ModuleSpec("openpyxl", None)
    monkeypatch.setitem(sys.modules, "openpyxl", openpyxl)
    sheet = [["task", "good", "bad", ""], ["1", "A.", "B.", ""], ["", "", "", ""], ["1", "C.", "NA", ""]]
    monkeypatch.setattr(pd, "read_excel", lambda path, **how: pd.DataFrame(sheet))
    (tmp_path / "a.xlsx").write_bytes(b"")
    assert sentences(suite_from_file(tmp_path / "a.xlsx")) == {"1": [("A.", "B."), ("C.", "NA")]}
    sheet[3][2] = ""
    with pytest.raises(TaskspaceError, match="a.xlsx, row 4: field 'bad' is missing"):
        suite_from_file(tmp_path / "a.xlsx")
    sheet[0][2] = "good"
    with pytest.raises(TaskspaceError, match="a.xlsx: the header has column 'good' more than once"):
        suite_from_file(tmp_path / "a.xlsx", bad="good")


def test_a_file_that_is_there_twice_and_a_folder_that_is_shut_are_named(tmp_path, monkeypatch):
    for ending in ("csv", "tsv"):
        written(tmp_path / f"de/a.{ending}", ("good", "bad"), ("x", "y"))
    with pytest.raises(TaskspaceError, match="a.tsv: a.csv has the same name but for its ending"):
        suite_from_folder(tmp_path)
    scandir = os.scandir

    def shut(path):
        if str(path).endswith("de"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(TaskspaceError, match="de: cannot be read .Permission denied"):
        suite_from_folder(tmp_path)


# -- suites of several languages


def test_joined_suites_split_without_leaks():
    def task(name, language, start):
        pairs = [MinimalPair(f"good {i}", f"{language} bad {i}") for i in range(start, start + 12)]
        return Task(name, pairs, language=language)

    a, b = Suite("a", [task("x", "eng", 0)]), Suite("b", [task("y", "nld", 6)])  # six good sentences stand in both
    both = a + b
    assert both.name == "a+b" and both.groups("language") == {"x": "eng", "y": "nld"}
    for seed in range(5):
        train, held_out = both.split(5, 5, seed)
        assert not {p.good for t in train for p in t} & {p.good for t in held_out for p in t}
    with pytest.raises(TaskspaceError, match="both have a task 'x'"):
        a + a
    assert (a + a.renamed("{language}/{task}")).names == ["x", "eng/x"]
