"""A shortcut is taken only where it is proven, for all weights; a model that is not causal is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from taskspace.errors import TaskspaceError
from taskspace.models.lm import LM
from taskspace.pretraining.architectures import build, TransformerConfig
from taskspace.scoring.logprobs import find_shortcuts, sequence_logprobs, Shortcuts, token_logprobs
from taskspace.toy import WordTokenizer

SIZE = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    initializer_range=0.3,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=1,
    rotary_dim=8,
    num_experts_per_tok=2,
)
SEQUENCES = [
    [0, *torch.randint(2, 96, (n % 7 + 2,), generator=torch.Generator().manual_seed(n)).tolist()] for n in range(12)
]
SEQUENCES += [[*s[:3], 5, 6] for s in SEQUENCES[:4]]


def transformer(kind, **more):
    "A small random model of transformers; settings that its kind lacks are left out."
    config = AutoConfig.for_model(kind)
    known = {*config.to_dict(), *config.attribute_map}
    settings = {k: v for k, v in {**SIZE, **more}.items() if k in known or k in more}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


def naive(lm, ids):
    x = torch.tensor([ids])
    with torch.no_grad():
        logp = lm.logits(x, torch.ones_like(x)).float().log_softmax(-1)
    return float(logp[0, :-1].gather(1, x[0, 1:, None]).double().sum())


def gap(lm):
    "Furthest from the textbook, in nats."
    return np.abs(sequence_logprobs(lm, SEQUENCES) - [naive(lm, s) for s in SEQUENCES]).max()


def lm_of(model, dtype=torch.float32):
    return LM(model.to(dtype), WordTokenizer(), name=type(model).__name__)


class Own(nn.Module):
    "A causal model of one's own, with something behind its output layer."

    def __init__(self, behind=lambda logits, self: logits, bias=True, spread=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.body = build(TransformerConfig(96, 16, 1, num_attention_heads=2))
        self.body.head = nn.Identity()
        self.head = nn.Linear(16, 96, bias=bias)
        nn.init.normal_(self.head.weight, std=spread)
        self.behind, self.zero, self.one = behind, nn.Parameter(torch.zeros(96)), nn.Parameter(torch.ones(()))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask):
        return self.behind(self.head(self.body(input_ids, attention_mask)), self)


def cap_in_place(logits, self):
    return logits.div_(30).tanh_().mul_(30)


def cap_through_data(logits, self):
    logits.data.div_(30).tanh_().mul_(30)
    return logits


BEHIND = {
    "cap": lambda logits, self: 30 * torch.tanh(logits / 30),
    "cap in place": cap_in_place,
    "cap through data": cap_through_data,
    "scale that starts at one": lambda logits, self: logits * self.one,
    "bias that starts at zero": lambda logits, self: logits + self.zero,
    "scale of nearly one": lambda logits, self: logits * 1.01,
    "half precision between": lambda logits, self: logits.double().to(torch.float8_e5m2).float(),
    "earlier positions, not yet": lambda logits, self: logits + self.zero[0] * logits.cumsum(1),
    "maximum taken off": lambda logits, self: logits - logits.amax(-1, keepdim=True),
    "log probabilities": lambda logits, self: logits.log_softmax(-1),
    "large logits cut off": lambda logits, self: logits.clamp(-50, 50),
    "a word that is never said": lambda logits, self: logits.index_fill(-1, torch.tensor([7]), -60.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("behind", BEHIND)
def test_nothing_behind_an_output_layer_is_lost(behind, dtype):
    lm = lm_of(Own(BEHIND[behind]), dtype)
    assert find_shortcuts(lm, [3, 4, 5]).head == "full"
    assert gap(lm) < 1e-4
    with torch.no_grad():  # as after training: a head ten times as large, what was zero or one no longer is
        lm.model.head.weight.mul_(10)
        lm.model.zero.normal_()
        lm.model.one.fill_(0.3)
    assert gap(lm) < 1e-4 * max(1, abs(naive(lm, SEQUENCES[0])) / 100)


PASSING = {
    "nothing": lambda logits, self: logits,
    "another view": lambda logits, self: logits.view(-1, 96).view(logits.shape),
    "a wider type": lambda logits, self: logits.double(),
    "all positions": lambda logits, self: logits[:, 0:, :],
}


@pytest.mark.parametrize("behind", PASSING)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_head_stays_fast_at_all_weights(behind, bias):
    lm = lm_of(Own(PASSING[behind], bias))
    assert find_shortcuts(lm, [3, 4, 5]).head == "linear"
    assert gap(lm) < 1e-4
    with torch.no_grad():
        for p in lm.model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    assert find_shortcuts(lm, [3, 4, 5]).head == "linear" and gap(lm) < 1e-4


SCALED = {
    "gemma2": {"final_logit_softcapping": 30.0},
    "gemma3_text": {"final_logit_softcapping": 30.0},
    "recurrent_gemma": {"logits_soft_cap": 30.0},
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.98},
    "granite": {"logits_scaling": 1.02},
    "granitemoe": {"logits_scaling": 8.0},
}
PLAIN = (
    "gpt2",
    "gpt_neox",
    "llama",
    "qwen2",
    "qwen3",
    "phi",
    "olmo2",
    "gptj",
    "opt",
    "bloom",
    "mixtral",
    "mamba",
    "bert",
)


@pytest.mark.parametrize("kind", [*SCALED, *PLAIN])
def test_architectures_equal_the_textbook(kind):
    more = SCALED.get(kind, {"is_decoder": True} if kind == "bert" else {})
    lm = lm_of(transformer(kind, **more))
    assert find_shortcuts(lm, [3, 4, 5]).head == ("rows" if kind in SCALED else "linear")
    assert gap(lm) < 1e-4  # worst seen: 6.2e-6
    # bfloat16 rounds logits, and the slices round them in bits: worst seen .08 nats a sentence
    assert gap(lm_of(lm.model, torch.bfloat16)) < (1e-4 if kind in SCALED else 0.15)


@pytest.mark.parametrize("kind", ["gemma2", "own"])
def test_a_cap_counts_after_training_in_place(kind):
    "The head starts at zero, where a cap, a scale and nothing at all give the same numbers."
    model = (
        transformer("gemma2", final_logit_softcapping=5.0, tie_word_embeddings=False)
        if kind == "gemma2"
        else Own(BEHIND["cap"])
    )
    head = model.get_output_embeddings()
    with torch.no_grad():
        for p in head.parameters():
            p.zero_()
    lm = lm_of(model)
    assert gap(lm) < 1e-4
    optimizer = torch.optim.SGD(head.parameters(), lr=100.0)
    for _ in range(3):
        optimizer.zero_grad()
        (-sum(t.sum() for t in token_logprobs(lm, SEQUENCES, [1] * len(SEQUENCES)))).backward()
        optimizer.step()
    assert head.weight.abs().max() > 1 and gap(lm) < 1e-3


def test_a_setting_or_hook_that_comes_later_counts():
    lm = lm_of(transformer("gemma2", final_logit_softcapping=None))
    assert find_shortcuts(lm, [3, 4]).head == "linear"
    lm.model.config.final_logit_softcapping = 2.0
    assert find_shortcuts(lm, [3, 4]).head == "rows" and gap(lm) < 1e-4
    own = lm_of(Own(lambda logits, self: logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)))
    own.model.cap = None
    assert gap(own) < 1e-4 and find_shortcuts(own, [3, 4]).head == "linear"
    own.model.cap = 0.5
    assert gap(own) < 1e-4 and find_shortcuts(own, [3, 4]).head == "full"
    gpt = lm_of(transformer("gpt2"))
    assert find_shortcuts(gpt, [3, 4]) == Shortcuts("linear", True)

    def silence(module, args, out):
        "An intervention at one position, which shared rows would move."
        return torch.cat([out[:, :2], 0 * out[:, 2:3], out[:, 3:]], 1)

    handle = gpt.model.transformer.h[1].mlp.register_forward_hook(silence)
    assert find_shortcuts(gpt, [3, 4]) == Shortcuts("linear", False) and gap(gpt) < 1e-4
    handle.remove()
    assert find_shortcuts(gpt, [3, 4]) == Shortcuts("linear", True)
    old = gpt.model.lm_head.forward
    gpt.model.lm_head.forward = lambda x: 3 * torch.tanh(old(x) / 3)
    assert gap(gpt) < 1e-4 and find_shortcuts(gpt, [3, 4]) == Shortcuts("full", False)


def test_a_class_of_ones_own_shares_no_rows():
    "Its attention may look past the mask by a weight that is zero today."
    from transformers import GPT2LMHeadModel

    class Gated(GPT2LMHeadModel):
        def __init__(self, config):
            super().__init__(config)
            self.gate = nn.Parameter(torch.zeros(()))

        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            x = self.transformer(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
            return (self.lm_head(x + self.gate * nn.functional.pad(x, (0, 0, 1, -1))),)

    lm = lm_of(Gated(transformer("gpt2").config))
    assert find_shortcuts(lm, [3, 4]) == Shortcuts("linear", False)
    with torch.no_grad():
        lm.model.gate.fill_(2.0)
    assert gap(lm) < 1e-4


# Causality


class Bag(nn.Module):
    "Every position sees the mean of all tokens, as far as a weight lets it."

    def __init__(self, weight=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.weight = nn.Embedding(96, 16), nn.Linear(16, 96), nn.Parameter(torch.tensor(weight))

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        return self.head(x + self.weight * x.mean(1, keepdim=True))


class Peeking(nn.Module):
    "Each position sees the next token alone."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(96, 96)

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids)
        return nn.functional.pad(x[:, 1:], (0, 0, 0, 1)) + x


class BothWays(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.lstm = nn.Embedding(96, 16), nn.LSTM(16, 8, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 96)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask):
        return self.head(self.lstm(self.embed(input_ids))[0])


BIDIRECTIONAL = {
    "xlnet": lambda **more: transformer("xlnet", d_model=32, n_layer=2, n_head=4, d_inner=48, **more),
    "xlm": lambda **more: transformer("xlm", emb_dim=32, n_layers=2, n_heads=4, **more),
    **{
        kind: lambda kind=kind, **more: transformer(kind, is_decoder=False, **more)
        for kind in ("bert", "roberta", "electra", "megatron-bert", "roformer")
    },
    "bag": lambda **more: Bag(),
    "peeking": lambda **more: Peeking(),
    "both ways": lambda **more: BothWays(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.02, 0.3])
@pytest.mark.parametrize("kind", BIDIRECTIONAL)
def test_models_that_look_ahead_are_refused(kind, spread, dtype):
    lm = lm_of(BIDIRECTIONAL[kind](initializer_range=spread), dtype)
    lm.objective = "causal"  # of XLM the configuration says otherwise
    for call in (
        lambda: sequence_logprobs(lm, SEQUENCES),
        lambda: token_logprobs(lm, SEQUENCES, [1] * len(SEQUENCES)),
    ):
        with pytest.raises(TaskspaceError, match="looks at later tokens.*choose a causal model") as e:
            call()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "olmoe", "bloom", "mamba", "gpt2"])
def test_causal_models_pass_in_every_type(kind, dtype):
    "Mixtures of experts round by what else is in the batch."
    for spread in (0.02, 0.3):
        lm = lm_of(transformer(kind, initializer_range=spread, num_experts=4, num_local_experts=4), dtype)
        assert np.isfinite(sequence_logprobs(lm, SEQUENCES)).all()


def test_a_quantised_causal_model_passes():
    model = torch.ao.quantization.quantize_dynamic(transformer("llama"), {nn.Linear}, dtype=torch.qint8)
    assert np.isfinite(sequence_logprobs(LM(model, WordTokenizer()), SEQUENCES)).all()


def test_the_look_is_repeated_where_it_showed_nothing():
    lm = lm_of(Bag(weight=0.0))
    assert np.isfinite(sequence_logprobs(lm, SEQUENCES)).all()
    with torch.no_grad():
        lm.model.weight.fill_(1.0)
    with pytest.raises(TaskspaceError, match="'Bag' looks at later tokens"):
        sequence_logprobs(lm, SEQUENCES)


def test_the_look_happens_once(monkeypatch):
    from taskspace.scoring import logprobs

    looks = []
    real = logprobs.check_causal
    monkeypatch.setattr(logprobs, "check_causal", lambda *args: looks.append(1) or real(*args))
    lm = lm_of(transformer("gpt2"))
    for _ in range(3):
        sequence_logprobs(lm, SEQUENCES)
        with torch.no_grad():
            lm.model.transformer.wte.weight.add_(0.01)
    assert len(looks) == 1


# What a model gives


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.weight, self.make = nn.Parameter(torch.zeros(1)), make

    def forward(self, input_ids, attention_mask):
        return self.make(torch.nn.functional.one_hot(input_ids, 96).float())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: x[:, -1], r"gives a tensor of shape \(\d+, 96\), not logits of shape \(batch, length, vocabulary\)"),
        (lambda x: x[:, 1:], r"gives a tensor of shape \(\d+, 7, 96\)"),
        (lambda x: x.transpose(1, 2), r"gives a tensor of shape"),
        (lambda x: x[0], r"gives a tensor of shape \(8, 96\)"),
        (lambda x: x.sum(), r"gives a tensor of shape \(\)"),
        (lambda x: x[None], r"gives a tensor of shape"),
        (lambda x: x.long(), "gives numbers of type int64"),
        (lambda x: x > 0, "gives numbers of type bool"),
        (lambda x: x.to(torch.complex64), "gives numbers of type complex64"),
        (lambda x: {"scores": x}, "gives an object of type dict"),
        (lambda x: x.numpy(), "gives an object of type ndarray"),
        (lambda x: None, "gives an object of type NoneType"),
        (lambda x: [x], "gives an object of type list"),
        (lambda x: (), "cannot be called with"),
        (lambda x: x[..., :40], "gives 40 logits a position, but token id"),
        (lambda x: x.no_such, "cannot be called with .*AttributeError"),
        (lambda x: x.view(-1, 7, 7), "cannot be called with .*RuntimeError: shape"),
        (lambda x: {}[1], "cannot be called with .*KeyError: 1"),
        (lambda x: x.to(torch.float8_e4m3fn), "gives numbers of type float8_e4m3fn"),
        (lambda x: x.to_sparse(), "a tensor without all its numbers"),
        (lambda x: x.to("meta"), "a tensor without all its numbers"),
        (lambda x: x + torch.randn_like(x), "gives the same tokens other logits each time"),
    ],
)
def test_what_is_no_logits_is_refused_in_one_line(make, message):
    with pytest.raises(TaskspaceError, match=message) as e:
        sequence_logprobs(LM(Gives(make), WordTokenizer(), name="mine"), [[0, 50, 60], *SEQUENCES])
    assert "\n" not in str(e.value) and "'mine'" in str(e.value)


def test_the_gap_of_a_wide_output_layer_is_float32_and_nothing_else():
    """RemBERT adds up 1664 products for each logit, and here a sentence has up to -325 nats. In float32 the
    fast score is 2.1e-4 from the naive one, as a product of a batch is added up in another order: the whole logits
    of the padded batch are 2.4e-4 away too. In float64 nothing is left (measured: 1e-13)."""
    model = transformer("rembert", is_decoder=True)
    exact = LM(model.double(), WordTokenizer(), name="rembert")
    with torch.no_grad():
        textbook = [float(logp_of(exact.model, s)) for s in SEQUENCES]
    assert np.abs(sequence_logprobs(exact, SEQUENCES) - textbook).max() < 1e-10
    assert np.abs(textbook).max() > 300
    assert np.abs(sequence_logprobs(lm_of(model), SEQUENCES) - textbook).max() < 1e-6 * np.abs(textbook).max()


def logp_of(model, ids):
    "The sum of log-probabilities of one sentence, in the type of the weights."
    x = torch.tensor([ids])
    logp = model(input_ids=x, attention_mask=torch.ones_like(x)).logits.log_softmax(-1)
    return logp[0, :-1].gather(1, x[0, 1:, None]).sum()


class NeverOff(nn.Module):
    "Dropout that evaluation mode does not stop."

    def __init__(self, share):
        super().__init__()
        torch.manual_seed(0)
        self.share = share
        self.tok, self.rnn, self.proj = nn.Embedding(20, 64), nn.GRU(64, 64, batch_first=True), nn.Linear(64, 20)

    def forward(self, ids, mask):
        return self.proj(nn.functional.dropout(self.rnn(self.tok(ids))[0], self.share))


@pytest.mark.parametrize("share", [0.1, 0.01, 0.003, 0.002])
def test_a_little_dropout_that_is_never_off_is_refused(share):
    lm = LM(NeverOff(share), WordTokenizer())
    torch.manual_seed(1)
    with pytest.raises(TaskspaceError, match="gives the same tokens other logits each time"):
        find_shortcuts(lm, [3, 4, 5])
    find_shortcuts(LM(NeverOff(0.0), WordTokenizer()), [3, 4, 5])
