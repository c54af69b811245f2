"""`bench run --dry-run`: everything is looked at, and nothing is changed."""

import json

import pytest

from tests.workflows.small_bench import CONCEPTS, cli, write_small_bench


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    write_small_bench(folder)
    return folder


def tree(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def planned(*arguments):
    code, said = cli("bench", "run", *arguments, "--device", "cpu", "--dry-run")
    assert code == 0, said
    return {cell["name"]: cell for cell in said["cells"]}


def test_how_far_each_cell_is(home):
    output = home / "out"
    assert {name: cell["state"] for name, cell in planned(home / "tiny.toml", "-o", output).items()} == {
        "lora/0": "to do",
        "ti++/0": "to do",
        "bound/0": "to do",
    }
    assert not output.exists()
    code, said = cli("bench", "run", home / "tiny.toml", "-o", output, "--cells", "lora", "--device", "cpu")
    assert code == 0, said
    places = {name: cell["path"] for name, cell in planned(home / "tiny.toml", "-o", output).items()}
    # A dry run names the cells as a run does.
    assert places["lora/0"] == said["cells"][0]["path"]
    for name, state in (("ti++/0", "failed.json"), ("bound/0", "drawn/thing-0-learned.json")):
        path = home / places[name] / state
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"message": "no space left"}))
    before = tree(output)
    found = planned(home / "tiny.toml", "-o", output)
    assert {name: (cell["state"], cell["learned"], cell["finished_before"]) for name, cell in found.items()} == {
        "lora/0": ("finished", CONCEPTS, True),
        "ti++/0": ("failed", 0, False),
        "bound/0": ("begun", 1, False),
    }
    # Of a base that is not bundled nobody knows how long it takes.
    assert [cell["hours"] for cell in found.values()] == [0, None, None]
    assert tree(output) == before


def test_what_a_run_would_refuse_is_refused(home):
    text = (home / "tiny.toml").read_text()
    for was, wrong, code in (
        ("rank = 2", "rank = 0", 2),
        ("rank = 2", "ranks = 2", 5),
        ("concepts", "nowhere", 3),
        ("base = ", "base = 'nowhere' #", 5),
    ):
        (home / "wrong.toml").write_text(text.replace(was, wrong, 1))
        answers = [
            cli("bench", "run", home / "wrong.toml", "-o", home / "refused", "--device", "cpu", *more)
            for more in ((), ("--dry-run",))
        ]
        assert answers[0] == answers[1] and answers[0][0] == code
    assert not (home / "refused").exists()


def test_hours_are_of_what_is_left_and_rows_of_one_content_are_one(home):
    path = home / "mine.toml"
    path.write_text(
        'seeds = [3]\n[data]\nconcepts = 2\n[methods.lora]\n[methods.again]\nmethod = "lora"\n[methods.dsc]\n'
    )
    found = planned(path, "-o", home / "mine")
    assert found["lora/3"]["hours"] > 0 == found["again/3"]["hours"]
    # Its second phase takes as long as its first.
    assert found["dsc/3"]["hours"] > 1.5 * found["lora/3"]["hours"]
    assert not (home / "mine").exists()
