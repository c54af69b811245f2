"""Pictures of a pipeline, drawn as the workflows draw them."""

from conceptctl.config import Drawing
from conceptctl.diffusion.backbone import LatentBackbone
from conceptctl.families.sd import FAMILY
from conceptctl.workflows import drawing


def draw(pipeline, prompt, seeds, *, steps, guidance, negative=""):
    """Draw a picture for each seed, each alone."""
    return drawing.draw(_sampler(pipeline, prompt, steps, guidance, negative), seeds)


def draw_set(pipeline, prompt, count, *, steps, guidance):
    """Draw a fixed set of pictures, in whole batches."""
    return drawing.draw_set(_sampler(pipeline, prompt, steps, guidance), count)


def _sampler(pipeline, prompt, steps, guidance, negative=""):
    return LatentBackbone(pipeline, FAMILY).sampler(prompt, Drawing(steps, guidance, negative=negative))
