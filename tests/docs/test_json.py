"""What `--json` prints of every verb, held against the schemas of docs/reference/json."""

import contextlib
import copy
import io
import json
import shlex
import shutil

import jsonschema
import pytest

from conceptctl.cli import app
from tests.docs import parsing
from tests.docs.pages import DOCS
from tests.docs.running import Reader

SCHEMAS = {path.name.removesuffix(".schema.json"): path for path in sorted((DOCS / "reference/json").iterdir())}
COMMANDS = (
    "learn concepts/person-001/train --token bob --class person --dry-run",
    "list", "show alice", "log", "log alice", "info", "verify", "verify --read-data",
    "config", "config train.steps", "fold --dry-run", "fold",
    'generate "a photo of a V*alice" --seed 3', 'generate "a photo of V*alice next to V*falls"',
    "eval --images alice=concepts/person-000/heldout --images falls=concepts/waterfall-000/heldout",
    "eval --images falls=concepts/waterfall-000/heldout --report only.html",
    "show falls", "export alice -o out.safetensors", "export --raw -o raw", "export --to diffusers -o folder",
    "export --to lora --rank 4 -o lora.safetensors", "export alice --to embedding -o token.safetensors",
    "forget falls --dry-run", "forget falls --yes", "undo --dry-run", "undo --yes",
    "forget falls --purge --yes", "repair --dry-run", "repair --yes", "compact --dry-run", "compact --yes",
    "gc --dry-run", "gc --yes", "init --store second", "import out.safetensors --as bob --store second",
    "import out.safetensors --as bob2 --store second", "bench data more --concepts 1",
    "bench list", "bench show smoke", "bench run smoke -o bench --dry-run",
    "bench run classification --cells l2p/100 -o bench --dry-run",
    "bench run tiny.toml -o bench --device cpu", "bench report bench",
    "diff 1 2", "stats", "rename alice ally",
    "init --base pocket-vit --store tasks", "learn task --store tasks --epochs 1 --dry-run",
    "learn task --store tasks --epochs 1 --method lora", "list --store tasks", "eval task --store tasks",
    "classify task/ann --top 2 --store tasks", "show task --store tasks", "log task --store tasks",
    "rename task people --store tasks", "generate x --store tasks",
    "show nobody", "learn nowhere --token x", "list --nonsense", "import config.toml",
)  # fmt: skip

TINY = """
title = "One concept, in one step"
seeds = [0]
settings = { timestep_sampling = "uniform" }
[data]
concepts = 1
train = 2
heldout = 2
[protocol]
steps = 1
batch_size = 1
pictures = 2
sampling_steps = 1
evaluations = 1
[methods."ti++"]
"""


@pytest.fixture(scope="module")
def answers(after_tutorials, tmp_path_factory):
    """What every command prints, and its exit code."""
    home = tmp_path_factory.mktemp("json") / "home"
    shutil.copytree(after_tutorials.folder, home, symlinks=True)
    for number, name in enumerate(("ann", "bob")):
        shutil.copytree(home / f"concepts/person-00{number}/train", home / "task" / name)
    (home / "tiny.toml").write_text(TINY)
    found = []
    with Reader(home).at_home():
        for command in COMMANDS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                code = app.run([*shlex.split(command), "--json"])
            found.append((command, code, json.loads(printed.getvalue())))
    return found


def _schema(command, code):
    words = command.split()
    name = "error" if code and code != 4 else "-".join(words[:2]) if words[0] == "bench" else words[0]
    if "--store tasks" in command and f"{name}-classes" in SCHEMAS:
        name = f"{name}-classes"
    return json.loads(SCHEMAS[name].read_text(encoding="utf-8"))


def _closed(schema):
    """The same schema, that takes no field it does not describe: so nothing that is printed stays undescribed."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def test_every_verb_has_a_schema():
    verbs = {verb for verb in parsing.verbs() if verb not in app.ALIASES}
    benches = {"bench-data", "bench-list", "bench-show", "bench-run", "bench-report"}
    assert (verbs - {"bench"}) | benches | {"learn-classes", "eval-classes", "error"} == set(SCHEMAS)


@pytest.mark.parametrize("path", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_are_schemas(path):
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert f"({path.relative_to(DOCS / 'reference').as_posix()})" in (DOCS / "reference/json.md").read_text()


def test_real_outputs_are_as_described(answers):
    wrong = []
    for command, code, answer in answers:
        validator = jsonschema.Draft202012Validator(_closed(copy.deepcopy(_schema(command, code))))
        wrong += [f"{command}: {error.json_path}: {error.message}" for error in validator.iter_errors(answer)]
    assert not wrong, "\n".join(wrong)


def test_every_verb_was_asked(answers):
    asked = {command.split()[0] for command, _, _ in answers}
    assert {verb for verb in parsing.verbs() if verb not in app.ALIASES} <= asked
    assert {code for _, code, _ in answers} >= {0, 2, 3, 5, 8}


def test_learning_is_as_described(tmp_path):
    printed = io.StringIO()
    with Reader(tmp_path).at_home(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(printed):
        data = ["bench", "data", "concepts", "--concepts", "1", "--train", "3", "--heldout", "2", "--json"]
        assert app.run(data) == 0
        folder = f"concepts/{json.loads(printed.getvalue())['concepts'][0]}/train"
        printed.seek(0)
        printed.truncate()
        assert app.run(["learn", folder, "--token", "one", "--fold", "--json"]) == 0
    jsonschema.validate(json.loads(printed.getvalue()), _closed(_schema("learn", 0)))
