"""Several concepts in one picture, side by side: each is painted over a picture that knows none of them.

A concept takes all of a picture that its token can reach, and what is small loses its details. So the picture is drawn
without concepts first; then the place of each is cut out, enlarged to the size at which concepts are learned, painted
over with the concept's own prompt, made smaller and put back: all that is in its column, and of what reaches beyond it
the concept itself. A strip at its top is held to what it was while that is painted (Lugmayr et al. 2022, "RePaint:
Inpainting using denoising diffusion probabilistic models"), so that light and background are taken up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from conceptctl.diffusion.composition.guidance import GuidedPrompt

SIZE = 3 / 4
"""How much of a picture's width and height is cut out for one of two columns; for more of them it is less."""
RAISED = 1 / 48
"""How far above the picture's lower edge that ends, as a share of its height; its last row of pixels goes on below."""
HEADROOM = 1 / 16
"""How much of what is cut out, at its upper edge, is held to what it was."""
TOGETHER = 9 / 10
"""How far its middle is from the picture's middle, as a share of how far the column's is, for two columns; nearer to 1
for more of them."""
SEAM = 1 / 16
"""Over how much of the picture's width and height what was painted goes over into what was there; narrow columns have
narrower ones."""


@dataclass(frozen=True)
class Composition:
    """What a picture of several subjects is drawn from."""

    whole: str
    """The prompt of the whole picture, which names no concept."""
    regions: tuple[str | GuidedPrompt, ...]
    """What equal columns of the picture show, from left to right."""


Prompt = str | GuidedPrompt | Composition
"""What to draw."""


def parts_of(prompt: Prompt) -> tuple[str | GuidedPrompt, ...]:
    """What the picture is drawn from, and then what each of its regions is."""
    return (prompt.whole, *prompt.regions) if isinstance(prompt, Composition) else (prompt,)


def prompts_of(prompt: Prompt) -> tuple[str, ...]:
    """The prompts of all parts."""
    return tuple(part.prompt if isinstance(part, GuidedPrompt) else part for part in parts_of(prompt))


@dataclass(frozen=True)
class Region:
    """A region's place in pictures of one size: a column of them."""

    index: int
    """From 0 for the leftmost."""
    count: int
    """How many regions there are."""
    width: int
    """The picture's, in pixels."""
    height: int
    """The picture's, in pixels."""

    def cut_out(self, picture: Image.Image) -> Image.Image:
        """What is in the column's place, as large as the picture; beyond its edges the nearest pixels go on."""
        return self._enlarged(np.asarray(picture), Image.Resampling.LANCZOS)

    def painted(self) -> Image.Image:
        """Which of what is cut out is painted over: white there, black elsewhere, as large as the picture."""
        return self._enlarged(np.where(self._place(0.0) > 0, np.uint8(255), np.uint8(0)), Image.Resampling.NEAREST)

    def put_back(self, picture: Image.Image, painted: Image.Image, mask: Image.Image) -> Image.Image:
        """Put what was cut out and painted over back into the picture.

        Args:
            picture: RGB.
            painted: RGB, as large as the picture.
            mask: Which of that is the concept: gray, as large as the picture.
        """
        before = np.asarray(picture, dtype=np.float32)
        after = self._reduced(painted, before)
        concept = self._reduced(mask, np.zeros_like(before[..., 0])) / 255
        seam = min(SEAM, 1 / (8 * self.count))
        share = (self._place(seam) * np.maximum(self._own(seam), concept))[..., None]
        return Image.fromarray((before + share * (after - before)).round().astype(np.uint8))

    def _box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height of what is cut out: as wide beside its height as the picture is."""
        size = min(SIZE, 2 * SIZE / self.count)
        width, height = (max(1, round(size * side)) for side in (self.width, self.height))
        # The more there are, the less room is there for it beside column and seam.
        together = 1 - (1 - TOGETHER) * (2 / max(2, self.count)) ** 2
        from_middle = together * ((self.index + 0.5) / self.count - 0.5)
        left = round((0.5 + from_middle) * self.width - width / 2)
        return left, self.height - round(RAISED * self.height) - height, width, height

    def _inside(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that are cut out."""
        left, top, width, height = self._box()
        return slice(top, top + height), slice(max(0, left), min(self.width, left + width))

    def _enlarged(self, picture: np.ndarray, resampling: Image.Resampling) -> Image.Image:
        left, top, width, height = self._box()
        columns = np.clip(np.arange(left, left + width), 0, self.width - 1)
        cut = picture[top : top + height][:, columns]
        return Image.fromarray(cut).resize((self.width, self.height), resampling)

    def _reduced(self, enlarged: Image.Image, around: np.ndarray) -> np.ndarray:
        """Put what was enlarged into its place in a copy of what is around."""
        left, top, width, height = self._box()
        small = np.asarray(enlarged.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32)
        rows, columns = self._inside()
        found = around.copy()
        found[rows.start :, columns] = small[-1, columns.start - left : columns.stop - left]
        found[rows, columns] = small[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return found

    def _place(self, seam: float) -> np.ndarray:
        """How much of each pixel is painted over, (height, width), 0 to 1.

        Args:
            seam: Over which share of the picture's sides this rises from 0 to 1; at its middle the hard edge would be.
        """
        rows, columns = self._inside()
        top = rows.start + HEADROOM * (rows.stop - rows.start)
        share = np.zeros((self.height, self.width), dtype=np.float32)
        share[rows.start :, columns] = 1
        found: np.ndarray = share * _rising(np.arange(self.height) + 0.5 - top, seam * self.height)[:, None]
        return found

    def _own(self, seam: float) -> np.ndarray:
        """How much of each pixel is the column's own, (width,), 0 to 1; what is outermost goes on to the edge."""
        across, one = np.arange(self.width) + 0.5, self.width / self.count
        share = np.ones(self.width, dtype=np.float32)
        if self.index > 0:
            share *= _rising(across - self.index * one, seam * self.width)
        if self.index < self.count - 1:
            share *= _rising((self.index + 1) * one - across, seam * self.width)
        return share


def _rising(distance: np.ndarray, width: float) -> np.ndarray:
    """From 0 to 1 around a distance of 0, over so many pixels."""
    return np.clip(distance / width + 0.5, 0, 1) if width else (distance > 0).astype(np.float32)
