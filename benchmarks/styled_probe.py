"""How well a linear probe tells the classes of the styled stand-in apart on the bundled CLIP's frozen image tower.

    python benchmarks/styled_probe.py [--seeds 3] [--sheet FILE.png]

Logistic regression (L2, all classes at once) on the image tower's [CLS] features, for each seed of the stand-in; and
the same without styles. `--sheet` writes pictures of some classes in every style.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPVisionModel
from transformers.utils import logging

from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.pocket.bundle import clip_folder
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import scene_of
from conceptctl.pocket.world.styles import (
    CLASSES,
    STYLES,
    TEST_PICTURES,
    TRAIN_PICTURES,
    StyledClass,
    styled,
    styled_picture,
)

DECAY = 0.01
Draw = Callable[[StyledClass, str, int, int], Image.Image]


def plain_picture(of: StyledClass, purpose: str, index: int, seed: int) -> Image.Image:
    rng = random.Random(f"plain:{seed}:{purpose}:{of.name}:{index}")
    return render(scene_of(rng, of.subject(rng)), rng)


@torch.no_grad()
def features(model: CLIPVisionModel, processor: CLIPImageProcessorPil, draw: Draw, purpose: str, seed: int) -> Tensor:
    """[CLS] features, (classes, pictures, D)."""
    count = TRAIN_PICTURES if purpose == "train" else TEST_PICTURES
    found = []
    for of in CLASSES:
        pictures = [draw(of, purpose, index, seed) for index in range(count)]
        found.append(model(**processor(pictures, return_tensors="pt")).pooler_output)
    return torch.stack(found)


def probe(train: Tensor, test: Tensor) -> float:
    """The share of test pictures that a logistic regression on the training pictures tells right."""
    middle, spread = train.mean((0, 1)), train.std((0, 1))
    train, test = (train - middle) / spread, (test - middle) / spread
    labels = torch.arange(len(train)).repeat_interleave(train.shape[1])
    weights = torch.zeros(len(train), train.shape[2] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def logits(of: Tensor) -> Tensor:
        return of.flatten(0, 1) @ weights[:, :-1].T + weights[:, -1]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(logits(train), labels) + DECAY * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    right = logits(test).argmax(1) == torch.arange(len(test)).repeat_interleave(test.shape[1])
    return right.float().mean().item()


def sheet() -> Image.Image:
    pictures = []
    for of in CLASSES[1::5]:
        for style in STYLES:
            rng = random.Random(f"{of.name}:{style}")
            pictures.append(styled(render(scene_of(rng, of.subject(rng)), rng), style, rng))
    return contact_sheet(pictures, ", ".join(STYLES), columns=len(STYLES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    if options.sheet:
        sheet().quantize(128, dither=Image.Dither.NONE).save(options.sheet, optimize=True)
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = CLIPVisionModel.from_pretrained(clip_folder(), dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder())
    for name, draw in (("styled", styled_picture), ("without styles", plain_picture)):
        found = [
            probe(*(features(model, processor, draw, purpose, seed) for purpose in ("train", "test")))
            for seed in range(options.seeds)
        ]
        spread = f" ± {100 * stdev(found):.1f}" if len(found) > 1 else ""
        print(
            f"{name}: {100 * mean(found):.1f}{spread} % of {len(CLASSES)} classes (chance {100 / len(CLASSES):.1f} %)"
        )


if __name__ == "__main__":
    main()
