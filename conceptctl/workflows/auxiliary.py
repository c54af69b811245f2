"""Auxiliary pictures: what the base itself draws of a class, so that learning one of its kind leaves the rest alone.

They are drawn once. Their latents, which show nothing that the base did not make, are kept in the store.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from conceptctl.store import blobs, tensorfile, weights
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Attachment, BlobRef
from conceptctl.store.store import Writer
from conceptctl.workflows.defaults import Defaults, defaults_of

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.diffusion.models import Pipeline

KIND = "auxiliary latents"
SAVE_SECONDS = 60.0
"""How often what is drawn so far is kept: on a large base, drawing takes longer than the training."""


def prompt_of(class_word: str) -> str:
    """What auxiliary pictures are drawn from and learned under."""
    return f"a photo of a {class_word}"


def latents(
    writer: Writer,
    pipeline: Pipeline,
    class_word: str,
    count: int,
    attachments: tuple[Attachment, ...],
    stage: Callable[[str, int], None],
    advance: Callable[[int], None],
    begun: Tensor | None = None,
    save: Callable[[Tensor], None] = lambda drawn: None,
) -> tuple[Tensor, tuple[Attachment, ...]]:
    """Return the latents of a class's auxiliary pictures, drawing them if the store has none yet.

    Args:
        writer: The right to change the store.
        pipeline: The base, with nothing learned on it.
        class_word: What to draw.
        count: How many.
        attachments: What the next generation will keep.
        stage: Called when drawing begins.
        advance: Called with each batch of pictures drawn.
        begun: The latents of the first of them, where an interrupted run had drawn some.
        save: Called now and then, and when drawing is interrupted, with the latents so far.

    Returns:
        The latents (count, C, H, W), and the attachments with these as the last.
    """
    import torch

    defaults = defaults_of(writer.head.base)
    about = {
        "class": class_word,
        "count": str(count),
        "steps": str(defaults.steps),
        "guidance": str(defaults.guidance),
    }
    for attachment in attachments:
        # Damaged ones are passed by: what the base draws can be drawn again.
        if attachment.kind == KIND and not blobs.problem(writer.layout, attachment.blob, read=True):
            path = writer.layout.blob(attachment.blob.sha256)
            if tensorfile.read_header(path).metadata == about:
                rest = tuple(each for each in attachments if each != attachment)
                return torch.from_numpy(weights.read_floats(path, "latents")), (*rest, attachment)
    stage(f"drawing {class_word} pictures to learn beside", count)
    found = _draw(pipeline, prompt_of(class_word), count, defaults, begun, advance, save)
    ref = writer.add_tensors({"latents": weights.array_tensor(found.numpy())}, about)
    drawn = Attachment(KIND, "", ref)
    return found, (*(each for each in attachments if each != drawn), drawn)


def _draw(
    pipeline: Pipeline,
    prompt: str,
    count: int,
    defaults: Defaults,
    begun: Tensor | None,
    advance: Callable[[int], None],
    save: Callable[[Tensor], None],
) -> Tensor:
    import torch

    from conceptctl.diffusion.latents import encode
    from conceptctl.diffusion.sampling import BATCH, draw_set

    parts = [] if begun is None else [begun]
    done = sum(map(len, parts))
    advance(done)
    saved = time.monotonic()
    drawing = draw_set(pipeline, prompt, count, steps=defaults.steps, guidance=defaults.guidance, first=done)
    try:
        # Whole batches, as they are drawn and encoded: what goes on later is the same to the bit.
        while batch := list(itertools.islice(drawing, BATCH)):
            parts.append(encode(pipeline, batch).cpu())
            advance(len(batch))
            if time.monotonic() - saved >= SAVE_SECONDS:
                save(torch.cat(parts))
                saved = time.monotonic()
    except KeyboardInterrupt:
        if parts:
            save(torch.cat(parts))
        raise
    return torch.cat(parts)


def with_kept(layout: Layout, attachments: tuple[Attachment, ...], ref: BlobRef) -> tuple[Attachment, ...]:
    """Add what an interrupted run drew to the attachments, if it is still there as it was written."""
    kept = Attachment(KIND, "", ref)
    if kept in attachments or blobs.problem(layout, ref, read=True):
        return attachments
    return (*attachments, kept)
