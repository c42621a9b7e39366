"""Modes of a model's modules: measuring happens in evaluation mode and leaves every module as it was.
Batches of workers: equal and within the budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from taskspace.models.lm import LM
from taskspace.pretraining.architectures import build, TransformerConfig
from taskspace.scoring.logprobs import evaluating, find_shortcuts, sequence_logprobs
from taskspace.toy import WordTokenizer


class Dropping(nn.Module):
    "A language model with dropout and two blocks."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.blocks, self.head = (
            nn.Embedding(10, 8),
            nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(2)),
            nn.Linear(8, 10),
        )

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        for b in self.blocks:
            x = x + b(x)
        return self.head(x)


def half_asleep(lm):
    "In training mode but for one block, as when some layers are frozen."
    lm.model.train()
    list(lm.model.children())[1][0].eval()
    return lm


def modes(lm):
    return {name: m.training for name, m in lm.model.named_modules()}


SEQUENCES = [[0, 3, 4, 5], [0, 3, 4, 6, 1], [0, 2, 2]]


@pytest.mark.parametrize(
    "call",
    [lambda lm: find_shortcuts(lm, [1, 2, 3]), lambda lm: sequence_logprobs(lm, SEQUENCES)],
    ids=["find_shortcuts", "sequence_logprobs"],
)
def test_every_module_keeps_its_mode(call):
    lm = half_asleep(LM(Dropping(), WordTokenizer()))
    before = modes(lm)
    assert set(before.values()) == {True, False}
    call(lm)
    assert modes(lm) == before


def test_dropout_is_off_while_sequences_are_scored():
    lm = LM(Dropping(), WordTokenizer())
    expected = sequence_logprobs(lm, SEQUENCES)
    assert np.array_equal(sequence_logprobs(half_asleep(lm), SEQUENCES), expected)


def test_evaluating_takes_models_that_share_modules_and_undoes_itself_after_errors():
    lm = half_asleep(LM(Dropping(), WordTokenizer()))
    other = LM(build(TransformerConfig(10, 8, 1, num_attention_heads=2)), WordTokenizer())
    other.model.train()
    whole = LM(nn.Sequential(lm.model, other.model), WordTokenizer())
    half_asleep(lm)
    other.model.train()
    before = [modes(m) for m in (lm, other, whole)]
    with pytest.raises(ZeroDivisionError), evaluating(lm, whole, other):
        assert not any(v for m in (lm, other, whole) for v in modes(m).values())
        raise ZeroDivisionError
    assert [modes(m) for m in (lm, other, whole)] == before


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=80), st.integers(64, 1500), st.integers(2, 8))
def test_workers_get_equal_batches_within_the_budget(lengths, budget, workers):
    from taskspace.scoring.logprobs import even_batches

    found = even_batches(lengths, budget, workers)
    assert sorted(i for part in found for i in part) == list(range(len(lengths)))
    sizes = [len(part) * max(lengths[i] for i in part) for part in found]
    assert all(size <= budget or len(part) == 1 for size, part in zip(sizes, found, strict=True))
    tokens = [sum(lengths[i] for i in part) for part in found]
    if len(found) % workers == 0:
        assert max(tokens) - min(tokens) <= 2 * max(lengths)  # each cut may be off by half a row on either side


def test_half_precision_makes_no_token_more_than_certain():
    "The token's own logit is rounded as those that it is compared with."
    from taskspace.scoring.logprobs import linear_logprobs

    g = torch.Generator().manual_seed(0)
    x, weight, bias = (
        3 * torch.randn(64, 32, generator=g).bfloat16(),
        torch.randn(500, 32, generator=g).bfloat16(),
        torch.randn(500, generator=g).bfloat16(),
    )
    for b in (None, bias):
        logits = x.double() @ weight.double().T + (0 if b is None else b.double())
        likeliest, rows = logits.argmax(1), torch.arange(64)
        found = linear_logprobs(x, weight, b, rows, likeliest).double()
        assert found.max() <= 1e-6  # worst seen over 6 seeds: 0
        assert (
            found - logits.log_softmax(1)[rows, likeliest]
        ).abs().mean() < 0.03  # worst seen over 6 seeds: .016; of plain bfloat16: .019
