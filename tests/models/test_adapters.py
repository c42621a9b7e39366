"""Adapters of PEFT: base plus adapter, in scores, identity, jobs and tuning; an adapter for another base is refused."""

import json
import shutil

import pytest
import torch
from peft import get_peft_model, LoraConfig, PromptTuningConfig
from transformers import AutoConfig, AutoModelForCausalLM

from taskspace import FTGD, gradient_differential, predicted_transfer, score_pairs, tune
from taskspace.errors import TaskspaceError
from taskspace.models.checkpoints import check_model, digests, expand, ModelSpec
from taskspace.models.loading import load_lm
from taskspace.pretraining.tokens import word_tokenizer
from taskspace.runs.execute import run_study
from taskspace.tasks.pairs import MinimalPair, Suite, Task

WORDS = word_tokenizer([".", "the", "a", "cat", "cats", "dog", "dogs", "sleeps", "sleep", "runs", "run"])
PAIRS = [
    MinimalPair(f"the {n} {v} .", f"the {n} {w} .")
    for n, v, w in [
        ("cat", "sleeps", "sleep"),
        ("dogs", "run", "runs"),
        ("dog", "runs", "run"),
        ("cats", "sleep", "sleeps"),
    ]
]
SUITE = Suite("s", (Task("one", tuple(PAIRS[:2])), Task("two", tuple(PAIRS[2:]))))


def llama(seed=0, **more):
    torch.manual_seed(seed)
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    config = AutoConfig.for_model("llama", vocab_size=len(WORDS), max_position_embeddings=20, **{**sizes, **more})
    return AutoModelForCausalLM.from_config(config)


def save_base(path, seed=0, **more):
    llama(seed, **more).save_pretrained(path)
    WORDS.save_pretrained(path)
    return path


def adapted(base, config=None, seed=1):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config or lora())
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn_like(p) * 0.3
    return model.eval()


def lora(**more):
    return LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj", "down_proj"], **more})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    base = save_base(folder / "base")
    adapted(base).save_pretrained(folder / "adapter")
    return folder


def refused(message, call):
    with pytest.raises(TaskspaceError, match=message) as e:
        call()
    assert "\n" not in str(e.value)


def naive(model, text):
    ids = torch.tensor([[WORDS.bos_token_id, *WORDS.encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        logps = model(ids).logits.log_softmax(-1)[0]
    return float(logps[:-1].gather(1, ids[0, 1:, None]).sum())


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["lm_head", "v_proj"], ["embed_tokens"]])
def test_an_adapter_is_scored_on_its_base(place, tmp_path, targets):
    model = adapted(place / "base", lora(target_modules=targets))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    lm = load_lm(tmp_path / "adapter", device="cpu")
    scores = score_pairs(lm, SUITE, convention="blimp")
    prefix = WORDS.bos_token_id is not None
    assert prefix
    wanted = [naive(model, p.good) for p in PAIRS]
    assert abs(scores["logp_good"].to_numpy() - wanted).max() < 1e-4  # measured 3e-6
    plain = score_pairs(load_lm(place / "base", device="cpu"), SUITE)
    assert (scores["margin"] - plain["margin"]).abs().max() > 1e-3
    assert lm.base == str(place / "base") and "adapter on" in repr(lm)


def test_identity_holds_adapter_and_base(place, tmp_path):
    def of(folder, **kwargs):
        (found,) = expand(ModelSpec(name=str(folder), kwargs=kwargs))
        check_model(found)
        return digests(found)

    first = of(place / "adapter")
    moved = shutil.copytree(place / "base", tmp_path / "moved")
    assert of(place / "adapter", base=str(moved)) == first
    other = save_base(tmp_path / "other", seed=5)
    assert of(place / "adapter", base=str(other))[0] != first[0]
    adapted(place / "base", seed=7).save_pretrained(tmp_path / "again")
    assert of(tmp_path / "again")[0] != first[0] and of(tmp_path / "again")[1] == first[1]
    scaled = shutil.copytree(place / "adapter", tmp_path / "scaled")
    settings = json.loads((scaled / "adapter_config.json").read_text())
    (scaled / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 99}))
    assert of(scaled)[0] != first[0]
    a, b = (load_lm(place / "adapter", base=str(x), device="cpu") for x in (moved, other))
    assert a.digest() != b.digest()


def test_adapters_of_one_training_are_checkpoints(place, tmp_path):
    for step in (5, 50):
        adapted(place / "base", seed=step).save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    assert [c.step for c in expand(ModelSpec(name=str(tmp_path / "run"), checkpoints="all"))] == [5, 50]
    assert load_lm(tmp_path / "run", device="cpu").step == 50
    assert load_lm(tmp_path / "run", 5, device="cpu").base == str(place / "base")


def test_an_adapter_for_another_base_is_refused(place, tmp_path):
    wide = save_base(tmp_path / "wide", hidden_size=32)
    refused("adapter: does not fit its base .*size mismatch.*base=", lambda: load_lm(place / "adapter", base=str(wide)))
    short = save_base(tmp_path / "short", num_hidden_layers=1)
    refused(r"the file holds .*layers\.1\.", lambda: load_lm(place / "adapter", base=str(short)))
    long = save_base(tmp_path / "long", num_hidden_layers=3)
    refused(r"the file lacks .*layers\.2\.", lambda: load_lm(place / "adapter", base=str(long)))
    adapted(place / "base", lora(target_modules=["q_proj"])).save_pretrained(tmp_path / "odd")
    file = tmp_path / "odd" / "adapter_config.json"
    file.write_text(file.read_text().replace("q_proj", "c_attn"))
    refused("odd: does not fit its base .*c_attn", lambda: load_lm(tmp_path / "odd"))
    refused("base: is no adapter .*leave base out", lambda: load_lm(place / "base", base=str(wide)))
    refused("nowhere: .*", lambda: load_lm(place / "adapter", base="/nowhere"))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(llama(), prompt).save_pretrained(tmp_path / "prompt")
    refused(
        "adapters of kind PROMPT_TUNING are not scored", lambda: load_lm(tmp_path / "prompt", base=str(place / "base"))
    )


def test_an_adapter_is_tuned_alone_or_with_its_base(place):
    lm = load_lm(place / "adapter", device="cpu")
    before = lm.digest()
    for parameters, own in (
        ("adapter", {"adapter"}),
        ("all", {"adapter", "base"}),
        ("*down_proj.base_layer*", {"base"}),
    ):
        tuned = tune(lm, SUITE["one"], FTGD(keep=1.0, steps=2, parameters=parameters))
        assert {"adapter" if "lora_" in n else "base" for n in tuned.delta} == own
        assert lm.digest() == before
        with tuned.applied(lm):
            assert lm.digest() != before
    refused(
        "no parameter is called '.mlpp.'; write a pattern", lambda: tune(lm, SUITE["one"], FTGD(parameters="*mlpp*"))
    )
    plain = load_lm(place / "base", device="cpu")
    refused("has no adapter; use parameters='all'", lambda: tune(plain, SUITE["one"], FTGD(parameters="adapter")))


def test_first_order_holds_for_an_adapter_alone(place):
    "The predicted change of margins through the adapter's parameters is that of a small step on them."
    lm = load_lm(place / "adapter", device="cpu")
    ftgd = FTGD(keep=1.0, steps=1, lr=1e-3, optimizer="sgd", parameters="adapter")
    predicted = predicted_transfer(lm, SUITE, ftgd).matrix
    start = score_pairs(lm, SUITE).groupby("task")["margin"].mean()
    for source in SUITE:
        with tune(lm, source, ftgd).applied(lm):
            change = score_pairs(lm, SUITE).groupby("task")["margin"].mean() - start
        assert (predicted.loc[source.name] - change).abs().max() < 0.02 * change.abs().max()  # measured 0.005
    assert len(gradient_differential(lm, SUITE["one"])) > len(list(lm.model.named_parameters())) - 1


def test_the_result_of_an_adapter_names_its_base(place, tmp_path):
    pairs = SUITE.to_frame()
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    study = dict(suite=str(tmp_path / "pairs.csv"), probes=["score"], device="cpu")
    models = [str(place / "adapter"), str(place / "base")]
    run = run_study({**study, "models": models}, tmp_path / "run", workers=0, progress=False)
    # Of a folder the last part alone, since where it lies is nobody's business
    assert run.provenance().set_index("model")["base"].fillna("").tolist() == ["base", ""]
