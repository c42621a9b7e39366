"""LoRA as a baseline: what PEFT would train, kept and applied like any other change."""

import copy
import math

import pytest
import torch
from peft import get_peft_model, LoraConfig

from taskspace import FTGD, LM, transfer_probe, tune
from taskspace.errors import TaskspaceError
from taskspace.scoring.convention import convention_of
from taskspace.scoring.encoding import encode_pairs
from taskspace.toy import agreement_task, toy_bigram, toy_lm, toy_suite
from taskspace.tuning.gradients import margins

TASK = agreement_task("cats")
PLACES = ["c_attn", "c_proj", "c_fc"]


def by_peft(lm, ftgd):
    "The change of every weight after the same training, with the layers of PEFT and a loop of one's own."
    config = LoraConfig(r=ftgd.rank, lora_alpha=2 * ftgd.rank, target_modules=PLACES, fan_in_fan_out=True)
    model = get_peft_model(copy.deepcopy(lm.model), config).eval()
    generator = torch.Generator().manual_seed(ftgd.seed)
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
    assert len(layers) == 8
    with torch.no_grad():
        for layer in layers.values():  # Conv1D keeps its weight turned, so A and B change places
            columns = layer.base_layer.weight.shape[1]
            a = (torch.rand(ftgd.rank, columns, generator=generator) * 2 - 1) / math.sqrt(columns)
            layer.lora_A["default"].weight.zero_()
            layer.lora_B["default"].weight.copy_(a.T)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=ftgd.lr)
    pairs = encode_pairs(lm, list(TASK), convention_of("blimp", reduction="sum"))
    for _ in range(ftgd.steps):
        loss = 0
        for p in pairs:
            logps = model(torch.tensor([p.good])).logits.log_softmax(-1)[0]
            told = logps[:-1].gather(1, torch.tensor(p.good)[1:, None])[:, 0]
            loss = loss - told[max(p.start, 1) - 1 :].sum() / len(pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [layer.get_delta_weight("default").detach() for layer in layers.values()]


def test_it_trains_what_peft_trains():
    lm, ftgd = toy_lm(), FTGD(update="lora", rank=3, steps=4, lr=0.02)
    mine = tune(lm, TASK, ftgd).delta
    wanted = by_peft(lm, ftgd)
    assert len(mine) == len(wanted) == 8
    for (places, change), theirs in zip(mine.values(), wanted, strict=True):
        assert len(places) == theirs.numel()
        torch.testing.assert_close(change, theirs.reshape(-1), atol=2e-5, rtol=1e-3)  # measured 6e-7
        assert torch.linalg.matrix_rank(theirs) == 3 and change.abs().max() > 0.01


def test_the_model_is_as_before_and_learns_the_good_sentences():
    lm = toy_lm()
    digest, names = lm.digest(), [n for n, _ in lm.model.named_parameters()]
    kinds = [type(m) for m in lm.model.modules()]
    tuned = tune(lm, TASK, FTGD(update="lora", steps=6, lr=0.02), eval_task=TASK)
    assert lm.digest() == digest and [n for n, _ in lm.model.named_parameters()] == names
    assert kinds == [type(m) for m in lm.model.modules()] and all(p.requires_grad for p in lm.model.parameters())
    assert tuned.log["loss"].iloc[-1] < tuned.log["loss"].iloc[1] - 0.3
    again = tune(lm, TASK, FTGD(update="lora", steps=6, lr=0.02))
    assert all(torch.equal(again.delta[n][1], tuned.delta[n][1]) for n in tuned.delta)
    with tuned.applied(lm):
        assert lm.digest() != digest
    assert lm.digest() == digest


def test_settings_choose_the_matrices(monkeypatch):
    lm = toy_lm()
    only = tune(lm, TASK, FTGD(update="lora", steps=1, parameters="*mlp*"))
    assert only.delta and all("mlp" in n for n in only.delta)
    words = ["the cats see me ."] * 3
    stopped = tune(lm, TASK, FTGD(update="lora", steps=5, lr=5.0, perplexity_budget=1.01), reference=words)
    assert stopped.meta["stop"] == "perplexity_budget" and len(stopped.log) == 1
    assert all(float(v.abs().max()) == 0 for _, v in stopped.delta.values())
    with pytest.raises(TaskspaceError, match="has no weight matrices beside its embeddings, which LoRA needs"):
        tune(toy_bigram(), TASK, FTGD(update="lora"))


def test_it_is_probed_like_any_other_update():
    space = transfer_probe(toy_lm(), toy_suite(), FTGD(update="lora", steps=2, lr=0.01), bootstrap=0)
    assert isinstance(toy_lm(), LM) and space.matrix.notna().all().all()


@pytest.mark.parametrize("leaf", ["weight", "twin"])
def test_a_weight_that_two_modules_share_changes_in_both(leaf):
    lm = toy_lm()
    first, second = (block.mlp.c_fc for block in lm.model.transformer.h)
    if leaf == "weight":
        second.weight = first.weight
    else:  # under another name, in a module that has no other use for it
        second.twin = first.weight
    orders = [list(m._parameters) for m in (first, second)]
    tuned = tune(lm, TASK, FTGD(update="lora", steps=4, lr=0.05), eval_task=TASK)
    assert getattr(second, leaf) is first.weight and orders == [list(m._parameters) for m in (first, second)]
    with tuned.applied(lm):
        applied = margins(lm, encode_pairs(lm, TASK)).mean()
    assert applied == pytest.approx(tuned.log.eval_margin.iloc[-1], abs=1e-4)
