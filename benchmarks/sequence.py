"""Concepts in sequence on the bundled base: what each method learns, keeps, and forgets.

    python benchmarks/sequence.py --workspace DIR                      # ten: the default, TI++, LoRA, each alone
    python benchmarks/sequence.py --workspace DIR --methods stamina    # one of them
    python benchmarks/sequence.py --workspace DIR --methods stamina-anchored alone --alone-from 6    # room later?
    python benchmarks/sequence.py --workspace DIR --only-report

Each method learns the same sequence in a store of its own; "alone" is one model for each concept, trained
from the base. Everything that is done is kept in the workspace, so an interrupted run goes on where it was; a workspace
belongs to one version of the base and of this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import judged
import torch
from judged import CPU
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from conceptctl import families, pocket
from conceptctl.config import TrainConfig
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.learning.backbone import Backbone, Noising
from conceptctl.metrics.diversity import diversity
from conceptctl.metrics.mmd import mmd, noise_floor
from conceptctl.pocket import bundle, judge
from conceptctl.pocket.train.data import to_signed, to_tensor
from conceptctl.pocket.train.unet import SNR_CAP
from conceptctl.pocket.world.concepts import Concept, sequence, write_folders
from conceptctl.pocket.world.kinds import DETAILS
from conceptctl.store import base
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate.weight_history import follow
from conceptctl.workflows.extractor import open_extractor
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn
from conceptctl.workflows.model import load, load_base
from conceptctl.workflows.reference_samples import introduced_in, recipe_of

ALONE = "alone"
AFTER_LEARNING, CURRENT = "after_learning", "current"
"""When a concept is judged: just after it was learned, and at the end of the sequence."""
PAIRS = 8
"""Pairs of neighbours in the sequence that are drawn together at the end."""
OPENING = "a photo of "
OWN = ("person", "waterfall", "cat")
"""Of these the base draws pictures of its own, to see what learning does to them."""
HELDOUT = 40
"""Held-out pictures of each concept."""
OWN_PICTURES = 8
"""Of each class."""
MEANS = {"judge": "success", "attributes": "attributes", "details": "details", "loss": "loss"}
"""What is averaged over concepts, by what it is called in the table."""
NOISES = 4
"""How often each picture is made noisy where its denoising loss is measured."""


@dataclass(frozen=True)
class Judged:
    """What the judge finds in a set of pictures of one concept."""

    success: float
    """The share of pictures that show it."""
    attributes: float
    """The share of its attributes, those that show, that are read right."""
    details: float
    """The share of its unseen details and their colours that are read right."""

    @classmethod
    def of(cls, reader: Any, pictures: list[Image.Image], concept: Concept) -> Judged:
        readings = judged.read(reader, pictures)
        right = judged.attributes_right(readings, concept)
        return cls(
            statistics.mean(reading.shows(concept.subject) for reading in readings),
            statistics.mean(ok for _, ok in right),
            statistics.mean(ok for name, ok in right if name.startswith(DETAILS)),
        )


def to_pictures(kept: Tensor) -> list[Image.Image]:
    """The pictures of a uint8 tensor (B, 3, 64, 64)."""
    return [Image.fromarray(each) for each in kept.permute(0, 2, 3, 1).numpy()]


class Bench:
    """One sequence, and what is known about it so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root: Path = options.workspace
        self.root.mkdir(parents=True, exist_ok=True)
        self.concepts = sequence(options.concepts, options.seed)
        self.pairs = list(zip(self.concepts, self.concepts[1:], strict=False))[:PAIRS]
        self.data = self.root / "data"
        if not (self.data / "concepts.json").exists():
            list(write_folders(self.concepts, self.data))
        self.folder = pocket.base_folder()
        self.judge = pocket.load_judge()
        # What another judge said is asked for again; another way of looking makes another judge too.
        parts = (bundle.WEIGHTS / bundle.JUDGE_FILE, Path(judge.__file__))
        self.judge_is = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]

    @cached_property
    def extractor(self) -> Any:
        return open_extractor(self._store("features").head().base, None, CPU)

    def _store(self, name: str) -> Store:
        root = self.root / name
        return (
            Store(root)
            if (root / "FORMAT").exists()
            else Store.create(root, base.inspect(self.folder, families.recognized(self.folder).FAMILY), "pocket")
        )

    def _store_of(self, method: str, index: int) -> Store:
        """Where a method learns the concept at a place of the sequence."""
        return self._store(f"alone-{index}" if method == ALONE else method)

    def _learned_by(self, method: str) -> list[tuple[int, Concept]]:
        """The concepts that a method learns, with their places in the sequence."""
        first = self.options.alone_from - 1 if method == ALONE else 0
        return list(enumerate(self.concepts))[first:]

    def learn_all(self, method: str) -> None:
        for index, concept in self._learned_by(method):
            store = self._store_of(method, index)
            if store.head().concept(concept.name) is None:
                self._learn(store, concept, method)
            # As it was then, also where what the judge says of it is asked for again later.
            learned = store.generation(introduced_in(store)[store.concept(concept.name).uid])
            self._draw(store, learned, concept, self._stem(method, concept, AFTER_LEARNING))

    def _learn(self, store: Store, concept: Concept, method: str) -> None:
        name = self.options.alone_method if method == ALONE else method
        request = Request(
            self.data / concept.name / "train",
            concept.name,
            concept.kind,
            train=TrainConfig(method=name, seed=self.options.training_seed, steps=self.options.steps),
            settings=dict(self.options.set) if name.startswith("stamina") else {},
            reference_samples=1,
            mixed_precision=self.options.mixed_precision,
        )
        made = learn(store, request, device=self.options.device, watch=Watch(warn=print))
        print(f"{method}: learned {concept.name} in {made.seconds:.0f} s", flush=True)

    def _stem(self, method: str, concept: Concept, when: str) -> Path:
        """What the files about a concept are called, but for their suffix."""
        return self.root / f"{method}-{concept.name}-{when}"

    def judge_again(self, method: str) -> None:
        store = self._store(method)
        for concept in self.concepts:
            self._draw(store, store.head(), concept, self._stem(method, concept, CURRENT))
        if not self.pairs:
            return
        path = self.root / f"{method}-pairs.json"
        how = {"judge": self.judge_is, "drawn": "painted in regions, with difference masks"}
        found = self._pairs_read(method)
        if not how.items() <= found.items():
            drawn = found.get("drawn") == how["drawn"]
            path.write_text(json.dumps({**self._pairs(store, method, drawn=drawn), **how}), encoding="utf-8")

    def _draw(self, store: Store, generation: Generation, concept: Concept, stem: Path) -> None:
        """Draw a concept, and keep the pictures, their features and what the judge says."""
        path = stem.with_suffix(".json")
        found = json.loads(path.read_text()) if path.exists() else {}
        if found.get("judge") == self.judge_is:
            return
        kept = load_file(stem.with_suffix(".safetensors")) if found else {}
        if "pictures" in kept:
            # Another judge reads what was drawn for the one before.
            pictures = to_pictures(kept["pictures"])
        else:
            backbone = load(store, generation, self.options.device)
            prompt = self._prompt(store, concept)
            pictures = judged.draw(backbone, prompt, self.options.pictures)
            kept = {"features": self.extractor.images(pictures), "pictures": to_tensor(pictures).contiguous()}
            save_file(kept, stem.with_suffix(".safetensors"))
            contact_sheet(pictures[:16]).save(stem.with_suffix(".png"))
            heldout = [concept.heldout_view(index) for index in range(HELDOUT)]
            found = {"loss": self._loss(backbone, heldout, [prompt] * HELDOUT), "own": self.own_losses(backbone)}
        found |= {**vars(Judged.of(self.judge, pictures, concept)), "judge": self.judge_is}
        path.write_text(json.dumps(found), encoding="utf-8")
        print(f"{stem.name}: {json.dumps(found)}", flush=True)

    def _prompt(self, store: Store, concept: Concept) -> str:
        """What a concept is drawn from: what it was learned under."""
        record = read_record(store.blob(store.concept(concept.name)))
        return recipe_of(record, store.head().base).prompt_for(concept.name)

    def untouched(self) -> Backbone:
        """The base before anything is learned."""
        store = self._store("features")
        return load_base(store, store.head(), self.options.device)

    @cached_property
    def own(self) -> tuple[list[Image.Image], list[str]]:
        """Pictures that the untouched base draws, with their prompts."""
        backbone = self.untouched()
        prompts = [f"a photo of a {kind} on a beach" for kind in OWN]
        pictures = [each for prompt in prompts for each in judged.draw(backbone, prompt, OWN_PICTURES)]
        return pictures, [each for each in prompts for _ in range(OWN_PICTURES)]

    def own_losses(self, backbone: Backbone) -> dict[str, float]:
        """The denoising loss on them, by class."""
        pictures, prompts = self.own
        parts = [slice(start, start + OWN_PICTURES) for start in range(0, len(prompts), OWN_PICTURES)]
        return {
            kind: self._loss(backbone, pictures[part], prompts[part]) for kind, part in zip(OWN, parts, strict=True)
        }

    @torch.no_grad()
    def _loss(self, backbone: Backbone, pictures: list[Image.Image], prompts: list[str]) -> float:
        """The denoising loss on pictures, min-SNR weighted, with the same noise in every call, x 10^4."""
        latents, objective = backbone.encode(pictures), backbone.objective(Noising(snr_gamma=SNR_CAP))
        generator = torch.Generator().manual_seed(0)
        condition = backbone.conditions(prompts, ()).of_examples(torch.arange(len(prompts)))
        drawn = [objective.corrupt(latents, generator) for _ in range(NOISES)]
        losses = torch.cat([objective.loss(objective.predict(noised, condition), noised) for noised in drawn])
        return 1e4 * losses.mean().item()

    def _pairs_read(self, method: str) -> dict[str, Any]:
        path = self.root / f"{method}-pairs.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        return found if isinstance(found, dict) else {}

    def _pairs(self, store: Store, method: str, *, drawn: bool) -> dict[str, float]:
        """What pictures of two neighbours of the sequence show, in the mean; they are drawn where they are not yet."""
        path = self.root / f"{method}-pairs.safetensors"
        if not (drawn and path.exists()):
            save_file({"pictures": self._pictures_of(store)}, path)
        pictures = load_file(path)["pictures"]
        found: dict[str, list[float]] = {"both": [], "classes": [], "attributes": []}
        for pair, part in zip(self.pairs, pictures, strict=True):
            subjects = [concept.subject for concept in pair]
            for reading in self.judge.read(to_signed(part, CPU)):
                there, right, asked = reading.agreement([(subject.kind, subject.shown()) for subject in subjects])
                found["both"].append(reading.shows_all(subjects))
                found["classes"].append(there)
                found["attributes"].append(right / asked)
        sheet = [picture for part in pictures for picture in to_pictures(part[:4])]
        contact_sheet(sheet).save(self.root / f"{method}-pairs.png")
        return {name: statistics.mean(values) for name, values in found.items()}

    def _pictures_of(self, store: Store) -> Tensor:
        """Draw eight pictures of each pair: uint8 (pairs, 8, 3, 64, 64)."""
        backbone = load(store, store.head(), self.options.device)
        parts = []
        for pair in self.pairs:
            prompt = OPENING + " next to ".join(f"V*{concept.name}" for concept in pair)
            composed = compose(store, store.head(), prompt, [concept.name for concept in pair])
            parts.append(to_tensor(judged.draw(backbone, composed, 8)))
        return torch.stack(parts).contiguous()

    def figures(self, method: str) -> dict[str, Any]:
        current = AFTER_LEARNING if method == ALONE else CURRENT
        concepts = [concept for _, concept in self._learned_by(method)]
        found = {
            when: [self._judged(method, concept, which) for concept in concepts]
            for when, which in ((AFTER_LEARNING, AFTER_LEARNING), (CURRENT, current))
        }
        heldout = [self._heldout(concept) for concept in concepts]
        first = [self._features(method, concept, AFTER_LEARNING) for concept in concepts]
        last = [self._features(method, concept, current) for concept in concepts]
        count = len(concepts)
        row: dict[str, Any] = {
            f"{name}_{when}": statistics.mean(each[what] for each in found[when])
            for name, what in MEANS.items()
            for when in (AFTER_LEARNING, CURRENT)
        }
        row |= {
            "own": [each["own"] for each in found[AFTER_LEARNING]],
            "noise_floor": statistics.mean(noise_floor(first[j]) for j in range(count)),
            "diversity": statistics.mean(diversity(last[j], heldout[j]) for j in range(count)),
            "A_of_each": [mmd(heldout[j], last[j]) for j in range(count)],
            "F_of_each": [mmd(first[j], last[j]) for j in range(count)],
            "P_of_each": [mmd(heldout[j], first[j]) for j in range(count)],
            **{f"judge_{when}_of_each": [each["success"] for each in found[when]] for when in found},
        }
        row |= {
            f"pairs_{name}": value for name, value in self._pairs_read(method).items() if name not in ("judge", "drawn")
        }
        row["A_mmd"], row["P_mmd"] = (statistics.mean(row[f"{which}_of_each"]) for which in "AP")
        # The last one had no time to be forgotten.
        row["F_mmd"] = statistics.mean(row["F_of_each"][:-1]) if count > 1 and method != ALONE else None
        row["distance"] = self._distances(method)
        return row | self._masks(method)

    def _distances(self, method: str) -> list[float]:
        """||W_t - W_init|| after each concept; of each alone, its own."""
        stores = [self._store(method)]
        if method == ALONE:
            stores = [self._store_of(method, index) for index, _ in self._learned_by(method)]
        known = base.tensors(stores[0].layout, stores[0].head().base)
        shapes = {place: info.shape for place, (_, _, info) in known.items()}
        steps = [step for store in stores for step in follow(store, store.head(), shapes)]
        return [step.drift.distance for step in steps if step.drift]

    def _masks(self, method: str) -> dict[str, Any]:
        stores = {concept.name: self._store_of(method, index) for index, concept in self._learned_by(method)}
        records = [read_record(store.blob(store.concept(name))) for name, store in stores.items()]
        settings = [record.settings for record in records]
        if "density" not in settings[0]:
            return {}
        return {
            "density": [each["density"] for each in settings],
            "loss_folded / loss_sampled": [each["loss_folded"] / each["loss_sampled"] for each in settings],
        }

    def _judged(self, method: str, concept: Concept, when: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._stem(method, concept, when).with_suffix(".json").read_text())
        return found

    def _features(self, method: str, concept: Concept, when: str) -> Tensor:
        return load_file(self._stem(method, concept, when).with_suffix(".safetensors"))["features"]

    def _heldout(self, concept: Concept) -> Tensor:
        pictures = [concept.heldout_view(index) for index in range(HELDOUT)]
        features: Tensor = self.extractor.images(pictures)
        return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--concepts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="which sequence; sweeps use others than benchmarks")
    parser.add_argument("--training-seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=24, help="pictures of each concept, each time")
    parser.add_argument("--methods", nargs="+", default=["stamina-anchored", "ti++", "lora", ALONE])
    parser.add_argument("--alone-method", default="stamina-anchored", help="what `alone` learns each with")
    parser.add_argument("--set", nargs="+", type=judged.setting, default=[], help="settings of STAMINA, NAME=VALUE")
    parser.add_argument("--steps", type=int, help="of every training, whatever the method; the preset's by default")
    parser.add_argument("--alone-from", type=int, default=1, help="from which concept on each is also learned alone")
    parser.add_argument("--only-report", action="store_true")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), help="what `learn` takes, if not given")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help="another base than the bundled one")
    options = parser.parse_args()
    if not 1 <= options.alone_from <= options.concepts:
        parser.error("--alone-from counts from 1 to --concepts")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.weights:
        bundle.WEIGHTS = options.weights
    bench = Bench(options)
    rows = {}
    if not options.only_report:
        print("the base's own pictures before:", json.dumps(bench.own_losses(bench.untouched())), flush=True)
    for method in options.methods:
        if not options.only_report:
            bench.learn_all(method)
            if method != ALONE:
                bench.judge_again(method)
        rows[method] = bench.figures(method)
        print(method, json.dumps(rows[method]), flush=True)
    if {options.alone_method, ALONE} <= rows.keys():
        first = options.alone_from
        later = {which: rows[options.alone_method][f"{which}_of_each"][first - 1 :] for which in "AP"}
        ratios = [ours / theirs for ours, theirs in zip(later["P"], rows[ALONE]["P_of_each"], strict=True)]
        rows[ALONE]["P_of_each in sequence / alone"] = ratios
        print(f"P_mmd in sequence / alone, from concept {first} on: {statistics.mean(ratios):.3g}")
        rows[ALONE]["A_mmd of the same in sequence"] = statistics.mean(later["A"])
        alone = rows[ALONE]["A_mmd"]
        print(f"A_mmd of the same at the end, and alone: {statistics.mean(later['A']):.3g}, {alone:.3g}")
    figures = bench.root / "figures.json"
    known = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    figures.write_text(json.dumps(known | rows, indent=2) + "\n", encoding="utf-8")
    names = [f"{what}_{when}" for what in MEANS for when in (AFTER_LEARNING, CURRENT)]
    names += ["A_mmd", "F_mmd", "P_mmd", "noise_floor", "diversity", "pairs_both", "pairs_classes", "pairs_attributes"]
    print("| method | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for method, row in rows.items():
        shown = ["-" if row.get(name) is None else f"{row[name]:.3g}" for name in names]
        print(f"| {method} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()
