"""Stores that tell classes apart, on a tiny vision transformer of random weights, and tasks for them."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from conceptctl.store.store import Store
from conceptctl.workflows.classification.classify import classify
from conceptctl.workflows.classification.learn import Request, learn
from conceptctl.workflows.init import initialize

SMALL = {
    "stamina": {"rank": 2}, "c-lora": {"rank": 2, "forgetting_weight": 1.0}, "lora": {"rank": 2},
    "l2p": {"pool_size": 4, "prompt_length": 2, "chosen": 2}, "dual-prompt": {"expert_length": 4, "general_layers": 1},
    "coda-prompt": {"added": 2}, "fine-tuning": {}, "linear-probe": {},
}  # fmt: skip


def write_task(folder: Path, *classes: str, pictures: int = 4) -> Path:
    """A folder of each class, whose pictures have a brightness that overlaps with that of others."""
    for name in classes:
        rng = np.random.default_rng(sum(name.encode()))
        (folder / name).mkdir(parents=True)
        level = rng.integers(0, 120)
        for number in range(pictures):
            pixels = level + rng.integers(0, 100) + rng.integers(0, 30, (16, 20, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


def make(root: Path, base: Path) -> Store:
    return initialize(root, str(base)).store


def copied(store: Store, root: Path) -> Store:
    shutil.copytree(store.layout.root, root)
    return Store(root)


def taught(store: Store, folder: Path, method: str = "lora", **options):
    settings = {"batch_size": 4, **SMALL[method], **options.pop("settings", {})}
    request = Request(folder, method=method, settings=settings, **{"epochs": 2, **options})
    return learn(store, request, device="cpu")


def answers(store: Store, *paths: Path, at=None):
    """Every class with its probability, of each picture."""
    found = classify(store, paths, top=100, at=at, device="cpu")
    return [(each.path.name, each.classes) for each in found.pictures]
