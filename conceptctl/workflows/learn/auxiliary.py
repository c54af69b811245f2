"""Auxiliary pictures: what the base itself draws of a class, so that learning one of its kind leaves the rest alone.

Elsewhere this is called prior preservation. They are drawn once. Their latents, which show nothing that the base did
not make, are kept in the store.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from conceptctl.config import Drawing
from conceptctl.presets import preset_of
from conceptctl.store import blobs, tensorfile, weights
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Attachment, BlobRef, Generation
from conceptctl.store.store import Writer
from conceptctl.workflows.drawing import BATCH, draw_set
from conceptctl.workflows.learn.request import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone

KIND = "auxiliary latents"
SAVE_SECONDS = 60.0
"""How often what is drawn so far is kept: on a large base, drawing takes longer than the training."""

Attachments = tuple[Attachment, ...]


def prompt_of(class_word: str) -> str:
    """What auxiliary pictures are drawn from and learned under."""
    return f"a photo of a {class_word}"


def find(
    layout: Layout, head: Generation, class_word: str, count: int, attachments: Attachments, side: int | None = None
) -> tuple[Tensor, Attachments] | None:
    """Return the latents of a class that the store has, (count, C, H, W), and the attachments with them as the last.

    Where more were drawn than are wanted, the first of them are the same as if no more had been.
    """
    import torch

    for attachment in attachments:
        # Damaged ones are passed by: what the base draws can be drawn again.
        if attachment.kind == KIND and not blobs.problem(layout, attachment.blob, read=True):
            path = layout.blob(attachment.blob.sha256)
            header = tensorfile.read_header(path)
            kept = header.tensors["latents"].shape[0] if "latents" in header.tensors else 0
            if kept >= count and header.metadata == about(head, class_word, kept, side):
                rest = tuple(each for each in attachments if each != attachment)
                return torch.from_numpy(weights.read_floats(path, "latents")[:count]), (*rest, attachment)
    return None


def draw(
    backbone: Backbone,
    head: Generation,
    class_word: str,
    count: int,
    *,
    side: int | None = None,
    accelerator: Accelerator,
    watch: Watch,
    begun: Tensor | None = None,
    save: Callable[[Tensor], None] = lambda drawn: None,
) -> Tensor:
    """Draw a class's auxiliary pictures.

    Args:
        backbone: The base, with nothing learned on it.
        head: Of whose base the preset says how pictures are drawn.
        class_word: What to draw.
        count: How many.
        side: Pixels to which they are made smaller: a base draws best at its own size, whatever is learned at.
        accelerator: Whose processes share the work.
        watch: Is told of each batch.
        begun: The latents of the first of them, where an interrupted run had drawn some.
        save: Called now and then, and when drawing is interrupted or fails, with the latents so far.

    Returns:
        The latents (count, C, H, W), on the CPU.
    """
    import torch
    from PIL import Image

    watch.stage(f"drawing {class_word} pictures to learn beside", count)
    parts = [] if begun is None else [begun]
    done = sum(map(len, parts))
    watch.advance(done)
    saved = time.monotonic()
    sampling = preset_of(head.base).drawing
    sample = backbone.sampler(prompt_of(class_word), Drawing(sampling.steps, sampling.guidance))
    drawing = draw_set(sample, count, first=done, accelerator=accelerator)
    try:
        # Whole batches, as they are drawn and encoded: what goes on later is the same to the bit.
        while batch := list(itertools.islice(drawing, BATCH)):
            pictures = [each.resize((side, side), Image.Resampling.LANCZOS) for each in batch] if side else batch
            parts.append(backbone.encode(pictures).cpu())
            watch.advance(len(batch))
            if time.monotonic() - saved >= SAVE_SECONDS:
                save(torch.cat(parts))
                saved = time.monotonic()
    except (KeyboardInterrupt, RuntimeError):
        # Also when memory ran out.
        if parts:
            save(torch.cat(parts))
        raise
    return torch.cat(parts)


def keep(
    writer: Writer, latents: Tensor, class_word: str, attachments: Attachments, side: int | None = None
) -> Attachments:
    """Write what was drawn into the store, and return the attachments with it as the last."""
    said = about(writer.head, class_word, len(latents), side)
    ref = writer.add_tensors({"latents": weights.array_tensor(latents.numpy())}, said)
    drawn = Attachment(KIND, "", ref)
    return (*(each for each in attachments if each != drawn), drawn)


def about(head: Generation, class_word: str, count: int, side: int | None = None) -> dict[str, str]:
    """What auxiliary pictures of one base depend on, and nothing else; `side` as in `draw`."""
    sampling = preset_of(head.base).drawing
    return {
        "class": class_word,
        "count": str(count),
        "steps": str(sampling.steps),
        "guidance": str(sampling.guidance),
        **({"side": str(side)} if side else {}),
    }


def with_kept(layout: Layout, attachments: Attachments, ref: BlobRef) -> Attachments:
    """Add what an interrupted run drew to the attachments, if it is still there as it was written."""
    kept = Attachment(KIND, "", ref)
    if kept in attachments or blobs.problem(layout, ref, read=True):
        return attachments
    return (*attachments, kept)
