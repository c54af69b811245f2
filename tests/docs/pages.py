"""What the tests of the documents read: pages, their fenced blocks, their links, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
FIRST, SECOND = DOCS / "tutorials/first-concept.md", DOCS / "tutorials/two-concepts.md"
RUN = {"sh", "python"}
"""The languages of blocks that can be run."""
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^```(?P<language>[\w-]*)(?P<info>[^\n`]*)\n(?P<text>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_CONTINUED = re.compile(r" *\\\n *")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    Attributes:
        language: What is behind the fence: sh, python, text, ...
        skip: Why its commands are not run, or an empty string.
        coming: Whether this version may not have what it uses yet: then it is left alone.
    """

    page: Path
    language: str
    skip: str
    coming: bool
    text: str

    def commands(self) -> list[str]:
        """The commands of a block of `sh`: lines, with those that go on (a backslash, a here-document) put together."""
        found: list[str] = []
        lines = iter(_CONTINUED.sub(" ", self.text).splitlines())
        for line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if here := re.search(r"<<'(\w+)'", line):
                document = [line]
                for each in lines:
                    document.append(each)
                    if each == here[1]:
                        break
                line = "\n".join(document)
            found.append(line)
        return found


def name(page: Path) -> str:
    """A page, as tests call it."""
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    for match in _FENCE.finditer(text_of(page)):
        info = dict(part.split("=", 1) for part in shlex.split(match["info"]))
        yield Block(page, match["language"], info.get("skip", ""), "coming" in info, match["text"])


def runs(page: Path) -> list[Block]:
    """The blocks of a page that are run."""
    return [block for block in blocks(page) if block.language in RUN and not block.skip]


def prose(page: Path) -> str:
    """What is left of a page without its fenced blocks."""
    return _FENCE.sub("", text_of(page))


def inline_code(page: Path) -> list[str]:
    """Everything in backticks, outside of fenced blocks."""
    return _CODE.findall(prose(page))


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, those to other places of the web left out."""
    targets = [match["target"] for match in _LINK.finditer(_CODE.sub("", prose(page)))]
    return [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = (re.sub(r"[^\w\- ]", "", match["text"].lower()) for match in _HEADING.finditer(prose(page)))
    return {each.strip().replace(" ", "-") for each in found}


def without_comment(command: str) -> tuple[str, int]:
    """Return a command without the comment behind it, and the exit code that the comment names (0 without one)."""
    plain, _, comment = command.partition("  #")
    code = re.match(r" *exit (\d+)", comment)
    return plain.rstrip(), int(code[1]) if code else 0


def is_ours(command: str) -> bool:
    """Whether a command is one of conceptctl's, and nothing that only a shell understands."""
    return command.startswith("conceptctl ") and not re.search(r"[|;<>$&*]", re.sub(r"V\*\w+|'[^']*'", "", command))
