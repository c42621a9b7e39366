"""Windows, caps, several heads, tokenizers with habits of their own: each equal to the score of one sentence alone."""

import numpy as np
import pytest
import torch
from test_shortcuts import gap, lm_of, naive, SEQUENCES, SIZE, transformer

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.scoring.convention import convention_of
from taskspace.scoring.logprobs import find_shortcuts, one_length, sequence_logprobs, token_logprobs
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.pairs import MinimalPair, Suite, Task
from taskspace.tuning.ftgd import FTGD, tune

WINDOW = dict(sliding_window=4)  # shorter than most sentences
ONE_OF_EACH = dict(layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=8)


def gemma3():
    "The whole model with its eye, which `AutoModelForCausalLM` gives for Gemma 3; in training it wants token types."
    from transformers import AutoConfig, AutoModelForCausalLM

    text = {k: v for k, v in SIZE.items() if k not in ("rotary_dim", "num_experts_per_tok")}
    eye = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8)
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, **WINDOW, **ONE_OF_EACH, "model_type": "gemma3_text"},
        vision_config={**eye, "patch_size": 4, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=95,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def two_heads():
    "Beside the logits of tokens it gives a choice among several endings."
    from transformers import GPT2Config, GPT2DoubleHeadsModel

    torch.manual_seed(0)
    size = dict(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return GPT2DoubleHeadsModel(GPT2Config(**size, initializer_range=0.3))


LATENT = dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8)
MODELS = {
    "gemma2": lambda: transformer("gemma2", **WINDOW, attn_logit_softcapping=2.0, query_pre_attn_scalar=8),
    "gemma3_text": lambda: transformer("gemma3_text", **WINDOW, **ONE_OF_EACH),
    "gemma3": gemma3,
    "mistral": lambda: transformer("mistral", **WINDOW),
    "qwen2": lambda: transformer("qwen2", **WINDOW, use_sliding_window=True, max_window_layers=1),
    "gpt_oss": lambda: transformer("gpt_oss", **WINDOW, num_local_experts=4),
    "modernbert-decoder": lambda: transformer("modernbert-decoder", local_attention=4),
    "gpt_neo": lambda: transformer("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=4, num_layers=2),
    "deepseek_v2": lambda: transformer(
        "deepseek_v2", **LATENT, head_dim=4, first_k_dense_replace=2, num_key_value_heads=4
    ),
    "two heads": two_heads,
}


@pytest.mark.parametrize("kind", MODELS)
def test_windows_caps_and_heads_equal_the_textbook(kind):
    lm = lm_of(MODELS[kind]())
    assert gap(lm) < 1e-4  # worst seen: 5.2e-6
    tuned = torch.stack([t.sum() for t in token_logprobs(lm, SEQUENCES, [1] * len(SEQUENCES))]).detach().double()
    assert np.abs(tuned.numpy() - [naive(lm, s) for s in SEQUENCES]).max() < 1e-4  # worst seen: 5.2e-6
    # A window would not reach what stands far before a sentence in a row that it shares
    assert find_shortcuts(lm, [3, 4, 5]).shared_rows == (kind == "two heads")


def test_a_window_longer_than_the_context_shares_rows_and_a_shorter_one_does_not():
    wide, narrow = (lm_of(transformer("mistral", sliding_window=w)) for w in (None, 4))
    assert find_shortcuts(wide, [3, 4, 5]).shared_rows and not find_shortcuts(narrow, [3, 4, 5]).shared_rows
    ids = SEQUENCES[6]
    assert abs(naive(wide, ids) - naive(narrow, ids)) > 1e-2  # the window really cuts


TWO_LISTS = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 4.0, 6.0, 8.0],
    "original_max_position_embeddings": 6,
    "factor": 8.0,
}


@pytest.mark.parametrize("kind", ["phi3", "llama"])
def test_angles_that_go_by_the_longest_row_are_those_of_each_sentence(kind):
    lm = lm_of(transformer(kind, rope_parameters=TWO_LISTS, partial_rotary_factor=1.0, head_dim=8))
    lengths = {len(s) for s in SEQUENCES}
    assert min(lengths) <= 6 < max(lengths)  # some on each side of the turn
    sequences = [*SEQUENCES, *(max(SEQUENCES, key=len)[:n] for n in (5, 6, 7, 8))]
    wanted = [naive(lm, s) for s in sequences]
    for options in ({}, {"batch_size": 1}, {"batch_size": 3}, {"share": False}):
        assert np.abs(sequence_logprobs(lm, sequences, **options) - wanted).max() < 1e-4, options
    tuned = torch.stack([t.sum() for t in token_logprobs(lm, sequences, [1] * len(sequences))]).detach().double()
    assert np.abs(tuned.numpy() - wanted).max() < 1e-4 and one_length(lm, [3, 4, 5])


def test_padding_that_sees_nothing_in_float64_changes_nothing():
    net = transformer("mistral", **WINDOW)
    net.set_attn_implementation("eager")
    assert gap(lm_of(net, torch.float64)) < 1e-4


def test_what_torch_does_not_compute_in_float64_is_one_line():
    lm = lm_of(transformer("mixtral", num_local_experts=4), torch.float64)
    with pytest.raises(TaskspaceError, match=r"^model .* does not compute in float64 \(.*\); load it in float32$"):
        sequence_logprobs(lm, SEQUENCES)


def test_token_types_are_not_wanted_where_a_model_is_tuned():
    lm = LM(gemma3(), Words("plain"))
    suite = pairs()
    before = score_pairs(lm, suite)["margin"].mean()
    with tune(lm, suite.tasks[0], FTGD(steps=2, lr=1e-2, keep=0.2)).applied(lm):
        assert score_pairs(lm, suite)["margin"].mean() > before + 0.1


# Tokenizers


class Words:
    "Words as numbers from 10 on, with the habits of tokenizers that do not do as they are told."

    bos_token_id, eos_token_id, pad_token_id = 0, 1, None

    def __init__(self, habit):
        self.habit = habit

    def encode(self, text, add_special_tokens=False):
        ids = [10 + sum(map(ord, w)) % 80 for w in text.split()]
        before, behind = {"plain": ([], []), "begins": ([0], []), "both": ([0], [1]), "ends": ([], [1])}[self.habit]
        return [*before, *ids, *behind]


def pairs():
    said = [("the cat sleeps", "the cat sleep"), ("dogs bark at night", "dogs barks at night"), ("a b c", "a c b")]
    return Suite("said", (Task("said", tuple(MinimalPair(*p) for p in said)),))


@pytest.mark.parametrize("prefix", ["auto", None])
@pytest.mark.parametrize("habit", ["begins", "both", "ends"])
def test_specials_that_nobody_asked_for_are_no_tokens_of_a_sentence(habit, prefix):
    model = transformer("llama")
    rule = convention_of("blimp", prefix=prefix)
    plain, odd = (score_pairs(LM(model, Words(h)), pairs(), rule) for h in ("plain", habit))
    assert (plain["tokens_good"] == odd["tokens_good"]).all()
    assert np.abs(plain["logp_good"] - odd["logp_good"]).max() < 1e-4


def pieces(dummy, fallback=False, **specials):
    "A SentencePiece-like tokenizer: a mark for a blank, in front of the first word too where `dummy`."
    from tokenizers import decoders, models, pre_tokenizers, processors, Tokenizer
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdefghiklnoprst"]
    ids = {w: i for i, w in enumerate([*words, "▁t", "he", "▁the"])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    t = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=fallback, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if dummy else "never", split=False)
    t.decoder = decoders.Metaspace()
    if specials.pop("adds", False):
        t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", **{"eos_token": "</s>", **specials})


TOKENIZERS = {
    "dummy prefix": lambda: pieces(True, bos_token="<s>"),
    "no dummy prefix": lambda: pieces(False, bos_token="<s>"),
    "adds bos by itself": lambda: pieces(True, bos_token="<s>", adds=True),
    "byte fallback": lambda: pieces(True, True, bos_token="<s>", adds=True),
    "chat": lambda: pieces(False, True, chat_template="{% for m in messages %}{{ m.content }}</s>{% endfor %}"),
}
SAID = [
    ("the cat sleeps", "the cat sleep"),
    ("a dog in the rain", "a dog at the rain"),
    ("is the cat he", "the cat is he"),
]


@pytest.mark.parametrize("prefix", ["auto", "tokenizer", None])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_with_habits_score_as_sentence_by_sentence(kind, prefix):
    tokenizer = TOKENIZERS[kind]()
    said = SAID + ([("a naïve cat", "naïve a cat")] if "fallback" in kind or kind == "chat" else [])
    suite = Suite("said", (Task("said", tuple(MinimalPair(*p) for p in said)),))
    lm = LM(transformer("llama", vocab_size=len(tokenizer)), tokenizer)
    rule = convention_of("blimp", prefix=prefix)
    found = score_pairs(lm, suite, rule)

    def textbook(text):
        if prefix == "tokenizer":
            return naive(lm, tokenizer(text).input_ids)
        first = {"auto": [0] if tokenizer.bos_token else [1], None: []}[prefix]
        return naive(lm, [*first, *tokenizer(text, add_special_tokens=False).input_ids])

    for column, texts in zip(("logp_good", "logp_bad"), zip(*said, strict=True), strict=True):
        assert np.abs(found[column] - [textbook(t) for t in texts]).max() < 1e-4  # worst seen: 4e-6
    if kind == "byte fallback":
        assert "<0xC3>" in tokenizer.convert_ids_to_tokens(tokenizer("a naïve cat").input_ids)
