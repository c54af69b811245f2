"""`learn`: from a folder of pictures to a generation, on a tiny pipeline of random weights."""

import dataclasses
import json
import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.cli.learn_display import Display
from conceptctl.config import TrainConfig
from conceptctl.errors import AlreadyExists, Busy, DeviceFailed, NotFound, PicturesRefused, StoreDamaged, UsageError
from conceptctl.learning.loop import Listener
from conceptctl.learning.run import Run
from conceptctl.methods import METHODS, find_method
from conceptctl.store import jobs, weights
from conceptctl.store.concept import read_record
from conceptctl.store.layout import default_root
from conceptctl.store.store import Store
from conceptctl.store.tensorfile import read_header
from conceptctl.store.verify import verify
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn import model as learn_model
from conceptctl.workflows.learn import run as workflow
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn
from conceptctl.workflows.model import load
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_presets import shipped_but
from tests.tiny_clip import write_tiny_clip
from tests.tiny_pipeline import PREDICTING_BOTH

STEPS = 6
CHOSEN = {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-2, "rank": 4}
LONGER = TrainConfig(steps=25, batch_size=2)


# A tiny pipeline draws 16 x 16 pictures; photographs are asked for by real bases.
SMALL = shipped_but("sd", steps=2, smallest_side=0, auxiliary=3, reference_samples=0)


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    monkeypatch.setattr(presets, "shipped", SMALL)


@pytest.fixture
def store(base_folder, tmp_path):
    return synthetic.make_store(tmp_path / "store", base_folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"))


def asked(folder, name="alice", **changes):
    facts = {
        "folder": folder,
        "name": name,
        "class_word": "cat",
        "train": TrainConfig(**CHOSEN),
        "reference_samples": 0,
    }
    return Request(**{**facts, **changes})


def teach(store, folder, name="alice", watch=None, **changes):
    return learn(store, asked(folder, name, **changes), device="cpu", watch=watch)


def delta(store, name):
    return {place: each.values for place, each in weights.read_deltas(store.blob(store.concept(name)), shapes(store))}


def shapes(store):
    from conceptctl.store import base

    return {place: info.shape for place, (_, _, info) in base.tensors(store.layout, store.head().base).items()}


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def distance(first, second):
    """|difference| / |second|, over all places."""
    assert first.keys() == second.keys()
    squares = [(np.square(first[key] - second[key]).sum(), np.square(second[key]).sum()) for key in second]
    changed, whole = map(sum, zip(*squares, strict=True))
    return float((changed / whole) ** 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_one_generation_with_the_concept_and_where_it_came_from(store, folder, method):
    made = teach(store, folder, train=TrainConfig(method=method, steps=STEPS, batch_size=2), license="CC0", consent="A")
    head = store.head()
    assert (head.seq, head.action.verb, [each.name for each in head.concepts]) == (1, "learn", ["alice"])
    assert made.generation == head
    record = read_record(store.blob(store.concept("alice")))
    assert (record.method, record.class_word, record.photos, record.steps) == (method, "cat", 4, STEPS)
    assert (record.license, record.consent, record.base, record.after) == ("CC0", "A", head.base.sha256, 0)
    assert len(record.loss_curve) >= 1
    assert all(np.isfinite(record.loss_curve))
    assert list(store.layout.jobs.iterdir()) == []
    assert verify(store.layout, read_data=True).problems == ()


@PREDICTING_BOTH
def test_a_later_concept_is_trained_on_top_of_earlier_ones_folded_or_not(store, folder, tmp_path):
    teach(store, folder, "alice", train=TrainConfig(method="lora", steps=STEPS, batch_size=2, learning_rate=1.0))
    twin = Store(store.layout.root)
    other = synthetic.make_store(tmp_path / "other", _laid_out(store, tmp_path))
    teach(other, folder, "falls")
    teach(twin, folder, "falls")
    on_top = delta(store, "falls")
    assert not same(on_top, delta(other, "falls"))


def test_a_damaged_concept_stops_the_next_one_until_it_is_folded(store, folder):
    teach(store, folder, "alice")
    path = store.blob(store.concept("alice"))
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(StoreDamaged, match="alice"):
        teach(store, folder, "falls")
    path.write_bytes(whole)
    fold(store)
    path.write_bytes(whole[:-1] + b"?")
    teach(store, folder, "falls")
    assert [each.name for each in store.head().concepts] == ["alice", "falls"]


def _laid_out(store, tmp_path):
    from conceptctl.store import base

    with base.folder(store.layout, store.head()) as laid:
        return shutil.copytree(laid, tmp_path / "laid")


def test_folding_what_was_learned_first_changes_nothing_for_the_next(base_folder, folder, tmp_path):
    ends = []
    for folded in (False, True):
        made = synthetic.make_store(tmp_path / str(folded), base_folder)
        teach(made, folder, "alice")
        if folded:
            fold(made)
        teach(made, folder, "falls")
        ends.append(delta(made, "falls"))
    assert same(*ends)


def test_the_model_that_learned_it_and_the_one_that_is_loaded_are_the_same(store, folder):
    teach(store, folder)
    loaded = load(store, store.head(), "cpu")
    base = load(store, store.generation(0), "cpu")
    touched = key_value_shapes_of(base.pipeline)
    for name, weight in base.pipeline.unet.named_parameters():
        assert torch.equal(weight, loaded.pipeline.unet.get_parameter(name)) == (name not in touched), name


@pytest.mark.parametrize("method", ["lora", "stamina", "ewc", "lora-merge"])
def test_what_is_kept_as_factors_is_loaded_as_it_drew_after_learning(store, folder, monkeypatch, method):
    """To the bit, of a second concept: products, also under a mask, differences of them, and means."""
    put_in, drew = learn_model.put_in, {}

    def watched(made, *learned):
        put_in(made, *learned)
        drew.update({path: module.weight.clone() for path, module in made.backbone.targets().items()})

    monkeypatch.setattr(learn_model, "put_in", watched)
    for name in ("alice", "bob"):
        teach(store, folder, name, train=TrainConfig(method=method, steps=STEPS, batch_size=2, rank=2))
    assert [each.factored for each in store.head().concepts] == [True, True]
    parts = set(weights.delta_parts(read_header(store.blob(store.concept("bob")))).values())
    factors = frozenset({"up", "down", "mask"} if method == "stamina" else {"up", "down"})
    # A mask may let so few entries of a matrix pass that these are less than its factors.
    assert factors in parts <= {factors, frozenset({"mask", "values"})}
    for _ in ("not folded", "folded"):
        loaded = load(store, store.head(), "cpu")
        assert all(torch.equal(module.weight, drew[path]) for path, module in loaded.targets().items())
        fold(store)
    assert verify(store.layout, read_data=True).problems == ()


def key_value_shapes_of(pipeline):
    return {
        name
        for name, _ in pipeline.unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }


@PREDICTING_BOTH
def test_preservation_leaves_other_prompts_nearer_to_where_they_were(base_folder, folder, tmp_path):
    moved = []
    for weight in (0.0, 10.0):
        store = synthetic.make_store(tmp_path / str(weight), base_folder)
        teach(store, folder, "bob")
        before = load(store, store.head(), "cpu")
        # Slowly: at the others' rate a few steps overshoot what either loss asks for.
        train = TrainConfig("stamina-anchored", steps=40, batch_size=2, learning_rate=1e-3, rank=4)
        settings = {"preservation_weight": weight, "sparsity_weight": 0.0}
        teach(store, folder, train=train, settings=settings)
        after = load(store, store.head(), "cpu")
        hidden, _ = after.pipeline.encode_prompt("a photo of a V*bob", torch.device("cpu"), 1, False)
        with torch.no_grad():
            values = [
                torch.cat([projection(hidden).flatten() for projection in each.targets().values()])
                for each in (before, after)
            ]
        moved.append((values[0] - values[1]).norm().item())
    assert moved[1] < 0.5 * moved[0]


@PREDICTING_BOTH
def test_the_same_command_gives_the_same_concept(base_folder, folder, tmp_path):
    stores = [synthetic.make_store(tmp_path / name, base_folder) for name in "ab"]
    for each in stores:
        teach(each, folder)
    assert same(delta(stores[0], "alice"), delta(stores[1], "alice"))


@pytest.mark.parametrize("what", ["preview", "checkpointing"])
def test_what_else_a_training_does_changes_nothing(base_folder, folder, tmp_path, what):
    shown, stores = [], [synthetic.make_store(tmp_path / name, base_folder) for name in "ab"]
    teach(stores[0], folder)
    watch = Watch(sample=shown.append) if what == "preview" else None
    samples = {"sample_every": 2, "output": tmp_path / "out"} if what == "preview" else {}
    teach(stores[1], folder, watch=watch, gradient_checkpointing=what == "checkpointing", **samples)
    ours, theirs = (delta(each, "alice") for each in stores)
    # Checkpointing computes some of it twice, in another order.
    assert all(np.allclose(ours[place], theirs[place], atol=1e-5) for place in ours | theirs)
    assert bool(shown) == (watch is not None)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("stamina", {}), ("stamina-anchored", {"optimizer": "muon", "preservation_weight": 0.2, "accumulation": 2})],
    ids=["papers", "ours"],
)
def test_an_interrupted_run_goes_on_and_ends_the_same(base_folder, folder, tmp_path, method, settings):
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    for store in (whole, broken):
        teach(store, folder, "earlier")
    train = TrainConfig(method, steps=25, batch_size=2, rank=4)
    assert not teach(whole, folder, train=train, settings=settings).resumed

    def interrupt(report):
        if report.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(broken, folder, train=train, settings=settings, watch=Watch(report=interrupt))
    assert broken.head().seq == 1
    (job,) = jobs.found(broken.layout)
    assert job.load().step == 10
    seen = []
    made = teach(broken, folder, train=train, settings=settings, watch=Watch(report=lambda r: seen.append(r.step)))
    assert min(seen) > 10 and made.resumed
    assert same(delta(whole, "alice"), delta(broken, "alice"))
    records = [read_record(each.blob(each.concept("alice"))) for each in (whole, broken)]
    assert records[0].loss_curve == records[1].loss_curve
    assert list(broken.layout.jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "stage", "step", "left"),
    [
        ("ewc", "learning", 20, [("measuring importance", 2), ("measuring importance", 4)]),
        ("ewc", "measuring importance", 2, [("measuring importance", 4)]),
        ("dsc", "consolidating", 2, [("consolidating", 4)]),
    ],
)
def test_a_run_goes_on_in_the_phase_that_it_was_interrupted_in(
    base_folder, folder, tmp_path, monkeypatch, method, stage, step, left
):
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    for store in (whole, broken):
        teach(store, folder, "earlier", train=TrainConfig(**{**CHOSEN, "method": method}))
    train = TrainConfig(**{**CHOSEN, "method": method, "steps": 20})
    teach(whole, folder, train=train)
    monkeypatch.setattr("conceptctl.workflows.learn.training.Listener", partial(Listener, report_steps=2))

    def interrupt(report):
        if (stages[-1], report.step) == (stage, step):
            raise KeyboardInterrupt

    stages = []
    with pytest.raises(KeyboardInterrupt):
        teach(broken, folder, train=train, watch=Watch(stage=lambda what, _: stages.append(what), report=interrupt))
    (job,) = jobs.found(broken.layout)
    assert job.load().step == step + 20 * (stage != "learning")
    stages, seen = [], []

    def look(report):
        seen.append((stages[-1], report.step))

    teach(broken, folder, train=train, watch=Watch(stage=lambda what, _: stages.append(what), report=look))
    assert seen == left
    assert same(delta(whole, "alice"), delta(broken, "alice"))
    assert same(*(weights.read_state(each.blob(each.concept("alice"))) for each in (whole, broken)))


def test_a_signal_in_the_middle_of_a_step_costs_no_report(base_folder, folder, tmp_path, monkeypatch):
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    train = TrainConfig(steps=10, batch_size=2, rank=4)
    teach(whole, folder, train=train)
    plain = Run.update

    def terminated(self, losses):
        plain(self, losses)
        if self.step == 10:
            signal.raise_signal(signal.SIGINT)

    # A shell's background jobs, these tests among them, may be deaf to it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "update", terminated)
        teach(broken, folder, train=train)
    signal.signal(signal.SIGINT, before)
    teach(broken, folder, train=train)
    curves = [read_record(each.blob(each.concept("alice"))).loss_curve for each in (whole, broken)]
    assert curves[0] == curves[1] != ()


def test_other_pictures_are_another_run(store, folder, tmp_path):
    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, watch=Watch(report=interrupt), train=LONGER)
    other = write_pictures(tmp_path / "other", count=5)
    seen = []
    teach(store, other, train=LONGER, watch=Watch(report=lambda r: seen.append(r.step)))
    assert min(seen) == 10


def test_a_state_that_means_something_else_is_another_run(store, folder, monkeypatch):
    interrupted(store, folder)
    monkeypatch.setattr("conceptctl.learning.checkpoint.STATE_FORMAT", 1)
    seen, said = [], []
    train = LONGER
    teach(store, folder, train=train, watch=Watch(report=lambda r: seen.append(r.step), warn=said.append))
    assert min(seen) == 10
    assert sum("begins anew" in text for text in said) == 1


def test_nothing_is_said_of_beginning_anew_where_a_run_goes_on_or_something_else_is_asked_for(store, folder):
    interrupted(store, folder)
    said = []
    teach(store, folder, "bob", watch=Watch(warn=said.append))
    interrupted(store, folder, "carol")
    teach(store, folder, "carol", train=LONGER, watch=Watch(warn=said.append))
    assert not any("begins anew" in text for text in said)


def interrupted(store, folder, name="alice", train=LONGER, **changes):
    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, name, train=train, watch=Watch(report=interrupt), **changes)


def test_folding_meanwhile_does_not_begin_an_interrupted_run_again(store, folder):
    teach(store, folder, "bob")
    interrupted(store, folder)
    fold(store)
    seen = []
    teach(store, folder, train=LONGER, watch=Watch(report=lambda r: seen.append(r.step)))
    assert min(seen) > 10


def test_what_was_learned_outlives_a_signal_that_comes_while_reference_samples_are_drawn(store, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("conceptctl.workflows.learn.reference.draw_reference", interrupt)
        teach(store, folder)
    (job,) = jobs.found(store.layout)
    assert job.load().step == STEPS
    seen = []
    teach(store, folder, watch=Watch(report=lambda report: seen.append(report.step)))
    assert (seen, store.head().seq) == ([], 1)


def test_a_job_keeps_no_caption_and_none_outlives_its_concept(store, tmp_path):
    folder = write_pictures(tmp_path / "photos")
    (folder / "0.txt").write_text("{token} at her sister's wedding")
    interrupted(store, folder)
    files = [path for path in store.layout.root.rglob("*") if path.is_file()]
    assert not any(b"wedding" in path.read_bytes() for path in files)
    teach(store, folder)
    assert list(store.layout.jobs.iterdir()) == []


def _on_a_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def _on_a_cpu(*_):
    torch.empty(2**50)


@pytest.mark.parametrize("place", [(workflow, "dataset_of"), (Run, "gradients")], ids=["before", "in a step"])
@pytest.mark.parametrize("runs_out", [_on_a_gpu, _on_a_cpu])
def test_memory_that_runs_out_changes_nothing_and_what_would_help_is_said(
    store, folder, capsys, monkeypatch, place, runs_out
):
    command = ["learn", str(folder), "--token", "alice", "--steps", "2", "--store", str(store.layout.root), "--json"]
    before = committed(store)
    with monkeypatch.context() as patched:
        patched.setattr(*place, runs_out)
        assert run([*command, "--device", "cpu"]) == 9
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], "memory" in error["message"]) == ("DeviceFailed", True)
    assert committed(store) == before
    assert error["hint"].startswith("the same command with --low-vram")
    assert run([*command, "--device", "cpu", "--low-vram"]) == 0


def test_memory_that_runs_out_leaves_the_auxiliary_pictures_for_the_next_try(store, folder, monkeypatch):
    stages = []
    watch = Watch(stage=lambda what, total: stages.append(what))
    before = committed(store)
    with monkeypatch.context() as patched, pytest.raises(DeviceFailed):
        patched.setattr(Run, "gradients", _on_a_gpu)
        teach(store, folder, watch=watch)
    left = committed(store)
    assert left.items() > before.items()
    assert len(left) == len(before) + 1
    teach(store, folder, watch=watch)
    assert sum("drawing" in what for what in stages) == 1


def committed(store):
    """Every byte of what is history, and of what it names."""
    layout = store.layout
    files = [layout.index, *layout.generations.iterdir(), *layout.blobs.rglob("*")]
    return {path: path.read_bytes() for path in files if path.is_file()}


def test_a_last_step_that_spoils_the_weights_commits_nothing(store, folder):
    with pytest.raises(DeviceFailed, match=r"beyond 65504"):
        teach(store, folder, train=TrainConfig(steps=1, batch_size=2, learning_rate=1e30))
    with pytest.raises(DeviceFailed, match=r"nan|inf"):
        teach(store, folder, train=TrainConfig(steps=2, batch_size=2, learning_rate=1e30))
    assert store.head().seq == 0


def test_a_loss_that_is_no_number_ends_the_run_with_9_and_changes_nothing(store, folder, capsys):
    before = committed(store)
    command = ["learn", str(folder), "--token", "alice", "--steps", "25", "--batch-size", "2", "--device", "cpu"]
    command += ["--store", str(store.layout.root), "--json"]
    assert run([*command, "--learning-rate", "1e30"]) == 9
    error = json.loads(capsys.readouterr().out)["error"]
    assert "nan" in error["message"] or "inf" in error["message"]
    assert error["hint"].startswith("a smaller --learning-rate")
    assert committed(store) == before
    assert run(command) == 0


@pytest.mark.parametrize("again", ["the same command", "a smaller learning rate"])
def test_a_loss_that_is_no_number_leaves_the_last_good_slot(base_folder, folder, tmp_path, monkeypatch, again):
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    train = TrainConfig(steps=25, batch_size=2, rank=4)
    plain = Run._losses

    def spoiled(self, generator):
        losses = plain(self, generator)
        return {name: value * float("nan") for name, value in losses.items()} if self.step == 15 else losses

    with monkeypatch.context() as patched, pytest.raises(DeviceFailed, match="what was saved before stays"):
        patched.setattr("conceptctl.workflows.learn.training.Listener", partial(Listener, save_seconds=0))
        patched.setattr(Run, "_losses", spoiled)
        teach(broken, folder, train=train)
    (job,) = jobs.found(broken.layout)
    slot = job.load()
    assert slot.step == 15
    assert all(np.isfinite(np.frombuffer(tensor.data, "<f4")).all() for tensor in slot.tensors.values())

    if again == "a smaller learning rate":
        train = dataclasses.replace(train, learning_rate=1e-5)
    teach(whole, folder, train=train)
    seen = []
    teach(broken, folder, train=train, watch=Watch(report=lambda report: seen.append(report.step)))
    # Another learning rate is another run, from its beginning.
    assert seen == ([20, 25] if again == "the same command" else [10, 20, 25])
    assert same(delta(whole, "alice"), delta(broken, "alice"))
    assert list(broken.layout.jobs.iterdir()) == []


def test_auxiliary_pictures_are_drawn_once_and_kept(store, folder):
    stages = []
    watch = Watch(stage=lambda what, total: stages.append(what))
    teach(store, folder, "alice", watch=watch, auxiliary=3)
    teach(store, folder, "bob", watch=watch, auxiliary=3)
    assert sum("to learn beside" in what for what in stages) == 1
    assert [each.kind for each in store.head().attachments] == ["auxiliary latents"]
    teach(store, folder, "carol", watch=watch, auxiliary=4)
    assert sum("to learn beside" in what for what in stages) == 2
    teach(store, folder, "dave", watch=watch, auxiliary=0)
    assert len(store.head().attachments) == 2


def test_interrupted_drawing_of_auxiliary_pictures_goes_on(base_folder, folder, tmp_path, monkeypatch):
    whole, broken = (synthetic.make_store(tmp_path / name, base_folder) for name in ("whole", "broken"))
    teach(whole, folder, auxiliary=19)
    monkeypatch.setattr("conceptctl.workflows.learn.auxiliary.SAVE_SECONDS", 0.0)

    def interrupt(done):
        drawn.append(done)
        if sum(drawn) == 16:
            raise KeyboardInterrupt

    drawn = []
    with pytest.raises(KeyboardInterrupt):
        stages = []
        watch = Watch(stage=lambda what, total: (stages.append(what), drawn.clear()), advance=interrupt)
        teach(broken, folder, auxiliary=19, watch=watch)
    assert stages[-1] == "drawing cat pictures to learn beside"
    (job,) = jobs.found(broken.layout)
    assert job.load().step == 16 - 19
    drawn = []
    watch = Watch(stage=lambda what, total: drawn.append(what), advance=drawn.append)
    teach(broken, folder, auxiliary=19, watch=watch)
    begin = drawn.index("drawing cat pictures to learn beside")
    assert drawn[begin + 1 : begin + 3] == [16, 3]
    assert whole.head().attachments == broken.head().attachments
    assert same(delta(whole, "alice"), delta(broken, "alice"))


def test_auxiliary_pictures_are_found_after_an_interruption_of_the_training(store, folder):
    stages = []
    watch = Watch(stage=lambda what, total: stages.append(what), report=_stop)
    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, watch=watch)
    assert sum("drawing" in what for what in stages) == 1
    stages.clear()
    teach(store, folder, watch=dataclasses.replace(watch, report=lambda report: None))
    assert not any("drawing" in what for what in stages)


def _stop(report):
    raise KeyboardInterrupt


def test_damaged_auxiliary_pictures_are_drawn_again(store, folder):
    teach(store, folder, "alice", auxiliary=3)
    path = store.layout.blob(store.head().attachments[0].blob.sha256)
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    teach(store, folder, "bob", auxiliary=3)
    assert path.read_bytes() == whole
    assert len(store.head().attachments) == 1
    # Nor do those of another class stop anything when they are gone.
    path.unlink()
    teach(store, folder, "carol", class_word="dog", auxiliary=3)
    assert store.concept("carol")


def test_captions_are_what_pictures_are_learned_under(store, tmp_path):
    folder = write_pictures(tmp_path / "photos")
    (folder / "0.txt").write_text("{token} in the snow")
    planned = plan(store, asked(folder), device="cpu")
    assert planned.prompts == ("V*alice in the snow", "a photo of a V*alice")
    assert (
        "a photo of a V*alice cat" in plan(store, asked(folder, train=TrainConfig(method="lora")), device="cpu").prompts
    )
    teach(store, folder)


@pytest.fixture
def examples_of(store, tmp_path, monkeypatch):
    """What would be trained on, the pictures without a caption being described with the given phrases."""

    def look(folder, around, **changes):
        monkeypatch.setattr("conceptctl.workflows.learn.descriptions.surroundings", lambda *_: around)
        seen = []

        def stop(backbone, token_ids, method, task, trainable, examples, **_):
            seen.append(examples)
            raise KeyboardInterrupt

        monkeypatch.setattr("conceptctl.workflows.learn.training.train", stop)
        with pytest.raises(KeyboardInterrupt):
            teach(store, folder, **_described(tmp_path), **changes)
        return seen[0]

    return look


def test_pictures_without_a_caption_are_described(examples_of, tmp_path):
    folder = write_pictures(tmp_path / "photos")
    (folder / "0.txt").write_text("{token} in the snow")
    found = examples_of(folder, ["", "at night", "in a city"])
    plain = "a photo of a V*alice"
    own = list(found.prompts[: found.concept])
    assert own[:4] == ["V*alice in the snow"] * 4
    assert own[4:8] == [plain, plain, plain, "V*alice"]
    assert own[8:12] == [plain, f"{plain} at night", f"{plain} at night", "V*alice at night"]
    assert len(found.latents) == 16 + 3
    # Each picture with its own prompts.
    assert all(torch.equal(found.latents[4 * first], found.latents[4 * first + 3]) for first in range(4))
    assert not torch.equal(found.latents[0], found.latents[4])


def test_a_mirrored_picture_is_described_as_the_picture_is(examples_of, folder):
    found = examples_of(folder, ["on a beach", "", "at night", ""], flip=True)
    own = list(found.prompts[: found.concept])
    assert len(own) == 32
    assert own[:16] == own[16:]


def _described(tmp_path, seed=0):
    clip = write_tiny_clip(tmp_path / f"clip-{seed}", seed=seed)
    return {"settings": {"prompts": "described"}, "feature_extractor": str(clip)}


def test_without_a_clip_model_describing_fails_before_anything_is_drawn(store, folder, tmp_path, monkeypatch):
    def none(*_, **__):
        raise NotFound("no network")

    monkeypatch.setattr("conceptctl.workflows.extractor._from_hub", none)
    stages = []
    watch = Watch(stage=lambda what, total: stages.append(what))
    with pytest.raises(NotFound, match="no network"):
        teach(store, folder, settings={"prompts": "described"}, watch=watch)
    assert not [stage for stage in stages if stage.startswith("drawing")]
    assert store.head().seq == 0
    # Neither captions nor a concept of no class need one.
    teach(store, folder, settings={"prompts": "described"}, class_word="")
    captioned = write_pictures(tmp_path / "captioned")
    for index in range(4):
        (captioned / f"{index}.txt").write_text("{token} in the snow")
    teach(store, captioned, name="bob", settings={"prompts": "described"})


def test_that_no_features_will_be_kept_is_said_before_anything_is_drawn(store, folder, monkeypatch):
    tried = []

    def none(*_, **__):
        tried.append(True)
        raise NotFound("no network", hint="hf download")

    monkeypatch.setattr("conceptctl.workflows.extractor._from_hub", none)
    told = []
    expected = []
    watch = Watch(stage=lambda what, total: told.append(what), warn=told.append, expected=expected.append)
    teach(store, folder, reference_samples=2, watch=watch)
    assert "drawing reference samples" not in [stage.name for stage in expected[0].stages]
    (said,) = [index for index, what in enumerate(told) if "no features will be kept" in what]
    assert "hf download" in told[said]
    assert said < min(index for index, what in enumerate(told) if what.startswith(("drawing", "learning")))
    # Looking for it takes a while without a network: once is enough, and not at all where nothing is drawn.
    assert len(tried) == 1
    assert "feature_extractor" not in read_record(store.blob(store.concept("alice"))).settings
    teach(store, folder, name="bob")
    assert len(tried) == 1


def test_what_is_said_of_pictures_is_told(store, folder, tmp_path, monkeypatch):
    around = ["at night", "", "at night", ""]
    monkeypatch.setattr("conceptctl.workflows.learn.descriptions.surroundings", lambda *_: around)
    asked_for = asked(folder, **_described(tmp_path))
    assert any("described" in note for note in plan(store, asked_for, device="cpu").notes)
    made = learn(store, asked_for, device="cpu")
    assert "described by what is around: 2 at night, 2 as it is" in made.plan.notes
    assert "a photo of a V*alice at night" in made.plan.prompts
    without = dataclasses.replace(asked_for, name="bob", class_word="")
    assert any("--class" in note for note in plan(store, without, device="cpu").notes)


def test_another_clip_model_sees_other_things_and_begins_anew(store, folder, tmp_path):
    first, second = _described(tmp_path), _described(tmp_path, seed=1)
    _interrupt(store, folder, **first)
    (begun,) = store.layout.jobs.iterdir()
    _interrupt(store, folder, **second)
    assert {begun} < {*store.layout.jobs.iterdir()}
    # The same one goes on, which here was at the end.
    teach(store, folder, watch=Watch(report=lambda report: pytest.fail("it began anew")), **first)


def _interrupt(store, folder, **changes):
    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, watch=Watch(report=stop), **changes)


@pytest.mark.parametrize("setting", ["prompts", "timestep_sampling", "scheduler", "optimizer"])
def test_a_choice_that_there_is_not_is_refused(store, folder, setting):
    with pytest.raises(UsageError, match=f"there is no {setting}='other'"):
        plan(store, asked(folder, settings={setting: "other"}), device="cpu")


def test_a_caption_may_name_another_concept_that_is_there(store, folder, tmp_path):
    captioned = write_pictures(tmp_path / "both")
    (captioned / "0.txt").write_text("{token} next to V*bob")
    with pytest.raises(PicturesRefused, match=r"0.txt: no concept V\*bob"):
        plan(store, asked(captioned), device="cpu")
    teach(store, folder, name="bob")
    assert "V*alice next to V*bob" in plan(store, asked(captioned), device="cpu").prompts


def test_a_caption_whose_concept_is_cut_off_is_refused(store, folder, tmp_path):
    captioned = write_pictures(tmp_path / "long")
    (captioned / "0.txt").write_text("a photo of a cat " * 40 + "and {token}")
    with pytest.raises(PicturesRefused, match=r"0\.txt: too long: \{token\} lies beyond the 30 tokens"):
        teach(store, captioned)
    assert store.head().seq == 0


@pytest.mark.parametrize("text", ["{token}:0.5 in snow", "{token} beside V*alice:0.8", "a {token}:nan"])
def test_a_caption_with_a_strength_is_refused(store, tmp_path, text):
    captioned = write_pictures(tmp_path / "strong")
    (captioned / "0.txt").write_text(text)
    with pytest.raises(PicturesRefused, match=r"0\.txt: .*strength"):
        plan(store, asked(captioned), device="cpu")


def test_without_a_class_word_nothing_is_learned_beside(store, folder):
    assert plan(store, asked(folder, class_word=""), device="cpu").auxiliary == 0
    teach(store, folder, class_word="")
    assert store.head().attachments == ()


def test_whole_numbers_are_numbers(store, folder):
    whole = {"mask_logit_mean": 3, "mask_logit_std": 2, "init_std": 1, "temperature": 1, "sparsity_warmup": 0}
    others = {"snr_gamma": 5, "mask_start": 0, "token_learning_rate": 0}
    teach(store, folder, settings={**whole, **others})
    assert read_record(store.blob(store.concept("alice"))).settings["mask_logit_mean"] == 3


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "Alice"}, UsageError),
        ({"name": ""}, UsageError),
        ({"train": TrainConfig(method="dreambooth")}, NotFound),
        ({"train": TrainConfig(steps=0)}, UsageError),
        ({"train": TrainConfig(learning_rate=float("nan"))}, UsageError),
        ({"settings": {"speed": 9}}, NotFound),
        ({"settings": {"mask": "checkers"}}, UsageError),
        ({"settings": {"mask": 3}}, UsageError),
        ({"settings": {"steps": 3.7}}, UsageError),
        ({"settings": {"rank": 2.5}}, UsageError),
        ({"settings": {"temperature": 0}}, UsageError),
        ({"settings": {"mask_start": -0.1}}, UsageError),
        ({"settings": {"token_learning_rate": -1}}, UsageError),
        ({"settings": {"mask_learning_rate": "fast"}}, UsageError),
        ({"settings": {"forgetting_weight": float("inf")}}, UsageError),
        ({"settings": {"optimizer": "sgd"}}, UsageError),
        ({"settings": {"scheduler": "sawtooth"}}, UsageError),
        ({"settings": {"accumulation": 0}}, UsageError),
        ({"mixed_precision": "fp16"}, UsageError),
        ({"resolution": 513}, UsageError),
        ({"class_word": "big\ncat"}, UsageError),
        ({"class_word": " "}, UsageError),
        ({"class_word": "v*bob"}, UsageError),
        ({"class_word": "\udcff"}, UsageError),
        ({"consent": "\udcff"}, UsageError),
        ({"auxiliary": -3}, UsageError),
        ({"auxiliary": 10**9}, UsageError),
        ({"settings": {"rank": 10**12}}, UsageError),
        ({"settings": {"steps": 10**400}}, UsageError),
        ({"settings": {"temperature": 1e-300}}, UsageError),
        ({"train": TrainConfig(method="")}, NotFound),
        ({"train": TrainConfig(method="cd-merged"), "settings": {"merge_ridge": 0}}, UsageError),
        ({"settings": {"init_std": 1e300}}, UsageError),
        ({"settings": {"mask_start": 1.5}}, UsageError),
        ({"settings": {"mask_start": 1}}, UsageError),
        ({"train": TrainConfig(seed=-1)}, UsageError),
        ({"train": TrainConfig(seed=2**63)}, UsageError),
        ({"feature_extractor": "/nowhere"}, NotFound),
        ({"folder": "nowhere"}, PicturesRefused),
    ],
)
def test_what_cannot_be_meant_changes_nothing(store, folder, tmp_path, changes, error):
    changes = {**changes, "folder": tmp_path / changes["folder"]} if "folder" in changes else changes
    for act in (plan, learn):
        with pytest.raises(error):
            act(store, dataclasses.replace(asked(folder), **changes), device="cpu")
    assert store.head().seq == 0
    assert list(store.layout.jobs.iterdir()) == []


@pytest.mark.parametrize("method", ["ewc", "vera-ewc", "dsc"])
def test_another_rank_than_the_adapters_is_refused_before_anything_is_loaded(store, folder, method, monkeypatch):
    teach(store, folder, train=TrainConfig(method=method, steps=2, batch_size=2, rank=2))
    monkeypatch.setattr("conceptctl.workflows.learn.model.load_model", lambda *_: pytest.fail("too late"))
    other = asked(folder, "bob", train=TrainConfig(method=method, steps=2, batch_size=2, rank=3))
    for act in (plan, learn):
        with pytest.raises(UsageError, match="has another rank"):
            act(store, other, device="cpu")
    assert not list(store.layout.jobs.iterdir())


def test_a_name_that_is_taken_is_refused(store, folder):
    teach(store, folder)
    for act in (plan, learn):
        with pytest.raises(AlreadyExists, match="alice"):
            act(store, asked(folder), device="cpu")


def test_a_second_learn_is_told_at_once_that_somebody_else_is_learning(store, folder, monkeypatch):
    # A method brings torch, which takes longer to import than anybody should wait for this.
    monkeypatch.setattr(workflow, "make_method", lambda request, preset: pytest.fail("too early"))
    with store.writing("learn"), pytest.raises(Busy):
        teach(Store(store.layout.root), folder)


def test_no_byte_run_of_a_picture_and_no_latent_of_it_is_in_the_store(store, tmp_path):
    rng = np.random.default_rng(0)
    from PIL import Image

    photos = tmp_path / "secret-holiday"
    photos.mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"secret-{index}.png")

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, photos, train=LONGER, watch=Watch(report=interrupt))
    _assert_nothing_of(photos, store)
    teach(store, photos, train=LONGER)
    _assert_nothing_of(photos, store)


def _assert_nothing_of(photos, store):
    from PIL import Image

    backbone = load(store, store.generation(0), "cpu")
    runs = [b"secret"]
    for path in photos.iterdir():
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
            latents = backbone.encode([picture.convert("RGB")]).numpy()
        for data in (path.read_bytes(), pixels.tobytes(), latents.tobytes(), latents.astype(np.float16).tobytes()):
            runs += [data[start : start + 64] for start in range(0, len(data) - 63, 64)]
    for file in store.layout.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(run in content for run in runs), file


def test_the_command(store, folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "12", "--batch-size", "2"]
    options += ["--lr-scheduler", "cosine", "--gradient-accumulation-steps", "2", "--mixed-precision", "no"]
    options += ["--set", "reference_samples=1"]
    assert run(["learn", str(folder), "--token", "alice", "--dry-run", "--json", *options[:-2]]) == 0
    planned = json.loads(capsys.readouterr().out)["plan"]
    assert (planned["pictures"], planned["method"], planned["config"]["steps"]) == (4, "stamina", 12)
    assert (planned["config"]["scheduler"], planned["config"]["accumulation"]) == ("cosine", 2)
    assert store.head().seq == 0
    assert run(["learn", str(folder), "--token", "alice", "--json", *options]) == 5
    assert "reference_samples" in json.loads(capsys.readouterr().out)["error"]["message"]
    made = ["learn", str(folder), "--token", "alice", "--class", "cat", "--aux", "2", "--preview", "--fold", "--json"]
    made += ["--sample-every", "5"]
    assert run([*made, *options[:-2]]) == 0
    answer = json.loads(capsys.readouterr().out)
    places = [f"conceptctl-out/alice/alice-step-{step}.png" for step in ("05", "10", "12")]
    assert answer["samples"] == places
    assert all(Path(path).is_file() for path in places)
    assert answer["generation"] == 2
    assert answer["concept"] == {"name": "alice", "token": "V*alice", "folded": True}
    assert store.concept("alice").folded
    assert run([*made, *options[:-2]]) == 5


def test_settings_may_have_the_names_of_earlier_versions(store, folder):
    former = {"open_by": 3.0, "spread": 2.0, "start": 0.5}
    config = plan(store, asked(folder, settings=former), device="cpu").config
    assert (config["mask_logit_mean"], config["mask_logit_std"], config["init_std"]) == (3.0, 2.0, 0.5)
    assert former.keys().isdisjoint(config)


@pytest.fixture(params=["pocket", "sd"])
def any_base(request, base_folder, tmp_path):
    """A store on the bundled base, which has a preset of its own, and one on another."""
    if request.param == "pocket":
        return initialize(tmp_path / "store", "pocket").store
    return synthetic.make_store(tmp_path / "store", base_folder)


def test_the_papers_preset_is_the_papers_values_on_any_base(any_base, tmp_path):
    pictures = write_pictures(tmp_path / "large", side=64)
    papers = dataclasses.asdict(find_method("stamina").configuration())
    own = plan(any_base, asked(pictures, train=TrainConfig()), device="cpu")
    found = plan(any_base, asked(pictures, train=TrainConfig(), preset="paper"), device="cpu")
    assert found.config == papers
    assert (found.preset, found.differs, found.auxiliary) == ("paper", {}, 200)
    if any_base.head().base.name == "pocket":
        assert own.config != papers
    # What the user says has the last word.
    asked_for = asked(pictures, preset="paper", auxiliary=5, settings={"temperature": 0.25})
    found = plan(any_base, asked_for, device="cpu")
    assert found.config == {**papers, **CHOSEN, "temperature": 0.25}
    assert found.differs == {**CHOSEN, "temperature": 0.25}
    assert found.auxiliary == 5


def test_a_preset_that_a_plan_was_written_to_gives_the_same_settings(any_base, tmp_path, capsys):
    pictures = str(write_pictures(tmp_path / "large", side=64))
    command = ["learn", pictures, "--token", "alice", "--class", "cat", "--device", "cpu", "--dry-run", "--json"]
    command += ["--store", str(any_base.layout.root)]
    assert run([*command, "--steps", "7", "--rank", "3", "--aux", "5", "--set", "temperature=0.25"]) == 0
    text = capsys.readouterr().out
    planned = json.loads(text)["plan"]
    assert planned["differs"].items() >= {"steps": 7, "rank": 3, "temperature": 0.25}.items()
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    whole.write_text(text)
    part.write_text(json.dumps(planned["preset"]))
    for path in (whole, part):
        assert run([*command, "--preset", str(path)]) == 0
        again = json.loads(capsys.readouterr().out)["plan"]
        assert again["config"] == planned["config"]
        assert (again["auxiliary"], again["reference_samples"]) == (5, planned["reference_samples"])
        assert (again["preset"]["name"], again["differs"]) == (path.stem, {})
        assert again["preset"] == {**planned["preset"], "name": path.stem}


def test_a_preset_of_another_method_than_the_one_that_learns_is_refused(store, folder, tmp_path):
    """Its settings would be left out without a word."""
    learns = presets.preset_of(store.head().base).learn.method
    path = tmp_path / "mine.toml"
    path.write_text("[methods.c-lora]\nrank = 3\n")
    with pytest.raises(UsageError, match=f"settings of c-lora, and {learns} learns") as caught:
        plan(store, asked(folder, train=TrainConfig(), preset=str(path)), device="cpu")
    assert "--method c-lora" in caught.value.hint
    found = plan(store, asked(folder, train=TrainConfig(method="c-lora"), preset=str(path)), device="cpu")
    assert found.config["rank"] == 3
    path.write_text("[methods.all]\nrank = 3\n")
    assert plan(store, asked(folder, train=TrainConfig(), preset=str(path)), device="cpu").config["rank"] == 3


def test_a_setting_of_other_methods_is_refused_with_their_names(store, folder):
    with pytest.raises(NotFound, match="'preservation_weight'") as caught:
        plan(
            store, asked(folder, train=TrainConfig(method="stamina"), settings={"preservation_weight": 1}), device="cpu"
        )
    assert caught.value.hint.endswith("; methods that have it: stamina-anchored, lora-anchored")


@pytest.mark.parametrize(
    "text", ["[learn]\nauxiliary = -3", "[methods.stamina]\nsteps = -3", "[methods.all]\nrank = 2.5"]
)
def test_a_number_of_a_preset_that_cannot_be_meant_changes_nothing(store, folder, tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    for act in (plan, learn):
        with pytest.raises(UsageError):
            act(store, asked(folder, train=TrainConfig(), preset=str(file)), device="cpu")
    assert store.head().seq == 0
    assert list(store.layout.jobs.iterdir()) == []


def test_the_name_of_a_file_is_in_no_record(store, folder, tmp_path):
    file = tmp_path / "zyxsecret.toml"
    file.write_text("[methods.stamina]\ntemperature = 0.25\n")
    teach(store, folder, "alice", preset=str(file))
    teach(store, folder, "bob", preset="paper")
    teach(store, folder, "carol")
    records = [read_record(store.blob(each)) for each in store.head().concepts]
    assert [each.settings["preset"] for each in records] == ["file", "paper", "sd"]
    assert records[0].settings["temperature"] == 0.25
    assert not holding(store, b"zyxsecret")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("where", ["in a store", "in the first one"])
def test_a_preset_that_there_is_not_is_refused_before_pictures_are_looked_at(
    store, tmp_path, capsys, monkeypatch, where, more
):
    monkeypatch.setattr("conceptctl.store.layout.default_root", lambda: tmp_path / "data")
    monkeypatch.delenv("CONCEPTCTL_STORE", raising=False)
    named = ["--store", str(store.layout.root)] if where == "in a store" else []
    command = ["learn", str(tmp_path / "nowhere"), "--token", "alice", "--json", *named, *more]
    assert run([*command, "--preset", "none-such"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["kind"], "none-such" in error["message"]) == ("NotFound", True)
    assert "paper" in error["hint"]
    assert run(command) == 3
    assert store.head().seq == 0
    assert list(store.layout.jobs.iterdir()) == []
    assert not (tmp_path / "data").exists()


EWC = TrainConfig(method="ewc", **CHOSEN)


def contained(store, name):
    return read_record(store.blob(store.concept(name))).contains


def answer(capsys, store, *arguments, code=0):
    capsys.readouterr()
    assert run([*map(str, arguments), "--json", "--store", str(store.layout.root)]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def learned_chain(base_folder, folder, tmp_path_factory):
    store = synthetic.make_store(tmp_path_factory.mktemp("chain") / "store", base_folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(presets, "shipped", SMALL)
        for name, train in (("alice", EWC), ("bob", TrainConfig(**CHOSEN)), ("falls", EWC)):
            # In which precision is a test's to say, and no test is running yet.
            teach(store, folder, name, train=train, mixed_precision="no")
    return store


@pytest.fixture
def chain(learned_chain, tmp_path):
    """A store with three concepts, of which the last goes on from the first, and the other from none."""
    store = Store(shutil.copytree(learned_chain.layout.root, tmp_path / "chain"))
    assert contained(store, "alice") == contained(store, "bob") == ()
    assert contained(store, "falls") == (store.concept("alice").uid,)
    return store


def test_a_damaged_concept_stops_what_would_go_on_from_it_folded_or_not(store, folder):
    teach(store, folder, "alice", train=EWC)
    fold(store)
    path = store.blob(store.concept("alice"))
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(StoreDamaged, match="alice"):
        teach(store, folder, "falls", train=EWC)
    teach(store, folder, "bob")
    assert [each.name for each in store.head().concepts] == ["alice", "bob"]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("purge", [[], ["--purge"]], ids=["forget", "purge"])
def test_of_concepts_in_one_adapter_the_last_is_forgotten_first(chain, folder, capsys, purge, folded):
    if folded:
        fold(chain)
    before, learned, first = committed(chain), delta(chain, "falls"), chain.concept("alice")
    error = answer(capsys, chain, "forget", "alice", "--yes", *purge, code=2)["error"]
    assert "falls" in error["message"]
    assert "bob" not in error["message"]
    assert error["hint"].endswith("conceptctl forget falls")
    assert committed(chain) == before

    kept = answer(capsys, chain, "forget", "falls", "--yes", *purge)["kept"]
    assert set(kept) == {"alice", "bob"}
    assert max(kept.values()) < 0.1
    assert [(each.name, each.consolidated) for each in chain.head().concepts] == [("alice", True), ("bob", True)]
    assert verify(chain.layout, read_data=True).problems == ()
    teach(chain, folder, "falls", train=EWC)
    assert contained(chain, "falls") == (first.uid,)
    # On weights that are nearly those of before, and not the same bits.
    assert 0 < distance(delta(chain, "falls"), learned) < 0.3
    teach(chain, folder, "carol", train=EWC)
    assert contained(chain, "carol") == (first.uid, chain.concept("falls").uid)
    error = answer(capsys, chain, "forget", "alice", "--yes", *purge, code=2)["error"]
    assert "falls, carol" in error["message"]
    assert error["hint"].endswith("conceptctl forget carol")
    # What goes on from nothing, and what nothing goes on from, goes as ever.
    answer(capsys, chain, "forget", "bob", "--yes", *purge)
    assert [each.name for each in chain.head().concepts] == ["alice", "falls", "carol"]


def test_a_purge_takes_what_a_method_kept_for_its_next_concept(chain, folder):
    fold(chain)
    first, last = chain.concept("alice"), chain.concept("falls")
    kept = weights.read_state(chain.blob(last))
    assert {name.partition("/")[0] for name in kept} == {"up", "down", "fisher_up", "fisher_down"}
    parts = [array.tobytes()[place] for array in kept.values() for place in (slice(64), slice(-64, None))]
    needles = [*parts, b"falls", last.uid.encode(), last.blob.sha256.encode()]
    # Also in what was begun on top of it.
    interrupted(chain, folder, "carol", train=dataclasses.replace(EWC, steps=25))
    for place in (chain.layout.trash, chain.layout.damaged):
        (place / "copy").write_bytes(chain.blob(last).read_bytes())
    assert all(holding(chain, needle) for needle in needles)

    planned = plan_forget(chain, "falls", purge_it=True)
    assert planned.interrupted == 1
    forget(chain, planned)
    assert [needle for needle in needles if holding(chain, needle)] == []
    assert weights.read_state(chain.blob(first)).keys() == kept.keys()
    assert verify(chain.layout, read_data=True).problems == ()


def holding(store, needle):
    """The files of a store that some bytes stand in."""
    return [path for path in store.layout.root.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_what_was_forgotten_and_went_on_from_a_concept_is_purged_with_it(store, folder, capsys):
    teach(store, folder, "alice", train=EWC)
    teach(store, folder, "falls", train=EWC)
    last = store.concept("falls")
    answer(capsys, store, "forget", "falls", "--yes")
    assert holding(store, b"falls")
    assert holding(store, last.uid.encode())
    answer(capsys, store, "forget", "alice", "--purge", "--yes")
    assert store.head().concepts == ()
    assert not holding(store, last.uid.encode())
    assert not store.layout.blob(last.blob.sha256).exists()
    assert verify(store.layout, read_data=True).problems == ()


def test_what_goes_on_from_others_is_exported_as_it_was_learned_with_them_or_not_at_all(chain, tmp_path, capsys):
    command = ["export", "--raw", "--to", "diffusers", "--output", tmp_path / "folder"]
    for names in (["falls"], ["bob", "falls"]):
        error = answer(capsys, chain, *command, *names, code=2)["error"]
        assert "falls" in error["message"]
        assert "without --raw" in error["hint"]
        assert list(tmp_path.glob("*folder*")) == []
    assert answer(capsys, chain, *command, "alice", "falls")["concepts"] == ["alice", "falls"]
    for names in (["alice"], ["bob"], []):
        output = tmp_path / "-".join(["only", *names])
        made = answer(capsys, chain, *command[:-1], output, *names)
        assert made["concepts"] == (names or ["alice", "bob", "falls"])
        assert made["changed"] == {}


@pytest.mark.parametrize("names", [["falls"], ["bob", "falls"], ["alice", "falls"], ["alice"]])
def test_what_goes_on_from_others_is_whole_without_them(chain, tmp_path, capsys, names):
    made = answer(capsys, chain, "export", "--to", "diffusers", "--output", tmp_path / "folder", *names)
    assert (made["concepts"], set(made["changed"])) == (names, set(names))
    assert max(made["changed"].values()) < 0.1


def test_what_goes_on_from_others_is_whole_in_another_store(base_folder, chain, tmp_path, capsys):
    (made,) = answer(capsys, chain, "export", "falls", "--output", tmp_path / "falls.safetensors")["files"]
    assert (made["whole"], made["stands_on"]) == (True, [])
    assert made["changed"] < 0.1
    record = read_record(tmp_path / "falls.safetensors")
    assert (record.contains, record.stands_on) == ((), ())
    other = synthetic.make_store(tmp_path / "other", base_folder)
    found = answer(capsys, other, "import", tmp_path / "falls.safetensors")
    assert (found["missing"], found["lacking"]) == ([], None)
    # What a method keeps for its next concept belongs to the delta as it was learned.
    assert weights.read_state(chain.blob(chain.concept("falls"))) != {}
    assert weights.read_state(other.blob(other.concept("falls"))) == {}


def test_what_goes_on_from_others_is_imported_after_them(base_folder, chain, tmp_path, capsys):
    answer(capsys, chain, "export", "--raw", "--output", tmp_path / "files")
    files = {name: tmp_path / "files" / f"{name}.safetensors" for name in ("alice", "falls")}
    other = synthetic.make_store(tmp_path / "other", base_folder)
    before = committed(other)
    error = answer(capsys, other, "import", files["falls"], code=8)["error"]
    assert "1 of them is not in this store" in error["message"]
    assert "without --raw" in error["hint"]
    assert committed(other) == before
    assert answer(capsys, other, "import", files["alice"])["lacking"] is None
    found = answer(capsys, other, "import", files["falls"], "--as", "niagara")
    # It was learned on top of all that was there, though it goes on from one of them only.
    assert found["missing"] == [chain.concept("bob").uid]
    assert set(found["kept"]) == {"alice"}
    # It was solved for, so that alice stays as she is, and nothing goes on from it.
    assert contained(other, "niagara") == ()
    answer(capsys, other, "forget", "niagara", "--yes")
    found = answer(capsys, other, "import", files["falls"], "--raw")
    assert (found["lacking"], found["bare"]) == (None, True)
    assert contained(other, "falls") == contained(chain, "falls")
    answer(capsys, other, "forget", "alice", "--yes", code=2)


def test_what_was_learned_and_could_not_be_folded_is_said(store, folder, capsys, monkeypatch):
    def busy(*args, **kwargs):
        raise Busy("somebody folds")

    monkeypatch.setattr("conceptctl.workflows.fold.fold", busy)
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "1", "--batch-size", "1"]
    assert run(["learn", str(folder), "--token", "alice", "--fold", "--json", *options]) == 6
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "learned V*alice, but not folded: somebody folds"
    assert error["hint"] == "conceptctl fold"
    assert store.concept("alice")


def test_a_place_where_no_sample_can_be_written_is_refused(store, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conceptctl-out").write_text("a file where the folder would be")
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "1", "--batch-size", "1"]
    assert run(["learn", str(folder), "--token", "alice", "--preview", *options]) == 2
    said = capsys.readouterr().err
    assert "cannot write into conceptctl-out/alice" in said and "hint:" in said
    assert store.head().seq == 0


def test_notices_stand_in_the_answer(store, folder, capsys):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "1", "--batch-size", "1"]
    assert run(["learn", str(folder), "--token", "alice", "--aux", "3", "--json", *options]) == 0
    said = capsys.readouterr()
    warnings = json.loads(said.out)["warnings"]
    assert "hours on a CPU" in "".join(warnings)
    assert "no class word" in "".join(warnings)
    warnings = [text.replace("V*alice", "V*bob") for text in warnings]
    assert run(["learn", str(folder), "--token", "bob", "--aux", "3", *options]) == 0
    said = capsys.readouterr().err
    assert all(f"warning: {text}" in said for text in warnings)


def test_photographs_on_the_bundled_base_are_warned_of(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        grain = rng.normal(0, 6, (320, 320, 3)) + 40 * index + np.linspace(0, 120, 320)[:, None]
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / f"{index}.png")
    initialize(tmp_path / "store", "pocket")
    said = []
    plan(Store(tmp_path / "store"), asked(tmp_path / "photos"), watch=Watch(warn=said.append))
    assert "likeness is not to be expected" in "".join(said)


def test_a_signal_keeps_the_state_and_the_same_command_goes_on(store, folder, capsys, monkeypatch):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--batch-size", "2", "--steps", "30"]
    command = ["learn", str(folder), "--token", "alice", *options]
    plain = Display.report

    def terminate(self, report):
        os.kill(os.getpid(), signal.SIGTERM)
        plain(self, report)

    monkeypatch.setattr(Display, "report", terminate)
    assert run(command) == 143
    assert "same command" in capsys.readouterr().err
    (job,) = jobs.found(store.layout)
    assert job.load().step == 10
    monkeypatch.setattr(Display, "report", plain)
    assert run(command) == 0
    assert store.head().seq == 1


@pytest.mark.parametrize("fast", [False, True])
def test_a_cpu_learns_in_bf16_where_that_is_fast_and_never_otherwise(base_folder, folder, tmp_path, monkeypatch, fast):
    monkeypatch.setattr("conceptctl.diffusion.models.has_fast_bf16", lambda device: fast)
    stores = {name: synthetic.make_store(tmp_path / name, base_folder) for name in ("default", "in full", "bf16")}
    teach(stores["default"], folder)
    teach(stores["in full"], folder, mixed_precision="no")
    if fast:
        teach(stores["bf16"], folder, mixed_precision="bf16")
    else:
        with pytest.raises(UsageError, match="bf16"):
            teach(stores["bf16"], folder, mixed_precision="bf16")
        assert stores["bf16"].head().seq == 0
    assert plan(stores["bf16"], asked(folder, "bob"), device="cpu").precision == ("bf16" if fast else "no")
    learned = {name: delta(store, "alice") for name, store in stores.items() if store.head().concepts}
    assert same(learned["default"], learned["bf16" if fast else "in full"])
    assert same(learned["default"], learned["in full"]) == (not fast)
    record = read_record(stores["default"].blob(stores["default"].concept("alice")))
    assert record.settings["precision"] == ("bf16" if fast else "no")


def test_the_first_learn_makes_a_store_on_the_default_path_and_a_refused_one_does_not(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    monkeypatch.setattr("conceptctl.store.layout.default_root", lambda: root)
    monkeypatch.delenv("CONCEPTCTL_STORE", raising=False)
    assert run(["learn", str(tmp_path / "nowhere"), "--token", "alice"]) == 3
    assert not root.exists()
    assert run(["learn", str(tmp_path), "--token", "alice", "--dry-run"]) == 3
    assert run(["learn", str(tmp_path), "--token", "Alice"]) == 2
    pictures = str(write_pictures(tmp_path / "right", side=64))
    capsys.readouterr()
    assert run(["learn", pictures, "--token", "alice", "--dry-run"]) == 0
    assert f"one would be made at {root}" in capsys.readouterr().err
    assert run(["learn", pictures, "--token", "alice", "--resolution", "512"]) == 2
    assert run(["learn", pictures, "--token", "alice", "--mixed-precision", "fp8", "--device", "cpu"]) == 2
    assert not root.exists()
    named = ["--store", str(tmp_path / "elsewhere")]
    assert run(["learn", str(write_pictures(tmp_path / "p", side=64)), "--token", "alice", *named]) == 5
    assert not (tmp_path / "elsewhere").exists()


def test_the_first_learn_makes_a_store_on_the_bundled_base_and_learns_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CONCEPTCTL_STORE", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    # Drawing reference samples takes most of the time of so short a training.
    monkeypatch.setattr(presets, "shipped", shipped_but("pocket", steps=2, reference_samples=1))
    root = default_root()
    assert root.is_relative_to(tmp_path)
    pictures = str(write_pictures(tmp_path / "pictures", side=64))
    options = ["--steps", "1", "--batch-size", "1", "--aux", "0", "--device", "cpu"]
    assert run(["learn", pictures, "--token", "alice", "--class", "person", *options]) == 0
    said = capsys.readouterr()
    assert f"made a store at {root} on the bundled base" in said.err
    assert "learned V*alice" in said.out
    made = Store(root)
    assert made.head().base.name == "pocket"
    assert [row.verb for row in made.log()] == ["init", "learn"]
    assert run(["list", "--quiet"]) == 0
    assert capsys.readouterr().out == "alice\n"


PROGRESS = r"loss (\S+?){0}density (\d+) %{0}denoising (\S+?){0}sparsity (\S+)"


def shown_while_learning(store, folder, capsys):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "30", "--batch-size", "2"]
    assert run(["learn", str(folder), "--token", "alice", "--set", "mask_logit_mean=0", *options]) == 0
    return capsys.readouterr().err


def assert_is_a_loss_with_its_parts(loss, density, denoising, sparsity):
    assert float(loss) == pytest.approx(float(denoising) + float(sparsity), abs=2e-4)
    assert float(denoising) > 0
    assert 0 < int(density) < 100


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_few_plain_lines_where_there_is_no_terminal_or_no_colour_is_wanted(
    store, folder, capsys, monkeypatch, terminal
):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("NO_COLOR", "1")
    shown = shown_while_learning(store, folder, capsys)
    assert "\x1b" not in shown
    lines = shown.splitlines()
    begin = lines.index("learning: 30 to do")
    (last,) = [line for line in lines[begin:] if line.startswith("learning: 30 of 30")]
    found = re.fullmatch(rf"learning: 30 of 30, \d:\d\d elapsed, 0:00 left.*?, {PROGRESS.format(', ')}", last)
    assert_is_a_loss_with_its_parts(*found.groups())


@pytest.mark.parametrize("columns", [160, 80, 60])
def test_progress_is_one_line_on_a_terminal(store, folder, capsys, monkeypatch, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = Display.report

    def report(self, report):
        plain(self, report)
        # A tiny model learns faster than a line is drawn.
        self.shown.refresh()

    monkeypatch.setattr(Display, "report", report)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown_while_learning(store, folder, capsys))
    lines = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("learning")]
    assert max(map(len, lines)) < columns
    if columns < 160:
        # There is no room for the loss's parts.
        assert re.search(r"learning\S* .*100 %  (\d:\d\d elapsed, )?0:00 left.*  loss \d\.\d{4}$", lines[-1])
        return
    times = r"\d:\d\d elapsed, \d:\d\d left(?: in stage)?"
    bars = [re.fullmatch(rf"learning (\d+)/30 \S+ \d+ %  {times}  {PROGRESS.format('  ')}\s*", line) for line in lines]
    assert "in stage" not in lines[-1]
    found = [bar.groups() for bar in bars if bar]
    assert {each[0] for each in found} >= {"10", "20", "30"}
    for each in found:
        assert_is_a_loss_with_its_parts(*each[1:])
