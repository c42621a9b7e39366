"""Measure what the study page "Which probe to believe" shows, and write its extract.

    python benchmarks/which_probe.py --out which_probe_run --scales nano micro mini

Trains every scale with the whole text and once without each rule, and uses every probe on the models that read
everything. Each piece is a file of its own under --out: a run that is cut off goes on where it was, and models are
kept in the cache. When a scale is whole, or with --extract, its pieces become `needs_SCALE.parquet` and
`spaces_SCALE.parquet` beside the page. One training takes about 10 (nano) to 100 (mini) seconds of one core.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from taskspace.files import written
from taskspace.models.loading import load_lm
from taskspace.probing.ablation import ablation_probe
from taskspace.probing.gradient import gradient_probe, predicted_transfer
from taskspace.probing.interchange import interchange_probe
from taskspace.probing.needs import EVERYTHING
from taskspace.probing.transfer import transfer_probe
from taskspace.probing.units import unit_probe
from taskspace.scoring.scores import score_pairs
from taskspace.tasks.grammar import builtin_suite, RULES, SHOWN
from taskspace.tuning.ftgd import FTGD

PAGE = Path(__file__).resolve().parent.parent / "nbs" / "studies" / "which_probe"
SUITE = builtin_suite(80)  # for the probes
HALVES = {"train_pairs": 40, "eval_pairs": 40}  # to choose or tune on, and to measure on
KEEP = FTGD(keep=0.05)


def both(found: Any, name: str) -> dict[str, Any]:
    "A probe's space and its control, by their kinds."
    return {space.kind: space for space in (found[name], found["random"])}


PROBES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "gradients": lambda lm: {
        f"gradient {name}": space
        for name, space in gradient_probe(lm, SUITE, KEEP).items()
        if name in ("cosine", "overlap")
    },
    "predicted": lambda lm: {"predicted": predicted_transfer(lm, SUITE)},
    "units": lambda lm: {"unit overlap": unit_probe(lm, SUITE, units="mlp", top=0.1).overlap},
    "interchange": lambda lm: both(interchange_probe(lm, SUITE, bootstrap=0, **HALVES), "interchange"),
    "ablation": lambda lm: both(ablation_probe(lm, SUITE, "mlp", 0.1, bootstrap=0, **HALVES), "ablation"),
    "transfer": lambda lm: {"transfer": transfer_probe(lm, SUITE, KEEP, **HALVES)},
}


def needs(scale: str, seed: int, text: str) -> pd.DataFrame:
    "Accuracy and margin of all tasks, of one training with one text."
    lm = load_lm(f"builtin:{scale}", seed=seed, without=() if text == EVERYTHING else text, progress=False)
    means = score_pairs(lm, builtin_suite(100)).groupby("task", sort=False)
    rows = means.agg(accuracy=("correct", "mean"), margin=("margin", "mean")).reset_index()
    return rows.assign(scale=scale, training=seed, without=text)


def spaces(scale: str, seed: int, probe: str) -> pd.DataFrame:
    "The cells of what one probe found in one training."
    lm = load_lm(f"builtin:{scale}", seed=seed, progress=False)
    found = PROBES[probe](lm)
    parts = [space.to_long()[["source", "target", "value"]].assign(kind=kind) for kind, space in found.items()]
    return pd.concat(parts, ignore_index=True).assign(scale=scale, training=seed)


def pieces(scale: str, seeds: list[int]) -> Iterator[tuple[str, Callable[[], pd.DataFrame]]]:
    "Name and work of every piece of a scale."
    for probe in PROBES:
        for seed in seeds:
            yield f"spaces-{seed}-{probe}", lambda seed=seed, probe=probe: spaces(scale, seed, probe)
    for text in [EVERYTHING, *(SHOWN + rule for rule in RULES)]:
        for seed in seeds:
            yield f"needs-{seed}-{text.replace(':', '-')}", lambda seed=seed, text=text: needs(scale, seed, text)


def extract(folder: Path, scale: str) -> None:
    "Join the pieces of a scale into the two tables of the page. What not all trainings have is left out."
    for kind, name in (("needs", "without"), ("spaces", "kind")):
        found = [pd.read_parquet(p) for p in sorted((folder / scale).glob(f"{kind}-*.parquet"))]
        table = pd.concat(found, ignore_index=True)
        trainings = table["training"].nunique()
        whole = table.groupby(name)["training"].transform("nunique") == trainings
        with written(PAGE / f"{kind}_{scale}.parquet") as scratch:
            table[whole].to_parquet(scratch, index=False, compression="zstd")
        print(f"{kind}_{scale}.parquet: {', '.join(dict.fromkeys(table.loc[whole, name]))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pieces")
    parser.add_argument("--scales", nargs="+", default=["nano", "micro", "mini"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the initial weights")
    parser.add_argument("--extract", action="store_true", help="join the pieces that are there, and compute none")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for scale in given.scales:
        for name, work in [] if given.extract else pieces(scale, given.seeds):
            path = given.out / scale / f"{name}.parquet"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with written(path) as scratch:
                    work().to_parquet(scratch, index=False)
                print(scale, name, flush=True)
        extract(given.out, scale)


if __name__ == "__main__":
    main()
