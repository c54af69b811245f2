"""How far a concept went from what it was learned on, as its record says it."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conceptctl.cli.learn_text import moved_text
from conceptctl.config import TrainConfig
from conceptctl.parts.tokens import TokenEmbedding
from conceptctl.store import base, weights
from conceptctl.store.concept import read_record
from conceptctl.workflows.learn.moved import moved
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


def test_small_and_large_shares_are_read_as_numbers(store, folder):  # noqa: F811
    record = teach(store, folder, train=TRAIN).record

    def said(weights):
        settings = {"moved_weights": weights}
        return moved_text(dataclasses.replace(record, settings=settings))

    assert [said(each) for each in (1e-7, 0.0041, 0.0996, 0.996, 12.3)] == [
        f"weights by {each} of their size" for each in ("less than 0.1 %", "0.4 %", "10 %", "100 %", "1230 %")
    ]


def test_weights_and_tables_without_a_size_are_left_out(store, folder):  # noqa: F811
    deltas = {"unet/a": torch.ones(2, 2), "unet/b": torch.zeros(2, 2)}
    learned = SimpleNamespace(deltas=deltas, tokens={"one": torch.ones(1, 4), "two": torch.full((1, 4), 3.0)})
    token = TokenEmbedding({"one": torch.zeros(1, 4), "two": torch.zeros(1, 4)})
    trained = SimpleNamespace(learned=learned, trainable=SimpleNamespace(token=token, token_learning_rate=0.5))
    tables = {"one": torch.nn.Embedding(6, 4), "two": torch.nn.Embedding(6, 4)}
    torch.nn.init.zeros_(tables["one"].weight)
    with torch.no_grad():
        tables["two"].weight.copy_(torch.tensor([[1.0], [-1.0]] * 3).expand(6, 4))
    model = SimpleNamespace(
        weights={"unet/a": np.zeros((2, 2), np.float32)}, backbone=SimpleNamespace(token_tables=lambda: tables)
    )
    start = {"one": torch.zeros(1, 4), "two": torch.zeros(1, 4)}
    # Of the second table alone, whose coordinates deviate by 1: by 3 in each of them.
    assert moved(model, trained, start) == {"moved_token": pytest.approx(3), "token_rate": pytest.approx(0.5)}
    model.weights["unet/a"] = np.full((2, 2), 2, np.float32)
    assert moved(model, trained, start)["moved_weights"] == pytest.approx(0.5)
