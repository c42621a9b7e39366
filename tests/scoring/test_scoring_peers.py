"""The presets give the numbers of the tools that they are named after, on one local model directory."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from taskspace.models.loading import load_lm
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.catalogue import load_suite

BENCHMARKS = os.environ.get("TASKSPACE_BENCHMARKS")
pytestmark = pytest.mark.skipif(not BENCHMARKS, reason="TASKSPACE_BENCHMARKS names no folder with BLiMP")
VOCABULARY = 600


@pytest.fixture(scope="module")
def suite():
    "201 pairs of BLiMP, three of each task."
    return load_suite(f"blimp:{BENCHMARKS}/blimp").take(3)


@pytest.fixture(scope="module")
def text(suite):
    return [s for task in suite for p in task for s in (p.good, p.bad)]


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama"])
def directory(request, tmp_path_factory, text):
    """A tiny model with random weights. The tokenizers are those of its family: bytes and nothing added, or pieces with
    a bos before every text. That of gpt2 has a bos that is its eos, and no pad. That of neox has a bos and a pad of its
    own, which are added only on request."""
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, Tokenizer, trainers

    specials = ["<eos>", "<bos>", "<pad>", "<unk>"]
    torch.manual_seed(0)
    hf = dict(vocab_size=VOCABULARY, initializer_range=0.2, bos_token_id=1, eos_token_id=0)
    if request.param == "llama":
        t = Tokenizer(models.Unigram())
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        t.train_from_iterator(
            text,
            trainers.UnigramTrainer(
                vocab_size=VOCABULARY, special_tokens=specials, unk_token="<unk>", show_progress=False
            ),
        )
        t.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                hidden_size=32,
                intermediate_size=64,
                max_position_embeddings=128,
                **hf,
            )
        )
        named = {"bos_token": "<bos>", "unk_token": "<unk>"}
    else:
        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        t.train_from_iterator(
            text,
            trainers.BpeTrainer(
                vocab_size=VOCABULARY,
                special_tokens=specials,
                show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            ),
        )
        if request.param == "gpt2":
            model = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=128, **hf)
            )
            named = {"bos_token": "<eos>"}
        else:
            model = transformers.GPTNeoXForCausalLM(
                transformers.GPTNeoXConfig(
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    hidden_size=32,
                    intermediate_size=64,
                    max_position_embeddings=128,
                    **hf,
                )
            )
            named = {"bos_token": "<bos>", "pad_token": "<pad>"}
    path = tmp_path_factory.mktemp("peers") / request.param
    model.save_pretrained(path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<eos>", **named).save_pretrained(path)
    return str(path)


def ours(directory, suite, convention):
    frame = score_pairs(load_lm(directory, device="cpu", dtype="float32"), suite, convention)
    return frame[["logp_good", "logp_bad"]].to_numpy().ravel(), frame.attrs


@pytest.mark.slow
def test_lm_eval(directory, suite, text):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install -e '.[peers]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tool = HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=16)
    # BLiMP's tasks there have an empty context, and the delimiter before what is scored is a space
    theirs = [
        score
        for score, _ in tool.loglikelihood(
            [Instance("loglikelihood", {}, ("", " " + s), 0) for s in text], disable_tqdm=True
        )
    ]
    found, attrs = ours(directory, suite, "lm-eval")
    assert np.abs(found - theirs).max() < 1e-3  # worst seen over the three: 3.1e-5 (sums around -150)
    assert attrs["prefix_id"] == tool.prefix_token_id


@pytest.mark.slow
def test_minicons(directory, suite, text):
    scorer = pytest.importorskip("minicons.scorer", reason="minicons is not installed: pip install -e '.[peers]'")
    tool = scorer.IncrementalLMScorer(directory, "cpu")
    theirs = [score for k in range(0, len(text), 16) for score in tool.sequence_score(text[k : k + 16])]
    found, attrs = ours(directory, suite, "minicons")
    assert np.abs(found - theirs).max() < 1e-3  # worst seen over the three: 1.4e-6 (means around -7)
    assert attrs["prefix_id"] == (1 if "llama" in directory else None)
