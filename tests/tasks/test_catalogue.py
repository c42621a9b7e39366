"""Suites by name: every line of the catalogue reads the layout that it describes; the hub; languages and phenomena."""

import csv
import json
import shlex
import warnings
from pathlib import Path

import pandas as pd
import pytest

from taskspace.errors import TaskspaceError
from taskspace.runs.formats import suite_from_json, suite_to_json
from taskspace.tasks.catalogue import known_suites, load_suite
from taskspace.tasks.hub import suite_from_hub
from taskspace.tasks.languages import common_phenomena, data_table, language_groups
from taskspace.tasks.mapping import suite_mapping
from taskspace.tasks.pairs import MinimalPair, Suite, Task

pytestmark = pytest.mark.filterwarnings("ignore:.*has this one pair")

# -- two pairs of our own in the layout of each benchmark: file -> lines; then the task, its phenomenon and language
RU = "id,source_sentence,target_sentence,source_word,target_word,level,phenomenon,PID,subtype"
NL = "Number (phenomenon),Phenomenon,Number (paradigm),Paradigm,Item,Grammaticality,Sentence,Critical word(s)"
GOOD, BAD = "sentence_good", "sentence_bad"
LAYOUTS = {
    "babylm-supplement": (
        {"turns.jsonl": [f'{{"{GOOD}": "x {i}", "{BAD}": "y {i}"}}' for i in range(2)]},
        "turns",
        None,
    ),
    "multiblimp": (
        {"rus/SV.tsv": ["sen\twrong_sen\tphenomenon\tlang", *(f"x {i}\ty {i}\tSV-#\trus" for i in range(2))]},
        "rus-SV-#",
        "SV-#",
    ),
    "blimp-nl": (
        {
            "P1.csv": [
                NL,
                *(
                    f"1,Ph,1,pa,{i},{kind},{s} {i},w"
                    for i in range(2)
                    for kind, s in (("Grammatical", "x"), ("Ungrammatical", "y"))
                ),
            ]
        },
        "Ph-pa",
        "Ph",
    ),
    "turblimp": (
        {"a.csv": ["good_sentence;bad_sentence;good_cue;phenomenon;subtype", "x 0;y 0;c;arg ;tr", "x 1;y 1;c;arg;tr"]},
        "arg_tr",
        "arg",
    ),
    "rublimp": ({"p.csv": [RU, *(f"{i},x {i},y {i},a,b,Syntax,An Agr,pid,sub" for i in range(2))]}, "pid", "An Agr"),
    "sling": (
        {"An/Pl/m.jsonl": [f'{{"{GOOD}": "x {i}", "{BAD}": "y {i}", "Paradigm": "q"}}' for i in range(2)]},
        "m",
        "An",
    ),
    "climp": (
        {"b.csv": [",0,1,2,3", "0,bi,bi_g,x 0,1", "1,bi,bi_g,y 0,0", "2,bi,bi_g,x 1,1", "3,bi,bi_g,y 1,0"]},
        "bi_g",
        "bi",
    ),
    "zhoblimp": (
        {
            "p.jsonl": [
                f'{{"{GOOD}": "x {i}", "{BAD}": "y {i}", "phenomenon": "BA", "paradigm": "p"}}' for i in range(2)
            ]
        },
        "p",
        "BA",
    ),
    "jblimp": ({"j.csv": ["good_sentence,bad_sentence,phenomenon,paradigm", "x 0,y 0,B,p", "x 1,y 1,B,p"]}, "p", "B"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_catalogue_reads_the_files_of_each_benchmark(tmp_path, name):
    files, task, phenomenon = LAYOUTS[name]
    for file, lines in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    suite = load_suite(f"{name}:{tmp_path}")
    (found,) = suite
    assert (suite.name, found.name, found.phenomenon) == (name, task, phenomenon)
    assert [(p.good, p.bad) for p in found] == [("x 0", "y 0"), ("x 1", "y 1")]
    assert found.language in {row["code"] for row in data_table("languages.csv")}


def written(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def test_benchmarks_with_contexts_are_in_the_catalogue(tmp_path):
    for name in ("ewok", "comps", "entity-tracking"):
        (tmp_path / name).mkdir()
    row = {"Domain": "spatial", "Context1": "A is left.", "Context2": "A is right."}
    written(tmp_path / "ewok" / "e.jsonl", {**row, "Target1": "B is right.", "Target2": "B is left."})
    (ewok,) = load_suite(f"ewok:{tmp_path / 'ewok'}")
    assert ewok.name == "spatial" and [(p.context, p.context_bad, p.good) for p in ewok] == [
        ("A is left.", "A is right.", "B is right."),
        ("A is right.", "A is left.", "B is left."),
    ]
    row = {"id": 7, "prefix_acceptable": "A robin", "prefix_unacceptable": "A whale", "property_phrase": "can fly."}
    written(tmp_path / "comps" / "comps_base.jsonl", row, {**row, "id": 8})
    (comps,) = load_suite(f"comps:{tmp_path / 'comps'}")
    assert comps.name == "comps_base" and comps.pairs[0].texts == ("A robin can fly.", "A whale can fly.")
    row = {"input_prefix": "Box 1 holds ", "options": ["a key.", "a pen.", "nothing."], "numops": 2}
    written(tmp_path / "entity-tracking" / "regular.jsonl", row, row)
    (entities,) = load_suite(f"entity-tracking:{tmp_path / 'entity-tracking'}")
    pair = entities.pairs[0]
    assert entities.name == "regular_2_ops" and (pair.good, pair.bad, pair.others) == (
        "a key.",
        "a pen.",
        ("nothing.",),
    )
    with pytest.raises(TaskspaceError, match="there is no column 'input' for context; it has: .* 'input_prefix'"):
        load_suite(f"entity-tracking:{tmp_path / 'entity-tracking'}", context="input")


def test_climp_has_one_file_without_labels(tmp_path):
    (tmp_path / "ba.csv").write_text(",0\nx 0\ny 0\nx 1\ny 1\n")
    assert [(p.good, p.bad) for p in load_suite(f"climp:{tmp_path}")["ba"]] == [("x 0", "y 0"), ("x 1", "y 1")]


@pytest.mark.slow
def test_every_line_of_the_catalogue_is_whole():
    table = known_suites()
    others = {"builtin", "blimp", "zorro", "ewok", "comps", "entity-tracking", "syntaxgym"}
    assert set(table["name"]) == {*LAYOUTS, *others} and table["load"].all()
    for row in data_table("suites.csv"):
        for place in ("columns", "hub_columns"):
            pairs = [part.partition("=") for part in shlex.split(row[place])]
            suite_mapping({name: value.split("|") for name, _, value in pairs}, row["name"])
    builtin = load_suite("builtin")
    row = table.set_index("name").loc["builtin"]
    assert (int(row["tasks"]), int(row["pairs"])) == (len(builtin), builtin.n_pairs)


def test_a_mapping_goes_before_the_catalogue(tmp_path):
    (tmp_path / "p.csv").write_text("\n".join([RU, *(f"{i},x {i},y {i},a,b,S,A,pid,sub" for i in range(2))]))
    assert load_suite(f"rublimp:{tmp_path}", task="subtype").names == ["sub"]
    assert load_suite({"name": f"rublimp:{tmp_path}", "task": "subtype"}).names == ["sub"]
    with pytest.raises(
        TaskspaceError, match="there is no column 'subtyp' for task; it has: id, .* did you mean 'subtype'"
    ):
        load_suite(f"rublimp:{tmp_path}", task="subtyp")
    with pytest.raises(TaskspaceError, match="a mapping needs a name"):
        load_suite({"good": "x"})
    with pytest.raises(TaskspaceError, match="'builtin' has no columns; leave out task"):
        load_suite("builtin", task="x")


# -- the hub, as folders on this machine


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    "A data set of two configurations, one with two splits."
    top = tmp_path_factory.mktemp("hub") / "multi"
    parts = []
    for language, splits in (("rus", ["train"]), ("nld", ["train", "test"])):
        (top / language).mkdir(parents=True)
        files = []
        for split in splits:
            frame = pd.DataFrame({"sen": [f"{language} {split} {i}" for i in range(2)], "phenomenon": "SV-#"})
            frame.assign(wrong_sen=frame["sen"] + " bad").to_csv(top / language / f"{split}.csv", index=False)
            files.append(f"  - split: {split}\n    path: {language}/{split}.csv\n")
        parts.append(f"- config_name: {language}\n  data_files:\n{''.join(files)}")
    (top / "README.md").write_text("---\nconfigs:\n" + "".join(parts) + "---\n")
    return top


SAID = {"good": "sen", "bad": "wrong_sen", "language": "{config}", "task": "{config}-{phenomenon}"}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def test_configurations_and_splits_are_chosen(hub):
    suite = load_suite(f"hub:{hub}", split="train", **SAID)
    assert suite.names == ["nld-SV-#", "rus-SV-#"] and suite.groups("language")["nld-SV-#"] == "nld"
    assert suite.origin["split"] == "train" and suite.origin["mapping"]["good"] == "sen"
    assert load_suite(f"hub:{hub}", config="rus", **SAID).n_pairs == 2
    test = load_suite(f"hub:{hub}", config=["nld"], split="test", **SAID)
    assert [p.good for p in test["nld-SV-#"]] == ["nld test 0", "nld test 1"]


@pytest.mark.parametrize(
    "mapping, says",
    [
        ({**SAID}, "configuration 'nld': has the splits train, test; choose one with split"),
        ({**SAID, "config": "fra"}, "cannot be loaded from the hub (BuilderConfig 'fra' not found"),
        ({**SAID, "split": "dev"}, "cannot be loaded from the hub"),
        ({**SAID, "config": "rus", "good": "sentence"}, "there is no column 'sentence' for good; it has: sen,"),
    ],
)
def test_mistakes_about_data_sets_are_named(hub, mapping, says):
    with pytest.raises(TaskspaceError) as e:
        load_suite(f"hub:{hub}", **mapping)
    assert says in str(e.value) and "multi" in str(e.value)


def test_a_benchmark_on_the_hub_needs_its_name_alone(hub, monkeypatch):
    row = next(r for r in data_table("suites.csv") if r["name"] == "multiblimp")
    monkeypatch.setitem(row, "hub", str(hub))
    assert load_suite("multiblimp", split="train").names == ["nld-SV-#", "rus-SV-#"]


def test_names_of_classes_are_labels(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    data.to_parquet(tmp_path / "train.parquet")
    (pair,) = suite_from_hub(str(tmp_path), task="=t")["t"]
    assert (pair.good, pair.bad) == ("x", "y")


# -- languages and phenomena


def test_language_and_origin_travel_with_a_run():
    suite = Suite("s", [Task("t", [MinimalPair("x", "y")], language="rus")], {"hub": "a/b", "revision": "c0ffee"})
    back = suite_from_json(suite_to_json(suite))
    assert back["t"].language == "rus" and back.origin == suite.origin and back.digest == suite.digest


def test_tables_of_languages_and_phenomena_contradict_nobody():
    codes = [row["code"] for row in data_table("languages.csv")]
    assert len(set(codes)) == len(codes) and all(len(code) == 3 for code in codes)
    branches = {(row["branch"], row["family"]) for row in data_table("languages.csv")}
    assert len({branch for branch, _ in branches}) == len(branches)  # no branch stands in two families
    rows = data_table("phenomena.csv")
    assert len({(row["language"], row["phenomenon"]) for row in rows}) == len(rows)
    assert {row["language"] for row in rows} - {"*"} <= set(codes) and all(row["reason"] for row in rows)


def test_anaphor_agreement_is_one_phenomenon_in_four_languages():
    names = {
        "eng": "anaphor_agreement",
        "nld": "Anaphor agreement",
        "rus": "Anaphor Agreement",
        "tur": "anaphor_agreement",
    }
    tasks = [Task(x, [MinimalPair("x", "y")], name, language=x) for x, name in names.items()]
    assert set(common_phenomena(Suite("s", tasks)).values()) == {"anaphor_agreement"}


def test_families_can_be_ones_own():
    suite = Suite("s", [Task(x, [MinimalPair("x", "y")], language=x) for x in ("fin", "hun", "tur")])
    assert language_groups(suite) == {"fin": "Uralic", "hun": "Uralic", "tur": "Turkic"}
    assert language_groups(suite, "branch")["hun"] == "Hungarian"
    assert set(language_groups(suite, own=dict.fromkeys(("fin", "hun", "tur"), "Ural-Altaic")).values()) == {
        "Ural-Altaic"
    }


def test_the_tables_of_the_package_are_plain_csv():
    for name in ("suites.csv", "languages.csv", "phenomena.csv"):
        text = (Path(__file__).resolve().parents[2] / "taskspace" / "assets" / name).read_text(encoding="utf-8")
        rows = list(csv.reader(text.splitlines()))
        assert {len(row) for row in rows} == {len(rows[0])}


def rows_of_blimp(uid, *numbers):
    names = ("UID", "sentence_good", "sentence_bad", "linguistics_term", "field", "pairID")
    rows = [(uid, f"a {n}", f"b {n}", "q", "f", str(n)) for n in numbers]
    return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


def test_what_a_folder_holds_beside_its_suite_is_named(tmp_path):
    "Each reader reads what it did, in one walk, and says once what looks like data and is left out."
    for name, text in {"one.jsonl": "one", "two.JSONL": "two", "sub/three.jsonl": "three"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows_of_blimp(text, 0, 1))
    (tmp_path / "._one.jsonl").write_bytes(b"\0\5\x16")
    (tmp_path / "four.jsonl.gz").write_bytes(b"")
    (tmp_path / "five.ndjson").write_text("")
    with pytest.warns(UserWarning) as caught:
        assert load_suite(f"blimp:{tmp_path}").names == ["one", "two"]
    (message,) = [str(w.message) for w in caught]
    assert f"{tmp_path}: five.ndjson and 2 more left out; files that end in .jsonl directly in it are read" in message
    with pytest.warns(UserWarning, match="five.ndjson and 1 more left out"):
        assert load_suite(tmp_path).names == ["one", "three", "two"]


def test_links_to_folders_are_followed_once_and_broken_links_named(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.jsonl").write_text(rows_of_blimp("b", 0, 1))
    top = tmp_path / "top"
    (top / "eng").mkdir(parents=True)
    (top / "eng" / "a.jsonl").write_text(rows_of_blimp("a", 0, 1))
    (top / "deu").symlink_to(tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_suite(top).names == ["b", "a"]
    (top / "again").symlink_to(top / "eng")
    (top / "up").symlink_to(tmp_path)
    with pytest.warns(UserWarning, match="again and .* left out"):
        assert sorted(len(t) for t in load_suite(top)) == [2, 2]
    for link in ("again", "up"):
        (top / link).unlink()
    (top / "z.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    with pytest.warns(UserWarning, match=r"z.jsonl \(a broken link\) left out"):
        load_suite(top)


def test_a_copy_of_a_task_is_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text(rows_of_blimp("x", 0, 1))
    (tmp_path / "x2.jsonl").write_text(rows_of_blimp("x", 2, 3))
    assert [len(t) for t in load_suite(f"blimp:{tmp_path}")] == [4]
    (tmp_path / "x (1).jsonl").write_text(rows_of_blimp("x", 0, 1))
    with pytest.raises(TaskspaceError, match=r"x.jsonl: has the same UID and pairs as x \(1\).jsonl; keep one"):
        load_suite(f"blimp:{tmp_path}")
    with pytest.raises(TaskspaceError, match=r"x.jsonl: has the same tasks and pairs as .*x \(1\).jsonl; keep one"):
        load_suite(tmp_path)


def test_zorro_reads_no_hidden_file_and_no_readme(tmp_path):
    (tmp_path / "agreement-x.txt").write_text("the cats sleeps .\nthe cat sleeps .\n" * 2)
    (tmp_path / "._agreement-x.txt").write_text("a\nb\n")
    (tmp_path / "README.txt").write_text("These are sentences.\nTake care.\n")
    assert load_suite(f"zorro:{tmp_path}").names == ["agreement-x"]


def test_pairs_of_ewok_are_called_the_same_in_every_folder(tmp_path):
    columns = {"Context1": "C1.", "Context2": "C2.", "Target1": "T1.", "Target2": "T2."}
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        rows = [{"Domain": d, **columns} for d in ("one", "two", "one")]
        pd.DataFrame(rows).to_csv(tmp_path / place / "e.csv", index=False)
    here, there = (load_suite(f"ewok:{tmp_path / place}") for place in ("here", "there"))
    assert here.digest == there.digest
    assert {t.name: [p.id for p in t] for t in here} == {"one": ["1.1", "1.2", "2.1", "2.2"], "two": ["1.1", "1.2"]}
    pd.DataFrame([{"Item": 7, "Domain": "one", **columns}]).to_csv(tmp_path / "here" / "e.csv", index=False)
    assert [p.id for p in load_suite(f"ewok:{tmp_path / 'here'}")["one"]] == ["7.1", "7.2"]


@pytest.mark.parametrize("kind", ["ewok", "zorro", "syntaxgym"])
def test_suites_whose_files_have_one_form_take_no_mapping(tmp_path, kind):
    with pytest.raises(TaskspaceError, match=f"{kind} takes no separator and no phenomenon; leave it out"):
        load_suite(f"{kind}:{tmp_path}", separator=";", phenomenon="=x")
