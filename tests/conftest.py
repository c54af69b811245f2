import os
from pathlib import Path

import pytest

# Hypothesis keeps what it knows beside the other caches, and not in the tree.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).parents[1] / ".venv/.cache/hypothesis"))


@pytest.fixture(autouse=True)
def _in_fp32(monkeypatch):
    # In which precision something is learned is not to depend on the CPU that the tests run on.
    monkeypatch.setattr("conceptctl.diffusion.models.has_fast_bf16", lambda device: device.type == "cuda")
