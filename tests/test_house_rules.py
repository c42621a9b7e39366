"""Rules of the house: quick import, one spelling of names, documentation of every public name, no leaks between layers."""
import ast
import importlib
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parent.parent
MODULES = {}  # name -> (number, notebook)
for path in sorted((TOP / "nbs" / "api").glob("*.ipynb")):
    number, _, name = path.stem.partition("_")
    MODULES[name] = (int(number), path)
# The upward imports that are wanted, each with its reason beside it in the code.
UPWARD = {("spaces", "charts"),  # a space shows itself
          ("study", "ftgd")}


def run(code: str) -> str:
    "What a fresh interpreter prints."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP).stdout


def test_import_is_quick_and_loads_nothing_heavy():
    heavy = ["torch", "transformers", "pandas", "numpy", "altair", "scipy", "sklearn", "datasets"]
    out = json.loads(run(f"import time, sys, json; t = time.perf_counter(); import taskspace; s = time.perf_counter() - t; print(json.dumps([s, [m for m in {heavy} if m in sys.modules]]))"))
    assert out[1] == []
    assert out[0] < 1.5  # measured: 0.01 s


@pytest.mark.parametrize("name", ["scoring", "tasks", "statistics", "results", "spaces", "study", "runs"])
def test_modules_do_without_transformers_until_it_is_needed(name):
    assert run(f"import taskspace.{name}, sys; print([m for m in ('transformers', 'datasets', 'altair') if m in sys.modules])").strip() == "[]"


def test_every_public_name_is_importable_and_listed():
    import taskspace
    for name in taskspace.__all__: assert getattr(taskspace, name) is not None
    assert set(taskspace.__all__) <= set(dir(taskspace))
    with pytest.raises(AttributeError, match="has no attribute 'transfer_prob'"): taskspace.transfer_prob


def test_modules_import_only_what_stands_before_them():
    wrong = []
    for name, (number, _) in MODULES.items():
        tree = ast.parse((TOP / "taskspace" / f"{name}.py").read_text())
        top = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
        for node in top:
            source = (node.module or "").removeprefix("taskspace.").split(".")[0]
            if (node.level or (node.module or "").startswith("taskspace.")) and source in MODULES and MODULES[source][0] >= number and (name, source) not in UPWARD:
                wrong.append(f"{name} imports {source}")
    assert wrong == []


def test_no_science_module_touches_runs_or_what_stands_above():
    last = MODULES["spaces"][0]
    for name, (number, _) in MODULES.items():
        if number > last: continue
        text = (TOP / "taskspace" / f"{name}.py").read_text()
        assert not re.search(r"from (\.|taskspace\.)(runs|store|jobs|results|study|report|cli)\b", text), name


def public(tree):
    "Public functions and classes of a module; the constructions of the grammar are explained by their sentences."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not re.search(r"construction|plain", "".join(map(ast.unparse, node.decorator_list))):
            yield node.name, node


@pytest.mark.parametrize("name", list(MODULES))
def test_every_public_name_has_a_docstring(name):
    "One line at least; methods of a class may be plain."
    tree = ast.parse((TOP / "taskspace" / f"{name}.py").read_text())
    bare = [n for n, node in public(tree) if not ast.get_docstring(node)]
    assert bare == []


def undescribed(source):
    "Parameters without a comment of their own, of public functions and of public methods with a docstring."
    comments = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    for name, node in public(ast.parse(source)):
        methods = [] if isinstance(node, ast.FunctionDef) else [m for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
        for function in [node] if isinstance(node, ast.FunctionDef) else methods:
            given = [a for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
            if ast.get_docstring(function): yield from (f"{name}: {function.name}({a.arg})" for a in given if not comments & {a.lineno, a.end_lineno})


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"cli"}))
def test_every_parameter_is_described(name):
    "The command line's are described by its help texts."
    assert list(undescribed((TOP / "taskspace" / f"{name}.py").read_text())) == []


@pytest.mark.parametrize("name", list(MODULES))
def test_notebooks_are_of_a_readable_size(name):
    cells = json.loads(MODULES[name][1].read_text())["cells"]
    assert 4 <= len(cells) <= 90
    assert any(cell["cell_type"] == "markdown" for cell in cells[:3])


def test_words_are_those_of_the_glossary():
    "Spellings that the project decided against, in prose and in public names."
    unwanted = re.compile(r"\b(paradigms?|minimal-pairs?|finetun\w+|fine-tuned on a paradigm|dataset split|checkpointed)\b")
    allowed = {"glossary.md", "00_tasks.ipynb", "task.md"}
    found = []
    for path in [*TOP.glob("nbs/**/*.ipynb"), *TOP.glob("nbs/**/*.md")]:
        if ".ipynb_checkpoints" in path.parts or path.name in allowed: continue
        text = path.read_text()
        if path.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
        found += [f"{path.relative_to(TOP)}: {m[0]}" for m in unwanted.finditer(text)]
    assert found == []


def test_names_of_the_glossary_exist():
    import taskspace
    names = set(re.findall(r"`([A-Za-z_]+)`", (TOP / "nbs/reference/glossary.md").read_text()))
    modules = [importlib.import_module(f"taskspace.{m}") for m in ("tasks", "models", "ftgd", "spaces", "dissimilarity", "study", "runs")]
    assert {n for n in names if not hasattr(taskspace, n) and not any(hasattr(m, n) for m in modules)} == set()


def test_no_formula_needs_the_network():
    "TeX between dollars is drawn by a script from elsewhere in both renderers."
    found = []
    for path in TOP.glob("nbs/**/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            text = re.sub(r"```.*?```|`[^`]*`", "", "".join(cell["source"]), flags=re.S)
            if cell["cell_type"] == "markdown" and re.search(r"(?<!\\)\$[^$\s][^$]*\\[a-z]+[^$]*\$", text): found.append(path.name)
    assert found == []


def test_versions_agree():
    import taskspace
    settings = (TOP / "settings.ini").read_text()
    version = re.search(r"^version = (\S+)", settings, re.M)[1]
    assert taskspace.__version__ == version
    assert yaml.safe_load((TOP / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (TOP / "CHANGELOG.md").read_text()


def test_every_requirement_is_pinned():
    settings = (TOP / "settings.ini").read_text()
    pinned = {re.split(r"==", line)[0].lower().replace("_", "-") for line in (TOP / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = set()
    for key in ("requirements", "dev_requirements", "dask_requirements", "gguf_requirements"):
        wanted |= {re.split(r"[<>=\[]", r)[0].lower().replace("_", "-") for r in re.search(rf"^{key} = (.+)$", settings, re.M)[1].split()}
    assert wanted - pinned == set()
