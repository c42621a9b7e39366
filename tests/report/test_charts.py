"""Charts: they draw at 12, 24 and 67 tasks, show the numbers they should, are linked, and can be read by everyone."""

import json
import re
from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd
import pytest

from atlength import at_length
from taskspace.errors import TaskspaceError
from taskspace.report import charts
from taskspace.report.charts import clustermap, group_means, heatmap, small_multiples
from taskspace.report.renderer import html
from taskspace.spaces.change import stability
from taskspace.spaces.resampling import resample_means
from taskspace.spaces.space import TaskSpace


def space(n=12, k=4, seed=0, evidence=True):
    rng = np.random.default_rng(seed)
    names = [f"phenomenon_{i % k}_task_{i}" for i in range(n)]
    groups = {t: f"phenomenon_{i % k}" for i, t in enumerate(names)}

    def frame(cells):
        return pd.DataFrame(cells, names, names)

    target = np.repeat(np.arange(n), 20)
    values = (np.arange(n)[:, None] % k == np.arange(n) % k)[:, target] + rng.normal(size=(n, 20 * n))
    matrix = np.stack([values[:, target == j].mean(1) for j in range(n)], 1)
    if not evidence:
        return TaskSpace(frame(matrix), "margin transfer")
    draws = resample_means(values, target, 40)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return TaskSpace(
        frame(matrix),
        "margin transfer",
        groups,
        frame(low),
        frame(high),
        draws,
        {"pairs": 20, "model": "toy", "step": 7},
    )


def svg(chart, tmp_path, theme="light"):
    return charts.save(chart, tmp_path / "chart.svg", theme=theme).read_text()


def texts(drawing):
    return re.findall(r"<text[^>]*>([^<]+)</text>", drawing)


def data(chart):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(12, 4), (24, 8), (67, 13)])
def test_heat_maps_name_every_task_in_readable_type(n, k, tmp_path):
    a = space(n, k)
    drawing = svg(charts.clustermap(a) if n < 60 else charts.heatmap(a), tmp_path)
    for name in a.tasks:
        assert texts(drawing).count(name.replace("_", " ")) >= 2  # at the row and at the column
    sizes = [float(s) for s in re.findall(r'font-size="([\d.]+)px"', drawing)]
    assert min(sizes) >= 9 and "AUC within/across groups" in drawing and "toy, step 7" in drawing
    assert charts._side(n, None) / n >= min(sizes)  # lines of labels do not run into one another


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("chart", [charts.network, charts.task_map, charts.heatmap])
def test_both_themes_and_spaces_without_groups_draw(chart, theme, tmp_path):
    ground = charts.INK[theme]["ground"]
    whole = space()
    for a in (whole, space(evidence=False), replace(whole, groups=dict.fromkeys(whole.tasks))):
        drawing = svg(chart(a), tmp_path, theme)
        assert ground.lower() in drawing.lower() and len(drawing) > 5000


def test_cells_carry_value_interval_and_pairs():
    a = space()
    chart = charts.heatmap(a)
    row = next(
        r for r in data(chart) if r.get("source") == "phenomenon 0 task 0" and r.get("target") == "phenomenon 1 task 1"
    )
    i, j = "phenomenon_0_task_0", "phenomenon_1_task_1"
    assert row["value"] == pytest.approx(a.matrix.loc[i, j], rel=1e-3)
    assert row["interval"] == f"{a.low.loc[i, j]:.3g} to {a.high.loc[i, j]:.3g}"
    assert "over 20 pairs" in json.dumps(chart.to_dict())


def test_the_order_is_the_tree_s_and_can_be_chosen():
    a = space()

    def sort(chart):
        return chart.to_dict()["hconcat"][0]["encoding"]["y"]["sort"]

    def readable(names):
        return [t.replace("_", " ") for t in names]

    assert sort(charts.heatmap(a)) == readable(a.cluster().order)
    assert sort(charts.heatmap(a, order="suite")) == readable(a.tasks)
    assert sort(charts.heatmap(a, order=a.tasks[::-1])) == readable(a.tasks[::-1])
    assert sort(charts.heatmap(a, order="group"))[:3] == readable([f"phenomenon_0_task_{i}" for i in (0, 4, 8)])
    with pytest.raises(TaskspaceError, match="order 'tea' is unknown"):
        charts.heatmap(a, order="tea")


@pytest.mark.slow
def test_axes_say_what_rows_and_columns_are(tmp_path):
    "Only a transfer has a task that was tuned on; a symmetric space has no direction to name."
    tuned = {"source (tuned on)", "target (measured on)"}
    a = space()
    assert tuned <= set(texts(svg(charts.heatmap(a), tmp_path)))
    assert '"tuned on"' in json.dumps(charts.heatmap(a).to_dict())
    for b in (
        TaskSpace((a.matrix + a.matrix.T) / 2, "gradient cosine", a.groups),
        TaskSpace(a.matrix, "subspace overlap", a.groups),
    ):
        spec = json.dumps(charts.heatmap(b).to_dict())
        assert not tuned & set(texts(svg(charts.heatmap(b), tmp_path)))
        assert "tuned on" not in spec and "measured on" not in spec
    assert {"source", "target"} <= set(texts(svg(charts.heatmap(b), tmp_path)))


def test_a_model_has_one_colour_in_all_charts():
    "Whatever the order of the rows and whichever models are missing."
    colours = dict(zip("abc", charts.GROUP_COLOURS, strict=False))

    def drawn(names, **options):
        chart = charts.curves(
            pd.DataFrame([{"x": k, "y": 1.0, "model": n} for n in names for k in (1, 2)]), "x", "y", "model", **options
        )
        scale = chart.to_dict()["layer"][0]["encoding"]["color"]["scale"]
        return dict(zip(scale["domain"], scale["range"], strict=True))

    assert drawn("cab", colours=colours) == colours and list(drawn("cab", colours=colours)) == list("abc")
    assert drawn("cb", colours=colours) == {n: colours[n] for n in "bc"}
    scale = charts.fixed_colours("cbc").to_dict()
    appear = dict(zip("cb", charts.GROUP_COLOURS, strict=False))  # without a choice: in the order of the rows
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == appear
    with pytest.raises(TaskspaceError, match="no colour is given for 'd'"):
        drawn("ad", colours=colours)


def test_steps_that_were_not_measured_leave_no_gap_in_a_path():
    paths = pd.DataFrame(
        {"task": "t", "method": "ftgd", "gain": [0.0, np.nan, 1, np.nan, 2], "harm": [0.0, np.nan, 1, np.nan, 2]}
    )
    rows = data(charts.frontier(paths))
    assert len(rows) == 6 and all(r["gain"] is not None for r in rows)  # three of the task, three of the mean


def test_layers_have_a_line_at_chance_and_a_band_only_where_there_are_bounds():
    frame = pd.DataFrame({"layer": [0, 1], "value": [0.5, 0.7]})

    def marks(chart):
        return [layer["mark"]["type"] for layer in chart.to_dict()["layer"]]

    assert marks(charts.layers(frame)) == ["line", "point"]
    assert marks(charts.layers(frame.assign(low=0.4, high=0.8), reference=0.5)) == ["rule", "area", "line", "point"]


def test_the_diagonal_does_not_bleach_the_scale():
    a = space()
    loud = pd.DataFrame(np.where(np.eye(12) > 0, 1000, a.matrix), a.matrix.index, a.matrix.columns)
    domain = charts.heatmap(TaskSpace(loud, "margin transfer")).to_dict()["hconcat"][0]["encoding"]["color"]["scale"]
    assert domain["domainMax"] < 5 and domain["domainMin"] == -domain["domainMax"] and domain["domainMid"] == 0


def test_a_selection_reaches_heat_map_strip_and_map(tmp_path):
    spec = charts.clustermap(space(24, 8)).to_dict()
    picks = [p for p in spec["params"] if p["name"] == "picked"]
    assert len(picks) == 1 and len(picks[0]["views"]) >= 3 and picks[0]["select"]["fields"] == ["group"]
    import vl_convert

    spec["config"] = charts.config()
    before = vl_convert.vegalite_to_svg(spec)
    picks[0]["value"] = [{"group": "phenomenon 2"}]
    after = vl_convert.vegalite_to_svg(spec)

    def faint(drawing, value):
        return drawing.count(f'opacity="{value}"')

    assert faint(before, "0.12") == faint(before, "0.15") == 0
    assert faint(after, "0.12") == 24 * 24 - (24 * 24 - 21 * 21)  # cells with neither source nor target in the group
    assert faint(after, "0.15") >= 21  # the other tasks on the map


def test_unfinished_spaces_draw_what_there_is(tmp_path):
    a = space().matrix.copy()
    a.iloc[3] = np.nan
    assert "phenomenon 3 task 3" in texts(svg(charts.heatmap(TaskSpace(a, "margin transfer")), tmp_path))


def test_networks_keep_only_links_that_survive_correction():
    a = space(24, 8)
    arrows = [r for r in data(charts.network(a)) if "strength" in r]
    q = a.significant()
    q.index, q.columns = [t.replace("_", " ") for t in q.index], [t.replace("_", " ") for t in q.columns]
    assert 0 < len(arrows) <= 48 and all(q.at[r["source"], r["target"]] < 0.05 for r in arrows)
    assert len([r for r in data(charts.network(a, links=3)) if "strength" in r]) == 3
    flat = TaskSpace(
        a.matrix * 0 + np.random.default_rng(0).normal(size=(24, 24)),
        "margin transfer",
        replicates=np.random.default_rng(1).normal(size=(50, 24, 24)) * 9,
    )
    assert charts.network(flat).to_dict()  # no link survives, and it still draws


def test_labels_keep_clear_of_one_another():
    rng = np.random.default_rng(0)
    points, names = rng.uniform(40, 360, size=(24, 2)), ["task name"] * 24

    def overlaps(middles):
        x, y = (
            np.abs(np.subtract.outer(middles[:, 0], middles[:, 0])),
            np.abs(np.subtract.outer(middles[:, 1], middles[:, 1])),
        )
        return int(((x < 5.3 * 9) & (y < 11)).sum() - 24) // 2

    assert overlaps(charts._place_labels(points, names, 400)) < overlaps(points + [0, -12]) / 3


def tables():
    rng = np.random.default_rng(0)
    curve = pd.DataFrame(
        [
            {"step": s, "value": v, "low": v - 0.1, "high": v + 0.1, "series": m}
            for m in "ab"
            for s in (0, 1, 10, 1000)
            for v in [rng.random()]
        ]
    )
    paths = pd.DataFrame(
        [
            {"task": f"t{t}", "method": m, "gain": rng.random(), "harm": rng.random()}
            for t in range(3)
            for m in ("ftgd", "full")
            for _ in range(4)
        ]
    )
    spaces = [space(seed=s) for s in range(4)]
    return {
        "training": (
            charts.training_curves(curve, reference=0.5, title="T"),
            ["pre-training step", "1,000", "10", "a", "b"],
        ),
        "no series": (charts.training_curves(curve[curve.series == "a"][["step", "value"]]), ["pre-training step"]),
        "facets": (charts.training_curves(curve, facet="series", colour=None), ["a", "b"]),
        "scale": (
            charts.scale_curves(curve.rename(columns={"step": "parameters"}).query("parameters > 0")),
            ["parameters of the model"],
        ),
        "stability": (
            charts.stability_chart(stability([s.matrix for s in spaces], [s.replicates for s in spaces], [1, 2, 3, 4])),
            ["noise ceiling"],
        ),
        "frontier": (charts.frontier(paths), ["ftgd", "full"]),
        "layers": (charts.layers(pd.DataFrame({"layer": [0, 1, 2], "value": [1.0, 2, 3]})), ["layer"]),
        "layers by step": (
            charts.layers(
                pd.DataFrame({"layer": ["embedding", "0"] * 2, "value": [1.0, 2, 3, 4], "series": [1, 1, 10, 10]})
            ),
            ["embedding"],
        ),
        "before": (
            charts.before_after(
                pd.DataFrame({"task": ["a_b", "c"], "before": [0.5, 0.6], "after": [0.9, 0.4]}), chance=0.5, title="B"
            ),
            ["a b", "before", "after"],
        ),
        "small": (charts.small_multiples({"one": spaces[0], "two": spaces[1]}, title="S"), ["one", "two"]),
        "forest": (
            charts.forest({"x": spaces[0].within_across(), "y": spaces[0].within_across(interval=None)}),
            ["x", "y"],
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_other_charts_draw(theme, tmp_path):
    for name, (chart, expected) in tables().items():
        drawing = svg(chart, tmp_path, theme)
        for word in expected:
            assert word in texts(drawing), (name, word, texts(drawing))
        assert "NaN" not in drawing and not re.search(r">0k<", drawing), name


def test_steps_are_written_as_people_write_them(tmp_path):
    frame = pd.DataFrame({"step": [0, 1, 64, 1024, 16384, 70_000_000], "auc": [0.5, 0.5, 0.6, 0.7, 0.8, 0.9]})
    assert {"0", "1", "64", "1,024", "16.4k", "70M"} <= set(texts(svg(charts.curves(frame, "step", "auc"), tmp_path)))


@pytest.mark.slow
def test_pictures_are_written_at_the_size_asked(tmp_path):
    import struct

    a = space()

    def width(path):
        return struct.unpack(">I", path.read_bytes()[16:20])[0]

    small, large = (charts.save(charts.heatmap(a), tmp_path / f"{s}.png", scale=s) for s in (1, 2))
    assert abs(width(large) - 2 * width(small)) <= 2
    assert json.loads(charts.save(charts.heatmap(a), tmp_path / "a.json").read_text())["config"]["font"]
    with pytest.raises(TaskspaceError, match="saved as .png, .svg or .json"):
        charts.save(charts.heatmap(a), tmp_path / "a.pdf")
    with pytest.raises(TaskspaceError, match="cannot be written"):
        charts.save(charts.heatmap(a), tmp_path / "no" / "a.svg")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: charts.config("sepia"), "theme 'sepia'"),
        (lambda: charts.curves(pd.DataFrame({"a": [1]}), "a", "b"), "no column 'b'"),
        (lambda: charts.frontier(pd.DataFrame({"task": []})), "no column 'method'"),
        (lambda: charts.layers(pd.DataFrame({"layer": []})), "no column 'value'"),
        (lambda: charts.before_after(pd.DataFrame({"task": []})), "no column 'before'"),
        (lambda: charts.small_multiples({}), "no spaces"),
        (lambda: charts.forest({}), "no tests"),
    ],
)
def test_bad_input_gets_one_line(call, message):
    with pytest.raises(TaskspaceError, match=message):
        call()


# -- colours


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    high, low = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1.0
BLIND = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(colour, kind):
    "CIE Lab of a colour as someone with this kind of colour vision sees it."
    xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    ) @ np.clip(BLIND[kind] @ linear(colour), 0, 1)
    f = np.cbrt(np.maximum(xyz / [0.95047, 1.0, 1.08883], 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_text_can_be_read_on_its_ground():
    for ink in charts.INK.values():
        assert contrast(ink["text"], ink["ground"]) > 7 and contrast(ink["soft"], ink["ground"]) > 4.5


def test_group_colours_stand_out_and_apart():
    for theme in charts.INK.values():
        assert min(contrast(c, theme["ground"]) for c in charts.GROUP_COLOURS) > 2
    for kind in BLIND:
        first = [lab(c, kind) for c in charts.GROUP_COLOURS[:6]]
        assert min(np.linalg.norm(a - b) for i, a in enumerate(first) for b in first[:i]) > 9, kind


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", list(BLIND))
def test_scales_keep_their_order_for_everyone(theme, kind):
    ground = lab(charts.INK[theme]["ground"], kind)[0]

    def away(colours):
        return [abs(lab(c, kind)[0] - ground) for c in colours]

    # A value further from zero is also further from the ground
    ramp = away(charts.SEQUENTIAL[theme])
    both = away(charts.DIVERGING[theme])
    assert all(np.diff(ramp) > 4) and all(np.diff(both[3:]) > 4) and all(np.diff(both[3::-1]) > 4)
    ends = [lab(charts.DIVERGING[theme][i], kind) for i in (1, 5)]
    assert np.linalg.norm(ends[0] - ends[1]) > 35  # helps and harms


def many(n=1000, groups=20, seed=0):
    names = [f"task {i}" for i in range(n)]
    values = np.random.default_rng(seed).normal(size=(n, n))
    found = {t: f"group {i % groups}" for i, t in enumerate(names)} if groups else None
    return TaskSpace(pd.DataFrame(values, names, names), kind="margin transfer", groups=found)


@pytest.mark.parametrize("groups", at_length([20, 0, 600]))
@pytest.mark.slow
def test_a_thousand_tasks_are_drawn_as_groups_first(groups):
    "With groups, with none, with too many."
    space = many(groups=groups)
    for chart in (heatmap(space), small_multiples({"a": space, "b": many(groups=groups, seed=1)})):
        assert len(html(chart)) < 500_000
    spec = heatmap(space).to_dict()
    cells = [rows for rows in spec["datasets"].values() if rows and "source" in rows[0]]
    assert len(cells[0]) == {20: 400, 0: 3600, 600: 3600}[groups]
    assert "means over" in spec["title"]["subtitle"] and "1000 tasks" in spec["title"]["subtitle"]
    named = heatmap(space, order=space.tasks[:5]).to_dict()
    assert max(len(rows) for rows in named["datasets"].values()) == 25 and "means" not in named["title"]["subtitle"]


@pytest.mark.slow
def test_the_map_below_a_heat_map_of_groups_has_every_task():
    spec = clustermap(many(300, 6), embedding="classical").to_dict()
    assert sorted(len(rows) for rows in spec["datasets"].values() if "source" in rows[0]) == [36]
    assert max(len(rows) for rows in spec["datasets"].values()) == 300


def test_group_means_are_means_of_cells_off_the_diagonal():
    space = many(7, 0)
    labels = dict(zip(space.tasks, "aabbbcc", strict=True))
    space.matrix.iloc[0, 3] = np.nan
    a, means = space.matrix.to_numpy(), group_means(space, labels).matrix
    assert means.loc["a", "a"] == pytest.approx((a[0, 1] + a[1, 0]) / 2)
    assert means.loc["a", "b"] == pytest.approx(np.nanmean(a[:2, 2:5]))
    assert group_means(space, {**labels, "task 6": "d"}).matrix.loc["d", "d"] == pytest.approx(a[6, 6])


@pytest.mark.slow
def test_a_chart_of_more_than_3_megabytes_says_so():
    chart = alt.Chart(pd.DataFrame({"x": np.random.default_rng(0).normal(size=400_000)})).mark_point().encode(x="x:Q")
    with alt.data_transformers.enable("default", max_rows=None):
        heavy = html(chart)
    assert re.search(r"This chart holds [3-9]\.\d MB of data", heavy) and "MB of data" not in html(heatmap(many(20)))


def test_small_multiples_stand_in_as_many_columns_as_are_asked_for():
    frame = pd.DataFrame([{"step": k, "value": k, "part": part} for part in "abcd" for k in (1, 2)])
    assert charts.training_curves(frame, facet="part").to_dict()["columns"] == 3
    assert charts.training_curves(frame, facet="part", columns=2).to_dict()["columns"] == 2


def test_tasks_and_groups_that_read_alike_stay_apart():
    names = ["wh_island", "wh island", "c_d", "e", "f"]
    groups = dict(zip(names, ["a_b", "a b", "no group", "no_group", None], strict=True))
    cells = np.random.default_rng(0).normal(size=(5, 5))
    made = TaskSpace(pd.DataFrame(cells, names, names), "margin transfer", groups)
    for chart in (heatmap(made), clustermap(made), charts.network(made), small_multiples({"one": made})):
        rows = pd.DataFrame([r for r in data(chart) if "source" in r])
        assert rows.duplicated(["source", "target"]).sum() == 0 and len(rows) > 9
        assert set(rows["source"]) <= {"wh_island", "wh island", "c d", "e", "f"}
    heat = pd.DataFrame([r for r in data(heatmap(made)) if "source" in r])
    assert len(heat) == 25 and heat.groupby("source")["source_group"].first().nunique() == 5
    for chart in (charts.task_map(made), clustermap(made)):
        dots = [r for r in data(chart) if "task" in r and "group" in r]
        assert len({r["task"] for r in dots}) == len({r["group"] for r in dots}) == 5
    labels = charts._coarse_labels(
        replace(made, groups=dict(zip(names, ["a", "b", "c", "no group", None], strict=True)))
    )
    assert len(set(labels.values())) == 5
    frame = pd.DataFrame({"task": ["a_b", "a b", "c_d"], "before": [0.1, 0.2, 0.3], "after": [0.3, 0.9, 0.4]})
    assert {r["task"] for r in data(charts.before_after(frame)) if "task" in r} == {"a_b", "a b", "c d"}


def test_a_space_without_tasks_is_refused():
    for draw in (heatmap, clustermap, charts.task_map, charts.network, lambda s: small_multiples({"one": s})):
        with pytest.raises(TaskspaceError, match="no tasks|0 tasks"):
            draw(space().select([]))
