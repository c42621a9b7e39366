"""The command line on real, tiny models: what it prints, what it writes, how it exits."""

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import typer

import taskspace
import toylm
from taskspace.cli import accuracy_table, app, main
from taskspace.pretraining.builtin import builtin_steps
from taskspace.runs.execute import demo_study
from taskspace.runs.results import open_run
from taskspace.runs.store import Store
from taskspace.runs.study import parse_study, Study
from taskspace.scoring.scores import score_pairs
from taskspace.settings import parse_settings
from taskspace.tasks.catalogue import load_suite
from taskspace.toy import TOY_WORDS


def say(capsys, *args):
    "Exit status, standard output and standard error of a command."
    with pytest.raises(SystemExit) as e:
        main(list(map(str, args)))
    return e.value.code, *capsys.readouterr()


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder with a suite, a toy model and a study of 8 jobs."
    monkeypatch.chdir(tmp_path)
    toylm.suite().to_frame().to_parquet("toy.parquet")
    toylm.write("model.json", raise_if=str(tmp_path / "fire"))
    (tmp_path / "study.yaml").write_text(
        (
            "name: toy\nsuite: toy.parquet\nmodels: [{name: HERE/model.json, loader: 'toylm:load', label: toy}]\n"
            "train_pairs: 4\neval_pairs: 3\nftgd: {steps: 1}\n"
        ).replace("HERE", str(tmp_path))
    )
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A random GPT-2 in a directory, as save_pretrained leaves it."
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from taskspace.pretraining.tokens import word_tokenizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = word_tokenizer([w for w in TOY_WORDS if w != "<s>"])
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=16, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
        )
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_every_command_teaches_with_an_example(capsys):
    status, out, _ = say(capsys, "--help")
    commands = re.findall(r"^  (\w+)  ", out[out.index("Commands:") :], re.M)
    assert status == 0 and commands == [
        "score",
        "compare",
        "correlate",
        "suites",
        "ls",
        "schema",
        "run",
        "slurm",
        "merge",
        "status",
        "report",
        "export",
        "extract",
        "pretrain",
        "demo",
    ]
    for command in commands:
        status, out, _ = say(capsys, command, "--help")
        assert status == 0 and re.search(rf"^ +taskspace {command}\b", out, re.M), command


def test_the_examples_of_help_can_be_said():
    commands = typer.main.get_command(app).commands
    said = [(name, line) for name, c in commands.items() for line in re.findall(r"^ *taskspace .*", c.help, re.M)]
    assert len(said) > 30
    for name, line in said:
        words = shlex.split(line.split(" > ")[0])
        assert words[:2] == ["taskspace", words[1]] and words[1] in commands, name
        commands[words[1]].make_context(words[1], words[2:])
    helps = " ".join([c.help + " ".join(p.help or "" for p in c.params) for c in commands.values()])
    steps = re.findall(r"builtin:(\w+)@(\d+)", helps)
    assert steps and all(int(step) in builtin_steps(scale) for scale, step in steps)


def test_no_command_shows_the_help_and_version_the_version(capsys):
    assert say(capsys)[0] == 0
    assert say(capsys, "--version")[:2] == (0, f"taskspace {taskspace.__version__}\n")


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl"])
def test_score_writes_what_score_pairs_gives(here, tiny, capsys, ending):
    status, out, _ = say(
        capsys, "score", "--model", tiny, "--suite", "toy.parquet", "--pairs", 5, "-o", f"scores.{ending}"
    )
    assert (
        status == 0
        and re.search(r"^agreement +3 +15 ", out, re.M)
        and re.search(r"^mean over tasks +6 +30 ", out, re.M)
    )
    words = "blimp; prefix auto (token 0); no leading space; sum of log-probabilities; ties count one half"
    assert f"\nConvention: {words}\n" in out
    read = {
        "parquet": pd.read_parquet,
        "csv": lambda f: pd.read_csv(f, dtype={"pair": str}),
        "tsv": lambda f: pd.read_csv(f, sep="\t", dtype={"pair": str}),
        "jsonl": lambda f: pd.read_json(f, lines=True, dtype={"pair": str}),
    }[ending]
    expected = score_pairs(taskspace.load_lm(str(tiny)), taskspace.load_suite("toy.parquet").take(5))
    found = read(f"scores.{ending}")
    if ending == "parquet":
        assert found.attrs["convention"]["name"] == "blimp" and found.attrs["prefix_id"] == 0
    else:
        assert (found.pop("convention") == words).all()
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12)
    assert sorted(p.name for p in here.iterdir() if "scores" in p.name) == [f"scores.{ending}"]


def test_columns_of_a_suite_are_options(here, tiny, capsys):
    frame = taskspace.load_suite("toy.parquet").take(3).to_frame()
    frame["lang"] = "eng"
    names = {"good": "sen", "bad": "wrong_sen", "task": "what"}
    frame.drop(columns="language").rename(columns=names).to_csv("mine.tsv", sep=";", index=False)
    columns = ("--good", "sen", "--bad", "wrong_sen", "--task", "{lang}-{what}")
    status, out, _ = say(capsys, "score", "-m", tiny, "-s", "mine.tsv", *columns, "-o", "mine.parquet")
    assert status == 0, out
    say(capsys, "score", "-m", tiny, "-s", "toy.parquet", "--pairs", 3, "-o", "plain.parquet")
    mine, plain = pd.read_parquet("mine.parquet"), pd.read_parquet("plain.parquet")
    assert mine["task"].tolist() == [f"eng-{task}" for task in plain["task"]]
    assert mine["margin"].tolist() == plain["margin"].tolist()


def test_the_catalogue_is_listed(capsys):
    status, out, _ = say(capsys, "suites")
    assert status == 0 and re.search(r"^rublimp +rus +45 +45000 +Apache-2.0 .* rublimp, rublimp:DIR$", out, re.M)


def test_the_prefix_reaches_the_scores(here, tiny, capsys):
    prefixes = ("auto", "none", "0", "5", "tokenizer")
    said = {
        p: say(capsys, "score", "--model", tiny, "--suite", "toy.parquet", "--prefix", p, "-o", f"{p}.parquet")[1]
        for p in prefixes
    }
    margins = {p: tuple(pd.read_parquet(f"{p}.parquet").margin) for p in prefixes}
    assert (
        margins["auto"] == margins["0"] and margins["tokenizer"] == margins["none"] and len(set(margins.values())) == 3
    )  # this tokenizer adds nothing by itself
    words = [re.search(r"^Convention: blimp; (.+?);", said[p], re.M)[1] for p in prefixes]
    assert words == [
        "prefix auto (token 0)",
        "no prefix",
        "prefix token 0",
        "prefix token 5",
        "prefix tokenizer (none)",
    ]


def test_the_convention_is_printed_in_words(here, tiny, capsys):
    def said(*args):
        return say(capsys, "score", "--model", tiny, "--suite", "toy.parquet", *args)[1].strip().splitlines()[-1]

    ties = "ties count one half"
    assert said("--convention", "minicons") == (
        f"Convention: minicons; prefix tokenizer (none); no leading space; mean of log-probabilities; {ties}"
    )
    assert said("--convention", "lm-eval", "--prefix", 3) == (
        f"Convention: lm-eval; prefix token 3; a leading space; sum of log-probabilities; {ties}"
    )


def test_accuracy_is_the_mean_over_tasks_not_pairs():
    scores = pd.DataFrame(
        {"task": ["a", "a", "a", "b"], "phenomenon": "p", "correct": [0.0, 0.0, 0.0, 1.0], "margin": 1.0}
    )
    assert re.search(r"mean over tasks +2 +4 +50.0%", accuracy_table(scores))


def test_run_status_and_run_again(here, capsys):
    status, out, _ = say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0, "--quiet")
    assert (status, out) == (0, "8 jobs done in out\nNext: taskspace report out\n")
    assert say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0, "--quiet")[0] == 0
    status, out, _ = say(capsys, "status", "out")
    assert status == 0 and re.match(
        r"8 of 8 jobs done, 0 failed, 0 missing; \d+\.\d kB; \d+\.\d s of computing\n"
        r"  score +1 of 1\n  gradient +1 of 1\n  transfer +6 of 6\n$",
        out,
    )
    for path in list(Store("out").files().values())[:3]:
        path.unlink()
    status, out, _ = say(capsys, "status", "out")
    assert status == 0 and out.startswith("5 of 8 jobs done, 0 failed, 3 missing; ")


def test_the_bar_shows_rate_and_time_left(here, capsys):
    _, _, err = say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0)
    assert "toy" in err and re.search(r"8/8 \[\d\d:\d\d<\d\d:\d\d", err) and "job" in err


def test_failures_are_summed_up_and_tried_again(here, capsys):
    (here / "fire").touch()
    status, _, err = say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0, "--quiet")
    assert status == 1 and "8 of 8 jobs failed; the same command tries them again" in err and "Traceback" not in err
    assert re.search(r"failed: score toy and 7 more: RuntimeError: the device is on fire$", err, re.M)
    status, out, _ = say(capsys, "status", "out")
    assert status == 1 and "0 of 8 jobs done, 8 failed" in out and "the device is on fire" in out
    (here / "fire").unlink()
    assert say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0, "--quiet")[0] == 0
    assert say(capsys, "status", "out")[1].startswith("8 of 8 jobs done, 0 failed")


PRETRAINING = """
train: text.txt
vocab_size: 300
context: 16
training: {steps: 4, batch_size: 2, checkpoints: 3}
models:
  lstm: {architecture: lstm, hidden_size: 8, seeds: 2}
  cnn: {architecture: cnn, hidden_size: 8}
"""


@pytest.mark.slow
def test_pretrain_leaves_checkpoints_that_a_study_takes(here, capsys):
    suite = taskspace.load_suite("toy.parquet")
    (here / "text.txt").write_text("\n".join(p.good for t in suite for p in t))
    (here / "two.yaml").write_text(PRETRAINING)
    status, out, _ = say(capsys, "pretrain", "two.yaml", "--out", "models", "--only", "lstm-seed1", "--only", "cnn")
    assert status == 0
    for line, name in zip(out.splitlines(), ("lstm-seed1", "cnn"), strict=True):
        assert re.fullmatch(
            rf"{name}: [\d,]+ parameters, 4 steps, loss \d\.\d+; 3 checkpoints in {re.escape(str(here))}/models/{name}",
            line,
        )
    assert not (here / "models" / "lstm-seed0").exists()
    made = {p: p.stat().st_mtime_ns for p in (here / "models").rglob("*.safetensors")}
    # Started again, it leaves what is there and makes what is missing
    assert say(capsys, "pretrain", "two.yaml", "--out", "models")[0] == 0
    assert (
        made.items() <= {p: p.stat().st_mtime_ns for p in (here / "models").rglob("*.safetensors")}.items()
        and (here / "models" / "lstm-seed0").exists()
    )
    (here / "over_time.yaml").write_text(
        "suite: toy.parquet\nselect: [cat, dog]\nmodels: [{name: models/lstm-seed0, checkpoints: all}]\n"
        "train_pairs: 4\neval_pairs: 3\nftgd: {steps: 1}\n"
    )
    assert say(capsys, "run", "over_time.yaml", "--out", "out", "--workers", 0, "--quiet")[0] == 0
    run = open_run("out")
    steps = list(run.checkpoints.step)
    assert len(steps) == 3 and steps[0] == 0 and steps[-1] == 4 and run.status().done == 3 * 4
    for step in steps:
        assert run.space(step=step).matrix.shape == (2, 2)


def test_pretrain_writes_where_the_file_says_unless_told_otherwise(here, capsys):
    (here / "deep").mkdir()
    (here / "deep" / "text.txt").write_text("the cat sees .\n" * 50)
    (here / "deep" / "two.yaml").write_text(PRETRAINING + "out: models\n")
    assert say(capsys, "pretrain", "deep/two.yaml", "--only", "cnn")[0] == 0
    assert (here / "deep" / "models" / "cnn" / "checkpoint-4").is_dir()
    assert say(capsys, "pretrain", "deep/two.yaml", "--only", "cnn", "--out", "other")[0] == 0
    assert (here / "other" / "cnn" / "checkpoint-4").is_dir()


def test_the_study_of_the_demo_is_sound_and_uses_the_built_in_material():
    for quick in (False, True):
        study = demo_study(quick)
        assert study.suite == "builtin" and all(m.name.startswith("builtin:") for m in study.models)
    assert [m.size for m in demo_study().models] == ["nano", "micro", "mini"]


def test_a_closed_pipe_is_no_error(here):
    done = subprocess.run(
        f"{sys.executable} -c 'from taskspace.cli import main; main()' --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.slow
def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "taskspace.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"taskspace {taskspace.__version__}\n", "")
    assert (
        subprocess.run([sys.executable, "-m", "taskspace.cli", "status", "nowhere"], capture_output=True).returncode
        == 2
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", ["cli", "runs.status", "runs.summaries", "runs.extract", "report.site"])
def test_the_command_line_and_what_reads_a_run_load_no_torch(module):
    "To import torch takes a second; every page of a report would wait for it."
    code = f"import sys, taskspace.{module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_store_is_found_by_the_names_of_its_files(here, capsys):
    say(capsys, "run", "study.yaml", "--out", "out", "--workers", 0, "--quiet")
    import hashlib

    for key, path in Store("out").files().items():
        assert (
            path.name == f"{key}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.parquet"
            and path.parent.name == key[:2]
        )


def test_names_are_listed_and_the_schema_is_that_of_a_study(capsys):
    status, out, _ = say(capsys, "ls")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [
        "suites",
        "scales",
        "conventions",
        "probes",
    ]
    assert say(capsys, "ls", "scales")[1].split()[:3] == ["builtin:nano", "builtin:micro", "builtin:mini"]
    status, _, err = say(capsys, "ls", "models")
    assert status == 2 and err == "taskspace: models: unknown; choose one of suites, scales, conventions, probes\n"
    schema = json.loads(say(capsys, "schema")[1])
    assert set(schema["properties"]) == set(Study.model_json_schema()["properties"]) >= {"models", "ftgd"}


def test_the_studies_of_help_and_readme_fit_the_schema(capsys):
    check = jsonschema.Draft202012Validator(json.loads(say(capsys, "schema")[1]))
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    studies = [block for block in re.findall(r"```yaml\n(.*?)```", readme, re.S) if "models:" in block]
    command = typer.main.get_command(app).commands["run"]
    studies.append(textwrap.dedent(re.search(r"A study:\n(.*?)\n\n", command.help, re.S)[1]))
    studies += [
        "models: a\nprobes: score\nselect: one\nseeds: 2\nprefix: none\noff: mean",
        "models: {name: a}\nprobes: [transfer]\ncontrols: full\nseeds: [0, 3]\nprefix: 5",
        Study(models=["a", {"name": "b"}]).to_yaml(),
    ]
    assert len(studies) > 4
    for text in studies:
        parse_study(text)
        assert not list(check.iter_errors(parse_settings(text, "study", "models"))), text
    for wrong in ({"models": []}, {"models": ["a"], "probes": "scores"}, {"models": ["a"], "seeds": 0}):
        assert list(check.iter_errors(wrong)), wrong


def test_a_warning_is_one_line_without_a_place_in_the_code(here, tiny, capsys):
    frame = taskspace.load_suite("toy.parquet").take(2).to_frame()
    frame[frame.index != 0].to_csv("lone.csv", index=False)
    status, _, err = say(capsys, "score", "-m", tiny, "-s", "lone.csv")
    assert status == 0 and [line for line in err.splitlines() if "warning" in line.lower()] == [
        "taskspace: warning: lone.csv, line 2: task 'cat' has this one pair (1 such tasks of 6); "
        "it can be scored, but no probe can split it"
    ]


def test_labels_and_a_tab_are_options(here, tiny, capsys):
    rows = [(t, s, w) for t in "ab" for _ in range(2) for s, w in (("the cat sees .", "ja"), ("the cat see .", "nee"))]
    pd.DataFrame(rows, columns=["task", "s", "ok"]).to_csv("rows.csv", sep="\t", index=False)
    columns = ("--sentence", "s", "--label", "ok", "--task", "task")
    said = ("score", "-m", tiny, "-s", "rows.csv", *columns, "--good-label", "ja", "--bad-label", "nee")
    for separator in ((), ("--separator", "tab"), ("--separator", "\\t"), ("--separator", "\t")):
        status, out, err = say(capsys, *said, *separator)
        assert status == 0 and re.search(r"^mean over tasks +2 +4 ", out, re.M), err


def test_what_two_or_many_models_do_not_use_is_refused(here, tiny, capsys):
    say(capsys, "score", "-m", tiny, "-s", "toy.parquet", "--pairs", 2, "-o", "a.csv")
    for name in ("b.csv", "c.csv"):
        (here / name).write_bytes((here / "a.csv").read_bytes())
    status, _, err = say(capsys, "compare", "a.csv", "b.csv", "--over", "tasks")
    assert status == 2 and err.startswith("taskspace: --over: is for more than two models; leave it out")
    status, _, err = say(capsys, "compare", "a.csv", "b.csv", "c.csv", "--tasks")
    assert status == 2 and err.startswith("taskspace: --tasks: is for two models; leave it out")


def test_the_words_of_lm_eval_are_understood(here, tiny, capsys):
    ours = say(capsys, "score", "-m", tiny, "-s", "toy.parquet", "--pairs", 3, "--dtype", "float32", "-o", "a.csv")
    args = f"pretrained={tiny},dtype=float32"
    words = ("--model", "hf", "--model_args", args, "--tasks", "toy.parquet", "--limit", 3, "--batch_size", 2)
    theirs = say(capsys, "score", *words, "--output_path", "b.csv")
    assert ours[0] == theirs[0] == 0
    # Batches of another size move a score by rounding, here by 1e-6
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), pd.read_csv("b.csv"), atol=1e-4)
    status, _, err = say(capsys, "score", "--model", "hf", "--model_args", "peft=x", "--tasks", "toy.parquet")
    assert status == 2 and "--model_args peft=x: not understood" in err


def test_accuracies_stand_with_both_intervals():
    frame = pd.DataFrame({"task": np.repeat(list("abcd"), 20), "phenomenon": "p", "margin": 1.0})
    frame["correct"] = np.tile([1.0, 1.0, 1.0, 0.0], 20)
    head, row, mean = accuracy_table(frame).splitlines()
    assert (
        head.split()[:1] == ["phenomenon"] and "over pairs" in head and "over tasks" in head and "per token" not in head
    )
    low, high = (float(x) for x in mean.split()[-3].split("-"))
    assert low < 75 < high and mean.split()[-2] != "-"
    scores = frame.assign(logp_good=-2.0, logp_bad=-1.8, tokens_good=4, tokens_bad=3)
    assert "per token" in accuracy_table(scores) and accuracy_table(scores).splitlines()[1].split()[-2] == "100.0%"
    assert "per token" not in accuracy_table(scores, normalised=False)


def test_names_from_a_file_command_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pairs = load_suite("builtin").tasks[0].pairs[:2]
    frame = pd.DataFrame({"task": "t", "good": [p.good for p in pairs], "bad": [p.bad for p in pairs]})
    frame["phenomenon"] = "p\x1b]0;owned\x07\nmean over tasks"
    frame.to_json("x.jsonl", orient="records", lines=True)
    for output in ("a.csv", "b.csv"):
        with pytest.raises(SystemExit) as e:
            main(["score", "--model", "builtin:nano@64", "--suite", "x.jsonl", "-o", output])
        assert e.value.code == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"p\x1b]0;owned\x07 mean over tasks  " in out
    with pytest.raises(SystemExit):
        main(["compare", "a.csv", "b.csv"])
    out = capsys.readouterr().out
    assert "\x1b" not in out and len([line for line in out.splitlines() if line.startswith("mean over")]) == 0
