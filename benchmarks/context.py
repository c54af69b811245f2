"""Whether concepts do what prompts ask: "V*alice at night", "V*alice with glasses", after a sequence is learned.

    python benchmarks/sequence.py --workspace DIR --methods stamina
    python benchmarks/context.py --workspace DIR

The judge reads what belongs to the subject; places and lights, which it does not read, are what the bundled base's CLIP
finds nearest, and how often that is right on renders stands beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from conceptctl import pocket
from conceptctl.diffusion.sampling import draw_set
from conceptctl.pocket.judge import Reading
from conceptctl.pocket.train.data import to_signed, to_tensor
from conceptctl.pocket.world.captions import compose
from conceptctl.pocket.world.concepts import Concept, sequence
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import LIGHTS, PLACES, Scene
from conceptctl.store.store import Store
from conceptctl.workflows import generate
from conceptctl.workflows.defaults import POCKET
from conceptctl.workflows.extractor import open_extractor

CPU = torch.device("cpu")
WORN = {
    "person": {
        "with glasses": ("glasses", "glasses"),
        "wearing a hat": ("hat", None),
        "with a beard": ("beard", "beard"),
    },
    "waterfall": {"with a rainbow": ("rainbow", "rainbow"), "with a bridge": ("bridge", "bridge")},
}
"""What is asked of a concept that has it not: the attribute, and the value that the judge must read; None for any."""


class Surroundings:
    """Reads places and lights off pictures of one class."""

    def __init__(self, extractor: Any, kind: str) -> None:
        self.extractor = extractor
        # A waterfall brings its own place.
        places = PLACES if kind == "person" else PLACES[:1]
        self.known = [(place, light) for place in places for light in LIGHTS]
        bare = pocket.concept(kind, 0).subject
        self.said = [
            compose(Scene((bare,), *each), [{}]).removeprefix(f"a photo of a {kind}").strip() for each in self.known
        ]
        self.texts = extractor.texts([f"a photo of a {kind} {each}".strip() for each in self.said])

    def read(self, pictures: list[Image.Image]) -> list[tuple[str, str]]:
        nearest = (self.extractor.images(pictures) @ self.texts.T).argmax(dim=1)
        return [self.known[index] for index in nearest.tolist()]

    def asked(self) -> Iterator[tuple[str, int, str]]:
        """The phrases that name one place or one light, with the place (0) or light (1) that they name."""
        for (place, light), phrase in zip(self.known, self.said, strict=True):
            if (place == PLACES[0]) != (light == LIGHTS[0]):
                yield (phrase, 0, place) if light == LIGHTS[0] else (phrase, 1, light)


def worn(reading: Reading, concept: Concept, attribute: str, value: str | None) -> bool:
    """Whether a picture shows an attribute of the concept's class."""
    seen: Any = next((each.shown().get(attribute) for each in reading.subjects if each.kind == concept.kind), None)
    return seen == value if value else seen not in (None, "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where sequence.py kept everything")
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="stamina")
    parser.add_argument("--pictures", type=int, default=8, help="of each prompt")
    options = parser.parse_args()
    store = Store(options.workspace / options.method)
    pipeline = generate.load(store, store.head(), "cpu")
    extractor = open_extractor(store.head().base, None, CPU)
    judge = pocket.load_judge()
    followed: dict[str, list[bool]] = {}
    shown: dict[str, list[bool]] = {}
    surroundings = {kind: Surroundings(extractor, kind) for kind in WORN}
    for concept in sequence(options.concepts, options.seed):
        plain = f"a photo of a V*{concept.name}"
        around = surroundings[concept.kind]

        def draw(
            phrase: str, plain: str = plain, concept: Concept = concept
        ) -> tuple[list[Image.Image], list[Reading]]:
            prompt = f"{plain} {phrase}"
            pictures = list(draw_set(pipeline, prompt, options.pictures, steps=POCKET.steps, guidance=POCKET.guidance))
            readings = judge.read(to_signed(to_tensor(pictures), CPU))
            shown.setdefault(phrase, []).extend(reading.shows(concept.subject) for reading in readings)
            return pictures, readings

        for phrase, which, wanted in around.asked():
            pictures, _ = draw(phrase)
            followed.setdefault(phrase, []).extend(each[which] == wanted for each in around.read(pictures))
        for phrase, (attribute, value) in WORN[concept.kind].items():
            if concept.subject[attribute] == "none":
                _, readings = draw(phrase)
                found = [worn(reading, concept, attribute, value) for reading in readings]
                followed.setdefault(phrase, []).extend(found)
    print("| asked | followed | concept shown | pictures |\n|---|---|---|---|")
    for phrase, found in followed.items():
        print(
            f"| {phrase} | {100 * statistics.mean(found):.0f} % | {100 * statistics.mean(shown[phrase]):.0f} % | "
            f"{len(found)} |"
        )
    everything = [each for found in followed.values() for each in found]
    print(f"| all | {100 * statistics.mean(everything):.0f} % | | {len(everything)} |")
    for kind, around in surroundings.items():
        print(f"places and lights of renders of a {kind} are read right: {100 * check(around, kind):.0f} %")


def check(around: Surroundings, kind: str) -> float:
    """How often places and lights are read right on renders."""
    right = []
    for place, light in around.known:
        pictures = [
            render(Scene((pocket.concept(kind, 900 + index).subject,), place, light), random.Random(index))
            for index in range(8)
        ]
        right += [found == (place, light) for found in around.read(pictures)]
    return statistics.mean(right)


if __name__ == "__main__":
    main()
