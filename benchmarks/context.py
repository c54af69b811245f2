"""Whether concepts do what prompts ask: "V*alice at night", "V*alice with glasses", after a sequence is learned.

    python benchmarks/sequence.py --workspace DIR --methods stamina-anchored
    python benchmarks/context.py --workspace DIR

The judge reads what belongs to the subject, and then the concept is what it was but for that. Places and lights, which
the judge does not read, are those whose renders are nearest, in the mean, to a picture's features under the bundled
base's CLIP; how often that is right on other renders stands beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import judged
import torch
from judged import CPU, attributes_read
from PIL import Image

from conceptctl import pocket
from conceptctl.diffusion.composition.regions import Prompt
from conceptctl.pocket.judge import Reading
from conceptctl.pocket.world import captions
from conceptctl.pocket.world.concepts import sequence
from conceptctl.pocket.world.kinds import NONE, Subject
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import LIGHTS, PLACES, Scene
from conceptctl.store.store import Store
from conceptctl.workflows.extractor import open_extractor
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.model import load

LEARNED = 24
"""Renders of each place and light that the others are compared with."""
WORN = {
    "person": {
        "with glasses": {"glasses": "glasses"},
        "wearing a red cap": {"hat": "cap", "hat_colour": "red"},
        "with a beard": {"beard": "beard"},
    },
    "waterfall": {"with a rainbow": {"rainbow": "rainbow"}, "with a bridge": {"bridge": "bridge"}},
}
"""What is asked of a concept that has nothing of the kind."""


class Surroundings:
    """Reads places and lights off pictures of one class."""

    def __init__(self, extractor: Any, kind: str) -> None:
        self.extractor = extractor
        self.kind = kind
        # A waterfall brings its own place, and before a plain wall it is always day, as in `scenes.scene_of`.
        own = kind == "waterfall"
        self.places = () if own else PLACES[1:]
        self.known = [(PLACES[0], light) for light in (LIGHTS if own else LIGHTS[:1])]
        self.known += [(place, light) for place in self.places for light in LIGHTS]
        self.means = torch.stack([extractor.images(self.renders(*each, 900, LEARNED)).mean(0) for each in self.known])

    def phrase(self, place: str, light: str) -> str:
        bare = pocket.concept(self.kind, 0).subject
        said = captions.compose(Scene((bare,), place, light), [{}])
        return said.removeprefix(f"a photo of a {self.kind}").strip()

    def renders(self, place: str, light: str, first: int, count: int) -> list[Image.Image]:
        """Pictures of so many identities that no sequence holds."""
        return [
            render(Scene((pocket.concept(self.kind, number).subject,), place, light), random.Random(number))
            for number in range(first, first + count)
        ]

    def read(self, pictures: list[Image.Image]) -> list[tuple[str, str]]:
        nearest = torch.cdist(self.extractor.images(pictures), self.means).argmin(dim=1)
        return [self.known[index] for index in nearest.tolist()]

    def asked(self) -> Iterator[tuple[str, int, str]]:
        """The phrases that name one place or one light, with the place (0) or light (1) that they name."""
        for place in self.places:
            yield self.phrase(place, LIGHTS[0]), 0, place
        for light in LIGHTS[1:]:
            yield self.phrase(PLACES[0], light), 1, light


def worn(reading: Reading, kind: str, asked: Mapping[str, str]) -> bool:
    """Whether a picture shows what was asked of a subject of a class."""
    seen = attributes_read(reading, kind)
    return all(seen.get(name) == value for name, value in asked.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where sequence.py kept everything")
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="stamina-anchored")
    parser.add_argument("--pictures", type=int, default=8, help="of each prompt")
    parser.add_argument("--prompt-only", action="store_true", help="as programs draw that know only diffusers")
    options = parser.parse_args()
    store = Store(options.workspace / options.method)
    backbone = load(store, store.head(), "cpu")
    extractor = open_extractor(store.head().base, None, CPU)
    judge = pocket.load_judge()
    followed: dict[str, list[bool]] = {}
    shown: dict[str, list[bool]] = {}
    surroundings = {kind: Surroundings(extractor, kind) for kind in WORN}

    def draw(name: str, phrase: str, subject: Subject) -> tuple[list[Image.Image], list[Reading]]:
        prompt: Prompt = f"a photo of a V*{name} {phrase}"
        if not options.prompt_only:
            prompt = compose(store, store.head(), prompt, [name])
        pictures = judged.draw(backbone, prompt, options.pictures)
        readings = judged.read(judge, pictures)
        shown.setdefault(phrase, []).extend(reading.shows(subject) for reading in readings)
        return pictures, readings

    there = {each.name for each in store.head().concepts}
    for concept in sequence(options.concepts, options.seed):
        if concept.name not in there:
            # A store of `consolidation.py`, which has forgotten it.
            continue
        around = surroundings[concept.kind]
        for phrase, which, wanted in around.asked():
            pictures, _ = draw(concept.name, phrase, concept.subject)
            followed.setdefault(phrase, []).extend(each[which] == wanted for each in around.read(pictures))
        for phrase, asked in WORN[concept.kind].items():
            if concept.subject[next(iter(asked))] == NONE:
                _, readings = draw(concept.name, phrase, concept.subject.replaced(**asked))
                followed.setdefault(phrase, []).extend(worn(each, concept.kind, asked) for each in readings)
    print("| asked | followed | concept shown | pictures |\n|---|---|---|---|")
    for phrase, found in followed.items():
        print(
            f"| {phrase} | {100 * statistics.mean(found):.0f} % | {100 * statistics.mean(shown[phrase]):.0f} % | "
            f"{len(found)} |"
        )
    everything = [each for found in followed.values() for each in found]
    as_well = [each for found in shown.values() for each in found]
    means = f"{100 * statistics.mean(everything):.0f} % | {100 * statistics.mean(as_well):.0f} %"
    print(f"| all | {means} | {len(everything)} |")
    for kind, around in surroundings.items():
        print(f"places and lights of renders of a {kind} are read right: {100 * check(around):.0f} %")


def check(around: Surroundings) -> float:
    """How often places and lights are read right on renders."""
    right = []
    for place, light in around.known:
        right += [found == (place, light) for found in around.read(around.renders(place, light, 2000, 8))]
    return statistics.mean(right)


if __name__ == "__main__":
    main()
