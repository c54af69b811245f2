"""What the import contracts cannot see: what is really loaded when a verb runs."""

import subprocess
import sys

import pytest

from tests import synthetic

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "pydantic", "jinja2", "matplotlib")


def loaded_by(arguments: list[str]) -> list[str]:
    code = (
        "import sys\n"
        "from conceptctl.cli.app import run\n"
        f"run({arguments!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(eval(done.stderr.splitlines()[-1]))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light")
    made = synthetic.make_store(folder / "store", synthetic.write_base(folder / "base"))
    synthetic.learn(made, "alice")
    return str(made.layout.root)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config"]])
def test_light_verbs_load_nothing_heavy(arguments):
    assert loaded_by(arguments) == []


@pytest.mark.parametrize("verb", ["list", "show alice", "log", "info", "verify --read-data", "undo --dry-run"])
def test_looking_at_a_store_loads_nothing_heavy(verb, store):
    assert loaded_by([*verb.split(), "--store", store]) == []


@pytest.mark.parametrize("verb", ["list", "log", "info"])
def test_looking_loads_no_drawing_of_tables_when_nobody_looks(verb, store):
    code = f"import sys; from conceptctl.cli.app import run; run([{verb!r}, '--store', {store!r}])\n"
    code += "print('rich.console' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"


@pytest.mark.parametrize("package", ["diffusion", "methods", "metrics", "workflows"])
def test_diffusers_is_loaded_where_it_is_first_used(package):
    # Loading a pipeline first tells diffusers and transformers to keep their advice to themselves, some of which comes
    # as soon as they are imported: a user would find it on the screen.
    code = (
        "import importlib, pkgutil, sys\n"
        f"import conceptctl.{package} as package\n"
        "for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
        "print([name for name in ('diffusers', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_probe_sees_a_heavy_module():
    code = "import sys, numpy; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
