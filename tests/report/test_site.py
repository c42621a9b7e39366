"""The site: pages are made from the notebooks, every link leads somewhere, every page says what it is about.

Tests that name Quarto check what is made for it against the behaviour of its sources, versions 1.4 to 1.8. None of them
needs Quarto.
"""

import collections
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from taskspace import workarounds
from taskspace.errors import TaskspaceError
from taskspace.report import pages
from taskspace.report import site as report

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tools"))
import docs  # noqa: E402

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted(p for p in (TOP / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def build_site(copy):
    "The site as `make docs` builds it, in a copy of the repository."
    names = (
        subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=TOP,
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .split("\0")
    )
    for name in filter(None, names):
        if (TOP / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((TOP / name).read_bytes())
    bin = str(Path(sys.executable).parent)
    done = subprocess.run(
        [sys.executable, "-m", "smalldocs.cli", "render", "--strict", "."],
        cwd=copy,
        text=True,
        capture_output=True,
        env={"PATH": f"{bin}:/usr/bin:/bin", "HOME": str(Path.home()), "PYTHONPATH": str(copy)},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def site(once):
    return once("site", build_site) / "_docs"


def test_all_links_lead_somewhere_and_all_pages_are_described(site):
    assert docs.broken(site) == []


def test_every_notebook_has_a_page_in_the_navigation(site):
    config = yaml.safe_load((TOP / "_quarto.yml").read_text())
    listed = set(re.findall(r"pages/[\w/]+\.(?:ipynb|md)", json.dumps(config)))
    pages = {str(docs.page_of(p).relative_to(TOP)) for p in NOTEBOOKS if p.name != "index.ipynb"}
    assert pages - listed == set()
    assert {p for p in listed if p.endswith(".ipynb")} - pages == set()


def test_pages_stay_small(site):
    heavy = {p.name: p.stat().st_size for p in site.rglob("*.html") if p.stat().st_size > 3_000_000}
    assert heavy == {}


def test_ids_stand_once_on_a_page(site):
    class Ids(HTMLParser):
        def handle_starttag(self, tag, attrs):
            self.found.update(value for key, value in attrs if key == "id")

    twice = {}
    for path in site.rglob("*.html"):
        parser = Ids()
        parser.found = collections.Counter()
        parser.feed(path.read_text(encoding="utf-8"))
        twice |= {str(path.relative_to(site)): name for name, n in parser.found.items() if n > 1}
    assert twice == {}


def test_tables_and_charts_of_the_notebooks_are_on_the_pages(site):
    for notebook in NOTEBOOKS:
        if notebook.name == "index.ipynb":
            continue
        page = (site / docs.page_of(notebook).relative_to(TOP)).with_suffix(".html").read_text(encoding="utf-8")
        given = held(json.loads(notebook.read_text()))
        assert page.count('<div class="taskspace-chart"') == given.count('<div class="taskspace-chart"')
        assert page.count("<table data-quarto") == given.count("<table")


def test_search_finds_names_and_is_there_without_a_server(site):
    index = json.loads((site / "search.json").read_text())
    assert any("load_suite" in entry["text"] for entry in index)
    script = (site / "assets" / "search.js").read_text()
    assert json.loads(script.removeprefix("window.taskspaceSearch = ").rstrip(";\n")) == index


def test_nothing_is_fetched_from_elsewhere(site):
    foreign = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]+", re.I)
    found = {
        p.name: m[0]
        for p in site.rglob("*.html")
        for m in [foreign.search(p.read_text(encoding="utf-8"))]
        if m and 'rel="canonical"' not in m[0]
    }
    assert found == {}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(TOP / "nbs")))
def test_every_notebook_opens_with_title_and_description(notebook):
    meta, _ = docs.front_matter(json.loads(notebook.read_text())["cells"])
    assert meta.get("title") and len(meta.get("description", "")) > 20


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: str(p.relative_to(TOP / "nbs")))
def test_notebooks_are_saved_with_their_outputs_and_without_errors(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    assert outputs or notebook.name == "index.ipynb", "no output is saved: run the notebook and save it"
    assert not [out for out in outputs if out["output_type"] == "error"]
    said = "".join("".join(out.get("text", "")) for out in outputs)
    assert "Traceback" not in said and "/work/" not in json.dumps(cells) and "/root/" not in json.dumps(cells)


def test_readme_and_first_page_are_in_step_with_their_notebook():
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "readme", "--check"], cwd=TOP, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_first_page_needs_nothing_that_is_made_before_rendering():
    "Quarto expands what a page includes before it makes pages; only the picture comes from there."
    text = (TOP / "index.qmd").read_text()
    assert "{{<" not in text and text.startswith("---\n# Made from nbs/index.ipynb")
    made = {f"pages/{path.relative_to(TOP / 'nbs')}" for path in (TOP / "nbs").rglob("*.*")} | {
        str(docs.page_of(path).relative_to(TOP)) for path in NOTEBOOKS
    }
    assert set(re.findall(r"\]\((pages/[^)#]+)", text)) <= made


def test_quarto_finds_nothing_to_add_to_gitignore():
    assert {"/.quarto/", "**/*.quarto_ipynb"} <= set((TOP / ".gitignore").read_text().splitlines())


def test_readme_shows_a_picture_code_and_commands_that_exist():
    text = (TOP / "README.md").read_text()
    picture = text.index("nbs/images/")
    assert picture < text.index("```python") < text.index("make report") < text.index("make test")
    for image in re.findall(r"\]\((nbs/images/[^)]+)\)|src=\"(nbs/images/[^\"]+)\"", text):
        assert (TOP / (image[0] or image[1])).is_file()
    targets = set(re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)`", text)) <= targets


# ---------------------------------------------------------------- what Quarto makes of the pages


def held(notebook):
    "All HTML that a notebook shows."
    cells = [cell for cell in notebook["cells"] if "#| hide" not in "".join(cell["source"])]
    shown = [out["data"] for cell in cells for out in cell.get("outputs", []) if "data" in out]
    return "".join("".join(data.get("text/html", "")) for data in shown)


def as_quarto_reads(notebook):
    """The Markdown that Quarto makes of a notebook, and whether it loads scripts for widgets.

    After mdFromContentCell and mdFromCodeCell in jupyter.ts, displayDataMimeType in display-data.ts, and widgets.ts.
    """
    first = ("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain")
    parts, widgets = [], False
    for cell in notebook["cells"]:
        assert isinstance(cell["source"], list) and all(line.endswith("\n") for line in cell["source"][:-1])
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source.rstrip("\n") + "\n")
        elif "#| echo: false" not in source:
            parts.append(f"````{{.python .cell-code}}\n{source}\n````\n")
        for out in cell.get("outputs", []):
            data = out.get("data") or {"text/plain": out["text"]}
            assert all(isinstance(value, list) for value in data.values())
            mime = next(mime for mime in first if mime in data)
            widgets |= bool({"text/html", "application/javascript"} & set(data))
            shown = "".join(data[mime]) + "\n"
            if mime == "text/html":
                shown = f"```{{=html}}\n{shown}```\n"
            parts.append(
                f"\n::: {{.cell-output}}\n{shown if mime.startswith('text/') and mime != 'text/plain' else ''}:::\n"
            )
    return "\n".join(parts), widgets


def raw_blocks(markdown):
    "The blocks of HTML of a Markdown text; every block that is opened must be closed."
    blocks, fence, kind = [], "", ""
    for line in markdown.split("\n"):
        found = re.match(r"(`{3,})(.*)$", line)
        if fence:
            if found and len(found[1]) >= len(fence) and not found[2].strip():
                fence = ""
            elif kind == "{=html}":
                blocks[-1] += line + "\n"
        elif found and "`" not in found[2]:
            fence, kind = found[1], found[2]
            if kind == "{=html}":
                blocks.append("")
    assert fence == ""
    return blocks


PAGES = {f"site/{path.relative_to(TOP / 'nbs')}": path for path in NOTEBOOKS if path.name != "index.ipynb"}
PAGES |= {
    f"report/{name}": TOP / "nbs" / "studies" / f"{name}.ipynb"
    for name in ("summary", "scale", "training", "dissimilarity")
}


@pytest.fixture(scope="module")
def names():
    return docs.symbols()


@pytest.mark.parametrize("name", PAGES)
def test_quarto_reads_a_page_as_it_is_meant(name, names):
    notebook = json.loads(PAGES[name].read_text())
    page = docs.process(notebook, docs.page_of(PAGES[name]), names) if name.startswith("site") else pages.page(notebook)
    markdown, widgets = as_quarto_reads(page)
    assert not widgets and "text/html" not in {
        mime for cell in page["cells"] for out in cell.get("outputs", []) for mime in out.get("data", {})
    }
    assert yaml.safe_load(markdown.split("---\n")[1])["title"]
    blocks, given = raw_blocks(markdown), held(notebook)
    assert sum(block.count('<div class="taskspace-chart"') for block in blocks) == given.count(
        '<div class="taskspace-chart"'
    )
    tables = [table for block in blocks for table in re.findall(r"<table[^>]*>", block)]
    assert len(tables) == given.count("<table") and all(
        'data-quarto-disable-processing="true"' in table for table in tables
    )


def test_html_with_backticks_stays_in_its_block():
    markdown = "".join(pages.for_page({"data": {"text/html": "<pre>````\n</pre>"}})["data"]["text/markdown"])
    assert raw_blocks(markdown) == ["<pre>````\n</pre>\n"] and markdown.startswith("`````{=html}\n")


def test_dashes_of_a_table_say_how_wide_its_columns_are():
    words = "[some words](far/away.html#x) that go on and on, far beyond one line of a page"
    table = f"| a | b |\n|---|:-:|\n| `name` | {words} |"
    lines = pages.proportioned(f"{table}\n\n```\n{table}\n```").split("\n")
    assert lines[1] == f"|----|:{'-' * 38}:|" and lines[6] == "|---|:-:|"
    for row in (lines[0], lines[2]):
        assert row in table
    wide = pages.proportioned("| " + " | ".join("x" * 50 for _ in range(4)) + " |\n|---|---|---|---|").split("\n")[1]
    assert wide == "|" + ("-" * 18 + "|") * 4


QUARTO_JS = {
    "quarto.js": """import * as tabsets from "./tabsets/tabsets.js";
import * as axe from "./axe/axe-check.js";

const sectionChanged = 1;

window.document.addEventListener("DOMContentLoaded", function (_event) {
  window.ready = sectionChanged;
});

tabsets.init();
axe.init();

function throttle(func, wait) {
  return func;
}
""",
    "tabsets/tabsets.js": """// grouped tabsets

export function init() {
  window.tabs = document.readyState;
}
""",
    "axe/axe-check.js": """class Checker {
  async init() {
    const axe = (await import("https://example.org/axe.js")).default;
  }
}

export async function init() {
  window.axe = document.querySelector('#none') ? new Checker().init() : 'off';
}""",
}


def quarto_site(folder, tags=("quarto.js", "tabsets/tabsets.js", "axe/axe-check.js"), files=QUARTO_JS):
    "A site with the scripts of Quarto 1.8, in the shapes that its own have."
    for name, text in files.items():
        path = folder / "site_libs" / "quarto-html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for page, up in (("index.html", ""), ("pages/a.html", "../")):
        (folder / page).parent.mkdir(exist_ok=True)
        scripts = "\n".join(f'<script src="{up}site_libs/quarto-html/{name}" type="module"></script>' for name in tags)
        scripts += f'\n<script src="{up}site_libs/quarto-nav/quarto-nav.js"></script>'
        (folder / page).write_text(f"<!DOCTYPE html><html><head>\n{scripts}\n</head><body></body></html>")
    return folder


def test_a_module_of_quarto_becomes_a_plain_script(tmp_path):
    site = quarto_site(tmp_path)
    workarounds.without_modules(site)
    script = (site / "site_libs/quarto-html/quarto.js").read_text()
    assert (
        not re.search(r"^\s*(import|export)\b", script, re.M)
        and script.count("return {init};") == 2
        and "await import(" in script
    )
    for page, up in ((site / "index.html", ""), (site / "pages/a.html", "../")):
        tags = re.findall(r"<script[^>]*>", page.read_text())
        assert tags == [
            f'<script src="{up}site_libs/quarto-html/quarto.js" defer>',
            f'<script src="{up}site_libs/quarto-nav/quarto-nav.js">',
        ]
    before = script, (site / "index.html").read_text()
    workarounds.without_modules(site)
    assert ((site / "site_libs/quarto-html/quarto.js").read_text(), (site / "index.html").read_text()) == before
    quarto_site(tmp_path, files={})  # pages that were rendered again, beside a script that was not
    workarounds.without_modules(site)
    assert (site / "index.html").read_text() == before[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"quarto.js": "const sectionChanged = 1;\n"},  # before 1.7
        {"quarto.js": 'import { init } from "./tabsets/tabsets.js";\ninit();\n'},
        {"tabsets/tabsets.js": 'import "./more.js";\nexport function init() {}\n'},
        {"tabsets/tabsets.js": "function init() {}\nexport { init };\n"},
        {"quarto.js": 'import * as gone from "./gone.js";\ngone.init();\n'},
    ],
)
def test_scripts_of_another_shape_stay_as_they_are(tmp_path, changed):
    site = quarto_site(tmp_path, files={**QUARTO_JS, **changed})
    before = {path: path.read_text() for path in site.rglob("*.*") if path.is_file()}
    workarounds.without_modules(site)
    assert {path: path.read_text() for path in before} == before


def test_what_quarto_says_of_a_mistake_is_told_without_its_stack(tmp_path, monkeypatch):
    quarto = tmp_path / "bin" / "quarto"
    quarto.parent.mkdir()
    said = [
        "rendering",
        "ERROR: YAML parse exception, colours $NO_COLOR",
        "Stack trace:",
        "    at main (quarto.js:1:2)",
    ]
    quarto.write_text("\n".join(["#!/bin/sh", *(f'echo "{line}"' for line in said), "exit 1", ""]))
    quarto.chmod(0o755)
    monkeypatch.setenv("PATH", str(quarto.parent), prepend=":")
    with pytest.raises(
        TaskspaceError, match="^quarto could not render the report: ERROR: YAML parse exception, colours 1$"
    ):
        report.render(tmp_path)


# ---------------------------------------------------------------- the parts of the step that makes pages


def test_what_the_command_line_shows_as_it_stands_is_code_on_the_page():
    shown = docs.told(
        "Do it, as given by --out.\n\n\b\ntaskspace do --out x\ntaskspace do\n\n\b\nA file:\n    a: 1\n      b: 2\n\n"
        "The `--end`."
    )
    assert shown == (
        "Do it, as given by `--out`.\n\n```bash\ntaskspace do --out x\ntaskspace do\n```\n\n"
        "A file:\n\n```yaml\na: 1\n  b: 2\n```\n\nThe `--end`."
    )


def code_cell(source, *data):
    outputs = [{"output_type": "display_data", "metadata": {}, "data": d} for d in data]
    return {"cell_type": "code", "metadata": {}, "execution_count": None, "source": source, "outputs": outputs}


def test_what_a_cell_without_code_shows_as_markdown_is_text_of_the_page():
    "Quarto's table of contents leaves out the headings of outputs."
    told = {"text/markdown": ["## First\n", "words `--out`"], "text/plain": "x"}
    cells = [
        markdown_cell("# Title\n\n> About."),
        code_cell("#| echo: false\nshow()", told, {"text/markdown": "## Second"}),
    ]
    shown = docs.process({"cells": cells, "metadata": {}}, docs.PAGES / "x.ipynb", {})["cells"][1:]
    assert [(c["cell_type"], "".join(c["source"])) for c in shown] == [
        ("markdown", "## First\nwords `--out`"),
        ("markdown", "## Second"),
    ]
    others = (
        code_cell("show()", told),  # its code is shown
        code_cell("#| echo: false\nshow()", told, {"text/plain": "x"}),
        code_cell("#| echo: false\nshow()", {**told, "text/html": "<b>x</b>"}),
        code_cell("#| echo: false\n#| output: false\nshow()", told),
        code_cell("#| echo: false\nshow()"),
    )
    assert [docs.as_text(cell) for cell in others] == [None] * len(others)


def markdown_cell(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


@pytest.mark.parametrize(("page", "entries"), [("command_line", 7), ("study_file", 5)])
def test_reference_pages_have_their_headings_in_text(page, entries, names):
    path = TOP / "nbs" / "reference" / f"{page}.ipynb"
    cells = docs.process(json.loads(path.read_text()), docs.page_of(path), names)["cells"]
    texts = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert len(re.findall(r"^## ", texts, re.M)) >= entries


def test_only_pages_that_were_not_rendered_are_called_late(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(docs, "PAGES", tmp_path / "pages")
    for name in ("a.ipynb", "sub/b.md"):
        page, shown = tmp_path / "pages" / name, (tmp_path / "_docs" / "pages" / name).with_suffix(".html")
        for path, when in ((page, 100), (shown, 200)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
            os.utime(path, (when, when))
    monkeypatch.setenv("QUARTO_PROJECT_RENDER_ALL", "1")
    docs.say_what_was_late(tmp_path / "_docs")
    assert capsys.readouterr().out == ""
    os.utime(tmp_path / "_docs/pages/sub/b.html", (50, 50))  # of an earlier render
    docs.say_what_was_late(tmp_path / "_docs")
    assert capsys.readouterr().out.startswith(
        "1 pages were made after Quarto had listed what it renders, pages/sub/b.md"
    )
    monkeypatch.delenv("QUARTO_PROJECT_RENDER_ALL")  # one page was asked for
    docs.say_what_was_late(tmp_path / "_docs")
    assert capsys.readouterr().out == ""


def test_a_render_among_the_notebooks_says_where_in_a_line():
    command = yaml.safe_load((TOP / "nbs" / "_quarto.yml").read_text())["project"]["pre-render"]
    done = subprocess.run([sys.executable, *command.split()[1:]], cwd=TOP / "nbs", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1 and "make docs" in done.stderr
    left = [
        f"nbs/{name}" for name in ("method.html", "method_files/x.png", "site_libs/a.js", "nbdev.yml", "sidebar.yml")
    ]
    ignored = subprocess.run(["git", "check-ignore", *left], cwd=TOP, capture_output=True, text=True).stdout.split()
    assert ignored == left


def test_the_sidebar_of_the_first_page_names_no_entry_of_the_bar():
    "Quarto marks such an entry as the active one."
    website = yaml.safe_load((TOP / "_quarto.yml").read_text())["website"]
    first = next(s for s in website["sidebar"] if "index.qmd" in json.dumps(s))
    assert not [e["href"] for e in website["navbar"]["left"] if e["href"] in json.dumps(first)]


def test_a_heading_leaves_its_id_to_the_name_that_it_is_about():
    assert docs.apart("## Curves\n\n```\n# curves\n```\n### More curves\n#### `curves` {#curves}", {"curves"}) == (
        "## Curves {#about-curves}\n\n```\n# curves\n```\n### More curves\n#### `curves` {#curves}"
    )


def test_a_signature_carries_what_docments_say():
    source = """
class Space:
    "A space."
    size: int = 3  # number of tasks
    _hidden: int = 0

    def take(self,
             n: int,  # how many
             *, deep: bool = False,  # all the way | down
             ) -> list[int]:  # the first ones
        "Take some."
        return []

    @property
    def names(self) -> list[str]:  # in order
        "Their names."
"""
    cells = [cell["source"] for cell in docs.documented(source)]
    assert [cell.split("\n")[0] for cell in cells] == [
        "### `Space` {#Space}",
        "#### `Space.take` {#Space.take}",
        "#### `Space.names` {#Space.names}",
    ]
    assert (
        "Space(size=3)" in cells[0] and "| `size` | `int` | number of tasks |" in cells[0] and "_hidden" not in cells[0]
    )
    assert "Space.take(n, *, deep=False) -> list[int]" in cells[1]
    assert (
        "| `n` | `int` | how many |" in cells[1]
        and "all the way or down" in cells[1]
        and "| returns | `list[int]` | the first ones |" in cells[1]
    )
    assert "Space.names -> list[str]" in cells[2] and "Returns `list[str]`: in order." in cells[2]


def test_names_link_to_their_page_but_not_inside_code_or_headings():
    names = {"Suite": "pages/api/tasks.ipynb#suite"}
    page = TOP / "pages" / "tutorials" / "x.ipynb"
    text = "## `Suite`\n\nA `Suite` and `nothing`.\n\n```python\n`Suite`\n```\n[`Suite`](there)"
    linked = text.replace("A `Suite`", "A [`Suite`](../api/tasks.ipynb#suite)")
    assert docs.linked(text, names, page) == linked


def test_the_link_check_finds_what_is_broken(tmp_path):
    head = '<meta name="description" content="About it.">'
    links = '<a href="#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><img src="d.png">'
    (tmp_path / "a.html").write_text(f'{head}<h2 id="here">x</h2>{links}')
    (tmp_path / "b.html").write_text('<a href="a.html#here">back</a>')
    assert docs.broken(tmp_path) == [
        "a.html: b.html#gone names an anchor that its page lacks",
        "a.html: c.html leads nowhere",
        "a.html: d.png leads nowhere",
        "b.html: no description",
    ]


def test_the_site_lists_its_pages_for_language_models(tmp_path):
    (tmp_path / "a").mkdir()
    head = '<title>Means &amp; more – taskspace</title><meta name="description" content="What &lt;it&gt; says.">'
    (tmp_path / "a" / "b.html").write_text(f"<html><head>{head}</head></html>")
    (tmp_path / "bare.html").write_text("<html></html>")
    docs.finish(tmp_path)
    lines = (tmp_path / "llms.txt").read_text().splitlines()
    assert lines[0] == "# taskspace" and lines[-1] == "- [Means & more](a/b.html): What <it> says." and len(lines) == 7
    assert json.loads((tmp_path / "study.schema.json").read_text())["properties"]["probes"]
