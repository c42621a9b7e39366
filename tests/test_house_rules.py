"""Rules of the house: quick import, one spelling of names, every public name documented, no leaks between layers."""

import ast
import builtins
import functools
import importlib
import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
import types
from collections import Counter
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tools"))
import packages  # noqa: E402
from packages import PACKAGES  # noqa: E402


def in_import_order() -> dict[str, tuple[int, Path]]:
    """`scoring.scores` -> its place and its notebook: the ground, the packages as in their table, the toy, then the
    command line. A notebook without `default_exp` is no module."""
    api = TOP / "nbs" / "api"
    flat = [p for p in sorted(api.glob("[0-9][0-9]_*.ipynb")) if "#| default_exp" in p.read_text()]
    nested = [p for package in PACKAGES for p in sorted((api / package).glob("[0-9][0-9]_*.ipynb"))]
    ground, above = ([p for p in flat if (p.stem < "80") == low] for low in (True, False))
    ordered = ground + nested + above
    return {".".join([*p.relative_to(api).parent.parts, p.stem[3:]]): (i, p) for i, p in enumerate(ordered)}


MODULES = in_import_order()

# ---- What the rules below let pass. Only UPWARD may grow, with a reason; the others may only shrink: an entry that is
# no longer needed makes its test fail, so that nobody can fall back.

# (module, a module that stands later): why
UPWARD = {
    ("spaces.explaining", "report.evidence"): "an explanation draws itself, as a space does",
    ("spaces.space", "report.charts"): "a space draws itself, in `TaskSpace.chart`, yet no science rests on charts",
    ("spaces.space", "report.renderer"): "a space that a notebook shows needs the renderer, which is loaded then",
    (
        "spaces.space",
        "spaces.combining",
    ): "thin methods: `select`, `complete`, `average`, `centred`, `symmetric` and the operators",
    ("spaces.space", "spaces.explaining"): "thin method: `explain`",
    ("spaces.space", "spaces.signs"): "thin method: `signs`",
    ("spaces.space", "spaces.saving"): "thin methods: `save` and `load`",
    (
        "spaces.space",
        "spaces.testing",
    ): "thin methods: `within_across`, `compare`, `regress`, `noise_ceiling`, `significant`",
    ("spaces.space", "spaces.views"): "thin methods: `cluster_stability`, `embed`, `to_long`",
    ("tasks.pairs", "tasks.exports"): "thin methods: `Suite.to_file` and `Suite.to_lm_eval`",
    ("tasks.pairs", "tasks.splits"): "`Suite.split` is a thin method of a function that the chapter on splits explains",
}

LINES = 60  # of an exported cell


def source(name: str) -> str:
    "The exported source of a module."
    return (TOP / "taskspace" / f"{name.replace('.', '/')}.py").read_text()


parsed = functools.cache(ast.parse)  # by text: many rules read the same modules


def statements(tree: ast.AST, kinds: type | tuple[type, ...]):
    "The nodes of some kinds, also inside functions, but not what stands under TYPE_CHECKING."
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, kinds):
            yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from statements(ast.Module([other], []), kinds)
        else:
            yield from statements(node, kinds)


def imports(name: str, text: str | None = None):
    "What a module imports of taskspace: (module, name in it or None, name here)."
    here = ["taskspace", *name.split(".")][:-1]
    for node in statements(parsed(source(name) if text is None else text), (ast.Import, ast.ImportFrom)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("taskspace."):
                    yield alias.name.removeprefix("taskspace."), None, alias.asname
            continue
        above = here[: len(here) - node.level + 1] if node.level else []
        base = [*above, *(node.module or "").split(".")] if node.module else above
        if base[0] != "taskspace":
            continue
        for alias in node.names:
            inner = ".".join([*base[1:], alias.name])
            if inner in MODULES:
                yield inner, None, alias.asname or alias.name
            else:
                yield ".".join(base[1:]), alias.name, alias.asname or alias.name


def is_private(name: str | None) -> bool:
    "Not `__dunder__`, and not `_repr_html_`, by which Jupyter asks."
    return bool(name) and name.startswith("_") and not name.endswith("_")


def owned(text: str) -> set[str]:
    "The private names that a module gives to something: functions, methods, attributes, fields."
    found = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def methods_of(text: str) -> set[str]:
    "The private methods of a module's classes."
    classes = [node for node in ast.walk(parsed(text)) if isinstance(node, ast.ClassDef)]
    functions = [part for node in classes for part in node.body if isinstance(part, ast.FunctionDef)]
    return {function.name for function in functions if is_private(function.name)}


def borrowed(sources: dict[str, str]) -> set[tuple[str, str, str]]:
    "(module, owner, private name): what is imported from another module, or called on an object of another module."
    owners: dict[str, str] = {}
    for name, text in sources.items():
        for private in methods_of(text):
            owners.setdefault(private, name)
    found = set()
    for name, text in sources.items():
        mine = owned(text)
        found |= {(name, module, inner) for module, inner, _ in imports(name, text) if is_private(inner)}
        aliases = {alias: module for module, inner, alias in imports(name, text) if inner is None}
        for node in statements(parsed(text), ast.Attribute):
            if not is_private(node.attr):
                continue
            at = node.value.id if isinstance(node.value, ast.Name) else None
            if at in aliases:
                found.add((name, aliases[at], node.attr))
            elif node.attr not in mine and node.attr in owners:
                found.add((name, owners[node.attr], node.attr))
    return found


def defined_by(node: ast.stmt) -> str:
    "The name that a statement of a cell defines, or none."
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else ""


def giants(cells: list[dict]) -> dict[str, int]:
    "First name that an exported cell defines -> its lines, where they are too many."
    found = {}
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or not re.search(r"^#\|\s*exports?i?\b", text, re.M):
            continue
        lines = [line for line in text.strip().split("\n") if not line.startswith("#|")]
        if len(lines) <= LINES:
            continue
        found[next(filter(None, map(defined_by, parsed(text).body)), "")] = len(lines)
    return found


def run(code: str) -> str:
    "What a fresh interpreter prints."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP).stdout


def test_import_is_quick_and_loads_nothing_heavy():
    heavy = ["torch", "transformers", "pandas", "numpy", "altair", "scipy", "sklearn", "datasets"]
    out = json.loads(
        run(
            "import time, sys, json; t = time.perf_counter(); "
            "import taskspace; s = time.perf_counter() - t; "
            f"print(json.dumps([s, [m for m in {heavy} if m in sys.modules]]))"
        )
    )
    assert out[1] == []
    assert out[0] < 1.5  # measured: 0.01 s


@pytest.mark.parametrize(
    "name",
    [
        "scoring.scores",
        "tasks.catalogue",
        "spaces.statistics",
        "spaces.space",
        "runs.results",
        "runs.study",
        "runs.execute",
    ],
)
@pytest.mark.slow
def test_modules_do_without_transformers_until_it_is_needed(name):
    heavy = ("transformers", "datasets", "altair")
    assert run(f"import taskspace.{name}, sys; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"


def test_every_public_name_is_importable_and_listed():
    import taskspace

    for name in taskspace.__all__:
        assert getattr(taskspace, name) is not None
    assert set(taskspace.__all__) <= set(dir(taskspace))
    with pytest.raises(AttributeError, match="has no attribute 'transfer_prob'"):
        taskspace.transfer_prob  # noqa: B018 - the look-up is what is tested


def test_notebooks_and_modules_belong_together():
    "`nbs/api/scoring/40_logprobs.ipynb` exports `scoring.logprobs`, and no module outlives its notebook."
    told = {name: re.search(r"#\| default_exp ([\w.]+)", path.read_text())[1] for name, (_, path) in MODULES.items()}
    assert {name: other for name, other in told.items() if name != other} == {}
    here = {".".join(p.relative_to(TOP / "taskspace").with_suffix("").parts) for p in (TOP / "taskspace").rglob("*.py")}
    assert {name for name in here if not name.endswith("__init__") and name != "_modidx"} == set(MODULES)


def upward(name: str, text: str | None = None) -> set[tuple[str, str]]:
    return {(name, module) for module, _, _ in imports(name, text) if MODULES.get(module, (-1,))[0] >= MODULES[name][0]}


def test_modules_import_only_what_stands_before_them():
    "Also inside functions. What is needed for its types alone stands under TYPE_CHECKING."
    found = {pair for name in MODULES for pair in upward(name)}
    assert found - UPWARD.keys() == set(), "these import a module that stands later"
    assert UPWARD.keys() - found == set(), "these are gone: take them out of UPWARD"
    assert all(len(reason) > 10 for reason in UPWARD.values())


def test_modules_import_from_modules_and_not_from_packages():
    "A package imports nothing of what it hands on, so `taskspace.code` could not follow an import from it."
    wrong = [(name, module, inner) for name in MODULES for module, inner, _ in imports(name) if module not in MODULES]
    assert [w for w in wrong if w[1:] != ("", "__version__")] == []


def test_private_names_stay_at_home():
    "No module imports a private name of another, or takes one from another module's object."
    assert borrowed({name: source(name) for name in MODULES}) == set(), "private names of another module"


def test_exported_cells_are_short():
    found = {}
    for _, path in MODULES.values():
        where = str(path.relative_to(TOP / "nbs" / "api"))
        found |= {(where, name): lines for name, lines in giants(json.loads(path.read_text())["cells"]).items()}
    assert found == {}, f"cells over {LINES} lines"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_hand_on_what_their_modules_export(package):
    folder = TOP / "taskspace" / package
    assert (folder / "__init__.py").read_text() == packages.initial(folder, PACKAGES[package]), "run tools/packages.py"


def test_packages_are_all_in_the_table():
    assert {p.parent.name for p in (TOP / "taskspace").glob("*/__init__.py")} == set(PACKAGES)
    folders = {p.name for p in (TOP / "nbs" / "api").iterdir() if p.is_dir()}
    assert {name for name in folders if not name.startswith((".", "_"))} == set(PACKAGES)


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_no_name_of_a_package_is_that_of_a_module_of_it(package):
    "The module, once imported, would stand in the place of the name."
    names = importlib.import_module(f"taskspace.{package}".rstrip(".")).__all__
    inside = (TOP / "taskspace" / package).iterdir()
    modules = {p.stem for p in inside if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert set(names) & modules == set()


def test_no_name_of_a_package_comes_from_two_of_its_modules():
    "One of them would be out of reach."
    twice = {}
    for package in PACKAGES:
        modules = (p for p in (TOP / "taskspace" / package).glob("*.py") if p.stem != "__init__")
        counted = Counter(name for p in modules for name in packages.exports(p))
        twice |= {f"{package}.{name}": n for name, n in counted.items() if n > 1}
    assert twice == {}


def code_behind_jobs() -> list[str]:
    from taskspace.code import modules_behind

    return modules_behind(["taskspace.runs.jobs"])


@pytest.mark.slow
def test_a_module_that_is_missing_cannot_drop_out_of_a_digest(monkeypatch):
    "Whichever module behind a job is renamed, so that its importers name what is not there: it raises, and names it."
    from taskspace import code, TaskspaceError

    behind, find, parse = code_behind_jobs(), importlib.util.find_spec, functools.cache(ast.parse)
    monkeypatch.setattr(code, "ast", types.SimpleNamespace(**{**vars(ast), "parse": parse}))
    quiet = []
    for gone in behind:
        if gone == "taskspace.runs.jobs":
            continue
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=gone: None if name == gone else find(name))
        code.source_of.cache_clear()
        code.imports_of.cache_clear()
        try:
            code_behind_jobs()
        except TaskspaceError as error:
            assert gone in str(error) and "cannot be found" in str(error)
        else:
            quiet.append(gone)
    monkeypatch.undo()
    code.source_of.cache_clear()
    code.imports_of.cache_clear()
    assert quiet == []
    assert len(behind) > 15 and code_behind_jobs() == behind


def test_no_science_module_touches_runs_or_what_stands_above():
    "Directly or through others: everything that stands before `runs` works on plain objects, with no disk."
    from taskspace.code import modules_behind

    first = min(number for name, (number, _) in MODULES.items() if name.startswith("runs."))
    for name, (number, _) in MODULES.items():
        if number >= first:
            continue
        behind = modules_behind([f"taskspace.{name}"], without=["taskspace.report"])
        assert [m for m in behind if m.startswith("taskspace.runs.") or m == "taskspace.cli"] == [], name
        assert {m for m, _, _ in imports(name) if m.startswith("report.") and (name, m) not in UPWARD} == set(), name


def public(tree):
    "Public functions and classes of a module; the constructions of the grammar are explained by their sentences."
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not re.search(r"construction|plain", "".join(map(ast.unparse, node.decorator_list))):
            yield node.name, node


@pytest.mark.parametrize("name", list(MODULES))
def test_every_public_name_has_a_docstring(name):
    "One line at least; methods of a class may be plain."
    tree = ast.parse(source(name))
    bare = [n for n, node in public(tree) if not ast.get_docstring(node)]
    assert bare == []


def undescribed(text):
    "Parameters without a comment beside or above them, of public functions and of public methods with a docstring."
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    beside = {t.start[0] for t in tokens if t.line.strip() != t.string}
    above = {t.start[0] + 1 for t in tokens if t.line.strip() == t.string}
    for name, node in public(ast.parse(text)):
        parts = [node]
        if isinstance(node, ast.ClassDef):
            parts = [p for p in node.body if not getattr(p, "name", "_").startswith("_")]
        for function in parts:
            if not isinstance(function, ast.FunctionDef) or not ast.get_docstring(function):
                continue
            for arg in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
                if arg.arg not in ("self", "cls") and not (
                    {arg.lineno, arg.end_lineno} & beside or arg.lineno in above
                ):
                    yield f"{name}: {function.name}({arg.arg})"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"cli"}))
def test_every_parameter_is_described(name):
    "The command line's are described by its help texts."
    assert list(undescribed(source(name))) == []


@pytest.mark.parametrize("name", list(MODULES))
def test_notebooks_are_of_a_readable_size(name):
    cells = json.loads(MODULES[name][1].read_text())["cells"]
    assert 4 <= len(cells) <= 90
    assert any(cell["cell_type"] == "markdown" for cell in cells[:3])


def test_words_are_those_of_the_glossary():
    "Spellings that the project decided against, in prose and in public names. Some pages name BLiMP's own word."
    unwanted = re.compile(r"\b(paradigms?|minimal-pairs?|finetun\w+|dataset split|checkpointed)\b")
    allowed = {"reference/glossary.md", *(f"api/tasks/{n}.ipynb" for n in ("10_pairs", "20_splits"))}
    found = []
    for path in [*TOP.glob("nbs/**/*.ipynb"), *TOP.glob("nbs/**/*.md")]:
        if ".ipynb_checkpoints" in path.parts or str(path.relative_to(TOP / "nbs")) in allowed:
            continue
        text = path.read_text()
        if path.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        found += [f"{path.relative_to(TOP)}: {m[0]}" for m in unwanted.finditer(text)]
    assert found == []


def test_names_of_the_glossary_exist():
    import taskspace

    names = set(re.findall(r"`([A-Za-z_]+)`", (TOP / "nbs/reference/glossary.md").read_text()))
    known = set(taskspace.__all__).union(*(importlib.import_module(f"taskspace.{p}").__all__ for p in PACKAGES))
    assert names - known == set()


def test_no_formula_needs_the_network():
    "TeX between dollars is drawn by a script from elsewhere in both renderers."
    found = []
    for path in TOP.glob("nbs/**/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            text = re.sub(r"```.*?```|`[^`]*`", "", "".join(cell["source"]), flags=re.S)
            formula = re.search(r"(?<!\\)\$[^$\s][^$]*\\[a-z]+[^$]*\$", text)
            if cell["cell_type"] == "markdown" and formula:
                found.append(path.name)
    assert found == []


def test_no_kept_chart_needs_the_network():
    "Charts get the drawing code of this project where `taskspace.report.charts` is imported, and else fetch it."
    assert not [p.name for p in (TOP / "nbs").rglob("*.ipynb") if "cdn.jsdelivr.net" in p.read_text(encoding="utf-8")]


def test_versions_agree():
    import taskspace

    settings = (TOP / "settings.ini").read_text()
    version = re.search(r"^version = (\S+)", settings, re.M)[1]
    assert taskspace.__version__ == version
    assert yaml.safe_load((TOP / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (TOP / "CHANGELOG.md").read_text()


def test_every_requirement_is_pinned():
    settings = (TOP / "settings.ini").read_text()
    lines = (TOP / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    wanted = set()
    for key in ("requirements", "dev_requirements", "dask_requirements", "gguf_requirements"):
        listed = re.search(rf"^{key} = (.+)$", settings, re.M)[1].split()
        wanted |= {re.split(r"[<>=\[]", r)[0].lower().replace("_", "-") for r in listed}
    assert wanted - pinned == set()


# ---- What nbdev can show


def shown(cell: str) -> ast.Module | None:
    "A cell that nbdev runs when it makes pages: one that exports, or one with an import."
    if cell.startswith("%") or "#| eval: false" in cell:
        return None
    tree = ast.parse(cell)
    exports = re.search(r"^#\| *exports?\b", cell, re.M)
    return tree if exports or any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree)) else None


def annotations(node: ast.stmt):
    "The annotations that a page evaluates: those of a public function, or of the parameters of a public class."
    if isinstance(node, ast.ClassDef):
        yield from (n.annotation for n in node.body if isinstance(n, ast.AnnAssign))
        yield from (a for n in node.body if getattr(n, "name", "") == "__init__" for a in annotations_of(n))
    elif isinstance(node, ast.FunctionDef):
        yield from annotations_of(node)


def annotations_of(function):
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    yield from (a.annotation for a in every if a is not None and a.annotation is not None)
    yield from [function.returns] if function.returns else []


def unknown_to_pages(cells: list[str]) -> list[str]:
    """What a page of nbdev would stop at: `function: Name` where an annotation names what no earlier cell that nbdev
    runs has made, and `cell: name` where such a cell itself needs what nbdev has not run."""
    made, missing = set(dir(builtins)) | {"__file__"}, []
    for tree in filter(None, map(shown, cells)):
        own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        own |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
        own |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler))}
        own |= {
            (a.asname or a.name).split(".")[0] for n in statements(tree, (ast.Import, ast.ImportFrom)) for a in n.names
        }
        made |= {name for name in own if name}
        for node in tree.body:
            if not getattr(node, "name", "_").startswith("_"):
                names = (n.id for a in annotations(node) for n in ast.walk(a) if isinstance(n, ast.Name))
                missing += [f"{node.name}: {name}" for name in names if name not in made]
            elif not isinstance(node, (ast.If, ast.FunctionDef, ast.ClassDef)):
                run = node.value if isinstance(node, ast.AnnAssign) else node  # such an annotation is not evaluated
                names = (n.id for n in ast.walk(run or ast.Pass()) if isinstance(n, ast.Name))
                missing += [f"cell: {name}" for name in names if name not in made]
    return missing


@pytest.mark.parametrize("name", MODULES)
def test_pages_of_nbdev_know_every_name(name):
    "`nbdev_docs` runs imports and exported cells alone, and evaluates annotations: a name must be there by then."
    cells = json.loads(MODULES[name][1].read_text(encoding="utf-8"))["cells"]
    missing = unknown_to_pages(["".join(c["source"]) for c in cells if c["cell_type"] == "code"])
    assert not missing, f"import these in the cell of imports that is not exported: {missing}"


def test_what_is_left_out_of_the_tests_is_named():
    "What only `make soak` runs stands in the README of the tests, and nothing else."
    section = (TOP / "tests" / "README.md").read_text(encoding="utf-8").split("## At length")[1].split("\n## ")[0]
    named = set(re.findall("`(test_[a-z_]+)`", "".join(line.split(" | ")[0] for line in section.splitlines())))
    marked = set()
    for path in (TOP / "tests").rglob("test_*.py"):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            decorators = [ast.unparse(d) for d in getattr(function, "decorator_list", ())]
            if any(d == "pytest.mark.soak" or re.search(r"\b(at_length|covering)\(", d) for d in decorators):
                marked |= {path.stem, function.name}
    assert named == marked
