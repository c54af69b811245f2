"""Runs the commands of a page as a reader would, one after the other in one folder, only with short trainings."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conceptctl import presets
from conceptctl.cli.app import run
from tests.docs.pages import ROOT, Block, is_ours, without_comment
from tests.small_presets import shipped_but

STEPS = 2
FEW = {"--steps": str(STEPS), "-n": "1"}
PRACTICE = ("--train", "4", "--heldout", "3")
SHORT = {"timestep_sampling": "uniform", "batch_size": 1}
CONFIG = f"[train]\nsteps = {STEPS}\n\n[sample]\nsteps = 1\n"


# What draws or learns takes less, as everywhere here; everything else is the program itself, which starts much faster.
_WRAPPER = f"""#!/bin/sh
export PYTHONPATH={ROOT}
case "$1" in learn|generate|eval) module=tests.docs.running ;; *) module=conceptctl ;; esac
exec {sys.executable} -m $module "$@"
"""


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Let trainings be short and pictures few, as the settings of the bundled base have it."""
    few = dict(shipped_but("pocket", steps=1, auxiliary=2, reference_samples=2)())
    pocket = few["pocket"]
    methods = {name: {**settings, **(SHORT if name == presets.EVERY_METHOD else {})}
               for name, settings in pocket.methods.items()}  # fmt: skip
    few["pocket"] = dataclasses.replace(pocket, methods=methods)
    patch.setattr(presets, "shipped", lambda: few)
    patch.setattr("conceptctl.diffusion.models.has_fast_bf16", lambda device: False)


class Reader:
    """Somebody who follows a page, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.environment = {
            "CONCEPTCTL_CONFIG": str(folder / "config.toml"),
            "HF_HUB_OFFLINE": "1",
            "XDG_DATA_HOME": str(folder / "data"),
        }
        (folder / "config.toml").write_text(CONFIG)

    def follow(self, blocks: list[Block]) -> None:
        """Run every block that is not skipped; the first command that ends as the page does not say fails the test."""
        with self.at_home():
            for block in blocks:
                if block.skip:
                    continue
                if block.language == "sh":
                    for command in block.commands():
                        self._do(*without_comment(command))
                elif block.language == "python":
                    self._python(block.text)

    def _do(self, command: str, expected: int) -> None:
        said = io.StringIO()
        if setting := re.fullmatch(r"export (\w+)=(\S+)", command):
            value = os.path.expandvars(setting[2]).strip('"').replace("~", str(self.folder), 1)
            self.environment[setting[1]] = value
            self.patch.setenv(setting[1], value)
            return
        if is_ours(command):
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = run(_less(shlex.split(command)[1:]))
        else:
            code, text = self._shell(command)
            said.write(text)
        assert code == expected, f"{command}\nexit {code}\n{said.getvalue()}"

    def _shell(self, command: str) -> tuple[int, str]:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def _python(self, text: str) -> None:
        import torch

        with torch.random.fork_rng():
            exec(compile(text, "page", "exec"), {})

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        """Be in the folder, with the reader's environment."""
        with pytest.MonkeyPatch.context() as patch:
            self.patch = patch
            shorten(patch)
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.delenv("CONCEPTCTL_STORE", raising=False)
            if store := self.environment.get("CONCEPTCTL_STORE"):
                patch.setenv("CONCEPTCTL_STORE", store)
            patch.setenv("PATH", f"{self._programs()}:{os.environ['PATH']}")
            yield

    def _programs(self) -> Path:
        """A folder with what a reader has on the path."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        ours = programs / "conceptctl"
        ours.write_text(_WRAPPER)
        ours.chmod(0o755)
        (programs / "python3").unlink(missing_ok=True)
        (programs / "python3").symlink_to(sys.executable)
        return programs


def _less(words: list[str]) -> list[str]:
    """The same command for seconds instead of minutes: few steps, one picture, small folders to practise with."""
    less = list(words)
    for place, word in enumerate(words[:-1]):
        if word in FEW:
            less[place + 1] = FEW[word]
    return [*less, *PRACTICE] if words[:2] == ["bench", "data"] else less


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patched:
        shorten(patched)
        sys.exit(run(_less(sys.argv[1:])))
