"""Where a training should end: the fixed losses, the held-out loss and the judge's success of one, every so many steps.

    python benchmarks/stopping.py --workspace DIR person:556 waterfall:557             # to the bound, and judged
    python benchmarks/stopping.py --workspace DIR person:556 --auto                    # as `--steps auto` ends it
    python benchmarks/stopping.py --workspace DIR mixed:555                            # thirty different things
    python benchmarks/stopping.py --workspace DIR --replay --settled 0.05 0.1 0.2      # the rule on the curves kept

A training without `--auto` is looked at as `--steps auto` looks at it, with the same learning rates, but the rule never
finds that it has settled: so the rule, with other constants too, can be replayed on its curve. What it would have kept
had its rates fallen to nothing there, only `--auto` shows. All on the bundled base, each concept alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import judged
import torch
from PIL import Image

from conceptctl import families, pocket
from conceptctl.config import TrainConfig
from conceptctl.learning import stopping
from conceptctl.learning.loop import Listener, train
from conceptctl.learning.stopping import FixedSet, Look, StoppingRule
from conceptctl.pocket.world.concepts import Concept, concept, write_folders
from conceptctl.presets import preset_of, shipped
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.learn.model import load_model
from conceptctl.workflows.learn.prepared import Prepared, prepare
from conceptctl.workflows.learn.request import Request, Watch, make_method
from conceptctl.workflows.learn.run import dataset_of, resume, task_of

HELDOUT, HELDOUT_SAMPLES = 16, 48
MIXED = "mixed"
"""In a kind's place: one picture of each of thirty different things."""
MIXED_PICTURES = 30


def folder_of(root: Path, kind: str, seed: int) -> tuple[Path, Concept | None]:
    """The pictures of a concept, written where they are not yet."""
    if kind == MIXED:
        folder = root / f"{MIXED}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        kinds = shipped()["pocket"].learn.classes
        for index in range(MIXED_PICTURES):
            path = folder / f"{index:02}.png"
            if not path.exists():
                concept(kinds[index % len(kinds)], 1000 * seed + index).training_view(0).save(path)
        return folder, None
    found = concept(kind, seed)
    folder = root / f"{kind}-{seed}"
    if not folder.exists():
        list(write_folders([found], folder))
    return folder / found.name / "train", found


class Curve:
    """One training, watched."""

    def __init__(self, options: argparse.Namespace, kind: str, seed: int) -> None:
        self.options, self.kind, self.seed = options, kind, seed
        self.folder, self.concept = folder_of(options.workspace / "data", kind, seed)
        self.judge = pocket.load_judge() if self.concept else None
        self.rows: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        options = self.options
        root = options.workspace / "store"
        folder = pocket.base_folder()
        store = (
            Store(root)
            if (root / "FORMAT").exists()
            else Store.create(root, base.inspect(folder, families.recognized(folder).FAMILY), "pocket")
        )
        request = Request(
            self.folder,
            f"c{self.seed}",
            "" if self.concept is None else self.kind,
            train=TrainConfig(method=options.method, seed=options.training_seed),
            settings={"steps": options.steps, "stopping": "auto", **dict(options.set)},
            reference_samples=0,
            mixed_precision=options.mixed_precision,
        )
        with store.writing("learn") as writer:
            preset = preset_of(writer.head.base)
            method = make_method(request, preset)
            prepared = prepare(store, writer.head, request, preset, method, "cpu", Watch(warn=print))
            resumed = resume(prepared, writer)
            model = load_model(prepared, writer, resumed)
            backbone = model.backbone
            start = backbone.token_start(request.class_word)
            token_id = backbone.add_token(request.name, start)
            dataset = dataset_of(prepared, model)
            task = task_of(prepared, model, token_id, start)
            trainable = method.attach(task)
            listener = Listener(preview=self._watcher(prepared, backbone, token_id), preview_steps=options.every)
            began = time.process_time()
            state = train(
                backbone,
                [token_id],
                method,
                task,
                trainable,
                dataset.examples,
                accelerator=prepared.accelerator,
                listener=listener,
            )
            resumed.job.finish() if resumed.job else None
        assert state.stopping is not None
        outcome = StoppingRule.restored(state.stopping).outcome()
        return {
            "concept": f"{self.kind}:{self.seed}",
            "auto": options.auto,
            "method": options.method,
            "settings": dict(options.set),
            "rule": state.stopping,
            "outcome": [outcome.reason, outcome.steps, outcome.kept.step],
            "watched": self.rows,
            "cpu_seconds": time.process_time() - began,
        }

    def _watcher(self, prepared: Prepared, backbone: Any, token_id: int) -> Any:
        """What is asked every so many steps, with what is learned so far in place."""
        fixed = conditions = None
        if self.concept:
            pictures: list[Image.Image] = [self.concept.heldout_view(index) for index in range(HELDOUT)]
            objective = backbone.objective(prepared.method.config.schedule(0).noising())
            fixed = FixedSet.of(objective, torch.arange(HELDOUT), backbone.encode(pictures), HELDOUT_SAMPLES)

        def watch(step: int) -> None:
            nonlocal conditions
            if not (fixed and self.concept):
                return
            conditions = conditions or backbone.conditions([prepared.prompt] * HELDOUT, [token_id])
            row: dict[str, Any] = {"step": step, "heldout": fixed.loss(conditions, HELDOUT, prepared.accelerator)}
            if self.options.pictures:
                readings = judged.read(self.judge, judged.draw(backbone, prepared.prompt, self.options.pictures))
                right = judged.attributes_right(readings, self.concept)
                row["success"] = statistics.mean(each.shows(self.concept.subject) for each in readings)
                row["attributes"] = statistics.mean(ok for _, ok in right)
            self.rows.append(row)
            print(f"{self.kind}:{self.seed} {json.dumps(row)}", flush=True)

        return watch


def replay(kept: dict[str, Any], settled: float) -> dict[str, Any]:
    """What the rule does with a curve that was kept, and how the concept was then."""
    before = stopping.SETTLED
    stopping.SETTLED = settled
    try:
        rule = StoppingRule(kept["rule"]["most"], since=kept["rule"]["since"])
        for each in kept["rule"]["looks"]:
            rule.observe(Look(*each))
            if rule.settled:
                break
    finally:
        stopping.SETTLED = before
    then = [row for row in kept["watched"] if row["step"] <= rule.decay_begins][-1:]
    return {"settled": rule.settled, "at": rule.decay_begins, "length": rule.length, "then": then}


def shown(kept: dict[str, Any]) -> None:
    """Print a curve."""
    print(f"{kept['concept']}: {kept['outcome']}, {kept['cpu_seconds']:.0f} CPU s")
    first = kept["rule"]["looks"][0]
    for step, loss, class_loss in kept["rule"]["looks"]:
        beside = "" if class_loss is None else f"  class {class_loss / first[2]:.4f}"
        print(f"  {step:5}  {loss:.5f}  {loss / first[1]:.4f}{beside}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("concepts", nargs="*", metavar="KIND:SEED")
    parser.add_argument("--workspace", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--method", default="stamina")
    parser.add_argument("--set", nargs="+", type=judged.setting, default=[], help="settings of the method, NAME=VALUE")
    parser.add_argument("--steps", type=int, default=1000, help="the bound")
    parser.add_argument("--every", type=int, default=100, help="steps between judgements")
    parser.add_argument("--pictures", type=int, default=16, help="pictures of each judgement; 0 for none")
    parser.add_argument("--training-seed", type=int, default=0)
    parser.add_argument("--mixed-precision", choices=("no", "bf16"))
    parser.add_argument("--auto", action="store_true", help="let the rule end it")
    parser.add_argument("--replay", action="store_true", help="train nothing: the rule on all curves of the workspace")
    parser.add_argument("--settled", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    options = parser.parse_args()
    curves = options.workspace / "curves.jsonl"
    if options.replay:
        for line in curves.read_text(encoding="utf-8").splitlines():
            kept = json.loads(line)
            shown(kept)
            for settled in [] if kept["auto"] else options.settled:
                print(f"  settled at {settled}: {json.dumps(replay(kept, settled))}")
        return
    if not options.auto:
        stopping.SETTLED = -math.inf
    for named in options.concepts:
        kind, _, seed = named.partition(":")
        kept = Curve(options, kind, int(seed)).run()
        shown(kept)
        with curves.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main()
