"""The report: whole, well-formed, escaped, asking nobody for anything, and with its numbers where they belong."""

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from conceptctl.report.chart import LEFT, RIGHT, WIDTH, axis, figure
from conceptctl.report.content import Chart, Line, Report, Sheet, Subject, Table
from conceptctl.report.page import page

NASTY = "<script>alert(\"x\")</script> & 'co'"
VOID = {"meta", "img"}


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


@pytest.fixture(scope="module")
def report():
    return Report(
        title=NASTY,
        text=NASTY,
        facts=((NASTY, NASTY),),
        tables=(Table(NASTY, (NASTY, NASTY), ((NASTY, NASTY),), (NASTY,)),),
        charts=(
            Chart(
                NASTY, NASTY, NASTY, NASTY, (Line(NASTY, ((1, 2.5), (4, 0.5))), Line("mean", ((1, 1.0),), main=True))
            ),
            Chart("empty", "", "x", "y", (Line("nothing", ()),)),
        ),
        subjects=(Subject(NASTY, NASTY, (Sheet(NASTY, NASTY, png(), (8, 8)),)),),
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
    assert sum(NASTY in part for part in read.texts) >= 12
    assert read.all("img")[0]["alt"] == NASTY
    assert NASTY in next(each for each in read.all("svg") if "role" in each)["aria-label"]


def test_nothing_is_loaded_from_anywhere(text, read):
    assert re.search(r"https?://|//[a-z]|@import|url\(", text) is None
    for tag, attributes in read.elements:
        assert not {"href", "srcset", "action", "poster"} & set(attributes), tag
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,")
    policy = next(each for each in read.all("meta") if "http-equiv" in each)
    assert policy["content"].startswith("default-src 'none'")


def test_it_can_be_read_without_seeing_it(read):
    assert read.all("html") == [{"lang": "en"}]
    assert all(each["alt"] for each in read.all("img"))
    assert all(each["scope"] in ("col", "row") for each in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table"))
    for each in read.all("svg"):
        assert each.get("aria-hidden") == "true" or (each["role"] == "img" and each["aria-label"])


def test_it_has_a_dark_side(text):
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_a_chart_without_points_is_left_out(text):
    assert ">empty<" not in text
    assert figure(Chart("t", "", "x", "y", ())) == ""


def test_a_chart_shows_its_numbers_where_they_belong():
    drawn = figure(Chart("t", "", "x", "y", (Line("a", ((0, 0.0), (10, 1.0))), Line("b", ((5, 0.5),)))))
    circles = [each for tag, each in Reader(drawn).elements if tag == "circle"]
    x, y = ([float(each[name]) for each in circles] for name in ("cx", "cy"))
    assert (x[0], x[1]) == (LEFT, WIDTH - RIGHT)
    assert x[2] == pytest.approx((x[0] + x[1]) / 2)
    assert y[0] > y[2] > y[1]
    assert y[2] == pytest.approx((y[0] + y[1]) / 2)
    texts = Reader(drawn).texts
    assert texts[texts.index("The numbers") + 1 :] == ["t", "x", "a", "b", "0", "0", "5", "0.5", "10", "1"]


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([0.0, 1.0], {}, (0, 1)),
        ([3.0], {"whole": True}, (2, 4)),
        ([1.0, 50.0], {"whole": True}, (0, 50)),
        ([214.9, 230.0], {"from_zero": True}, (0, 250)),
        ([0.0], {"from_zero": True}, (0, 0.5)),
        ([-0.3, 0.1], {"from_zero": True}, (-0.3, 0.1)),
        ([1e-7, 3e-7], {}, (1e-7, 3e-7)),
    ],
)
def test_axes_are_round_and_hold_everything(values, options, expected):
    found = axis(values, **options)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.low <= min(values) <= max(values) <= found.high
    assert 2 <= len(found.ticks) <= 11
    if options.get("whole"):
        assert all(tick == int(tick) for tick in found.ticks)


def test_many_lines_look_alike_but_for_the_main_one():
    many = tuple(Line(f"c{number}", ((0, number),)) for number in range(9))
    drawn = figure(Chart("t", "", "x", "y", (Line("mean", ((0, 1.0),), main=True), *many)))
    assert drawn.count('<circle class="other"') == 9
    assert drawn.count('<circle class="main"') == 1
    assert "each concept" in drawn
    few = figure(Chart("t", "", "x", "y", (Line("mean", ((0, 1.0),), main=True), *many[:8])))
    assert 'class="line7"' in few
    assert "line8" not in few
