"""A tiny study for tests of reports: two untrained models with two checkpoints, eight tasks."""

import json
from pathlib import Path

import torch

from taskspace.pretraining.tokens import word_tokenizer
from taskspace.runs.study import PROBES, Study
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.grammar import vocabulary


def tiny_model(folder: Path, width: int, seed: int) -> None:
    "A GPT-2 of a few thousand parameters."
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = word_tokenizer(vocabulary())
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=width,
        n_layer=1,
        n_head=2,
        n_positions=48,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # far from uniform, so that margins are not rounding
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_models(folder: Path) -> dict[str, Path]:
    "Two such models, saved at steps 0 and 1."
    for name, width in (("small", 8), ("large", 16)):
        for step in (0, 1):
            tiny_model(folder / name / f"step{step}", width, step)
    return {name: folder / name for name in ("small", "large")}


def trainings(folder: Path, widths: dict[str, int], names: tuple[str, ...]) -> dict[str, Path]:
    "Models of each width, one for each name, saved at steps 0 and 1; the seed comes from the first letter of the name."
    out = {}
    for size, width in widths.items():
        for name in names:
            out[f"{size} {name}"] = folder / f"{size} {name}"
            for step in (0, 1):
                tiny_model(folder / f"{size} {name}" / f"step{step}", width, 10 * ord(name[0]) + step)
    return out


def trainings_study(folder: Path) -> Study:
    "Two sizes with three trainings each, on eight tasks of four phenomena."
    folders = trainings(folder, {"small": 8, "large": 16}, ("a", "b", "c"))
    models = [{"name": str(path), "label": name, "scale": name.split()[0]} for name, path in folders.items()]
    fields = tiny_study(folder / "tiny").model_dump(exclude={"models", "name"})
    return Study(**{**fields, "models": models, "name": "trainings", "control_checkpoints": "last"})


def tiny_study(folder: Path) -> Study:
    "All probes and one control on eight tasks of four phenomena."
    suite = load_suite("builtin")
    by_phenomenon: dict[str, list[str]] = {}
    for task in suite:
        by_phenomenon.setdefault(task.phenomenon, []).append(task.name)
    names = [n for group in list(by_phenomenon.values())[:4] for n in group[:2]]
    specs = [{"name": str(path), "label": name, "scale": name} for name, path in tiny_models(folder).items()]
    return Study(
        name="tiny",
        models=specs,
        checkpoints="all",
        select=names,
        probes=[*PROBES, "states"],
        train_pairs=4,
        eval_pairs=4,
        score_pairs=6,
        ftgd={"steps": 1},
        controls=["full"],
        reference="builtin",
        reference_texts=5,
    )


HOSTILE = (
    "<script>window.pwned=1</script>",
    '<img src="x.png" onerror="window.pwned=2">',
    "![](http://203.0.113.9/a.png)",
    "{{< env TASKSPACE_SECRET >}}",
    "<!--<script>",
    "$x_1$ and $$y$$",
    "__x__ *y* `z` ~~w~~",
    "constructor",
    "__proto__",
    "toString",
    "a|b || c",
    "=1+1",
    "</script></div></table>",
    "[click](javascript:window.pwned=3)",
    "# head\n\n- item\n\n---\n\n::: {.x}",
    "a--b... \"q\" 'r' &amp; &lt;b&gt;",
    "@online [^1] ^up^ \\(x\\) \\alpha http://203.0.113.9/ {.c #d}",
    "'; alert(1); //",
    "1e3",
    "null",
    "a: b # c",
    "@x" + "y" * 300,
    "\u202eabc\u2028d\x07",
    "```\n```{=html}\n<b>",
)


def hostile_study(folder: Path) -> Study:
    "Names that are markup, code or parts of JavaScript, for tasks, phenomena, models, scales and the study itself."
    rows = [
        {"task": name, "phenomenon": HOSTILE[i // 2], "field": HOSTILE[-1 - i % 3], "good": pair.good, "bad": pair.bad}
        for i, (name, task) in enumerate(zip(HOSTILE, load_suite("builtin"), strict=False))
        for pair in task.pairs[:30]
    ]
    suite = folder / "{{< env TASKSPACE_SECRET >}} __y__ $z$.jsonl"
    suite.parent.mkdir(parents=True, exist_ok=True)
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    models = tiny_models(folder)
    names = {"small": HOSTILE[0], "large": "{{< env TASKSPACE_SECRET >}} __x__ $x$ " + "m" * 300}
    specs = [{"name": str(models[key]), "label": name, "scale": name} for key, name in names.items()]
    return Study(
        name='<img src=x onerror="window.pwned=4"> {{< env TASKSPACE_SECRET >}} $x$ __s__: # 1',
        suite=str(suite),
        models=specs,
        checkpoints="last",
        train_pairs=4,
        eval_pairs=4,
        score_pairs=6,
        ftgd={"steps": 1},
    )
