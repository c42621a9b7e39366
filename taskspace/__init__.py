"""How language models organise grammar: linguistic task spaces from gradient differentials."""

__version__ = "0.1.0"

import importlib
from typing import Any

# Public name -> module. Modules are imported on first use, so that `import taskspace` costs nothing.
_HOME = {
    "MinimalPair": "tasks", "Task": "tasks", "Suite": "tasks", "TaskspaceError": "tasks", "load_suite": "tasks",
    "LM": "models", "load_lm": "models",
    "score_pairs": "scoring",
    "FTGD": "ftgd", "Tuned": "ftgd", "gradient_differential": "ftgd", "tune": "ftgd",
    "TaskSpace": "spaces", "hypothesis_space": "spaces",
    "transfer_probe": "probing", "gradient_probe": "probing", "predicted_transfer": "probing",
    "cka": "dissimilarity", "cka_matrix": "dissimilarity", "procrustes": "dissimilarity",
    "hidden_states": "dissimilarity", "stitch": "stitching",
    "Study": "runs", "run_study": "runs", "open_run": "runs",
    "write_extract": "extract", "open_extract": "extract",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"taskspace.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'taskspace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
