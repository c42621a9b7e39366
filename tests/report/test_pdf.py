"""A report as a PDF: what Quarto is given, by a stand-in for it, and one line where it is missing or fails."""

import json
import os
import stat
import sys

import nbformat
import pytest

from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.report.pdf import html_as_markdown, pdf_format, report_text, write_pdf

SPEC = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"values": [{"a": 1}]},
    "mark": "point",
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}


@pytest.fixture
def site(tmp_path):
    "A report of two pages, as far as a PDF needs it."
    site = tmp_path / "report"
    (site / "notebooks").mkdir(parents=True)
    bar = [{"text": "Summary", "href": "index.ipynb"}, {"text": "Methods", "href": "methods.md"}]
    (site / "_quarto.yml").write_text(json.dumps({"website": {"navbar": {"left": bar}}}))
    (site / ".taskspace-report").write_text(json.dumps({"study": "mine & *yours*"}))
    for name in ("index", "methods"):
        (site / f"{name}.html").write_text("<main></main>")
    (site / "methods.md").write_text("---\ntitle: Methods\n---\n\n## What was measured\n")
    new = nbformat.v4
    outputs = [
        new.new_output("display_data", {"application/vnd.vegalite.v5+json": SPEC, "text/html": "<div>no</div>"}),
        new.new_output("display_data", {"text/html": "<table><tr><th>claim</th></tr><tr><td>a|b</td></tr></table>"}),
        new.new_output("stream", name="stdout", text="printed {{< include secret >}} ```"),
        new.new_output("stream", name="stderr", text="a warning"),
    ]
    cells = [
        new.new_markdown_cell("# Summary\n\n> What was found."),
        new.new_code_cell("secret_code()", outputs=outputs),
    ]
    nbformat.write(new.new_notebook(cells=cells), site / "notebooks" / "index.ipynb")
    return site


@pytest.fixture
def quarto(tmp_path, monkeypatch):
    "A program `quarto` that keeps what it is given; `says` makes it fail."
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "quarto"

    def make(says="", typst=True):
        program.write_text(
            f"#!{sys.executable}\nimport json, pathlib, sys\n"
            f"if sys.argv[1] == 'typst': sys.exit({0 if typst else 1})\n"
            f"kept = {{'argv': sys.argv[1:], 'text': open(sys.argv[2]).read(), "
            "'there': sorted(p.name for p in pathlib.Path('.').iterdir())}\n"
            f"open({str(tmp_path / 'kept.json')!r}, 'w').write(json.dumps(kept))\n"
            f"if {says!r}: print({says!r}); sys.exit(1)\n"
            "open(sys.argv[-1], 'wb').write(b'%PDF-1.7')\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(place))
        return lambda: json.loads((tmp_path / "kept.json").read_text())

    return make


def test_quarto_is_given_the_pages_as_one_text(site, quarto, tmp_path):
    kept = quarto()
    assert write_pdf(site, tmp_path / "out.pdf").read_bytes() == b"%PDF-1.7"
    given = kept()
    assert given["argv"] == ["render", "report.qmd", "--to", "typst", "--output", "report.pdf"]
    assert given["there"] == ["index-1.svg", "report.qmd"]
    text = given["text"]
    assert text.index("# Summary") < text.index("![](index-1.svg)") < text.index("# Methods")
    assert "| claim |" in text and "## What was measured" in text and "mine &#38; &#42;yours&#42;" in text
    for absent in ("secret_code", "a warning", "{{<", "<div>"):
        assert absent not in text
    assert "\n````\nprinted" in text  # a fence that the text cannot close


def test_tex_is_taken_where_there_is_no_typst(site, quarto, tmp_path):
    quarto(typst=False)
    with pytest.raises(TaskspaceError, match="--pdf needs Typst or TeX"):
        pdf_format()
    (tmp_path / "bin" / "lualatex").write_text("#!/bin/sh\n")
    os.chmod(tmp_path / "bin" / "lualatex", 0o755)
    assert pdf_format() == "pdf"
    assert "![](index-1.pdf)" in report_text(site, tmp_path, "pdf") and (tmp_path / "index-1.pdf").exists()


def test_what_quarto_says_of_a_failure_is_told_in_one_line(site, quarto, tmp_path):
    quarto("compiling\nERROR: font not found\n  at a stack")
    with pytest.raises(TaskspaceError, match=r"^quarto could not make the PDF: ERROR: font not found$"):
        write_pdf(site, tmp_path / "out.pdf")
    assert not (tmp_path / "out.pdf").exists()


def test_without_quarto_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as e:
        main(["report", str(tmp_path / "no-such-run"), "--pdf"])
    error = capsys.readouterr().err
    assert e.value.code == 2 and error.count("\n") == 1 and "--pdf needs Quarto, from quarto.org" in error


def test_html_becomes_tables_and_text():
    html = (
        '<dl><div><dt>How?</dt><dd>So <a href="x">more</a></dd></div></dl><style>a{}</style>'
        "<table><thead><tr><th>n</th><th></th></tr></thead><tr><td>1<br>2</td><td><b>*x*</b></td></tr></table>tail"
    )
    blocks = html_as_markdown(html).split("\n\n")
    assert blocks[0] == "How&#63; So more" and blocks[2] == "tail" and "1 2" in blocks[1] and "*x*" not in blocks[1]
