"""What the pages of the studies show, and figures computed by other code than theirs."""

import json
from pathlib import Path

import numpy as np

STUDIES = Path(__file__).resolve().parents[1] / "nbs" / "studies"


def outputs_of(page: str) -> list[dict]:
    "What the cells of a page gave, by media type."
    notebook = json.loads((STUDIES / page).read_text(encoding="utf-8"))
    return [o.get("data", {}) for c in notebook["cells"] for o in c.get("outputs", [])]


def shown(page: str) -> str:
    "All that a page says and shows, as one text."
    return "\n".join("".join(o.get(f"text/{kind}", "")) for o in outputs_of(page) for kind in ("plain", "markdown"))


def without_means(matrix: np.ndarray) -> np.ndarray:
    "The cells of a symmetric space without the mean of each task, by least squares."
    first, second = np.triu_indices(len(matrix), 1)
    design = np.zeros((len(first), len(matrix)))
    design[np.arange(len(first)), first] = design[np.arange(len(first)), second] = 1
    values = matrix[first, second]
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def auc(values: np.ndarray, alike: np.ndarray) -> float:
    "How often a value of two alike tasks is above one of two others, by counting."
    inside, outside = values[alike], np.sort(values[~alike])
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return float(below.mean() / 2 / len(outside))
