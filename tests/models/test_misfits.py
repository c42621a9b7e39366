"""Files and arguments that do not fit a model are named before they give wrong numbers."""

import inspect
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from taskspace.devices import pick_dtype
from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import check_model, Checkpoint, digests, loaded_digests
from taskspace.models.loading import check_options, load_lm
from taskspace.pretraining.tokens import word_tokenizer
from taskspace.toy import toy_lm

WORDS = word_tokenizer([".", "the", "cat", "sleeps"])
SIZES = dict(
    vocab_size=len(WORDS),
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    max_position_embeddings=20,
)


def saved(path, kind="llama", shards=False, **more):
    config = AutoConfig.for_model(kind)
    known = {*config.to_dict(), *config.attribute_map}
    config = AutoConfig.for_model(kind, **{k: v for k, v in {**SIZES, **more}.items() if k in known})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(path, **({"max_shard_size": "2KB"} if shards else {}))
    WORDS.save_pretrained(path)
    return path


def add(path, **weights):
    file = path / "model.safetensors"
    save_file({**load_file(file), **weights}, file, metadata={"format": "pt"})


def configure(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(message, call):
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


LAYER = "model.layers.0."


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            ["self_attn.q_proj.lora_A.weight", "self_attn.q_proj.lora_B.weight"],
            "lora_A.weight and 1 more.; merge the adapters",
        ),
        (["self_attn.q_proj.lora_A.default.weight"], "lora_A.default.weight.; merge the adapters"),
        (["mlp.adapter.down.weight"], "adapter.down.weight.; merge the adapters"),
        (["self_attn.q_proj.bias"], "self_attn.q_proj.bias.; correct config.json where it switches them off"),
        (["mlp.router.weight"], "mlp.router.weight"),
        (["self_attn.q_norm.weight", "self_attn.k_norm.weight"], "self_attn.k_norm.weight and 1 more"),
    ],
)
def test_weights_that_a_model_would_not_use_are_named(tmp_path, keys, message):
    saved(tmp_path)
    add(tmp_path, **{LAYER + k: torch.ones(4) for k in keys})
    refused(
        f"{tmp_path}: the files hold weights that the model does not use .{LAYER}.*{message}", lambda: load_lm(tmp_path)
    )


@pytest.mark.parametrize(
    "kind, switch", [("llama", "attention_bias"), ("llama", "mlp_bias"), ("phi", None), ("olmo2", None)]
)
def test_layers_and_biases_that_the_configuration_switches_off_are_named(tmp_path, kind, switch):
    saved(tmp_path, kind, **({switch: True} if switch else {}), num_hidden_layers=2)
    configure(tmp_path, **({switch: False} if switch else {"num_hidden_layers": 1}))
    refused(
        "the files hold weights that the model does not use .* and [0-9]+ more.; correct config.json",
        lambda: load_lm(tmp_path),
    )


@pytest.mark.parametrize(
    "kind, key",
    [
        ("llama", LAYER + "self_attn.rotary_emb.inv_freq"),
        ("llama", "model.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("gptj", "transformer.h.0.attn.masked_bias"),
        ("bert", "bert.embeddings.position_ids"),
    ],
)
def test_what_a_model_computes_by_itself_may_stand_in_a_file(tmp_path, kind, key):
    saved(tmp_path, kind, is_decoder=True, n_embd=16, n_layer=1, n_head=2, rotary_dim=8, n_positions=20)
    add(tmp_path, **{key: torch.ones(4)})
    assert load_lm(tmp_path, device="cpu").n_parameters


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("by", [-2, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_another_vocabulary_is_told_in_both_sizes(tmp_path, shards, by, tied):
    saved(tmp_path, shards=shards, tie_word_embeddings=tied)
    n = len(WORDS)
    configure(tmp_path, vocab_size=n + by)
    refused(
        f"{tmp_path}: model[-0-9a-z]*.safetensors has {n} tokens .*, config.json has vocab_size {n + by}; "
        f"set vocab_size to {n}",
        lambda: load_lm(tmp_path),
    )


def test_other_sizes_are_told_as_shapes(tmp_path):
    saved(tmp_path)
    configure(tmp_path, intermediate_size=48)
    refused(
        r"model.safetensors has model.layers.0.mlp.*of shape \(.*32.*\), by config.json it is \(.*48.*\); correct",
        lambda: load_lm(tmp_path),
    )


@pytest.mark.parametrize(
    "file, content, says",
    [
        ("config.json", "[" * 100_000, "cannot load the configuration: .*correct config.json"),
        ("config.json", "null", "cannot load the configuration: .*correct config.json"),
        ("config.json", '{"model_type": "llama", "num_attention_heads": "two"}', "'num_attention_heads' expected int"),
        ("config.json", '{"model_type": "llama", "hidden_act": "evil"}', "KeyError: 'evil'; compare config.json with"),
        ("tokenizer_config.json", "[]", "cannot load the tokenizer: .*; save the tokenizer again"),
        ("tokenizer_config.json", None, "no tokenizer_config.json, so the tokenizer does not know which token begins"),
        ("tokenizer.json", "[" * 100_000, "cannot load the tokenizer: .*; save the tokenizer again"),
    ],
)
def test_damaged_files_are_one_line_with_a_remedy(tmp_path, file, content, says):
    saved(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    refused(f"{tmp_path}: .*{says}", lambda: load_lm(tmp_path))


@pytest.mark.parametrize("part", ["Config", "Tokenizer"])
def test_code_beside_a_model_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch, part):
    saved(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    if part == "Config":
        configure(tmp_path, model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"})
    else:
        settings = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.T", None]}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    refused("brings code of its own, which is not run; .* trust_remote_code=True", lambda: load_lm(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["", None, 3, b"gpt2", "x" * 5000, "~nobody/" + "x" * 300, "builtin:nano@"])
def test_a_name_that_is_none_is_one_line(name):
    refused("load_lm: a model is given by its name|no such directory|'' is not a step", lambda: load_lm(name))


@pytest.mark.parametrize(
    "odd, hint",
    [("atn_implementation", "did you mean 'attn_implementation'"), ("qqq", "there are: "), ("dtyp", "there are")],
)
def test_unknown_arguments_are_refused_before_anything_is_read(tmp_path, odd, hint):
    saved(tmp_path)
    refused(f"{tmp_path}: loading takes no argument '{odd}'; {hint}", lambda: load_lm(tmp_path, **{odd: 1}))
    for name in (str(tmp_path), "lab/tiny"):
        point = Checkpoint("mine", "m", name, kwargs=json.dumps({odd: 1}))
        refused(f"model mine: loading takes no argument '{odd}'; {hint}", lambda point=point: check_model(point))
    refused("loading takes no argument 'dtype'", lambda: check_options("m", {"dtype": "float32"}))


def test_a_loader_is_asked_what_it_takes_before_the_run():
    point = Checkpoint("mine", "m", "x.json", loader="taskspace.models.loading:load_lm", kwargs='{"seed": 0}')
    check_model(point)
    for kwargs in ('{"word": 1}', '{"name": 1}'):
        refused(
            "model mine: loader taskspace.models.loading:lm_config cannot be called with the name, revision",
            lambda kwargs=kwargs: check_model(
                Checkpoint("mine", "m", "x", loader="taskspace.models.loading:lm_config", kwargs=kwargs)
            ),
        )


def own_loader(name, revision=None, **kwargs):
    "A loader of one's own, which knows nothing of devices and types."
    lm = toy_lm()
    for key, value in kwargs.items():
        setattr(lm.model, key, value)
    return lm


def test_what_a_loader_gives_is_moved_to_the_type_of_the_study():
    point = Checkpoint("mine", "m", "x", loader=f"{__name__}:own_loader")
    assert point.load("cpu", "auto").dtype == torch.float32
    lm = point.load("cpu", "bfloat16")
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16} and lm.name == "mine"
    assert digests(point) == loaded_digests(own_loader("x"))  # of what the loader gives, whatever the study's type


@pytest.mark.parametrize("sign", [{"is_quantized": True}, {"hf_device_map": {"": "cpu"}}])
def test_weights_that_cannot_be_moved_are_refused_in_one_line(sign):
    point = Checkpoint("mine", "m", "x", loader=f"{__name__}:own_loader", kwargs=json.dumps(sign))
    assert point.load("cpu", "float32").dtype == torch.float32  # as it is
    refused("model mine: its loader gives quantised weights.* so dtype cannot be", lambda: point.load("cpu", "float16"))
    assert point.load().dtype == torch.float32


def test_every_argument_of_transformers_is_known():
    "Those that it reads from its keyword arguments; the rest are its own business, or load_lm's."
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    read = set(re.findall(r'kwargs\.pop\("([a-z]\w*)"', source))
    own = {"state_dict", "output_loading_info", "dtype", "torch_dtype", "tqdm_class"}
    assert len(read) > 15
    check_options("m", dict.fromkeys(read - own))


@pytest.mark.parametrize(
    "dtype",
    ["float8_e4m3fn", "float8_e5m2", torch.float8_e4m3fn, "float4_e2m1fn_x2", "complex64", "int8", "bool", "nn", ""],
)
def test_types_that_torch_does_not_compute_in_are_refused(dtype):
    refused("unknown dtype .*; there are: auto, float32, bfloat16, float16, float64", lambda: pick_dtype(dtype))


# Devices


def test_weights_stay_where_and_as_loading_has_placed_them(tmp_path, monkeypatch):
    saved(tmp_path / "m")
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_, **__: pytest.fail("moved after loading"))
    lm = load_lm(tmp_path / "m", dtype="bfloat16", device_map={"": "cpu"})
    assert lm.dtype == torch.bfloat16 and lm.device.type == "cpu"
    monkeypatch.undo()
    refused(
        "m: device_map places the weights, and device='cpu' does too; give only one",
        lambda: load_lm(tmp_path / "m", device="cpu", device_map={"": "cpu"}),
    )
    refused("m: device_map puts 'the model' on 'cuda:7'", lambda: load_lm(tmp_path / "m", device_map={"": "cuda:7"}))
