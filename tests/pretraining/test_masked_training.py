"""A masked model is trained by the same loop: by hidden tokens, with the same bytes again, and kept apart."""

import numpy as np
import pytest

from taskspace import load_lm
from taskspace.errors import TaskspaceError
from taskspace.pretraining.builtin import builtin_model, builtin_rows, builtin_tokenizer
from taskspace.pretraining.training import Masking, pretrain, TrainingConfig

CONFIG = TrainingConfig(
    steps=12, batch_size=16, learning_rate=6e-3, checkpoints=(0, 6, 12), save_every=4, precision="float32"
)


def train(out=None, masked=True, **changes):
    tokenizer, rows = builtin_tokenizer("masked"), builtin_rows(1000)
    masking = Masking(tokenizer.mask_token_id, 0.3, (tokenizer.eos_token_id,)) if masked else None
    config, pad = CONFIG.model_copy(update=changes), tokenizer.pad_token_id
    return pretrain(builtin_model("masked"), rows.train, config, out, tokenizer, rows.valid, pad, masking=masking)


def test_a_masked_model_learns_and_is_loaded_as_one(tmp_path):
    log, again, parts = train(tmp_path / "run"), train(), train(accumulate=4)
    valid = log.valid_loss.dropna()
    assert valid.iloc[-1] < valid.iloc[1] < valid.iloc[0] if len(valid) > 2 else valid.iloc[-1] < valid.iloc[0]
    assert np.array_equal(log.loss[1:], again.loss[1:])
    assert np.abs(log.loss[1:] - parts.loss[1:]).max() < 1e-5  # worst seen 1e-6
    lm = load_lm(tmp_path / "run")
    assert (lm.objective, lm.step, lm.mask_id) == ("masked", 12, builtin_tokenizer("masked").mask_token_id)
    with pytest.raises(TaskspaceError, match="holds a pre-training run with other masking"):
        train(tmp_path / "run", masked=False)


def test_the_words_have_the_same_ids_in_all_scales():
    text = "the king sleeps ."
    masked, plain = (builtin_tokenizer(s) for s in ("masked", "nano"))
    ids = plain(text)["input_ids"]
    assert masked(text, add_special_tokens=False)["input_ids"] == ids
    assert masked(text)["input_ids"] == [0, *ids, 0] and masked.mask_token_id == len(plain)
