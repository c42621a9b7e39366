"""The site: pages are made from the notebooks, every link leads somewhere, every page says what it is about."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tools"))
import docs  # noqa: E402

NOTEBOOKS = sorted(p for p in (TOP / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site as `make docs` builds it, in a copy of the repository."
    copy = tmp_path_factory.mktemp("site") / "copy"
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=TOP, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (TOP / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((TOP / name).read_bytes())
    bin = str(Path(sys.executable).parent)
    done = subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", "--strict", "."], cwd=copy, text=True, capture_output=True,
                          env={"PATH": f"{bin}:/usr/bin:/bin", "HOME": str(Path.home())})
    assert done.returncode == 0, done.stderr[-3000:]
    return copy / "_docs"


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


def test_search_finds_names_and_is_there_without_a_server(site):
    index = json.loads((site / "search.json").read_text())
    assert any("load_suite" in entry["text"] for entry in index)
    script = (site / "assets" / "search.js").read_text()
    assert json.loads(script.removeprefix("window.taskspaceSearch = ").rstrip(";\n")) == index


def test_nothing_is_fetched_from_elsewhere(site):
    foreign = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]+", re.I)
    found = {p.name: m[0] for p in site.rglob("*.html") for m in [foreign.search(p.read_text(encoding="utf-8"))] if m and "rel=\"canonical\"" not in m[0]}
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


def test_readme_is_in_step_with_its_notebook():
    done = subprocess.run([sys.executable, "tools/docs.py", "readme", "--check"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_shows_a_picture_code_and_commands_that_exist():
    text = (TOP / "README.md").read_text()
    picture = text.index("nbs/images/")
    assert picture < text.index("```python") < text.index("make report") < text.index("make test")
    for image in re.findall(r"\]\((nbs/images/[^)]+)\)|src=\"(nbs/images/[^\"]+)\"", text):
        assert (TOP / (image[0] or image[1])).is_file()
    targets = set(re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)`", text)) <= targets


# ---------------------------------------------------------------- the parts of the step that makes pages

def test_a_signature_carries_what_docments_say():
    source = '''
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
'''
    cells = [cell["source"] for cell in docs.documented(source)]
    assert [cell.split("\n")[0] for cell in cells] == ["### `Space` {#space}", "#### `Space.take` {#space.take}", "#### `Space.names` {#space.names}"]
    assert "Space(size=3)" in cells[0] and "| `size` | `int` | number of tasks |" in cells[0] and "_hidden" not in cells[0]
    assert "Space.take(n, *, deep=False) -> list[int]" in cells[1]
    assert "| `n` | `int` | how many |" in cells[1] and "all the way or down" in cells[1] and "| returns | `list[int]` | the first ones |" in cells[1]
    assert "Space.names -> list[str]" in cells[2] and "Returns in order." in cells[2]


def test_names_link_to_their_page_but_not_inside_code_or_headings():
    names = {"Suite": "pages/api/tasks.ipynb#suite"}
    page = TOP / "pages" / "tutorials" / "x.ipynb"
    text = "## `Suite`\n\nA `Suite` and `nothing`.\n\n```python\n`Suite`\n```\n[`Suite`](there)"
    assert docs.linked(text, names, page) == "## `Suite`\n\nA [`Suite`](../api/tasks.ipynb#suite) and `nothing`.\n\n```python\n`Suite`\n```\n[`Suite`](there)"


def test_the_link_check_finds_what_is_broken(tmp_path):
    head = '<meta name="description" content="About it.">'
    (tmp_path / "a.html").write_text(f'{head}<h2 id="here">x</h2><a href="#here">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><img src="d.png">')
    (tmp_path / "b.html").write_text('<a href="a.html#here">back</a>')
    assert docs.broken(tmp_path) == ["a.html: b.html#gone names an anchor that its page lacks", "a.html: c.html leads nowhere", "a.html: d.png leads nowhere",
                                     "b.html: no description"]
