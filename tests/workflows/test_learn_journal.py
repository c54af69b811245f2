"""What a training leaves for people while it goes on: samples, losses as CSV, TensorBoard events."""

# ruff: noqa: F811 - fixtures are asked for by the names that they are imported under
import csv
import dataclasses
import json
import sys

import pytest
from PIL import Image

from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.errors import NotFound, UsageError
from conceptctl.learning.loop import Listener
from conceptctl.workflows.learn.request import Watch
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401

PROMPTS = ("a photo of V*alice in the snow", "a photo of a cat")
LONGER = TrainConfig(steps=30, batch_size=2, rank=4)


def names(place):
    return sorted(each.name for each in place.glob("*.png"))


def test_samples_are_kept_with_their_step_and_recipe(store, folder, tmp_path):
    told = []
    out = tmp_path / "out"
    teach(store, folder, sample_prompts=PROMPTS, sample_every=4, output=out, watch=Watch(sample=told.append))
    assert names(out / "alice") == [
        f"alice-step-{step}-{prompt}.png"
        for step in (4, 6)
        for prompt in ("a_photo_of_a_cat", "a_photo_of_alice_in_the_snow")
    ]
    assert sorted(each.name for each in told) == names(out / "alice")
    with Image.open(out / "alice" / "alice-step-4-a_photo_of_a_cat.png") as picture:
        recipe = json.loads(picture.info["conceptctl"])
        assert picture.info["parameters"].startswith("a photo of a cat\nSteps: 2")
    assert recipe["learning"] == {"concept": "alice", "method": "stamina", "step": 4}
    assert recipe["seeds"] == [0, 1, 2, 3]


def test_the_concepts_own_prompt_is_drawn_ten_times_where_nobody_says_how_often(store, folder, tmp_path):
    teach(store, folder, preview=True, output=tmp_path, train=LONGER)
    assert names(tmp_path / "alice") == [f"alice-step-{step:02}.png" for step in range(3, 31, 3)]
    with Image.open(tmp_path / "alice" / "alice-step-03.png") as picture:
        assert json.loads(picture.info["conceptctl"])["prompt"] == "a photo of a V*alice"


def test_a_sample_of_a_concept_that_is_not_there_is_refused_before_anything(store, folder):
    with pytest.raises(NotFound, match=r"V\*alicia"):
        teach(store, folder, sample_prompts=("V*alicia",))
    assert store.head().seq == 0
    for changes in ({"sample_every": 0}, {"sample_prompts": (" ",)}, {"log_to": folder / "0.png" / "log"}):
        with pytest.raises(UsageError):
            teach(store, folder, **changes)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def interrupt_after(step):
    def report(report):
        if report.step == step:
            raise KeyboardInterrupt

    return Watch(report=report)


def test_losses_of_a_run_that_goes_on_stand_in_its_table_once(store, folder, tmp_path, monkeypatch):
    log = tmp_path / "log"
    how = {"log_to": log, "train": LONGER, "preview": True, "sample_every": 10}
    plain = Listener.__init__

    def often(self, **options):
        plain(self, **options, report_steps=5)

    monkeypatch.setattr(Listener, "__init__", often)
    # As after a kill: more is written than was saved.
    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, watch=interrupt_after(10), **how)
    with (log / "alice" / "learning.csv").open("a", encoding="utf-8") as file:
        file.write("15,9,9,9\n20,9,9,9\n")
    teach(store, folder, **how)
    rows = table(log / "alice" / "learning.csv")
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20, 25, 30]
    assert all(0 < float(row["loss"]) < 9 for row in rows)
    assert {"denoising", "density"} <= set(rows[0])
    assert names(log / "alice") == ["alice-step-20.png", "alice-step-30.png"]
    # Another run of that name has a folder of its own.
    teach(store, folder, replace=True, **how)
    assert len(table(log / "alice.2" / "learning.csv")) == 6
    assert rows == table(log / "alice" / "learning.csv")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_have_every_step_once_when_a_run_goes_on(store, folder, tmp_path):
    pytest.importorskip("tensorboard")
    how = {"log_to": tmp_path, "train": dataclasses.replace(LONGER, method="ewc")}
    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, watch=interrupt_after(20), **how)
    teach(store, folder, preview=True, **how)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "alice"))
    found.Reload()
    steps = [each.step for each in found.Scalars("learning/loss")]
    assert steps == [10, 20, 30]
    # The phase that follows goes on where this one ended.
    assert [each.step for each in found.Scalars("measuring importance/loss")] == [36]
    assert [row["step"] for row in table(tmp_path / "alice" / "measuring_importance.csv")] == ["6"]
    assert found.Images("the concept")[-1].step == 30


def test_without_tensorboard_there_is_csv_and_it_is_said(store, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "3", "--batch-size", "2"]
    assert run(["learn", str(folder), "--token", "alice", "--log-to", str(tmp_path / "log"), "--json", *options]) == 0
    (said,) = [text for text in json.loads(capsys.readouterr().out)["warnings"] if "tensorboard" in text]
    assert "pip install 'conceptctl[tensorboard]'" in said
    assert [row["step"] for row in table(tmp_path / "log" / "alice" / "learning.csv")] == ["3"]


def test_a_log_that_cannot_be_written_stops_no_training(store, folder, tmp_path):
    said = []
    (tmp_path / "log").mkdir()

    def spoil(report):
        if report.step == 10:
            (tmp_path / "log" / "alice" / "learning.csv").unlink()
            (tmp_path / "log" / "alice" / "learning.csv").mkdir()

    teach(store, folder, log_to=tmp_path / "log", train=LONGER, watch=Watch(report=spoil, warn=said.append))
    assert sum("the training goes on" in text for text in said) == 1
    assert store.concept("alice")


def test_processes_beside_the_main_one_and_runs_that_ask_for_nothing_write_nothing(
    store, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    teach(store, folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store"]
    assert asked(folder).output.name == "conceptctl-out"
