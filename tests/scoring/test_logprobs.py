"""Modes of a model's modules: measuring happens in evaluation mode and leaves every module as it was.
Batches of workers: equal and within the budget."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
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


FAR = {0.1: 1e-5, 1: 5e-5, 30: 2e-2}  # worst seen over 300 seeds: 2.3e-6, 1.3e-5, 5.1e-3, either way


def _gradients(numbers, kept, words=None):
    "Gradients of weighted log-probabilities by the library, with probabilities kept or not."
    from taskspace.scoring import logprobs

    x, weight, bias, rows, targets, factors = numbers
    before, logprobs.KEPT = logprobs.KEPT, kept
    try:
        with logprobs.gradient_rows(words):
            found = logprobs.linear_logprobs(x, weight, bias, rows, targets)
        return torch.autograd.grad((found * factors).sum(), (x, weight, bias))
    finally:
        logprobs.KEPT = before


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 700), st.sampled_from([0.1, 1, 30]), st.booleans())
@example(4288, 2, 30, False)  # a position that nothing is asked of, with logits below the range of exp
def test_gradients_of_the_output_layer_with_and_without_kept_probabilities(seed, vocabulary, scale, some):
    "Against torch in float64, for logits of all sizes and for some of the words."
    g = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(6, 8, generator=g) * scale, torch.randn(vocabulary, 8, generator=g)
    bias, rows = torch.randn(vocabulary, generator=g), torch.randint(6, (9,), generator=g)
    targets, factors = torch.randint(vocabulary, (9,), generator=g), torch.randn(9, generator=g)
    words = torch.randint(vocabulary, (5,), generator=g).unique() if some else None
    exact = [t.double().requires_grad_() for t in (x, weight, bias)]
    logp = (exact[0] @ exact[1].T + exact[2]).log_softmax(1)[rows, targets]
    right = list(torch.autograd.grad((logp * factors).sum(), exact))
    if some:
        zero = torch.zeros_like(right[1])
        right[1] = zero.index_copy_(0, words, right[1][words])
    plain = [t.requires_grad_() for t in (x, weight, bias)]
    for kept in (1 << 26, 0):
        found = _gradients((*plain, rows, targets, factors), kept, words)
        for a, b in zip(found, right, strict=True):
            assert (a - b).abs().max() <= FAR[scale]


def test_two_backward_passes_over_kept_probabilities_are_equal():
    from taskspace.scoring.logprobs import linear_logprobs

    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4, 8, generator=g, requires_grad=True), torch.randn(50, 8, generator=g)
    found = linear_logprobs(x, weight, None, torch.arange(4), torch.arange(4)).sum()
    first, second = (torch.autograd.grad(found, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
