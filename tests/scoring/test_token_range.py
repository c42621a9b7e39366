"""Tokens that a model does not know, and texts that are none, are named in one line."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from taskspace import gradient_differential
from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining.tokens import word_tokenizer
from taskspace.scoring.scores import score_pairs, score_sentences, text_loss
from taskspace.tasks.pairs import MinimalPair, Task

WORDS = [".", "the", "cat", "sleeps"]


class Table(nn.Module):
    "A model that says nothing of its vocabulary."

    def __init__(self, size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(size, size))

    def forward(self, input_ids, attention_mask):
        return self.table[input_ids]


class Embedded(Table):
    def __init__(self, size):
        super().__init__(size)
        self.embed = nn.Embedding(size, size)

    def forward(self, input_ids, attention_mask):
        return self.embed(input_ids)


def gpt2(size, head=None):
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    )
    if head is not None:
        model.lm_head = nn.Linear(8, head, bias=False)
    return model


def lm_with(model, added="<new>"):
    tokenizer = word_tokenizer(WORDS)
    tokenizer.add_tokens([added])
    return LM(model, tokenizer, name="mine")


SIZE = len(word_tokenizer(WORDS))
PAIRS = Task(
    "t", [MinimalPair("The cat sleeps.", "The cat sleeps."), MinimalPair("The <new> sleeps.", "The cat sleeps.", "p7")]
)
MODELS = {
    "gpt2": lambda: gpt2(SIZE),
    "a shorter head": lambda: gpt2(SIZE + 5, SIZE),
    "a table": lambda: Table(SIZE),
    "an embedding": lambda: Embedded(SIZE),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "call, place",
    [
        (lambda lm: score_pairs(lm, PAIRS), "task 't', pair p7"),
        (lambda lm: gradient_differential(lm, PAIRS), "task 't', pair p7"),
        (lambda lm: score_sentences(lm, ["The cat.", "The <new>."]), "sentence 1"),
        (lambda lm: text_loss(lm, ["The <new>."]), "text 0"),
    ],
)
def test_a_token_beyond_the_embedding_is_named(model, call, place):
    with pytest.raises(TaskspaceError) as e:
        call(lm_with(MODELS[model]()))
    said = str(e.value)
    assert said.startswith(f"{place}: token '<new>' has id {SIZE}, but the ids of model 'mine' go from 0 to {SIZE - 1}")
    assert "resize_token_embeddings" in said and "\n" not in said


def test_a_prefix_beyond_the_embedding_is_named():
    tokenizer = word_tokenizer(WORDS)
    tokenizer.add_special_tokens({"bos_token": "<start>"})
    with pytest.raises(TaskspaceError, match=f"pair 0: token '<start>' has id {SIZE}, but the ids of model 'mine'"):
        score_pairs(LM(gpt2(SIZE), tokenizer, name="mine"), PAIRS)


def test_resized_embeddings_are_enough():
    model = gpt2(SIZE)
    model.resize_token_embeddings(SIZE + 1)
    assert len(score_pairs(lm_with(model), PAIRS)) == 2


@pytest.mark.parametrize("text", ["The cat \ud83d sleeps.", "\udc00", "The cat\udfff"])
@pytest.mark.parametrize("space", [False, True])
def test_lone_surrogates_are_refused(text, space):
    from taskspace.scoring.convention import convention_of
    from taskspace.scoring.encoding import encode_sentences

    lm = lm_with(gpt2(SIZE + 1))
    with pytest.raises(TaskspaceError, match="sentence 0: .*holds a lone surrogate .half of a character., U.D") as e:
        encode_sentences(lm, [text], convention_of(leading_space=space), "sentence {}".format)
    assert "\n" not in str(e.value) and str(e.value).encode()
