"""What the import contracts cannot see: what is really loaded when a verb runs."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL")


def loaded_by(arguments: list[str]) -> list[str]:
    code = (
        "import sys\n"
        "from conceptctl.cli.app import run\n"
        f"run({arguments!r})\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return list(eval(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config"]])
def test_light_verbs_load_nothing_heavy(arguments):
    assert loaded_by(arguments) == []


def test_the_probe_sees_a_heavy_module():
    code = "import sys, numpy; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
