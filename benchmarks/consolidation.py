"""What forgetting one, and letting one travel, does to concepts, read by the judge.

    python benchmarks/sequence.py --workspace DIR --methods stamina-anchored --concepts 6 --seed N --steps 530
    python benchmarks/consolidation.py --workspace DIR --concepts 6 --seed N [--into OTHER --other-seed M]

For the first, a middle and the last of a sequence: the others after it is forgotten, it by its old token, its class,
the base's own losses. For every concept: exported alone and imported into an empty store; with `--into`, the first and
the last also into a store of another sequence. With `--relearn I`, concept I learned again where it was forgotten, and
attacked there: a token alone learned from its pictures; beside it the same where it never was. With `--sweep`, instead
of all that, what ridges and words around a token do, without a picture. Each part is kept in the workspace, so an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import judged
import torch
from PIL import Image
from sequence import Bench, Judged

from conceptctl.config import TrainConfig
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.learning.backbone import Backbone
from conceptctl.metrics.mmd import mmd, noise_floor
from conceptctl.pocket.world.concepts import Concept, sequence
from conceptctl.store import weights
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows import consolidation
from conceptctl.workflows.consolidation import Consolidation
from conceptctl.workflows.export import export_concepts
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from conceptctl.workflows.model import load, token_rows
from conceptctl.workflows.reference_samples import recipe_of
from conceptctl.workflows.undo import plan_undo, undo
from conceptctl.workflows.usual_prompts import among_words

WORDS = ("blue", "wooden", "street", "dog", "old", "window", "two", "with", "under", "bright", "tree", "smiling")
"""What stands around a token in prompts that no solution was told of."""
LEARNED_BY = "stamina-anchored"
"""The method whose sequence it is."""


class Consolidated:
    """One sequence's stores after one or another concept left or travelled."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bench = Bench(options)
        self.learned = Store(options.workspace / LEARNED_BY)
        self.names = {concept.name: concept for concept in self.bench.concepts}

    def part(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Find something, or read what was found before."""
        path = self.options.workspace / f"consolidation-{name}.json"
        if not path.exists():
            path.write_text(json.dumps(find(), indent=1), encoding="utf-8")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        print(name, json.dumps(found), flush=True)
        return found

    def copy(self, name: str) -> Store:
        """The store with all concepts, to be changed."""
        root = self.options.workspace / name
        shutil.rmtree(root, ignore_errors=True)
        return Store(shutil.copytree(self.learned.layout.root, root))

    def prompt(self, store: Store, name: str) -> str:
        record = read_record(store.blob(store.concept(name)))
        return recipe_of(record, store.head().base).prompt_for(name)

    def look(self, backbone: Backbone, prompt: str, concept: Concept, stem: str) -> tuple[list[Image.Image], float]:
        """Draw a prompt; the pictures, and the share of them that shows a concept."""
        pictures = judged.draw(backbone, prompt, self.options.pictures)
        contact_sheet(pictures[:16]).save(self.options.workspace / f"consolidation-{stem}.png")
        return pictures, Judged.of(self.bench.judge, pictures, concept).success

    def of_all(self, store: Store, names: Mapping[str, Concept], stem: str) -> dict[str, dict[str, float]]:
        """Draw concepts of a store: success, and how far features are from those before."""
        backbone = load(store, store.head(), "cpu")
        found = {}
        for name, concept in names.items():
            pictures, success = self.look(backbone, self.prompt(store, name), concept, f"{stem}-{name}")
            features = self.bench.extractor.images(pictures)
            found[name] = {"success": success, "features": features.tolist()}
        return found

    def before(self) -> dict[str, Any]:
        """Everything as it was learned."""
        backbone = load(self.learned, self.learned.head(), "cpu")
        own = self.bench.own_losses(backbone)
        return {"concepts": self.of_all(self.learned, self.names, "before"), "own": own}

    def without(self, index: int) -> dict[str, Any]:
        """After one is forgotten."""
        gone = self.bench.concepts[index]
        store = self.copy(f"without-{index}")
        before = self.learned.concept(gone.name)
        row = weights.read_floats(self.learned.blob(before), "token")
        prompt = self.prompt(store, gone.name)
        plan = plan_forget(store, gone.name)
        forget(store, plan)
        assert plan.solved is not None
        left = {name: concept for name, concept in self.names.items() if name != gone.name}
        found: dict[str, Any] = {"concepts": self.of_all(store, left, f"without-{index}")}
        found["changed"] = {each.name: each.changed for each in plan.solved.kept}
        found |= {"left": plan.solved.left, "elsewhere": plan.solved.elsewhere}
        backbone = load(store, store.head(), "cpu")
        found["own"] = self.bench.own_losses(backbone)
        as_class, found["as its class"] = self.look(backbone, f"a photo of a {gone.kind}", gone, f"class-{index}")
        found["class features"] = self.bench.extractor.images(as_class).tolist()
        backbone.add_token(gone.name, token_rows(backbone, row))
        _, found["by its old token"] = self.look(backbone, prompt, gone, f"gone-{index}")
        return found

    def alone(self, concept: Concept) -> dict[str, Any]:
        """Exported, and imported into an empty store."""
        store = self.fresh(f"alone-{concept.name}")
        changed = self.travel(concept, store)
        return {**self.of_all(store, {concept.name: concept}, "alone")[concept.name], "changed": changed}

    def fresh(self, name: str) -> Store:
        shutil.rmtree(self.options.workspace / name, ignore_errors=True)
        return self.bench._store(name)

    def travel(self, concept: Concept, store: Store) -> float | None:
        file = self.options.workspace / f"{concept.name}.safetensors"
        file.unlink(missing_ok=True)
        (written,) = export_concepts(self.learned, [concept.name], file)
        import_concept(store, file)
        return written.changed

    def among(self, concept: Concept) -> dict[str, Any]:
        """Exported, and imported into a store of another sequence."""
        root = self.options.workspace / f"among-{concept.name}"
        shutil.rmtree(root, ignore_errors=True)
        store = Store(shutil.copytree(self.options.into / LEARNED_BY, root))
        others = {each.name: each for each in sequence(self.options.concepts, self.options.other_seed)}
        before = self.of_all(store, others, "others")
        self.travel(concept, store)
        return {
            "before": before,
            "concepts": self.of_all(store, others, f"among-{concept.name}"),
            **self.of_all(store, {concept.name: concept}, "among")[concept.name],
        }

    def relearn(self, index: int, method: str, where: str) -> dict[str, Any]:
        """Learn a concept again where it was forgotten, or for the first time where it never was.

        Args:
            index: Which.
            method: With which method.
            where: "after" it was forgotten; "never": with those before it alone; "elsewhere": in another sequence's.
        """
        concept = self.bench.concepts[index]
        source = self.options.into if where == "elsewhere" else self.options.workspace
        store = self.copy_of(source / LEARNED_BY, "again")
        if where == "after":
            forget(store, plan_forget(store, concept.name))
        elif where == "never":
            undo(store, plan_undo(store, to=index))
        request = Request(
            self.bench.data / concept.name / "train",
            "again",
            concept.kind,
            train=TrainConfig(method=method, steps=self.options.steps),
            reference_samples=1,
        )
        assert learn(store, request, device="cpu") is not None
        backbone = load(store, store.head(), "cpu")
        _, success = self.look(backbone, self.prompt(store, "again"), concept, f"again-{index}-{method}-{where}")
        return {"success": success, "curve": read_record(store.blob(store.concept("again"))).loss_curve}

    def copy_of(self, source: Path, name: str) -> Store:
        root = self.options.workspace / name
        shutil.rmtree(root, ignore_errors=True)
        return Store(shutil.copytree(source, root))

    def of_class(self, kind: str, *, learned: bool) -> dict[str, Any]:
        """What is drawn of a class by the untouched base, with other seeds too, or by the store with all concepts."""
        backbone = load(self.learned, self.learned.head(), "cpu") if learned else self.bench.untouched()
        count = self.options.pictures if learned else 2 * self.options.pictures
        pictures = judged.draw(backbone, f"a photo of a {kind}", count)
        return {"features": self.bench.extractor.images(pictures).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where sequence.py kept everything")
    parser.add_argument("--concepts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=24, help="of each prompt")
    parser.add_argument("--into", type=Path, help="the workspace of another sequence")
    parser.add_argument("--other-seed", type=int, default=0)
    parser.add_argument("--relearn", type=int, nargs="*", default=[], help="which to learn again, and to attack")
    parser.add_argument("--steps", type=int, default=530, help="of learning again")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--forget", type=int, nargs="+", help="which; the first, a middle and the last by default")
    options = parser.parse_args()
    options.device = "cpu"
    run = Consolidated(options)
    concepts = run.bench.concepts
    if options.sweep:
        sweep(run.learned, concepts)
        return
    before = run.part("before", run.before)
    for index in options.forget or (0, len(concepts) // 2, len(concepts) - 1):
        found = run.part(f"without-{index}", lambda index=index: run.without(index))
        show(f"forgot {concepts[index].name}", before, found)
        kind = concepts[index].kind
        base = run.part(f"base-{kind}", lambda kind=kind: run.of_class(kind, learned=False))
        before_it = run.part(f"learned-{kind}", lambda kind=kind: run.of_class(kind, learned=True))
        ours, theirs = torch.tensor(found["class features"]), torch.tensor(base["features"])
        then = mmd(torch.tensor(before_it["features"]), theirs[: len(theirs) // 2])
        half = len(theirs) // 2
        spread = mmd(theirs[:half], theirs[half:])
        print(
            f"  by its old token {found['by its old token']:.0%}, as its class {found['as its class']:.0%}; "
            f"a {kind} from the base's {mmd(ours, theirs[:half]):.3g}, before {then:.3g} (its own spread {spread:.3g})"
        )
        changes = [found["own"][kind] / value - 1 for kind, value in before["own"].items()]
        print(f"  the base's own losses: {', '.join(f'{each:+.1%}' for each in changes)}")
    places = ("never", "after", *(["elsewhere"] if options.into else []))
    for index, method, where in itertools.product(options.relearn, (LEARNED_BY, "ti++"), places):
        name = f"again-{index}-{method}-{where}"
        found = run.part(name, lambda index=index, method=method, where=where: run.relearn(index, method, where))
        print(f"  {name}: {found['success']:.0%}, half-way after {halfway(found['curve']):.0%} of the steps")
    for concept in concepts:
        found = run.part(f"alone-{concept.name}", lambda concept=concept: run.alone(concept))
        was = before["concepts"][concept.name]["success"]
        print(f"  {concept.name} alone: {was:.0%} -> {found['success']:.0%}")
    for concept in (concepts[0], concepts[-1]) if options.into else ():
        found = run.part(f"among-{concept.name}", lambda concept=concept: run.among(concept))
        was = before["concepts"][concept.name]["success"]
        print(f"  {concept.name} among six others: {was:.0%} -> {found['success']:.0%}")
        show("  the others", {"concepts": found["before"]}, found)


def halfway(curve: list[float]) -> float:
    """The share of a run after which half of what its loss falls by, in the mean of five points, has fallen."""
    smooth = [statistics.mean(curve[max(0, at - 2) : at + 3]) for at in range(len(curve))]
    middle = (smooth[0] + smooth[-1]) / 2
    return next(at for at, value in enumerate(smooth) if value <= middle) / len(smooth)


def sweep(store: Store, concepts: list[Concept]) -> None:
    """Forget the first with other settings: how much keys and values change, also of prompts that nothing held."""
    gone = store.concept(concepts[0].name)
    print(
        "| ridge | words around | the others | among words | the forgotten | ... | any other prompt | change / base |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for words in (0.0, 0.5, 1.0):
        consolidation.CONTEXTS = words or 1e-9
        solver = Consolidation(store, store.head())
        text = solver.prompts.text
        asked = {each.uid: among_words(WORDS, f"V*{each.name}", 48) for each in store.head().concepts}
        unseen = {uid: text.hidden_states(texts)[0].flatten(0, 1) for uid, texts in asked.items()}
        for ridge in (1.0, 0.1, 0.01, 0.001):
            consolidation.RIDGE = ridge
            solved = solver.without({gone.uid})
            measured = consolidation.Measured()
            for path, after in solved.weights.items():
                now, untouched = solver.current_weight(path), solver.base_weight(path)
                for uid, states in unseen.items():
                    start = untouched if uid == gone.uid else now
                    measured.add(uid, start, torch.from_numpy(after), states)
                measured.add("size", untouched, torch.from_numpy(after), torch.eye(untouched.shape[1]))
            others = statistics.mean(each.changed for each in solved.kept)
            among = statistics.mean(measured.share(uid) for uid in unseen if uid != gone.uid)
            figures = (others, among, solved.left or 0.0, measured.share(gone.uid), solved.elsewhere)
            shown = " | ".join(f"{100 * each:.1f} %" for each in figures)
            print(f"| {ridge:g} | {words:g} | {shown} | {measured.share('size'):.1f} |", flush=True)


def show(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Print what became of concepts."""
    print(what)
    changes = []
    for name, found in after["concepts"].items():
        was = before["concepts"][name]
        first, last = torch.tensor(was["features"]), torch.tensor(found["features"])
        changes.append(found["success"] - was["success"])
        print(
            f"  {name}: {was['success']:.0%} -> {found['success']:.0%}, F_mmd {mmd(first, last):.3g} "
            f"(noise floor {noise_floor(first):.3g})"
        )
    print(f"  mean change {100 * statistics.mean(changes):+.1f} points", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
