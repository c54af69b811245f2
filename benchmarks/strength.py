"""What a concept's strength does on the bundled base: what the judge reads off pictures of `V*NAME:S`.

conceptctl bench data DIR --concepts 1 --seed 7301
python benchmarks/strength.py DIR/NAME --workspace STORE                  # the concept is learned once, and kept
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import judged

from conceptctl import families, pocket
from conceptctl.config import TrainConfig
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.kinds import DETAILS
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.generate.strength import Strengths
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn
from conceptctl.workflows.model import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a concept of the world, called KIND-SEED, with a folder `train`")
    parser.add_argument("--workspace", type=Path, required=True, help="the store, made where there is none")
    parser.add_argument("--steps", type=int, help="the preset's by default")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2])
    options = parser.parse_args()
    kind, _, seed = options.folder.name.rpartition("-")
    subject = concept(kind, int(seed))
    folder = pocket.base_folder()
    if not (options.workspace / "FORMAT").exists():
        made = Store.create(options.workspace, base.inspect(folder, families.recognized(folder).FAMILY), "pocket")
        train = TrainConfig(steps=options.steps)
        request = Request(options.folder / "train", "it", kind, train=train, reference_samples=0)
        learn(made, request, device="cpu", watch=Watch(warn=print))
    store = Store(options.workspace)
    backbone = load(store, store.head(), "cpu")
    strengths, judge = Strengths(store, store.head(), backbone), pocket.load_judge()
    print("| strength | accepted | details |\n|---|---|---|")
    for strength in options.strengths:
        strengths.set({"it": strength})
        readings = judged.read(judge, judged.draw(backbone, "a photo of a V*it", options.pictures))
        right = judged.attributes_right(readings, subject)
        accepted = statistics.mean(reading.shows(subject.subject) for reading in readings)
        details = statistics.mean(ok for name, ok in right if name.startswith(DETAILS))
        print(f"| {strength:g} | {100 * accepted:.0f} % | {100 * details:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
