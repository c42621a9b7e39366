"""Notebooks of one's own become pages of a report, with the run and parameters from a file."""

import json
import shutil

import nbformat
import pytest

from taskspace.errors import TaskspaceError
from taskspace.report import site as module
from taskspace.report.site import check_values, own_pages, render_report
from taskspace.report.templates import parameters, template
from taskspace.runs.results import open_run


def notebook(path, source, tagged=True, title="My page"):
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\n> What I found."), nbformat.v4.new_code_cell(source)]
    cells[1].metadata["tags"] = ["parameters"] if tagged else []
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


SOUND = 'run: str = ""  # folder of a run\nshare: float = 0.5  # of the pairs\n'


def test_a_notebook_without_the_parameter_is_refused_in_one_line(tmp_path):
    cases = {
        "untagged.ipynb": (SOUND, False, "no parameter run"),
        "none.ipynb": ("folder = 1\n", True, "no parameter run"),
    }
    for name, (source, tagged, says) in cases.items():
        path = notebook(tmp_path / name, source, tagged)
        with pytest.raises(TaskspaceError, match=says) as e:
            own_pages([path])
        assert str(e.value).startswith(f"{path}: ") and "\n" not in str(e.value)
    (tmp_path / "broken.ipynb").write_text("{}")
    (tmp_path / "text.ipynb").write_text("oops")
    for name in ("broken.ipynb", "text.ipynb", "missing.ipynb", "folder"):
        with pytest.raises(TaskspaceError, match="notebook") as e:
            own_pages([tmp_path / name])
        assert "\n" not in str(e.value)


def test_pages_of_one_name_both_stay(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(notebook(tmp_path / folder / "Mine.ipynb", SOUND))
    assert list(own_pages(paths)) == ["page-mine", "page-mine-2"]


def test_parameters_must_belong_to_a_page(tmp_path):
    mine = str(notebook(tmp_path / "mine.ipynb", SOUND))
    check_values({"gate": 0.6, "share": 1.0}, ["summary", mine])
    for values, says in (
        ({"shares": 1.0}, "parameter 'shares': no page takes it; there are: gate, share"),
        ({"run": "x"}, "parameter 'run': no page takes it"),
        ({"share": "much"}, "share must be float, not 'much'"),
    ):
        with pytest.raises(TaskspaceError, match=says):
            check_values(values, ["summary", mine])


def test_a_page_never_takes_the_place_of_another(tmp_path):
    names = ("a-2", "a", "b/a", "c/A")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        notebook(tmp_path / f"{name}.ipynb", SOUND)
    assert list(own_pages(tmp_path / f"{name}.ipynb" for name in names)) == [
        "page-a-2",
        "page-a",
        "page-a-3",
        "page-a-4",
    ]


@pytest.mark.slow
def test_parameters_are_checked_before_the_pages(tiny, tmp_path, monkeypatch):
    "Against the pages that this report has; of no others, and a gate by what the models know."
    monkeypatch.setattr(module, "execute", None)
    for values, says in (
        ({"gate": 2.0}, "gate: an accuracy lies between 0 and 1, not at 2"),
        ({"gate": 0.999}, "no task has an accuracy of"),
        ({"folder": "x"}, "parameter 'folder': no page takes it; there are: "),
    ):
        with pytest.raises(TaskspaceError, match=says):
            render_report(open_run(tiny / "run"), tmp_path / "out", progress=False, values=values)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_own_pages_stand_in_the_report(tiny, tmp_path, monkeypatch):
    "Nothing is executed here: what each page would be given is written down, and the pages are rendered."
    given = {}

    def written_down(name, out, parameters):
        given[out.stem] = parameters
        shutil.copyfile(template(name), out)
        return out

    monkeypatch.setattr(module, "execute", written_down)
    mine = notebook(tmp_path / "mine.ipynb", SOUND, title="Mine & <b>yours</b>")
    run = open_run(tiny / "run")
    index = render_report(run, tmp_path / "out", progress=False, pages=[mine], values={"share": 0.25, "gate": 0.6})
    assert given["page-mine"] == {"run": str(run.path.absolute()), "share": 0.25}
    assert given["index"]["gate"] == 0.6 and "gate" not in given["training"]
    page = (index.parent / "page-mine.html").read_text()
    assert "What I found." in page and "<b>yours</b>" not in page.split("<main")[0]
    assert 'href="page-mine.html"' in index.read_text().replace("./page", "page")
    assert json.loads((index.parent / "notebooks" / "page-mine.ipynb").read_text())["cells"]
    assert list(parameters(str(mine)).index) == ["run", "share"]
