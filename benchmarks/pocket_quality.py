"""How good the bundled base is: the table of docs/lab/pocket-figures.md, and its sample grids.

    python benchmarks/pocket_quality.py [--pictures 200] [--only ROW ...] [--grids FOLDER]

Seeds are fixed. Times are medians; every other figure is the same on every run on the same machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel

from conceptctl import pocket
from conceptctl.metrics.diversity import diversity
from conceptctl.metrics.mmd import PolynomialKernel, RbfKernel, mmd
from conceptctl.pocket import bundle
from conceptctl.pocket.judge import QUESTIONS, Reading
from conceptctl.pocket.train.data import to_signed, to_tensor
from conceptctl.pocket.train.heads import right_answers
from conceptctl.pocket.train.judge import judged_pictures
from conceptctl.pocket.train.vae import psnr
from conceptctl.pocket.world.captions import Mentions, caption, compose, draw_mentions
from conceptctl.pocket.world.concepts import concept, sequence, write_folders
from conceptctl.pocket.world.kinds import DETAILS, KINDS
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import Scene, draw_scene, scene_of
from conceptctl.presets import shipped

CPU = torch.device("cpu")
STEPS, GUIDANCE = 25, 2.0
BATCH = 25
OF_CLASSES = 4
"""How many times as many pictures are drawn of the classes alone: with 25 of a class two sets of fresh renders are as
far from each other as 0.03 of the distance between two classes, by chance."""


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    value: str
    bar: str
    holds: bool


@dataclass(frozen=True)
class Prompted:
    """A prompt, the scene that it was made from, and what it names of each subject."""

    scene: Scene
    mentions: tuple[Mentions, ...]

    @property
    def text(self) -> str:
        return compose(self.scene, self.mentions)

    @property
    def wanted(self) -> list[tuple[str, Mentions]]:
        return [(item.kind, said) for item, said in zip(self.scene.subjects, self.mentions, strict=True)]


class Bench:
    """Draws and measures, with everything loaded once and each set of pictures drawn once."""

    def __init__(self, pictures: int, guidance: float = GUIDANCE) -> None:
        self.pictures, self.guidance = pictures, guidance
        self.judge = pocket.load_judge()

    @cached_property
    def pipeline(self) -> StableDiffusionPipeline:
        return load_pipeline()

    @cached_property
    def clip(self) -> CLIPModel:
        return CLIPModel.from_pretrained(pocket.clip_folder(), dtype=torch.float32).eval()

    def generate(self, prompts: list[str], seed: int, guidance: float | None = None) -> Tensor:
        """Draw a picture for each prompt: (B, 3, 64, 64) in [-1, 1]."""
        guidance = self.guidance if guidance is None else guidance
        parts = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
            drawn = self.pipeline(
                part, num_inference_steps=STEPS, guidance_scale=guidance, generator=generators, output_type="pt"
            )
            parts.append(drawn.images.float() * 2 - 1)
        return torch.cat(parts)

    @cached_property
    def bare(self) -> tuple[list[str], Tensor]:
        kinds = list(KINDS) * -(-OF_CLASSES * self.pictures // len(KINDS))
        return kinds, self.generate([f"a photo of a {kind}" for kind in kinds], 1_000)

    @cached_property
    def described(self) -> tuple[list[Prompted], Tensor]:
        prompts = prompts_of(self.pictures, "described", pairs=0, least=2, most=4)
        return prompts, self.generate([prompt.text for prompt in prompts], 2_000)

    @cached_property
    def pairs(self) -> tuple[list[Prompted], Tensor]:
        prompts = prompts_of(self.pictures, "pairs", pairs=1, least=1, most=2)
        return prompts, self.generate([prompt.text for prompt in prompts], 3_000)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Unit-norm CLIP features (B, D)."""
        parts = [self.clip.get_image_features(part) for part in pictures.split(64)]
        parts = [part if isinstance(part, Tensor) else part.pooler_output for part in parts]
        return functional.normalize(torch.cat(parts))

    def autoencoder(self) -> list[Figure]:
        rng = random.Random("quality:vae")
        world = to_signed(to_tensor([render(draw_scene(rng), rng) for _ in range(self.pictures)]), CPU)
        views = [concept(kind, 9_000 + i).heldout_view(0) for i in range(self.pictures // 8) for kind in KINDS]
        seen = psnr(self.pipeline.vae, world).mean().item()
        unseen = psnr(self.pipeline.vae, to_signed(to_tensor(views), CPU)).mean().item()
        return [
            Figure("VAE, held-out renders", f"{seen:.1f} dB", ">= 30 dB", seen >= 30),
            Figure("VAE, concepts with unseen details", f"{unseen:.1f} dB", ">= 30 dB", unseen >= 30),
            *(self._restored_rate(kind) for kind in ("person", "waterfall")),
            *self._restored_twins(),
            *self._restored_pairs(),
        ]

    def _restored_rate(self, kind: str) -> Figure:
        """How many concepts the judge still accepts: no more of them can be learned."""
        concepts = [concept(kind, 5_000 + index) for index in range(self.pictures)]
        readings = self._after([item.heldout_view(0) for item in concepts])
        share = statistics.mean(reading.shows(item.subject) for reading, item in zip(readings, concepts, strict=True))
        return Figure(f"judge, {kind} accepted after the autoencoder", percent(share), "", True)

    def _restored_twins(self) -> Iterator[Figure]:
        """How many near misses the judge takes for the concept when all are blurred alike."""
        rng = random.Random("quality:restored twins")
        concepts = [concept(rng.choice(("person", "waterfall")), 6_000 + index) for index in range(self.pictures)]
        for what, count in (("its details", len(DETAILS)), ("one detail", 1)):
            subjects = [item.twin(*rng.sample(DETAILS, count)) for item in concepts]
            readings = self._after([render(scene_of(rng, subject), rng) for subject in subjects])
            share = statistics.mean(
                reading.shows(item.subject) for reading, item in zip(readings, concepts, strict=True)
            )
            yield Figure(f"judge, twin without {what} accepted after the autoencoder", percent(share), "", True)

    def _restored_pairs(self) -> Iterator[Figure]:
        """How often the judge accepts both of two concepts side by side: no more of such pictures can be drawn."""
        rng = random.Random("quality:restored pairs")
        concepts = sequence(10)
        pairs = [rng.sample(concepts, 2) for _ in range(self.pictures)]
        scenes = [replace(scene_of(rng, first.subject, second.subject), relation="next to") for first, second in pairs]
        pictures = [render(scene, rng) for scene in scenes]
        sharp = self.judge.read(to_signed(to_tensor(pictures), CPU))
        for readings, when in ((sharp, "rendered"), (self._after(pictures), "after the autoencoder")):
            share = statistics.mean(
                reading.shows_all(scene.subjects) for reading, scene in zip(readings, scenes, strict=True)
            )
            yield Figure(f"judge, both of two concepts accepted, {when}", percent(share), "", True)

    def _after(self, pictures: list[Image.Image]) -> list[Reading]:
        signed = to_signed(to_tensor(pictures), CPU)
        return self.judge.read(torch.cat([self.restored(part) for part in signed.split(50)]))

    @torch.no_grad()
    def restored(self, pictures: Tensor) -> Tensor:
        """What the autoencoder keeps of pictures (B, 3, 64, 64) in [-1, 1]."""
        vae = self.pipeline.vae
        kept: Tensor = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
        return kept

    def judge_on_renders(self) -> list[Figure]:
        judged = judged_pictures(2_000, "quality:judge")
        chances = self.judge.chances(to_signed(judged.pictures, CPU))
        right, asked = right_answers(chances.flatten(0, 1), judged.labels.flatten(0, 1))
        shares = (right / asked.clamp(min=1)).tolist()
        worst = min(range(len(shares)), key=shares.__getitem__)
        mean = right.sum().item() / asked.sum().item()
        accepted, others, twins, half_twins = self._concept_rates()
        return [
            Figure("judge, attributes of held-out renders, mean", percent(mean), ">= 98 %", mean >= 0.98),
            Figure(
                f"judge, worst attribute ({QUESTIONS[worst]})", percent(shares[worst]), ">= 98 %", shares[worst] >= 0.98
            ),
            Figure("judge, concept accepted", percent(accepted), ">= 98 %", accepted >= 0.98),
            Figure("judge, another identity accepted", percent(others), "<= 1 %", others <= 0.01),
            Figure("judge, twin without its details accepted", percent(twins), "<= 2 %", twins <= 0.02),
            Figure("judge, twin without one detail accepted", percent(half_twins), "<= 2 %", half_twins <= 0.02),
        ]

    def _concept_rates(self) -> tuple[float, float, float, float]:
        rng = random.Random("quality:concepts")
        concepts = [concept(kind, 8_000 + index) for index in range(40) for kind in KINDS]
        own, twin, half = [], [], []
        for item in concepts:
            own.append(item.heldout_view(0))
            for pictures, subject in ((twin, item.twin()), (half, item.twin(rng.choice(("mark", "extra"))))):
                pictures.append(render(scene_of(rng, subject), rng))
        read = [self.judge.read(to_signed(to_tensor(pictures), CPU)) for pictures in (own, twin, half)]
        rates = [
            statistics.mean(reading.shows(item.subject) for reading, item in zip(readings, concepts, strict=True))
            for readings in read
        ]
        strangers = [
            reading.shows(other.subject)
            for index, reading in enumerate(read[0])
            for other in concepts
            if other.kind == concepts[index].kind and other is not concepts[index]
        ]
        return rates[0], statistics.mean(strangers), rates[1], rates[2]

    def class_only(self) -> list[Figure]:
        kinds, pictures = self.bare
        readings = self.judge.read(pictures)
        right = [
            [item.kind for item in reading.subjects] == [kind] for reading, kind in zip(readings, kinds, strict=True)
        ]
        share = statistics.mean(right)
        by_kind = {kind: statistics.mean(ok for ok, k in zip(right, kinds, strict=True) if k == kind) for kind in KINDS}
        worst = min(by_kind, key=by_kind.__getitem__)
        return [
            Figure("class only: class right", percent(share), ">= 98 %", share >= 0.98),
            Figure(f"class only: worst class ({worst})", percent(by_kind[worst]), "", True),
        ]

    def attributes(self) -> list[Figure]:
        prompts, pictures = self.described
        _, right, asked = self._agreement(prompts, pictures)
        return [Figure("one subject, 2 to 4 attributes right", percent(right / asked), ">= 90 %", right / asked >= 0.9)]

    def two_subjects(self) -> list[Figure]:
        prompts, pictures = self.pairs
        both, right, asked = self._agreement(prompts, pictures)
        return [
            Figure("two subjects: both classes present", percent(both), ">= 90 %", both >= 0.9),
            Figure("two subjects: attributes right", percent(right / asked), ">= 80 %", right / asked >= 0.8),
        ]

    def _agreement(self, prompts: list[Prompted], pictures: Tensor) -> tuple[float, int, int]:
        results = [
            reading.agreement(prompt.wanted) for reading, prompt in zip(self.judge.read(pictures), prompts, strict=True)
        ]
        present, right, asked = zip(*results, strict=True)
        return statistics.mean(present), sum(right), sum(asked)

    def distance(self) -> list[Figure]:
        kinds, guided = self.bare
        # Guidance trades variety for obedience; without it, the distance is what the network has learned.
        prompts = [f"a photo of a {kind}" for kind in kinds]
        scales = sorted({self.guidance, shipped()["pocket"].sampling.guidance, 1.0}, reverse=True)
        drawn_with = {
            f"guidance {scale:g}" if scale > 1 else "no guidance": (
                guided if scale == self.guidance else self.generate(prompts, 1_000, scale)
            )
            for scale in scales
        }

        def fresh(seed: str) -> Tensor:
            # Only scenes that the world captions so: one at night on a beach mostly has a longer caption, and a model
            # that draws a class as often before a plain wall as its caption means has learned that.
            rng = random.Random(f"quality:{seed}")
            pictures = []
            while len(pictures) < len(prompts):
                scene = draw_scene(rng, pairs=0)
                if caption(scene, rng) == prompts[len(pictures)]:
                    pictures.append(render(scene, rng))
            return to_signed(to_tensor(pictures), CPU)

        theirs = self.features(fresh("distance"))
        # What chance alone makes of the figure, beside the pictures that it is about.
        compared = {
            **{how: self.features(drawn) for how, drawn in drawn_with.items()},
            "other renders": self.features(fresh("other renders")),
        }
        figures = []
        # Without bias: the biased estimate is large for few pictures, whatever they are; of 25 against 25 others from
        # the same source it is a tenth of the distance between two classes.
        kernels = {"RBF": RbfKernel(biased=False), "papers' kernel": PolynomialKernel(biased=False)}
        for (how, ours), (name, kernel) in itertools.product(compared.items(), kernels.items()):
            within = []
            for kind in KINDS:
                chosen = torch.tensor([k == kind for k in kinds])
                within.append(mmd(ours[chosen], theirs[chosen], kernel))
            between = []
            for kind in KINDS:
                for other in KINDS:
                    if kind < other:
                        first, second = (torch.tensor([k == which for k in kinds]) for which in (kind, other))
                        between.append(mmd(theirs[first], theirs[second], kernel))
            ratio = statistics.mean(within) / statistics.mean(between)
            bar = "<= 0.05" if how in drawn_with else ""
            title = f"distance to renders / between classes ({name}), {how}"
            figures.append(Figure(title, f"{ratio:.3f}", bar, ratio <= 0.05))
        for how in drawn_with:
            ours = compared[how]
            spread = statistics.mean(
                diversity(ours[chosen], theirs[chosen])
                for chosen in (torch.tensor([k == kind for k in kinds]) for kind in KINDS)
            )
            figures.append(
                Figure(f"diversity of generated / of renders, {how}", f"{spread:.2f}", ">= 0.8", spread >= 0.8)
            )
        return figures

    def speed(self) -> list[Figure]:
        loading = statistics.median(timed(load_pipeline) for _ in range(5))
        prompts = ["a photo of a person next to a waterfall"] * 4
        self.generate(prompts, 0)
        drawing = statistics.median(timed(lambda: self.generate(prompts, 0)) for _ in range(5))
        with tempfile.TemporaryDirectory() as folder:
            writing = timed(lambda: list(write_folders(sequence(50), Path(folder))))
        rng = random.Random("quality:speed")
        rate = 500 / timed(lambda: [render(draw_scene(rng), rng) for _ in range(500)])
        return [
            Figure("4 pictures, 25 steps with guidance", f"{drawing:.2f} s", "<= 2 s", drawing <= 2),
            Figure("loading the pipeline", f"{loading:.2f} s", "<= 1 s", loading <= 1),
            Figure("writing the folders of 50 concepts", f"{writing:.1f} s", "<= 10 s", writing <= 10),
            Figure("renders a second, one core", f"{rate:,.0f}", ">= 500", rate >= 500),
        ]

    def grids(self, folder: Path) -> None:
        """Write sample grids for people to look at."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds, pictures = self.bare
        by_kind = sorted(range(len(kinds)), key=lambda index: (list(KINDS).index(kinds[index]), index))
        first = [index for kind in KINDS for index in [i for i in by_kind if kinds[i] == kind][:12]]
        save_grid(pictures[first], 12, folder / "one-subject.png")
        save_grid(self.described[1][:48], 12, folder / "attributes.png")
        save_grid(self.pairs[1][:48], 12, folder / "two-subjects.png")
        sheets = (("attributes.png", self.described[0]), ("two-subjects.png", self.pairs[0]))
        lines = [line for name, prompts in sheets for line in (name, *(prompt.text for prompt in prompts[:48]), "")]
        (folder / "prompts.txt").write_text("\n".join(lines), encoding="utf-8")
        story = "a photo of a person with red hair and glasses next to a waterfall"
        save_grid(self.generate([story] * 12, 5_000), 12, folder / "story.png")
        views = [concept(kind, 9_000 + i).heldout_view(0) for i in range(3) for kind in KINDS]
        originals = to_signed(to_tensor(views), CPU)
        halves = zip(originals.split(12), self.restored(originals).split(12), strict=True)
        rows = [part for pair in halves for part in pair]
        save_grid(torch.cat(rows), 12, folder / "autoencoder.png")


def prompts_of(count: int, seed: str, *, pairs: float, least: int, most: int) -> list[Prompted]:
    """Make prompts that name at least `least` attributes of each subject."""
    rng = random.Random(f"quality:{seed}")
    prompts: list[Prompted] = []
    while len(prompts) < count:
        scene = draw_scene(rng, pairs=pairs)
        mentions = tuple(draw_mentions(subject, rng, least=least, most=most) for subject in scene.subjects)
        if all(len(said) >= least for said in mentions):
            prompts.append(Prompted(scene, mentions))
    return prompts


def load_pipeline() -> StableDiffusionPipeline:
    """Load the bundled base as any diffusers program would."""
    pipeline = StableDiffusionPipeline.from_pretrained(pocket.base_folder(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def percent(share: float) -> str:
    """Write a share for people."""
    return f"{100 * share:.1f} %"


def save_grid(pictures: Tensor, columns: int, path: Path) -> None:
    """Save pictures (B, 3, 64, 64) in [-1, 1] as one picture, twice their size."""
    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    sheet = Image.new("RGB", (columns * 128, -(-len(pixels) // columns) * 128))
    for index, picture in enumerate(pixels):
        image = Image.fromarray(picture).resize((128, 128), Image.Resampling.NEAREST)
        sheet.paste(image, (index % columns * 128, index // columns * 128))
    sheet.save(path)


ROWS = {
    "autoencoder": Bench.autoencoder,
    "judge": Bench.judge_on_renders,
    "class": Bench.class_only,
    "attributes": Bench.attributes,
    "pairs": Bench.two_subjects,
    "distance": Bench.distance,
    "speed": Bench.speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=int, default=200, help="pictures a figure; of the classes alone four times as many"
    )
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="what is drawn with, but where figures say")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--grids", type=Path, help="also write sample grids into this folder")
    parser.add_argument("--weights", type=Path, help="measure these weights instead of the bundled ones")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    if options.weights:
        bundle.WEIGHTS = options.weights
    bench = Bench(options.pictures, options.guidance)
    figures = []
    print("| figure | measured | bar | |\n|---|---|---|---|")
    for row in options.only:
        for figure in ROWS[row](bench):
            figures.append(figure)
            verdict = "" if not figure.bar else "holds" if figure.holds else "falls short"
            print(f"| {figure.name} | {figure.value} | {figure.bar} | {verdict} |", flush=True)
    if options.grids:
        bench.grids(options.grids)
    if options.json:
        options.json.write_text(json.dumps([vars(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
