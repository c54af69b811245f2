"""What tests of `learn` begin with: a tiny pipeline of random weights, a store on it, and a folder of pictures."""

import pytest

from conceptctl import presets
from conceptctl.config import TrainConfig
from conceptctl.store.store import Store
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_presets import shipped_but
from tests.tiny_pipeline import write_tiny_pipeline

# A tiny pipeline draws 16 x 16 pictures; photographs are asked for by real bases.
SMALL = shipped_but("sd", steps=2, smallest_side=0, auxiliary=3, reference_samples=0)
STEPS = 6


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(presets, "shipped", SMALL)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def store(base_folder, tmp_path):
    return synthetic.make_store(tmp_path / "store", base_folder)


def asked(folder, name="alice", **changes):
    facts = {
        "folder": folder,
        "name": name,
        "train": TrainConfig(steps=STEPS, batch_size=2, rank=4, learning_rate=1e-2),
    }
    return Request(**{**facts, **changes})


def teach(store: Store, folder, name="alice", watch=None, **changes):
    return learn(store, asked(folder, name, **changes), device="cpu", watch=watch)
