"""One cell, from an empty store to its results; a run that was killed goes on from what is on the disk."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conceptctl
from conceptctl.config import Drawing
from conceptctl.errors import StoreDamaged
from conceptctl.presets import preset_of
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import now
from conceptctl.store.store import Store
from conceptctl.workflows import model, reference_samples
from conceptctl.workflows.bench import measures
from conceptctl.workflows.bench.cell import RESULTS, Tell
from conceptctl.workflows.bench.cells import DRAWN, STORE, ConceptCell, copy_store, train_config
from conceptctl.workflows.bench.noted import program, read_noted, write_file, write_json, write_results
from conceptctl.workflows.bench.sequences import Item, items_of
from conceptctl.workflows.bench.weights_used import weights_used
from conceptctl.workflows.drawing import draw_set
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.examples import Examples

LEARNED = "learned"
SHOWN = 6
"""Pictures of a concept that are kept to be looked at."""
SIDE = 128
"""Pixels that one of them is wide at most."""
PAIR_PICTURES = 8
STARTS = "starts.jsonl"
CHECKS, FISHER = "checks", "fisher"


class ConceptRun:
    """One run of a cell."""

    def __init__(self, cell: ConceptCell, home: Path, device: str, tell: Tell) -> None:
        from conceptctl.diffusion.models import choose_device

        self.cell, self.home, self.tell = cell, home, tell
        (home / DRAWN).mkdir(exist_ok=True)
        if cell.classified or cell.fisher:
            (home / CHECKS).mkdir(exist_ok=True)
        self.device = choose_device(device)
        self.items = items_of(cell.folder, cell.concepts)
        self.base = Store(cell.base).head().base
        # Of a row whose times are compared somebody may ask how often it was interrupted.
        start = {"pid": os.getpid(), "host": platform.node(), "time": now(), "program": program()}
        with (home / STARTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(start) + "\n")

    @cached_property
    def extractor(self) -> Any:
        """What makes the features that are compared."""
        from conceptctl.workflows.extractor import open_extractor

        return open_extractor(self.base, self.cell.feature_extractor, self.device)

    @cached_property
    def judge(self) -> Any:
        """What reads pictures of the bundled world; None for others."""
        return measures.open_judge(self.base)

    def whole(self) -> None:
        """Go through the sequence."""
        for index, item in enumerate(self.items):
            self.tell(f"{self.cell.name}: {item.name}", index)
            store = self.store_of(item)
            seconds = self._learn(store, item)
            uid = store.concept(item.name).uid
            generation = store.generation(reference_samples.introduced_in(store)[uid])
            load = partial(model.load, store, generation, str(self.device))
            self.draw(load, [item], LEARNED, {"seconds": seconds})
            if index + 1 in self.cell.evaluations:
                self.tell(f"{self.cell.name}: drawing all {index + 1}", index + 1)
                self.draw(load, self.items[: index + 1], _after(index + 1))
                if self.cell.classified:
                    self._classify(load, self.items[: index + 1])
        self.tell(f"{self.cell.name}: comparing", len(self.items))
        pairs = self._pairs() if self.cell.pairs else None
        if self.cell.fisher and not self._checked(FISHER).exists():
            write_json(self._checked(FISHER), self._eigenvalues())
        self.finish(pairs)

    def store_of(self, item: Item) -> Store:
        """The store in which a concept is learned: one for all, or one of its own."""
        place = self.home / "stores" / item.name if self.cell.alone else self.home / STORE
        place.parent.mkdir(exist_ok=True)
        return copy_store(self.cell.base, place)

    def request(self, item: Item) -> Request:
        """What is asked of `learn`."""
        return Request(
            item.train,
            item.name,
            item.class_word,
            train=train_config(self.cell.method, self.cell, self.cell.seed),
            settings=self.cell.settings,
            mixed_precision=self.cell.precision,
            reference_samples=0,
            feature_extractor=self.cell.feature_extractor,
        )

    def _learn(self, store: Store, item: Item) -> float | None:
        """Learn a concept where it is not there yet; how long that took is known of this run only."""
        if store.head().concept(item.name) is not None:
            return None
        made = learn(store, self.request(item), device=str(self.device), watch=Watch())
        return made.seconds if made and not made.resumed else None

    def draw(
        self, load: Callable[[], Backbone], items: Sequence[Item], when: str, more: dict[str, Any] | None = None
    ) -> None:
        """Draw concepts with one model, those that have not been; keep features and what the judge says.

        Args:
            load: Loads the model.
            items: The concepts; what was learned last has been drawn with this model already, but for `LEARNED`.
            when: Under what name that is kept.
            more: What else is kept of each.
        """
        missing = [item for item in items if not self._path(item, when).exists()]
        backbone: Backbone | None = None
        for item in missing:
            if when != LEARNED and item is self.items[len(items) - 1]:
                # It has just been drawn with the same generation.
                found, features = self._said(item, LEARNED), self._features(item, LEARNED)
                found.pop("seconds", None)
            else:
                backbone = backbone or load()
                pictures = self._pictures(backbone, self.recipe(item).prompt_for(item.name), self.cell.pictures)
                features = self.extractor.images(pictures)
                found = {**measures.judged(self.judge, item.subject, pictures), **(more or {})}
                self._show(pictures, f"{item.name}-{when}")
            self._keep(item, when, found, features)

    def recipe(self, item: Item) -> reference_samples.Recipe:
        """How a concept's pictures are drawn."""
        store = self.store_of(item)
        record = read_record(store.blob(store.concept(item.name)))
        return reference_samples.recipe_of(record, self.base)

    def _pictures(self, backbone: Backbone, prompt: Any, count: int) -> list[Image.Image]:
        sample = backbone.sampler(prompt, Drawing(self.cell.sampling_steps, self.cell.guidance))
        return list(draw_set(sample, count))

    def _show(self, pictures: Sequence[Image.Image], name: str, *, made: bool = True) -> None:
        """Keep some pictures side by side, as one small file that says where a model made them."""
        from PIL import Image

        from conceptctl.images.contact_sheet import contact_sheet
        from conceptctl.images.writing import encoded

        size = (SIDE, SIDE)
        shown = [
            each if max(each.size) <= SIDE else each.resize(size, Image.Resampling.LANCZOS) for each in pictures[:SHOWN]
        ]
        sheet = contact_sheet(shown, columns=len(shown))
        write_file(self.home / DRAWN / f"{name}.png", encoded(sheet, "PNG", noted=made))

    def _path(self, item: Item, when: str) -> Path:
        return self.home / DRAWN / f"{item.name}-{when}.json"

    def _keep(self, item: Item, when: str, found: dict[str, Any], features: Tensor) -> None:
        from safetensors.torch import save

        write_file(self._path(item, when).with_suffix(".safetensors"), save({"features": features.contiguous()}))
        # It comes last: where it is, all is.
        write_json(self._path(item, when), found)

    def _said(self, item: Item, when: str, *more: str) -> dict[str, Any]:
        return read_noted(self._path(item, when), "success", "attributes", *more)

    def _features(self, item: Item, when: str) -> Tensor:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(item, when).with_suffix(".safetensors")
        try:
            return load_file(path)["features"]
        except (FileNotFoundError, SafetensorError, KeyError) as error:
            hint = f"take {path.with_suffix('.json')} away: the concept is drawn again"
            raise StoreDamaged(f"{path}: {error}", hint=hint) from None

    @cached_property
    def heldout(self) -> dict[str, Tensor]:
        """Features of each concept's held-out pictures."""
        from conceptctl.workflows.evaluate.heldout import read_pictures

        store = Store(self.cell.base)
        found = read_pictures(store, store.head(), {item.name: item.heldout for item in self.items}).pictures
        for name, pictures in found.items():
            self._show(pictures, f"{name}-heldout", made=False)
        return {name: self.extractor.images(pictures) for name, pictures in found.items()}

    def figures(self, item: Item, when: str) -> dict[str, float | None]:
        """A concept's figures, of when its pictures were drawn."""
        plain = self.recipe(item).plain(item.class_word)
        said = self._said(item, when)
        return {
            **measures.figures(
                self.heldout[item.name],
                self._features(item, LEARNED),
                self._features(item, when),
                self.extractor.texts([plain]) if plain else None,
            ),
            **{name: said[name] for name in ("success", "attributes")},
        }

    def _pairs(self) -> dict[str, float | None]:
        """Draw neighbours in the sequence together, and compare with each of the two (003, table 6)."""
        from conceptctl.metrics.continual import mean
        from conceptctl.workflows.generate.compose import compose

        store = self.store_of(self.items[0])
        backbone = model.load(store, store.head(), str(self.device))
        found: list[dict[str, float | None]] = []
        for pair in list(zip(self.items, self.items[1:], strict=False))[: self.cell.pairs]:
            self.tell(f"{self.cell.name}: {pair[0].name} and {pair[1].name}", len(self.items))
            prompt = "a photo of " + " next to ".join(f"V*{item.name}" for item in pair)
            composed = compose(store, store.head(), prompt, [item.name for item in pair])
            pictures = self._pictures(backbone, composed, PAIR_PICTURES)
            self._show(pictures, f"pair-{pair[0].name}-{pair[1].name}")
            features = self.extractor.images(pictures)
            each = [measures.figures(self.heldout[item.name], features, features) for item in pair]
            found.append(
                {
                    **{name: mean(figures[name] for figures in each) for name in ("A_mmd", "kid", "clip_i2i")},
                    "both": measures.judged_pair(self.judge, [item.subject for item in pair], pictures),
                }
            )
        return {name: mean(each[name] for each in found) for name in found[0]}

    def _checked(self, name: str) -> Path:
        return self.home / CHECKS / f"{name}.json"

    def _classify(self, load: Callable[[], Backbone], items: Sequence[Item]) -> None:
        """Classify the training pictures of concepts by their scores, with the model of now."""
        from conceptctl.workflows.bench.classifier_scores import accuracies

        path = self._checked(f"classified-{_after(len(items))}")
        if path.exists():
            return
        self.tell(f"{self.cell.name}: classifying {len(items)}", len(items))
        backbone = load()
        pictures = [self._examples(backbone, item) for item in items]
        prompts = [self.recipe(item).prompt_for(item.name) for item in items]
        write_json(path, {"right": accuracies(backbone, prompts, pictures, self.cell.classified, self.cell.batch_size)})

    def _eigenvalues(self) -> dict[str, Any]:
        """The largest eigenvalues of the Fisher matrix, after the last concept."""
        from conceptctl.workflows.bench.classifier_scores import eigenvalues

        self.tell(f"{self.cell.name}: measuring the Fisher matrix", len(self.items))
        store = self.store_of(self.items[-1])
        backbone = model.load_base(store, store.head(), str(self.device))
        weights = model.apply_concepts(store, store.head(), backbone)
        backbone.freeze()
        examples = self._examples(backbone, self.items[-1])
        config, preset = self.cell.content["config"], preset_of(self.base)
        return eigenvalues(store, store.head(), backbone, weights, preset, config, examples, self.cell.fisher)

    def _examples(self, backbone: Backbone, item: Item) -> Examples:
        """A concept's training pictures, under its prompt."""
        from conceptctl.learning.backbone import Crop
        from conceptctl.workflows.learn.dataset import gather
        from conceptctl.workflows.learn.images import check_pictures

        store = self.store_of(item)
        pictures = check_pictures(store, store.head(), self.request(item), Watch()).pictures
        crops = [Crop.middle(picture.size, picture.bucket) for picture in pictures]
        prompts = [[self.recipe(item).prompt_for(item.name)]] * len(pictures)
        shown = [picture.image() for picture in pictures]
        return gather(backbone, shown, prompts, crops, flip=False, auxiliary=None)

    def _checks(self) -> dict[str, Any]:
        """What was found of classifier scores, where the spec asks for it."""
        found: dict[str, Any] = {}
        if self.cell.classified:
            found["classified"] = [
                {"after": after, **read_noted(self._checked(f"classified-{_after(after)}"), "right")}
                for after in self.cell.evaluations
            ]
        if self.cell.fisher:
            found["fisher"] = read_noted(self._checked(FISHER), "without", "with")
        return found

    def tasks(self) -> list[dict[str, Any]]:
        """What each concept took."""
        used = weights_used([self.store_of(item) for item in self.items], [item.name for item in self.items])
        return [
            {**task, "seconds": self._said(item, LEARNED, "seconds")["seconds"]}
            for item, task in zip(self.items, used, strict=True)
        ]

    def finish(self, pairs: dict[str, float | None] | None = None) -> None:
        """Write everything that a report needs, as plain data."""
        from conceptctl.workflows.evaluate.figures import kernel_settings

        starts = list(_whole_lines((self.home / STARTS).read_text(encoding="utf-8")))
        results = {
            "cell": {"key": self.cell.key, **self.cell.content},
            "concepts": [{"name": item.name, "class": item.class_word} for item in self.items],
            "learned": [self.figures(item, LEARNED) for item in self.items],
            "evaluations": [
                {"after": after, "figures": [self.figures(item, _after(after)) for item in self.items[:after]]}
                for after in self.cell.evaluations
            ],
            "pairs": pairs,
            **self._checks(),
            "tasks": self.tasks(),
            "kernel": kernel_settings(self.extractor.width),
            "extractor": {"name": self.extractor.name, "sha256": self.extractor.sha256},
            "device": str(self.device.type),
            # Starts of earlier versions do not say.
            "program": "; ".join(dict.fromkeys(each.get("program", conceptctl.__version__) for each in starts)),
            "starts": len(starts),
            "finished": now(),
        }
        write_results(self.home / RESULTS, results)


def _whole_lines(text: str) -> Iterator[dict[str, Any]]:
    """What lines of JSON say; one that a power cut has left half written says nothing."""
    for line in text.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _after(count: int) -> str:
    return f"after-{count:04d}"
