"""Gradient differentials and FTGD: exact against naive loops, controlled, and without a trace on the model."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict, FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.scoring.convention import Convention
from taskspace.scoring.logprobs import token_logprobs
from taskspace.scoring.scores import text_loss
from taskspace.tasks.pairs import MinimalPair, Task
from taskspace.toy import WordTokenizer
from taskspace.tuning import ftgd as ftgd_module
from taskspace.tuning import ftgd_settings, gradients
from taskspace.tuning.ftgd import FTGD, tune, Tuned
from taskspace.tuning.gradients import (
    encode_task,
    gradient_differential,
    margins,
    output_layer,
    parameter_table,
    subspace,
    top_k,
    trainable,
    undisturbed,
)

WORDS = [
    *("<s>", "the", "a", "my", "no", "cat", "cats", "dog", "dogs", "sees", "see"),
    *("me", "us", "that", "quickly", ".", "often"),
]


def in_float64(model: nn.Module) -> None:
    """The Llama of transformers computes its norms in float32 whatever its weights are; for exact tests they follow the
    weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(module, name, nn.RMSNorm(len(child.weight), eps=child.variance_epsilon))


def make(kind: str, seed: int = 0, dtype=torch.float32, bos=0) -> LM:
    "A tiny model with random weights, large enough that contrasts matter."
    torch.manual_seed(seed)
    v = len(WORDS)
    if kind == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(
            GPT2Config(
                n_layer=2,
                n_head=2,
                n_embd=16,
                vocab_size=v,
                n_positions=24,
                bos_token_id=0,
                eos_token_id=0,
                initializer_range=0.1,
            )
        )
    elif kind == "neox":
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        model = GPTNeoXForCausalLM(
            GPTNeoXConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                hidden_size=16,
                intermediate_size=32,
                vocab_size=v,
                max_position_embeddings=24,
                initializer_range=0.1,
            )
        )
    elif kind == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        model = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                hidden_size=16,
                intermediate_size=32,
                vocab_size=v,
                max_position_embeddings=24,
                tie_word_embeddings=True,
                initializer_range=0.1,
            )
        )
        if dtype == torch.float64:
            in_float64(model)
    else:
        from taskspace.pretraining import architectures as A

        config = {"lstm": A.LSTMConfig, "cnn": A.CNNConfig, "transformer": A.TransformerConfig}[kind](
            vocab_size=v, hidden_size=16
        )
        model = A.build(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return LM(model.to(dtype), WordTokenizer(WORDS, bos), name=kind)


ARCHITECTURES = ["gpt2", "neox", "llama", "lstm", "cnn", "transformer"]
NUMBER = Task(
    "number",
    [
        MinimalPair(f"{d} {n}s see {o} .", f"{d} {n}s sees {o} .")
        for d in ("the", "a", "my")
        for n in ("cat", "dog")
        for o in ("me", "us that")
    ],
)
# one pair of unequal lengths, one that differs in the first word, one of identical sentences, one good sentence that
# begins the bad one
RAGGED = Task(
    "ragged",
    [
        MinimalPair("the cats see me .", "the cats often sees me ."),
        MinimalPair("the cat sees us", "see cat sees us"),
        MinimalPair("my dog sees me", "my dog sees me"),
        MinimalPair("my dog sees", "my dog sees me quickly ."),
    ],
)


def naive_differential(lm: LM, task: Task) -> dict[str, torch.Tensor]:
    "The definition: one sentence at a time, all of its tokens, ordinary autograd."
    total = {n: torch.zeros_like(p) for n, p in lm.model.named_parameters()}
    prefix = [lm.bos_id] if lm.bos_id is not None else []
    for pair in task:
        for text, sign in ((pair.good, 1), (pair.bad, -1)):
            ids = prefix + lm.encode(text)
            lm.model.zero_grad()
            logp = lm.logits(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)).log_softmax(-1)
            (-logp[0, torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum()).backward()
            for n, p in lm.model.named_parameters():
                if p.grad is not None:
                    total[n] += sign * p.grad / len(task)
    lm.model.zero_grad()
    return total


def distance(a, b) -> float:
    "Largest difference relative to the largest entry."
    return max(float((a[n] - b[n]).abs().max()) for n in b) / max(float(g.abs().max()) for g in b.values())


# -- the differential


@pytest.mark.parametrize("bos", [0, None], ids=["bos", "no bos"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_differential_is_autograd_on_a_naive_loop(kind, bos):
    lm = make(kind, dtype=torch.float64, bos=bos)
    for task in (NUMBER, RAGGED):
        assert distance(gradient_differential(lm, task), naive_differential(lm, task)) < 1e-8  # worst seen: 8e-16


def test_shared_beginning_cancels():
    lm = make("gpt2", dtype=torch.float64)
    encoded = encode_task(lm, NUMBER)
    wanted = trainable(lm)
    parts = gradients.contrast(encoded)
    whole = [p._replace(start=1) for p in parts]
    assert all(p.start > 1 for p in parts)
    with undisturbed(lm, list(wanted)):
        a, b = (gradients.accumulate(lm, x, wanted)[0] for x in (parts, whole))
    assert distance(a, b) < 1e-12  # worst seen: 2e-16


@pytest.mark.parametrize("kind", ["gpt2", "lstm"])
def test_batch_size_and_order_change_nothing(kind):
    lm = make(kind)
    base = gradient_differential(lm, NUMBER)
    for tokens in (1, 13, 50):
        shuffled = replace(
            NUMBER, pairs=tuple(np.random.default_rng(tokens).permutation(np.array(NUMBER.pairs, dtype=object)))
        )
        assert distance(gradient_differential(lm, shuffled, tokens=tokens), base) < 3e-6  # float32; worst seen: 3.4e-7


def test_mean_not_sum():
    lm = make("gpt2", dtype=torch.float64)
    assert distance(gradient_differential(lm, NUMBER.pairs * 3), gradient_differential(lm, NUMBER)) < 1e-12


def test_swapping_pairs_flips_the_sign():
    lm = make("gpt2", dtype=torch.float64)
    swapped = gradient_differential(lm, [p.swapped for p in NUMBER])
    assert distance({n: -g for n, g in swapped.items()}, gradient_differential(lm, NUMBER)) < 1e-12


def test_tied_weights_once_and_frozen_left_out():
    lm = make("gpt2")
    assert "lm_head.weight" not in trainable(lm) and "transformer.wte.weight" in trainable(lm)
    lm.model.transformer.wpe.weight.requires_grad_(False)
    found = gradient_differential(lm, NUMBER)
    assert "transformer.wpe.weight" not in found
    assert not lm.model.transformer.wpe.weight.requires_grad
    assert "transformer.wte.weight" not in gradient_differential(lm, NUMBER, embeddings=False)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_parameter_has_a_component(kind):
    table = parameter_table(make(kind))
    assert set(table["component"]) <= set(gradients.COMPONENTS) and "embedding" in set(table["component"])
    if kind in ("gpt2", "neox", "llama", "transformer"):
        assert not (table["component"] == "other").any()
    assert {"0", "1"} <= set(table["layer"])


MASKED = {
    "bert": {},
    "electra": {"embedding_size": 8},
    "roberta": {},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "albert": {"embedding_size": 8},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p"]},
    "convbert": {"embedding_size": 8, "head_ratio": 1, "conv_kernel_size": 3},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "squeezebert": {"embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1, "output_groups": 1}
    | {"post_attention_groups": 1, "intermediate_groups": 1},
    "modernbert": {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0},
}
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize("kind", MASKED)
def test_every_part_of_a_masked_model_has_its_component(kind):
    from transformers import AutoConfig, AutoModelForMaskedLM

    known = AutoConfig.for_model(kind).to_dict()
    sizes = {k: v for k, v in SIZE.items() if k in known}
    config = AutoConfig.for_model(kind, vocab_size=40, pad_token_id=1, **sizes | MASKED[kind])
    lm = LM(AutoModelForMaskedLM.from_config(config), WordTokenizer(WORDS), objective="masked")
    component = parameter_table(lm)["component"]
    owners = {n: type(lm.model.get_submodule(n.rpartition(".")[0])).__name__.lower() for n in component.index}
    for name, part in component.items():
        if "norm" in owners[name]:
            assert part == "norm", name
        elif "attention.output" in name or ".attention." in name or "post_attention" in name:
            assert part == "attention", name
        elif any(place in name for place in (".intermediate.", ".ffn", ".mlp.", ".layer.0.output.")):
            assert part == "mlp", name
        elif "embeddings" in name:
            assert part == "embedding", name
    in_layers = component[[n for n in component.index if ".0." in n and "bottleneck" not in n]]
    assert {"attention", "mlp", "norm"} <= set(in_layers) and "other" not in set(in_layers)


def test_the_names_of_bert():
    from transformers import BertConfig, BertForMaskedLM

    lm = LM(BertForMaskedLM(BertConfig(vocab_size=40, **SIZE)), WordTokenizer(WORDS), objective="masked")
    component = parameter_table(lm)["component"]
    layer = "bert.encoder.layer.0."
    assert component[f"{layer}intermediate.dense.weight"] == component[f"{layer}output.dense.bias"] == "mlp"
    assert component[f"{layer}attention.output.dense.weight"] == "attention"
    assert component["bert.embeddings.LayerNorm.weight"] == component[f"{layer}output.LayerNorm.weight"] == "norm"
    assert component["bert.embeddings.word_embeddings.weight"] == component["cls.predictions.bias"] == "embedding"


class Untold(nn.Module):
    "A model of one's own that does not name its output layer; one more layer has as many rows as there are words."

    def __init__(self, scale=None):
        super().__init__()
        torch.manual_seed(0)
        self.tok, self.rnn = nn.Embedding(len(WORDS), 16), nn.GRU(16, 16, batch_first=True)
        self.wide, self.narrow = nn.Linear(16, len(WORDS)), nn.Linear(len(WORDS), 16)
        self.proj, self.scale = nn.Linear(16, len(WORDS)), scale

    def forward(self, ids, mask):
        logits = self.proj(self.narrow(self.wide(self.rnn(self.tok(ids))[0])))
        return logits if self.scale is None else self.scale * torch.tanh(logits / self.scale)


@pytest.mark.parametrize("scale", [None, 30.0])
def test_the_output_layer_is_found_where_the_model_does_not_name_it(scale):
    lm = LM(Untold(scale), WordTokenizer(WORDS))
    lm.model.train()
    assert output_layer(lm) is lm.model.proj and lm.model.training and not lm.model.proj._forward_hooks
    kept = trainable(lm, embeddings=False)
    assert {n.partition(".")[0] for n in kept} == {"rnn", "wide", "narrow"}
    assert "proj.weight" in trainable(lm)
    assert "proj.weight" not in gradient_differential(lm, NUMBER, embeddings=False)
    assert "proj.weight" not in tune(lm, NUMBER, FTGD(update="lora", steps=1)).delta


class SharedStorage(Untold):
    "Two parameters of one storage, which torch counts as two."

    def __init__(self):
        super().__init__()
        self.proj.weight = nn.Parameter(self.tok.weight.data)


@pytest.mark.parametrize("refresh", [None, 1])
def test_weights_of_one_storage_are_back_bit_for_bit(refresh):
    lm = LM(SharedStorage(), WordTokenizer(WORDS))
    before = {n: p.clone() for n, p in lm.model.named_parameters()}
    tuned = tune(lm, NUMBER, FTGD(keep=0.05, scope="tensor", steps=6, lr=0.05, refresh=refresh, batch_size=2))
    assert {"tok.weight", "proj.weight"} <= set(tuned.delta)
    assert all(torch.equal(p, before[n]) for n, p in lm.model.named_parameters())


@pytest.mark.parametrize("line", range(1, 20))
def test_an_interrupt_while_the_subspace_grows_leaves_no_trace(line):
    lm = make("gpt2")
    digest, calls, lines = lm.digest(), [], []

    def in_function(frame, event, _):
        lines.append(event == "line" and len(calls) == 3)
        if sum(lines) == line and lines[-1]:
            raise KeyboardInterrupt
        return in_function

    def trace(frame, event, _):
        if frame.f_code is not ftgd_module._extend.__code__:
            return None
        calls.append(1)
        return in_function

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(lm, NUMBER, FTGD(keep=0.02, steps=6, lr=0.05, refresh=1, batch_size=2))
    finally:
        sys.settrace(before)
    assert len(calls) == 3 and lm.digest() == digest


@pytest.mark.parametrize("update", ["differential", "lora"])
def test_perplexity_follows_the_convention(update):
    lm, text = make("gpt2"), ["the cat sees me .", "no dogs see us"]
    for convention in ("blimp", Convention("mine", prefix=3), Convention("none", prefix=None)):
        log = tune(lm, NUMBER, FTGD(update=update, steps=1), reference=text, convention=convention).log
        assert log.perplexity[0] == pytest.approx(np.exp(text_loss(lm, text, convention)), rel=1e-6)
    assert abs(text_loss(lm, text) - text_loss(lm, text, Convention("mine", prefix=3))) > 1e-3


def test_a_saved_log_is_exact(tmp_path):
    lm, file = make("gpt2"), tmp_path / "x.safetensors"
    tuned = tune(lm, NUMBER, FTGD(steps=3, every=2), eval_task=NUMBER, reference=["the cat sees me ."])
    tuned.log.loc[2, "perplexity"] = np.inf
    tuned.log.loc[3, "loss"] = 0.1 + 0.2
    tuned.save(file)
    pd.testing.assert_frame_equal(Tuned.load(file).log, tuned.log, check_exact=True)


def test_files_of_the_first_format_are_read(tmp_path):
    tuned, file = tune(make("gpt2"), NUMBER, FTGD(steps=2)), tmp_path / "x.safetensors"
    tuned.save(file)
    with safe_open(str(file), "pt") as f:
        header, tensors = json.loads(f.metadata()["taskspace"]), {n: f.get_tensor(n) for n in f.keys()}  # noqa: SIM118
    header |= {"format": "tuned/1", "log": tuned.log.to_json(orient="split", double_precision=15)}
    save_file(tensors, str(file), {"taskspace": json.dumps(header)})
    pd.testing.assert_frame_equal(Tuned.load(file).log, tuned.log)


def test_nothing_is_disturbed():
    lm = make("gpt2")
    lm.model.train()
    lm.model.transformer.drop.eval()
    lm.model.transformer.wpe.weight.requires_grad_(False)
    held = torch.ones_like(lm.model.transformer.wte.weight)
    lm.model.transformer.wte.weight.grad = held
    modes = [m.training for m in lm.model.modules()]
    gradient_differential(lm, NUMBER)
    tune(lm, NUMBER, FTGD(steps=2))
    with pytest.raises(ZeroDivisionError), undisturbed(lm, []):
        raise ZeroDivisionError
    assert [m.training for m in lm.model.modules()] == modes
    assert lm.model.transformer.wte.weight.grad is held and (held == 1).all()
    assert not lm.model.transformer.wpe.weight.requires_grad and lm.model.transformer.wte.weight.requires_grad


class Merges(nn.Module):
    "Does more than set a flag when its mode changes, as layers do that merge their weights for evaluation."

    def __init__(self, model):
        super().__init__()
        self.model, self.merged = model, False

    def train(self, mode=True):
        self.merged = self.merged or not mode
        return super().train(mode)

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def test_modules_that_act_on_a_change_of_mode_are_left_alone():
    lm = make("gpt2")
    lm = LM(Merges(lm.model), lm.tokenizer, name="merges")
    lm.model.train()
    lm.model.merged = False
    with undisturbed(lm, []):
        assert not any(m.training for m in lm.model.modules())
    assert lm.model.training and not lm.model.merged


def test_pairs_that_are_the_same_have_a_margin_of_nothing():
    from taskspace.scoring.encoding import encode_pairs

    lm = make("gpt2")
    assert margins(lm, encode_pairs(lm, [MinimalPair("the cat sees me .", "the cat sees me .")] * 3)).tolist() == [
        0,
        0,
        0,
    ]


def test_a_pair_that_cannot_be_encoded_is_named_with_its_task():
    with pytest.raises(TaskspaceError, match="task 'far', pair 1"):
        gradient_differential(
            make("gpt2"), Task("far", [NUMBER.pairs[0], MinimalPair("the cat sees me . " * 9, "the cat see me . " * 9)])
        )


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    f = FTGD(steps=np.int64(2), lr=np.float32(0.5), seed=np.int64(3), embeddings=np.bool_(True))
    assert [type(v) for v in (f.steps, f.lr, f.seed, f.embeddings)] == [int, float, int, bool] and f == FTGD(
        steps=2, lr=0.5, seed=3
    )
    lm = make("gpt2")
    tune(lm, NUMBER, f).save(tmp_path / "delta.safetensors")


def test_dropout_is_off():
    lm = make("gpt2")
    lm.model.train()
    a, b = gradient_differential(lm, NUMBER), gradient_differential(lm, NUMBER)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_works_under_no_grad():
    lm = make("gpt2")
    with torch.no_grad():
        found = gradient_differential(lm, NUMBER)
    assert max(float(g.abs().max()) for g in found.values()) > 0


def test_margins_equal_whole_sentence_margins():
    lm = make("llama", dtype=torch.float64)
    encoded = encode_task(lm, RAGGED)
    with undisturbed(lm, []):
        fast = margins(lm, encoded)
        for m, p in zip(fast, encoded, strict=True):
            whole = [float(sum(lp.sum() for lp in token_logprobs(lm, [ids], [p.start]))) for ids in (p.good, p.bad)]
            assert abs(m - (whole[0] - whole[1])) < 1e-10
    assert fast[2] == 0


# -- the subspace


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=30), min_size=1, max_size=4), st.data())
def test_top_k_is_a_stable_sort(rows, data):
    tensors = [torch.tensor(r, dtype=torch.float32) for r in rows]
    flat = torch.cat(tensors).abs()
    k = data.draw(st.integers(1, len(flat)))
    expected = sorted(sorted(range(len(flat)), key=lambda i: (-float(flat[i]), i))[:k])
    starts = np.cumsum([0, *map(len, tensors)])
    assert [int(i) + int(s) for found, s in zip(top_k(tensors, k), starts, strict=False) for i in found] == expected


def test_top_k_on_large_tensors_needs_no_luck():
    torch.manual_seed(0)
    hard = torch.zeros(700_000)
    hard[1::7] = torch.rand(100_000)  # a strided sample that meets few of the large values
    for tensors in ([hard], [torch.randn(500_000), torch.randn(1000, 300)]):
        flat = torch.cat([t.flatten() for t in tensors]).abs()
        for k in (1, 777, 50_000, len(flat) - 1):
            found = torch.cat([t.flatten()[i] for t, i in zip(tensors, top_k(tensors, k), strict=True)]).abs()
            assert len(found) == k and torch.equal(found.sort().values, flat.topk(k).values.sort().values)


def test_scopes_keep_the_share_where_they_say():
    lm = make("gpt2")
    differential = gradient_differential(lm, NUMBER)
    table = parameter_table(lm)

    def count(scope):
        return {n: len(i) for n, i in subspace(lm, differential, 0.1, scope).items()}

    assert sum(count("global").values()) == round(0.1 * lm.n_parameters)
    assert all(k == max(1, round(0.1 * table["size"][n])) for n, k in count("tensor").items()) and len(
        count("tensor")
    ) == len(table)
    for scope, column in (("layer", "layer"), ("module", "component")):
        for group in ("0", "1") if scope == "layer" else ("attention", "mlp", "embedding"):
            names = table.index[table[column] == group]
            assert sum(count(scope).get(n, 0) for n in names) == round(0.1 * table["size"][names].sum())
    assert sum(map(len, subspace(lm, differential, 1.0).values())) == lm.n_parameters


def test_random_subspace_has_equal_size_and_follows_the_seed():
    lm = make("gpt2")
    weights = dict(lm.model.named_parameters())
    a, b, c = (subspace(lm, weights, 0.05, random=s) for s in (1, 1, 2))
    assert sum(map(len, a.values())) == round(0.05 * lm.n_parameters)
    assert all(torch.equal(a[n], b[n]) for n in a) and any(n not in c or not torch.equal(a[n], c[n]) for n in a)
    assert all(len(i.unique()) == len(i) and int(i[-1]) < weights[n].numel() for n, i in a.items())


# -- tuning


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_tuning_learns_and_restores(kind):
    lm = make(kind)
    digest = lm.digest()
    tuned = tune(
        lm, NUMBER.take(8), FTGD(steps=5, lr=1e-2, keep=0.05), eval_task=replace(NUMBER, pairs=NUMBER.pairs[8:])
    )
    assert lm.digest() == digest
    assert tuned.n_changed == round(0.05 * lm.n_parameters)
    assert tuned.log.eval_margin.iloc[-1] > tuned.log.eval_margin.iloc[0]
    with tuned.applied(lm):
        assert lm.digest() != digest
        with undisturbed(lm, []):
            inside = margins(lm, encode_task(lm, NUMBER.pairs[8:])).mean()
    assert lm.digest() == digest
    assert inside == tuned.log.eval_margin.iloc[-1]  # exactly the weights that were measured


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_restores(monkeypatch, error):
    lm = make("gpt2")
    digest, calls = lm.digest(), []

    def fails(lm, texts, convention):
        calls.append(lm.digest())
        if len(calls) == 3:
            raise error
        return 1.0

    monkeypatch.setattr(ftgd_module, "text_loss", fails)
    with pytest.raises(error):
        tune(lm, NUMBER, FTGD(steps=9), reference=["the cat sees me"])
    assert len(set(calls)) == 3  # the weights had changed twice
    assert lm.digest() == digest and all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_an_interrupt_while_restoring_restores(monkeypatch):
    lm = make("gpt2")
    digest = lm.digest()
    tuned = tune(lm, NUMBER, FTGD(steps=1, keep=0.5))
    write, calls = ftgd_module.write_at, []

    def interrupted(*a):
        calls.append(1)
        if len(calls) == len(tuned.delta) + 3:
            raise KeyboardInterrupt
        write(*a)

    monkeypatch.setattr(ftgd_module, "write_at", interrupted)
    with pytest.raises(KeyboardInterrupt), tuned.applied(lm):
        pass
    assert lm.digest() == digest


@settings(max_examples=25, deadline=None)
@given(
    keep=st.sampled_from([1e-4, 0.01, 0.3, 1.0]),
    scope=st.sampled_from(ftgd_settings.SCOPES),
    update=st.sampled_from([u for u in ftgd_settings.UPDATES if u != "lora"]),  # see test_lora.py
    optimizer=st.sampled_from(ftgd_settings.OPTIMIZERS),
    refresh=st.sampled_from([None, 1, 2]),
    batch=st.sampled_from([None, 3, 50]),
    embeddings=st.booleans(),
    kind=st.sampled_from(["gpt2", "lstm"]),
)
@pytest.mark.slow
def test_any_settings_restore_and_repeat(keep, scope, update, optimizer, refresh, batch, embeddings, kind):
    lm = make(kind)
    digest = lm.digest()
    f = FTGD(
        keep=keep,
        scope=scope,
        update=update,
        optimizer=optimizer,
        refresh=refresh,
        batch_size=batch,
        embeddings=embeddings,
        steps=3,
        lr=0.01,
    )
    a, b = tune(lm, NUMBER, f, eval_task=RAGGED), tune(lm, NUMBER, f)
    assert lm.digest() == digest
    assert list(a.delta) == list(b.delta) and all(
        torch.equal(a.delta[n][k], b.delta[n][k]) for n in a.delta for k in (0, 1)
    )
    if not embeddings:
        assert not any("wte" in n or "embed" in n for n in a.delta)
    if refresh is None and update != "full" and scope == "global":
        assert a.n_changed == max(1, round(keep * sum(p.numel() for p in trainable(lm, embeddings).values())))


@pytest.mark.parametrize("update, looked_up", [("full", False), ("differential", True)])
def test_all_parameters_are_chosen_without_a_look_at_each(update, looked_up, monkeypatch):
    "To look up which of all parameters are chosen would take many times the memory of the model."
    lm, calls, really = make("llama"), [], torch.isin
    monkeypatch.setattr(torch, "isin", lambda *given: calls.append(len(given[0])) or really(*given))
    tuned = tune(lm, NUMBER, FTGD(update=update, steps=3, keep=0.1, refresh=1))
    places = sum(len(index) for index, _ in tuned.delta.values())
    assert bool(calls) == looked_up and (places == lm.n_parameters) == (update == "full")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("update", ["full", "differential"])
def test_whole_model_equals_torch_optim(optimizer, update):
    lm, peer = make("gpt2", dtype=torch.float64), make("gpt2", dtype=torch.float64)
    f = FTGD(update=update, keep=1.0, optimizer=optimizer, lr=0.01, steps=4)
    step = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](peer.model.parameters(), lr=0.01)
    for _ in range(4):
        step.zero_grad()
        loss = 0
        for pair in NUMBER:
            for text, sign in ((pair.good, 1), (pair.bad, -1 if update == "differential" else 0)):
                ids = [0, *peer.encode(text)]
                logp = peer.model(torch.tensor([ids])).logits.log_softmax(-1)
                loss = loss - sign * logp[0, torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum() / len(NUMBER)
        loss.backward()
        step.step()
    with tune(lm, NUMBER, f).applied(lm):
        named = dict(lm.model.named_parameters())
        worst = max(float((p - named[n]).detach().abs().max()) for n, p in peer.model.named_parameters())
    # worst seen: 2.5e-11 with Adam, which divides rounding errors by gradients near zero; 4e-16 with SGD
    assert worst < 1e-9


@pytest.mark.parametrize("refresh", [None, 2])
@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_tuning_is_a_naive_loop(optimizer, size, refresh):
    "Dense tensors, one sentence at a time, Adam as its authors write it; outside the subspace the gradient is 0."
    lm, peer = make("gpt2", dtype=torch.float64), make("gpt2", dtype=torch.float64)
    f = FTGD(optimizer=optimizer, batch_size=size, refresh=refresh, steps=5, lr=0.01, keep=0.02)
    weights = dict(peer.model.named_parameters())
    order = ftgd_module._batches_of_pairs(len(NUMBER), size, f.seed)
    for step in range(f.steps):
        if step == 0 or (refresh and step % refresh == 0):
            differential = naive_differential(peer, NUMBER)
            sizes = [d.numel() for d in differential.values()]
            largest = torch.cat([d.flatten() for d in differential.values()]).abs().topk(round(0.02 * sum(sizes)))
            flat = torch.zeros(sum(sizes), dtype=torch.bool).index_fill_(0, largest.indices, True)
            inside = dict(zip(differential, flat.split(sizes), strict=True))
            mean = {n: torch.zeros_like(w) for n, w in weights.items()}
            square = {n: torch.zeros_like(w) for n, w in weights.items()}
            t = 0
        t += 1
        batch = replace(NUMBER, pairs=tuple(NUMBER.pairs[i] for i in next(order)))
        for n, gradient in naive_differential(peer, batch).items():
            g = gradient * inside[n].view_as(gradient)
            with torch.no_grad():
                if optimizer == "sgd":
                    weights[n] -= f.lr * g
                    continue
                mean[n] = 0.9 * mean[n] + 0.1 * g
                square[n] = 0.999 * square[n] + 0.001 * g**2
                weights[n] -= f.lr * (mean[n] / (1 - 0.9**t)) / ((square[n] / (1 - 0.999**t)).sqrt() + 1e-8)
    with tune(lm, NUMBER, f).applied(lm):
        named = dict(lm.model.named_parameters())
        worst = max(float((weights[n] - named[n]).detach().abs().max()) for n in weights)
    assert worst < 1e-9  # worst seen: 2e-16


def test_masked_moves_the_differential_subspace_along_the_good_gradient():
    lm = make("gpt2", dtype=torch.float64)
    f = FTGD(optimizer="sgd", steps=1, lr=1.0, keep=0.02)
    by = {u: tune(lm, NUMBER, replace(f, update=u)) for u in ("differential", "masked", "full", "random")}
    full = {n: v.double() for n, (_, v) in by["full"].delta.items()}
    for n, (i, v) in by["masked"].delta.items():
        assert torch.equal(i, by["differential"].delta[n][0])
        assert torch.allclose(v, full[n][i.long()], rtol=1e-9, atol=1e-12)
    gradient = gradient_differential(lm, NUMBER)
    for u in ("differential", "random"):
        for n, (i, v) in by[u].delta.items():
            assert torch.allclose(v, -gradient[n].flatten()[i.long()], rtol=1e-9, atol=1e-12)
    assert by["random"].n_changed == by["differential"].n_changed


def test_refresh_adds_places_and_keeps_what_was_learned():
    lm = make("gpt2")
    f = FTGD(steps=6, lr=0.02, keep=0.01)
    once, often = tune(lm, NUMBER, f), tune(lm, NUMBER, replace(f, refresh=2))
    assert once.n_changed == round(0.01 * lm.n_parameters) < often.n_changed <= 3 * once.n_changed
    for n, (i, _) in once.delta.items():
        assert set(i.tolist()) <= set(often.delta[n][0].tolist())
    assert all((v != 0).all() for _, v in often.delta.values())


def test_batches_use_every_pair_once_an_epoch():
    order = ftgd_module._batches_of_pairs(10, 4, seed=0)
    seen = np.concatenate([next(order) for _ in range(5)])
    assert sorted(seen.tolist()) == sorted([*range(10)] * 2)


def test_perplexity_budget_stops_before_it_is_exceeded():
    lm = make("gpt2")
    text = ["the cat sees me .", "my dogs see us ."]
    free = tune(lm, NUMBER, FTGD(steps=30, lr=0.02), reference=text)
    tight = tune(lm, NUMBER, FTGD(steps=30, lr=0.02, perplexity_budget=1.05), reference=text)
    limit = 1.05 * free.log.perplexity.iloc[0]
    assert free.log.perplexity.max() > limit >= tight.log.perplexity.max()
    assert tight.meta["stop"] == "perplexity_budget" and 0 < tight.log.step.iloc[-1] < 30
    from taskspace.scoring.scores import text_loss

    with tight.applied(lm):
        assert np.exp(text_loss(lm, text)) == tight.log.perplexity.iloc[-1]
    wild = tune(
        lm, NUMBER, FTGD(keep=1.0, steps=3, lr=1e4, perplexity_budget=1.1), reference=text
    )  # its perplexity is more than a float can say
    assert wild.meta["stop"] == "perplexity_budget"
    never = tune(lm, NUMBER, FTGD(steps=3, lr=5.0, perplexity_budget=1.0001, refresh=1), reference=text)
    assert all((v == 0).all() for _, v in never.delta.values()) and never.log.step.tolist() == [0]


def test_log_has_what_was_asked_for():
    lm = make("gpt2")
    log = tune(lm, NUMBER, FTGD(steps=5, every=2, update="masked"), eval_task=NUMBER, reference=["the cat sees me"]).log
    assert log.step.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.eval_margin.notna().tolist() == [True, False, True, False, True, True] == log.perplexity.notna().tolist()
    assert log.loss.notna().sum() == 5 == log.margin.notna().sum()
    assert abs(log.margin[1] - log.eval_margin[0]) < 1e-5 and abs(log.margin[3] - log.eval_margin[2]) < 1e-5


# -- the delta


def test_same_seed_same_bytes(tmp_path):
    f = FTGD(steps=4, lr=0.01, batch_size=5, seed=3)
    for name in "ab":
        tune(make("llama"), NUMBER, f).save(tmp_path / name)
    tune(make("llama"), NUMBER, replace(f, seed=4)).save(tmp_path / "c")
    a, b, c = ((tmp_path / n).read_bytes() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_save_and_load_give_the_same_weights(tmp_path, dtype):
    lm = make("gpt2", dtype=dtype)
    tuned = tune(lm, NUMBER, FTGD(steps=3, lr=0.02, keep=0.1), eval_task=NUMBER)
    tuned.save(tmp_path / "t.safetensors")
    again = Tuned.load(tmp_path / "t.safetensors")
    digest = lm.digest()
    with tuned.applied(lm):
        expected = lm.digest()
    with again.applied(lm):
        assert lm.digest() == expected != digest
    assert lm.digest() == digest
    assert again.config == tuned.config and again.meta == tuned.meta
    assert np.allclose(again.log, tuned.log, equal_nan=True, rtol=1e-12)


def test_deltas_nest_when_allowed():
    lm = make("gpt2")
    digest = lm.digest()
    one, two = tune(lm, NUMBER, FTGD(steps=2)), tune(lm, RAGGED, FTGD(steps=2))
    with one.applied(lm):
        middle = lm.digest()
        with two.applied(lm, strict=False):
            assert lm.digest() != middle
        assert lm.digest() == middle
    assert lm.digest() == digest


def test_a_delta_does_not_fit_other_models(tmp_path):
    lm = make("gpt2")
    tuned = tune(lm, NUMBER, FTGD(steps=1))
    for other, message in ((make("gpt2", seed=1), "tuned on other weights"), (make("llama"), "has no parameter")):
        with pytest.raises(TaskspaceError, match=message), tuned.applied(other):
            pass
    (tmp_path / "x").write_bytes(b"nonsense")
    for path in (tmp_path / "x", tmp_path / "missing"):
        with pytest.raises(TaskspaceError, match="not a saved delta"):
            Tuned.load(path)


def test_transposed_weights_are_written_in_place():
    lm = make("gpt2")
    p = lm.model.transformer.h[0].mlp.c_fc.weight
    p.data = p.data.T.contiguous().T
    assert not p.is_contiguous()
    digest = lm.digest()
    tuned = tune(lm, NUMBER, FTGD(steps=2, keep=0.5))
    with tuned.applied(lm):
        assert lm.digest() != digest
    assert lm.digest() == digest


# -- what cannot be tuned


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"keep": float("nan")}, "keep"),
        ({"steps": 0}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"lr": 0}, "lr"),
        ({"scope": "head"}, "scope"),
        ({"update": "all"}, "update"),
        ({"optimizer": "adamw"}, "optimizer"),
        ({"batch_size": 0}, "batch_size"),
        ({"refresh": 0}, "refresh"),
        ({"perplexity_budget": 0.9}, "perplexity_budget"),
        ({"every": 0}, "every"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(TaskspaceError, match=f"^FTGD: {message} must be") as e:
        FTGD(**setting)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("setting", [{"lr": "0.1"}, {"steps": True}, {"seed": True}, {"embeddings": 1}, {"lr": np.inf}])
def test_settings_of_another_type_are_named(setting):
    (name,) = setting
    with pytest.raises(TaskspaceError, match=f"^FTGD: {name} must be"):
        FTGD(**setting)


def test_settings_that_are_not_there_are_named():
    with pytest.raises(TaskspaceError, match="^FTGD: there is no setting 'step'; there are: keep, scope, "):
        FTGD(step=3)
    with pytest.raises(TaskspaceError, match="^FTGD: there are only 14 settings; give them by name"):
        FTGD(*range(15))


def test_settings_are_a_frozen_dataclass():
    f = FTGD(0.05, "layer", steps=3)
    assert repr(f).startswith("FTGD(keep=0.05, scope='layer', update='differential', steps=3, lr=0.0005, ")
    assert f == FTGD(steps=3, scope="layer", keep=0.05) != FTGD() and hash(f) == hash(replace(FTGD(), **asdict(f)))
    assert pickle.loads(pickle.dumps(f)) == f
    with pytest.raises(FrozenInstanceError):
        f.keep = 0.1
    with pytest.raises(TaskspaceError, match="^FTGD: steps must be"):
        replace(f, steps=0)


def test_settings_from_a_file_may_write_numbers_as_text():
    assert FTGD.from_settings({"lr": "5e-4", "steps": 2.0, "batch_size": "7"}) == FTGD(steps=2, batch_size=7)
    with pytest.raises(TaskspaceError, match="^FTGD: lr must be a number over 0, not 'fast'$"):
        FTGD.from_settings({"lr": "fast"})


def test_bad_tasks_and_models_are_named():
    lm = make("gpt2")
    same = Task("same", [MinimalPair("the cat sees me", "the cat sees me")])
    with pytest.raises(TaskspaceError, match="task 'same': none of 1 pairs has sentences that differ"):
        tune(lm, same)
    with pytest.raises(TaskspaceError, match="reference"):
        tune(lm, NUMBER, FTGD(perplexity_budget=1.1))
    for p in lm.model.parameters():
        p.requires_grad_(False)
    with pytest.raises(TaskspaceError, match="no trainable parameters"):
        tune(lm, NUMBER)


def test_non_finite_gradients_name_the_parameter():
    lm = make("gpt2")
    with torch.no_grad():
        lm.model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("inf")
    digest = lm.digest()
    with pytest.raises(TaskspaceError, match=r"gradient of transformer\.\S+ is not finite"):
        tune(lm, NUMBER)
    assert lm.digest() == digest


def test_quantised_models_are_refused():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 4)
            self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))

    with pytest.raises(TaskspaceError, match="quantised weights"):
        trainable(LM(Quantised(), WordTokenizer(WORDS)))
    dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), {nn.Linear})
    with pytest.raises(TaskspaceError, match="quantised weights"):
        trainable(LM(dynamic, WordTokenizer(WORDS)))
