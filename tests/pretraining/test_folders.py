"""The folder of a pre-training: foreign folders, links, damage of every file, a full disk, names of models."""

import json
import lzma
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from atlength import covering
from taskspace.errors import TaskspaceError
from taskspace.pretraining.architectures import build, CausalModel, new_model, TransformerConfig
from taskspace.pretraining.folders import check_folder, read_sums
from taskspace.pretraining.texts import pretrain_text, text_config
from taskspace.pretraining.tokens import byte_tokenizer, read_texts, token_file, word_tokenizer
from taskspace.pretraining.training import load_weights, pretrain, save_checkpoint, TrainingConfig
from taskspace.tasks import grammar

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).integers(2, 20, (30, 9))
SETTINGS = TrainingConfig(steps=14, batch_size=4, learning_rate=1e-2, checkpoints=(2, 8), save_every=3)


def newborn(after: int | None = None) -> CausalModel:
    "A small model with dropout; one that breaks in the update after so many others."
    model = build(TransformerConfig(20, 16, 1, num_attention_heads=2, max_position_embeddings=12, dropout=0.1), 1)
    calls = iter(range(10**6))

    def stop(*_):
        if model.training and next(calls) == after:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stop)
    return model


def contents(path: Path) -> dict[str, bytes]:
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name != "lock")
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def names(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "a bit in the middle": flip,
    "the last bit": lambda path: flip(path, 1 - 1e-9),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "a list": lambda path: path.write_text("[1, 2]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a folder": as_folder,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A finished run, and one that was killed between two checkpoints."
    here = tmp_path_factory.mktemp("runs")
    pretrain(newborn(), ROWS, SETTINGS, here / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(newborn(after=10), ROWS, SETTINGS, here / "killed")
    assert {"state-8.pt", "state-9.pt"} < set(read_sums(here / "killed"))
    return here


FILES = ["run.json", "checksums.json"] + [
    f"checkpoint-{s}/{f}" for s in (0, 8) for f in ("config.json", "model.safetensors")
]
LATER = ["checkpoint-14/config.json", "checkpoint-14/model.safetensors", "log.parquet"]


IN_RUNS = [("whole", f) for f in FILES + LATER] + [("killed", f) for f in [*FILES, "state-8.pt", "state-9.pt"]]


@pytest.mark.parametrize("where, damage", covering(IN_RUNS, DAMAGES))
def test_damage_of_any_file_changes_no_byte_of_the_result(runs, tmp_path, where, damage):
    "Where a folder took the place of a file it may also be refused, in one line that names it."
    kind, file = where
    shutil.copytree(runs / kind, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / file)
    try:
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    except TaskspaceError as e:
        assert damage == "a folder" and file in str(e) and "\n" not in str(e)
    else:
        assert contents(tmp_path / "run") == contents(runs / "whole")


def test_two_files_damaged_at_once(runs, tmp_path):
    for files in (
        ["state-8.pt", "state-9.pt"],
        ["state-9.pt", "checkpoint-2/config.json"],
        ["checkpoint-8/config.json", "run.json"],
    ):
        shutil.copytree(runs / "killed", tmp_path / "run")
        for file in files:
            flip(tmp_path / "run" / file)
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
        assert contents(tmp_path / "run") == contents(runs / "whole")
        shutil.rmtree(tmp_path / "run")


def test_a_damaged_state_costs_only_the_steps_since_the_one_before(runs, tmp_path):
    shutil.copytree(runs / "killed", tmp_path / "run")
    flip(tmp_path / "run" / "state-9.pt")
    with pytest.raises(KeyboardInterrupt):
        pretrain(newborn(after=0), ROWS, SETTINGS, tmp_path / "run")
    assert (tmp_path / "run" / "state-8.pt").exists()
    model, updates = newborn(), []
    model.register_forward_pre_hook(lambda m, _: updates.append(m.training))
    pretrain(model, ROWS, SETTINGS, tmp_path / "run")
    assert sum(updates) == SETTINGS.steps - 8


def test_code_in_a_state_is_not_run(runs, tmp_path):
    "A state that was forged with its digest: refused by name, and nothing in it runs."
    shutil.copytree(runs / "killed", tmp_path / "run")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Bomb()}, tmp_path / "run" / "state-9.pt")
    from taskspace.files import file_digest

    sums = read_sums(tmp_path / "run")
    sums["state-9.pt"] = file_digest(tmp_path / "run" / "state-9.pt")
    (tmp_path / "run" / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(TaskspaceError, match=r"state-9.pt: no state of this run.*remove the file") as e:
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert "\n" not in str(e.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ['{"config": 1}', "{}", "null", "3", '"x"', "[" * 99_999])
def test_a_note_of_something_else_is_named(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(TaskspaceError, match="run.json: damaged, or not the note|with other config") as e:
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert "\n" not in str(e.value) and names(tmp_path / "run") == ["run.json"]


# Foreign folders and links


THESIS = ["thesis.tex", "tokenizer/vocab.txt", "data/train.bin", "notes.tmp", "log.parquet", "checkpoint-2/model.bin"]


@pytest.fixture
def text(tmp_path):
    "The configuration of a small pre-training from text, and its texts, beside the folder `out`."
    sentences = grammar.corpus(130)
    (tmp_path / "train.txt.xz").write_bytes(lzma.compress("\n".join(sentences[:120]).encode()))
    (tmp_path / "valid.txt").write_text("\n".join(sentences[120:]))
    return {
        "train": str(tmp_path / "train.txt.xz"),
        "valid": str(tmp_path / "valid.txt"),
        "out": str(tmp_path / "out"),
        "vocab_size": 300,
        "context": 12,
        "training": {"steps": 4, "batch_size": 2, "checkpoints": 3, "save_every": 2},
        "models": {
            "lstm": {"architecture": "lstm", "hidden_size": 8},
            "cnn": {"architecture": "cnn", "hidden_size": 8},
        },
    }


@pytest.mark.parametrize("file", THESIS)
def test_a_foreign_folder_is_left_as_it_is(text, tmp_path, file):
    "Also below the folder, where a model would be."
    for folder in (tmp_path / "out", tmp_path / "out2" / "lstm"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("mine")
    for call, folder in (
        (lambda: pretrain_text(text, device="cpu"), tmp_path / "out"),
        (lambda: pretrain_text(text, tmp_path / "out2", device="cpu"), tmp_path / "out2"),
        (lambda: pretrain(newborn(), ROWS, SETTINGS, tmp_path / "out"), tmp_path / "out"),
    ):
        before = names(folder)
        with pytest.raises(TaskspaceError, match="holds something other than a pre-training; name a new or empty") as e:
            call()
        assert "\n" not in str(e.value) and names(folder) == before
        assert all(p.read_text() == "mine" for p in folder.rglob("*") if p.is_file())


def test_the_users_own_tokenizer_and_model_folders_stay(text, tmp_path):
    pretrain_text(text, only=["lstm"], device="cpu")
    (tmp_path / "out" / "cnn").mkdir()
    (tmp_path / "out" / "cnn" / "notes.txt").write_text("mine")
    with pytest.raises(TaskspaceError, match="out/cnn: this directory holds something other than a pre-training"):
        pretrain_text(text, device="cpu")
    shutil.rmtree(tmp_path / "out" / "cnn")
    (tmp_path / "out" / "tokenizer" / "made_of").unlink()
    with pytest.raises(TaskspaceError, match="out/tokenizer: was not made by this pre-training; move it away"):
        pretrain_text(text, device="cpu")
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.json").exists()


def test_a_folder_that_was_left_by_a_kill_at_the_beginning_is_taken(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock").touch()
    (tmp_path / "out" / ".taskspace-pretraining.json.77.tmp").write_text('{"for')
    pretrain_text(text, only=["lstm"], device="cpu")
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.mark.parametrize(
    "link", ["lock", "checkpoint-2", "checksums.json", "anything", "state-3.pt", ".run.json.1.tmp"]
)
@pytest.mark.parametrize("target", ["a file", "a folder", "nothing"])
def test_links_out_of_the_folder_are_refused(runs, tmp_path, link, target):
    shutil.copytree(runs / "killed", tmp_path / "run")
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "a folder").mkdir()
    place = tmp_path / "run" / link
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(tmp_path / target)
    with pytest.raises(TaskspaceError, match=f"{link}: a symbolic link out of the directory") as e:
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert "\n" not in str(e.value)
    assert (tmp_path / "a file").read_text() == "mine" and not list((tmp_path / "a folder").iterdir())
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("link", ["tokenizer", "data", "data/train.bin", "lstm", "lstm/checkpoint-0", "lock"])
def test_links_out_of_a_folder_of_models_are_refused(text, tmp_path, link):
    pretrain_text(text, only=["lstm"], device="cpu")
    place = tmp_path / "out" / link
    os.rename(place, tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    flip(tmp_path / "out" / "taskspace-pretraining.json")
    with pytest.raises(TaskspaceError, match=f"{link}: a symbolic link out of the directory"):
        pretrain_text(text, device="cpu")


def test_the_folder_itself_and_links_inside_it_may_be_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    (tmp_path / "disk" / "best").symlink_to("checkpoint-8")
    pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    (tmp_path / "disk" / "loop").symlink_to("loop")
    check_folder(tmp_path / "run", "run.json")


# Text pre-trainings


@pytest.fixture(scope="module")
def texts_made(tmp_path_factory):
    here = tmp_path_factory.mktemp("texts")
    (here / "train.txt").write_text("\n".join(grammar.corpus(120)))
    config = {
        "train": str(here / "train.txt"),
        "out": str(here / "out"),
        "vocab_size": 300,
        "context": 12,
        "training": {"steps": 4, "batch_size": 2, "checkpoints": 3},
        "models": {"lstm": {"architecture": "lstm", "hidden_size": 8}},
    }
    pretrain_text(config, device="cpu")
    return config


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "file",
    [
        "data/train.bin",
        "data/train.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/made_of",
        "tokenizer/checksums.json",
        "lstm/checkpoint-4/tokenizer.json",
        "taskspace-pretraining.json",
    ],
)
def test_damage_of_texts_tokenizer_and_models(texts_made, tmp_path, file, damage):
    shutil.copytree(texts_made["out"], tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / file)
    try:
        pretrain_text(texts_made, tmp_path / "out", device="cpu")
    except TaskspaceError as e:
        assert damage == "a folder" or (
            damage == "gone" and file in ("tokenizer/made_of", "taskspace-pretraining.json")
        )
        assert str(tmp_path / "out") in str(e) and "\n" not in str(e)
    else:
        found, whole = contents(tmp_path / "out"), contents(Path(texts_made["out"]))
        if file == "taskspace-pretraining.json":
            found.pop(file), whole.pop(file)
        assert found == whole


SCRATCH = [
    "a.tmp",
    ".a.tmp",
    "A.TMP",
    ".a",
    "a.",
    "tokenizer",
    "Data",
    "LOCK",
    "taskspace-pretraining.json",
    "checkpoint-5",
]
PATHS = [
    "",
    ".",
    "..",
    "../a",
    "a/b",
    "/a",
    "a b",
    "a\n",
    "a\x00",
    "a" * 101,
    "con:",
    "*",
    "-a",
    "{{< env X >}}",
    "\ud800",
]


@pytest.mark.parametrize("name", SCRATCH + PATHS)
def test_names_that_no_model_may_have(text, name):
    with pytest.raises(TaskspaceError, match="models: .* cannot be the name of a directory") as e:
        text_config({**text, "models": {name: {"architecture": "cnn", "hidden_size": 8}}})
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


@pytest.mark.parametrize(
    "name", ["a", "llama-7M", "7", "a.b_c+d", "été", "語", "tmp", "a.tmp.b", "checkpoint", "x" * 100]
)
def test_names_that_a_model_may_have(text, name):
    assert list(text_config({**text, "models": {name: {"architecture": "cnn", "hidden_size": 8}}}).run_names()) == [
        name
    ]


@pytest.mark.parametrize("two", [["a", "A"], ["é", "e\u0301"], ["Straße", "STRASSE"]])
def test_names_that_some_file_systems_take_for_one(text, two):
    if not all(n.isidentifier() for n in two):
        pytest.skip("no names at all")
    models = {name: {"architecture": "cnn", "hidden_size": 8} for name in two}
    with pytest.raises(TaskspaceError, match="two runs would be called|cannot be the name"):
        text_config({**text, "models": models})


@pytest.mark.parametrize("documents", ["line", "block", "file"])
@pytest.mark.parametrize("xz", [False, True])
def test_byte_order_marks_and_line_separators_are_no_text(tmp_path, documents, xz):
    data = "\ufeffone\u2028two\n\nthree\x85four".encode()
    path = tmp_path / ("a.xz" if xz else "a.txt")
    path.write_bytes(lzma.compress(data) if xz else data)
    found = list(read_texts([path], documents))
    assert found == (["one\u2028two\n\nthree\x85four"] if documents == "file" else ["one\u2028two", "three\x85four"])


# Weights of another model


def test_weights_that_do_not_belong_are_named(tmp_path):
    save_checkpoint(newborn(), None, tmp_path / "a")
    wider = build(TransformerConfig(20, 32, 1, num_attention_heads=2, max_position_embeddings=12))
    deeper = build(TransformerConfig(20, 16, 2, num_attention_heads=2, max_position_embeddings=12))
    untied = build(TransformerConfig(20, 16, 1, False, num_attention_heads=2, max_position_embeddings=12))
    for model in (wider, deeper, untied):
        with pytest.raises(TaskspaceError, match=str(tmp_path / "a")) as e:
            load_weights(model, tmp_path / "a")
        assert "\n" not in str(e.value)
        assert model is not wider or r"has embed.weight of shape (20, 16), in the model it is (20, 32)" in str(e.value)
    save_checkpoint(deeper, None, tmp_path / "b")
    with pytest.raises(TaskspaceError, match="which the model does not have"):
        load_weights(newborn(), tmp_path / "b")
    words = word_tokenizer(["a", "b"])
    llama = new_model("llama", words, 8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    save_checkpoint(llama, words, tmp_path / "c")
    load_weights(llama, tmp_path / "c")  # its head is its embedding, and stored once


# A full disk


@contextmanager
def at_most(size: int):
    "No file may grow beyond so many bytes. The error is that of a full disk, but for its number."
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "size, file",
    [(100, "run.json"), (5_000, "checkpoint-0"), (40_000, "state-2.pt")],
)
def test_a_full_disk_names_the_file_and_what_it_needs(runs, tmp_path, size, file):
    with (
        at_most(size),
        pytest.raises(TaskspaceError, match=rf"{file}: cannot be written \(.*\): it needs [\d.,]+ (bytes|kB)") as e,
    ):
        pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert "\n" not in str(e.value) and "make room and start again" in str(e.value)
    assert not list((tmp_path / "run").rglob("*.tmp"))
    pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(runs / "whole")


def test_what_a_checkpoint_needs_is_what_it_takes(tmp_path):
    "Within a tenth; what follows are the other three checkpoints."
    model = newborn()
    with at_most(5_000), pytest.raises(TaskspaceError) as e:
        pretrain(model, ROWS, SETTINGS, tmp_path / "run")
    size = sum(p.numel() * 4 for p in model.parameters())
    assert f"it needs {size / 1000:.1f} kB (with what follows: {4 * size / 1000:.1f} kB)" in str(e.value)
    pretrain(newborn(), ROWS, SETTINGS, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-0" / "model.safetensors").stat().st_size == pytest.approx(size, rel=0.15)


def test_a_full_disk_for_hugging_face_models_tokens_and_tokenizers(tmp_path):
    tokenizer = byte_tokenizer(grammar.corpus(60), 300)
    llama = new_model(
        "llama", tokenizer, 12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with at_most(3_000), pytest.raises(TaskspaceError, match="checkpoint-0: cannot be written .*it needs [0-9.]+ kB"):
        pretrain(llama, ROWS, SETTINGS, tmp_path / "run", tokenizer)
    (tmp_path / "t.txt").write_text("\n".join(grammar.corpus(400)))
    with (
        at_most(2_000),
        pytest.raises(TaskspaceError, match="t.bin: cannot be written .*it needs more than [0-9.]+ kB"),
    ):
        token_file([tmp_path / "t.txt"], tokenizer, tmp_path / "t.bin")
    config = {
        "train": str(tmp_path / "t.txt"),
        "out": str(tmp_path / "out"),
        "vocab_size": 300,
        "models": {"a": {"architecture": "cnn", "hidden_size": 8}},
    }
    with at_most(2_000), pytest.raises(TaskspaceError, match="tokenizer: cannot be written .*it needs [0-9.]+ kB"):
        pretrain_text(config, device="cpu")
    assert not list(tmp_path.rglob("*.tmp"))
