"""Pictures of several shapes, learned together: on bases that take other sizes than their square."""

import dataclasses
import json
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl import families, presets
from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.diffusion import networks
from conceptctl.errors import UsageError
from conceptctl.learning import step as learning
from conceptctl.learning.backbone import Crop
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import Listener, _prepared
from conceptctl.learning.method import Phase, Trainable
from conceptctl.learning.processes import make_accelerator, part_of
from conceptctl.learning.schedule import Schedule
from conceptctl.parts.tokens import TokenEmbedding
from conceptctl.store import jobs, tensorfile, weights
from conceptctl.store.concept import read_record
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn
from tests.small_presets import shipped_but
from tests.tiny_pipeline import write_tiny_flux, write_tiny_pipeline, write_tiny_sd3, write_tiny_sdxl

SIDE = 256
SHAPES = {"standing": (300, 400), "lying": (640, 360), "square": (260, 260), "standing-too": (450, 600)}
BUCKETS = {"224x288": 2, "288x160": 1, "256x256": 1}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny base of each family; the first two draw 256 x 256 pixels."""
    root = tmp_path_factory.mktemp("bases")
    return {
        "sd": write_tiny_pipeline(root / "sd", side=SIDE, levels=4),
        "sdxl": write_tiny_sdxl(root / "sdxl", side=SIDE, levels=4),
        "sd3": write_tiny_sd3(root / "sd3"),
        "flux": write_tiny_flux(root / "flux"),
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, (wide, high) in SHAPES.items():
        small = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((wide, high), Image.Resampling.BICUBIC).save(place / f"{name}.png")
    (place / "lying.txt").write_text("{token} in the snow")
    return place


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    small = shipped_but("sd", steps=1, smallest_side=SIDE, auxiliary=2, reference_samples=0)()
    sdxl = shipped_but("sdxl", steps=1, smallest_side=SIDE, auxiliary=2, reference_samples=0)()["sdxl"]
    monkeypatch.setattr(presets, "shipped", lambda: {**small, "sdxl": sdxl})


@pytest.fixture
def store(folders, tmp_path):
    return initialize(tmp_path / "store", str(folders["sd"])).store


def asked(photos, name="alice", method="stamina", steps=4, **changes):
    train = TrainConfig(method=method, steps=steps, batch_size=3, rank=2, seed=1)
    facts = {"folder": photos, "name": name, "class_word": "cat", "train": train, "settings": {"auxiliary_batch": 1}}
    return Request(**{**facts, **changes})


def teach(store, photos, name="alice", watch=None, **changes):
    return learn(store, asked(photos, name, **changes), device="cpu", watch=watch)


@pytest.fixture
def examples_of(monkeypatch):
    """What would be trained on."""

    def look(store, photos, **changes):
        seen = []

        def stop(backbone, token_ids, method, task, trainable, examples, **_):
            seen.append(examples)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("conceptctl.workflows.learn.training.train", stop)
            teach(store, photos, **changes)
        return seen[0]

    return look


def test_each_picture_is_encoded_once_at_its_own_shape(store, photos, examples_of):
    stages, encoded = [], []
    watch = Watch(
        stage=lambda what, total: (
            (stages.append((what, total)), encoded.clear()) if "encoding" in what or "preparing" in what else None
        ),
        advance=encoded.append,
    )
    found = examples_of(store, photos, watch=watch, flip=True)
    assert stages[0] == ("encoding the pictures", 8) and found.concept == 8
    # By name: lying, square, standing, standing-too; those mirrored; and what the base drew.
    shapes = [tuple(each.shape[-2:]) for each in found.latents]
    own = [(20, 36), (32, 32), (36, 28), (36, 28)]
    assert shapes == [*own, *own, (32, 32), (32, 32)]
    assert list(found.prompts) == [
        *["V*alice in the snow", *["a photo of a V*alice"] * 3] * 2,
        *["a photo of a cat"] * 2,
    ]
    assert found.crops[0] == Crop((640, 360), (0, 1), (288, 160))
    assert found.crops[-1] == Crop((256, 256), (0, 0), (256, 256))


def test_pictures_of_one_shape_are_one_tensor(store, photos, tmp_path, examples_of):
    (tmp_path / "squares").mkdir()
    for name in ("standing", "standing-too"):
        Image.open(photos / f"{name}.png").crop((0, 0, 300, 300)).save(tmp_path / "squares" / f"{name}.png")
    assert examples_of(store, tmp_path / "squares").latents.shape == (4, 4, 32, 32)
    # Auxiliary ones are squares.
    assert examples_of(store, tmp_path / "squares", auxiliary=0).latents.shape == (2, 4, 32, 32)


@pytest.mark.parametrize(("family", "method"), [("sdxl", "stamina"), ("sd", "dsc")])
def test_what_is_learned_of_them_goes_on_to_the_bit(folders, photos, tmp_path, monkeypatch, family, method):
    """A method that asks for a loss, and one that compares predictions with a teacher's in a phase of its own."""
    whole, broken = (initialize(tmp_path / name, str(folders[family])).store for name in ("whole", "broken"))
    if method == "dsc":
        for store in (whole, broken):
            teach(store, photos, "bob", method=method, steps=2)
    how = {"method": method, "steps": 4}
    teach(whole, photos, **how)
    monkeypatch.setattr("conceptctl.workflows.learn.training.Listener", partial(Listener, report_steps=2))

    def interrupt(report):
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(broken, photos, watch=Watch(report=interrupt), **how)
    (job,) = jobs.found(broken.layout)
    assert job.load().step == 2
    teach(broken, photos, **how)
    first, second = (tensors(store) for store in (whole, broken))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    record = read_record(whole.blob(whole.concept("alice")))
    assert record.photos == 4 and np.isfinite(record.loss_curve).all()


def tensors(store, name="alice"):
    path = store.blob(store.concept(name), read=True)
    names = [key for key, info in tensorfile.read_header(path).tensors.items() if info.dtype == "F32"]
    return {key: weights.read_floats(path, key) for key in names}


@contextmanager
def a_run(backbone, examples, batch, auxiliary):
    """A training of a token alone, as far as batches ask for."""
    start = backbone.token_start("cat")
    token_id = backbone.add_token("alice", start)
    trainable = Trainable(None, TokenEmbedding(start), 1e-3)
    with _prepared(backbone, [token_id], trainable, examples, make_accelerator(CPU), None) as made:
        made.enter(Phase("learning", Schedule(4, batch, auxiliary), lambda step: {}, trainable.groups()), 0, 0)
        yield made


@pytest.fixture
def mixed():
    """Latents of three shapes; the last two are auxiliary ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 4, 6), (4, 6, 4), (4, 4, 4), (4, 6, 4), (4, 4, 4), (4, 4, 4)]
    latents = [torch.randn(shape, generator=generator) for shape in shapes]
    prompts = ["a photo of a V*alice", "V*alice in the snow", "a V*alice", "a photo of a V*alice", "a cat", "a cat"]
    crops = [Crop((100 + index, 200), (index, 0), (8, 8)) for index in range(6)]
    return Examples(latents, prompts, 4, crops)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_samples_loss_is_what_it_is_alone(folders, mixed, family):
    backbone = families.find_family(family).load(folders[family], CPU)
    with a_run(backbone, mixed, 4, 2) as run_:
        step = learning.BatchStep(run_, torch.Generator().manual_seed(3))
        assert step.count == len(step.chosen) == 6 and len(step.noised) == 3
        for prompt in (None, "a dog"):
            predicted = step.predict(prompt)
            found = step.errors(predicted)
            assert prompt or torch.equal(step.loss(), found)
            assert torch.equal(step.differences(predicted, predicted), torch.zeros(6))
            shifted = tuple(each + 0.5 for each in predicted)
            assert torch.allclose(step.differences(predicted, shifted), torch.full((6,), 0.25))
            place = 0
            for noised in step.noised:
                for index in range(len(noised.timesteps)):
                    alone = run_.objective.part_of(noised, slice(index, index + 1))
                    example = step.chosen[place : place + 1]
                    own = run_.conditions
                    condition = own.of_prompt(prompt, example) if prompt else own.of_examples(example)
                    wanted = run_.objective.loss(run_.objective.predict(alone, condition), alone)
                    assert torch.allclose(found[place], wanted[0], rtol=1e-4, atol=1e-6)
                    place += 1
            assert place == 6
        whole = step.mean(step.loss())
        # In parts that cut through shapes: their mean is that of the whole.
        means = [part.mean(part.loss()) for part in step.parts(4)]
        assert torch.allclose(sum(means) / 4, whole, rtol=1e-4)
        whole.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in run_.trainable.token.parameters())


def test_every_picture_is_drawn_as_often_whatever_its_shape(mixed):
    seen = [index for seed in range(400) for index in mixed.choose(2, 1, torch.Generator().manual_seed(seed)).tolist()]
    counts = np.bincount(seen, minlength=6)
    assert (abs(counts - 200) < 50).all()
    indices, latents = mixed.shown()
    assert indices.tolist() == [1, 3] and latents.shape == (2, 4, 6, 4)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_parts_of_processes_are_the_whole_batch(processes):
    """However shapes lie across them."""
    counts = [2, 3, 1]
    found = []
    for index in range(processes):
        part = part_of(SimpleNamespace(process_index=index, num_processes=processes), 6)
        own = learning._parts(part, counts)
        assert own
        found += [(group, place) for group, part in own for place in range(part.start, part.stop)]
    assert found == [(group, place) for group, count in enumerate(counts) for place in range(count)]


def test_sdxl_is_told_how_each_picture_was_made(folders, photos, tmp_path, monkeypatch):
    """Heights first: the whole picture's size, what was cut off above and on the left, and the size that is left."""
    store = initialize(tmp_path / "store", str(folders["sdxl"])).store
    told, plain = set(), networks.unet_arguments

    def look(states, sizes):
        told.update(tuple(map(int, row)) for row in sizes.tolist())
        return plain(states, sizes)

    monkeypatch.setattr(networks, "unet_arguments", look)
    teach(store, photos, steps=6, method="lora")
    assert told == {
        (400, 300, 5, 0, 288, 224),
        (600, 450, 5, 0, 288, 224),
        (360, 640, 1, 0, 160, 288),
        (260, 260, 0, 0, 256, 256),
        # What the base drew.
        (256, 256, 0, 0, 256, 256),
    }


def test_a_plan_says_at_which_sizes(store, photos, capsys):
    found = plan(store, asked(photos), device="cpu")
    assert (found.resolution, dict(found.sizes)) == (SIDE, BUCKETS)
    assert "resolution" not in found.differs
    command = ["learn", str(photos), "--token", "alice", "--class", "cat", "--dry-run", "--device", "cpu"]
    where = ["--store", str(store.layout.root)]
    assert run([*command, *where]) == 0
    assert "224 x 288 (2), 288 x 160 (1), 256 x 256 (1)" in capsys.readouterr().out
    assert run([*command, *where, "--resolution", "192", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["plan"]
    assert (said["resolution"], said["auxiliary_side"], said["differs"]["resolution"]) == (192, 192, 192)
    assert sum(said["sizes"].values()) == 4


@pytest.mark.parametrize("resolution", [0, 64, 200, 576, -256])
def test_a_resolution_that_the_base_does_not_take_is_refused_before_pictures_are_looked_at(
    store, tmp_path, capsys, resolution
):
    with pytest.raises(UsageError, match="256 or a multiple of 64 from 128 to 512, not"):
        plan(store, asked(tmp_path / "nowhere", resolution=resolution), device="cpu")
    where = ["--store", str(store.layout.root), "--device", "cpu"]
    assert run(["learn", str(tmp_path / "nowhere"), "--token", "alice", "--resolution", str(resolution), *where]) == 2
    assert "leave --resolution out" in capsys.readouterr().err
    assert store.head().seq == 0


def test_another_resolution_is_another_run_and_is_kept_with_the_concept(store, photos, monkeypatch):
    monkeypatch.setattr("conceptctl.workflows.learn.training.Listener", partial(Listener, report_steps=1))

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(store, photos, resolution=192, watch=Watch(report=interrupt))
    warned = []
    plan(store, asked(photos), device="cpu", watch=Watch(warn=warned.append))
    (said,) = [text for text in warned if "interrupted" in text]
    assert "resolution 192, now no" in said and "--resolution 192" in said
    assert plan(store, asked(photos, resolution=192), device="cpu").resumes == 1
    teach(store, photos, resolution=192)
    # The base's own is no other setting.
    teach(store, photos, "bob", resolution=SIDE)
    settings = {each: read_record(store.blob(store.concept(each))).settings for each in ("alice", "bob")}
    assert settings["alice"]["resolution"] == 192 and "resolution" in settings["alice"]["differs"]
    assert "resolution" not in settings["bob"]
    # What the base drew was made smaller for the one, and not for the other.
    shapes = {
        tensorfile.read_header(store.layout.blob(each.blob.sha256)).tensors["latents"].shape
        for each in store.head().attachments
    }
    assert shapes == {(2, 4, 24, 24), (2, 4, 32, 32)}


def test_a_smaller_resolution_takes_smaller_pictures(store, photos, tmp_path):
    (tmp_path / "small").mkdir()
    for name in SHAPES:
        Image.open(photos / f"{name}.png").resize((150, 200)).save(tmp_path / "small" / f"{name}.png")
    assert sum(plan(store, asked(tmp_path / "small", resolution=128), device="cpu").sizes.values()) == 4
    with pytest.raises(Exception, match="too small, the shorter side must have 192"):
        plan(store, dataclasses.replace(asked(tmp_path / "small"), resolution=192), device="cpu")
