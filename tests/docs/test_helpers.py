"""That these tests can fail: what they are made of notices what is wrong."""

import jsonschema
import pytest
import typer

from tests.docs import pages, parsing, test_json
from tests.docs.pages import Block


def written(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "command",
    ["conceptctl nothing", "conceptctl list --nothing", "conceptctl learn ./photos --steps many", "conceptctl show"],
)
def test_commands_that_are_none_are_refused(command):
    with pytest.raises(typer.TyperException):
        parsing.parse(command)
    assert not parsing.understands([command])


@pytest.mark.parametrize("command", ["conceptctl list --json", "conceptctl bench data ./x", "conceptctl --version"])
def test_commands_are_taken(command):
    parsing.parse(command)


def test_options_of_scripts_are_looked_for():
    parsing.parse_script("python benchmarks/context.py --pictures 6")
    with pytest.raises(AssertionError):
        parsing.parse_script("python benchmarks/context.py --nothing")


def test_blocks_commands_and_their_reasons(tmp_path):
    text = (
        "# A\n\n```sh\na \\\n  b\n\ncat > f <<'END'\nx\nEND\nc  # exit 5\n```\n\n```sh skip=\"needs a GPU\"\nd\n```\n"
    )
    first, second = pages.blocks(written(tmp_path, text))
    assert first.commands() == ["a b", "cat > f <<'END'\nx\nEND", "c  # exit 5"]
    assert pages.without_comment("c  # exit 5") == ("c", 5)
    assert (first.skip, second.skip) == ("", "needs a GPU")


def test_links_and_anchors(tmp_path):
    page = written(tmp_path, "# What `it` is, in short\n\n[a](b.md#c) `[no](link.md)` [w](https://x.org)\n")
    assert pages.links(page) == ["b.md#c"]
    assert pages.anchors(page) == {"what-it-is-in-short"}


def test_what_only_a_shell_understands_is_told():
    assert pages.is_ours('conceptctl generate "a photo of a V*alice" -n 4')
    assert not pages.is_ours("conceptctl list --json | wc")
    assert not pages.is_ours('cp -a "$(conceptctl info)" x')


def test_fields_that_no_schema_has_are_noticed():
    schema = test_json._closed({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    jsonschema.validate({"a": 1}, schema)
    for wrong in ({"a": 1, "b": 2}, {}, {"a": "1"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_a_block_is_what_it_says():
    block = Block(pages.README, "sh", "", False, "# a comment\n\nconceptctl list\n")
    assert block.commands() == ["conceptctl list"]
