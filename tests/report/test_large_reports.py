"""What a report of many tasks and checkpoints costs: how often things are worked out, and how large pages become."""

import numpy as np
import pandas as pd
import pytest

from taskspace.report.charts import heatmap
from taskspace.report.renderer import html
from taskspace.spaces import change, resampling, signs
from taskspace.spaces.space import TaskSpace


def many_tasks(n: int, seed: int = 0) -> TaskSpace:
    "A transfer space with groups and intervals."
    names = [f"a_task_with_a_name_of_usual_length_{k}" for k in range(n)]
    values = np.random.default_rng(seed).normal(size=(n, n))
    value, low, high = (pd.DataFrame(values + d, names, names) for d in (0, -0.3, 0.3))
    groups: dict[str, str | None] = {t: f"phenomenon {k % 12}" for k, t in enumerate(names)}
    return TaskSpace(value, "margin transfer", groups, low, high)


@pytest.mark.slow
def test_a_heat_map_of_250_tasks_leaves_room_on_its_page():
    # A page may have 3 MB and shows up to four such maps. Seen: 0.44 MB; as plain text 1.65 MB
    assert len(html(heatmap(many_tasks(250), tree=False))) < 0.8e6


def test_errors_are_worked_out_once_a_stretch_of_training(monkeypatch):
    calls = []

    def counted(replicates, pairs):
        calls.append(len(replicates))
        return resampling.measurement_errors(replicates, pairs)

    monkeypatch.setattr(change, "measurement_errors", counted)
    rng = np.random.default_rng(0)
    spaces = rng.normal(size=(8, 12, 12)) + 3 * rng.normal(size=(12, 12))
    replicates = [s + 0.2 * rng.normal(size=(30, 12, 12)) for s in spaces]
    change.stability(spaces, replicates)
    assert len(calls) == 8  # one a checkpoint; with one a comparison 56
    calls.clear()
    change.change_point(spaces, replicates, simulations=50)
    change.shares_without(spaces, replicates)
    assert len(calls) == 16


def test_simulated_change_is_that_of_paths_with_mixed_errors():
    rng = np.random.default_rng(1)
    spaces = rng.normal(size=(4, 9, 9)).cumsum(0)
    replicates = [s + 0.3 * rng.normal(size=(25, 9, 9)) for s in spaces]
    found = change.change_point(spaces, replicates, simulations=30, seed=5)
    path = np.stack([change.cells(s) for s in spaces])
    errors = np.stack([resampling.measurement_errors(r, None) for r in replicates])
    noise = np.diff(errors, axis=0).var(axis=1, ddof=1).mean(-1)
    mix = np.random.default_rng(5).normal(size=(30, 25)) / 5

    def shares(path, times):
        lengths = np.maximum((np.diff(path, axis=0) ** 2).mean(-1) - times * noise, 0)
        return lengths / lengths.sum()

    again = np.array([shares(path + np.tensordot(w, errors, (0, 1)), 2)[found["at"]] for w in mix])
    low, high = np.quantile(again, [0.025, 0.975])
    estimate = found["largest"]
    assert np.allclose([found["low"], found["high"]], [min(low, estimate), max(high, estimate)], rtol=1e-10)
    steps, total = np.diff(path, axis=0), np.maximum((np.diff(path, axis=0) ** 2).mean(-1) - noise, 0).sum()
    even = np.vstack([path[:1], path[0] + np.cumsum([s * np.sqrt(total / 3 / (s**2).mean()) for s in steps], axis=0)])
    null = np.array([shares(even + np.tensordot(w, errors, (0, 1)), 1).max() for w in mix])
    assert found["p"] == (1 + (null >= estimate - 1e-10).sum()) / 31


def test_signed_figures_sort_a_space_once_not_once_a_permutation(monkeypatch):
    sorted_cells = []
    unique = np.unique

    def counted(values, *args, **options):
        sorted_cells.append(np.size(values))
        return unique(values, *args, **options)

    monkeypatch.setattr(np, "unique", counted)
    monkeypatch.setattr(resampling, "auc_of", None)  # would sort anew
    found = signs.signs_table(many_tasks(30), permutations=50)
    assert found["p"].notna().all() and len([n for n in sorted_cells if n == 30 * 30]) == 4


def test_status_holds_few_bytes_a_job():
    import tracemalloc
    from types import SimpleNamespace

    from taskspace.runs import status

    n = 20_000
    keys = [f"{k:032x}" for k in range(n)]

    def entries():
        for k in range(n):
            yield {"key": f"{k:032x}", "state": "failed" if k == 7 else "done", "seconds": 1.5, "bytes": 1000 + k}

    def sound(recorded, check):
        yield from ((key, 1000 + k) for k in range(n) if recorded(key := f"{k:032x}") == 1000 + k and k != 7)
        yield "f" * 32, 5  # of an earlier plan

    run = SimpleNamespace(store=SimpleNamespace(entries=entries, sound_results=sound))
    tracemalloc.start()
    counted = status._counted(run, {key: at for at, key in enumerate(keys)})
    done, size = status._results_there(run, counted, check=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(np.flatnonzero(~done)) == [7] and counted.errors == {7: ""}
    assert size == sum(range(1000, 1000 + n)) - 1007 + 5
    assert peak / n < 200  # seen: 114
