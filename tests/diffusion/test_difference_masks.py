"""Difference masks: where the bundled base's own subjects are, and that none depends on the others."""

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl import pocket
from conceptctl.diffusion import models
from conceptctl.diffusion.composition.difference_masks import difference_masks
from conceptctl.diffusion.networks import unwanted
from tests.diffusion.drawing import draw_set
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")


def found(pipeline, pictures, prompt):
    wanted = pipeline.encode_prompt(prompt, CPU, 1, False)[0]
    empty = unwanted(pipeline, "", wanted)
    return [np.asarray(each) for each in difference_masks(pipeline, pictures, wanted, empty)]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_none_depends_on_the_others(tmp_path, prediction_type):
    pipeline = models.load_pipeline(write_tiny_pipeline(tmp_path, prediction_type=prediction_type), CPU)
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    all_of_them = found(pipeline, pictures, "a cat")
    (alone,) = found(pipeline, pictures[2:], "a cat")
    assert [(each.shape, each.dtype) for each in all_of_them] == [((16, 16), np.uint8)] * 3
    # In batches of other sizes the same numbers may be rounded otherwise.
    assert np.abs(all_of_them[2].astype(int) - alone).max() <= 2
    # The prompt against itself: nothing is found.
    assert not any(each.any() for each in found(pipeline, pictures, ""))


def test_a_subject_is_found_where_it_stands():
    pipeline = models.load_pipeline(pocket.base_folder(), CPU)
    prompt = "a photo of a mug"
    pictures = list(draw_set(pipeline, prompt, 8, steps=8, guidance=1.5))
    outlines = np.stack(found(pipeline, pictures, prompt)) / 255
    middle, corners = outlines[:, 28:44, 24:40], outlines[:, :12, [*range(12), *range(52, 64)]]
    assert middle.mean() > corners.mean() + 0.2
