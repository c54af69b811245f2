"""Stores on a tiny pipeline whose concepts have reference samples as `learn` keeps them, and held-out pictures."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from conceptctl.config import Drawing
from conceptctl.store import weights
from conceptctl.store.store import Store
from conceptctl.workflows.adding import add_concept
from conceptctl.workflows.drawing import draw_set
from conceptctl.workflows.model import load
from tests import synthetic
from tests.tiny_pipeline import WIDTH

STEPS, GUIDANCE, REFERENCE_SAMPLES = 2, 3.0, 6
RECIPE = {"prompt": "a photo of a V*{}", "steps": STEPS, "guidance": GUIDANCE}


def settings_of(recipe, said="reference"):
    """What a record says of reference samples; earlier versions said "remembered"."""
    return {f"{said}_{name}": value for name, value in recipe.items()}


def learn(store: Store, name: str, seed: int, shapes, extractor=None, *, scale=1.0, said="reference", **settings):
    """Commit a synthetic concept, with features of what it draws where there is an extractor."""
    rng = np.random.default_rng(seed)
    deltas = {
        place: weights.Delta(delta.mask, delta.values * np.float32(scale))
        for place, delta in synthetic.deltas(shapes, seed, 0.3).items()
    }
    token = rng.standard_normal((1, WIDTH), dtype=np.float32)
    by = {"feature_extractor": extractor.sha256} if extractor else {}
    settings = {**settings_of(RECIPE, said), **by, **settings}
    record = synthetic.record(store, name, seed, settings=settings)
    features = _features(store, record, deltas, token, extractor) if extractor else None
    with store.writing("learn") as writer:
        ref = writer.add_tensors(weights.concept_tensors(deltas, token, features), record.metadata())
        return add_concept(writer, "learn", record, ref)


def _features(store, record, deltas, token, extractor):
    """What the concept draws once it is learned, seen in a copy of the store in which it is learned already."""
    copy = Store(shutil.copytree(store.layout.root, store.layout.root.with_name(f"{record.name}-copy")))
    with copy.writing("learn") as writer:
        add_concept(
            writer, "learn", record, writer.add_tensors(weights.concept_tensors(deltas, token), record.metadata())
        )
    backbone = load(copy, copy.head(), "cpu")
    sample = backbone.sampler(f"a photo of a V*{record.name}", Drawing(STEPS, GUIDANCE))
    return extractor.images(list(draw_set(sample, REFERENCE_SAMPLES))).numpy()


def write_heldout(folder: Path, name: str, count: int = 4, inner: str = "") -> Path:
    """Write pictures of different colours and patterns that the picture gate lets through."""
    target = folder / name / inner
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, name)))
    for index in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.NEAREST).save(target / f"{index}.png")
    return folder
