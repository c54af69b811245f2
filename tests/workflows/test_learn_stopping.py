"""`learn` until the concept is learned: how it is asked for, what is said of it, and that it goes on to the bit."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.cli.learn_text import ended_text
from conceptctl.config import TrainConfig
from conceptctl.errors import UsageError
from conceptctl.learning import stopping
from conceptctl.presets import preset_of
from conceptctl.store import jobs, weights
from conceptctl.store.concept import read_record
from conceptctl.store.tensorfile import read_header
from conceptctl.workflows.learn import batch
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Watch, make_method
from tests import synthetic
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401 - fixtures

BOUND = 40
AUTO = TrainConfig(method="lora", steps="auto", max_train_steps=BOUND, batch_size=2, rank=4, learning_rate=1e-2)


def tensors_of(store):  # noqa: F811
    path = store.blob(store.concept("alice"))
    return {name: weights.read_floats(path, name) for name in read_header(path).tensors if not name.endswith("/mask")}


CAT = {"class_word": "cat", "train": AUTO}


@pytest.fixture
def settles(monkeypatch):
    """The end begins as soon as there are enough looks, whatever they show."""
    monkeypatch.setattr(stopping, "SETTLED", 10.0)
    monkeypatch.setattr(stopping, "LEAST_PATIENCE", 0.0)


@pytest.mark.parametrize(
    ("train", "preset", "settings", "found"),
    [
        ({}, {}, {}, (500, "fixed")),
        ({"steps": "auto"}, {}, {}, (500, "auto")),
        ({"steps": "auto", "max_train_steps": 300}, {}, {}, (300, "auto")),
        ({"max_train_steps": 300}, {}, {}, (300, "fixed")),
        ({"steps": 400, "max_train_steps": 300}, {}, {}, (300, "fixed")),
        ({}, {"steps": "auto", "max_train_steps": 700}, {}, (700, "auto")),
        ({"max_train_steps": 900}, {"steps": "auto", "max_train_steps": 700}, {}, (900, "auto")),
        ({"steps": 400}, {"steps": "auto", "max_train_steps": 700}, {}, (400, "fixed")),
        ({}, {"steps": 600, "stopping": "auto"}, {}, (600, "auto")),
        ({"steps": "auto"}, {"steps": 600}, {}, (600, "auto")),
        ({"steps": "auto"}, {}, {"steps": 20}, (20, "fixed")),
        ({"steps": 20}, {}, {"steps": "auto"}, (20, "auto")),
        ({"steps": 20}, {}, {"max_train_steps": 30}, (20, "fixed")),
        ({"steps": 40}, {}, {"max_train_steps": 30}, (30, "fixed")),
        ({"steps": "auto"}, {}, {"max_train_steps": 30}, (30, "auto")),
        ({"max_train_steps": 10}, {}, {"steps": 20}, (10, "fixed")),
    ],
)
def test_what_is_nearer_to_the_user_says_what_ends_a_training(folder, store, train, preset, settings, found):  # noqa: F811
    own = dataclasses.replace(preset_of(store.head().base), methods={presets.EVERY_METHOD: preset})
    config = make_method(asked(folder, train=TrainConfig(**train), settings=settings), own).config
    assert (config.steps, config.stopping) == found


@pytest.mark.parametrize("most", [0, -1, 1.5, "auto", True])
@pytest.mark.parametrize("where", ["settings", "preset", "train"])
def test_a_bound_that_cannot_be_meant_is_called_by_its_name(folder, store, most, where):  # noqa: F811
    said = {"max_train_steps": most}
    methods = {presets.EVERY_METHOD: said} if where == "preset" else {}
    own = dataclasses.replace(preset_of(store.head().base), methods=methods)
    train = TrainConfig(**said if where == "train" else {})
    with pytest.raises(UsageError, match="max train steps"):
        make_method(asked(folder, train=train, settings=said if where == "settings" else {}), own)


@pytest.mark.parametrize(
    ("steps", "said"),
    [("fast", "neither a whole number nor auto"), ("12.5", "nor auto"), ("-3", "more than 0"), ("", "nor")],
)
def test_steps_that_cannot_be_meant_are_refused(folder, store, steps, said, capsys):  # noqa: F811
    command = ["learn", str(folder), "--token", "alice", "--class", "cat", "--store", str(store.layout.root)]
    assert run([*command, f"--steps={steps}"]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(UsageError, match="a whole number or auto"):
        make_method(asked(folder, settings={"steps": "fast"}), preset_of(store.head().base))
    with pytest.raises(UsageError, match="most"):
        make_method(
            asked(folder, train=TrainConfig(steps=5), settings={"stopping": "most"}), preset_of(store.head().base)
        )


def test_it_is_said_how_a_training_ended_and_it_is_not_learned_again(store, folder, tmp_path, settles, capsys):  # noqa: F811
    totals, done = [], []
    watch = Watch(ending=totals.append, step=done.append)
    made = teach(store, folder, class_word="cat", train=AUTO, watch=watch, log_to=tmp_path / "log")
    record = read_record(store.blob(store.concept("alice")))
    said = record.settings
    assert totals == [record.steps] == [max(done)]
    assert record.steps < BOUND == said["max_train_steps"]
    assert said["stopping"] == "auto"
    assert said["stopped"] in ("learned", "nothing")
    assert len(said["fixed_loss"]) == len(said["fixed_class_loss"]) == 2
    assert said["kept_step"] <= record.steps
    # A column of the table from its first row on.
    with (tmp_path / "log" / "alice" / "learning.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["fixed_loss"]) > 0 and float(row["fixed_class_loss"]) > 0 for row in rows)
    assert int(rows[-1]["step"]) == record.steps
    assert ended_text(made.record)
    capsys.readouterr()
    assert run(["show", "alice", "--store", str(store.layout.root)]) == 0
    shown = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert shown["ended"] == ended_text(record)
    assert f"{record.steps} steps" in shown["with"]
    assert f"steps={BOUND}, stopping=auto" in shown["preset"]
    (found,) = batch.judge(store, [batch.Entry(asked(folder, class_word="cat", train=AUTO), "cpu")], Watch())
    assert found.plan is None


def test_a_plan_says_that_it_is_the_most(store, folder, capsys):  # noqa: F811
    command = ["learn", str(folder), "--token", "alice", "--class", "cat", "--store", str(store.layout.root)]
    command += ["--steps", "auto", "--max-train-steps", "30", "--device", "cpu", "--dry-run"]
    assert run(command) == 0
    assert "at most 30 of" in capsys.readouterr().out
    assert run([*command, "--json"]) == 0
    config = json.loads(capsys.readouterr().out)["plan"]["config"]
    assert (config["steps"], config["stopping"]) == (30, "auto")


def test_an_interrupted_run_goes_on_and_ends_the_same(base_folder, folder, tmp_path, settles):  # noqa: F811
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    teach(whole, folder, **CAT)
    wanted = read_record(whole.blob(whole.concept("alice")))

    def at(step):
        def interrupt(done):
            if done == step:
                raise KeyboardInterrupt

        return Watch(step=interrupt)

    # Before the end begins, and in it.
    for step in (7, wanted.steps - 2):
        with pytest.raises(KeyboardInterrupt):
            teach(broken, folder, **CAT, watch=at(step))
        (job,) = jobs.found(broken.layout)
        assert job.load().step == step
    # With a number of steps it is another run.
    warned = []
    train = dataclasses.replace(AUTO, steps=20, max_train_steps=None)
    plan(broken, asked(folder, class_word="cat", train=train), device="cpu", watch=Watch(warn=warned.append))
    assert f"to go on with it: the same command with --steps auto --max-train-steps {BOUND}" in warned[0]
    teach(broken, folder, **CAT)
    found = read_record(broken.blob(broken.concept("alice")))
    assert found.loss_curve == wanted.loss_curve
    assert {name: found.settings[name] for name in ("stopped", "kept_step", "fixed_loss", "fixed_class_loss")} == {
        name: wanted.settings[name] for name in ("stopped", "kept_step", "fixed_loss", "fixed_class_loss")
    }
    first, second = (tensors_of(each) for each in (whole, broken))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
