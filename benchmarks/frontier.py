"""What tuning gains and what it costs: FTGD against ordinary fine-tuning and the controls; whether probes find the
planted rules.

python benchmarks/frontier.py frontier [--scale nano micro mini] [--out DIR]
    gain of held-out margin against loss on ordinary text
python benchmarks/frontier.py rules [--scale mini] [--update differential full random shuffled] [--out DIR]
    within-rule AUC
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd

from taskspace import FTGD, gradient_probe, load_lm, load_suite, transfer_probe, tune
from taskspace.pretraining.builtin import builtin_steps
from taskspace.scoring.scores import accuracy, score_pairs
from taskspace.tasks.grammar import corpus

TEXT = corpus(300, seed=99)[-150:]


def unsolved(lm, suite, limit=0.9):
    "The tasks whose accuracy is below the limit."
    scores = accuracy(score_pairs(lm, suite))
    return [t for t in suite.names if scores[t] < limit], float(scores.mean())


def pick_step(scale, suite):
    "The latest checkpoint at which a third of the tasks, or at least four, are unsolved."
    for step in reversed(builtin_steps(scale)):
        lm = load_lm(f"builtin:{scale}@{step}")
        names, mean = unsolved(lm, suite)
        if len(names) >= max(4, len(suite) // 3):
            return lm, names, mean
    return lm, names, mean


SETTINGS = [FTGD(update="full", lr=lr) for lr in (1e-4, 3e-4, 1e-3, 3e-3)]
SETTINGS += [FTGD(keep=k, lr=lr) for k in (0.001, 0.01, 0.1) for lr in (3e-4, 1e-3, 3e-3, 1e-2)]
SETTINGS += [FTGD(update=u, lr=lr) for u in ("masked", "random") for lr in (1e-3, 3e-3, 1e-2)]


def frontier(args) -> None:
    suite = load_suite("builtin").take(100)
    rows = []
    for scale in args.scale:
        parts = suite.split(50, 50, 0)
        lm, names, mean = pick_step(scale, parts.eval)
        names = names[:: max(1, len(names) // args.tasks)][: args.tasks]
        print(f"{lm}: mean accuracy {mean:.3f}; tasks {', '.join(names)}", flush=True)
        for f in SETTINGS:
            f = replace(f, steps=args.steps, every=2)
            logs = [
                tune(lm, parts.train[n], f, eval_task=parts.eval[n], reference=TEXT).log.dropna(subset=["eval_margin"])
                for n in names
            ]
            for k, step in enumerate(logs[0].step):
                gain = np.mean([g.eval_margin.iloc[k] - g.eval_margin.iloc[0] for g in logs])
                cost = np.mean([np.log(g.perplexity.iloc[k] / g.perplexity.iloc[0]) for g in logs])
                rows.append(
                    (
                        scale,
                        lm.step,
                        f.update,
                        f.keep if f.update != "full" else 1.0,
                        f.lr,
                        step,
                        gain,
                        cost,
                        np.mean([g.eval_accuracy.iloc[k] for g in logs]),
                    )
                )
    table = pd.DataFrame(
        rows, columns=["scale", "checkpoint", "update", "keep", "lr", "step", "gain", "cost", "accuracy"]
    )
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "frontier.csv", index=False)
    chart(table).save(args.out / "frontier.html")
    for scale, t in table.groupby("scale", sort=False):
        last = t[t.step == args.steps]
        print(
            f"\n{scale}, after {args.steps} "
            f"steps\n{last.drop(columns=['scale', 'checkpoint', 'step']).round(3).to_string(index=False)}"
        )
        print(at_equal_gain(t).round(3).to_string(index=False))


def at_equal_gain(t: pd.DataFrame) -> pd.DataFrame:
    "The least loss increase at which each update reaches a gain, of those that ordinary fine-tuning reaches."

    def cost(rows: pd.DataFrame, gain: float) -> float:
        return rows[rows.gain >= gain].cost.min()

    full, ours = t[t["update"] == "full"], t[(t["update"] == "differential")]
    grid = [g for g in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0) if (full.gain >= g).any()] or [full.gain.max()]
    default = ours[(ours.keep == FTGD().keep) & (ours.lr == FTGD().lr)]
    return pd.DataFrame(
        [
            (
                g,
                cost(full, g),
                cost(ours, g),
                cost(default, g),
                cost(ours, g) / cost(full, g),
                cost(default, g) / cost(full, g),
            )
            for g in grid
        ],
        columns=["gain", "full", "FTGD", "FTGD default", "FTGD/full", "default/full"],
    )


def chart(table):
    import altair as alt

    t = table.assign(
        setting=[f"{u} {k:g} lr {lr:g}" for u, k, lr in zip(table["update"], table.keep, table.lr, strict=True)]
    )
    return (
        alt.Chart(t)
        .mark_line(point=True)
        .encode(
            x=alt.X("gain", title="gain of held-out margin (nats)"),
            y=alt.Y("cost", title="loss increase on ordinary text (nats a token)"),
            color="update",
            detail="setting",
            order="step",
            tooltip=["setting", "step", "gain", "cost", "accuracy"],
            column="scale",
        )
    )


def rules(args) -> None:
    suite = load_suite("builtin").take(100)
    rule = {t.name: t.rules[0] for t in suite}
    rows = []
    for scale in args.scale:
        for step in args.step or [builtin_steps(scale)[-1]]:
            lm = load_lm(f"builtin:{scale}@{step}")
            parts = suite.split(50, 50, 0)
            names, mean = unsolved(lm, parts.eval)
            found = {}
            probe = gradient_probe(lm, parts.train)
            for m in ("cosine", "overlap", "alignment", "sign_agreement"):
                found[f"gradient {m}"] = probe[m]
            for update in args.update:
                shuffled = update == "shuffled"
                start = time.perf_counter()
                for metric in ("margin",):
                    f = FTGD(update="differential" if shuffled else update, steps=args.steps, lr=args.lr)
                    found[f"transfer {update}"] = transfer_probe(lm, suite, f, 50, 50, shuffled=shuffled, metric=metric)
                print(f"{scale}@{step} {update}: {time.perf_counter() - start:.0f} s", flush=True)
            for name, space in found.items():
                test = space.within_across(rule, permutations=999)
                rows.append((scale, step, mean, len(names), name, test.statistic, test.p, np.diag(space.matrix).mean()))
    table = pd.DataFrame(rows, columns=["scale", "step", "accuracy", "unsolved", "space", "auc", "p", "diagonal"])
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "rules.csv", index=False)
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="what", required=True)
    p = sub.add_parser("frontier")
    p.add_argument("--scale", nargs="+", default=["nano", "micro", "mini"])
    p.add_argument("--tasks", type=int, default=6)
    p.add_argument("--steps", type=int, default=10)
    q = sub.add_parser("rules")
    q.add_argument("--scale", nargs="+", default=["mini"])
    q.add_argument("--step", nargs="+", type=int)
    q.add_argument("--steps", type=int, default=FTGD().steps)
    q.add_argument("--lr", type=float, default=FTGD().lr)
    q.add_argument("--update", nargs="+", default=["differential", "full", "random", "shuffled"])
    for s in (p, q):
        s.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    {"frontier": frontier, "rules": rules}[args.what](args)
