"""Bases with joint attention keep reference samples, and `eval` compares with them."""

import pytest

from conceptctl import presets
from conceptctl.config import TrainConfig
from conceptctl.workflows.evaluate.evaluation import Request as Evaluation
from conceptctl.workflows.evaluate.run import evaluate
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests.evaluated import write_heldout
from tests.small_presets import shipped_but
from tests.tiny_clip import write_tiny_clip
from tests.tiny_pipeline import write_tiny_flux, write_tiny_sd3


@pytest.mark.parametrize(("family", "write"), [("sd3", write_tiny_sd3), ("flux", write_tiny_flux)])
def test_what_was_learned_is_drawn_again_and_compared(family, write, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "shipped", shipped_but(family, steps=2, smallest_side=16, sampling_steps=2))
    clip = str(write_tiny_clip(tmp_path / "clip"))
    store = initialize(tmp_path / "store", str(write(tmp_path / "model"))).store
    for name in ("alice", "bob"):
        request = Request(
            write_heldout(tmp_path / "photos", name) / name,
            name,
            train=TrainConfig(method="lora", steps=2),
            settings={"batch_size": 1},
            reference_samples=2,
            feature_extractor=clip,
        )
        learn(store, request, device="cpu")
    found = evaluate(store, Evaluation(tmp_path / "photos", feature_extractor=clip), device="cpu")
    alice, bob = (each.kept.figures for each in found.measured)
    # bob came last, so nothing of him can have been forgotten.
    assert alice["F_mmd"] is not None and bob["F_mmd"] in (None, 0)
    assert all(figures["A_mmd"] is not None for figures in (alice, bob))
