"""Which lists of modules are layers: the states are those of transformers, or the model is refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from taskspace.dissimilarity.comparison import cka_matrix
from taskspace.dissimilarity.states import hidden_states
from taskspace.dissimilarity.stitching import stitch
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.probing import sites as module
from taskspace.probing.interchange import interchange_effects
from taskspace.probing.sites import at_sites, find_blocks, find_sites
from taskspace.probing.units import unit_probe
from taskspace.toy import toy_lm, toy_suite, TOY_WORDS, WordTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scoring"))

TEXTS = ["the cats see me .", "the cats often see us and them .", "no dog sleeps ."]
TRAIN = [" ".join([a, b, c]) for a in TEXTS for b in TEXTS for c in TEXTS if a != c]
SIZES = dict(
    hidden_size=16,
    d_model=16,
    emb_dim=16,
    intermediate_size=24,
    num_hidden_layers=2,
    n_layers=2,
    num_attention_heads=2,
    n_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    initializer_range=0.3,
    init_std=0.3,
    pad_token_id=0,
)


def tokenizer():
    found = WordTokenizer((*TOY_WORDS, "[MASK]", "[CLS]", "[SEP]", "[PAD]"), bos=None)
    found.mask, found.cls, found.sep, found.pad = range(len(TOY_WORDS), len(TOY_WORDS) + 4)
    return found


def make(kind, masked=True, **more):
    "A small random model of transformers; settings that its kind lacks are left out."
    known = AutoConfig.for_model(kind).to_dict()
    settings = {k: v for k, v in SIZES.items() if k in known} | more
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(TOY_WORDS) + 4, **settings)
    net = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config).float().eval()
    return LM(net, tokenizer() if masked else WordTokenizer(), name=kind, objective="masked" if masked else "causal")


ALBERT = {"num_hidden_groups": 1, "inner_group_num": 1, "embedding_size": 16}
CONVOLUTION = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "conv_kernel_size": 3}
STREAMS = {
    "num_kv_shared_layers": 0,
    "vocab_size_per_layer_input": len(TOY_WORDS) + 4,
    "hidden_size_per_layer_input": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "activation_sparsity_pattern": None,
    "intermediate_size": [24, 24],
    "laurel_rank": 4,
}
LOCAL = {
    "is_decoder": True,
    "attn_layers": ["local", "local"],
    "axial_pos_embds": False,
    "local_attn_chunk_length": 4,
    "attention_head_size": 8,
    "feed_forward_size": 24,
}
NESTED = {"block_sizes": [1, 1, 1], "num_decoder_layers": 1, "d_head": 8, "d_inner": 24}
REFUSED = {
    "albert": ({**ALBERT}, "runs its blocks 2 times; choose a model whose layers do not share weights"),
    "xlm": ({}, "no list of layers, each of which is given what the one before gives"),
    "deberta-v2": (CONVOLUTION, "no list of layers, each of which is given what the one before gives"),
    "squeezebert": ({"embedding_size": 16}, "no list of layers, each of which is given what the one before gives"),
    "gemma3n_text": (STREAMS, r"2 tokens have states of shape \(4, 1, 2, 16\), not \(1, 2, width\)"),
    "reformer": (LOCAL, "its layers hand on more than one state"),
    "funnel": (NESTED, "no list of layers, each of which is given what the one before gives"),
}
CAUSAL = ("gemma3n_text", "reformer")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_states_of_its_own_in_each_layer_is_refused_by_all_that_reads_them(kind):
    more, message = REFUSED[kind]
    lm = make(kind, masked=kind not in CAUSAL, **more)
    for read in (
        lambda: hidden_states(lm, TEXTS),
        lambda: cka_matrix(lm, lm, TEXTS),
        lambda: stitch(lm, lm, 1, 1, TRAIN, TEXTS),
        lambda: unit_probe(lm, toy_suite(), top=0.1),
        lambda: interchange_effects(lm, toy_suite()["cats"], offsets=[0]),
    ):
        with pytest.raises(TaskspaceError, match=message):
            read()


@pytest.mark.parametrize("kind, more", [("albert", {**ALBERT, "num_hidden_groups": 2}), ("longformer", {})])
def test_states_are_those_of_transformers(kind, more):
    "ALBERT with a group for each layer shares nothing; Longformer fills up to its window."
    lm = make(kind, **more, **({"attention_window": 8} if kind == "longformer" else {}))
    t = lm.tokenizer
    for text in TEXTS:
        ids = torch.tensor([[t.cls, *t.encode(text), t.sep]])
        with torch.no_grad():
            own = lm.model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer, found in hidden_states(lm, text).items():
            assert (found - own[layer][0, 1:-1]).abs().max() < 1e-5, layer


def test_states_of_a_model_that_fills_up_can_be_read_changed_and_stitched():
    lm = make("longformer", attention_window=8)
    assert abs(stitch(lm, lm, 1, 1, TRAIN, TEXTS, kind="identity").penalty) < 1e-6
    assert abs(stitch(lm, lm, 0, 0, TRAIN, TEXTS, kind="identity").penalty) < 1e-6
    assert unit_probe(lm, toy_suite(), top=0.1) is not None
    ids, sites = torch.tensor([[1, 2, 3]]), find_sites(lm, "residual")
    seen = []
    with torch.no_grad(), at_sites(sites, lambda k, x: seen.append(tuple(x.shape)) or x.clone(), shape=(1, 3)):
        kept = lm.logits(ids, torch.ones_like(ids))
    assert seen == [(1, 3, 16)] * 2 and torch.equal(kept, lm.logits(ids, torch.ones_like(ids)))


class Repeated(nn.Module):
    "A list of layers that runs several times."

    def __init__(self, times):
        super().__init__()
        torch.manual_seed(0)
        self.times, self.embed = times, nn.Embedding(len(TOY_WORDS), 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.others = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, ids, mask):
        x = self.embed(ids)
        for _ in range(self.times):
            for layer in self.layers:
                x = layer(x)
        return x @ self.embed.weight.T


def test_a_look_is_made_once_and_follows_the_model(monkeypatch):
    looks, real = [], module._look
    monkeypatch.setattr(module, "_look", lambda *args: looks.append(1) or real(*args))
    lm = LM(Repeated(1), WordTokenizer(), name="mine")
    for _ in range(3):
        assert find_blocks(lm) == list(lm.model.layers)
    assert len(looks) == 1
    lm.model.times = 3
    with pytest.raises(TaskspaceError, match="^mine: has no states .* it runs its blocks 3 times"):
        find_blocks(lm)
    with pytest.raises(TaskspaceError, match="it runs its blocks 3 times"):
        hidden_states(lm, TEXTS, blocks=lm.model.layers)


def test_blocks_that_are_given_need_not_follow_each_other_but_must_run():
    lm = LM(Repeated(1), WordTokenizer(), name="mine")
    assert list(hidden_states(lm, TEXTS, blocks=lm.model.layers[1:])) == [0, 1]
    with pytest.raises(TaskspaceError, match="mine: not all of blocks= are run; pass blocks="):
        hidden_states(lm, TEXTS, blocks=lm.model.others)
    assert len(find_blocks(toy_lm())) == 2
