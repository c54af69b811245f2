"""Every command of every page: run, or where that needs a GPU, a hub or another program, at least read."""

import os
import re
import shutil

import pytest

from tests.docs import parsing
from tests.docs.pages import (
    FIRST,
    PAGES,
    README,
    ROOT,
    RUN,
    SECOND,
    Block,
    blocks,
    is_ours,
    name,
    runs,
    without_comment,
)
from tests.docs.running import Reader

every_page = pytest.mark.parametrize("page", PAGES, ids=name)
EVERYTHING = [block for page in PAGES for block in blocks(page) if block.language in RUN]
SKIPPED = [block for block in EVERYTHING if block.skip]


@pytest.mark.parametrize("page", [FIRST, SECOND], ids=name)
def test_tutorials_run(page, after_tutorials):
    assert runs(page)
    assert (after_tutorials.folder / "concepts").is_dir()


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page) and page not in (FIRST, SECOND)], ids=name)
def test_commands_run(page, after_tutorials, tmp_path):
    home = tmp_path / "home"
    if page != README:
        # The README begins where nothing is there yet.
        shutil.copytree(after_tutorials.folder, home, symlinks=True)
        # What is the reader's own: pictures of something else.
        shutil.copytree(home / "concepts/person-001/train", home / "photos")
        shutil.copytree(home / "concepts/person-001/heldout", home / "heldout")
    reader = Reader(home)
    reader.follow(runs(page))


@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: name(block.page))
def test_what_is_not_run_is_read(block: Block):
    assert len(block.skip.split()) > 1, "say why"
    if block.coming and not parsing.understands(block.commands()):
        pytest.skip("this version does not have it yet")
    for command in block.commands() if block.language == "sh" else []:
        plain, _ = without_comment(command)
        plain = re.sub(r"^accelerate launch .*-m (conceptctl )", r"\1", plain)
        if is_ours(plain):
            parsing.parse(plain)
        elif parsing.is_script(plain):
            parsing.parse_script(plain)
        elif plain.startswith("make "):
            assert set(plain.split()[1:]) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        elif "pytest" in plain:
            assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w./]+", plain))


def test_no_reader_touched_the_default_store(after_tutorials):
    assert os.environ.get("CONCEPTCTL_STORE") is None
    assert (after_tutorials.folder / "data").is_dir()


@every_page
def test_what_is_skipped_says_why(page):
    assert all(
        block.skip.startswith(("needs", "takes", "examples", "from", "changes"))
        for block in SKIPPED
        if block.page == page
    )
