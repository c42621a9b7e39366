"""Suites as files come back as they were; lm-evaluation-harness gives the same accuracy on what is written for it."""

import json

import pytest
import torch

from taskspace.errors import TaskspaceError
from taskspace.models.loading import load_lm
from taskspace.scoring.convention import convention_of
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.pairs import MinimalPair, Suite, Task

ODD = [
    MinimalPair('"Stop!" he said, "now".', "'Stop!' he said; {{now}}.", "1"),
    MinimalPair("الولد ينام", "الولد تنام", "2"),
    MinimalPair("a\tb  c\u2028d", "e\u0301 \\n [x, 'y']", "3"),
    MinimalPair("=1+1", "None", "4"),
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_file_holds_the_suite(tmp_path, ending):
    suite = Suite("odd", [Task("a-#", ODD, "p", "f", "arb"), Task("b", ODD[:2], language="heb")])
    back = load_suite(suite.to_file(tmp_path / f"odd.{ending}"))
    assert back == suite and back.groups("language") == {"a-#": "arb", "b": "heb"}


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_file_holds_contexts_further_sentences_and_lines(tmp_path, ending):
    odd = MinimalPair("a, b\nc, d, e\nf", "x\r\ny", "1", "one, two\nthree", "four", ("g, h", '"i"'))
    suite = Suite("odd", [Task("a", [odd, MinimalPair("j", "k", "2", "l"), MinimalPair("m, n, o\np, q, r", "s", "3")])])
    assert load_suite(suite.to_file(tmp_path / f"odd.{ending}")) == suite
    bare = Suite("odd", [Task("a", [MinimalPair("j", "k", "1", "l", separator=""), odd])])
    if ending in ("csv", "tsv"):
        with pytest.raises(TaskspaceError, match=f"bare.{ending}: an empty separator is no cell of a text table"):
            bare.to_file(tmp_path / f"bare.{ending}")
        assert not (tmp_path / f"bare.{ending}").exists()
    else:
        assert load_suite(bare.to_file(tmp_path / f"bare.{ending}"))["a"] == bare["a"]


def test_the_harness_gets_contexts_and_all_options(tmp_path):
    pairs = [MinimalPair("a", "b", "1", "one", others=("c",)), MinimalPair("d", "e", "2")]
    Suite("s", [Task("t", pairs)]).to_lm_eval(tmp_path / "x")
    first, second = map(json.loads, (tmp_path / "x" / "s_t.jsonl").read_text().splitlines())
    assert first == {"context": "one", "choices": [" a", " b", " c"], "pair": "1"}
    assert second == {"context": "", "choices": [" d", " e"], "pair": "2"}
    with pytest.raises(TaskspaceError, match="task 't', pair '0': has two contexts"):
        Suite("s", [Task("t", [MinimalPair("a", "a", None, "one", "two")])]).to_lm_eval(tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_an_export_says_what_it_cannot_do(tmp_path):
    suite = Suite("odd", [Task("a", ODD)])
    with pytest.raises(TaskspaceError, match="unknown ending; a suite is written to .jsonl"):
        suite.to_file(tmp_path / "odd.xlsx")
    with pytest.raises(TaskspaceError, match="odd.csv"):
        suite.to_file(tmp_path / "nowhere" / "odd.csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(TaskspaceError, match="is not empty"):
        suite.to_lm_eval(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert suite.to_lm_eval(tmp_path / "empty") == "odd" and (tmp_path / "empty" / "odd_a.yaml").is_file()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    "A tiny model with random weights whose tokenizer knows every byte."
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE({c: i for i, c in enumerate(["<eos>", *alphabet])}, []))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 128, "vocab_size": 257, "initializer_range": 0.3}
    path = tmp_path_factory.mktemp("harness") / "tiny"
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0)).save_pretrained(path)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<eos>", bos_token="<eos>")
    fast.save_pretrained(path)
    return str(path)


@pytest.mark.slow
def test_lm_eval_gives_the_same_accuracy(tmp_path, directory, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install -e '.[peers]'")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    words = ["кот", "dog", "हिन्दी", "猫", "kedi", "חתול"]
    one = Task("SV-# {{x}}", [*ODD, *(MinimalPair(f"{w} sees {v}", f"{w} see {v}") for w in words for v in words)])
    two = Task("word order", [MinimalPair(f"{v}, {w}!", f"{w}: {v}") for w in words for v in words if v != w])
    asked = [
        MinimalPair(f"{w} sees {v}", f"{w} see {v}", None, f"The {v}: " if i % 2 else v, others=(w,) * (i % 3 == 0))
        for i, (w, v) in enumerate((w, v) for w in words for v in words)
    ]
    suite, behind = Suite("mine", [one, two]), Suite("asked", [Task("behind", asked)])
    groups = [s.to_lm_eval(tmp_path / "tasks" / s.name) for s in (suite, behind)]
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    tool = HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=16)
    found = lm_eval.simple_evaluate(tool, tasks=groups, task_manager=manager, bootstrap_iters=0, log_samples=False)
    theirs = {name: result["acc,none"] for name, result in found["results"].items()}
    lm = load_lm(directory, device="cpu", dtype="float32")
    ours = score_pairs(lm, behind, convention_of("lm-eval", prefix="tokenizer"))["correct"].mean()
    assert theirs["asked_behind"] == pytest.approx(ours, abs=1e-9) and 0.05 < ours < 0.95
    ours = score_pairs(lm, suite, convention="lm-eval")
    mean = ours.groupby("task", sort=False)["correct"].mean()
    assert [theirs["mine_SV-_x"], theirs["mine_word_order"]] == pytest.approx(mean.tolist(), abs=1e-9)
    assert theirs["mine"] == pytest.approx(mean.mean(), abs=1e-9) and 0.05 < mean.mean() < 0.95
