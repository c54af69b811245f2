import os
import tempfile
from pathlib import Path

import pytest

from tests import synthetic
from tests.faults.drills import DRILLS, Field

# What learns on a base that has no feature extractor would look for one on the hub, and wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _without_prompts(monkeypatch):
    # These bases have no text encoder. What is forked has this too; what is run in a new process is told by `tracing`.
    synthetic.without_prompts(monkeypatch)


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: these tests sync thousands of times."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="conceptctl-test-", dir=where) as name:
        yield Path(name)


@pytest.fixture
def store(tmp_path):
    return synthetic.make_store(tmp_path / "store", synthetic.write_base(tmp_path / "base"))


@pytest.fixture(params=DRILLS, ids=lambda drill: drill.name)
def field(request, tmp_path):
    return Field(request.param, tmp_path)
