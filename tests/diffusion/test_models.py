"""What loading a pipeline sets up beside it."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from conceptctl.diffusion.models import keep_freed_memory
keep_freed_memory()
def steps(count):
    for _ in range(count): [torch.ones(250_000) for _ in range(160)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = steps(10)
print(steps(5) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back after every step")
def test_memory_that_tensors_leave_is_there_for_the_next():
    found = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True)
    # Thousands, mostly, where it was given back: 160 MB in every step.
    assert int(found.stdout) < 500
