"""Hidden states, CKA and stitching of masked models, which have a loss only where tokens are hidden."""

import numpy as np
import pytest
import torch

from taskspace.dissimilarity.comparison import cka_matrix
from taskspace.dissimilarity.states import encode_text, hidden_states
from taskspace.dissimilarity.stitching import stitch, text_losses
from taskspace.errors import TaskspaceError
from taskspace.scoring.convention import convention_of
from taskspace.scoring.scores import score_sentences
from taskspace.toy import toy_lm, toy_masked_lm, toy_suite

TEXTS = list(dict.fromkeys(p.texts[0] for t in toy_suite() for p in t))
TRAIN, TEST = TEXTS[:-12], TEXTS[-12:]


def test_losses_are_pseudo_log_likelihoods():
    lm = toy_masked_lm(spread=0.3)
    found = text_losses(lm, TEST)
    scores = score_sentences(lm, TEST, convention_of("blimp", method="pll"))
    assert np.abs(found["nll"] + scores["logp"]).max() < 1e-4  # worst seen: 3e-6
    assert (found["tokens"] == scores["tokens"]).all()


def test_a_stitch_to_itself_costs_nothing_and_one_to_another_model_does():
    one, other = (toy_masked_lm(seed, spread=0.3) for seed in (0, 1))
    own = stitch(one, one, 1, 1, TRAIN, TEST)
    assert abs(own.penalty) < 1e-3 and own.lm.objective == "masked"
    assert stitch(one, other, 1, 1, TRAIN, TEST, kind="identity").penalty > 0.01
    before = [p.clone() for p in other.model.parameters()]
    stitch(one, other, 1, 1, TRAIN, TEST, steps=2)
    assert all(torch.equal(p, q) for p, q in zip(other.model.parameters(), before, strict=True))


def test_states_and_cka_see_the_same_special_tokens_as_scores():
    lm = toy_masked_lm(spread=0.3)
    encoded = encode_text(lm, TEST[0])
    own = lm.encode(TEST[0])
    assert encoded.ids[encoded.start : encoded.stop] == own and len(encoded.ids) == len(own) + 2
    rows = hidden_states(lm, TEST)[2]
    assert len(rows) == sum(len(lm.encode(t)) for t in TEST)
    similar = cka_matrix(lm, toy_masked_lm(1, spread=0.3), TEST)
    assert similar.shape == (3, 3) and np.isfinite(similar.to_numpy()).all()
    assert cka_matrix(lm, lm, TEST).to_numpy().diagonal() == pytest.approx(1, abs=1e-6)


def test_a_causal_model_is_not_stitched_to_a_masked_one():
    with pytest.raises(TaskspaceError, match="whose losses are no common measure; stitch two of one kind") as e:
        stitch(toy_lm(), toy_masked_lm(), 1, 1, TRAIN, TEST)
    assert "\n" not in str(e.value)
