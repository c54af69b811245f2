"""The report: whole, well-formed, escaped, asking nobody for anything, and with its numbers where they belong."""

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from conceptctl.report import charts
from conceptctl.report.content import Card, Chart, Picture, Report, Series, Strip, Table
from conceptctl.report.page import numbers, page

NASTY = "<script>alert(\"x\")</script> & 'co' $x^2$ #010101"
VOID = {"meta", "img", "input"}


class Reader(HTMLParser):
    """Collects what is in a page, and makes sure that every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def png(colour="red"):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def chart(*series, kind="lines", names=(), title="t"):
    return Chart(title, "", "x", "y", series, kind, names)


@pytest.fixture(scope="module")
def report():
    strip = Strip(NASTY, NASTY, (Picture(NASTY, NASTY, "image/png", png(), (8, 8)),))
    two = (Series(NASTY, ((1, 2.5), (4, 0.5))), Series("mean", ((1, 1.0), (4, 1.5)), main=True))
    return Report(
        title=NASTY,
        text=NASTY,
        summary=(("good", NASTY),),
        cards=(Card(NASTY, NASTY, "bad", NASTY, NASTY, (strip, strip)),),
        beside=(strip,),
        notes=(NASTY,),
        facts=((NASTY, NASTY),),
        tables=(Table(NASTY, (NASTY, NASTY), ((NASTY, NASTY),), (NASTY,)),),
        charts=(
            Chart(NASTY, NASTY, NASTY, NASTY, two),
            Chart("bars", "", "x", "y", (Series("b", ((0, 1.0), (1, 2.0))),), "bars", (NASTY, NASTY)),
            Chart("empty", "", "x", "y", (Series("nothing", ()),)),
            Chart("lonely", "", "x", "y", (Series("one", ((3, 1.0),)), Series("other", ((3, 2.0),)))),
        ),
    )


@pytest.fixture(scope="module")
def text(report):
    return page(report)


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_everything_from_outside_is_escaped(text, read):
    assert "<script" not in text
    assert read.all("script") == []
    assert sum(NASTY in part for part in read.texts) >= 25
    assert all(each["alt"] == NASTY for each in read.all("img"))
    assert NASTY in read.all("svg")[0]["aria-label"]


def test_nothing_is_loaded_from_anywhere(text, read):
    assert re.search(r"https?://|//[a-z]|@import|url\((?!#)", text) is None
    for tag, attributes in read.elements:
        assert not {"href", "srcset", "action", "poster"} & set(attributes), tag
        assert attributes.get("xlink:href", "#").startswith("#")
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(each for each in read.all("meta") if "http-equiv" in each)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_pictures_and_verdicts_come_first_and_figures_are_folded(text):
    order = [
        text.index(part) for part in ('class="mark good"', 'class="card"', 'class="few"', 'class="figures"', "<dl>")
    ]
    assert order == sorted(order)
    assert '<details class="figures" open' not in text
    assert text.index('class="figures"') < text.index("<table")
    assert "image-rendering: pixelated" in text


def test_a_picture_is_enlarged_without_a_script(read):
    boxes = read.all("input")
    assert len(boxes) == len(read.all("img")) == 3
    assert all(each["type"] == "checkbox" and each["aria-label"] for each in boxes)


def test_it_can_be_read_without_seeing_it(read):
    assert read.all("html") == [{"lang": "en"}]
    assert all(each["alt"] for each in read.all("img"))
    assert all(each["scope"] in ("col", "row") for each in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(each["role"] == "img" and each["aria-label"] for each in read.all("svg"))


def test_it_has_a_dark_side_and_a_printed_one(text):
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text
    assert "details::details-content" in text


def test_charts_take_their_colours_and_their_font_from_the_page(text):
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawn
    assert "var(--line0)" in drawn
    assert set(re.findall(r"var\((--\w+)\)", drawn)) <= set(re.findall(r"(--\w+):", text))
    assert re.search(r"(?:fill|stroke): #", drawn) is None
    assert "DejaVu" not in drawn
    assert "<style" not in drawn
    assert set(re.findall(r"font-size: ([\d.]+px)", drawn)) == {"10px"}


def test_the_same_report_is_the_same_bytes(report, text):
    assert page(report) == text


def test_a_chart_with_one_place_is_left_out(text):
    assert ">empty<" not in text
    assert ">lonely<" not in text
    assert not chart(Series("a", ((1, 1.0),))).tells
    assert chart(Series("a", ((1, 1.0),)), Series("b", ((2, 1.0),))).tells


def test_what_is_side_by_side_is_not_joined():
    points = Series("a", ((0, 1.0), (1, 3.0), (2, 2.0)), error=(0.1, 0.2, 0.3))
    lines, dots, bars = (charts.draw(chart(points, kind=kind)) for kind in ("lines", "points", "bars"))
    drawn = r'<path d="M [^"]*L [^"]*L [^"]*" [^>]*style="fill: none; stroke: var\(--line0\); stroke-width: 1.5'
    assert re.search(drawn, lines)
    assert not re.search(drawn, dots)
    assert bars.count('style="fill: var(--line0)"') == 3
    # Three error bars of one more colour; a band in the place of them where there is a line.
    assert "stroke: var(--ink)" in bars
    assert "opacity: 0.2" in lines


def test_names_of_two_charts_do_not_meet():
    first, second = (charts.draw(chart(Series("a", ((0, 1.0), (1, 2.0))), title=title)) for title in "ab")
    ids = [set(re.findall(r' id="([^"]*)"', drawn)) for drawn in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert all(f"#{name}" in first for name in ids[0])


@pytest.mark.parametrize("count", [2, 6, 30])
def test_as_many_names_stand_below_as_there_is_room_for(count):
    names = tuple(f"waterfall-{number:03d}" for number in range(count))
    drawn = charts.draw(chart(Series("a", tuple((place, 1.0) for place in range(count))), kind="bars", names=names))
    shown = [name for name in names if f">{name}<" in drawn]
    assert len(shown) == min(count, charts.MOST_NAMES - 2 if count == 30 else count)
    assert shown[0] == names[0]


def test_a_charts_numbers_stand_in_a_table():
    made = chart(Series("a", ((0, 0.0), (10, 1.0))), Series("b", ((5, 0.5),)))
    assert numbers(made) == [("0", ["0", ""]), ("5", ["", "0.5"]), ("10", ["1", ""])]
    named = chart(Series("a", ((0, 0.25), (1, 1.0))), kind="bars", names=("x", "y"))
    assert numbers(named) == [("x", ["0.25"]), ("y", ["1"])]


def test_many_lines_look_alike_but_for_the_main_one():
    many = tuple(Series(f"c{number}", ((0, number), (1, 2))) for number in range(9))
    every = (Series("mean", ((0, 1.0), (1, 2.0)), main=True), *many)
    assert charts.legend(chart(*every)) == (("mean", "--ink"), ("each concept", "--soft"))
    assert [name for name, _ in charts.legend(chart(*every[:9]))] == ["mean", *(f"c{number}" for number in range(8))]
    assert charts.legend(chart(many[0])) == ()


def test_what_draws_is_loaded_when_something_is_drawn():
    code = (
        "import sys, conceptctl.report.page, conceptctl.report.charts, conceptctl.workflows.evaluate.report\n"
        "print([name for name in ('jinja2', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
