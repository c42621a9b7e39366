"""What names of checkpoints say: number, unit and stage, in a local hub cache, in folders, by patterns of one's own."""

import hashlib
import shutil

import pytest

from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import expand, ModelSpec
from taskspace.models.lm import LM
from taskspace.models.loading import load_lm
from taskspace.models.naming import axis_title, point_by, point_title, steps_pattern, training_point, TrainingPoint
from taskspace.pretraining.architectures import build, LSTMConfig
from taskspace.pretraining.tokens import word_tokenizer
from taskspace.runs.jobs import Plan
from taskspace.runs.study import parse_study, Study

WORDS = word_tokenizer([".", "the", "cat", "sleeps"])
REVISIONS = {
    "lab/pythia": ["main", "step0", "step1", "step1000", "step143000"],
    "lab/olmo": ["main", "step1000-tokens4B", "step2000-tokens8B", "step500-tokens2B"],
    "lab/olmo2": [
        "main",
        "stage1-step1000-tokens5B",
        "stage1-step2000-tokens9B",
        "stage2-ingredient1-step1000-tokens3B",
        "stage2-ingredient2-step1000-tokens3B",
    ],
    "lab/babylm": ["main", "chck_1M", "chck_2M", "chck_10M", "chck_100M", "v1.0"],
    "lab/trainer": ["main", "checkpoint-500", "checkpoint-1500"],
    "lab/megatron": ["main", "iter_0001000", "iter_0010000"],
    "lab/own": ["main", "ba4800-warm", "ba9600-warm", "ba2400-cold"],
}


def refused(message, call):
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "One model for each seed, saved once."
    folder = tmp_path_factory.mktemp("saved")
    return [LM(build(LSTMConfig(len(WORDS), 4), seed=s), WORDS).save(folder / str(s)) for s in range(6)]


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    "A cache of repositories whose revisions hold different weights, as the hub client keeps them."
    from huggingface_hub import constants

    for name, revisions in REVISIONS.items():
        repo = tmp_path / f"models--{name.replace('/', '--')}"
        for seed, revision in enumerate(revisions):
            commit = hashlib.sha1(f"{name}{revision}".encode()).hexdigest()
            shutil.copytree(files[seed], repo / "snapshots" / commit)
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / revision).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def points(name, choice="all", **more):
    found = expand(ModelSpec(name=name, checkpoints=choice, **more))
    return [(c.revision, c.step, c.unit, c.stage) for c in found]


def test_checkpoints_of_a_hub_cache_have_number_and_unit(hub):
    assert points("lab/pythia") == [(f"step{s}", s, "steps", "") for s in (0, 1, 1000, 143000)]
    assert [p[1:] for p in points("lab/olmo")] == [(s, "steps", "") for s in (500, 1000, 2000)]
    words = [(f"chck_{m}M", m * 10**6, "words", "") for m in (1, 2, 10, 100)]
    assert points("lab/babylm") == words
    assert points("lab/babylm", "log-spaced 3") == [words[0], words[2], words[3]]
    assert points("lab/babylm", ["chck_10M", "main"]) == [words[2], ("main", None, "steps", "")]
    assert [p[1] for p in points("lab/trainer")] == [500, 1500] and [p[1] for p in points("lab/megatron")] == [
        1000,
        10000,
    ]
    for name in REVISIONS:
        assert points(name, "last") == [(None, None, "steps", "")]


def test_stages_are_mixed_by_nobody(hub):
    several = r"several stages, which are not mixed: stage1 \(2\), stage2-ingredient1 \(1\), stage2-ingredient2 \(1\)"
    for choice in ("all", "log-spaced 2"):
        refused(f"lab/olmo2: its checkpoints are of {several}; set stage", lambda c=choice: points("lab/olmo2", c))
    assert [p[1:] for p in points("lab/olmo2", stage="stage1")] == [(s, "steps", "stage1") for s in (1000, 2000)]
    assert points("lab/olmo2", "last", stage="stage1")[0][0] == "stage1-step2000-tokens9B"
    assert points("lab/olmo2", [2000], stage="stage1")[0][0] == "stage1-step2000-tokens9B"
    refused("no checkpoint is of stage 'stage3'; there are: stage1", lambda: points("lab/olmo2", stage="stage3"))
    two = ["stage1-step1000-tokens5B", "stage2-ingredient1-step1000-tokens3B"]
    refused("not mixed: stage1 .*; list the model twice, each time with a label", lambda: points("lab/olmo2", two))
    assert points("lab/olmo2", two[1:]) == [(two[1], 1000, "steps", "stage2-ingredient1")]


@pytest.mark.slow
def test_a_pattern_of_a_study_names_them_and_chooses_the_unit(hub):
    study = Study(models=["lab/own"], checkpoints="all", steps="ba{steps}-*", probes=["score"], score_pairs=2)
    assert [(c.revision, c.step) for c in Plan(study).checkpoints] == [
        ("ba2400-cold", 2400),
        ("ba4800-warm", 4800),
        ("ba9600-warm", 9600),
    ]
    assert [p[0] for p in points("lab/own", steps="ba{steps}-{stage}", stage="warm")] == ["ba4800-warm", "ba9600-warm"]
    refused("several stages, .*: cold .1., warm .2.", lambda: points("lab/own", steps="ba{steps}-{stage}"))
    tokens = points("lab/olmo", steps="*tokens{tokens}")
    assert [p[1:3] for p in tokens] == [(n * 10**9, "tokens") for n in (2, 4, 8)]
    assert points("lab/own", [9600], steps="ba{steps}-*") == [("ba9600-warm", 9600, "steps", "")]
    refused("the cache holds no revisions named after steps", lambda: points("lab/own"))


@pytest.mark.parametrize("pattern", ["ba-*", "", "{stage}", "{steps}-{tokens}", "ba{number}", "{stage}{steps}{stage}"])
def test_a_pattern_without_one_number_is_refused(pattern):
    refused("steps: .*number|is no count", lambda: Study(models=["m"], steps=pattern))
    refused(
        "study.yaml: models.0.steps: ", lambda: parse_study(f"models: [{{name: m, steps: '{pattern}'}}]", "study.yaml")
    )


def test_units_have_no_common_axis(tmp_path):
    for name in ("step1000", "chck_1M"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    folder = str(tmp_path)
    refused("step1000 counts steps and chck_1M words", lambda: points(folder))
    refused("step1000 counts steps and chck_1M words", lambda: load_lm(folder))
    refused("no common axis", lambda: points(folder, ["step1000", "1M"]))
    assert points(folder, ["1M"])[0][1:3] == (10**6, "words")


def test_a_revision_never_loads_another_folder(tmp_path, files):
    "The stage and the unit that are asked for are those of the folder, or nothing is loaded."
    for seed, name in enumerate(["stage1-step100", "stage1-step200", "stage2-step300"]):
        shutil.copytree(files[seed], tmp_path / "m" / name)
    folder = tmp_path / "m"
    for asked in ("stage2-step100", "chck_100", "epoch-100", "tokens100"):
        refused(f"no checkpoint '{asked}'; there are: stage1-step100", lambda a=asked: load_lm(folder, a, device="cpu"))
        refused(f"no checkpoint '{asked}'", lambda a=asked: expand(ModelSpec(name=str(folder), revision=a)))
        refused(f"no checkpoint '{asked}'", lambda a=asked: expand(ModelSpec(name=str(folder), checkpoints=[a])))
    refused("several stages.*name the checkpoint with revision", lambda: load_lm(folder, device="cpu"))
    for asked in ("stage1-step200", "step200", "200", "checkpoint-200"):
        lm = load_lm(folder, asked, device="cpu")
        assert lm.digest() == load_lm(files[1], device="cpu").digest() and (lm.step, lm.unit) == (200, "steps")
    refused("has no revisions", lambda: load_lm(folder / "stage1-step100", "step100", device="cpu"))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("step_1000k", (1_000_000, "steps", "")),
        ("epoch=3-step=500-loss=2.31", (500, "steps", "")),
        ("step100-seed2", (100, "steps", "seed2")),
        ("2024-01-05-step100", (100, "steps", "")),
        ("lc-4k-to-32k-step-20000", (20000, "steps", "lc-4k-to-32k")),
        ("tokens-2.5B", (2_500_000_000, "tokens", "")),
        ("ckpt_20m", (20_000_000, None, "")),
        ("chck_900k", (900_000, "words", "")),
        ("epoch_2", (2, "epochs", "")),
    ],
)
def test_further_names(name, expected):
    assert training_point(name) == TrainingPoint(*expected)


def test_words_for_numbers():
    assert point_by(steps_pattern("m{words}"), "m1.5B") == TrainingPoint(1_500_000_000, "words")
    assert [point_title(n, "words") for n in (10**6, 10_500_000, 1_234_567)] == [
        "1M words",
        "10.5M words",
        "1,234,567 words",
    ]
    assert axis_title(["words", "words"]) == "words of pre-training" and axis_title([]) == "pre-training step"
