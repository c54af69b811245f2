"""What loading a pipeline sets up beside it."""

import os
import platform
import subprocess
import sys

import pytest

from tests.tiny_pipeline import write_tiny_pipeline

FAULTS = """
import resource
import sys
from pathlib import Path
import torch
from conceptctl.diffusion.models import choose_device, load_pipeline
load_pipeline(Path(sys.argv[1]), choose_device("cpu"))
def steps(count):
    for _ in range(count): [torch.ones(250_000) for _ in range(160)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = steps(10)
print(steps(5) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back after every step")
def test_memory_that_tensors_leave_is_there_for_the_next(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "base")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS, str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=own)
    # Thousands, mostly, where it was given back: 160 MB in every step.
    assert int(found.stdout.split()[-1]) < 500
