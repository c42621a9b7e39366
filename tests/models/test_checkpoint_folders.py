"""Folders of checkpoints under any name that ends in a number: found, ordered, addressed, by a study and by load_lm."""

import json

import pytest

from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import expand, ModelSpec
from taskspace.models.lm import LM
from taskspace.models.loading import load_lm
from taskspace.models.naming import checkpoint_folders, checkpoint_number
from taskspace.pretraining.architectures import build, LSTMConfig
from taskspace.pretraining.tokens import word_tokenizer

WORDS = word_tokenizer([".", "the", "cat", "sleeps"])
NAMES = {
    "BabyLM": ["chck_1M", "chck_2M", "chck_10M", "chck_100M"],
    "trainer": ["checkpoint-5", "checkpoint-50", "checkpoint-500"],
    "Pythia": ["step0", "step512", "step1000"],
    "Megatron": ["iter_0000900", "iter_0001000", "iter_0010000"],
    "thousands": ["ckpt900k", "ckpt_1.5M", "ckpt_20m"],
    "milliards": ["tokens-500M", "tokens-1B", "tokens-2.5B"],
    "words behind": ["10M_words", "100M_words", "1B-words"],
    "digits": ["8", "064", "512"],
    "epochs": ["epoch_1", "epoch_2", "epoch_10"],
    "a name before": ["my-model-9M", "my-model-10M"],
    "both": ["stage1-step1000-tokens1B", "stage1-step2000-tokens2B"],
}


def write(folder, names, **config):
    for name in reversed(names):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8, **config}))
    return folder


def refused(message, call):
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


def chosen(folder, choice, **more):
    found = expand(ModelSpec(name=str(folder), **({"checkpoints": choice} if choice else {}), **more))
    assert all(c.name.startswith(str(folder)) for c in found)
    return [c.name[len(str(folder)) + 1 :] for c in found]


@pytest.mark.parametrize("kind", NAMES)
def test_folders_are_found_in_order_and_chosen(tmp_path, kind):
    names, folder = NAMES[kind], write(tmp_path / "hf_model", NAMES[kind])
    (folder / "logs").mkdir()
    (folder / "checkpoint-9000.77.tmp").mkdir()
    assert list(checkpoint_folders(folder)) == names == chosen(folder, "all")
    assert chosen(folder, "last") == chosen(folder, None) == names[-1:]
    assert chosen(folder, "log-spaced 2") == [names[0], names[-1]]
    assert chosen(folder, names[::-1]) == names[::-1]
    numbers = [checkpoint_number(n) for n in names]
    assert numbers == sorted(numbers) and chosen(folder, numbers) == names
    assert chosen(folder, None, revision=names[0]) == names[:1]
    steps = [c.step for c in expand(ModelSpec(name=str(folder), checkpoints="all"))]
    assert steps == numbers


@pytest.mark.parametrize(
    "name", ["main", "v1.0", "model-v2", "3f2a91b7", "0a1b2c3d4e5f60718293", "checkpoint-10.77.tmp", "logs", "", "1.5"]
)
def test_names_that_are_no_checkpoints(name):
    assert checkpoint_number(name) is None


def test_other_folders_are_listed_by_name(tmp_path):
    folder = write(tmp_path / "m", ["chck_1M", "chck_10M", "main"])
    assert chosen(folder, ["10M", "main"]) == ["chck_10M", "main"]
    assert chosen(folder, "all") == ["chck_1M", "chck_10M"]
    refused("no checkpoint '20M'; there are: chck_1M, chck_10M", lambda: chosen(folder, ["20M"]))
    refused("no checkpoint '../m'", lambda: chosen(folder, ["../m"]))


def test_a_number_of_two_folders_is_refused(tmp_path):
    folder = write(tmp_path / "m", ["stage1-step100", "stage2-step100"])
    refused("100 may be stage1-step100 or stage2-step100; give the name", lambda: chosen(folder, [100]))
    assert chosen(folder, ["stage1-step100"]) == ["stage1-step100"]


def test_models_of_different_sizes_are_no_checkpoints(tmp_path):
    write(tmp_path / "m", ["pythia-70m"])
    write(tmp_path / "m", ["pythia-160m"], n_embd=16)
    for choice in ("all", "last", None, "log-spaced 2"):
        refused("pythia-70m and pythia-160m are models of different sizes", lambda c=choice: chosen(tmp_path / "m", c))
    refused("models of different sizes", lambda: load_lm(tmp_path / "m"))


def test_a_directory_without_checkpoints_says_so(tmp_path):
    folder = write(tmp_path, ["m"]) / "m"
    refused("no checkpoints are saved there", lambda: chosen(folder, "all"))
    assert expand(ModelSpec(name=str(folder)))[0].name == str(folder)


def test_load_lm_finds_them(tmp_path):
    for seed, name in enumerate(["chck_1M", "chck_2M", "chck_10M"]):
        LM(build(LSTMConfig(len(WORDS), 8), seed=seed), WORDS).save(tmp_path / "hf_model" / name)
    last = load_lm(tmp_path / "hf_model", device="cpu")
    assert last.digest() == load_lm(tmp_path / "hf_model" / "chck_10M", device="cpu").digest()
    for revision in ("chck_2M", "2M", "2000000"):
        lm = load_lm(tmp_path / "hf_model", revision=revision, device="cpu")
        assert lm.digest() == load_lm(tmp_path / "hf_model" / "chck_2M", device="cpu").digest()
    refused("no checkpoint '5M'; there are: chck_1M, chck_2M, chck_10M", lambda: load_lm(tmp_path / "hf_model", "5M"))
    refused("no checkpoint '../hf_model'", lambda: load_lm(tmp_path / "hf_model", "../hf_model"))
