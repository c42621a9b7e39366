"""The site and a report in a real browser, opened from disk with the network off.

Skipped where chromium and chromedriver are not installed; CONTRIBUTING.md says how to install them.
"""

import re
import shutil
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from taskspace.report.renderer import html, write_bundle

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are not installed (apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def browser():
    "Chromium without a window and without a network."
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--window-size=1300,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tiny):
    return tiny / "report"


def wait_for(browser, script: str, seconds: float = 40):
    "Wait until a script gives something true, and give that."
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.1).until(lambda b: b.execute_script(f"return {script}"))


def page_of(path: Path, body: str, head: str = "") -> Path:
    "Write a page with the site's snippet in its head."
    from taskspace.report.renderer import asset

    head = f"<meta charset='utf-8'>{head}{asset('site.html')}"
    path.write_text(f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>", encoding="utf-8")
    return path


def opened(browser, page: Path):
    "Open a page from disk and wait until its charts are drawn; no error may reach the console."
    browser.get_log("browser")
    browser.get(page.as_uri())
    charts = browser.execute_script("return document.querySelectorAll('.taskspace-chart').length")
    if charts:
        wait_for(browser, "document.documentElement.dataset.taskspaceCharts")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    return charts


@pytest.mark.parametrize("page", ["index", "scale-small", "scale-large", "training", "methods", "data"])
def test_every_chart_of_every_page_is_drawn_without_a_network(browser, report, page):
    charts = opened(browser, report / f"{page}.html")
    assert charts >= {"index": 2, "scale-small": 3, "scale-large": 3, "training": 2}.get(page, 0)
    marks = browser.execute_script(
        "return [...document.querySelectorAll('.taskspace-chart')].map(c => +c.dataset.marks)"
    )
    assert all(n > 0 for n in marks), marks


def test_a_chart_with_compressed_data_is_drawn(browser, tmp_path):
    frame = pd.DataFrame([{"x": k % 200, "y": k // 200, "value": k / 7} for k in range(40_000)])
    drawn = html(alt.Chart(frame, title="many").mark_rect().encode(x="x:O", y="y:O", color="value:Q"))
    assert "application/gzip" in drawn
    write_bundle(tmp_path / "assets")
    assert opened(browser, page_of(tmp_path / "page.html", drawn)) == 1
    assert browser.execute_script("return document.querySelector('.taskspace-stage canvas').width") > 200


def test_a_heat_map_shows_every_cell(browser, report):
    opened(browser, report / "scale-small.html")
    cells = browser.execute_script(
        """return [...document.querySelectorAll('.taskspace-chart')].map(
            c => c.querySelectorAll('.mark-rect.role-mark path').length)"""
    )
    assert max(cells) >= 8 * 8


def test_charts_follow_the_theme(browser, report):
    opened(browser, report / "index.html")
    colour = "getComputedStyle(document.querySelector('.taskspace-chart svg .role-axis-label text')).fill"
    first, theme = browser.execute_script(f"return [{colour}, document.documentElement.dataset.taskspaceCharts]")
    browser.execute_script("document.querySelector('.quarto-color-scheme-toggle').click()")
    wait_for(browser, f"document.documentElement.dataset.taskspaceCharts !== '{theme}'")
    assert browser.execute_script(f"return {colour}") != first
    browser.execute_script("document.querySelector('.quarto-color-scheme-toggle').click()")
    wait_for(browser, f"document.documentElement.dataset.taskspaceCharts === '{theme}'")


def test_a_click_in_the_legend_singles_out_a_method(browser, report):
    "Linked selection: the click changes the opacity of marks."
    opened(browser, report / "scale-small.html")
    shown = "[...document.querySelectorAll('.taskspace-chart')].at(-1)"
    lines = f"[...{shown}.querySelectorAll('.mark-line.role-mark path')]"
    opacities = f"new Set({lines}.map(p => p.getAttribute('opacity') || p.style.opacity)).size"
    assert browser.execute_script(f"return {opacities}") == 1
    from selenium.webdriver import ActionChains

    symbol = browser.execute_script(
        f"const s = {shown}.querySelector('.role-legend-symbol path'); s.scrollIntoView({{block: 'center'}}); return s"
    )
    ActionChains(browser).move_to_element(symbol).click().perform()
    wait_for(browser, f"{opacities} === 2")


@pytest.fixture(scope="module")
def linked(browser, tmp_path_factory):
    "A page with one clustermap of six tasks in three groups."
    import numpy as np

    from taskspace.report.charts import clustermap
    from taskspace.spaces.space import TaskSpace

    names = [f"task {i}" for i in range(6)]
    groups = {n: f"phenomenon {i % 3}" for i, n in enumerate(names)}
    space = TaskSpace(
        pd.DataFrame(np.random.default_rng(0).normal(size=(6, 6)), names, names), kind="margin transfer", groups=groups
    )
    folder = tmp_path_factory.mktemp("linked")
    write_bundle(folder / "assets")
    return page_of(folder / "page.html", html(clustermap(space)))


PARTS = {
    "the map": ("symbol", "datum.task"),
    "the list": ("symbol", "!datum.task"),
    "the strip beside the matrix": ("rect", "datum.task"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_click_links_the_matrix_and_the_map(browser, linked, part):
    "A click on one group dims the others in the map and their cells in the matrix; a double click brings all back."
    from selenium.webdriver import ActionChains

    opened(browser, linked)
    faded = """return JSON.stringify(['symbol', 'rect'].map(
        kind => [...document.querySelectorAll(`.taskspace-chart .mark-${kind}.role-mark path`)]
        .filter(p => +(p.getAttribute('opacity') || p.style.opacity || 1) < 0.5).length))"""
    assert browser.execute_script(faded) == "[0,0]"
    kind, which = PARTS[part]
    find = f"""const one = [...document.querySelectorAll('.taskspace-chart .mark-{kind}.role-mark path')]
            .find(p => (datum => datum.group === 'phenomenon 1' && ({which}))(p.__data__.datum));
        one.scrollIntoView({{block: 'center'}}); return one"""
    ActionChains(browser).move_to_element(browser.execute_script(find)).click().perform()
    # Symbols: four of six dots, and two of three squares of the list. Rectangles: four of the strip, and the sixteen
    # cells that neither come from nor go to the group.
    wait_for(browser, f"(() => {{{faded}}})() === '[6,20]'")
    ActionChains(browser).move_to_element(browser.execute_script(find)).double_click().perform()
    wait_for(browser, f"(() => {{{faded}}})() === '[0,0]'")


def test_search_finds_a_task_from_disk(browser, report):
    opened(browser, report / "index.html")
    task = pd.read_parquet(report / "data" / "accuracy.parquet")["task"].iloc[0]
    box = browser.find_element("css selector", ".smalldocs-search input, #quarto-search input")
    box.click()
    box.send_keys(task)
    wait_for(browser, "document.querySelectorAll('.search-result, .search-item').length")
    assert browser.get_log("browser") == []


def test_scripts_of_quarto_run_from_disk(browser, tmp_path):
    "What Quarto loads as modules, and its search, which would only say that it does not work from disk."
    from test_site import quarto_site

    from taskspace.report.renderer import asset
    from taskspace.workarounds import without_modules

    page = quarto_site(tmp_path) / "pages" / "a.html"
    (tmp_path / "site_libs" / "quarto-nav").mkdir()
    (tmp_path / "site_libs" / "quarto-nav" / "quarto-nav.js").write_text(
        "document.addEventListener('DOMContentLoaded', () => { window.silent = shownWarning; });\n"
        "var shownWarning = false;\n"
    )
    page.write_text(page.read_text().replace("</head>", f"{asset('site.html')}</head>"))
    without_modules(tmp_path)
    opened(browser, page)
    assert browser.execute_script("return [window.ready, window.tabs, window.axe, window.throttle, window.silent]") == [
        1,
        "interactive",
        "off",
        None,
        True,
    ]


@pytest.mark.parametrize("page", ["index", "scale-small", "training", "methods", "data"])
def test_a_phone_needs_no_sideways_scroll(browser, report, page):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        opened(browser, report / f"{page}.html")
        wide = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], wide
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


SEEN = r"""
    const luminance = (c) => {
        const [r, g, b] = c.match(/[\d.]+/g).map(Number);
        return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
    };
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            if (!c.startsWith("rgba")) return c;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("code, a, input, mark, .search-item, .search-result-title-container")].map(
        (e) => [e.tagName + "." + e.className, luminance(getComputedStyle(e).color), luminance(ground(e))])"""


def quarto_page(folder, dark):
    from taskspace.report.renderer import asset

    sheet, body = ((Path(__file__).parent / f"like_quarto.{kind}").read_text() for kind in ("css", "html"))
    css = sheet if dark else sheet.replace("#272b30", "#fff").replace("#fff !important", "#0d6efd !important")
    viewport = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    page = page_of(folder / "page.html", body, head=f"{viewport}<style>{css}</style><style>{asset('site.css')}</style>")
    scheme = "dark" if dark else "light"
    page.write_text(page.read_text().replace("<body>", f"<body class='floating quarto-{scheme}'>"))
    return page


@pytest.mark.parametrize("dark", [False, True])
def test_under_quarto_text_stands_out_from_its_ground(browser, tmp_path, dark):
    "Inline code, the box of the search and its results, breadcrumbs, active entries."
    opened(browser, quarto_page(tmp_path, dark))
    seen = browser.execute_script(SEEN)
    assert len(seen) > 12
    assert not [s for s in seen if (s[1] - s[2] if dark else s[2] - s[1]) < 0.3], seen


@pytest.mark.parametrize("dark", [False, True])
def test_under_quarto_pages_have_the_layout_of_the_site(browser, tmp_path, dark):
    opened(browser, quarto_page(tmp_path, dark))
    style = "const style = (s, p) => getComputedStyle(document.querySelector(s))[p];"
    width, top, weight, faded = browser.execute_script(
        f"{style} return [document.querySelector('main').clientWidth, parseFloat(style('section h2', 'marginTop')), "
        "+style('h3 code', 'fontWeight'), +style('h3', 'opacity')]"
    )
    assert width > 740 and top > 30 and weight >= 600 and faded == 1


@pytest.mark.parametrize("margin", [False, True])
def test_pages_of_smalldocs_keep_their_sidebar_on_the_left(browser, tmp_path, margin):
    "Its columns have other names than Quarto's, for which the style sheet has rules."
    import smalldocs

    own = (Path(smalldocs.__file__).parent / "assets" / "smalldocs.css").read_text()
    there = '<div id="quarto-margin-sidebar" class="sidebar margin-sidebar">On this page</div>' if margin else ""
    body = (
        f'<div id="quarto-content" class="page-columns page-layout-article has-sidebar{" has-margin" * margin}">'
        f'<nav id="quarto-sidebar" class="sidebar floating">Chapters</nav>{there}'
        '<main class="content" id="quarto-document-content">Text</main></div>'
    )
    page = page_of(tmp_path / "page.html", body, f"<style>{own}</style><style>{site_css()}</style>")
    page.write_text(page.read_text().replace("<body>", '<body class="nav-sidebar floating">', 1))
    browser.get(page.as_uri())
    where = (
        "const box = s => { const b = document.querySelector(s).getBoundingClientRect(); return [b.left, b.width] };"
    )
    (left, width), (text, room) = browser.execute_script(f"{where} return [box('#quarto-sidebar'), box('main')]")
    assert "floating" in browser.execute_script("return document.body.className")
    assert left < text and width > 150 and room > 600, (left, width, text, room)


def test_under_quarto_a_table_scrolls_in_its_own_box(browser, tmp_path):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        opened(browser, quarto_page(tmp_path, False))
        page, inside, box = browser.execute_script(
            "const t = document.querySelector('main table');"
            "return [document.documentElement.scrollWidth, t.scrollWidth, t.clientWidth]"
        )
        assert page <= 390 and inside > box
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_cells_of_a_heat_map_have_no_seams(browser, linked):
    opened(browser, linked)
    edges = "getComputedStyle(document.querySelector('.taskspace-chart .mark-rect.role-mark path')).shapeRendering"
    assert browser.execute_script(f"return {edges}") != "crispedges"  # the page has no style sheet
    browser.execute_script(
        "const s = document.createElement('style'); s.textContent = arguments[0]; document.head.append(s)", site_css()
    )
    assert browser.execute_script(f"return {edges}") == "crispedges"


def site_css():
    from taskspace.report.renderer import asset

    return asset("site.css")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    "A page with a column of 740 pixels, as on a screen of 1300: a clustermap, a chart of two panels, a small one."
    import numpy as np

    from taskspace.report.charts import clustermap, training_curves
    from taskspace.report.renderer import asset
    from taskspace.spaces.space import TaskSpace

    names = [f"a_task_of_blimp_with_a_long_name_{i}" for i in range(67)]
    groups = {n: f"phenomenon {i % 13}" for i, n in enumerate(names)}
    space = TaskSpace(
        pd.DataFrame(np.random.default_rng(0).normal(size=(67, 67)), names, names),
        kind="margin transfer",
        groups=groups,
    )
    curve = pd.DataFrame([{"step": s, "value": s % 7, "series": m} for m in "ab" for s in (1, 10, 100)])
    boxes = [
        html(c) for c in (clustermap(space), training_curves(curve, facet="series"), training_curves(curve, width=150))
    ]
    folder = tmp_path_factory.mktemp("wide")
    write_bundle(folder / "assets")
    viewport = "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    return page_of(
        folder / "page.html",
        f"<main style='max-width: 740px'>{''.join(boxes)}</main>",
        head=f"{viewport}<style>{asset('site.css')}</style>",
    )


SIZES = """return [...document.querySelectorAll('.taskspace-chart')].map(c => {const svg = c.querySelector('svg.marks');
    return {box: c.clientWidth, inside: c.scrollWidth,
            drawn: svg.getBoundingClientRect().width, natural: +svg.getAttribute('width')}})"""


def test_on_a_screen_no_chart_is_wider_than_its_box(browser, wide, report):
    "Wide ones are drawn smaller, small ones as they are."
    shrunk = 0
    for page in (wide, report / "index.html", report / "scale-small.html", report / "training.html"):
        opened(browser, page)
        sizes = browser.execute_script(SIZES)
        assert all(s["drawn"] <= s["box"] and s["inside"] <= s["box"] for s in sizes), (page.name, sizes)
        assert all(s["drawn"] == pytest.approx(s["natural"], abs=1) for s in sizes if s["natural"] < s["box"] - 40), (
            page.name,
            sizes,
        )
        shrunk += sum(s["natural"] > s["box"] for s in sizes)
    assert shrunk


def test_on_a_screen_the_claims_are_seen_whole(browser, report):
    "With text in every cell, as a finished study has it."
    opened(browser, report / "index.html")
    box, inside = browser.execute_script("""const t = document.querySelector('table.claims');
        for (const cell of t.querySelectorAll('td')) {
            cell.textContent = 'so many words as a claim has and more'; cell.classList.add('words'); }
        return [t.clientWidth, t.scrollWidth]""")
    assert 0 < inside <= box


def test_on_a_phone_type_stays_readable_and_the_box_scrolls(browser, wide):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        opened(browser, wide)
        sizes = browser.execute_script(SIZES)
        assert all(s["drawn"] >= 0.64 * s["natural"] for s in sizes), sizes
        assert sizes[0]["inside"] > sizes[0]["box"]
        page = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert page[0] <= page[1], page
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_chart_drawn_smaller_still_answers_to_the_pointer(browser, wide):
    "Tooltip of a cell, and the linked selection, at the place where they are seen."
    from selenium.webdriver import ActionChains

    opened(browser, wide)
    assert browser.execute_script(SIZES)[0]["drawn"] < browser.execute_script(SIZES)[0]["natural"]
    cell = browser.execute_script("""const one = [...document
        .querySelectorAll('.taskspace-chart .mark-rect.role-mark path')]
        .find(p => p.__data__.datum.source && p.__data__.datum.source.endsWith(' 40'));
        one.scrollIntoView({block: 'center'}); return one""")
    ActionChains(browser).move_to_element(cell).perform()
    wait_for(
        browser,
        "(document.querySelector('#vg-tooltip-element.visible') || {textContent: ''}).textContent.includes('tuned on')",
    )
    assert browser.execute_script("return arguments[0].__data__.datum.source", cell) in browser.execute_script(
        "return document.querySelector('#vg-tooltip-element').textContent"
    )
    dot = browser.execute_script("""const one = [...document
        .querySelectorAll('.taskspace-chart .mark-symbol.role-mark path')]
        .find(p => p.__data__.datum.group === 'phenomenon 1' && p.__data__.datum.task);
        one.scrollIntoView({block: 'center'}); return one""")
    ActionChains(browser).move_to_element(dot).click().perform()
    wait_for(
        browser,
        """[...document.querySelectorAll('.taskspace-chart .mark-rect.role-mark path')]
            .filter(p => +(p.getAttribute('opacity') || 1) < 0.5).length > 1000""",
    )


def test_printed_text_and_code_are_not_cut(browser, tmp_path):
    from taskspace.report.renderer import asset

    line, word = "a word and another " * 20, "x" * 300
    parts = [
        f"<div class='cell-output'><pre><code>{line}</code></pre></div>",
        f"<div class='cell-output'><pre><code>{word}</code></pre></div>",
        f"<div class='sourceCode'><pre class='sourceCode'><code class='sourceCode'><span>{line}</span>"
        "</code></pre></div>",
        f"<div class='cell-output'><table class='dataframe'><tr><td>{line}</td><td>0.123</td></tr></table></div>",
    ]
    body = f"<main style='max-width: 740px'>{''.join(parts)}</main>"
    opened(browser, page_of(tmp_path / "page.html", body, head=f"<style>{asset('site.css')}</style>"))
    sizes = browser.execute_script(
        """return [...document.querySelectorAll('pre, table, .cell-output')].map(
            e => [e.tagName, e.scrollWidth, e.clientWidth])"""
    )
    assert all(inside <= outside for _, inside, outside in sizes), sizes
    assert max(outside for *_, outside in sizes) <= 740, sizes


def test_67_tasks_draw_and_stay_under_3_megabytes(browser, tmp_path):
    "Four heat maps of 67 by 67 cells on one page."
    import numpy as np

    from taskspace.report.charts import heatmap
    from taskspace.spaces.space import TaskSpace

    names = [f"a_task_of_blimp_with_a_long_name_{i}" for i in range(67)]
    rng = np.random.default_rng(0)
    groups = {n: f"phenomenon {i % 13}" for i, n in enumerate(names)}
    boxes = [
        html(
            heatmap(
                TaskSpace(pd.DataFrame(rng.normal(size=(67, 67)), names, names), kind="margin transfer", groups=groups)
            )
        )
        for _ in range(4)
    ]
    write_bundle(tmp_path / "assets")
    page = page_of(tmp_path / "page.html", "".join(boxes))
    assert page.stat().st_size < 3_000_000
    opened(browser, page)
    marks = browser.execute_script(
        """return [...document.querySelectorAll('.taskspace-chart')].map(
            c => c.querySelectorAll('.mark-rect.role-mark path').length)"""
    )
    assert min(marks) >= 67 * 67


def test_packed_tables_come_out_as_they_went_in(browser, tmp_path):
    "Texts, missing values, truth values and figures survive packing."
    rows = [
        {"name": "a" if i % 2 else "<b>&\"'</b>", "value": None if i == 3 else i / 7, "flag": i > 2} for i in range(8)
    ]
    write_bundle(tmp_path / "assets")
    chart = html(alt.Chart(pd.DataFrame(rows)).mark_point().encode(x="name:N", y="value:Q", color="flag:N"))
    opened(browser, page_of(tmp_path / "page.html", chart))
    back = browser.execute_script(
        """const v = document.querySelector('.taskspace-chart').taskspace.view;
        const n = Object.keys(v.getState({data: (n, d) => n.startsWith('data-')}).data)[0];
        return v.data(n).map(r => [r.name, r.value, r.flag])"""
    )
    assert [r[0] for r in back] == [r["name"] for r in rows] and [r[2] for r in back] == [r["flag"] for r in rows]
    assert [r[1] for r in back] == [None if r["value"] is None else pytest.approx(r["value"], rel=1e-5) for r in rows]


OBEYED = """return [
    window.pwned || 0, window.asked,
    [...document.querySelectorAll('main img, main iframe, a[href^="javascript:"], .math, mjx-container, .katex')]
        .map(e => e.outerHTML.slice(0, 200)),
    performance.getEntriesByType('resource').map(e => e.name).filter(name => !name.startsWith('file:')),
    [...document.querySelectorAll('.taskspace-chart')].map(c => +c.dataset.marks),
]"""


def test_hostile_names_run_nothing_fetch_nothing_and_are_shown(browser, hostile):
    from toysite import HOSTILE

    asked = "window.asked = 0; window.alert = window.confirm = window.prompt = () => { window.asked++; };"
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": asked})
    for page in sorted(hostile.glob("*.html")):
        opened(browser, page)
        pwned, asked, made, fetched, marks = browser.execute_script(OBEYED)
        assert (pwned, asked, made, fetched) == (0, 0, [], []), page.name
        assert all(n > 0 for n in marks), (page.name, marks)
    opened(browser, hostile / "methods.html")
    rows = "document.querySelector('main table').querySelectorAll('tbody tr')"
    told = browser.execute_script(f"return [...{rows}].map(row => row.cells[0].textContent)")
    assert told == [" ".join(re.sub("[\x07\u202e]", "\N{REPLACEMENT CHARACTER}", name).split()) for name in HOSTILE]


def test_a_search_for_a_hostile_name_shows_it_as_text(browser, hostile):
    opened(browser, hostile / "index.html")
    box = browser.find_element("css selector", ".smalldocs-search input, #quarto-search input")
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys("img src")
    wait_for(browser, "document.querySelectorAll('.search-result, .search-item').length")
    inside = "document.querySelectorAll('.smalldocs-search img, #quarto-search img, .aa-Panel img').length"
    assert browser.execute_script(f"return [window.pwned || 0, {inside}]") == [0, 0]


def test_a_report_publishes_no_variable_of_the_environment(hostile):
    for path in hostile.rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), path


def test_a_report_in_one_file_has_all_charts_and_a_search(browser, report, tmp_path):
    from taskspace.report.single_file import write_single_file

    path = write_single_file(report, tmp_path / "report.html")
    expected = sum(p.read_text().count('class="taskspace-chart"') for p in report.glob("*.html"))
    assert expected > 3 and path.stat().st_size < 10_000_000
    browser.get(path.as_uri())
    wait_for(browser, "document.documentElement.dataset.taskspaceCharts", 120)
    drawn = "document.querySelectorAll('.taskspace-stage.drawn svg.marks').length"
    assert browser.execute_script(f"return {drawn}") == expected
    # Nothing but itself was asked for
    loaded = "performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith('data:'))"
    assert browser.execute_script(f"return {loaded}") == []
    ids = "[...document.querySelectorAll('main [id]')].map((e) => e.id)"
    found = [i for i in browser.execute_script(f"return {ids}") if "--" in i]
    assert len(found) == len(set(found)) > 5
    anchors = "[...document.querySelectorAll('a')].map((a) => a.getAttribute('href') || '')"
    places = f"{anchors}.filter((h) => h.startsWith('#')).map((h) => h.slice(1))"
    lost = f"{places}.filter((i) => i && !document.getElementById(i))"
    assert browser.execute_script(f"return {lost}") == []
    field = browser.find_element("css selector", "#search input")
    field.send_keys("verdicts claims")
    assert "Verdicts" in browser.find_element("css selector", "#found a").text
    field.send_keys("\n")
    assert browser.execute_script("return document.querySelector('main .found').textContent").strip()


ACCESS = (Path(__file__).parent / "access.js").read_text(encoding="utf-8")


def sized(browser, width, height):
    "A screen of this size."
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def screen(browser):
    "The size of the screen; as it was after the test."
    yield lambda width, height: sized(browser, width, height)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def faults(browser, seconds=10):
    "What the check of access finds once the page has settled: a change of the scheme takes a moment."
    from selenium.common.exceptions import TimeoutException

    try:
        wait_for(browser, f"(() => {{{ACCESS}}})().length === 0", seconds)
        return []
    except TimeoutException:
        return browser.execute_script(ACCESS)


@pytest.mark.parametrize("page", ["index", "scale-small", "training", "methods", "data"])
def test_pages_are_read_by_everyone(browser, report, page, screen):
    "Contrast, descriptions, landmarks, headings, headers of tables, names of links: light and dark, large and small."
    for width in (1300, 390):
        screen(width, 900)
        opened(browser, report / f"{page}.html")
        assert faults(browser) == [], f"{width} pixels"
        before = browser.execute_script("return document.documentElement.dataset.taskspaceCharts")
        browser.execute_script("document.querySelector('.quarto-color-scheme-toggle').click()")
        if before:
            wait_for(browser, f"document.documentElement.dataset.taskspaceCharts !== '{before}'")
        assert faults(browser) == [], f"{width} pixels, the other scheme"
        browser.execute_script("document.querySelector('.quarto-color-scheme-toggle').click()")


def test_the_check_of_access_finds_what_is_broken(browser, tmp_path):
    "Each fault of a page made for it is found, and a sound page has none."
    sound = (
        "<!DOCTYPE html><html lang='en'><head><title>T</title></head><body><main><h1>A</h1><h2>B</h2>"
        "<p>text <a href='#x'>link</a></p><table><tr><th>a</th></tr></table><img alt='' src='data:,'></main></body>"
    )
    faults = {
        "no language": ("<html lang='en'>", "<html>"),
        "no title": ("<title>T</title>", ""),
        "0 main landmarks": ("main>", "div>"),
        "heading skips a level": ("h2>", "h3>"),
        "not one h1": ("<h2>B</h2>", "<h1>B</h1>"),
        "image without alt": ("alt='' ", ""),
        "link or button without a name": (">link<", "><"),
        "table without headers": ("th>", "td>"),
        "contrast 4.48": ("<p>", "<p style='color:#777'>"),
        "chart without a description": ("<p>", "<div class='taskspace-chart' aria-label='chart'>x</div><p>"),
        "field without a label": ("<p>", "<input><p>"),
        "scrolls, but not with the keyboard": (
            "<p>",
            "<div style='overflow-x:auto;width:50px'><div style='width:90px'>a</div></div><p>",
        ),
    }
    path = tmp_path / "page.html"
    for fault, (right, wrong) in {"": ("", ""), **faults}.items():
        path.write_text(sound.replace(right, wrong) if fault else sound, encoding="utf-8")
        browser.get(path.as_uri())
        found = browser.execute_script(ACCESS)
        assert any(line.startswith(fault) for line in found) if fault else found == [], (fault, found)


@pytest.mark.parametrize(("width", "height"), [(1300, 1000), (390, 844)])
def test_the_first_questions_are_answered_on_two_screens(browser, report, screen, width, height):
    screen(width, height)
    opened(browser, report / "index.html")
    ends = browser.execute_script(
        "return [...document.querySelectorAll('dl.answers dd')].map(d => d.getBoundingClientRect().bottom + scrollY)"
    )
    assert len(ends) == 5 and max(ends) < 2 * height
    targets = browser.execute_script(
        """return [...document.querySelectorAll('dl.answers a')].map(a => a.getAttribute('href'))
            .filter(h => h.startsWith('#')).map(h => !!document.getElementById(h.slice(1)))"""
    )
    assert targets == [True] * 4


def test_a_chart_says_what_it_shows(browser, report):
    opened(browser, report / "index.html")
    labels = browser.execute_script(
        "return [...document.querySelectorAll('.taskspace-chart')].map(c => c.getAttribute('aria-label'))"
    )
    assert "Accuracy by phenomenon. across: accuracy. up: phenomenon. colour: model. shape: model" in labels, labels
