"""The pages themselves: links, length, what is generated, and whether what stands in backticks exists."""

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

from tests.docs import parsing
from tests.docs.pages import DOCS, PAGES, README, ROOT, anchors, blocks, inline_code, links, name, prose, text_of

WORDS = 1100
"""What is read in five minutes."""
LONG = {
    "docs/architecture.md": "the contributors' page, which things are looked up in",
    "docs/reference/settings.md": "written by the program, and a table",
}
NOT_OURS = {"--multi_gpu", "--cpu", "--num_processes", "--depth", "--further", "--stage", "--seed", "--only-report"}
"""Options of other programs and of scripts that a page names without them."""
every_page = pytest.mark.parametrize("page", PAGES, ids=name)


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name(page)}: {link}"
        assert ROOT in path.parents, f"{name(page)}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(path), f"{name(page)}: {link}"


def test_every_page_is_reached_from_the_index():
    seen: set[Path] = set()
    waiting = [README, DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [path for path in targets if path.suffix == ".md" and path.is_file()]
    assert sorted(map(name, set(PAGES) - seen)) == []


@every_page
def test_a_page_is_read_in_five_minutes(page):
    if name(page) not in LONG:
        assert len(re.sub(r"[|`*#-]", " ", prose(page)).split()) <= WORDS


def test_readme_has_60_to_80_lines():
    assert 60 <= len(text_of(README).splitlines()) <= 80


@every_page
def test_commands_stand_in_fences(page):
    # What is indented is code to Markdown, but neither run nor read by these tests.
    assert not re.findall(r"^ {4,}(?:conceptctl|python|make|pytest) .*", prose(page), re.MULTILINE)
    assert {block.language for block in blocks(page)} <= {"sh", "python", "toml", "json", "text"}


@every_page
def test_what_stands_in_backticks_exists(page):
    for code in inline_code(page):
        words = code.split()
        if parsing.is_script(code):
            parsing.parse_script(code)
            continue
        verb = words[1] if words[0] == "conceptctl" and len(words) > 1 and words[1] in parsing.verbs() else None
        if words[0] == "conceptctl" and len(words) > 1 and not words[1].startswith("-"):
            assert verb or words[1].isupper(), f"{name(page)}: {code}"
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= parsing.options(verb) | NOT_OURS, f"{name(page)}: {code}"


@every_page
def test_files_in_backticks_exist(page):
    for code in inline_code(page):
        # Upper case stands for a name that the reader chooses.
        if re.fullmatch(r"(?:docs|tests|benchmarks|conceptctl)/[\w./-]+", code) and not re.search(r"/[A-Z]+\.", code):
            assert (ROOT / code).exists(), f"{name(page)}: {code}"


def test_generated_pages_are_current():
    # After a change of the program: python docs/scripts/reference.py
    script = runpy.run_path(str(DOCS / "scripts/reference.py"))
    assert script["outdated"](script["pages"]()) == []


def test_diagrams_are_what_their_script_draws():
    script = runpy.run_path(str(DOCS / "scripts/diagrams.py"))
    for drawn in ("where", "delta", "stack"):
        assert text_of(DOCS / f"images/stamina/{drawn}.svg") == script[drawn]()


def test_the_readmes_picture_is_large_and_small_in_bytes():
    path = DOCS / "images/demo.png"
    assert f"]({name(path)})" in text_of(README)
    with Image.open(path) as picture:
        assert picture.width >= 512
    assert path.stat().st_size < 100_000


def test_pictures_are_small():
    large = [path for path in DOCS.rglob("*") if path.suffix in {".png", ".svg"} and path.stat().st_size > 100_000]
    assert {path.parent.name for path in large} <= {"pocket"}
