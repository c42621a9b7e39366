"""Write the `__init__` of each package from what its modules export, so that names are handed on without an import."""

from __future__ import annotations

import ast
import sys
import textwrap
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
# In import order: no package imports from one below it in this table.
PACKAGES = {
    "tasks": "Minimal pairs, tasks and suites: splits, readers, the catalogue of named suites, the built-in English.",
    "pretraining": "Models with a known history: tokens, architectures, training, any text, the built-in scales.",
    "models": "A language model with its tokenizer and identity: loading, checkpoints.",
    "scoring": "How a sentence becomes a number: conventions, encoding, log-probabilities, scores.",
    "tuning": "Gradient differentials, and tuning with them.",
    "spaces": "Task spaces: statistics, resampling, hypotheses, trees and maps.",
    "probing": "Task spaces that are measured: by gradients, transfer, units, and by what tasks need of the text.",
    "dissimilarity": "How differently two models represent the same text: measures, states, stitching, comparison.",
    "claims": "What a study says of the claims of the paper.",
    "runs": "Studies, jobs, the store, executing, results, extracts.",
    "report": "Charts, pages and the website of a run.",
}


def exports(module: Path) -> list[str]:
    "The public names of a module, read without importing it."
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def number(module: Path) -> str:
    "The file name of a module's notebook, whose number orders the modules of a package."
    found = sorted((TOP / "nbs" / "api" / module.parent.name).glob(f"[0-9][0-9]_{module.stem}.ipynb"))
    if not found:
        sys.exit(f"{module}: no notebook exports it; remove it, or name its notebook NN_{module.stem}.ipynb")
    return found[0].name


def initial(package: Path, text: str) -> str:
    "The source of a package's `__init__`."
    modules = sorted((p for p in package.glob("*.py") if p.name != "__init__.py"), key=number)
    lines = [
        f'"""{text}"""',
        "# Made by tools/packages.py from what the modules export.",
        "from typing import TYPE_CHECKING",
        "",
        "from taskspace.names import hand_on",
        "",
        "if TYPE_CHECKING:",
    ]
    lines += [f"    from .{m.stem} import *  # noqa: F403" for m in modules]
    lines += ["", "__all__, __getattr__, __dir__ = hand_on(__name__, {"]
    for m in modules:
        names = textwrap.wrap(" ".join(exports(m)), 100)
        lines += [f'    "{m.stem}":', *(f'        "{line}{" " if line is not names[-1] else ""}"' for line in names)]
        lines[-1] += ","
    return "\n".join([*lines, "})", ""])


def main() -> None:
    for name, text in PACKAGES.items():
        package = TOP / "taskspace" / name
        source = initial(package, text)
        if not (package / "__init__.py").is_file() or (package / "__init__.py").read_text(encoding="utf-8") != source:
            (package / "__init__.py").write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
