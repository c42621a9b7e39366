"""Turn the notebooks into the pages of the website, and the first of them into README.md and index.qmd.

    python tools/docs.py pages     before rendering: nbs/ -> pages/, with signatures, docments and links between names
    python tools/docs.py finish    after rendering: what pages load, also where a site is opened from a disk
    python tools/docs.py readme    nbs/index.ipynb -> README.md, index.qmd; with --check, say whether they are in step
    python tools/docs.py links DIR check all local links, anchors and images of a built site
    python tools/docs.py where     say where the site is rendered, to those who try it in nbs/

nbdev's own commands for this call Quarto, whichever is installed; these steps feed Quarto and smalldocs alike.
"""

from __future__ import annotations

import ast
import html
import importlib
import io
import json
import os
import re
import shutil
import sys
import textwrap
import tokenize
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOP = Path(__file__).resolve().parent.parent
try:
    import yaml

    import taskspace  # noqa: F401
except ImportError:
    # A renderer that is started outside the environment finds another Python on the path
    if __name__ != "__main__" or sys.prefix == str(TOP / ".venv") or not (TOP / ".venv/bin/python").exists():
        raise
    os.execv(TOP / ".venv/bin/python", [str(TOP / ".venv/bin/python"), *sys.argv])

sys.path.insert(0, str(TOP / "tools"))
from packages import PACKAGES  # noqa: E402

NBS, PAGES = TOP / "nbs", TOP / "pages"
KEPT = (
    "echo",
    "output",
    "fig-",
    "tbl-",
    "code-",
    "column",
    "layout-",
    "label",
    "warning",
)  # options that renderers read
MADE = "Made from nbs/index.ipynb by `make readme`; edit that."


# ---------------------------------------------------------------- cells


def text(value: str | list[str]) -> str:
    return "".join(value) if isinstance(value, list) else value


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines of a cell, as {name: rest}, and the source without them."
    found, rest = {}, []
    for line in source.split("\n"):
        match = re.match(r"#\|\s*([\w-]+):?\s*(.*)$", line)
        if match:
            found[match[1]] = match[2].strip()
        else:
            rest.append(line)
    return found, "\n".join(rest).strip("\n")


def markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def apart(source: str, taken: set[str]) -> str:
    "Markdown whose headings take no id of a documented name: `## Curves` may stand beside the function `curves`."

    def own(line: re.Match) -> str:
        plain = re.sub(r"[^\w\s.-]", "", line[0]).strip().lower()
        return f"{line[0]} {{#about-{plain}}}" if plain in taken else line[0]

    parts = re.split(r"(^```.*?^```)", source, flags=re.S | re.M)
    return "".join(part if i % 2 else re.sub(r"^#+ [^{\n]+$", own, part, flags=re.M) for i, part in enumerate(parts))


# ---------------------------------------------------------------- names


def page_of_module(module: str) -> str:
    "The page of a module, by its full name."
    return f"pages/{'/'.join(['api', *module.split('.')[1:]])}.ipynb"


def in_order() -> list[tuple[str, ...]]:
    "The modules in import order, as (name,) or (package, name): the ground, the packages, the toy, the command line."
    ground, above = (
        [(path.stem[3:],) for path in sorted((NBS / "api").glob(pattern))]
        for pattern in ("[0-7][0-9]_*.ipynb", "[89][0-9]_*.ipynb")
    )
    nested = [
        (package, path.stem[3:])
        for package in PACKAGES
        for path in sorted((NBS / "api" / package).glob("[0-9][0-9]_*.ipynb"))
    ]
    return [*ground, *nested, *above]


def handed_on() -> dict[str, str]:
    "Name -> module, of the names that `taskspace` itself hands on, read without importing what they need."
    table = next(
        node
        for node in ast.walk(ast.parse((TOP / "taskspace" / "__init__.py").read_text()))
        if isinstance(node, ast.Dict)
    )
    return {name: f"taskspace.{module}" for module, names in ast.literal_eval(table).items() for name in names.split()}


def symbols() -> dict[str, str]:
    """Public name -> page and anchor, from nbdev's index of what notebooks export: alone, with its class, its module or
    its package. A name that several modules define belongs to the one that the package itself hands on, else to the
    first in import order."""
    found: dict[str, str] = {}
    index = importlib.import_module("taskspace._modidx").d["syms"]
    public = handed_on()
    modules = [f"taskspace.{'.'.join(m)}" for m in in_order()]
    for module in sorted(index, key=modules.index):
        package = module.rpartition(".")[0]
        page = page_of_module(module)
        for full in index[module]:
            name = full.removeprefix(module + ".")
            if any(part.startswith("_") for part in name.split(".")):
                continue
            href = f"{page}#{name}"
            found[full] = href
            found.setdefault(f"{package}.{name}", href)
            if public.get(name.split(".")[0]) == module:
                found[name] = found[f"taskspace.{name}"] = href
            if name not in PACKAGES:
                found.setdefault(name, href)  # alone, such a name is the package
    for module in index:
        found[module] = page_of_module(module)
    return found


def linked(source: str, names: dict[str, str], page: Path, here: str = "") -> str:
    "Markdown in which `name` in backticks links to its page, outside code blocks, headings and links."
    module = here.removeprefix("pages/api/").removesuffix(".ipynb").replace("/", ".")
    near = [f"taskspace.{module}", f"taskspace.{module.rpartition('.')[0]}"] if here.startswith("pages/api/") else []

    def link(match: re.Match) -> str:
        name = match[1].removesuffix("()")
        href = next((names[key] for key in (*(f"{place}.{name}" for place in near), name) if key in names), None)
        if href is None:
            return match[0]
        target, _, anchor = href.partition("#")
        if target == here:
            return f"[{match[0]}](#{anchor})"
        return f"[{match[0]}]({os.path.relpath(TOP / target, page.parent)}{'#' + anchor if anchor else ''})"

    source = re.sub(r"(\]\([^)\s]*?)\b\d\d_(\w+\.ipynb)", r"\1\2", source)  # API pages go by the name of their module
    parts = re.split(r"(```.*?```|^#+ [^\n]*$|\[[^\]]*\]\([^)]*\))", source, flags=re.S | re.M)
    word = r"(?<!`)`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)"
    return "".join(part if i % 2 else re.sub(word, link, part) for i, part in enumerate(parts))


def comments(source: str) -> dict[int, str]:
    "Line number -> trailing comment, which is how docments describe parameters and results."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def signature(node: ast.FunctionDef | ast.ClassDef, notes: dict[int, str]) -> tuple[str, list[tuple[str, str, str]]]:
    "How to call it, and one row (name, type, meaning) for each parameter or field that is explained, the result last."
    rows, call, returns = [], [], ""
    init = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    function = node if isinstance(node, ast.FunctionDef) else init
    if function is not None:
        args = function.args
        given = [*args.posonlyargs, *args.args]
        defaults = [None] * (len(given) - len(args.defaults)) + args.defaults
        items = [("", a, d) for a, d in zip(given, defaults, strict=True)]
        if args.vararg:
            items.append(("*", args.vararg, None))
        elif args.kwonlyargs:
            items.append(("*", None, None))
        items += [("", a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True)] + (
            [("**", args.kwarg, None)] if args.kwarg else []
        )
        for star, arg, default in items:
            if arg is None:
                call.append("*")
                continue
            if arg.arg in ("self", "cls"):
                continue
            call.append(star + arg.arg + (f"={ast.unparse(default)}" if default is not None else ""))
            last = (default or arg).end_lineno
            shared = any(
                other is not arg and other is not None and other.lineno == last
                for _, other, _ in items
                if other is not None and other.arg not in ("self", "cls")
            )
            note = notes.get(last, "") if not shared and last < function.body[0].lineno else ""
            if arg.lineno == function.lineno and function.body[0].lineno <= function.lineno + 1:
                note = ""  # on one line the comment tells the result
            rows.append((star + arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", note))
        if isinstance(node, ast.FunctionDef):
            close = (function.returns.end_lineno if function.returns else function.lineno) or function.lineno
            told = notes.get(close, "") if function.returns or function.body[0].lineno > function.lineno else ""
            returns = ast.unparse(function.returns) if function.returns else ""
            if told in [note for _, _, note in rows]:
                told = ""
            if returns not in ("", "None") or told:
                rows.append(("→", returns, told))
    else:
        for part in node.body:
            if (
                not isinstance(part, ast.AnnAssign)
                or not isinstance(part.target, ast.Name)
                or part.target.id.startswith("_")
            ):
                continue
            call.append(part.target.id + (f"={ast.unparse(part.value)}" if part.value is not None else ""))
            rows.append((part.target.id, ast.unparse(part.annotation), notes.get(part.end_lineno or 0, "")))
    start = f"{node.name}("
    line = start + ", ".join(call) + ")"
    if len(line) > 88:
        line = start + (",\n" + " " * len(start)).join(call) + ")"
    if isinstance(node, ast.ClassDef) and not call:
        line = f"class {node.name}" + (f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else "")
    elif returns not in ("", "None"):
        line += f" -> {returns}"
    return line, rows if any(note for *_, note in rows) or len(rows) > 1 else []


def table(rows: list[tuple[str, str, str]]) -> str:
    "Parameters as a Markdown table."

    def cell(value: str, code: bool) -> str:
        # a bar would end the cell, and the renderers disagree on how to escape one inside code
        value = value.replace(" | ", " or ").replace("|", "∣")
        value = value if code else re.sub(r"<(?=[/\w])", "&lt;", options_as_code(value))
        return f"`{value}`" if value and code and value != "→" else value

    if not rows:
        return ""
    if len(rows) == 1 and rows[0][0] == "→":
        return f"Returns {cell(rows[0][1], True)}: {cell(rows[0][2], False)}." if rows[0][2] else ""
    lines = [
        f"| {'returns' if name == '→' else cell(name, True)} | {cell(kind, True)} | {cell(note, False)} |"
        for name, kind, note in rows
    ]
    return "\n".join(["| parameter | type | meaning |", "|---|---|---|", *lines])


def options_as_code(source: str) -> str:
    "Markdown with `--out` as code wherever it stands as text: typography makes one dash of two."
    parts = re.split(r"(```.*?```|`[^`]*`)", source, flags=re.S)
    return "".join(
        part if i % 2 else re.sub(r"(?<![\w-])--[a-z][\w-]*", r"`\g<0>`", part) for i, part in enumerate(parts)
    )


def told(docstring: str) -> str:
    """A docstring as Markdown. A paragraph that the command line shows as it stands, marked by a backspace, is a block
    of code."""

    def block(match: re.Match) -> str:
        first, _, rest = match[1].partition("\n")
        title, body = (f"{first}\n\n", rest) if rest.startswith("  ") else ("", match[1])
        return f"{title}```{'yaml' if title else 'bash'}\n{textwrap.dedent(body)}\n```"

    return options_as_code(re.sub(r"^\x08\n(.*?)(?=\n\n|\Z)", block, docstring, flags=re.S | re.M))


def documented(source: str) -> list[dict]:
    "One Markdown cell for each public function and class of an exported cell, and for methods with a docstring."
    cells, notes = [], comments(source)

    def add(node: ast.FunctionDef | ast.ClassDef, name: str, level: int) -> None:
        line, rows = signature(node, notes)
        kind = next(
            (
                d.id
                for d in node.decorator_list
                if isinstance(d, ast.Name) and d.id in ("property", "classmethod", "staticmethod")
            ),
            "",
        )
        if kind == "property":
            line = f"{name}{line.partition(')')[2]}"
        elif "." in name:
            line = line.replace("\n", "\n" + " " * (len(name) - len(node.name))).replace(node.name, name, 1)
        parts = [
            f"{'#' * level} `{name}` {{#{name}}}",
            f"```python\n{line}\n```",
            told(ast.get_docstring(node) or ""),
            table(rows),
        ]
        cells.append(markdown("\n\n".join(part for part in parts if part)))

    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        add(node, node.name, 3)
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part):
                add(part, f"{node.name}.{part.name}", 4)
    return cells


# ---------------------------------------------------------------- pages


def front_matter(cells: list[dict]) -> tuple[dict, list[dict]]:
    "Title and description from the first cells: a raw YAML cell, or `# title` with a `>` line below it."
    meta: dict = {}
    if cells and cells[0]["cell_type"] == "raw":
        meta = yaml.safe_load(text(cells[0]["source"]).strip().strip("-")) or {}
        cells = cells[1:]
    if cells and cells[0]["cell_type"] == "markdown":
        match = re.match(
            r"# (?P<title>.+?)\n+(?:>\s*(?P<description>(?:.+\n?)(?:> ?.*\n?)*))?(?P<rest>.*)$",
            text(cells[0]["source"]) + "\n",
            re.S,
        )
        if match:
            meta.setdefault("title", match["title"].strip())
            if match["description"]:
                meta.setdefault("description", " ".join(re.sub(r"^>\s?", "", match["description"], flags=re.M).split()))
            cells = ([markdown(match["rest"].strip())] if match["rest"].strip() else []) + cells[1:]
    return meta, cells


def page_of(notebook: Path) -> Path:
    "Where a notebook's page goes: the same folder under pages/, API pages by the name of their module."
    where = notebook.relative_to(NBS)
    return PAGES / (where.with_name(re.sub(r"^\d+_", "", where.name)) if where.parts[0] == "api" else where)


def outputs(cell: dict) -> list[dict]:
    "A cell's outputs as renderers should show them."
    from taskspace.report.pages import for_page

    kept = [for_page(out) for out in cell.get("outputs", [])]
    for old, new in zip(cell.get("outputs", []), kept, strict=True):
        data = new.get("data", {})
        if "text/markdown" in data and "text/html" not in old["data"]:
            data["text/markdown"] = options_as_code(text(data["text/markdown"])).splitlines(True)
    return kept


def as_text(cell: dict) -> list[dict] | None:
    """A cell without code whose outputs are all Markdown, as Markdown cells; None for any other cell. Quarto's table of
    contents leaves out the headings of outputs."""
    found, _ = directives(text(cell["source"]))
    given = [out.get("data", {}) for out in cell.get("outputs", [])]
    if found.get("echo") != "false" or set(found) - {"echo", "output"} or found.get("output") == "false" or not given:
        return None
    if any("text/markdown" not in data or "text/html" in data for data in given):
        return None
    return [markdown(text(out["data"]["text/markdown"])) for out in outputs(cell)]


def process(notebook: dict, page: Path, names: dict[str, str]) -> dict:
    "A notebook as its page shows it."
    from taskspace.report.pages import proportioned

    meta, cells = front_matter(notebook["cells"])
    module = next(
        (
            d["default_exp"]
            for c in cells
            if c["cell_type"] == "code"
            for d in [directives(text(c["source"]))[0]]
            if "default_exp" in d
        ),
        None,
    )
    # A name of `scoring.scores` is had from its package, `taskspace.scoring`; one of `errors` from the module itself
    full = f"taskspace.{module.split()[0].split('.')[0]}" if module else None
    here = str(page.relative_to(TOP)) if page.is_relative_to(TOP) else ""
    shown = [
        {
            "cell_type": "raw",
            "metadata": {},
            "source": "---\n" + yaml.safe_dump(meta, sort_keys=False, allow_unicode=True, width=1000) + "---",
        }
    ]
    if full:
        shown.append(markdown(f"`from {full} import …`"))
    for cell in cells:
        source = text(cell["source"])
        if cell["cell_type"] == "markdown":
            shown.append(markdown(linked(source, names, page, here)))
        elif cell["cell_type"] == "code" and source.strip():
            found, code = directives(source)
            if "hide" in found or "default_exp" in found:
                continue
            if shown_as_text := as_text(cell):
                shown += shown_as_text
                continue
            options = [f"#| {name}: {value}" for name, value in found.items() if name.startswith(KEPT)]
            if full and {"export", "exports", "exporti"} & set(found):
                if not re.search(r"^(def|class|[A-Z_]+\b.*=|@)", code, re.M):
                    continue  # imports
                for documentation in documented(code):
                    shown.append(markdown(linked(documentation["source"], names, page, here)))
                options = ["#| code-fold: true", '#| code-summary: "Source"']
            elif page.parent.name == "studies" and not any(o.startswith("#| echo") for o in options):
                options += ["#| code-fold: true", '#| code-summary: "Code"']  # a study is read for its figures
            shown.append(
                {
                    "cell_type": "code",
                    "metadata": {"tags": cell["metadata"].get("tags", [])},
                    "execution_count": None,
                    "source": "\n".join([*options, code]),
                    "outputs": outputs(cell),
                }
            )
    taken = {
        name
        for cell in shown
        for name in re.findall(r"^#+ `.*\{#(.+)\}$", cell["source"], re.M)
        if cell["cell_type"] == "markdown"
    }
    for i, cell in enumerate(shown):
        if cell["cell_type"] == "markdown":
            cell["source"] = proportioned(apart(cell["source"], taken))
        # Lists of lines, as Jupyter writes them: Quarto 1.4 takes nothing else, and later ones lose the line ends of a
        # single text
        cell |= {"id": f"c{i}", "source": cell["source"].splitlines(True)}
    return {
        "cells": shown,
        "metadata": {
            "kernelspec": notebook["metadata"].get(
                "kernelspec", {"display_name": "python3", "language": "python", "name": "python3"}
            )
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebooks() -> list[Path]:
    "The notebooks that become pages. The first one is the site's first page, which is a file beside its configuration."
    return [
        path
        for path in sorted(NBS.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts and path != NBS / "index.ipynb"
    ]


def write_pages() -> None:
    "Write pages/ afresh."
    from taskspace.report.pages import proportioned

    names = symbols()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    (PAGES / ".gitignore").write_text("*\n")  # all of it is made from what is in git
    for notebook in notebooks():
        page = page_of(notebook)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(
            json.dumps(process(json.loads(notebook.read_text()), page, names), ensure_ascii=False, indent=1),
            encoding="utf-8",
        )
    for source in [*NBS.rglob("*.md"), *NBS.rglob("*.svg"), *NBS.rglob("*.png")]:
        page = PAGES / source.relative_to(NBS)
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            page.write_text(proportioned(linked(source.read_text(), names, page)), encoding="utf-8")
        else:
            shutil.copy(source, page)
    changes = re.sub(r"\A# .*\n", "", (TOP / "CHANGELOG.md").read_text())
    (PAGES / "reference" / "changelog.md").write_text(
        "---\ntitle: Changelog\ndescription: What changed from one version to the next.\n---\n" + changes
    )


def late(site: Path) -> list[str]:
    "The pages that were made and not rendered since: Quarto 1.4 lists what there is before it runs what makes them."
    made = [path for path in PAGES.rglob("*") if path.suffix in (".ipynb", ".md")]
    rendered = {path: (site / path.relative_to(PAGES.parent)).with_suffix(".html") for path in made}
    return [
        str(path.relative_to(PAGES.parent))
        for path, html_file in rendered.items()
        if not html_file.exists() or html_file.stat().st_mtime < path.stat().st_mtime
    ]


def say_what_was_late(site: Path) -> None:
    "One line where a whole site was wanted and pages are missing."
    if os.environ.get("QUARTO_PROJECT_RENDER_ALL") and (missing := late(site)):
        print(
            f"{len(missing)} pages were made after Quarto had listed what it renders, {missing[0]} among them: "
            "run it again, or use `make docs`."
        )


WHERE = (
    "the site is rendered at the top of the repository, from pages that are made of these notebooks: run `make docs` "
    "there, or `quarto render pages/tutorials/probe_your_model.ipynb` for one page"
)


# ---------------------------------------------------------------- README


def readme(notebook: dict, title: bool = True) -> str:
    "The first notebook as Markdown for GitHub: code with what it printed; pictures are files of the repository."
    parts = []
    for i, cell in enumerate(notebook["cells"]):
        source = text(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            if i == 0 and not title:
                source = re.sub(r"\A# .*\n+(>.*\n*)*", "", source).strip()
            parts.append(source.replace("](images/", "](nbs/images/").replace('src="images/', 'src="nbs/images/'))
        elif cell["cell_type"] == "code":
            found, code = directives(source)
            if "hide" in found:
                continue
            if code.strip() and found.get("echo") != "false":
                parts.append(f"```python\n{code}\n```")
            for out in cell.get("outputs", []):
                data = out.get("data", {})
                if "text/markdown" in data:
                    parts.append(text(data["text/markdown"]).strip())
                elif (
                    out.get("name") == "stdout"
                    or "text/plain" in data
                    and "taskspace-chart" not in text(data.get("text/html", ""))
                ):
                    shown = text(out.get("text") or data["text/plain"]).rstrip()
                    parts.append("\n".join(f"    {line}".rstrip() for line in shown.split("\n")))
    return "\n\n".join(part for part in parts if part) + "\n"


def home(notebook: dict, names: dict[str, str]) -> str:
    """The first notebook as the site's first page: links lead to the site's own pages. It is kept in git, as Quarto
    reads it before pages are made."""
    from taskspace.report.pages import proportioned

    meta, _ = front_matter(notebook["cells"])
    body = readme(notebook, title=False)
    body = re.sub(
        r"\[([^\]]+)\]\((?:(?:tests|benchmarks)/[^)]+|[A-Z]+\.md)\)", r"`\1`", body
    )  # files that the site does not have
    body = re.sub(r"\]\((nbs/[\w/]*)/\)", r"](\1/index.md)", body)  # GitHub lists a folder, the site has its first page
    body = proportioned(linked(body.replace("](nbs/", "](pages/"), names, TOP / "index.qmd"))
    front = yaml.safe_dump({**meta, "toc": True}, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n# {MADE}\n{front}---\n\n{body}"


def write_readme(check: bool = False) -> None:
    "Write README.md and index.qmd, or only say which of them is not what the first notebook makes."
    notebook = json.loads((NBS / "index.ipynb").read_text())
    for name, new in {
        "README.md": f"<!-- {MADE} -->\n\n{readme(notebook)}",
        "index.qmd": home(notebook, symbols()),
    }.items():
        path = TOP / name
        if check and (not path.exists() or path.read_text() != new):
            sys.exit(f"{name} is out of step with nbs/index.ipynb: run `make readme`")
        if not check:
            path.write_text(new)


# ---------------------------------------------------------------- after rendering


def for_models(site: Path) -> str:
    "The site as a list of pages for language models (llms.txt): name, address and description of each page."
    lines = []
    for path in sorted(site.rglob("*.html")):
        page = path.read_text(encoding="utf-8")
        title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
        about = re.search(r'<meta name="description" content="([^"]*)"', page)
        if title and about:
            name = html.unescape(title[1]).split(" – ")[0].strip()
            lines.append(f"- [{name}]({path.relative_to(site).as_posix()}): {html.unescape(about[1])}\n")
    about = "How language models organise grammar: linguistic task spaces from gradient differentials."
    return f"# taskspace\n\n> {about}\n\n## Pages\n\n{''.join(lines)}"


def finish(site: Path) -> None:
    """Add what the pages load: Vega, the script that draws with it, and the search index; let Quarto's script run from
    a disk. Beside the pages stand a list of them for language models and the schema of a study for editors."""
    from taskspace.runs.study import Study

    (site / "llms.txt").write_text(for_models(site), encoding="utf-8")
    schema = json.dumps(Study.model_json_schema(), indent=2, ensure_ascii=False)
    (site / "study.schema.json").write_text(f"{schema}\n", encoding="utf-8")
    from taskspace.report.renderer import write_bundle
    from taskspace.workarounds import without_modules

    write_bundle(site / "assets")
    without_modules(site)


class Links(HTMLParser):
    "The ids and the local references of one page."

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.found: list[str] = []
        self.described = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for key in ("id", "name"):
            if values.get(key):
                self.ids.add(values[key] or "")
        if tag == "meta" and values.get("name") == "description" and values.get("content"):
            self.described = True
        for key in ("href", "src"):
            if values.get(key) is not None and not (tag == "a" and "onclick" in values):
                self.found.append(values[key] or "")


def broken(site: Path) -> list[str]:
    "One line for each local link, image or anchor that leads nowhere, and for each page without a description."
    pages: dict[Path, Links] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    lines = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if not page.described:
            lines.append(f"{name}: no description")
        for link in page.found:
            url = urlsplit(html.unescape(link))
            if url.scheme or url.netloc or link.startswith(("javascript:", "data:")):
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path.resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                lines.append(f"{name}: {link} leads nowhere")
            elif (
                url.fragment
                and target.suffix == ".html"
                and unquote(url.fragment) not in pages.get(target, Links()).ids | {"top"}
            ):
                lines.append(f"{name}: {link} names an anchor that its page lacks")
    return lines


def main() -> None:
    match sys.argv[1:]:
        case ["pages"]:
            write_pages()
        case ["finish"]:
            site = TOP / os.environ.get("QUARTO_PROJECT_OUTPUT_DIR", "_docs")
            finish(site)
            say_what_was_late(site)
        case ["where"]:
            sys.exit(WHERE)
        case ["readme", *rest]:
            write_readme(check="--check" in rest)
        case ["links", folder]:
            if lines := broken(Path(folder).resolve()):
                sys.exit("\n".join(lines))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
