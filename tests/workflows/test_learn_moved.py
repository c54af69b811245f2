"""How far a concept went from what it was learned on, as its record says it."""

import dataclasses

import numpy as np
import pytest

from conceptctl.cli.learn_text import moved_text
from conceptctl.config import TrainConfig
from conceptctl.store import base, weights
from conceptctl.store.concept import read_record
from conceptctl.workflows.model import load_base, token_rows
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401 - fixtures

TRAIN = TrainConfig(method="lora", steps=3, batch_size=2, rank=2, learning_rate=1e-2)


def test_it_is_in_the_size_of_what_was_moved(store, folder):  # noqa: F811
    teach(store, folder, train=TRAIN, class_word="cat", settings={"token_learning_rate": 1e-3})
    path = store.blob(store.concept("alice"))
    said = read_record(path).settings
    known = base.tensors(store.layout, store.head().base)
    deltas = list(weights.read_deltas(path, {name: info.shape for name, (_, _, info) in known.items()}))
    size = sum(np.square(delta.values.astype(float)).sum() for _, delta in deltas)
    before = sum(np.square(weights.read_floats(*known[name][:2]).astype(float)).sum() for name, _ in deltas)
    assert said["moved_weights"] == pytest.approx((size / before) ** 0.5, rel=0.01)
    backbone = load_base(store, store.head(), "cpu")
    ((table, embedding),) = backbone.token_tables().items()
    rows = embedding.weight.detach()
    deviation = (rows - rows.mean(dim=0)).square().mean().sqrt().item()
    assert said["token_rate"] == pytest.approx(1e-3 / deviation, rel=0.05)
    row = token_rows(backbone, weights.read_floats(path, "token"))[table]
    far = (row - backbone.token_start("cat")[table]).norm().item()
    assert said["moved_token"] == pytest.approx(far / (deviation * rows.shape[1] ** 0.5), rel=0.05)
    assert 0 < said["moved_token"] < 3 * said["token_rate"]


def test_a_token_alone_moves_no_weights(store, folder):  # noqa: F811
    teach(store, folder, train=dataclasses.replace(TRAIN, method="ti++"))
    said = read_record(store.blob(store.concept("alice"))).settings
    assert "moved_weights" not in said
    # An MLP moves its row many times as fast as the rate says.
    assert said["token_rate"] > 0


@pytest.mark.parametrize("odd", [None, "far", True, float("nan"), -1.0])
def test_what_somebody_elses_record_says_is_not_believed(store, folder, odd):  # noqa: F811
    record = teach(store, folder, train=TRAIN).record
    assert moved_text(record).startswith("weights by ")
    spoiled = dataclasses.replace(
        record, settings={**record.settings, "moved_weights": odd, "moved_token": odd, "token_rate": odd}
    )
    assert moved_text(spoiled) == ""
