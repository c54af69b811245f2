"""The verbs where classes are told apart, and what each says in a store of the other kind."""

import json
import shutil

import pytest

from conceptctl.cli.app import run
from conceptctl.errors import Busy
from conceptctl.store.store import Store
from tests import synthetic
from tests.small_classes import copied, make, taught, write_task
from tests.tiny_vit import write_tiny_vit

SMALL = ("--method", "lora", "--rank", "2", "--batch-size", "4", "--epochs", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("home")
    write_tiny_vit(root / "vit")
    write_task(root / "one", "cat", "dog", pictures=3)
    write_task(root / "two", "duck", "goose", pictures=3)
    taught(make(root / "begun", root / "vit"), root / "one")
    synthetic.make_store(root / "drawing", synthetic.write_base(root / "base"))
    return root


@pytest.fixture
def verb(home, tmp_path, capsys, monkeypatch):
    """Runs a command on a store with one task; returns its exit code and what it says."""
    monkeypatch.setenv("CONCEPTCTL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CONCEPTCTL_CONFIG", str(tmp_path / "config.toml"))
    copied(Store(home / "begun"), tmp_path / "store")

    def call(*words):
        code = run([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_task_is_learned_looked_at_and_taken_back(home, verb):
    code, out, _ = verb("learn", home / "two", *SMALL, "--dry-run")
    assert code == 0
    assert "would learn the task two, 2 classes from 6 pictures, with lora" in out
    code, out, err = verb("learn", home / "two", *SMALL, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["task"] == {"name": "two", "classes": ["duck", "goose"], "folded": False}
    assert found["generation"] == 2
    code, out, _ = verb("list")
    assert out.splitlines()[0].split("\t")[:2] == ["task", "classes"]
    assert "duck and goose" in out
    assert "tasks\t2, 0 folded" in verb("info")[1]
    assert "answers stay the same" in verb("fold")[2]
    assert "classes\tduck, goose" in verb("show", "two")[1]
    assert "token" not in json.loads(verb("show", "two", "--json")[1])
    assert "added: two" in verb("diff", "1", "2")[1]
    assert "learn two" in verb("log")[1]
    assert "3 now" not in verb("stats")[1]
    assert "1 task in the store" in verb("undo", "2", "--yes")[2]
    assert "renamed the task one to animals" in verb("rename", "one", "animals")[2]
    assert verb("verify", "--read-data")[0] == 0
    assert verb("gc", "--yes")[0] == 0
    assert verb("compact", "--yes")[0] == 0


def test_of_many_notes_the_first_are_shown(verb, tmp_path):
    names = [f"class-{number:02}" for number in range(12)]
    folder = write_task(tmp_path / "many", *names, pictures=3)
    for name in names:
        first = min((folder / name).iterdir())
        shutil.copy(first, first.with_name(f"again{first.suffix}"))
    code, out, err = verb("learn", folder, *SMALL, "--dry-run")
    assert code == 0, err
    shown = [line for line in (out + err).splitlines() if line.startswith("note: class-")]
    assert len(shown) == 10
    assert "and 2 more notes: --json has all" in out + err
    assert len(json.loads(verb("learn", folder, *SMALL, "--dry-run", "--json")[1])["plan"]["notes"]) == 12


def test_a_name_that_cannot_be_is_said_with_what_works_here(home, verb):
    code, out, _ = verb("learn", home / "two", "--token", "", *SMALL, "--json")
    assert (code, json.loads(out)["error"]["message"]) == (2, "'' cannot be a task's name")
    assert verb("learn", home / "two", *SMALL)[0] == 0
    code, out, _ = verb("rename", "one", "two", "--json")
    assert code == 5
    assert json.loads(out)["error"] == {
        "code": 5, "kind": "AlreadyExists", "message": "a task 'two' is there already",
        "hint": "another name (learn: --token NAME); or conceptctl undo",
    }  # fmt: skip


def test_what_was_learned_is_said_where_it_cannot_be_folded(home, verb, monkeypatch):
    def busy(*words, **options):
        raise Busy("somebody else is at it")

    monkeypatch.setattr("conceptctl.workflows.fold.fold", busy)
    code, out, _ = verb("learn", home / "two", "--fold", *SMALL, "--json")
    assert code == 6
    assert json.loads(out)["error"]["message"].startswith("learned the task two, but not folded")
    assert "two" in verb("list")[1]


def test_pictures_are_classified(home, verb):
    code, out, err = verb("classify", home / "one" / "cat", home / "two" / "duck" / "0.png", "--top", "2", "--json")
    assert code == 0, err
    pictures = json.loads(out)["pictures"]
    assert [each["path"] for each in pictures[-1:]] == [str(home / "two" / "duck" / "0.png")]
    assert len(pictures) == 4
    for each in pictures:
        assert {found["class"] for found in each["classes"]} == {"cat", "dog"}
        assert sum(found["probability"] for found in each["classes"]) == pytest.approx(1)
    assert verb("classify", home / "one" / "cat" / "0.png", "--at", "0")[0] == 5
    assert verb("classify", home / "one" / "cat" / "0.png", "--top", "0")[0] == 2
    assert verb("classify", home / "vit" / "config.json")[0] == 3
    code, out, _ = verb("classify", home / "one" / "cat", "--quiet")
    assert len(out.split()) == 3


def test_accuracies_are_told_and_shown_again(home, verb):
    code, out, err = verb("eval", home / "one", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["generation"], found["committed"], found["classes_seen"]) == (1, 2, 2)
    assert [each["class"] for each in found["tasks"][0]["classes"]] == ["cat", "dog"]
    code, out, _ = verb("eval", home / "one")
    assert out.splitlines()[0] == "task\tclass\tpictures\taccuracy %\tforgetting %"
    assert "accuracy" in verb("show", "one")[1]
    assert "among 2 classes" in verb("log", "one")[1]


DRAWING = (
    ("generate", "a cat"), ("export",), ("export", "--to", "concept", "one"), ("import", "x.safetensors"),
    ("forget", "one", "--yes"), ("rm", "one", "--purge"),
)  # fmt: skip


@pytest.mark.parametrize("words", DRAWING, ids=" ".join)
def test_a_verb_of_models_that_draw_says_what_to_do_instead(verb, tmp_path, words):
    code, out, _ = verb(*words, "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert error["message"].startswith("this store tells classes apart and draws nothing")
    assert error["hint"]
    assert Store(tmp_path / "store").head().seq == 1


@pytest.mark.parametrize(
    "words",
    [
        ("learn", "x", "--class", "dog"), ("learn", "x", "--preview"), ("learn", "x", "--replace"),
        ("learn", "x", "--steps", "5"), ("learn", "x", "--aux", "5"), ("learn", "--batch", "x"),
        ("eval", "x", "--report", "y"), ("eval", "--images", "a=b"), ("eval", "x", "-n", "3"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_of_models_that_draw_is_refused(verb, words):
    code, out, _ = verb(*words, "--json")
    assert code == 2
    assert "is of concepts that are drawn" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("words", [("learn",), ("eval",)])
def test_a_folder_is_asked_for(verb, words):
    code, _, err = verb(*words)
    assert code == 2
    assert "missing DIR" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classify", "x.png"), "this store draws, and tells no classes apart"),
        (("learn", "x", "--token", "a", "--epochs", "3"), "--epochs is of classes"),
        (("learn", "x", "--token", "a", "--method", "l2p"), "tells classes of pictures apart"),
    ],
)
def test_a_store_that_draws_says_that_it_does(home, verb, words, said):
    code, out, _ = verb(*words, "--store", home / "drawing", "--json")
    assert code in (2, 5)
    error = json.loads(out)["error"]
    assert said in error["message"]
    assert error["hint"]


def test_init_says_what_comes_next(home, verb, tmp_path):
    code, _, err = verb("init", "--base", home / "vit", "--store", tmp_path / "new")
    assert code == 0
    assert "one folder for each class" in err
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    code, _, err = verb("init", "--base", tmp_path / "bert", "--store", tmp_path / "other")
    assert code == 5
    assert "no vision transformer that is known here" in err
    assert not (tmp_path / "other").exists()


def test_a_hub_id_is_a_base(home, verb, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, **asked: str(home / "vit"))
    code, out, err = verb("init", "--base", "acme/vit", "--store", tmp_path / "new", "--json")
    assert code == 0, err
    assert json.loads(out)["base"]["name"] == "acme/vit"


def test_the_bundled_tower_makes_a_store(verb, tmp_path):
    code, out, err = verb("init", "--base", "pocket-vit", "--store", tmp_path / "new", "--json")
    assert code == 0, err
    assert json.loads(out)["base"]["name"] == "pocket-vit"
    head = Store(tmp_path / "new").head()
    assert head.base.family.name == "vit"
    # The text tower stays behind.
    assert list(head.base.files) == ["vision/model.safetensors"]
