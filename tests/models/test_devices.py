"""Models on several devices, on a device without float64, partly on disk, and with quantised weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import toydevice
from atlength import covering
from taskspace.dissimilarity.comparison import cka_states
from taskspace.dissimilarity.measures import cka
from taskspace.dissimilarity.states import hidden_states
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM, save_lm
from taskspace.models.loading import load_lm
from taskspace.probing.gradient import gradient_probe, predicted_transfer
from taskspace.scoring import logprobs, masked
from taskspace.scoring.logprobs import find_shortcuts, Shortcuts
from taskspace.scoring.scores import score_pairs, text_loss
from taskspace.toy import toy_lm, toy_masked_lm, toy_suite
from taskspace.tuning import gradients
from taskspace.tuning.ftgd import FTGD, tune
from taskspace.tuning.gradients import gradient_differential

SUITE = toy_suite().take(4)
SENTENCES = [p.texts[0] for t in SUITE for p in t][:4]


def one_line(message, call):
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


def plain(lm):
    "A copy whose attention is written in steps that the toy devices know."
    lm = LM(copy.deepcopy(lm.model), lm.tokenizer, objective=lm.objective)
    lm.model.set_attn_implementation("eager")
    return lm


def untied():
    lm = plain(toy_lm())
    lm.model.lm_head.weight = nn.Parameter(lm.model.lm_head.weight.detach() * 1.1)
    lm.model.config.tie_word_embeddings = False
    return lm


MODELS = {
    "head on the first": (lambda: plain(toy_lm()), ["transformer.h.1", "transformer.ln_f"]),
    "head on the second": (untied, ["transformer.h.1", "transformer.ln_f", "lm_head"]),
    "all on one": (lambda: plain(toy_lm()), []),
    "masked": (lambda: plain(toy_masked_lm()), ["bert.encoder.layer.1"]),
}


@pytest.fixture(params=MODELS)
def both(request, monkeypatch):
    """The same model on the CPU and on the toy devices. A toy device's tensors are of no type that a shortcut is proven
    for, so the shortcuts of the model on the CPU are given to it."""
    make, second = MODELS[request.param]
    lm = make()
    found = find_shortcuts(lm, [3, 4, 5])
    assert found.head == "linear"
    monkeypatch.setattr(logprobs, "find_shortcuts", lambda *_: found)
    monkeypatch.setattr(masked, "find_shortcuts", lambda *_: found)
    monkeypatch.setattr(gradients, "find_shortcuts", lambda *_: found)
    return lm, LM(toydevice.split(copy.deepcopy(lm.model), second), lm.tokenizer, objective=lm.objective)


def test_the_toy_devices_refuse_what_real_ones_refuse():
    with toydevice.devices():
        first, second = (torch.ones(2, device=d) for d in (toydevice.FIRST, toydevice.SECOND))
        with pytest.raises(RuntimeError, match="mps:0.*mps:1"):
            first + second
        with pytest.raises(RuntimeError, match="and the CPU"):
            first + torch.ones(2)
        with pytest.raises(TypeError, match="no float64"):
            first.double()
        assert (first + second.to(first.device)).cpu().tolist() == [2, 2]


@pytest.mark.parametrize("head", ["rows", "full"])
def test_other_output_layers_on_the_second_device(head, monkeypatch):
    one = untied()
    two = LM(toydevice.split(copy.deepcopy(one.model), MODELS["head on the second"][1]), one.tokenizer)
    wanted = score_pairs(one, SUITE)["margin"]
    monkeypatch.setattr(logprobs, "find_shortcuts", lambda *_: Shortcuts(head, False))
    with toydevice.devices():
        assert np.abs(score_pairs(two, SUITE)["margin"] - wanted).max() < 1e-4  # worst seen: 1.2e-6


def test_scores_and_states_are_those_of_one_device(both):
    one, two = both
    with toydevice.devices():
        # Worst seen: 1.2e-6
        assert np.abs(score_pairs(two, SUITE)["margin"] - score_pairs(one, SUITE)["margin"]).max() < 1e-4
        assert abs(text_loss(two, SENTENCES) - text_loss(one, SENTENCES)) < 1e-5
        states = zip(hidden_states(two, SENTENCES).values(), hidden_states(one, SENTENCES).values(), strict=True)
        assert all(torch.allclose(torch.as_tensor(a).cpu(), torch.as_tensor(b), atol=1e-5) for a, b in states)


@pytest.mark.slow
def test_gradients_and_probes_are_those_of_one_device(both):
    one, two = both
    few = SUITE.select(SUITE.names[:2])
    here, cosine = gradient_differential(one, SUITE.tasks[0]), gradient_probe(one, few)["cosine"].matrix
    predicted = predicted_transfer(one, few, FTGD(), few).matrix
    with toydevice.devices():
        there = gradient_differential(two, SUITE.tasks[0])
        assert {n: p.device for n, p in two.model.named_parameters()} == {n: g.device for n, g in there.items()}
        assert all(torch.allclose(there[n].cpu(), g, atol=1e-5) for n, g in here.items())  # worst seen: 3.6e-7
        assert np.abs(gradient_probe(two, few)["cosine"].matrix - cosine).to_numpy().max() < 1e-6
        assert np.abs(predicted_transfer(two, few, FTGD(), few).matrix - predicted).to_numpy().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "both, update", covering(MODELS, ["differential", "random", "full", "lora"]), indirect=["both"]
)
def test_tuning_is_that_of_one_device(both, update):
    one, two = both
    ftgd = FTGD(steps=2, lr=1e-3, keep=0.05, update=update)
    with toydevice.devices():
        before = [p.detach().cpu().clone() for p in two.model.parameters()]
        found = []
        for lm in both:
            with tune(lm, SUITE.tasks[0], ftgd, SUITE.tasks[1]).applied(lm):
                found.append(score_pairs(lm, SUITE)["margin"].to_numpy())
        # Worst seen: 2e-6. Adam follows the sign of a gradient, also where that is rounding
        assert np.abs(found[0] - found[1]).max() < 1e-3
        assert np.abs(found[0] - score_pairs(one, SUITE)["margin"]).max() > 1e-3
        assert all(torch.equal(p.detach().cpu(), old) for p, old in zip(two.model.parameters(), before, strict=True))


# Weights on disk

PARTS = ["transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f", "lm_head"]


@pytest.mark.parametrize("away", [["transformer.h.1"], ["transformer.wte", "transformer.h.0", "lm_head"]])
def test_weights_on_disk_are_scored_and_have_no_gradient(tmp_path, away):
    lm = toy_lm()
    save_lm(lm, tmp_path / "m")
    places = {part: "disk" if part in away else "cpu" for part in PARTS}
    options = dict(device_map=places, offload_folder=str(tmp_path / "off"), tokenizer=lm.tokenizer)
    found = load_lm(tmp_path / "m", **options)
    assert any(p.is_meta for p in found.model.parameters()) and found.device.type == "cpu"
    # Worst seen: 9.5e-7
    assert np.abs(score_pairs(found, SUITE)["margin"] - score_pairs(lm, SUITE)["margin"]).max() < 1e-4
    for call in (gradient_differential, tune):
        one_line("is offloaded and has no gradient; keep it in memory", lambda call=call: call(found, SUITE.tasks[0]))
    one_line("is offloaded, so its bytes cannot be read", found.digest)


@pytest.mark.parametrize("place", ["cuda:7", "banana", 9])
def test_a_device_map_with_a_missing_device_is_named(tmp_path, place):
    save_lm(toy_lm(), tmp_path / "m")
    where = {**dict.fromkeys(PARTS, "cpu"), "transformer.h.1": place}
    message = f"m: device_map puts 'transformer.h.1' on {place!r}, which cannot be used here"
    one_line(message, lambda: load_lm(tmp_path / "m", device_map=where))


# Quantised weights


class Packed(nn.Linear):
    "A layer of 8-bit weights, as bitsandbytes and torchao have them."

    def __init__(self, layer):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.scale = float(layer.weight.detach().abs().max()) / 127
        self.weight = nn.Parameter((layer.weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


Packed.__module__ = "bitsandbytes.nn.modules"


def packed(model):
    "The model with packed layers in its blocks, and what it computes, in float32."
    wide = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and "layers." in name:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, small := Packed(layer))
            wide.get_submodule(name).weight = nn.Parameter(small.weight.float() * small.scale)
    model.is_quantized = True
    return model, wide


def test_quantised_models_are_scored_and_only_their_adapters_tuned():
    from peft import get_peft_model, LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    lm = toy_lm()
    torch.manual_seed(0)
    size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(vocab_size=lm.model.config.vocab_size, **size, initializer_range=0.3)
    model, wide = packed(LlamaForCausalLM(config).eval())
    small, large = LM(model, lm.tokenizer), LM(wide, lm.tokenizer)
    # Worst seen: 5e-6
    assert np.abs(score_pairs(small, SUITE)["margin"] - score_pairs(large, SUITE)["margin"]).max() < 1e-4
    for call in (gradient_differential, tune):
        one_line("has quantised weights, which have no gradient", lambda call=call: call(small, SUITE.tasks[0]))
    adapted = LM(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])), lm.tokenizer)
    one_line("has quantised weights, which have no gradient", lambda: tune(adapted, SUITE.tasks[0]))
    kept = {n: p.detach().clone() for n, p in adapted.model.named_parameters()}
    tuned = tune(adapted, SUITE.tasks[0], FTGD(parameters="adapter", keep=1.0, steps=3, lr=1e-2))
    assert tuned.log["loss"].iloc[-1] < tuned.log["loss"].iloc[1] and all("lora" in n for n in tuned.delta)
    assert all(torch.equal(p, kept[n]) for n, p in adapted.model.named_parameters())


def test_measures_take_states_of_a_device_without_float64():
    X, Y = torch.randn(40, 6), torch.randn(40, 5)
    expected = [cka(X, Y), cka_states({0: X[:, :3], 1: X}, {0: Y}).to_numpy()]
    with toydevice.devices():
        X, Y = (toydevice.Elsewhere(v, toydevice.FIRST) for v in (X, Y))
        found = [cka(X, Y), cka_states({0: X[:, :3], 1: X}, {0: Y}).to_numpy()]
    assert found[0] == pytest.approx(expected[0], abs=1e-9) and np.abs(found[1] - expected[1]).max() < 1e-9
