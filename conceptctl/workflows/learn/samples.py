"""Samples while something is learned: pictures of fixed prompts and seeds, every so many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import conceptctl
from conceptctl.config import Drawing
from conceptctl.errors import UsageError
from conceptctl.presets import preset_of
from conceptctl.workflows.learn.request import Request

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Backbone
    from conceptctl.workflows.learn.journal import Journal
    from conceptctl.workflows.learn.prepared import Prepared

PICTURES = 4
"""Of each prompt, drawn together; their seeds are 0 to 3, always, so that steps can be compared."""
TIMES = 10
"""How often a training is looked at where nobody says it."""


def check_prompts(request: Request, names: Sequence[str]) -> None:
    """Make sure that every concept which the prompts of samples name is there, or is the one that is learned.

    Raises:
        NotFound: One is not; names the nearest.
        UsageError: One gives a concept a strength.
    """
    from conceptctl.diffusion.prompts import names_in, with_strengths

    for prompt in request.sample_prompts:
        if with_strengths(prompt)[1]:
            raise UsageError(f"{prompt!r}: samples are drawn at full strength", hint="without the number behind a name")
        names_in(prompt, [*names, request.name])


def every(request: Request, steps: int) -> int:
    """After how many steps samples are drawn."""
    return request.sample_every or max(1, math.ceil(steps / TIMES))


def are_wanted(request: Request) -> bool:
    """Whether samples are drawn at all."""
    return request.preview or bool(request.sample_prompts) or request.sample_every is not None


def sampler(prepared: Prepared, backbone: Backbone, journal: Journal) -> Callable[[int], None] | None:
    """Return what draws samples after a step and writes them; None where nobody wants any."""
    request = prepared.request
    if not are_wanted(request):
        return None
    sampling = preset_of(prepared.head.base).drawing
    own = () if request.sample_prompts and not request.preview else ("",)
    prompts = {label: label or prepared.prompt for label in (*own, *request.sample_prompts)}

    def draw(step: int) -> None:
        from conceptctl.images.contact_sheet import contact_sheet
        from conceptctl.images.png import png_info

        for label, prompt in prompts.items():
            # The prompt is encoded anew each time: the token has moved.
            sample = backbone.sampler(prompt, Drawing(sampling.steps, sampling.guidance))
            pictures = sample(range(PICTURES))
            recipe = {
                "prompt": prompt,
                "negative": "",
                "seed": 0,
                "seeds": list(range(PICTURES)),
                "steps": sampling.steps,
                "guidance": sampling.guidance,
                "size": "{}x{}".format(*pictures[0].size),
                "sampler": backbone.scheduler_name(),
                "base": prepared.head.base.name,
                "base_sha256": prepared.head.base.sha256,
                "generation": prepared.head.seq,
                "learning": {"concept": request.name, "method": prepared.method.name, "step": step},
                "program": conceptctl.__version__,
            }
            sheet = contact_sheet(pictures, prompt, [f"seed {seed}" for seed in range(PICTURES)])
            if path := journal.picture(step, label, sheet, png_info(recipe)):
                prepared.watch.sample(path)

    return draw
