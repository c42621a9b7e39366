"""N-gram models by name: loaded, scored against a naive count, probed, in a study beside a built-in model."""

import lzma
from collections import Counter
from math import log

import numpy as np
import pytest

from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import check_model, digests, expand, ModelSpec
from taskspace.models.loading import load_lm
from taskspace.pretraining import ngram_lm
from taskspace.pretraining.ngram_lm import named_ngram
from taskspace.probing.gradient import gradient_probe
from taskspace.probing.transfer import transfer_probe
from taskspace.report.site import render_report
from taskspace.runs.execute import run_study
from taskspace.runs.results import open_run
from taskspace.runs.study import Study
from taskspace.scoring.scores import score_pairs
from taskspace.tasks import grammar
from taskspace.tasks.pairs import Suite
from taskspace.tuning.ftgd import FTGD, tune

SENTENCES = grammar.corpus(400)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    "A folder with texts, a cache of its own for n-gram models, and few sentences of the built-in English."
    folder = tmp_path_factory.mktemp("ngram")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram_lm, "cache_dir", lambda: folder / "cache")
        patch.setattr(ngram_lm, "SENTENCES", 400)
        patch.setattr(ngram_lm, "VOCABULARY", 300)
        (folder / "corpus.txt").write_text("\n".join(SENTENCES))
        (folder / "other.txt.xz").write_bytes(lzma.compress("\n\n".join(SENTENCES[:200]).encode()))
        (folder / "blank.txt").write_text("\n \n")
        (folder / "latin.txt").write_bytes(b"caf\xe9\n")
        yield folder


@pytest.fixture(scope="module")
def suite():
    chosen = grammar.builtin_suite(12)
    return chosen.select(chosen.names[::6])


def counts_of(texts: list[list[int]], order: int) -> dict[tuple, Counter]:
    "What followed each history, up to the longest."
    follow: dict[tuple, Counter] = {}
    for text in texts:
        for at, word in enumerate(text):
            for length in range(min(order, at + 1)):
                follow.setdefault(tuple(text[at - length : at]), Counter())[word] += 1
    return follow


def naive(follow: dict[tuple, Counter], order: int, size: int, ids: list[int]) -> float:
    "The summed log-probability of all tokens after the first, word by word."
    total = 0.0
    for at in range(1, len(ids)):
        p = 1 / size
        for length in range(min(order, at + 1)):
            counts = follow.get(tuple(ids[at - length : at]))
            if counts is None:
                break
            seen = sum(counts.values())
            weight = seen / (seen + len(counts))
            p = weight * counts[ids[at]] / seen + (1 - weight) * p
        total += log(p)
    return total


@pytest.mark.parametrize("name, text", [("ngram:1", None), ("ngram:2", None), ("ngram:3", "corpus.txt")])
def test_scores_equal_a_naive_count(here, suite, name, text):
    "Worst difference seen: 1.1e-5 of 40 nats, in float32."
    lm = load_lm(name, **({"text": str(here / text), "documents": "line"} if text else {}))
    scores = score_pairs(lm, suite, progress=False)
    eos = lm.tokenizer.eos_token_id
    texts = [[eos, *ids] for ids in lm.tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]]
    follow = counts_of(texts, int(name[-1]))
    pairs = [p for task in suite for p in task]
    for side in ("good", "bad"):
        sentences = [getattr(p, side) for p in pairs]
        encoded = lm.tokenizer(sentences, add_special_tokens=False)["input_ids"]
        expected = [naive(follow, int(name[-1]), len(lm.tokenizer), [eos, *ids]) for ids in encoded]
        assert np.abs(scores[f"logp_{side}"] - expected).max() < 1e-4
    # A table for each order, and every entry of it a parameter
    assert lm.n_parameters == sum(map(len, follow.values()))


def test_the_probes_run_on_it(here, suite):
    lm = load_lm("ngram:2")
    gradient = gradient_probe(lm, suite, progress=False)
    assert np.allclose(np.diag(gradient.cosine.matrix), 1, atol=1e-4)
    before = lm.digest()
    space = transfer_probe(lm, suite, FTGD(steps=2), train_pairs=6, eval_pairs=6)
    assert lm.digest() == before
    assert np.isfinite(space.matrix.to_numpy()).all() and (space.matrix != 0).any(axis=None)


def test_tuning_teaches_what_stands_side_by_side_and_nothing_else(here, suite):
    """In the task on reflexives each pair comes with its mirror image: "the king saw herself", "the queen saw himself".
    A model of word pairs sees the same words on both sides, so tuning cannot raise the mean margin."""

    def margin(task):
        return score_pairs(lm, Suite("one", (task,)), progress=False).margin.mean()

    lm, gains = load_lm("ngram:2"), {}
    before = lm.digest()
    for task in suite:
        untuned = margin(task)
        with tune(lm, task, FTGD(keep=1.0, steps=3, lr=0.05)).applied(lm):
            gains[task.name] = margin(task) - untuned
    assert lm.digest() == before
    assert abs(gains["reflexive_gender_court"]) < 1e-5 and max(gains.values()) > 0.05, gains


def test_another_text_is_another_model(here):
    def found(**kwargs):
        (checkpoint,) = expand(ModelSpec(name="ngram:2", kwargs=kwargs))
        check_model(checkpoint)
        assert digests(checkpoint) == digests(checkpoint)
        return digests(checkpoint)

    text = here / "grows.txt"
    text.write_text("the cat sees the dog .\n")
    known = [
        found(),
        found(text=str(here / "corpus.txt")),
        found(text=str(here / "other.txt.xz")),
        found(text=str(here / "other.txt.xz"), documents="file"),
        found(text=str(text)),
    ]
    text.write_text("the cat sees the cat .\n")
    known.append(found(text=str(text)))
    assert len({weights for weights, _ in known}) == len(known)


def test_the_directory_can_be_loaded_and_is_counted_again_when_damaged(here):
    directory = named_ngram("ngram:2")
    lm, again = load_lm("ngram:2"), load_lm(directory)
    assert lm.digest() == again.digest() and (lm.name, again.name) == ("ngram:2", str(directory))
    for file in sorted(directory.iterdir()):
        before = file.read_bytes()
        file.write_bytes(before[:-2] + b"xx")
        assert named_ngram("ngram:2") == directory and file.read_bytes() == before, file.name


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("ngram:", {}, "'ngram:' is no n-gram model; there are: ngram:1 to ngram:9"),
        ("ngram:0", {}, "is no n-gram model"),
        ("ngram:10", {}, "is no n-gram model"),
        ("ngram:-2", {}, "is no n-gram model"),
        ("ngram:two", {}, "is no n-gram model"),
        ("ngram:2@5", {}, "is no n-gram model"),
        ("ngram:²", {}, "is no n-gram model"),
        ("ngram:2\n", {}, "is no n-gram model"),
        ("ngram:2", {"txt": "a"}, "takes no 'txt'; besides the name it takes text and documents"),
        ("ngram:2", {"gguf_file": "a"}, "takes no 'gguf_file'"),
        ("ngram:2", {"revision": "main"}, "has no revisions"),
        ("ngram:2", {"text": "blank.txt"}, "blank.txt: the file holds no text to count"),
        ("ngram:2", {"text": "latin.txt"}, "latin.txt: not UTF-8 text"),
        ("ngram:2", {"text": "nowhere.txt"}, "nowhere.txt: cannot be read"),
        ("ngram:2", {"text": "."}, "cannot be read"),
        ("ngram:2", {"text": "a\0b"}, "cannot be read"),
        ("ngram:2", {"text": ""}, "text must be builtin or the path"),
        ("ngram:2", {"text": None}, "text must be"),
        ("ngram:2", {"text": ["corpus.txt"]}, "text must be"),
        ("ngram:2", {"text": "corpus.txt", "documents": "page"}, "documents must be one of line, block, file"),
        ("ngram:2", {"text": "corpus.txt", "documents": ["line"]}, "documents must be one of"),
        ("ngram:2", {"documents": "line"}, "documents belongs to a text file; give text too"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(here, monkeypatch, name, kwargs, message):
    "By `load_lm`, and by a study before any job runs."
    monkeypatch.chdir(here)
    with pytest.raises(TaskspaceError, match=message) as e:
        load_lm(name, **kwargs)
    assert "\n" not in str(e.value).strip()
    with pytest.raises(TaskspaceError):
        revision = kwargs.get("revision")
        (checkpoint,) = expand(
            ModelSpec(name=name, revision=revision, kwargs={k: v for k, v in kwargs.items() if k != "revision"})
        )
        check_model(checkpoint)


@pytest.mark.parametrize("choice", ["all", "log-spaced 3", [1, 2]])
def test_it_has_the_last_checkpoint_alone(choice):
    with pytest.raises(
        TaskspaceError, match="ngram:2: an n-gram model has no checkpoints; set its checkpoints to last"
    ):
        expand(ModelSpec(name="ngram:2", checkpoints=choice))
    with pytest.raises(TaskspaceError, match="no revisions; leave revision out"):
        expand(ModelSpec(name="ngram:2", revision="main"))
    assert [c.name for c in expand(ModelSpec(name="ngram:2"))] == ["ngram:2"]


def test_the_command_line(here, suite, tmp_path, capsys):
    suite.to_frame().to_csv(tmp_path / "s.csv", index=False)
    for name, status in (("ngram:2", 0), ("ngram:0", 2)):
        with pytest.raises(SystemExit) as e:
            main(["score", "--model", name, "--suite", str(tmp_path / "s.csv")])
        out, err = capsys.readouterr()
        assert e.value.code == status and ("mean over tasks" in out) == (status == 0)
        assert len(err.splitlines()) == (1 if status else 0)


@pytest.mark.slow
def test_a_study_of_a_null_model_and_a_real_one(here, tmp_path):
    study = Study(
        name="null",
        models=[
            {
                "name": "ngram:2",
                "kwargs": {"text": str(here / "corpus.txt"), "documents": "line"},
                "checkpoints": "last",
            },
            {"name": "builtin:nano", "checkpoints": "last"},
        ],
        select=grammar.builtin_suite(2).names[::8],
        train_pairs=4,
        eval_pairs=4,
        score_pairs=6,
        ftgd={"steps": 1},
    )
    run = run_study(study, tmp_path / "run", workers=0, progress=False)
    assert not run.status().failed and run.status().done == run.status().total
    found = open_run(tmp_path / "run")
    assert {c["scale"] for c in found.header["checkpoints"]} == {"ngram:2", "nano"}
    assert render_report(found, tmp_path / "report", progress=False).exists()
