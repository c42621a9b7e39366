"""Every mistake that we could think of, as one table.

Each gives one line on standard error and exit status 2, no traceback, and no file that is half written."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import toylm
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import check_model, Checkpoint
from taskspace.pretraining.texts import ModelConfig, text_config, TextConfig
from taskspace.pretraining.tokens import read_texts
from taskspace.pretraining.training import TrainingConfig
from taskspace.runs.execute import run_study
from taskspace.runs.jobs import reference_text
from taskspace.runs.results import open_run
from taskspace.runs.store import Store
from taskspace.runs.study import read_study, Study
from taskspace.settings import parse_settings
from taskspace.spaces.space import TaskSpace
from taskspace.tasks.catalogue import load_suite

STUDY = """\
suite: toy.parquet
models: [{name: model.json, loader: 'toylm:load', label: toy}]
train_pairs: 4
eval_pairs: 3
probes: [score, transfer]
ftgd: {steps: 1}
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    "A folder with sound and unsound suites, models, studies and a finished run; every case gets a copy."
    here = tmp_path_factory.mktemp("material")
    back = os.getcwd()
    os.chdir(here)
    suite = toylm.suite()
    suite.to_frame().to_parquet("toy.parquet")
    suite.select(["cat"]).to_frame().to_csv("one_task.csv", index=False)
    suite.take(2).to_frame().to_csv("few_pairs.csv", index=False)
    same = suite.to_frame()
    same.loc[same["task"] == "dog", "bad"] = same["good"]
    same.to_csv("identical.csv", index=False)
    toylm.write("model.json")
    row = {"task": "t", "good": "the cat sees .", "bad": "the cat see ."}

    def write(name, text):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(text.encode() if isinstance(text, str) else text)

    write("below/study.yaml", "suite: mine.csv\nmodels: [builtin:nano]\n")
    write("below/mine.csv", "task,good,bad\n")
    write("no_good.jsonl", json.dumps(row) + "\n" + json.dumps({"task": "t", "bad": "x"}) + "\n")
    write("not_json.jsonl", json.dumps(row) + "\n{oops\n")
    write("list.jsonl", "[1, 2]\n")
    write("number.jsonl", json.dumps({**row, "good": 3}) + "\n")
    write("blank.jsonl", json.dumps({**row, "bad": "  "}) + "\n")
    write("empty.jsonl", "")
    write("no_column.csv", "task,good\nt,a b\n")
    write("ragged.csv", "task,good,bad\nt,a,b,c\n")
    write("twice.csv", "task,good,bad,good\nt,a,b,c\n")
    write("latin.csv", "task,good,bad\nt,caf\xe9,b\n".encode("latin-1"))
    write("labels.csv", "task,phenomenon,good,bad\nt,x,a,b\nt,y,a,b\n")
    write("rows.csv", "s,ok\na,1\nb,perhaps\n")
    write("broken.parquet", b"PAR1 nothing")
    write("suite.xlsx", "x")
    write("blimp_empty/readme.txt", "x")
    write("blimp_hollow/a.jsonl", "\n")
    write("blimp_wrong/a.jsonl", json.dumps({"UID": "a", "sentence_good": "x y"}) + "\n")
    write("zorro_odd/agreement-a.txt", "one .\ntwo .\nthree .\n")
    write("no_weights/config.json", json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    write("bert/config.json", json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    write("bert/model.safetensors", "x")
    write(
        "t5/config.json",
        json.dumps({"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]}),
    )
    write("t5/model.safetensors", "x")
    write(
        "sound/config.json", json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 20})
    )
    write("sound/model.safetensors", "x")
    write(
        "classifier/config.json", json.dumps({"model_type": "gpt2", "architectures": ["GPT2ForSequenceClassification"]})
    )
    write("classifier/model.safetensors", "x")
    write("not_config/config.json", "{oops")
    write("not_config/model.safetensors", "x")
    write("strange/config.json", json.dumps({"model_type": "no_such_thing"}))
    write("strange/model.safetensors", "x")
    write("other_folder/thesis.tex", "x")
    write("a_file", "x")
    write("latin.yaml", "name: caf\xe9\n".encode("latin-1"))
    write("s.yaml", STUDY)
    write("text.txt", "the cat sees .\n")
    write("damaged.json", "{")
    run_study(
        Study(
            suite="toy.parquet",
            models=[{"name": "model.json", "loader": "toylm:load", "label": "toy"}],
            train_pairs=4,
            eval_pairs=3,
            probes=["score", "transfer"],
            ftgd={"steps": 1},
        ),
        "run",
        workers=0,
        progress=False,
    )
    shutil.copytree("run", "no_plan")
    for p in Path("no_plan").glob("plan.*"):
        p.unlink()
    os.chdir(back)
    return here


def study(**changes):
    "The sound study as YAML with fields changed; one set to 'gone' is left out."
    data = yaml.safe_load(STUDY)
    for k, v in changes.items():
        data[k] = v
    return yaml.safe_dump({k: v for k, v in data.items() if v != "gone"})


def model(**changes):
    return study(models=[{"name": "model.json", "loader": "toylm:load", "label": "toy", **changes}])


def text(**changes):
    "A sound configuration of a pre-training with fields changed; one set to 'gone' is left out."
    data = {
        "train": "text.txt",
        "models": {"a": {"architecture": "lstm", "hidden_size": 8}},
        "vocab_size": 300,
        **changes,
    }
    return yaml.safe_dump({k: v for k, v in data.items() if v != "gone"})


def score(*args):
    return ("score", "--model", "builtin:nano", *args)


run = ("run", "study.yaml", "--out", "out", "--workers", "0", "--quiet")
train = ("pretrain", "study.yaml", "--out", "m")

# (command line, study file or None, what the message must say)
CASES = {
    # the command line
    "unknown command": (("scroe",), None, ["No such command 'scroe'", "score"]),
    "unknown option": (("score", "--modle", "x"), None, ["No such option: --modle", "taskspace score --help"]),
    "no model": (("score",), None, ["--model"]),
    "no study": (("run",), None, ["study"]),
    "no out": (("run", "s.yaml"), None, ["--out"]),
    "pairs is not a number": (score("--pairs", "many"), None, ["--pairs"]),
    "pairs is zero": (score("--pairs", "0"), None, ["--pairs"]),
    "workers below zero": (("run", "s.yaml", "--out", "out", "--workers", "-1"), None, ["--workers"]),
    "unknown executor": (
        ("run", "s.yaml", "--out", "out", "--executor", "slurm"),
        None,
        ["--executor slurm", "local or dask"],
    ),
    "dask without a scheduler": (
        ("run", "s.yaml", "--out", "out", "--executor", "dask"),
        None,
        ["--scheduler ADDRESS"],
    ),
    "a scheduler without dask": (
        ("run", "s.yaml", "--out", "out", "--scheduler", "tcp://x:1"),
        None,
        ["--executor dask"],
    ),
    "unknown convention": (score("--convention", "blim"), None, ["blim", "blimp, lm-eval, minicons"]),
    "unknown prefix": (score("--prefix", "bos"), None, ["--prefix bos", "tokenizer, auto, none or a token id"]),
    "output of unknown kind": (score("-o", "scores.xlsx"), None, ["scores.xlsx", ".parquet, .csv, .tsv"]),
    "output in no folder": (score("-o", "nowhere/scores.csv"), None, ["nowhere", "does not exist"]),
    "output in place of the suite": (
        score("--suite", "labels.csv", "-o", "labels.csv"),
        None,
        ["labels.csv: is part of what is read here; name another file"],
    ),
    "output in place of the suite by another path": (
        score("--suite", "labels.csv", "-o", "other_folder/../labels.csv"),
        None,
        ["labels.csv: is part of what is read here"],
    ),
    "output in place of a file of the suite": (
        score("--suite", "blimp:blimp_wrong", "-o", "blimp_wrong/a.jsonl"),
        None,
        ["a.jsonl: is part of what is read here"],
    ),
    "comparison in place of scores": (
        ("compare", "labels.csv", "twice.csv", "-o", "twice.csv"),
        None,
        ["twice.csv: is part of what is read here"],
    ),
    "correlations in place of the table": (
        ("correlate", "builtin:nano", "--table", "labels.csv", "-o", "labels.csv"),
        None,
        ["labels.csv: is part of what is read here"],
    ),
    "pairs of files": (
        ("compare", "labels.csv", "twice.csv", "--pairs", "1"),
        None,
        ["--pairs: is for models that are scored here, and all sources are scores or runs"],
    ),
    "convention of files": (
        ("correlate", "labels.csv", "--table", "twice.csv", "--convention", "blimp"),
        None,
        ["--convention: is for models that are scored here"],
    ),
    "letters over something else": (
        ("compare", "labels.csv", "twice.csv", "--over", "x"),
        None,
        ["--over x: choose one of pairs, tasks"],
    ),
    "columns of a suite that compare cannot name": (
        ("compare", "builtin:nano", "builtin:mini", "--suite", "rows.csv"),
        None,
        ["rows.csv", "good=COLUMN, to taskspace score; then give the files"],
    ),
    "a place to push latex to": (
        ("export", "nowhere", "--to", "latex", "--push", "a/b"),
        None,
        ["--push belongs to --to hub; leave it out of --to latex"],
    ),
    "a width of csv": (
        ("export", "nowhere", "--to", "csv", "--width", "12"),
        None,
        ["--width belongs to --to figures; leave it out of --to csv"],
    ),
    "a split of a file": (
        score("--suite", "labels.csv", "--split", "train"),
        None,
        ["labels.csv: split: only a data set on the hub has one"],
    ),
    "a configuration of a folder": (
        score("--suite", "other_folder", "--config", "eng"),
        None,
        ["other_folder: config: only a data set on the hub has one"],
    ),
    "a revision of a file in a study": (
        run,
        study(suite={"name": "labels.csv", "revision": "main"}),
        ["labels.csv: revision: only a data set on the hub has one"],
    ),
    "a separator of a data set": (
        score("--suite", "hub:a/b", "--separator", ";"),
        None,
        ["a/b: separator: only a CSV or TSV file has one"],
    ),
    "a separator of two letters": (score("--suite", "labels.csv", "--separator", ";;"), None, ["separator", "';;'"]),
    "an estimate of a shard that is none": (
        ("run", "study.yaml", "--out", "out", "--dry-run", "--shard", "9/2"),
        study(),
        ["shard 9/2: there is none"],
    ),
    "an estimate of an unknown executor": (
        ("run", "study.yaml", "--out", "out", "--dry-run", "--executor", "x"),
        study(),
        ["--executor x: unknown"],
    ),
    "an estimate for an unknown tracker": (
        ("run", "study.yaml", "--out", "out", "--dry-run", "--track", "x"),
        study(),
        ["--track x: unknown"],
    ),
    "output is a folder": (score("-o", "other_folder.csv"), None, ["other_folder.csv"]),
    # study files
    "no such study file": (("run", "nowhere.yaml", "--out", "out"), None, ["nowhere.yaml: no such file"]),
    "study is a folder": (("run", "other_folder", "--out", "out"), None, ["other_folder", "cannot be read"]),
    "study is not UTF-8": (("run", "latin.yaml", "--out", "out"), None, ["latin.yaml", "UTF-8"]),
    "study is empty": (run, "", ["study.yaml", "holds nothing"]),
    "study is a list": (run, "- a\n- b\n", ["holds a list"]),
    "study is not YAML": (run, "models: [a\nsuite: b\n", ["study.yaml, line 2", "not valid YAML"]),
    "a field twice": (run, "models: [a]\nmodels: [b]\n", ["study.yaml, line 2", "models: given twice"]),
    "an impossible date": (run, "name: 2001-99-99\nmodels: [a]\n", ["study.yaml", "not valid YAML"]),
    "a Python object": (run, "name: !!python/object/apply:os.system [ls]\n", ["study.yaml, line 1", "not valid YAML"]),
    "misspelt field": (run, study(eval_pair=3), ["eval_pair", "did you mean 'eval_pairs'?"]),
    "no models": (run, study(models="gone"), ["models", "required"]),
    "models empty": (run, study(models=[]), ["models"]),
    "models a number": (run, study(models=3), ["models", "list of names or mappings"]),
    "two models of one name": (run, study(models=["model.json", "model.json"]), ["models", "'model.json'", "label"]),
    "misspelt field of a model": (run, model(chekpoints="all"), ["models.0.chekpoints", "did you mean 'checkpoints'?"]),
    "train_pairs as text": (run, study(train_pairs="many"), ["train_pairs", "'many'"]),
    "eval_pairs zero": (run, study(eval_pairs=0), ["eval_pairs", "greater than or equal to 1"]),
    "seeds negative": (run, study(seeds=[-1]), ["seeds", "2147483647"]),
    "seeds none": (run, study(seeds=[]), ["seeds", "at least one"]),
    "too many seeds": (run, study(seeds=10**9), ["seeds", "1 .. 1000"]),
    "seeds as a word": (run, study(seeds="many"), ["seeds: must be a number of seeds or a list of them", "'many'"]),
    "seeds a truth value": (run, study(seeds=[True]), ["seeds: must be a number, not true"]),
    "train_pairs a truth value": (run, study(train_pairs=True), ["train_pairs: must be a number, not true"]),
    "top a truth value": (run, study(top=True), ["top: must be a number, not true"]),
    "a setting that is a truth value": (run, study(ftgd={"steps": True}), ["ftgd: FTGD: steps", "not True"]),
    "probes a number": (run, study(probes=3), ["probes: must be a name or a list of names, e.g. [score, transfer]"]),
    "probes left empty": (run, study(probes=None), ["probes: must be a name or a list of names", "None"]),
    "unknown probe": (run, study(probes=["score", "transfre"]), ["probes.1", "transfre"]),
    "probes empty": (run, study(probes=[]), ["probes", "empty"]),
    "unknown control": (run, study(controls=["none"]), ["controls.0"]),
    "more than all units": (run, study(probes=["units"], top=1.5), ["top", "less than or equal to 1"]),
    "units of another kind": (run, study(probes=["ablation"], units="heads"), ["units", "'residual', 'mlp'"]),
    "a layer before the first": (run, study(probes=["interchange"], layer=0), ["layer", "greater than or equal to 1"]),
    "controls without transfer": (run, study(controls=["full"], probes=["score"]), ["controls", "transfer"]),
    "unknown setting": (run, study(ftgd={"step": 3}), ["ftgd", "did you mean 'steps'?"]),
    "setting of another type": (run, study(ftgd={"lr": "fast"}), ["ftgd", "lr"]),
    "setting out of range": (run, study(ftgd={"keep": 2}), ["ftgd", "keep"]),
    "setting with a seed": (run, study(ftgd={"seed": 1}), ["ftgd", "seeds"]),
    "unknown checkpoints": (run, study(checkpoints="first"), ["checkpoints", "log-spaced N", "'first'"]),
    "checkpoints twice": (run, study(checkpoints=[1, 1]), ["checkpoints", "twice"]),
    "study with an unknown convention": (run, study(convention="blim"), ["convention", "blimp, lm-eval, minicons"]),
    "unknown dtype": (run, study(dtype="float13"), ["dtype", "'float13'", "auto, float32, bfloat16"]),
    "dtype of whole numbers": (run, study(dtype="int8"), ["dtype", "'int8'"]),
    "unknown device": (run, study(device="banana"), ["device", "'banana'", "auto, cpu, cuda"]),
    "device that is not there": (
        run,
        study(device="cuda:99"),
        ["device 'cuda:99' cannot be used here", "device: auto"],
    ),
    "prefix that the model lacks": (run, study(models=["sound"], prefix=999999), ["prefix 999999", "sound", "0 to 19"]),
    "prefix below zero": (run, study(prefix=-1), ["prefix", "token id", "-1"]),
    "prefix that is a truth value": (run, study(prefix=True), ["prefix", "token id", "True"]),
    "prefix of another name": (run, study(prefix="bos"), ["prefix", "convention, auto, tokenizer", "'bos'"]),
    "budget without text": (
        run,
        study(ftgd={"perplexity_budget": 1.1}),
        ["reference", "perplexity_budget", "builtin or a .txt file"],
    ),
    "reference text missing": (run, study(reference="nowhere.txt"), ["nowhere.txt", "reference text"]),
    # suites
    "unknown suite": (run, study(suite="glue"), ["glue", "builtin, blimp"]),
    "suite file missing": (run, study(suite="nowhere.jsonl"), ["nowhere.jsonl: no such file"]),
    "suite of unknown ending": (run, study(suite="suite.docx"), ["suite.docx", "a file that ends in .jsonl"]),
    "workbook that is none": (run, study(suite="suite.xlsx"), ["suite.xlsx"]),
    "suite mapping without a name": (run, study(suite={"good": "sen"}), ["suite", "needs a name"]),
    "suite mapping misspelt": (
        run,
        study(suite={"name": "labels.csv", "goood": "x"}),
        ["study.yaml: suite: goood", "did you mean 'good'?"],
    ),
    "suite mapping to no column": (
        run,
        study(suite={"name": "labels.csv", "good": "godo"}),
        ["labels.csv: there is no column 'godo' for good", "task, phenomenon, good, bad", "did you mean 'good'?"],
    ),
    "template with an unknown field": (
        score("--suite", "labels.csv", "--task", "{lang}-{phenomenon}"),
        None,
        ["labels.csv: there is no column 'lang' for task"],
    ),
    "label that is neither": (
        score("--suite", "rows.csv", "--sentence", "s", "--label", "ok", "--task", "=t"),
        None,
        ["rows.csv, line 3", "'perhaps'"],
    ),
    "row without good": (run, study(suite="no_good.jsonl"), ["no_good.jsonl, line 2", "'good' is missing"]),
    "row that is not JSON": (run, study(suite="not_json.jsonl"), ["not_json.jsonl, line 2", "not valid JSON"]),
    "row that is a list": (run, study(suite="list.jsonl"), ["list.jsonl, line 1", "list"]),
    "sentence that is a number": (run, study(suite="number.jsonl"), ["number.jsonl, line 1", "'good'"]),
    "sentence that is blank": (run, study(suite="blank.jsonl"), ["blank.jsonl, line 1", "'bad'"]),
    "suite without rows": (run, study(suite="empty.jsonl"), ["empty.jsonl", "no rows"]),
    "table with a column twice": (run, study(suite="twice.csv"), ["twice.csv", "'good' more than once"]),
    "table without a column": (
        run,
        study(suite="no_column.csv"),
        ["no_column.csv: no column is bad", "it has: task, good"],
    ),
    "ragged table": (run, study(suite="ragged.csv"), ["ragged.csv, line 2", "more cells"]),
    "table that is not UTF-8": (run, study(suite="latin.csv"), ["latin.csv", "UTF-8"]),
    "two phenomena for one task": (run, study(suite="labels.csv"), ["labels.csv, line 3", "phenomenon"]),
    "broken Parquet": (run, study(suite="broken.parquet"), ["broken.parquet", "Parquet"]),
    "BLiMP directory missing": (run, study(suite="blimp:nowhere"), ["nowhere: no such directory"]),
    "BLiMP directory without tasks": (run, study(suite="blimp:blimp_empty"), ["blimp_empty", "no .jsonl files"]),
    "empty task": (run, study(suite="blimp:blimp_hollow"), ["a.jsonl", "no pairs"]),
    "BLiMP row without a sentence": (run, study(suite="blimp:blimp_wrong"), ["a.jsonl, line 1", "sentence_bad"]),
    "Zorro with an odd line": (run, study(suite="zorro:zorro_odd"), ["agreement-a.txt, line 3", "odd number"]),
    "one task only": (run, study(suite="one_task.csv"), ["one_task.csv", "one task only"]),
    "too few pairs": (
        run,
        study(suite="few_pairs.csv"),
        ["study.yaml: train_pairs, eval_pairs: task 'cat' has 2 pairs", "need 7"],
    ),
    "too few pairs to estimate": (
        (*run[:4], "--dry-run"),
        study(suite="few_pairs.csv"),
        ["study.yaml: train_pairs, eval_pairs: task 'cat' has 2 pairs"],
    ),
    "too few pairs to score": (run, study(score_pairs=100), ["study.yaml: score_pairs: task 'cat' has", "100"]),
    "unknown task": (run, study(select=["cat", "dgo"]), ["study.yaml: select: suite", "'dgo'", "cat, dog, king"]),
    "a task without a contrast": (
        run,
        study(suite="identical.csv"),
        ["study.yaml: suite: task 'dog': none of the 4 pairs to tune on has sentences that differ", "select"],
    ),
    "a suite beside the study": (
        ("run", "below/study.yaml", "--out", "out"),
        None,
        ["mine.csv: no such file", "relative to the working folder: write below/mine.csv"],
    ),
    # models
    "model directory missing": (run, study(models=["./nowhere"]), ["./nowhere", "no such directory"]),
    "model without weights": (run, study(models=["no_weights"]), ["no_weights", "no weights"]),
    "model without configuration": (run, study(models=["other_folder"]), ["other_folder", "config.json"]),
    "masked LM scored as a causal one": (
        run,
        study(models=["sound"], convention="pll"),
        ["sound", "causal LM", "'pll'"],
    ),
    "encoder-decoder": (run, study(models=["t5"]), ["t5", "encoder-decoder"]),
    "classifier": (run, study(models=["classifier"]), ["classifier", "head of a causal LM"]),
    "configuration that is not JSON": (run, study(models=["not_config"]), ["not_config", "configuration"]),
    "unknown kind of model": (run, study(models=["strange"]), ["strange", "configuration"]),
    "unknown scale": (run, study(models=["builtin:huge"]), ["huge", "nano, micro, mini"]),
    "unknown step": (run, study(models=["builtin:nano@7"]), ["builtin:nano", "no checkpoint '7'", "there are: 0, "]),
    "unknown checkpoint": (
        run,
        study(models=[{"name": "builtin:nano", "checkpoints": [7]}]),
        ["builtin:nano", "no checkpoint 7"],
    ),
    "no checkpoints in a directory": (
        run,
        study(models=[{"name": "bert", "checkpoints": "all"}]),
        ["bert", "no checkpoints are saved there"],
    ),
    "unknown loader": (run, model(loader="toylm:laod"), ["toylm:laod", "cannot be imported"]),
    "loader of another form": (run, model(loader="toylm.load"), ["models.0.loader", "module:function"]),
    "score with a missing model": (
        ("score", "--model", "./nowhere", "--suite", "toy.parquet"),
        None,
        ["./nowhere", "no such directory"],
    ),
    "method of masked models": (score("--convention", "pll"), None, ["builtin:nano", "causal LM", "'pll'"]),
    "score with an unknown scale": (
        ("score", "--model", "builtin:huge", "--suite", "toy.parquet"),
        None,
        ["huge", "nano, micro, mini"],
    ),
    "score with a missing suite": (score("--suite", "nowhere.csv"), None, ["nowhere.csv: no such file"]),
    "score with too few pairs": (
        score("--suite", "few_pairs.csv", "--pairs", "9"),
        None,
        ["'cat' has 2 pairs; 9 were asked for"],
    ),
    # stores
    "status of nothing": (("status", "nowhere"), None, ["nowhere: no such directory", "taskspace run"]),
    "status of another folder": (("status", "other_folder"), None, ["other_folder: holds no run"]),
    "status of a file": (("status", "a_file"), None, ["a_file"]),
    "status without a plan": (
        ("status", "no_plan"),
        None,
        ["the plan is missing or damaged", "start the same taskspace run again"],
    ),
    "report of nothing": (("report", "nowhere"), None, ["nowhere: no such directory"]),
    "out is another folder": (
        ("run", "s.yaml", "--out", "other_folder"),
        None,
        ["other_folder", "holds something other than a run"],
    ),
    "out is a file": (("run", "s.yaml", "--out", "a_file"), None, ["a_file: a file"]),
    # pre-training
    "no such configuration": (
        ("pretrain", "nowhere.yaml", "--out", "m"),
        None,
        ["nowhere.yaml: no such file", "taskspace pretrain --help"],
    ),
    "configuration that is not YAML": (train, "models: [a\ntrain: b\n", ["study.yaml, line 2", "not valid YAML"]),
    "configuration with an impossible date": (train, "train: 2001-99-99\n", ["study.yaml", "not valid YAML"]),
    "configuration without models": (train, text(models="gone"), ["study.yaml: models", "required"]),
    "nowhere to write": (train[:2], text(), ["study.yaml: out: not given", "--out"]),
    "models into a file": ((*train[:2], "--out", "a_file"), text(), ["a_file: a file"]),
    "misspelt configuration": (train, text(tran="text.txt"), ["tran: there is no such field", "did you mean 'train'?"]),
    "unknown architecture": (
        train,
        text(models={"a": {"architecture": "rnn"}}),
        ["models.a.architecture", "'rnn'", "lstm"],
    ),
    "misspelt size": (
        train,
        text(models={"a": {"architecture": "lstm", "hidden": 8}}),
        ["models.a", "hidden", "hidden_size"],
    ),
    "size that fits no heads": (
        train,
        text(models={"a": {"hidden_size": 10, "num_attention_heads": 3}}),
        ["study.yaml: models.a", "multiple of the number of attention heads"],
    ),
    "name of a model that is taken": (train, text(models={"tokenizer": {}}), ["'tokenizer' cannot be the name"]),
    "training of true steps": (train, text(training={"steps": True}), ["training.steps: must be a number, not true"]),
    "a context that is true": (train, text(context=True), ["context: must be a number, not true"]),
    "unknown training setting": (train, text(training={"step": 5}), ["training.step"]),
    "training of no steps": (train, text(training={"steps": 0}), ["training.steps", "greater than or equal to 1"]),
    "checkpoint beyond the end": (
        train,
        text(training={"steps": 5, "checkpoints": [7]}),
        ["checkpoint 7", "last step, 5"],
    ),
    "text missing": (train, text(train="nowhere.txt"), ["nowhere.txt: no such file"]),
    "text without words": (train, text(train="empty.jsonl"), ["empty.jsonl", "no text"]),
    "text that is not UTF-8": (train, text(train="latin.csv"), ["latin.csv", "UTF-8"]),
    "tokenizer missing": (train, text(tokenizer="other_folder"), ["tokenizer", "other_folder", "no tokenizer"]),
    "a model that the configuration lacks": ((*train, "--only", "b"), text(), ["no model 'b'", "there are: a"]),
    "a device that is not there": ((*train, "--device", "abacus"), text(), ["'abacus' cannot be used here"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, material, tmp_path, monkeypatch, capsys):
    args, text, parts = CASES[case]
    here = tmp_path / "here"
    shutil.copytree(material, here)
    (here / "other_folder.csv").mkdir()
    if text is not None:
        (here / "study.yaml").write_text(text)
    monkeypatch.chdir(here)
    before = sorted(map(str, here.rglob("*")))
    with pytest.raises(SystemExit) as e:
        main(args)
    out, err = capsys.readouterr()
    assert e.value.code == 2
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("taskspace: ") and out == ""
    for part in parts:
        assert part in lines[0]
    assert sorted(map(str, here.rglob("*"))) == before  # nothing half written


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
@pytest.mark.parametrize(
    "use", [open_run, TaskSpace.load, load_suite, lambda name: run_study(read_study("s.yaml"), name)]
)
def test_a_name_that_no_file_can_have_is_one_line(tmp_path, monkeypatch, use, name):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(STUDY)
    with pytest.raises(TaskspaceError) as e:
        use(name)
    assert "\n" not in str(e.value) and ("xxx" in str(e.value) or r"a\x00b" in str(e.value))


def test_a_loader_that_is_none_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskspaceError, match="model mine: loader os:sep is a str, not a function"):
        check_model(Checkpoint("mine", "m", "name", loader="os:sep"))
    with pytest.raises(TaskspaceError, match="model mine: loader toylm:write gives a str where an LM is needed"):
        Checkpoint("mine", "m", "name", loader="toylm:write").load()


def test_the_table_is_long_enough():
    assert len(CASES) >= 40


# -- notebooks
@pytest.mark.parametrize(
    "given, says",
    [
        ({"modl": "builtin:nano"}, "did you mean 'model'"),
        ({"model": 3}, "model must be"),
        ({"zzz": 1}, "no parameter 'zzz'"),
    ],
)
def test_unknown_notebook_parameters_are_refused(given, says):
    from taskspace.report import check_parameters

    with pytest.raises(TaskspaceError, match=says):
        check_parameters("scale", given)


# -- a sentence that is too long is named
def test_a_sentence_longer_than_the_context_is_named(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel

    from taskspace.pretraining.tokens import word_tokenizer

    torch.manual_seed(0)
    tokenizer = word_tokenizer(["the", "cat", "sees", "see"])
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=8, n_embd=8, n_layer=1, n_head=1)
    ).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    long = "the cat " * 6 + "sees"
    pd.DataFrame({"task": ["a", "b"], "good": ["the cat sees", long], "bad": ["the cat see", long[:-1]]}).to_csv(
        tmp_path / "long.csv", index=False
    )
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()  # saving the model shows a bar
    with pytest.raises(SystemExit) as e:
        main(["score", "--model", "tiny", "--suite", "long.csv", "-o", "scores.csv"])
    warning, err = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith("taskspace: warning: long.csv, line 2: task 'a' has this one pair")
    assert (
        e.value.code == 2
        and err.startswith("taskspace: task 'b'")
        and "the cat the cat" in err
        and not (tmp_path / "scores.csv").exists()
    )


# -- every entry point with every kind of badness
def sound_text(path):
    "A sound suite in the format that the ending names; sound settings for YAML; sentences for all else."
    rows = [("t", "A dog barks.", "A dog bark."), ("t", "A cat sleeps.", "A cat sleep.")]
    frame = pd.DataFrame(rows, columns=["task", "good", "bad"])
    if path.suffix == ".jsonl":
        return frame.assign(UID="t", sentence_good=frame.good, sentence_bad=frame.bad).to_json(
            orient="records", lines=True
        )
    if path.suffix in (".csv", ".tsv"):
        return frame.to_csv(sep="\t" if path.suffix == ".tsv" else ",", index=False)
    if path.suffix == ".yaml":
        return STUDY if "study" in path.stem else text(out="m")
    return "".join(f"{bad}\n{good}\n" for _, good, bad in rows)


def write_sound(path):
    if "space" in path.stem:
        names = ["a", "b"]
        TaskSpace(pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], names, names)).save(path)
    elif path.suffix == ".parquet":
        pd.DataFrame({"task": ["t"], "good": ["A dog barks."], "bad": ["A dog bark."]}).to_parquet(path)
    else:
        path.write_text(sound_text(path), encoding="utf-8")


# name: (file, what reads it)
ENTRIES = {
    "suite of JSON lines": ("suite.jsonl", load_suite),
    "suite in CSV": ("suite.csv", load_suite),
    "suite in TSV": ("suite.tsv", load_suite),
    "suite in Parquet": ("suite.parquet", load_suite),
    "task of BLiMP": ("t.jsonl", lambda path: load_suite(f"blimp:{path.parent}")),
    "task of Zorro": ("agreement-t.txt", lambda path: load_suite(f"zorro:{path.parent}")),
    "space": ("space.parquet", TaskSpace.load),
    "study": ("study.yaml", read_study),
    "pre-training": ("pretraining.yaml", text_config),
    "text to train on": ("corpus.txt", lambda path: list(read_texts([path]))),
    "reference text": ("reference.txt", lambda path: reference_text(str(path), 2)),
}
TABLES = {"suite in Parquet", "space"}  # binary: damage to text is only other damage there
# These take any text
PLAIN = {"task of Zorro", "text to train on", "reference text"}


def remove(path):
    path.unlink()


def make_folder(path):
    path.unlink()
    path.mkdir()


def rewrite(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


# name: (what is done to the sound file, which entries may read the result, "" for none)
BADNESS = {
    "missing": (remove, ""),
    "a folder": (make_folder, ""),
    "a link to nothing": (lambda path: (path.unlink(), path.symlink_to("nowhere")), ""),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), ""),
    "a device without end": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), ""),
    "a link to itself": (lambda path: (path.unlink(), path.symlink_to(path.name)), ""),
    "empty": (rewrite(lambda b: b""), "text to train on"),
    "blank lines": (rewrite(lambda b: b"\n \n\n"), "text to train on"),
    "only a byte order mark": (rewrite(lambda b: "\ufeff".encode()), "text to train on"),
    "Latin-1": (rewrite(lambda b: b + b"caf\xe9"), ""),
    "UTF-16": (rewrite(lambda b: b.decode("latin-1").encode("utf-16")), ""),
    "UTF-8 with halves of characters": (rewrite(lambda b: b + "\ud83d".encode("utf-8", "surrogatepass")), ""),
    "an image": (rewrite(lambda b: b"\x89PNG\r\n\x1a\n" + bytes(range(256))), ""),
    "compressed": (rewrite(gzip.compress), ""),
    "another Parquet file": (lambda path: pd.DataFrame({"a": [1]}).to_parquet(path), ""),
    "brackets": (rewrite(lambda b: b"[" * 10**4 + b"\n"), "PLAIN"),
    "a page of HTML": (
        rewrite(lambda b: b"<!DOCTYPE html>\n<html><p>Not found: [</p>\n"),
        "task of Zorro, text to train on, reference text",
    ),
    "a row too short": (rewrite(lambda b: b + b'\n{"task": "t"}\n'), "task of Zorro, text to train on, reference text"),
}


def reads(entry, allowed):
    return entry in allowed or (allowed == "PLAIN" and entry in PLAIN - {"task of Zorro"})


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("badness", BADNESS)
def test_every_reader_answers_every_bad_file_with_one_line(entry, badness, tmp_path):
    (name, read), (spoil, allowed) = ENTRIES[entry], BADNESS[badness]
    write_sound(tmp_path / name)
    spoil(tmp_path / name)
    if reads(entry, allowed) or (entry in TABLES and badness in ("Latin-1", "UTF-8 with halves of characters")):
        try:
            read(tmp_path / name)
        except TaskspaceError as e:
            assert str(tmp_path) in str(e)
        return
    with pytest.raises(TaskspaceError) as e:
        read(tmp_path / name)
    assert str(tmp_path) in str(e.value)
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_reader_takes_the_sound_file_with_and_without_a_byte_order_mark(entry, tmp_path):
    name, read = ENTRIES[entry]
    write_sound(tmp_path / name)
    sound = read(tmp_path / name)
    if entry not in TABLES:
        rewrite(lambda b: "\ufeff".encode() + b.replace(b"\n", b"\r\n"))(tmp_path / name)
        again = read(tmp_path / name)
        assert getattr(again, "digest", again) == getattr(sound, "digest", sound)


# -- fuzzing
cells = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)
rows = st.dictionaries(
    st.sampled_from(["task", "good", "bad", "phenomenon", "field", "pair"]) | st.text(max_size=4), cells, max_size=7
)


def loads_or_complains(path):
    try:
        suite = load_suite(path)
    except TaskspaceError as e:
        assert "\n" not in str(e) and str(path) in str(e)
    else:
        assert suite.n_pairs and all(p.good.strip() and p.bad.strip() for t in suite for p in t)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, max_size=5), st.data())
def test_fuzzed_jsonl_suites(tmp_path_factory, content, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in content), encoding="utf-8")
    loads_or_complains(path)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=120)
    | st.text(max_size=80).map(lambda s: s.encode("utf-8", "surrogatepass"))
    | st.text(alphabet="task,good,bad\n\"'\t;1 {}[]:", max_size=120).map(lambda s: ("task,good,bad\n" + s).encode()),
    st.sampled_from(["jsonl", "csv", "tsv", "parquet"]),
)
@pytest.mark.slow
def test_fuzzed_bytes_as_suites(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{ending}"
    path.write_bytes(content)
    loads_or_complains(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_fuzzed_blimp_and_zorro_files(tmp_path_factory, content):
    for kind, ending in (("blimp", "jsonl"), ("zorro", "txt")):
        folder = tmp_path_factory.getbasetemp() / f"fuzz_{kind}"
        folder.mkdir(exist_ok=True)
        (folder / f"a-b.{ending}").write_bytes(content)
        try:
            load_suite(f"{kind}:{folder}")
        except TaskspaceError as e:
            assert "\n" not in str(e) and str(folder) in str(e)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["text.txt", "lstm", "llama", "line"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*TextConfig.model_fields, *ModelConfig.model_fields, *TrainingConfig.model_fields, "hidden_size"]
            )
            | st.text(max_size=6),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(TextConfig.model_fields)) | st.text(max_size=6), values, max_size=6),
    st.booleans(),
)
@pytest.mark.slow
def test_fuzzed_configurations_of_pre_training(tmp_path_factory, data, sound):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(
        yaml.safe_dump(
            {"train": "text.txt", "models": {"a": {"architecture": "lstm", "hidden_size": 8}}, **data}
            if sound
            else data
        ),
        encoding="utf-8",
    )
    try:
        config = text_config(path, tmp_path_factory.getbasetemp() / "fuzzed")
    except TaskspaceError as e:
        assert "\n" not in str(e) and str(e).startswith(str(path))
    else:
        assert config.models and config.train


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="models: [{}]-&*!|>\n\t'\"#%@`,?0x.1e_~", max_size=60))
def test_fuzzed_text_as_settings(text):
    try:
        found = parse_settings(text, "file", "models")
    except TaskspaceError as e:
        assert "\n" not in str(e) and str(e).startswith("file")
    else:
        assert all(isinstance(k, str) for k in found)


def test_stored_runs_survive_any_bytes_in_their_files(material, tmp_path):
    shutil.copytree(material / "run", tmp_path / "run")
    for path in Store(tmp_path / "run").files().values():
        path.write_bytes(os.urandom(64))
    found = open_run(tmp_path / "run")
    assert found.scores().empty and found.status().missing == found.status(check=True).missing == found.status().total
    with pytest.raises(TaskspaceError, match="no transfer result"):
        found.space()
