"""The architectures against naive computations, under every padding, and through files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from taskspace.errors import TaskspaceError
from taskspace.pretraining.architectures import (
    BigramConfig,
    BigramLM,
    build,
    CNNConfig,
    load_model,
    LSTMConfig,
    MODELS,
    save_model,
    saved_architecture,
    solu,
    tokens_first,
    TransformerConfig,
    twins,
)

VOCAB = 23
CONFIGS = {
    "gelu": TransformerConfig(VOCAB, 16, 2, num_attention_heads=2, max_position_embeddings=24),
    "solu": TransformerConfig(VOCAB, 16, 2, num_attention_heads=2, max_position_embeddings=24, activation="solu"),
    "solu+norm": TransformerConfig(
        VOCAB, 16, 1, num_attention_heads=4, max_position_embeddings=24, activation="solu", activation_norm=True
    ),
    "untied": TransformerConfig(
        VOCAB, 16, 1, tie_word_embeddings=False, num_attention_heads=2, max_position_embeddings=24
    ),
    "lstm": LSTMConfig(VOCAB, 16, 2),
    "lstm untied": LSTMConfig(VOCAB, 16, 1, tie_word_embeddings=False),
    "cnn": CNNConfig(VOCAB, 16, 2, kernel_size=3),
    "bigram": BigramConfig(VOCAB),
}


def model_of(name, seed=0):
    model = build(CONFIGS[name], seed)
    if name == "bigram":
        with torch.no_grad():
            model.table.copy_(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():  # small initial weights would hide differences
        for p in model.parameters():
            p.mul_(3.0)
    return model


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=5),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6),
    st.data(),
)
def test_padding_anywhere_changes_nothing(name, sentences, junk, data):
    """Alone, and in a batch with arbitrary ids as padding on the left, on the right and on both sides.
    Worst difference seen in 400 batches: 6.7e-6, with weights three times their initial size."""
    model, length = model_of(name), max(map(len, sentences)) + len(junk)
    ids, mask, starts = (
        torch.empty(len(sentences), length, dtype=torch.long),
        torch.zeros(len(sentences), length, dtype=torch.long),
        [],
    )
    for i, s in enumerate(sentences):
        start = data.draw(st.integers(0, length - len(s)))
        ids[i] = torch.tensor((junk * length)[:length])
        ids[i, start : start + len(s)], mask[i, start : start + len(s)] = torch.tensor(s), 1
        starts.append(start)
    with torch.no_grad():
        batched = model(ids, mask, output_hidden_states=True)
        for i, (s, start) in enumerate(zip(sentences, starts, strict=True)):
            alone = model(torch.tensor([s]), output_hidden_states=True)
            for x, y in zip(
                (alone.logits, *alone.hidden_states), (batched.logits, *batched.hidden_states), strict=True
            ):
                assert (x[0] - y[i, start : start + len(s)]).abs().max() < 3e-5
    assert batched.logits.isfinite().all()


def test_padding_ids_are_never_read(name):
    model = model_of(name)
    ids, mask = torch.tensor([[3, 5, -1, 9999]]), torch.tensor([[1, 1, 0, 0]])
    assert torch.equal(model(ids, mask)[:, :2], model(torch.tensor([[3, 5, 1, 2]]), mask)[:, :2])


@pytest.mark.parametrize("name", ["untied", "lstm untied"])  # a tied head uses every row
def test_padding_gets_no_gradient(name):
    """A loss on the tokens alone leaves embedding rows of padding ids untouched."""
    model = model_of(name)
    ids, mask = torch.tensor([[7, 7, 3, 5], [4, 3, 5, 2]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    (model(ids, mask) * mask[..., None]).square().sum().backward()
    assert model.embed.weight.grad[7].abs().max() == 0 < model.embed.weight.grad[3].abs().max()


def test_no_prediction_depends_on_later_tokens(name):
    model = model_of(name)
    a, b = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[1, 2, 3, 9, 8, 7]])
    with torch.no_grad():
        x, y = model(a), model(b)
    # Difference seen: 0. The arithmetic on the first positions is the same, but another BLAS may order it otherwise.
    assert (x[:, :3] - y[:, :3]).abs().max() < 1e-6 < (x[:, 3:] - y[:, 3:]).abs().max()


def test_tokens_first_is_stable():
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 1]])
    naive = [[i for i in range(5) if m[i]] + [i for i in range(5) if not m[i]] for m in mask.tolist()]
    assert tokens_first(mask).tolist() == naive == tokens_first(mask.bool()).tolist()


def test_transformer_equals_the_formulas():
    """Attention and feed-forward written out in float64. Difference seen: 8.9e-16."""
    model = model_of("solu").double()
    ids = [4, 9, 2, 11]
    p = dict(model.named_parameters())

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    x = p["embed.weight"][ids] + p["positions.weight"][:4]
    for i in range(2):
        q, k, v = (
            norm(x, f"layers.{i}.norm_attention") @ p[f"layers.{i}.qkv.weight"].T + p[f"layers.{i}.qkv.bias"]
        ).split(16, dim=1)
        mixed = []
        for h in range(2):
            s = slice(8 * h, 8 * h + 8)
            scores = (q[:, s] @ k[:, s].T / math.sqrt(8)).masked_fill(torch.ones(4, 4).triu(1).bool(), -math.inf)
            mixed.append(scores.softmax(1) @ v[:, s])
        x = x + torch.cat(mixed, 1) @ p[f"layers.{i}.out.weight"].T + p[f"layers.{i}.out.bias"]
        inner = norm(x, f"layers.{i}.norm_ff") @ p[f"layers.{i}.up.weight"].T + p[f"layers.{i}.up.bias"]
        x = (
            x
            + (inner * inner.exp() / inner.exp().sum(1, keepdim=True)) @ p[f"layers.{i}.down.weight"].T
            + p[f"layers.{i}.down.bias"]
        )
    expected = norm(x, "norm") @ p["embed.weight"].T
    assert (model(torch.tensor([ids]))[0] - expected).abs().max() < 1e-12


def test_cnn_equals_the_formulas():
    """Each position from its three newest tokens, in float64. Difference seen: 5.6e-17."""
    model = build(CNNConfig(VOCAB, 8, 1, kernel_size=3), 1).double()
    layer, ids = model.layers[0], [4, 9, 2, 11]
    x = model.embed.weight[ids]
    padded = torch.cat([torch.zeros(2, 8, dtype=torch.double), layer.norm(x)])
    out = torch.stack(
        [torch.einsum("ock,kc->o", layer.conv.weight, padded[t : t + 3]) + layer.conv.bias for t in range(4)]
    )
    expected = model.norm(x + out[:, :8] * out[:, 8:].sigmoid()) @ model.embed.weight.T
    assert (model(torch.tensor([ids]))[0] - expected).abs().max() < 1e-12


def test_cnn_forgets_beyond_its_receptive_field():
    model = model_of("cnn")
    reach = CONFIGS["cnn"].receptive_field
    assert reach == 5
    base = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    changes = []
    for back in range(8):
        other = base.clone()
        other[0, 7 - back] = 20
        changes.append(not torch.equal(model(base)[0, -1], model(other)[0, -1]))
    assert changes == [True] * reach + [False] * (8 - reach)


def test_bigram_is_its_table():
    table = torch.arange(9.0).reshape(3, 3)
    model = BigramLM(table)
    assert torch.equal(model(torch.tensor([[2, 0]])), table[[2, 0]][None])
    table[0, 0] = 5  # the model has a copy
    assert model.table[0, 0] == 0
    model(torch.tensor([[2, 0]])).sum().backward()
    assert model.table.grad.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    fitted = BigramLM.fit([[0, 1, 0, 1], [2], []], 3, smoothing=0.5)
    assert np.allclose(
        fitted.table.detach().exp(), [[0.5 / 3.5, 2.5 / 3.5, 0.5 / 3.5], [1.5 / 2.5, 0.5 / 2.5, 0.5 / 2.5], [1 / 3] * 3]
    )


def test_solu_keeps_the_largest():
    assert torch.allclose(solu(torch.tensor([0.0, 0.0])), torch.zeros(2))
    assert torch.allclose(
        solu(torch.tensor([9.0, 1.0])),
        torch.tensor([9.0, 1.0]) * torch.tensor([9.0, 1.0]).exp() / torch.tensor([9.0, 1.0]).exp().sum(),
    )


def test_twins_differ_in_activation_alone():
    pair = twins(CONFIGS["untied"], seed=3)
    assert list(pair) == ["solu", "gelu"]
    a, b = (dict(m.named_parameters()) for m in pair.values())
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert [m.config.activation for m in pair.values()] == ["solu", "gelu"]
    assert not any(
        torch.equal(x, y)
        for x, y in zip(pair["gelu"].parameters(), twins(CONFIGS["untied"], seed=4)["gelu"].parameters(), strict=True)
        if x.dim() > 1
    )


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(CONFIGS["lstm"], 9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "bigram"])  # whose table is no projection
def test_head_hooks_can_pick_positions(name):
    """The vocabulary projection is the last thing that happens, on tokens in their places."""
    model = model_of(name)
    head = model.get_output_embeddings()
    ids, mask = torch.tensor([[0, 3, 5], [4, 3, 5]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    full = model(ids, mask)
    handle = head.register_forward_pre_hook(lambda m, args: (args[0][:, -1:],))
    assert torch.allclose(model(ids, mask), full[:, -1:], atol=1e-6)
    handle.remove()


def test_tied_head_is_one_parameter():
    tied, untied = build(CONFIGS["lstm"]), build(CONFIGS["lstm untied"])
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


def test_saved_models_come_back_bit_for_bit(name, tmp_path):
    model = model_of(name)
    again = load_model(save_model(model, tmp_path / "m"))
    assert saved_architecture(tmp_path / "m") == model.kind == MODELS[model.kind].kind
    assert again.config == model.config and not again.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    first = (tmp_path / "m" / "model.safetensors").read_bytes()
    save_model(again, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == first
    assert load_model(tmp_path / "m", torch.bfloat16)(torch.tensor([[1]])).dtype == torch.bfloat16


def test_a_saving_that_breaks_off_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = load_model(save_model(build(CONFIGS["gelu"]), tmp_path))
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(build(CONFIGS["gelu"]), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = load_model(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), again.parameters(), strict=True))


def test_half_precision_survives_saving(tmp_path):
    model = build(CONFIGS["lstm"]).to(torch.bfloat16)
    assert {p.dtype for p in load_model(save_model(model, tmp_path)).parameters()} == {torch.bfloat16}


def test_damaged_directories_are_refused(tmp_path):
    path = save_model(build(CONFIGS["gelu"]), tmp_path / "m")
    weights, config = load_file(path / "model.safetensors"), json.loads((path / "config.json").read_text())
    cases = {
        "truncated": lambda: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-7]),
        "a weight is missing": lambda: save_file(
            {k: v for k, v in weights.items() if k != "layers.1.up.bias"}, path / "model.safetensors"
        ),
        "a weight too many": lambda: save_file({**weights, "spare": torch.zeros(1)}, path / "model.safetensors"),
        "another shape": lambda: save_file({**weights, "norm.bias": torch.zeros(3)}, path / "model.safetensors"),
        "no weights": lambda: (path / "model.safetensors").unlink(),
        "unknown setting": lambda: (path / "config.json").write_text(json.dumps({**config, "rotary": True})),
        "missing setting": lambda: (path / "config.json").write_text(
            json.dumps({k: v for k, v in config.items() if k != "vocab_size"})
        ),
        "unknown architecture": lambda: (path / "config.json").write_text(
            json.dumps({**config, "taskspace_architecture": "mamba"})
        ),
        "no JSON": lambda: (path / "config.json").write_text("{"),
    }
    for damage, make in cases.items():
        save_model(build(CONFIGS["gelu"]), path)
        make()
        with pytest.raises(TaskspaceError, match=str(path)) as e:
            load_model(path)
        assert "\n" not in str(e.value), damage


@pytest.mark.parametrize(
    "kind, changed, message",
    [
        (
            "gelu",
            dict(vocab_size=9),
            r"has {v} tokens (embed.weight), config.json has vocab_size 9; set vocab_size to {v}",
        ),
        (
            "lstm",
            dict(vocab_size=9),
            r"has {v} tokens (embed.weight), config.json has vocab_size 9; set vocab_size to {v}",
        ),
        (
            "gelu",
            dict(hidden_size=64),
            r"has embed.weight of shape ({v}, {h}), by config.json it is ({v}, 64); correct",
        ),
        ("lstm", dict(num_hidden_layers=9), "model.safetensors: lacks "),
    ],
)
def test_other_sizes_are_named_with_file_and_remedy(kind, changed, message, tmp_path):
    config = CONFIGS[kind]
    save_model(build(config), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, **changed}))
    with pytest.raises(TaskspaceError) as e:
        load_model(tmp_path)
    expected = message.format(v=config.vocab_size, h=config.hidden_size)
    assert str(tmp_path / "model.safetensors") in str(e.value) and expected in str(e.value)
    assert "save model and configuration together" in str(e.value)


@pytest.mark.parametrize(
    "settings_, message",
    [
        (dict(vocab_size=0), "vocab_size must be at least 1"),
        (dict(vocab_size=9, hidden_size=30, num_attention_heads=4), "30 must be a multiple"),
        (dict(vocab_size=9, activation="tanh"), "there are: gelu, solu, relu"),
    ],
)
def test_impossible_configurations(settings_, message):
    with pytest.raises(TaskspaceError, match=message):
        TransformerConfig(**settings_)


def test_too_long_an_input():
    with pytest.raises(TaskspaceError, match="25 tokens, the model takes 24"):
        build(CONFIGS["gelu"])(torch.zeros(1, 25, dtype=torch.long))
    assert build(CONFIGS["lstm"])(torch.zeros(1, 300, dtype=torch.long)).shape == (1, 300, VOCAB)
