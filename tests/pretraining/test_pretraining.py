"""Tokens and pre-training: exactness against naive forms, kills, two processes at once, damaged files, settings."""

import contextlib
import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from taskspace.devices import pick_device
from taskspace.errors import TaskspaceError
from taskspace.files import written
from taskspace.pretraining import builtin as pretraining
from taskspace.pretraining.architectures import build, load_model, LSTMConfig, new_model
from taskspace.pretraining.builtin import builtin_checkpoint, builtin_directory, builtin_log, builtin_steps
from taskspace.pretraining.texts import pretrain_text, text_config
from taskspace.pretraining.tokens import byte_tokenizer, pack, read_texts, stream_rows, token_file, word_tokenizer
from taskspace.pretraining.training import (
    batch_rows,
    checkpoint_steps,
    learning_rate,
    mean_loss,
    pretrain,
    rows_loss,
    TrainingConfig,
)
from taskspace.settings import checked
from taskspace.tasks import grammar


def contents(path):
    """Every file of a directory but the locks."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(Path(path).rglob("*"))
        if p.is_file() and not p.name.endswith("lock")
    }


# Tokens


def test_word_tokenizer_reads_natural_spelling():
    tokenizer = word_tokenizer([".", "?", ",", "the", "cat", "sat", "don't", "well-known"])

    def words(text):
        return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))

    assert words("The cat sat.") == ["the", "cat", "sat", "."]
    assert words("  the CAT,sat ?") == ["the", "cat", ",", "sat", "?"]
    assert words("Don't sit, well-known dog.") == ["don't", "<|unk|>", ",", "well-known", "<|unk|>", "."]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (
        0,
        0,
        1,
        2,
    )
    assert len(tokenizer) == 11


def test_word_tokenizer_knows_the_whole_grammar():
    tokenizer = word_tokenizer(grammar.vocabulary())
    text = [*grammar.corpus(500), *(s for t in grammar.builtin_suite(10) for p in t for s in (p.good, p.bad))]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("vocabulary", [[], ["a", "b", "a"], ["<|pad|>"]])
def test_word_tokenizer_refuses(vocabulary):
    with pytest.raises(TaskspaceError, match="each of them once"):
        word_tokenizer(vocabulary)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(2, 50), max_size=12), min_size=1, max_size=12), st.integers(2, 10))
def test_packing_keeps_every_token_in_order(sequences, length):
    tokens = [t for s in sequences for t in s]
    if not tokens:
        return
    rows = pack(sequences, length, eos_id=0, pad_id=1)
    assert rows.shape[1] == length and (rows[:, 0] == 0).all()
    assert [t for t in rows.flatten().tolist() if t > 1] == tokens
    for row in rows.tolist():  # padding stands at the end only
        assert 1 not in row[: len([t for t in row if t != 1])]
    texts = {tuple(s) for s in sequences if 0 < len(s) < length}
    found = {tuple(part) for row in rows.tolist() for part in _split(row)}
    assert texts <= found


def _split(row):
    parts = [[]]
    for token in row:
        if token == 0:
            parts.append([])
        elif token != 1:
            parts[-1].append(token)
    return parts


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_bytes_are_never_unknown(text):
    assert _BPE.decode(_BPE.encode(text, add_special_tokens=False)).removeprefix(" ") == text.removeprefix(" ")


_BPE = byte_tokenizer(grammar.corpus(300), 320)


def test_byte_tokenizer_is_deterministic():
    again = byte_tokenizer(iter(grammar.corpus(300)), 320)
    assert again.get_vocab() == _BPE.get_vocab() and len(again) == 320
    assert _BPE.encode("the king", add_special_tokens=False) == _BPE.encode(" the king", add_special_tokens=False)
    assert not byte_tokenizer(["a"], 258, prefix_space=False).decode([0 + 2]).startswith(" ")


@pytest.mark.parametrize(
    "documents, expected",
    [("line", ["one", "two", "three"]), ("block", ["one\ntwo", "three"]), ("file", ["one\ntwo\n\n\nthree"])],
)
@pytest.mark.parametrize("xz", [False, True])
def test_texts_of_files(tmp_path, documents, expected, xz):
    text = "\none\ntwo\n\n\nthree\n"
    path = tmp_path / ("a.txt.xz" if xz else "a.txt")
    path.write_bytes(lzma.compress(text.encode()) if xz else text.encode())
    assert list(read_texts([path, path], documents)) == expected * 2


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("none.txt", None, "none.txt: no such file"),
        ("latin.txt", b"caf\xe9\n", "latin.txt: not UTF-8"),
        ("fake.xz", b"plain text", "fake.xz: not a complete xz"),
        ("cut.xz", lzma.compress(b"a\n" * 9999)[:40], "cut.xz: not a complete xz"),
    ],
)
def test_unreadable_texts(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TaskspaceError, match=message):
        list(read_texts([tmp_path / name]))


def test_token_file_follows_text_and_tokenizer(tmp_path):
    text, out = tmp_path / "t.txt", tmp_path / "t.bin"
    text.write_text("The cat.\nThe king.\n")
    expected = [i for line in ("The cat.", "The king.") for i in (0, *_BPE.encode(line, add_special_tokens=False))]
    assert token_file([text], _BPE, out).tolist() == expected
    stamp = out.stat().st_mtime_ns
    assert token_file([text], _BPE, out).tolist() == expected and out.stat().st_mtime_ns == stamp
    text.write_text("The dog.\n")
    assert token_file([text], _BPE, out).tolist() == [0, *_BPE.encode("The dog.", add_special_tokens=False)]
    for damage in (
        lambda: out.write_bytes(b"\1\2\3"),
        lambda: (tmp_path / "t.json").write_text("{"),
        lambda: out.unlink(),
    ):
        damage()
        assert token_file([text], _BPE, out).tolist() == [0, *_BPE.encode("The dog.", add_special_tokens=False)]
    text.write_text("\n\n")
    with pytest.raises(TaskspaceError, match="hold no text"):
        token_file([text], _BPE, out)
    assert not list(tmp_path.glob("*.tmp"))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.integers(1, 9))
def test_stream_rows_predict_every_token_once(n, length):
    if n <= length:
        return
    rows = stream_rows(np.arange(n), length)
    assert rows[:, 1:].flatten().tolist() == list(range(1, len(rows) * length + 1)) and n - len(rows) * length <= length


# Training


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_every_row_comes_once_a_pass(rows, batch_size, seed):
    steps = -(-3 * rows // batch_size)
    seen = np.concatenate([batch_rows(s, rows, batch_size, seed) for s in range(steps)])
    for start in range(0, 2 * rows + 1, rows):
        assert sorted(seen[start : start + rows]) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(2, 30))
def test_checkpoints_are_logarithmic(steps, n):
    found = checkpoint_steps(TrainingConfig(steps=steps, checkpoints=n))
    assert found[0] == 0 and found[-1] == steps or steps == 1
    assert found == sorted(set(found)) and len(found) <= n and all(isinstance(s, int) for s in found)


def test_learning_rate_golden():
    config = TrainingConfig(steps=100, learning_rate=2.0, warmup=0.2, final=0.25)
    assert [learning_rate(config, s) for s in (0, 19, 20)] == [0.1, 2.0, 2.0]
    assert learning_rate(config, 60) == pytest.approx(2 * (0.25 + 0.75 / 2))
    assert learning_rate(config, 100) == pytest.approx(0.5)


def test_loss_equals_a_loop_over_tokens():
    """Difference seen: 0, of a sum of 15 nats."""
    model, rows = build(LSTMConfig(12, 16, 1)), torch.tensor([[0, 3, 4, 1, 1], [0, 5, 6, 7, 8]])
    logp = model(rows[:, :-1]).log_softmax(-1)
    naive = sum(-logp[i, t - 1, rows[i, t]].item() for i in range(2) for t in range(1, 5) if rows[i, t] != 1)
    total, count = rows_loss(model, rows, pad_id=1)
    assert count == 6 and total.item() == pytest.approx(naive, abs=1e-5)
    assert mean_loss(model, rows, pad_id=1, batch_size=1) == pytest.approx(naive / 6, abs=1e-5)


COMMON = """
import numpy as np
from taskspace.pretraining.architectures import build, TransformerConfig
from taskspace.pretraining.training import pretrain, TrainingConfig
ROWS = np.random.default_rng(0).integers(2, 20, (60, 9))
LONG = TrainingConfig(steps=160, batch_size=8, learning_rate=1e-2, checkpoints=8, save_every=9)
def newborn(dropout=0.0):
    return build(TransformerConfig(20, 16, 1, num_attention_heads=2, max_position_embeddings=12, dropout=dropout), 1)
"""
exec(COMMON)  # the same in this process and in those that get killed
SETTINGS = TrainingConfig(steps=40, batch_size=8, learning_rate=1e-2, checkpoints=5, save_every=7)


def test_same_settings_same_weights():
    a, b, c = newborn(), newborn(), newborn()
    log = pretrain(a, ROWS, SETTINGS)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    pd.testing.assert_frame_equal(pretrain(b, ROWS, SETTINGS), log)
    assert torch.equal(torch.get_rng_state(), state)
    pretrain(c, ROWS, SETTINGS.model_copy(update={"seed": 1}))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters())) and not a.training


def test_accumulation_changes_rounding_alone():
    """Worst difference of a weight after 40 steps at a rate of 0.01: 8.1e-5."""
    whole, parts = newborn(), newborn()
    pretrain(whole, ROWS, SETTINGS)
    pretrain(parts, ROWS, SETTINGS.model_copy(update={"accumulate": 3}))
    assert max((x - y).abs().max().item() for x, y in zip(whole.parameters(), parts.parameters(), strict=True)) < 5e-4


def test_checkpoints_are_the_weights_of_their_step(tmp_path):
    pretrain(newborn(), ROWS, SETTINGS, tmp_path / "long")
    start = load_model(tmp_path / "long" / "checkpoint-0")
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), newborn().parameters(), strict=True))
    assert sorted(p.name for p in (tmp_path / "long").glob("checkpoint-*")) == sorted(
        f"checkpoint-{s}" for s in checkpoint_steps(SETTINGS)
    )


KILLED = (
    "import torch; torch.set_num_threads(1)"
    + COMMON
    + """
print("ready", flush=True)
pretrain(newborn(dropout=0.1), ROWS, LONG, {out!r}, valid=ROWS[:5])
"""
)


def _started(code):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True
    )


def _lives(process):
    "Whether a process still runs; looks at it for a moment only, so that a kill comes soon."
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.002)
    return process.returncode is None


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(tmp_path):
    """kill -9 whenever the run has left a new checkpoint or state, again and again; with dropout."""
    pretrain(newborn(dropout=0.1), ROWS, LONG, tmp_path / "whole", valid=ROWS[:5])
    out, kills = tmp_path / "killed", 0
    while kills < 2:
        process = _started(KILLED.format(out=str(out)))
        assert process.stdout.readline() == "ready\n"
        before = _progress(out)
        while _lives(process) and (_progress(out) <= before or kills and not any(out.glob("state-*.pt"))):
            pass
        if process.poll() is None:
            kills += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert not (out / "log.parquet").exists(), "the run ended before it could be killed"
    assert all(0 < int(p.stem.split("-")[1]) < LONG.steps for p in out.glob("state-*.pt"))
    pretrain(newborn(dropout=0.1), ROWS, LONG, out, valid=ROWS[:5])
    assert contents(out) == contents(tmp_path / "whole")


def _progress(out):
    states = [int(p.stem.split("-")[1]) for p in out.glob("state-*.pt")]
    return len(list(out.glob("checkpoint-*"))), max(states, default=0)


@pytest.mark.soak
def test_two_processes_train_one_run(tmp_path):
    both = [_started(KILLED.format(out=str(tmp_path / "both"))) for _ in range(2)]
    pretrain(newborn(dropout=0.1), ROWS, LONG, tmp_path / "alone", valid=ROWS[:5])
    assert [p.wait() for p in both] == [0, 0]
    for p in both:
        p.stdout.close()
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_other_settings_rows_or_weights_are_refused(tmp_path):
    pretrain(newborn(), ROWS, SETTINGS, tmp_path)
    before = contents(tmp_path)
    for what, call in {
        "config": lambda: pretrain(newborn(), ROWS, SETTINGS.model_copy(update={"clip": 2.0}), tmp_path),
        "data": lambda: pretrain(newborn(), ROWS[1:], SETTINGS, tmp_path),
        "weights": lambda: pretrain(build(newborn().config, 2), ROWS, SETTINGS, tmp_path),
    }.items():
        with pytest.raises(TaskspaceError, match=f"holds a pre-training run with other {what}"):
            call()
    assert contents(tmp_path) == before


def test_divergence_is_named():
    with pytest.raises(TaskspaceError, match="the loss is nan at step 0; lower learning_rate"):
        broken = newborn()
        with torch.no_grad():
            broken.norm.weight.fill_(math.nan)
        pretrain(broken, ROWS, SETTINGS)


def test_written_keeps_what_is_there(tmp_path):
    (tmp_path / "f").write_text("old")
    with pytest.raises(ZeroDivisionError), written(tmp_path / "f") as scratch:
        scratch.write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "f").read_text() == "old"
    with written(tmp_path / "f") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "f").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "data, message",
    [
        ({"steps": 0}, "run.yaml: steps: input should be greater"),
        ({"lr": 1}, "run.yaml: lr: there is no such field; there are: steps"),
        ({"checkpoints": 1}, "checkpoints: at least 2"),
        ({"precision": "int8"}, "run.yaml: precision"),
        ([], "run.yaml: must be a mapping of fields, not"),
        ({"steps": "x", "clip": 0}, r"steps: .*\(and 1 more\)"),
    ],
)
def test_wrong_training_settings(data, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        checked(TrainingConfig, data, "run.yaml")
    assert "\n" not in str(e.value)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(TaskspaceError, match="cannot be used here.*device='auto'"):
            pick_device(name)


# Built-in scales, in a small version of their own


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The built-in pre-training with few sentences and steps, in an empty cache."""
    monkeypatch.setenv("TASKSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretraining, "SENTENCES", 300)
    monkeypatch.setattr(pretraining, "STEPS", (0, 2, 5))
    kept = pretraining.corpus_digest, pretraining.builtin_rows  # a test may put others in their place
    for cached in kept:
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in kept:
        cached.cache_clear()


SMALL = """
import torch
torch.set_num_threads(1)
from taskspace.pretraining import builtin as pretraining
pretraining.SENTENCES, pretraining.STEPS = 300, (0, 2, 5)
print("ready", flush=True)
pretraining.builtin_checkpoint("nano", 5)
"""


def test_builtin_steps_and_errors(small):
    assert builtin_steps("nano") == [0, 2, 5]
    for call, message in (
        (lambda: builtin_steps("tiny"), "unknown built-in scale 'tiny'; there are: nano, micro, mini"),
        (lambda: builtin_checkpoint("nano", 3), "no checkpoint at step 3; there are: 0, 2, 5"),
    ):
        with pytest.raises(TaskspaceError, match=message):
            call()
    assert not (small / "builtin").exists()


def test_a_filtered_text_is_a_model_of_its_own(small):
    whole, filtered = (builtin_checkpoint("nano", without=w) for w in ((), "polarity"))
    assert whole.parent != filtered.parent and "without-ever_outside" in str(filtered)
    both = [(p / "model.safetensors").read_bytes() for p in (whole, filtered)]
    assert both[0] != both[1]
    named = ["ever_with_negative_object", "ever_outside_negative_clause"]
    assert builtin_checkpoint("nano", without=named) == filtered
    assert builtin_checkpoint("nano", without=[]) == whole
    with pytest.raises(TaskspaceError, match="did you mean 'polarity'"):
        builtin_checkpoint("nano", without=["polarty"])


@pytest.mark.slow
def test_two_processes_fill_one_cache(small):
    """With an empty cache: both end well, the weights are those of a single process, and nothing is left over."""
    both = [_started(SMALL) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    for p in both:
        p.stdout.close()
    together = contents(small)
    assert not [n for n in together if n.endswith(".tmp")]
    shutil.rmtree(small)
    builtin_checkpoint("nano")
    assert contents(small) == together


@pytest.mark.slow
def test_damaged_and_interrupted_caches_are_made_again(small):
    path = builtin_checkpoint("nano", 2)
    whole = contents(small)
    directory = builtin_directory("nano")
    assert path == directory / "checkpoint-2"
    damages = {
        "cut weights": lambda: (path / "model.safetensors").write_bytes(
            (path / "model.safetensors").read_bytes()[:-100]
        ),
        "one bit": lambda: (path / "model.safetensors").write_bytes(
            (path / "model.safetensors").read_bytes()[:-1] + b"\x7f"
        ),
        "no configuration": lambda: (path / "config.json").unlink(),
        "one bit of another checkpoint": lambda: (directory / "checkpoint-5" / "model.safetensors").write_bytes(
            (directory / "checkpoint-5" / "model.safetensors").read_bytes()[:-1] + b"\x7f"
        ),
        "one bit of the configuration": lambda: (path / "config.json").write_bytes(
            (path / "config.json").read_bytes().replace(b"2", b"3", 1)
        ),
        "no digests": lambda: (directory / "checksums.json").unlink(),
        "no log": lambda: (directory / "log.parquet").unlink(),
        "half a checkpoint of a killed process": lambda: (directory / "checkpoint-5.123.tmp").mkdir(),
    }
    for name, damage in damages.items():
        damage()
        builtin_checkpoint("nano", 2)
        builtin_checkpoint("nano", 5)
        builtin_log("nano")
        assert contents(small) == whole, name


def test_another_grammar_gets_another_place(small, monkeypatch):
    before = builtin_directory("nano")
    assert builtin_directory("nano", seed=1) != before != builtin_directory("micro")
    monkeypatch.setattr(pretraining, "corpus_digest", lambda *asked: "0" * 64)
    assert builtin_directory("nano") != before


def test_scales_see_the_same_data(small):
    logs = [pd.read_parquet(builtin_checkpoint(s).parent / "log.parquet") for s in ("nano", "micro")]
    assert (logs[0].tokens == logs[1].tokens).all()
    notes = [json.loads((builtin_directory(s) / "run.json").read_text()) for s in ("nano", "micro")]
    assert notes[0]["data"] == notes[1]["data"] and notes[0]["weights"] != notes[1]["weights"]


# Text files


@pytest.mark.parametrize(
    "architecture, sizes",
    [
        ("llama", dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)),
        ("gpt2", dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)),
        ("transformer", dict(hidden_size=16, activation="solu")),
        ("lstm", dict(hidden_size=16)),
        ("cnn", dict(hidden_size=16)),
    ],
)
def test_new_models(architecture, sizes):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b, c = (new_model(architecture, _BPE, 32, seed, **sizes) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))
    assert a.config.vocab_size == len(_BPE) and not a.training
    for wrong, message in ((dict(width=3), "width"), (dict(hidden_size=15, num_attention_heads=2), "multiple|head")):
        if architecture in ("lstm", "cnn") and "hidden_size" in wrong:
            continue
        with pytest.raises(TaskspaceError, match=message):
            new_model(architecture, _BPE, 32, **wrong)


@pytest.fixture
def texts(tmp_path):
    sentences = grammar.corpus(260)
    (tmp_path / "train.txt.xz").write_bytes(lzma.compress("\n".join(sentences[:240]).encode()))
    (tmp_path / "valid.txt").write_text("\n".join(sentences[240:]))
    config = {
        "train": "train.txt.xz",
        "valid": "valid.txt",
        "out": "out",
        "vocab_size": 300,
        "context": 16,
        "training": {"steps": 12, "batch_size": 4, "checkpoints": 3, "save_every": 2},
        "models": {
            "small": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "seeds": [0, 1],
            },
            "lstm": {"architecture": "lstm", "hidden_size": 16, "training": {"steps": 6}},
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return tmp_path


TEXT = """
import torch
torch.set_num_threads(1)
from taskspace.pretraining.texts import pretrain_text
print("ready", flush=True)
pretrain_text({config!r}, device="cpu")
"""


def test_text_models_end_to_end(texts):
    made = pretrain_text(texts / "config.yaml", device="cpu")
    assert made.run.tolist() == ["small-seed0", "small-seed1", "lstm"] and made.steps.tolist() == [12, 12, 6]
    assert made[["loss", "valid_loss"]].notna().all(axis=None)
    notes = [json.loads((Path(d) / "run.json").read_text()) for d in made.directory]
    assert len({n["data"] for n in notes}) == 1 and len({n["weights"] for n in notes}) == 3
    before = contents(texts / "out")
    pd.testing.assert_frame_equal(pretrain_text(texts / "config.yaml", device="cpu"), made)
    assert contents(texts / "out") == before
    one = pretrain_text(texts / "config.yaml", only=["lstm"], device="cpu")
    assert one.run.tolist() == ["lstm"]


@pytest.mark.soak
def test_text_models_survive_kills(texts):
    """Killed while the tokenizer is saved and between the models; the files are those of an undisturbed run."""
    pretrain_text(
        {
            **yaml.safe_load((texts / "config.yaml").read_text()),
            "train": str(texts / "train.txt.xz"),
            "valid": str(texts / "valid.txt"),
            "out": str(texts / "whole"),
        },
        device="cpu",
    )
    for files in (3, 30):
        process = _started(TEXT.format(config=str(texts / "config.yaml")))
        process.stdout.readline()
        while _lives(process) and sum(len(f) for *_, f in os.walk(texts / "out")) < files:
            pass
        process.kill()
        process.wait()
        process.stdout.close()
    pretrain_text(texts / "config.yaml", device="cpu")
    assert contents(texts / "out") == contents(texts / "whole")


def _with(**change):
    return lambda config: {**config, **change}


@pytest.mark.parametrize(
    "change, message",
    [
        (_with(vocab=3), "config.yaml: vocab: there is no such field; did you mean 'vocab_size'"),
        (_with(train=[]), "train: "),
        (_with(models={}), "models: "),
        (
            _with(models={"a": {"architecture": "mamba"}}),
            "models.a.architecture: unknown architecture 'mamba'; there are: llama",
        ),
        (_with(models={"a": {"training": {"lr": 3}}}), "models.a.training: lr: there is no such field"),
        (_with(models={"a": {"training": {"seed": 3}}}), "the data order is common"),
        (_with(models={"a": {"seeds": []}}), "models.a.seeds"),
        (_with(models={"a": {"hidden_size": 16, "hidden_sizes": 3}}), "models.a: unknown setting 'hidden_sizes'"),
        (_with(training={"steps": -1}), "training.steps"),
        (_with(vocab_size=100), "vocab_size: "),
        (_with(documents="page"), "documents: input should be 'line', 'block' or 'file'"),
        (_with(train="nothing.txt"), "nothing.txt: no such file"),
        (_with(context=100_000), "too few for one row"),
        (_with(models={"a": {"hidden_size": -4}}), "config.yaml: models.a: "),
        (_with(models={"a": {}}), "models.a: hidden_size is missing"),
        (_with(models={"../a": {}}), "models: '../a' cannot be the name"),
        (_with(models={"data": {}}), "'data' cannot be the name"),
        (
            _with(training={"steps": 5, "checkpoints": [9]}, models={"a": {"architecture": "cnn"}}),
            "config.yaml: checkpoint 9 lies beyond the last step, 5",
        ),
        (_with(models={"a": {"seeds": 0}}), "models.a.seeds: a number of seeds must lie in 1 .. 1000"),
        (lambda c: {k: v for k, v in c.items() if k != "out"}, "config.yaml: out: not given"),
        (_with(tokenizer="nowhere"), "holds no tokenizer"),
        (lambda c: "train", "config.yaml: holds a str where fields such as train and models are needed"),
    ],
)
def test_wrong_text_configurations(texts, change, message):
    path = texts / "config.yaml"
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text()))))
    with pytest.raises(TaskspaceError, match=message) as e:
        pretrain_text(path, device="cpu")
    assert "\n" not in str(e.value)
    assert not list((texts / "out").rglob("checkpoint-*"))


@pytest.mark.parametrize(
    "models, twice",
    [
        ({"a": [0, 1], "a-seed0": [0]}, "a-seed0"),
        ({"a-seed1": [7], "a": [0, 1]}, "a-seed1"),
        ({"a": [3, 3]}, "a-seed3"),
    ],
)
def test_runs_with_the_same_name_are_refused(texts, models, twice):
    config = {
        **yaml.safe_load((texts / "config.yaml").read_text()),
        "models": {n: {"architecture": "cnn", "seeds": seeds} for n, seeds in models.items()},
    }
    with pytest.raises(TaskspaceError, match=f"models: two runs would be called '{twice}'") as e:
        text_config(config)
    assert "\n" not in str(e.value)


def test_unreadable_configurations(texts):
    (texts / "broken.yaml").write_text("train: [a\nout: b")
    for path, message in (
        (texts / "none.yaml", "none.yaml: no such file"),
        (texts / "broken.yaml", "broken.yaml, line 2: not valid YAML"),
    ):
        with pytest.raises(TaskspaceError, match=message):
            text_config(path)
    with pytest.raises(
        TaskspaceError, match="no model 'big' in the configuration; there are: small-seed0, small-seed1, lstm"
    ):
        pretrain_text(texts / "config.yaml", only=["big"])
