"""Names are data: whatever stands in a name, every border of a report shows it and obeys nothing."""

import csv
import io
import json
import random
from html.parser import HTMLParser

import altair as alt
import pandas as pd
import pytest
import yaml
from smalldocs.markdown import render

from taskspace.report import escaping, pages, site
from taskspace.report.charts import save
from taskspace.report.escaping import in_chart, in_csv, in_html, in_markdown, in_script, in_yaml
from taskspace.report.renderer import html
from taskspace.workarounds import search_as_text
from toysite import HOSTILE


def hostile_names(n: int = 400) -> list[str]:
    "The listed names, and others made of pieces of them in any order."
    rng = random.Random(0)
    pieces = [
        *HOSTILE,
        *"<>&\"'`$*_~^[](){}|\\#+-.!:;@=%/ \t\n\r",
        "\x00",
        "\x1b[0m",
        "\ud800",
        "\u2029",
        "é",
        "漢",
        "😀",
    ]
    pieces += [
        "{{",
        "}}",
        "%}",
        "{{%",
        "---",
        "```",
        "<!--",
        "-->",
        "]]>",
        "http://",
        "onclick=",
        "&#60;",
        "\\(",
        ":::",
    ]
    return [*HOSTILE, *("".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in range(n))]


NAMES = hostile_names()
STORED = [name for name in NAMES if "\ud800" not in name]  # half of a pair can stand in no file


class Read(HTMLParser):
    "Text and tags of some HTML."

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.text, self.tags = "", []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def shown(name: str) -> str:
    "A name as a reader should see it: in one line, with � for what cannot be shown."
    return " ".join(escaping._shown(name).split())


def test_markdown_shows_every_name_as_it_is():
    for name in NAMES:
        page = Read(render(f"A {in_markdown(name)} z", {"link": lambda href, kind: href}))
        assert " ".join(page.text.split()) == " ".join(f"A {shown(name)} z".split()), name
        assert [tag for tag, _ in page.tags] == ["p"], name
        assert "{{" not in in_markdown(name) and "\n" not in in_markdown(name)


def test_a_name_stays_in_its_cell_of_a_table():
    frame = pd.DataFrame({"task": STORED, "kind": "x"})
    page = Read(render(pages.proportioned(pages._table(frame)), {"link": lambda href, kind: href}))
    count = [tag for tag, _ in page.tags].count
    assert count("tr") == len(STORED) + 1 and count("td") == 2 * len(STORED) and not count("a") and not count("img")


def test_html_shows_every_name_as_it_is():
    for name in NAMES:
        page = Read(f'<p title="{in_html(name)}">{in_html(name)}</p>')
        assert page.tags == [("p", {"title": escaping._shown(name)})] and page.text == escaping._shown(name), name


def test_html_opens_no_short_code_of_quarto():
    "Quarto reads {{< env NAME >}} in HTML too."
    assert in_html("{{< env HOME >}}") == "&#123;&#123;&lt; env HOME &gt;}}"


def test_yaml_gives_every_name_back_as_text():
    values = {
        "names": NAMES,
        "nested": {"list": ["1e3", "null", "yes", "~", "0x1f", "1_000", "2020-01-01", "", " a", "é"]},
    }
    text = in_yaml(values)
    for loader in (yaml.SafeLoader, yaml.BaseLoader):  # the second takes nothing for a number
        assert yaml.load(text, loader) == {"names": [escaping._shown(n) for n in NAMES], "nested": values["nested"]}
    assert "\n---" not in text and '"1e3"' in text


def test_a_script_holds_every_name_and_nothing_ends_it():
    text = in_script({"names": NAMES})
    assert json.loads(text) == {"names": NAMES}
    assert not {"<", ">", "&", "\u2028"} & set(text) and "{{" not in text
    text.encode("utf-8")


def test_a_chart_of_hostile_names_is_drawn_whole(tmp_path):
    names = list(dict.fromkeys(shown(n)[:40] for n in NAMES if shown(n)))[:80]
    names += [n for n in sorted(escaping._BORN_WITH) if n not in names] + ["\x00", "a\u2028b"]
    frame = pd.DataFrame(
        {"task": names, "value": range(len(names)), "part": [n for n in names[:3]] + ["x"] * (len(names) - 3)}
    )
    chart = alt.Chart(frame).mark_rect()
    chart = chart.encode(
        x="value:Q", y=alt.Y("task:N", sort=names), row=alt.Row("part:N", sort=sorted(set(frame.part)))
    )
    drawn = save(chart, tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert drawn.count('aria-roledescription="rect mark"') == len(names)
    held = json.loads(html(chart).split('class="taskspace-spec">')[1].split("</script>")[0])
    (table,) = held["tables"].values()
    assert len(set(table["columns"]["task"])) == len(names)
    assert in_chart(in_chart(chart.to_dict())) == in_chart(chart.to_dict())


@pytest.mark.parametrize("mark", ["\u202e", "\u202d", "\u2066", "\u2067"])
def test_no_name_turns_the_direction_of_what_follows(mark):
    name = f"a{mark}b"
    values = in_yaml({"title": name}), in_markdown(name), in_html(name), in_chart(name)
    assert all(mark not in value and "a\N{REPLACEMENT CHARACTER}b" in value for value in values)


def test_a_spreadsheet_computes_no_cell():
    frame = pd.DataFrame({"task": pd.Categorical(STORED), "margin": -1.5, "text": STORED})
    rows = list(csv.reader(io.StringIO(in_csv(frame).to_csv(index=False), newline="")))
    assert len(rows) == len(STORED) + 1
    for (task, margin, text), name in zip(rows[1:], STORED, strict=True):
        assert margin == "-1.5" and task == text and not text.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert text.removeprefix("'") == name.removeprefix("'") or "\r" in name


def test_pages_of_models_have_short_names_of_their_own():
    long = ["m" * 300 + str(i) for i in range(3)]
    names = site._page_names([*NAMES, *long, "Ä", "Ö", "con", "a b", "a-b"])
    assert len(set(names.values())) == len(names) and max(map(len, names.values())) < 100
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names.values())


@pytest.mark.parametrize("renderer", ["quarto", "smalldocs"])
def test_navigation_says_names_in_the_language_of_the_renderer(renderer, monkeypatch):
    monkeypatch.setattr(site, "site_renderer", lambda: renderer)
    title = "<b> $x$ {{< env HOME >}}: # "
    website = yaml.safe_load(site._configuration(title, {"__m__" * 100: "scale-m"}, [], {}))["website"]
    texts = [website["title"], website["navbar"]["title"], website["navbar"]["left"][1]["text"]]
    assert all(len(text) < 300 for text in texts)
    if renderer == "quarto":
        assert not any(set("<$_") & set(text) or "{{" in text for text in texts)
        assert Read(render(texts[0], {"link": lambda href, kind: href})).text.strip() == title.strip()
    else:
        assert texts[0] == title


def test_html_on_a_page_holds_no_short_code():
    out = pages.for_page({"data": {"text/html": pd.DataFrame({"a": ["{{< env HOME >}}"]}).to_html()}})
    assert "{{" not in "".join(out["data"]["text/markdown"])


def test_a_study_stays_in_its_block():
    for text in ("name: '```'\n```\n<b>", "name: '{{< env HOME >}}'", "a: 1"):
        block = pages._block_of_yaml(text)
        assert "{{" not in block
        page = Read(render(block, {"link": lambda href, kind: href}))
        assert page.text.strip() == text and not {"b", "h1"} & {tag for tag, _ in page.tags}


def test_the_index_of_a_search_is_text(tmp_path):
    (tmp_path / "search.json").write_text(json.dumps([{"text": name, "title": "t"} for name in NAMES]))
    search_as_text(tmp_path)
    first = (tmp_path / "search.json").read_text()
    assert all(not Read(entry["text"]).tags for entry in json.loads(first))
    search_as_text(tmp_path)
    assert (tmp_path / "search.json").read_text() == first
    search_as_text(tmp_path / "nowhere")
