"""Regions: where they are, what is painted over, and that a pipeline is as it was afterwards."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl.diffusion import models
from conceptctl.diffusion.composition.regions import Composition, Region, prompts_of
from conceptctl.errors import UsageError
from tests.diffusion.drawing import draw, draw_set
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")
SIZES = [(64, 64), (512, 512), (96, 64)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return models.load_pipeline(write_tiny_pipeline(tmp_path_factory.mktemp("base")), CPU)


def pixels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def noise(width, height):
    """A smooth picture, which survives being enlarged."""
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def even(column, colour, mode="RGB"):
    return Image.new(mode, (column.width, column.height), colour)


def white_on_black(column, mask="black"):
    """Where a white picture shows when it is put into a black one: (height, width), 0 to 1.

    With a white mask the concept is everywhere in it.
    """
    back = column.put_back(even(column, "black"), even(column, "white"), even(column, mask, "L"))
    return np.asarray(back)[:, :, 0] / 255


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_what_is_not_painted_over_stays(size, count):
    picture = noise(*size)
    for index in range(count):
        column = Region(index, count, *size)
        cut = column.cut_out(picture)
        assert cut.size == picture.size
        back = np.asarray(column.put_back(picture, cut, even(column, "white", "L"))).astype(int)
        change = np.abs(back - np.asarray(picture)).max(axis=2)
        shown = white_on_black(column, "white")
        assert (change[shown == 0] == 0).all()
        if count <= 3:
            assert change.max() <= 40
            assert change.mean() < 2
        assert shown.max() == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 10])
def test_a_column_is_where_it_belongs(size, count):
    width, height = size
    for index in range(count):
        shown = white_on_black(Region(index, count, *size))
        across = shown.max(axis=0)
        one = width / count
        middle = int((index + 0.5) * one)
        assert across[middle] == 1
        # A seam further on both sides.
        seam = width / 32 + 1
        assert (across[: max(0, int(index * one - seam))] == 0).all()
        if index < count - 1:
            assert (across[int((index + 1) * one + seam) :] == 0).all()
        assert shown[: height // 8].max() == 0
        assert shown[-1, middle] == 1
        # To the picture's edges, and never from nothing to all at once but where columns are hardly wider than pixels.
        assert index > 0 or (shown[-1, : middle + 1] == 1).all()
        assert index < count - 1 or (shown[-1, middle:] == 1).all()
        steepest = 1 / (min(1 / 16, 1 / (8 * count)) * width)
        assert np.abs(np.diff(shown[-1])).max() <= min(1, 1.1 * steepest + 1 / 255)


def test_the_picture_is_cut_out_at_one_scale_in_both_directions():
    for size in SIZES:
        for count in (1, 2, 4):
            _, _, width, height = Region(0, count, *size)._box()
            assert width / height == pytest.approx(size[0] / size[1], rel=0.05)


def test_beyond_the_edge_its_pixels_go_on():
    picture = Image.new("RGB", (64, 64), "red")
    picture.paste("blue", (32, 0, 64, 64))
    assert np.asarray(Region(0, 2, 64, 64).cut_out(picture))[:, 0].tolist() == [[255, 0, 0]] * 64
    assert np.asarray(Region(1, 2, 64, 64).cut_out(picture))[:, -1].tolist() == [[0, 0, 255]] * 64


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_beyond_its_column_only_the_concept_is_put_back(size, count):
    for index in range(count):
        column = Region(index, count, *size)
        alone, reaching = white_on_black(column), white_on_black(column, "white")
        assert (reaching >= alone).all()
        # Where there is a neighbour, and never as far as the neighbour's middle.
        beyond = np.flatnonzero(((alone == 0) & (reaching == 1)).any(axis=0))
        left, middle, right = ((index + share) * size[0] / count for share in (0, 0.5, 1))
        assert (beyond < left).any() == (index > 0)
        assert (beyond > right).any() == (index < count - 1)
        assert np.abs(beyond + 0.5 - middle).max() < size[0] / count
        half = np.zeros((size[1], size[0]), dtype=np.uint8)
        half[:, : size[0] // 2] = 255
        back = np.asarray(column.put_back(even(column, "black"), even(column, "white"), Image.fromarray(half)))[..., 0]
        inner = beyond[beyond > right + 1] if index == 0 else beyond[beyond < left - 1]
        assert (back[:, inner].max(axis=0) == (0 if index == 0 else 255)).all()


def test_what_is_held_is_the_headroom():
    mask = np.asarray(Region(0, 2, 64, 64).painted())
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[0] == 0).all()
    assert (mask[8:] == 255).all()


def test_columns_meet_in_a_seam():
    picture = Image.new("RGB", (64, 64), "black")
    for index, colour in ((1, "blue"), (0, "red")):
        column = Region(index, 2, 64, 64)
        picture = column.put_back(picture, even(column, colour), even(column, "black", "L"))
    row = np.asarray(picture)[40]
    assert row[29].tolist() == [255, 0, 0]
    assert row[34].tolist() == [0, 0, 255]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_every_column_is_painted_from_its_own_prompt(pipeline, guidance, columns):
    how = {"steps": 3, "guidance": guidance}
    said = ["a cat"] * columns
    (before,) = pixels(draw(pipeline, Composition("a cat", tuple(said)), [0], **how))
    for index in range(columns):
        other = [*said[:index], "a dog", *said[index + 1 :]]
        (after,) = pixels(draw(pipeline, Composition("a cat", tuple(other)), [0], **how))
        place = Region(index, columns, *before.shape[:2])
        shown = white_on_black(place, "white")
        changed = np.abs(after - before).max(axis=2) > 0
        assert changed[white_on_black(place) == 1].any()
        if index == columns - 1:
            # Painted last: nothing that it changes is seen by the others.
            assert not changed[shown == 0].any()


@pytest.mark.parametrize(
    "scheduler",
    ["PNDM", "DDIM", "EulerDiscrete", "EulerAncestralDiscrete", "LCM", "HeunDiscrete", "DPMSolverMultistep"],
)
@pytest.mark.parametrize("steps", [1, 2, 4, 11])
def test_columns_are_painted_whatever_the_scheduler(pipeline, scheduler, steps):
    if scheduler == "PNDM" and steps < 4:
        pytest.skip("it draws nothing in so few steps, with columns or without")
    kind = getattr(diffusers, f"{scheduler}Scheduler")
    other = diffusers.StableDiffusionPipeline(
        **{**pipeline.components, "scheduler": kind.from_config(pipeline.scheduler.config)},
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    (one,), (two,) = (
        pixels(draw(other, Composition("a cat", ("a cat", said)), [0], steps=steps, guidance=4.0))
        for said in ("a cat", "a dog")
    )
    shown = white_on_black(Region(1, 2, *one.shape[:2]), "white")
    changed = np.abs(one - two).max(axis=2) > 0
    assert changed[shown == 1].any()
    assert not changed[shown == 0].any()


@pytest.mark.parametrize("what", ["sample_size", "in_channels", "scheduler"])
def test_a_base_that_cannot_paint_over_is_refused(pipeline, what, monkeypatch):
    if what == "scheduler":
        monkeypatch.setattr(pipeline, "scheduler", diffusers.IPNDMScheduler())
    else:
        wrong = {"sample_size": [8, 12], "in_channels": 9}[what]
        monkeypatch.setattr(
            pipeline.unet,
            "_internal_dict",
            diffusers.configuration_utils.FrozenDict({**pipeline.unet.config, what: wrong}),
        )
    with pytest.raises(UsageError, match="several concepts") as error:
        list(draw(pipeline, Composition("a cat", ("a cat", "a dog")), [0], steps=1, guidance=1.0))
    assert error.value.hint == "--prompt-only"


def test_what_is_not_wanted_counts_in_columns_too(pipeline):
    composed = Composition("a cat", ("a dog", "a cat"))
    one, other = (
        pixels(draw(pipeline, composed, [0], steps=3, guidance=4.0, negative=negative)) for negative in ("", "a cat")
    )
    assert (one != other).any()


@pytest.mark.parametrize("steps", [1, 3])
def test_a_picture_does_not_depend_on_the_others_and_the_pipeline_is_as_it_was(pipeline, steps):
    composed = Composition("a cat", ("a dog", "a cat"))
    config, how = dict(pipeline.scheduler.config), {"steps": steps, "guidance": 4.0}
    plain = pixels(draw(pipeline, "a cat", [0], **how))
    together, alone = (pixels(draw(pipeline, composed, seeds, **how)) for seeds in ([0, 1], [1]))
    assert np.array_equal(together[1:], alone)
    assert (together[0] != together[1]).any()
    assert np.array_equal(pixels(draw(pipeline, "a cat", [0], **how)), plain)
    assert dict(pipeline.scheduler.config) == config
    few, many = (pixels(draw_set(pipeline, composed, count, **how)) for count in (2, 9))
    assert np.array_equal(few, many[:2])


def test_texts_of_a_prompt():
    assert prompts_of("a cat") == ("a cat",)
    assert prompts_of(Composition("a cat", ("a dog", "an owl"))) == ("a cat", "a dog", "an owl")
