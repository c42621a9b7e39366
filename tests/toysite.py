"""A tiny study for tests of reports: two untrained models with two checkpoints, eight tasks."""

from pathlib import Path

import torch

from taskspace.pretraining.tokens import word_tokenizer
from taskspace.runs.study import Study
from taskspace.tasks.catalogue import load_suite
from taskspace.tasks.grammar import vocabulary


def tiny_models(folder: Path) -> dict[str, Path]:
    "Two GPT-2s of a few thousand parameters, saved at steps 0 and 1."
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = word_tokenizer(vocabulary())
    for name, width in (("small", 8), ("large", 16)):
        for step in (0, 1):
            torch.manual_seed(step)
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
            model.save_pretrained(folder / name / f"step{step}")
            tokenizer.save_pretrained(folder / name / f"step{step}")
    return {name: folder / name for name in ("small", "large")}


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
        train_pairs=4,
        eval_pairs=4,
        score_pairs=6,
        ftgd={"steps": 1},
        controls=["full"],
        reference="builtin",
        reference_texts=5,
    )
