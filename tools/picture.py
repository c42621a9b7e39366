"""Draw the picture of README.md: the transfer space of the built-in model mini over the whole built-in suite."""

from pathlib import Path

from taskspace import FTGD, load_lm, load_suite, transfer_probe
from taskspace.report.charts import heatmap, save

OUT = Path(__file__).resolve().parent.parent / "nbs" / "images" / "task_space.png"


def main() -> None:
    lm, suite = load_lm("builtin:mini"), load_suite("builtin")
    space = transfer_probe(lm, suite, FTGD(steps=5), train_pairs=40, eval_pairs=40, progress=True)
    chart = heatmap(space, title=f"A task space: how tuning on one task moves every other ({lm.name})")
    save(chart, OUT, scale=1.6)
    test = space.within_across()
    print(f"{OUT}: {len(space)} tasks, AUC within phenomena {test.statistic:.2f} (p = {test.p:.3f})")


if __name__ == "__main__":
    main()
