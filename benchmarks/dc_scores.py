"""What continued adapters keep, and whether diffusion-classifier scores tell what they should.

    python benchmarks/dc_scores.py --workspace DIR              # 4 concepts; lora, ewc, ewc-dc and dsc

The denoising loss of each concept's training pictures when it had just been learned, and after the last concept: what
was forgotten. And two checks of "Mining your own secrets", section 4.3. Figure 7: after each concept, every training
picture so far is classified by its scores (eq. 3, averaged over many noises and times) among the prompts of all
concepts so far. Figure 6: the largest eigenvalues of the Fisher matrix of one target's factors, with the scores in the
loss (eq. 5) and without, over the same batches. What is learned stays in the workspace, and a second run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conceptctl import families, pocket
from conceptctl.config import TrainConfig
from conceptctl.learning.examples import Examples
from conceptctl.methods.ewc_dc import Config
from conceptctl.presets import preset_of
from conceptctl.store import base
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.bench.classifier_scores import accuracies, eigenvalues
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from conceptctl.workflows.model import apply_concepts, load_base
from conceptctl.workflows.reference_samples import recipe_of

CPU = torch.device("cpu")
LOSS_BATCHES, PICTURES = 12, 12


def setting(pair: str) -> tuple[str, float]:
    """Read NAME=VALUE."""
    name, _, text = pair.partition("=")
    return name, float(text)


def learned_store(root: Path, method: str, concepts: Sequence[Any], steps: int, settings: dict[str, Any]) -> Store:
    """Learn a sequence of concepts in a store of its own, or find it."""
    folder = root / method
    source = base.inspect(pocket.base_folder(), families.recognized(pocket.base_folder()).FAMILY)
    store = Store(folder) if folder.exists() else Store.create(folder, source, "pocket")
    known = {each.name for each in store.head().concepts}
    for concept in concepts:
        if concept.name not in known:
            request = Request(
                folder=root / "concepts" / concept.name / "train",
                name=concept.name,
                class_word=concept.kind,
                train=TrainConfig(method=method, steps=steps),
                reference_samples=0,
                settings=settings,
            )
            learn(store, request, device="cpu")
    return store


class Model:
    """A store's model and its concepts, with the pictures that each was learned from."""

    def __init__(self, store: Store, concepts: Sequence[Any], generation: int | None = None) -> None:
        self.store, self.concepts = store, concepts
        self.head = store.head() if generation is None else store.generation(generation)
        self.backbone = load_base(store, self.head, "cpu")
        self.weights = apply_concepts(store, self.head, self.backbone)
        self.backbone.freeze()
        self.records = [read_record(store.blob(each)) for each in self.head.concepts]
        self.prompts = [recipe_of(each, self.head.base).prompt_for(each.name) for each in self.records]

    def examples(self, index: int) -> Examples:
        """The latents of a concept's training pictures."""
        pictures = [self.concepts[index].training_view(number) for number in range(12)]
        latents = self.backbone.encode(pictures)
        return Examples(latents, [self.prompts[index]] * len(latents), len(latents))

    @torch.no_grad()
    def loss(self, index: int) -> float:
        """The denoising loss of a concept's training pictures, over fixed noises and times."""
        objective = self.backbone.objective(Config().schedule(0).plain(1).noising())
        latents, generator = self.examples(index).latents, torch.Generator().manual_seed(0)
        condition = self.backbone.conditions(self.prompts, ()).of_prompt(
            self.prompts[index], torch.arange(len(latents))
        )
        losses = []
        for _ in range(LOSS_BATCHES):
            noised = objective.corrupt(latents, generator)
            losses.append(objective.errors(objective.predict(noised, condition), noised).mean().item())
        return float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--concepts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=11, help="which sequence of concepts")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=["lora", "ewc", "ewc-dc", "dsc"])
    parser.add_argument("--set", nargs="+", type=setting, default=[], help="settings of the methods, NAME=VALUE")
    parser.add_argument("--trials", type=int, default=64, help="noises and times that a score is averaged over")
    parser.add_argument("--batches", type=int, default=60, help="of the Fisher matrices")
    options = parser.parse_args()
    concepts = pocket.sequence(options.concepts, options.seed)
    folder = options.workspace / "concepts"
    if not folder.exists():
        list(pocket.write_folders(concepts, folder, heldout=0))
    found: dict[str, Any] = {}
    for method in options.methods:
        store = learned_store(options.workspace, method, concepts, options.steps, dict(options.set))
        model = Model(store, concepts)
        losses: dict[str, list[float]] = {"after_learning": [], "current": []}
        shares = []
        for index in range(len(concepts)):
            then = Model(store, concepts, index + 1)
            pictures = [then.examples(which) for which in range(index + 1)]
            each = accuracies(then.backbone, then.prompts, pictures, options.trials, PICTURES)
            shares.append((float(np.mean(each)), each))
            losses["after_learning"].append(then.loss(index))
            losses["current"].append(model.loss(index))
        found[method] = {
            "accuracy": [mean for mean, _ in shares],
            "of_each": [each for _, each in shares],
            "losses": losses,
        }
        print(method, json.dumps(losses), flush=True)
        right = ", ".join(f"{100 * mean:.0f} %" for mean, _ in shares)
        print(f"{method}: training pictures classified after each concept: {right}", flush=True)
        if method.startswith("ewc"):
            last = model.examples(len(concepts) - 1)
            found[method]["eigenvalues"] = eigenvalues(
                store, model.backbone, model.weights, preset_of(store.head().base), {}, last, options.batches
            )
            print(json.dumps(found[method]["eigenvalues"]), flush=True)
    (options.workspace / "dc-scores.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
